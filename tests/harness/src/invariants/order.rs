//! I13: messages of one session are worked on in the order in which they were taken. One that was given up meanwhile may
//! come late.

use std::collections::BTreeMap;

use super::{Evidence, Invariant, row_of, text};

pub(super) const INVARIANT: Invariant = Invariant { name: "I13 order", check };

fn check(evidence: &Evidence) -> Vec<String> {
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for (place, taken) in evidence.taken.iter().enumerate() {
        if row_of(evidence, &taken.run).is_some_and(|row| text(row, "/row/state") == "acked") {
            places.insert(&taken.mark, place);
        }
    }
    let mut out = Vec::new();
    for (session, marks) in &evidence.handled {
        let order: Vec<(usize, &String)> = marks.iter().filter_map(|mark| Some((*places.get(mark.as_str())?, mark))).collect();
        for pair in order.windows(2) {
            if let [(first, before), (second, after)] = pair
                && first > second
            {
                out.push(format!("{before} was worked on before {after} in {session}"));
            }
        }
    }
    out
}
