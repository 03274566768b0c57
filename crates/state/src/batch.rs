//! Building batches, and rows as typed values.

use clawstead_terms::{Fence, Unit};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Batch, Op, Scan, Store, Table, TxError};

impl Batch {
    /// An empty batch.
    #[must_use]
    pub const fn new(unit: Unit) -> Self {
        Self { unit, ops: Vec::new() }
    }

    /// True when there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Adds a change.
    #[must_use]
    pub fn op(mut self, op: Op) -> Self {
        self.ops.push(op);
        self
    }

    /// Writes a row, new or not.
    ///
    /// # Errors
    /// `Invalid` when the value has no JSON form.
    pub fn put_json<T: Serialize + ?Sized>(self, table: Table, key: impl Into<String>, value: &T) -> Result<Self, TxError> {
        let key = key.into();
        let text = to_text(table.name(), &key, value)?;
        Ok(self.op(Op::Put(table, key, text)))
    }

    /// Writes a row that must not be there yet.
    ///
    /// # Errors
    /// `Invalid` when the value has no JSON form.
    pub fn insert_json<T: Serialize + ?Sized>(self, table: Table, key: impl Into<String>, value: &T) -> Result<Self, TxError> {
        let key = key.into();
        let text = to_text(table.name(), &key, value)?;
        Ok(self.op(Op::Insert(table, key, text)))
    }

    /// Removes a row if it is there.
    #[must_use]
    pub fn delete(self, table: Table, key: impl Into<String>) -> Self {
        self.op(Op::Delete(table, key.into()))
    }

    /// The row must have this version; `None`: must not be there.
    #[must_use]
    pub fn expect(self, table: Table, key: impl Into<String>, version: Option<u64>) -> Self {
        self.op(Op::Expect(table, key.into(), version))
    }

    /// Appends line `seq` (1 at first) to a journal.
    ///
    /// # Errors
    /// `Invalid` when the event has no JSON form.
    pub fn append<T: Serialize + ?Sized>(self, journal: impl Into<String>, seq: u64, event: &T) -> Result<Self, TxError> {
        let journal = journal.into();
        let event = to_text("journal", &journal, event)?;
        Ok(self.op(Op::Append { journal, seq, event }))
    }

    /// Removes a whole journal.
    #[must_use]
    pub fn drop_journal(self, journal: impl Into<String>) -> Self {
        self.op(Op::DropJournal(journal.into()))
    }
}

fn to_text<T: Serialize + ?Sized>(table: &str, key: &str, value: &T) -> Result<String, TxError> {
    serde_json::to_string(value).map_err(|err| TxError::Invalid { what: format!("{table} {key}"), why: err.to_string() })
}

/// A typed value with the version of its row, for [`Batch::expect`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The row's key.
    pub key: String,
    /// The value.
    pub value: T,
    /// The row's version.
    pub version: u64,
}

/// Writes one row.
///
/// # Errors
/// As [`Store::commit`]; `Invalid` when the value has no JSON form.
pub async fn put_json<T: Serialize + Sync + ?Sized>(store: &dyn Store, fence: &Fence, unit: &Unit, table: Table, key: &str, value: &T) -> Result<(), TxError> {
    let batch = Batch::new(unit.clone()).put_json(table, key, value)?;
    store.commit(fence, batch).await
}

/// Reads one row.
///
/// # Errors
/// As [`Store::get`]; `Corrupt` when the row is not a `T`.
pub async fn get_json<T: DeserializeOwned>(store: &dyn Store, unit: &Unit, table: Table, key: &str) -> Result<Option<Versioned<T>>, TxError> {
    store.get(unit, table, key).await?.map(|row| typed(store, table.name(), row.key, &row.value, row.version)).transpose()
}

