//! Rows of the fault matrix with whole mailrooms: what happens to letters when receipts are lost, repeats come after two
//! days, time runs out, clocks are wrong, operators replay, people write by hand, and gateways are away for hours.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod kit;

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use clawstead_bus::{
    Blobs, Bus, BusCaps, BusError, Delivery, Depth, MailBox, Published, Sealed, Settle,
    faulty::{FaultyBus, MailFaults},
    memory::Part,
};
use clawstead_cluster::{envelope::MailState, letter::SENDS_MAX};
use clawstead_farm::mailroom::{Place, Rules};
use clawstead_terms::RunStatus;
use clawstead_world::World;
use futures_util::{FutureExt as _, StreamExt as _, stream, stream::BoxStream};
use kit::{Farm, Node, Tap, agent, store};
use tokio::sync::mpsc;

const HOUR: Duration = Duration::from_secs(3600);

async fn eventually(what: &str, mut probe: impl FnMut() -> bool) {
    let looking = async {
        while !probe() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(HOUR, looking).await.is_ok(), "never: {what}");
}

async fn states(node: &Node, id: &str) -> Vec<MailState> {
    node.room.sent(&agent(id), 100).await.unwrap().iter().map(|sent| sent.row.state).collect()
}

/// Fault row M5: receipts only are lost. The receiver repeats its receipts, the work is done once, attempts stay bounded.
#[tokio::test(start_paused = true)]
async fn m5_lost_receipts_are_repeated_and_nothing_is_done_twice() {
    let farm = Farm::new(&["jerry-gateway", "bobby-gateway"]);
    let world = World::simulated(5);
    let bus = Arc::new(FaultyBus::new(farm.memory.bus("bobby-gateway"), world.rng, world.tasks));
    bus.set_gateways(MailFaults { drop: 0.6, ..MailFaults::default() });
    let bobby = farm.raise_on("bobby-gateway", &["bobby"], store(), 1, bus.clone()).await;
    let jerry = farm.raise("jerry-gateway", &["jerry"], store(), 1).await;
    for n in 0..20 {
        jerry.send("bobby", &format!("run-{n}"), &format!("{n}")).await.unwrap();
    }
    for n in 0..20 {
        assert_eq!(jerry.answer(&format!("run-{n}")).await.text, Some(format!("echo: {n}")));
    }
    bus.heal();
    while states(&jerry, "jerry").await.iter().any(|state| *state != MailState::Acked) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(bobby.handled(), (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(bus.injected().dropped >= 10 && bobby.notes.count("farm.msg.duplicate") > 0, "{:?}", bus.injected());
    let sends = jerry.room.sent(&agent("jerry"), 100).await.unwrap().iter().map(|sent| sent.row.sends).max();
    assert!(sends <= Some(SENDS_MAX), "{sends:?}");
}

/// Fault row M6: a letter comes once more after the rows that knew it were removed. It is expired then, for certain.
#[tokio::test(start_paused = true)]
async fn m6_a_repeat_after_its_row_was_removed_is_expired() {
    let farm = Farm::new(&["jerry-gateway", "bobby-gateway"]);
    let bobby = farm.raise("bobby-gateway", &["bobby"], store(), 1).await;
    let tap = Arc::new(Tap::over(farm.memory.bus("jerry-gateway")));
    let jerry = farm.raise_on("jerry-gateway", &["jerry"], store(), 1, tap.clone()).await;
    jerry.send("bobby", "run-1", "once").await.unwrap();
    assert_eq!(jerry.answer("run-1").await.status, RunStatus::Ok);
    eventually("the row is removed", || tap.sent.lock().unwrap().len() > 1).await;
    let copies: Vec<(MailBox, Sealed)> = tap.sent.lock().unwrap().iter().filter(|(to, _)| *to == MailBox::Unit("bobby".into())).cloned().collect();
    tokio::time::sleep(HOUR * 49).await;
    bobby.room.prune(&agent("bobby")).await.unwrap();
    assert!(bobby.room.taken(&agent("bobby"), 10).await.unwrap().is_empty(), "nobody remembers it");
    let other = farm.memory.bus("somebody");
    for (n, (to, letter)) in copies.into_iter().enumerate() {
        other.publish(&to, &Sealed { attempt: 100 + n as u32, ..letter }).await.unwrap();
    }
    eventually("refused", || bobby.notes.refused("expired") > 0).await;
    assert_eq!(bobby.handled(), ["once"]);
}

/// Fault row M11: time is over in the queue, in the inbox, while the work goes on. The last one ends well, late, once.
#[tokio::test(start_paused = true)]
async fn m11_time_runs_out_in_queue_inbox_and_work() {
    let farm = Farm::new(&["jerry-gateway", "bobby-gateway"]);
    let jerry = farm.raise("jerry-gateway", &["jerry"], store(), 1).await;
    // In the queue: nobody holds bobby.
    jerry.send("bobby", "run-queue", "queue").await.unwrap();
    assert!(jerry.answer("run-queue").await.failure.unwrap().message.contains("expired"));

    // In the inbox: the gateway dies with the letter and comes back when its time is over.
    let bobby = farm.raise("bobby-gateway", &["bobby"], store(), 1).await;
    let held = bobby.echo.clone();
    let hold = held.hold.lock().await;
    jerry.send("bobby", "run-inbox", "inbox").await.unwrap();
    eventually("it is in the inbox", || bobby.notes.count("farm.msg.processing") == 1).await;
    let disk = bobby.die().await;
    farm.map.0.write().unwrap().insert(agent("bobby"), Place { gateway: "bobby-gateway".into(), epoch: 1, alive: false });
    tokio::time::sleep(Duration::from_secs(400)).await;
    drop(hold);
    let bobby = farm.raise("bobby-gateway", &["bobby"], disk, 2).await;
    assert!(jerry.answer("run-inbox").await.failure.unwrap().message.contains("expired"));
    assert!(bobby.handled().is_empty(), "no work begins after its time");

    // While the work goes on.
    let hold = bobby.echo.hold.lock().await;
    jerry.send("bobby", "run-work", "work").await.unwrap();
    tokio::time::sleep(Duration::from_secs(480)).await;
    drop(hold);
    assert_eq!(jerry.answer("run-work").await.text.as_deref(), Some("echo: work"));
    assert_eq!(bobby.handled(), ["work"]);
    assert_eq!(jerry.room.dead(&agent("jerry"), 10).await.unwrap().len(), 2, "two were given up, with their reason");
}

/// Fault row M13: a dead letter whose work was done after all is replayed: nothing is done again. A second replay is refused.
#[tokio::test(start_paused = true)]
async fn m13_a_replay_after_the_effect_does_nothing_and_works_once() {
    let farm = Farm::new(&["jerry-gateway", "bobby-gateway"]);
    let world = World::simulated(5);
    let bus = Arc::new(FaultyBus::new(farm.memory.bus("bobby-gateway"), world.rng, world.tasks));
    bus.set(MailFaults { drop: 1.0, ..MailFaults::default() });
    let bobby = farm.raise_on("bobby-gateway", &["bobby"], store(), 1, bus.clone()).await;
    let jerry = farm.raise("jerry-gateway", &["jerry"], store(), 1).await;
    jerry.send("bobby", "run-1", "effect").await.unwrap();
    assert!(jerry.answer("run-1").await.failure.is_some());
    assert_eq!(bobby.handled(), ["effect"], "it was done, and nobody heard of it");
    bus.heal();
    let dead = jerry.room.dead(&agent("jerry"), 10).await.unwrap();
    let id = dead[0].head.message_id.clone();
    let replayed = jerry.room.replay(&agent("jerry"), &id).await.unwrap();
    let acked =
        async || jerry.room.sent(&agent("jerry"), 10).await.unwrap().iter().any(|sent| sent.head.message_id == replayed && sent.row.state == MailState::Acked);
    while !acked().await {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(jerry.room.replay(&agent("jerry"), &id).await.unwrap_err().message.contains("was replayed as"));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bobby.handled(), ["effect"]);
}

/// Puts letters into a box by hand, under names, as Consul's keys are.
struct ByHand {
    inner: Arc<dyn Bus>,
    put: Mutex<Option<mpsc::UnboundedReceiver<Delivery>>>,
}

#[async_trait]
impl Bus for ByHand {
    fn engine(&self) -> &'static str {
        "consul"
    }

    fn caps(&self) -> BusCaps {
        self.inner.caps()
    }

    async fn publish(&self, to: &MailBox, letter: &Sealed) -> Result<Published, BusError> {
        self.inner.publish(to, letter).await
    }

    fn subscribe(&self, from: &MailBox, consumer: &str) -> BoxStream<'static, Result<Delivery, BusError>> {
        let inner = self.inner.subscribe(from, consumer);
        match self.put.lock().unwrap().take_if(|_| matches!(from, MailBox::Unit(_))) {
            Some(put) => stream::select(inner, stream::unfold(put, async |mut put| Some((Ok(put.recv().await?), put))).boxed()).boxed(),
            None => inner,
        }
    }

    fn blobs(&self) -> Option<&dyn Blobs> {
        None
    }

    async fn depth(&self, of: &MailBox) -> Result<Depth, BusError> {
        self.inner.depth(of).await
    }
}

