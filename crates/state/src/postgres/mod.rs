//! The store on a PostgreSQL server, shared by the gateways of a farm.
//!
//! Every transaction locks the fence row of each unit it writes in share mode and compares it; a claim updates that
//! row and so waits for them. Connections go to the host that takes writes (`target_session_attrs=read-write`), of
//! several the one furthest on; a failover is waited for within [`Options::retry_limit`], and a lost answer to COMMIT
//! is settled by a marker row. The same row tells a server that lacks what it had confirmed: it is not used.

mod connect;
mod fault;
mod hosts;
mod recall;
mod tenancy;
mod writer;

pub use recall::{RECALL_FILE, Recall};
pub use tenancy::{Tenancy, TenancyError};

use std::{
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use clawstead_terms::{Fence, Unit};
use clawstead_world::{TaskKind, Tasks};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot, watch};
use tokio_postgres::{Client, Error, Statement};

use self::{
    connect::{Connector, Patience},
    writer::{Counters, Job, What, Writer},
};
use crate::{
    Batch, Row, Scan, Store, StoreCounters, Table, TxError, rules,
    store::{BUSY_RETRY_MS, QUEUE_BATCHES_MAX, QUEUE_BYTES_MAX},
};

/// Reads on their way at the same time; further ones wait for one of them.
const READS_MAX: usize = 128;

/// How a PostgreSQL store is used.
#[derive(Clone)]
pub struct Options {
    /// How long one call goes on trying while the server is away or fails over. Default 30 s.
    pub retry_limit: Duration,
    /// How long each host may take to accept a connection. Default 2 s.
    pub connect_timeout: Duration,
    /// The server ends a statement after this. Default 5 s, at most 5 s in a farm.
    pub statement_timeout: Duration,
    /// The server ends a transaction whose client is silent for this long, so that a frozen gateway does not keep
    /// its fence locked. Default 1 s, at most 1 s in a farm.
    pub idle_in_transaction_timeout: Duration,
    /// Certificate authorities (PEM) for TLS; default: those of the system.
    pub ca_file: Option<PathBuf>,
    /// A file that remembers which store is used and how far it was, see [`Recall`]; default none.
    pub recall: Option<PathBuf>,
    /// Where its background tasks run.
    pub tasks: Tasks,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retry_limit: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(5),
            idle_in_transaction_timeout: Duration::from_secs(1),
            ca_file: None,
            recall: None,
            tasks: Tasks::new(),
        }
    }
}

impl Options {
    /// One attempt is given up a little after the server would have given up itself.
    fn attempt_limit(&self) -> Duration {
        self.statement_timeout + Duration::from_secs(3)
    }
}

/// The store on a PostgreSQL server.
pub struct PostgresStore {
    connector: Arc<Connector>,
    counters: Arc<Counters>,
    jobs: mpsc::Sender<Job>,
    reader: Mutex<Option<Arc<Reader>>>,
    reads: Semaphore,
    closed: AtomicBool,
    /// True when it is closed, for tasks.
    leaving: watch::Sender<bool>,
}

struct Reader {
    client: Client,
    fence: Statement,
    get: Statement,
    up: Statement,
    down: Statement,
    journal: Statement,
    end: Statement,
    journals: Statement,
    units: Statement,
}

impl PostgresStore {
    /// Connects, makes `schema` where it is not there, and brings it up to date. `url` is
    /// `postgres://user:password@host1,host2/database?sslmode=require` or the key=value form.
    ///
    /// # Errors
    /// `Invalid` for a wrong address or encoding, or a store that is not the one remembered; `Schema` for a newer one, `Away` when no host takes writes within
    /// [`Options::retry_limit`].
    pub async fn connect(url: &str, schema: &str, options: Options) -> Result<Self, TxError> {
        let connector = Arc::new(Connector::new(url, schema, options)?);
        let recall = connector.options.recall.as_deref().and_then(Recall::read);
        if let Some(recall) = &recall {
            connector.known.saw(recall.standing());
        }
        let mut client = connector.connect(&mut Patience::new(connector.options.retry_limit)).await?;
        let id = connector.migrate(&mut client, recall.as_ref()).await?;
        let (leaving, closed) = watch::channel(false);
        if let Some(path) = &connector.options.recall {
            recall::keep(&connector, path.clone(), id, closed);
        }
        let (sender, jobs) = mpsc::channel(QUEUE_BATCHES_MAX);
        let counters = Arc::new(Counters::default());
        let session = writer::Session::prepare(client).await.map_err(|err| fault::explain(&connector.name, &err, false))?;
        let writer = Writer { connector: Arc::clone(&connector), jobs, counters: Arc::clone(&counters), marker: 0, session: Some(session) };
        connector.options.tasks.spawn::<_, std::convert::Infallible>(TaskKind::vital("state-postgres"), async move {
            writer.run().await;
            Ok(())
        });
        Ok(Self { connector, counters, jobs: sender, reader: Mutex::new(None), reads: Semaphore::new(READS_MAX), closed: AtomicBool::new(false), leaving })
    }

