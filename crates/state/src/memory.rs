//! The store in memory: for tests and the simulator. Deterministic; a "server" whose content survives the crash of
//! the handles that write to it.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    ops::Bound,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use clawstead_terms::{Fence, Unit};
use tokio::sync::oneshot;

use crate::{
    Batch, Op, Row, Scan, Store, StoreCounters, Table, TxError, rules,
    store::{BUSY_RETRY_MS, QUEUE_BATCHES_MAX, QUEUE_BYTES_MAX},
};

/// What is durable: a value that can be kept, compared, and started from again. A clone shares the rows until one
/// of the two is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    fences: BTreeMap<Unit, Fence>,
    rows: BTreeMap<Unit, Arc<UnitRows>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct UnitRows {
    docs: BTreeMap<(Table, String), (String, u64)>,
    journals: BTreeMap<String, Vec<String>>,
}

enum Undo {
    Doc((Table, String), Option<(String, u64)>),
    Line(String),
    Journal(String, Vec<String>),
}

impl Image {
    fn claim(&mut self, unit: &Unit, fence: &Fence) -> Result<(), TxError> {
        if rules::may_claim(unit, self.fences.get(unit), fence)? {
            self.fences.insert(unit.clone(), fence.clone());
        }
        Ok(())
    }

    fn apply(&mut self, fence: &Fence, batch: Batch) -> Result<(), TxError> {
        rules::may_write(&batch.unit, self.fences.get(&batch.unit), fence)?;
        let rows = Arc::make_mut(self.rows.entry(batch.unit).or_default());
        let mut undo = Vec::with_capacity(batch.ops.len());
        for op in batch.ops {
            if let Err(refused) = rows.change(op, &mut undo) {
                rows.take_back(undo);
                return Err(refused);
            }
        }
        Ok(())
    }
}

impl UnitRows {
    fn change(&mut self, op: Op, undo: &mut Vec<Undo>) -> Result<(), TxError> {
        match op {
            Op::Put(table, key, value) => self.put((table, key), value, undo),
            Op::Insert(table, key, value) => {
                if self.docs.contains_key(&(table, key.clone())) {
                    return Err(TxError::Exists { table: table.name(), key });
                }
                self.put((table, key), value, undo);
            }
            Op::Delete(table, key) => {
                let id = (table, key);
                if let Some(old) = self.docs.remove(&id) {
                    undo.push(Undo::Doc(id, Some(old)));
                }
            }
            Op::Expect(table, key, version) => {
                let id = (table, key);
                if self.docs.get(&id).map(|(_, version)| *version) != version {
                    return Err(TxError::Changed { table: table.name(), key: id.1 });
                }
            }
            Op::Append { journal, seq, event } => {
                let have = self.end(&journal);
                rules::next_line(&journal, have, seq)?;
                self.journals.entry(journal.clone()).or_default().push(event);
                undo.push(Undo::Line(journal));
            }
            Op::DropJournal(journal) => {
                if let Some(lines) = self.journals.remove(&journal) {
                    undo.push(Undo::Journal(journal, lines));
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, id: (Table, String), value: String, undo: &mut Vec<Undo>) {
        let version = self.docs.get(&id).map_or(0, |(_, version)| *version) + 1;
        let old = self.docs.insert(id.clone(), (value, version));
        undo.push(Undo::Doc(id, old));
    }

    fn end(&self, journal: &str) -> u64 {
        self.journals.get(journal).map_or(0, |lines| lines.len() as u64)
    }

    fn take_back(&mut self, undo: Vec<Undo>) {
        for step in undo.into_iter().rev() {
            match step {
                Undo::Doc(id, Some(old)) => drop(self.docs.insert(id, old)),
                Undo::Doc(id, None) => drop(self.docs.remove(&id)),
                Undo::Line(journal) => {
                    if let Some(lines) = self.journals.get_mut(&journal) {
                        lines.pop();
                        if lines.is_empty() {
                            self.journals.remove(&journal);
                        }
                    }
                }
                Undo::Journal(journal, lines) => drop(self.journals.insert(journal, lines)),
            }
        }
    }

    fn scan(&self, table: Table, scan: &Scan) -> Vec<Row> {
        let bounds = rules::Bounds::of(scan);
        if bounds.below.as_ref().is_some_and(|below| *below <= bounds.from) {
            return Vec::new();
        }
        let below = bounds.below.map_or(Bound::Unbounded, |below| Bound::Excluded((table, below)));
        let rows = self
            .docs
            .range((Bound::Included((table, bounds.from)), below))
            .filter(|((of, _), _)| *of == table)
            .map(|((_, key), (value, version))| Row { key: key.clone(), value: value.clone(), version: *version });
        if scan.newest_first { rows.rev().take(scan.limit).collect() } else { rows.take(scan.limit).collect() }
    }
}

struct Pending {
    fence: Fence,
    batch: Batch,
    bytes: usize,
    answer: oneshot::Sender<Result<(), TxError>>,
    lose_answer: bool,
}

enum Fault {
    Refuse(TxError),
    LoseAnswer,
}

#[derive(Default)]
struct Node {
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    faults: VecDeque<Fault>,
    away: Option<String>,
    counters: StoreCounters,
}

/// One gateway's handle on a store in memory. Clones are the same handle; [`Self::sibling`] is another gateway's.
///
/// ```
/// # use clawstead_state::{MemoryStore, Crash};
/// let store = MemoryStore::new();
/// let gateway_2 = store.sibling();          // sees the same rows, fails on its own
/// store.crash(Crash::LoseUnanswered);       // the handle is dead now, what was answered is not
/// let restarted = MemoryStore::on(store.image());
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    server: Arc<Mutex<Image>>,
    node: Arc<Mutex<Node>>,
    sync_time: Duration,
}

/// What a crash does to batches that were handed over but not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// None of them reached the disk.
    LoseUnanswered,
    /// The first so many reached the disk, although nobody was told.
    KeepUnanswered(usize),
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::on(Image::default())
    }

