//! Signatures of agent cards: a JWS over the card in canonical form (RFC 8785), with ES256 or EdDSA.
//!
//! A card carries as many signatures as its owner has keys; one that holds is enough. Two kinds of key at a time let a
//! reader that knows only one of them check the card, and let an owner change keys without a gap.

use std::{fmt, sync::Arc};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ed25519_dalek::{Signer as _, SigningKey};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey, VerificationAlgorithm},
};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::proto::{AgentCard, AgentCardSignature};

/// Why a card cannot be signed or is not believed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CardError {
    /// The key cannot be used.
    #[error("the card key {kid} cannot be used: {why}")]
    Key {
        /// The key's id.
        kid: String,
        /// Why.
        why: String,
    },
    /// The card has no canonical form.
    #[error("the card has no canonical form: {0}")]
    Canonical(String),
    /// Nobody signed it.
    #[error("the card of {0} carries no signature; ask its owner to sign it, or do not ask for signatures")]
    Unsigned(String),
    /// Nobody known signed it.
    #[error("the card of {agent} is signed by unknown keys ({kids}); add the one you trust to the known keys")]
    UnknownKeys {
        /// The agent's name.
        agent: String,
        /// Who signed.
        kids: String,
    },
    /// A known key's signature does not hold.
    #[error("the signature of key {kid} on the card of {agent} does not hold: the card was changed, or signed for another")]
    Forged {
        /// The agent's name.
        agent: String,
        /// The key's id.
        kid: String,
    },
}

/// Makes an Ed25519 signature, 64 bytes, over the bytes it is given.
pub type SignWith = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

enum Secret {
    Es256(Box<EcdsaKeyPair>),
    Ed25519(Box<SigningKey>),
    Lent { public: [u8; 32], sign: SignWith },
}

