use std::collections::{BTreeMap, BTreeSet};

use axum::body::{Body, to_bytes};
use clawstead_terms::AgentId;
use serde_json::json;
use tower::ServiceExt as _;

use super::{http::HttpSettings, *};
use crate::{
    host::local::LocalHost,
    memory::{Event, Expect, LocalMemory, MemoryError, MemoryKey, Popped, Remembered, Removed, Space, Stamp, Task},
    peers::{Peer, PeerList, Scope},
};

const TOKEN: &str = "token-of-the-laptop-0123456789abcdef";

struct Farm {
    hub: Hub,
    laptop: Caller,
    phone: Caller,
}

async fn farm() -> Farm {
    let world = World::simulated(5);
    let host = LocalHost::new("jerry-gateway", world.clone());
    host.add_farm_agent(AgentId::parse("jerry").unwrap(), BTreeSet::from(["slack".to_owned()])).await;
    let hub = Hub::new(Arc::new(host), Arc::new(LocalMemory::new(world.clone())), world);
    let peer = |name: &str, scopes: BTreeSet<Scope>| Caller::Peer(Arc::new(Peer { name: name.into(), scopes }));
    Farm { hub, laptop: peer("laptop", Scope::usual()), phone: peer("phone", BTreeSet::from([Scope::Register, Scope::Operator])) }
}

impl Farm {
    async fn ask(&self, caller: &Caller, tool: &str, args: Value) -> Result<Value, ToolError> {
        let Value::Object(args) = args else { panic!("{args} is no object") };
        self.hub.call(caller, tool, args).await.unwrap_or_else(|| panic!("there is no tool {tool}"))
    }

    async fn good(&self, caller: &Caller, tool: &str, args: Value) -> Value {
        self.ask(caller, tool, args.clone()).await.unwrap_or_else(|err| panic!("{tool} {args}: {err:?}"))
    }

    async fn bad(&self, caller: &Caller, tool: &str, args: Value) -> ToolError {
        match self.ask(caller, tool, args.clone()).await {
            Ok(value) => panic!("{tool} {args} answered {value}"),
            Err(err) => err,
        }
    }
}

#[test]
fn tools_have_whole_schemas() {
    let names: Vec<&str> = tools::all().iter().map(|tool| &*tool.name).collect();
    assert_eq!(
        names,
        [
            "agent_register",
            "agent_discover",
            "agent_heartbeat",
            "send_message",
            "check_inbox",
            "ack_message",
            "set_memory",
            "get_memory",
            "push_event",
            "push_task",
            "pop_task",
            "vault_read",
            "vault_list",
            "vault_write",
            "vault_append",
            "dlq_list",
            "dlq_replay"
        ]
    );
    for tool in tools::all() {
        for schema in [&tool.input_schema, tool.output_schema.as_ref().unwrap()] {
            let text = serde_json::to_string(schema).unwrap();
            assert_eq!(schema.get("type"), Some(&json!("object")), "{}: {text}", tool.name);
            assert!(!text.contains("$ref"), "{}: {text}", tool.name);
            for (name, field) in schema["properties"].as_object().unwrap() {
                assert!(field.get("description").is_some(), "{}.{name} says nothing: {field}", tool.name);
            }
        }
        assert_eq!(tool.input_schema.get("additionalProperties"), Some(&json!(false)), "{}", tool.name);
        assert!(tool.annotations.is_some() && tool.description.is_some());
    }
    let send = &tools::all()[3].input_schema;
    assert_eq!(send["required"], json!(["from", "to", "body"]));
    assert_eq!(send["properties"]["ttl_ms"]["maximum"], json!(86_400_000));
}

