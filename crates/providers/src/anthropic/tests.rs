use std::{collections::VecDeque, sync::Arc};

use clawstead_terms::{Part, Role, StopReason, Usage};
use clawstead_world::SeededRng;
use serde_json::{Value, json};

use super::{decode::Decoder, request};
use crate::{
    Ask, Chunk, Dialect, ErrorKind, ModelSpec,
    endpoint::{Decode, Progress},
    sse::SseParser,
    testing::{ask, call, message, result, tool, user},
};

fn spec() -> ModelSpec {
    ModelSpec { reasoning: true, images: true, ..ModelSpec::unknown("p", "m", Dialect::Anthropic, "anthropic-messages") }
}

fn sent(ask: &Ask, spec: &ModelSpec) -> Value {
    serde_json::from_slice(&request::body(ask, spec)).unwrap()
}

fn replay(events: &[Value]) -> Result<Vec<Chunk>, crate::sort::Fault> {
    let text: String = events.iter().map(|e| format!("event: {}\ndata: {e}\n\n", e["type"].as_str().unwrap_or("x"))).collect();
    let mut decoder = Decoder::new(Arc::new(SeededRng::new(1)));
    let (mut parser, mut parsed, mut out) = (SseParser::default(), VecDeque::new(), VecDeque::new());
    parser.feed(text.as_bytes(), &mut parsed).unwrap();
    for event in parsed {
        if decoder.event(&event, &mut out)? == Progress::Done {
            return Ok(out.into());
        }
    }
    decoder.end(&mut out)?;
    Ok(out.into())
}

#[test]
fn a_request_with_everything_in_it() {
    let mut thought = (*message(
        Role::Assistant,
        vec![
            Part::Thinking { text: "hm".into(), signature: Some("sig".into()) },
            Part::Thinking { text: String::new(), signature: Some("redacted:xyz".into()) },
            call("c1", "see"),
        ],
    ))
    .clone();
    thought.model = Some("p/m".into());
    let mut ask = ask(vec![
        user("first"),
        Arc::new(thought),
        message(
            Role::Tool,
            vec![Part::ToolResult {
                id: "c1".into(),
                name: "see".into(),
                content: vec![Part::text("seen"), Part::Image { mime_type: "image/png".into(), data: "QUJD".into() }],
                details: Some(json!({"secret": "never sent"})),
                is_error: true,
            }],
        ),
        user("and?"),
    ]);
    ask.tools = vec![tool("see")].into();
    ask.thinking = Some("low".into());
    ask.temperature = Some(0.3);
    let mark = json!({"type": "ephemeral"});
    let want = json!({
        "model": "m", "max_tokens": 8192, "stream": true,
        "system": [{"type": "text", "text": "You are a test.", "cache_control": mark}],
        "tools": [{"name": "see", "description": "does it", "input_schema": {"type": "object"}}],
        "thinking": {"type": "enabled", "budget_tokens": 4096},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "first", "cache_control": mark}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "sig"},
                {"type": "redacted_thinking", "data": "xyz"},
                {"type": "tool_use", "id": "c1", "name": "see", "input": {"a": 1}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [
                    {"type": "text", "text": "seen"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}], "is_error": true},
                {"type": "text", "text": "and?", "cache_control": mark}]},
        ],
    });
    assert_eq!(sent(&ask, &spec()), want, "no temperature next to reasoning");
}

#[test]
fn reasoning_is_asked_for_only_where_it_is_legal() {
    let thinking = |ask: &Ask, id: &str| sent(ask, &ModelSpec { id: id.into(), ..spec() }).get("thinking").cloned();
    let with = |messages| Ask { thinking: Some("high".into()), ..ask(messages) };
    assert_eq!(thinking(&with(vec![user("q")]), "claude-opus-4-6").unwrap(), json!({"type": "adaptive"}));
    assert_eq!(thinking(&with(vec![user("q")]), "claude-sonnet-4-5").unwrap(), json!({"type": "enabled", "budget_tokens": 4096}), "half the output at most");
    // A tool exchange that another provider began has no signed reasoning.
    let foreign = vec![user("q"), message(Role::Assistant, vec![call("c", "x")]), result("c", "r")];
    assert_eq!(thinking(&with(foreign), "claude-sonnet-4-5"), None);
    assert_eq!(thinking(&Ask { tool_choice: Some("x".into()), ..with(vec![user("q")]) }, "claude-sonnet-4-5"), None);
}

#[test]
fn the_config_chooses_how_long_the_cache_holds() {
    let with = |word: &str| sent(&Ask { params: Some(json!({"cacheRetention": word, "top_k": 3})), ..ask(vec![user("q")]) }, &spec());
    let none = with("none");
    assert_eq!((none["system"].as_str(), none["top_k"].as_u64(), none.get("cacheRetention")), (Some("You are a test."), Some(3), None));
    assert!(!none.to_string().contains("cache_control"));
    assert_eq!(with("long")["system"][0]["cache_control"], json!({"type": "ephemeral", "ttl": "1h"}));
}

#[test]
fn a_recorded_answer() {
    let chunks = replay(&[
        json!({"type": "message_start", "message": {"usage": {"input_tokens": 9, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 50, "output_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}}),
        json!({"type": "ping"}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "si"}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "g"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "redacted_thinking", "data": "xyz"}}),
        json!({"type": "content_block_stop", "index": 1}),
        json!({"type": "content_block_start", "index": 2, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 2, "delta": {"type": "text_delta", "text": "Look"}}),
        json!({"type": "content_block_stop", "index": 2}),
        json!({"type": "content_block_start", "index": 3, "content_block": {"type": "tool_use", "id": "t1", "name": "see", "input": {}}}),
        json!({"type": "content_block_delta", "index": 3, "delta": {"type": "input_json_delta", "partial_json": "{\"a\""}}),
        json!({"type": "content_block_delta", "index": 3, "delta": {"type": "input_json_delta", "partial_json": ":2}"}}),
        json!({"type": "content_block_stop", "index": 3}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 42}}),
        json!({"type": "message_stop"}),
    ])
    .unwrap();
    assert_eq!(
        chunks,
        [
            Chunk::Thinking("hm".into()),
            Chunk::ThinkingSignature("sig".into()),
            Chunk::ThinkingSignature("redacted:xyz".into()),
            Chunk::Text("Look".into()),
            Chunk::ToolCall { id: "t1".into(), name: "see".into(), arguments: json!({"a": 2}) },
            Chunk::Usage(Usage { input: 9, output: 42, cache_read: 100, cache_write: 50, cost_usd: 0.0 }),
            Chunk::Done(StopReason::ToolUse),
        ]
    );
}

#[test]
fn odd_ends() {
    let stop = |reason: &str| json!({"type": "message_delta", "delta": {"stop_reason": reason}});
    assert_eq!(replay(&[stop("max_tokens")]).unwrap(), [Chunk::Done(StopReason::Length)], "closed without message_stop");
    assert_eq!(replay(&[stop("refusal"), json!({"type": "message_stop"})]).unwrap(), [Chunk::Done(StopReason::Refusal)]);
    assert_eq!(replay(&[stop("tool_use"), json!({"type": "message_stop"})]).unwrap(), [Chunk::Done(StopReason::Stop)], "no call came");
    assert_eq!(replay(&[]).unwrap_err().kind, ErrorKind::Network);
    let error = |kind: &str| replay(&[json!({"type": "error", "error": {"type": kind, "message": "sorry"}})]).unwrap_err().kind;
    assert_eq!(error("overloaded_error"), ErrorKind::Overloaded);
    assert_eq!(error("rate_limit_error"), ErrorKind::Quota);
}
