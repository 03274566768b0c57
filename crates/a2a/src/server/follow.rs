use std::sync::Arc;

use futures_util::{StreamExt as _, stream::BoxStream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use super::{
    engine::Engine,
    live::{Entry, Live, Next},
    relay::RelayEvent,
};
use crate::proto::{StreamResponse, Task, TaskState};

/// When a stream ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// When the task ends.
    Terminal,
    /// When it ends or needs its caller.
    Interrupted,
}

impl Until {
    fn is_met(self, state: TaskState) -> bool {
        state.is_terminal() || (self == Self::Interrupted && state.is_interrupted())
    }
}

/// An event as its reader gets it.
pub(crate) struct Told {
    /// Its number.
    pub seq: u64,
    /// What it says.
    pub json: Arc<str>,
}

impl From<Entry> for Told {
    fn from(entry: Entry) -> Self {
        Self { seq: entry.seq, json: entry.json }
    }
}

/// A reader of a task's events.
pub(crate) struct Follower {
    first: Option<Entry>,
    source: Option<Source>,
    /// The task is at another gateway.
    relayed: Option<BoxStream<'static, RelayEvent>>,
    _permit: OwnedSemaphorePermit,
}

struct Source {
    live: Arc<Live>,
    changed: watch::Receiver<u64>,
    seen: u64,
    until: Until,
    stopping: CancellationToken,
}

impl Follower {
    /// A stream of one event.
    pub fn one(event: StreamResponse, permit: OwnedSemaphorePermit) -> Self {
        Self { first: Some(Entry::new(0, event)), source: None, relayed: None, _permit: permit }
    }

    /// What a reader at another gateway gets.
    pub fn relayed(events: BoxStream<'static, RelayEvent>, permit: OwnedSemaphorePermit) -> Self {
        Self { first: None, source: None, relayed: Some(events), _permit: permit }
    }

    /// The task as it was after event `seq`, then everything after.
    pub fn new(engine: &Engine, live: Arc<Live>, first: Task, seq: u64, until: Until, permit: OwnedSemaphorePermit) -> Self {
        let changed = live.watch();
        let source = Source { live, changed, seen: seq, until, stopping: engine.world.tasks.stopping() };
        Self { first: Some(Entry::new(seq, StreamResponse::Task(first))), source: Some(source), relayed: None, _permit: permit }
    }

    /// The next event; None at the end.
    pub async fn next(&mut self) -> Option<Told> {
        if let Some(events) = &mut self.relayed {
            let RelayEvent { seq, event } = events.next().await?;
            return Some(Told { seq, json: event.get().into() });
        }
        if let Some(first) = self.first.take() {
            return Some(first.into());
        }
        let source = self.source.as_mut()?;
        loop {
            source.changed.borrow_and_update();
            match source.live.after(source.seen) {
                Next::Event(entry) => {
                    source.seen = entry.seq;
                    if entry.event.state().is_some_and(|state| source.until.is_met(state)) {
                        self.source = None;
                    }
                    return Some(entry.into());
                }
                Next::End => break,
                Next::Nothing(state) if source.until.is_met(state) => break,
                Next::Nothing(_) => {}
            }
            tokio::select! {
                biased;
                () = source.stopping.cancelled() => break,
                more = source.changed.changed() => if more.is_err() { break },
            }
        }
        self.source = None;
        None
    }
}