#[tokio::test(start_paused = true)]
async fn a_letter_goes_there_and_back() {
    let f = farm().await;
    let made = f.good(&f.laptop, "agent_register", json!({"agent_id": "bobby", "capabilities": ["nomad", "consul"], "gateway_id": "elsewhere"})).await;
    assert_eq!((&made["gateway"], &made["created"]), (&json!("jerry-gateway"), &json!(true)));
    f.good(&f.phone, "agent_register", json!({"agent_id": "billy"})).await;
    f.good(&f.laptop, "agent_register", json!({"agent_id": "betty"})).await;
    let seen = f.good(&f.laptop, "agent_discover", json!({"capability": "nomad"})).await;
    assert_eq!((&seen["agents"][0]["agent_id"], &seen["agents"][0]["yours"], seen["agents"].as_array().unwrap().len()), (&json!("bobby"), &json!(true), 1));
    let all = f.good(&f.laptop, "agent_discover", json!({})).await;
    let yours: BTreeMap<&str, bool> =
        all["agents"].as_array().unwrap().iter().map(|a| (a["agent_id"].as_str().unwrap(), a["yours"].as_bool().unwrap())).collect();
    assert_eq!(yours, BTreeMap::from([("betty", true), ("billy", false), ("bobby", true), ("jerry", false)]));

    let sent = f.good(&f.laptop, "send_message", json!({"from_agent": "bobby", "to_agent": "betty", "message_body": {"q": 1}, "idempotency_key": "k"})).await;
    let again = f.good(&f.laptop, "send_message", json!({"from": "bobby", "to": "betty", "body": {"q": 1}, "idempotency_key": "k"})).await;
    assert_eq!((&sent["duplicate"], &again["duplicate"], &sent["message_id"]), (&json!(false), &json!(true), &again["message_id"]));
    let inbox = f.good(&f.laptop, "check_inbox", json!({"agent_id": "betty"})).await;
    assert_eq!(inbox["messages"].as_array().unwrap().len(), 1);
    assert_eq!(inbox["messages"][0]["body"], json!({"q": 1}));
    assert_eq!(f.good(&f.laptop, "check_inbox", json!({"agent_id": "betty"})).await["messages"], json!([]));
    tokio::time::advance(LEASE).await;
    let second = f.good(&f.laptop, "check_inbox", json!({"agent_id": "betty"})).await;
    assert_eq!(second["messages"][0]["delivery_count"], json!(2));
    let stale = json!({"agent_id": "betty", "message_id": sent["message_id"], "lease": inbox["messages"][0]["lease"]});
    assert!(f.bad(&f.laptop, "ack_message", stale).await.message.contains("lease"));
    let current = json!({"agent_id": "betty", "message_id": sent["message_id"], "lease": second["messages"][0]["lease"]});
    assert_eq!(f.good(&f.laptop, "ack_message", current.clone()).await["repeated"], json!(false));
    assert_eq!(f.good(&f.laptop, "ack_message", json!({"agent_id": "betty", "message_id": sent["message_id"]})).await["repeated"], json!(true));
    let reply = json!({"from": "betty", "to": "bobby", "body": "none", "kind": "reply", "in_reply_to": sent["message_id"]});
    f.good(&f.laptop, "send_message", reply).await;
    let back = f.good(&f.laptop, "check_inbox", json!({"agent_id": "bobby", "limit": 1})).await;
    assert_eq!((&back["messages"][0]["in_reply_to"], &back["messages"][0]["kind"]), (&sent["message_id"], &json!("reply")));
}

#[tokio::test(start_paused = true)]
async fn nobody_acts_as_somebody_elses_agent() {
    let f = farm().await;
    f.good(&f.laptop, "agent_register", json!({"agent_id": "bobby"})).await;
    let everything = Caller::Peer(Arc::new(Peer { name: "mallory".into(), scopes: Scope::ALL.into_iter().collect() }));
    for (tool, args) in [
        ("agent_register", json!({"agent_id": "bobby"})),
        ("agent_heartbeat", json!({"agent_id": "bobby"})),
        ("send_message", json!({"from": "bobby", "to": "jerry", "body": "x"})),
        ("check_inbox", json!({"agent_id": "bobby"})),
        ("ack_message", json!({"agent_id": "bobby", "message_id": "m"})),
        ("set_memory", json!({"agent_id": "bobby", "key": "k", "value": 1})),
        ("push_event", json!({"agent_id": "bobby", "event": "e"})),
        ("push_task", json!({"agent_id": "bobby", "task": "t"})),
        ("pop_task", json!({"agent_id": "bobby"})),
    ] {
        assert_eq!(f.bad(&everything, tool, args.clone()).await.code, "FORBIDDEN", "{tool}");
        assert_eq!(f.bad(&Caller::Local, tool, args).await.code, "FORBIDDEN", "{tool}");
    }
    let farm_agent = f.bad(&f.laptop, "send_message", json!({"from": "jerry", "to": "bobby", "body": "x"})).await;
    assert!(farm_agent.message.contains("belongs to the farm"), "{farm_agent:?}");
    assert_eq!(f.bad(&f.laptop, "dlq_list", json!({"agent_id": "jerry"})).await.code, "FORBIDDEN");
    assert_eq!(f.bad(&f.laptop, "dlq_replay", json!({"message_id": "m"})).await.code, "FORBIDDEN");
}

