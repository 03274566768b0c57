//! The HTTP surface of a whole gateway: every recorded request is sent again, and its answer compared.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first surprise")]

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

use clawstead_agent::{Brain, BrainAsk, BrainChunk, BrainStream, ModelLimits};
use clawstead_config::{Config, DevFlag, Env, Paths, Profile, ReadOptions, SecretOptions, Snapshot, Strictness};
use clawstead_gateway::{
    building::{Building, Ground, SetUpWorkspaces},
    doors::{self, DoorSettings, Phase},
    live::Live,
    rpc::system::Process,
};
use clawstead_providers::{Chunk, ErrorKind, ProviderError};
use clawstead_state::{MemoryStore, Store as _, Table};
use clawstead_terms::{AgentId, Part, Role, SessionKey, StopReason, Usage};
use clawstead_tools::Places;
use clawstead_wire::{Client, ConnectOptions, device::DeviceIdentity};
use clawstead_world::{SystemClock, TaskKind, World};

/// How many recorded requests hold; may only grow.
const FLOOR: usize = 79;
const TOKEN: &str = "test-token";
const HOOK_TOKEN: &str = "test-hook-token";
const ANSWER: [&str; 8] = ["Hello", " from", " the", " mock", " model.", " Second", " sentence", " here."];

/// What is not compared, and why.
const OUT: [(&str, &str); 8] = [
    ("cui", "the page is our own dashboard; tests of the doors look at it"),
    ("cui-head", "as cui"),
    ("cui-deep", "as cui"),
    ("canvas", "as cui"),
    ("cui-config", "its flags say what this version has: no terminal, no CLI agents"),
    ("favicon", "our own picture"),
    ("tools-ok", "a list of the sessions of the recorded machine; tests of the tool look at its form"),
    ("tools-status", "a status card with times and totals of the recorded machine"),
];

/// Answers like the model behind the recordings, and remembers what it was asked.
struct Mock {
    asks: Mutex<Vec<BrainAsk>>,
    asked: tokio::sync::Notify,
    /// Lets the answers to `SLOW` end, one permit each.
    gate: Semaphore,
}

#[async_trait]
impl Brain for Mock {
    async fn ask(&self, ask: BrainAsk) -> Result<BrainStream, ProviderError> {
        let last = ask.messages.iter().rev().find(|m| m.role == Role::User).map(|m| m.plain_text()).unwrap_or_default();
        self.asks.lock().unwrap().push(ask);
        self.asked.notify_one();
        if last.contains("FAILME") {
            return Err(ProviderError {
                kind: ErrorKind::Request,
                provider: "mock".into(),
                model: "mock-1".into(),
                message: "400 mock upstream failure".into(),
                status: Some(400),
                retry_after_ms: None,
            });
        }
        let mut out = vec![BrainChunk::Chosen { provider: "mock".into(), model: "mock-1".into() }];
        let slow = last.contains("SLOW");
        if last.contains("LONG") {
            out.extend((0..4_000).map(|n| BrainChunk::Piece(Chunk::Text(format!("line number {n} of a long answer\n")))));
        } else {
            out.extend(ANSWER.iter().map(|word| BrainChunk::Piece(Chunk::Text((*word).into()))));
        }
        let mut end =
            vec![BrainChunk::Piece(Chunk::Usage(Usage { input: 11, output: 7, ..Usage::default() })), BrainChunk::Piece(Chunk::Done(StopReason::Stop))];
        if !slow {
            out.append(&mut end);
            return Ok(stream::iter(out).map(Ok).boxed());
        }
        let rest = std::mem::take(&mut end);
        self.gate.acquire().await.unwrap().forget();
        out.extend(rest);
        Ok(stream::iter(out).map(Ok).boxed())
    }

    fn limits(&self, _: &AgentId, _: &str) -> ModelLimits {
        ModelLimits { context_window: 128_000, output_max: 1_000 }
    }
}

struct House {
    building: Building,
    mock: Arc<Mock>,
    live: Arc<Live>,
    world: World,
    port: u16,
    _folder: tempfile::TempDir,
}

