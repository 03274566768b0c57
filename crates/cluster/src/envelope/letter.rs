use clawstead_terms::{Envelope as Letter, EnvelopeId, EnvelopeKind, Origin, Part, Unit};
use serde::Deserialize;
use thiserror::Error;

use super::{Envelope, Hop, Kind, Priority, Refusal, TTL_MAX_MS};
use crate::{
    keys::GatewayKey,
    names::{party_unit, unit_party},
};

/// What the body of an envelope is that carries a letter of the gateway's own door.
pub const LETTER_CONTENT_TYPE: &str = "application/vnd.clawstead.letter+json";

/// Why a letter cannot go to another gateway.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LetterError {
    /// Its writer only exists inside one gateway.
    #[error("a letter from {0} is delivered where it was written; only agents, channel accounts and webhooks write to other gateways")]
    Origin(&'static str),
    /// Its time is over already.
    #[error("the letter's time is over")]
    Expired,
    /// It does not fit into an envelope.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// What the sending gateway adds to a letter.
#[derive(Clone, Copy, Debug)]
pub struct Outbound<'a> {
    /// The farm.
    pub farm_id: &'a str,
    /// The unit that writes when the letter itself does not say (a webhook): its outbox keeps the row.
    pub source: &'a Unit,
    /// Epoch under which the source unit is held.
    pub epoch: u64,
    /// Where the target is believed to live.
    pub target_gateway: Option<&'a str>,
    /// The conversation; the letter's own id for a first one.
    pub correlation_id: Option<&'a str>,
    /// Time to live of a letter that never expires by itself, ms; at most [`TTL_MAX_MS`].
    pub ttl_default_ms: u64,
    /// How urgent.
    pub priority: Priority,
}

/// The signed envelope of a letter, first attempt. The letter's id is the message id, its run id the idempotency key.
///
/// The capability is derived: `reply` for answers, `sessions.notify` for events; requests are `sessions.spawn` towards a
/// sub-agent's session, `channel.deliver` from a channel account, `hook.deliver` from a webhook, else `sessions.send`.
///
/// # Errors
/// When the letter's writer cannot write to other gateways, its time is over, or it does not fit.
pub fn seal_letter(letter: &Letter, out: &Outbound<'_>, key: &GatewayKey) -> Result<Envelope, LetterError> {
    let mut envelope = write_letter(letter, out, key.gateway())?;
    envelope.sign(key)?;
    Ok(envelope)
}

/// The same, not signed yet: a large body is taken out first ([`super::by_reference`]).
///
/// # Errors
/// When the letter's writer cannot write to other gateways, or its time is over.
pub fn write_letter(letter: &Letter, out: &Outbound<'_>, gateway: &str) -> Result<Envelope, LetterError> {
    let source = match &letter.from {
        Origin::Agent { agent, .. } => Unit::Agent(agent.clone()),
        Origin::Channel { channel, account, .. } => Unit::Account(channel.clone(), account.clone()),
        Origin::Hook { .. } => out.source.clone(),
        Origin::Client { .. } => return Err(LetterError::Origin("a client")),
        Origin::Cron { .. } => return Err(LetterError::Origin("a scheduled job")),
        Origin::Heartbeat => return Err(LetterError::Origin("a heartbeat")),
    };
    let ttl = match letter.expires {
        Some(expires) => u64::try_from(expires.since(letter.at)).ok().filter(|ms| *ms > 0).ok_or(LetterError::Expired)?,
        None => out.ttl_default_ms,
    };
    let kind = match letter.kind {
        EnvelopeKind::Request => Kind::Request,
        EnvelopeKind::Reply => Kind::Reply,
        EnvelopeKind::Event => Kind::Event,
    };
    let id = letter.id.as_str().to_owned();
    Ok(Envelope {
        schema_version: String::new(),
        farm_id: out.farm_id.into(),
        correlation_id: out.correlation_id.unwrap_or(&id).into(),
        causation_id: letter.cause.as_ref().map(|cause| cause.as_str().into()),
        idempotency_key: Some(idempotency_key(letter)),
        message_id: id,
        kind,
        source_gateway: gateway.into(),
        source_agent: unit_party(&source).ok_or(LetterError::Origin("the gateway itself"))?,
        source_epoch: out.epoch,
        target_agent: letter.to.agent.to_string(),
        capability: capability(letter).into(),
        created_at: letter.at,
        ttl: Some(ttl.clamp(1, TTL_MAX_MS)),
        max_hops: None,
        no_rebroadcast: (kind == Kind::Reply).then_some(true),
        priority: Some(out.priority),
        session_key: Some(letter.to.session.to_string()),
        reply_to: letter.reply_to.as_ref().map(|address| address.session.to_string()),
        content_type: Some(LETTER_CONTENT_TYPE.into()),
        body: Some(serde_json::to_value(letter).map_err(|err| Refusal::malformed(err.to_string()))?),
        body_ref: None,
        traceparent: letter.traceparent.clone(),
        hop: Hop {
            hops: vec![gateway.into()],
            sender_gateway: gateway.into(),
            sender_epoch: out.epoch,
            target_gateway: out.target_gateway.map(Into::into),
            ..Hop::default()
        },
        sig: None,
        hop_sig: None,
        extra: serde_json::Map::default(),
    })
}

