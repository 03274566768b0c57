//! What the hub keeps, in the gateway's own unit.
//!
//! | Table | Key | What |
//! | --- | --- | --- |
//! | `meta` | `hub/agent/<id>` | [`AgentRow`] |
//! | `meta` | `hub/owed/<letter id>` | [`OwedRow`]: an answer that an agent of this gateway still gives |
//! | `inbox` | `hub/in/<agent>/<letter id>` | [`LetterRow`]: waits or is lent |
//! | `inbox` | `hub/done/<agent>/<letter id>` | [`DoneRow`]: how it ended |
//! | `inbox` | `hub/key/<hash of sender and key>` | [`KeyRow`] |
//! | `dead_letters` | `hub/dead/<letter id>` | [`DeadRow`] |

use std::collections::BTreeSet;

use clawstead_hub::{
    host::{Home, LetterKind, LetterState, Listing, Priority},
    peers::Owner,
};
use clawstead_terms::{AgentId, EnvelopeId, Millis};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Before the key of an agent.
pub const AGENT: &str = "hub/agent/";
/// Before the key of an answer that is owed.
pub const OWED: &str = "hub/owed/";
/// Before the keys of inboxes.
pub const IN: &str = "hub/in/";
/// Before the keys of settled letters.
pub const DONE: &str = "hub/done/";
/// Before the keys of idempotency keys.
pub const KEY: &str = "hub/key/";
/// Before the keys of dead letters.
pub const DEAD: &str = "hub/dead/";

/// An agent that promised heartbeats and was silent for so long counts as offline, ms.
const SILENCE_MS: i64 = 180_000;

/// An agent that a program registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentRow {
    /// Its id.
    pub id: AgentId,
    /// Who registered it.
    pub owner: Owner,
    /// What it can do.
    pub capabilities: BTreeSet<String>,
    /// What it says of itself.
    pub status: String,
    /// One sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The model service behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_provider: Option<String>,
    /// It promised heartbeats.
    #[serde(default)]
    pub heartbeat: bool,
    /// When it registered first.
    pub since: Millis,
    /// Its last sign of life.
    pub beat: Millis,
    /// What that said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// Its last alert with its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<String>,
}

impl AgentRow {
    /// As others see it.
    #[must_use]
    pub fn listing(self, gateway: &str, now: Millis) -> Listing {
        let silent = self.heartbeat && now.since(self.beat) > SILENCE_MS;
        Listing {
            id: self.id,
            home: Home::External,
            gateway: gateway.to_owned(),
            capabilities: self.capabilities,
            status: if silent { "offline".into() } else { self.status },
            description: self.description,
            model_provider: self.model_provider,
            heartbeat_enabled: self.heartbeat,
            last_check: Some(self.beat),
            last_check_result: self.check,
            last_alert: self.alert,
            owner: Some(self.owner),
        }
    }
}

/// A letter in the inbox of such an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LetterRow {
    /// Its id.
    pub id: EnvelopeId,
    /// Who wrote it.
    pub from: AgentId,
    /// To whom.
    pub to: AgentId,
    /// What it is for.
    pub kind: LetterKind,
    /// What is said.
    pub body: Value,
    /// The letter it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_reply_to: Option<EnvelopeId>,
    /// How urgent.
    pub priority: Priority,
    /// When it was written.
    pub sent: Millis,
    /// How long it lives, ms.
    pub ttl_ms: i64,
    /// The newest loan: its name, and when it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loan: Option<(String, Millis)>,
    /// How often it was lent.
    #[serde(default)]
    pub times: u32,
}

impl LetterRow {
    /// When it is dead.
    #[must_use]
    pub fn expires(&self) -> Millis {
        self.sent.plus(self.ttl_ms)
    }

    /// True while nobody has it.
    #[must_use]
    pub fn is_free(&self, now: Millis) -> bool {
        self.loan.as_ref().is_none_or(|(_, until)| *until <= now)
    }
}

/// How a letter ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoneRow {
    /// Where it stands for ever.
    pub state: LetterState,
    /// Since when.
    pub at: Millis,
}

/// What an idempotency key stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRow {
    /// The letter.
    pub id: EnvelopeId,
    /// Hash of what it says and to whom.
    pub digest: String,
    /// When it was used first.
    pub at: Millis,
}

/// A letter that was given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadRow {
    /// The letter.
    pub letter: LetterRow,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Millis,
    /// The letter in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_as: Option<EnvelopeId>,
}

/// An answer that an agent of this gateway still gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwedRow {
    /// The letter; its run has the same id.
    pub id: EnvelopeId,
    /// The agent that answers.
    pub agent: AgentId,
    /// The agent that asked.
    pub asked: AgentId,
}

/// The key of an agent.
#[must_use]
pub fn agent_key(id: &AgentId) -> String {
    format!("{AGENT}{id}")
}

/// The keys of an inbox begin so.
#[must_use]
pub fn inbox_of(agent: &AgentId) -> String {
    format!("{IN}{agent}/")
}

/// The key of a letter in an inbox.
#[must_use]
pub fn in_key(agent: &AgentId, letter: &EnvelopeId) -> String {
    format!("{IN}{agent}/{letter}")
}

/// The key of how a letter ended.
#[must_use]
pub fn done_key(agent: &AgentId, letter: &EnvelopeId) -> String {
    format!("{DONE}{agent}/{letter}")
}

/// The key of a dead letter.
#[must_use]
pub fn dead_key(letter: &EnvelopeId) -> String {
    format!("{DEAD}{letter}")
}

/// The key of an answer that is owed.
#[must_use]
pub fn owed_key(letter: &EnvelopeId) -> String {
    format!("{OWED}{letter}")
}

/// The key of an idempotency key. A hash: it may hold anything.
#[must_use]
pub fn key_key(from: &AgentId, key: &str) -> String {
    format!("{KEY}{}", hash(&[from.as_str(), key]))
}

/// One name for several texts.
#[must_use]
pub fn hash(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.len().to_be_bytes());
        hasher.update(part);
    }
    hex::encode(&hasher.finalize()[..16])
}
