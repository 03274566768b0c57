//! Fault rows over real engines with whole gateways: messages that are lost, doubled, late or overtaken, connections that
//! are cut, slow or silent, bursts and overload. After each, the invariants of `clawstead_harness::invariants`.
//!
//! What is done to messages is done by a proxy that reads the frames of NATS: a TCP stream with a hole is a broken stream
//! and not a lost message. On Redis and Consul the same losses come from connections that are cut in the middle.
//!
//! `cargo xtask soak farm --row M1 --runs 30` runs one row again and again, each time from another seed and for longer.
//! A run that breaks something keeps what it found in `target/farm-faults` and prints the command that repeats it.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[allow(dead_code, reason = "shared with the other suite of farms")]
#[path = "farm_engines/kit.rs"]
mod kit;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use clawstead_harness::{
    client::{Client, message_text},
    fault_proxy::{Delay, Direction, Door, FaultProxy, Faults},
    invariants::{Evidence, Taken, violations},
    mock::marks_of,
    nats_proxy::{MessageFaults, NatsProxy},
    until,
};
use clawstead_state::{Scan, SqliteStore, Store as _, Table};
use kit::{Consul, Farm, Node, Plan, Server, engine};
use serde_json::{Value, json};

/// In every message, and nowhere else.
const CANARY: &str = "canary-5d1f";
/// How long everything may take to come to rest after the fault.
const REST: Duration = Duration::from_secs(90);
/// Sessions of the target that are written to.
const LANES: usize = 6;

/// How long and from which seed.
struct Run {
    row: &'static str,
    seed: u64,
    /// Longer faults and more messages: 1 in the suite.
    scale: u32,
}

impl Run {
    fn of(row: &'static str) -> Self {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let scale = number("CLAWSTEAD_FAULT_SCALE").unwrap_or(1);
        Self { row, seed: number("CLAWSTEAD_FAULT_SEED").unwrap_or(1), scale: u32::try_from(scale).unwrap_or(1).max(1) }
    }

    fn messages(&self, short: u32) -> u32 {
        short * self.scale
    }

    fn lasts(&self, short: Duration) -> Duration {
        short * self.scale
    }

    /// Fails with everything that was found, kept.
    fn judge(&self, evidence: &Evidence, more: &[String]) {
        let mut broken = violations(evidence);
        broken.extend_from_slice(more);
        if broken.is_empty() {
            return;
        }
        let folder = std::env::var_os("CARGO_TARGET_TMPDIR").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from).join("farm-faults");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(format!("{}-{}.json", self.row, self.seed));
        let history = json!({
            "row": self.row, "seed": self.seed, "scale": self.scale, "broken": broken, "sent": evidence.sent, "received": evidence.received,
            "dead": evidence.dead, "handled": evidence.handled,
            "taken": evidence.taken.iter().map(|one| json!([one.mark, one.session, one.run])).collect::<Vec<_>>(),
            "texts": evidence.texts.iter().map(|(name, text)| json!([name, text])).collect::<Vec<_>>(),
        });
        std::fs::write(&file, serde_json::to_vec_pretty(&history).unwrap()).unwrap();
        let again = format!("cargo xtask soak farm --row {} --seed {} --scale {}", self.row, self.seed, self.scale);
        panic!("row {}: {} violations\n{}\nhistory: {}\nagain: {again}", self.row, broken.len(), broken.join("\n"), file.display());
    }
}

/// A farm of two gateways whose bus is behind a proxy.
struct Stage {
    farm: Farm,
    taken: Arc<Mutex<Vec<Taken>>>,
    _servers: Vec<Server>,
    _consul: Consul,
}

/// The proxy in front of the bus.
enum Proxy {
    Messages(NatsProxy),
    Bytes(FaultProxy),
}

impl Proxy {
    fn addr(&self) -> SocketAddr {
        match self {
            Self::Messages(proxy) => proxy.addr(),
            Self::Bytes(proxy) => proxy.addr(),
        }
    }

