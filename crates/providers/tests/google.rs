//! A Gemini endpoint of our own that refuses what the real one refuses; our dialect speaks with it, and so does
//! Google's own client, so that the endpoint is no mirror of our beliefs. The client is found by
//! `CLAWSTEAD_GENAI_PYTHON` (a Python that has `google-genai`); without it that part says SKIPPED.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
};

use clawstead_providers::{Ask, Chunk, ErrorKind, ModelChain, Models, ModelsInput, Refresh};
use clawstead_terms::{Message, MessageId, Millis, Part, Role, StopReason, ToolDefinition};
use clawstead_world::World;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

const KEY: &str = "AIza-test-key-0123456789";

/// Method and path, headers, body.
type Request = (String, String, Value);

struct Gemini {
    url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Gemini {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (socket, log) = (socket.unwrap(), log.clone());
                std::thread::spawn(move || serve(socket, &log));
            }
        });
        Self { url, seen }
    }

    fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

/// Serves one connection, which clients keep open.
fn serve(mut socket: TcpStream, log: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    loop {
        let (mut line, mut headers, mut length) = (String::new(), String::new(), 0);
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header).unwrap() <= 2 {
                break;
            }
            let header = header.to_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            headers.push_str(&header);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let request = (line.rsplit_once(' ').unwrap().0.to_owned(), headers, body);
        let (status, text) = answer(&request);
        log.lock().unwrap().push(request);
        let kind = if text.starts_with("data:") { "text/event-stream" } else { "application/json; charset=UTF-8" };
        let head = format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        if socket.write_all(head.as_bytes()).is_err() {
            return;
        }
    }
}

fn fault(code: u16, status: &str, message: &str) -> (u16, String) {
    (code, json!({"error": {"code": code, "message": message, "status": status}}).to_string())
}

