//! One turn: from a letter to its answer, with as many model and tool calls as it takes. [`Turn::step`] decides,
//! the lane does; nothing in here waits, reads or sends.
//!
//! Rules:
//! 1. A tool that changes something starts only after its intent is durable ([`Durability::Awaited`]).
//! 2. Every tool call in the transcript gets exactly one result, also when the turn is stopped.
//! 3. Whatever ends a turn, what it leaves in the transcript builds a valid next request.

mod command;
mod step;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use uuid::Uuid;

use clawstead_terms::{EffectClass, Part, RunId, StopReason, Usage};

pub use command::{CallTool, Command, Durability, Ending, TurnEvent};

use crate::Offer;

/// Tells the effect ids of this product from other UUIDs of version 5.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f1d_2c0a_58e3_4b7a_9d42_1c7e_a0b3_55d1);

/// A tool's text beyond this many characters is cut in the middle.
pub const RESULT_CHARS_MAX: usize = 120_000;
/// Pictures of one tool result beyond this many bytes are left out: a message is one value of the store.
pub const RESULT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of one answer of a model at most.
pub const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The same calls this often in a row get an error instead of a run.
pub const REPEATS_WARN: u32 = 4;
/// The same calls this often in a row end the turn.
pub const REPEATS_MAX: u32 = 8;
/// A stream that breaks off is asked for again this often.
pub const STREAM_RETRIES_MAX: u32 = 2;

/// The effect id of a tool call: the same for the same run, step and place, also after a crash.
#[must_use]
pub fn effect_id(run: &RunId, step: u32, index: usize) -> String {
    Uuid::new_v5(&NAMESPACE, format!("{run}/{step}/{index}").as_bytes()).to_string()
}

/// The effect id of a run's reply.
#[must_use]
pub fn reply_id(run: &RunId) -> String {
    Uuid::new_v5(&NAMESPACE, format!("{run}/reply").as_bytes()).to_string()
}

/// The id of a message of a run: the same for the same attempt and number.
#[must_use]
pub fn message_id(run: &RunId, attempt: u32, number: u32) -> String {
    Uuid::new_v5(&NAMESPACE, format!("{run}/{attempt}/message/{number}").as_bytes()).to_string()
}

/// A call left without a result by a crash.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenCall {
    /// The model's call id.
    pub call_id: String,
    /// The tool.
    pub name: String,
    /// Its arguments.
    pub arguments: Value,
    /// Its place among the calls of its message.
    pub index: usize,
    /// Its recorded intent: effect id and class. None means it never started, or only read.
    pub intent: Option<(String, EffectClass)>,
}

/// What a turn begins with.
#[derive(Clone)]
pub struct TurnPlan {
    /// The run.
    pub run_id: RunId,
    /// 1, or more after crashes.
    pub attempt: u32,
    /// Model calls that earlier attempts left in the transcript.
    pub steps_done: u32,
    /// Messages that earlier attempts left in the transcript.
    pub messages_done: u32,
    /// Calls that earlier attempts left without a result.
    pub open_calls: Vec<OpenCall>,
    /// The tools.
    pub offer: Arc<dyn Offer>,
    /// Model calls at most.
    pub model_calls_max: u32,
    /// Reading calls at once.
    pub parallel_max: usize,
    /// Milliseconds; 0 means no limit.
    pub timeout_ms: u64,
    /// True for heartbeats.
    pub heartbeat: bool,
    /// See [`crate::AgentSettings::heartbeat_ack_chars_max`].
    pub ack_chars_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallState {
    Waiting,
    Announced,
    Running,
    Done,
}

#[derive(Clone, Debug)]
struct Call {
    index: usize,
    call_id: String,
    name: String,
    arguments: Value,
    effect_id: String,
    class: EffectClass,
    state: CallState,
}

#[derive(Debug)]
enum State {
    Fresh,
    Asking,
    Calling(Vec<Call>),
    AtBoundary,
    Compacting,
    Over,
}

/// One turn.
pub struct Turn {
    plan: TurnPlan,
    state: State,
    /// The answer that is coming.
    parts: Vec<Part>,
    answer_bytes: usize,
    answer_usage: Option<Usage>,
    /// Number of the next message, for its id.
    number: u32,
    /// Model calls so far, earlier attempts included.
    step: u32,
    asked: u32,
    usage: Usage,
    last_usage: Option<Usage>,
    model: Option<(String, String)>,
    tools_used: Vec<String>,
    compacted: bool,
    stream_retries: u32,
    empty_retries: u32,
    last_calls: Option<(String, u32)>,
}

impl Turn {
    /// A turn that waits for [`TurnEvent::Started`].
    #[must_use]
    pub fn new(plan: TurnPlan) -> Self {
        let (step, number) = (plan.steps_done, plan.messages_done);
        Self {
            plan,
            state: State::Fresh,
            parts: Vec::new(),
            answer_bytes: 0,
            answer_usage: None,
            number,
            step,
            asked: 0,
            usage: Usage::default(),
            last_usage: None,
            model: None,
            tools_used: Vec::new(),
            compacted: false,
            stream_retries: 0,
            empty_retries: 0,
            last_calls: None,
        }
    }

    /// True after [`Command::End`].
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// The text of the answer so far.
    #[must_use]
    pub fn text_so_far(&self) -> String {
        text_of(&self.parts)
    }

    fn class_of(&self, name: &str) -> Option<EffectClass> {
        self.plan.offer.class(name)
    }
}

fn text_of(parts: &[Part]) -> String {
    let mut out = String::new();
    for part in parts {
        if let Part::Text { text } = part {
            out.push_str(text);
        }
    }
    out
}

/// Why a turn that ended says so: the default for parts without a reason of their own.
const fn stop_of(calls: bool) -> StopReason {
    if calls { StopReason::ToolUse } else { StopReason::Stop }
}

/// Calls by id, to find doubles.
type Seen = BTreeMap<String, ()>;
