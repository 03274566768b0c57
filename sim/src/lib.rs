//! Whole gateways in one thread, from one seed: first everything goes wrong that can, then the world heals and full
//! recovery is required. The same seed gives the same run, byte for byte.
//!
//! A run is a row of lives. In each of them a gateway is raised on what the last one left on its disk, clients and
//! platforms talk to it, and it ends: in order, at a moment, or at a chosen commit. The last life has no faults; when
//! it has come to rest, every promise in [`invariants::INVARIANTS`] is checked.

pub mod actors;
mod dice;
mod evidence;
pub mod farm;
mod house;
pub mod invariants;
mod life;
mod outside;
mod scenario;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use clawstead_state::{Image, MemoryStore};

use crate::{evidence::Evidence, invariants::When, life::End, outside::Outside, scenario::Plan};

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The row of the fault matrix, and where rows are kept; none for one gateway alone.
    pub farm: Option<(farm::row::Row, farm::plan::Storage)>,
    /// Promises that were broken; empty is good.
    pub violations: Vec<String>,
    /// Every event, one line each.
    pub log: String,
    /// What happened how often.
    pub counts: BTreeMap<&'static str, u64>,
    /// Simulated milliseconds.
    pub simulated_ms: i64,
}

impl Report {
    /// The command that runs this seed again.
    #[must_use]
    pub fn rerun(&self) -> String {
        let shared = |storage| if storage == farm::plan::Storage::Shared { "--shared " } else { "" };
        let farm = self.farm.map(|(row, storage)| format!("--farm {}--row {row:?} ", shared(storage))).unwrap_or_default();
        format!("cargo run -p clawstead-sim -- {farm}--seed {} --verbose", self.seed)
    }
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64) -> Report {
    outside::note_panics();
    drop(outside::take_panics());
    let plan = Plan::of(seed);
    let outside = Outside::new(seed);
    let done = Arc::new(Mutex::default());
    let config = Arc::new(Mutex::new(plan.config));
    let mut image = Image::default();
    let mut now_ms = 0;
    for number in 0..=plan.lives.len() {
        let life = plan.lives.get(number).copied();
        if life.is_none() {
            outside.heal();
        }
        let end: End = life::live(&plan, &outside, life, image, now_ms, &done, &config);
        image = end.image;
        now_ms = end.now_ms + life.map_or(0, |life| life.downtime_ms);
        for panic in outside::take_panics() {
            outside.violation(format!("no_panic: {panic}"));
        }
        check(&outside, &image, if life.is_some() { When::Always } else { When::Healed });
        if !outside.seen().violations.is_empty() {
            break;
        }
    }
    let mut seen = outside.seen();
    Report {
        seed,
        farm: None,
        violations: std::mem::take(&mut seen.violations),
        log: std::mem::take(&mut seen.log),
        counts: std::mem::take(&mut seen.counts),
        simulated_ms: now_ms,
    }
}

fn check(outside: &Outside, image: &Image, when: When) {
    let evidence = match Evidence::read(outside, &MemoryStore::on(image.clone())) {
        Ok(evidence) => evidence,
        Err(failure) => return outside.violation(format!("the store cannot be read: {failure}")),
    };
    for invariant in invariants::INVARIANTS {
        if when == When::Healed || invariant.when == When::Always {
            for fault in (invariant.check)(&evidence) {
                outside.violation(format!("{}: {fault}", invariant.name));
            }
        }
    }
    let ends = evidence.ends();
    outside.seen().ends.extend(ends);
}
