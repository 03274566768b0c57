//! The one thread that writes. It takes all that waits, writes it in one transaction with one disk sync, and
//! answers; a refused batch is taken back alone.

use std::{
    cell::Cell,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use clawstead_terms::{Fence, Unit};
use rusqlite::{Connection, OptionalExtension, hooks::Wal, params};
use tokio::sync::oneshot;

use super::{Options, fault, queue::Queue, schema};
use crate::{Batch, Op, TxError, rules};

/// Batches that share one transaction at most.
const GROUP_MAX: usize = 256;
/// Pages of write-ahead log after which it is copied into the file when nothing else is to do.
const CHECKPOINT_PAGES: i32 = 1_000;
/// Pages after which it is copied although batches wait.
const CHECKPOINT_PAGES_LATE: i32 = 8_000;

pub(super) struct Job {
    pub(super) what: What,
    pub(super) answer: oneshot::Sender<Result<(), TxError>>,
}

pub(super) enum What {
    Commit(Fence, Batch),
    Claim(Unit, Fence),
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) batches: AtomicU64,
    pub(super) syncs: AtomicU64,
}

pub(super) struct Writer {
    pub(super) path: PathBuf,
    pub(super) options: Options,
    pub(super) queue: Arc<Queue<Job>>,
    pub(super) counters: Arc<Counters>,
    pub(super) conn: Option<Connection>,
}

/// Why a change was not made.
enum Fail {
    /// The batch itself; others go on.
    Refused(TxError),
    /// The file.
    Broken(rusqlite::Error),
}

impl From<rusqlite::Error> for Fail {
    fn from(err: rusqlite::Error) -> Self {
        Self::Broken(err)
    }
}

impl From<TxError> for Fail {
    fn from(err: TxError) -> Self {
        Self::Refused(err)
    }
}

thread_local! {
    // SQLite's hook takes a plain function, and the writer is one thread: this is its way back.
    static WAL_PAGES: Cell<i32> = const { Cell::new(0) };
    static WAL_COMMITS: Cell<u64> = const { Cell::new(0) };
}

fn count_commit(_wal: &Wal, pages: i32) -> rusqlite::Result<()> {
    WAL_PAGES.set(pages);
    WAL_COMMITS.set(WAL_COMMITS.get() + 1);
    Ok(())
}

impl Writer {
    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self) {
        if let Some(conn) = &self.conn {
            conn.wal_hook(Some(count_commit));
        }
        loop {
            let group = self.queue.take(GROUP_MAX);
            if group.is_empty() {
                break;
            }
            self.serve(group);
            self.checkpoint_if_due();
        }
        if let Some(conn) = self.conn.take()
            && let Err((_, err)) = conn.close()
        {
            tracing::warn!(path = %self.path.display(), %err, "the state file was not closed in order; it is checked at the next start");
        }
    }

    fn serve(&mut self, group: Vec<Job>) {
        let conn = match self.connected() {
            Ok(conn) => conn,
            Err(err) => {
                answer_all(group, &err);
                return;
            }
        };
        let before = WAL_COMMITS.get();
        match write_group(conn, &group) {
            Ok(outcomes) => self.answer(group.into_iter().zip(outcomes), before),
            Err(err) if group.len() == 1 => self.fail(group, &err),
            // Something is wrong with the file or with one batch's pages: each alone, so that one harms only itself.
            Err(_) => {
                for job in group {
                    self.serve_alone(job);
                }
            }
        }
    }

    fn serve_alone(&mut self, job: Job) {
        let before = WAL_COMMITS.get();
        let job = [job];
        let outcome = match self.connected() {
            Ok(conn) => write_group(conn, &job),
            Err(err) => {
                answer_all(job.into(), &err);
                return;
            }
        };
        match outcome {
            Ok(outcomes) => self.answer(job.into_iter().zip(outcomes), before),
            Err(err) => self.fail(job.into(), &err),
        }
    }

    fn answer(&self, outcomes: impl Iterator<Item = (Job, Result<(), TxError>)>, commits_before: u64) {
        self.counters.syncs.fetch_add(WAL_COMMITS.get() - commits_before, Ordering::Relaxed);
        for (job, outcome) in outcomes {
            if outcome.is_ok() && matches!(job.what, What::Commit(..)) {
                self.counters.batches.fetch_add(1, Ordering::Relaxed);
            }
            // A caller that waits no longer took nothing back.
            let _ = job.answer.send(outcome);
        }
    }

    fn fail(&mut self, group: Vec<Job>, err: &GroupError) {
        let told = fault::explain(&self.path, &err.cause, err.in_commit);
        tracing::error!(path = %self.path.display(), err = %told, "the state file could not be written");
        if fault::is_broken(&err.cause) {
            // After a failed sync the pages in memory are not to be trusted: read again from the disk.
            self.conn = None;
        }
        answer_all(group, &told);
    }

    fn connected(&mut self) -> Result<&mut Connection, TxError> {
        let conn = match self.conn.take() {
            Some(conn) => conn,
            None => {
                let conn = schema::open_writer(&self.path, &self.options)?;
                conn.wal_hook(Some(count_commit));
                conn
            }
        };
        Ok(self.conn.insert(conn))
    }

    fn checkpoint_if_due(&self) {
        let pages = WAL_PAGES.get();
        if pages < CHECKPOINT_PAGES || (pages < CHECKPOINT_PAGES_LATE && !self.queue.is_empty()) {
            return;
        }
        let Some(conn) = &self.conn else { return };
        WAL_PAGES.set(0);
        if let Err(err) = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
            tracing::warn!(path = %self.path.display(), %err, "the write-ahead log could not be copied into the state file; it grows until it can");
        }
    }
}

