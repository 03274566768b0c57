//! The state store as ownership listens to it: what it says to writes tells whether a unit is still ours, and whether
//! the store is there at all.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use clawstead_state::{Batch, Row, Scan, Store, StoreCounters, Table, TxError};
use clawstead_terms::{Fence, Unit};
use tokio::sync::mpsc;

/// A store that answered nothing for this long is told to be lost; what was asked goes on waiting.
pub(super) const SLOW_AFTER: Duration = Duration::from_secs(1);

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A write was refused: another epoch holds the fence.
    Fenced(Unit),
    /// The store does not answer.
    Lost,
    /// It answers again.
    Back,
}

/// A store that tells what it says to writes.
pub struct Witness {
    inner: Arc<dyn Store>,
    told: mpsc::UnboundedSender<Seen>,
    away: AtomicBool,
    /// Grows with every answer.
    answered: AtomicU64,
}

impl Witness {
    /// Listens to a store.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> (Self, mpsc::UnboundedReceiver<Seen>) {
        let (told, seen) = mpsc::unbounded_channel();
        (Self { inner, told, away: AtomicBool::new(false), answered: AtomicU64::new(0) }, seen)
    }

    fn hear<T>(&self, result: &Result<T, TxError>) {
        match result {
            Err(TxError::Away { .. }) => self.lost(),
            // It answered, whatever it said.
            _ => {
                self.answered.fetch_add(1, Ordering::AcqRel);
                if self.away.load(Ordering::Acquire) && self.away.swap(false, Ordering::AcqRel) {
                    let _ = self.told.send(Seen::Back);
                }
            }
        }
    }

    fn lost(&self) {
        if !self.away.swap(true, Ordering::AcqRel) {
            let _ = self.told.send(Seen::Lost);
        }
    }

    /// The answer to a question, and what it says about the store. A store that answers nothing for [`SLOW_AFTER`] is told
    /// to be lost long before the question itself gives up.
    async fn watched<T>(&self, work: impl Future<Output = Result<T, TxError>>) -> Result<T, TxError> {
        tokio::pin!(work);
        let mut answered = self.answered.load(Ordering::Acquire);
        let done = loop {
            match tokio::time::timeout(SLOW_AFTER, &mut work).await {
                Ok(done) => break done,
                Err(_) => {
                    let now = self.answered.load(Ordering::Acquire);
                    if now == answered {
                        self.lost();
                    }
                    answered = now;
                }
            }
        };
        self.hear(&done);
        done
    }
}

#[async_trait]
impl Store for Witness {
    async fn claim(&self, unit: &Unit, fence: &Fence) -> Result<(), TxError> {
        self.inner.claim(unit, fence).await
    }

    async fn fence(&self, unit: &Unit) -> Result<Option<Fence>, TxError> {
        self.watched(self.inner.fence(unit)).await
    }

    // Written out instead of `async fn`, because the call itself must hand the batch over (promise 2 of `Store`).
    fn commit<'life0, 'life1, 'async_trait>(
        &'life0 self,
        fence: &'life1 Fence,
        batch: Batch,
    ) -> Pin<Box<dyn Future<Output = Result<(), TxError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        let unit = batch.unit.clone();
        let handed_over = self.inner.commit(fence, batch);
        Box::pin(async move {
            let done = self.watched(handed_over).await;
            if matches!(done, Err(TxError::Fenced { .. })) {
                let _ = self.told.send(Seen::Fenced(unit));
            }
            done
        })
    }

    async fn get(&self, unit: &Unit, table: Table, key: &str) -> Result<Option<Row>, TxError> {
        self.watched(self.inner.get(unit, table, key)).await
    }

    async fn scan(&self, unit: &Unit, table: Table, scan: &Scan) -> Result<Vec<Row>, TxError> {
        self.watched(self.inner.scan(unit, table, scan)).await
    }

    async fn read_journal(&self, unit: &Unit, journal: &str, from: u64, limit: usize) -> Result<Vec<(u64, String)>, TxError> {
        self.watched(self.inner.read_journal(unit, journal, from, limit)).await
    }

    async fn journal_end(&self, unit: &Unit, journal: &str) -> Result<u64, TxError> {
        self.inner.journal_end(unit, journal).await
    }

    async fn journals(&self, unit: &Unit, after: Option<&str>, limit: usize) -> Result<Vec<String>, TxError> {
        self.inner.journals(unit, after, limit).await
    }

    async fn units(&self) -> Result<Vec<Unit>, TxError> {
        self.inner.units().await
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
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
