//! The farm as one gateway has it: engines, membership, mailroom and links, put together.

mod care;
mod moving;
mod view;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clawstead_bus::{Bus, Coord, Depth, MailBox, Sealed};
use clawstead_cluster::{
    Now,
    keys::{GatewayKey, KeyRing, RootPin},
    letter::Timing,
    names::{is_farm, is_gateway, party_unit, unit_party},
    policy::{Effect, Limits, Party, Policy, Rule},
};
use clawstead_config::{CoordKind, FarmConfig, LeaseProfile, PolicyEffect, StateKind};
use clawstead_state::keeper::Keeper;
use clawstead_terms::{Failure, Unit};
use clawstead_world::World;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::{
    alone,
    catalogue::Catalogue,
    engines::{self, EngineError, Engines},
    events::Events,
    figures,
    key_files::{KeyError, KeyFolder},
    link::{self, BlobPart, Boxes, Call, Desk, EventSink, FallbackBus, Keys, Links, PeerBus, Resolve, Route, Setup},
    mailroom::{Handler, Mailroom, Parts, Peers, Places, Rules},
    membership::{AgentFacts, Me, Membership, recorded_epochs},
    ownership::{Failback, Heard, Ownership},
};

/// How often rows that nobody needs are removed.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// Every so many of these rounds, what an engine keeps too long is removed.
const SWEEP_ROUNDS: u64 = 10;
/// The name of a problem: the key that is to sign is not here.
const KEY_ELSEWHERE: &str = "key";
/// Letters that were not taken, of which `farm status` tells.
const REFUSED_SHOWN: usize = 10;
/// Letters of one unit that are shown at most.
const SHOWN_MAX: usize = 500;

/// Why a gateway cannot be part of its farm. The start is refused: half a farm would lose letters.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The config.
    #[error("farm.{path}: {why}")]
    Config {
        /// Path below `farm`.
        path: &'static str,
        /// What is wrong.
        why: String,
    },
    /// An engine's part of the config.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The link.
    #[error("farm.peer: {0}")]
    Link(String),
    /// The state store.
    #[error("{}", .0.message)]
    Store(Failure),
    /// Somebody else is there under our name.
    #[error(
        "another gateway named {gateway} is running (version {version}{at}): two with one name would take each other's letters. Stop it, or give this \
         one another farm.gateway"
    )]
    NameTaken {
        /// The name.
        gateway: String,
        /// What it runs.
        version: String,
        /// Where its peers reach it, in words.
        at: String,
    },
}

/// What a gateway is asked over a link by a peer.
#[async_trait]
pub trait Relay: Send + Sync {
    /// A call of a client of `peer`, with events on the way.
    async fn call(&self, peer: &str, call: Call, events: EventSink) -> Result<Value, Failure>;
}

/// The farm before the gateway has its units: the engines are open, nobody was told of us.
pub struct Prepared {
    config: FarmConfig,
    engines: Engines,
    farm: String,
    gateway: String,
    key: GatewayKey,
    ring: KeyRing,
    policy: Policy,
    /// Where the key's file lies; none where the key was handed in.
    folder: Option<KeyFolder>,
    world: World,
}

/// What a gateway brings.
pub struct Ground {
    /// The store with our fences.
    pub keeper: Keeper,
    /// Where clients reach us.
    pub url: String,
    /// Host and port for the engine's discovery.
    pub address: (String, u16),
    /// The version of this program.
    pub version: String,
    /// Grows with each start.
    pub incarnation: u64,
    /// Our agents.
    pub agents: Vec<AgentFacts>,
    /// Does what letters ask.
    pub handler: Arc<dyn Handler>,
    /// Answers peers.
    pub relay: Arc<dyn Relay>,
}

/// Where a unit is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// We act for it.
    Here,
    /// Another gateway has it.
    At(String),
    /// Nobody, as far as we know.
    Nobody,
}

/// The farm of one gateway. Clones are the same one.
#[derive(Clone)]
pub struct Farm {
    /// Who is there.
    pub membership: Membership,
    /// Letters.
    pub mailroom: Mailroom,
    /// Links to the others, where the config has them.
    pub links: Option<Links>,
    /// What happened.
    pub events: Arc<Events>,
    /// Who owns what, where units move; see [`Farm::own`].
    owning: Arc<OnceLock<Ownership>>,
    heard: Arc<Mutex<Option<mpsc::UnboundedReceiver<Heard>>>>,
    lease: LeaseProfile,
    failback: Failback,
    /// What gateways tell of their agents.
    pub catalogue: Catalogue,
    coord: Arc<dyn Coord>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) keeper: Keeper,
    policy: Arc<ArcSwap<Policy>>,
    key: Arc<ArcSwap<GatewayKey>>,
    rules: Arc<ArcSwap<Rules>>,
    folder: Option<KeyFolder>,
}

