//! The store as the gateway's rooms use it: every write carries the fence that this gateway holds for the unit.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;

use crate::{self as state, Batch, Scan, Store, Table, TxError, Versioned};
use clawstead_terms::{Failure, FailureCode, Fence, Retry, Unit};

/// An effect begins at most so long after the store was asked whether its unit is still ours: half of the time for which
/// a gateway that takes a unit over keeps still.
pub const EFFECT_WINDOW: std::time::Duration = std::time::Duration::from_secs(1);

/// The fences this gateway holds.
#[derive(Debug, Default)]
pub struct Claims(RwLock<BTreeMap<Unit, Fence>>);

impl Claims {
    /// The fence of a unit, where we hold it.
    #[must_use]
    pub fn get(&self, unit: &Unit) -> Option<Fence> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(unit).cloned()
    }

    /// From now on we hold this fence.
    pub fn hold(&self, unit: Unit, fence: Fence) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(unit, fence);
    }

    /// The unit is somebody else's from now on.
    pub fn give_up(&self, unit: &Unit) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(unit);
    }

    /// Everything we hold.
    #[must_use]
    pub fn all(&self) -> Vec<(Unit, Fence)> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().map(|(u, f)| (u.clone(), f.clone())).collect()
    }
}

/// The store with our fences.
#[derive(Clone)]
pub struct Keeper {
    /// The store itself, for reading.
    pub store: Arc<dyn Store>,
    /// What we hold.
    pub claims: Arc<Claims>,
}

impl Keeper {
    /// Takes units that nobody else may hold (one gateway on this store), and remembers the fences.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn claim(&self, units: &[Unit], owner: &str, incarnation: u64) -> Result<(), Failure> {
        let fences = state::claim_all(self.store.as_ref(), units, owner, incarnation).await.map_err(sort)?;
        for (unit, fence) in units.iter().zip(fences) {
            self.claims.hold(unit.clone(), fence);
        }
        Ok(())
    }

    /// Writes a batch durably.
    ///
    /// # Errors
    /// `Fenced` when the unit is not ours (any more), otherwise what the store says.
    pub async fn commit(&self, batch: Batch) -> Result<(), TxError> {
        let Some(fence) = self.claims.get(&batch.unit) else {
            return Err(TxError::Fenced { unit: batch.unit.to_string(), held: 0, ours: 0, owner: "somebody else".into() });
        };
        self.store.commit(&fence, batch).await
    }

    /// Whether an effect may begin now, after a write of the unit that began at `proved`; see [`still_ours`].
    ///
    /// # Errors
    /// As [`still_ours`].
    pub async fn may_act(&self, unit: &Unit, proved: Instant) -> Result<(), TxError> {
        still_ours(&*self.store, unit, self.claims.get(unit).as_ref(), proved).await.map(drop)
    }

    /// Writes one row durably.
    ///
    /// # Errors
    /// As [`Keeper::commit`].
    pub async fn put<T: Serialize + ?Sized>(&self, unit: &Unit, table: Table, key: &str, value: &T) -> Result<(), Failure> {
        let batch = Batch::new(unit.clone()).put_json(table, key, value).map_err(sort)?;
        self.commit(batch).await.map_err(sort)
    }

    /// Removes one row.
    ///
    /// # Errors
    /// As [`Keeper::commit`].
    pub async fn delete(&self, unit: &Unit, table: Table, key: &str) -> Result<(), Failure> {
        self.commit(Batch::new(unit.clone()).delete(table, key)).await.map_err(sort)
    }

    /// Reads one row.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn get<T: DeserializeOwned>(&self, unit: &Unit, table: Table, key: &str) -> Result<Option<T>, Failure> {
        Ok(state::get_json(self.store.as_ref(), unit, table, key).await.map_err(sort)?.map(|row| row.value))
    }

    /// Reads rows in key order.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn scan<T: DeserializeOwned>(&self, unit: &Unit, table: Table, scan: &Scan) -> Result<Vec<Versioned<T>>, Failure> {
        state::scan_json(self.store.as_ref(), unit, table, scan).await.map_err(sort)
    }
}

/// Whether an effect may begin now for a unit whose fence was proved by something that began at `proved`: an effect
/// begins at most [`EFFECT_WINDOW`] after the store was asked whether the unit is still ours; later than that it is asked
/// again. A process that stood still, or waited long for the store, finds out here that another gateway went on meanwhile.
/// Answers with the moment from which it is proved.
///
/// # Errors
/// `Fenced` when the unit is another gateway's, `Away` when the store does not answer, or not in time.
pub async fn still_ours(store: &dyn Store, unit: &Unit, ours: Option<&Fence>, proved: Instant) -> Result<Instant, TxError> {
    if proved.elapsed() <= EFFECT_WINDOW {
        return Ok(proved);
    }
    let begun = Instant::now();
    let held = store.fence(unit).await?;
    if ours.is_none() || ours != held.as_ref() {
        let (held, owner) = held.map_or((0, "nobody".to_owned()), |fence| (fence.epoch, fence.owner));
        return Err(TxError::Fenced { unit: unit.to_string(), held, ours: ours.map_or(0, |fence| fence.epoch), owner });
    }
    if begun.elapsed() > EFFECT_WINDOW {
        return Err(TxError::Away { path: store.describe(), why: "it answers too slowly for an effect to begin".into(), maybe: false });
    }
    Ok(begun)
}

/// What the outside is told of a store error.
#[must_use]
pub fn sort(err: TxError) -> Failure {
    let message = err.to_string();
    match err {
        TxError::Fenced { .. } => Failure { retry: Retry::AfterMs(500), ..Failure::new(FailureCode::Fenced, message) },
        TxError::Full { .. } => Failure::unavailable(message, 5_000).with_hint("free disk space; nothing that was accepted is lost"),
        TxError::Away { .. } => Failure::unavailable(message, 1_000),
        TxError::Busy { retry_after_ms, .. } => Failure::busy(message, retry_after_ms),
        TxError::ReadOnly { .. } => Failure::unavailable(message, 5_000).with_hint("make the state folder writable for the gateway's user"),
        TxError::Corrupt { .. } => Failure::internal(message).with_hint("run `openclaw doctor`"),
        TxError::Changed { .. } => Failure { retry: Retry::Now, ..Failure::new(FailureCode::Busy, message) },
        TxError::Exists { .. } | TxError::Gap { .. } | TxError::Invalid { .. } | TxError::Schema { .. } => Failure::internal(message),
    }
}
