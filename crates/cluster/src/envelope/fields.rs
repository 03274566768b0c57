use serde_json::Value;
use uuid::{Uuid, Version};

use super::{
    BodyRef, CAPABILITY_MAX, Envelope, HOP_FIELDS, HOPS_MAX, IDEMPOTENCY_KEY_MAX, LAST_ERROR_MAX, Refusal, SESSION_KEY_MAX, Sig, TTL_MAX_MS, json::check_value,
};
use crate::names::{is_farm, is_gateway, party_unit};

/// Fields besides the hop data that this version knows.
const SIGNED_FIELDS: [&str; 23] = [
    "schema_version",
    "farm_id",
    "message_id",
    "correlation_id",
    "causation_id",
    "idempotency_key",
    "kind",
    "source_gateway",
    "source_agent",
    "source_epoch",
    "target_agent",
    "capability",
    "created_at",
    "ttl",
    "max_hops",
    "no_rebroadcast",
    "priority",
    "session_key",
    "reply_to",
    "content_type",
    "body",
    "body_ref",
    "traceparent",
];

/// Looks at the version before anything else, since another major version may have other fields.
pub(super) fn check_schema(value: &Value) -> Result<(), Refusal> {
    let version = value.get("schema_version").ok_or_else(|| Refusal::malformed("schema_version is missing"))?;
    let text = version.as_str().ok_or_else(|| Refusal::malformed("schema_version is not a text"))?;
    let number = |part: &str| (!part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse::<u32>().ok()).flatten();
    let (major, minor) = text.split_once('.').ok_or_else(|| Refusal::malformed("schema_version is not two numbers"))?;
    match (number(major), number(minor)) {
        (Some(1), Some(_)) => Ok(()),
        (Some(_), Some(_)) => Err(Refusal::SchemaUnsupported { version: text.into() }),
        _ => Err(Refusal::malformed("schema_version is not two numbers")),
    }
}

/// A value of the right version as an envelope.
pub(super) fn read(value: Value) -> Result<Envelope, Refusal> {
    let Value::Object(map) = &value else { return Err(Refusal::malformed("not an object")) };
    let known = SIGNED_FIELDS.iter().chain(&HOP_FIELDS).chain(&["sig", "hop_sig"]);
    for name in known {
        if map.get(*name).is_some_and(Value::is_null) {
            return Err(Refusal::malformed(format!("{name} is null; leave it out")));
        }
    }
    let envelope: Envelope = serde_json::from_value(value).map_err(|err| Refusal::malformed(err.to_string()))?;
    check(&envelope)?;
    if envelope.sig.is_none() || envelope.hop_sig.is_none() {
        return Err(Refusal::malformed("sig or hop_sig is missing"));
    }
    Ok(envelope)
}

fn require(holds: bool, what: &'static str) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(Refusal::malformed(what)) }
}

fn is_uuid(text: &str, version: Option<Version>) -> bool {
    text.len() == 36
        && !text.bytes().any(|b| b.is_ascii_uppercase())
        && Uuid::try_parse(text).is_ok_and(|id| version.is_none_or(|wanted| id.get_version() == Some(wanted)))
}

fn is_plain(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn is_capability(text: &str) -> bool {
    (1..=CAPABILITY_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}

fn is_body_ref(body: &BodyRef) -> bool {
    body.hash.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

fn is_sig(sig: &Sig) -> bool {
    sig.alg == "Ed25519" && sig.kid.len() <= 64 && sig.value.len() == 86
}

/// What every field must be, for letters that come and for those we are about to sign.
pub(super) fn check(e: &Envelope) -> Result<(), Refusal> {
    let plain = |text: &Option<String>, max| text.as_deref().is_none_or(|text| is_plain(text, max));
    require(is_farm(&e.farm_id), "farm_id is not a farm's name")?;
    require(is_uuid(&e.message_id, Some(Version::SortRand)), "message_id is not a UUIDv7 in lower case")?;
    require(is_uuid(&e.correlation_id, None), "correlation_id is not a UUID in lower case")?;
    require(e.causation_id.as_deref().is_none_or(|id| is_uuid(id, None)), "causation_id is not a UUID in lower case")?;
    require(plain(&e.idempotency_key, IDEMPOTENCY_KEY_MAX), "idempotency_key must have 1 to 128 bytes without control characters")?;
    require(is_gateway(&e.source_gateway), "source_gateway is not a gateway's name")?;
    require(party_unit(&e.source_agent).is_some(), "source_agent is not an agent or channel account")?;
    require(party_unit(&e.target_agent).is_some(), "target_agent is not an agent or channel account")?;
    require(is_capability(&e.capability), "capability must have 1 to 64 of a-z, 0-9, dot, _ and -")?;
    require(e.ttl.is_none_or(|ttl| (1..=TTL_MAX_MS).contains(&ttl)), "ttl must be 1 to 86400000")?;
    require(e.max_hops.is_none_or(|hops| (1..=HOPS_MAX).contains(&hops)), "max_hops must be 1 to 8")?;
    require(plain(&e.session_key, SESSION_KEY_MAX), "session_key must have 1 to 512 bytes without control characters")?;
    require(plain(&e.reply_to, SESSION_KEY_MAX), "reply_to must have 1 to 512 bytes without control characters")?;
    require(plain(&e.content_type, 128), "content_type must have 1 to 128 bytes without control characters")?;
    require(plain(&e.traceparent, 128), "traceparent must have 1 to 128 bytes without control characters")?;
    require(e.body.is_some() != e.body_ref.is_some(), "exactly one of body and body_ref must be there")?;
    require(e.body_ref.as_ref().is_none_or(is_body_ref), "body_ref.hash must be sha256: and 64 hex digits")?;
    let hop = &e.hop;
    // Twice the bound: a letter that passed too many gateways is to be told so, not called unreadable.
    require((1..=2 * usize::from(HOPS_MAX)).contains(&hop.hops.len()), "hops must have 1 to 16 entries")?;
    require(hop.hops.iter().all(|name| is_gateway(name)), "hops has something that is not a gateway's name")?;
    require(hop.hops.last() == Some(&hop.sender_gateway), "the last of hops must be sender_gateway")?;
    require(hop.target_gateway.as_deref().is_none_or(is_gateway), "target_gateway is not a gateway's name")?;
    require(plain(&hop.last_error, LAST_ERROR_MAX), "last_error must have 1 to 512 bytes without control characters")?;
    require(e.sig.as_ref().is_none_or(is_sig), "sig must be Ed25519 with 64 bytes in base64url")?;
    require(e.hop_sig.as_ref().is_none_or(|sig| sig.len() == 86), "hop_sig must be 64 bytes in base64url")?;
    for value in e.body.iter().chain(e.extra.values()) {
        check_value(value, super::DEPTH_MAX - 1)?;
    }
    for number in [e.source_epoch, hop.sender_epoch] {
        require(number <= super::INTEGER_MAX, "an epoch is beyond 2^53 - 1")?;
    }
    Ok(())
}
