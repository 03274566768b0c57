//! The store of one gateway as it sees it: the memory store, with a death at a chosen commit, slow reads, and a line in
//! the log for every commit.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Notify;

use clawstead_state::{Batch, MemoryStore, Op, Row, Scan, Store, StoreCounters, Table, TxError};
use clawstead_terms::{Fence, Unit};

use crate::outside::{Claim, Outside};

/// At which commit of its life a gateway dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// At none.
    Never,
    /// The n-th commit is not handed over.
    Before(u64),
    /// The n-th commit is durable, and nobody hears of it.
    After(u64),
}

/// Hears of writes, and may break reads.
pub trait Scribe: Send + Sync {
    /// These changes are durable.
    fn wrote(&self, unit: &Unit, ops: &[Op]);

    /// True when this write is the end of the process that asks for it.
    fn breaks(&self, _ops: &[Op]) -> bool {
        false
    }
}

/// See the module.
pub struct Watched {
    /// The store below.
    pub memory: MemoryStore,
    /// What everybody shares.
    pub outside: Arc<Outside>,
    /// The life it belongs to.
    pub life: u64,
    /// A short name for the log.
    pub name: &'static str,
    /// When it dies.
    pub death: Death,
    /// Commits so far.
    pub commits: AtomicU64,
    /// Told when it dies.
    pub died: Arc<Notify>,
    /// Milliseconds every read takes.
    pub read_ms: u64,
    /// True when another gateway has taken everything: from then on no commit may be answered `Ok`.
    pub replaced: AtomicBool,
    /// Hears of everything that became durable; none when nobody wants to know.
    pub scribe: Option<Arc<dyn Scribe>>,
}

impl Watched {
    async fn read(&self) {
        self.outside.alive(self.life).await;
        if self.read_ms > 0 && !self.outside.is_healed() {
            tokio::time::sleep(Duration::from_millis(self.read_ms)).await;
            self.outside.alive(self.life).await;
        }
    }
}

fn brief(batch: &Batch) -> String {
    let mut out = batch.unit.to_string();
    for op in &batch.ops {
        let _ = match op {
            Op::Put(table, key, _) => write!(out, " put:{}/{key}", table.name()),
            Op::Insert(table, key, _) => write!(out, " insert:{}/{key}", table.name()),
            Op::Delete(table, key) => write!(out, " delete:{}/{key}", table.name()),
            Op::Expect(table, key, _) => write!(out, " expect:{}/{key}", table.name()),
            Op::Append { seq, event, .. } => {
                let value: serde_json::Value = serde_json::from_str(event).unwrap_or_default();
                let kind = value["event"].as_str().unwrap_or("?");
                let run =
                    value.pointer("/runId").or_else(|| value.pointer("/letter/runId")).or_else(|| value.pointer("/message/runId")).and_then(|v| v.as_str());
                let role = value.pointer("/message/role").and_then(|v| v.as_str()).unwrap_or("");
                write!(out, " {seq}:{kind}{}{role}({})", if role.is_empty() { "" } else { ":" }, run.unwrap_or(""))
            }
            Op::DropJournal(journal) => write!(out, " drop:{journal}"),
        };
    }
    out
}

#[async_trait]
impl Store for Watched {
    async fn claim(&self, unit: &Unit, fence: &Fence) -> Result<(), TxError> {
        self.read().await;
        self.memory.claim(unit, fence).await?;
        let claim = Claim { unit: unit.to_string(), epoch: fence.epoch, life: self.life, at_ms: self.outside.now_ms() };
        self.outside.seen().claims.push(claim);
        Ok(())
    }

    async fn fence(&self, unit: &Unit) -> Result<Option<Fence>, TxError> {
        self.read().await;
        self.memory.fence(unit).await
    }

    fn commit<'life0, 'life1, 'async_trait>(
        &'life0 self,
        fence: &'life1 Fence,
        batch: Batch,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), TxError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        let number = self.commits.fetch_add(1, Ordering::Relaxed) + 1;
        let dead = !self.outside.is_alive(self.life) || matches!(self.death, Death::Before(at) | Death::After(at) if number > at);
        if dead {
            return Box::pin(std::future::pending());
        }
        let line = format!("{} {number} {}", self.name, brief(&batch));
        let breaks = self.scribe.as_ref().is_some_and(|scribe| scribe.breaks(&batch.ops));
        if breaks || self.death == Death::Before(number) {
            self.outside.tell("death", format!("before commit {line}"));
            self.died.notify_one();
            return Box::pin(std::future::pending());
        }
        let late = self.replaced.load(Ordering::Relaxed);
        let told = self.scribe.as_ref().map(|_| (batch.unit.clone(), batch.ops.clone()));
        // The call itself hands the batch over (promise 2 of the store).
        let answered = self.memory.commit(fence, batch);
        Box::pin(async move {
            let outcome = answered.await;
            self.outside.tell("commit", format!("{line} -> {}", outcome.as_ref().err().map_or_else(|| "ok".to_owned(), ToString::to_string)));
            if let (Some(scribe), Some((unit, ops)), true) = (&self.scribe, &told, outcome.is_ok()) {
                scribe.wrote(unit, ops);
            }
            if late && outcome.is_ok() {
                self.outside.violation(format!("stale_fence: a replaced gateway wrote: {line}"));
            }
            if self.death == Death::After(number) {
                self.outside.tell("death", format!("after commit {line}"));
                self.died.notify_one();
                std::future::pending::<()>().await;
            }
            self.outside.alive(self.life).await;
            outcome
        })
    }

    async fn get(&self, unit: &Unit, table: Table, key: &str) -> Result<Option<Row>, TxError> {
        self.read().await;
        self.memory.get(unit, table, key).await
    }

    async fn scan(&self, unit: &Unit, table: Table, scan: &Scan) -> Result<Vec<Row>, TxError> {
        self.read().await;
        self.memory.scan(unit, table, scan).await
    }

    async fn read_journal(&self, unit: &Unit, journal: &str, from: u64, limit: usize) -> Result<Vec<(u64, String)>, TxError> {
        self.read().await;
        self.memory.read_journal(unit, journal, from, limit).await
    }

    async fn journal_end(&self, unit: &Unit, journal: &str) -> Result<u64, TxError> {
        self.read().await;
        self.memory.journal_end(unit, journal).await
    }

    async fn journals(&self, unit: &Unit, after: Option<&str>, limit: usize) -> Result<Vec<String>, TxError> {
        self.read().await;
        self.memory.journals(unit, after, limit).await
    }

    async fn units(&self) -> Result<Vec<Unit>, TxError> {
        self.read().await;
        self.memory.units().await
    }

    fn describe(&self) -> String {
        "memory".into()
    }

    fn counters(&self) -> StoreCounters {
        self.memory.counters()
    }

    async fn close(&self) {
        self.memory.close().await;
    }
}
