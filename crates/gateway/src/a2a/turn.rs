//! A run as its task hears it.

use std::{collections::VecDeque, sync::Arc};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};

use clawstead_a2a::{
    proto::Part,
    server::{TaskRef, TurnEvent, TurnStream},
};
use clawstead_agent::{HISTORY_MAX, HistoryPage, RunRow};
use clawstead_terms::{AgentId, Failure, Role, RunEventKind, RunId, RunStatus};

use super::house::House;
use crate::{cron::RunDesk as _, desk::Desk, doors::openai::Told, taps::Tap};

/// The ledger cuts texts at 64 KiB; longer ones are looked up in the transcript.
const LEDGER_TEXT_BYTES: usize = 60 * 1024;

/// What is said beside an answer that is none.
const NOTHING_SAID: &str = "The agent has nothing to say to this.";

/// A run that is followed.
pub(super) struct Going {
    house: House,
    task: TaskRef,
    run: RunId,
    tap: Tap,
    /// The tap may tell more.
    open: bool,
    begun: bool,
    told: Told,
    /// The final text, where its event was heard.
    heard: Option<String>,
    ended: BoxFuture<'static, Result<RunRow, Failure>>,
    ready: VecDeque<TurnEvent>,
    over: bool,
}

impl Drop for Going {
    fn drop(&mut self) {
        self.house.over(&self.task, &self.run);
    }
}

enum Heard {
    Event(Option<RunEventKind>),
    End(Box<Result<RunRow, Failure>>),
}

impl Going {
    pub(super) fn new(house: House, task: TaskRef, agent: AgentId, run: RunId, tap: Tap) -> Self {
        let (desk, id) = (house.desk().clone(), run.clone());
        let ended = async move { desk.ended(&agent, &id).await }.boxed();
        Self { house, task, run, tap, open: true, begun: false, told: Told::default(), heard: None, ended, ready: VecDeque::new(), over: false }
    }

    /// Its events. Dropping them lets the run go on.
    pub(super) fn stream(self) -> TurnStream {
        let next = |mut going: Box<Self>| async move {
            let event = going.next().await?;
            Some((event, going))
        };
        stream::unfold(Box::new(self), next).boxed()
    }

    async fn next(&mut self) -> Option<TurnEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            let heard = tokio::select! {
                biased;
                event = self.tap.next(), if self.open => Heard::Event(event),
                row = &mut self.ended => Heard::End(Box::new(row)),
            };
            match heard {
                Heard::Event(Some(event)) => self.hear(event),
                Heard::Event(None) => self.open = false,
                Heard::End(row) => {
                    // The run's end is told before its waiters hear of it, so only what is there already is left.
                    while let Some(event) = self.tap.try_next() {
                        self.hear(event);
                    }
                    match *row {
                        Ok(row) => {
                            let last = self.end(row).await;
                            if matches!(last, TurnEvent::Done { .. }) {
                                self.ready.extend(self.house.made(&self.task, &self.run).await.events(last));
                            } else {
                                self.ready.push_back(last);
                            }
                        }
                        Err(failure) => self.ready.push_back(TurnEvent::Failed(failure.message)),
                    }
                    self.over = true;
                }
            }
        }
    }

    fn hear(&mut self, event: RunEventKind) {
        if !self.begun {
            self.begun = true;
            self.ready.push_back(TurnEvent::Working(Vec::new()));
        }
        match event {
            RunEventKind::Text { item_id, text, .. } => {
                let more = self.told.more(&item_id, &text);
                if !more.is_empty() {
                    self.ready.push_back(TurnEvent::Text(more));
                }
            }
            RunEventKind::Finished { text, .. } => self.heard = Some(text),
            _ => {}
        }
    }

    async fn end(&mut self, row: RunRow) -> TurnEvent {
        match row.status {
            RunStatus::Ok => {}
            RunStatus::Aborted if row.abort_reason.as_deref() == Some("timeout") => return TurnEvent::Failed("The turn took too long and was stopped".into()),
            RunStatus::Aborted => return TurnEvent::Canceled("The turn was stopped".into()),
            _ => {
                let unknown = "The turn was interrupted; it may have had effects and is not repeated by itself";
                return TurnEvent::Failed(row.failure.map_or_else(|| unknown.to_owned(), |failure| failure.message));
            }
        }
        let desk = Arc::clone(self.house.desk());
        let text = match (self.heard.take(), &row.text) {
            (Some(text), _) => text,
            (None, Some(text)) if text.len() >= LEDGER_TEXT_BYTES => whole_text(&desk, &row).await.unwrap_or_else(|| text.clone()),
            (None, text) => text.clone().unwrap_or_default(),
        };
        if !row.silent && !text.is_empty() {
            self.told.rest(&text);
        }
        let all = self.told.all();
        if all.is_empty() {
            return TurnEvent::Done { answer: Vec::new(), words: vec![Part::text(NOTHING_SAID)] };
        }
        TurnEvent::Done { answer: vec![Part::text(all)], words: Vec::new() }
    }
}

/// The answer of a run as its transcript has it.
async fn whole_text(desk: &Desk, row: &RunRow) -> Option<String> {
    let page = desk.lanes().history(&row.session, HistoryPage::Newest { limit: HISTORY_MAX, skip: 0 }).await.ok()?;
    let last = page.items.iter().rev().find(|item| item.message.role == Role::Assistant && item.message.run_id.as_ref() == Some(&row.run_id))?;
    Some(last.message.plain_text()).filter(|text| !text.is_empty())
}
