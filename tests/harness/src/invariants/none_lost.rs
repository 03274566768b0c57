//! I2: what was taken ends, as done or with a reason, and what is said to be done was.

use std::collections::BTreeSet;

use super::{Evidence, Invariant, row_of, text};

pub(super) const INVARIANT: Invariant = Invariant { name: "I2 no lost message", check };

fn check(evidence: &Evidence) -> Vec<String> {
    let handled: BTreeSet<&String> = evidence.handled.values().flatten().collect();
    let mut out = Vec::new();
    for taken in &evidence.taken {
        let Some(row) = row_of(evidence, &taken.run) else {
            out.push(format!("{} has no row in the outbox", taken.mark));
            continue;
        };
        match text(row, "/row/state") {
            "acked" if handled.contains(&taken.mark) => {}
            "acked" => out.push(format!("{} is said to be done and was not worked on", taken.mark)),
            "dead-letter" => {
                let id = text(row, "/row/message_id");
                let reason = evidence.dead.iter().find(|dead| text(dead, "/head/message_id") == id).map(|dead| text(dead, "/reason"));
                if reason.is_none_or(str::is_empty) {
                    out.push(format!("{} was given up without a reason", taken.mark));
                }
            }
            other => out.push(format!("{} has not ended: {other}, {}", taken.mark, row["history"])),
        }
    }
    out
}