/// The run id where it fits, else a digest of it, so that a long one stays the same key.
fn idempotency_key(letter: &Letter) -> String {
    use sha2::{Digest as _, Sha256};
    let id = letter.run_id.as_str();
    let fits = (1..=super::IDEMPOTENCY_KEY_MAX).contains(&id.len()) && !id.chars().any(char::is_control);
    // Two agents may be sent letters with the same run id: it is unique per target only.
    let key = format!("{}/{id}", letter.to.agent);
    if fits && key.len() <= super::IDEMPOTENCY_KEY_MAX { key } else { format!("sha256/{}", hex::encode(Sha256::digest(key.as_bytes()))) }
}

fn capability(letter: &Letter) -> &'static str {
    match (letter.kind, &letter.from) {
        (EnvelopeKind::Reply, _) => "reply",
        (EnvelopeKind::Event, _) => "sessions.notify",
        (EnvelopeKind::Request, Origin::Channel { .. }) => "channel.deliver",
        (EnvelopeKind::Request, Origin::Hook { .. }) => "hook.deliver",
        (EnvelopeKind::Request, _) if letter.to.session.is_subagent() => "sessions.spawn",
        (EnvelopeKind::Request, _) => "sessions.send",
    }
}

/// The letter that a verified envelope carries, for the gateway's own door. `None` when the body is something else.
///
/// What the envelope says wins over what its body says: id, cause, kind and expiry. A writer other than the one that
/// signed, another target, or an origin that does not travel is refused. Nobody is an owner here: the flag of a
/// channel's sender is cleared, and so are wishes that would widen what a turn may do (its model stays a wish; a system
/// prompt from elsewhere is not taken).
///
/// # Errors
/// `Malformed` when the body is not a letter, `Forbidden` when it claims to be somebody else's.
pub fn letter_of(envelope: &Envelope) -> Result<Option<Letter>, Refusal> {
    if envelope.content_type() != LETTER_CONTENT_TYPE {
        return Ok(None);
    }
    let Some(body) = &envelope.body else { return Ok(None) };
    let mut letter = Letter::deserialize(body).map_err(|_| Refusal::malformed("the body is not a letter"))?;
    let mismatch = |what: &str| Refusal::Forbidden { why: format!("{what} of the body is not that of the envelope") };
    let source = party_unit(&envelope.source_agent);
    match &mut letter.from {
        Origin::Agent { agent, session } => {
            if source != Some(Unit::Agent(agent.clone())) || session.agent() != *agent {
                return Err(mismatch("the writer"));
            }
        }
        Origin::Channel { channel, account, owner, .. } => {
            if source != Some(Unit::Account(channel.clone(), account.clone())) {
                return Err(mismatch("the writer"));
            }
            *owner = false;
        }
        Origin::Hook { .. } => {}
        Origin::Client { .. } | Origin::Cron { .. } | Origin::Heartbeat => {
            return Err(Refusal::Forbidden { why: "letters of clients, scheduled jobs and heartbeats do not come from other gateways".into() });
        }
    }
    if letter.to.agent.as_str() != envelope.target_agent || letter.to.session.agent() != letter.to.agent {
        return Err(mismatch("the target"));
    }
    if envelope.session_key.as_deref() != Some(letter.to.session.as_str()) {
        return Err(mismatch("the session"));
    }
    letter.kind = match envelope.kind {
        Kind::Request => EnvelopeKind::Request,
        Kind::Reply => EnvelopeKind::Reply,
        Kind::Event => EnvelopeKind::Event,
        Kind::Receipt => return Err(Refusal::malformed("a receipt carries no letter")),
    };
    if envelope.capability != capability(&letter) {
        return Err(mismatch("the capability"));
    }
    letter.id = EnvelopeId::from(envelope.message_id.as_str());
    letter.cause = envelope.causation_id.as_deref().map(EnvelopeId::from);
    letter.expires = Some(envelope.expires_at());
    letter.options.extra_system_prompt = None;
    Ok(Some(letter))
}

/// True when the text begins like a command for the gateway. Letters from elsewhere never are commands, so such a request
/// or event is refused. Answers are not looked at: they are shown to whoever asked and never read as commands, and an
/// answer may well begin with a path.
pub(crate) fn begins_with_slash(envelope: &Envelope) -> bool {
    if matches!(envelope.kind, Kind::Reply | Kind::Receipt) {
        return false;
    }
    let Some(body) = &envelope.body else { return false };
    let slash = |text: &str| text.trim_start().starts_with('/');
    if envelope.content_type() == LETTER_CONTENT_TYPE {
        let parts = body.get("body").and_then(|parts| Vec::<Part>::deserialize(parts).ok()).unwrap_or_default();
        return parts
            .iter()
            .find_map(|part| if let Part::Text { text } = part { (!text.trim().is_empty()).then_some(text) } else { None })
            .is_some_and(|text| slash(text));
    }
    let text = body.as_str().or_else(|| ["text", "message", "body"].iter().find_map(|key| body.get(*key)?.as_str()));
    text.is_some_and(slash)
}
