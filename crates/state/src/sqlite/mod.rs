//! The store in one SQLite file: one thread that writes in groups, two that read.
//!
//! Durability: write-ahead log with `synchronous=FULL`, so each group of batches is one disk sync before any of them
//! is answered. The file must lie on a local disk (never NFS), and only one gateway may use it: see `StateDirLock`.

mod fault;
mod queue;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fs, io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread::{self, JoinHandle},
    time::Duration,
};

use async_trait::async_trait;
use clawstead_terms::{Fence, Millis, Unit};
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::oneshot;

use self::{
    queue::{NotTaken, Queue},
    writer::{Counters, Job, What, Writer},
};
use crate::{
    Batch, Row, Scan, Store, StoreCounters, Table, TxError, rules,
    store::{BUSY_RETRY_MS, QUEUE_BATCHES_MAX, QUEUE_BYTES_MAX},
};

/// Reads that may wait; the next one is refused with [`TxError::Busy`].
const QUEUE_READS_MAX: usize = 4096;
/// Threads that read.
const READERS: usize = 2;

/// How a SQLite store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Page cache of the writing connection, in KiB. Default 1024.
    pub cache_kib_writer: u32,
    /// Page cache of each of the two reading connections, in KiB. Default 512.
    pub cache_kib_reader: u32,
    /// The time a check for damage may take at a start after a kill. Default 200 ms.
    pub check_limit: Duration,
    /// Pages of 4 KiB the file may have; `None`, the default, leaves it to the disk.
    pub pages_max: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_kib_writer: 1024, cache_kib_reader: 512, check_limit: Duration::from_millis(200), pages_max: None }
    }
}

/// The store in one SQLite file.
pub struct SqliteStore {
    path: PathBuf,
    options: Options,
    writes: Arc<Queue<Job>>,
    reads: Arc<Queue<ReadJob>>,
    counters: Arc<Counters>,
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    readers: Vec<JoinHandle<()>>,
    writer: JoinHandle<()>,
}

/// Gets a connection or the reason why there is none; answers whether the connection is broken.
type ReadJob = Box<dyn FnOnce(Result<&Connection, TxError>) -> Health + Send>;

enum Health {
    Good,
    Broken,
}

