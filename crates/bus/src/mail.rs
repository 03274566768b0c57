//! Mail between gateways: at least once, in any order. Losing, repeating, delaying and reordering here can never lose
//! a letter or repeat an effect, because the sender keeps each letter until the receiver's receipt.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::BoxStream};

use crate::Blobs;

/// An envelope as bytes, with the little a carrier may look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// `UUIDv7` of the letter; the same on every attempt.
    pub message_id: String,
    /// How many attempts there were before: with `message_id` what engines deduplicate by, so that a retry gets
    /// through and its receipt is repeated.
    pub attempt: u32,
    /// The envelope, signed, as JSON.
    pub bytes: Bytes,
}

/// A box mail is put into: an agent's or channel account's inbox, or a gateway's own (receipts).
///
/// One address, one subscriber at a time; after a take-over the next owner subscribes and gets what was not settled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MailBox {
    /// Letters for a unit: the agent's id (`bobby`), or `chan.<channel>.<account>`.
    Unit(String),
    /// Receipts and control mail for a gateway.
    Gateway(String),
}

/// What became of [`Bus::publish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The engine has it.
    Accepted,
    /// The engine had this attempt already.
    Duplicate,
    /// Not now; not before this long.
    Busy(Duration),
}

/// What an engine can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusCaps {
    /// Largest envelope, bytes. Larger bodies go by reference.
    pub inline_max: usize,
    /// True when accepted mail survives a restart of the engine as it is meant to be set up.
    pub durable: bool,
    /// True when the engine drops repeated `(message_id, attempt)` by itself for a while.
    pub dedupes: bool,
}

/// How much waits in a box.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Letters.
    pub letters: u64,
    /// Bytes, where the engine knows.
    pub bytes: Option<u64>,
}

/// Why mail could not be carried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The engine does not answer.
    #[error("{engine} at {at} does not answer: {why}")]
    Unavailable {
        /// `redis`, `nats`, ...
        engine: &'static str,
        /// Its address, without credentials.
        at: String,
        /// What happened.
        why: String,
    },
    /// The engine refuses our credentials.
    #[error("{engine} at {at} refuses us: {why}")]
    Denied {
        /// The engine.
        engine: &'static str,
        /// Its address, without credentials.
        at: String,
        /// Its words.
        why: String,
    },
    /// Larger than the engine carries inline.
    #[error("{engine} carries {max} bytes at most, this letter has {size}")]
    TooLarge {
        /// The engine.
        engine: &'static str,
        /// Its bound.
        max: usize,
        /// What was asked.
        size: usize,
    },
}

/// Says that a delivery is dealt with: the engine forgets it. Dropping it unsettled brings the letter again, to this
/// subscriber or the next. Settled only after the inbox commit.
pub struct Settle(Box<dyn FnOnce() -> BoxFuture<'static, Result<(), BusError>> + Send>);

impl Settle {
    /// Wraps what an engine does to forget a letter.
    pub fn new(done: impl FnOnce() -> BoxFuture<'static, Result<(), BusError>> + Send + 'static) -> Self {
        Self(Box::new(done))
    }

    /// The engine may forget it.
    ///
    /// # Errors
    /// When the engine is away. Harmless: the letter comes again and is known.
    pub async fn done(self) -> Result<(), BusError> {
        (self.0)().await
    }
}

impl std::fmt::Debug for Settle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Settle")
    }
}

/// One letter that arrived. Not trusted: whoever takes it verifies it.
#[derive(Debug)]
pub struct Delivery {
    /// The bytes somebody put there.
    pub raw: Bytes,
    /// To be settled after the inbox commit, or after a refusal that is final.
    pub settle: Settle,
    /// The name it lies under in the box, where names are the engine's users' own (Consul's keys): people put letters
    /// there by hand.
    pub name: Option<String>,
}

/// Mail.
#[async_trait]
pub trait Bus: Send + Sync {
    /// `redis`, `nats`, `consul`, `embedded`: for messages.
    fn engine(&self) -> &'static str;

    /// What it can do.
    fn caps(&self) -> BusCaps;

    /// Hands one attempt over. `Accepted` promises nothing to the sender but that an attempt was made.
    async fn publish(&self, to: &MailBox, letter: &Sealed) -> Result<Published, BusError>;

    /// Takes the box. `consumer` names this owner (gateway and epoch): another name takes over what the last one left
    /// unsettled. Unsettled letters come again. The stream goes on by itself after faults, telling each one.
    fn subscribe(&self, from: &MailBox, consumer: &str) -> BoxStream<'static, Result<Delivery, BusError>>;

    /// Where bodies are kept that are too large for a letter; none where the engine has no such place.
    fn blobs(&self) -> Option<&dyn Blobs> {
        None
    }

    /// How much waits.
    async fn depth(&self, of: &MailBox) -> Result<Depth, BusError>;
}
