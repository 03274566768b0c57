//! The embedded engine keeps the promises, in real time and in simulated time, and its faults are what they say.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use clawstead_bus::{
    Bus, BusError, CasError, Coord, MailBox, Published, Sealed,
    conformance::{self, Rig},
    memory::{Fate, Faults, Memory, Part},
};
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout};

/// One gateway whose lines to the engine can be cut.
struct OneProcess(Memory);

#[async_trait]
impl Rig for OneProcess {
    async fn coord(&self) -> Result<Arc<dyn Coord>, String> {
        Ok(self.0.coord("a"))
    }

    async fn bus(&self) -> Result<Arc<dyn Bus>, String> {
        Ok(self.0.bus("a"))
    }

    async fn stop(&self) -> Result<(), String> {
        self.0.cut("a", Part::Coord);
        self.0.cut("a", Part::Bus);
        Ok(())
    }

    async fn start(&self) -> Result<(), String> {
        self.0.heal("a", Part::Coord);
        self.0.heal("a", Part::Bus);
        Ok(())
    }

    fn again_within(&self) -> Duration {
        Duration::from_secs(1)
    }
}

#[tokio::test]
async fn keys() {
    assert_eq!(conformance::coord(&OneProcess(Memory::new()), "1").await, Ok(16));
}

#[tokio::test]
async fn mail() {
    assert_eq!(conformance::bus(&OneProcess(Memory::new()), "1").await, Ok(11));
}

#[tokio::test(start_paused = true)]
async fn the_same_in_simulated_time() {
    assert_eq!(conformance::coord(&OneProcess(Memory::new()), "1").await, Ok(16));
    assert_eq!(conformance::bus(&OneProcess(Memory::new()), "1").await, Ok(11));
}

/// Answers from a list.
#[derive(Default)]
struct Script {
    fates: Mutex<Vec<Fate>>,
    copies: Mutex<Vec<Vec<Duration>>>,
}

impl Faults for Script {
    fn request(&self, _who: &str, _part: Part) -> Fate {
        self.fates.lock().expect("no panic").pop().unwrap_or_default()
    }

    fn copies(&self, _who: &str, _to: &MailBox, _letter: &Sealed) -> Vec<Duration> {
        self.copies.lock().expect("no panic").pop().unwrap_or_else(|| vec![Duration::ZERO])
    }

