//! What building a request costs. Run with `--ignored --nocapture`, optimised, to see the numbers.

use std::time::Instant;

use clawstead_terms::{Part, Role};

use crate::{
    Ask, Dialect, ModelSpec, anthropic, openai_chat, openai_responses,
    testing::{ask, assistant, call, message, result, tool, user},
};

/// A session of `n` messages, a fifth of them tool exchanges, about 500 bytes each.
fn session(n: usize) -> Ask {
    let text = "He said \"a line of prose\", and then another one.\n".repeat(10);
    let mut messages = Vec::with_capacity(n);
    while messages.len() + 5 <= n {
        let id = format!("call_{}", messages.len());
        messages.push(user(&text));
        messages.push(message(Role::Assistant, vec![Part::text("I look."), call(&id, "read")]));
        messages.push(result(&id, &text));
        messages.push(assistant(&text));
        messages.push(user(&text));
    }
    Ask { system: text.repeat(30), tools: (0..20).map(|i| tool(&format!("tool_{i}"))).collect(), ..ask(messages) }
}

#[test]
#[ignore = "measures time; run it optimised and alone"]
fn building_a_request_is_cheap() {
    for n in [10, 2_000] {
        let asked = session(n);
        let builders: [(&str, &dyn Fn() -> Vec<u8>); 3] = [
            ("openai-completions", &|| openai_chat::body(&asked, &ModelSpec::unknown("p", "m", Dialect::OpenAiChat, "x"))),
            ("anthropic-messages", &|| anthropic::body(&asked, &ModelSpec::unknown("p", "m", Dialect::Anthropic, "x"))),
            ("openai-responses", &|| openai_responses::body(&asked, &ModelSpec::unknown("p", "m", Dialect::OpenAiResponses, "x"))),
        ];
        for (name, build) in builders {
            let rounds = 200_000 / n.max(100);
            let mut bytes = 0;
            let started = Instant::now();
            for _ in 0..rounds {
                bytes = build().len();
            }
            let each = started.elapsed() / u32::try_from(rounds).unwrap();
            println!("{name}: {n} messages, {bytes} bytes, {each:?} each");
            assert!(each.as_millis() < 100, "{name}: {each:?}");
        }
    }
}
