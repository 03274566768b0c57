//! Pieces of data beside the mail: bodies that are too large for a letter, where gateways have no link to each other.
//! Kept for a while and not longer; the sender has the original in its store.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::BusError;

/// Largest blob, bytes: 8 MiB.
pub const BLOB_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What a blob is cut into where the engine takes only small values, bytes: 256 KiB.
pub const PIECE_BYTES: usize = 256 * 1024;

/// Blobs of an engine, by name. A name is letters, digits and `-`, like a letter's id.
#[async_trait]
pub trait Blobs: Send + Sync {
    /// Keeps a blob for about `keep`; one that is there whole under this name stays.
    ///
    /// # Errors
    /// `TooLarge` above [`BLOB_BYTES_MAX`], otherwise when the engine does not take it.
    async fn put(&self, name: &str, bytes: &Bytes, keep: Duration) -> Result<(), BusError>;

    /// The whole blob. None when it is not there, or not whole.
    ///
    /// # Errors
    /// When the engine does not answer.
    async fn get(&self, name: &str) -> Result<Option<Bytes>, BusError>;

    /// Removes it, if it is there.
    ///
    /// # Errors
    /// When the engine does not answer.
    async fn remove(&self, name: &str) -> Result<(), BusError>;

    /// Removes what is older than it should be, where the engine does not do that by itself.
    ///
    /// # Errors
    /// When the engine does not answer.
    async fn sweep(&self) -> Result<(), BusError> {
        Ok(())
    }
}

/// Refuses what is too large.
pub(crate) fn check(engine: &'static str, bytes: &Bytes) -> Result<(), BusError> {
    if bytes.len() > BLOB_BYTES_MAX { Err(BusError::TooLarge { engine, max: BLOB_BYTES_MAX, size: bytes.len() }) } else { Ok(()) }
}

/// The pieces of a blob, numbered; an empty one has none.
pub(crate) fn pieces(bytes: &Bytes) -> impl Iterator<Item = (usize, Bytes)> + '_ {
    (0..bytes.len().div_ceil(PIECE_BYTES)).map(|n| (n, bytes.slice(n * PIECE_BYTES..bytes.len().min((n + 1) * PIECE_BYTES))))
}