/// What comes before the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410).
const ED25519_PKCS8: [u8; 16] = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// The same with the version that also holds the public key.
const ED25519_PKCS8_V2: [u8; 16] = [0x30, 0x51, 0x02, 0x01, 0x01, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A key that signs cards.
pub struct CardKey {
    kid: String,
    /// Where its public half can be fetched, if anywhere.
    jku: Option<String>,
    secret: Secret,
    random: SystemRandom,
}

impl fmt::Debug for CardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CardKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl CardKey {
    /// A P-256 key from its PKCS #8 bytes. Its signatures take randomness from the system, not from a seed: ring takes
    /// no other.
    ///
    /// # Errors
    /// [`CardError::Key`] when the bytes are no such key.
    pub fn es256(kid: impl Into<String>, pkcs8: &[u8]) -> Result<Self, CardError> {
        let kid = kid.into();
        let random = SystemRandom::new();
        match EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random) {
            Ok(pair) => Ok(Self { kid, jku: None, secret: Secret::Es256(Box::new(pair)), random }),
            Err(err) => Err(CardError::Key { kid, why: err.to_string() }),
        }
    }

    /// The PKCS #8 bytes of a new P-256 key. A secret.
    ///
    /// # Errors
    /// [`CardError::Key`] when the system has no randomness.
    pub fn new_es256() -> Result<Vec<u8>, CardError> {
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map(|document| document.as_ref().to_vec())
            .map_err(|_| CardError::Key { kid: "new".into(), why: "the system has no randomness".into() })
    }

    /// An Ed25519 key.
    pub fn ed25519(kid: impl Into<String>, key: SigningKey) -> Self {
        Self { kid: kid.into(), jku: None, secret: Secret::Ed25519(Box::new(key)), random: SystemRandom::new() }
    }

    /// An Ed25519 key that somebody else holds.
    pub fn lent(kid: impl Into<String>, public: [u8; 32], sign: SignWith) -> Self {
        Self { kid: kid.into(), jku: None, secret: Secret::Lent { public, sign }, random: SystemRandom::new() }
    }

    /// A P-256 or Ed25519 key from a PEM file (`BEGIN PRIVATE KEY`, as `openssl genpkey` writes it). Without a `kid` its
    /// id follows from its public half.
    ///
    /// # Errors
    /// [`CardError::Key`] when the text is no such key.
    pub fn from_pem(kid: Option<&str>, text: &str) -> Result<Self, CardError> {
        let wrong = |why: &str| CardError::Key { kid: kid.unwrap_or("without kid").to_owned(), why: why.to_owned() };
        let (_, rest) = text.split_once("-----BEGIN PRIVATE KEY-----").ok_or_else(|| {
            wrong("the file has no BEGIN PRIVATE KEY (PKCS #8); make one with: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256, or -algorithm ED25519")
        })?;
        let (body, _) = rest.split_once("-----END PRIVATE KEY-----").ok_or_else(|| wrong("the file ends within the key"))?;
        let bare: String = body.chars().filter(|c| !c.is_whitespace()).collect();
        let bytes = STANDARD.decode(bare).map_err(|_| wrong("the key is not base64"))?;
        let is_ed25519 = bytes.starts_with(&ED25519_PKCS8) || bytes.starts_with(&ED25519_PKCS8_V2);
        let mut key = match bytes.get(16..48).filter(|_| is_ed25519) {
            Some(seed) => Self::ed25519(kid.unwrap_or_default(), SigningKey::from_bytes(&seed.try_into().map_err(|_| wrong("the key is cut off"))?)),
            None => Self::es256(kid.unwrap_or_default(), &bytes).map_err(|_| wrong("it is neither P-256 nor Ed25519"))?,
        };
        if kid.is_none() {
            let digest = ring::digest::digest(&ring::digest::SHA256, &key.public().bytes);
            key.kid = digest.as_ref().iter().take(8).fold("card-".to_owned(), |text, byte| format!("{text}{byte:02x}"));
        }
        Ok(key)
    }

    /// The same, naming where its public half can be fetched.
    #[must_use]
    pub fn published_at(mut self, jku: impl Into<String>) -> Self {
        self.jku = Some(jku.into());
        self
    }

    /// What others need to check its signatures.
    #[must_use]
    pub fn public(&self) -> CardPublicKey {
        let (algorithm, bytes) = match &self.secret {
            Secret::Es256(pair) => (Algorithm::Es256, pair.public_key().as_ref().to_vec()),
            Secret::Ed25519(key) => (Algorithm::EdDsa, key.verifying_key().to_bytes().to_vec()),
            Secret::Lent { public, .. } => (Algorithm::EdDsa, public.to_vec()),
        };
        CardPublicKey { kid: self.kid.clone(), algorithm, bytes }
    }

    fn sign(&self, input: &[u8]) -> Result<Vec<u8>, CardError> {
        match &self.secret {
            Secret::Es256(pair) => pair
                .sign(&self.random, input)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| CardError::Key { kid: self.kid.clone(), why: "the system has no randomness".into() }),
            Secret::Ed25519(key) => Ok(key.sign(input).to_bytes().to_vec()),
            Secret::Lent { sign, .. } => Ok(sign(input)),
        }
    }
}

/// How a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    const fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// A key whose signatures are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardPublicKey {
    /// Its id.
    pub kid: String,
    /// How it signs; a signature that names another way does not count.
    pub algorithm: Algorithm,
    /// ES256: the uncompressed point, 65 bytes. EdDSA: 32 bytes.
    pub bytes: Vec<u8>,
}

impl CardPublicKey {
    /// The key as a JSON Web Key.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self.algorithm {
            Algorithm::Es256 => {
                let (x, y) = self.bytes.get(1..).unwrap_or_default().split_at(self.bytes.len().saturating_sub(1) / 2);
                json!({"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y), "kid": self.kid, "use": "sig", "alg": "ES256"})
            }
            Algorithm::EdDsa => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(&self.bytes), "kid": self.kid, "use": "sig", "alg": "EdDSA"}),
        }
    }

    /// Reads a JSON Web Key; None when it is none of ours.
    #[must_use]
    pub fn of_jwk(jwk: &Value) -> Option<Self> {
        let field = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| field(name).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let kid = field("kid")?.to_owned();
        match (field("kty")?, field("crv")?) {
            ("EC", "P-256") => {
                let (x, y) = (bytes("x")?, bytes("y")?);
                (x.len() == 32 && y.len() == 32).then(|| Self { kid, algorithm: Algorithm::Es256, bytes: [&[4][..], &x, &y].concat() })
            }
            ("OKP", "Ed25519") => bytes("x").filter(|x| x.len() == 32).map(|bytes| Self { kid, algorithm: Algorithm::EdDsa, bytes }),
            _ => None,
        }
    }

    fn holds(&self, input: &[u8], signature: &[u8]) -> bool {
        let how: &dyn VerificationAlgorithm = match self.algorithm {
            Algorithm::Es256 => &ECDSA_P256_SHA256_FIXED,
            Algorithm::EdDsa => &ED25519,
        };
        UnparsedPublicKey::new(how, &self.bytes).verify(input, signature).is_ok()
    }
}