    fn messages(&self) -> &NatsProxy {
        match self {
            Self::Messages(proxy) => proxy,
            Self::Bytes(_) => panic!("this row is about messages"),
        }
    }

    fn bytes(&self) -> &FaultProxy {
        match self {
            Self::Bytes(proxy) => proxy,
            Self::Messages(_) => panic!("this row is about connections"),
        }
    }
}

async fn nats(suite: &str) -> Option<Server> {
    let program = engine("CLAWSTEAD_NATS_SERVER", suite)?;
    let args = |port: u16, folder: &std::path::Path| {
        ["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd", &folder.display().to_string()].map(str::to_owned).to_vec()
    };
    Some(Server::start(&program, "127.0.0.1", args).await)
}

async fn redis(suite: &str) -> Option<Server> {
    let program = engine("CLAWSTEAD_REDIS_SERVER", suite)?;
    let args = |port: u16, folder: &std::path::Path| {
        let (port, folder) = (port.to_string(), folder.display().to_string());
        ["--port", &port, "--dir", &folder, "--appendonly", "yes", "--bind", "127.0.0.1"].map(str::to_owned).to_vec()
    };
    Some(Server::start(&program, "127.0.0.1", args).await)
}

fn address(server: &Server) -> SocketAddr {
    format!("{}:{}", server.host, server.port).parse().unwrap()
}

impl Stage {
    /// Over NATS with a proxy for messages.
    async fn over_messages(run: &Run, suite: &str) -> Option<(Self, Proxy)> {
        let server = nats(suite).await?;
        let proxy = Proxy::Messages(NatsProxy::start(address(&server), "openclaw.", run.seed).await.unwrap());
        let bus = json!({"kind": "nats", "addr": [format!("nats://{}", proxy.addr())]});
        Self::make(suite, bus, vec![server]).await.map(|stage| (stage, proxy))
    }

    /// Over an engine with a proxy for connections.
    async fn over_bytes(run: &Run, suite: &str, kind: &str) -> Option<(Self, Proxy)> {
        let consul = Consul::start(suite, 1, json!({})).await?;
        let server = match kind {
            "nats" => Some(nats(suite).await?),
            "redis" => Some(redis(suite).await?),
            _ => None,
        };
        let behind = server.as_ref().map_or_else(|| address(&consul.servers[0]), address);
        let proxy = FaultProxy::start(behind, run.seed).unwrap();
        let scheme = if kind == "consul" { "http" } else { kind };
        let bus = json!({"kind": kind, "addr": [format!("{scheme}://{}", proxy.addr())]});
        let stage = Self::with(consul, bus, server.into_iter().collect()).await;
        Some((stage, Proxy::Bytes(proxy)))
    }

    async fn make(suite: &str, bus: Value, servers: Vec<Server>) -> Option<Self> {
        let consul = Consul::start(suite, 1, json!({})).await?;
        Some(Self::with(consul, bus, servers).await)
    }

    async fn with(consul: Consul, bus: Value, servers: Vec<Server>) -> Self {
        let mut plan = Plan::over(json!({"kind": "consul", "addr": consul.urls()}), bus);
        plan.config = json!({"gateway": {"tools": {"allow": ["sessions_send"]}}});
        let mut farm = Farm::make(&plan).await;
        for node in [&mut farm.jerry, &mut farm.bobby] {
            node.kill().await;
            lift_limits(node);
            node.start().await;
        }
        farm.together().await;
        Self { farm, taken: Arc::default(), _servers: servers, _consul: consul }
    }

