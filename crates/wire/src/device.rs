//! Device identity: an Ed25519 key pair, its id, and the texts it signs.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ed25519_dalek::{
    Signature, Signer as _, SigningKey, Verifier as _, VerifyingKey,
    pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _, spki::der::pem::LineEnding},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::{
    connect::{ConnectParams, DeviceProof},
    error::ErrorShape,
    limits,
};

/// Why a key file is not one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the device key cannot be read: {0}")]
pub struct KeyError(String);

/// A device's key pair.
#[derive(Clone)]
pub struct DeviceIdentity {
    key: SigningKey,
    id: String,
}

impl std::fmt::Debug for DeviceIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceIdentity").field("id", &self.id).finish_non_exhaustive()
    }
}

impl DeviceIdentity {
    /// The key pair of a 32-byte seed, which must come from a secret random source.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let id = device_id(&key.verifying_key());
        Self { key, id }
    }

    /// Reads a PKCS#8 PEM private key.
    ///
    /// # Errors
    /// When the text is not one.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let key = SigningKey::from_pkcs8_pem(text).map_err(|err| KeyError(err.to_string()))?;
        let id = device_id(&key.verifying_key());
        Ok(Self { key, id })
    }

    /// The private key as PKCS#8 PEM. A secret.
    ///
    /// # Errors
    /// When it cannot be encoded, which does not happen for valid keys.
    pub fn private_pem(&self) -> Result<String, KeyError> {
        self.key.to_pkcs8_pem(LineEnding::LF).map(|pem| pem.to_string()).map_err(|err| KeyError(err.to_string()))
    }

    /// The public key as PEM.
    ///
    /// # Errors
    /// When it cannot be encoded, which does not happen for valid keys.
    pub fn public_pem(&self) -> Result<String, KeyError> {
        self.key.verifying_key().to_public_key_pem(LineEnding::LF).map_err(|err| KeyError(err.to_string()))
    }

    /// Lower-case hex SHA-256 of the raw public key.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The raw public key, base64url without padding.
    #[must_use]
    pub fn public_key(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.key.verifying_key().as_bytes())
    }

    /// Signs a text; base64url without padding.
    #[must_use]
    pub fn sign(&self, text: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.key.sign(text.as_bytes()).to_bytes())
    }

    /// The proof for `params` (version 3), to be put into `params.device`.
    #[must_use]
    pub fn prove(&self, params: &ConnectParams, nonce: &str, signed_at: i64) -> DeviceProof {
        let text = signed_text(SignedText::V3, params, &self.id, signed_at, nonce);
        DeviceProof {
            id: self.id.clone(),
            public_key: self.public_key(),
            signature: self.sign(&text),
            signed_at: u64::try_from(signed_at).unwrap_or(0),
            nonce: nonce.to_owned(),
        }
    }
}

fn device_id(key: &VerifyingKey) -> String {
    hex::encode(Sha256::digest(key.as_bytes()))
}

/// The version of the signed text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignedText {
    /// With platform and device family.
    V3,
    /// Without.
    V2,
}

/// The text that a device signs.
#[must_use]
pub fn signed_text(version: SignedText, params: &ConnectParams, device_id: &str, signed_at: i64, nonce: &str) -> String {
    let word = match version {
        SignedText::V3 => "v3",
        SignedText::V2 => "v2",
    };
    let client = &params.client;
    let mut text = [
        word,
        device_id,
        client.id.as_str(),
        client.mode.as_str(),
        params.role(),
        &params.scopes().join(","),
        &signed_at.to_string(),
        params.signed_token(),
        nonce,
    ]
    .join("|");
    if version == SignedText::V3 {
        for field in [Some(&client.platform), client.device_family.as_ref()] {
            text.push('|');
            text.push_str(&field.map_or_else(String::new, |f| f.trim().to_ascii_lowercase()));
        }
    }
    text
}

/// Reads a public key: raw base64url or base64, or PEM.
#[must_use]
pub fn read_public_key(text: &str) -> Option<VerifyingKey> {
    if text.contains("BEGIN") {
        return VerifyingKey::from_public_key_pem(text).ok();
    }
    let trimmed = text.trim().trim_end_matches('=');
    let raw = URL_SAFE_NO_PAD.decode(trimmed).ok().or_else(|| STANDARD.decode(text.trim()).ok())?;
    VerifyingKey::from_bytes(&raw.try_into().ok()?).ok()
}

/// A device whose proof held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenDevice {
    /// Its id.
    pub id: String,
    /// Its raw public key, base64url.
    pub public_key: String,
}

