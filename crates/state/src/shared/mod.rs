//! One store for the gateways of a farm: what each of them calls the global unit is a unit of its own, except the rows
//! that belong to all.
//!
//! The common rows stay in the real global unit, held by the farm under one fence that every gateway writes with, so
//! nobody fences anybody off. A gateway's place there is its *seal*: a row that names its fence. Each write of common
//! rows expects the seal it knows, so an older process of the same name, whose seal was replaced, writes nothing more.
//! Two gateways that change the same common row see each other by `Op::Expect`; stores apply batches of the global
//! unit one after the other.

mod takeover;

use std::{
    future::{Future, ready},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use async_trait::async_trait;
use clawstead_terms::{Fence, Unit};

use crate::{Batch, Op, Row, Scan, Store, StoreCounters, Table, TxError, rules};

/// Who holds the global unit of a store that a farm shares. No gateway has a space in its name.
pub const FARM_OWNER: &str = "the farm";
/// The row of `Devices` that counts changes of the register: who keeps devices in memory looks at it.
pub const CHANGES_ROW: &str = "changes";
/// The rows of `Meta` that hold the gateways' seals start so. Seen by nobody above this store.
const SEALS: &str = "seal/";
/// The row of `Meta` that names the gateway whose rows were there before the farm was.
const HEIR: &str = "heir";
/// How often a row that others change at the same time is tried again.
const TRIES_MAX: u32 = 16;

/// A gateway's view of a store that several share: see the head of this module.
pub struct Shared {
    inner: Arc<dyn Store>,
    house: Unit,
    seal_key: String,
    common_meta: &'static [&'static str],
    /// The fence of all, once this gateway came in. A store that it changes in must be opened anew.
    farm: OnceLock<Fence>,
    seal: Mutex<Option<Seal>>,
}

/// Our fence, and the version of the row that names it.
#[derive(Clone, Debug)]
struct Seal {
    fence: Fence,
    version: u64,
}

/// Whose rows a batch changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// This gateway's.
    House,
    /// Everybody's.
    Common,
}

impl Shared {
    /// `gateway` is our name in the farm. Common are the tables of devices and approvals, and the rows of `Meta` with
    /// the keys `common_meta`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, gateway: &str, common_meta: &'static [&'static str]) -> Self {
        Self {
            inner,
            house: Unit::House(gateway.to_owned()),
            seal_key: format!("{SEALS}{gateway}"),
            common_meta,
            farm: OnceLock::new(),
            seal: Mutex::default(),
        }
    }

    fn seal(&self) -> MutexGuard<'_, Option<Seal>> {
        self.seal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn whose_row(&self, table: Table, key: &str) -> Whose {
        match table {
            Table::Devices | Table::Approvals => Whose::Common,
            Table::Meta if self.common_meta.contains(&key) => Whose::Common,
            _ => Whose::House,
        }
    }

    fn whose(&self, op: &Op) -> Whose {
        match op {
            Op::Put(table, key, _) | Op::Insert(table, key, _) | Op::Delete(table, key) | Op::Expect(table, key, _) => self.whose_row(*table, key),
            Op::Append { .. } | Op::DropJournal(_) => Whose::House,
        }
    }

    /// Whose rows a batch of the global unit changes: of one side only, for the two sides have no transaction together.
    fn whose_batch(&self, batch: &Batch) -> Result<Whose, TxError> {
        let mut ops = batch.ops.iter().map(|op| self.whose(op));
        let Some(first) = ops.next() else { return Ok(Whose::House) };
        if ops.all(|whose| whose == first) {
            return Ok(first);
        }
        Err(TxError::Invalid {
            what: "a batch of the global unit".into(),
            why: "it changes rows of this gateway together with rows of the whole farm; write them one after the other".into(),
        })
    }

    /// The unit in the store below.
    fn place(&self, unit: &Unit, whose: Whose) -> Unit {
        if *unit == Unit::Global && whose == Whose::House { self.house.clone() } else { unit.clone() }
    }

    fn fenced(&self, held: Option<Fence>, ours: u64) -> TxError {
        let (held, owner) = held.map_or_else(|| (0, "nobody".to_owned()), |fence| (fence.epoch, fence.owner));
        TxError::Fenced { unit: self.house.to_string(), held, ours, owner }
    }

    /// A batch of common rows as the store below takes it.
    fn sealed(&self, fence: &Fence, mut batch: Batch) -> Result<(&Fence, Batch), TxError> {
        let seal = self.seal().clone();
        match (self.farm.get(), seal) {
            (Some(farm), Some(seal)) if seal.fence == *fence => {
                batch.ops.insert(0, Op::Expect(Table::Meta, self.seal_key.clone(), Some(seal.version)));
                Ok((farm, batch))
            }
            (_, seal) => Err(self.fenced(seal.map(|seal| seal.fence), fence.epoch)),
        }
    }

    async fn scan_meta(&self, scan: &Scan) -> Result<Vec<Row>, TxError> {
        let bounds = rules::Bounds::of(scan);
        let fits = |key: &str| key.starts_with(&scan.prefix) && key >= bounds.from.as_str() && bounds.below.as_deref().is_none_or(|below| key < below);
        let mut rows = self.inner.scan(&self.house, Table::Meta, scan).await?;
        for key in self.common_meta.iter().filter(|key| fits(key)) {
            rows.extend(self.inner.get(&Unit::Global, Table::Meta, key).await?);
        }
        rows.sort_by(|one, two| if scan.newest_first { two.key.cmp(&one.key) } else { one.key.cmp(&two.key) });
        rows.truncate(scan.limit);
        Ok(rows)
    }
}

