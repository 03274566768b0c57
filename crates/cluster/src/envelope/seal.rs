use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::Value;

use super::{
    Envelope, HOP_FIELDS, Hop, Refusal, SCHEMA_VERSION, Sig,
    canon::{write_canonical, write_object},
    fields, parse_strict,
};
use crate::keys::GatewayKey;

const LETTER_TAG: &[u8] = b"openclaw-farm-envelope-v1\n";
const HOP_TAG: &[u8] = b"openclaw-farm-hop-v1\n";

/// A letter that was read and not yet believed: the two signatures are still to be checked.
#[derive(Clone, Debug)]
pub struct Opened {
    /// What it says.
    pub envelope: Envelope,
    letter_bytes: Vec<u8>,
    hop_bytes: Vec<u8>,
}

/// Reads a letter: size, JSON, schema version, fields. In this order, so that nothing large or deep is looked into.
///
/// # Errors
/// `TooLarge`, `Malformed`, `SchemaUnsupported`.
pub fn open(bytes: &[u8]) -> Result<Opened, Refusal> {
    let value = parse_strict(bytes)?;
    fields::check_schema(&value)?;
    let (letter_bytes, hop_bytes) = signing_bytes(&value)?;
    Ok(Opened { envelope: fields::read(value)?, letter_bytes, hop_bytes })
}

impl Opened {
    /// Checks the origin's signature, strictly: a key of small order or a signature in another spelling is refused.
    ///
    /// # Errors
    /// `BadSignature`.
    pub fn verify_letter(&self, key: &VerifyingKey) -> Result<(), Refusal> {
        let value = self.envelope.sig.as_ref().map_or("", |sig| &sig.value);
        if verify(key, &self.letter_bytes, value) { Ok(()) } else { Err(Refusal::BadSignature { part: "letter" }) }
    }

    /// Checks the sender's signature over the hop data against each of its keys.
    ///
    /// # Errors
    /// `BadSignature` when none of them made it.
    pub fn verify_hop<'a>(&self, keys: impl IntoIterator<Item = &'a VerifyingKey>) -> Result<(), Refusal> {
        let value = self.envelope.hop_sig.as_deref().unwrap_or("");
        if keys.into_iter().any(|key| verify(key, &self.hop_bytes, value)) { Ok(()) } else { Err(Refusal::BadSignature { part: "hop" }) }
    }
}

impl Envelope {
    /// Signs the letter as its origin and the hop data as its first sender.
    ///
    /// # Errors
    /// `Malformed` when a field is not what it must be.
    pub fn sign(&mut self, key: &GatewayKey) -> Result<(), Refusal> {
        self.schema_version = SCHEMA_VERSION.into();
        fields::check(self)?;
        // Neither signature is under the other one.
        let (letter_bytes, hop_bytes) = signing_bytes(&self.to_value()?)?;
        self.sig = Some(Sig { alg: "Ed25519".into(), kid: key.kid().into(), value: key.sign(&letter_bytes) });
        self.hop_sig = Some(key.sign(&hop_bytes));
        Ok(())
    }

    /// Signs the hop data as the current sender; before every attempt.
    ///
    /// # Errors
    /// `Malformed` when a field is not what it must be.
    pub fn sign_hop(&mut self, key: &GatewayKey) -> Result<(), Refusal> {
        fields::check(self)?;
        let (_, hop_bytes) = signing_bytes(&self.to_value()?)?;
        self.hop_sig = Some(key.sign(&hop_bytes));
        Ok(())
    }

    /// The letter with other hop data, signed by `key`.
    ///
    /// # Errors
    /// `Malformed` when the hop data is not what it must be.
    pub fn with_hop(mut self, hop: Hop, key: &GatewayKey) -> Result<Self, Refusal> {
        self.hop = hop;
        self.sign_hop(key)?;
        Ok(self)
    }

    /// The letter as it goes out, canonical.
    ///
    /// # Errors
    /// `TooLarge`, or `Malformed` when it cannot be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Refusal> {
        let mut bytes = Vec::with_capacity(2048);
        write_canonical(&self.to_value()?, &mut bytes)?;
        if bytes.len() > super::BYTES_MAX { Err(Refusal::TooLarge { bytes: bytes.len(), bytes_max: super::BYTES_MAX }) } else { Ok(bytes) }
    }

    fn to_value(&self) -> Result<Value, Refusal> {
        serde_json::to_value(self).map_err(|err| Refusal::malformed(err.to_string()))
    }
}

/// What the two signatures are over.
fn signing_bytes(value: &Value) -> Result<(Vec<u8>, Vec<u8>), Refusal> {
    let map = value.as_object().ok_or_else(|| Refusal::malformed("not an object"))?;
    let (mut letter, mut hop) = (Vec::with_capacity(map.len()), Vec::with_capacity(HOP_FIELDS.len()));
    for (name, field) in map {
        match name.as_str() {
            "sig" | "hop_sig" => {}
            name if HOP_FIELDS.contains(&name) => hop.push((name, field)),
            name => letter.push((name, field)),
        }
    }
    let id = map.get("message_id").and_then(Value::as_str).unwrap_or("");
    let mut letter_bytes = LETTER_TAG.to_vec();
    write_object(letter, &mut letter_bytes)?;
    let mut hop_bytes = [HOP_TAG, id.as_bytes()].concat();
    write_object(hop, &mut hop_bytes)?;
    Ok((letter_bytes, hop_bytes))
}

fn verify(key: &VerifyingKey, bytes: &[u8], value: &str) -> bool {
    let Ok(raw) = URL_SAFE_NO_PAD.decode(value) else { return false };
    Signature::from_slice(&raw).is_ok_and(|sig| key.verify_strict(bytes, &sig).is_ok())
}
