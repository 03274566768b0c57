use std::fmt;

use thiserror::Error;

use super::{KeyRecord, KeyStatus};
use crate::envelope::TTL_MAX_MS;

/// Time for everybody to hear of a new key, ms.
pub const SPREAD_MS: u64 = 300_000;
/// Added to the longest life of a letter before a key is forgotten, ms.
pub const RETIRE_MARGIN_MS: u64 = 600_000;

/// What is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// A gateway's signing key: from the active one to a new one.
    GatewayKey {
        /// Whose key.
        gateway: String,
        /// The new key.
        new_kid: String,
    },
    /// The farm's root.
    Root {
        /// The new root.
        new_root: String,
    },
    /// The certificate of a gateway's peer link.
    Certificate {
        /// Whose.
        gateway: String,
    },
    /// What a gateway shows an engine: a Consul token, a Redis or NATS password.
    Credentials {
        /// `consul`, `redis`, `nats`.
        engine: String,
        /// Whose.
        gateway: String,
    },
}

/// One step of a plan: wait, then do, then tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationStep {
    /// From 1.
    pub number: u32,
    /// How long to wait after the step before, ms.
    pub wait_ms: u64,
    /// What is done.
    pub what: String,
    /// The event it emits.
    pub event: &'static str,
}

impl fmt::Display for RotationStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.wait_ms / 60_000;
        let wait = match (minutes / 60, minutes % 60) {
            (0, 0) => "at once".to_owned(),
            (0, min) => format!("after {min} min"),
            (hours, 0) => format!("after {hours} h"),
            (hours, min) => format!("after {hours} h {min} min"),
        };
        write!(f, "{}. {wait}: {} [{}]", self.number, self.what, self.event)
    }
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RotationError {
    /// A change of the same kind is on its way.
    #[error("{gateway} is changing its key already: {kid} is {status}; finish that first")]
    Underway {
        /// The gateway.
        gateway: String,
        /// The key in the way.
        kid: String,
        /// Its stage.
        status: &'static str,
    },
    /// Nothing to change from.
    #[error("{gateway} has no active key; enrol it first")]
    NoActive {
        /// The gateway.
        gateway: String,
    },
    /// The key is not there.
    #[error("there is no key {0}")]
    UnknownKey(String),
}

/// The whole plan, with its waiting times. `--dry-run` prints these steps and nothing else; a run does them in order.
///
/// # Errors
/// When a gateway's key cannot be changed now: `records` are all records of the farm as they are.
pub fn rotation_plan(what: &Rotation, records: &[KeyRecord]) -> Result<Vec<RotationStep>, RotationError> {
    let retire_ms = TTL_MAX_MS + RETIRE_MARGIN_MS;
    let steps: Vec<(u64, String, &'static str)> = match what {
        Rotation::GatewayKey { gateway, new_kid } => {
            let old = active_key(gateway, new_kid, records)?;
            vec![
                (0, format!("publish {new_kid} as next"), "farm.key.next"),
                (SPREAD_MS, format!("sign with {new_kid}: it becomes active, {} retiring", old.kid), "farm.key.active"),
                (retire_ms, format!("revoke {}: nothing it signed can still be on its way", old.kid), "farm.key.revoked"),
            ]
        }
        Rotation::Root { new_root } => vec![
            (0, format!("add {new_root} as second root to the config of every gateway and reload"), "farm.key.root_pinned"),
            (SPREAD_MS, format!("sign the records of all keys again with {new_root} and publish them"), "farm.key.root_signed"),
            (SPREAD_MS, "take the old root out of the config of every gateway and reload".into(), "farm.key.root_unpinned"),
        ],
        Rotation::Certificate { gateway } => vec![
            (0, format!("issue a new certificate for the active key of {gateway}, valid for 7 days"), "farm.key.cert_issued"),
            (0, format!("{gateway} shows it on new peer links; open links stay"), "farm.key.cert_active"),
        ],
        Rotation::Credentials { engine, gateway } => vec![
            (0, format!("create a second {engine} credential for {gateway} with the same rights"), "farm.key.credential_created"),
            (0, format!("put it into the config of {gateway} and reload; new connections use it"), "farm.key.credential_active"),
            (SPREAD_MS, format!("delete the old {engine} credential of {gateway}"), "farm.key.credential_revoked"),
        ],
    };
    Ok(number(steps))
}

/// What happens when a key may be stolen: at once, without overlap.
///
/// # Errors
/// When there is no such key.
pub fn emergency_revoke(kid: &str, records: &[KeyRecord]) -> Result<Vec<RotationStep>, RotationError> {
    let record = records.iter().find(|record| record.kid == kid).ok_or_else(|| RotationError::UnknownKey(kid.into()))?;
    let gateway = &record.gateway;
    Ok(number(vec![
        (0, format!("publish {kid} as revoked; every gateway refuses it within 60 s"), "farm.key.revoked"),
        (0, format!("move queued letters that {kid} signed to dead letters (key_revoked); replay signs them again"), "farm.msg.dead_letter"),
        (0, format!("revoke the certificates and engine credentials of {gateway}"), "farm.key.credential_revoked"),
        (0, format!("make a new key on {gateway} and approve it"), "farm.key.active"),
    ]))
}

fn number(steps: Vec<(u64, String, &'static str)>) -> Vec<RotationStep> {
    (1..).zip(steps).map(|(number, (wait_ms, what, event))| RotationStep { number, wait_ms, what, event }).collect()
}

fn active_key<'a>(gateway: &str, new_kid: &str, records: &'a [KeyRecord]) -> Result<&'a KeyRecord, RotationError> {
    let own = || records.iter().filter(|record| record.gateway == gateway && record.kid != new_kid);
    let underway = |record: &KeyRecord, status| RotationError::Underway { gateway: gateway.into(), kid: record.kid.clone(), status };
    if let Some(record) = own().find(|record| record.status == KeyStatus::Next) {
        return Err(underway(record, "next"));
    }
    if let Some(record) = own().find(|record| record.status == KeyStatus::Retiring) {
        return Err(underway(record, "retiring"));
    }
    own().find(|record| record.status == KeyStatus::Active).ok_or_else(|| RotationError::NoActive { gateway: gateway.into() })
}
