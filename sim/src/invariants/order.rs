//! Letters of a session are said in the order in which they were accepted.

use std::collections::BTreeMap;

use clawstead_terms::{JournalEvent, MessageId};

use clawstead_agent::turn;

use crate::evidence::Evidence;

pub fn check(evidence: &Evidence) -> Vec<String> {
    let mut faults = Vec::new();
    for session in &evidence.sessions {
        // The first message of a run is its letter.
        let mut accepted: BTreeMap<MessageId, (u64, String)> = BTreeMap::new();
        let mut last: Option<(u64, String)> = None;
        for (seq, event) in &session.journal {
            match event {
                JournalEvent::Accepted { letter } => {
                    accepted.insert(turn::message_id(&letter.run_id, 0, 0).into(), (*seq, letter.run_id.to_string()));
                }
                JournalEvent::Said { message } => {
                    let Some((at, run)) = accepted.get(&message.id) else { continue };
                    if let Some((before, earlier)) = &last
                        && before > at
                    {
                        faults.push(format!("{}: {run} (line {at}) was said after {earlier} (line {before})", session.row.key));
                    }
                    last = Some((*at, run.clone()));
                }
                _ => {}
            }
        }
    }
    faults
}
