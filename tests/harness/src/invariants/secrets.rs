//! I14: no message's body is in a log, a dead letter's mirror or a figure.

use super::{Evidence, Invariant};

pub(super) const INVARIANT: Invariant = Invariant { name: "I14 no secret or body outside", check };

fn check(evidence: &Evidence) -> Vec<String> {
    if evidence.canary.is_empty() {
        return Vec::new();
    }
    evidence.texts.iter().filter(|(_, text)| text.contains(&evidence.canary)).map(|(name, _)| format!("{name} has the body of a message")).collect()
}
