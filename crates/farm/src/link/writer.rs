//! The writing half of a link: what is urgent first, in pieces, giving up on a line that takes nothing.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};

use super::frame::Frame;

/// How long a line may take no byte before it is given up.
pub(crate) const WRITE_STALL: Duration = Duration::from_secs(30);
/// Bytes written at once.
const PIECE: usize = 64 * 1024;

/// A frame that waits to be written.
pub(crate) struct Outgoing {
    pub bytes: Bytes,
    /// The link ends with it.
    pub last: bool,
    /// Its share of what may wait.
    pub room: Option<OwnedSemaphorePermit>,
}

/// What is to be written, at its end.
pub(crate) struct Outbox {
    pub queue: mpsc::Receiver<Outgoing>,
    pub urgent: mpsc::Receiver<Bytes>,
}

/// Writes until the last frame, or until the line breaks or stalls.
pub(crate) async fn write_all<W: AsyncWrite + Unpin>(mut to: W, mut outbox: Outbox) -> Result<(), String> {
    loop {
        let (bytes, last, _room) = tokio::select! {
            biased;
            Some(bytes) = outbox.urgent.recv() => (bytes, false, None),
            Some(next) = outbox.queue.recv() => (next.bytes, next.last, next.room),
            else => return Ok(()),
        };
        let length = u32::try_from(bytes.len()).map_err(|_| "a frame is too long".to_owned())?;
        put(&mut to, &length.to_be_bytes()).await?;
        for piece in bytes.chunks(PIECE) {
            put(&mut to, piece).await?;
        }
        let flushed = timeout(WRITE_STALL, to.flush()).await;
        flushed.map_err(|_| stalled())?.map_err(|err| err.to_string())?;
        if last {
            let _ = timeout(WRITE_STALL, to.shutdown()).await;
            return Ok(());
        }
    }
}

/// Writes a frame of the greeting.
pub(crate) async fn write_one<W: AsyncWrite + Unpin>(to: &mut W, frame: &Frame) -> Result<(), String> {
    let bytes = frame.encode().map_err(|err| err.to_string())?;
    let length = u32::try_from(bytes.len()).map_err(|_| "a frame is too long".to_owned())?;
    put(to, &length.to_be_bytes()).await?;
    put(to, &bytes).await?;
    timeout(WRITE_STALL, to.flush()).await.map_err(|_| stalled())?.map_err(|err| err.to_string())
}

fn stalled() -> String {
    format!("nothing could be written for {} s", WRITE_STALL.as_secs())
}

async fn put<W: AsyncWrite + Unpin>(to: &mut W, piece: &[u8]) -> Result<(), String> {
    timeout(WRITE_STALL, to.write_all(piece)).await.map_err(|_| stalled())?.map_err(|err| err.to_string())
}
