//! Cut or shuffle a transcript anywhere: what comes out is legal for every dialect.

use std::{collections::BTreeSet, sync::Arc};

use clawstead_terms::{Message, Part, Role};
use proptest::prelude::*;
use serde_json::Value;

use crate::{
    Ask, Dialect, INTERRUPTED, ModelSpec, Piece, Side, Target, anthropic, google, openai_chat, openai_responses, repair,
    repair::{CallIds, is_blank},
    testing::{ask, assistant, call, message, result, user},
};

const TARGET: Target<'static> = Target { provider: "p", images: false, reasoning: true, call_ids: CallIds::Word40 };

fn spec(dialect: Dialect) -> ModelSpec {
    ModelSpec { reasoning: true, ..ModelSpec::unknown("p", "m", dialect, "x") }
}

#[test]
fn an_interrupted_call_gets_a_result_before_the_user_speaks() {
    let messages = vec![user("go"), message(Role::Assistant, vec![call("a", "x"), call("b", "x")]), user("stop"), result("b", "done"), user("and now?")];
    let pieces = repair(&messages, &TARGET);
    let shape: Vec<String> = pieces
        .iter()
        .map(|p| match p {
            Piece::Text(side, text) => format!("{side:?}:{text}"),
            Piece::Call { id, .. } => format!("call {id}"),
            Piece::Result { id, note, .. } => format!("result {id}{}", if *note == Some(INTERRUPTED) { " interrupted" } else { "" }),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(shape, ["User:go", "call a", "call b", "result b", "result a interrupted", "User:stop", "User:and now?"]);
}

#[test]
fn repeated_and_odd_ids_become_unique_and_legal_and_stay_the_same() {
    let odd = "toolu:1/with a very long tail that no host would ever take as an id";
    let messages = vec![
        user("go"),
        message(Role::Assistant, vec![call("call_0", "x")]),
        result("call_0", "first"),
        message(Role::Assistant, vec![call("call_0", "x"), call(odd, "x")]),
        result("call_0", "second"),
        result(odd, "third"),
    ];
    let ids = |target: &Target<'_>| -> Vec<String> {
        repair(&messages, target).iter().filter_map(|p| if let Piece::Result { id, .. } = p { Some(id.to_string()) } else { None }).collect()
    };
    let word = ids(&TARGET);
    assert_eq!(word[0], "call_0");
    assert_eq!(word.iter().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(word, ids(&TARGET));
    let nine = ids(&Target { call_ids: CallIds::Alnum9, ..TARGET });
    assert!(nine.iter().all(|i| i.len() == 9 && i.bytes().all(|b| b.is_ascii_alphanumeric())), "{nine:?}");
}

#[test]
fn reasoning_goes_back_to_its_provider_only() {
    let thought = |model: &str, signature: Option<&str>| {
        let mut m = (*message(Role::Assistant, vec![Part::Thinking { text: "hm".into(), signature: signature.map(Into::into) }, Part::text("so")])).clone();
        m.model = Some(model.into());
        Arc::new(m)
    };
    let count = |m: Arc<Message>, target: &Target<'_>| repair(&[user("q"), m], target).iter().filter(|p| matches!(p, Piece::Reasoning { .. })).count();
    assert_eq!(count(thought("p/x", Some("sig")), &TARGET), 1);
    assert_eq!(count(thought("other/x", Some("sig")), &TARGET), 0);
    assert_eq!(count(thought("p/x", None), &TARGET), 0);
    assert_eq!(count(thought("p/x", Some("sig")), &Target { reasoning: false, ..TARGET }), 0);
}

fn any_part() -> impl Strategy<Value = Part> {
    let text = prop_oneof![Just(String::new()), Just(" \n".into()), "[a-z\"\\\\\n]{1,12}"];
    let id = prop_oneof![Just("a".to_owned()), Just("b".into()), Just("c!".into()), Just(String::new())];
    let name = prop_oneof![4 => Just("x".to_owned()), 1 => Just(String::new())];
    let arguments = prop_oneof![Just(serde_json::json!({"q": "\"\u{1}"})), Just(serde_json::json!("raw {")), Just(Value::Null)];
    prop_oneof![
        3 => text.clone().prop_map(|text| Part::Text { text }),
        1 => (text.clone(), proptest::option::of("[a-z]{0,3}")).prop_map(|(text, signature)| Part::Thinking { text, signature }),
        1 => Just(Part::Image { mime_type: "image/png".into(), data: "QUJD".into() }),
        1 => Just(Part::File { name: "f".into(), mime_type: "text/plain".into(), path: "/f".into() }),
        3 => (id.clone(), name, arguments).prop_map(|(id, name, arguments)| Part::ToolCall { id, name, arguments }),
        3 => (id, text, any::<bool>()).prop_map(|(id, text, pic)| {
            let mut content = vec![Part::Text { text }];
            if pic {
                content.push(Part::Image { mime_type: "image/png".into(), data: "QUJD".into() });
            }
            Part::ToolResult { id, name: "x".into(), content, details: None, is_error: pic }
        }),
    ]
}

fn any_transcript() -> impl Strategy<Value = Vec<Arc<Message>>> {
    let role = prop_oneof![Just(Role::User), Just(Role::Assistant), Just(Role::Tool), Just(Role::System)];
    let one = (role, proptest::collection::vec(any_part(), 0..4), proptest::option::of(prop_oneof![Just("p/m".to_owned()), Just("q/m".into())])).prop_map(
        |(role, parts, model)| {
            let mut m = (*message(role, parts)).clone();
            m.model = model;
            Arc::new(m)
        },
    );
    proptest::collection::vec(one, 0..14)
}

fn check_pieces(pieces: &[Piece<'_>], images: bool) -> Result<(), TestCaseError> {
    prop_assert!(!pieces.is_empty());
    prop_assert_eq!(pieces[0].side(), Side::User);
    prop_assert_eq!(pieces[pieces.len() - 1].side(), Side::User);
    let mut ids = BTreeSet::new();
    let mut open: BTreeSet<String> = BTreeSet::new();
    for piece in pieces {
        match piece {
            Piece::Text(_, text) => prop_assert!(!is_blank(text)),
            Piece::Image { .. } => prop_assert!(images),
            Piece::Reasoning { signature, .. } => prop_assert!(!signature.is_empty()),
            Piece::Call { id, name, .. } => {
                prop_assert!(!name.is_empty() && !id.is_empty());
                prop_assert!(ids.insert(id.to_string()), "ids are unique");
                open.insert(id.to_string());
            }
            Piece::Result { id, .. } => prop_assert!(open.remove(id.as_ref()), "a result answers one open call"),
        }
        if !matches!(piece, Piece::Result { .. }) && piece.side() == Side::User {
            prop_assert!(open.is_empty(), "results come before the user");
        }
    }
    prop_assert!(open.is_empty());
    Ok(())
}

/// Roles alternate, calls are answered in the next message, results first.
fn check_anthropic(body: &Value) -> Result<(), TestCaseError> {
    let messages = body["messages"].as_array().unwrap();
    let mut asked: BTreeSet<String> = BTreeSet::new();
    for (i, m) in messages.iter().enumerate() {
        prop_assert_eq!(m["role"].as_str().unwrap(), if i % 2 == 0 { "user" } else { "assistant" });
        let content = m["content"].as_array().unwrap();
        prop_assert!(!content.is_empty());
        let answered: BTreeSet<String> = content.iter().filter_map(|b| b["tool_use_id"].as_str().map(str::to_owned)).collect();
        prop_assert_eq!(&answered, &asked);
        let first_other = content.iter().position(|b| b["type"] != "tool_result").unwrap_or(content.len());
        prop_assert!(content[first_other..].iter().all(|b| b["type"] != "tool_result"));
        prop_assert!(content.iter().all(|b| b["type"] != "tool_use" || b["input"].is_object()));
        asked = content.iter().filter(|b| b["type"] == "tool_use").map(|b| b["id"].as_str().unwrap().to_owned()).collect();
    }
    prop_assert!(asked.is_empty());
    prop_assert!(body.to_string().matches("cache_control").count() <= 4);
    Ok(())
}

/// Tool messages follow their call at once, user and assistant alternate otherwise.
fn check_chat(body: &Value) -> Result<(), TestCaseError> {
    let mut open: BTreeSet<String> = BTreeSet::new();
    let mut last = "system";
    for m in body["messages"].as_array().unwrap() {
        let role = m["role"].as_str().unwrap();
        if role == "tool" {
            prop_assert!(open.remove(m["tool_call_id"].as_str().unwrap()));
            prop_assert!(!m["content"].as_str().unwrap().is_empty());
        } else {
            prop_assert!(open.is_empty());
            prop_assert!(role != last || last == "system");
            for c in m["tool_calls"].as_array().into_iter().flatten() {
                open.insert(c["id"].as_str().unwrap().to_owned());
                prop_assert!(serde_json::from_str::<Value>(c["function"]["arguments"].as_str().unwrap()).unwrap().is_object());
            }
            prop_assert!(!m["content"].is_null() || !open.is_empty());
        }
        last = role;
    }
    prop_assert!(open.is_empty() && last != "assistant");
    Ok(())
}

fn check_responses(body: &Value) -> Result<(), TestCaseError> {
    let mut open: BTreeSet<String> = BTreeSet::new();
    for item in body["input"].as_array().unwrap() {
        match item["type"].as_str() {
            Some("function_call") => {
                open.insert(item["call_id"].as_str().unwrap().to_owned());
            }
            Some("function_call_output") => prop_assert!(open.remove(item["call_id"].as_str().unwrap())),
            _ => prop_assert!(item["role"] == "assistant" || open.is_empty()),
        }
    }
    prop_assert!(open.is_empty());
    Ok(())
}

/// A turn with calls is followed at once by an entry with exactly as many results of the same names, in order.
fn check_google(body: &Value, images: bool) -> Result<(), TestCaseError> {
    let contents = body["contents"].as_array().unwrap();
    let mut due: Vec<&str> = Vec::new();
    let mut last_model = false;
    for (i, entry) in contents.iter().enumerate() {
        let parts = entry["parts"].as_array().unwrap();
        prop_assert!(!parts.is_empty());
        let model = entry["role"] == "model";
        prop_assert!(i > 0 || !model, "the user begins");
        prop_assert!(!(model && last_model), "turns of the model do not follow each other");
        let answered: Vec<&str> = parts.iter().filter_map(|p| p["functionResponse"]["name"].as_str()).collect();
        prop_assert_eq!(&answered, &due);
        prop_assert!(answered.is_empty() || answered.len() == parts.len(), "results stand alone");
        prop_assert!(images || parts.iter().all(|p| p.get("inlineData").is_none()));
        prop_assert!(parts.iter().all(|p| p.get("functionCall").is_none() || p["functionCall"]["args"].is_object()));
        due = parts.iter().filter_map(|p| p["functionCall"]["name"].as_str()).collect();
        last_model = model;
    }
    prop_assert!(due.is_empty() && !last_model);
    Ok(())
}

fn check_all(messages: &[Arc<Message>], images: bool) -> Result<(), TestCaseError> {
    for call_ids in [CallIds::Word40, CallIds::Alnum9] {
        check_pieces(&repair(messages, &Target { images, call_ids, ..TARGET }), images)?;
    }
    let asked: Ask = Ask { thinking: Some("high".into()), ..ask(messages.to_vec()) };
    let body = |dialect| {
        let spec = ModelSpec { images, ..spec(dialect) };
        let bytes = match dialect {
            Dialect::Anthropic => anthropic::body(&asked, &spec),
            Dialect::Google => google::body(&asked, &spec),
            Dialect::OpenAiResponses => openai_responses::body(&asked, &spec),
            _ => openai_chat::body(&asked, &spec),
        };
        serde_json::from_slice::<Value>(&bytes).unwrap()
    };
    check_anthropic(&body(Dialect::Anthropic))?;
    check_chat(&body(Dialect::OpenAiChat))?;
    check_responses(&body(Dialect::OpenAiResponses))?;
    check_google(&body(Dialect::Google), images)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_shuffled_transcript_becomes_legal(messages in any_transcript(), images in any::<bool>()) {
        check_all(&messages, images)?;
    }

    #[test]
    fn a_good_transcript_cut_anywhere_becomes_legal(turns in 1usize..6, from in 0usize..40, to in 0usize..40) {
        let mut messages = Vec::new();
        for t in 0..turns {
            messages.push(user(&format!("question {t}")));
            messages.push(message(Role::Assistant, vec![Part::text("I look"), call(&format!("a{t}"), "x"), call(&format!("b{t}"), "x")]));
            messages.push(result(&format!("a{t}"), "one"));
            messages.push(result(&format!("b{t}"), "two"));
            messages.push(assistant("answer"));
        }
        let whole = repair(&messages, &TARGET);
        prop_assert!(whole.iter().all(|p| !matches!(p, Piece::Result { note: Some(_), .. })), "nothing is added to a good one");
        let to = to.min(messages.len());
        check_all(&messages[from.min(to)..to], true)?;
    }
}