    /// Writes message `n` from jerry to bobby and notes when it was taken. The key makes repeats harmless.
    async fn send(&self, n: u32) -> Result<(), String> {
        let (mark, session) = (format!("msg-{n:06}"), format!("agent:bobby:lane-{}", n as usize % LANES));
        let call = json!({
            "tool": "sessions_send", "sessionKey": "agent:jerry:main", "idempotencyKey": format!("fault-{n}"),
            "args": {"sessionKey": session, "message": format!("{mark} {CANARY}"), "timeoutSeconds": 0},
        });
        let answer = self.farm.jerry.http("POST", "/tools/invoke", &call).await.json();
        let said = answer.pointer("/result/details").or_else(|| answer.get("result")).cloned().unwrap_or_default();
        if said["status"] != "accepted" {
            return Err(answer.to_string());
        }
        let run = said["runId"].as_str().unwrap_or_default().to_owned();
        self.taken.lock().unwrap().push(Taken { mark, session, run });
        Ok(())
    }

    /// One message after another, `pause` apart.
    async fn load(&self, count: u32, pause: Duration) {
        for n in 0..count {
            let sent = self.send(n).await;
            assert!(sent.is_ok(), "{n}: {sent:?}\n{}", self.farm.jerry.log());
            tokio::time::sleep(pause).await;
        }
    }

    /// Until no letter of jerry's is on its way.
    async fn rest(&self) {
        let mut client = self.farm.jerry.client().await;
        let mut last = Value::Null;
        let rested = until(REST, async || {
            last = client.call("farm.status", json!({})).await.ok()?["letters"].clone();
            ["queued", "inFlight", "delivered"].iter().all(|name| last[*name] == 0).then_some(())
        });
        if rested.await.is_none() {
            eprintln!("letters have not come to rest: {last}");
        }
    }

    /// Marks that bobby's sessions have as questions, in their order.
    async fn handled(&self) -> BTreeMap<String, Vec<String>> {
        let mut client: Client = self.farm.bobby.client().await;
        let mut out = BTreeMap::new();
        for lane in 0..LANES {
            let session = format!("agent:bobby:lane-{lane}");
            let Ok(history) = client.call("chat.history", json!({"sessionKey": session, "limit": 1000})).await else { continue };
            let asked = history["messages"].as_array().into_iter().flatten().filter(|message| message["role"] == "user").filter_map(message_text);
            out.insert(session, asked.flat_map(|text| marks_of(&text).collect::<Vec<_>>()).collect());
        }
        out
    }

    /// Ends both gateways and reads what they stored.
    async fn evidence(mut self) -> Evidence {
        let mut evidence = Evidence { handled: self.handled().await, canary: CANARY.into(), ..Evidence::default() };
        let mirror = self._consul.ask(0, "GET", "/v1/kv/openclaw/?recurse&raw", "", &Value::Null).await.map(|(_, text)| text.to_string()).unwrap_or_default();
        for node in [&mut self.farm.jerry, &mut self.farm.bobby] {
            if let Some(gateway) = node.gateway.take() {
                gateway.stop(Duration::from_secs(20)).await.unwrap();
            }
        }
        evidence.texts = vec![("jerry's log".into(), self.farm.jerry.log()), ("bobby's log".into(), self.farm.bobby.log()), ("Consul".into(), mirror)];
        evidence.taken.clone_from(&self.taken.lock().unwrap());
        (evidence.sent, evidence.dead) = (rows(&self.farm.jerry, Table::Outbox, "farm/out/").await, rows(&self.farm.jerry, Table::DeadLetters, "").await);
        evidence.received = rows(&self.farm.bobby, Table::Inbox, "farm/in/").await;
        evidence
    }
}

/// The starter policy allows 120 letters a minute; these rows are about more than that.
fn lift_limits(node: &Node) {
    let file = node.home.path().join(".openclaw/openclaw.json");
    let mut config: Value = json5::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    for rule in config["farm"]["policy"].as_array_mut().into_iter().flatten() {
        rule["limits"] = json!({"per_minute": 1_000_000});
    }
    std::fs::write(&file, serde_json::to_vec_pretty(&config).unwrap()).unwrap();
}

