//! What one gateway keeps: tables of rows and journals, written in fenced batches; SQLite, PostgreSQL, memory.

mod store;

pub use store::{Batch, Op, Row, Scan, Store, StoreCounters, Table, TxError};