    /// A store with the content of an image: a gateway that starts again on its disk.
    #[must_use]
    pub fn on(image: Image) -> Self {
        Self { server: Arc::new(Mutex::new(image)), node: Arc::default(), sync_time: Duration::ZERO }
    }

    /// The same handle, but each commit takes this long to become durable, in tokio's time. Zero at first.
    #[must_use]
    pub fn with_sync_time(mut self, sync_time: Duration) -> Self {
        self.sync_time = sync_time;
        self
    }

    /// Another gateway's handle on the same rows, as on a shared PostgreSQL: with its own faults and its own crash.
    #[must_use]
    pub fn sibling(&self) -> Self {
        Self { server: Arc::clone(&self.server), node: Arc::default(), sync_time: self.sync_time }
    }

    /// What is durable now.
    #[must_use]
    pub fn image(&self) -> Image {
        self.image_lock().clone()
    }

    /// Refuses the next `commits` of this handle with `err`; nothing of them is written.
    pub fn fail_next(&self, commits: usize, err: &TxError) {
        self.node_lock().faults.extend((0..commits).map(|_| Fault::Refuse(err.clone())));
    }

    /// Writes the next `commits` of this handle, but answers `Away { maybe: true }`.
    pub fn lose_next_answers(&self, commits: usize) {
        self.node_lock().faults.extend((0..commits).map(|_| Fault::LoseAnswer));
    }

    /// Forgets planned faults.
    pub fn clear_faults(&self) {
        self.node_lock().faults.clear();
    }

    /// The store is out of reach of this handle until [`Self::reconnect`]. Batches not answered yet are lost with
    /// `Away { maybe: true }`.
    pub fn disconnect(&self, why: &str) {
        self.fall(Crash::LoseUnanswered, why);
    }

    /// Ends [`Self::disconnect`].
    pub fn reconnect(&self) {
        self.node_lock().away = None;
    }

    /// The gateway of this handle dies: the handle answers `Away` for ever, what was not answered may be lost.
    pub fn crash(&self, crash: Crash) {
        self.fall(crash, "the gateway crashed");
    }

    fn fall(&self, crash: Crash, why: &str) {
        let mut node = self.node_lock();
        node.away = Some(why.into());
        let Crash::KeepUnanswered(keep) = crash else {
            node.pending.clear();
            node.pending_bytes = 0;
            return;
        };
        let mut image = self.image_lock();
        for pending in std::mem::take(&mut node.pending).into_iter().take(keep) {
            // Nobody hears the outcome: the one who asked is dead.
            let _ = image.apply(&pending.fence, pending.batch);
        }
        node.pending_bytes = 0;
    }

