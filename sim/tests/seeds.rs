//! Whole gateways from seeds: one seed is one history, and every history keeps every promise.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// Seeds of an ordinary test run. Thousands are for the program: `cargo run -p clawstead-sim -- --seeds 0..5000`.
const SEEDS: u64 = 200;

#[test]
fn one_seed_gives_one_history() {
    for seed in [1, 2, 3, 5, 8, 13, 21, 34] {
        let (first, second) = (clawstead_sim::run(seed), clawstead_sim::run(seed));
        assert!(first.log.lines().count() > 20, "seed {seed} does something");
        if let Some((number, (a, b))) = first.log.lines().zip(second.log.lines()).enumerate().find(|(_, (a, b))| a != b) {
            panic!("seed {seed} gives two histories, from line {number} on:\n{a}\n{b}");
        }
        assert_eq!(first.log.len(), second.log.len(), "seed {seed} gives a longer history the second time");
    }
}

#[test]
fn every_history_keeps_every_promise() {
    let next = AtomicU64::new(0);
    let broken: Mutex<Vec<String>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    let report = clawstead_sim::run(seed);
                    if !report.violations.is_empty() {
                        let text = format!("seed {seed}: {}\n  again: {}\n{}", report.violations.join("\n  "), report.rerun(), report.log);
                        broken.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(first) = broken.first() {
        panic!("{} of {SEEDS} seeds are broken. The first: {first}", broken.len());
    }
}
