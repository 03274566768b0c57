//! Envelope v1: a letter on its way between gateways.
//!
//! A letter has a signed part, written once by its origin, and hop data, written anew by whoever carries it. Both are
//! signed: the letter by the origin's key over the canonical bytes of everything but `sig` and the hop data, the hop data
//! by the current sender's key. Keys that this version does not know are kept and are part of the signed bytes.
//!
//! Decisions where the format leaves room:
//! - A known field is there with a value or not there; `null` is refused, so that reading and writing again gives the
//!   same canonical bytes.
//! - Fields with defaults may be absent; the accessors ([`Envelope::ttl_ms`], ...) give the default, and what was absent
//!   stays absent when the letter is passed on.
//! - The bytes on the wire need not be canonical themselves; signatures are over the canonical form of what was read.
//! - The hash of a body that travels by reference is SHA-256 (`sha256:…`), which the signatures' libraries bring anyway; it
//!   is over the JSON text of the body as its writer made it, and that text is what travels.
//! - `hop_sig` carries no key id: it is tried against every usable key of `sender_gateway` (two while a key is changed).

mod body;
mod canon;
mod fields;
mod json;
mod letter;
mod receipt;
mod refusal;
mod seal;
#[cfg(test)]
mod tests;

use clawstead_terms::Millis;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use body::{BODY_BYTES_MAX, BodyTooLarge, by_reference, whole};
pub use canon::canonical;
pub use json::{INTEGER_MAX, parse_strict};
pub(crate) use letter::begins_with_slash;
pub use letter::{LETTER_CONTENT_TYPE, LetterError, Outbound, letter_of, seal_letter, write_letter};
pub use receipt::{RECEIPT_CAPABILITY, RECEIPTS_MAX, Receipt, ReceiptType, receipt_for, receipts_for};
pub use refusal::Refusal;
pub use seal::{Opened, open};

/// Largest envelope, bytes.
pub const BYTES_MAX: usize = 1024 * 1024;
/// Levels of arrays and objects at most.
pub const DEPTH_MAX: usize = 64;
/// The version that this program writes.
pub const SCHEMA_VERSION: &str = "1.0";
/// Time to live when the letter names none, ms.
pub const TTL_DEFAULT_MS: u64 = 300_000;
/// Longest time to live, ms: a day.
pub const TTL_MAX_MS: u64 = 86_400_000;
/// How far in the future a letter may have been written, ms.
pub const SKEW_MAX_MS: u64 = 300_000;
/// Gateways a letter passes when it names no number.
pub const HOPS_DEFAULT: u8 = 4;
/// Gateways a letter passes at most.
pub const HOPS_MAX: u8 = 8;
/// Longest idempotency key, bytes.
pub const IDEMPOTENCY_KEY_MAX: usize = 128;
/// Longest capability, bytes.
pub const CAPABILITY_MAX: usize = 64;
/// Longest session address, bytes.
pub const SESSION_KEY_MAX: usize = 512;
/// Longest `last_error`, bytes.
pub const LAST_ERROR_MAX: usize = 512;

/// What a letter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Wants an answer.
    Request,
    /// The answer to a request.
    Reply,
    /// Something to know.
    Event,
    /// Says where another letter stands.
    Receipt,
}

/// How urgent a letter is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Turned away first when a target is busy.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Control traffic; goes before the others.
    High,
}

/// Where a letter stands, as its sender sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MailState {
    /// Durable in the outbox; the receiver has not said that it has it.
    #[default]
    Queued,
    /// Durable in the receiver's inbox.
    Delivered,
    /// Done. Final.
    Acked,
    /// The receiver could not do it. On the wire: the sender knows that, and asks to try again.
    Failed,
    /// Given up, with a reason. Final.
    DeadLetter,
}

/// A large body that is kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BodyRef {
    /// `sha256:` and 64 hex digits, over the JSON text of the body.
    pub hash: String,
    /// Bytes.
    pub size: u64,
}

/// The origin's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sig {
    /// Always `Ed25519`.
    pub alg: String,
    /// The key: gateway, a dot, 16 hex digits.
    pub kid: String,
    /// 64 bytes, base64url without padding.
    pub value: String,
}

/// What the current sender writes: not covered by `sig`, covered by `hop_sig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The row's state at the sender when the attempt was made.
    pub state: MailState,
    /// Attempts before this one.
    pub retry_count: u32,
    /// Gateways passed, oldest first; the last one is `sender_gateway`.
    pub hops: Vec<String>,
    /// Who sends now.
    pub sender_gateway: String,
    /// Epoch of the source unit as the owner of the outbox row holds it. A relay passes it on.
    pub sender_epoch: u64,
    /// Where the sender believes the target lives.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target_gateway: Option<String>,
    /// When the sender tries again if it hears nothing.
    #[serde(skip_serializing_if = "Option::is_none", default, with = "crate::stamp::text_opt")]
    pub next_attempt_at: Option<Millis>,
    /// What the last attempt ended with, a code.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_error: Option<String>,
}