    fn node_lock(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn image_lock(&self) -> MutexGuard<'_, Image> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reachable(&self) -> Result<MutexGuard<'_, Node>, TxError> {
        let node = self.node_lock();
        match &node.away {
            Some(why) => Err(away(why, false)),
            None => Ok(node),
        }
    }

    fn read<T>(&self, unit: &Unit, read: impl FnOnce(&UnitRows) -> T) -> Result<Option<T>, TxError> {
        drop(self.reachable()?);
        Ok(self.image_lock().rows.get(unit).map(|rows| read(rows)))
    }

    fn hand_over(&self, fence: &Fence, batch: Batch) -> Result<oneshot::Receiver<Result<(), TxError>>, TxError> {
        let bytes = rules::check_batch(fence, &batch)?;
        let mut node = self.reachable()?;
        let lose_answer = match node.faults.pop_front() {
            Some(Fault::Refuse(err)) => return Err(err),
            Some(Fault::LoseAnswer) => true,
            None => false,
        };
        if node.pending.len() >= QUEUE_BATCHES_MAX || node.pending_bytes >= QUEUE_BYTES_MAX {
            return Err(TxError::Busy { path: "memory".into(), retry_after_ms: BUSY_RETRY_MS });
        }
        let (answer, answered) = oneshot::channel();
        node.pending_bytes += bytes;
        node.pending.push_back(Pending { fence: fence.clone(), batch, bytes, answer, lose_answer });
        Ok(answered)
    }

    /// What the disk does: all that waits becomes durable in one go, in order.
    fn sync(&self) {
        let mut node = self.node_lock();
        let mut image = self.image_lock();
        let mut written = 0;
        while let Some(pending) = node.pending.pop_front() {
            node.pending_bytes -= pending.bytes;
            let mut outcome = image.apply(&pending.fence, pending.batch);
            written += u64::from(outcome.is_ok());
            if pending.lose_answer {
                outcome = Err(away("the answer was lost", true));
            }
            // A caller that waits no longer took nothing back.
            let _ = pending.answer.send(outcome);
        }
        node.counters.batches += written;
        node.counters.syncs += u64::from(written > 0);
    }

    async fn disk_turns(&self) {
        if !self.sync_time.is_zero() {
            tokio::time::sleep(self.sync_time).await;
        }
    }
}

fn away(why: &str, maybe: bool) -> TxError {
    TxError::Away { path: "memory".into(), why: why.into(), maybe }
}

#[async_trait]
impl Store for MemoryStore {
    async fn claim(&self, unit: &Unit, fence: &Fence) -> Result<(), TxError> {
        rules::check_batch(fence, &Batch::new(unit.clone()))?;
        self.disk_turns().await;
        drop(self.reachable()?);
        self.sync();
        self.image_lock().claim(unit, fence)
    }

    async fn fence(&self, unit: &Unit) -> Result<Option<Fence>, TxError> {
        drop(self.reachable()?);
        Ok(self.image_lock().fences.get(unit).cloned())
    }

    // Written out instead of `async fn`, because the call itself must hand the batch over (promise 2).
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
        let handed_over = self.hand_over(fence, batch);
        Box::pin(async move {
            let answered = handed_over?;
            self.disk_turns().await;
            self.sync();
            answered.await.unwrap_or_else(|_| Err(away("the store went away", true)))
        })
    }

    async fn get(&self, unit: &Unit, table: Table, key: &str) -> Result<Option<Row>, TxError> {
        let found = self.read(unit, |rows| {
            let (value, version) = rows.docs.get(&(table, key.to_owned()))?;
            Some(Row { key: key.into(), value: value.clone(), version: *version })
        })?;
        Ok(found.flatten())
    }

    async fn scan(&self, unit: &Unit, table: Table, scan: &Scan) -> Result<Vec<Row>, TxError> {
        Ok(self.read(unit, |rows| rows.scan(table, scan))?.unwrap_or_default())
    }

    async fn read_journal(&self, unit: &Unit, journal: &str, from: u64, limit: usize) -> Result<Vec<(u64, String)>, TxError> {
        let skip = usize::try_from(from.saturating_sub(1)).unwrap_or(usize::MAX);
        let read = |rows: &UnitRows| {
            let lines = rows.journals.get(journal).map_or(&[][..], Vec::as_slice);
            lines.iter().enumerate().skip(skip).take(limit).map(|(at, line)| (at as u64 + 1, line.clone())).collect()
        };
        Ok(self.read(unit, read)?.unwrap_or_default())
    }

    async fn journal_end(&self, unit: &Unit, journal: &str) -> Result<u64, TxError> {
        Ok(self.read(unit, |rows| rows.end(journal))?.unwrap_or(0))
    }

    async fn journals(&self, unit: &Unit, after: Option<&str>, limit: usize) -> Result<Vec<String>, TxError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        Ok(self
            .read(unit, |rows| rows.journals.range::<str, _>((from, Bound::Unbounded)).take(limit).map(|(name, _)| name.clone()).collect())?
            .unwrap_or_default())
    }

    async fn units(&self) -> Result<Vec<Unit>, TxError> {
        drop(self.reachable()?);
        let mut units: Vec<Unit> = self.image_lock().fences.keys().cloned().collect();
        units.sort_by_cached_key(ToString::to_string);
        Ok(units)
    }

    fn describe(&self) -> String {
        "memory".into()
    }

    fn counters(&self) -> StoreCounters {
        self.node_lock().counters
    }

    async fn close(&self) {
        self.sync();
        self.node_lock().away = Some("the store is closed".into());
    }
}
