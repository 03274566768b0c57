//! Replays recorded conversations of real clients against the doors, and compares what comes back.
//!
//! Methods of other areas are answered by a stand-in, so of their results only success or failure is compared;
//! handshakes, errors, closes, scopes and pairing are compared in full, after ids, times, tokens and keys are
//! made equal. A device of a recording is replayed with a key of our own.
#![allow(clippy::cmp_owned, reason = "the JSON text of an id is compared, quotes and all")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first surprise")]

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json, value::to_raw_value};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Error as WsError, Message, client::IntoClientRequest as _, http::HeaderValue},
};

use clawstead_config::AuthMode;
use clawstead_gateway::{
    devices::Devices,
    doors::{self, DoorParts, DoorSettings, Doors, Facts, Mounts, Phase, auth::AuthSettings, auth::TrustedProxySettings, limits::FailureRule},
    fanout::Fanout,
    presence::Presence,
    rpc::{Cx, Router, devices::DevicesRpc, nodes::NodesRpc, presence::PresenceRpc, questions::QuestionsRpc},
};
use clawstead_state::{MemoryStore, claim_next};
use clawstead_terms::Unit;
use clawstead_wire::{
    Mounted,
    device::DeviceIdentity,
    method::{Answer, Handler},
    methods,
};
use clawstead_world::{SystemClock, World};

mod common;
use common::{PASSWORD, TOKEN, prepare};

/// How many transcripts hold; may only grow.
const FLOOR: usize = 65;
/// Areas with real handlers here.
const REAL: [&str; 4] = ["devices", "nodes", "presence", "questions"];
/// What recordings are made of that this test looks at.
const PREFIXES: [&str; 13] = [
    "err-",
    "connect-",
    "mode-",
    "ok-",
    "pairing-foreign-host-",
    "device-pair-approve-1",
    "device-pair-approve-2",
    "device-token-reconnect",
    "role-flood",
    "missing-scope",
    "unauth-timeout",
    "gateway-shutdown",
    "oversize-after",
];

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

struct House {
    doors: Arc<Doors>,
    port: u16,
    /// Device tokens by recorded device id.
    tokens: BTreeMap<String, String>,
}

/// Answers every method of an area with `{}`.
fn stand_in(rows: &'static [clawstead_wire::MethodSpec]) -> Mounted<Cx> {
    let handlers = rows
        .iter()
        .map(|_| Box::new(|_: Cx, _: Value| Box::pin(async { Ok(to_raw_value(&json!({})).expect("an object has a JSON form")) }) as Answer) as Handler<Cx>)
        .collect();
    Mounted { area: "stand-in", rows, handlers }
}

async fn house(mode: AuthMode, change: impl FnOnce(&mut DoorSettings)) -> House {
    let mut world = World::simulated(7);
    world.clock = Arc::new(SystemClock);
    let store = Arc::new(MemoryStore::new());
    let fence = claim_next(&*store, &Unit::Global, "test", 1).await.unwrap();
    let devices = Arc::new(Devices::load(store, fence, world.clone()).await.unwrap());
    let fanout = Fanout::new();
    let presence = Arc::new(Presence::new("gateway-host", "2026.9.6", "instance", world.clock.now().0));
    let mut router = Router::new()
        .mount(clawstead_wire::devices::mount(DevicesRpc { devices: devices.clone(), fanout: fanout.clone(), world: world.clone() }))
        .mount(clawstead_wire::nodes::mount(NodesRpc { devices: devices.clone(), fanout: fanout.clone(), world: world.clone() }))
        .mount(clawstead_wire::presence::mount(PresenceRpc { presence: presence.clone(), identity: DeviceIdentity::from_seed(&[1; 32]), world: world.clone() }))
        .mount(clawstead_wire::questions::mount(QuestionsRpc));
    for (area, rows) in methods::AREAS {
        if !REAL.contains(area) {
            router = router.mount(stand_in(rows));
        }
    }
    assert_eq!(router.missing(), Vec::<&str>::new());
    let auth = AuthSettings {
        mode,
        token: Some(TOKEN.into()),
        password: Some(PASSWORD.into()),
        failures: FailureRule::default(),
        trusted_proxy: TrustedProxySettings { user_header: Some("x-user".into()), allow_loopback: true, ..TrustedProxySettings::default() },
    };
    let mut settings = DoorSettings::new(auth.clone());
    change(&mut settings);
    let doors = Doors::new(DoorParts {
        world: world.clone(),
        settings,
        facts: Facts::default(),
        devices,
        presence,
        fanout,
        router: Arc::new(router),
        mounts: Mounts::default(),
    });
    doors.set_phase(Phase::Ready);
    let listener = doors::bind(&[IpAddr::from([127, 0, 0, 1])], 0, &auth).await.unwrap().remove(0);
    let port = listener.local_addr().unwrap().port();
    let serving = doors.clone();
    world.tasks.spawn::<_, std::convert::Infallible>(clawstead_world::TaskKind::logged("doors"), async move {
        doors::serve(listener, serving).await;
        Ok(())
    });
    House { doors, port, tokens: BTreeMap::new() }
}

