use std::collections::BTreeMap;

use clawstead_terms::Millis;
use ed25519_dalek::VerifyingKey;
use thiserror::Error;

use super::{KeyRecord, KeyStatus, RootPin};
use crate::{Now, envelope::Refusal};

/// How old our knowledge of keys may be, ms. It bounds how long a revoked key is believed.
pub const KEYS_AGE_MAX_MS: u64 = 60_000;
/// Keys of one gateway at most; more are skipped.
pub const KEYS_PER_GATEWAY_MAX: usize = 16;

/// Why there is no key ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RingError {
    /// No root, or more than two.
    #[error("pin one root of the farm, or two while it is changed")]
    Roots,
}

/// A record that was not taken, for `doctor` and the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The key it names.
    pub kid: String,
    /// Why.
    pub why: &'static str,
}

/// The keys that gateways sign with, as far as the farm's root vouches for them.
#[derive(Clone, Debug)]
pub struct KeyRing {
    roots: Vec<RootPin>,
    keys: BTreeMap<String, Held>,
    /// The furthest stage ever seen of a key; outlives its record.
    stages: BTreeMap<String, KeyStatus>,
    fresh_at_ms: Option<u64>,
}

#[derive(Clone, Debug)]
struct Held {
    gateway: String,
    key: VerifyingKey,
    not_before: Millis,
    not_after: Millis,
}

impl KeyRing {
    /// An empty ring that believes these roots.
    ///
    /// # Errors
    /// When there is no root or more than two.
    pub fn new(roots: Vec<RootPin>) -> Result<Self, RingError> {
        if !(1..=2).contains(&roots.len()) {
            return Err(RingError::Roots);
        }
        Ok(Self { roots, keys: BTreeMap::new(), stages: BTreeMap::new(), fresh_at_ms: None })
    }

    /// Believes these roots from now on. Keys that none of them signed are not believed any more once the records are taken
    /// again ([`KeyRing::replace`]).
    ///
    /// # Errors
    /// When there is no root or more than two; the ones before stay.
    pub fn set_roots(&mut self, roots: Vec<RootPin>) -> Result<(), RingError> {
        if !(1..=2).contains(&roots.len()) {
            return Err(RingError::Roots);
        }
        self.roots = roots;
        Ok(())
    }

    /// Takes all records as the coordination store has them now; keys without a record are gone. Gives what was skipped.
    pub fn replace<'a>(&mut self, records: impl IntoIterator<Item = &'a KeyRecord>, mono_ms: u64) -> Vec<Skipped> {
        self.keys.clear();
        self.fresh_at_ms = Some(mono_ms);
        records.into_iter().filter_map(|record| self.put(record).err()).collect()
    }

    /// Takes one record that came or changed. Gives it back as skipped when it is not believed.
    ///
    /// # Errors
    /// When no pinned root signed it, it contradicts itself, or its gateway has too many.
    pub fn put(&mut self, record: &KeyRecord) -> Result<(), Skipped> {
        let skipped = |why| Skipped { kid: record.kid.chars().take(64).collect(), why };
        let key = record.verified(&self.roots).ok_or_else(|| skipped("no pinned root signed this record"))?;
        if !self.keys.contains_key(&record.kid) && self.keys.values().filter(|held| held.gateway == record.gateway).count() >= KEYS_PER_GATEWAY_MAX {
            return Err(skipped("its gateway has too many keys"));
        }
        let stage = self.stages.entry(record.kid.clone()).or_insert(record.status);
        *stage = record.status.max(*stage);
        let held = Held { gateway: record.gateway.clone(), key, not_before: record.not_before, not_after: record.not_after };
        self.keys.insert(record.kid.clone(), held);
        if record.status < self.stages[&record.kid] { Err(skipped("an earlier stage than was seen before; the later one holds")) } else { Ok(()) }
    }

    /// When the store answered last; none when it never did.
    #[must_use]
    pub const fn fresh_at(&self) -> Option<u64> {
        self.fresh_at_ms
    }

    /// Nothing was heard yet after all.
    pub const fn forget_age(&mut self) {
        self.fresh_at_ms = None;
    }

    /// A record is gone. A revoked key stays revoked.
    pub fn remove(&mut self, kid: &str) {
        self.keys.remove(kid);
    }

    /// The coordination store just answered that nothing else changed: what we know is as old as now.
    pub const fn touch(&mut self, mono_ms: u64) {
        self.fresh_at_ms = Some(mono_ms);
    }

    /// The key that a letter of `gateway` names.
    ///
    /// # Errors
    /// `KeysStale`, `KeyUnknown` (also when it is another gateway's), `KeyRevoked`, `KeyNotYet`, `KeyRetired`.
    pub fn key(&self, kid: &str, gateway: &str, now: Now) -> Result<&VerifyingKey, Refusal> {
        self.check_age(now)?;
        let owned = || kid.to_owned();
        if self.stages.get(kid) == Some(&KeyStatus::Revoked) {
            return Err(Refusal::KeyRevoked { kid: owned() });
        }
        let held = self.keys.get(kid).filter(|held| held.gateway == gateway).ok_or_else(|| Refusal::KeyUnknown { kid: owned() })?;
        if now.wall < held.not_before {
            return Err(Refusal::KeyNotYet { kid: owned() });
        }
        if now.wall > held.not_after {
            return Err(Refusal::KeyRetired { kid: owned() });
        }
        Ok(&held.key)
    }

    /// Every key that `gateway` may sign hop data with.
    ///
    /// # Errors
    /// `KeysStale`; `KeyUnknown` when it has none.
    pub fn keys_of(&self, gateway: &str, now: Now) -> Result<Vec<&VerifyingKey>, Refusal> {
        self.check_age(now)?;
        let keys: Vec<_> = self.keys.iter().filter(|(_, held)| held.gateway == gateway).filter_map(|(kid, _)| self.key(kid, gateway, now).ok()).collect();
        if keys.is_empty() { Err(Refusal::KeyUnknown { kid: format!("{gateway}.*") }) } else { Ok(keys) }
    }

    /// The furthest stage seen of a key.
    #[must_use]
    pub fn stage(&self, kid: &str) -> Option<KeyStatus> {
        self.stages.get(kid).copied()
    }

    /// Stages to keep over a restart, so that going back is noticed then too.
    #[must_use]
    pub const fn stages(&self) -> &BTreeMap<String, KeyStatus> {
        &self.stages
    }

    /// Remembers stages that an earlier process saw.
    pub fn remember(&mut self, stages: impl IntoIterator<Item = (String, KeyStatus)>) {
        for (kid, status) in stages {
            let stage = self.stages.entry(kid).or_insert(status);
            *stage = status.max(*stage);
        }
    }

    fn check_age(&self, now: Now) -> Result<(), Refusal> {
        let age_ms = self.fresh_at_ms.map_or(u64::MAX, |at| now.mono_ms.saturating_sub(at));
        if age_ms > KEYS_AGE_MAX_MS { Err(Refusal::KeysStale { age_ms }) } else { Ok(()) }
    }
}
