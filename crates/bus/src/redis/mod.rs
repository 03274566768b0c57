//! Mail over Redis Streams: one stream per box, one group per stream, the owner is the group's consumer.
//!
//! | what | how |
//! | --- | --- |
//! | publish | one script: `XLEN` against the cap, then `XADD .. MAXLEN ~ cap` |
//! | consume | `XREADGROUP` on a connection of the subscription's own |
//! | settle | `XDEL` and `XACK` in one transaction, one round trip |
//! | take over | the new owner's number in the box's owner key, then `XAUTOCLAIM` of everything unsettled |
//!
//! **The cap never drops a letter in silence.** Streams are made shorter by Redis without asking; here the same script
//! that appends refuses ([`Published::Busy`]) when the box holds [`RedisConfig::box_letters_max`] letters, so `MAXLEN`
//! finds nothing to cut. It stays as a second wall against other writers: a letter cut by it would be resent by its
//! sender, who has no receipt yet.
//!
//! **Owners.** [`Bus::subscribe`] writes a number greater than any before into the owner key. A subscription that finds
//! a greater number than its own there says so once, stops reading, and only looks again every
//! [`RedisConfig::claim_idle`]; so two gateways never fight over a box. Letters an old owner took in its last second
//! come to the new one after `claim_idle`. Which owner is *right* is decided by ownership records, not here.
//!
//! **Failover.** Replication in Redis is asynchronous: a failover may lose the last letters, and all of them with an
//! empty replica. The sender's receipts cover that. Groups are made again where they are missing. With several
//! addresses the first **in the order of the list** that calls itself `master` is used; every 5 s a subscription looks
//! whether that is still the one. Sentinel is not asked and a Redis Cluster is not supported: put the addresses of
//! all servers into the list, and let whatever promotes a replica also bring the old master back as a replica.
//!
//! Set Redis up with `appendonly yes` and `maxmemory-policy noeviction`; version 6.2 or later.

mod blobs;
mod link;
mod scripts;
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
const ENGINE: &str = "redis";
/// Largest envelope, bytes.
const INLINE_MAX: usize = 256 * 1024;
/// What a sender is told to wait for when a box or the server's memory is full.
const BUSY: Duration = Duration::from_secs(1);

/// How to reach Redis.
#[derive(Clone)]
pub struct RedisConfig {
    /// `redis://` or `rediss://` addresses, credentials included; tried in turn, at least one.
    pub servers: Vec<String>,
    /// The farm: part of every key. Letters, digits, `-`, `_` and `.`.
    pub farm_id: String,
    /// Certificates for `rediss://` addresses.
    pub tls: Tls,
    /// How long one request may take, connecting included. Default 2 s.
    pub request_timeout: Duration,
    /// Letters read by somebody and not settled come again after this long. Default 10 s.
    pub claim_idle: Duration,
    /// A dropped delivery comes again to the same subscriber after this long. Default 1 s.
    pub again_after: Duration,
    /// Letters a box holds before `publish` answers `Busy`. Default 100 000.
    pub box_letters_max: u32,
}

impl RedisConfig {
    /// The defaults for these servers.
    #[must_use]
    pub fn new(farm_id: impl Into<String>, servers: Vec<String>) -> Self {
        Self {
            servers,
            farm_id: farm_id.into(),
            tls: Tls::default(),
            request_timeout: Duration::from_secs(2),
            claim_idle: Duration::from_secs(10),
            again_after: Duration::from_secs(1),
            box_letters_max: 100_000,
        }
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The addresses carry passwords.
        f.debug_struct("RedisConfig").field("farm_id", &self.farm_id).field("servers", &self.servers.len()).finish_non_exhaustive()
    }
}

