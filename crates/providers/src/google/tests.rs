use std::{collections::VecDeque, sync::Arc};

use clawstead_terms::{Part, Role, StopReason, Usage};
use clawstead_world::SeededRng;
use serde_json::{Value, json};

use super::{decode::Decoder, request};
use crate::{
    Ask, Chunk, Dialect, ErrorKind, ModelChain, ModelSpec, Models, ModelsInput,
    endpoint::{Decode, Progress},
    sse::SseParser,
    testing::{Act, Server, all, ask, call, message, result, text_of, tool, user, world},
};

fn spec(id: &str) -> ModelSpec {
    ModelSpec { reasoning: true, images: true, ..ModelSpec::unknown("p", id, Dialect::Google, "google-generative-ai") }
}

fn sent(ask: &Ask, spec: &ModelSpec) -> Value {
    serde_json::from_slice(&request::body(ask, spec)).unwrap()
}

fn replay(events: &[Value]) -> Result<Vec<Chunk>, crate::sort::Fault> {
    let text: String = events.iter().map(|e| format!("data: {e}\r\n\r\n")).collect();
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

fn says(parts: Value, finish: Option<&str>) -> Value {
    let mut candidate = json!({"content": {"role": "model", "parts": parts}, "index": 0});
    if let Some(finish) = finish {
        candidate["finishReason"] = finish.into();
    }
    json!({"candidates": [candidate]})
}

#[test]
fn a_request_with_everything_in_it() {
    let picture = || Part::Image { mime_type: "image/png".into(), data: "QUJD".into() };
    let mut thought =
        (*message(Role::Assistant, vec![Part::Thinking { text: "hm".into(), signature: Some("sig".into()) }, call("c1", "see"), call("c2", "see")])).clone();
    thought.model = Some("p/m".into());
    let seen = Part::ToolResult { id: "c1".into(), name: "see".into(), content: vec![Part::text("seen"), picture()], details: None, is_error: true };
    let mut ask = ask(vec![
        message(Role::User, vec![Part::text("first"), picture()]),
        Arc::new(thought),
        // Results come as the tools end; here they go out in the order of the calls.
        result("c2", "second"),
        message(Role::Tool, vec![seen]),
        user("and?"),
    ]);
    ask.tools = vec![tool("see")].into();
    ask.thinking = Some("low".into());
    ask.temperature = Some(0.3);
    ask.max_tokens = Some(100);
    ask.tool_choice = Some("see".into());
    let inline = json!({"inlineData": {"mimeType": "image/png", "data": "QUJD"}});
    let want = json!({
        "systemInstruction": {"role": "user", "parts": [{"text": "You are a test."}]},
        "tools": [{"functionDeclarations": [{"name": "see", "description": "does it", "parametersJsonSchema": {"type": "object"}}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["see"]}},
        "generationConfig": {"maxOutputTokens": 100, "temperature": 0.3, "thinkingConfig": {"includeThoughts": true, "thinkingBudget": 2048}},
        "contents": [
            {"role": "user", "parts": [{"text": "first"}, inline]},
            {"role": "model", "parts": [
                {"functionCall": {"name": "see", "args": {"a": 1}}, "thoughtSignature": "sig"},
                {"functionCall": {"name": "see", "args": {"a": 1}}}]},
            {"role": "user", "parts": [
                {"functionResponse": {"name": "see", "response": {"error": "seen\n(picture below)"}}},
                {"functionResponse": {"name": "see", "response": {"output": "second"}}}]},
            {"role": "user", "parts": [inline, {"text": "and?"}]},
        ],
    });
    assert_eq!(sent(&ask, &spec("gemini-2.5-flash")), want);
    let blind = ModelSpec { images: false, ..spec("gemini-2.5-flash") };
    assert!(!sent(&ask, &blind).to_string().contains("inlineData"));
}

#[test]
fn thinking_is_asked_for_as_each_generation_wants_it() {
    let config = |level: &str, id: &str| {
        sent(&Ask { thinking: Some(level.into()), ..ask(vec![user("q")]) }, &spec(id))["generationConfig"].get("thinkingConfig").cloned()
    };
    assert_eq!(config("off", "gemini-2.5-flash"), Some(json!({"thinkingBudget": 0})));
    assert_eq!(config("off", "gemini-2.5-pro"), None, "it always thinks");
    assert_eq!(config("high", "gemini-2.5-pro"), Some(json!({"includeThoughts": true, "thinkingBudget": 24576})));
    assert_eq!(config("medium", "gemini-3-pro-preview"), Some(json!({"includeThoughts": true, "thinkingLevel": "high"})));
    assert_eq!(config("medium", "models/gemini-3-flash"), Some(json!({"includeThoughts": true, "thinkingLevel": "medium"})));
    assert_eq!(sent(&ask(vec![user("q")]), &spec("m"))["generationConfig"], json!({}), "nothing is guessed");
}

#[test]
fn calls_of_another_model_are_marked_where_signatures_are_demanded() {
    let messages = || vec![user("q"), message(Role::Assistant, vec![Part::text("I look"), call("a", "x"), call("b", "x")]), result("a", "1"), result("b", "2")];
    let parts = |id: &str| sent(&ask(messages()), &spec(id))["contents"][1]["parts"].clone();
    assert!(!parts("gemini-2.5-pro").to_string().contains("thoughtSignature"));
    let third = parts("gemini-3-pro-preview");
    assert_eq!((third[1]["thoughtSignature"].as_str(), third[2].get("thoughtSignature")), (Some("skip_thought_signature_validator"), None));
}

#[test]
fn a_recorded_answer() {
    let usage = json!({"promptTokenCount": 110, "candidatesTokenCount": 20, "thoughtsTokenCount": 30, "cachedContentTokenCount": 100, "totalTokenCount": 160});
    let mut last = says(
        json!([{"functionCall": {"name": "see", "args": {"a": 2}}, "thoughtSignature": "sig"}, {"functionCall": {"id": "own", "name": "go"}}]),
        Some("STOP"),
    );
    last["usageMetadata"] = usage;
    let chunks = replay(&[
        says(json!([{"text": "hm", "thought": true}]), None),
        says(json!([{"text": "Look"}]), None),
        json!({"usageMetadata": {"promptTokenCount": 1}}),
        last,
    ])
    .unwrap();
    let Chunk::ToolCall { id, .. } = &chunks[3] else { panic!("{chunks:?}") };
    assert_eq!(
        chunks,
        [
            Chunk::Thinking("hm".into()),
            Chunk::Text("Look".into()),
            Chunk::ThinkingSignature("sig".into()),
            Chunk::ToolCall { id: id.clone(), name: "see".into(), arguments: json!({"a": 2}) },
            Chunk::ToolCall { id: "own".into(), name: "go".into(), arguments: json!({}) },
            Chunk::Usage(Usage { input: 10, output: 50, cache_read: 100, cache_write: 0, cost_usd: 0.0 }),
            Chunk::Done(StopReason::ToolUse),
        ]
    );
    assert!(id.starts_with("call_"), "{id}");
}

#[test]
fn odd_ends() {
    let end = |reason: &str| replay(&[says(json!([{"text": "x"}]), Some(reason))]);
    assert_eq!(end("MAX_TOKENS").unwrap()[1], Chunk::Done(StopReason::Length));
    for reason in ["SAFETY", "RECITATION", "PROHIBITED_CONTENT", "A_NEW_ONE"] {
        assert_eq!(end(reason).unwrap()[1], Chunk::Done(StopReason::Refusal), "{reason}");
    }
    assert_eq!(end("MALFORMED_FUNCTION_CALL").unwrap_err().kind, ErrorKind::Garbage);
    assert_eq!(replay(&[says(json!([{"text": "x"}]), None)]).unwrap_err().kind, ErrorKind::Network, "cut");
    let blocked = replay(&[json!({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 3}})]).unwrap_err();
    assert_eq!((blocked.kind, blocked.message.as_str()), (ErrorKind::Content, "the prompt was blocked (SAFETY)"));
    let overloaded = replay(&[json!({"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}})]).unwrap_err();
    assert_eq!(overloaded.kind, ErrorKind::Overloaded);
    assert_eq!(replay(&[says(json!([]), Some("STOP"))]).unwrap(), [Chunk::Done(StopReason::Stop)], "an empty answer is one");
}

#[test]
fn a_whole_answer_is_taken_too() {
    let mut decoder = Decoder::new(Arc::new(SeededRng::new(1)));
    let mut out = VecDeque::new();
    decoder.whole(&json!([says(json!([{"text": "a"}]), None), says(json!([{"text": "b"}]), Some("STOP"))]), &mut out).unwrap();
    assert_eq!(Vec::from(out), [Chunk::Text("a".into()), Chunk::Text("b".into()), Chunk::Done(StopReason::Stop)]);
    assert_eq!(Decoder::new(Arc::new(SeededRng::new(1))).whole(&json!({"hello": 1}), &mut VecDeque::new()).unwrap_err().kind, ErrorKind::Garbage);
}

/// A registry whose provider is Google, at this address.
fn models(url: &str) -> Models {
    let config = json!({"models": {"providers": {"google": {"baseUrl": format!("{url}/v1beta"), "apiKey": "AIza-test-key-0123456789"}}}});
    Models::new(world(), ModelsInput::read(&config, None, &|_| None))
}

#[tokio::test]
async fn the_provider_of_the_catalogue_speaks_this_dialect() {
    let events = format!("data: {}\r\n\r\n", says(json!([{"text": "Hi"}]), Some("STOP")));
    let list = json!({"models": [{"name": "models/gemini-2.5-pro", "inputTokenLimit": 1_048_576}, {"name": "models/text-embedding-004"}]}).to_string();
    let server = Server::start(vec![Act::Events(events, 7), Act::Json(list)]).await;
    let models = models(&server.url);
    let answer = models.ask(&ModelChain::only("gemini/gemini-2.5-flash"), ask(vec![user("hello")]), &()).await.unwrap();
    assert_eq!(text_of(&all(answer.stream).await.0), "Hi");
    let ids: Vec<String> = models.list_live("google", crate::Refresh::Always).await.unwrap().into_iter().map(|row| row.id).collect();
    assert_eq!(ids, ["gemini-2.5-pro"]);
    let heads: Vec<String> = server.seen().into_iter().map(|(head, _)| head).collect();
    assert!(heads[0].starts_with("POST /v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse HTTP"), "{}", heads[0]);
    assert!(heads[0].contains("x-goog-api-key: AIza-test-key-0123456789") && !heads[0].contains("authorization"), "{}", heads[0]);
    assert!(heads[1].starts_with("GET /v1beta/models?pageSize=1000 HTTP"), "{}", heads[1]);
}

#[tokio::test]
async fn an_old_config_with_the_compatible_address_keeps_its_dialect() {
    let config = json!({"models": {"providers": {"google": {"baseUrl": "https://generativelanguage.googleapis.com/v1beta/openai", "apiKey": "x"}}}});
    let models = Models::new(world(), ModelsInput::read(&config, None, &|_| None));
    assert_eq!(models.spec(&models.resolve("google/gemini-2.5-pro").unwrap()).unwrap().dialect, Dialect::OpenAiChat);
}
