//! The farm as one gateway has it: engines, membership, mailroom and links, put together.

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
    claim::Profile,
    keys::{GatewayKey, KeyRing, RootPin},
    letter::Timing,
    names::{is_farm, is_gateway, party_unit, unit_party},
    policy::{Effect, Limits, Party, Policy, Rule},
};
use clawstead_config::{CoordKind, FarmConfig, LeaseProfile, PolicyEffect, StateKind};
use clawstead_state::keeper::Keeper;
use clawstead_terms::{Failure, Unit};
use clawstead_world::{TaskKind, World};
use serde_json::{Value, json};
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
    ownership::{self, Failback, Heard, Host, Movable, Ownership, Seen},
    troubles,
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
                    timing: link::Timing::default(),
                    world: world.clone(),
                    keys: trust.clone(),
                    resolve: trust.clone(),
                };
                let links = Links::new(setup).map_err(|err| OpenError::Link(err.to_string()))?;
                links.start(Arc::new(Front { boxes: boxes.clone(), relay: ground.relay, room: Arc::clone(&room) })).await.map_err(|err| OpenError::Link(err.to_string()))?;
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
    /// What changes elsewhere is taken up; what nobody needs is removed.
    fn look_after(&self, world: &World) {
        let (farm, stop) = (self.clone(), world.tasks.stopping());
        world.tasks.spawn::<_, Failure>(TaskKind::logged("farm"), async move {
            let mut changes = farm.membership.changes();
            let mut rounds = 0_u64;
            let mut prune = tokio::time::interval_at(tokio::time::Instant::now() + PRUNE_EVERY, PRUNE_EVERY);
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    changed = changes.changed() => {
                        if changed.is_err() {
                            return Ok(());
                        }
                        farm.renew_key();
                        farm.mailroom.look_again();
                        if let Some(links) = &farm.links {
                            links.recheck();
                        }
                    }
                    _ = prune.tick() => {
                        farm.renew_key();
                        farm.prune().await;
                        rounds += 1;
                        if rounds % SWEEP_ROUNDS == 0 {
                            farm.sweep().await;
                        }
                    }
                }
            }
        });
    }

    /// The key that the farm's records call ours now signs from now on: `farm rotate gateway-key` makes it active in the
    /// store and puts its file into its place; whichever comes first, both files are looked at.
    fn renew_key(&self) {
        let Some(folder) = &self.folder else { return };
        let gateway = &self.membership.me().gateway;
        let signs = self.key.load().kid().to_owned();
        let Some(active) = self.membership.active_kid() else { return };
        if active == signs {
            return self.membership.settled(KEY_ELSEWHERE);
        }
        let found = [folder.load(gateway), folder.load_next(gateway)].into_iter().flatten().find(|key| key.kid() == active);
        let Some(key) = found else {
            let text = format!("the farm's active key of {gateway} is {active}, its file is not here, and this gateway signs with {signs}");
            return self.membership.trouble(KEY_ELSEWHERE, text);
        };
        if let Some(links) = &self.links
            && let Err(err) = links.set_key(key.clone())
        {
            tracing::error!(%err, kid = active, "links do not take the new key; they keep the old one");
        }
        self.key.store(Arc::new(key));
        self.membership.settled(KEY_ELSEWHERE);
        tracing::info!(kid = active, before = signs, "this gateway signs with its new key");
        let told = json!({"gateway": gateway, "kid": active, "before": signs});
        self.events.tell("farm.key.signs", "", told.as_object().cloned().unwrap_or_default());
    }

    /// Removes what the bus's engine keeps of large bodies beyond their time.
    async fn sweep(&self) {
        if let Some(blobs) = self.bus.blobs()
            && let Err(err) = blobs.sweep().await
        {
            tracing::debug!(%err, "bodies whose time is over could not be removed; it is tried again");
        }
    }

    async fn prune(&self) {
        for unit in self.units() {
            if let Err(failure) = self.mailroom.prune(&unit).await {
                tracing::warn!(%unit, err = %failure, "old letters could not be removed; it is tried again in a minute");
            }
        }
    }

    /// From now on units are claimed, and given up, as the ownership records say. Nothing happens where units do not
    /// move, or when it was called before.
    pub fn own(&self, world: &World, host: Arc<dyn Host>, seen: mpsc::UnboundedReceiver<Seen>, units: Vec<Movable>) {
        let Some(heard) = self.heard.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let me = self.membership.me();
        let profile = match self.lease {
            LeaseProfile::Fast => Profile::FAST,
            LeaseProfile::Lan => Profile::LAN,
            LeaseProfile::Wan => Profile::WAN,
        };
        let parts = ownership::Parts {
            me: me.gateway.clone(),
            incarnation: me.incarnation,
            coord: self.coord.clone(),
            keeper: self.keeper.clone(),
            world: world.clone(),
            profile,
            failback: self.failback,
            began: self.membership.began(),
            host,
            heard,
            seen,
        };
        let _ = self.owning.set(Ownership::start(parts, units));
    }

    /// Who owns what; none where units do not move.
    #[must_use]
    pub fn ownership(&self) -> Option<&Ownership> {
        self.owning.get()
    }

    /// Which gateway owns what, for people and programs.
    #[must_use]
    pub fn shards(&self) -> Value {
        let Some(ownership) = self.ownership() else { return json!({"moves": false, "shards": [], "drains": {}}) };
        let alerts = ownership.alerts();
        let rows = ownership.standing().into_iter().map(|(unit, standing)| {
            let mut row = json!({"unit": unit.to_string(), "here": standing.acting});
            if let Some(record) = &standing.record {
                row["owner"] = record.owner.clone().into();
                row["epoch"] = record.epoch.into();
                row["since"] = record.since.clone().into();
                row["prefer"] = json!(record.prefer);
                row["failover"] = json!(record.failover);
                row["healthy"] = self.membership.of(&unit).is_some_and(|place| place.alive).into();
            }
            if let Some(alert) = alerts.get(&unit) {
                row["alert"] = (*alert).into();
            }
            row
        });
        json!({"moves": true, "shards": rows.collect::<Vec<_>>(), "drains": ownership.drains()})
    }

    /// True for a unit that moves between the gateways of this farm.
    #[must_use]
    pub fn is_movable(&self, unit: &Unit) -> bool {
        self.ownership().is_some_and(|ownership| ownership.moves(unit))
    }

    /// What we keep, with our fences.
    #[must_use]
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Where a unit is. One that moves and that nobody has just now is waited for, `limit` at most.
    pub async fn located(&self, unit: &Unit, limit: Duration) -> Located {
        let Some(ownership) = self.ownership().filter(|ownership| ownership.moves(unit)) else {
            return self.elsewhere(unit).map_or(Located::Here, Located::At);
        };
        let (mut owned, mut seen) = (ownership.changes(), self.membership.changes());
        let look = || {
            if ownership.is_ours(unit) {
                return Some(Located::Here);
            }
            let place = self.membership.of(unit).filter(|place| place.alive && place.gateway != self.membership.me().gateway)?;
            Some(Located::At(place.gateway))
        };
        let wait = async {
            loop {
                if let Some(found) = look() {
                    return found;
                }
                let gone = tokio::select! {
                    biased;
                    changed = owned.changed() => changed.is_err(),
                    changed = seen.changed() => changed.is_err(),
                };
                if gone {
                    return Located::Nobody;
                }
            }
        };
        tokio::time::timeout(limit, wait).await.unwrap_or(Located::Nobody)
    }

    fn owning(&self) -> Result<&Ownership, Failure> {
        self.ownership().ok_or_else(|| {
            Failure::invalid("the agents of this gateway do not move: their state is in its own folder")
                .with_hint("farm.state.kind=\"postgres\" shares it; `openclaw state copy` takes it there")
        })
    }

    fn known_gateway(&self, name: &str) -> Result<(), Failure> {
        let all = self.membership.gateways();
        if all.iter().any(|gateway| gateway.name == name) {
            return Ok(());
        }
        let names: Vec<String> = all.into_iter().map(|gateway| gateway.name).collect();
        Err(Failure::not_found(format!("there is no gateway {name} in this farm")).with_hint(format!("gateways: {}", names.join(", "))))
    }

    /// Gives a unit (an agent's id, or a unit as [`Farm::shards`] shows it) to a gateway in order. Answers with the unit
    /// and who had it.
    ///
    /// # Errors
    /// `NotFound` for an unknown unit or gateway, `Unavailable` when the gateway is not healthy or it took too long.
    pub async fn move_unit(&self, unit: &str, to: &str) -> Result<(Unit, String), Failure> {
        let ownership = self.owning()?;
        let all = ownership.standing();
        let agent = Unit::Agent(clawstead_terms::AgentId::normalise(unit));
        let wanted = Unit::parse(unit).filter(|unit| all.contains_key(unit)).unwrap_or(agent);
        let Some(standing) = all.get(&wanted) else {
            let units: Vec<String> = all.keys().map(ToString::to_string).collect();
            return Err(Failure::not_found(format!("there is no {unit} that could move")).with_hint(format!("units: {}", units.join(", "))));
        };
        self.known_gateway(to)?;
        let healthy = self.membership.gateways().into_iter().any(|gateway| gateway.name == to && gateway.healthy);
        if !healthy {
            return Err(Failure::unavailable(format!("{to} is not healthy"), 5_000).with_hint("openclaw farm gateways"));
        }
        if ownership.drains().contains_key(to) {
            return Err(Failure::invalid(format!("{to} is drained")).with_hint(format!("openclaw farm drain {to} --undo")));
        }
        let before = standing.record.as_ref().map_or_else(String::new, |record| record.owner.clone());
        ownership.move_to(&wanted, to).await?;
        Ok((wanted, before))
    }

    /// Empties a gateway in order, or lets it have units again. Answers with what it still has.
    ///
    /// # Errors
    /// `NotFound` for an unknown gateway; what the coordination store says.
    pub async fn drain(&self, gateway: &str, undo: bool, why: &str) -> Result<Vec<String>, Failure> {
        let ownership = self.owning()?;
        self.known_gateway(gateway)?;
        if undo {
            ownership.set_drain(gateway, None).await?;
            return Ok(Vec::new());
        }
        let others = self.membership.gateways().into_iter().filter(|other| other.healthy && other.name != gateway && !ownership.drains().contains_key(&other.name));
        if others.count() == 0 {
            return Err(Failure::unavailable(format!("no other healthy gateway is there to take what {gateway} has"), 5_000));
        }
        let drain = ownership::Drain { at: self.membership.now().wall, by: self.membership.me().gateway.clone(), why: why.to_owned() };
        ownership.set_drain(gateway, Some(drain)).await?;
        Ok(ownership.wait_empty(gateway).await)
    }

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

    /// A new policy, from a config that was edited.
    ///
    /// # Errors
    /// When a rule cannot be used; the one before stays.
    pub fn set_policy(&self, config: &FarmConfig) -> Result<(), String> {
        self.policy.store(Arc::new(policy_of(config).map_err(|why| format!("farm.policy: {why}"))?));
        self.mailroom.look_again();
        Ok(())
    }

    /// Takes up what may change while a gateway runs: policy, roots, the time letters wait, unsigned letters.
    ///
    /// # Errors
    /// When a part cannot be used; what was before of it stays.
    pub fn take_up(&self, config: &FarmConfig) -> Result<(), String> {
        self.rules.store(Arc::new(rules_of(config)));
        let roots: Result<Vec<RootPin>, String> = config.roots.iter().map(|text| root_pin(text)).collect();
        let believed = roots.and_then(|roots| self.membership.believe(roots)).map_err(|why| format!("farm.roots: {why}"));
        let allowed = self.set_policy(config);
        if let Some(links) = &self.links {
            links.recheck();
        }
        believed.and(allowed)
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

    /// Everything at a glance.
    ///
    /// # Errors
    /// When the state store cannot be read.
    pub async fn status(&self) -> Result<Value, Failure> {
        let me = self.membership.me();
        let (mut queued, mut in_flight, mut delivered, mut dead) = (0_u64, 0_u64, 0_u64, 0_u64);
        for unit in self.units() {
            for sent in self.mailroom.sent(&unit, SHOWN_MAX).await? {
                use clawstead_cluster::envelope::MailState;
                match sent.row.state {
                    MailState::Queued if sent.row.sends > 0 => in_flight += 1,
                    MailState::Queued => queued += 1,
                    MailState::Delivered => delivered += 1,
                    _ => {}
                }
            }
            dead += self.mailroom.dead(&unit, SHOWN_MAX).await?.iter().filter(|dead| dead.replayed_as.is_none()).count() as u64;
        }
        let (beats, missed) = self.membership.heartbeats();
        let counts: BTreeMap<String, u64> = self.events.counts().into_iter().fold(BTreeMap::new(), |mut sums, ((name, reason), count)| {
            let name = if reason.is_empty() { name.to_owned() } else { format!("{name}.{reason}") };
            *sums.entry(name).or_default() += count;
            sums
        });
        let mut out = json!({
            "farm": me.farm,
            "gateway": me.gateway,
            "key": self.kid(),
            "coord": {},
            "bus": {},
            "gateways": self.membership.gateways(),
            "agents": self.membership.agents(),
            "letters": {"queued": queued, "inFlight": in_flight, "delivered": delivered, "dead": dead},
            "heartbeats": {"sent": beats, "missed": missed},
            "events": counts,
            "refusedLately": self.refused_lately(),
            "refusals": troubles::refused(&counts),
            "problems": self.membership.problems(),
        });
        troubles::look(self, &mut out).await;
        if let Some(links) = &self.links {
            out["links"] = serde_json::to_value(links.status()).unwrap_or_default();
        }
        Ok(out)
    }

    /// Letters that were not taken lately, newest first: when, why, from whom.
    fn refused_lately(&self) -> Vec<Value> {
        let (latest, _) = self.events.since(None, crate::events::KEPT_MAX);
        let refused = latest.iter().rev().filter(|event| event.get("event").and_then(Value::as_str) == Some("farm.msg.rejected"));
        refused
            .take(REFUSED_SHOWN)
            .map(|event| json!({"at": event["at"], "reason": event["reason"], "why": event["why"], "from": event["from"], "to": event["to"],
                "fromGateway": event["fromGateway"], "messageId": event["messageId"]}))
            .collect()
    }

    /// Letters of our units, newest first.
    ///
    /// # Errors
    /// When the state store cannot be read.
    pub async fn letters(&self, agent: Option<&str>, limit: usize) -> Result<Vec<Value>, Failure> {
        let mut out: Vec<(clawstead_terms::Millis, Value)> = Vec::new();
        for unit in self.wanted(agent) {
            for sent in self.mailroom.sent(&unit, limit).await? {
                out.push((sent.head.created_at, sent_json(&sent)));
            }
            for taken in self.mailroom.taken(&unit, SHOWN_MAX).await? {
                out.push((taken.head.created_at, taken_json(&taken)));
            }
        }
        out.sort_by(|a, b| b.0.cmp(&a.0));
        Ok(out.into_iter().take(limit).map(|(_, value)| value).collect())
    }

    /// One letter with its life.
    ///
    /// # Errors
    /// `NotFound` when nothing is known of it here.
    pub async fn letter(&self, id: &str) -> Result<Value, Failure> {
        let all = self.letters(None, SHOWN_MAX).await?;
        let found = all.into_iter().find(|letter| letter.get("messageId").and_then(Value::as_str) == Some(id));
        found.ok_or_else(|| Failure::not_found(format!("nothing is known here of the letter {id}")))
    }

    /// Dead letters of our units, newest first, without their bodies.
    ///
    /// # Errors
    /// When the state store cannot be read.
    pub async fn dead_letters(&self, agent: Option<&str>, limit: usize) -> Result<Vec<Value>, Failure> {
        let mut out = Vec::new();
        for unit in self.wanted(agent) {
            for dead in self.mailroom.dead(&unit, limit).await? {
                out.push(json!({"messageId": dead.head.message_id, "reason": dead.reason, "from": dead.head.from, "to": dead.head.to, "kind": dead.head.kind,
                    "capability": dead.head.capability, "at": dead.at, "createdAt": dead.head.created_at, "replayedAs": dead.replayed_as}));
            }
        }
        out.truncate(limit);
        Ok(out)
    }

    /// A dead letter with its body and its life.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn dead_letter(&self, id: &str) -> Result<Value, Failure> {
        let (_, dead) = self.find_dead(id).await?;
        serde_json::to_value(&dead).map_err(|err| Failure::internal(err.to_string()))
    }

    /// Sends a new letter in place of a dead one; answers with its id.
    ///
    /// # Errors
    /// `NotFound` when there is none, `InvalidRequest` when it was replayed.
    pub async fn replay(&self, id: &str) -> Result<String, Failure> {
        let (unit, _) = self.find_dead(id).await?;
        self.mailroom.replay(&unit, id).await
    }

    /// Removes a dead letter for good.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn drop_dead(&self, id: &str) -> Result<(), Failure> {
        let (unit, _) = self.find_dead(id).await?;
        self.mailroom.drop_dead(&unit, id).await
    }

    async fn find_dead(&self, id: &str) -> Result<(Unit, crate::mailroom::DeadRow), Failure> {
        for unit in self.units() {
            let found: Option<crate::mailroom::DeadRow> = self.keeper.get(&unit, clawstead_state::Table::DeadLetters, id).await?;
            if let Some(dead) = found {
                return Ok((unit, dead));
            }
        }
        Err(Failure::not_found(format!("no dead letter {id} is kept here")).with_hint("openclaw farm dlq list"))
    }

    fn wanted(&self, agent: Option<&str>) -> Vec<Unit> {
        let all = self.units();
        match agent {
            None => all,
            Some(id) => all.into_iter().filter(|unit| unit_party(unit).as_deref() == Some(id)).collect(),
        }
    }
}

