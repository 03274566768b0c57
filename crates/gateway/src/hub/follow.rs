//! What happens by itself: answers of our agents go to who asked, and rows that nobody needs are removed.

use std::time::Duration;

use serde_json::{Value, json};

use clawstead_agent::RunRow;
use clawstead_farm::mailroom::Outcome;
use clawstead_state::{Batch, Scan, Table};
use clawstead_terms::{Failure, RunId, RunStatus, Unit};
use clawstead_world::TaskKind;

use super::{
    host::Host,
    letters::DEAD_MAX,
    rows::{DEAD, DONE, DeadRow, DoneRow, KEY, KeyRow, OWED, OwedRow, owed_key},
};
use crate::keeper;

/// An answer waits so long in an inbox, ms.
pub(super) const ANSWER_TTL_MS: i64 = 86_400_000;
/// How long one wait for a run's end lasts before it is renewed.
const WAIT_STEP: Duration = Duration::from_secs(600);
/// Pause before what the store refused is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// How often the rows are tidied.
const TIDY_EVERY: Duration = Duration::from_secs(600);
/// Idempotency keys and ends of letters are known so long, ms: as long as runs.
const KEPT_MS: i64 = 7 * 86_400_000;
/// Rows that one tidying removes at most, of each kind.
const TIDY_MAX: usize = 5_000;

impl Host {
    /// Goes on with what an earlier life of the gateway owed, and tidies from time to time.
    pub fn start(&self) {
        let (host, stop) = (self.clone(), self.world.tasks.stopping());
        self.world.tasks.spawn::<_, Failure>(TaskKind::logged("hub"), async move {
            host.watch_over_all().await?;
            if let Err(failure) = host.tell_of_guests().await {
                tracing::warn!(err = %failure, "agents of programs could not be told to the farm");
            }
            let admitting = host.clone();
            host.world.tasks.spawn::<_, Failure>(TaskKind::logged("hub names"), async move {
                let stop = admitting.world.tasks.stopping();
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = admitting.admit_all() => {}
                }
                Ok(())
            });
            for row in host.keeper.scan::<OwedRow>(&Unit::Global, Table::Meta, &Scan::prefix(OWED)).await? {
                host.follow(row.value);
            }
            let mut ticks = tokio::time::interval(TIDY_EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    _ = ticks.tick() => {
                        if let Err(failure) = host.tidy().await {
                            tracing::warn!(err = %failure, "old letters of the hub could not be removed; it is tried again");
                        }
                    }
                }
            }
        });
    }

    /// Waits for the end of a run and puts the answer into the inbox of who asked.
    pub(super) fn follow(&self, owed: OwedRow) {
        let (host, stop) = (self.clone(), self.world.tasks.stopping());
        self.world.tasks.spawn::<_, Failure>(TaskKind::logged("hub answer"), async move {
            loop {
                let done = tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    done = host.bring(&owed) => done,
                };
                match done {
                    Ok(()) => return Ok(()),
                    Err(failure) => tracing::warn!(letter = %owed.id, err = %failure, "the answer to a letter cannot be stored yet"),
                }
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        });
    }

    async fn bring(&self, owed: &OwedRow) -> Result<(), Failure> {
        let run = RunId::from(owed.id.as_str());
        loop {
            if let Some(farm) = self.farm.get()
                && farm.mailroom.find(run.as_str()).await?.is_some()
            {
                match farm.mailroom.wait(&run, WAIT_STEP).await?.and_then(|row| row.outcome) {
                    Some(outcome) => return self.answer(owed, told(&outcome)).await,
                    None => continue,
                }
            }
            if let Some(row) = self.lanes.wait(&run, WAIT_STEP).await? {
                return self.answer(owed, said(&row)).await;
            }
            if self.lanes.report(&run).await?.is_none() {
                // The letter was never accepted, and its sender was not told that it was.
                return self.keeper.delete(&Unit::Global, Table::Meta, &owed_key(&owed.id)).await;
            }
        }
    }

    async fn tidy(&self) -> Result<(), Failure> {
        let _turn = self.turn.lock().await;
        let before = self.now().plus(-KEPT_MS);
        let mut batch = Batch::new(Unit::Global);
        for row in self.keeper.scan::<DoneRow>(&Unit::Global, Table::Inbox, &Scan::prefix(DONE).limit(TIDY_MAX)).await? {
            if row.value.at < before {
                batch = batch.delete(Table::Inbox, row.key);
            }
        }
        for row in self.keeper.scan::<KeyRow>(&Unit::Global, Table::Inbox, &Scan::prefix(KEY).limit(TIDY_MAX)).await? {
            if row.value.at < before {
                batch = batch.delete(Table::Inbox, row.key);
            }
        }
        let mut dead = self.keeper.scan::<DeadRow>(&Unit::Global, Table::DeadLetters, &Scan::prefix(DEAD)).await?;
        dead.sort_by_key(|row| row.value.at);
        let over = dead.len().saturating_sub(DEAD_MAX);
        for row in dead.into_iter().take(over.min(TIDY_MAX / 2)) {
            batch = batch.delete(Table::DeadLetters, row.key);
        }
        batch = self.forget_asks(before, batch, TIDY_MAX / 2).await?;
        if batch.is_empty() { Ok(()) } else { self.keeper.commit(batch).await.map_err(keeper::sort) }
    }
}

/// What a run at another gateway said, for who asked: its text, or what went wrong.
fn told(outcome: &Outcome) -> Value {
    match (&outcome.failure, outcome.status) {
        (None, RunStatus::Ok) => outcome.text.clone().unwrap_or_default().into(),
        (failure, status) => {
            let why = failure.as_ref().map(|failure| failure.message.clone()).or_else(|| outcome.abort_reason.clone());
            json!({ "status": status, "error": why })
        }
    }
}

/// What a run said, for who asked: its text, or what went wrong.
fn said(row: &RunRow) -> Value {
    if row.status == RunStatus::Ok && !row.silent {
        return row.text.clone().unwrap_or_default().into();
    }
    let mut out = json!({ "status": row.status });
    if row.silent {
        out["silent"] = true.into();
    }
    if let Some(failure) = &row.failure {
        out["error"] = failure.message.clone().into();
    } else if let Some(why) = &row.abort_reason {
        out["error"] = why.clone().into();
    }
    out
}
