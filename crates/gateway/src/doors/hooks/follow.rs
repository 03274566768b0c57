//! After a hook's turn: what came of it, for who waits; and a note to the agent's main session when the answer reached
//! nobody. The note is owed from before the letter is accepted until it is stored, so that a restart forgets none.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use clawstead_agent::{OutboxState, RunRow};
use clawstead_state::{Scan, Table};
use clawstead_terms::{AgentId, Failure, FailureCode, RunId, RunStatus, Unit};
use clawstead_world::TaskKind;

use super::{
    Hooks,
    call::{Refusal, When},
    of,
};
use crate::cron::RunDesk as _;

/// How long a reply may take to reach its channel before `waitForCompletion` answers without it.
const DELIVERY_WAIT: Duration = Duration::from_secs(30);
/// Characters of an answer told to the main session.
const SUMMARY_CHARS: usize = 2_000;
/// The rows of what is owed, in `Table::Meta` of the agent, by run.
const OWED_PREFIX: &str = "hook-follow/";
/// Pause before a note that could not be stored is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// What must be known to follow a run to its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Duty {
    /// The hook's name.
    pub name: String,
    /// When the agent is told.
    pub when: When,
    /// The answer has a place to go to.
    pub has_target: bool,
}

/// Who hears of an answer that reached nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tell {
    /// The agent's main session.
    IfNotDelivered,
    /// Nobody: the caller did not ask, or an earlier call does it.
    Nobody,
}

impl Hooks {
    /// Writes down that the outcome of a run must be told of. A run that is known already is followed by an earlier
    /// call.
    pub(super) async fn owe(&self, agent: &AgentId, run: &RunId, duty: &Duty) -> Result<(), Failure> {
        if self.chat.desk.lanes().report(run).await?.is_some() {
            return Ok(());
        }
        self.keeper.put(&Unit::Agent(agent.clone()), Table::Meta, &key(run), duty).await
    }

    /// Follows the runs that an earlier life of the gateway owed something for.
    pub(super) fn go_on(self: &Arc<Self>) {
        let hooks = Arc::clone(self);
        self.chat.world.tasks.spawn::<_, Failure>(TaskKind::logged("hook runs of before"), async move {
            let agents: Vec<AgentId> = hooks.config.load().agents.list.iter().map(|one| one.id.clone()).collect();
            for agent in agents {
                for row in hooks.keeper.scan::<Duty>(&Unit::Agent(agent.clone()), Table::Meta, &Scan::prefix(OWED_PREFIX)).await? {
                    let run = RunId::from(row.key.trim_start_matches(OWED_PREFIX));
                    drop(hooks.follow(agent.clone(), run, row.value, Tell::IfNotDelivered));
                }
            }
            Ok(())
        });
    }

    /// Waits for the end of a run in a task of its own, so that it does not depend on the caller's patience; tells
    /// the main session of an answer that reached nobody.
    pub(super) fn follow(self: &Arc<Self>, agent: AgentId, run: RunId, duty: Duty, tell: Tell) -> oneshot::Receiver<Result<Value, Refusal>> {
        let (told, ended) = oneshot::channel();
        let hooks = Arc::clone(self);
        let stop = self.chat.world.tasks.stopping();
        self.chat.world.tasks.spawn::<_, Failure>(TaskKind::logged("hook run"), async move {
            let row = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                row = hooks.chat.desk.ended(&agent, &run) => row,
            };
            let row = match row {
                Ok(row) => row,
                Err(failure) => {
                    let _ = told.send(Err(of(&failure)));
                    // Owed, but the letter was never accepted: its caller was not told `ok`.
                    return if failure.code == FailureCode::NotFound { hooks.paid(&agent, &run, tell).await } else { Err(failure) };
                }
            };
            let spoke = row.text.as_ref().is_some_and(|text| !text.trim().is_empty()) && !row.silent;
            let attempted = duty.has_target && (spoke || row.failure.is_some());
            let delivered = attempted && hooks.chat.desk.delivered(&agent, &run, DELIVERY_WAIT).await.is_some_and(|sent| sent.state == OutboxState::Done);
            let _ = told.send(Ok(completion(&row, delivered, attempted)));
            if tell == Tell::IfNotDelivered && !delivered {
                // The note has the same run id at every try, so it is there once.
                while let Err(failure) = hooks.announce(&agent, &run, &duty, &row).await {
                    tracing::warn!(agent = %agent, run = %run, err = %failure, "the note of a hook's answer cannot be stored yet");
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return Ok(()),
                        () = tokio::time::sleep(AGAIN) => {}
                    }
                }
            }
            hooks.paid(&agent, &run, tell).await
        });
        ended
    }

    /// Nothing is owed for a run any more.
    async fn paid(&self, agent: &AgentId, run: &RunId, tell: Tell) -> Result<(), Failure> {
        match tell {
            Tell::Nobody => Ok(()),
            Tell::IfNotDelivered => self.keeper.delete(&Unit::Agent(agent.clone()), Table::Meta, &key(run)).await,
        }
    }

    async fn announce(&self, agent: &AgentId, run: &RunId, duty: &Duty, row: &RunRow) -> Result<(), Failure> {
        if row.silent {
            return Ok(());
        }
        let status = if row.status == RunStatus::Ok { String::new() } else { format!(" ({})", status_word(row.status)) };
        let said = row.text.clone().or_else(|| row.failure.as_ref().map(|failure| failure.message.clone())).unwrap_or_default();
        let summary: String = said.trim().chars().take(SUMMARY_CHARS).collect();
        let text = format!("Hook {}{status}: {summary}", duty.name);
        self.cron.wake(agent, None, &text, duty.when == When::Now, RunId::from(format!("hook-note:{run}"))).await
    }
}

fn key(run: &RunId) -> String {
    format!("{OWED_PREFIX}{run}")
}

const fn status_word(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Ok => "ok",
        RunStatus::Aborted => "aborted",
        _ => "error",
    }
}

fn completion(row: &RunRow, delivered: bool, attempted: bool) -> Value {
    let mut out = json!({
        "status": status_word(row.status),
        "replyDisposition": if row.silent { "silent" } else { "visible" },
        "delivered": delivered,
        "deliveryAttempted": attempted,
    });
    if let Some(failure) = &row.failure {
        out["error"] = json!(failure.message);
    }
    out
}
