use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clawstead_terms::Millis;
use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::{
    FarmRoot, RootPin,
    pair::{kid_of, read_public, write_public},
};
use crate::{envelope::canonical, names::is_gateway};

const RECORD_TAG: &[u8] = b"openclaw-farm-key-v1\n";

/// How long a key is valid when nothing else is said: 90 days, plus a day and ten minutes to retire in.
pub const KEY_LIFE_DEFAULT_MS: i64 = 90 * 86_400_000 + 86_400_000 + 600_000;

/// How far a key is in its life. Later stages are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyStatus {
    /// Published, so that everybody knows it before it signs.
    Next,
    /// Signs.
    Active,
    /// Signs no more; what it signed is on its way.
    Retiring,
    /// Verifies nothing. Final.
    Revoked,
}

/// A public key that the farm's root vouches for: `openclaw/farm/v1/keys/<gateway>/<kid>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Whose key.
    pub gateway: String,
    /// Its name.
    pub kid: String,
    /// Always `Ed25519`.
    pub alg: String,
    /// 32 bytes, base64url without padding.
    #[serde(rename = "pub")]
    pub public: String,
    /// Not before this moment.
    #[serde(with = "crate::stamp::text")]
    pub not_before: Millis,
    /// Not after this moment.
    #[serde(with = "crate::stamp::text")]
    pub not_after: Millis,
    /// How far it is.
    pub status: KeyStatus,
    /// Which root signed.
    pub root_kid: String,
    /// The root's signature over everything above.
    #[serde(default)]
    pub root_sig: String,
}

/// One key with its four stages, all signed when it was approved, so that the root can go back into its safe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovedKey {
    /// To be published first.
    pub next: KeyRecord,
    /// While it signs.
    pub active: KeyRecord,
    /// After its successor took over.
    pub retiring: KeyRecord,
    /// At its end, or in an emergency.
    pub revoked: KeyRecord,
}

impl ApprovedKey {
    /// The record of one stage.
    #[must_use]
    pub const fn stage(&self, status: KeyStatus) -> &KeyRecord {
        match status {
            KeyStatus::Next => &self.next,
            KeyStatus::Active => &self.active,
            KeyStatus::Retiring => &self.retiring,
            KeyStatus::Revoked => &self.revoked,
        }
    }
}

impl FarmRoot {
    /// Vouches for a gateway's key in all four stages, valid from `not_before` to `not_after`.
    #[must_use]
    pub fn approve(&self, gateway: &str, key: &VerifyingKey, not_before: Millis, not_after: Millis) -> ApprovedKey {
        let stage = |status| self.sign_record(gateway, key, not_before, not_after, status);
        ApprovedKey { next: stage(KeyStatus::Next), active: stage(KeyStatus::Active), retiring: stage(KeyStatus::Retiring), revoked: stage(KeyStatus::Revoked) }
    }

    fn sign_record(&self, gateway: &str, key: &VerifyingKey, not_before: Millis, not_after: Millis, status: KeyStatus) -> KeyRecord {
        let mut record = KeyRecord {
            gateway: gateway.into(),
            kid: kid_of(gateway, key),
            alg: "Ed25519".into(),
            public: write_public(key),
            not_before,
            not_after,
            status,
            root_kid: self.pin().kid,
            root_sig: String::new(),
        };
        record.root_sig = URL_SAFE_NO_PAD.encode(self.key.sign(&record.signing_bytes()).to_bytes());
        record
    }
}

impl KeyRecord {
    /// Where the record lies in the coordination store.
    #[must_use]
    pub fn store_key(&self) -> String {
        format!("openclaw/farm/v1/keys/{}/{}", self.gateway, self.kid)
    }

    /// The key, when one of the roots vouches for the record and its parts fit each other.
    pub(super) fn verified(&self, roots: &[RootPin]) -> Option<VerifyingKey> {
        let root = roots.iter().find(|root| root.kid == self.root_kid)?;
        let sig = Signature::from_slice(&URL_SAFE_NO_PAD.decode(&self.root_sig).ok()?).ok()?;
        root.key.verify_strict(&self.signing_bytes(), &sig).ok()?;
        let key = read_public(&self.public).ok()?;
        (self.alg == "Ed25519" && is_gateway(&self.gateway) && self.kid == kid_of(&self.gateway, &key)).then_some(key)
    }

    fn signing_bytes(&self) -> Vec<u8> {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(map) = value.as_object_mut() {
            map.remove("root_sig");
        }
        // Texts and nothing else: there always is a canonical form.
        [RECORD_TAG, &canonical(&value).unwrap_or_default()].concat()
    }
}