async fn open(house: &House, headers: &[(&'static str, String)]) -> Result<Socket, WsError> {
    let mut request = format!("ws://127.0.0.1:{}/", house.port).into_client_request()?;
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
    }
    tokio_tungstenite::connect_async(request).await.map(|(socket, _)| socket)
}

/// Makes two frames comparable: ids, times, tokens and keys become the same words.
fn normal(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut out = serde_json::Map::new();
            for (name, value) in map {
                let shown = match name.as_str() {
                    "requestId" | "deviceId" | "publicKey" | "connId" | "bootId" => Value::from(format!("<{name}>")),
                    "deviceToken" => "<token>".into(),
                    "retryAfterMs" => Value::from(value.as_u64().map(|ms| ms.div_ceil(10_000))),
                    name if name.ends_with("Ms") || name == "ts" => "<time>".into(),
                    _ => normal(value),
                };
                out.insert(name.clone(), shown);
            }
            Value::Object(out)
        }
        Value::Array(items) => items.iter().map(normal).collect(),
        other => other.clone(),
    }
}

/// What of a response is compared.
fn essence(method: &str, response: &Value) -> Value {
    if response["ok"] == json!(false) {
        return json!({ "error": normal(&response["error"]) });
    }
    let payload = &response["payload"];
    if method == "connect" {
        let auth = &payload["auth"];
        let scopes = if auth["scopes"].to_string().contains('…') { "cut".into() } else { auth["scopes"].clone() };
        let mut told: Vec<&str> = Vec::new();
        for name in ["configPath", "stateDir", "authMode", "sessionDefaults", "presence", "health", "stateVersion", "uptimeMs"] {
            if payload["snapshot"].get(name).is_some() {
                told.push(name);
            }
        }
        let policy: Vec<_> = ["maxPayload", "maxBufferedBytes", "tickIntervalMs", "attachments"].iter().map(|name| payload["policy"][name].clone()).collect();
        return json!({ "type": payload["type"], "protocol": payload["protocol"], "method": auth["method"], "role": auth["role"], "scopes": scopes,
            "deviceToken": auth.get("deviceToken").is_some(), "told": told, "policy": policy, "version": payload["server"]["version"] });
    }
    if method.starts_with("device.") { normal(payload) } else { "ok".into() }
}

fn without_uuids(reason: &str) -> String {
    reason.split_once("(requestId:").map_or_else(|| reason.to_owned(), |(head, _)| head.to_owned())
}

struct Conversation {
    lines: Vec<(String, Value)>,
}

/// The sockets of a recording, one after the other.
fn conversations(file: &str) -> Vec<Conversation> {
    common::sockets(file).into_iter().map(|lines| Conversation { lines: lines.into_iter().map(|line| (line.dir, line.frame)).collect() }).collect()
}

/// Headers that the recordings were made with; they are not in the files.
fn headers(file: &str, port: u16) -> Vec<(&'static str, String)> {
    let own_page = ("origin", format!("http://127.0.0.1:{port}"));
    match file {
        "err-controlui-bad-origin" | "mode-trusted-proxy-controlui-nodevice" => vec![("origin", "https://evil.example".into())],
        "err-controlui-no-device-goodorigin"
        | "err-controlui-build-mismatch"
        | "err-rate-limited-browser-origin"
        | "ok-controlui-dev-build"
        | "mode-none-controlui" => {
            vec![own_page]
        }
        "err-forwarded-header-untrusted" => vec![("x-forwarded-for", "203.0.113.9".into())],
        "mode-trusted-proxy-cli-device" => vec![("x-forwarded-for", "203.0.113.9".into()), ("x-user", "ann@example.com".into())],
        "mode-trusted-proxy-missing-user" => vec![("x-forwarded-for", "203.0.113.9".into())],
        _ => Vec::new(),
    }
}

