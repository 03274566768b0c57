use std::{collections::VecDeque, sync::Arc};

use clawstead_terms::{Part, Role, StopReason, Usage};
use clawstead_world::SeededRng;
use serde_json::{Value, json};

use super::{Without, decode::Decoder, request::body};
use crate::{
    Ask, Chunk, Dialect, ModelSpec,
    endpoint::{Decode, Progress},
    sse::SseParser,
    testing::{all, ask, assistant, call, message, result, tool, user},
};

fn spec() -> ModelSpec {
    ModelSpec::unknown("p", "m", Dialect::OpenAiChat, "openai-completions")
}

fn sent(ask: &Ask, spec: &ModelSpec) -> Value {
    serde_json::from_slice(&body(ask, spec, Without::default())).unwrap()
}

/// Runs a recorded stream through parser and decoder.
fn replay(stream: &str) -> Result<Vec<Chunk>, crate::sort::Fault> {
    let mut decoder = Decoder::new(Arc::new(SeededRng::new(1)));
    let (mut parser, mut events, mut out) = (SseParser::default(), VecDeque::new(), VecDeque::new());
    parser.feed(stream.as_bytes(), &mut events).unwrap();
    parser.finish(&mut events).unwrap();
    for event in events {
        if decoder.event(&event, &mut out)? == Progress::Done {
            return Ok(out.into());
        }
    }
    decoder.end(&mut out)?;
    Ok(out.into())
}

fn data(events: &[Value]) -> String {
    events.iter().map(|e| format!("data: {e}\n\n")).collect()
}

#[test]
fn a_request_with_everything_in_it() {
    let mut ask = ask(vec![
        message(Role::User, vec![Part::text("look"), Part::Image { mime_type: "image/png".into(), data: "QUJD".into() }]),
        message(Role::Assistant, vec![Part::text("I look."), call("c1", "see"), call("c2", "see")]),
        result("c2", "two"),
        user("hurry \"up\"\n"),
        result("c1", ""),
    ]);
    ask.tools = vec![tool("see")].into();
    ask.tool_choice = Some("see".into());
    ask.max_tokens = Some(77);
    ask.temperature = Some(0.5);
    ask.thinking = Some("high".into());
    ask.params = Some(json!({"top_p": 0.9, "stream_options": null}));
    let mut spec = spec();
    spec.images = true;
    spec.reasoning = true;
    let want = json!({
        "model": "m",
        "messages": [
            {"role": "system", "content": "You are a test."},
            {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}]},
            {"role": "assistant", "content": "I look.", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "see", "arguments": "{\"a\":1}"}},
                {"id": "c2", "type": "function", "function": {"name": "see", "arguments": "{\"a\":1}"}}]},
            {"role": "tool", "tool_call_id": "c2", "content": "two"},
            {"role": "tool", "tool_call_id": "c1", "content": "(no output)"},
            {"role": "user", "content": "hurry \"up\"\n"},
        ],
        "stream": true,
        "tools": [{"type": "function", "function": {"name": "see", "description": "does it", "parameters": {"type": "object"}}}],
        "tool_choice": {"type": "function", "function": {"name": "see"}},
        "max_tokens": 77, "temperature": 0.5, "reasoning_effort": "high", "top_p": 0.9,
    });
    assert_eq!(sent(&ask, &spec), want);
}

#[test]
fn a_text_only_model_gets_a_note_and_a_guess_of_the_limit_is_not_sent() {
    let ask = ask(vec![message(Role::User, vec![Part::Image { mime_type: "image/png".into(), data: "QUJD".into() }]), assistant("a"), user("b"), user("c")]);
    let got = sent(&ask, &spec());
    assert_eq!(got["messages"][1]["content"], crate::IMAGE_OMITTED);
    assert_eq!(got["messages"][3]["content"], "b\n\nc", "roles alternate");
    assert!(got.get("max_tokens").is_none() && got.get("tools").is_none());
}

