//! Mail over links: as a bus of its own, or behind another one while that is away.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use clawstead_bus::{Bus, BusCaps, BusError, Delivery, Depth, MailBox, Published, Sealed};
use clawstead_terms::{Failure, FailureCode, Retry};
use futures_util::stream::{self, BoxStream, StreamExt as _};

use super::{
    Links,
    boxes::{Boxes, name},
};

const ENGINE: &str = "peer";
/// Largest letter, bytes: 1 MiB, what an envelope may have.
const INLINE_MAX: usize = 1024 * 1024;
/// When to come again if the peer does not say.
const BUSY_RETRY: Duration = Duration::from_millis(500);

/// Which gateway has a box now.
pub trait Route: Send + Sync {
    /// The gateway's name; None while nobody has it. For [`MailBox::Gateway`] that gateway.
    fn gateway_of(&self, to: &MailBox) -> Option<String>;
}

/// Mail from gateway to gateway, without anything between them. Nothing is kept on the way: a box that nobody reads is
/// `Busy`, a gateway that is away `Unavailable`, and the sender's outbox keeps the letter.
///
/// `Accepted` means that the subscriber settled the letter, or that the process which has the box holds it.
pub struct PeerBus {
    links: Links,
    gateway: String,
    route: Arc<dyn Route>,
    boxes: Boxes,
}

impl PeerBus {
    /// The bus of the gateway that `links` belong to. `boxes` are those that its desk puts letters into.
    #[must_use]
    pub fn new(links: Links, route: Arc<dyn Route>, boxes: Boxes) -> Self {
        Self { gateway: links.inner.gateway.clone(), links, route, boxes }
    }

    /// None: it is ourselves.
    fn target(&self, to: &MailBox) -> Result<Option<String>, BusError> {
        let gateway = self.route.gateway_of(to).ok_or_else(|| BusError::Unavailable {
            engine: ENGINE,
            at: name(to).to_owned(),
            why: "no gateway has this box now".into(),
        })?;
        Ok((gateway != self.gateway).then_some(gateway))
    }
}

fn away(at: &str, failure: &Failure) -> BusError {
    BusError::Unavailable { engine: ENGINE, at: at.to_owned(), why: failure.message.clone() }
}

#[async_trait]
impl Bus for PeerBus {
    fn engine(&self) -> &'static str {
        ENGINE
    }

    fn caps(&self) -> BusCaps {
        BusCaps { inline_max: INLINE_MAX, durable: false, dedupes: false }
    }

    async fn publish(&self, to: &MailBox, letter: &Sealed) -> Result<Published, BusError> {
        if letter.bytes.len() > INLINE_MAX {
            return Err(BusError::TooLarge { engine: ENGINE, max: INLINE_MAX, size: letter.bytes.len() });
        }
        let target = self.target(to)?;
        let taken = match &target {
            None => self.boxes.take(to.clone(), letter.clone()).await,
            Some(gateway) => self.links.letter(gateway, to, letter).await,
        };
        match taken {
            Ok(()) => Ok(Published::Accepted),
            Err(Failure { code: FailureCode::Busy, retry, .. }) => Ok(Published::Busy(match retry {
                Retry::AfterMs(ms) => Duration::from_millis(ms),
                Retry::Now | Retry::Never => BUSY_RETRY,
            })),
            Err(failure) => Err(away(target.as_deref().unwrap_or(&self.gateway), &failure)),
        }
    }

    fn subscribe(&self, from: &MailBox, _consumer: &str) -> BoxStream<'static, Result<Delivery, BusError>> {
        self.boxes.subscribe(from)
    }

    async fn depth(&self, of: &MailBox) -> Result<Depth, BusError> {
        match self.target(of)? {
            None => Ok(self.boxes.depth(of)),
            Some(gateway) => self.links.depth(&gateway, of).await.map_err(|failure| away(&gateway, &failure)),
        }
    }
}

/// A bus, and another one for letters that it cannot carry while it is away. Both are read; what comes twice is known
/// to the inbox.
pub struct FallbackBus {
    primary: Arc<dyn Bus>,
    second: Arc<dyn Bus>,
}

impl FallbackBus {
    /// `second` takes a letter when `primary` says `Unavailable`.
    #[must_use]
    pub fn new(primary: Arc<dyn Bus>, second: Arc<dyn Bus>) -> Self {
        Self { primary, second }
    }
}

#[async_trait]
impl Bus for FallbackBus {
    fn engine(&self) -> &'static str {
        self.primary.engine()
    }

    fn caps(&self) -> BusCaps {
        let (first, second) = (self.primary.caps(), self.second.caps());
        BusCaps { inline_max: first.inline_max.min(second.inline_max), durable: false, dedupes: false }
    }

    async fn publish(&self, to: &MailBox, letter: &Sealed) -> Result<Published, BusError> {
        match self.primary.publish(to, letter).await {
            Err(BusError::Unavailable { engine, at, why }) => {
                self.second.publish(to, letter).await.map_err(|err| BusError::Unavailable { engine, at, why: format!("{why}; and instead of it: {err}") })
            }
            done => done,
        }
    }

    fn subscribe(&self, from: &MailBox, consumer: &str) -> BoxStream<'static, Result<Delivery, BusError>> {
        stream::select(self.primary.subscribe(from, consumer), self.second.subscribe(from, consumer)).boxed()
    }

    fn blobs(&self) -> Option<&dyn clawstead_bus::Blobs> {
        self.primary.blobs()
    }

    /// What waits in both; what cannot be asked does not count unless neither can.
    async fn depth(&self, of: &MailBox) -> Result<Depth, BusError> {
        match (self.primary.depth(of).await, self.second.depth(of).await) {
            (Ok(first), Ok(second)) => Ok(Depth { letters: first.letters + second.letters, bytes: first.bytes.zip(second.bytes).map(|(a, b)| a + b) }),
            (Ok(depth), Err(_)) | (Err(BusError::Unavailable { .. }), Ok(depth)) => Ok(depth),
            (Err(err), _) => Err(err),
        }
    }
}