#[async_trait]
impl Store for Shared {
    async fn claim(&self, unit: &Unit, fence: &Fence) -> Result<(), TxError> {
        if *unit == Unit::Global { self.come_in(fence).await } else { self.inner.claim(unit, fence).await }
    }

    async fn fence(&self, unit: &Unit) -> Result<Option<Fence>, TxError> {
        self.inner.fence(&self.place(unit, Whose::House)).await
    }

    // Written out instead of `async fn`, because the call itself must hand the batch over (promise 2).
    fn commit<'life0, 'life1, 'async_trait>(
        &'life0 self,
        fence: &'life1 Fence,
        mut batch: Batch,
    ) -> Pin<Box<dyn Future<Output = Result<(), TxError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        if batch.unit != Unit::Global {
            return self.inner.commit(fence, batch);
        }
        match self.whose_batch(&batch) {
            Ok(Whose::House) => {
                batch.unit = self.house.clone();
                self.inner.commit(fence, batch)
            }
            Ok(Whose::Common) => match self.sealed(fence, batch) {
                Ok((farm, batch)) => {
                    let handed_over = self.inner.commit(farm, batch);
                    Box::pin(async move {
                        match handed_over.await {
                            Err(TxError::Changed { key, .. }) if key == self.seal_key => Err(self.fenced(self.inner.fence(&self.house).await?, fence.epoch)),
                            outcome => outcome,
                        }
                    })
                }
                Err(refused) => Box::pin(ready(Err(refused))),
            },
            Err(refused) => Box::pin(ready(Err(refused))),
        }
    }

    async fn get(&self, unit: &Unit, table: Table, key: &str) -> Result<Option<Row>, TxError> {
        self.inner.get(&self.place(unit, self.whose_row(table, key)), table, key).await
    }

    async fn scan(&self, unit: &Unit, table: Table, scan: &Scan) -> Result<Vec<Row>, TxError> {
        match table {
            Table::Meta if *unit == Unit::Global => self.scan_meta(scan).await,
            _ => self.inner.scan(&self.place(unit, self.whose_row(table, "")), table, scan).await,
        }
    }

    async fn read_journal(&self, unit: &Unit, journal: &str, from: u64, limit: usize) -> Result<Vec<(u64, String)>, TxError> {
        self.inner.read_journal(&self.place(unit, Whose::House), journal, from, limit).await
    }

    async fn journal_end(&self, unit: &Unit, journal: &str) -> Result<u64, TxError> {
        self.inner.journal_end(&self.place(unit, Whose::House), journal).await
    }

    async fn journals(&self, unit: &Unit, after: Option<&str>, limit: usize) -> Result<Vec<String>, TxError> {
        self.inner.journals(&self.place(unit, Whose::House), after, limit).await
    }

    /// Our own house as the global unit, those of other gateways under their names.
    async fn units(&self) -> Result<Vec<Unit>, TxError> {
        let mut units = self.inner.units().await?;
        units.retain(|unit| *unit != Unit::Global);
        if let Some(ours) = units.iter_mut().find(|unit| **unit == self.house) {
            *ours = Unit::Global;
        }
        units.sort_by_cached_key(ToString::to_string);
        Ok(units)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn counters(&self) -> StoreCounters {
        self.inner.counters()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