#[test]
fn text_reasoning_and_usage() {
    let stream = data(&[
        json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}),
        json!({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]}),
        json!({"choices": [{"index": 0, "delta": {"content": "Good "}}]}),
        json!({"choices": [{"index": 0, "delta": {"content": "day"}}]}),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
        json!({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}}),
    ]) + "data: [DONE]\n\n";
    let want = vec![
        Chunk::Thinking("hm".into()),
        Chunk::Text("Good ".into()),
        Chunk::Text("day".into()),
        Chunk::Usage(Usage { input: 6, output: 3, cache_read: 4, ..Usage::default() }),
        Chunk::Done(StopReason::Stop),
    ];
    assert_eq!(replay(&stream).unwrap(), want);
    assert_eq!(replay(stream.trim_end().strip_suffix("data: [DONE]").unwrap()).unwrap(), want, "a host that closes without [DONE]");
}

fn calls(events: &[Value]) -> Vec<(String, String, Value)> {
    let chunks = replay(&data(events)).unwrap();
    assert_eq!(chunks.last(), Some(&Chunk::Done(StopReason::ToolUse)));
    chunks.into_iter().filter_map(|c| if let Chunk::ToolCall { id, name, arguments } = c { Some((id, name, arguments)) } else { None }).collect()
}

fn delta(tool_calls: &Value) -> Value {
    json!({"choices": [{"delta": {"tool_calls": tool_calls}}]})
}

fn finish(reason: &str) -> Value {
    json!({"choices": [{"delta": {}, "finish_reason": reason}]})
}

#[test]
fn tool_calls_as_hosts_send_them() {
    let pieces = calls(&[
        delta(&json!([{"index": 0, "id": "a", "function": {"name": "x", "arguments": "{\"q\""}}])),
        delta(&json!([{"index": 1, "id": "b", "function": {"name": "y", "arguments": ""}}])),
        delta(&json!([{"index": 0, "function": {"arguments": ":1}"}}])),
        finish("tool_calls"),
    ]);
    assert_eq!(pieces, [("a".into(), "x".into(), json!({"q": 1})), ("b".into(), "y".into(), json!({}))]);
    let zero_for_all = calls(&[
        delta(&json!([{"index": 0, "id": "a", "function": {"name": "x", "arguments": "{}"}}])),
        delta(&json!([{"index": 0, "id": "b", "function": {"name": "x", "arguments": {"q": 2}}}])),
        finish("stop"),
    ]);
    assert_eq!(zero_for_all, [("a".into(), "x".into(), json!({})), ("b".into(), "x".into(), json!({"q": 2}))]);
    let no_index =
        calls(&[delta(&json!([{"function": {"name": "x", "arguments": "{bad"}}, {"function": {"name": "", "arguments": "{}"}}])), finish("tool_calls")]);
    assert_eq!(no_index.len(), 1);
    assert!(no_index[0].0.starts_with("call_"), "an id is made up");
    assert_eq!(no_index[0].2, json!("{bad{}"), "arguments that are no JSON stay text");
}

#[test]
fn tool_use_without_a_call_is_a_plain_stop() {
    let chunks = replay(&data(&[delta(&json!([{"index": 0, "id": "a", "function": {"name": "", "arguments": "{}"}}])), finish("tool_calls")])).unwrap();
    assert_eq!(chunks, [Chunk::Done(StopReason::Stop)]);
}

#[test]
fn think_tags_are_reasoning() {
    let text = |t: &str| json!({"choices": [{"delta": {"content": t}}]});
    for cut in [["<th", "ink>why</thi", "nk>\nBecause"], ["<think>why", "</think>", "Because"], ["\n<think>", "wh", "y</think>Because"]] {
        let chunks = replay(&data(&[text(cut[0]), text(cut[1]), text(cut[2]), finish("stop")])).unwrap();
        let thought: String = chunks.iter().filter_map(|c| if let Chunk::Thinking(t) = c { Some(t.as_str()) } else { None }).collect();
        assert_eq!((thought.as_str(), crate::testing::text_of(&chunks).as_str()), ("why", "Because"), "{cut:?}");
    }
    let chunks = replay(&data(&[text("<t"), finish("stop")])).unwrap();
    assert_eq!(crate::testing::text_of(&chunks), "<t");
}