/// Why the settings cannot be used. Never says an address: it may carry a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedisConfigError {
    /// The list is empty.
    #[error("no Redis server is named: give at least one redis:// or rediss:// address")]
    NoServer,
    /// Not an address.
    #[error("address {position} of the Redis servers cannot be used ({why}): it should look like redis://user:password@host:6379/0")]
    Address {
        /// Its place in the list, from 1.
        position: usize,
        /// What is wrong.
        why: String,
    },
    /// A certificate file.
    #[error("TLS to Redis: {0}")]
    Tls(String),
    /// A farm id that would run into other keys.
    #[error("the farm id {0:?} cannot be part of a Redis key: use letters, digits, '-', '_' and '.'")]
    FarmId(String),
}

/// Mail over Redis Streams. See the module.
pub struct RedisBus {
    shared: Arc<Shared>,
}

/// What the bus and its subscriptions have in common.
struct Shared {
    config: RedisConfig,
    link: Link,
    clock: Arc<dyn Clock>,
}

impl RedisBus {
    /// Reads the settings. Does not connect: every request does when it has to, and a server that is away is told by
    /// the request.
    ///
    /// # Errors
    /// When the settings cannot be used.
    pub fn new(config: RedisConfig, clock: Arc<dyn Clock>) -> Result<Self, RedisConfigError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if config.farm_id.is_empty() || !config.farm_id.chars().all(fits) {
            return Err(RedisConfigError::FarmId(config.farm_id));
        }
        let link = Link::new(&config)?;
        Ok(Self { shared: Arc::new(Shared { config, link, clock }) })
    }
}

impl fmt::Debug for RedisBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBus").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Shared {
    /// The key of a box. The name comes last, so it may hold anything.
    fn key(&self, of: &MailBox) -> String {
        let farm = &self.config.farm_id;
        match of {
            MailBox::Unit(unit) => format!("openclaw:farm:{farm}:s:{unit}"),
            MailBox::Gateway(gateway) => format!("openclaw:farm:{farm}:g:{gateway}"),
        }
    }

    /// The key that names the owner of a box. Beside the boxes, so that no box's name can meet it.
    fn owner_key(&self, of: &MailBox) -> String {
        let farm = &self.config.farm_id;
        match of {
            MailBox::Unit(unit) => format!("openclaw:farm:{farm}:os:{unit}"),
            MailBox::Gateway(gateway) => format!("openclaw:farm:{farm}:og:{gateway}"),
        }
    }
}

#[async_trait]
impl Bus for RedisBus {
    fn engine(&self) -> &'static str {
        ENGINE
    }

    fn caps(&self) -> BusCaps {
        BusCaps { inline_max: INLINE_MAX, durable: true, dedupes: false }
    }

    async fn publish(&self, to: &MailBox, letter: &Sealed) -> Result<Published, BusError> {
        let size = letter.bytes.len();
        if size > INLINE_MAX {
            return Err(BusError::TooLarge { engine: ENGINE, max: INLINE_MAX, size });
        }
        let (key, cap) = (self.shared.key(to), self.shared.config.box_letters_max);
        let kept = self.shared.link.run(|on| scripts::publish(on, key.clone(), cap, letter.clone())).await;
        match kept {
            Ok(true) => Ok(Published::Accepted),
            Ok(false) => Ok(Published::Busy(BUSY)),
            Err(link::Fault::Full(why)) => {
                tracing::warn!(engine = ENGINE, why, "Redis has no memory left for mail");
                Ok(Published::Busy(BUSY))
            }
            Err(link::Fault::Bus(error)) => Err(error),
        }
    }

    fn subscribe(&self, from: &MailBox, consumer: &str) -> BoxStream<'static, Result<Delivery, BusError>> {
        let subscription = subscribe::Subscription::new(self.shared.clone(), from, consumer);
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
        let key = self.shared.key(of);
        let letters = self.shared.link.run(|on| scripts::waiting(on, key.clone())).await;
        letters.map(|letters| Depth { letters, bytes: None }).map_err(link::Fault::into_bus)
    }
}