/// The set of public keys of these, as `jku` names it.
#[must_use]
pub fn key_set<'a>(keys: impl IntoIterator<Item = &'a CardKey>) -> Value {
    json!({"keys": keys.into_iter().map(|key| key.public().jwk()).collect::<Vec<_>>()})
}

/// Replaces the signatures of a card by one of each key.
///
/// # Errors
/// [`CardError::Canonical`], [`CardError::Key`].
pub fn sign_card<'a>(card: &mut AgentCard, keys: impl IntoIterator<Item = &'a CardKey>) -> Result<(), CardError> {
    card.signatures.clear();
    let payload = URL_SAFE_NO_PAD.encode(canonical(card)?);
    let mut signatures = Vec::new();
    for key in keys {
        let mut header = json!({"alg": key.public().algorithm.name(), "typ": "JOSE", "kid": key.kid});
        if let Some(jku) = &key.jku {
            header["jku"] = json!(jku);
        }
        let protected = URL_SAFE_NO_PAD.encode(header.to_string());
        let signature = URL_SAFE_NO_PAD.encode(key.sign(format!("{protected}.{payload}").as_bytes())?);
        signatures.push(AgentCardSignature { protected, signature, header: None });
    }
    card.signatures = signatures;
    Ok(())
}

/// Checks a card against the keys that are believed. Answers with the ids of those whose signature holds, at least one.
///
/// # Errors
/// [`CardError::Unsigned`], [`CardError::UnknownKeys`], [`CardError::Forged`] when no signature of a known key holds.
pub fn verify_card(card: &AgentCard, known: &[CardPublicKey]) -> Result<Vec<String>, CardError> {
    if card.signatures.is_empty() {
        return Err(CardError::Unsigned(card.name.clone()));
    }
    let strict = canonical(card)?;
    // Some signers drop every empty value, those of required fields too. It means the same card.
    let lax = canonical_value(&without_empty(&unsigned(card)?).unwrap_or(Value::Null))?;
    let payloads = [URL_SAFE_NO_PAD.encode(strict), URL_SAFE_NO_PAD.encode(lax)];
    let (mut held, mut forged, mut strangers) = (Vec::new(), None, Vec::new());
    for found in &card.signatures {
        let Some(header) = header_of(found) else { continue };
        let field = |name: &str| header.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kid, algorithm) = (field("kid"), field("alg"));
        let Some(key) = known.iter().find(|key| key.kid == kid) else {
            strangers.push(kid);
            continue;
        };
        let signature = URL_SAFE_NO_PAD.decode(&found.signature).unwrap_or_default();
        let holds =
            key.algorithm.name() == algorithm && payloads.iter().any(|payload| key.holds(format!("{}.{payload}", found.protected).as_bytes(), &signature));
        if holds {
            held.push(kid);
        } else {
            forged = Some(kid);
        }
    }
    match (held.is_empty(), forged) {
        (false, _) => Ok(held),
        (true, Some(kid)) => Err(CardError::Forged { agent: card.name.clone(), kid }),
        (true, None) => Err(CardError::UnknownKeys { agent: card.name.clone(), kids: strangers.join(", ") }),
    }
}

fn header_of(signature: &AgentCardSignature) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(&signature.protected).ok()?).ok()
}

fn unsigned(card: &AgentCard) -> Result<Value, CardError> {
    let mut value = serde_json::to_value(card).map_err(|err| CardError::Canonical(err.to_string()))?;
    if let Some(map) = value.as_object_mut() {
        map.remove("signatures");
    }
    Ok(value)
}

/// The bytes that are signed. Serialising leaves out what is not set and not required, as the protocol asks.
fn canonical(card: &AgentCard) -> Result<Vec<u8>, CardError> {
    canonical_value(&unsigned(card)?)
}

fn canonical_value(value: &Value) -> Result<Vec<u8>, CardError> {
    serde_jcs::to_vec(value).map_err(|err| CardError::Canonical(err.to_string()))
}

