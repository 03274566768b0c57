//! An end is final: no run, reply or instant that had ended ends again in another way.

use crate::evidence::Evidence;

pub fn check(evidence: &Evidence) -> Vec<String> {
    let now = evidence.ends();
    let changed = evidence
        .earlier_ends
        .iter()
        .filter_map(|(what, before)| now.get(what).filter(|after| *after != before).map(|after| format!("{what} ended as {before}, later as {after}")));
    changed.collect()
}