fn recorded_config() -> Value {
    json!({
        "gateway": {
            "auth": {"mode": "token", "token": TOKEN},
            "http": {"endpoints": {"chatCompletions": {"enabled": true}, "responses": {"enabled": true}}},
        },
        "hooks": {"enabled": true, "token": HOOK_TOKEN},
        "models": {"providers": {"mock": {"baseUrl": "http://127.0.0.1:9/v1", "apiKey": "k", "api": "openai-completions", "models": [{"id": "mock-1", "name": "Mock"}]}}},
        "agents": {"defaults": {"model": {"primary": "mock/mock-1"}}},
    })
}

fn load(config: &Value, env: &Env) -> (Snapshot, Arc<Config>) {
    let paths = Paths::resolve(Profile::from_flags(None, DevFlag::Off).unwrap(), env);
    let snapshot = Snapshot::from_bytes(config.to_string().as_bytes(), &paths, env, ReadOptions::default());
    let loaded = snapshot.load(Strictness::Strict, SecretOptions::default()).unwrap();
    (snapshot, loaded.config)
}

async fn house(config: &Value) -> House {
    house_on(config, Arc::new(MemoryStore::new())).await
}

/// A house with the past that `store` holds.
async fn house_on(config: &Value, store: Arc<MemoryStore>) -> House {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().display().to_string();
    let env = Env::from_pairs([("HOME", home.as_str()), ("OPENCLAW_STATE_DIR", home.as_str())]);
    let (snapshot, loaded) = load(config, &env);
    let settings = DoorSettings::from_config(&loaded.gateway);
    let (live, reloads) = Live::new(snapshot, loaded, env, None, Strictness::Strict);
    let mut world = World::simulated(11);
    world.clock = Arc::new(SystemClock);
    let mock = Arc::new(Mock { asks: Mutex::default(), asked: tokio::sync::Notify::new(), gate: Semaphore::new(0) });
    let process = Process {
        version: "2026.9.6".into(),
        instance: world.rng.uuid(),
        started: tokio::time::Instant::now(),
        port: 0,
        storage: "memory".into(),
        log_dir: folder.path().to_owned(),
        log_file: None,
        restart: CancellationToken::new(),
    };
    let building = Building::raise(Ground {
        world: world.clone(),
        store,
        live: live.clone(),
        reloads,
        identity: DeviceIdentity::from_seed(&[1; 32]),
        name: "test".into(),
        process: Arc::new(process),
        brain: Some(mock.clone()),
        places: Places { state_dir: folder.path().to_owned(), home: folder.path().to_owned(), env: BTreeMap::new() },
        further_tools: Vec::new(),
        set_up_workspaces: SetUpWorkspaces::No,
        farm: None,
    })
    .await
    .unwrap();
    building.doors.set_phase(Phase::Ready);
    let listener = doors::bind(&[IpAddr::from([127, 0, 0, 1])], 0, &settings.auth).await.unwrap().remove(0);
    let port = listener.local_addr().unwrap().port();
    let serving = building.doors.clone();
    world.tasks.spawn::<_, std::convert::Infallible>(TaskKind::logged("doors"), async move {
        doors::serve(listener, serving).await;
        Ok(())
    });
    House { building, mock, live, world, port, _folder: folder }
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|err| panic!("{err}: {}", self.body))
    }
}

fn request(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    text
}

fn read_answer(bytes: &[u8]) -> Answer {
    let at = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_else(|| panic!("no head in {}", String::from_utf8_lossy(bytes)));
    let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: BTreeMap<String, String> =
        lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let mut rest = &bytes[at + 4..];
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|v| v == "chunked") {
        while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
            body.extend_from_slice(&rest[end + 2..end + 2 + size]);
            rest = &rest[end + 4 + size..];
        }
    } else {
        body.extend_from_slice(rest);
    }
    Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() }
}

async fn send(port: u16, text: &str) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    // An answer may come, and the connection close, before a large body is through.
    let _ = stream.write_all(text.as_bytes()).await;
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    read_answer(&bytes)
}