fn answer_all(group: Vec<Job>, err: &TxError) {
    for job in group {
        let _ = job.answer.send(Err(err.clone()));
    }
}

struct GroupError {
    cause: rusqlite::Error,
    in_commit: bool,
}

fn write_group(conn: &Connection, group: &[Job]) -> Result<Vec<Result<(), TxError>>, GroupError> {
    let mut in_commit = false;
    let outcome = write_group_inner(conn, group, &mut in_commit);
    outcome.map_err(|cause| {
        // SQLite takes the transaction back by itself after some errors.
        if !conn.is_autocommit()
            && let Err(err) = conn.execute_batch("ROLLBACK")
        {
            tracing::warn!(%err, "a transaction could not be taken back");
        }
        GroupError { cause, in_commit }
    })
}

fn write_group_inner(conn: &Connection, group: &[Job], in_commit: &mut bool) -> rusqlite::Result<Vec<Result<(), TxError>>> {
    run(conn, "BEGIN IMMEDIATE")?;
    let mut outcomes = Vec::with_capacity(group.len());
    for job in group {
        run(conn, "SAVEPOINT batch")?;
        match apply(conn, &job.what) {
            Ok(()) => outcomes.push(Ok(())),
            Err(Fail::Refused(refused)) => {
                run(conn, "ROLLBACK TO batch")?;
                outcomes.push(Err(refused));
            }
            Err(Fail::Broken(err)) => return Err(err),
        }
        run(conn, "RELEASE batch")?;
    }
    *in_commit = true;
    run(conn, "COMMIT")?;
    Ok(outcomes)
}

fn run(conn: &Connection, sql: &str) -> rusqlite::Result<()> {
    conn.prepare_cached(sql)?.execute([]).map(|_| ())
}

fn apply(conn: &Connection, what: &What) -> Result<(), Fail> {
    match what {
        What::Claim(unit, fence) => {
            let name = unit.to_string();
            if rules::may_claim(unit, read_fence(conn, &name)?.as_ref(), fence)? {
                conn.prepare_cached("INSERT OR REPLACE INTO fence(unit, epoch, owner, incarnation) VALUES(?1, ?2, ?3, ?4)")?.execute(params![
                    name,
                    rules::signed(fence.epoch),
                    fence.owner,
                    rules::signed(fence.incarnation)
                ])?;
            }
        }
        What::Commit(fence, batch) => {
            let name = batch.unit.to_string();
            rules::may_write(&batch.unit, read_fence(conn, &name)?.as_ref(), fence)?;
            for op in &batch.ops {
                change(conn, &name, op)?;
            }
        }
    }
    Ok(())
}

pub(super) fn read_fence(conn: &Connection, unit: &str) -> rusqlite::Result<Option<Fence>> {
    conn.prepare_cached("SELECT epoch, owner, incarnation FROM fence WHERE unit=?1")?
        .query_row([unit], |row| Ok(Fence { epoch: rules::unsigned(row.get(0)?), owner: row.get(1)?, incarnation: rules::unsigned(row.get(2)?) }))
        .optional()
}

pub(super) fn read_end(conn: &Connection, unit: &str, journal: &str) -> rusqlite::Result<u64> {
    conn.prepare_cached("SELECT coalesce(max(seq), 0) FROM journal WHERE unit=?1 AND stream=?2")?
        .query_row([unit, journal], |row| row.get(0))
        .map(rules::unsigned)
}

fn change(conn: &Connection, unit: &str, op: &Op) -> Result<(), Fail> {
    match op {
        Op::Put(table, key, value) => {
            conn.prepare_cached(
                "INSERT INTO doc(unit, tbl, key, value, version) VALUES(?1, ?2, ?3, ?4, 1)
                 ON CONFLICT(unit, tbl, key) DO UPDATE SET value=excluded.value, version=version+1",
            )?
            .execute([unit, table.name(), key, value])?;
        }
        Op::Insert(table, key, value) => {
            let written = conn
                .prepare_cached("INSERT INTO doc(unit, tbl, key, value, version) VALUES(?1, ?2, ?3, ?4, 1) ON CONFLICT DO NOTHING")?
                .execute([unit, table.name(), key, value])?;
            if written == 0 {
                return Err(Fail::Refused(TxError::Exists { table: table.name(), key: key.clone() }));
            }
        }
        Op::Delete(table, key) => {
            conn.prepare_cached("DELETE FROM doc WHERE unit=?1 AND tbl=?2 AND key=?3")?.execute([unit, table.name(), key])?;
        }
        Op::Expect(table, key, expected) => {
            let version: Option<i64> = conn
                .prepare_cached("SELECT version FROM doc WHERE unit=?1 AND tbl=?2 AND key=?3")?
                .query_row([unit, table.name(), key], |row| row.get(0))
                .optional()?;
            if version.map(rules::unsigned) != *expected {
                return Err(Fail::Refused(TxError::Changed { table: table.name(), key: key.clone() }));
            }
        }
        Op::Append { journal, seq, event } => {
            rules::next_line(journal, read_end(conn, unit, journal)?, *seq)?;
            conn.prepare_cached("INSERT INTO journal(unit, stream, seq, event) VALUES(?1, ?2, ?3, ?4)")?.execute(params![
                unit,
                journal,
                rules::signed(*seq),
                event
            ])?;
        }
        Op::DropJournal(journal) => {
            conn.prepare_cached("DELETE FROM journal WHERE unit=?1 AND stream=?2")?.execute([unit, journal])?;
        }
    }
    Ok(())
}