#[tokio::test(start_paused = true)]
async fn each_tool_needs_its_scope() {
    let f = farm().await;
    let nothing = Caller::Peer(Arc::new(Peer { name: "nobody".into(), scopes: BTreeSet::new() }));
    for (tool, args, scope) in [
        ("agent_register", json!({"agent_id": "a"}), "register"),
        ("agent_discover", json!({}), "discover"),
        ("agent_heartbeat", json!({"agent_id": "a"}), "register"),
        ("send_message", json!({"from": "a", "to": "b", "body": "x"}), "send"),
        ("check_inbox", json!({"agent_id": "a"}), "inbox"),
        ("ack_message", json!({"agent_id": "a", "message_id": "m"}), "inbox"),
        ("set_memory", json!({"agent_id": "a", "key": "k", "value": 1}), "memory-write"),
        ("get_memory", json!({"agent_id": "a"}), "memory-read"),
        ("push_event", json!({"agent_id": "a", "event": "e"}), "memory-write"),
        ("push_task", json!({"agent_id": "a", "task": "t"}), "tasks"),
        ("pop_task", json!({"agent_id": "a"}), "tasks"),
        ("dlq_list", json!({}), "dlq"),
        ("dlq_replay", json!({"message_id": "m"}), "operator"),
    ] {
        let err = f.bad(&nothing, tool, args).await;
        assert!(err.code == "FORBIDDEN" && err.message.contains(&format!("\"{scope}\"")), "{tool}: {err:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_arguments_are_named() {
    let f = farm().await;
    f.good(&f.laptop, "agent_register", json!({"agent_id": "bobby"})).await;
    for (tool, args, part) in [
        ("agent_register", json!({}), "agent_id"),
        ("agent_register", json!({"agent_id": "Bobby Tables"}), "agent id"),
        ("agent_register", json!({"agent_id": "b", "capabilities": [""]}), "capability"),
        ("agent_register", json!({"agent_id": "b", "capabilities": "x"}), "sequence"),
        ("agent_register", json!({"agent_id": "b", "colour": 1}), "colour"),
        ("agent_register", json!({"agent_id": "b", "description": "x".repeat(501)}), "description"),
        ("agent_discover", json!({"limit": 0}), "limit"),
        ("agent_heartbeat", json!({"agent_id": "bobby", "status": ""}), "status"),
        ("send_message", json!({"from": "bobby", "to": "jerry"}), "body"),
        ("send_message", json!({"from": "bobby", "to": "jerry", "body": null}), "empty"),
        ("send_message", json!({"from": "bobby", "to": "jerry", "body": "x".repeat(BODY_BYTES_MAX)}), "bytes"),
        ("send_message", json!({"from": "bobby", "to": "jerry", "body": "x", "kind": "reply"}), "in_reply_to"),
        ("send_message", json!({"from": "bobby", "to": "jerry", "body": "x", "kind": "order"}), "order"),
        ("send_message", json!({"from": "bobby", "to": "jerry", "body": "x", "ttl_ms": 1}), "ttl_ms"),
        ("send_message", json!({"from": "bobby", "to": "no agent", "body": "x"}), "agent id"),
        ("check_inbox", json!({"agent_id": "bobby", "limit": 51}), "limit"),
        ("ack_message", json!({"agent_id": "bobby", "message_id": "m", "outcome": "failed"}), "reason"),
        ("ack_message", json!({"agent_id": "bobby", "message_id": "m", "reason": "r"}), "failed"),
        ("set_memory", json!({"agent_id": "bobby", "key": "../x", "value": 1}), "memory key"),
        ("set_memory", json!({"agent_id": "bobby", "key": "recent-events", "value": 1, "space": "shared"}), "push_event"),
        ("set_memory", json!({"agent_id": "bobby", "key": "k"}), "value"),
        ("set_memory", json!({"agent_id": "bobby", "key": "k", "value": 1, "ttl_seconds": 0}), "kept for"),
        ("set_memory", json!({"agent_id": "bobby", "key": "k", "value": 1, "if_version": "1", "if_absent": true}), "exclude"),
        ("set_memory", json!({"agent_id": "bobby", "key": "k", "value": "x".repeat(70_000)}), "bytes"),
        ("get_memory", json!({"key": "k"}), "agent_id"),
        ("push_event", json!({"agent_id": "bobby", "event": ""}), "event"),
        ("push_task", json!({"agent_id": "bobby", "task": " "}), "empty"),
        ("push_task", json!({"agent_id": "bobby", "task": "t", "request_id": "a/b"}), "request_id"),
        ("pop_task", json!({"agent_id": "bobby", "request_id": ""}), "request_id"),
    ] {
        let err = f.bad(&f.laptop, tool, args.clone()).await;
        assert!(err.code == "INVALID_REQUEST" && err.message.contains(part), "{tool} {args}: {err:?}");
    }
    for (tool, args) in [
        ("agent_heartbeat", json!({"agent_id": "ghost"})),
        ("send_message", json!({"from": "bobby", "to": "ghost", "body": "x"})),
        ("ack_message", json!({"agent_id": "bobby", "message_id": "ghost"})),
    ] {
        assert_eq!(f.bad(&f.laptop, tool, args).await.code, "NOT_FOUND", "{tool}");
    }
    assert_eq!(f.hub.call(&f.laptop, "no_such_tool", Map::new()).await, None);
}

#[tokio::test(start_paused = true)]
async fn memory_events_and_tasks_are_shared() {
    let f = farm().await;
    f.good(&f.laptop, "agent_register", json!({"agent_id": "bobby"})).await;
    let set = f.good(&f.laptop, "set_memory", json!({"agent_id": "bobby", "key": "k", "value": {"n": 1}, "ttl_seconds": 60})).await;
    let got = f.good(&f.laptop, "get_memory", json!({"agent_id": "bobby", "key": "k"})).await;
    assert_eq!((&got["found"], &got["value"], &got["version"]), (&json!(true), &json!({"n": 1}), &set["version"]));
    assert!(got.get("expires_at").is_some());
    f.good(&f.laptop, "set_memory", json!({"agent_id": "bobby", "key": "k", "value": 2, "if_version": set["version"]})).await;
    let late = f.bad(&f.laptop, "set_memory", json!({"agent_id": "bobby", "key": "k", "value": 3, "if_version": set["version"]})).await;
    assert!(late.code == "CONFLICT" && late.hint.is_some(), "{late:?}");
    assert_eq!(f.bad(&f.laptop, "set_memory", json!({"agent_id": "bobby", "key": "k", "value": 3, "if_absent": true})).await.code, "CONFLICT");
    f.good(&f.laptop, "set_memory", json!({"agent_id": "bobby", "key": "all", "value": [1], "space": "shared"})).await;
    assert_eq!(f.good(&f.laptop, "get_memory", json!({"space": "shared"})).await["keys"], json!(["all"]));
    assert_eq!(f.good(&f.laptop, "set_memory", json!({"agent_id": "bobby", "key": "k", "value": null})).await["removed"], json!(true));
    assert_eq!(f.good(&f.laptop, "get_memory", json!({"agent_id": "bobby", "key": "k"})).await["found"], json!(false));

    f.good(&f.laptop, "set_memory", json!({"agent_id": "bobby", "key": "current-focus", "value": "x", "space": "state"})).await;
    assert_eq!(f.good(&f.laptop, "get_memory", json!({"key": "current-focus", "space": "state"})).await["value"], json!("x"));
    f.good(&f.laptop, "agent_heartbeat", json!({"agent_id": "bobby", "alert": "2 failed allocations"})).await;
    let alert = f.good(&f.laptop, "agent_discover", json!({})).await["agents"][0]["last_alert"].clone();
    assert!(alert.as_str().is_some_and(|text| text.ends_with("Z: 2 failed allocations")), "{alert}");

    for _ in 0..2 {
        f.good(&f.laptop, "push_event", json!({"agent_id": "bobby", "event": "nomad-alert-cleared", "request_id": "e1"})).await;
    }
    let events = f.good(&f.laptop, "get_memory", json!({"space": "shared", "key": "recent-events"})).await;
    assert_eq!(events["value"].as_array().unwrap().len(), 1);
    assert_eq!((&events["value"][0]["agent"], &events["value"][0]["event"]), (&json!("bobby"), &json!("nomad-alert-cleared")));

    for _ in 0..2 {
        assert_eq!(f.good(&f.laptop, "push_task", json!({"agent_id": "bobby", "task": "backup-consul", "request_id": "t1"})).await["waiting"], json!(1));
    }
    f.good(&f.laptop, "push_task", json!({"agent_id": "bobby", "task": {"job": 2}})).await;
    assert_eq!(f.good(&f.laptop, "get_memory", json!({"space": "shared", "key": "task-queue"})).await["value"].as_array().unwrap().len(), 2);
    for _ in 0..2 {
        let popped = f.good(&f.laptop, "pop_task", json!({"agent_id": "bobby", "request_id": "p1"})).await;
        assert_eq!((&popped["task"]["task"], &popped["remaining"]), (&json!("backup-consul"), &json!(1)));
    }
    assert_eq!(f.good(&f.laptop, "pop_task", json!({"agent_id": "bobby"})).await["task"]["task"], json!({"job": 2}));
    assert_eq!(f.good(&f.laptop, "pop_task", json!({"agent_id": "bobby"})).await, json!({"found": false, "remaining": 0}));
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_seen_by_theirs_and_replayed_by_operators() {
    let f = farm().await;
    for id in ["bobby", "betty"] {
        f.good(&f.laptop, "agent_register", json!({"agent_id": id})).await;
    }
    let sent = f.good(&f.laptop, "send_message", json!({"from": "bobby", "to": "betty", "body": "x"})).await;
    f.good(&f.laptop, "ack_message", json!({"agent_id": "betty", "message_id": sent["message_id"], "outcome": "failed", "reason": "no idea"})).await;
    for (caller, count) in [(&f.laptop, 1), (&f.phone, 1), (&Caller::Local, 1)] {
        assert_eq!(f.good(caller, "dlq_list", json!({})).await["letters"].as_array().unwrap().len(), count);
    }
    let other = Caller::Peer(Arc::new(Peer { name: "other".into(), scopes: Scope::usual() }));
    assert_eq!(f.good(&other, "dlq_list", json!({})).await["letters"], json!([]));
    let replayed = f.good(&f.phone, "dlq_replay", json!({"message_id": sent["message_id"]})).await;
    assert_ne!(replayed["message_id"], sent["message_id"]);
    for _ in 1..REPLAYS_PER_MINUTE {
        assert_eq!(f.bad(&f.phone, "dlq_replay", json!({"message_id": "ghost"})).await.code, "NOT_FOUND");
    }
    let busy = f.bad(&f.phone, "dlq_replay", json!({"message_id": "ghost"})).await;
    assert!(busy.code == "BUSY" && busy.retry_after_ms == Some(60_000), "{busy:?}");
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(f.bad(&f.phone, "dlq_replay", json!({"message_id": "ghost"})).await.code, "NOT_FOUND");
}

/// A store that never answers.
struct Stuck;

#[async_trait::async_trait]
impl SharedMemory for Stuck {
    fn engine(&self) -> &'static str {
        "stuck"
    }
    async fn set(&self, _: &MemoryKey, _: &Value, _: Option<Duration>, _: &Expect) -> Result<Stamp, MemoryError> {
        panic!("on purpose")
    }
    async fn get(&self, _: &MemoryKey) -> Result<Option<Remembered>, MemoryError> {
        std::future::pending().await
    }
    async fn remove(&self, _: &MemoryKey, _: &Expect) -> Result<Removed, MemoryError> {
        Err(MemoryError::Unavailable("stuck".into()))
    }
    async fn keys(&self, _: &Space) -> Result<Vec<String>, MemoryError> {
        std::future::pending().await
    }
    async fn push_event(&self, _: &Event) -> Result<(), MemoryError> {
        Err(MemoryError::Unknown { what: "the event".into(), why: "stuck".into() })
    }
    async fn recent_events(&self, _: usize) -> Result<Vec<Event>, MemoryError> {
        std::future::pending().await
    }
    async fn push_task(&self, _: &Task) -> Result<u64, MemoryError> {
        Err(MemoryError::Full { what: "the task queue".into(), max: 1 })
    }
    async fn pop_task(&self, _: &str, _: &str) -> Result<Option<Popped>, MemoryError> {
        std::future::pending().await
    }
    async fn waiting_tasks(&self, _: usize) -> Result<Vec<Task>, MemoryError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_holds_nobody_for_ever() {
    let mut f = farm().await;
    f.hub.memory = Arc::new(Stuck);
    f.good(&f.laptop, "agent_register", json!({"agent_id": "bobby"})).await;
    let late = f.bad(&f.laptop, "get_memory", json!({"agent_id": "bobby", "key": "k"})).await;
    assert!(late.code == "TIMEOUT" && late.hint.is_some(), "{late:?}");
    for (tool, args, code) in [
        ("set_memory", json!({"agent_id": "bobby", "key": "k", "value": 1}), "INTERNAL"),
        ("set_memory", json!({"agent_id": "bobby", "key": "k", "value": null}), "UNAVAILABLE"),
        ("push_event", json!({"agent_id": "bobby", "event": "e"}), "TIMEOUT"),
        ("push_task", json!({"agent_id": "bobby", "task": "t"}), "BUSY"),
    ] {
        assert_eq!(f.bad(&f.laptop, tool, args.clone()).await.code, code, "{tool} {args}");
    }
    // One place is taken by the call above that still waits, none by the one that broke off.
    for free in (0..CALLS_MAX - 1).rev() {
        let (hub, caller) = (f.hub.clone(), f.laptop.clone());
        let Value::Object(args) = json!({"agent_id": "bobby", "key": "k"}) else { panic!("no object") };
        tokio::spawn(async move { hub.call(&caller, "get_memory", args).await });
        while f.hub.slots.available_permits() > free {
            tokio::task::yield_now().await;
        }
    }
    let busy = f.bad(&f.laptop, "agent_discover", json!({})).await;
    assert!(busy.code == "BUSY" && busy.retry_after_ms.is_some(), "{busy:?}");
}

struct Web(axum::Router);

impl Web {
    async fn new() -> Self {
        let f = farm().await;
        let mut peers = PeerList::default();
        let Caller::Peer(laptop) = f.laptop else { panic!("no peer") };
        peers.add(laptop, TOKEN).unwrap();
        Self(axum::Router::new().nest("/mcp", f.hub.router(Arc::new(peers), HttpSettings::default())))
    }

    async fn ask(&self, headers: &[(&str, &str)], method: &str, body: impl Into<Body>) -> (u16, ::http::HeaderMap, Value) {
        let mut request = ::http::Request::builder().method(method).uri("/mcp").header("host", "jerry.example:18789");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.0.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, headers, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
}

const AUTH: (&str, &str) = ("authorization", "Bearer token-of-the-laptop-0123456789abcdef");
const JSON: (&str, &str) = ("content-type", "application/json");
const ACCEPT: (&str, &str) = ("accept", "application/json, text/event-stream");

#[tokio::test]
async fn http_wants_a_token() {
    let web = Web::new().await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
    let basic = ("authorization", "Basic dXNlcjpwYXNz");
    let wrong = ("authorization", "Bearer some-other-token-0123456789abcdef");
    for headers in [
        vec![JSON, ACCEPT],
        vec![JSON, ACCEPT, basic],
        vec![JSON, ACCEPT, wrong],
        vec![JSON, ACCEPT, ("authorization", "Bearer ")],
        vec![JSON, ACCEPT, AUTH, AUTH],
    ] {
        let (status, answered, body) = web.ask(&headers, "POST", list.clone()).await;
        assert_eq!((status, &body["error"]["data"]["code"]), (401, &json!("UNAUTHORIZED")), "{headers:?}");
        assert!(answered["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
        assert!(!body.to_string().contains("other-token"));
    }
    let (status, _, body) = web.ask(&[JSON, ACCEPT, AUTH, ("mcp-protocol-version", "2025-11-25")], "POST", list).await;
    assert_eq!((status, body["result"]["tools"].as_array().unwrap().len()), (200, 13), "{body}");
}

#[tokio::test]
async fn http_speaks_both_lifecycles_without_sessions() {
    let web = Web::new().await;
    let client = json!({"name": "t", "version": "1"});
    let init =
        json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}});
    let (status, headers, body) = web.ask(&[JSON, ACCEPT, AUTH], "POST", init.to_string()).await;
    assert_eq!((status, &body["result"]["protocolVersion"]), (200, &json!("2025-11-25")), "{body}");
    assert!(headers.get("mcp-session-id").is_none());
    let call = json!({"name": "agent_register", "arguments": {"agent_id": "bobby"}});
    let old = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call});
    let (_, _, body) = web.ask(&[JSON, ACCEPT, AUTH, ("mcp-protocol-version", "2025-11-25")], "POST", old.to_string()).await;
    assert_eq!(body["result"]["structuredContent"]["created"], json!(true), "{body}");
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": client,
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let new =
        json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "agent_register", "arguments": {"agent_id": "bobby"}, "_meta": meta}});
    let headers = [JSON, ACCEPT, AUTH, ("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "agent_register")];
    let (status, _, body) = web.ask(&headers, "POST", new.to_string()).await;
    assert_eq!((status, &body["result"]["structuredContent"]["created"]), (200, &json!(false)), "{body}");
    let discover = json!({"jsonrpc": "2.0", "id": 4, "method": "server/discover", "params": {"_meta": meta}});
    let (_, _, body) =
        web.ask(&[JSON, ACCEPT, AUTH, ("mcp-protocol-version", "2026-07-28"), ("mcp-method", "server/discover")], "POST", discover.to_string()).await;
    let versions: Vec<&str> = body["result"]["supportedVersions"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(versions.contains(&"2025-11-25") && versions.contains(&"2026-07-28"), "{body}");
    let unknown = json!({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": "rm_rf", "arguments": {}}});
    let (_, _, body) = web.ask(&[JSON, ACCEPT, AUTH, ("mcp-protocol-version", "2025-11-25")], "POST", unknown.to_string()).await;
    assert!(body["error"]["message"].as_str().unwrap().contains("rm_rf"), "{body}");
}

#[tokio::test]
async fn http_refuses_what_is_no_call() {
    let web = Web::new().await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
    let version = ("mcp-protocol-version", "2025-11-25");
    let big = format!("{}{}", list, " ".repeat(http::REQUEST_BYTES_MAX));
    let cases: [(&str, Vec<(&str, &str)>, String, u16); 7] = [
        ("GET", vec![AUTH, ACCEPT], String::new(), 405),
        ("DELETE", vec![AUTH], String::new(), 405),
        ("POST", vec![AUTH, JSON, ACCEPT, version, ("origin", "https://evil.example")], list.clone(), 403),
        ("POST", vec![AUTH, JSON, ACCEPT, ("mcp-protocol-version", "1999-01-01")], list.clone(), 400),
        ("POST", vec![AUTH, ACCEPT, ("content-type", "text/plain"), version], list.clone(), 415),
        ("POST", vec![AUTH, JSON, ("accept", "text/html"), version], list.clone(), 406),
        ("POST", vec![AUTH, JSON, ACCEPT, version], big, 413),
    ];
    for (method, headers, body, want) in cases {
        let (status, _, answer) = web.ask(&headers, method, body).await;
        assert_eq!(status, want, "{method} {headers:?}: {answer}");
    }
    let (status, _, _) = web.ask(&[AUTH, JSON, ACCEPT, version], "POST", "{").await;
    assert!((400..500).contains(&status), "{status}");
}

#[tokio::test]
async fn a_stream_is_served_as_the_local_user() {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    let f = farm().await;
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (input, output) = tokio::io::split(theirs);
    let hub = f.hub.clone();
    let served = tokio::spawn(async move { hub.serve(Caller::Local, input, output, CancellationToken::new()).await });
    let (read, mut write) = tokio::io::split(ours);
    let mut lines = BufReader::new(read).lines();
    let init = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
    write.write_all(format!("{init}\n").as_bytes()).await.unwrap();
    let hello: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!(hello["result"]["serverInfo"]["name"], json!("openclaw-hub"));
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "check_inbox", "arguments": {"agent_id": "jerry"}}});
    write.write_all(format!("{ready}\n{call}\n").as_bytes()).await.unwrap();
    let answer: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!((&answer["result"]["isError"], &answer["result"]["structuredContent"]["error"]["code"]), (&json!(true), &json!("FORBIDDEN")));
    assert!(answer["result"]["content"][0]["text"].as_str().unwrap().starts_with("FORBIDDEN: "));
    write.shutdown().await.unwrap();
    assert_eq!(served.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn the_vault_is_offered_where_there_is_one_and_notes_have_one_writer() {
    let mut farm = farm().await;
    assert!(farm.hub.call(&farm.laptop, "vault_list", Map::new()).await.is_none(), "no vault, no tools");
    assert!(!farm.hub.tools().any(|tool| tool.name.starts_with("vault_")));
    let folder = tempfile::tempdir().unwrap();
    let vault = crate::vault::Vault::open(folder.path(), crate::vault::Commits::Off, World::simulated(5)).await.unwrap();
    farm.hub = farm.hub.clone().with_vault(vault);
    assert_eq!(farm.hub.tools().filter(|tool| tool.name.starts_with("vault_")).count(), 4);
    farm.good(&farm.laptop, "agent_register", json!({"agent_id": "mac"})).await;
    let written = farm.good(&farm.laptop, "vault_write", json!({"agent_id": "mac", "path": "PLAN.md", "text": "# Plan"})).await;
    assert_eq!((written["path"].as_str(), written["commit"].as_str()), (Some("agents/mac/PLAN.md"), Some("off")));
    // Somebody edits the file; what the agent writes without looking keeps that beside.
    std::fs::write(folder.path().join("agents/mac/PLAN.md"), "# Plan of a person").unwrap();
    let again = farm.good(&farm.laptop, "vault_write", json!({"agent_id": "mac", "path": "PLAN.md", "text": "# Other", "revision": written["revision"]})).await;
    let beside = again["kept_beside"].as_str().unwrap();
    assert!(farm.good(&farm.laptop, "vault_read", json!({"path": beside})).await["text"].as_str().unwrap().contains("of a person"));
    farm.good(&farm.laptop, "vault_append", json!({"agent_id": "mac", "path": "shared/DECISIONS.md", "entry": "We do it."})).await;
    for (args, code) in [
        (json!({"agent_id": "mac", "path": "agents/jerry/PLAN.md", "text": "x"}), "FORBIDDEN"),
        (json!({"agent_id": "mac", "path": "shared/DECISIONS.md", "text": "x"}), "FORBIDDEN"),
        (json!({"agent_id": "mac", "path": "../x.md", "text": "x"}), "INVALID_REQUEST"),
        (json!({"agent_id": "mac", "path": "PLAN.md", "text": "x", "no": 1}), "INVALID_REQUEST"),
    ] {
        assert_eq!(farm.bad(&farm.laptop, "vault_write", args.clone()).await.code, code, "{args}");
    }
    assert_eq!(farm.bad(&farm.phone, "vault_read", json!({"path": "shared/DECISIONS.md"})).await.code, "FORBIDDEN", "a scope is needed");
    let listed = farm.good(&farm.laptop, "vault_list", json!({"words": "we do"})).await;
    assert_eq!(listed["notes"][0]["path"], "shared/DECISIONS.md");
}