async fn furnished(file: &str) -> House {
    let mode = match file {
        _ if file.starts_with("mode-none") => AuthMode::None,
        _ if file.starts_with("mode-password") || file.starts_with("connect-during-startup") => AuthMode::Password,
        _ if file.starts_with("mode-trusted-proxy") => AuthMode::TrustedProxy,
        _ => AuthMode::Token,
    };
    let mut house = house(mode, |settings| {
        if mode == AuthMode::TrustedProxy {
            settings.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        }
        if file == "unauth-timeout" {
            settings.handshake_ms = 200;
        }
    })
    .await;
    if file.starts_with("connect-during-startup") {
        house.doors.set_phase(Phase::Starting);
    }
    // What happened before the recording began.
    let before: &[&str] = match file {
        "connect-device-v3-again" | "err-wrong-token-cli-device" => &["connect-device-v3-first-pair"],
        "pairing-foreign-host-2-known-device" | "pairing-foreign-host-3-scope-upgrade-silent" => &["pairing-foreign-host-1-silent-approval"],
        "pairing-foreign-host-4-metadata-change-rejected" => &["pairing-foreign-host-1-silent-approval", "pairing-foreign-host-3-scope-upgrade-silent"],
        _ => &[],
    };
    for earlier in before {
        replay(&mut house, earlier).await.unwrap();
    }
    if file.starts_with("device-pair-approve") {
        pair_before_platform_change(&mut house, file).await;
    }
    if file == "err-rate-limited-browser-origin" {
        for _ in 0..10 {
            let _ = replay(&mut house, file).await;
        }
    }
    house
}

/// The device of `device-pair-approve-*` was first paired as `linux`; the second recording follows an approval.
async fn pair_before_platform_change(house: &mut House, file: &str) {
    let mut first = conversations("device-pair-approve-1-rejected").remove(0);
    for (_, frame) in &mut first.lines {
        if frame["method"] == "connect" {
            frame["params"]["client"]["platform"] = "linux".into();
        }
    }
    first.lines.retain(|(dir, frame)| dir == "c2s" || frame["event"] == "connect.challenge");
    talk(house, file, &first).await.unwrap();
    if file.starts_with("device-pair-approve-2") {
        replay(house, "device-pair-approve-1-rejected").await.unwrap();
        let request = house.doors.devices().pending().remove(0).request_id;
        house.doors.devices().decide(&request, clawstead_gateway::devices::Decision::Approve, &["operator.admin".into()]).await.unwrap();
    }
}

async fn replay(house: &mut House, file: &str) -> Result<(), String> {
    for (index, conversation) in conversations(file).iter().enumerate() {
        let name = if file == "device-token-reconnect" && index == 3 { "device-token-reconnect-bogus".to_owned() } else { file.to_owned() };
        talk(house, &name, conversation).await.map_err(|why| format!("socket {index}: {why}"))?;
    }
    Ok(())
}

