//! I1: no message is worked on twice.

use std::collections::BTreeMap;

use super::{Evidence, Invariant};

pub(super) const INVARIANT: Invariant = Invariant { name: "I1 no repeated effect", check };

fn check(evidence: &Evidence) -> Vec<String> {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for mark in evidence.handled.values().flatten() {
        *times.entry(mark).or_default() += 1;
    }
    times.into_iter().filter(|(_, times)| *times > 1).map(|(mark, times)| format!("{mark} was worked on {times} times")).collect()
}
