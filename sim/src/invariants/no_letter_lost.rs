//! Every letter whose delivery was answered `Ok` is stored, and ends: answered, failed with a reason, or stopped.

use clawstead_terms::{JournalEvent, RunStatus};

use crate::evidence::Evidence;

/// What was answered `Ok` is in the ledger and in a journal, whenever the gateway dies.
pub fn taken_is_stored(evidence: &Evidence) -> Vec<String> {
    let mut faults = Vec::new();
    for taken in &evidence.taken {
        let key = (taken.agent.clone(), taken.run_id.clone());
        if !evidence.runs.contains_key(&key) {
            faults.push(format!("{} was taken by {} and is not in the ledger", taken.run_id, taken.agent));
            continue;
        }
        let accepted = evidence
            .sessions
            .iter()
            .filter(|session| session.agent == taken.agent)
            .flat_map(|session| &session.journal)
            .filter(|(_, event)| matches!(event, JournalEvent::Accepted { letter } if letter.run_id.as_str() == taken.run_id))
            .count();
        if accepted != 1 {
            faults.push(format!("{} was taken by {} and stands in its journals {accepted} times", taken.run_id, taken.agent));
        }
    }
    faults
}

/// When nothing is left to do, every run is over and says how it ended.
pub fn check(evidence: &Evidence) -> Vec<String> {
    let mut faults = Vec::new();
    for ((agent, run), row) in &evidence.runs {
        let reason = match row.status {
            RunStatus::Ok => true,
            RunStatus::Error => row.failure.is_some(),
            RunStatus::Aborted => row.abort_reason.is_some(),
            RunStatus::Unknown => true,
            RunStatus::Queued | RunStatus::Running => false,
        };
        if !row.is_over() || !reason {
            faults.push(format!("run {run} of {agent} has no end: {:?} over={} failure={:?}", row.status, row.is_over(), row.failure));
        }
        if let Some(into) = &row.merged_into
            && !evidence.runs.contains_key(&(agent.clone(), into.to_string()))
        {
            faults.push(format!("run {run} was merged into {into}, which is not there"));
        }
    }
    faults
}
