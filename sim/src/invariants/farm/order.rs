//! I13: letters of one lane (source, target, session) are taken in the order in which they were written. One that its
//! sender gave up may come late.

use std::collections::BTreeMap;

use clawstead_cluster::envelope::MailState;

use super::End;

pub fn end(end: &End<'_>) -> Vec<String> {
    let mut first_taken: BTreeMap<&str, u64> = BTreeMap::new();
    for taken in end.books.taken.values() {
        for letter in &taken.letters {
            let first = first_taken.entry(letter).or_insert(taken.first);
            *first = (*first).min(taken.first);
        }
    }
    let mut lanes: BTreeMap<(&str, &str, Option<&str>), Vec<(u64, u64, &str)>> = BTreeMap::new();
    for (id, sent) in &end.books.sent {
        // One that an operator sent again may stand for work that was done long ago.
        let replayed = end.books.dead.values().any(|dead| dead.replayed_as.as_ref() == Some(id));
        if sent.row.row.state == MailState::DeadLetter || replayed {
            continue;
        }
        let Some(taken) = first_taken.get(id.as_str()) else { continue };
        let head = &sent.row.head;
        lanes.entry((&head.from, &head.to, head.session.as_deref())).or_default().push((sent.first, *taken, id));
    }
    let mut faults = Vec::new();
    for (lane, mut letters) in lanes {
        letters.sort_unstable();
        for pair in letters.windows(2) {
            if pair[0].1 > pair[1].1 {
                faults.push(format!("{lane:?}: {} was written before {} and taken after it", pair[0].2, pair[1].2));
            }
        }
    }
    faults
}
