use serde::{Deserialize, Serialize};

use super::{Artifact, Message, Object, filled, nullable};

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TaskState {
    /// Nobody knows.
    #[serde(rename = "TASK_STATE_UNSPECIFIED")]
    Unspecified,
    /// Taken, not begun.
    #[serde(rename = "TASK_STATE_SUBMITTED")]
    Submitted,
    /// The agent is at it.
    #[serde(rename = "TASK_STATE_WORKING")]
    Working,
    /// Done. Final.
    #[serde(rename = "TASK_STATE_COMPLETED")]
    Completed,
    /// Ended with an error. Final.
    #[serde(rename = "TASK_STATE_FAILED")]
    Failed,
    /// Stopped on request. Final.
    #[serde(rename = "TASK_STATE_CANCELED")]
    Canceled,
    /// The agent waits for another message.
    #[serde(rename = "TASK_STATE_INPUT_REQUIRED")]
    InputRequired,
    /// The agent will not do it. Final.
    #[serde(rename = "TASK_STATE_REJECTED")]
    Rejected,
    /// The agent waits for a credential.
    #[serde(rename = "TASK_STATE_AUTH_REQUIRED")]
    AuthRequired,
}

impl TaskState {
    /// True when nothing more will happen.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Canceled | Self::Rejected)
    }

    /// True when the agent waits for the client.
    #[must_use]
    pub const fn is_interrupted(self) -> bool {
        matches!(self, Self::InputRequired | Self::AuthRequired)
    }

    /// The word for people and for version 0.3: `input-required`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unknown",
            Self::Submitted => "submitted",
            Self::Working => "working",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::InputRequired => "input-required",
            Self::Rejected => "rejected",
            Self::AuthRequired => "auth-required",
        }
    }
}

/// A task's state with its words and its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskStatus {
    /// The state.
    pub state: TaskState,
    /// What the agent says to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Message>,
    /// When it was so; UTC with milliseconds.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
}

/// A unit of work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// Its id, made by the server.
    pub id: String,
    /// The conversation it belongs to.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub context_id: String,
    /// Where it stands.
    pub status: TaskStatus,
    /// What it made; None when the answer leaves them out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<Vec<Artifact>>,
    /// What was said; None when the answer leaves it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<Message>>,
    /// Free data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Object>,
}

/// Most messages a task's history keeps; the oldest go first.
pub(crate) const HISTORY_MAX: usize = 200;

impl Task {
    /// Adds a message to the history, which keeps the last 200.
    pub fn remember(&mut self, message: Message) {
        let history = self.history.get_or_insert_default();
        history.push(message);
        if history.len() > HISTORY_MAX {
            let surplus = history.len() - HISTORY_MAX;
            history.drain(..surplus);
        }
    }

    /// Takes an event in: what a reader of the stream has to do to be up to date. A status message that is replaced
    /// goes into the history.
    pub fn apply(&mut self, event: &StreamResponse) {
        match event {
            StreamResponse::Task(task) => *self = task.clone(),
            StreamResponse::Message(message) => self.remember(message.clone()),
            StreamResponse::StatusUpdate(update) => {
                let before = std::mem::replace(&mut self.status, update.status.clone());
                if let Some(words) = before.message {
                    self.remember(words);
                }
            }
            StreamResponse::ArtifactUpdate(update) => {
                let all = self.artifacts.get_or_insert_default();
                match all.iter_mut().find(|known| known.artifact_id == update.artifact.artifact_id) {
                    Some(known) if update.append => known.append(&update.artifact.parts),
                    Some(known) => *known = update.artifact.clone(),
                    None => all.push(update.artifact.clone()),
                }
            }
        }
    }

    /// The same with at most `length` messages of history; None means all, 0 leaves the field out.
    #[must_use]
    pub fn with_history(mut self, length: Option<u32>) -> Self {
        if let (Some(length), Some(history)) = (length, &mut self.history) {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let surplus = history.len().saturating_sub(length);
            history.drain(..surplus);
        }
        if self.history.as_ref().is_some_and(Vec::is_empty) {
            self.history = None;
        }
        self
    }

    /// The text of its artifacts, or of its status when it made none.
    #[must_use]
    pub fn answer(&self) -> String {
        let made = self.artifacts.iter().flatten().map(Artifact::text).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n");
        if made.is_empty() { self.status.message.as_ref().map(Message::text).unwrap_or_default() } else { made }
    }
}

/// A task's status changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskStatusUpdateEvent {
    /// The task.
    pub task_id: String,
    /// Its conversation.
    pub context_id: String,
    /// The new status.
    pub status: TaskStatus,
    /// Free data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Object>,
}

/// A task made something, or more of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskArtifactUpdateEvent {
    /// The task.
    pub task_id: String,
    /// Its conversation.
    pub context_id: String,
    /// The artifact, or the piece to append.
    pub artifact: Artifact,
    /// True when this continues the artifact of the same id.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "std::ops::Not::not")]
    pub append: bool,
    /// True when nothing more of it comes.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "std::ops::Not::not")]
    pub last_chunk: bool,
    /// Free data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Object>,
}

/// One event of a stream, and the body of a push notification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StreamResponse {
    /// The task as it is.
    Task(Task),
    /// A direct answer.
    Message(Message),
    /// The status changed.
    StatusUpdate(TaskStatusUpdateEvent),
    /// An artifact grew.
    ArtifactUpdate(TaskArtifactUpdateEvent),
}

impl StreamResponse {
    /// The state it tells of, if it does.
    #[must_use]
    pub const fn state(&self) -> Option<TaskState> {
        match self {
            Self::Task(task) => Some(task.status.state),
            Self::StatusUpdate(update) => Some(update.status.state),
            Self::Message(_) | Self::ArtifactUpdate(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{StreamResponse, Task, TaskState};

    fn task() -> Task {
        serde_json::from_value(json!({"id": "t", "contextId": "c", "status": {"state": "TASK_STATE_SUBMITTED"}})).unwrap()
    }

    fn event(value: serde_json::Value) -> StreamResponse {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn events_make_the_task_that_a_reader_asks_for() {
        let mut task = task();
        let words = json!({"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "at it"}]});
        task.apply(&event(json!({"statusUpdate": {"taskId": "t", "contextId": "c", "status": {"state": "TASK_STATE_WORKING", "message": words}}})));
        for (text, append) in [("one", false), (" two", true)] {
            task.apply(&event(
                json!({"artifactUpdate": {"taskId": "t", "contextId": "c", "append": append, "artifact": {"artifactId": "a", "parts": [{"text": text}]}}}),
            ));
        }
        task.apply(&event(json!({"statusUpdate": {"taskId": "t", "contextId": "c", "status": {"state": "TASK_STATE_COMPLETED"}}})));
        assert_eq!((task.status.state, task.answer().as_str()), (TaskState::Completed, "one two"));
        assert_eq!(task.history.as_ref().map(Vec::len), Some(1), "the words of the first status are kept");
        assert!(task.clone().with_history(Some(0)).history.is_none());
        assert_eq!(task.with_history(Some(5)).history.map(|h| h.len()), Some(1));
    }
}