fn without_empty(value: &Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            let kept: Map<String, Value> = map.iter().filter_map(|(name, value)| Some((name.clone(), without_empty(value)?))).collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(items) => {
            let kept: Vec<Value> = items.iter().filter_map(without_empty).collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        Value::String(text) if text.is_empty() => None,
        Value::Null => None,
        other => Some(other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use ed25519_dalek::{Signer as _, SigningKey};
    use serde_json::json;

    use super::{CardError, CardKey, CardPublicKey, ED25519_PKCS8, canonical, sign_card, verify_card};
    use crate::proto::AgentCard;

    fn card() -> AgentCard {
        serde_json::from_value(json!({
            "name": "Example Agent", "description": "", "version": "1", "supportedInterfaces": [],
            "capabilities": {"streaming": false, "pushNotifications": false, "extensions": []},
            "defaultInputModes": [], "defaultOutputModes": [], "skills": []
        }))
        .unwrap()
    }

    fn keys() -> [CardKey; 2] {
        [CardKey::es256("one", &CardKey::new_es256().unwrap()).unwrap(), CardKey::ed25519("two", SigningKey::from_bytes(&[7; 32]))]
    }

    #[test]
    fn what_is_not_set_is_not_signed_and_what_is_required_is() {
        let text = String::from_utf8(canonical(&card()).unwrap()).unwrap();
        assert_eq!(
            text,
            r#"{"capabilities":{"pushNotifications":false,"streaming":false},"defaultInputModes":[],"defaultOutputModes":[],"description":"","name":"Example Agent","skills":[],"supportedInterfaces":[],"version":"1"}"#
        );
    }

    #[test]
    fn two_signatures_and_either_is_enough() {
        let mut card = card();
        let keys = keys();
        sign_card(&mut card, &keys).unwrap();
        let public: Vec<CardPublicKey> = keys.iter().map(CardKey::public).collect();
        let read: AgentCard = serde_json::from_str(&serde_json::to_string(&card).unwrap()).unwrap();
        assert_eq!(verify_card(&read, &public).unwrap(), ["one", "two"]);
        for key in &public {
            assert_eq!(verify_card(&read, std::slice::from_ref(key)).unwrap(), [key.kid.as_str()]);
            assert_eq!(CardPublicKey::of_jwk(&key.jwk()).as_ref(), Some(key));
        }
        assert!(matches!(verify_card(&read, &[]), Err(CardError::UnknownKeys { .. })));
    }

    #[test]
    fn keys_are_read_from_files_and_lent_ones_sign_the_same() {
        let pem = |bytes: &[u8]| format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(bytes));
        let one = CardKey::from_pem(Some("one"), &pem(&CardKey::new_es256().unwrap())).unwrap();
        let seed = [&ED25519_PKCS8[..], &[7; 32]].concat();
        let two = CardKey::from_pem(None, &pem(&seed)).unwrap();
        let plain = SigningKey::from_bytes(&[7; 32]);
        assert!(two.kid.starts_with("card-") && two.public().bytes == plain.verifying_key().to_bytes(), "{two:?}");
        let lent = CardKey::lent("lent", plain.verifying_key().to_bytes(), Arc::new(move |bytes| plain.sign(bytes).to_bytes().to_vec()));
        let mut card = card();
        let public = [one.public(), two.public(), lent.public()];
        sign_card(&mut card, &[one, two, lent]).unwrap();
        assert_eq!(verify_card(&card, &public).unwrap().len(), 3);
        for wrong in ["", "-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----", &pem(b"nothing")] {
            assert!(matches!(CardKey::from_pem(None, wrong), Err(CardError::Key { .. })), "{wrong}");
        }
    }

    #[test]
    fn a_changed_card_and_a_foreign_algorithm_are_refused() {
        let keys = keys();
        let public: Vec<CardPublicKey> = keys.iter().map(CardKey::public).collect();
        let mut changed = card();
        assert!(matches!(verify_card(&changed, &public), Err(CardError::Unsigned(_))));
        sign_card(&mut changed, &keys).unwrap();
        changed.description = "other".into();
        assert!(matches!(verify_card(&changed, &public), Err(CardError::Forged { .. })));
        let mut confused = card();
        sign_card(&mut confused, &keys[1..]).unwrap();
        let renamed = CardPublicKey { algorithm: super::Algorithm::Es256, ..public[1].clone() };
        assert!(matches!(verify_card(&confused, &[renamed]), Err(CardError::Forged { .. })));
    }
}
