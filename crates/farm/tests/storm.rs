//! Storms: two gateways over a carrier that loses, doubles, delays and reorders, killed at random moments. Whatever the
//! seed, every letter that was accepted ends, its work is done once, and letters of one lane are done in order.
//!
//! `CLAWSTEAD_STORM=17` runs one seed, `CLAWSTEAD_STORM=1..500` a range; without it a few are run.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod kit;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use clawstead_bus::{
    Bus,
    faulty::{Delay, FaultyBus, MailFaults},
};
use clawstead_terms::RunStatus;
use clawstead_world::World;
use kit::{Farm, Node, store};

/// Seeds that every test run tries.
const SEEDS: std::ops::Range<u64> = 1..41;
/// Letters of one storm.
const LETTERS: usize = 24;

fn seeds() -> Vec<u64> {
    let Ok(text) = std::env::var("CLAWSTEAD_STORM") else { return SEEDS.collect() };
    match text.split_once("..") {
        Some((from, to)) => (from.parse().unwrap()..to.parse().unwrap()).collect(),
        None => vec![text.parse().unwrap()],
    }
}

struct Storm {
    farm: Farm,
    world: World,
    ledger: Arc<Mutex<Vec<String>>>,
    faults: MailFaults,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let world = World::simulated(seed);
        let chance = |percent: u64| world.rng.below(percent + 1) as f64 / 100.0;
        let faults = MailFaults {
            drop: chance(35),
            duplicate: chance(40),
            lose_answer: chance(20),
            delay: Delay::Even(Duration::from_millis(world.rng.below(1_500))),
            reorder: chance(30),
            reorder_window: 4,
            ..MailFaults::default()
        };
        Self { farm: Farm::new(&["jerry-gateway", "bobby-gateway"]), world, ledger: Arc::default(), faults }
    }

    fn bus(&self, gateway: &str) -> Arc<dyn Bus> {
        let world = World::simulated(self.world.rng.below(u64::MAX));
        let bus = FaultyBus::new(self.farm.memory.bus(gateway), world.rng, world.tasks);
        bus.set(self.faults);
        Arc::new(bus)
    }

    async fn pair(&self, disks: (Arc<clawstead_state::MemoryStore>, Arc<clawstead_state::MemoryStore>), epoch: u64) -> (Node, Node) {
        let ledger = Some(Arc::clone(&self.ledger));
        let bobby = self.farm.raise_with("bobby-gateway", &["bobby"], disks.1, epoch, self.bus("bobby-gateway"), ledger.clone()).await;
        let jerry = self.farm.raise_with("jerry-gateway", &["jerry"], disks.0, epoch, self.bus("jerry-gateway"), ledger).await;
        (jerry, bobby)
    }

    async fn run(&self) -> Result<(), String> {
        let mut disks = (store(), store());
        let (mut sent, mut epoch) = (0, 1);
        while sent < LETTERS {
            let (jerry, bobby) = self.pair(disks, epoch).await;
            for _ in 0..1 + self.world.rng.below(6) {
                let text = format!("{sent:03}");
                if sent < LETTERS && jerry.send("bobby", &format!("run-{text}"), &text).await.is_ok() {
                    sent += 1;
                }
                tokio::time::sleep(Duration::from_millis(self.world.rng.below(400))).await;
            }
            tokio::time::sleep(Duration::from_millis(self.world.rng.below(3_000))).await;
            disks = (jerry.die().await, bobby.die().await);
            epoch += 1;
        }
        let (jerry, bobby) = self.pair(disks, epoch).await;
        let mut lost = Vec::new();
        for n in 0..LETTERS {
            let run = format!("run-{n:03}");
            match jerry.room.wait(&run.as_str().into(), Duration::from_secs(3_600)).await.unwrap().and_then(|row| row.outcome) {
                None => return Err(format!("{run} never ended")),
                Some(end) if end.status == RunStatus::Ok && end.text == Some(format!("echo: {n:03}")) => {}
                // Given up, with its reason: the sender was told.
                Some(end) if end.failure.is_some() => lost.push(n),
                Some(end) => return Err(format!("{run} ended as {end:?}")),
            }
        }
        drop(bobby);
        let done = self.ledger.lock().unwrap().clone();
        let mut sorted = done.clone();
        sorted.sort();
        sorted.dedup();
        if sorted.len() != done.len() {
            return Err(format!("something was done twice: {done:?}"));
        }
        let missing: Vec<usize> = (0..LETTERS).filter(|n| !lost.contains(n) && !done.contains(&format!("{n:03}"))).collect();
        if !missing.is_empty() {
            return Err(format!("said to be done and not done: {missing:?}"));
        }
        // A letter that was given up may still arrive late, out of order; the others keep theirs.
        let kept: Vec<&String> = done.iter().filter(|text| !lost.contains(&text.parse().unwrap())).collect();
        if !kept.is_sorted() {
            return Err(format!("out of order: {kept:?}"));
        }
        Ok(())
    }
}

#[test]
fn no_letter_is_lost_or_done_twice_in_any_storm() {
    let broken: Vec<String> = seeds()
        .into_iter()
        .filter_map(|seed| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            runtime.block_on(async { Storm::new(seed).run().await.err().map(|why| format!("CLAWSTEAD_STORM={seed}: {why}")) })
        })
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
