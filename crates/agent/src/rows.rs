//! What is stored besides journals: session rows, the run ledger, replies that wait to be sent.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use clawstead_terms::{
    Address, AgentId, DeliveryTarget, Envelope, Failure, Millis, Outcome, Part, QueueMode, RunId, RunStatus, SessionId, SessionKey, StopReason, Usage,
};

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionStatus {
    /// A run is going.
    Running,
    /// The last run ended well or was stopped.
    Done,
    /// The last run failed.
    Failed,
}

/// A letter that was accepted and whose run has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenRun {
    /// The run.
    pub run_id: RunId,
    /// The journal line with the letter.
    pub seq: u64,
    /// Tries so far; 0 means it waits.
    #[serde(default)]
    pub attempt: u32,
    /// True when it was put aside in order (a stop of the gateway): the next try is no crash.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub set_aside: bool,
}

/// One session, as lists and clients see it. Fields we do not know are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionRow {
    /// Its key.
    pub key: SessionKey,
    /// Its transcript; also the name of its journal.
    pub session_id: SessionId,
    /// Its agent.
    pub agent_id: AgentId,
    /// A name given by a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// A name made from the channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// A title made from the first message, at most 60 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub derived_title: Option<String>,
    /// When it was made.
    pub created_at: Millis,
    /// `chat`, `agent`, `channel`, `cron`, `spawn`, `api`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_via: Option<String>,
    /// Last change.
    pub updated_at: Millis,
    /// Last letter of a person or agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_interaction_at: Option<Millis>,
    /// When the conversation began, that is since the last reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_started_at: Option<Millis>,
    /// Where it stands; none before the first run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<SessionStatus>,
    /// Begin of the last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Millis>,
    /// End of the last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Millis>,
    /// Provider of the last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_provider: Option<String>,
    /// Model of the last answer, without its provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// `provider/model` chosen for this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_override: Option<String>,
    /// `user` or `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_override_source: Option<String>,
    /// Thinking level chosen for this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking_level: Option<String>,
    /// Queue mode chosen for this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_mode: Option<QueueMode>,
    /// `allow` or `deny`: whether replies leave to channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_policy: Option<String>,
    /// Fresh input tokens since the last reset.
    pub input_tokens: u64,
    /// Output tokens since the last reset.
    pub output_tokens: u64,
    /// Cache reads since the last reset.
    pub cache_read: u64,
    /// Cache writes since the last reset.
    pub cache_write: u64,
    /// Tokens in the context after the last answer.
    pub total_tokens: u64,
    /// False when `total_tokens` is older than the last compaction.
    pub total_tokens_fresh: bool,
    /// The context window in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<u64>,
    /// US dollars since the last reset.
    #[serde(default)]
    pub cost_usd: f64,
    /// The last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_id: Option<RunId>,
    /// Its error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_error: Option<String>,
    /// True when the last run was stopped.
    #[serde(default)]
    pub aborted_last_run: bool,
    /// Set when archived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived_at: Option<Millis>,
    /// Set when pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_at: Option<Millis>,
    /// True when an answer was not seen.
    #[serde(default)]
    pub unread: bool,
    /// The session it belongs under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_session_key: Option<SessionKey>,
    /// The session that spawned it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spawned_by: Option<SessionKey>,
    /// 0 for sessions of people.
    #[serde(default)]
    pub spawn_depth: u32,
    /// The newest text, at most 160 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_message_preview: Option<String>,
    /// Where the last channel letter came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_context: Option<DeliveryTarget>,
    /// Grows with every reset.
    #[serde(default)]
    pub lifecycle_revision: u64,
    /// Compactions since the last reset.
    #[serde(default)]
    pub compaction_count: u64,
    /// Messages since the last reset.
    #[serde(default)]
    pub message_count: u64,
    /// Journal line of the last reset; 0 when there was none.
    #[serde(default)]
    pub reset_seq: u64,
    /// Journal line from which the context is built.
    #[serde(default)]
    pub base_seq: u64,
    /// Accepted letters whose run has not ended, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<OpenRun>,
    /// Everything else (imported and newer fields).
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl SessionRow {
    /// A fresh row.
    pub fn new(key: SessionKey, session_id: SessionId, now: Millis) -> Self {
        Self {
            agent_id: key.agent(),
            key,
            session_id,
            label: None,
            display_name: None,
            derived_title: None,
            created_at: now,
            created_via: None,
            updated_at: now,
            last_interaction_at: None,
            session_started_at: Some(now),
            status: None,
            started_at: None,
            ended_at: None,
            model_provider: None,
            model: None,
            model_override: None,
            model_override_source: None,
            thinking_level: None,
            queue_mode: None,
            send_policy: None,
            input_tokens: 0,
            output_tokens: 0,
            cache_read: 0,
            cache_write: 0,
            total_tokens: 0,
            total_tokens_fresh: true,
            context_tokens: None,
            cost_usd: 0.0,
            last_run_id: None,
            last_run_error: None,
            aborted_last_run: false,
            archived_at: None,
            pinned_at: None,
            unread: false,
            parent_session_key: None,
            spawned_by: None,
            spawn_depth: 0,
            last_message_preview: None,
            delivery_context: None,
            lifecycle_revision: 0,
            compaction_count: 0,
            message_count: 0,
            reset_seq: 0,
            base_seq: 1,
            open: Vec::new(),
            extra: Map::new(),
        }
    }

    /// True while a letter waits or a run goes.
    #[must_use]
    pub fn has_active_run(&self) -> bool {
        !self.open.is_empty()
    }
}

