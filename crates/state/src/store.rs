use async_trait::async_trait;
use thiserror::Error;

use clawstead_terms::{Failure, FailureCode, Fence, Unit};

/// Bytes a key, a journal name or a unit's text may have. PostgreSQL indexes no more than about 2,700 for all parts.
pub const KEY_BYTES_MAX: usize = 1024;
/// Bytes one value or journal line may have.
pub const VALUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Changes one batch may hold.
pub const BATCH_OPS_MAX: usize = 10_000;
/// Batches that may wait for the disk or the server; the next one is refused with [`TxError::Busy`].
pub const QUEUE_BATCHES_MAX: usize = 1024;
/// Bytes of waiting batches; a batch that comes when so much waits is refused with [`TxError::Busy`].
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a caller should wait after [`TxError::Busy`], in milliseconds.
pub(crate) const BUSY_RETRY_MS: u64 = 100;

/// What a gateway keeps, as named tables of rows. Every row belongs to a [`Unit`]; values are JSON text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Session key → session row.
    Sessions,
    /// Run id → run ledger (idempotency, status, result).
    Runs,
    /// Letters that other gateways sent us.
    Inbox,
    /// Letters and replies that wait to leave.
    Outbox,
    /// Effect id → intent and result.
    Effects,
    /// Letters that could not be delivered.
    DeadLetters,
    /// Job id → cron job.
    CronJobs,
    /// `<job id>/<slot, 20 digits>` → how the instant ended.
    CronRuns,
    /// Channel cursors, inbound dedupe keys, login state.
    Channel,
    /// Paired devices and nodes, their tokens, pending requests.
    Devices,
    /// Exec approvals and allow lists, open approval requests.
    Approvals,
    /// Auth profile use and cool-downs, model health.
    Models,
    /// Everything small: heartbeat state, system events, counters.
    Meta,
}

impl Table {
    /// The table with this name in the database.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }

    /// All tables.
    pub const ALL: [Self; 13] = [
        Self::Sessions,
        Self::Runs,
        Self::Inbox,
        Self::Outbox,
        Self::Effects,
        Self::DeadLetters,
        Self::CronJobs,
        Self::CronRuns,
        Self::Channel,
        Self::Devices,
        Self::Approvals,
        Self::Models,
        Self::Meta,
    ];

    /// Its name in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Runs => "runs",
            Self::Inbox => "inbox",
            Self::Outbox => "outbox",
            Self::Effects => "effects",
            Self::DeadLetters => "dead_letters",
            Self::CronJobs => "cron_jobs",
            Self::CronRuns => "cron_runs",
            Self::Channel => "channel",
            Self::Devices => "devices",
            Self::Approvals => "approvals",
            Self::Models => "models",
            Self::Meta => "meta",
        }
    }
}

/// A row as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: String,
    /// JSON text.
    pub value: String,
    /// Grows by one with each write of this key; 1 at first.
    pub version: u64,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a row, new or not.
    Put(Table, String, String),
    /// Writes a row that must not be there yet; otherwise the whole batch is refused with [`TxError::Exists`].
    Insert(Table, String, String),
    /// Removes a row if it is there.
    Delete(Table, String),
    /// The row must have this version (`None`: must not be there); otherwise the whole batch is refused with
    /// [`TxError::Changed`].
    Expect(Table, String, Option<u64>),
    /// Appends a line to a journal. `seq` starts at 1 and must be the next one; otherwise the whole batch is
    /// refused with [`TxError::Exists`] or [`TxError::Gap`].
    Append {
        /// The journal: a session id.
        journal: String,
        /// The line's number.
        seq: u64,
        /// JSON text.
        event: String,
    },
    /// Removes a whole journal.
    DropJournal(String),
}

/// Changes of one unit that happen together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Whose rows.
    pub unit: Unit,
    /// The changes, applied in order.
    pub ops: Vec<Op>,
}

