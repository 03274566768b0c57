//! Mail over a real Redis: the promises, and what happens when it dies, fails over, fills up, or is cut off.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod kit;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use clawstead_bus::{
    Bus, BusError, Coord, MailBox, Published,
    conformance::{self, Rig},
    faulty::{Delay, FaultyBus, MailFaults},
    redis::{RedisBus, RedisConfig},
};
use clawstead_harness::fault_proxy::FaultProxy;
use clawstead_world::{SeededRng, SystemClock, Tasks};
use futures_util::StreamExt as _;
use kit::{AWAY_WITHIN, SOON, Server, burst, eventually, insist, letter, unit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

fn program(suite: &str) -> Option<PathBuf> {
    kit::engine(suite, "redis", "CLAWSTEAD_REDIS_SERVER")
}

fn server(program: &std::path::Path) -> Server {
    Server::new(program, |port, folder| {
        // `always`, so that a test may say that nothing accepted is lost; `everysec` may lose two seconds.
        let text = format!("--port {port} --bind 127.0.0.1 --dir {folder} --appendonly yes --appendfsync always --daemonize no");
        text.split(' ').map(str::to_owned).chain(["--save".into(), String::new()]).collect()
    })
}

/// One command in the plain form, and the first line of the answer.
async fn ask(server: &Server, command: &str) -> Option<String> {
    let mut stream = TcpStream::connect(server.addr()).await.ok()?;
    stream.write_all(format!("{command}\r\n").as_bytes()).await.ok()?;
    let mut answer = vec![0; 4096];
    let read = timeout(SOON, stream.read(&mut answer)).await.ok()?.ok()?;
    String::from_utf8_lossy(&answer[..read]).lines().next().map(str::to_owned)
}

async fn started(server: &Server) {
    server.start();
    eventually("Redis answers", async || ask(server, "PING").await.is_some_and(|said| said == "+PONG" || said.starts_with("-NOAUTH"))).await;
}

fn config(urls: &[String]) -> RedisConfig {
    RedisConfig { claim_idle: Duration::from_secs(2), again_after: Duration::from_millis(200), ..RedisConfig::new("test", urls.to_vec()) }
}

fn bus_of(config: RedisConfig) -> Arc<dyn Bus> {
    Arc::new(RedisBus::new(config, Arc::new(SystemClock)).unwrap())
}

fn bus(at: impl std::fmt::Display) -> Arc<dyn Bus> {
    bus_of(config(&[format!("redis://{at}")]))
}

struct One(Server);

#[async_trait]
impl Rig for One {
    async fn coord(&self) -> Result<Arc<dyn Coord>, String> {
        Err("an asynchronous failover of Redis can forget a write: it keeps no keys".into())
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
        Duration::from_secs(4)
    }
}

#[tokio::test]
async fn the_promises_of_mail() {
    let Some(program) = program("redis conformance") else { return };
    let rig = One(server(&program));
    started(&rig.0).await;
    assert_eq!(conformance::bus(&rig, "1").await, Ok(11));
}

#[tokio::test]
async fn a_burst_survives_sigkill_and_restart() {
    let Some(program) = program("redis restart") else { return };
    let server = server(&program);
    started(&server).await;
    let fault = async {
        server.kill();
        server.start();
    };
    let outcome = burst(&*bus(server.addr()), &*bus(server.addr()), &unit("bobby"), 1_000, fault).await;
    println!("redis restart: {outcome:?}");
    assert!(outcome.attempts_failed > 0, "{outcome:?}");
}

#[tokio::test]
async fn after_a_failover_to_an_empty_replica_mail_goes_on() {
    let Some(program) = program("redis failover") else { return };
    let (first, second) = (server(&program), server(&program));
    started(&first).await;
    started(&second).await;
    // A replica that never got anything.
    let nobody = clawstead_harness::free_port().unwrap();
    ask(&second, &format!("REPLICAOF 127.0.0.1 {nobody}")).await.unwrap();
    let urls = [format!("redis://{}", first.addr()), format!("redis://{}", second.addr())];
    let bus = bus_of(config(&urls));
    let to = unit("bobby");
    let mut mail = bus.subscribe(&to, "a.1");
    insist(&*bus, &to, "0", b"before").await;
    let delivery = timeout(SOON, mail.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(delivery.raw, &b"before"[..]);
    delivery.settle.done().await.unwrap();
    insist(&*bus, &to, "1", b"lost with the first server").await;

    first.kill();
    let began = Instant::now();
    let away = bus.publish(&to, &letter("2", 0, b"away")).await;
    assert!(matches!(&away, Err(BusError::Unavailable { why, .. }) if why.contains("is a replica")), "{away:?}");
    assert!(began.elapsed() < AWAY_WITHIN);
    ask(&second, "REPLICAOF NO ONE").await.unwrap();
    insist(&*bus, &to, "3", b"after").await;
    loop {
        let item = timeout(SOON, mail.next()).await.expect("the subscription goes on").unwrap();
        let Ok(delivery) = item else { continue };
        let raw = delivery.raw.clone();
        delivery.settle.done().await.unwrap();
        if raw == b"after"[..] {
            break;
        }
    }
    assert_eq!(bus.depth(&to).await.unwrap().letters, 0);
}

#[tokio::test]
async fn a_master_that_is_demoted_is_left() {
    let Some(program) = program("redis demotion") else { return };
    let (first, second) = (server(&program), server(&program));
    started(&first).await;
    started(&second).await;
    let urls = [format!("redis://{}", first.addr()), format!("redis://{}", second.addr())];
    ask(&second, &format!("REPLICAOF 127.0.0.1 {}", first.port)).await.unwrap();
    let bus = bus_of(config(&urls));
    let to = unit("bobby");
    let fault = async {
        // The roles change without anybody dying.
        ask(&second, "REPLICAOF NO ONE").await.unwrap();
        ask(&first, &format!("REPLICAOF 127.0.0.1 {}", second.port)).await.unwrap();
        // A letter the second never got is lost with the first; senders would send it again.
        for n in 0..200 {
            insist(&*bus, &to, &format!("again-{n}"), &u32::to_be_bytes(n)).await;
        }
    };
    let outcome = burst(&*bus, &*bus, &to, 200, fault).await;
    println!("redis demotion: {outcome:?}");
    // The first is a replica now: what is written afterwards can only be in the second.
    insist(&*bus, &unit("later"), "later", b"x").await;
    assert_eq!(ask(&second, "XLEN openclaw:farm:test:s:agents/later").await.as_deref(), Some(":1"));
}

#[tokio::test]
async fn data_that_is_gone_is_told_and_the_box_made_again() {
    let Some(program) = program("redis data loss") else { return };
    let server = server(&program);
    started(&server).await;
    let bus = bus(server.addr());
    let to = unit("bobby");
    let mut mail = bus.subscribe(&to, "a.1");
    insist(&*bus, &to, "0", b"0").await;
    timeout(SOON, mail.next()).await.unwrap().unwrap().unwrap().settle.done().await.unwrap();
    assert_eq!(ask(&server, "FLUSHALL").await.as_deref(), Some("+OK"));
    let told = timeout(SOON, mail.next()).await.unwrap().unwrap();
    assert!(matches!(&told, Err(BusError::Unavailable { why, .. }) if why.contains("made again")), "{told:?}");
    insist(&*bus, &to, "1", b"1").await;
    assert_eq!(timeout(SOON, mail.next()).await.unwrap().unwrap().unwrap().raw, &b"1"[..]);
}

#[tokio::test]
async fn a_full_box_refuses_and_nothing_is_cut_off() {
    let Some(program) = program("redis full box") else { return };
    let server = server(&program);
    started(&server).await;
    let cap = 500;
    let bus = bus_of(RedisConfig { box_letters_max: cap, ..config(&[format!("redis://{}", server.addr())]) });
    let to = unit("bobby");
    for n in 0..cap {
        assert_eq!(bus.publish(&to, &letter(&n.to_string(), 0, &n.to_be_bytes())).await, Ok(Published::Accepted));
    }
    assert!(matches!(bus.publish(&to, &letter("more", 0, b"more")).await, Ok(Published::Busy(_))));
    assert_eq!(bus.depth(&to).await.unwrap().letters, u64::from(cap));
    assert_eq!(bus.publish(&unit("other"), &letter("more", 0, b"more")).await, Ok(Published::Accepted), "other boxes are not full");
    let mut mail = bus.subscribe(&to, "a.1");
    for n in 0..cap {
        let delivery = timeout(SOON, mail.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(delivery.raw, &n.to_be_bytes()[..]);
        delivery.settle.done().await.unwrap();
        if n == 0 {
            assert_eq!(bus.publish(&to, &letter("more", 1, &cap.to_be_bytes())).await, Ok(Published::Accepted));
        }
    }
    let last = timeout(SOON, mail.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(last.raw, &cap.to_be_bytes()[..]);
}

#[tokio::test]
async fn memory_that_is_used_up_is_busy() {
    let Some(program) = program("redis memory") else { return };
    let server = server(&program);
    started(&server).await;
    let bus = bus(server.addr());
    let to = unit("bobby");
    insist(&*bus, &to, "0", b"0").await;
    ask(&server, "CONFIG SET maxmemory 1").await.unwrap();
    assert!(matches!(bus.publish(&to, &letter("1", 0, b"1")).await, Ok(Published::Busy(_))));
    ask(&server, "CONFIG SET maxmemory 0").await.unwrap();
    assert_eq!(bus.publish(&to, &letter("1", 1, b"1")).await, Ok(Published::Accepted));
}

#[tokio::test]
async fn the_next_owner_gets_everything_at_once_and_the_old_one_stands_back() {
    let Some(program) = program("redis take-over") else { return };
    let server = server(&program);
    started(&server).await;
    let config = RedisConfig { claim_idle: Duration::from_secs(600), ..config(&[format!("redis://{}", server.addr())]) };
    let config = RedisConfig { again_after: Duration::from_millis(100), ..config };
    let (old_bus, new_bus) = (bus_of(config.clone()), bus_of(config));
    let to = unit("bobby");
    let mut old = old_bus.subscribe(&to, "jerry.7");
    for n in 0..3_u8 {
        insist(&*old_bus, &to, &n.to_string(), &[n]).await;
    }
    // The old owner is alive and holds two letters; the third lies in its buffer or in the box.
    let held = [old.next().await.unwrap().unwrap(), old.next().await.unwrap().unwrap()];
    let mut new = new_bus.subscribe(&to, "billy.8");
    let mut seen = std::collections::BTreeSet::new();
    let began = Instant::now();
    while seen.len() < 3 {
        let delivery = timeout(SOON, new.next()).await.unwrap().unwrap().unwrap();
        seen.insert(delivery.raw[0]);
        delivery.settle.done().await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(held);
}

#[tokio::test]
async fn an_old_owner_is_told_once_and_reads_no_more() {
    let Some(program) = program("redis old owner") else { return };
    let server = server(&program);
    started(&server).await;
    let bus = bus(server.addr());
    let to = MailBox::Gateway("jerry".into());
    let mut old = bus.subscribe(&to, "jerry.7");
    insist(&*bus, &to, "0", b"0").await;
    old.next().await.unwrap().unwrap().settle.done().await.unwrap();
    let mut new = bus.subscribe(&to, "jerry.8");
    insist(&*bus, &to, "1", b"1").await;
    timeout(SOON, new.next()).await.unwrap().unwrap().unwrap().settle.done().await.unwrap();
    let told = timeout(SOON, old.next()).await.unwrap().unwrap();
    assert!(matches!(&told, Err(BusError::Unavailable { why, .. }) if why.starts_with("jerry.8 has taken the box over")), "{told:?}");
    for n in 2..20 {
        insist(&*bus, &to, &n.to_string(), b"x").await;
        tokio::select! {
            biased;
            item = old.next() => panic!("the old owner got {item:?}"),
            item = timeout(SOON, new.next()) => item.unwrap().unwrap().unwrap().settle.done().await.unwrap(),
        }
    }
}

#[tokio::test]
async fn a_wrong_password_is_denied_and_never_shown() {
    let Some(program) = program("redis password") else { return };
    let server = server(&program);
    server.add_arguments(&["--requirepass".into(), "right".into()]);
    started(&server).await;
    let wrong = bus(format!("user:canary@{}", server.addr()));
    let told = wrong.publish(&unit("bobby"), &letter("0", 0, b"0")).await.unwrap_err();
    assert!(matches!(told, BusError::Denied { .. }), "{told:?}");
    let told_mail = timeout(SOON, wrong.subscribe(&unit("bobby"), "a.1").next()).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(told_mail, BusError::Denied { .. }), "{told_mail:?}");
    assert!(!format!("{told:?} {told} {told_mail}").contains("canary"));
    let none = bus(server.addr()).depth(&unit("bobby")).await.unwrap_err();
    assert!(matches!(none, BusError::Denied { .. }), "{none:?}");
    assert_eq!(bus(format!(":right@{}", server.addr())).publish(&unit("bobby"), &letter("0", 0, b"0")).await, Ok(Published::Accepted));
}

#[tokio::test]
async fn a_burst_gets_through_a_line_that_is_cut_every_50_ms() {
    let Some(program) = program("redis cut line") else { return };
    let server = server(&program);
    started(&server).await;
    let proxy = FaultProxy::start(server.addr(), 1).unwrap();
    proxy.cut_every(Some(Duration::from_millis(50)));
    let bus = bus(proxy.addr());
    let outcome = burst(&*bus, &*bus, &unit("bobby"), 1_000, std::future::ready(())).await;
    let counters = proxy.counters();
    println!("redis cut line: {outcome:?} {counters:?}");
    assert!(counters.cut > 0, "{counters:?}");

    // The same to a subscription that stands already.
    proxy.heal().await;
    let cutting = async { proxy.cut_every(Some(Duration::from_millis(50))) };
    let outcome = burst(&*bus, &*bus, &unit("jerry"), 1_500, cutting).await;
    println!("redis line cut later: {outcome:?} {:?}", proxy.counters());
    assert!(proxy.counters().cut > counters.cut, "{outcome:?}");
}

#[tokio::test]
async fn a_half_open_line_is_an_error_in_time_and_heals() {
    let Some(program) = program("redis half-open") else { return };
    let server = server(&program);
    started(&server).await;
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
async fn copies_late_and_overtaken_letters_arrive_over_a_real_engine() {
    let Some(program) = program("redis faulty") else { return };
    let server = server(&program);
    started(&server).await;
    let faulty = FaultyBus::new(bus(server.addr()), Arc::new(SeededRng::new(3)), Tasks::new());
    faulty.set(MailFaults {
        refuse: 0.1,
        lose_answer: 0.1,
        duplicate: 0.3,
        delay: Delay::Exponential { mean: Duration::from_millis(5), max: Duration::from_millis(500) },
        reorder: 0.2,
        reorder_window: 10,
        ..MailFaults::default()
    });
    let outcome = burst(&faulty, &faulty, &unit("bobby"), 500, std::future::ready(())).await;
    let injected = faulty.injected();
    println!("redis faulty: {outcome:?} {injected:?}");
    assert!(outcome.copies > 50 && injected.duplicated > 50 && injected.reordered > 50 && injected.delayed > 50, "{outcome:?} {injected:?}");
}
