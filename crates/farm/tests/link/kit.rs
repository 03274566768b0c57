//! A small farm on loopback: gateways with real TLS between them, a clock that tests turn, and a desk that does as told.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use clawstead_bus::{Depth, MailBox, Sealed};
use clawstead_cluster::{
    Now,
    keys::{FarmRoot, GatewayKey, KeyRing, KeyStatus},
};
use clawstead_farm::link::{BLOB_PART_BYTES_MAX, BlobPart, Boxes, Call, Desk, Event, EventSink, Keys, Links, Resolve, Route, Setup, Timing};
use clawstead_terms::{Failure, Millis};
use clawstead_world::{Clock, Rng, SystemRng, World};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

pub const T0: Millis = Millis(1_795_172_400_000);
const YEAR: i64 = 365 * 86_400_000;
/// What has not happened after this time does not happen.
pub const SOON: Duration = Duration::from_secs(20);

pub struct TestClock(AtomicI64);

impl TestClock {
    pub fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::SeqCst))
    }
}

/// What one gateway knows of keys.
pub struct View {
    pub ring: ArcSwap<KeyRing>,
    pub mono_ms: AtomicU64,
    clock: Arc<TestClock>,
}

impl Keys for View {
    fn ring(&self) -> Arc<KeyRing> {
        self.ring.load_full()
    }

    fn now(&self) -> Now {
        Now { wall: self.clock.now(), mono_ms: self.mono_ms.load(Ordering::SeqCst) }
    }
}

#[derive(Default)]
pub struct Directory(pub Mutex<BTreeMap<String, String>>);

impl Directory {
    pub fn set(&self, gateway: &str, address: impl ToString) {
        self.0.lock().unwrap().insert(gateway.to_owned(), address.to_string());
    }
}

impl Resolve for Directory {
    fn address(&self, gateway: &str) -> Option<String> {
        self.0.lock().unwrap().get(gateway).cloned()
    }
}

/// Every box is at one gateway.
pub struct AllAt(pub &'static str);

impl Route for AllAt {
    fn gateway_of(&self, _to: &MailBox) -> Option<String> {
        Some(self.0.to_owned())
    }
}

/// Does what calls say.
#[derive(Default)]
pub struct TestDesk {
    pub boxes: Boxes,
    pub started: Notify,
    pub release: watch::Sender<bool>,
    pub dropped: Notify,
    pub answered: AtomicUsize,
    pub told: Mutex<Vec<(String, Event)>>,
    pub told_some: Notify,
    pub blobs: Mutex<BTreeMap<String, Vec<u8>>>,
    pub pieces: AtomicUsize,
}

struct TellDrop<'a>(&'a Notify);

impl Drop for TellDrop<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[async_trait]
impl Desk for TestDesk {
    async fn call(&self, peer: &str, call: Call, events: EventSink) -> Result<Value, Failure> {
        let number = call.params.get("n").and_then(Value::as_u64).unwrap_or(0);
        let answer = match call.method.as_str() {
            "echo" => Ok(json!({"peer": peer, "params": call.params, "caller": call.caller, "traceparent": call.traceparent})),
            "stream" => {
                for n in 0..number {
                    events.send("tick", json!(n)).await?;
                }
                Ok(json!("done"))
            }
            "hold" => {
                let _dropped = TellDrop(&self.dropped);
                self.started.notify_one();
                let _ = self.release.subscribe().wait_for(|open| *open).await;
                Ok(json!("held"))
            }
            "large" => Ok(json!("x".repeat(usize::try_from(number).unwrap()))),
            "panic" => panic!("on purpose"),
            other => Err(Failure::not_found(format!("no method {other}")).with_hint("try echo")),
        };
        self.answered.fetch_add(1, Ordering::SeqCst);
        answer
    }

    async fn letter(&self, _peer: &str, to: MailBox, letter: Sealed) -> Result<(), Failure> {
        self.boxes.take(to, letter).await
    }

    async fn blob(&self, _peer: &str, hash: &str, offset: u64) -> Result<BlobPart, Failure> {
        self.pieces.fetch_add(1, Ordering::SeqCst);
        let blobs = self.blobs.lock().unwrap();
        let whole = blobs.get(hash).ok_or_else(|| Failure::not_found(format!("no blob {hash}")))?;
        let rest = whole.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        Ok(BlobPart { size: whole.len() as u64, bytes: rest[..rest.len().min(BLOB_PART_BYTES_MAX)].to_vec().into() })
    }

    async fn depth(&self, _peer: &str, of: MailBox) -> Depth {
        self.boxes.depth(&of)
    }

    async fn event(&self, peer: &str, event: Event) {
        self.told.lock().unwrap().push((peer.to_owned(), event));
        self.told_some.notify_one();
    }
}