    fn away(&self, why: &str, maybe: bool) -> TxError {
        TxError::Away { path: self.connector.name.clone(), why: why.into(), maybe }
    }

    fn hand_over(&self, what: What, bytes: usize) -> Result<oneshot::Receiver<Result<(), TxError>>, TxError> {
        let busy = || TxError::Busy { path: self.connector.name.clone(), retry_after_ms: BUSY_RETRY_MS };
        if self.closed.load(Ordering::Acquire) {
            return Err(self.away("the store is closed", false));
        }
        if self.counters.waiting_bytes.fetch_add(bytes, Ordering::Relaxed) >= QUEUE_BYTES_MAX {
            self.counters.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(busy());
        }
        let (answer, answered) = oneshot::channel();
        self.jobs.try_send(Job { what, bytes, answer }).map_err(|err| {
            self.counters.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            match err {
                mpsc::error::TrySendError::Full(_) => busy(),
                mpsc::error::TrySendError::Closed(_) => self.away("the store is closed", false),
            }
        })?;
        Ok(answered)
    }

    async fn outcome(&self, handed_over: Result<oneshot::Receiver<Result<(), TxError>>, TxError>) -> Result<(), TxError> {
        handed_over?.await.unwrap_or_else(|_| Err(self.away("the task that writes is gone", true)))
    }

    async fn reader(&self, patience: &mut Patience) -> Result<Arc<Reader>, TxError> {
        let mut open = self.reader.lock().await;
        if let Some(reader) = open.as_ref().filter(|reader| !reader.client.is_closed()) {
            return Ok(Arc::clone(reader));
        }
        loop {
            let client = self.connector.connect(patience).await?;
            match Reader::prepare(client).await {
                Ok(reader) => return Ok(Arc::clone(open.insert(Arc::new(reader)))),
                Err(err) if fault::is_passing(&err) && patience.pause().await => {}
                Err(err) => return Err(fault::explain(&self.connector.name, &err, false)),
            }
        }
    }

    async fn read<T, F, Fut>(&self, read: F) -> Result<T, TxError>
    where
        F: Fn(Arc<Reader>) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        if self.closed.load(Ordering::Acquire) {
            return Err(self.away("the store is closed", false));
        }
        let _permit = self.reads.acquire().await.map_err(|_| self.away("the store is closed", false))?;
        let mut patience = Patience::new(self.connector.options.retry_limit);
        loop {
            let reader = self.reader(&mut patience).await?;
            let limited = tokio::time::timeout(self.connector.options.attempt_limit(), read(Arc::clone(&reader))).await;
            let told = match limited {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(err)) if !fault::is_passing(&err) => return Err(fault::explain(&self.connector.name, &err, false)),
                Ok(Err(err)) => fault::explain(&self.connector.name, &err, false),
                Err(_) => fault::too_slow(&self.connector.name, false),
            };
            // Others may have replaced it already.
            let mut open = self.reader.lock().await;
            if open.as_ref().is_some_and(|current| Arc::ptr_eq(current, &reader)) {
                *open = None;
            }
            drop(open);
            if !patience.pause().await {
                return Err(told);
            }
        }
    }
}

impl Reader {
    async fn prepare(client: Client) -> Result<Self, Error> {
        let scan = "SELECT key, value, version FROM doc WHERE unit=$1 AND tbl=$2 AND key>=$3 AND ($4::text IS NULL OR key<$4) ORDER BY key";
        let (up, down) = (format!("{scan} LIMIT $5"), format!("{scan} DESC LIMIT $5"));
        let (fence, get, up, down, journal, end, journals, units) = tokio::try_join!(
            client.prepare("SELECT epoch, owner, incarnation FROM fence WHERE unit=$1"),
            client.prepare("SELECT key, value, version FROM doc WHERE unit=$1 AND tbl=$2 AND key=$3"),
            client.prepare(&up),
            client.prepare(&down),
            client.prepare("SELECT seq, event FROM journal WHERE unit=$1 AND stream=$2 AND seq>=$3 ORDER BY seq LIMIT $4"),
            client.prepare("SELECT coalesce(max(seq), 0) FROM journal WHERE unit=$1 AND stream=$2"),
            // One seek a journal; DISTINCT would read every line.
            client.prepare(
                "WITH RECURSIVE names AS (
                   (SELECT stream FROM journal WHERE unit=$1 AND stream>$2 ORDER BY stream LIMIT 1)
                   UNION ALL
                   SELECT (SELECT stream FROM journal WHERE unit=$1 AND stream>names.stream ORDER BY stream LIMIT 1) FROM names WHERE names.stream IS NOT NULL)
                 SELECT stream FROM names WHERE stream IS NOT NULL LIMIT $3"
            ),
            client.prepare("SELECT unit FROM fence ORDER BY unit"),
        )?;
        Ok(Self { client, fence, get, up, down, journal, end, journals, units })
    }
}