impl SqliteStore {
    /// Opens the file, makes it (mode 0600) where it is not there, and brings its schema up to date. Blocks for some
    /// milliseconds; after a kill also for a check of at most [`Options::check_limit`].
    ///
    /// # Errors
    /// `ReadOnly`, `Full`, `Corrupt`, `Schema` (written by a newer program), `Invalid` (another program's file) or
    /// `Away`; each names the file.
    pub fn open(path: impl Into<PathBuf>, options: Options) -> Result<Self, TxError> {
        let path = path.into();
        schema::prepare_file(&path)?;
        let killed = schema::was_killed(&path);
        let mut conn = schema::open_writer(&path, &options)?;
        if killed {
            schema::check(&conn, &path, options.check_limit)?;
        }
        schema::migrate(&mut conn, &path)?;
        let counters = Arc::new(Counters::default());
        let writes = Arc::new(Queue::new(QUEUE_BATCHES_MAX, QUEUE_BYTES_MAX));
        let reads = Arc::new(Queue::new(QUEUE_READS_MAX, usize::MAX));
        let writer = Writer { path: path.clone(), options: options.clone(), queue: Arc::clone(&writes), counters: Arc::clone(&counters), conn: Some(conn) };
        let cannot_start = |err: io::Error| TxError::Away { path: path.display().to_string(), why: format!("no thread for it: {err}"), maybe: false };
        let writer = thread::Builder::new().name("state-write".into()).spawn(move || writer.run()).map_err(cannot_start)?;
        let mut readers = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            let (path, options, reads) = (path.clone(), options.clone(), Arc::clone(&reads));
            readers.push(thread::Builder::new().name("state-read".into()).spawn(move || read_until_closed(&path, &options, &reads)).map_err(cannot_start)?);
        }
        Ok(Self { path, options, writes, reads, counters, threads: Mutex::new(Some(Threads { readers, writer })) })
    }

    /// Writes a consistent copy while the gateway works: first beside the target, then renamed onto it, mode 0600.
    ///
    /// # Errors
    /// `Full`, `ReadOnly` or `Away` for the target, `Corrupt` where the store cannot be read.
    pub async fn backup_to(&self, target: impl Into<PathBuf>) -> Result<(), TxError> {
        let (path, options, target) = (self.path.clone(), self.options.clone(), target.into());
        let copied = tokio::task::spawn_blocking(move || back_up(&path, &options, &target)).await;
        copied.unwrap_or_else(|err| Err(self.away(&format!("the copy did not end: {err}"))))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn away(&self, why: &str) -> TxError {
        TxError::Away { path: self.path.display().to_string(), why: why.into(), maybe: false }
    }

    fn not_taken(&self, why: &NotTaken) -> TxError {
        match why {
            NotTaken::Full => TxError::Busy { path: self.path.display().to_string(), retry_after_ms: BUSY_RETRY_MS },
            NotTaken::Closed => self.away("the store is closed"),
        }
    }

    fn hand_over(&self, what: What, bytes: usize) -> Result<oneshot::Receiver<Result<(), TxError>>, TxError> {
        let (answer, answered) = oneshot::channel();
        self.writes.push(Job { what, answer }, bytes).map_err(|why| self.not_taken(&why))?;
        Ok(answered)
    }

    async fn outcome(&self, handed_over: Result<oneshot::Receiver<Result<(), TxError>>, TxError>) -> Result<(), TxError> {
        handed_over?.await.unwrap_or_else(|_| {
            let why = "the thread that writes is gone".into();
            Err(TxError::Away { path: self.path.display().to_string(), why, maybe: true })
        })
    }

    async fn read<T: Send + 'static>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static) -> Result<T, TxError> {
        let (answer, answered) = oneshot::channel();
        let path = self.path.clone();
        let job: ReadJob = Box::new(move |conn| {
            let (outcome, health) = match conn.map(read) {
                Ok(Ok(found)) => (Ok(found), Health::Good),
                Ok(Err(err)) => (Err(fault::explain(&path, &err, false)), if fault::is_broken(&err) { Health::Broken } else { Health::Good }),
                Err(err) => (Err(err), Health::Broken),
            };
            // The one who asked may be gone.
            let _ = answer.send(outcome);
            health
        });
        self.reads.push(job, 0).map_err(|why| self.not_taken(&why))?;
        answered.await.unwrap_or_else(|_| Err(self.away("the thread that reads is gone")))
    }

    fn stop(&self) -> Option<Threads> {
        self.reads.close();
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Threads {
    /// Readers end first: the last connection that closes takes the write-ahead log away, and it must be one that writes.
    fn join(self, writes: &Queue<Job>) {
        for reader in self.readers {
            let _ = reader.join();
        }
        writes.close();
        if self.writer.join().is_err() {
            tracing::error!("the thread that writes the state panicked");
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        if let Some(threads) = self.stop() {
            threads.join(&self.writes);
        }
    }
}

fn read_until_closed(path: &Path, options: &Options, reads: &Queue<ReadJob>) {
    let mut open: Option<Connection> = None;
    loop {
        let jobs = reads.take(1);
        if jobs.is_empty() {
            return;
        }
        for job in jobs {
            let conn = match open.take() {
                Some(conn) => Ok(conn),
                None => schema::open_reader(path, options),
            };
            match conn {
                Ok(conn) => {
                    if matches!(job(Ok(&conn)), Health::Good) {
                        open = Some(conn);
                    }
                }
                Err(err) => drop(job(Err(err))),
            }
        }
    }
}

fn back_up(path: &Path, options: &Options, target: &Path) -> Result<(), TxError> {
    let part = schema::beside(target, ".part");
    if let Err(err) = fs::remove_file(&part)
        && err.kind() != io::ErrorKind::NotFound
    {
        return Err(schema::explain_io(&part, &err));
    }
    schema::prepare_file(&part)?;
    let conn = schema::open_reader(path, options)?;
    let copied = conn
        .execute("VACUUM INTO ?1", [part.to_string_lossy()])
        .map_err(|err| fault::explain(if fault::is_broken(&err) { path } else { &part }, &err, false))
        .and_then(|_| {
            let place = || {
                fs::File::open(&part)?.sync_all()?;
                fs::rename(&part, target)?;
                schema::sync_folder(target)
            };
            place().map_err(|err: io::Error| schema::explain_io(target, &err))
        });
    if copied.is_err() {
        // Half a copy helps nobody; the error that matters is the first one.
        let _ = fs::remove_file(&part);
    }
    copied
}

/// Moves a damaged store and its log aside, to `<name>.quarantine.<time>`, and answers the new name. For `doctor`;
/// the store must not be open.
///
/// # Errors
/// When a file cannot be renamed.
pub fn quarantine(path: &Path, now: Millis) -> io::Result<PathBuf> {
    let aside = schema::beside(path, &format!(".quarantine.{}", now.0));
    for suffix in ["", "-wal", "-shm"] {
        match fs::rename(schema::beside(path, suffix), schema::beside(&aside, suffix)) {
            Err(err) if suffix.is_empty() || err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
    }
    schema::sync_folder(path)?;
    Ok(aside)
}

#[async_trait]
impl Store for SqliteStore {
    async fn claim(&self, unit: &Unit, fence: &Fence) -> Result<(), TxError> {
        let bytes = rules::check_batch(fence, &Batch::new(unit.clone()))?;
        // One thread writes, one after the other: no write of an older holder can still be running after this one.
        let handed_over = self.hand_over(What::Claim(unit.clone(), fence.clone()), bytes);
        self.outcome(handed_over).await
    }

    async fn fence(&self, unit: &Unit) -> Result<Option<Fence>, TxError> {
        let unit = unit.to_string();
        self.read(move |conn| writer::read_fence(conn, &unit)).await
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
        let handed_over = rules::check_batch(fence, &batch).and_then(|bytes| self.hand_over(What::Commit(fence.clone(), batch), bytes));
        Box::pin(self.outcome(handed_over))
    }

    async fn get(&self, unit: &Unit, table: Table, key: &str) -> Result<Option<Row>, TxError> {
        let (unit, key) = (unit.to_string(), key.to_owned());
        self.read(move |conn| {
            conn.prepare_cached("SELECT key, value, version FROM doc WHERE unit=?1 AND tbl=?2 AND key=?3")?
                .query_row([&unit, table.name(), &key], row_of)
                .optional()
        })
        .await
    }

    async fn scan(&self, unit: &Unit, table: Table, scan: &Scan) -> Result<Vec<Row>, TxError> {
        let (unit, scan) = (unit.to_string(), scan.clone());
        self.read(move |conn| scan_rows(conn, &unit, table, &scan)).await
    }

    async fn read_journal(&self, unit: &Unit, journal: &str, from: u64, limit: usize) -> Result<Vec<(u64, String)>, TxError> {
        let (unit, journal) = (unit.to_string(), journal.to_owned());
        self.read(move |conn| {
            conn.prepare_cached("SELECT seq, event FROM journal WHERE unit=?1 AND stream=?2 AND seq>=?3 ORDER BY seq LIMIT ?4")?
                .query_map(params![unit, journal, rules::signed(from), rules::signed_limit(limit)], |row| Ok((rules::unsigned(row.get(0)?), row.get(1)?)))?
                .collect()
        })
        .await
    }

    async fn journal_end(&self, unit: &Unit, journal: &str) -> Result<u64, TxError> {
        let (unit, journal) = (unit.to_string(), journal.to_owned());
        self.read(move |conn| writer::read_end(conn, &unit, &journal)).await
    }

    async fn journals(&self, unit: &Unit, after: Option<&str>, limit: usize) -> Result<Vec<String>, TxError> {
        let (unit, mut after) = (unit.to_string(), after.unwrap_or_default().to_owned());
        self.read(move |conn| {
            // One seek a journal; DISTINCT would read every line.
            let mut next = conn.prepare_cached("SELECT stream FROM journal WHERE unit=?1 AND stream>?2 ORDER BY stream LIMIT 1")?;
            let mut names: Vec<String> = Vec::new();
            while names.len() < limit
                && let Some(name) = next.query_row([&unit, &after], |row| row.get::<_, String>(0)).optional()?
            {
                after.clone_from(&name);
                names.push(name);
            }
            Ok(names)
        })
        .await
    }

    async fn units(&self) -> Result<Vec<Unit>, TxError> {
        let names: Vec<String> =
            self.read(|conn| conn.prepare_cached("SELECT unit FROM fence ORDER BY unit")?.query_map([], |row| row.get(0))?.collect()).await?;
        Ok(names.iter().filter_map(|name| Unit::parse(name)).collect())
    }

    fn describe(&self) -> String {
        format!("sqlite:{}", self.path.display())
    }

    fn counters(&self) -> StoreCounters {
        StoreCounters { batches: self.counters.batches.load(Ordering::Relaxed), syncs: self.counters.syncs.load(Ordering::Relaxed) }
    }

    async fn close(&self) {
        let writes = Arc::clone(&self.writes);
        if let Some(threads) = self.stop()
            && tokio::task::spawn_blocking(move || threads.join(&writes)).await.is_err()
        {
            tracing::error!("the state store was not closed in order");
        }
    }
}

fn row_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row { key: row.get(0)?, value: row.get(1)?, version: rules::unsigned(row.get(2)?) })
}

fn scan_rows(conn: &Connection, unit: &str, table: Table, scan: &Scan) -> rusqlite::Result<Vec<Row>> {
    let bounds = rules::Bounds::of(scan);
    // Two shapes for the upper bound: `?5 IS NULL OR key<?5` would keep SQLite from seeking.
    let (order, below) = match (scan.newest_first, bounds.below.is_some()) {
        (false, false) => ("ORDER BY key", "?4 IS NULL"),
        (false, true) => ("ORDER BY key", "key<?4"),
        (true, false) => ("ORDER BY key DESC", "?4 IS NULL"),
        (true, true) => ("ORDER BY key DESC", "key<?4"),
    };
    conn.prepare_cached(&format!("SELECT key, value, version FROM doc WHERE unit=?1 AND tbl=?2 AND key>=?3 AND {below} {order} LIMIT ?5"))?
        .query_map(params![unit, table.name(), bounds.from, bounds.below, rules::signed_limit(scan.limit)], row_of)?
        .collect()
}
