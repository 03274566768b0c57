//! The HTTP surface and live sockets of the doors, with our own client.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first surprise")]

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use tokio_tungstenite::tungstenite::Message;

use clawstead_config::AuthMode;
use clawstead_gateway::{
    devices::Devices,
    doors::{
        self, DoorParts, DoorSettings, Doors, Facts, Mounts, Phase, ToolCall, ToolDoor, ToolDoorError, auth::AuthSettings, auth::TrustedProxySettings,
        limits::FailureRule,
    },
    fanout::Fanout,
    presence::Presence,
    rpc::{Caller, Router, devices::DevicesRpc, presence::PresenceRpc, questions::QuestionsRpc},
};
use clawstead_state::{MemoryStore, claim_next};
use clawstead_terms::{AgentId, Millis, RunEvent, RunEventKind, RunPhase, SessionKey, StopReason, Unit, Usage};
use clawstead_wire::{
    Client, ConnectOptions,
    client::ClientError,
    connect::{ClientId, ClientMode},
    device::DeviceIdentity,
};
use clawstead_world::{SystemClock, World};

struct Echo;

#[async_trait::async_trait]
impl ToolDoor for Echo {
    async fn invoke(&self, _: Caller, call: ToolCall) -> Result<Value, ToolDoorError> {
        if call.name == "echo" { Ok(json!({ "content": [], "details": call.args })) } else { Err(ToolDoorError::NotAvailable) }
    }
}

async fn house() -> (Arc<Doors>, u16) {
    let mut world = World::simulated(9);
    world.clock = Arc::new(SystemClock);
    let store = Arc::new(MemoryStore::new());
    let fence = claim_next(&*store, &Unit::Global, "test", 1).await.unwrap();
    let devices = Arc::new(Devices::load(store, fence, world.clone()).await.unwrap());
    let (fanout, presence) = (Fanout::new(), Arc::new(Presence::new("gateway-host", "2026.9.6", "instance", world.clock.now().0)));
    let router = Router::new()
        .mount(clawstead_wire::devices::mount(DevicesRpc { devices: devices.clone(), fanout: fanout.clone(), world: world.clone() }))
        .mount(clawstead_wire::presence::mount(PresenceRpc { presence: presence.clone(), identity: DeviceIdentity::from_seed(&[1; 32]), world: world.clone() }))
        .mount(clawstead_wire::questions::mount(QuestionsRpc));
    let auth = AuthSettings {
        mode: AuthMode::Token,
        token: Some("test-token".into()),
        password: None,
        failures: FailureRule::default(),
        trusted_proxy: TrustedProxySettings::default(),
    };
    let mounts = Mounts { tools: Some(Arc::new(Echo)), ..Mounts::default() };
    let doors = Doors::new(DoorParts {
        world: world.clone(),
        settings: DoorSettings::new(auth.clone()),
        facts: Facts::default(),
        devices,
        presence,
        fanout,
        router: Arc::new(router),
        mounts,
    });
    doors.set_phase(Phase::Ready);
    let listener = doors::bind(&[IpAddr::from([127, 0, 0, 1])], 0, &auth).await.unwrap().remove(0);
    let port = listener.local_addr().unwrap().port();
    let serving = doors.clone();
    world.tasks.spawn::<_, std::convert::Infallible>(clawstead_world::TaskKind::logged("doors"), async move {
        doors::serve(listener, serving).await;
        Ok(())
    });
    (doors, port)
}

/// One request on its own connection: status, headers in lower case, body.
async fn http(port: u16, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
}

/// Recorded requests of these kinds are replayed.
const RECORDED: [&str; 20] = [
    "probe",
    "probe-head",
    "probe-post",
    "ready-auth",
    "health-proxied",
    "tools-noauth",
    "tools-get",
    "tools-denied",
    "tools-missing",
    "tools-notool",
    "cui-post",
    "unknown-post",
    "api-unknown",
    "v1-unknown",
    "cui-config-noauth",
    "cui-asset-404",
    "unknown",
    "avatar",
    "v1models-noauth",
    "v1models-badauth",
];

