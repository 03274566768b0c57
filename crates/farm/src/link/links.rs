//! All links of this gateway: which are open, which are wanted, and when one is replaced.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clawstead_cluster::keys::{GatewayKey, KeyStatus, kid_of};
use clawstead_terms::Millis;
use clawstead_world::{TaskKind, World};
use rustls::{ClientConfig, ServerConfig, client::Resumption, crypto::ring, server::NoServerSessionStorage, version::TLS13};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::{
    ALPN, CertificateError, Desk, Direction, Keys, LinkError, LinkStatus, LinksStatus, PeerStatus, Resolve, Setup, Timing, Validity,
    certificate::{CERTIFICATE_LIFE_MS, Identity},
    connection::Link,
    frame::{Hello, PROTOCOL_MAJOR, PROTOCOL_MINOR},
    server,
    verifier::Verifier,
};

/// Links with one peer; the oldest is closed when another one opens. Two are usual: one opened by each side.
const LINKS_PER_PEER_MAX: usize = 8;
/// Age at which a link that we opened is replaced, ms: a day.
const LINK_AGE_MS: i64 = 86_400_000;
/// A link with a retiring key is replaced when it is this old.
const RETIRING_PAUSE: Duration = Duration::from_secs(60);
/// Age at which a link is closed, whatever runs on it: what is left of a certificate at least when a link opens.
const LINK_AGE_MAX: Duration = Duration::from_millis((CERTIFICATE_LIFE_MS / 3).cast_unsigned());

/// The links of this gateway. Clones are the same.
#[derive(Clone)]
pub struct Links {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub farm: String,
    pub gateway: String,
    pub timing: Timing,
    pub world: World,
    pub keys: Arc<dyn Keys>,
    pub resolve: Arc<dyn Resolve>,
    pub acceptor: TlsAcceptor,
    pub connector: TlsConnector,
    pub desk: OnceLock<Arc<dyn Desk>>,
    /// Cancelled at the end; everything stops.
    pub stopping: CancellationToken,
    /// Cancelled when the end begins: nothing new.
    pub leaving: CancellationToken,
    pub changed: watch::Sender<u64>,
    pub numbers: AtomicU64,
    identity: Arc<Identity>,
    incarnation: u64,
    build: String,
    listen: Option<SocketAddr>,
    local: OnceLock<SocketAddr>,
    peers: Mutex<BTreeMap<String, Peer>>,
    refused: Mutex<(u64, Option<(Millis, String, String)>)>,
}

#[derive(Default)]
pub(super) struct Peer {
    links: Vec<Arc<Link>>,
    pub dialing: bool,
    pub wanted_until: Option<Instant>,
    pub failures: u32,
    pub next_dial: Option<Instant>,
    pub last_error: Option<(Millis, String)>,
    pub calls: u64,
    served: u64,
}