/// Names of the hop data, without `hop_sig`.
pub(crate) const HOP_FIELDS: [&str; 8] = ["state", "retry_count", "hops", "sender_gateway", "sender_epoch", "target_gateway", "next_attempt_at", "last_error"];

/// A letter between gateways, version 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// `1.0`; another minor number is read as well.
    pub schema_version: String,
    /// The farm it belongs to.
    pub farm_id: String,
    /// `UUIDv7`, never used again, also not on replay.
    pub message_id: String,
    /// The conversation; of a first letter its own id.
    pub correlation_id: String,
    /// The letter that caused this one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub causation_id: Option<String>,
    /// The key repeats are known by; see [`Envelope::idempotency_key`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub idempotency_key: Option<String>,
    /// What it is for.
    pub kind: Kind,
    /// The gateway that wrote it. Never changed.
    pub source_gateway: String,
    /// The agent or channel account that wrote it.
    pub source_agent: String,
    /// Epoch of the source unit when it was written.
    pub source_epoch: u64,
    /// The agent or channel account it is for.
    pub target_agent: String,
    /// What is asked, for authorization: `sessions.send`, `infra.query`.
    pub capability: String,
    /// When it was written.
    #[serde(with = "crate::stamp::text")]
    pub created_at: Millis,
    /// Time to live, ms; see [`Envelope::ttl_ms`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ttl: Option<u64>,
    /// See [`Envelope::max_hops`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_hops: Option<u8>,
    /// See [`Envelope::no_rebroadcast`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub no_rebroadcast: Option<bool>,
    /// See [`Envelope::priority`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub priority: Option<Priority>,
    /// The session of the target.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session_key: Option<String>,
    /// The session that waits for the answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reply_to: Option<String>,
    /// What the body is; `application/json` when absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content_type: Option<String>,
    /// The body. Exactly one of `body` and `body_ref`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub body: Option<Value>,
    /// Where the body is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub body_ref: Option<BodyRef>,
    /// W3C trace context.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub traceparent: Option<String>,
    /// What the current sender wrote.
    #[serde(flatten)]
    pub hop: Hop,
    /// The origin's signature; `None` only while a letter is being written.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sig: Option<Sig>,
    /// The current sender's signature, 64 bytes, base64url without padding.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hop_sig: Option<String>,
    /// Keys this version does not know. Signed.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Envelope {
    /// The key repeats are known by, per source agent; the message id when none was given.
    #[must_use]
    pub fn idempotency_key(&self) -> &str {
        self.idempotency_key.as_deref().unwrap_or(&self.message_id)
    }

    /// Time to live, ms: default [`TTL_DEFAULT_MS`], at most [`TTL_MAX_MS`].
    #[must_use]
    pub fn ttl_ms(&self) -> u64 {
        self.ttl.unwrap_or(TTL_DEFAULT_MS)
    }

    /// The last moment at which it may be handled.
    #[must_use]
    pub fn expires_at(&self) -> Millis {
        self.created_at.plus(i64::try_from(self.ttl_ms()).unwrap_or(i64::MAX))
    }

    /// Gateways it may pass: default [`HOPS_DEFAULT`], at most [`HOPS_MAX`].
    #[must_use]
    pub fn max_hops(&self) -> usize {
        usize::from(self.max_hops.unwrap_or(HOPS_DEFAULT))
    }

    /// True when no gateway may pass it on: always for replies and receipts.
    #[must_use]
    pub fn no_rebroadcast(&self) -> bool {
        matches!(self.kind, Kind::Reply | Kind::Receipt) || self.no_rebroadcast.unwrap_or(false)
    }

    /// How urgent it is; default normal.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.priority.unwrap_or_default()
    }

    /// What the body is; default `application/json`.
    #[must_use]
    pub fn content_type(&self) -> &str {
        self.content_type.as_deref().unwrap_or("application/json")
    }

    /// What its order is kept by: letters with the same lane are handled one after the other.
    #[must_use]
    pub fn lane(&self) -> (String, String, String) {
        (self.source_agent.clone(), self.target_agent.clone(), self.session_key.clone().unwrap_or_default())
    }

    /// The name under which a receiver knows repeats: source agent, unit separator, idempotency key.
    #[must_use]
    pub fn dedupe_key(&self) -> String {
        format!("{}\u{1f}{}", self.source_agent, self.idempotency_key())
    }
}