/// What the config says of letters.
fn rules_of(config: &FarmConfig) -> Rules {
    Rules { letter_ttl_ms: config.letter_ttl_ms, accept_unsigned: config.accept_unsigned.clone() }
}

/// A root's public key as the config has it: 32 bytes as base64url, or as hex.
///
/// # Errors
/// When it is not one.
pub fn root_pin(text: &str) -> Result<RootPin, String> {
    let text = text.trim();
    let base64 = match hex::decode(text) {
        Ok(raw) if raw.len() == 32 => URL_SAFE_NO_PAD.encode(raw),
        _ => text.replace('+', "-").replace('/', "_").trim_end_matches('=').to_owned(),
    };
    RootPin::parse(&base64).map_err(|err| err.to_string())
}

/// The policy of a config.
///
/// # Errors
/// When a rule cannot be used.
pub fn policy_of(config: &FarmConfig) -> Result<Policy, String> {
    let some = |text: &String| Some(text.clone()).filter(|text| text != "*");
    let rules = config.policy.iter().map(|rule| Rule {
        from: Party { gateway: some(&rule.from.gateway), agent: some(&rule.from.agent) },
        to: Party { gateway: some(&rule.to.gateway), agent: some(&rule.to.agent) },
        capabilities: rule.capabilities.clone(),
        effect: match rule.effect {
            PolicyEffect::Allow => Effect::Allow,
            PolicyEffect::Deny => Effect::Deny,
        },
        limits: Limits { per_minute: rule.per_minute, max_ttl: rule.max_ttl_ms },
    });
    Policy::new(rules.collect()).map_err(|err| err.to_string())
}

/// True when units move between the gateways of this farm: what they are made of is shared, and so is who owns them.
#[must_use]
pub fn moves(config: &FarmConfig) -> bool {
    config.state.kind == StateKind::Postgres && config.coord.kind != CoordKind::Embedded
}

/// Opens engines and key. None when the config shares nothing with other gateways.
///
/// # Errors
/// When a part of the config cannot be used.
pub fn prepare(config: &FarmConfig, state_dir: &Path, world: &World) -> Result<Option<Prepared>, OpenError> {
    if !config.has_others() {
        return Ok(None);
    }
    let terms = Terms::of(config)?;
    let engines = engines::open(config, &terms.farm, &terms.gateway, world)?;
    let folder = KeyFolder::of(state_dir);
    let key = folder.load_or_make(&terms.gateway, &*world.rng)?;
    Ok(Some(Prepared { folder: Some(folder), ..terms.with(config, engines, key, world) }))
}

/// As [`prepare`], on engines and with a key that are there already: of a simulation, of a test.
///
/// # Errors
/// When a part of the config cannot be used.
pub fn prepare_on(config: &FarmConfig, engines: Engines, key: GatewayKey, world: &World) -> Result<Prepared, OpenError> {
    Ok(Terms::of(config)?.with(config, engines, key, world))
}

/// What the config alone says.
struct Terms {
    farm: String,
    gateway: String,
    ring: KeyRing,
    policy: Policy,
}

impl Terms {
    fn of(config: &FarmConfig) -> Result<Self, OpenError> {
        let wrong = |path: &'static str, why: &str| OpenError::Config { path, why: why.to_owned() };
        let farm = config.id.clone().filter(|id| is_farm(id)).ok_or_else(|| wrong("id", "names the farm: a-z, 0-9, dot, dash"))?;
        let gateway = config.gateway.clone().filter(|name| is_gateway(name)).ok_or_else(|| wrong("gateway", "names this gateway: a-z, 0-9, dash"))?;
        let roots: Result<Vec<RootPin>, String> = config.roots.iter().map(|text| root_pin(text)).collect();
        let roots = roots.map_err(|why| wrong("roots", &why))?;
        let ring =
            KeyRing::new(roots).map_err(|why| wrong("roots", &format!("{why}: `openclaw farm init` makes the farm's root, its public half belongs here")))?;
        let policy = policy_of(config).map_err(|why| wrong("policy", &why))?;
        Ok(Self { farm, gateway, ring, policy })
    }

    fn with(self, config: &FarmConfig, engines: Engines, key: GatewayKey, world: &World) -> Prepared {
        let Self { farm, gateway, ring, policy } = self;
        Prepared { config: config.clone(), engines, farm, gateway, key, ring, policy, folder: None, world: world.clone() }
    }
}

struct Trust {
    membership: Membership,
}