/// Fault row M14: a letter put by hand is refused and removed unless the config lists its box; then it is handled once, and
/// its name is its id.
#[tokio::test(start_paused = true)]
async fn m14_letters_by_hand_are_refused_unless_allowed_and_then_handled_once() {
    for (prefixes, handled) in [(Vec::new(), 0), (vec!["openclaw/agents/billy/".to_owned()], 0), (vec!["openclaw/agents/bobby/inbox/".to_owned()], 1)] {
        let mut farm = Farm::new(&["bobby-gateway"]);
        farm.rules = Rules { accept_unsigned: prefixes.clone(), ..Rules::default() };
        let (hand, put) = mpsc::unbounded_channel();
        let bus = Arc::new(ByHand { inner: farm.memory.bus("bobby-gateway"), put: Mutex::new(Some(put)) });
        let bobby = farm.raise_on("bobby-gateway", &["bobby"], store(), 1, bus).await;
        let removed = Arc::new(Mutex::new(0));
        let letter = r#"{"from":"jerry","to":"bobby","body":"Check Nomad status","timestamp":"2026-01-01T00:00:00Z"}"#;
        let now = clawstead_cluster::format_stamp(bobby.world.clock.now());
        for (name, raw) in [
            ("msg-1", letter),
            ("msg-1", letter),
            ("msg-2", "{not json"),
            ("msg-3", r#"{"from":"jerry","body":"/exec rm"}"#),
            ("msg-4", r#"{"schema_version":"1.0"}"#),
        ] {
            let removed = Arc::clone(&removed);
            let settle = Settle::new(move || {
                *removed.lock().unwrap() += 1;
                async { Ok(()) }.boxed()
            });
            let raw = raw.replace("2026-01-01T00:00:00Z", &now);
            hand.send(Delivery { raw: raw.into(), settle, name: Some(name.into()) }).unwrap();
        }
        eventually("all are removed", || *removed.lock().unwrap() == 5).await;
        eventually("the work is done", || bobby.handled().len() == handled).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(bobby.handled().len(), handled, "{prefixes:?}");
        if handled == 1 {
            assert_eq!(bobby.handled()[0], "[Unsigned letter msg-1 that says it is from jerry]\nCheck Nomad status");
            assert_eq!((bobby.notes.count("farm.msg.duplicate"), bobby.notes.refused("command_refused")), (1, 1));
        }
        let told = bobby.notes.rejected.lock().unwrap().clone();
        assert_eq!(told.len(), if handled == 1 { 3 } else { 5 }, "each refusal is told: {told:?}");
        assert!(told.iter().all(|(_, why)| why.contains("openclaw/agents/bobby/inbox/msg-")), "{told:?}");
    }
}

/// Fault row T1: clocks ten minutes apart. What was written too far in the future is refused and the writer hears why; what
/// seems old is taken as long as it lives; two seconds are nothing.
#[tokio::test(start_paused = true)]
async fn t1_wrong_clocks_are_refused_with_their_reason_or_harmless() {
    for (by, outcome) in [(600_000, Err("clock_skew")), (301_000, Err("clock_skew")), (2_000, Ok(())), (-2_000, Ok(())), (-600_000, Ok(()))] {
        let mut farm = Farm::new(&["jerry-gateway", "bobby-gateway"]);
        farm.skew.insert("jerry-gateway".into(), by);
        farm.rules.letter_ttl_ms = 3_600_000;
        let bobby = farm.raise("bobby-gateway", &["bobby"], store(), 1).await;
        let jerry = farm.raise("jerry-gateway", &["jerry"], store(), 1).await;
        jerry.send("bobby", "run-1", "what time is it?").await.unwrap();
        match outcome {
            Ok(()) => {
                // The answer of a gateway that is ahead of us by ten minutes is refused here, like its letters.
                eventually("handled", || bobby.handled().len() == 1).await;
                if by > -300_000 {
                    assert_eq!(jerry.answer("run-1").await.status, RunStatus::Ok, "{by}");
                } else {
                    eventually("the answer is refused, and that is told", || jerry.notes.refused("clock_skew") > 0).await;
                }
            }
            Err(code) => {
                let end = jerry.answer("run-1").await.failure.unwrap();
                assert!(end.message.contains(code), "{by}: {}", end.message);
                assert!(bobby.notes.refused(code) > 0 && bobby.handled().is_empty());
                let why = bobby.notes.rejected.lock().unwrap()[0].1.clone();
                assert!(why.contains("compare the clocks"), "{why}");
            }
        }
    }
}

/// A laptop that is away for hours: what was written to it waits without spending a retry, and what it wrote itself waits
/// with it; both arrive when it is back.
#[tokio::test(start_paused = true)]
async fn letters_to_and_from_a_gateway_that_is_away_for_six_hours_arrive_when_it_is_back() {
    let mut farm = Farm::new(&["home-gateway", "laptop"]);
    farm.rules.letter_ttl_ms = 12 * 3_600_000;
    let home = farm.raise("home-gateway", &["jerry"], store(), 1).await;
    let laptop = farm.raise("laptop", &["bobby"], store(), 1).await;
    // The lid closes: the laptop reaches nothing, and after half a minute nobody at home counts it as alive.
    farm.memory.cut("laptop", Part::Bus);
    home.send("bobby", "run-early", "written as the lid closes").await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    farm.map.0.write().unwrap().insert(agent("bobby"), Place { gateway: "laptop".into(), epoch: 1, alive: false });
    home.room.look_again();
    home.send("bobby", "run-late", "written while it is away").await.unwrap();
    tokio::time::sleep(HOUR * 6).await;
    let sent = home.room.sent(&agent("jerry"), 10).await.unwrap();
    assert_eq!(sent.len(), 2);
    assert!(
        sent.iter().all(|sent| sent.row.state == MailState::Queued && sent.row.spent_retries() == 0 && sent.row.sends <= 8),
        "{:?}",
        sent.iter().map(|sent| &sent.row).collect::<Vec<_>>()
    );
    farm.memory.heal("laptop", Part::Bus);
    farm.map.0.write().unwrap().insert(agent("bobby"), Place { gateway: "laptop".into(), epoch: 1, alive: true });
    home.room.look_again();
    for run in ["run-early", "run-late"] {
        assert_eq!(home.answer(run).await.status, RunStatus::Ok, "{run}");
    }
    assert_eq!(laptop.handled(), ["written as the lid closes", "written while it is away"]);

    // The other way: the laptop itself neither reaches the bus nor knows who is alive.
    farm.memory.cut("home-gateway", Part::Bus);
    farm.map.1.store(true, Ordering::Relaxed);
    home.send("bobby", "run-offline", "written without any network").await.unwrap();
    tokio::time::sleep(HOUR * 6).await;
    let sent = home.room.sent(&agent("jerry"), 10).await.unwrap();
    let offline = sent.iter().find(|sent| sent.run.as_deref() == Some("run-offline")).unwrap();
    assert_eq!((offline.row.state, offline.row.retries, offline.row.spent_sends()), (MailState::Queued, 0, 0));
    assert!(offline.row.sends < 500, "pauses grow: {}", offline.row.sends);
    farm.memory.heal("home-gateway", Part::Bus);
    farm.map.1.store(false, Ordering::Relaxed);
    assert_eq!(home.answer("run-offline").await.status, RunStatus::Ok);
    assert_eq!(laptop.handled().len(), 3);
}

/// Fault row K2: letters that a key signed before it was revoked, and that wait, end with their reason; sent again by an
/// operator they are signed by the key that is in force.
#[tokio::test(start_paused = true)]
async fn k2_queued_letters_of_a_revoked_key_are_given_up_and_signed_anew() {
    use clawstead_cluster::keys::{GatewayKey, KeyStatus};
    let farm = Farm::new(&["jerry-gateway", "bobby-gateway"]);
    let jerry = farm.raise("jerry-gateway", &["jerry"], store(), 1).await;
    farm.map.0.write().unwrap().insert(agent("bobby"), Place { gateway: "bobby-gateway".into(), epoch: 1, alive: false });
    jerry.send("bobby", "run-1", "signed by the old key").await.unwrap();
    // The old key is revoked, a new one is in force, and everybody knows.
    let bobby = farm.raise("bobby-gateway", &["bobby"], store(), 1).await;
    farm.map.0.write().unwrap().insert(agent("bobby"), Place { gateway: "bobby-gateway".into(), epoch: 1, alive: false });
    let now = farm.seed.clock.now();
    let new = GatewayKey::generate("jerry-gateway", &*farm.seed.rng).unwrap();
    let approve =
        |key: &GatewayKey, stage| farm.root.approve("jerry-gateway", &key.public(), now.plus(-3_600_000), now.plus(90 * 86_400_000)).stage(stage).clone();
    for node in [&jerry, &bobby] {
        let mut ring = node.ring.write().unwrap();
        ring.put(&approve(&farm.keys["jerry-gateway"], KeyStatus::Revoked)).unwrap();
        ring.put(&approve(&new, KeyStatus::Active)).unwrap();
    }
    jerry.key.store(Arc::new(new));
    jerry.room.look_again();
    let end = jerry.answer("run-1").await.failure.unwrap();
    assert!(end.message.contains("key_revoked") && end.message.contains("signed anew"), "{}", end.message);
    let dead = jerry.room.dead(&agent("jerry"), 10).await.unwrap();
    farm.map.0.write().unwrap().insert(agent("bobby"), Place { gateway: "bobby-gateway".into(), epoch: 1, alive: true });
    jerry.room.replay(&agent("jerry"), &dead[0].head.message_id).await.unwrap();
    eventually("the replay is handled", || bobby.handled() == ["signed by the old key"]).await;
}