impl Links {
    /// Prepares TLS; nothing listens or connects yet.
    ///
    /// # Errors
    /// When the key does not make a certificate, or TLS cannot be set up.
    pub fn new(setup: Setup) -> Result<Self, LinkError> {
        let gateway = setup.key.gateway().to_owned();
        let identity = Arc::new(Identity::new(&setup.farm, setup.key, setup.world.clock.clone(), setup.world.rng.clone())?);
        let verifier = Arc::new(Verifier::new(setup.keys.clone()));
        let tls = |err: rustls::Error| LinkError::Tls(err.to_string());
        let provider = Arc::new(ring::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(identity.clone());
        // A resumed session would pass by the verifier.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.alpn_protocols = vec![ALPN.to_vec()];
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(tls)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(identity.clone());
        client.resumption = Resumption::disabled();
        client.alpn_protocols = vec![ALPN.to_vec()];
        let stopping = setup.world.tasks.stopping().child_token();
        let inner = Inner {
            farm: setup.farm,
            gateway,
            timing: setup.timing,
            keys: setup.keys,
            resolve: setup.resolve,
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
            desk: OnceLock::new(),
            leaving: stopping.child_token(),
            stopping,
            changed: watch::Sender::new(0),
            numbers: AtomicU64::new(1),
            identity,
            incarnation: setup.incarnation,
            build: setup.build,
            listen: setup.listen,
            local: OnceLock::new(),
            peers: Mutex::default(),
            refused: Mutex::default(),
            world: setup.world,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Lets peers in, answered by `desk`. Gives the address where it listens, if it does.
    ///
    /// # Errors
    /// When the address cannot be listened on, or this was called before.
    pub async fn start(&self, desk: Arc<dyn Desk>) -> Result<Option<SocketAddr>, LinkError> {
        self.inner.desk.set(desk).map_err(|_| LinkError::Started)?;
        let Some(address) = self.inner.listen else { return Ok(None) };
        let at = server::listen(&self.inner, address).await?;
        let _ = self.inner.local.set(at);
        Ok(Some(at))
    }

    /// Signs with another key from now on. Links opened with the old one are replaced without a gap.
    ///
    /// # Errors
    /// When it is another gateway's.
    pub fn set_key(&self, key: GatewayKey) -> Result<(), CertificateError> {
        self.inner.identity.set_key(key)
    }

    /// The key ring changed: links whose key is not believed any more are closed at once. Answers how many.
    ///
    /// A ring that is only too old closes nothing: running links do not depend on the coordination store. New ones do.
    pub fn recheck(&self) -> usize {
        let mut closed = 0;
        for link in self.inner.all() {
            if let Err(why) = self.inner.still_believed(&link) {
                link.close(&why);
                closed += 1;
            }
        }
        closed
    }

    /// Is a link to this gateway open?
    #[must_use]
    pub fn is_up(&self, peer: &str) -> bool {
        self.inner.usable(&self.inner.lock(), peer).is_some()
    }

    /// Returns when one of the links opened or closed after this was called.
    pub async fn changed(&self) {
        // Fails only when the links are gone, and we hold them.
        let _ = self.inner.changed.subscribe().changed().await;
    }

    /// What `farm status` shows.
    #[must_use]
    pub fn status(&self) -> LinksStatus {
        let inner = &self.inner;
        let Validity { kid, serial, not_after, .. } = inner.identity.validity();
        let (refused, last_refused) = inner.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let held = inner.lock();
        let peers = held.iter().map(|(name, peer)| PeerStatus {
            gateway: name.clone(),
            links: peer.links.iter().map(|link| link_status(link)).collect(),
            failures: peer.failures,
            last_error: peer.last_error.clone(),
            calls: peer.calls,
            served: peer.served,
        });
        LinksStatus {
            listen: inner.local.get().or(inner.listen.as_ref()).map(ToString::to_string),
            kid,
            certificate_serial: serial,
            certificate_not_after: not_after,
            refused,
            last_refused,
            peers: peers.collect(),
        }
    }

    /// Takes no more calls, lets those under way end, at most `limit`, and closes everything. Answers whether all ended.
    pub async fn close(&self, limit: Duration) -> bool {
        self.inner.leaving.cancel();
        let ended = async {
            let mut changed = self.inner.changed.subscribe();
            let links = self.inner.all();
            futures_util::future::join_all(links.iter().map(|link| link.drain())).await;
            while !self.inner.all().is_empty() {
                let _ = changed.changed().await;
            }
        };
        let ended = timeout(limit, ended).await.is_ok();
        self.inner.stopping.cancel();
        ended
    }
}

fn link_status(link: &Link) -> LinkStatus {
    let (waiting, serving) = link.load();
    let about = &link.about;
    LinkStatus {
        direction: about.direction,
        address: about.address.clone(),
        since: about.since,
        kid: kid_of(&about.presented.gateway, &about.presented.key),
        certificate_serial: about.presented.serial.clone(),
        incarnation: about.hello.incarnation,
        build: about.hello.build.clone(),
        rtt_us: Some(link.rtt_us.load(Ordering::Relaxed)).filter(|rtt| *rtt > 0),
        waiting,
        serving,
        draining: !link.is_open(),
    }
}

impl Inner {
    pub fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn hello(&self) -> Hello {
        Hello {
            major: PROTOCOL_MAJOR,
            minor: PROTOCOL_MINOR,
            farm: self.farm.clone(),
            gateway: self.gateway.clone(),
            incarnation: self.incarnation,
            build: self.build.clone(),
        }
    }

    pub fn identity(&self) -> Validity {
        self.identity.validity()
    }

    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.world.tasks.spawn(TaskKind::logged(name), async {
            work.await;
            Ok::<_, String>(())
        });
    }

    pub fn tell(&self) {
        self.changed.send_modify(|times| *times += 1);
    }

    pub fn refuse(&self, from: &str, why: &str) {
        tracing::warn!(%from, %why, "a connection from another gateway was refused");
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.0 += 1;
        refused.1 = Some((self.world.clock.now(), from.to_owned(), why.to_owned()));
    }

    fn all(&self) -> Vec<Arc<Link>> {
        self.lock().values().flat_map(|peer| peer.links.iter().cloned()).collect()
    }

    /// Counts a call that came from a peer.
    pub fn count_served(&self, peer: &str) {
        if let Some(peer) = self.lock().get_mut(peer) {
            peer.served += 1;
        }
    }

    /// The best link for something new: rather one that need not be replaced, rather our own, rather the newest.
    pub fn usable(&self, peers: &BTreeMap<String, Peer>, name: &str) -> Option<Arc<Link>> {
        let open = peers.get(name)?.links.iter().filter(|link| link.is_open());
        open.max_by_key(|link| (!self.is_stale(link), link.about.direction == Direction::Out, link.about.number)).cloned()
    }

    /// To be replaced by a new one?
    pub fn is_stale(&self, link: &Link) -> bool {
        let (about, own) = (&link.about, self.identity.validity());
        let kid = kid_of(&about.presented.gateway, &about.presented.key);
        own.kid != about.own_kid
            || own.serial != about.own_serial
            || self.world.clock.now().0 - about.since.0 >= LINK_AGE_MS
            // The peer may still show it for a while.
            || (link.opened.elapsed() >= RETIRING_PAUSE && self.keys.ring().stage(&kid) == Some(KeyStatus::Retiring))
    }

    /// May the link go on? `Err` says why not.
    pub fn still_believed(&self, link: &Link) -> Result<(), String> {
        if link.opened.elapsed() >= LINK_AGE_MAX {
            return Err("the link is older than its certificates may become".into());
        }
        let presented = &link.about.presented;
        let refusal = match presented.check_key(&*self.keys) {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        // A ring that is merely not fresh says so before anything else; revocations are known to it for good.
        let revoked = self.keys.ring().stage(&kid_of(&presented.gateway, &presented.key)) == Some(KeyStatus::Revoked);
        if matches!(refusal, CertificateError::Stale { .. }) && !revoked { Ok(()) } else { Err(refusal.to_string()) }
    }

    /// A link is ready. `Err` says why it may not be.
    pub fn register(self: &Arc<Self>, link: &Arc<Link>) -> Result<(), String> {
        let mut peers = self.lock();
        if self.leaving.is_cancelled() {
            return Err(format!("the gateway {} stops", self.gateway));
        }
        let peer = peers.entry(link.peer().to_owned()).or_default();
        let incarnation = link.about.hello.incarnation;
        if let Some(later) = peer.links.iter().map(|other| other.about.hello.incarnation).filter(|other| *other > incarnation).max() {
            return Err(format!("start {later} of {} is connected, this is its start {incarnation}: two gateways with one name?", link.peer()));
        }
        let (current, gone): (Vec<_>, Vec<_>) = peer.links.drain(..).partition(|other| other.about.hello.incarnation == incarnation);
        peer.links = current;
        peer.links.push(link.clone());
        let excess = if peer.links.len() > LINKS_PER_PEER_MAX { Some(peer.links.remove(0)) } else { None };
        let replaced: Vec<_> = match link.about.direction {
            Direction::In => Vec::new(),
            Direction::Out => {
                peer.links.iter().filter(|other| other.about.direction == Direction::Out && other.about.number != link.about.number).cloned().collect()
            }
        };
        (peer.failures, peer.next_dial) = (0, None);
        drop(peers);
        for other in gone {
            other.close("its gateway was started again");
        }
        if let Some(other) = excess {
            other.close("too many links with one gateway");
        }
        for other in replaced {
            self.spawn("farm-link-drain", async move { other.drain().await });
        }
        tracing::info!(peer = link.peer(), address = %link.about.address, direction = ?link.about.direction, "link open");
        self.tell();
        Ok(())
    }

    /// A link ended.
    pub fn forget(self: &Arc<Self>, link: &Link, why: &str, expected: bool) {
        let mut peers = self.lock();
        if let Some(peer) = peers.get_mut(link.peer()) {
            peer.links.retain(|other| other.about.number != link.about.number);
            if !expected {
                peer.last_error = Some((self.world.clock.now(), why.to_owned()));
            }
            let wanted = peer.wanted_until.is_some_and(|until| until > Instant::now());
            if wanted && peer.links.is_empty() {
                self.dial_in_background(link.peer(), peer);
            }
        }
        drop(peers);
        tracing::info!(peer = link.peer(), %why, "link closed");
        self.tell();
    }
}