/// Why a batch was refused. Nothing of it was written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TxError {
    /// Somebody holds the unit with a higher epoch.
    #[error("{unit} is held by {owner} with epoch {held}; this write carried {ours}")]
    Fenced {
        /// The unit.
        unit: String,
        /// The epoch in the store.
        held: u64,
        /// The epoch of the write.
        ours: u64,
        /// Its holder.
        owner: String,
    },
    /// An `Insert` or `Append` found the key taken.
    #[error("{table} already has {key}")]
    Exists {
        /// The table, or `journal`.
        table: &'static str,
        /// The key, or `<journal>/<seq>`.
        key: String,
    },
    /// An `Expect` did not hold.
    #[error("{table} {key} was changed by somebody else")]
    Changed {
        /// The table.
        table: &'static str,
        /// The key.
        key: String,
    },
    /// An `Append` would leave a hole.
    #[error("journal {journal} has {have} lines; line {seq} is not the next")]
    Gap {
        /// The journal.
        journal: String,
        /// Lines it has.
        have: u64,
        /// The line offered.
        seq: u64,
    },
    /// The disk is full.
    #[error("no space left for {path}: free some, the gateway goes on by itself")]
    Full {
        /// The file or server.
        path: String,
    },
    /// The store cannot be written.
    #[error("{path} is read-only: {why}")]
    ReadOnly {
        /// The file or server.
        path: String,
        /// The cause.
        why: String,
    },
    /// The store is damaged.
    #[error("{path} is damaged: {why}")]
    Corrupt {
        /// The file.
        path: String,
        /// The cause.
        why: String,
    },
    /// The store is away; the batch was not written, or its answer was lost (`maybe`).
    #[error("the state store {path} is away: {why}")]
    Away {
        /// The file or server.
        path: String,
        /// The cause.
        why: String,
        /// True when the batch may have been written.
        maybe: bool,
    },
    /// Too much waits for the disk or the server already. Nothing was written.
    #[error("the state store {path} is behind with writing; try again in {retry_after_ms} ms")]
    Busy {
        /// The file or server.
        path: String,
        /// What to wait, in milliseconds.
        retry_after_ms: u64,
    },
    /// The batch breaks a limit or a rule of the store: a key of more than [`KEY_BYTES_MAX`] bytes, a NUL character.
    #[error("{what} cannot be stored: {why}")]
    Invalid {
        /// The part of the batch.
        what: String,
        /// The rule.
        why: String,
    },
    /// The store was written by a newer program, or by another one.
    #[error("{path} has schema {found}, this program knows {known} at most: start a newer openclaw, or restore the backup made before the update")]
    Schema {
        /// The file or server.
        path: String,
        /// The version found.
        found: u64,
        /// The highest version this program knows.
        known: u64,
    },
}

impl TxError {
    /// True when the same batch may succeed later without any change to it.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Away { .. } | Self::Busy { .. })
    }

    /// What a door says about it.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        let text = self.to_string();
        match self {
            Self::Fenced { .. } => Failure::new(FailureCode::Fenced, text),
            Self::Exists { .. } | Self::Invalid { .. } => Failure::invalid(text),
            Self::Changed { .. } | Self::Gap { .. } => Failure::busy(text, BUSY_RETRY_MS),
            Self::Full { .. } => Failure::busy(text, 5_000),
            Self::Busy { retry_after_ms, .. } => Failure::busy(text, *retry_after_ms),
            Self::Away { maybe: false, .. } => Failure::unavailable(text, 1_000),
            Self::Away { maybe: true, .. } => Failure::new(FailureCode::Unavailable, text).with_hint("it may have been written: look before repeating"),
            Self::ReadOnly { .. } => Failure::new(FailureCode::Unavailable, text),
            Self::Corrupt { .. } | Self::Schema { .. } => Failure::internal(text).with_hint("run `openclaw doctor`"),
        }
    }
}

impl From<TxError> for Failure {
    fn from(err: TxError) -> Self {
        err.to_failure()
    }
}

/// The keys to read in a scan: those that start with `prefix`, in byte order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Keys must start with this; empty means all.
    pub prefix: String,
    /// Read after this key, exclusive.
    pub after: Option<String>,
    /// Rows at most.
    pub limit: usize,
    /// True reads from the highest key down (and `after` means before).
    pub newest_first: bool,
}