/// One socket: sends what the client sent, then compares answers and the close.
async fn talk(house: &mut House, file: &str, conversation: &Conversation) -> Result<(), String> {
    let mut socket = match open(house, &headers(file, house.port)).await {
        Ok(socket) => socket,
        Err(WsError::Http(response)) => {
            let wanted = conversation.lines.iter().find_map(|(_, frame)| frame["__http"].as_u64());
            return if wanted == Some(u64::from(response.status().as_u16())) {
                Ok(())
            } else {
                Err(format!("HTTP {}, recorded {wanted:?}", response.status()))
            };
        }
        Err(err) => return Err(err.to_string()),
    };
    let challenge = next_frame(&mut socket).await?;
    let new = (challenge["payload"]["nonce"].as_str().unwrap().to_owned(), challenge["payload"]["ts"].as_i64().unwrap());
    let mut old = (String::new(), 0);
    let mut asked: BTreeMap<String, (String, Option<String>)> = BTreeMap::new();
    let mut wanted: BTreeMap<String, Value> = BTreeMap::new();
    let mut wanted_close = None;
    let mut wanted_events = Vec::new();
    let mut got: BTreeMap<String, Value> = BTreeMap::new();
    for (dir, frame) in &conversation.lines {
        if dir == "s2c" {
            match frame["type"].as_str() {
                Some("res") => {
                    wanted.insert(frame["id"].to_string(), frame.clone());
                }
                Some("event") if frame["event"] == "connect.challenge" => {
                    old = (frame["payload"]["nonce"].as_str().unwrap().to_owned(), frame["payload"]["ts"].as_i64().unwrap());
                }
                Some("event") if frame["event"] == "shutdown" => wanted_events.push(frame.clone()),
                _ if frame["__ws"] == "close" => wanted_close = Some((frame["code"].as_u64().unwrap(), frame["reason"].as_str().unwrap().to_owned())),
                _ => {}
            }
            continue;
        }
        let text = if let Some(raw) = frame["__raw"].as_str() {
            raw.to_owned()
        } else if let Some(note) = frame["__note"].as_str() {
            if note.starts_with("SIGTERM") {
                house.doors.say_goodbye(None);
                continue;
            }
            let size: usize = note.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
            asked.insert("\"big2\"".into(), ("sessions.list".into(), None));
            json!({ "type": "req", "id": "big2", "method": "sessions.list", "params": { "pad": "x".repeat(size - 74) } }).to_string()
        } else {
            let mut frame = frame.clone();
            let mut device = None;
            if frame["method"] == "connect" && frame.get("params").is_some() {
                device = frame["params"]["device"]["id"].as_str().map(str::to_owned);
                frame["params"] = prepare(file, &house.tokens, &frame["params"], (&old.0, old.1), (&new.0, new.1));
            }
            asked.insert(frame["id"].to_string(), (frame["method"].as_str().unwrap_or("").to_owned(), device));
            frame.to_string()
        };
        // A socket that was closed already refuses; what was closed is compared below.
        let _ = socket.send(Message::text(text)).await;
        // As the recorded clients did: the next frame follows the answer to this one.
        let id = if frame.get("__note").is_some() { "\"big2\"".to_owned() } else { frame["id"].to_string() };
        let answered = conversation.lines.iter().any(|(dir, other)| dir == "s2c" && other["type"] == "res" && other["id"].to_string() == id);
        while answered && !got.contains_key(&id) {
            match next_frame(&mut socket).await {
                Ok(frame) => keep(house, &mut got, &asked, frame),
                Err(why) => return Err(format!("no answer to {id}: {why}")),
            }
        }
    }
    let expects_close = wanted_close.as_ref().is_some_and(|(code, _)| *code != 1005 && *code != 1006);
    let mut events = Vec::new();
    if expects_close {
        loop {
            match tokio::time::timeout(Duration::from_secs(5), socket.next()).await.map_err(|_| "no close within 5 s")? {
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) = frame.map_or((1005, String::new()), |f| (u16::from(f.code), f.reason.to_string()));
                    let (want_code, want_reason) = wanted_close.clone().unwrap();
                    if u64::from(code) != want_code || without_uuids(&reason) != without_uuids(&want_reason) {
                        return Err(format!("closed with {code} {reason:?}, recorded {want_code} {want_reason:?}"));
                    }
                    break;
                }
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    if frame["event"] == "shutdown" {
                        events.push(frame["payload"].clone());
                    }
                    keep(house, &mut got, &asked, frame);
                }
                Some(Ok(_)) => {}
                Some(Err(err)) => return Err(format!("ended without a close frame: {err}")),
                None => return Err("ended without a close frame".into()),
            }
        }
    }
    let wanted_events: Vec<Value> = wanted_events.iter().map(|event| event["payload"].clone()).collect();
    if events != wanted_events {
        return Err(format!("events {events:?}, recorded {wanted_events:?}"));
    }
    for (id, want) in &wanted {
        let method = asked.get(id).map_or("", |(method, _)| method.as_str());
        let have = got.get(id).ok_or_else(|| format!("no answer to {id} {method}"))?;
        let (want, have) = (essence(method, want), essence(method, have));
        let (want, have) = if want["scopes"] == "cut" { (without(want), without(have)) } else { (want, have) };
        if want != have {
            return Err(format!("{method}: {have}\n    recorded {want}"));
        }
    }
    let _ = socket.close(None).await;
    while let Some(Ok(_)) = socket.next().await {}
    Ok(())
}

fn without(mut essence: Value) -> Value {
    essence.as_object_mut().unwrap().remove("scopes");
    essence
}

fn keep(house: &mut House, got: &mut BTreeMap<String, Value>, asked: &BTreeMap<String, (String, Option<String>)>, frame: Value) {
    if frame["type"] != "res" {
        return;
    }
    let id = frame["id"].to_string();
    if let (Some((_, Some(device))), Some(token)) = (asked.get(&id), frame["payload"]["auth"]["deviceToken"].as_str()) {
        house.tokens.insert(device.clone(), token.to_owned());
    }
    got.insert(id, frame);
}

async fn next_frame(socket: &mut Socket) -> Result<Value, String> {
    loop {
        match tokio::time::timeout(Duration::from_secs(10), socket.next()).await.map_err(|_| "nothing within 10 s".to_owned())? {
            Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).map_err(|err| err.to_string()),
            Some(Ok(Message::Close(frame))) => return Err(format!("closed: {frame:?}")),
            Some(Ok(_)) => {}
            Some(Err(err)) => return Err(err.to_string()),
            None => return Err("the socket ended".into()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_handshakes_hold() {
    let files: Vec<String> = common::names().into_iter().filter(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix))).collect();
    let (mut held, all) = (0, files.len());
    for file in &files {
        let mut house = furnished(file).await;
        match replay(&mut house, file).await {
            Ok(()) => held += 1,
            Err(why) => println!("  {file}: {why}"),
        }
        house.doors.world().tasks.stop(Duration::from_secs(5)).await;
    }
    println!("golden transcripts: {held} of {all} hold");
    assert!(held >= FLOOR, "{held} of {all}");
}
