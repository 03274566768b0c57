//! The one task that writes: all that waits becomes one transaction, sent without waiting between its statements.
//!
//! An answer lost after COMMIT is settled here: each transaction raises a marker row of this writer. After a new
//! connection the marker, once its lock is free, says whether the transaction happened.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
};

use clawstead_terms::{Fence, Unit};
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::{Client, Error, Statement};

use super::{
    connect::{Connector, Patience},
    fault,
};
use crate::{Batch, Op, TxError, rules};

/// Batches that share one transaction at most.
const GROUP_MAX: usize = 256;

/// The text form of the global unit.
const GLOBAL: &str = "global";

pub(super) struct Job {
    pub(super) what: What,
    pub(super) bytes: usize,
    pub(super) answer: oneshot::Sender<Result<(), TxError>>,
}

pub(super) enum What {
    Commit(Fence, Batch),
    Claim(Unit, Fence),
    /// Finish what came before and end.
    Stop,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) batches: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) waiting_bytes: AtomicUsize,
}

pub(super) struct Writer {
    pub(super) connector: Arc<Connector>,
    pub(super) jobs: mpsc::Receiver<Job>,
    pub(super) counters: Arc<Counters>,
    /// The number of the last transaction that was tried.
    pub(super) marker: i64,
    pub(super) session: Option<Session>,
}

/// A connection with its prepared statements.
pub(super) struct Session {
    client: Client,
    fence: Statement,
    fence_alone: Statement,
    claim: Statement,
    put: Statement,
    insert: Statement,
    delete: Statement,
    version: Statement,
    end: Statement,
    append: Statement,
    drop_journal: Statement,
    mark: Statement,
    marked: Statement,
}

type CommitJob<'a> = (&'a Fence, &'a Batch, String);
type Outcomes = Vec<Result<(), TxError>>;

