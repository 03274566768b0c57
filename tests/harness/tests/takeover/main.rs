//! A farm of three gateways over one PostgreSQL server and Consul: any of them may die, stand still or be cut off, and its
//! agents, its chat account and its schedules go on elsewhere. Each test names its row of the fault matrix.
//!
//! `CLAWSTEAD_ROUNDS` (default 1) repeats the fault of a row, for more samples of how long it took.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod cuts;
mod freezes;
mod kills;
mod order;
mod stores;
mod story;
mod work;

use std::time::Duration;

use clawstead_harness::{
    ha::{Chatter, Habit, Load, NAMES, Rig, Told, invariants},
    until,
};

/// How often a fault is repeated.
fn rounds() -> u64 {
    std::env::var("CLAWSTEAD_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Two clients that write to bobby and jerry through these gateways.
fn clients(rig: &Rig, through: &[&str], first: u64) -> Load {
    let ports: Vec<u16> = through.iter().map(|name| rig.port(name)).collect();
    let habit = Habit { clients: 2, agents: vec!["bobby", "jerry"], pause: Duration::from_millis(120), orders: "!pace 10 !pieces 6" };
    Load::start(&ports, &habit, first)
}

/// Somebody writes on the platform.
fn people(rig: &Rig, first: usize) -> Chatter {
    Chatter::start(&rig.platform, Duration::from_millis(250), "!pace 10 !pieces 6", first)
}

/// Ends the load, waits for rest, and demands that nothing is violated.
async fn judge(row: &str, rig: &Rig, told: &Told, written: usize) {
    let evidence = rig.evidence(told, written).await.unwrap();
    println!(
        "{row}: {} messages of clients ({} answered, marked {:?}), {written} on the platform ({} answered), longest call {:?}, {} tries again",
        told.accepted.len(),
        evidence.fates.answered,
        evidence.fates.marked,
        evidence.shown.len(),
        told.longest,
        told.trouble.len()
    );
    let broken = invariants::violations(&evidence);
    assert!(broken.is_empty(), "{row}: {broken:#?}\n{:#?}\n{}", evidence.owners, rig.logs());
    assert!(told.accepted.len() + written > 10, "{row}: too little load to prove anything");
}

/// Waits until the load has this many messages more.
async fn more(load: &Load, count: usize) {
    let goal = load.count() + count;
    assert!(until(clawstead_harness::PATIENCE, async || (load.count() >= goal).then_some(())).await.is_some(), "the load stands still at {}", load.count());
}

/// Every epoch now.
fn epochs(rig: &Rig) -> Vec<(String, u64)> {
    rig.records.all().into_iter().filter_map(|(unit, owners)| Some((unit, owners.last()?.epoch))).collect()
}

fn others(name: &str) -> Vec<&'static str> {
    NAMES.into_iter().filter(|other| *other != name).collect()
}