impl Scan {
    /// All rows whose key starts with `prefix`, lowest first, 10,000 at most.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), after: None, limit: 10_000, newest_first: false }
    }

    /// The same with at most `limit` rows.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// The same, but only what follows `key` in reading direction.
    #[must_use]
    pub fn after(mut self, key: impl Into<String>) -> Self {
        self.after = Some(key.into());
        self
    }

    /// The same from the highest key down.
    #[must_use]
    pub fn newest_first(mut self) -> Self {
        self.newest_first = true;
        self
    }
}

/// The state store: SQLite, PostgreSQL or memory, all with the same promises (see `conformance`).
///
/// 1. `commit` answers `Ok` only when the batch is durable: it survives kill -9 and power loss.
/// 2. A batch happens whole or not at all. Batches of one caller that awaits each are applied in that order;
///    batches handed over without awaiting are applied in the order of the calls: the call itself hands the batch
///    over, the future only waits for the answer, and dropping it takes nothing back.
/// 3. After `claim(unit, fence)` answered, no batch with a lower epoch for that unit is ever written.
/// 4. Reads see every batch whose commit was answered.
/// 5. Batches of the global unit are applied one after the other, also those of several gateways under one fence
///    (see `shared`): an `Op::Expect` in them holds until the batch is written.
#[async_trait]
pub trait Store: Send + Sync {
    /// Takes a unit: raises its fence, waits for running writes of the old holder, and locks them out.
    ///
    /// # Errors
    /// [`TxError::Fenced`] when the store has the same or a higher epoch of another holder.
    async fn claim(&self, unit: &Unit, fence: &Fence) -> Result<(), TxError>;

    /// The fence of a unit, where one was ever claimed.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn fence(&self, unit: &Unit) -> Result<Option<Fence>, TxError>;

    /// Writes a batch durably under `fence`, which must be exactly the one claimed: a unit nobody claimed takes no
    /// writes either (`Fenced` with `held: 0`).
    ///
    /// # Errors
    /// As [`TxError`] lists; nothing was written then, except `Away { maybe: true }`.
    async fn commit(&self, fence: &Fence, batch: Batch) -> Result<(), TxError>;

    /// Reads one row.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn get(&self, unit: &Unit, table: Table, key: &str) -> Result<Option<Row>, TxError>;

    /// Reads rows in key order (byte order).
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn scan(&self, unit: &Unit, table: Table, scan: &Scan) -> Result<Vec<Row>, TxError>;

    /// Reads a journal's lines from number `from` on, `limit` at most, as (number, JSON text).
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn read_journal(&self, unit: &Unit, journal: &str, from: u64, limit: usize) -> Result<Vec<(u64, String)>, TxError>;

    /// The number of the last line of a journal; 0 when it is empty or not there.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn journal_end(&self, unit: &Unit, journal: &str) -> Result<u64, TxError>;

    /// The names of a unit's journals that have lines, in byte order, after `after`, `limit` at most.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn journals(&self, unit: &Unit, after: Option<&str>, limit: usize) -> Result<Vec<String>, TxError>;

    /// The units that were ever claimed (others have no rows), in text order.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn units(&self) -> Result<Vec<Unit>, TxError>;

    /// True when other gateways write rows of the global unit too: what is kept of them in memory must be read again
    /// now and then, and changes need `Op::Expect`. A store around another one passes its answer on.
    fn is_shared(&self) -> bool {
        false
    }

    /// A word for logs and `status`: `sqlite:<path>`, `postgres:<host>/<db>`, `memory`. No secrets.
    fn describe(&self) -> String;

    /// Durable batches so far, and the disk syncs (or server commits) they took.
    fn counters(&self) -> StoreCounters;

    /// Finishes what was handed over and closes files. Later calls fail with `Away`.
    async fn close(&self);
}

/// How much was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounters {
    /// Batches committed.
    pub batches: u64,
    /// Disk syncs or server commits they took; fewer than batches when they were grouped.
    pub syncs: u64,
}
