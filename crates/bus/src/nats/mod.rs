//! Mail over NATS JetStream: one stream per farm, one subject per box, one durable pull consumer per owner of a box.
//!
//! | what | how |
//! | --- | --- |
//! | publish | JetStream publish with `Nats-Msg-Id`; the answer of the stream leader is the acceptance |
//! | consume | pull requests, explicit acknowledgement, `ack_wait` |
//! | settle | `+ACK` as a request: done when the server answered (double acknowledgement) |
//! | take over | the new owner removes the older owners' consumers and makes its own |
//!
//! **Retention is `WorkQueue`.** A letter is in the stream exactly as long as it is unsettled, with or without a
//! reader, so the depth of a box is the number of its messages, and nothing has to be swept. `Limits` would need a
//! second request per settled letter to remove it; `Interest` forgets what comes while nobody reads.
//!
//! **Owners.** A work queue allows one consumer per box, and NATS enforces it. Consumers are named
//! `unit=<box>=<number>=<owner>` with a number that grows. The next owner removes consumers with smaller numbers;
//! what they had unsettled is waiting again at once, with no `ack_wait`. An old owner that is still alive finds its
//! consumer gone and a greater number there, says so once and stands back. Which owner is *right* is decided by
//! ownership records, not here.
//!
//! **Dropped deliveries** are given back (`-NAK`) after [`NatsConfig::again_after`]; letters lost on a broken
//! connection come after [`NatsConfig::ack_wait`]. A subscriber holds at most 1000 unsettled letters.
//!
//! **Limits.** A full box ([`NatsConfig::box_letters_max`]) refuses (`discard: new` per subject), it never drops. A
//! letter older than a day is removed: no letter is valid longer, and its sender has reported it as expired.
//!
//! **Faults.** A lost stream is made again, by publishers and by subscribers. JetStream answers before the disk has
//! the letter (its `sync_interval`), so with one replica a power failure may lose what it accepted; use three. The
//! sender's receipts cover both. NATS 2.9 or later; user and password or a token in the address, TLS with `tls://`.

mod blobs;
mod link;
mod names;
mod signals;
mod subscribe;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use clawstead_world::Clock;
use futures_util::{StreamExt as _, stream::BoxStream};

use self::link::Link;
use crate::Tls;
use crate::mail::{Bus, BusCaps, BusError, Delivery, Depth, MailBox, Published, Sealed};

/// The name of the engine in messages.
const ENGINE: &str = "nats";
/// Largest envelope, bytes.
const INLINE_MAX: usize = 512 * 1024;
/// What a sender is told to wait for when a box or the server's storage is full.
const BUSY: Duration = Duration::from_secs(1);

/// How to reach NATS.
#[derive(Clone)]
pub struct NatsConfig {
    /// `nats://` or `tls://` addresses of one cluster, at least one. Credentials may be in the first that has some:
    /// `user:password@` or `token@`.
    pub servers: Vec<String>,
    /// Certificates for `tls://` addresses.
    pub tls: Tls,
    /// The farm: part of the stream's name and of every subject. Any text.
    pub farm_id: String,
    /// Copies of each letter: 1, or 3 in a cluster of three and more. Default 1.
    pub replicas: usize,
    /// How long one request may take. Default 2 s.
    pub request_timeout: Duration,
    /// Letters read by somebody and not settled come again after this long. Default 30 s.
    pub ack_wait: Duration,
    /// A dropped delivery comes again to the same subscriber after this long. Default 1 s.
    pub again_after: Duration,
    /// Letters a box holds before `publish` answers `Busy`. Default 100 000. Decided when the stream is made.
    pub box_letters_max: u32,
}

impl NatsConfig {
    /// The defaults for these servers.
    #[must_use]
    pub fn new(farm_id: impl Into<String>, servers: Vec<String>) -> Self {
        Self {
            servers,
            tls: Tls::default(),
            farm_id: farm_id.into(),
            replicas: 1,
            request_timeout: Duration::from_secs(2),
            ack_wait: Duration::from_secs(30),
            again_after: Duration::from_secs(1),
            box_letters_max: 100_000,
        }
    }
}

impl fmt::Debug for NatsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The addresses carry passwords.
        f.debug_struct("NatsConfig")
            .field("farm_id", &self.farm_id)
            .field("servers", &self.servers.len())
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}

/// Why the settings cannot be used. Never says an address: it may carry a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NatsConfigError {
    /// The list is empty.
    #[error("no NATS server is named: give at least one nats:// or tls:// address")]
    NoServer,
    /// Not an address.
    #[error("address {position} of the NATS servers cannot be used: it should look like nats://user:password@host:4222 or tls://host:4222")]
    Address {
        /// Its place in the list, from 1.
        position: usize,
    },
    /// A certificate file.
    #[error("TLS to NATS: {0}")]
    Tls(String),
    /// JetStream keeps an odd number of copies, five at most.
    #[error("JetStream keeps 1, 3 or 5 copies of a letter, not {0}")]
    Replicas(usize),
}

/// Mail over NATS JetStream. See the module.
pub struct NatsBus {
    shared: Arc<Shared>,
}

/// What the bus and its subscriptions have in common.
struct Shared {
    config: NatsConfig,
    link: Link,
    clock: Arc<dyn Clock>,
}

impl NatsBus {
    /// Reads the settings. Does not connect: the first request does, and the connection is kept up from then on.
    ///
    /// # Errors
    /// When the settings cannot be used.
    pub fn new(config: NatsConfig, clock: Arc<dyn Clock>) -> Result<Self, NatsConfigError> {
        if !matches!(config.replicas, 1 | 3 | 5) {
            return Err(NatsConfigError::Replicas(config.replicas));
        }
        let link = Link::new(&config)?;
        Ok(Self { shared: Arc::new(Shared { config, link, clock }) })
    }
}

impl fmt::Debug for NatsBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBus").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

#[async_trait]
impl Bus for NatsBus {
    fn engine(&self) -> &'static str {
        ENGINE
    }

    fn caps(&self) -> BusCaps {
        BusCaps { inline_max: INLINE_MAX, durable: true, dedupes: true }
    }

    async fn publish(&self, to: &MailBox, letter: &Sealed) -> Result<Published, BusError> {
        let size = letter.bytes.len();
        if size > INLINE_MAX {
            return Err(BusError::TooLarge { engine: ENGINE, max: INLINE_MAX, size });
        }
        let subject = names::subject(&self.shared.config.farm_id, to);
        // NATS deduplicates over the whole stream, so the box is part of the id.
        let id = format!("{}:{}:{subject}", letter.message_id, letter.attempt);
        self.shared.link.publish(&subject, &id, &letter.bytes).await
    }

    fn subscribe(&self, from: &MailBox, consumer: &str) -> BoxStream<'static, Result<Delivery, BusError>> {
        let subscription = subscribe::Subscription::new(self.shared.clone(), from.clone(), consumer);
        futures_util::stream::unfold(subscription, |mut subscription| async move {
            let next = subscription.next().await;
            Some((next, subscription))
        })
        .boxed()
    }

    fn blobs(&self) -> Option<&dyn crate::Blobs> {
        Some(self)
    }

    async fn depth(&self, of: &MailBox) -> Result<Depth, BusError> {
        let letters = self.shared.link.waiting(&names::subject(&self.shared.config.farm_id, of)).await?;
        Ok(Depth { letters, bytes: None })
    }
}