impl House {
    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let bearer = format!("Bearer {TOKEN}");
        let mut all = vec![("content-type", "application/json"), ("authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        send(self.port, &request(self.port, "POST", path, &all, &body.to_string())).await
    }

    async fn hook(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let mut all = vec![("x-openclaw-token", HOOK_TOKEN)];
        all.extend_from_slice(headers);
        send(self.port, &request(self.port, "POST", path, &all, &body.to_string())).await
    }

    fn last_ask(&self) -> BrainAsk {
        self.mock.asks.lock().unwrap().last().cloned().unwrap()
    }

    fn asked(&self) -> usize {
        self.mock.asks.lock().unwrap().len()
    }

    async fn close(self) {
        assert!(self.world.tasks.stop(Duration::from_secs(10)).await, "tasks did not end");
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.bytes().enumerate().all(|(at, b)| if matches!(at, 8 | 13 | 18 | 23) { b == b'-' } else { b.is_ascii_hexdigit() })
}

/// Ids and times become the same words.
fn normal(value: &Value) -> Value {
    match value {
        Value::String(text) => match text.rfind('_').map_or((None, text.as_str()), |at| (Some(&text[..at]), &text[at + 1..])) {
            (None, id) if is_uuid(id) => json!("<uuid>"),
            (Some(prefix), id) if is_uuid(id) => json!(format!("{prefix}_<uuid>")),
            _ => value.clone(),
        },
        Value::Array(items) => items.iter().map(normal).collect(),
        Value::Object(map) => map
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "uptimeMs" | "eventLoop"))
            .map(|(name, value)| {
                let shown = match name.as_str() {
                    "created" | "created_at" if value.as_i64() != Some(0) => json!("<time>"),
                    "serverBuildId" => json!("<build>"),
                    _ => normal(value),
                };
                (name.clone(), shown)
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

/// A stream's events; where pieces of text are cut is a matter of time, so neighbours are put together.
fn events(body: &str) -> Vec<(String, Value)> {
    let mut out: Vec<(String, Value)> = Vec::new();
    for block in body.split("\n\n").filter(|block| !block.is_empty()) {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim().to_owned();
        let data = field("data:");
        let value = serde_json::from_str(&data).map_or(Value::String(data), |value: Value| normal(&value));
        let name = field("event:");
        for at in ["/choices/0/delta/content", "/delta"] {
            if let (Some(more), Some((_, last))) = (value.pointer(at).and_then(Value::as_str), out.last_mut())
                && let Some(Value::String(text)) = last.pointer_mut(at)
            {
                text.push_str(more);
                break;
            }
        }
        let joined = out.last().is_some_and(|(_, last)| {
            ["/choices/0/delta/content", "/delta"]
                .iter()
                .any(|at| value.pointer(at).is_some_and(Value::is_string) && last.pointer(at).is_some_and(Value::is_string))
        });
        if !joined {
            out.push((name, value));
        }
    }
    out
}

/// What of a page of history is compared: its frame, and who says what.
fn history(body: &Value) -> Value {
    let said = |list: &Value| -> Vec<Value> {
        list.as_array()
            .unwrap()
            .iter()
            .map(|m| json!({"role": m["role"], "content": m["content"], "usage": [&m["usage"]["input"], &m["usage"]["output"]], "stop": m["stopReason"]}))
            .collect()
    };
    json!({"sessionKey": body["sessionKey"], "items": said(&body["items"]), "messages": said(&body["messages"]), "hasMore": body["hasMore"], "nextCursor": body["nextCursor"].is_string()})
}

fn differences(label: &str, record: &Value, answer: &Answer) -> Vec<String> {
    let mut faults = Vec::new();
    if u64::from(answer.status) != record["status"].as_u64().unwrap() {
        faults.push(format!("status {}, recorded {}", answer.status, record["status"]));
    }
    for name in ["x-content-type-options", "referrer-policy", "permissions-policy", "content-type", "cache-control", "allow", "x-frame-options"] {
        let theirs = record["headers"][name].as_str();
        let ours = answer.headers.get(name).map(String::as_str);
        if theirs != ours {
            faults.push(format!("{name} is {ours:?}, recorded {theirs:?}"));
        }
    }
    let recorded = &record["body"];
    let same = match recorded {
        Value::String(text) if text.starts_with("data: ") || text.starts_with("event: ") => events(text) == events(&answer.body),
        Value::String(text) => *text == answer.body,
        _ if label == "sess-history" => answer.status == 200 && history(recorded) == history(&answer.json()),
        _ => serde_json::from_str::<Value>(&answer.body).is_ok_and(|ours| normal(recorded) == normal(&ours)),
    };
    if !same {
        faults.push(format!("body {}, recorded {recorded}", answer.body));
    }
    faults
}

#[tokio::test]
async fn the_recorded_surface_holds() {
    let house = house(&recorded_config()).await;
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../wire/tests/golden/http-surface.jsonl");
    let (mut held, mut all, mut out) = (0, 0, 0);
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let label = record["label"].as_str().unwrap();
        let asked = &record["request"];
        let put = |text: &str| text.replace("<GATEWAY_TOKEN>", TOKEN).replace("<HOOK_TOKEN>", HOOK_TOKEN);
        let mut body = asked.get("body").map_or_else(String::new, |body| body.as_str().map_or_else(|| body.to_string(), str::to_owned));
        if label == "hook-big" {
            // The recording keeps its beginning only.
            body = json!({"text": "x".repeat(300 * 1024)}).to_string();
        }
        if label == "sess-history" {
            // The recorded main session had talked with somebody last.
            let said = house
                .post(
                    "/v1/chat/completions",
                    &[("x-openclaw-session-key", "main")],
                    &json!({"messages": [{"role": "user", "content": "hello from the control ui"}]}),
                )
                .await;
            assert_eq!(said.status, 200, "{}", said.body);
        }
        let headers: Vec<(String, String)> =
            asked["headers"].as_object().unwrap().iter().map(|(name, value)| (name.clone(), put(value.as_str().unwrap()))).collect();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let text = request(house.port, asked["method"].as_str().unwrap(), &put(asked["path"].as_str().unwrap()), &headers, &body);
        let answer = send(house.port, &text).await;
        if let Some((_, reason)) = OUT.iter().find(|(name, _)| *name == label) {
            out += 1;
            println!("  not compared: {label} ({reason})");
            continue;
        }
        all += 1;
        let faults = differences(label, &record, &answer);
        if faults.is_empty() {
            held += 1;
        } else {
            println!("  {label} {}: {}", asked["path"], faults.join("; "));
        }
    }
    println!("golden HTTP surface: {held} of {all} hold, {out} not compared");
    assert!(held >= FLOOR, "{held} of {all}, the floor is {FLOOR}");
    house.close().await;
}

#[tokio::test]
async fn a_request_becomes_a_turn_of_a_named_session() {
    let house = house(&recorded_config()).await;
    let body = json!({
        "model": "openclaw", "user": "Conv:1", "temperature": 0.5, "max_tokens": 77,
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "my name is Ann"},
            {"role": "assistant", "content": "noted"},
            {"role": "user", "content": [{"type": "text", "text": "who am I?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]},
        ],
    });
    assert_eq!(house.post("/v1/chat/completions", &[], &body).await.status, 200);
    let ask = house.last_ask();
    assert_eq!((ask.session.as_str(), ask.temperature, ask.max_tokens), ("agent:main:openai-user:conv%3a1", Some(0.5), Some(77)));
    assert!(ask.system.contains("be brief"));
    let message = ask.messages.last().unwrap();
    assert!(message.plain_text().contains("User: my name is Ann\nAssistant: noted") && message.plain_text().contains("who am I?"));
    assert!(message.parts.iter().any(|part| matches!(part, Part::Image { mime_type, .. } if mime_type == "image/png")));
    // The session knows its past now: nothing is told twice.
    assert_eq!(house.post("/v1/chat/completions", &[], &body).await.status, 200);
    let ask = house.last_ask();
    assert_eq!(ask.messages.len(), 3);
    assert!(!ask.messages.last().unwrap().plain_text().contains("Ann"));
    // Without a name every call has a session of its own; pictures elsewhere are not fetched unasked.
    let elsewhere = json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}]});
    let refused = house.post("/v1/chat/completions", &[], &elsewhere).await;
    assert!(refused.status == 400 && refused.body.contains("allowUrl"), "{}", refused.body);
    let first = house.post("/v1/responses", &[], &json!({"model": "openclaw", "input": "one", "instructions": "be kind"})).await.json();
    assert!(house.last_ask().system.contains("be kind") && house.last_ask().session.as_str().starts_with("agent:main:openresponses:"));
    let session = house.last_ask().session;
    let second = house.post("/v1/responses", &[], &json!({"model": "openclaw", "input": "two", "previous_response_id": first["id"]})).await;
    assert_eq!((second.status, &house.last_ask().session), (200, &session));
    assert_eq!(house.post("/v1/responses", &[], &json!({"input": "x", "previous_response_id": "resp_none"})).await.status, 404);
    house.close().await;
}