fn row_of(row: &tokio_postgres::Row) -> Row {
    Row { key: row.get(0), value: row.get(1), version: rules::unsigned(row.get(2)) }
}

#[async_trait]
impl Store for PostgresStore {
    async fn claim(&self, unit: &Unit, fence: &Fence) -> Result<(), TxError> {
        let bytes = rules::check_batch(fence, &Batch::new(unit.clone()))?;
        let handed_over = self.hand_over(What::Claim(unit.clone(), fence.clone()), bytes);
        self.outcome(handed_over).await
    }

    async fn fence(&self, unit: &Unit) -> Result<Option<Fence>, TxError> {
        let unit = &unit.to_string();
        let row = self.read(|reader| async move { reader.client.query_opt(&reader.fence, &[unit]).await }).await?;
        Ok(row.map(|row| Fence { epoch: rules::unsigned(row.get(0)), owner: row.get(1), incarnation: rules::unsigned(row.get(2)) }))
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
        let unit = &unit.to_string();
        let row = self.read(|reader| async move { reader.client.query_opt(&reader.get, &[unit, &table.name(), &key]).await }).await?;
        Ok(row.as_ref().map(row_of))
    }

    async fn scan(&self, unit: &Unit, table: Table, scan: &Scan) -> Result<Vec<Row>, TxError> {
        let (unit, bounds) = (&unit.to_string(), &rules::Bounds::of(scan));
        let limit = &rules::signed_limit(scan.limit);
        let rows = self.read(|reader| async move {
            let statement = if scan.newest_first { &reader.down } else { &reader.up };
            reader.client.query(statement, &[unit, &table.name(), &bounds.from, &bounds.below, limit]).await
        });
        Ok(rows.await?.iter().map(row_of).collect())
    }

    async fn read_journal(&self, unit: &Unit, journal: &str, from: u64, limit: usize) -> Result<Vec<(u64, String)>, TxError> {
        let (unit, from, limit) = (&unit.to_string(), &rules::signed(from), &rules::signed_limit(limit));
        let rows = self.read(|reader| async move { reader.client.query(&reader.journal, &[unit, &journal, from, limit]).await }).await?;
        Ok(rows.iter().map(|row| (rules::unsigned(row.get(0)), row.get(1))).collect())
    }

    async fn journal_end(&self, unit: &Unit, journal: &str) -> Result<u64, TxError> {
        let unit = &unit.to_string();
        let row = self.read(|reader| async move { reader.client.query_one(&reader.end, &[unit, &journal]).await }).await?;
        Ok(rules::unsigned(row.get(0)))
    }

    async fn journals(&self, unit: &Unit, after: Option<&str>, limit: usize) -> Result<Vec<String>, TxError> {
        let (unit, after, limit) = (&unit.to_string(), &after.unwrap_or_default(), &rules::signed_limit(limit));
        let rows = self.read(|reader| async move { reader.client.query(&reader.journals, &[unit, after, limit]).await }).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn units(&self) -> Result<Vec<Unit>, TxError> {
        let rows = self.read(|reader| async move { reader.client.query(&reader.units, &[]).await }).await?;
        Ok(rows.iter().filter_map(|row| Unit::parse(row.get(0))).collect())
    }

    fn describe(&self) -> String {
        self.connector.name.clone()
    }

    fn counters(&self) -> StoreCounters {
        StoreCounters { batches: self.counters.batches.load(Ordering::Relaxed), syncs: self.counters.commits.load(Ordering::Relaxed) }
    }

    async fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let (answer, stopped) = oneshot::channel();
        if self.jobs.send(Job { what: What::Stop, bytes: 0, answer }).await.is_ok() {
            // An error means that the task ended already.
            let _ = stopped.await;
        }
        *self.reader.lock().await = None;
        self.leaving.send_replace(true);
    }
}
