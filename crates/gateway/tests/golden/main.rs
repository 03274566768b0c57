//! Recorded conversations of the original's clients, played against a whole gateway: the one that the command line
//! raises, with its state on disk and a model behind HTTP.
//!
//! `GOLDEN=<part of a name> cargo test --test golden -- --nocapture` plays some of them and tells every difference.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first surprise")]
#![recursion_limit = "256"]

#[path = "../common/mod.rs"]
mod common;
mod compare;
mod house;
mod known;
mod model;
mod plan;
mod play;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use crate::{house::House, plan::Scene};

/// How many recordings hold; may only grow.
const FLOOR: usize = 113;
/// Differences told of one recording, unless it was asked for by name.
const TOLD: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_conversations_hold() {
    let only = std::env::var("GOLDEN").ok();
    let wanted = |name: &str| only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let (mut held, mut all) = (0, 0);
    let mut known = BTreeSet::new();
    let mut open: Vec<(String, Vec<String>)> = Vec::new();
    let began = Instant::now();
    for Scene { mode, before, recordings } in plan::scenes() {
        if !recordings.iter().any(|name| wanted(name)) {
            continue;
        }
        let mut house = House::raise(mode).await;
        for name in &before {
            plan::play(&mut house, name).await;
        }
        for name in &recordings {
            let found = plan::play(&mut house, name).await;
            all += 1;
            if found.is_empty() {
                held += 1;
            } else {
                open.push((name.clone(), found));
            }
        }
        known.extend(house.known.iter().filter(|(name, _)| recordings.contains(name)).cloned());
        house.close().await;
    }
    for (name, found) in &open {
        println!("  {name}: {} differences", found.len());
        let told = if only.is_some() { found.len() } else { TOLD };
        for what in found.iter().take(told) {
            println!("      {what}");
        }
    }
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, why) in &known {
        reasons.entry(why).or_default().push(name);
    }
    println!("known differences:");
    for (why, names) in reasons {
        let more = if names.len() > 3 { format!(" and {} more", names.len() - 3) } else { String::new() };
        println!("  {why}: {}{more}", names.iter().take(3).copied().collect::<Vec<_>>().join(", "));
    }
    println!("golden transcripts: {held} of {all} hold ({} ms)", began.elapsed().as_millis());
    assert!(only.is_some() || held >= FLOOR, "{held} of {all} hold, {FLOOR} did before");
}

#[test]
fn every_recording_has_its_place() {
    let mut placed: Vec<String> = plan::scenes().into_iter().flat_map(|scene| scene.recordings).collect();
    placed.extend(plan::ELSEWHERE.iter().map(|(name, _)| (*name).to_owned()));
    placed.sort();
    let mut twice = placed.clone();
    twice.dedup();
    assert_eq!(placed, twice, "a recording has two places");
    let all: Vec<String> = common::names();
    assert_eq!(placed, all);
}
