//! A message to its end: stream where there are streams, come back where one is cut, ask where there are none.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::{ClientError, Events, Remote};
use crate::proto::{
    ErrorKind, Message, SendMessageConfiguration, SendMessageRequest, SendMessageResponse, StreamResponse, Task, TaskArtifactUpdateEvent, TaskState,
    TaskStatus, TaskStatusUpdateEvent,
};

/// How often a cut stream is taken up again without an event in between.
const COME_BACK_MAX: u32 = 5;

/// Wait before coming back or asking again, milliseconds; doubled each time.
const AGAIN_MS: u64 = 250;

/// Longest such wait, milliseconds.
const AGAIN_MS_MAX: u64 = 5_000;

/// What came of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// An answer at once.
    Message(Message),
    /// A task that ended, or needs another message.
    Task(Task),
}

impl Asked {
    /// The text of it.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Message(message) => message.text(),
            Self::Task(task) => task.answer(),
        }
    }
}

/// Hears of events on the way.
pub type Told<'a> = &'a mut (dyn FnMut(&StreamResponse) + Send);

/// A task of which only events are known.
fn unknown(id: &str, context_id: &str) -> Task {
    let status = TaskStatus { state: TaskState::Unspecified, message: None, timestamp: None };
    Task { id: id.into(), context_id: context_id.into(), status, artifacts: None, history: None, metadata: None }
}

fn is_settled(state: TaskState) -> bool {
    state.is_terminal() || state.is_interrupted()
}

impl Remote {
    /// Sends a message and waits until its task ends or needs its caller, at most `ms_max` milliseconds.
    ///
    /// A message is sent once. When the connection breaks before the agent answered, nobody knows whether it came: that
    /// is an error here, and sending the same message id again is right only for an agent that takes an id once.
    ///
    /// # Errors
    /// [`ClientError::TooLong`] names the task, which goes on; the others as they happen.
    pub async fn ask(&self, request: SendMessageRequest, ms_max: u64, told: Told<'_>) -> Result<Asked, ClientError> {
        let mut task: Option<Task> = None;
        let limit = Duration::from_millis(ms_max);
        match tokio::time::timeout(limit, self.ask_on(request, &mut task, told)).await {
            Ok(asked) => asked,
            Err(_) => Err(match task {
                Some(task) => ClientError::TooLong { task_id: task.id, state: task.status.state, ms: ms_max },
                None => clawstead_world::HttpError::Timeout { url: self.interface.url.clone(), ms: ms_max }.into(),
            }),
        }
    }

    async fn ask_on(&self, mut request: SendMessageRequest, task: &mut Option<Task>, told: Told<'_>) -> Result<Asked, ClientError> {
        if self.card.capabilities.streaming == Some(true) {
            let goes_on = request.message.task_id.is_some();
            let events = self.stream(request).await?;
            return self.hear(events, goes_on, task, told).await;
        }
        request.configuration.get_or_insert_with(SendMessageConfiguration::default).return_immediately = true;
        match self.send(request).await? {
            SendMessageResponse::Message(message) => Ok(Asked::Message(message)),
            SendMessageResponse::Task(first) => {
                *task = Some(first);
                self.poll(task).await
            }
        }
    }

    /// Asks for a task until it is settled.
    async fn poll(&self, task: &mut Option<Task>) -> Result<Asked, ClientError> {
        let mut wait = AGAIN_MS;
        loop {
            let Some(known) = task.as_ref() else { return Err(self.no_task()) };
            if is_settled(known.status.state) {
                return Ok(Asked::Task(known.clone()));
            }
            let id = known.id.clone();
            tokio::time::sleep(Duration::from_millis(wait)).await;
            wait = (wait * 2).min(AGAIN_MS_MAX);
            *task = Some(self.get(&id).await?);
        }
    }

    fn no_task(&self) -> ClientError {
        ClientError::Protocol { url: self.interface.url.clone(), why: "the stream ended before it named a task".into() }
    }

    /// `goes_on`: the message continues a task, which a server may first show as it was before.
    async fn hear(&self, mut events: Events, mut goes_on: bool, task: &mut Option<Task>, told: Told<'_>) -> Result<Asked, ClientError> {
        let (mut seen, mut cuts, mut partial) = (None, 0, false);
        let mut last_cut = Instant::now();
        loop {
            let failure = match events.next().await {
                Some(Ok((id, event))) => {
                    cuts = 0;
                    seen = id.or(seen);
                    told(&event);
                    match (&event, task.as_mut()) {
                        (StreamResponse::Message(message), None) => return Ok(Asked::Message(message.clone())),
                        (StreamResponse::Task(whole), _) => *task = Some(whole.clone()),
                        (_, Some(known)) => known.apply(&event),
                        (StreamResponse::StatusUpdate(TaskStatusUpdateEvent { task_id, context_id, .. }), None)
                        | (StreamResponse::ArtifactUpdate(TaskArtifactUpdateEvent { task_id, context_id, .. }), None) => {
                            // Some agents do not begin with the task when a message continues one: what was before is
                            // asked for at the end.
                            partial = true;
                            task.insert(unknown(task_id, context_id)).apply(&event);
                        }
                    }
                    partial &= !matches!(event, StreamResponse::Task(_));
                    let as_before = std::mem::take(&mut goes_on) && matches!(&event, StreamResponse::Task(before) if before.status.state.is_interrupted());
                    if let Some(known) = task.as_ref().filter(|known| !as_before && is_settled(known.status.state)) {
                        return Ok(Asked::Task(if partial { self.get(&known.id).await? } else { known.clone() }));
                    }
                    continue;
                }
                Some(Err(err @ (ClientError::Refused { .. } | ClientError::Protocol { .. }))) => return Err(err),
                Some(Err(err)) => Some(err),
                None => None,
            };
            let Some(known) = task.as_ref() else { return Err(failure.unwrap_or_else(|| self.no_task())) };
            cuts += 1;
            if cuts > COME_BACK_MAX {
                tracing::debug!(url = self.interface.url, task = known.id, cuts, after = ?last_cut.elapsed(), "a stream is cut again and again; asking instead");
                return self.poll(task).await;
            }
            last_cut = Instant::now();
            let id = known.id.clone();
            tokio::time::sleep(Duration::from_millis((AGAIN_MS << (cuts - 1)).min(AGAIN_MS_MAX))).await;
            match self.subscribe(&id, seen.as_deref()).await {
                Ok(again) => events = again,
                // It ended meanwhile.
                Err(err) if err.refusal().is_some_and(|error| error.kind == ErrorKind::UnsupportedOperation) => {
                    *task = Some(self.get(&id).await?);
                    return self.poll(task).await;
                }
                Err(err @ ClientError::Refused { .. }) => return Err(err),
                Err(_) => events = futures_util::stream::empty().boxed(),
            }
        }
    }
}
