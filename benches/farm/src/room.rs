//! One gateway's mailroom with everything that is real about it: its SQLite file, its connection to the engine, keys that
//! a root signed, a policy. Only the work that letters ask for is the benchmark's.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, RwLock},
    time::Duration,
};

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use clawstead_bus::Bus;
use clawstead_cluster::{
    keys::{FarmRoot, GatewayKey, KeyRecord, KeyRing, KeyStatus},
    letter::Timing,
    policy::{Effect, Limits, Party, Policy, Rule},
};
use clawstead_farm::mailroom::{Handler, Mailroom, Parts, Place, Places, Witness};
use clawstead_state::{
    SqliteStore, Store,
    keeper::{Claims, Keeper},
    sqlite::Options as SqliteOptions,
};
use clawstead_terms::{Address, AgentId, Envelope as Letter, EnvelopeKind, Fence, Origin, Part, SessionKey, TurnOptions, Unit};
use clawstead_world::{Clock as _, SeededRng, SystemClock, World};

/// The farm's name.
pub const FARM: &str = "bench";

/// Who may sign: made from a seed, so that a gateway that is a process of its own has the same.
pub struct Trust {
    root: FarmRoot,
    keys: BTreeMap<String, GatewayKey>,
    records: Vec<KeyRecord>,
}

impl Trust {
    /// Keys for these gateways. Not secret: the seed is in the source.
    pub fn new(gateways: &[&str]) -> anyhow::Result<Self> {
        let rng = SeededRng::new(7);
        let root = FarmRoot::generate(&rng);
        let now = SystemClock.now();
        let (mut keys, mut records) = (BTreeMap::new(), Vec::new());
        for gateway in gateways {
            let key = GatewayKey::generate(gateway, &rng).map_err(|err| anyhow::anyhow!("{err}"))?;
            let approved = root.approve(gateway, &key.public(), now.plus(-60_000), now.plus(86_400_000));
            records.push(approved.stage(KeyStatus::Active).clone());
            keys.insert((*gateway).to_owned(), key);
        }
        Ok(Self { root, keys, records })
    }
}

/// Who lives where. Fixed: nobody moves in a benchmark.
#[derive(Clone, Default)]
pub struct Map(pub Arc<RwLock<BTreeMap<Unit, Place>>>);

impl Places for Map {
    fn of(&self, unit: &Unit) -> Option<Place> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(unit).cloned()
    }
}

impl Map {
    /// These agents live at `gateway`.
    pub fn put(&self, gateway: &str, agents: &[String], epoch: u64) {
        let mut map = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        for agent in agents {
            map.insert(unit(agent), Place { gateway: gateway.to_owned(), epoch, alive: true });
        }
    }
}

/// What a room is made of.
pub struct Setup<'a> {
    pub gateway: &'a str,
    pub agents: &'a [String],
    pub folder: &'a Path,
    pub epoch: u64,
    pub trust: &'a Trust,
    pub map: &'a Map,
    pub bus: Arc<dyn Bus>,
    pub world: World,
    pub handler: Arc<dyn Handler>,
    pub witness: Arc<dyn Witness>,
    /// Gets the store before the mailroom opens: it asks the handler about unfinished work while it does.
    pub opened: Option<&'a tokio::sync::OnceCell<Keeper>>,
}

/// A mailroom with its store.
pub struct Room {
    pub mail: Mailroom,
    pub world: World,
    pub keeper: Keeper,
}

/// The unit of an agent.
pub fn unit(agent: &str) -> Unit {
    Unit::Agent(AgentId::normalise(agent))
}

impl Room {
    /// Opens the store in `folder` and the mailroom over it.
    pub async fn open(setup: Setup<'_>) -> anyhow::Result<Self> {
        let Setup { gateway, agents, folder, epoch, trust, map, bus, world, handler, witness, opened } = setup;
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(folder.join("clawstead.sqlite"), SqliteOptions::default())?);
        let keeper = Keeper { store, claims: Arc::new(Claims::default()) };
        if let Some(opened) = opened {
            let _ = opened.set(keeper.clone());
        }
        let units: Vec<Unit> = agents.iter().map(|agent| unit(agent)).collect();
        for unit in &units {
            let fence = Fence { epoch, owner: gateway.to_owned(), incarnation: epoch };
            keeper.store.claim(unit, &fence).await?;
            keeper.claims.hold(unit.clone(), fence);
        }
        let mut ring = KeyRing::new(vec![trust.root.pin()])?;
        if let Some(skipped) = ring.replace(&trust.records, 0).first() {
            bail!("a key is not believed: {}", skipped.why);
        }
        let (ring, began) = (Arc::new(RwLock::new(ring)), tokio::time::Instant::now());
        // As with a coordination store that answers: what is known of keys stays young.
        let (touched, stop) = (Arc::clone(&ring), world.tasks.stopping());
        tokio::spawn(async move {
            while tokio::time::timeout(Duration::from_secs(5), stop.cancelled()).await.is_err() {
                touched.write().unwrap_or_else(std::sync::PoisonError::into_inner).touch(u64::try_from(began.elapsed().as_millis()).unwrap_or(0));
            }
        });
        let anybody = || Party { gateway: None, agent: None };
        let all = Rule { from: anybody(), to: anybody(), capabilities: vec!["*".into()], effect: Effect::Allow, limits: Limits::default() };
        let parts = Parts {
            world: world.clone(),
            keeper: keeper.clone(),
            bus,
            farm: FARM.into(),
            gateway: gateway.to_owned(),
            key: Arc::new(ArcSwap::from_pointee(trust.keys.get(gateway).context("a gateway without a key")?.clone())),
            ring,
            policy: Arc::new(ArcSwap::from_pointee(Policy::new(vec![all])?)),
            places: Arc::new(map.clone()),
            handler,
            witness,
            timing: Timing::LAN,
            began,
            peers: None,
            rules: Arc::default(),
        };
        let mail = Mailroom::open(parts, &units).await.map_err(|failure| anyhow::anyhow!(failure.message))?;
        Ok(Self { mail, world, keeper })
    }

    /// Ends it in order.
    pub async fn close(self) {
        self.world.tasks.stop(Duration::from_secs(5)).await;
        self.keeper.store.close().await;
    }
}

/// A letter from one agent to a session of another.
pub fn letter(world: &World, kind: EnvelopeKind, from: &str, to: &str, lane: usize, run: &str) -> anyhow::Result<Letter> {
    let now = world.clock.now();
    let (from, to) = (AgentId::normalise(from), AgentId::normalise(to));
    let session = SessionKey::resolve(&format!("agent:{to}:lane-{lane}"), &to)?;
    Ok(Letter {
        id: world.rng.uuid_v7(now).into(),
        run_id: run.into(),
        kind,
        from: Origin::Agent { session: SessionKey::main(&from), agent: from.clone() },
        to: Address { session, agent: to },
        reply_to: None,
        cause: None,
        body: vec![Part::text(format!("{run}: are there any failed allocations on the cluster, and which node do they sit on?"))],
        options: TurnOptions::default(),
        path: vec![from],
        at: now,
        expires: None,
        traceparent: None,
    })
}