fn sent_json(sent: &crate::mailroom::SentRow) -> Value {
    json!({"direction": "out", "messageId": sent.head.message_id, "correlationId": sent.head.correlation_id, "causationId": sent.head.causation_id,
        "state": sent.row.state, "kind": sent.head.kind, "from": sent.head.from, "to": sent.head.to, "session": sent.head.session,
        "capability": sent.head.capability, "createdAt": sent.head.created_at, "expiresAt": sent.head.expires_at, "attempts": sent.row.sends,
        "gateway": sent.gateway, "run": sent.run, "lastError": sent.row.last_error, "history": sent.history})
}

fn taken_json(taken: &crate::mailroom::TakenRow) -> Value {
    json!({"direction": "in", "messageId": taken.head.message_id, "correlationId": taken.head.correlation_id, "causationId": taken.head.causation_id,
        "state": taken.row.state, "kind": taken.head.kind, "from": taken.head.from, "to": taken.head.to, "session": taken.head.session,
        "capability": taken.head.capability, "createdAt": taken.head.created_at, "expiresAt": taken.head.expires_at, "attempts": taken.row.attempt + 1,
        "gateway": taken.head.from_gateway, "lastError": Some(&taken.row.code).filter(|code| !code.is_empty()), "history": taken.history})
}
