//! Farms of whole gateways from seeds: one seed is one history, and every history keeps every promise.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use clawstead_sim::{
    Report,
    farm::{self, row::Row},
};

/// Seeds of each row in an ordinary test run. Hundreds are for a change of the farm:
/// `cargo run -p clawstead-sim -- --farm --seeds 1..500`; thousands of each row are `cargo xtask soak sim`.
const SEEDS_OF_A_ROW: u64 = 3;

#[test]
fn one_seed_gives_one_history_of_a_farm() {
    for (seed, row) in [(1, Row::M1), (2, Row::G1), (3, Row::M7), (5, Row::N1), (8, Row::G4), (13, Row::X1)] {
        let (first, second) = (farm::run(seed, row), farm::run(seed, row));
        assert!(first.log.lines().count() > 50, "seed {seed} of {row:?} does something");
        if let Some((number, (a, b))) = first.log.lines().zip(second.log.lines()).enumerate().find(|(_, (a, b))| a != b) {
            panic!("seed {seed} of {row:?} gives two histories, from line {number} on:\n{a}\n{b}");
        }
        assert_eq!(first.log.len(), second.log.len(), "seed {seed} of {row:?} gives a longer history the second time");
    }
}

/// Seeds that broke once.
#[test]
fn what_broke_once_does_not_break_again() {
    // A write failed, and a letter that came again before its row was read anew was told to be under way for ever.
    for (seed, row) in [(200, Row::M1), (203, Row::N1), (206, Row::M10)] {
        let report = farm::run(seed, row);
        assert!(report.violations.is_empty(), "{}\n{}", report.violations.join("\n"), report.rerun());
    }
}

#[test]
fn every_farm_keeps_every_promise_under_every_row() {
    let wanted = SEEDS_OF_A_ROW * Row::ALL.len() as u64;
    let next = AtomicU64::new(0);
    let (broken, carried): (Mutex<Vec<Report>>, AtomicU64) = (Mutex::default(), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= wanted {
                        return;
                    }
                    let report = farm::run(seed, Row::of(seed));
                    carried.fetch_add(report.counts.get("carried").copied().unwrap_or(0), Ordering::Relaxed);
                    if !report.violations.is_empty() {
                        broken.lock().unwrap_or_else(PoisonError::into_inner).push(report);
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(first) = broken.first() {
        panic!("{} of {wanted} farms are broken. The first: {}\n  again: {}\n{}", broken.len(), first.violations.join("\n  "), first.rerun(), first.log);
    }
    assert!(carried.into_inner() > 1_000, "letters went from gateway to gateway");
}
