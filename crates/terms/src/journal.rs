use serde::{Deserialize, Serialize};

use crate::{Envelope, Failure, Message, MessageId, Millis, RunId, SessionId, Usage};

/// What may be done again after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EffectClass {
    /// Only reads: run it again.
    Read,
    /// The receiver knows repeats by the effect id: run it again with the same id.
    Idempotent,
    /// Never repeated by itself: ends as `Unknown`.
    Once,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "camelCase")]
pub enum RunEnd {
    /// With an answer (which may be empty).
    Ok,
    /// With an error that was shown to its reader.
    Error {
        /// What went wrong.
        failure: Failure,
    },
    /// Stopped by a person, a newer message or a time limit; the reason is `rpc`, `interrupt`, `timeout`, `stop`.
    Aborted {
        /// Why.
        reason: String,
    },
    /// Merged into a running turn (steer) or collected into another run.
    Merged {
        /// That run.
        into: RunId,
    },
}

/// One line of a session's journal. The journal is the truth: everything else about a session can be made
/// from it again. Appending is the only way to change it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum JournalEvent {
    /// A letter was stored; from here on it is never lost.
    Accepted {
        /// The letter.
        letter: Box<Envelope>,
    },
    /// A turn began on one or more accepted letters; their text is in the messages that follow.
    #[serde(rename_all = "camelCase")]
    RunStarted {
        /// The run; the first letter's.
        run_id: RunId,
        /// Further runs collected into this one.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        also: Vec<RunId>,
        /// When.
        at: Millis,
        /// 1 for the first try, more after a restart resumed it.
        attempt: u32,
    },
    /// A message joined the transcript.
    Said {
        /// The message.
        message: Box<Message>,
    },
    /// A tool call is about to happen.
    #[serde(rename_all = "camelCase")]
    ToolIntent {
        /// The run.
        run_id: RunId,
        /// The model's call id.
        call_id: String,
        /// `UUIDv5` of run, step and call: the key of the effect.
        effect_id: String,
        /// What may be done again.
        class: EffectClass,
    },
    /// A run ended. Final for that run.
    #[serde(rename_all = "camelCase")]
    RunEnded {
        /// The run.
        run_id: RunId,
        /// When.
        at: Millis,
        /// How.
        end: RunEnd,
        /// All tokens of the run.
        #[serde(default)]
        usage: Usage,
    },
    /// Everything before `first_kept` is replaced by a summary when a request is built.
    #[serde(rename_all = "camelCase")]
    Compacted {
        /// The summary.
        summary: String,
        /// The first message still sent as it was; none keeps nothing.
        first_kept: Option<MessageId>,
        /// Estimated context tokens before.
        tokens_before: u64,
        /// When.
        at: Millis,
    },
    /// The conversation starts afresh: messages before this line are not sent any more.
    #[serde(rename_all = "camelCase")]
    Reset {
        /// `new`, `reset`, `daily`, `idle`, `rpc`.
        reason: String,
        /// When.
        at: Millis,
        /// The transcript that follows.
        session_id: SessionId,
    },
}