#[tokio::test]
async fn a_repeat_starts_nothing_and_another_body_is_a_conflict() {
    let house = house(&recorded_config()).await;
    let body = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "once"}]});
    for headers in [&[("idempotency-key", "k1")][..], &[("idempotency-key", "k2"), ("x-openclaw-session-key", "here")][..]] {
        let before = house.asked();
        let (first, second) = tokio::join!(house.post("/v1/chat/completions", headers, &body), house.post("/v1/chat/completions", headers, &body));
        assert_eq!((first.status, second.status), (200, 200), "{} {}", first.body, second.body);
        assert_eq!(first.json()["id"], second.json()["id"]);
        let third = house.post("/v1/chat/completions", headers, &body).await.json();
        assert_eq!((&third["id"], &third["choices"]), (&first.json()["id"], &first.json()["choices"]));
        assert_eq!(house.asked(), before + 1);
        let other = house.post("/v1/chat/completions", headers, &json!({"messages": [{"role": "user", "content": "twice"}]})).await;
        assert_eq!(other.status, 409, "{}", other.body);
        assert_eq!(house.asked(), before + 1);
    }
    house.close().await;
}

#[tokio::test]
async fn a_client_that_goes_loses_only_its_answer() {
    let house = house(&recorded_config()).await;
    let bearer = format!("Bearer {TOKEN}");
    let body = json!({"stream": true, "messages": [{"role": "user", "content": "SLOW"}]}).to_string();
    let text = request(
        house.port,
        "POST",
        "/v1/chat/completions",
        &[("authorization", &bearer), ("idempotency-key", "gone"), ("x-openclaw-session-key", "slow")],
        &body,
    );
    let mut stream = TcpStream::connect(("127.0.0.1", house.port)).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains("\"role\":\"assistant\"") {
        let mut some = [0; 1024];
        let count = stream.read(&mut some).await.unwrap();
        assert!(count > 0, "the stream ended: {}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&some[..count]);
    }
    drop(stream);
    house.mock.gate.add_permits(1);
    // The same request again is answered by the run that went on.
    let answer = send(
        house.port,
        &request(
            house.port,
            "POST",
            "/v1/chat/completions",
            &[("authorization", &bearer), ("idempotency-key", "gone"), ("x-openclaw-session-key", "slow")],
            &json!({"messages": [{"role": "user", "content": "SLOW"}]}).to_string(),
        ),
    )
    .await;
    assert_eq!(answer.json()["choices"][0]["message"]["content"], ANSWER.concat());
    assert_eq!(house.asked(), 1);
    house.close().await;
}

#[tokio::test]
async fn a_long_answer_arrives_whole() {
    let house = house(&recorded_config()).await;
    let whole: String = (0..4_000).map(|n| format!("line number {n} of a long answer\n")).collect();
    let body = |stream: bool| json!({"stream": stream, "messages": [{"role": "user", "content": "LONG"}]});
    let answer = house.post("/v1/chat/completions", &[("idempotency-key", "long")], &body(false)).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"].as_str().unwrap().trim(), whole.trim());
    // The ledger has the beginning only; a repeat is answered in full all the same.
    let again = house.post("/v1/chat/completions", &[("idempotency-key", "long")], &body(false)).await.json();
    assert_eq!(again["choices"][0]["message"]["content"].as_str().unwrap().trim(), whole.trim());
    let streamed = house.post("/v1/chat/completions", &[], &body(true)).await;
    let text: String = events(&streamed.body).iter().filter_map(|(_, event)| event.pointer("/choices/0/delta/content")?.as_str().map(str::to_owned)).collect();
    assert_eq!(text.trim(), whole.trim());
    house.close().await;
}

#[tokio::test]
async fn what_cannot_be_is_said() {
    let house = house(&recorded_config()).await;
    let ask = |more: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let choice =
        json!({"tool_choice": {"type": "function", "function": {"name": "get_weather"}}, "tools": [{"type": "function", "function": {"name": "get_weather"}}]});
    let answer = house.post("/v1/chat/completions", &[], &ask(choice)).await;
    assert_eq!(
        answer.json()["error"],
        json!({"message": "tool_choice required a get_weather tool call, but the agent did not produce one", "type": "api_error"})
    );
    assert_eq!(house.asked(), 0, "no turn is spent on it");
    for (headers, more, status, word) in [
        (&[("x-openclaw-agent-id", "nope")][..], json!({}), 400, "Unknown agent 'nope'."),
        (&[("x-openclaw-session-key", "agent:nope:main")][..], json!({}), 400, "Unknown agent 'nope'."),
        (&[("x-openclaw-session-key", "cron:x")][..], json!({}), 400, "reserved internal session namespaces"),
        (&[][..], json!({"max_tokens": 0}), 400, "`max_tokens` must be a positive integer."),
    ] {
        let answer = house.post("/v1/chat/completions", headers, &ask(more)).await;
        assert!(answer.status == status && answer.body.contains(word), "{} {}", answer.status, answer.body);
    }
    let failed = house.post("/v1/responses", &[], &json!({"input": "FAILME", "stream": true})).await;
    let told = events(&failed.body);
    assert_eq!(
        (failed.status, told.iter().find(|(name, _)| name == "response.failed").unwrap().1["response"]["error"]["message"].as_str()),
        (200, Some("400 mock upstream failure"))
    );
    house.close().await;
}

#[tokio::test]
async fn what_is_off_is_not_there_and_scopes_narrow() {
    let mut config = recorded_config();
    config["gateway"] = json!({"auth": {"mode": "none"}, "http": {"endpoints": {"chatCompletions": {"enabled": true}}}});
    config["hooks"] = json!({});
    let open = house(&config).await;
    let body = json!({"messages": [{"role": "user", "content": "hi"}]}).to_string();
    let narrow = send(open.port, &request(open.port, "POST", "/v1/chat/completions", &[("x-openclaw-scopes", "operator.read")], &body)).await;
    assert_eq!(narrow.status, 403);
    assert_eq!(
        narrow.json(),
        json!({"ok": false, "error": {"type": "forbidden", "message": "missing scope: operator.write", "details": {"code": "MISSING_SCOPE", "missingScope": "operator.write", "requiredScopes": ["operator.write"]}}})
    );
    assert_eq!(send(open.port, &request(open.port, "GET", "/v1/models", &[("x-openclaw-scopes", "operator.read")], "")).await.status, 200);
    for path in ["/v1/responses", "/hooks/wake"] {
        let off = send(open.port, &request(open.port, "POST", path, &[], "{}")).await;
        assert_eq!((off.status, off.body.as_str()), (404, "Not Found"), "{path}");
    }
    assert_eq!(open.asked(), 0);
    open.close().await;
}

#[tokio::test]
async fn hooks_follow_their_rules() {
    let mut config = recorded_config();
    config["hooks"] = json!({
        "enabled": true, "token": HOOK_TOKEN, "allowRequestSessionKey": true, "allowedSessionKeyPrefixes": ["hook:"], "allowedAgentIds": ["main"], "presets": ["gmail"],
        "mappings": [
            {"match": {"path": "ci"}, "name": "CI {{repo.name}}", "messageTemplate": "Build of {{repo.name}}: {{steps[1].state}}", "sessionKey": "hook:ci:{{repo.name}}", "deliver": false},
            {"match": {"path": "ping"}, "action": "wake", "wakeMode": "next-heartbeat", "textTemplate": "ping from {{who}}"},
            {"match": {"path": "mails"}, "forEach": "messages", "messageTemplate": "mail {{messages[0].subject}}", "deliver": false},
            {"match": {"path": "js"}, "transform": {"module": "x.js"}},
        ],
    });
    let house = house(&config).await;
    let payload = json!({"repo": {"name": "web"}, "steps": [{"state": "ok"}, {"state": "broken"}]});
    let first = house.hook("/hooks/ci", &[("idempotency-key", "b1")], &payload).await.json();
    assert_eq!(house.hook("/hooks/ci", &[("idempotency-key", "b1")], &payload).await.json(), first);
    let run = first["runId"].as_str().unwrap().into();
    let row = house.building.lanes.wait(&run, Duration::from_secs(20)).await.unwrap().unwrap();
    assert_eq!((row.session.as_str(), house.asked()), ("agent:main:hook:ci:web", 1));
    let ask = house.last_ask();
    assert_eq!(ask.messages.last().unwrap().plain_text(), "Build of web: broken");
    assert!(ask.system.contains("came in through a webhook"), "strangers' words are marked");
    assert_eq!(house.hook("/hooks/ping", &[], &json!({"who": "Ann"})).await.json(), json!({"ok": true, "mode": "next-heartbeat", "eventOutcome": "queued"}));
    assert_eq!(house.hook("/hooks/ping", &[], &json!({"who": "Ann"})).await.json()["eventOutcome"], "coalesced");
    assert_eq!(house.hook("/hooks/ping", &[], &json!({"who": "Bob"})).await.json()["eventOutcome"], "queued");
    let mails = house.hook("/hooks/mails", &[], &json!({"messages": [{"subject": "a"}, {"subject": "b"}]})).await.json();
    assert_eq!((mails["count"].as_u64(), mails["runIds"].as_array().unwrap().len()), (Some(2), 2));
    for (path, body, status, word) in [
        ("/hooks/js", json!({}), 501, "transform runs JavaScript"),
        ("/hooks/gmail", json!({}), 501, "gmail preset"),
        ("/hooks/ci", json!({"repo": {"name": "web"}, "source": 1, "steps": null}), 200, "runId"),
        ("/hooks/agent", json!({"message": "x", "sessionKey": "main"}), 400, "sessionKey must start with one of: hook:"),
        ("/hooks/agent", json!({"message": "x", "sessionKey": "hook:a", "model": "nope/nope"}), 400, "nope"),
        ("/hooks/agent", json!({"message": "x", "sessionKey": "hook:a", "agentId": "main", "deliver": false}), 200, "runId"),
    ] {
        let answer = house.hook(path, &[], &body).await;
        assert!(answer.status == status && answer.body.contains(word), "{path}: {} {}", answer.status, answer.body);
    }
    // An answer that reached nobody is told to the main session.
    let waited =
        house.hook("/hooks/agent", &[], &json!({"message": "report", "name": "Clock", "wakeMode": "next-heartbeat", "waitForCompletion": true})).await.json();
    assert_eq!(waited["completion"]["status"], "ok");
    let note = format!("hook-note:{}", waited["runId"].as_str().unwrap());
    house.building.lanes.wait(&note.as_str().into(), Duration::from_secs(20)).await.unwrap().unwrap();
    let main = SessionKey::main(&AgentId::normalise("main"));
    let page = house.building.lanes.history(&main, clawstead_agent::HistoryPage::Newest { limit: 10, skip: 0 }).await.unwrap();
    assert!(page.items.last().unwrap().message.plain_text().contains(&format!("System: Hook Clock: {}", ANSWER.concat())));
    house.close().await;
}

/// The caller was told `ok`, then the gateway ended in the middle of the turn: the next one tells of the answer.
#[tokio::test]
async fn a_restart_forgets_no_note_of_a_hook() {
    let store = Arc::new(MemoryStore::new());
    let unit = clawstead_terms::Unit::Agent(AgentId::normalise("main"));
    let first = house_on(&recorded_config(), store.clone()).await;
    let asked = json!({"message": "SLOW report", "name": "Clock", "wakeMode": "next-heartbeat"});
    let run = first.hook("/hooks/agent", &[("idempotency-key", "k")], &asked).await.json()["runId"].as_str().unwrap().to_owned();
    first.mock.asked.notified().await;
    let owed = clawstead_state::Scan::prefix("hook-follow/");
    assert_eq!(store.scan(&unit, Table::Meta, &owed).await.unwrap().len(), 1);
    first.building.lanes.drain(Duration::ZERO).await;
    first.close().await;

    let second = house_on(&recorded_config(), store.clone()).await;
    second.mock.gate.add_permits(1);
    let note = format!("hook-note:{run}");
    second.building.lanes.wait(&note.as_str().into(), Duration::from_secs(20)).await.unwrap().expect("the note is there");
    // A repeat of the call owes nothing more.
    second.hook("/hooks/agent", &[("idempotency-key", "k")], &asked).await;
    let main = SessionKey::main(&AgentId::normalise("main"));
    let page = second.building.lanes.history(&main, clawstead_agent::HistoryPage::Newest { limit: 10, skip: 0 }).await.unwrap();
    let notes = page.items.iter().filter(|item| item.message.plain_text().contains("System: Hook Clock: Hello from")).count();
    assert_eq!(notes, 1);
    while !store.scan(&unit, Table::Meta, &owed).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    second.close().await;
}

#[tokio::test]
async fn a_reload_opens_moves_and_closes_doors() {
    let house = house(&recorded_config()).await;
    let mut config = recorded_config();
    config["hooks"]["path"] = json!("/in/here");
    config["gateway"]["http"] = json!({});
    house.live.config.store(load(&config, house.live.env()).1);
    let wake = json!({"text": "x", "mode": "next-heartbeat"});
    assert_eq!(house.hook("/hooks/wake", &[], &wake).await.status, 404);
    assert_eq!(house.hook("/in/here/wake", &[], &wake).await.status, 200);
    let off = house.post("/v1/chat/completions", &[], &json!({"messages": [{"role": "user", "content": "hi"}]})).await;
    assert_eq!((off.status, off.body.as_str(), house.asked()), (404, "Not Found", 0));
    house.close().await;
}

#[tokio::test]
async fn wrong_hook_tokens_are_counted_and_a_right_one_passes() {
    let house = house(&recorded_config()).await;
    let wrong = request(house.port, "POST", "/hooks/wake", &[("authorization", "Bearer wrong")], "{\"text\":\"x\"}");
    for n in 0..20 {
        assert_eq!(send(house.port, &wrong).await.status, 401, "attempt {n}");
    }
    let told = send(house.port, &wrong).await;
    assert_eq!((told.status, told.body.as_str(), told.headers["retry-after"].as_str()), (429, "Too Many Requests", "60"));
    assert_eq!(house.hook("/hooks/wake", &[], &json!({"text": "x", "mode": "next-heartbeat"})).await.status, 200);
    house.close().await;
}

#[tokio::test]
async fn an_admin_stops_a_run_and_its_caller_is_told() {
    let house = house(&recorded_config()).await;
    let url = format!("ws://127.0.0.1:{}", house.port);
    let admin =
        Client::connect(ConnectOptions::cli(url, "1").token(TOKEN).scopes(["operator.admin"]).device(DeviceIdentity::from_seed(&[3; 32]))).await.unwrap();
    let bearer = format!("Bearer {}", admin.hello().auth.device_token.clone().unwrap());
    let body = json!({"messages": [{"role": "user", "content": "SLOW"}]});
    let kill = async {
        house.mock.asked.notified().await;
        send(house.port, &request(house.port, "POST", "/sessions/agent%3Amain%3Aslow/kill", &[("authorization", &bearer)], "{}")).await
    };
    let headers = [("x-openclaw-session-key", "slow")];
    let (answer, killed) = tokio::join!(house.post("/v1/chat/completions", &headers, &body), kill);
    assert_eq!((killed.status, killed.json()), (200, json!({"ok": true, "killed": true})));
    assert_eq!((answer.status, answer.json()["error"]["type"].as_str()), (503, Some("api_error")), "{}", answer.body);
    let again = send(house.port, &request(house.port, "POST", "/sessions/agent%3Amain%3Aslow/kill", &[("authorization", &bearer)], "{}")).await;
    assert_eq!(again.json(), json!({"ok": true, "killed": false}));
    house.close().await;
}

#[tokio::test]
async fn history_is_read_page_by_page() {
    let house = house(&recorded_config()).await;
    for text in ["one", "two", "three"] {
        house.post("/v1/chat/completions", &[("x-openclaw-session-key", "book")], &json!({"messages": [{"role": "user", "content": text}]})).await;
    }
    let bearer = format!("Bearer {TOKEN}");
    let get = async |query: &str| {
        send(house.port, &request(house.port, "GET", &format!("/sessions/agent%3Amain%3Abook/history{query}"), &[("authorization", &bearer)], "")).await
    };
    let whole = get("").await.json();
    assert_eq!((whole["items"].as_array().unwrap().len(), &whole["hasMore"], whole.get("nextCursor")), (6, &json!(false), None));
    let (mut cursor, mut seen) = (String::new(), Vec::new());
    loop {
        let page = get(&format!("?limit=4{cursor}")).await.json();
        let items = page["items"].as_array().unwrap().clone();
        seen.splice(0..0, items);
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(Value::Array(seen), whole["items"]);
    assert_eq!(get("?limit=0").await.status, 400);
    let missing = send(house.port, &request(house.port, "GET", "/sessions/agent%3Amain%3Anope/history", &[("authorization", &bearer)], "")).await;
    assert_eq!((missing.status, missing.json()["error"]["type"].as_str()), (404, Some("not_found")));
    house.close().await;
}