    fn watch_delay(&self, _who: &str) -> Duration {
        Duration::ZERO
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_unknown_and_may_have_happened() {
    let script = Arc::new(Script::default());
    let coord = Memory::with_faults(script.clone()).coord("a");
    for (fate, happened) in [(Fate::AnswerLost, true), (Fate::Lost, false), (Fate::Late(Duration::from_secs(3)), true)] {
        coord.delete("key", None).await.unwrap();
        script.fates.lock().unwrap().push(fate);
        let written = coord.put_if("key", "1".into(), None).await;
        assert!(matches!(written, Err(CasError::Unknown(_))), "{written:?}");
        assert_eq!(coord.get("key").await.unwrap().is_some(), happened, "{fate:?}");
    }
    script.fates.lock().unwrap().push(Fate::Late(Duration::from_secs(1)));
    let began = Instant::now();
    coord.put("key", "2".into()).await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn letters_are_lost_repeated_and_overtaken_as_told() {
    let script = Arc::new(Script::default());
    let memory = Memory::with_faults(script.clone());
    let (bus, to) = (memory.bus("a"), MailBox::Unit("agent.bobby".into()));
    let seconds = |all: &[u64]| all.iter().map(|s| Duration::from_secs(*s)).collect::<Vec<_>>();
    script.copies.lock().unwrap().extend([seconds(&[]), seconds(&[1]), seconds(&[5, 7200])]);
    for id in ["twice", "late", "lost", "prompt"] {
        assert_eq!(bus.publish(&to, &Sealed { message_id: id.into(), attempt: 0, bytes: id.into() }).await, Ok(Published::Accepted));
    }
    let mut mail = memory.bus("b").subscribe(&to, "b.1");
    let (began, mut seen) = (Instant::now(), Vec::new());
    while let Ok(Some(delivery)) = timeout(Duration::from_secs(10_000), mail.next()).await {
        let delivery = delivery.unwrap();
        seen.push((began.elapsed().as_secs(), String::from_utf8(delivery.raw.to_vec()).unwrap()));
        delivery.settle.done().await.unwrap();
    }
    assert_eq!(seen, [(0, "prompt".into()), (1, "late".into()), (5, "twice".into()), (7200, "twice".into())]);
}

#[tokio::test(start_paused = true)]
async fn a_cut_concerns_one_gateway_and_one_part() {
    let memory = Memory::new();
    memory.cut("a", Part::Bus);
    let to = MailBox::Gateway("b".into());
    let letter = Sealed { message_id: "1".into(), attempt: 0, bytes: "1".into() };
    assert!(matches!(memory.bus("a").publish(&to, &letter).await, Err(BusError::Unavailable { .. })));
    memory.coord("a").put("key", "1".into()).await.unwrap();
    memory.bus("b").publish(&to, &letter).await.unwrap();
    memory.lose_mail();
    assert_eq!(memory.bus("b").depth(&to).await.unwrap().letters, 0);
    assert_eq!(memory.bus("b").publish(&to, &letter).await, Ok(Published::Accepted));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_silent_is_not_alive() {
    let memory = Memory::new();
    let coord = memory.coord("a");
    let me = clawstead_bus::Member {
        service: "openclaw-gateway".into(),
        id: "a".into(),
        address: "127.0.0.1".into(),
        port: 1,
        tags: Vec::new(),
        meta: std::collections::BTreeMap::new(),
        check_ttl: Duration::from_secs(3),
        check_url: None,
    };
    coord.register(&me).await.unwrap();
    assert!(!memory.members()[0].alive());
    coord.beat(&me, "fine").await.unwrap();
    assert!(memory.members()[0].alive());
    tokio::time::advance(Duration::from_secs(3)).await;
    assert!(!memory.members()[0].alive());
    coord.deregister(&me).await.unwrap();
    assert!(memory.members().is_empty());
}

/// Does to every so many letters what an engine must not do.
struct Unfaithful(Vec<Duration>, Mutex<u32>);

impl Faults for Unfaithful {
    fn copies(&self, _who: &str, _to: &MailBox, _letter: &Sealed) -> Vec<Duration> {
        let mut count = self.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *count += 1;
        if count.is_multiple_of(7) { self.0.clone() } else { vec![Duration::ZERO] }
    }
}

#[tokio::test(start_paused = true)]
async fn the_suite_of_mail_notices_what_is_lost_and_what_comes_twice() {
    for copies in [vec![], vec![Duration::ZERO; 2]] {
        let faults = Arc::new(Unfaithful(copies.clone(), Mutex::default()));
        let outcome = conformance::bus(&OneProcess(Memory::with_faults(faults)), "1").await;
        assert!(outcome.is_err(), "{copies:?}: {outcome:?}");
    }
}

/// Hears of changes late, or not of the engine being away.
struct Deaf(Duration);

impl Faults for Deaf {
    fn watch_delay(&self, _who: &str) -> Duration {
        self.0
    }
}

#[tokio::test(start_paused = true)]
async fn the_suite_of_keys_notices_a_watch_that_is_deaf_and_a_write_that_is_lost() {
    let deaf = Memory::with_faults(Arc::new(Deaf(Duration::from_secs(3600))));
    let outcome = conformance::coord(&OneProcess(deaf), "1").await.unwrap_err();
    assert!(outcome.contains("watch"), "{outcome}");
    let script = Arc::new(Script::default());
    script.fates.lock().unwrap().push(Fate::AnswerLost);
    assert!(conformance::coord(&OneProcess(Memory::with_faults(script)), "1").await.is_err());
}
