//! Mail over a real NATS: the promises, and what happens when servers die, a cluster elects, streams are lost, boxes
//! fill up, or the line is cut.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod kit;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use clawstead_bus::{
    Bus, BusError, Coord, Published,
    conformance::{self, Rig},
    nats::{NatsBus, NatsConfig},
};
use clawstead_harness::fault_proxy::FaultProxy;
use clawstead_world::SystemClock;
use futures_util::StreamExt as _;
use kit::{AWAY_WITHIN, BURST, SOON, Server, burst, eventually, insist, letter, unit};
use tokio::time::{Instant, sleep, timeout};

fn program(suite: &str) -> Option<PathBuf> {
    kit::engine(suite, "nats", "CLAWSTEAD_NATS_SERVER")
}

fn server(program: &Path) -> Server {
    Server::new(program, |port, folder| words(&format!("-a 127.0.0.1 -p {port} -js -sd {folder}/js")))
}

/// Three servers that know each other.
fn cluster(program: &Path) -> Vec<Server> {
    let servers: Vec<Server> =
        (0..3).map(|n| Server::new(program, |port, folder| words(&format!("-a 127.0.0.1 -p {port} -js -sd {folder}/js -n n{n}")))).collect();
    let links: Vec<u16> = servers.iter().map(|_| clawstead_harness::free_port().unwrap()).collect();
    let routes = links.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    for (server, port) in servers.iter().zip(&links) {
        server.add_arguments(&words(&format!("--cluster_name farm --cluster nats://127.0.0.1:{port} --routes {routes}")));
    }
    servers
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn urls(servers: &[Server]) -> Vec<String> {
    servers.iter().map(|server| format!("nats://{}", server.addr())).collect()
}

fn config(urls: Vec<String>) -> NatsConfig {
    NatsConfig { ack_wait: Duration::from_secs(3), again_after: Duration::from_millis(200), ..NatsConfig::new("test", urls) }
}

fn bus_of(config: NatsConfig) -> Arc<dyn Bus> {
    Arc::new(NatsBus::new(config, Arc::new(SystemClock)).unwrap())
}

fn bus(at: impl std::fmt::Display) -> Arc<dyn Bus> {
    bus_of(config(vec![format!("nats://{at}")]))
}

/// Waits until the engine takes letters; leaves nothing behind.
async fn serves(bus: &dyn Bus) {
    let to = unit("probe");
    insist(bus, &to, "probe", b"probe").await;
    let mut mail = bus.subscribe(&to, "probe.1");
    eventually("a letter passes", async || match timeout(SOON, mail.next()).await {
        Ok(Some(Ok(delivery))) => delivery.settle.done().await.is_ok(),
        _ => false,
    })
    .await;
}

/// The name of the server that leads the farm's stream.
async fn leader(url: &str) -> Option<String> {
    let client = timeout(SOON, async_nats::connect(url)).await.ok()?.ok()?;
    let answer = timeout(SOON, client.request("$JS.API.STREAM.INFO.OPENCLAW_test", "".into())).await.ok()?.ok()?;
    let info: serde_json::Value = serde_json::from_slice(&answer.payload).ok()?;
    Some(info.pointer("/cluster/leader")?.as_str()?.to_owned())
}

struct One(Server);

#[async_trait]
impl Rig for One {
    async fn coord(&self) -> Result<Arc<dyn Coord>, String> {
        Err("mail only".into())
    }

    async fn bus(&self) -> Result<Arc<dyn Bus>, String> {
        Ok(bus(self.0.addr()))
    }

    async fn stop(&self) -> Result<(), String> {
        self.0.kill();
        Ok(())
    }

    async fn start(&self) -> Result<(), String> {
        self.0.start();
        Ok(())
    }

    fn again_within(&self) -> Duration {
        Duration::from_secs(5)
    }
}

#[tokio::test]
async fn the_promises_of_mail() {
    let Some(program) = program("nats conformance") else { return };
    let rig = One(server(&program));
    rig.0.start();
    serves(&*bus(rig.0.addr())).await;
    assert_eq!(conformance::bus(&rig, "1").await, Ok(11));
}

#[tokio::test]
async fn a_burst_survives_sigkill_and_restart() {
    let Some(program) = program("nats restart") else { return };
    let server = server(&program);
    server.start();
    serves(&*bus(server.addr())).await;
    let fault = async {
        server.kill();
        server.start();
    };
    let outcome = burst(&*bus(server.addr()), &*bus(server.addr()), &unit("bobby"), 1_000, fault).await;
    println!("nats restart: {outcome:?}");
    assert!(outcome.faults_told > 0, "{outcome:?}");
}

#[tokio::test]
async fn a_burst_survives_the_death_of_the_stream_leader() {
    let Some(program) = program("nats cluster") else { return };
    let servers = cluster(&program);
    servers.iter().for_each(Server::start);
    let make = || bus_of(NatsConfig { replicas: 3, ..config(urls(&servers)) });
    let (sender, receiver) = (make(), make());
    serves(&*sender).await;
    let fault = async {
        let mut leading = None;
        eventually("the stream has a leader", async || {
            leading = leader(&urls(&servers)[0]).await;
            leading.is_some()
        })
        .await;
        let name = leading.unwrap();
        let index: usize = name.trim_start_matches('n').parse().unwrap();
        servers[index].kill();
        println!("nats cluster: killed {name}");
    };
    let outcome = burst(&*sender, &*receiver, &unit("bobby"), 1_000, fault).await;
    println!("nats cluster: {outcome:?}");
    assert!(outcome.faults_told > 0 || outcome.attempts_failed > 0, "the leader was in use: {outcome:?}");
    // Two of three go on by themselves.
    serves(&*sender).await;
}

#[tokio::test]
async fn a_cluster_that_lost_everything_is_used_again() {
    let Some(program) = program("nats all killed") else { return };
    let servers = cluster(&program);
    servers.iter().for_each(Server::start);
    let bus = bus_of(NatsConfig { replicas: 3, ..config(urls(&servers)) });
    serves(&*bus).await;
    let to = unit("bobby");
    let mut mail = bus.subscribe(&to, "a.1");
    insist(&*bus, &to, "0", b"before").await;
    timeout(SOON, mail.next()).await.unwrap().unwrap().unwrap().settle.done().await.unwrap();
    insist(&*bus, &unit("other"), "1", b"lost").await;

    servers.iter().for_each(Server::kill);
    let began = Instant::now();
    let told = bus.publish(&to, &letter("2", 0, b"away")).await;
    assert!(matches!(told, Err(BusError::Unavailable { .. })), "{told:?}");
    assert!(began.elapsed() < AWAY_WITHIN, "{:?}", began.elapsed());
    for server in &servers {
        std::fs::remove_dir_all(server.folder.path().join("js")).unwrap();
        server.start();
    }
    let began = Instant::now();
    insist(&*bus, &to, "3", b"after").await;
    println!("nats all killed: publishes again after {:?}", began.elapsed());
    let mut faults = 0;
    loop {
        match timeout(BURST, mail.next()).await.expect("the subscription goes on").unwrap() {
            Ok(delivery) => {
                let raw = delivery.raw.clone();
                let _ = delivery.settle.done().await;
                if raw == b"after"[..] {
                    break;
                }
            }
            Err(_) => faults += 1,
        }
    }
    println!("nats all killed: reads again after {:?}, {faults} faults told", began.elapsed());
    assert_eq!(bus.depth(&unit("other")).await.unwrap().letters, 0, "what was lost is the sender's to send again");
}

#[tokio::test]
async fn repeats_are_known_for_each_box_and_attempt() {
    let Some(program) = program("nats repeats") else { return };
    let server = server(&program);
    server.start();
    let bus = bus(server.addr());
    serves(&*bus).await;
    let (one, other) = (unit("bobby"), unit("jerry"));
    for (to, attempt, expected) in [
        (&one, 0, Published::Accepted),
        (&one, 0, Published::Duplicate),
        (&other, 0, Published::Accepted),
        (&one, 1, Published::Accepted),
        (&one, 1, Published::Duplicate),
    ] {
        assert_eq!(bus.publish(to, &letter("m", attempt, b"x")).await, Ok(expected));
    }
    assert_eq!(bus.depth(&one).await.unwrap().letters, 2);
}

#[tokio::test]
async fn a_full_box_refuses() {
    let Some(program) = program("nats full box") else { return };
    let server = server(&program);
    server.start();
    let bus = bus_of(NatsConfig { box_letters_max: 20, ..config(vec![format!("nats://{}", server.addr())]) });
    serves(&*bus).await;
    let to = unit("bobby");
    for n in 0..20 {
        assert_eq!(bus.publish(&to, &letter(&n.to_string(), 0, b"x")).await, Ok(Published::Accepted), "{n}");
    }
    let busy = bus.publish(&to, &letter("more", 0, b"x")).await;
    assert!(matches!(busy, Ok(Published::Busy(_))), "{busy:?}");
    assert_eq!(bus.publish(&unit("other"), &letter("more", 0, b"x")).await, Ok(Published::Accepted), "other boxes are not full");
    let mut mail = bus.subscribe(&to, "a.1");
    timeout(SOON, mail.next()).await.unwrap().unwrap().unwrap().settle.done().await.unwrap();
    assert_eq!(bus.publish(&to, &letter("more", 1, b"x")).await, Ok(Published::Accepted));
}

#[tokio::test]
async fn the_next_owner_gets_everything_at_once_and_the_old_one_stands_back() {
    let Some(program) = program("nats take-over") else { return };
    let server = server(&program);
    server.start();
    let config = NatsConfig { ack_wait: Duration::from_secs(600), ..config(vec![format!("nats://{}", server.addr())]) };
    let (old_bus, new_bus) = (bus_of(config.clone()), bus_of(config));
    serves(&*old_bus).await;
    let to = unit("bobby");
    let mut old = old_bus.subscribe(&to, "jerry.7");
    for n in 0..3_u8 {
        insist(&*old_bus, &to, &n.to_string(), &[n]).await;
    }
    let held = [timeout(SOON, old.next()).await.unwrap().unwrap().unwrap(), timeout(SOON, old.next()).await.unwrap().unwrap().unwrap()];
    let mut new = new_bus.subscribe(&to, "billy.8");
    let mut seen = std::collections::BTreeSet::new();
    let began = Instant::now();
    while seen.len() < 3 {
        let delivery = timeout(SOON, new.next()).await.unwrap().unwrap().unwrap();
        seen.insert(delivery.raw[0]);
        delivery.settle.done().await.unwrap();
    }
    println!("nats take-over: everything after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // What the old owner settles now is none of its business any more.
    for delivery in held {
        let settled = delivery.settle.done().await;
        assert!(matches!(settled, Err(BusError::Unavailable { .. })), "{settled:?}");
    }
    let mut told = Vec::new();
    eventually("the old owner is told", async || {
        match timeout(SOON, old.next()).await {
            Ok(Some(Err(error))) => told.push(error.to_string()),
            // The third letter was in its buffer.
            Ok(Some(Ok(delivery))) => drop(delivery),
            other => panic!("{other:?}"),
        }
        told.iter().any(|told| told.contains("billy.8 has taken the box over"))
    })
    .await;
    for n in 3..10_u8 {
        insist(&*new_bus, &to, &n.to_string(), &[n]).await;
        tokio::select! {
            biased;
            item = old.next() => panic!("the old owner got {item:?}"),
            item = timeout(SOON, new.next()) => item.unwrap().unwrap().unwrap().settle.done().await.unwrap(),
        }
    }
}

#[tokio::test]
async fn a_wrong_password_is_denied_and_never_shown() {
    let Some(program) = program("nats password") else { return };
    let server = server(&program);
    server.add_arguments(&words("--user farm --pass right"));
    server.start();
    serves(&*bus(format!("farm:right@{}", server.addr()))).await;
    let wrong = bus(format!("farm:canary@{}", server.addr()));
    let told = wrong.publish(&unit("bobby"), &letter("0", 0, b"0")).await.unwrap_err();
    assert!(matches!(told, BusError::Denied { .. }), "{told:?}");
    let told_mail = timeout(SOON, wrong.subscribe(&unit("bobby"), "a.1").next()).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(told_mail, BusError::Denied { .. }), "{told_mail:?}");
    assert!(!format!("{told:?} {told} {told_mail}").contains("canary"));
}

#[tokio::test]
async fn a_server_without_jetstream_says_so() {
    let Some(program) = program("nats without jetstream") else { return };
    let server = Server::new(&program, |port, _| words(&format!("-a 127.0.0.1 -p {port}")));
    server.start();
    let bus = bus(server.addr());
    let mut told = String::new();
    eventually("it says why", async || {
        told = bus.publish(&unit("bobby"), &letter("0", 0, b"0")).await.unwrap_err().to_string();
        told.contains("JetStream")
    })
    .await;
    assert!(told.contains("not switched on") || told.contains("not enabled"), "{told}");
}

#[tokio::test]
async fn a_burst_gets_through_a_line_that_is_cut_every_50_ms() {
    let Some(program) = program("nats cut line") else { return };
    let server = server(&program);
    server.start();
    serves(&*bus(server.addr())).await;
    let proxy = FaultProxy::start(server.addr(), 1).unwrap();
    proxy.cut_every(Some(Duration::from_millis(50)));
    let bus = bus(proxy.addr());
    let outcome = burst(&*bus, &*bus, &unit("bobby"), 1_000, std::future::ready(())).await;
    let counters = proxy.counters();
    println!("nats cut line: {outcome:?} {counters:?}");
    assert!(counters.cut > 0, "{counters:?}");

    // The same to a subscription that stands already.
    proxy.heal().await;
    let cutting = async { proxy.cut_every(Some(Duration::from_millis(50))) };
    let outcome = burst(&*bus, &*bus, &unit("jerry"), 1_500, cutting).await;
    println!("nats line cut later: {outcome:?} {:?}", proxy.counters());
    assert!(proxy.counters().cut > counters.cut, "{outcome:?}");
}

#[tokio::test]
async fn a_half_open_line_is_an_error_in_time_and_heals() {
    let Some(program) = program("nats half-open") else { return };
    let server = server(&program);
    server.start();
    serves(&*bus(server.addr())).await;
    let proxy = FaultProxy::start(server.addr(), 2).unwrap();
    let bus = bus(proxy.addr());
    let to = unit("bobby");
    let mut mail = bus.subscribe(&to, "a.1");
    insist(&*bus, &to, "0", b"0").await;
    timeout(SOON, mail.next()).await.unwrap().unwrap().unwrap().settle.done().await.unwrap();
    proxy.freeze().await;
    // First over the connection that was open, then over one that cannot be made.
    for n in 0..3 {
        let began = Instant::now();
        let told = bus.publish(&to, &letter("1", n, b"1")).await;
        assert!(matches!(told, Err(BusError::Unavailable { .. })), "{told:?}");
        assert!(began.elapsed() < AWAY_WITHIN, "{:?}", began.elapsed());
    }
    let told = timeout(Duration::from_secs(5), mail.next()).await.expect("the subscription notices too").unwrap();
    assert!(matches!(told, Err(BusError::Unavailable { .. })), "{told:?}");
    proxy.heal().await;
    insist(&*bus, &to, "2", b"2").await;
    eventually("the letter comes after the gap", async || matches!(timeout(SOON, mail.next()).await, Ok(Some(Ok(delivery))) if delivery.raw == b"2"[..])).await;
}

#[tokio::test]
async fn the_number_of_copies_follows_the_settings() {
    let Some(program) = program("nats replicas") else { return };
    let servers = cluster(&program);
    servers.iter().for_each(Server::start);
    let one = bus_of(config(urls(&servers)));
    serves(&*one).await;
    insist(&*one, &unit("bobby"), "0", b"0").await;
    let three = bus_of(NatsConfig { replicas: 3, ..config(urls(&servers)) });
    let mut mail = three.subscribe(&unit("bobby"), "a.1");
    eventually("the letter comes", async || match timeout(SOON, mail.next()).await {
        Ok(Some(Ok(delivery))) => delivery.settle.done().await.is_ok(),
        _ => false,
    })
    .await;
    let client = async_nats::connect(&urls(&servers)[0]).await.unwrap();
    eventually("the stream has three copies", async || {
        sleep(Duration::from_millis(50)).await;
        let Ok(answer) = client.request("$JS.API.STREAM.INFO.OPENCLAW_test", "".into()).await else { return false };
        let info: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
        info.pointer("/config/num_replicas").and_then(serde_json::Value::as_u64) == Some(3)
    })
    .await;
}