fn answer((line, headers, body): &Request) -> (u16, String) {
    if !headers.contains(&format!("x-goog-api-key: {}", KEY.to_lowercase())) {
        return fault(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.");
    }
    let (method, path) = line.split_once(' ').unwrap();
    let path = path.split('?').next().unwrap();
    match (method, path) {
        ("GET", "/v1beta/models") => {
            (200, json!({"models": [{"name": "models/gemini-2.5-flash", "displayName": "Gemini 2.5 Flash", "inputTokenLimit": 1_048_576}]}).to_string())
        }
        ("POST", path) if path.contains("gemini-limited") => {
            let limit = json!({"error": {"code": 429, "message": "You exceeded your current quota, please check your plan and billing details.", "status": "RESOURCE_EXHAUSTED",
                "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "40s"}]}});
            (429, limit.to_string())
        }
        ("POST", "/v1beta/models/gemini-2.5-flash:streamGenerateContent") if line.contains("alt=sse") => match judge(body) {
            Ok(()) => (200, stream()),
            Err(why) => fault(400, "INVALID_ARGUMENT", &why),
        },
        ("POST", path) if path.ends_with(":streamGenerateContent") => fault(404, "NOT_FOUND", &format!("{path} is not found for API version v1beta")),
        _ => fault(404, "NOT_FOUND", "no such method"),
    }
}

/// What the real endpoint insists on.
fn judge(body: &Value) -> Result<(), String> {
    const FIELDS: [&str; 7] = ["contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "safetySettings", "cachedContent"];
    const PARTS: [&str; 6] = ["text", "inlineData", "functionCall", "functionResponse", "thoughtSignature", "thought"];
    let unknown = |object: &Value, known: &[&str]| object.as_object().and_then(|o| o.keys().find(|k| !known.contains(&k.as_str())).cloned());
    if let Some(name) = unknown(body, &FIELDS) {
        return Err(format!("Invalid JSON payload received. Unknown name \"{name}\": Cannot find field."));
    }
    if let Some(name) =
        unknown(&body["generationConfig"], &["maxOutputTokens", "temperature", "topP", "topK", "candidateCount", "stopSequences", "thinkingConfig"])
    {
        return Err(format!("Unknown name \"{name}\" at 'generation_config'"));
    }
    let body = &camel(body);
    let contents = body["contents"].as_array().filter(|c| !c.is_empty()).ok_or("contents is not specified")?;
    let mut calls = 0;
    for entry in contents {
        if !matches!(entry["role"].as_str(), Some("user" | "model")) {
            return Err("Please use a valid role: user, model.".into());
        }
        let parts = entry["parts"].as_array().filter(|p| !p.is_empty()).ok_or("contents.parts must not be empty.")?;
        if let Some(name) = parts.iter().find_map(|part| unknown(part, &PARTS)) {
            return Err(format!("Unknown name \"{name}\" at 'contents.parts'"));
        }
        let count = |key: &str| parts.iter().filter(|part| part.get(key).is_some()).count();
        if count("functionResponse") != calls {
            return Err(
                "Please ensure that the number of function response parts is equal to the number of function call parts of the function call turn.".into()
            );
        }
        calls = count("functionCall");
    }
    if calls > 0 {
        return Err("Please ensure that function call turn is followed by a function response turn.".into());
    }
    Ok(())
}

fn stream() -> String {
    let event = |parts: Value, more: Value| {
        let mut event =
            json!({"candidates": [{"content": {"parts": parts, "role": "model"}, "index": 0}], "modelVersion": "gemini-2.5-flash", "responseId": "r"});
        if let Some(reason) = more.get("finishReason") {
            event["candidates"][0]["finishReason"] = reason.clone();
        }
        event["usageMetadata"] =
            json!({"promptTokenCount": 50, "candidatesTokenCount": 7, "thoughtsTokenCount": 5, "cachedContentTokenCount": 40, "totalTokenCount": 62});
        format!("data: {event}\r\n\r\n")
    };
    event(json!([{"text": "thinking", "thought": true}]), json!({}))
        + &event(json!([{"text": "I "}]), json!({}))
        + &event(json!([{"text": "look."}]), json!({}))
        + &event(json!([{"functionCall": {"name": "see", "args": {"where": "there"}}, "thoughtSignature": "c2ln"}]), json!({"finishReason": "STOP"}))
}

fn models(url: &str) -> Models {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = json!({"models": {"providers": {"google": {"baseUrl": format!("{url}/v1beta"), "apiKey": KEY}}}});
    Models::new(World::real().unwrap(), ModelsInput::read(&config, None, &|_| None))
}

fn message(role: Role, parts: Vec<Part>) -> Arc<Message> {
    Arc::new(Message { id: MessageId::from("m"), role, parts, at: Millis(0), run_id: None, model: None, usage: None, stop_reason: None, meta: None })
}

fn question() -> Ask {
    let seen = Part::ToolResult { id: "c".into(), name: "see".into(), content: vec![Part::text("seen")], details: None, is_error: false };
    let picture = Part::Image { mime_type: "image/png".into(), data: "QUJD".into() };
    Ask {
        system: "You are a test.".into(),
        messages: Arc::from(vec![
            message(Role::User, vec![Part::text("first"), picture]),
            message(Role::Assistant, vec![Part::ToolCall { id: "c".into(), name: "see".into(), arguments: json!({"a": 1}) }]),
            message(Role::Tool, vec![seen]),
            message(Role::User, vec![Part::text("and?")]),
        ]),
        tools: Arc::from(vec![ToolDefinition { name: "see".into(), description: "does it".into(), parameters: json!({"type": "object"}) }]),
        tool_choice: Some("see".into()),
        max_tokens: Some(100),
        temperature: Some(0.5),
        thinking: Some("low".into()),
        ..Ask::default()
    }
}

async fn heard(models: &Models, model: &str, ask: Ask) -> Vec<Chunk> {
    let answer = models.ask(&ModelChain::only(model), ask, &()).await.unwrap();
    answer.stream.map(Result::unwrap).collect().await
}

#[tokio::test]
async fn a_turn_with_tools_and_pictures_through_the_endpoint() {
    let gemini = Gemini::start();
    let models = models(&gemini.url);
    let chunks = heard(&models, "google/gemini-2.5-flash", question()).await;
    let usage = chunks.iter().find_map(|c| if let Chunk::Usage(u) = c { Some((u.input, u.output, u.cache_read)) } else { None });
    assert_eq!(usage, Some((10, 12, 40)));
    assert!(chunks.iter().any(|c| matches!(c, Chunk::ToolCall { name, arguments, .. } if name == "see" && arguments["where"] == "there")), "{chunks:?}");
    assert_eq!(chunks.last(), Some(&Chunk::Done(StopReason::ToolUse)));
    let limited = models.ask(&ModelChain::only("google/gemini-limited"), question(), &()).await.err().unwrap().error;
    assert_eq!((limited.kind, limited.retry_after_ms), (ErrorKind::Quota, Some(40_000)), "{limited}");
    let missing = models.ask(&ModelChain::only("google/nobody"), question(), &()).await.err().unwrap().error;
    assert_eq!(missing.kind, ErrorKind::ModelNotFound, "{missing}");
    assert_eq!(models.list_live("google", Refresh::Always).await.unwrap()[0].id, "gemini-2.5-flash");
    let wrong = ModelsInput::read(
        &json!({"models": {"providers": {"google": {"baseUrl": format!("{}/v1beta", gemini.url), "apiKey": "AIza-wrong-0123456789abc"}}}}),
        None,
        &|_| None,
    );
    let refused = Models::new(World::real().unwrap(), wrong).ask(&ModelChain::only("google/gemini-2.5-flash"), question(), &()).await.err().unwrap().error;
    assert!(refused.kind == ErrorKind::Auth && !refused.to_string().contains("AIza-wrong"), "{refused}");
}

/// `mime_type` as `mimeType`, all the way down.
fn camel(value: &Value) -> Value {
    let name = |key: &str| {
        let mut words = key.split('_');
        let first = words.next().unwrap_or_default().to_owned();
        words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
    };
    match value {
        Value::Object(map) => map.iter().map(|(key, value)| (name(key), camel(value))).collect(),
        Value::Array(list) => list.iter().map(camel).collect(),
        other => other.clone(),
    }
}

#[tokio::test]
async fn googles_own_client_sends_and_hears_the_same() {
    let Some(python) = std::env::var_os("CLAWSTEAD_GENAI_PYTHON").filter(|p| Path::new(p).exists()) else {
        eprintln!("SKIPPED: providers: CLAWSTEAD_GENAI_PYTHON does not name a Python with google-genai");
        if let Some(mut file) = std::env::var_os("CLAWSTEAD_SKIPS").and_then(|path| std::fs::File::options().append(true).create(true).open(path).ok()) {
            let _ = file.write_all(b"providers\tCLAWSTEAD_GENAI_PYTHON\tdoes not name a program\n");
        }
        return;
    };
    let gemini = Gemini::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/google_client.py");
    let url = gemini.url.clone();
    let ran = tokio::task::spawn_blocking(move || {
        Command::new(python).arg(script).arg(url).env_remove("GOOGLE_API_KEY").env_remove("GEMINI_API_KEY").output().unwrap()
    })
    .await
    .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let said: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let theirs = gemini.seen();
    let chunks = heard(&models(&gemini.url), "google/gemini-2.5-flash", question()).await;
    let ours = gemini.seen().pop().unwrap();

    // The same request. The endpoint takes names in both spellings, and the client mixes them.
    assert_eq!(ours.0, theirs[0].0);
    assert_eq!(ours.2, camel(&theirs[0].2));

    // The same answer.
    let text: String = chunks.iter().filter_map(|c| if let Chunk::Text(t) = c { Some(t.as_str()) } else { None }).collect();
    let thoughts: String = chunks.iter().filter_map(|c| if let Chunk::Thinking(t) = c { Some(t.as_str()) } else { None }).collect();
    let calls: Vec<Value> =
        chunks.iter().filter_map(|c| if let Chunk::ToolCall { name, arguments, .. } = c { Some(json!([name, arguments])) } else { None }).collect();
    assert_eq!(said["text"], text);
    assert_eq!(said["thoughts"], thoughts);
    assert_eq!(said["calls"], Value::Array(calls));
    assert_eq!((said["finish"].as_str(), said["usage"].clone()), (Some("STOP"), json!([50, 7, 5, 40])));
    assert_eq!((said["error"].clone(), said["models"].clone()), (json!([429, "RESOURCE_EXHAUSTED"]), json!(["models/gemini-2.5-flash"])));
}