/// Checks a device proof against the challenge of this socket.
///
/// # Errors
/// The error of the first check that fails, in the order that clients know.
pub fn verify(params: &ConnectParams, proof: &DeviceProof, nonce: &str, now_ms: i64) -> Result<ProvenDevice, ErrorShape> {
    let key = read_public_key(&proof.public_key);
    if let Some(key) = &key
        && device_id(key) != proof.id
    {
        return Err(fault("device identity mismatch", "DEVICE_ID_MISMATCH", "device-id-mismatch"));
    }
    let signed_at = i64::try_from(proof.signed_at).unwrap_or(i64::MAX);
    if now_ms.saturating_sub(signed_at).saturating_abs() > limits::DEVICE_SKEW_MS {
        return Err(fault("device signature expired", "SIGNATURE_EXPIRED", "device-signature-stale"));
    }
    if proof.nonce.trim().is_empty() {
        return Err(fault("device nonce required", "NONCE_REQUIRED", "device-nonce-missing"));
    }
    if proof.nonce != nonce {
        return Err(fault("device nonce mismatch", "NONCE_MISMATCH", "device-nonce-mismatch"));
    }
    let Some(key) = key else {
        return Err(fault("device public key invalid", "PUBLIC_KEY_INVALID", "device-public-key"));
    };
    let signature = URL_SAFE_NO_PAD
        .decode(proof.signature.trim_end_matches('='))
        .ok()
        .or_else(|| STANDARD.decode(&proof.signature).ok())
        .and_then(|raw| Signature::from_slice(&raw).ok());
    let holds = signature.is_some_and(|signature| {
        [SignedText::V3, SignedText::V2]
            .into_iter()
            .any(|version| key.verify(signed_text(version, params, &proof.id, signed_at, &proof.nonce).as_bytes(), &signature).is_ok())
    });
    if !holds {
        return Err(fault("device signature invalid", "SIGNATURE_INVALID", "device-signature"));
    }
    Ok(ProvenDevice { id: proof.id.clone(), public_key: URL_SAFE_NO_PAD.encode(key.as_bytes()) })
}

fn fault(message: &str, code: &str, reason: &str) -> ErrorShape {
    let details: Value = json!({ "code": format!("DEVICE_AUTH_{code}"), "reason": reason });
    ErrorShape::invalid(message).with_details(details)
}

#[cfg(test)]
mod tests {
    use super::{DeviceIdentity, SignedText, signed_text, verify};
    use crate::connect::ConnectParams;
    use serde_json::json;

    const NONCE: &str = "11111111-2222-4333-8444-555555555555";
    const AT: i64 = 1_737_264_000_000;

    fn identity() -> DeviceIdentity {
        let mut seed = [0; 32];
        for (index, byte) in seed.iter_mut().enumerate() {
            *byte = u8::try_from(index).unwrap();
        }
        DeviceIdentity::from_seed(&seed)
    }

    fn params() -> ConnectParams {
        ConnectParams::parse(json!({"minProtocol": 4, "maxProtocol": 4,
            "client": {"id": "cli", "version": "1", "platform": "linux", "mode": "cli"},
            "scopes": ["operator.read", "operator.write"], "auth": {"token": "GATEWAY_TOKEN"}}))
        .unwrap()
    }

    #[test]
    fn the_recorded_vector_holds() {
        let (device, params) = (identity(), params());
        assert_eq!(device.public_key(), "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg");
        assert_eq!(device.id(), "56475aa75463474c0285df5dbf2bcab73da651358839e9b77481b2eab107708c");
        let v3 = signed_text(SignedText::V3, &params, device.id(), AT, NONCE);
        assert_eq!(device.sign(&v3), "Q3nh5eUT5XoZburB0hIUMOlhb1GM0ufs0-6QI2Z16pqvm_T56LHV7sBcJq6JTAIA9X_h6s3CdEGib2SHEE95Aw");
        let v2 = signed_text(SignedText::V2, &params, device.id(), AT, NONCE);
        assert_eq!(device.sign(&v2), "dQGwOS6aI_eWuxDcz-OCKyMp0ZWtwoeFGmJ6ZiGEG_bTXXfj0FK1hWlINeiYV430eoo8gNs3QnCsRuxxOrFuAA");
    }

    #[test]
    fn every_flaw_of_a_proof_has_its_code() {
        let (device, params) = (identity(), params());
        let proof = device.prove(&params, NONCE, AT);
        assert!(verify(&params, &proof, NONCE, AT + 1000).is_ok());
        let code = |change: &dyn Fn(&mut crate::connect::DeviceProof), nonce: &str, now: i64| {
            let mut copy = proof.clone();
            change(&mut copy);
            verify(&params, &copy, nonce, now).unwrap_err().detail_code().unwrap().to_owned()
        };
        assert_eq!(code(&|p| p.id = "00".into(), NONCE, AT), "DEVICE_AUTH_DEVICE_ID_MISMATCH");
        assert_eq!(code(&|_| (), NONCE, AT + 120_001), "DEVICE_AUTH_SIGNATURE_EXPIRED");
        assert_eq!(code(&|p| p.nonce = " ".into(), NONCE, AT), "DEVICE_AUTH_NONCE_REQUIRED");
        assert_eq!(code(&|_| (), "other", AT), "DEVICE_AUTH_NONCE_MISMATCH");
        assert_eq!(code(&|p| p.signature = "AAAA".into(), NONCE, AT), "DEVICE_AUTH_SIGNATURE_INVALID");
        assert_eq!(code(&|p| p.public_key = "zz".into(), NONCE, AT), "DEVICE_AUTH_PUBLIC_KEY_INVALID");
    }

    #[test]
    fn keys_survive_pem() {
        let device = identity();
        let back = DeviceIdentity::from_pem(&device.private_pem().unwrap()).unwrap();
        assert_eq!(back.id(), device.id());
        assert!(super::read_public_key(&device.public_pem().unwrap()).is_some());
    }
}
