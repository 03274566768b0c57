use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clawstead_world::Rng;
use ed25519_dalek::{
    Signer as _, SigningKey, VerifyingKey,
    pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, spki::der::pem::LineEnding},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::names::is_gateway;

/// Why a key cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyFileError {
    /// Not PKCS#8 PEM of an Ed25519 key.
    #[error("not an Ed25519 private key in PKCS#8 PEM: {0}")]
    Pem(String),
    /// Not 32 bytes in base64url that are a usable public key.
    #[error("not an Ed25519 public key in base64url")]
    Public,
    /// Not a gateway's name.
    #[error("{0:?} is not a gateway's name: 2 to 40 of a-z, 0-9 and -, the ends a letter or digit")]
    Name(String),
}

/// A gateway's key pair. Cloning copies the secret; dropping wipes it.
#[derive(Clone)]
pub struct GatewayKey {
    gateway: String,
    kid: String,
    key: SigningKey,
}

impl fmt::Debug for GatewayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl GatewayKey {
    /// A new key; `rng` must be fit for secrets.
    ///
    /// # Errors
    /// When `gateway` is not a gateway's name.
    pub fn generate(gateway: &str, rng: &dyn Rng) -> Result<Self, KeyFileError> {
        Self::new(gateway, generate(rng))
    }

    /// Reads a private key.
    ///
    /// # Errors
    /// When the text is not one, or `gateway` is not a gateway's name.
    pub fn from_pem(gateway: &str, pem: &str) -> Result<Self, KeyFileError> {
        Self::new(gateway, from_pem(pem)?)
    }

    fn new(gateway: &str, key: SigningKey) -> Result<Self, KeyFileError> {
        if !is_gateway(gateway) {
            return Err(KeyFileError::Name(gateway.into()));
        }
        Ok(Self { gateway: gateway.into(), kid: kid_of(gateway, &key.verifying_key()), key })
    }

    /// The private key as PKCS#8 PEM. A secret: for a file of mode 0600.
    ///
    /// # Errors
    /// When it cannot be encoded, which does not happen for valid keys.
    pub fn to_pem(&self) -> Result<String, KeyFileError> {
        to_pem(&self.key)
    }

    /// Whose key it is.
    #[must_use]
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// Gateway, a dot, first 16 hex digits of the SHA-256 of the public key.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> VerifyingKey {
        self.key.verifying_key()
    }

    /// Signs bytes; base64url without padding.
    #[must_use]
    pub fn sign(&self, bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(self.key.sign(bytes).to_bytes())
    }
}

/// The farm's root key pair: signs key records, and is needed for nothing else.
#[derive(Clone)]
pub struct FarmRoot {
    pub(super) key: SigningKey,
    kid: String,
}

impl fmt::Debug for FarmRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FarmRoot").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl FarmRoot {
    /// A new root; `rng` must be fit for secrets.
    #[must_use]
    pub fn generate(rng: &dyn Rng) -> Self {
        Self::new(generate(rng))
    }

    /// Reads a private key.
    ///
    /// # Errors
    /// When the text is not one.
    pub fn from_pem(pem: &str) -> Result<Self, KeyFileError> {
        from_pem(pem).map(Self::new)
    }

    fn new(key: SigningKey) -> Self {
        let kid = kid_of("root", &key.verifying_key());
        Self { key, kid }
    }

    /// The private key as PKCS#8 PEM. A secret: for a safe place that is not a gateway.
    ///
    /// # Errors
    /// When it cannot be encoded, which does not happen for valid keys.
    pub fn to_pem(&self) -> Result<String, KeyFileError> {
        to_pem(&self.key)
    }

    /// What gateways put into their config.
    #[must_use]
    pub fn pin(&self) -> RootPin {
        RootPin { kid: self.kid.clone(), key: self.key.verifying_key() }
    }
}

/// The public half of a farm's root, as gateways have it in their config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootPin {
    pub(super) kid: String,
    pub(super) key: VerifyingKey,
}

impl RootPin {
    /// Reads the text of [`RootPin::text`].
    ///
    /// # Errors
    /// When it is not a usable public key.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let key = read_public(text)?;
        Ok(Self { kid: kid_of("root", &key), key })
    }

    /// 32 bytes, base64url without padding.
    #[must_use]
    pub fn text(&self) -> String {
        write_public(&self.key)
    }

    /// `root.` and 16 hex digits.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }
}

impl Serialize for RootPin {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for RootPin {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// The name of a key: owner, a dot, first 16 hex digits of the SHA-256 of the raw public key.
#[must_use]
pub fn kid_of(owner: &str, key: &VerifyingKey) -> String {
    format!("{owner}.{}", hex::encode(&Sha256::digest(key.as_bytes())[..8]))
}

/// A public key from its text; keys of small order are refused, since signatures under them prove nothing.
///
/// # Errors
/// When it is not one.
pub fn read_public(text: &str) -> Result<VerifyingKey, KeyFileError> {
    let raw = URL_SAFE_NO_PAD.decode(text).ok().and_then(|raw| <[u8; 32]>::try_from(raw).ok()).ok_or(KeyFileError::Public)?;
    VerifyingKey::from_bytes(&raw).ok().filter(|key| !key.is_weak()).ok_or(KeyFileError::Public)
}

/// The text of a public key: 32 bytes, base64url without padding.
#[must_use]
pub fn write_public(key: &VerifyingKey) -> String {
    URL_SAFE_NO_PAD.encode(key.as_bytes())
}

fn generate(rng: &dyn Rng) -> SigningKey {
    let mut seed = [0; 32];
    rng.fill(&mut seed);
    SigningKey::from_bytes(&seed)
}

fn from_pem(pem: &str) -> Result<SigningKey, KeyFileError> {
    SigningKey::from_pkcs8_pem(pem).map_err(|err| KeyFileError::Pem(err.to_string()))
}

fn to_pem(key: &SigningKey) -> Result<String, KeyFileError> {
    key.to_pkcs8_pem(LineEnding::LF).map(|pem| pem.to_string()).map_err(|err| KeyFileError::Pem(err.to_string()))
}
