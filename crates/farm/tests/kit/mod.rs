//! A farm of mailrooms in one process, over the embedded bus.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part; a test ends at the first surprise")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use clawstead_bus::{Blobs, Bus, BusCaps, BusError, Delivery, Depth, MailBox, Published, Sealed, memory::Memory};
use clawstead_cluster::{
    envelope::Envelope,
    keys::{FarmRoot, GatewayKey, KeyRecord, KeyRing, KeyStatus},
    letter::{Event, HandlerEnd, Timing},
    policy::{Policy, starter_policy},
};
use clawstead_farm::mailroom::{Handled, Handler, Head, Incoming, Mailroom, Outcome, Parts, Peers, Place, Places, Rules, Witness};
use clawstead_state::{
    MemoryStore, Store,
    keeper::{Claims, Keeper},
};
use clawstead_terms::{Address, AgentId, Envelope as Letter, EnvelopeKind, Failure, Fence, Millis, Origin, Part, RunStatus, SessionKey, TurnOptions, Unit};
use clawstead_world::{Accepted, Clock, World};
use futures_util::stream::BoxStream;

/// A bus that remembers what was handed to it, and may have no place for large bodies.
pub struct Tap {
    pub inner: Arc<dyn Bus>,
    pub blobs: bool,
    pub sent: Mutex<Vec<(MailBox, Sealed)>>,
}

impl Tap {
    pub fn over(inner: Arc<dyn Bus>) -> Self {
        Self { inner, blobs: true, sent: Mutex::default() }
    }
}

#[async_trait]
impl Bus for Tap {
    fn engine(&self) -> &'static str {
        self.inner.engine()
    }

    fn caps(&self) -> BusCaps {
        self.inner.caps()
    }

    async fn publish(&self, to: &MailBox, letter: &Sealed) -> Result<Published, BusError> {
        self.sent.lock().unwrap().push((to.clone(), letter.clone()));
        self.inner.publish(to, letter).await
    }

    fn subscribe(&self, from: &MailBox, consumer: &str) -> BoxStream<'static, Result<Delivery, BusError>> {
        self.inner.subscribe(from, consumer)
    }

    fn blobs(&self) -> Option<&dyn Blobs> {
        self.inner.blobs().filter(|_| self.blobs)
    }

    async fn depth(&self, of: &MailBox) -> Result<Depth, BusError> {
        self.inner.depth(of).await
    }
}

/// A clock that is wrong by so many milliseconds.
pub struct Wrong(pub Arc<dyn Clock>, pub i64);

impl Clock for Wrong {
    fn now(&self) -> Millis {
        self.0.now().plus(self.1)
    }
}

/// What the mailroom told.
#[derive(Default)]
pub struct Notes {
    pub told: Mutex<Vec<&'static str>>,
    pub rejected: Mutex<Vec<(&'static str, String)>>,
}

impl Notes {
    pub fn count(&self, name: &str) -> usize {
        self.told.lock().unwrap().iter().filter(|told| **told == name).count()
    }

    pub fn refused(&self, code: &str) -> usize {
        self.rejected.lock().unwrap().iter().filter(|(told, _)| *told == code).count()
    }
}

impl Witness for Notes {
    fn told(&self, _: &Head, event: &Event) {
        self.told.lock().unwrap().push(event.name());
    }

    fn rejected(&self, _: Option<&Head>, code: &'static str, why: &str) {
        self.rejected.lock().unwrap().push((code, why.to_owned()));
    }
}

/// Who lives where; the test moves and kills. The second is set while the store does not answer.
#[derive(Default)]
pub struct Map(pub RwLock<BTreeMap<Unit, Place>>, pub AtomicBool);

impl Places for Map {
    fn of(&self, unit: &Unit) -> Option<Place> {
        self.0.read().unwrap().get(unit).cloned()
    }