#[tokio::test]
async fn the_recorded_http_surface_holds() {
    let (doors, port) = house().await;
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../wire/tests/golden").join("http-surface.jsonl");
    let (mut held, mut all) = (0, 0);
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let label = record["label"].as_str().unwrap();
        // Without a mounted /v1 its routes are not there, with or without a token.
        if !RECORDED.contains(&label) || label.starts_with("v1models") {
            continue;
        }
        all += 1;
        let asked = &record["request"];
        let body = asked.get("body").map_or_else(String::new, |body| body.as_str().map_or_else(|| body.to_string(), str::to_owned));
        let mut text =
            format!("{} {} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n", asked["method"].as_str().unwrap(), asked["path"].as_str().unwrap());
        for (name, value) in asked["headers"].as_object().unwrap() {
            text.push_str(&format!("{name}: {}\r\n", value.as_str().unwrap().replace("<GATEWAY_TOKEN>", "test-token")));
        }
        text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        let (status, head, body) = http(port, &text).await;
        let mut faults = Vec::new();
        if u64::from(status) != record["status"].as_u64().unwrap() {
            faults.push(format!("status {status}, recorded {}", record["status"]));
        }
        for name in ["x-content-type-options", "referrer-policy", "permissions-policy", "content-type", "allow", "x-frame-options"] {
            if let Some(value) = record["headers"][name].as_str()
                && !head.contains(&format!("{name}: {}", value.to_lowercase()))
            {
                faults.push(format!("{name} is not {value}"));
            }
        }
        let recorded = &record["body"];
        let same = match serde_json::from_str::<Value>(&body) {
            Ok(mut ours) => {
                let mut theirs = recorded.clone();
                for side in [&mut ours, &mut theirs] {
                    if let Some(side) = side.as_object_mut() {
                        side.remove("uptimeMs");
                        side.remove("eventLoop");
                    }
                }
                ours == theirs
            }
            Err(_) => recorded.as_str().is_none_or(|theirs| theirs == body),
        };
        if !same {
            faults.push(format!("body {body}, recorded {recorded}"));
        }
        if faults.is_empty() {
            held += 1;
        } else {
            println!("  {label} {}: {}", asked["path"], faults.join("; "));
        }
    }
    println!("golden HTTP requests: {held} of {all} hold");
    assert!(held >= 23, "{held} of {all}");
    doors.world().tasks.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_tool_runs_over_http_and_a_wrong_token_is_answered_late() {
    let (_doors, port) = house().await;
    let post = |token: &str, body: &str| {
        format!("POST /tools/invoke HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    let (status, _, body) = http(port, &post("test-token", r#"{"tool":"echo","args":{"a":1},"action":"b"}"#)).await;
    assert_eq!((status, body.as_str()), (200, r#"{"ok":true,"result":{"content":[],"details":{"a":1,"action":"b"}}}"#));
    assert_eq!(http(port, &post("test-token", "{bad")).await.0, 400);
    let start = tokio::time::Instant::now();
    assert_eq!(http(port, &post("wrong", "{}")).await.0, 401);
    assert!(start.elapsed() >= Duration::from_millis(250));
}

fn options(port: u16, scopes: &[&str]) -> ConnectOptions {
    ConnectOptions::cli(format!("ws://127.0.0.1:{port}"), "1").token("test-token").scopes(scopes.iter().copied())
}

fn run_event(kind: RunEventKind) -> RunEvent {
    let agent = AgentId::normalise("main");
    RunEvent {
        run_id: "r1".into(),
        session: SessionKey::main(&agent),
        agent,
        session_id: "s1".into(),
        seq: 1,
        at: Millis(5),
        spawned_by: None,
        heartbeat: false,
        kind,
    }
}

#[tokio::test]
async fn a_run_is_told_to_readers_in_one_count() {
    let (doors, port) = house().await;
    let reader = Client::connect(options(port, &["operator.read"]).caps(["tool-events"])).await.unwrap();
    let quiet = Client::connect(options(port, &["operator.read"]).caps(["session-scoped-events"])).await.unwrap();
    let stranger = Client::connect(options(port, &["operator.pairing"])).await.unwrap();
    let (mut heard, mut unheard, mut outside) = (reader.events(), quiet.events(), stranger.events());
    for kind in [
        RunEventKind::Phase(RunPhase::StartingModel),
        RunEventKind::Started,
        RunEventKind::Text { item_id: "i".into(), text: "Hel".into(), delta: "Hel".into() },
        RunEventKind::ToolStart { call_id: "c".into(), name: "exec".into(), args: json!({}) },
        RunEventKind::Finished { text: "Hel".into(), stop_reason: StopReason::Stop, usage: Usage::default(), started_at: Millis(1), tools_used: Vec::new() },
    ] {
        doors.fanout().run(&run_event(kind));
    }
    doors.fanout().tick(1);
    let mut seen = Vec::new();
    for number in 1.. {
        let clawstead_wire::client::Heard::Event(event) = heard.next().await.unwrap() else { panic!("events were missed") };
        assert_eq!(event.seq, Some(number), "numbers have no holes");
        if event.event == "tick" {
            break;
        }
        let payload = event.payload.unwrap();
        let what = payload.get("stream").or_else(|| payload.get("state")).unwrap().as_str().unwrap().to_owned();
        seen.push((event.event, what, payload["seq"].as_u64().unwrap()));
    }
    let seen: Vec<_> = seen.iter().map(|(event, what, seq)| (event.as_str(), what.as_str(), *seq)).collect();
    assert_eq!(
        seen,
        [
            ("chat", "status", 1),
            ("agent", "run_status", 1),
            ("agent", "lifecycle", 2),
            ("agent", "assistant", 3),
            ("chat", "delta", 3),
            ("agent", "item", 4),
            ("agent", "tool", 5),
            ("agent", "lifecycle", 6),
            ("agent", "lifecycle", 7),
            ("agent", "lifecycle", 8),
            ("chat", "final", 8),
        ]
    );
    // Without a subscription, or without the scope, only the tick arrives, as number 1.
    assert_eq!(unheard.named("tick").await.unwrap().seq, Some(1));
    assert_eq!(outside.named("tick").await.unwrap().seq, Some(1));
}

#[tokio::test]
async fn an_owner_approves_a_changed_device_and_removes_it() {
    let (_doors, port) = house().await;
    let owner = Client::connect(options(port, &["operator.admin"])).await.unwrap();
    let mut events = owner.events();
    let key = DeviceIdentity::from_seed(&[3; 32]);
    let first = Client::connect(options(port, &["operator.read"]).device(key.clone())).await.unwrap();
    let token = first.hello().auth.device_token.clone().unwrap();
    assert_eq!(events.named("device.pair.resolved").await.unwrap().payload.unwrap()["decision"], "approved");
    let mut changed = options(port, &["operator.read"]).device(key.clone());
    changed.client.platform = "darwin".into();
    let refused = Client::connect(changed.clone()).await.unwrap_err();
    let request = refused.shape().unwrap().details.as_ref().unwrap()["requestId"].clone();
    let requested = events.named("device.pair.requested").await.unwrap().payload.unwrap();
    assert_eq!((&requested["requestId"], &requested["isRepair"]), (&request, &json!(true)));
    let list = owner.call_raw("device.pair.list", json!({})).await.unwrap();
    assert_eq!((list["pending"].as_array().unwrap().len(), &list["paired"][0]["connected"]), (1, &json!(true)));
    let approved = owner.call_raw("device.pair.approve", json!({ "requestId": request })).await.unwrap();
    assert_eq!(approved["device"]["approvedVia"], "owner");
    assert!(!approved.to_string().contains(&token), "tokens are not shown");
    let second = Client::connect(changed).await.unwrap();
    assert_ne!(second.hello().auth.device_token.as_ref(), Some(&token));
    let rotated = owner.call_raw("device.token.rotate", json!({ "deviceId": key.id(), "role": "operator" })).await.unwrap();
    assert_eq!(rotated["tokenDelivery"], "withheld-cross-device");
    let mut own_events = second.events();
    let ended = loop {
        if let Err(ended) = own_events.next().await {
            break ended;
        }
    };
    assert!(matches!(ended, ClientError::Closed { code: 4001, .. }), "{ended}");
    assert_eq!(owner.call_raw("device.pair.remove", json!({ "deviceId": key.id() })).await.unwrap()["deviceId"], key.id());
    assert!(owner.call_raw("device.pair.remove", json!({ "deviceId": key.id() })).await.is_err());
}

#[tokio::test]
async fn who_stays_is_present_and_who_asks_once_is_not() {
    let (doors, port) = house().await;
    let owner = Client::connect(options(port, &["operator.read"])).await.unwrap();
    let mut events = owner.events();
    let mut tester = ConnectOptions::new(format!("ws://127.0.0.1:{port}"), ClientId::Test, ClientMode::Test, "1").token("test-token");
    tester.client.display_name = Some("desk".into());
    let other = Client::connect(tester).await.unwrap();
    let joined = events.named("presence").await.unwrap();
    assert_eq!(joined.payload.unwrap()["presence"][1]["host"], "desk");
    assert!(joined.state_version.is_some());
    other.close().await;
    let left = events.named("presence").await.unwrap().payload.unwrap();
    assert_eq!(left["presence"][1]["reason"], "disconnect");
    assert_eq!(owner.call_raw("system-presence", json!({})).await.unwrap().as_array().unwrap().len(), 2);
    doors.say_goodbye(Some(500));
    assert_eq!(events.named("shutdown").await.unwrap().payload.unwrap()["restartExpectedMs"], 500);
    let ended = events.next().await.unwrap_err();
    assert!(matches!(&ended, ClientError::Closed { code: 1012, reason } if reason == "service restart"), "{ended}");
}

type Raw = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<TcpStream>>;

async fn raw(port: u16) -> Result<Raw, tokio_tungstenite::tungstenite::Error> {
    tokio_tungstenite::connect_async(format!("ws://127.0.0.1:{port}/")).await.map(|(socket, _)| socket)
}

fn connect_frame(token: &str) -> Message {
    let params = json!({ "minProtocol": 4, "maxProtocol": 4, "client": { "id": "cli", "version": "1", "platform": "linux", "mode": "cli" },
        "scopes": ["operator.read"], "auth": { "token": token } });
    Message::text(json!({ "type": "req", "id": "1", "method": "connect", "params": params }).to_string())
}

#[tokio::test]
async fn a_client_that_does_not_read_is_sent_away() {
    let (doors, port) = house().await;
    let mut lazy = raw(port).await.unwrap();
    lazy.send(connect_frame("test-token")).await.unwrap();
    let diligent = Client::connect(options(port, &["operator.read"])).await.unwrap();
    let mut events = diligent.events();
    while doors.fanout().listeners() < 2 {
        tokio::task::yield_now().await;
    }
    // Nobody reads `lazy` from here on: its queue fills with shared text until it is over the bound.
    let big = "x".repeat(1 << 20);
    for number in 1..=80 {
        doors.fanout().send("chat", &json!({ "text": big }));
        assert_eq!(events.named("chat").await.unwrap().seq, Some(number));
    }
    tokio::time::timeout(Duration::from_secs(10), async {
        while doors.fanout().listeners() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the slow client was not sent away");
}

#[tokio::test]
async fn strangers_hold_only_so_many_sockets() {
    let (_doors, port) = house().await;
    let mut open = Vec::new();
    for _ in 0..32 {
        open.push(raw(port).await.unwrap());
    }
    assert!(matches!(raw(port).await, Err(tokio_tungstenite::tungstenite::Error::Http(response)) if response.status() == 503));
    // Whoever is let in frees his place.
    open[0].send(connect_frame("test-token")).await.unwrap();
    let challenge = open[0].next().await.unwrap().unwrap();
    assert!(challenge.to_text().unwrap().contains("connect.challenge"));
    assert!(open[0].next().await.unwrap().unwrap().to_text().unwrap().contains("hello-ok"));
    assert!(raw(port).await.is_ok());
}

#[tokio::test]
async fn few_frames_may_wait_for_the_handshake() {
    let (_doors, port) = house().await;
    for (waiting, code, reason) in [(15, 1008, "unauthorized: gateway token mismatch"), (16, 1008, "too many pending handshake frames")] {
        let mut socket = raw(port).await.unwrap();
        // A wrong secret is answered late, so the frames behind it must wait.
        socket.send(connect_frame("wrong")).await.unwrap();
        for _ in 0..waiting {
            socket.send(Message::text(r#"{"type":"req","id":"2","method":"health"}"#)).await.unwrap();
        }
        let close = loop {
            if let Message::Close(Some(close)) = socket.next().await.unwrap().unwrap() {
                break close;
            }
        };
        assert_eq!(u16::from(close.code), code);
        assert!(close.reason.starts_with(reason), "{}", close.reason);
    }
}

/// A thousand listeners and two hundred runs: what one text event costs.
#[tokio::test]
async fn a_crowd_is_served_from_one_text() {
    use clawstead_gateway::{
        fanout::{Listener, Next, Outbox, Subscriptions},
        rpc::{Locality, Role},
    };
    let fanout = Fanout::new();
    let outboxes: Vec<Arc<Outbox>> = (0..1000)
        .map(|number| {
            let outbox = Arc::new(Outbox::default());
            let mut caller =
                Caller::agent(&AgentId::normalise("main"), SessionKey::main(&AgentId::normalise("main")), "r".into(), vec!["operator.read".into()]);
            (caller.conn_id, caller.role, caller.locality) = (number.to_string(), Role::Operator, Locality::DirectLocal);
            fanout.join(Listener::new(Arc::new(caller), Arc::new(Subscriptions::default()), Arc::clone(&outbox)));
            outbox
        })
        .collect();
    let start = std::time::Instant::now();
    for number in 0..200_u32 {
        let mut event = run_event(RunEventKind::Text { item_id: "i".into(), text: "some words of an answer".into(), delta: "answer".into() });
        event.run_id = number.to_string().into();
        fanout.run(&event);
    }
    println!("200 text events to 1000 listeners: {} µs each", start.elapsed().as_micros() / 200);
    for outbox in &outboxes {
        let mut count = 0;
        while count < 400 {
            let Next::Items(items) = outbox.next().await else { panic!("nothing queued") };
            outbox.written(&items);
            count += items.len();
        }
        assert_eq!(count, 400);
    }
}
