use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clawstead_terms::Millis;
use clawstead_world::Rng;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use thiserror::Error;

use crate::names::is_gateway;

/// How long a join token may be used, ms: ten minutes.
pub const JOIN_TOKEN_TTL_MS: i64 = 600_000;
const PREFIX: &str = "ocjoin1.";
const TEXT_MAX: usize = 1024;
/// Spent tokens remembered at most; each is forgotten when its time is over anyway.
const SPENT_MAX: usize = 4096;

/// Why a join token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum JoinError {
    /// Not a token, or made with another secret, or altered.
    #[error("this is not a join token of this farm")]
    Invalid,
    /// Its ten minutes are over.
    #[error("the join token is too old; make a new one")]
    Expired,
    /// For another gateway.
    #[error("the join token is for another gateway")]
    WrongGateway,
    /// Used before.
    #[error("the join token was used already; make a new one")]
    Spent,
    /// Too many tokens at once.
    #[error("too many join tokens in ten minutes; wait and try again")]
    TooMany,
}

/// What a join token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinClaim {
    /// The farm.
    pub farm: String,
    /// The gateway that may join with it.
    pub gateway: String,
    /// When its time is over.
    pub expires: Millis,
    /// Makes each token another one.
    pub nonce: String,
}

impl JoinClaim {
    /// The key to create in the coordination store, if it does not exist yet, before the gateway is approved: so one
    /// token works once, whichever gateways are asked.
    #[must_use]
    pub fn spent_key(&self) -> String {
        format!("openclaw/farm/v1/join/{}", self.nonce)
    }
}

/// A token that lets `gateway` join for the next ten minutes. A secret until it is used.
#[must_use]
pub fn issue_join_token(secret: &[u8; 32], farm: &str, gateway: &str, now: Millis, rng: &dyn Rng) -> String {
    let claim = JoinClaim { farm: farm.into(), gateway: gateway.into(), expires: now.plus(JOIN_TOKEN_TTL_MS), nonce: rng.uuid() };
    let body = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claim).unwrap_or_default());
    let mac = mac(secret, &body).map(|mac| URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())).unwrap_or_default();
    format!("{PREFIX}{body}.{mac}")
}

/// Reads a token that `gateway` shows. It counts as used only when [`SpentTokens::spend`] or the creation of
/// [`JoinClaim::spent_key`] said so.
///
/// # Errors
/// When it is not one of this farm, not for this gateway, or too old.
pub fn read_join_token(secret: &[u8; 32], farm: &str, gateway: &str, token: &str, now: Millis) -> Result<JoinClaim, JoinError> {
    let (body, tag) = token.strip_prefix(PREFIX).filter(|_| token.len() <= TEXT_MAX).and_then(|rest| rest.split_once('.')).ok_or(JoinError::Invalid)?;
    let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| JoinError::Invalid)?;
    // Compared in constant time, before a byte of the content is looked at.
    mac(secret, body).and_then(|mac| mac.verify_slice(&tag).ok()).ok_or(JoinError::Invalid)?;
    let raw = URL_SAFE_NO_PAD.decode(body).map_err(|_| JoinError::Invalid)?;
    let claim: JoinClaim = serde_json::from_slice(&raw).map_err(|_| JoinError::Invalid)?;
    if claim.farm != farm || claim.nonce.len() != 36 {
        return Err(JoinError::Invalid);
    }
    if claim.gateway != gateway || !is_gateway(gateway) {
        return Err(JoinError::WrongGateway);
    }
    if now > claim.expires {
        return Err(JoinError::Expired);
    }
    Ok(claim)
}

fn mac(secret: &[u8; 32], body: &str) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
    mac.update(b"openclaw-farm-join-v1\n");
    mac.update(body.as_bytes());
    Some(mac)
}

/// Tokens used at this gateway.
#[derive(Clone, Debug, Default)]
pub struct SpentTokens(BTreeMap<String, Millis>);

impl SpentTokens {
    /// Marks a token as used.
    ///
    /// # Errors
    /// `Spent` when it was, `TooMany` when no more can be remembered.
    pub fn spend(&mut self, claim: &JoinClaim, now: Millis) -> Result<(), JoinError> {
        self.0.retain(|_, expires| *expires >= now);
        if self.0.contains_key(&claim.nonce) {
            return Err(JoinError::Spent);
        }
        if self.0.len() >= SPENT_MAX {
            return Err(JoinError::TooMany);
        }
        self.0.insert(claim.nonce.clone(), claim.expires);
        Ok(())
    }
}
