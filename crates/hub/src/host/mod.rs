//! What the hub needs from the farm behind it. The gateway implements [`HubHost`] over its registry, outbox and inbox
//! tables; [`local::LocalHost`] is a whole small farm in memory.
//!
//! The hub has checked shapes, scopes and ownership before it calls; the host keeps its own policy and its bounds.

pub mod local;

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use clawstead_terms::{AgentId, EnvelopeId, Failure, Millis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::peers::Owner;

/// How long `check_inbox` lends a letter before it comes again.
pub const LEASE: Duration = Duration::from_secs(60);

/// An agent as its owner announces it. Absent fields leave what was announced before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAgent {
    /// Its id, unique in the farm.
    pub id: AgentId,
    /// What it can do, for [`Filter::capability`] and for policies.
    pub capabilities: BTreeSet<String>,
    /// One sentence for people.
    pub description: Option<String>,
    /// The gateway the caller named. Only a wish: the answer names the gateway that serves the agent.
    pub gateway: Option<String>,
    /// The model service behind it.
    pub model_provider: Option<String>,
    /// True when its owner promises heartbeats.
    pub heartbeat_enabled: Option<bool>,
}

/// What became of a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The gateway that serves it.
    pub gateway: String,
    /// Whether it was there before.
    pub was: Was,
    /// When.
    pub at: Millis,
}

/// Whether a registration made something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Was {
    /// A new agent.
    New,
    /// The same owner registered it before.
    Known,
}

/// Where an agent lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Home {
    /// A gateway of the farm runs it.
    Farm,
    /// A program joined it through the hub.
    External,
}

/// An agent as others see it: the fields of `openclaw/agents/<id>/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Its id.
    pub id: AgentId,
    /// Where it lives.
    pub home: Home,
    /// The gateway that serves it.
    pub gateway: String,
    /// What it can do.
    pub capabilities: BTreeSet<String>,
    /// `active`, `online`, `offline`, or what its heartbeat said.
    pub status: String,
    /// One sentence for people.
    pub description: Option<String>,
    /// The model service behind it.
    pub model_provider: Option<String>,
    /// True when heartbeats are expected.
    pub heartbeat_enabled: bool,
    /// Its last heartbeat.
    pub last_check: Option<Millis>,
    /// What that heartbeat said.
    pub last_check_result: Option<String>,
    /// The last alert it told, with its time.
    pub last_alert: Option<String>,
    /// Who registered it; `None` for agents of the farm.
    pub owner: Option<Owner>,
}

/// Which agents to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only with this capability.
    pub capability: Option<String>,
    /// Only with this status.
    pub status: Option<String>,
    /// At most this many; the hub asks for 500 at most.
    pub limit: usize,
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// New status; `None` leaves it.
    pub status: Option<String>,
    /// What the last check of the agent's own work found.
    pub last_check_result: Option<String>,
    /// Something people should know, kept as [`Listing::last_alert`] until the next one.
    pub alert: Option<String>,
}

/// What a letter is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LetterKind {
    /// Wants an answer.
    #[default]
    Request,
    /// The answer to the letter named in `in_reply_to`.
    Reply,
    /// Something to know; starts no turn by itself.
    Event,
}

/// How urgent a letter is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// Refused first when an inbox fills.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Refused last.
    High,
}

/// A letter to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct NewLetter {
    /// The sender; the hub has checked that the caller owns it.
    pub from: AgentId,
    /// The receiver.
    pub to: AgentId,
    /// What is said; at most [`crate::mcp::BODY_BYTES_MAX`] as JSON.
    pub body: Value,
    /// What it is for.
    pub kind: LetterKind,
    /// The letter it answers.
    pub in_reply_to: Option<EnvelopeId>,
    /// The same key from the same sender is the same letter. At most 128 characters.
    pub idempotency_key: Option<String>,
    /// After this long it is dead. 1 s to 24 h; default 5 min.
    pub ttl: Duration,
    /// How urgent.
    pub priority: Priority,
}

/// Where a letter stands (cluster design, section 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LetterState {
    /// Stored with the sender.
    Queued,
    /// Stored with the receiver.
    Delivered,
    /// Handled.
    Acked,
    /// The receiver said that it failed; it may be tried again.
    Failed,
    /// Given up; an operator can replay it.
    DeadLetter,
}

/// What a stored letter is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its id.
    pub id: EnvelopeId,
    /// Where it stands.
    pub state: LetterState,
    /// Whether this call stored it.
    pub was: Was,
}

