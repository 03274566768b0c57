//! What one gateway keeps: tables of rows and journals, written in fenced batches; SQLite, PostgreSQL, memory.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test ends at the first surprise"))]

mod batch;
pub mod conformance;
mod copy;
pub mod keeper;
mod lock;
mod memory;
pub mod postgres;
mod rules;
pub mod shared;
pub mod sqlite;
mod store;
pub mod testing;

pub use batch::{Versioned, change_json, claim_all, claim_next, get_json, put_json, read_journal_json, scan_json};
pub use copy::{Progress, Report, TableSum, copy, copy_units, sum};
pub use lock::{HeldBy, Holder, LockError, StateDirLock};
pub use memory::{Crash, Image, MemoryStore};
pub use postgres::PostgresStore;
pub use shared::Shared;
pub use sqlite::SqliteStore;
pub use store::{
    BATCH_OPS_MAX, Batch, KEY_BYTES_MAX, Op, QUEUE_BATCHES_MAX, QUEUE_BYTES_MAX, Row, Scan, Store, StoreCounters, Table, TxError, VALUE_BYTES_MAX,
};