/// One run: its idempotency key, where it stands, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunRow {
    /// The run; its letter's idempotency key.
    pub run_id: RunId,
    /// The session.
    pub session: SessionKey,
    /// The transcript.
    pub session_id: SessionId,
    /// SHA-256 of what was asked, hex: the same id with another text is a conflict.
    pub request_hash: String,
    /// Where it stands.
    pub status: RunStatus,
    /// When the letter was stored.
    pub accepted_at: Millis,
    /// When the run began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Millis>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Millis>,
    /// The final text, cut at 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Why the model stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    /// All tokens.
    #[serde(default)]
    pub usage: Usage,
    /// `provider/model` that gave the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The tools that worked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools_used: Vec<String>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// `auth`, `quota`, `context`, `content`, `network`, `timeout`, `model`, `internal`, `expired`, `interrupted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<String>,
    /// Why it was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort_reason: Option<String>,
    /// The run that answers for it (steer, collect).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged_into: Option<RunId>,
    /// True when the answer was an acknowledgement or a silent token and went nowhere.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub silent: bool,
}

impl RunRow {
    /// True when the run has ended.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.ended_at.is_some()
    }
}

/// Where an outbox row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutboxState {
    /// Waits.
    Queued,
    /// A send began; after a crash in this state the outcome is unknown.
    Sending,
    /// Sent.
    Done,
    /// Refused for good.
    Failed,
    /// It may have been sent; not repeated by itself.
    Unknown,
}

/// A reply that wants to leave to a chat platform: `Table::Outbox`, key `reply/<id>` while it waits, `sent/<id>` when
/// it has ended, so that looking for what waits does not read what was sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutboxRow {
    /// `UUIDv5` of the run: the effect id of its reply.
    pub id: String,
    /// The run.
    pub run_id: RunId,
    /// The session it comes from.
    pub session: SessionKey,
    /// Where to.
    pub target: DeliveryTarget,
    /// What.
    pub body: Vec<Part>,
    /// Where it stands.
    pub state: OutboxState,
    /// Tries so far.
    #[serde(default)]
    pub attempts: u32,
    /// Not before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Millis>,
    /// When it was written.
    pub created_at: Millis,
    /// Last change.
    pub updated_at: Millis,
    /// The platform's id of what was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// W3C trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

impl OutboxRow {
    /// Prefix of the keys of replies that wait in `Table::Outbox`. Folders of older versions have ended ones there too.
    pub const PREFIX: &'static str = "reply/";
    /// Prefix of the keys of replies that ended.
    pub const ENDED_PREFIX: &'static str = "sent/";

    /// Its key in `Table::Outbox` while it waits.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}{}", Self::PREFIX, self.id)
    }

    /// Its key when it has ended.
    #[must_use]
    pub fn ended_key(&self) -> String {
        format!("{}{}", Self::ENDED_PREFIX, self.id)
    }

    /// True when nothing more happens to it.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.state, OutboxState::Done | OutboxState::Failed | OutboxState::Unknown)
    }
}

/// A letter that a run's end owes to another session (an answer, a sub-agent's result): `Table::Outbox`, key
/// `letter/<run id>`. Lanes hand it to the `Post` and delete it when it is stored there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LetterRow {
    /// The letter.
    pub letter: Envelope,
    /// Tries so far.
    #[serde(default)]
    pub attempts: u32,
}

impl LetterRow {
    /// Prefix of the keys of letters in `Table::Outbox`.
    pub const PREFIX: &'static str = "letter/";

    /// Its key in `Table::Outbox`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}{}", Self::PREFIX, self.letter.run_id)
    }

    /// To whom.
    #[must_use]
    pub const fn to(&self) -> &Address {
        &self.letter.to
    }
}
