//! Links between gateways: TLS 1.3 with certificates on both sides, JSON frames, calls with streamed events, letters and
//! pieces of blobs over one connection.
//!
//! [`Links`] keeps them. It listens where the config says so, dials a peer when something is to be said to it, and uses
//! a link in both directions, whoever opened it: a gateway that nobody can reach (a laptop) is asked over the link that
//! it opened itself. What comes in goes to the [`Desk`].
//!
//! - Who is believed: [`certificate`].
//! - A call is written to one link once. When that link is lost, the caller is told that the outcome is not known; the
//!   relay above repeats with the same idempotency key if it may.
//! - A link is replaced after a day, after a change of keys, and when its certificate was renewed: a new one is opened,
//!   then calls end on the old one (`drain`), so that nothing fails. A certificate in use has at least a third of its
//!   life left when a link opens (56 hours), so no link outlives one.
//! - Session resumption is off, because it would pass by the check of the key.

mod boxes;
pub mod certificate;
mod client;
mod connection;
mod dialer;
pub mod frame;
mod links;
mod peer_bus;
mod server;
mod status;
pub mod verifier;
mod writer;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use clawstead_bus::{Depth, MailBox, Sealed};
use clawstead_cluster::keys::GatewayKey;
use clawstead_terms::Failure;
use clawstead_world::World;
use serde_json::Value;
use thiserror::Error;

pub use boxes::{BOX_BYTES_MAX, BOX_LETTERS_MAX, Boxes};
pub use certificate::{CertificateError, Keys, Validity};
pub use client::{BlobError, Running};
pub use frame::{BLOB_PART_BYTES_MAX, BlobPart, FRAME_BYTES_MAX};
pub use links::Links;
pub use peer_bus::{FallbackBus, PeerBus, Route};
pub use server::EventSink;
pub use status::{LinkStatus, LinksStatus, PeerStatus};

/// The protocol inside TLS.
pub const ALPN: &[u8] = b"openclaw-farm/1";
/// How long a call may take when nothing else is said, ms.
pub const CALL_DEADLINE_DEFAULT_MS: u64 = 30_000;
/// Longest time a call may have, ms: a day. More is cut to it.
pub const CALL_DEADLINE_MAX_MS: u64 = 86_400_000;
/// Calls of one link that run here at once; more are told `Busy`.
pub const CALLS_MAX: usize = 512;

/// How long links wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two pings; default 5 s. Keys and ages are looked at as often.
    pub ping_every: Duration,
    /// A link on which nothing was heard for this long is dead; default 15 s.
    pub dead_after: Duration,
    /// A caller waits this long for a link to open; default 2 s.
    pub link_wait: Duration,
    /// Connecting, the handshake and both greetings take this long at most; default 5 s.
    pub dial_timeout: Duration,
    /// Wait after a failed attempt: the first, doubled each time up to the second, each with jitter; default 100 ms, 5 s.
    pub backoff: (Duration, Duration),
    /// A peer that was called is kept connected this long; default 10 min.
    pub keep: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ping_every: Duration::from_secs(5),
            dead_after: Duration::from_secs(15),
            link_wait: Duration::from_secs(2),
            dial_timeout: Duration::from_secs(5),
            backoff: (Duration::from_millis(100), Duration::from_secs(5)),
            keep: Duration::from_secs(600),
        }
    }
}

impl Timing {
    /// For a farm whose units move: a link to a gateway that stands still is dead when its lease is, so that calls that
    /// wait there are asked again of whoever goes on.
    #[must_use]
    pub fn following(profile: clawstead_cluster::claim::Profile) -> Self {
        Self { ping_every: Duration::from_millis(profile.renew_ms), dead_after: Duration::from_millis(profile.wait_ms), ..Self::default() }
    }
}

/// What [`Links::new`] needs.
pub struct Setup {
    /// `farm.id`.
    pub farm: String,
    /// The gateway's key; its name is the gateway's.
    pub key: GatewayKey,
    /// Grows with each start.
    pub incarnation: u64,
    /// The version of this program, for people.
    pub build: String,
    /// `farm.peer.listen`; none: only outgoing links.
    pub listen: Option<SocketAddr>,
    /// Waits.
    pub timing: Timing,
    /// Clock, chance, tasks.
    pub world: World,
    /// Who is believed.
    pub keys: Arc<dyn Keys>,
    /// Where peers are.
    pub resolve: Arc<dyn Resolve>,
}

/// Where gateways can be reached.
pub trait Resolve: Send + Sync {
    /// `host:port`, or `wss://host:port` as `farm.peer.advertise` allows. None when nothing is known, or when the
    /// gateway cannot be dialled.
    fn address(&self, gateway: &str) -> Option<String>;
}

/// A call to another gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The method.
    pub method: String,
    /// Its parameters.
    pub params: Value,
    /// For whom the calling gateway asks, as the two desks agree; the link does not look at it.
    pub caller: Value,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// Time left, ms. Both ends keep it, each by its own clock.
    pub deadline_ms: u64,
}

impl Call {
    /// A call for the gateway itself, with the default time.
    #[must_use]
    pub fn new(method: &str, params: Value) -> Self {
        Self { method: method.to_owned(), params, caller: Value::Null, traceparent: clawstead_world::trace::current(), deadline_ms: CALL_DEADLINE_DEFAULT_MS }
    }
}

/// Something told while a call runs, or without one.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What it is about.
    pub topic: String,
    /// The content.
    pub payload: Value,
}

/// What a call brings, in order: events, then one answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// While it runs.
    Event(Event),
    /// Its end.
    Answer(Result<Value, Failure>),
}

/// Who opened a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// We did.
    Out,
    /// The peer did.
    In,
}

/// Whoever answers what comes in over links. `peer` is the gateway whose key opened or answered the link.
///
/// The future of a call is dropped when the caller cancels, its time is over or the link is lost: what must go on
/// without it is started as a task of its own.
#[async_trait]
pub trait Desk: Send + Sync {
    /// Answers a call. Events told before it returns arrive before its answer, in order.
    async fn call(&self, peer: &str, call: Call, events: EventSink) -> Result<Value, Failure>;

    /// Takes a letter: [`Boxes::take`]. `Ok` when it was settled or is held for its subscriber.
    async fn letter(&self, peer: &str, to: MailBox, letter: Sealed) -> Result<(), Failure>;

    /// A piece of a blob from `offset` on, [`BLOB_PART_BYTES_MAX`] at most.
    async fn blob(&self, peer: &str, hash: &str, offset: u64) -> Result<BlobPart, Failure>;

    /// How much waits in a box here: [`Boxes::depth`].
    async fn depth(&self, _peer: &str, _of: MailBox) -> Depth {
        Depth::default()
    }

    /// Something was told without a call ([`Links::tell`]). In order; answered by nothing.
    async fn event(&self, _peer: &str, _event: Event) {}
}

/// Why there are no links.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LinkError {
    /// No certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// TLS cannot be set up.
    #[error("TLS for links: {0}")]
    Tls(String),
    /// Nobody can be let in.
    #[error("cannot listen for other gateways on {address} (farm.peer.listen): {why}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        why: String,
    },
    /// `start` was called before.
    #[error("the links were started already")]
    Started,
}
