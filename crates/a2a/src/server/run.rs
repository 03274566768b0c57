//! What a turn tells becomes events of its task.

use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::{
    engine::Engine,
    host::{Piece, TurnEvent, TurnStream},
    live::Live,
};
use crate::proto::{Artifact, Part, StreamResponse, TaskArtifactUpdateEvent, TaskState};

/// The artifact that holds the agent's answer.
pub(crate) const ANSWER_ID: &str = "answer";

/// Largest task, bytes of its JSON; a turn that makes more fails.
pub(crate) const TASK_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Whether a change is stored before it is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    Yes,
    No,
}

/// Listens to a turn until it ends, is stopped or the house stops. A stopped house leaves the task at work: whoever
/// comes next asks the host about it.
pub(crate) async fn listen(engine: Arc<Engine>, live: Arc<Live>, mut turn: TurnStream, stop: &CancellationToken) {
    let stopping = engine.world.tasks.stopping();
    let mut run = Run { engine, live, answer_begun: false, bytes: 0 };
    loop {
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = stopping.cancelled() => return,
            event = turn.next() => event,
        };
        let event = match event {
            Some(event) => event,
            None => {
                // Somebody may be stopping the turn right now, who will say so.
                drop(run.live.turn_door.lock().await);
                TurnEvent::Failed("The agent ended without an answer".into())
            }
        };
        if !run.take(event).await {
            return;
        }
    }
}

struct Run {
    engine: Arc<Engine>,
    live: Arc<Live>,
    answer_begun: bool,
    bytes: usize,
}

impl Run {
    /// Takes one event in; false when nothing more is to be read.
    async fn take(&mut self, event: TurnEvent) -> bool {
        let live = Arc::clone(&self.live);
        let _door = live.door.lock().await;
        // A run that was stopped while it waited at the door has nothing more to say.
        if live.state().is_terminal() || live.is_closed() {
            return false;
        }
        let last = event.is_last();
        let (events, durable) = self.translate(event);
        self.bytes += events.iter().map(weight).sum::<usize>();
        if self.bytes > TASK_BYTES_MAX {
            let words = format!("The answer is larger than {TASK_BYTES_MAX} bytes");
            self.publish(vec![self.engine.status(&live.at, TaskState::Failed, vec![Part::text(words)])], Durable::Yes).await;
            if let Err(failure) = self.engine.host.cancel(&live.at).await {
                tracing::warn!(agent = live.at.agent, task = live.at.task_id, err = %failure, "a turn with too large an answer could not be stopped");
            }
            return false;
        }
        self.publish(events, durable).await && !last
    }

    async fn publish(&self, events: Vec<StreamResponse>, durable: Durable) -> bool {
        match self.engine.publish(&self.live, events, durable).await {
            Ok(()) => true,
            Err(err) => {
                tracing::error!(agent = self.live.at.agent, task = self.live.at.task_id, err = %err, "a task cannot be stored; its readers are sent away");
                self.live.close();
                false
            }
        }
    }

    fn translate(&mut self, event: TurnEvent) -> (Vec<StreamResponse>, Durable) {
        let at = &self.live.at;
        let engine = Arc::clone(&self.engine);
        let status = |state, words: Vec<Part>| engine.status(at, state, words);
        let said = |words: String| vec![Part::text(words)];
        let begun = self.live.state() == TaskState::Working;
        let mut events = Vec::new();
        let durable = match event {
            TurnEvent::Working(words) => {
                events.push(status(TaskState::Working, words));
                if begun { Durable::No } else { Durable::Yes }
            }
            TurnEvent::Text(text) => {
                if !begun {
                    events.push(status(TaskState::Working, Vec::new()));
                }
                if !text.is_empty() {
                    let append = std::mem::replace(&mut self.answer_begun, true);
                    events.push(self.artifact(answer(vec![Part::text(text)]), append, false));
                }
                if begun { Durable::No } else { Durable::Yes }
            }
            TurnEvent::Artifact { artifact, piece } => {
                if !begun {
                    events.push(status(TaskState::Working, Vec::new()));
                }
                let last = matches!(piece, Piece::Whole | Piece::Last);
                events.push(self.artifact(artifact, matches!(piece, Piece::Next | Piece::Last), last));
                if last || !begun { Durable::Yes } else { Durable::No }
            }
            TurnEvent::InputRequired(words) => self.end(&mut events, status(TaskState::InputRequired, words)),
            TurnEvent::AuthRequired(words) => self.end(&mut events, status(TaskState::AuthRequired, words)),
            TurnEvent::Done { answer: whole, words } => {
                let parts = if whole.is_empty() { self.told() } else { whole };
                self.answer_begun = false;
                if !parts.is_empty() {
                    events.push(self.artifact(answer(parts), false, true));
                }
                events.push(status(TaskState::Completed, words));
                Durable::Yes
            }
            TurnEvent::Failed(words) => self.end(&mut events, status(TaskState::Failed, said(words))),
            TurnEvent::Rejected(words) => self.end(&mut events, status(TaskState::Rejected, said(words))),
            TurnEvent::Canceled(words) => self.end(&mut events, status(TaskState::Canceled, said(words))),
        };
        (events, durable)
    }

    /// The end of a turn that brings no answer: what was told of one stays as it is.
    fn end(&mut self, events: &mut Vec<StreamResponse>, status: StreamResponse) -> Durable {
        let told = self.told();
        self.answer_begun = false;
        if !told.is_empty() {
            events.push(self.artifact(answer(told), false, true));
        }
        events.push(status);
        Durable::Yes
    }

    /// The pieces of the answer so far, if this turn told any.
    fn told(&self) -> Vec<Part> {
        if !self.answer_begun {
            return Vec::new();
        }
        let inner = self.live.lock();
        inner.record.task.artifacts.iter().flatten().find(|found| found.artifact_id == ANSWER_ID).map(|found| found.parts.clone()).unwrap_or_default()
    }

    fn artifact(&self, artifact: Artifact, append: bool, last_chunk: bool) -> StreamResponse {
        let at = &self.live.at;
        StreamResponse::ArtifactUpdate(TaskArtifactUpdateEvent {
            task_id: at.task_id.clone(),
            context_id: at.context_id.clone(),
            artifact,
            append,
            last_chunk,
            metadata: None,
        })
    }
}

fn answer(parts: Vec<Part>) -> Artifact {
    Artifact::new(ANSWER_ID, parts)
}

fn weight(event: &StreamResponse) -> usize {
    serde_json::to_vec(event).map(|bytes| bytes.len()).unwrap_or_default()
}