/// All rows of a table of the gateway's agents.
async fn rows(node: &Node, table: Table, prefix: &str) -> Vec<Value> {
    let store = SqliteStore::open(node.home.path().join(".openclaw/clawstead.sqlite"), clawstead_state::sqlite::Options::default()).unwrap();
    let mut out = Vec::new();
    for unit in store.units().await.unwrap() {
        let mut scan = Scan::prefix(prefix).limit(1000);
        loop {
            let page = store.scan(&unit, table, &scan).await.unwrap();
            let Some(last) = page.last().map(|row| row.key.clone()) else { break };
            out.extend(page.iter().map(|row| serde_json::from_str::<Value>(&row.value).unwrap()));
            scan = Scan::prefix(prefix).limit(1000).after(last);
        }
    }
    store.close().await;
    out
}

/// Letters under these faults, which end before the last of them has to arrive.
async fn messages(row: &'static str, faults: &[MessageFaults]) {
    let run = Run::of(row);
    let Some((stage, proxy)) = Stage::over_messages(&run, &format!("farm faults {row}")).await else { return };
    for faults in faults {
        proxy.messages().set(Direction::ToServer, *faults);
        proxy.messages().set(Direction::ToClient, *faults);
        let from = stage.taken.lock().unwrap().len() as u32;
        for n in from..from + run.messages(20) {
            let sent = stage.send(n).await;
            assert!(sent.is_ok(), "{n}: {sent:?}\n{}", stage.farm.jerry.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(run.lasts(Duration::from_secs(4))).await;
    }
    proxy.messages().heal();
    stage.rest().await;
    let done = proxy.messages().done();
    eprintln!("{row}: {done:?}");
    let hit = done.dropped + done.duplicated + done.delayed + done.reordered;
    assert!(hit > 0, "the proxy did nothing: {done:?}");
    run.judge(&stage.evidence().await, &[]);
}

#[tokio::test]
async fn m1_messages_are_lost() {
    let lost = |drop| MessageFaults { drop, ..MessageFaults::default() };
    messages("M1", &[lost(0.01), lost(0.1), lost(0.5)]).await;
}

#[tokio::test]
async fn m2_messages_come_twice() {
    let twice = |duplicate| MessageFaults { duplicate, ..MessageFaults::default() };
    messages("M2", &[twice(0.3), twice(1.0)]).await;
}

#[tokio::test]
async fn m3_messages_are_late() {
    let late = |mean, max| MessageFaults {
        delay: Delay::Exponential { mean: Duration::from_millis(mean), max: Duration::from_secs(max) },
        ..MessageFaults::default()
    };
    messages("M3", &[late(100, 1), late(1_500, 10)]).await;
}

#[tokio::test]
async fn m4_messages_overtake_each_other() {
    let overtaken = |window| MessageFaults { reorder: 0.5, window, ..MessageFaults::default() };
    messages("M4", &[overtaken(4), overtaken(100)]).await;
}

/// Connections to the engine that are cut again and again, slow, half-open and refused, while letters are written.
async fn connections(row: &'static str, kind: &str) {
    let run = Run::of(row);
    let Some((stage, proxy)) = Stage::over_bytes(&run, &format!("farm faults {row}"), kind).await else { return };
    let fault = async {
        let proxy = proxy.bytes();
        proxy.cut_every(Some(Duration::from_millis(700)));
        tokio::time::sleep(run.lasts(Duration::from_secs(3))).await;
        proxy.cut_every(None);
        let slow = Faults { delay: Delay::Exponential { mean: Duration::from_millis(80), max: Duration::from_secs(1) }, cut: 0.02, ..Faults::default() };
        proxy.set_both(slow);
        tokio::time::sleep(run.lasts(Duration::from_secs(3))).await;
        proxy.freeze().await;
        tokio::time::sleep(run.lasts(Duration::from_secs(4))).await;
        proxy.heal().await;
        proxy.door(Door::Refuse).await;
        proxy.cut();
        tokio::time::sleep(run.lasts(Duration::from_secs(1))).await;
        proxy.heal().await;
    };
    tokio::join!(stage.load(run.messages(80), Duration::from_millis(100)), fault);
    stage.rest().await;
    let counters = proxy.bytes().counters();
    eprintln!("{row}: {counters:?}");
    assert!(counters.cut > 0 && counters.dropped > 0, "the proxy did nothing: {counters:?}");
    run.judge(&stage.evidence().await, &[]);
}

#[tokio::test]
async fn connections_to_nats_are_cut_slow_and_silent() {
    connections("P-nats", "nats").await;
}

#[tokio::test]
async fn connections_to_redis_are_cut_slow_and_silent() {
    connections("P-redis", "redis").await;
}

#[tokio::test]
async fn connections_to_consul_are_cut_slow_and_silent() {
    connections("P-consul", "consul").await;
}

/// Row Q1: a thousand messages at once to an agent that is slow. Nothing grows without bound, and all of it is done.
#[tokio::test]
async fn q1_a_burst_to_a_slow_agent_drains() {
    overload("Q1", 1_000, 100).await;
}

/// Row Q2: ten times as much as can be done, for as long as it lasts.
#[tokio::test]
async fn q2_overload_ends_and_is_worked_off() {
    overload("Q2", 1_500, 50).await;
}

async fn overload(row: &'static str, short: u32, at_once: usize) {
    /// Memory that a gateway may grow by.
    const GROWTH_MAX: u64 = 64 << 20;
    let run = Run::of(row);
    let suite = format!("farm faults {row}");
    let Some(server) = nats(&suite).await else { return };
    let bus = json!({"kind": "nats", "addr": [format!("nats://{}", address(&server))]});
    let Some(stage) = Stage::make(&suite, bus, vec![server]).await else { return };
    let memory = |node: &Node| node.gateway.as_ref().map_or(0, |gateway| gateway.usage().rss);
    let before = (memory(&stage.farm.jerry), memory(&stage.farm.bobby));
    let (mut peak, began) = (before, Instant::now());
    let mut busy = 0;
    let count = run.messages(short);
    let mut next = 0;
    while next < count {
        // Several at once; within a session they are given in order, because each lane is one of them.
        let batch: Vec<u32> = (next..count.min(next + u32::try_from(at_once).unwrap())).collect();
        let sent = futures_util::future::join_all((0..LANES).map(|lane| {
            let (stage, batch) = (&stage, &batch);
            async move {
                let mut refused = 0;
                for n in batch.iter().filter(|n| **n as usize % LANES == lane) {
                    // `busy` is an answer: the writer comes again.
                    while stage.send(*n).await.is_err() {
                        refused += 1;
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                }
                refused
            }
        }));
        busy += sent.await.into_iter().sum::<u32>();
        next += u32::try_from(batch.len()).unwrap();
        peak = (peak.0.max(memory(&stage.farm.jerry)), peak.1.max(memory(&stage.farm.bobby)));
    }
    let written = began.elapsed();
    stage.rest().await;
    peak = (peak.0.max(memory(&stage.farm.jerry)), peak.1.max(memory(&stage.farm.bobby)));
    let grown = (peak.0.saturating_sub(before.0), peak.1.saturating_sub(before.1));
    eprintln!(
        "{row}: {count} letters written in {written:?}, done after {:?}; told busy {busy} times; memory grew by {} and {} MiB",
        began.elapsed(),
        grown.0 >> 20,
        grown.1 >> 20
    );
    let mut more = Vec::new();
    if grown.0.max(grown.1) > GROWTH_MAX {
        more.push(format!("memory grew by {} and {} bytes", grown.0, grown.1));
    }
    run.judge(&stage.evidence().await, &more);
}