impl Keys for Trust {
    fn ring(&self) -> Arc<KeyRing> {
        Arc::new(self.membership.ring().read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn now(&self) -> Now {
        self.membership.now()
    }
}

impl Resolve for Trust {
    fn address(&self, gateway: &str) -> Option<String> {
        self.membership.peer_address(gateway)
    }
}

impl Route for Trust {
    fn gateway_of(&self, to: &MailBox) -> Option<String> {
        match to {
            MailBox::Gateway(gateway) => Some(gateway.clone()),
            MailBox::Unit(party) => Some(self.membership.of(&party_unit(party)?)?.gateway),
        }
    }
}

/// What comes over a link: letters to the boxes, calls to the gateway.
struct Front {
    boxes: Boxes,
    relay: Arc<dyn Relay>,
    /// Where large bodies are kept; there once the mailroom is open.
    room: Arc<OnceLock<Mailroom>>,
}

#[async_trait]
impl Desk for Front {
    async fn call(&self, peer: &str, call: Call, events: EventSink) -> Result<Value, Failure> {
        self.relay.call(peer, call, events).await
    }

    async fn letter(&self, _: &str, to: MailBox, letter: Sealed) -> Result<(), Failure> {
        self.boxes.take(to, letter).await
    }

    async fn blob(&self, _: &str, hash: &str, offset: u64) -> Result<BlobPart, Failure> {
        match self.room.get() {
            Some(room) => room.body_part(hash, offset).await,
            None => Err(Failure::unavailable("the gateway starts", 500)),
        }
    }

    async fn depth(&self, _: &str, of: MailBox) -> Depth {
        self.boxes.depth(&of)
    }
}

impl Prepared {
    /// This gateway's name.
    #[must_use]
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// Takes new keys of ours from this folder while it runs; [`prepare`] does that by itself.
    #[must_use]
    pub fn with_keys(mut self, folder: KeyFolder) -> Self {
        self.folder = Some(folder);
        self
    }

    /// Whether units move.
    #[must_use]
    pub fn moves(&self) -> bool {
        moves(&self.config)
    }

    /// Makes sure that nobody else runs under our name: watches its lease for two renewals, unless the lease is that of
    /// the process before in the same state folder. A store that does not answer lets us pass; whoever is there is told
    /// then by `farm status`.
    ///
    /// # Errors
    /// [`OpenError::NameTaken`].
    pub async fn alone(&self) -> Result<(), OpenError> {
        let renew = Duration::from_millis(self.config.lease.renew_ms());
        match alone::taken(&*self.engines.coord, &self.gateway, self.folder.as_ref(), renew).await {
            Ok(None) => Ok(()),
            Ok(Some(other)) => Err(OpenError::NameTaken {
                gateway: self.gateway.clone(),
                version: other.version,
                at: other.peer.map(|peer| format!(", peers reach it at {peer}")).unwrap_or_default(),
            }),
            Err(err) => {
                tracing::warn!(%err, "the coordination store does not answer: whether another gateway has our name is not known");
                Ok(())
            }
        }
    }

    /// The epochs that are recorded of these units.
    pub async fn epochs(&self, units: &[Unit]) -> BTreeMap<Unit, u64> {
        if self.config.coord.kind == CoordKind::Embedded {
            return BTreeMap::new();
        }
        recorded_epochs(&*self.engines.coord, units).await
    }

    /// Joins: tells of us, takes our boxes, opens the link.
    ///
    /// # Errors
    /// When the link's address cannot be used, or the state store cannot be read.
    pub async fn open(self, ground: Ground) -> Result<Farm, OpenError> {
        let Self { config, engines, farm, gateway, key, ring, policy, folder, world } = self;
        let peer = config.peer.clone();
        let me = Me {
            farm: farm.clone(),
            gateway: gateway.clone(),
            url: ground.url,
            tags: config.tags.clone(),
            check_url: crate::reach::check_url(&config.coord, &ground.address),
            address: ground.address,
            peer: peer.as_ref().and_then(|peer| peer.advertise.clone().or_else(|| peer.listen.clone())),
            version: ground.version.clone(),
            incarnation: ground.incarnation,
            renew: Duration::from_millis(config.lease.renew_ms()),
        };
        let ring = Arc::new(RwLock::new(ring));
        let moves = moves(&config);
        let (hearing, heard) = mpsc::unbounded_channel();
        let owning = moves.then_some(hearing);
        let membership = Membership::start(me, engines.coord.clone(), &world, ground.keeper.clone(), Arc::clone(&ring), ground.agents, owning);
        if let Some(folder) = &folder {
            alone::note(folder, membership.nonce());
        }
        let trust = Arc::new(Trust { membership: membership.clone() });
        let boxes = Boxes::default();
        let room = Arc::new(OnceLock::new());
        let links = match &peer {
            None => None,
            Some(peer) => {
                let listen = match &peer.listen {
                    Some(text) => Some(resolve(text).await.map_err(OpenError::Link)?),
                    None => None,
                };
                let setup = Setup {
                    farm: farm.clone(),
                    key: key.clone(),
                    incarnation: ground.incarnation,
                    build: ground.version.clone(),
                    listen,
                    timing: if moves { link::Timing::following(moving::profile(config.lease)) } else { link::Timing::default() },
                    world: world.clone(),
                    keys: trust.clone(),
                    resolve: trust.clone(),
                };
                let links = Links::new(setup).map_err(|err| OpenError::Link(err.to_string()))?;
                links
                    .start(Arc::new(Front { boxes: boxes.clone(), relay: ground.relay, room: Arc::clone(&room) }))
                    .await
                    .map_err(|err| OpenError::Link(err.to_string()))?;
                Some(links)
            }
        };
        let bus: Arc<dyn Bus> = match (&links, engines.bus) {
            (Some(links), None) => Arc::new(PeerBus::new(links.clone(), trust, boxes)),
            (Some(links), Some(bus)) if config.bus.fallback_peer => Arc::new(FallbackBus::new(bus, Arc::new(PeerBus::new(links.clone(), trust, boxes)))),
            (_, Some(bus)) => bus,
            (None, None) => return Err(OpenError::Config { path: "bus.kind", why: "letters over the link need farm.peer".into() }),
        };
        let events = Arc::new(Events::new(&world));
        let (key, policy) = (Arc::new(ArcSwap::from_pointee(key)), Arc::new(ArcSwap::from_pointee(policy)));
        let units: Vec<Unit> = ground.keeper.claims.all().into_iter().map(|(unit, _)| unit).filter(|unit| unit_party(unit).is_some()).collect();
        let rules = Arc::new(ArcSwap::from_pointee(rules_of(&config)));
        let parts = Parts {
            world: world.clone(),
            keeper: ground.keeper.clone(),
            bus: bus.clone(),
            farm,
            gateway,
            key: key.clone(),
            ring,
            policy: policy.clone(),
            places: Arc::new(membership.clone()),
            handler: ground.handler,
            witness: events.clone(),
            timing: if config.lease == LeaseProfile::Wan { Timing::WAN } else { Timing::LAN },
            began: membership.began(),
            peers: links.clone().map(|links| Arc::new(links) as Arc<dyn Peers>),
            rules: Arc::clone(&rules),
        };
        let mailroom = Mailroom::open(parts, &units).await.map_err(OpenError::Store)?;
        let _ = room.set(mailroom.clone());
        let catalogue = Catalogue::start(engines.coord.clone(), &membership.me().gateway, &world);
        let opened = Farm {
            membership,
            mailroom,
            links,
            events,
            owning: Arc::default(),
            heard: Arc::new(Mutex::new(moves.then_some(heard))),
            lease: config.lease,
            failback: if config.failback_manual { Failback::Manual } else { Failback::Idle },
            catalogue,
            coord: engines.coord,
            bus,
            keeper: ground.keeper,
            policy,
            key,
            rules,
            folder,
        };
        opened.look_after(&world);
        figures::watch(opened.clone(), &world);
        Ok(opened)
    }
}

async fn resolve(text: &str) -> Result<SocketAddr, String> {
    let mut found = tokio::net::lookup_host(text).await.map_err(|err| format!("{text} is no address to listen on: {err}"))?;
    found.next().ok_or_else(|| format!("{text} has no address"))
}

impl Farm {
    /// Units of ours that letters come to.
    #[must_use]
    pub fn units(&self) -> Vec<Unit> {
        self.keeper.claims.all().into_iter().map(|(unit, _)| unit).filter(|unit| unit_party(unit).is_some()).collect()
    }

    /// The other gateway that holds this unit; none when nobody does, or we.
    #[must_use]
    pub fn elsewhere(&self, unit: &Unit) -> Option<String> {
        self.membership.of(unit).map(|place| place.gateway).filter(|gateway| *gateway != self.membership.me().gateway)
    }

    /// The policy in force: the one place that decides what others may ask of our agents.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// The key that signs.
    #[must_use]
    pub fn kid(&self) -> String {
        self.key.load().kid().to_owned()
    }

    /// The key itself, as it is now.
    #[must_use]
    pub fn key(&self) -> Arc<GatewayKey> {
        self.key.load_full()
    }

    /// The coordination store.
    #[must_use]
    pub fn coord(&self) -> Arc<dyn Coord> {
        self.coord.clone()
    }
}
