use clawstead_terms::Millis;
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::{
    envelope::{Envelope, Hop, Kind, Priority, Refusal},
    keys::GatewayKey,
};

/// The capability of a question where a letter stands. No rule is asked for it: who was allowed to send the letter may ask.
pub const STATUS_CAPABILITY: &str = "letter.status";

/// The body of such a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusQuery {
    /// The letter.
    pub of: String,
    /// Its idempotency key, since the receiver may know it under an older id.
    pub idempotency_key: String,
}

impl StatusQuery {
    /// The question that an envelope carries; `None` when it is another letter.
    ///
    /// # Errors
    /// `Malformed` when it is one without a proper body.
    pub fn of(envelope: &Envelope) -> Result<Option<Self>, Refusal> {
        if envelope.capability != STATUS_CAPABILITY {
            return Ok(None);
        }
        let query = envelope.body.as_ref().and_then(|body| Self::deserialize(body).ok());
        query.filter(|_| envelope.kind == Kind::Event).map(Some).ok_or_else(|| Refusal::malformed("not a question where a letter stands"))
    }

    /// The name under which the receiver knows the letter asked for: see [`Envelope::dedupe_key`]. Only rows of the same
    /// source are found, so that nobody learns of letters of others.
    #[must_use]
    pub fn dedupe_key(&self, asked_by: &Envelope) -> String {
        format!("{}\u{1f}{}", asked_by.source_agent, self.idempotency_key)
    }
}

/// A signed question where `letter` stands, from the gateway that holds its source under `epoch` now. It is not kept, not
/// receipted and lives a minute; a lost one is asked again.
///
/// # Errors
/// `Malformed` when the id is not a `UUIDv7`.
pub fn status_query(letter: &Envelope, message_id: String, at: Millis, epoch: u64, to_gateway: Option<String>, key: &GatewayKey) -> Result<Envelope, Refusal> {
    let query = StatusQuery { of: letter.message_id.clone(), idempotency_key: letter.idempotency_key().to_owned() };
    let hop = Hop { hops: vec![key.gateway().into()], sender_gateway: key.gateway().into(), sender_epoch: epoch, target_gateway: to_gateway, ..Hop::default() };
    let mut envelope = Envelope {
        schema_version: String::new(),
        farm_id: letter.farm_id.clone(),
        message_id,
        correlation_id: letter.correlation_id.clone(),
        causation_id: Some(letter.message_id.clone()),
        idempotency_key: None,
        kind: Kind::Event,
        source_gateway: key.gateway().into(),
        source_agent: letter.source_agent.clone(),
        source_epoch: epoch,
        target_agent: letter.target_agent.clone(),
        capability: STATUS_CAPABILITY.into(),
        created_at: at,
        ttl: Some(60_000),
        max_hops: Some(1),
        no_rebroadcast: Some(true),
        priority: Some(Priority::High),
        session_key: None,
        reply_to: None,
        content_type: None,
        body: Some(serde_json::to_value(query).map_err(|err| Refusal::malformed(err.to_string()))?),
        body_ref: None,
        traceparent: letter.traceparent.clone(),
        hop,
        sig: None,
        hop_sig: None,
        extra: Map::new(),
    };
    envelope.sign(key)?;
    Ok(envelope)
}
