use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{AgentId, Failure, Message, Millis, Part, RunId, SessionId, SessionKey, StopReason, Usage};

/// Where a run stands, for callers that ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Stored, not started.
    Queued,
    /// Going.
    Running,
    /// Ended with an answer.
    Ok,
    /// Ended with an error.
    Error,
    /// Stopped.
    Aborted,
    /// It may have had effects; never repeated by itself.
    Unknown,
}

/// What a run is busy with before the model speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunPhase {
    /// Reading workspace files.
    PreparingWorkspace,
    /// Building the request.
    PreparingContext,
    /// Waiting for the model.
    StartingModel,
}

/// A piece of a tool's output while it runs.
pub type ToolOutputPart = Part;

/// Something that happened in a run, for whoever watches. Not stored; the journal is.
#[derive(Clone, Debug)]
pub struct RunEvent {
    /// The run.
    pub run_id: RunId,
    /// The agent.
    pub agent: AgentId,
    /// The session.
    pub session: SessionKey,
    /// The transcript.
    pub session_id: SessionId,
    /// Counts the events of this run from 1.
    pub seq: u64,
    /// When.
    pub at: Millis,
    /// The agent session that spawned this one.
    pub spawned_by: Option<SessionKey>,
    /// True for heartbeat runs.
    pub heartbeat: bool,
    /// What.
    pub kind: RunEventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEventKind {
    /// A phase before the model speaks; only for letters with `status_events`.
    Phase(RunPhase),
    /// The run began.
    Started,
    /// A model was chosen; `None` when its slot is released.
    Model(Option<(String, String)>),
    /// More text. `text` is all of the current message so far, `delta` what is new.
    Text {
        /// The assistant message it belongs to.
        item_id: String,
        /// Everything so far.
        text: String,
        /// What is new.
        delta: String,
    },
    /// More reasoning.
    Thinking {
        /// What is new.
        delta: String,
    },
    /// A tool call begins.
    ToolStart {
        /// The model's call id.
        call_id: String,
        /// The tool.
        name: String,
        /// Its arguments.
        args: Value,
    },
    /// A tool has output while it runs.
    ToolUpdate {
        /// The call.
        call_id: String,
        /// The tool.
        name: String,
        /// All output so far (cut to its last 8 KiB).
        output: String,
    },
    /// A tool call ended.
    ToolEnd {
        /// The call.
        call_id: String,
        /// The tool.
        name: String,
        /// Its result.
        content: Vec<Part>,
        /// Structured extras.
        details: Option<Value>,
        /// True when it failed.
        is_error: bool,
        /// How long it took, ms.
        duration_ms: u64,
    },
    /// Tokens of the latest model call.
    Usage(Usage),
    /// A model failed and another one is tried, or the same again.
    Fallback {
        /// `provider/model` that failed.
        from: String,
        /// The next one.
        to: String,
        /// Why.
        failure: Failure,
        /// Milliseconds until the next try.
        delay_ms: u64,
    },
    /// A message joined the transcript (user, assistant or tool), with its position from 1.
    Said {
        /// The message.
        message: Box<Message>,
        /// Its position.
        position: u64,
    },
    /// The context was compacted.
    Compacted {
        /// Estimated tokens before.
        tokens_before: u64,
    },
    /// The run ended with an answer.
    Finished {
        /// The final text, may be empty.
        text: String,
        /// Why the model stopped.
        stop_reason: StopReason,
        /// All tokens of the run.
        usage: Usage,
        /// When it began.
        started_at: Millis,
        /// The tools that worked.
        tools_used: Vec<String>,
    },
    /// The run failed.
    Failed {
        /// Why.
        failure: Failure,
        /// `auth`, `quota`, `context`, `content`, `network`, `timeout`, `model`, `internal`.
        error_kind: String,
        /// When it began.
        started_at: Millis,
        /// Text the model had said so far.
        partial: String,
    },
    /// The run was stopped.
    Aborted {
        /// `rpc`, `interrupt`, `timeout`, `stop`.
        reason: String,
        /// When it began.
        started_at: Millis,
        /// Text the model had said so far.
        partial: String,
    },
}