#[test]
fn cuts_garbage_and_errors_in_the_stream() {
    use crate::ErrorKind;
    let kind = |stream: &str| replay(stream).unwrap_err().kind;
    assert_eq!(kind(""), ErrorKind::Network);
    assert_eq!(kind(&data(&[json!({"choices": [{"delta": {"content": "half"}}]})])), ErrorKind::Network);
    assert_eq!(kind("data: <html>\n\n"), ErrorKind::Garbage);
    assert_eq!(kind(&data(&[json!({"error": {"message": "Rate limit reached", "code": 429}})])), ErrorKind::Quota);
    assert_eq!(kind("error: {\"code\":500,\"message\":\"slot unavailable\"}\n\n"), ErrorKind::Overloaded);
    assert_eq!(
        kind("{\"error\":{\"message\":\"the request exceeds the available context size\",\"type\":\"exceed_context_size_error\"}}\n"),
        ErrorKind::Context
    );
}

#[tokio::test]
async fn a_whole_answer_is_taken_too() {
    use crate::{
        Provider,
        testing::{Act, Server},
    };
    let body = json!({"choices": [{"message": {"role": "assistant", "content": "whole", "tool_calls": null}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}});
    let server = Server::start(vec![Act::Json(body.to_string())]).await;
    let provider = super::OpenAiChat { endpoint: crate::faults::endpoint(&server.url, Dialect::OpenAiChat) };
    let (chunks, error) = all(provider.stream(ask(vec![user("hi")])).await.unwrap()).await;
    assert_eq!((crate::testing::text_of(&chunks).as_str(), error), ("whole", None));
}

#[tokio::test]
async fn fields_a_host_does_not_know_are_left_out_in_the_second_try() {
    use crate::{
        Provider,
        testing::{Act, Server},
    };
    let refuse =
        |text: &str| Act::Status(400, "content-type: application/json\r\n", json!({"error": {"message": text, "type": "invalid_request_error"}}).to_string());
    let good = data(&[json!({"choices": [{"delta": {"content": "ok"}, "finish_reason": "stop"}]})]);
    let server = Server::start(vec![
        refuse("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."),
        refuse("unknown field stream_options"),
        Act::Events(good, 7),
    ])
    .await;
    let provider = super::OpenAiChat { endpoint: crate::faults::endpoint(&server.url, Dialect::OpenAiChat) };
    let (chunks, error) = all(provider.stream(Ask { max_tokens: Some(5), ..ask(vec![user("hi")]) }).await.unwrap()).await;
    assert_eq!((crate::testing::text_of(&chunks).as_str(), error), ("ok", None));
    let last = &server.seen()[2].1;
    assert_eq!((last["max_completion_tokens"].as_u64(), last.get("max_tokens"), last.get("stream_options")), (Some(5), None, None));
}

#[tokio::test]
async fn a_stream_that_ends_in_silence_is_asked_why() {
    use crate::{
        ErrorKind, Provider,
        testing::{Act, Server},
    };
    let why = json!({"error": {"message": "This model's maximum context length is 256 tokens", "code": "context_length_exceeded"}}).to_string();
    let server = Server::start(vec![Act::Events(String::new(), 1), Act::Status(400, "content-type: application/json\r\n", why)]).await;
    let provider = super::OpenAiChat { endpoint: crate::faults::endpoint(&server.url, Dialect::OpenAiChat) };
    assert_eq!(provider.stream(ask(vec![user("hi")])).await.err().unwrap().kind, ErrorKind::Context);
    assert_eq!(server.seen()[1].1["stream"], false);
    let server = Server::start(vec![Act::Events(String::new(), 1)]).await;
    let provider = super::OpenAiChat { endpoint: crate::faults::endpoint(&server.url, Dialect::OpenAiChat) };
    let (_, error) = all(provider.stream(ask(vec![user("hi")])).await.unwrap()).await;
    assert_eq!((error.unwrap().kind, server.seen().len()), (ErrorKind::Network, 2), "asked why once only");
}
