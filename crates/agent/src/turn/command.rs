use serde_json::Value;

use clawstead_providers::{Chunk, ProviderError};
use clawstead_terms::{EffectClass, JournalEvent, Part, RunEnd, RunEventKind, StopReason, Usage};

/// How sure a write must be before the turn goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The turn waits for [`TurnEvent::Persisted`]: an effect follows that must not happen unrecorded.
    Awaited,
    /// Written in the background; a crash before that repeats only what may be repeated.
    Soon,
}

/// What happened, as the turn is told.
#[derive(Clone, Debug)]
pub enum TurnEvent {
    /// Begin.
    Started,
    /// A model was chosen.
    Chosen {
        /// The provider's id.
        provider: String,
        /// The model's id.
        model: String,
    },
    /// Another model is tried; what was said so far is void.
    Fallback,
    /// A piece of the answer.
    Chunk(Chunk),
    /// The stream of pieces ended.
    ModelDone,
    /// The model call failed.
    ModelFailed(ProviderError),
    /// A tool call ended.
    ToolDone {
        /// Its place among the calls of the assistant message.
        index: usize,
        /// What it gave, for the model.
        content: Vec<Part>,
        /// Structured extras.
        details: Option<Value>,
        /// True when it failed.
        is_error: bool,
    },
    /// An awaited write is durable.
    Persisted,
    /// The answer to [`Command::Boundary`]: letters that joined the transcript just now.
    Steered(usize),
    /// The answer to [`Command::Compact`]: whether the context is smaller now.
    Compacted(bool),
    /// Somebody stops the run: `rpc`, `interrupt`, `stop`.
    Abort(String),
    /// The turn's time is over.
    Deadline,
}

/// A tool call to make.
#[derive(Clone, Debug, PartialEq)]
pub struct CallTool {
    /// Its place among the calls of the assistant message.
    pub index: usize,
    /// The model's call id.
    pub call_id: String,
    /// The tool.
    pub name: String,
    /// Its arguments.
    pub arguments: Value,
    /// `UUIDv5` of run, step and call.
    pub effect_id: String,
    /// What may be done again after a crash.
    pub class: EffectClass,
}

/// How a turn ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    /// Messages that join the transcript in the same write as the end.
    pub events: Vec<JournalEvent>,
    /// How.
    pub end: RunEnd,
    /// The final text (or what was said so far when it failed).
    pub text: String,
    /// Why the model stopped.
    pub stop_reason: StopReason,
    /// All tokens of the run.
    pub usage: Usage,
    /// Tokens of the last model call: how full the context is.
    pub last_usage: Option<Usage>,
    /// `provider` and `model` that gave the answer.
    pub model: Option<(String, String)>,
    /// The tools that worked.
    pub tools_used: Vec<String>,
    /// `auth`, `quota`, `context`, `content`, `network`, `timeout`, `model`, `internal` for errors.
    pub error_kind: Option<&'static str>,
    /// True when the text is an acknowledgement or a silent token that nobody should get.
    pub silent: bool,
}

/// What the turn wants done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Append to the journal.
    Persist(Vec<JournalEvent>, Durability),
    /// Build a request from the transcript and ask.
    AskModel,
    /// Drop the answer that is coming.
    CancelModel,
    /// Make a call.
    CallTool(CallTool),
    /// Stop running calls; their results are ignored from here on.
    CancelTools,
    /// More text of the current assistant message.
    Delta {
        /// The message's id.
        item_id: String,
        /// The new text.
        text: String,
    },
    /// Tell whoever watches.
    Emit(Box<RunEventKind>),
    /// Between two model calls: let waiting letters join, then answer [`TurnEvent::Steered`].
    Boundary,
    /// Make the context smaller, then answer [`TurnEvent::Compacted`].
    Compact,
    /// Send [`TurnEvent::Deadline`] after this many milliseconds.
    SetTimer(u64),
    /// It is over. Nothing follows.
    End(Box<Ending>),
}