impl Writer {
    /// Works until it is told to stop or nobody can send any more.
    pub(super) async fn run(mut self) {
        let mut group = Vec::with_capacity(GROUP_MAX);
        while self.jobs.recv_many(&mut group, GROUP_MAX).await > 0 {
            let bytes = group.iter().map(|job| job.bytes).sum::<usize>();
            self.serve(std::mem::take(&mut group)).await;
            self.counters.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    async fn serve(&mut self, jobs: Vec<Job>) {
        let mut commits = Vec::with_capacity(jobs.len());
        for job in jobs {
            if matches!(job.what, What::Commit(..)) {
                commits.push(job);
                continue;
            }
            // In order: what was handed over before a claim is written before it.
            self.commit(std::mem::take(&mut commits)).await;
            let outcome = match &job.what {
                What::Claim(unit, fence) => self.claim(unit, fence).await,
                What::Commit(..) | What::Stop => {
                    self.jobs.close();
                    Ok(())
                }
            };
            let _ = job.answer.send(outcome);
        }
        self.commit(commits).await;
    }

    async fn commit(&mut self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let group: Vec<CommitJob<'_>> = jobs
            .iter()
            .filter_map(|job| match &job.what {
                What::Commit(fence, batch) => Some((fence, batch, batch.unit.to_string())),
                What::Claim(..) | What::Stop => None,
            })
            .collect();
        let outcomes = self.commit_until_known(&group).await;
        drop(group);
        let written = outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64;
        self.counters.batches.fetch_add(written, Ordering::Relaxed);
        self.counters.commits.fetch_add(u64::from(written > 0), Ordering::Relaxed);
        for (job, outcome) in jobs.into_iter().zip(outcomes) {
            // A caller that waits no longer took nothing back.
            let _ = job.answer.send(outcome);
        }
    }

    async fn commit_until_known(&mut self, group: &[CommitJob<'_>]) -> Outcomes {
        let connector = Arc::clone(&self.connector);
        let mut patience = Patience::new(connector.options.retry_limit);
        // Set just before COMMIT is sent: what it means if it happens.
        let mut pending: Option<Outcomes> = None;
        let mut careful = false;
        self.marker += 1;
        loop {
            let all = |err: &TxError| group.iter().map(|_| Err(err.clone())).collect();
            let session = match self.session(&mut patience).await {
                Ok(session) => session,
                Err(err) => return all(&with_doubt(err, pending.is_some())),
            };
            let (id, marker) = (connector.known.writer.as_str(), self.marker);
            let in_doubt = pending.is_some();
            let attempt = async {
                if in_doubt {
                    if session.was_committed(id, marker).await? {
                        return Ok(pending.take());
                    }
                    pending = None;
                }
                session.write(group, id, marker, &mut careful, &mut pending).await.map(Some)
            };
            let limited = tokio::time::timeout(connector.options.attempt_limit(), attempt).await;
            let told = match limited {
                Ok(Ok(outcomes)) => {
                    self.session = Some(session);
                    let outcomes = outcomes.unwrap_or_default();
                    if outcomes.iter().any(Result::is_ok) {
                        connector.known.confirm(marker);
                    }
                    return outcomes;
                }
                Ok(Err(err)) if !fault::is_passing(&err) && pending.is_none() => return all(&fault::explain(&connector.name, &err, false)),
                Ok(Err(err)) => fault::explain(&connector.name, &err, pending.is_some()),
                Err(_) => fault::too_slow(&connector.name, pending.is_some()),
            };
            tracing::warn!(store = %connector.name, err = %told, "a commit is tried again");
            // The old connection may hold half a transaction: it ends with the connection.
            drop(session);
            if !patience.pause().await {
                return all(&with_doubt(told, pending.is_some()));
            }
        }
    }

    async fn claim(&mut self, unit: &Unit, fence: &Fence) -> Result<(), TxError> {
        let connector = Arc::clone(&self.connector);
        let mut patience = Patience::new(connector.options.retry_limit);
        let name = unit.to_string();
        loop {
            let session = self.session(&mut patience).await?;
            // Raising twice is the same as once, so a lost answer is no question.
            let told = match tokio::time::timeout(connector.options.attempt_limit(), session.claim(&name, fence)).await {
                Ok(Ok(held)) => {
                    self.session = Some(session);
                    return if held.as_ref() == Some(fence) { Ok(()) } else { rules::may_claim(unit, held.as_ref(), fence).map(|_| ()) };
                }
                Ok(Err(err)) if !fault::is_passing(&err) => return Err(fault::explain(&connector.name, &err, false)),
                Ok(Err(err)) => fault::explain(&connector.name, &err, true),
                Err(_) => fault::too_slow(&connector.name, true),
            };
            if !patience.pause().await {
                return Err(told);
            }
        }
    }

    async fn session(&mut self, patience: &mut Patience) -> Result<Session, TxError> {
        if let Some(session) = self.session.take()
            && !session.client.is_closed()
        {
            return Ok(session);
        }
        loop {
            let client = self.connector.connect(patience).await?;
            match Session::prepare(client).await {
                Ok(session) => return Ok(session),
                Err(err) if fault::is_passing(&err) && patience.pause().await => {}
                Err(err) => return Err(fault::explain(&self.connector.name, &err, false)),
            }
        }
    }
}

/// An error that follows a COMMIT without answer leaves the doubt standing.
fn with_doubt(err: TxError, in_doubt: bool) -> TxError {
    match err {
        TxError::Away { path, why, .. } => TxError::Away { path, why, maybe: in_doubt },
        other if in_doubt => TxError::Away { path: String::new(), why: other.to_string(), maybe: true },
        other => other,
    }
}

impl Session {
    pub(super) async fn prepare(client: Client) -> Result<Self, Error> {
        let (fence, fence_alone, claim, put, insert, delete, version, end, append, drop_journal, mark, marked) = tokio::try_join!(
            client.prepare("SELECT epoch, owner, incarnation FROM fence WHERE unit=$1 FOR SHARE"),
            client.prepare("SELECT epoch, owner, incarnation FROM fence WHERE unit=$1 FOR UPDATE"),
            client.prepare(
                "INSERT INTO fence(unit, epoch, owner, incarnation) VALUES($1, $2, $3, $4)
                 ON CONFLICT(unit) DO UPDATE SET epoch=excluded.epoch, owner=excluded.owner, incarnation=excluded.incarnation WHERE fence.epoch<excluded.epoch"
            ),
            client.prepare(
                "INSERT INTO doc(unit, tbl, key, value, version) VALUES($1, $2, $3, $4, 1)
                 ON CONFLICT(unit, tbl, key) DO UPDATE SET value=excluded.value, version=doc.version+1"
            ),
            client.prepare("INSERT INTO doc(unit, tbl, key, value, version) VALUES($1, $2, $3, $4, 1) ON CONFLICT DO NOTHING"),
            client.prepare("DELETE FROM doc WHERE unit=$1 AND tbl=$2 AND key=$3"),
            client.prepare("SELECT version FROM doc WHERE unit=$1 AND tbl=$2 AND key=$3"),
            client.prepare("SELECT coalesce(max(seq), 0) FROM journal WHERE unit=$1 AND stream=$2"),
            client.prepare(
                "INSERT INTO journal(unit, stream, seq, event) SELECT $1::text, $2::text, $3::bigint, $4::text
                 WHERE $3::bigint=1+(SELECT coalesce(max(seq), 0) FROM journal WHERE unit=$1 AND stream=$2) ON CONFLICT DO NOTHING"
            ),
            client.prepare("DELETE FROM journal WHERE unit=$1 AND stream=$2"),
            client.prepare("INSERT INTO commit_marker(writer, n) VALUES($1, $2) ON CONFLICT(writer) DO UPDATE SET n=excluded.n, at=now()"),
            client.prepare("UPDATE commit_marker SET at=now() WHERE writer=$1 RETURNING n"),
        )?;
        Ok(Self { client, fence, fence_alone, claim, put, insert, delete, version, end, append, drop_journal, mark, marked })
    }

    /// Raises the fence where it is lower and answers what is there afterwards. The row's lock waits for running
    /// transactions of the old holder, which hold it in share mode.
    async fn claim(&self, unit: &str, fence: &Fence) -> Result<Option<Fence>, Error> {
        let (epoch, incarnation) = (rules::signed(fence.epoch), rules::signed(fence.incarnation));
        self.client.execute(&self.claim, &[&unit, &epoch, &fence.owner, &incarnation]).await?;
        self.held(unit).await
    }

    async fn held(&self, unit: &str) -> Result<Option<Fence>, Error> {
        // The global unit may be written by several gateways under one fence: one after the other (promise 5).
        let statement = if unit == GLOBAL { &self.fence_alone } else { &self.fence };
        let row = self.client.query_opt(statement, &[&unit]).await?;
        Ok(row.map(|row| Fence { epoch: rules::unsigned(row.get(0)), owner: row.get(1), incarnation: rules::unsigned(row.get(2)) }))
    }

    /// Whether transaction `marker` of this writer happened. Waits for its end where the server still works on it. A
    /// change and no mere look: when it is confirmed, a standby that confirms commits has all that came before too.
    async fn was_committed(&self, id: &str, marker: i64) -> Result<bool, Error> {
        let row = self.client.query_opt(&self.marked, &[&id]).await?;
        Ok(row.is_some_and(|row| row.get::<_, i64>(0) >= marker))
    }

    async fn write(&self, group: &[CommitJob<'_>], id: &str, marker: i64, careful: &mut bool, pending: &mut Option<Outcomes>) -> Result<Outcomes, Error> {
        if !*careful {
            match self.write_fast(group, id, marker).await {
                Ok(true) => return self.finish(group.iter().map(|_| Ok(())).collect(), pending).await,
                Ok(false) => {}
                // A statement was refused for what it is: find out whose, one by one.
                Err(err) if !fault::is_passing(&err) => {}
                Err(err) => return Err(err),
            }
            *careful = true;
            self.client.batch_execute("ROLLBACK").await?;
        }
        let outcomes = self.write_one_by_one(group).await?;
        if outcomes.iter().all(Result::is_err) {
            self.client.batch_execute("ROLLBACK").await?;
            return Ok(outcomes);
        }
        self.client.execute(&self.mark, &[&id, &marker]).await?;
        self.finish(outcomes, pending).await
    }

    async fn finish(&self, outcomes: Outcomes, pending: &mut Option<Outcomes>) -> Result<Outcomes, Error> {
        *pending = Some(outcomes.clone());
        let committed = self.client.batch_execute("COMMIT").await;
        if committed.as_ref().is_err_and(|err| err.code().is_some() && !fault::is_passing(err)) {
            // The server itself said no, so nothing was written.
            *pending = None;
        }
        committed.map(|()| outcomes)
    }

    /// Sends everything at once. False when some batch would be refused; the transaction is still open then.
    async fn write_fast(&self, group: &[CommitJob<'_>], id: &str, marker: i64) -> Result<bool, Error> {
        let units: BTreeMap<&str, &Unit> = group.iter().map(|(_, batch, name)| (name.as_str(), &batch.unit)).collect();
        let mut begin = pin!(self.client.batch_execute("BEGIN"));
        // The first poll sends, so the order of the polls is the order on the wire.
        let begun = futures_util::poll!(begin.as_mut());
        let mut fences: Vec<_> = units.keys().map(|name| Box::pin(self.held(name))).collect();
        let first_fences = poll_each(&mut fences).await;
        let mut steps: Vec<Pin<Box<dyn Future<Output = Result<bool, Error>> + Send + '_>>> = Vec::new();
        for (_, batch, name) in group {
            steps.extend(batch.ops.iter().map(|op| Box::pin(self.step(name, op)) as Pin<Box<dyn Future<Output = _> + Send + '_>>));
        }
        steps.push(Box::pin(async move { self.client.execute(&self.mark, &[&id, &marker]).await.map(|_| true) }));
        let first_steps = poll_each(&mut steps).await;
        match begun {
            Poll::Ready(outcome) => outcome?,
            Poll::Pending => begin.await?,
        }
        let mut held: BTreeMap<&str, Option<Fence>> = BTreeMap::new();
        for ((name, fence), first) in units.keys().zip(fences).zip(first_fences) {
            held.insert(name, rest(first, fence).await?);
        }
        let mut fits = group.iter().all(|(ours, _, name)| held.get(name.as_str()).and_then(Option::as_ref) == Some(*ours));
        for (step, first) in steps.into_iter().zip(first_steps) {
            fits &= rest(first, step).await?;
        }
        Ok(fits)
    }

    /// One change; false when it would be refused.
    async fn step(&self, unit: &str, op: &Op) -> Result<bool, Error> {
        match op {
            Op::Put(table, key, value) => self.client.execute(&self.put, &[&unit, &table.name(), key, value]).await.map(|_| true),
            Op::Insert(table, key, value) => self.client.execute(&self.insert, &[&unit, &table.name(), key, value]).await.map(|rows| rows == 1),
            Op::Delete(table, key) => self.client.execute(&self.delete, &[&unit, &table.name(), key]).await.map(|_| true),
            Op::Expect(table, key, expected) => {
                let row = self.client.query_opt(&self.version, &[&unit, &table.name(), key]).await?;
                Ok(row.map(|row| rules::unsigned(row.get(0))) == *expected)
            }
            Op::Append { journal, seq, event } => self.client.execute(&self.append, &[&unit, journal, &rules::signed(*seq), event]).await.map(|rows| rows == 1),
            Op::DropJournal(journal) => self.client.execute(&self.drop_journal, &[&unit, journal]).await.map(|_| true),
        }
    }

    async fn write_one_by_one(&self, group: &[CommitJob<'_>]) -> Result<Outcomes, Error> {
        self.client.batch_execute("BEGIN").await?;
        let mut outcomes = Vec::with_capacity(group.len());
        for (fence, batch, name) in group {
            self.client.batch_execute("SAVEPOINT batch").await?;
            let outcome = match self.write_batch(fence, batch, name).await {
                Ok(outcome) => outcome,
                Err(err) if fault::is_passing(&err) => return Err(err),
                Err(err) => Err(fault::explain("postgres", &err, false)),
            };
            self.client.batch_execute(if outcome.is_ok() { "RELEASE batch" } else { "ROLLBACK TO batch; RELEASE batch" }).await?;
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    async fn write_batch(&self, fence: &Fence, batch: &Batch, name: &str) -> Result<Result<(), TxError>, Error> {
        if let Err(fenced) = rules::may_write(&batch.unit, self.held(name).await?.as_ref(), fence) {
            return Ok(Err(fenced));
        }
        for op in &batch.ops {
            if self.step(name, op).await? {
                continue;
            }
            return Ok(Err(match op {
                Op::Append { journal, seq, .. } => {
                    let have = rules::unsigned(self.client.query_one(&self.end, &[&name, journal]).await?.get(0));
                    match rules::next_line(journal, have, *seq) {
                        Err(refused) => refused,
                        Ok(()) => TxError::Exists { table: "journal", key: format!("{journal}/{seq}") },
                    }
                }
                Op::Insert(table, key, _) => TxError::Exists { table: table.name(), key: key.clone() },
                Op::Put(table, key, _) | Op::Delete(table, key) | Op::Expect(table, key, _) => TxError::Changed { table: table.name(), key: key.clone() },
                Op::DropJournal(journal) => TxError::Changed { table: "journal", key: journal.clone() },
            }));
        }
        Ok(Ok(()))
    }
}

/// Polls each future once, in order, so that each sends its request.
async fn poll_each<F: Future + Unpin>(futures: &mut [F]) -> Vec<Poll<F::Output>> {
    let mut first = Vec::with_capacity(futures.len());
    for future in futures {
        first.push(futures_util::poll!(future));
    }
    first
}

async fn rest<F: Future>(first: Poll<F::Output>, future: F) -> F::Output {
    match first {
        Poll::Ready(output) => output,
        Poll::Pending => future.await,
    }
}
