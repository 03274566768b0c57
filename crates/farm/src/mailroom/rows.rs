//! What the mailroom keeps in the store: letters sent, letters received, and what became of runs elsewhere.
//!
//! | Table | Key | What |
//! | --- | --- | --- |
//! | `outbox` | `farm/out/<message id>` | [`SentRow`], in the unit that writes |
//! | `outbox` | `farm/env/<message id>` | its envelope; removed when the letter ended |
//! | `outbox` | `farm/body/<hash>/<message id>` | the JSON text of a large body; removed when the letter ended, or its dead letter was dropped |
//! | `inbox` | `farm/in/<hash of source and idempotency key>` | [`TakenRow`], in the unit that is written to |
//! | `inbox` | `farm/body/<hash of source and idempotency key>` | the JSON text of a large body, until the work ended |
//! | `dead_letters` | `<message id>` | [`DeadRow`] |
//! | `meta` | `farm/run/<message id>` | [`RemoteRun`], in the unit that asked |
//! | `meta` | `farm/asked/<run id>/<agent>` | the message id, in the same unit |
//! | `meta` | `farm/epoch/<unit>` | highest epoch seen of letters of that unit, in the unit that is written to |

use clawstead_cluster::{
    envelope::{Envelope, Kind, MailState, Priority},
    letter::{Event, Outgoing, Row},
};
use clawstead_terms::{Failure, Millis, RunStatus};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Before the key of a sent letter.
pub const OUT: &str = "farm/out/";
/// Before the key of an envelope.
pub const ENV: &str = "farm/env/";
/// Before the key of a received letter.
pub const IN: &str = "farm/in/";
/// Before the key of a run elsewhere.
pub const RUN: &str = "farm/run/";
/// Before the key that leads from a run's id to the letter that asked for it.
pub const ASKED: &str = "farm/asked/";
/// Before the key of an epoch.
pub const EPOCH: &str = "farm/epoch/";
/// Transitions of one letter that are kept; older ones go first.
pub const HISTORY_MAX: usize = 64;

/// One transition, with its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// When.
    pub at: Millis,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// What is shown of a letter without its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// `UUIDv7`.
    pub message_id: String,
    /// The conversation.
    pub correlation_id: String,
    /// The letter that caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<String>,
    /// What it is for.
    pub kind: Kind,
    /// Who wrote.
    pub from: String,
    /// The gateway it was written at.
    pub from_gateway: String,
    /// To whom.
    pub to: String,
    /// The session of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// What is asked.
    pub capability: String,
    /// How urgent.
    pub priority: Priority,
    /// When it was written.
    pub created_at: Millis,
    /// When its time is over.
    pub expires_at: Millis,
}

impl Head {
    /// Of an envelope.
    #[must_use]
    pub fn of(letter: &Envelope) -> Self {
        Self {
            message_id: letter.message_id.clone(),
            correlation_id: letter.correlation_id.clone(),
            causation_id: letter.causation_id.clone(),
            kind: letter.kind,
            from: letter.source_agent.clone(),
            from_gateway: letter.source_gateway.clone(),
            to: letter.target_agent.clone(),
            session: letter.session_key.clone(),
            capability: letter.capability.clone(),
            priority: letter.priority(),
            created_at: letter.created_at,
            expires_at: letter.expires_at(),
        }
    }
}

/// A letter we sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SentRow {
    /// Where it stands.
    pub row: Outgoing,
    /// Its place among all letters of this unit.
    pub ord: u64,
    /// About it.
    pub head: Head,
    /// The run it asks for, and where what becomes of it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The gateway the last attempt went to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// What happened to it.
    pub history: Vec<Told>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Millis>,
}

/// A letter we got.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TakenRow {
    /// Where it stands.
    pub row: Row,
    /// About it.
    pub head: Head,
    /// Itself, until it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub letter: Option<Envelope>,
    /// What happened to it.
    pub history: Vec<Told>,
}

/// A letter that was given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadRow {
    /// Why, a code.
    pub reason: String,
    /// About it.
    pub head: Head,
    /// Itself.
    pub letter: Envelope,
    /// What happened to it.
    pub history: Vec<Told>,
    /// When it was given up.
    pub at: Millis,
    /// The letter that an operator sent in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_as: Option<String>,
}

/// How a run elsewhere ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// `ok`, `error`, `aborted`, `unknown`.
    pub status: RunStatus,
    /// The answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Why it was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort_reason: Option<String>,
    /// The result of a call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<serde_json::Value>,
}

impl Outcome {
    /// It went wrong.
    #[must_use]
    pub const fn failed(failure: Failure) -> Self {
        Self { status: RunStatus::Error, text: None, failure: Some(failure), abort_reason: None, value: None }
    }
}

/// A run that another gateway does for us.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteRun {
    /// The run.
    pub run_id: String,
    /// The letter that asked for it.
    pub message_id: String,
    /// The agent that does it.
    pub agent: String,
    /// Its session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// When it was asked for.
    pub at: Millis,
    /// When its end was heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Millis>,
    /// Its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// The key of a sent letter.
#[must_use]
pub fn out_key(message_id: &str) -> String {
    format!("{OUT}{message_id}")
}

/// The key of an envelope.
#[must_use]
pub fn env_key(message_id: &str) -> String {
    format!("{ENV}{message_id}")
}

/// The key of a received letter. A hash, because source and idempotency key may hold anything.
#[must_use]
pub fn in_key(letter: &Envelope) -> String {
    in_key_of(&letter.dedupe_key())
}

/// The key of a received letter that is known under this name.
#[must_use]
pub fn in_key_of(dedupe_key: &str) -> String {
    format!("{IN}{}", hex::encode(&Sha256::digest(dedupe_key.as_bytes())[..16]))
}

/// The key of a run elsewhere.
#[must_use]
pub fn run_key(message_id: &str) -> String {
    format!("{RUN}{message_id}")
}

/// The key that leads to it.
#[must_use]
pub fn asked_key(run: &str, agent: &str) -> String {
    format!("{ASKED}{run}/{agent}")
}

/// Adds transitions to a history, within its bound.
pub fn tell(history: &mut Vec<Told>, events: impl IntoIterator<Item = Event>, at: Millis) {
    history.extend(events.into_iter().map(|event| Told { at, event }));
    if history.len() > HISTORY_MAX {
        // The first one says when it began.
        history.drain(1..=history.len() - HISTORY_MAX);
    }
}

/// True while the letter may still be sent.
#[must_use]
pub const fn is_open(state: MailState) -> bool {
    !matches!(state, MailState::Acked | MailState::DeadLetter)
}
