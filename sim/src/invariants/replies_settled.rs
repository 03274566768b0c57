//! When nothing is left to do, every reply is done, failed or unknown, and says the truth about what people saw; in each
//! conversation people saw the replies in the order of the runs.

use clawstead_agent::OutboxState;
use clawstead_terms::RunStatus;

use crate::{actors::clock::BEGIN_MS, evidence::Evidence};

pub fn check(evidence: &Evidence) -> Vec<String> {
    let mut faults = Vec::new();
    for reply in &evidence.replies {
        let shown = evidence.arrivals.iter().filter(|arrival| arrival.shown && arrival.effect_id == reply.id).count();
        match reply.state {
            OutboxState::Done if shown != 1 => faults.push(format!("the reply of {} counts as sent and was seen {shown} times", reply.run_id)),
            OutboxState::Failed if shown != 0 => faults.push(format!("the reply of {} counts as failed and was seen ({:?})", reply.run_id, reply.outcome)),
            OutboxState::Queued | OutboxState::Sending => faults.push(format!("the reply of {} still waits", reply.run_id)),
            _ => {}
        }
    }
    // Whoever writes on a platform gets an answer, or the operator sees why not.
    for ((agent, run), row) in &evidence.runs {
        let wants = run.starts_with("in:") && row.merged_into.is_none() && !row.silent;
        let spoke = row.status == RunStatus::Ok && row.text.as_ref().is_some_and(|text| !text.trim().is_empty()) || row.status == RunStatus::Error;
        let id = clawstead_agent::turn::reply_id(&row.run_id);
        if wants && spoke && evidence.reply(&id).is_none() && !evidence.arrivals.iter().any(|arrival| arrival.effect_id == id) {
            faults.push(format!("run {run} of {agent} ended and nobody was told (accepted at {})", row.accepted_at.0 - BEGIN_MS));
        }
    }
    faults
}
