use clawstead_terms::Millis;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Envelope, Hop, Kind, Priority, Refusal};
use crate::keys::GatewayKey;

/// Receipts that travel in one envelope at most.
pub const RECEIPTS_MAX: usize = 64;
/// The key of the body under which further receipts are. Who does not know it reads the first one only, and hears of the
/// others when it asks or tries again.
const MORE: &str = "more";
/// The capability of every receipt.
pub const RECEIPT_CAPABILITY: &str = "receipt";

/// What a receipt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReceiptType {
    /// Durable in the inbox.
    Delivered,
    /// Being worked on; extends the sender's patience.
    Heartbeat,
    /// Done. Also says `delivered` when that was not said before.
    Acked,
    /// Refused, or tried and not done.
    Failed,
    /// Not now.
    Busy,
}

/// The body of a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The letter it is about.
    pub of: String,
    /// What it says.
    #[serde(rename = "type")]
    pub kind: ReceiptType,
    /// Why, for `failed` and `busy`; otherwise empty.
    #[serde(default)]
    pub code: String,
    /// True when the same letter may succeed later.
    #[serde(default)]
    pub retryable: bool,
    /// Not before this many milliseconds.
    #[serde(default)]
    pub retry_after_ms: u64,
    /// Epoch of the target unit at the receiver; 0 when the receiver does not own it.
    pub receiver_epoch: u64,
}

impl Receipt {
    /// A receipt without a reason.
    #[must_use]
    pub fn plain(of: impl Into<String>, kind: ReceiptType, receiver_epoch: u64) -> Self {
        Self { of: of.into(), kind, code: String::new(), retryable: false, retry_after_ms: 0, receiver_epoch }
    }

    /// What the sender of a refused letter is told.
    #[must_use]
    pub fn refused(of: impl Into<String>, why: &Refusal, receiver_epoch: u64) -> Self {
        Self {
            of: of.into(),
            kind: ReceiptType::Failed,
            code: why.code().into(),
            retryable: why.retryable(),
            retry_after_ms: why.retry_after_ms(),
            receiver_epoch,
        }
    }

    /// The receipt that an envelope of kind `receipt` carries.
    ///
    /// # Errors
    /// `Malformed` when it is another kind or the body is no receipt.
    pub fn of(envelope: &Envelope) -> Result<Self, Refusal> {
        if envelope.kind != Kind::Receipt {
            return Err(Refusal::malformed("not a receipt"));
        }
        let body = envelope.body.as_ref().ok_or_else(|| Refusal::malformed("a receipt without a body"))?;
        let receipt: Self = Self::deserialize(body).map_err(|_| Refusal::malformed("the body is not a receipt"))?;
        receipt.checked()
    }
}

impl Receipt {
    /// All receipts that an envelope of kind `receipt` carries, at least one.
    ///
    /// # Errors
    /// `Malformed` when it is another kind, or one of them is no receipt, or there are more than [`RECEIPTS_MAX`].
    pub fn all_of(envelope: &Envelope) -> Result<Vec<Self>, Refusal> {
        let first = Self::of(envelope)?;
        let more = envelope.body.as_ref().and_then(|body| body.get(MORE)).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if more.len() >= RECEIPTS_MAX {
            return Err(Refusal::malformed("too many receipts in one envelope"));
        }
        let mut all = vec![first];
        for one in more {
            let receipt = Self::deserialize(one).map_err(|_| Refusal::malformed("one of the receipts is none"))?;
            all.push(receipt.checked()?);
        }
        Ok(all)
    }

    fn checked(self) -> Result<Self, Refusal> {
        if self.of.len() != 36 || self.code.len() > 64 {
            return Err(Refusal::malformed("the receipt names no letter, or its code is too long"));
        }
        Ok(self)
    }
}

/// As [`receipt_for`], for several letters of one agent to another that were received under one epoch: `letter` is any of
/// them, `receipts` has at least one and at most [`RECEIPTS_MAX`].
///
/// # Errors
/// `Malformed` when there is none, or a field is not what it must be.
pub fn receipts_for(
    letter: &Envelope,
    receipts: &[Receipt],
    message_id: String,
    at: Millis,
    key: &GatewayKey,
    to_gateway: Option<String>,
) -> Result<Envelope, Refusal> {
    let (first, more) = receipts.split_first().ok_or_else(|| Refusal::malformed("no receipt"))?;
    let mut envelope = unsigned(letter, first, message_id, at, key, to_gateway)?;
    if !more.is_empty()
        && let Some(body) = envelope.body.as_mut().and_then(Value::as_object_mut)
    {
        body.insert(MORE.into(), serde_json::to_value(more).map_err(|err| Refusal::malformed(err.to_string()))?);
    }
    envelope.sign(key)?;
    Ok(envelope)
}

/// The signed envelope of a receipt for `letter`, written by `key`'s gateway for the target of the letter and addressed to
/// whoever owns its source now (`to_gateway`, when it is known). `message_id` is new; receipts are never receipted.
///
/// # Errors
/// `Malformed` when a field is not what it must be, which tells of a bad `message_id`.
pub fn receipt_for(
    letter: &Envelope,
    receipt: &Receipt,
    message_id: String,
    at: Millis,
    key: &GatewayKey,
    to_gateway: Option<String>,
) -> Result<Envelope, Refusal> {
    let mut envelope = unsigned(letter, receipt, message_id, at, key, to_gateway)?;
    envelope.sign(key)?;
    Ok(envelope)
}

fn unsigned(letter: &Envelope, receipt: &Receipt, message_id: String, at: Millis, key: &GatewayKey, to_gateway: Option<String>) -> Result<Envelope, Refusal> {
    let body = serde_json::to_value(receipt).map_err(|err| Refusal::malformed(err.to_string()))?;
    Ok(Envelope {
        schema_version: String::new(),
        farm_id: letter.farm_id.clone(),
        correlation_id: letter.correlation_id.clone(),
        causation_id: Some(receipt.of.clone()),
        idempotency_key: None,
        message_id,
        kind: Kind::Receipt,
        source_gateway: key.gateway().into(),
        source_agent: letter.target_agent.clone(),
        source_epoch: receipt.receiver_epoch,
        target_agent: letter.source_agent.clone(),
        capability: RECEIPT_CAPABILITY.into(),
        created_at: at,
        ttl: Some(super::TTL_MAX_MS),
        max_hops: Some(1),
        no_rebroadcast: Some(true),
        priority: Some(Priority::High),
        session_key: None,
        reply_to: None,
        content_type: None,
        body: Some(body),
        body_ref: None,
        traceparent: letter.traceparent.clone(),
        hop: Hop {
            hops: vec![key.gateway().into()],
            sender_gateway: key.gateway().into(),
            sender_epoch: receipt.receiver_epoch,
            target_gateway: to_gateway,
            ..Hop::default()
        },
        sig: None,
        hop_sig: None,
        extra: serde_json::Map::default(),
    })
}