    fn sure(&self) -> bool {
        !self.1.load(Ordering::Relaxed)
    }
}

/// Answers every letter with its own text, and counts.
#[derive(Default)]
pub struct Echo {
    pub handled: Mutex<Vec<String>>,
    pub panics: AtomicU64,
    pub hold: tokio::sync::Mutex<()>,
    /// Letters whose work was done, over restarts: what the ledger of runs is in a gateway.
    pub ledger: Option<Arc<Mutex<Vec<String>>>>,
}

#[async_trait]
impl Handler for Echo {
    async fn handle(&self, _: &Envelope, incoming: Incoming) -> Handled {
        let _hold = self.hold.lock().await;
        if self.panics.load(Ordering::Relaxed) > 0 {
            self.panics.fetch_sub(1, Ordering::Relaxed);
            panic!("a handler breaks");
        }
        let text = match incoming {
            Incoming::Letter(letter) => {
                letter.body.iter().filter_map(|part| if let Part::Text { text } = part { Some(text.as_str()) } else { None }).collect::<String>()
            }
            Incoming::Call { method, params } => return done(Outcome { value: Some(serde_json::json!({"asked": method, "with": params})), ..ok(None) }),
            Incoming::Plain => "plain".into(),
        };
        if let Some(ledger) = &self.ledger {
            let mut ledger = ledger.lock().unwrap();
            if !ledger.contains(&text) {
                ledger.push(text.clone());
            }
        }
        self.handled.lock().unwrap().push(text.clone());
        done(ok(Some(format!("echo: {text}"))))
    }

    async fn knows(&self, _: &Envelope, _: &Incoming) -> bool {
        false
    }
}

pub fn ok(text: Option<String>) -> Outcome {
    Outcome { status: RunStatus::Ok, text, failure: None, abort_reason: None, value: None }
}

pub fn done(outcome: Outcome) -> Handled {
    Handled { end: HandlerEnd::Done, outcome: Some(outcome) }
}

/// A farm on one machine.
pub struct Farm {
    pub root: FarmRoot,
    pub records: Vec<KeyRecord>,
    pub keys: BTreeMap<String, GatewayKey>,
    pub map: Arc<Map>,
    pub memory: Memory,
    pub seed: World,
    /// Where a gateway has large bodies from; those without one have no link.
    pub peers: BTreeMap<String, Arc<dyn Peers>>,
    pub rules: Rules,
    /// Clocks that are wrong, ms.
    pub skew: BTreeMap<String, i64>,
}

pub struct Node {
    pub room: Mailroom,
    pub world: World,
    pub echo: Arc<Echo>,
    pub store: Arc<MemoryStore>,
    pub name: String,
    pub notes: Arc<Notes>,
    pub key: Arc<ArcSwap<GatewayKey>>,
    pub ring: Arc<RwLock<KeyRing>>,
}

pub fn agent(id: &str) -> Unit {
    Unit::Agent(AgentId::parse(id).unwrap())
}

impl Farm {
    pub fn new(gateways: &[&str]) -> Self {
        let seed = World::simulated(7);
        let root = FarmRoot::generate(&*seed.rng);
        let now = seed.clock.now();
        let (mut records, mut keys) = (Vec::new(), BTreeMap::new());
        for gateway in gateways {
            let key = GatewayKey::generate(gateway, &*seed.rng).unwrap();
            let approved = root.approve(gateway, &key.public(), now.plus(-3_600_000), now.plus(90 * 86_400_000));
            records.push(approved.stage(KeyStatus::Active).clone());
            keys.insert((*gateway).to_owned(), key);
        }
        Self {
            root,
            records,
            keys,
            map: Arc::new(Map::default()),
            memory: Memory::new(),
            seed,
            peers: BTreeMap::new(),
            rules: Rules { letter_ttl_ms: 300_000, ..Rules::default() },
            skew: BTreeMap::new(),
        }
    }

    pub async fn raise(&self, gateway: &str, agents: &[&str], store: Arc<MemoryStore>, epoch: u64) -> Node {
        self.raise_on(gateway, agents, store, epoch, self.memory.bus(gateway)).await
    }

    pub async fn raise_on(&self, gateway: &str, agents: &[&str], store: Arc<MemoryStore>, epoch: u64, bus: Arc<dyn Bus>) -> Node {
        self.raise_with(gateway, agents, store, epoch, bus, None).await
    }

