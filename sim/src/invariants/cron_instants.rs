//! Each instant of a job ends exactly once: it ran, was skipped, or was missed. One that did not run has no run.

use clawstead_gateway::cron::{job::SlotEnd, schedule};
use clawstead_terms::Millis;

use crate::{actors::clock::BEGIN_MS, evidence::Evidence};

/// Instants looked at for one job.
const INSTANTS_MAX: usize = 5_000;

pub fn check(evidence: &Evidence) -> Vec<String> {
    let mut faults = Vec::new();
    for ((agent, job, at), slot) in &evidence.slots {
        let place = format!("{job} at {} ({agent})", at - BEGIN_MS);
        let run = evidence.runs.get(&(agent.clone(), slot.run_id.clone()));
        match &slot.end {
            SlotEnd::Started => faults.push(format!("{place} has no end")),
            SlotEnd::Skipped { reason } | SlotEnd::Missed { reason } if run.is_some() => {
                faults.push(format!("{place} counts as not run ({reason}) and has a run {}", slot.run_id));
            }
            SlotEnd::Ran { ok: true, .. } if run.is_none_or(|run| !run.is_over()) => {
                faults.push(format!("{place} counts as run and has no ended run {}", slot.run_id))
            }
            _ => {}
        }
    }
    for (id, known) in &evidence.known_jobs {
        let Some((off, _)) = known.off_ms else { continue };
        let Some(job) = evidence.jobs.get(&(known.agent.clone(), id.clone())) else {
            faults.push(format!("job {id} was stored and is gone"));
            continue;
        };
        let mut from = Millis(known.added_ms);
        for _ in 0..INSTANTS_MAX {
            let Ok(Some(next)) = schedule::next_after(&job.schedule, from, id) else { break };
            if next.0 >= off - 1_000 {
                break;
            }
            if !evidence.slots.contains_key(&(known.agent.clone(), id.clone(), next.0)) {
                faults.push(format!("{id} at {} has no record (added at {}, off at {})", next.0 - BEGIN_MS, known.added_ms - BEGIN_MS, off - BEGIN_MS));
            }
            from = next;
        }
    }
    faults
}