/// Changes one row that others may change at the same time: what was read must still be there when it is written, else
/// it is read and changed again. A row that is not there is the default. When `change` fails nothing is written.
///
/// # Errors
/// Those of `change`; as [`get_json`] and [`Store::commit`]; `Changed` when others are faster sixteen times.
pub async fn change_json<T, R, E>(
    store: &dyn Store,
    fence: &Fence,
    unit: &Unit,
    table: Table,
    key: &str,
    mut change: impl FnMut(&mut T) -> Result<R, E>,
) -> Result<R, E>
where
    T: Serialize + DeserializeOwned + Default,
    E: From<TxError>,
{
    const TRIES_MAX: u32 = 16;
    let mut tries = 1;
    loop {
        let row = get_json::<T>(store, unit, table, key).await?;
        let version = row.as_ref().map(|row| row.version);
        let mut value = row.map(|row| row.value).unwrap_or_default();
        let done = change(&mut value)?;
        let batch = Batch::new(unit.clone()).expect(table, key, version).put_json(table, key, &value)?;
        match store.commit(fence, batch).await {
            Ok(()) => return Ok(done),
            Err(TxError::Changed { .. }) if tries < TRIES_MAX => tries += 1,
            Err(err) => return Err(err.into()),
        }
    }
}

/// Reads rows in key order.
///
/// # Errors
/// As [`Store::scan`]; `Corrupt` when a row is not a `T`.
pub async fn scan_json<T: DeserializeOwned>(store: &dyn Store, unit: &Unit, table: Table, scan: &Scan) -> Result<Vec<Versioned<T>>, TxError> {
    store.scan(unit, table, scan).await?.into_iter().map(|row| typed(store, table.name(), row.key, &row.value, row.version)).collect()
}

/// Reads a journal's lines from number `from` on, `limit` at most.
///
/// # Errors
/// As [`Store::read_journal`]; `Corrupt` when a line is not a `T`.
pub async fn read_journal_json<T: DeserializeOwned>(store: &dyn Store, unit: &Unit, journal: &str, from: u64, limit: usize) -> Result<Vec<(u64, T)>, TxError> {
    let lines = store.read_journal(unit, journal, from, limit).await?;
    lines.into_iter().map(|(seq, text)| typed(store, "journal", journal.into(), &text, seq).map(|line| (seq, line.value))).collect()
}

fn typed<T: DeserializeOwned>(store: &dyn Store, table: &str, key: String, text: &str, version: u64) -> Result<Versioned<T>, TxError> {
    match serde_json::from_str(text) {
        Ok(value) => Ok(Versioned { key, value, version }),
        Err(err) => Err(TxError::Corrupt { path: store.describe(), why: format!("{table} {key} cannot be read: {}", category(&err)) }),
    }
}

/// The kind and place of a JSON fault. The full text of serde's error may quote the value, and values hold secrets.
fn category(err: &serde_json::Error) -> String {
    format!("{:?} error at line {} column {}", err.classify(), err.line(), err.column()).to_lowercase()
}

/// Takes a unit for a new incarnation of `owner`: one epoch above what the store has, again if somebody was faster.
///
/// Only for a store that one gateway uses; in a farm the epoch comes from the ownership record.
///
/// # Errors
/// As [`Store::claim`].
pub async fn claim_next(store: &dyn Store, unit: &Unit, owner: &str, incarnation: u64) -> Result<Fence, TxError> {
    const TRIES_MAX: u32 = 8;
    let mut tries = 0;
    loop {
        let epoch = store.fence(unit).await?.map_or(0, |fence| fence.epoch).saturating_add(1);
        let fence = Fence { epoch, owner: owner.into(), incarnation };
        match store.claim(unit, &fence).await {
            Ok(()) => return Ok(fence),
            Err(TxError::Fenced { .. }) if tries < TRIES_MAX => tries += 1,
            Err(err) => return Err(err),
        }
    }
}

/// Takes many units at once as [`claim_next`] does, so that they share disk syncs. Answers the fences in order.
///
/// # Errors
/// The first error of any.
pub async fn claim_all(store: &dyn Store, units: &[Unit], owner: &str, incarnation: u64) -> Result<Vec<Fence>, TxError> {
    const TOGETHER_MAX: usize = 64;
    let mut fences = Vec::with_capacity(units.len());
    for some in units.chunks(TOGETHER_MAX) {
        fences.extend(futures_util::future::try_join_all(some.iter().map(|unit| claim_next(store, unit, owner, incarnation))).await?);
    }
    Ok(fences)
}
