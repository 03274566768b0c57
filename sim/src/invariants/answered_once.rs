//! Each letter is accepted once, ends at most once, is said at most once, and has at most one final answer.

use std::collections::BTreeMap;

use clawstead_terms::{JournalEvent, Part, Role, StopReason};

use crate::evidence::Evidence;

#[derive(Default)]
struct Counts {
    accepted: usize,
    said: usize,
    answers: usize,
    ended: usize,
}

pub fn check(evidence: &Evidence) -> Vec<String> {
    let mut counts: BTreeMap<(String, String), Counts> = BTreeMap::new();
    for session in &evidence.sessions {
        for (_, event) in &session.journal {
            match event {
                JournalEvent::Accepted { letter } => counts.entry((session.agent.clone(), letter.run_id.to_string())).or_default().accepted += 1,
                JournalEvent::RunEnded { run_id, .. } => counts.entry((session.agent.clone(), run_id.to_string())).or_default().ended += 1,
                JournalEvent::Said { message } => {
                    let Some(run) = &message.run_id else { continue };
                    let count = counts.entry((session.agent.clone(), run.to_string())).or_default();
                    match message.role {
                        Role::User => count.said += 1,
                        Role::Assistant => {
                            let calls = message.parts.iter().any(|part| matches!(part, Part::ToolCall { .. }));
                            count.answers += usize::from(!calls && message.stop_reason == Some(StopReason::Stop));
                        }
                        Role::Tool | Role::System => {}
                    }
                }
                _ => {}
            }
        }
    }
    let mut faults = Vec::new();
    for ((agent, run), count) in &counts {
        if count.accepted > 1 || count.said > 1 || count.answers > 1 || count.ended > 1 {
            let Counts { accepted, said, answers, ended } = count;
            faults.push(format!("run {run} of {agent}: accepted {accepted}, said {said}, answered {answers}, ended {ended} times"));
        }
    }
    faults
}
