use std::{collections::VecDeque, sync::Arc};

use clawstead_terms::{Part, Role, StopReason, Usage};
use clawstead_world::SeededRng;
use serde_json::{Value, json};

use super::{decode::Decoder, request::body};
use crate::{
    Chunk, Dialect, ErrorKind, ModelSpec,
    endpoint::{Decode, Progress},
    sse::SseEvent,
    testing::{ask, call, message, result, tool},
};

fn replay(events: &[Value]) -> Result<Vec<Chunk>, crate::sort::Fault> {
    let mut decoder = Decoder::new(Arc::new(SeededRng::new(1)));
    let mut out = VecDeque::new();
    for event in events {
        if decoder.event(&SseEvent { name: String::new(), data: event.to_string() }, &mut out)? == Progress::Done {
            return Ok(out.into());
        }
    }
    decoder.end(&mut out)?;
    Ok(out.into())
}

#[test]
fn a_request_with_everything_in_it() {
    let item = json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "enc"});
    let mut thought =
        (*message(Role::Assistant, vec![Part::Thinking { text: "hm".into(), signature: Some(item.to_string()) }, Part::text("I look."), call("c1", "see")]))
            .clone();
    thought.model = Some("p/m".into());
    let mut ask = ask(vec![
        message(Role::User, vec![Part::text("look"), Part::Image { mime_type: "image/png".into(), data: "QUJD".into() }]),
        Arc::new(thought),
        result("c1", "seen"),
    ]);
    ask.tools = vec![tool("see")].into();
    ask.tool_choice = Some("required".into());
    ask.thinking = Some("minimal".into());
    ask.session_hint = Some("s".into());
    let mut spec = ModelSpec { reasoning: true, images: true, ..ModelSpec::unknown("p", "m", Dialect::OpenAiResponses, "openai-responses") };
    spec.compat.cache_key = true;
    let got: Value = serde_json::from_slice(&body(&ask, &spec)).unwrap();
    let want = json!({
        "model": "m", "instructions": "You are a test.",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": "data:image/png;base64,QUJD"}]},
            item,
            {"role": "assistant", "content": "I look."},
            {"type": "function_call", "call_id": "c1", "name": "see", "arguments": "{\"a\":1}"},
            {"type": "function_call_output", "call_id": "c1", "output": "seen"},
        ],
        "stream": true, "store": false,
        "tools": [{"type": "function", "name": "see", "description": "does it", "parameters": {"type": "object"}, "strict": false}],
        "tool_choice": "required",
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"effort": "minimal", "summary": "auto"},
        "prompt_cache_key": "s",
    });
    assert_eq!(got, want);
}

#[test]
fn a_recorded_answer() {
    let call = json!({"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "see", "arguments": "{\"a\":2}"});
    let reasoning = json!({"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "enc"});
    let said = json!({"type": "message", "id": "msg_1", "content": [{"type": "output_text", "text": "Look"}]});
    let chunks = replay(&[
        json!({"type": "response.created", "response": {}}),
        json!({"type": "response.reasoning_summary_text.delta", "item_id": "rs_1", "delta": "hm"}),
        json!({"type": "response.output_item.done", "item": reasoning}),
        json!({"type": "response.output_text.delta", "item_id": "msg_1", "delta": "Lo"}),
        json!({"type": "response.output_text.delta", "item_id": "msg_1", "delta": "ok"}),
        json!({"type": "response.output_text.done", "item_id": "msg_1", "text": "Look"}),
        json!({"type": "response.output_item.done", "item": said}),
        json!({"type": "response.function_call_arguments.delta", "item_id": "fc_1", "delta": "{\"a\":2}"}),
        json!({"type": "response.output_item.done", "item": call}),
        json!({"type": "response.completed", "response": {"output": [reasoning, said, call],
            "usage": {"input_tokens": 10, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 5}}}),
    ])
    .unwrap();
    assert_eq!(chunks[0], Chunk::Thinking("hm".into()));
    assert!(matches!(&chunks[1], Chunk::ThinkingSignature(s) if serde_json::from_str::<Value>(s).unwrap() == reasoning));
    assert_eq!(
        chunks[2..],
        [
            Chunk::Text("Lo".into()),
            Chunk::Text("ok".into()),
            Chunk::ToolCall { id: "c1".into(), name: "see".into(), arguments: json!({"a": 2}) },
            Chunk::Usage(Usage { input: 6, output: 5, cache_read: 4, ..Usage::default() }),
            Chunk::Done(StopReason::ToolUse),
        ]
    );
}

#[test]
fn odd_ends() {
    let only_at_the_end =
        json!({"type": "response.completed", "response": {"output": [{"type": "message", "id": "x", "content": [{"type": "output_text", "text": "all"}]}]}});
    assert_eq!(replay(&[only_at_the_end]).unwrap(), [Chunk::Text("all".into()), Chunk::Done(StopReason::Stop)]);
    let short = json!({"type": "response.incomplete", "response": {"incomplete_details": {"reason": "max_output_tokens"}}});
    assert_eq!(replay(&[short]).unwrap(), [Chunk::Done(StopReason::Length)]);
    let failed = |code: &str| replay(&[json!({"type": "response.failed", "response": {"error": {"code": code, "message": "sorry"}}})]).unwrap_err().kind;
    assert_eq!(failed("rate_limit_exceeded"), ErrorKind::Quota);
    assert_eq!(failed("server_error"), ErrorKind::Overloaded);
    assert_eq!(failed("context_length_exceeded"), ErrorKind::Context);
    assert_eq!(
        replay(&[json!({"type": "error", "code": "insufficient_quota", "message": "You exceeded your current quota"})]).unwrap_err().kind,
        ErrorKind::Billing
    );
    assert_eq!(replay(&[json!({"type": "response.output_text.delta", "delta": "x"})]).unwrap_err().kind, ErrorKind::Network);
}