    pub async fn raise_with(
        &self,
        gateway: &str,
        agents: &[&str],
        store: Arc<MemoryStore>,
        epoch: u64,
        bus: Arc<dyn Bus>,
        ledger: Option<Arc<Mutex<Vec<String>>>>,
    ) -> Node {
        let clock: Arc<dyn Clock> = match self.skew.get(gateway) {
            Some(by) => Arc::new(Wrong(Arc::clone(&self.seed.clock), *by)),
            None => Arc::clone(&self.seed.clock),
        };
        let world = World { clock, ..World::simulated(epoch * 100 + gateway.len() as u64) };
        let units: Vec<Unit> = agents.iter().map(|id| agent(id)).collect();
        let keeper = Keeper { store: store.clone(), claims: Arc::new(Claims::default()) };
        for unit in &units {
            let fence = Fence { epoch, owner: gateway.to_owned(), incarnation: epoch };
            store.claim(unit, &fence).await.unwrap();
            keeper.claims.hold(unit.clone(), fence);
            self.map.0.write().unwrap().insert(unit.clone(), Place { gateway: gateway.to_owned(), epoch, alive: true });
        }
        let mut ring = KeyRing::new(vec![self.root.pin()]).unwrap();
        assert!(ring.replace(&self.records, 0).is_empty());
        // The coordination store answers all the time, so what is known of keys stays young.
        let (ring, began) = (Arc::new(RwLock::new(ring)), tokio::time::Instant::now());
        let (touched, stop) = (Arc::clone(&ring), world.tasks.stopping());
        tokio::spawn(async move {
            while tokio::time::timeout(Duration::from_secs(10), stop.cancelled()).await.is_err() {
                touched.write().unwrap().touch(began.elapsed().as_millis() as u64);
            }
        });
        let echo = Arc::new(Echo { ledger, ..Echo::default() });
        let (notes, key) = (Arc::new(Notes::default()), Arc::new(ArcSwap::from_pointee(self.keys[gateway].clone())));
        let parts = Parts {
            world: world.clone(),
            keeper,
            bus,
            farm: "octant".into(),
            gateway: gateway.to_owned(),
            key: Arc::clone(&key),
            ring: Arc::clone(&ring),
            policy: Arc::new(ArcSwap::from_pointee(Policy::new(starter_policy(["jerry", "bobby", "billy"])).unwrap())),
            places: self.map.clone(),
            handler: echo.clone(),
            witness: notes.clone(),
            timing: Timing::LAN,
            began,
            peers: self.peers.get(gateway).cloned(),
            rules: Arc::new(ArcSwap::from_pointee(self.rules.clone())),
        };
        let room = Mailroom::open(parts, &units).await.unwrap();
        Node { room, world, echo, store, name: gateway.to_owned(), notes, key, ring }
    }
}

impl Node {
    /// The process ends between two steps; what is not in the store is gone.
    pub async fn die(self) -> Arc<MemoryStore> {
        self.world.tasks.stop(Duration::from_secs(5)).await;
        self.store
    }

    pub fn handled(&self) -> Vec<String> {
        self.echo.handled.lock().unwrap().clone()
    }

    pub async fn send(&self, to: &str, run: &str, text: &str) -> Result<Accepted, Failure> {
        self.room.send(letter(&self.world, "jerry", to, run, text)).await
    }

    pub async fn answer(&self, run: &str) -> Outcome {
        let row = self.room.wait(&run.into(), Duration::from_secs(600)).await.unwrap().unwrap_or_else(|| panic!("{}: {run} never ended", self.name));
        row.outcome.unwrap()
    }
}

pub fn letter(world: &World, from: &str, to: &str, run: &str, text: &str) -> Letter {
    let now = world.clock.now();
    let (from, to) = (AgentId::parse(from).unwrap(), AgentId::parse(to).unwrap());
    Letter {
        id: world.rng.uuid_v7(now).into(),
        run_id: run.into(),
        kind: EnvelopeKind::Request,
        from: Origin::Agent { session: SessionKey::main(&from), agent: from.clone() },
        to: Address { session: SessionKey::main(&to), agent: to },
        reply_to: None,
        cause: None,
        body: vec![Part::text(text)],
        options: TurnOptions::default(),
        path: vec![from],
        at: now,
        expires: None,
        traceparent: None,
    }
}

pub fn store() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new())
}
