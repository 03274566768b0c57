//! A session's row and the run ledger say what the journal says.

use std::collections::{BTreeMap, BTreeSet};

use clawstead_terms::{JournalEvent, RunEnd, RunStatus};

use crate::evidence::Evidence;

pub fn check(evidence: &Evidence) -> Vec<String> {
    let mut faults = Vec::new();
    for session in &evidence.sessions {
        let key = &session.row.key;
        let mut open: BTreeSet<&str> = BTreeSet::new();
        let mut ends: BTreeMap<&str, &RunEnd> = BTreeMap::new();
        let mut messages = 0;
        for (seq, event) in &session.journal {
            match event {
                JournalEvent::Accepted { letter } => drop(open.insert(letter.run_id.as_str())),
                JournalEvent::RunEnded { run_id, end, .. } => {
                    open.remove(run_id.as_str());
                    ends.insert(run_id.as_str(), end);
                }
                JournalEvent::Said { .. } => messages += 1,
                JournalEvent::Reset { .. } => messages = 0,
                _ => {}
            }
            let _ = seq;
        }
        let row: BTreeSet<&str> = session.row.open.iter().map(|open| open.run_id.as_str()).collect();
        if row != open {
            faults.push(format!("{key}: open in its row {row:?}, in its journal {open:?}"));
        }
        if session.row.message_count != messages {
            faults.push(format!("{key}: {} messages in its row, {messages} in its journal", session.row.message_count));
        }
        for open in &session.row.open {
            let line = session.journal.iter().find(|(seq, _)| *seq == open.seq);
            if !matches!(line, Some((_, JournalEvent::Accepted { letter })) if letter.run_id == open.run_id) {
                faults.push(format!("{key}: line {} is not the letter of {}", open.seq, open.run_id));
            }
        }
        for (run, end) in ends {
            let Some(ledger) = evidence.runs.get(&(session.agent.clone(), run.to_owned())) else { continue };
            let fits = match end {
                RunEnd::Ok => ledger.status == RunStatus::Ok && ledger.merged_into.is_none(),
                RunEnd::Error { .. } => ledger.status == RunStatus::Error,
                RunEnd::Aborted { .. } => ledger.status == RunStatus::Aborted,
                RunEnd::Merged { into } => ledger.merged_into.as_ref() == Some(into),
            };
            if !fits || !ledger.is_over() {
                faults.push(format!("{key}: run {run} ended as {end:?} in the journal, the ledger says {:?}", ledger.status));
            }
        }
    }
    faults
}