/// The farm: its root, who was approved, and the clock of all gateways.
pub struct Farm {
    pub root: FarmRoot,
    pub clock: Arc<TestClock>,
    pub directory: Arc<Directory>,
    approved: Mutex<Vec<(GatewayKey, KeyStatus)>>,
}

impl Farm {
    pub fn new() -> Self {
        Self { root: FarmRoot::generate(&SystemRng), clock: Arc::new(TestClock(AtomicI64::new(T0.0))), directory: Arc::default(), approved: Mutex::default() }
    }

    /// A key that the root vouches for from now on.
    pub fn key(&self, name: &str) -> GatewayKey {
        let key = stranger(name);
        self.stage(&key, KeyStatus::Active);
        key
    }

    /// What rings made from now on know of a key.
    pub fn stage(&self, key: &GatewayKey, status: KeyStatus) {
        let mut approved = self.approved.lock().unwrap();
        approved.retain(|(other, _)| other.kid() != key.kid());
        approved.push((key.clone(), status));
    }

    pub fn ring(&self) -> KeyRing {
        let approved = self.approved.lock().unwrap();
        let records: Vec<_> = approved
            .iter()
            .map(|(key, status)| self.root.approve(key.gateway(), &key.public(), T0.plus(-1000), T0.plus(YEAR)).stage(*status).clone())
            .collect();
        let mut ring = KeyRing::new(vec![self.root.pin()]).unwrap();
        assert_eq!(ring.replace(&records, 1000), []);
        ring
    }

    pub fn view(&self) -> Arc<View> {
        Arc::new(View { ring: ArcSwap::from_pointee(self.ring()), mono_ms: AtomicU64::new(1000), clock: self.clock.clone() })
    }

    pub fn build(&self, key: GatewayKey) -> Build<'_> {
        Build { farm: self, key, id: "octant".into(), incarnation: 1, listen: Some(([127, 0, 0, 1], 0).into()), timing: timing() }
    }

    /// A gateway that everybody finds.
    pub async fn gateway(&self, key: GatewayKey) -> Gateway {
        self.build(key).start().await
    }

    /// Everybody hears of the keys as they are.
    pub fn spread(&self, gateways: &[&Gateway]) {
        for gateway in gateways {
            gateway.view.ring.store(Arc::new(self.ring()));
        }
    }
}

pub struct Build<'a> {
    farm: &'a Farm,
    key: GatewayKey,
    pub id: String,
    pub incarnation: u64,
    pub listen: Option<SocketAddr>,
    pub timing: Timing,
}

impl Build<'_> {
    pub async fn start(self) -> Gateway {
        let (view, name) = (self.farm.view(), self.key.gateway().to_owned());
        let mut world = World::simulated(self.incarnation);
        world.clock = self.farm.clock.clone();
        let setup = Setup {
            farm: self.id,
            key: self.key,
            incarnation: self.incarnation,
            build: "test".into(),
            listen: self.listen,
            timing: self.timing,
            world: world.clone(),
            keys: view.clone(),
            resolve: self.farm.directory.clone(),
        };
        let (links, desk) = (Links::new(setup).unwrap(), Arc::new(TestDesk::default()));
        let address = links.start(desk.clone()).await.unwrap();
        if let Some(address) = address {
            self.farm.directory.set(&name, address);
        }
        Gateway { name, links, desk, view, address, world }
    }
}

/// As in a farm, only faster.
pub fn timing() -> Timing {
    Timing {
        ping_every: Duration::from_millis(100),
        dead_after: Duration::from_millis(1500),
        backoff: (Duration::from_millis(20), Duration::from_millis(200)),
        ..Timing::default()
    }
}

pub struct Gateway {
    pub name: String,
    pub links: Links,
    pub desk: Arc<TestDesk>,
    pub view: Arc<View>,
    pub address: Option<SocketAddr>,
    pub world: World,
}

impl Gateway {
    pub async fn echo(&self, peer: &str, params: Value) -> Result<Value, Failure> {
        self.links.call(peer, Call::new("echo", params)).await
    }

    pub fn peer(&self, name: &str) -> clawstead_farm::link::PeerStatus {
        self.links.status().peers.into_iter().find(|peer| peer.gateway == name).unwrap_or_else(|| panic!("{} does not know {name}", self.name))
    }

    /// As a killed process: nothing is said to anybody.
    pub async fn die(self) {
        assert!(self.world.tasks.stop(SOON).await, "{} does not stop", self.name);
    }
}

/// A key that nobody vouches for.
pub fn stranger(name: &str) -> GatewayKey {
    let rng: &dyn Rng = &SystemRng;
    GatewayKey::generate(name, rng).unwrap()
}

/// Looks until `look` has something to show.
pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let found = tokio::time::timeout(SOON, async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"))
}