/// A letter lent from an inbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Lent {
    /// The letter.
    pub id: EnvelopeId,
    /// Its sender; an agent, or what else may write (a channel, a job) as text.
    pub from: String,
    /// What it is for.
    pub kind: LetterKind,
    /// What is said.
    pub body: Value,
    /// The letter it answers.
    pub in_reply_to: Option<EnvelopeId>,
    /// When it was written.
    pub sent: Millis,
    /// After this it is dead.
    pub expires: Option<Millis>,
    /// Names this loan, for `ack`.
    pub lease: String,
    /// Until then nobody else gets it.
    pub lent_until: Millis,
    /// How often it was lent, this time included.
    pub times: u32,
}

/// A loan of letters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loan {
    /// Oldest first.
    pub letters: Vec<Lent>,
    /// Letters that wait besides these and are not lent.
    pub waiting: u64,
}

/// How a letter ended for its receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Handled.
    Done,
    /// Not handled, and trying again does not help; it becomes a dead letter.
    Failed(String),
    /// Not now: it comes again at once.
    Return,
}

/// What became of an `ack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Where the letter stands now.
    pub state: LetterState,
    /// `Known` when the same verdict had been given before.
    pub was: Was,
}

/// A letter that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its id.
    pub id: EnvelopeId,
    /// Its sender.
    pub from: String,
    /// Its receiver.
    pub to: String,
    /// Why: `expired`, `poison`, `failed: ...`.
    pub reason: String,
    /// When it was given up.
    pub at: Millis,
    /// The letter that replaced it, after a replay.
    pub replayed_as: Option<EnvelopeId>,
}

/// The farm as the hub uses it. Every call ends within the host's own time limit (`UNAVAILABLE` or `TIMEOUT`).
#[async_trait]
pub trait HubHost: Send + Sync {
    /// The gateway's name, for messages.
    fn gateway(&self) -> String;

    /// Registers an agent for `owner`, or renews what it announced.
    ///
    /// # Errors
    /// `FORBIDDEN` when the id belongs to another owner or to the farm itself, `BUSY` when there are too many.
    async fn register(&self, owner: &Owner, agent: NewAgent) -> Result<Registered, Failure>;

    /// Who registered this agent: `None` for an agent of the farm.
    ///
    /// # Errors
    /// `NOT_FOUND` when there is no such agent.
    async fn owner_of(&self, agent: &AgentId) -> Result<Option<Owner>, Failure>;

    /// Agents, by id.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the registry is away.
    async fn discover(&self, filter: &Filter) -> Result<Vec<Listing>, Failure>;

    /// The agent lives. Answers the moment that was noted.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the registry is away.
    async fn beat(&self, agent: &AgentId, beat: Beat) -> Result<Millis, Failure>;

    /// Stores a letter. `Ok` means stored: it survives a crash from here on.
    ///
    /// # Errors
    /// `NOT_FOUND` for an unknown receiver, `FORBIDDEN` by policy, `BUSY` when a queue is full, `INVALID_REQUEST` when
    /// the idempotency key was used for another text.
    async fn send(&self, letter: NewLetter) -> Result<Sent, Failure>;

    /// Lends at most `limit` letters for `lease`: nobody else gets them until then. A letter that is not settled comes
    /// again.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store is away.
    async fn lend(&self, agent: &AgentId, limit: usize, lease: Duration) -> Result<Loan, Failure>;

    /// Settles a letter. With `lease`, only while that loan is the newest one.
    ///
    /// # Errors
    /// `NOT_FOUND` for a letter that is not in this inbox, `INVALID_REQUEST` when another loan has it or another
    /// verdict was given.
    async fn ack(&self, agent: &AgentId, letter: &EnvelopeId, lease: Option<&str>, verdict: Verdict) -> Result<Settled, Failure>;

    /// Dead letters, newest first: from or to one of `agents`, or all when it is `None`. At most `limit`.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store is away.
    async fn dead_letters(&self, agents: Option<&BTreeSet<AgentId>>, limit: usize) -> Result<Vec<DeadLetter>, Failure>;

    /// Sends a dead letter again with a new id and its old idempotency key, so that an effect that did happen is not
    /// repeated.
    ///
    /// # Errors
    /// `NOT_FOUND` for a letter that is not dead, `INVALID_REQUEST` when it was replayed before.
    async fn replay(&self, letter: &EnvelopeId) -> Result<Sent, Failure>;

    /// The ids an owner registered.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the registry is away.
    async fn agents_of(&self, owner: &Owner) -> Result<BTreeSet<AgentId>, Failure>;
}
