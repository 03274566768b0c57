//! Versioned keys with compare-and-swap and watches: what ownership, membership and trust are written in.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

/// The store's version of one key. Another one with each change of that key, growing while the key exists; none comes
/// again, not even after the key was deleted and made anew. It says nothing about other keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// A key as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The whole key, without a leading slash.
    pub key: String,
    /// What is stored.
    pub value: Bytes,
    /// Its version, for [`Coord::put_if`].
    pub version: Version,
}

/// What must hold for a [`Coord::txn`] to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The key.
    pub key: String,
    /// Its version; `None` means that the key must not exist.
    pub expect: Option<Version>,
}

/// One write of a [`Coord::txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets the key, whatever it was.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
    },
    /// Removes the key; a key that is not there is no error.
    Delete {
        /// The key.
        key: String,
    },
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Everything below the prefix as it is now: the first item of every watch, and again after a gap. Whatever the
    /// watcher knew besides is gone.
    Snapshot(BTreeMap<String, Entry>),
    /// The key has this value now.
    Put(Entry),
    /// The key is gone.
    Delete(String),
    /// The store does not answer. Nothing is known until the next `Snapshot`; a count of somebody's silence
    /// starts again. The reverse does not hold: a watch that is silent may wait for a server that hangs, so whoever
    /// acts on somebody's silence reads the key again first.
    Lost(String),
}

/// A gateway as the engine's own service discovery shows it (Consul catalogue, DNS). Discovery and health only:
/// nothing safe rests on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Service name, for example `openclaw-gateway`.
    pub service: String,
    /// Unique in the farm: the gateway's name.
    pub id: String,
    /// Host or address others reach it at.
    pub address: String,
    /// Port others reach it at.
    pub port: u16,
    /// Tags, for routers like Traefik.
    pub tags: Vec<String>,
    /// Small facts: version, farm.
    pub meta: BTreeMap<String, String>,
    /// The check turns critical when [`Coord::beat`] was silent for this long. At least 1 s.
    pub check_ttl: Duration,
    /// What the engine asks itself, `http://host:port/path`, where it can reach that; none where it cannot.
    pub check_url: Option<String>,
}

/// Why a read, a watch or a registration failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CoordError {
    /// The store does not answer, has no leader, or answered with a fault of its own.
    #[error("{engine} at {at} does not answer: {why}")]
    Unavailable {
        /// `consul`, `postgresql`, ...
        engine: &'static str,
        /// Its address, without credentials.
        at: String,
        /// What happened.
        why: String,
    },
    /// The store refuses our credentials.
    #[error("{engine} at {at} refuses us: {why}")]
    Denied {
        /// The engine.
        engine: &'static str,
        /// Its address, without credentials.
        at: String,
        /// Its words.
        why: String,
    },
    /// The request cannot be done: key or value too large, a key with a leading slash, too many operations.
    #[error("{0}")]
    Invalid(String),
    /// This engine has no such thing (service registration on `PostgreSQL`, say).
    #[error("{engine} has no {what}")]
    Unsupported {
        /// The engine.
        engine: &'static str,
        /// What was asked of it.
        what: &'static str,
    },
}

/// Why a conditional write did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CasError {
    /// Somebody else was first. Nothing was written.
    #[error("{key} changed meanwhile")]
    Conflict {
        /// The first key whose version is another one.
        key: String,
    },
    /// It is not known whether the write happened: the connection broke before the answer. Read the key again.
    #[error("unknown whether it was written: {0}")]
    Unknown(CoordError),
    /// It did not happen.
    #[error(transparent)]
    Coord(#[from] CoordError),
}

/// Linearizable versioned keys. An engine that cannot promise that is not offered (Redis is not: an asynchronous
/// failover can forget a compare-and-swap).
///
/// Every request ends within the engine's request timeout (2 s by default, cluster design section 10), then the next
/// server is asked. What [`crate::rules`] refuses is answered with [`CoordError::Invalid`] before anything is sent.
#[async_trait]
pub trait Coord: Send + Sync {
    /// `consul`, `postgresql`, `embedded`: for messages.
    fn engine(&self) -> &'static str;

    /// The newest value.
    async fn get(&self, key: &str) -> Result<Option<Entry>, CoordError>;

    /// Every key below the prefix, in key order.
    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, CoordError>;

    /// Sets the key if its version is `expect` (`None`: if it does not exist).
    async fn put_if(&self, key: &str, value: Bytes, expect: Option<Version>) -> Result<Version, CasError>;

    /// Sets the key, whatever it was. For facts with one writer (heartbeats, published status), never for ownership.
    async fn put(&self, key: &str, value: Bytes) -> Result<Version, CoordError>;

    /// All operations, if all checks hold; else none. At most [`TXN_OPS_MAX`] checks and operations together, no key
    /// in two operations, and all of it at most [`TXN_BYTES_MAX`] bytes.
    async fn txn(&self, checks: &[Check], ops: &[Op]) -> Result<(), CasError>;

    /// Removes the key if its version is `expect`, or whatever it is when `None`. Not there is no error.
    async fn delete(&self, key: &str, expect: Option<Version>) -> Result<(), CasError>;

    /// Follows everything below the prefix. First a `Snapshot`; later changes may skip values in between, never the
    /// last one. The stream never ends by itself; it tells `Lost` when the store is away, again while it stays away at
    /// most, and goes on by itself. For a prefix that cannot be one it tells `Lost` once and nothing more.
    fn watch(&self, prefix: &str) -> BoxStream<'static, Change>;

    /// Tells the engine's service discovery of us (again). Engines without one say `Unsupported`.
    async fn register(&self, me: &Member) -> Result<(), CoordError>;

    /// We are alive; `note` is shown beside the check (at most 4 KiB).
    async fn beat(&self, me: &Member, note: &str) -> Result<(), CoordError>;

    /// We leave in good order.
    async fn deregister(&self, me: &Member) -> Result<(), CoordError>;
}

/// Bytes a value may have: what Consul takes inside a transaction (its limit of 512 KiB counts base64).
pub const VALUE_MAX: usize = 380 * 1024;

/// Checks and operations of one transaction (Consul's own limit is 64).
pub const TXN_OPS_MAX: usize = 64;

/// Bytes of one transaction, values counted in base64 (Consul's own limit).
pub const TXN_BYTES_MAX: usize = 512 * 1024;

/// Bytes a key may have.
pub const KEY_MAX: usize = 512;

/// One request to one server ends within this time (cluster design, section 10).
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
