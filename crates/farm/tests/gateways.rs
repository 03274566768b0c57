//! Gateways of a farm with everything but their agents, over embedded engines in simulated time: keys and roots that
//! change under load, stolen keys, coordination data that is wiped or goes back, clocks that are wrong, one name twice.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod kit;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use clawstead_bus::{
    MailBox, Sealed,
    memory::{Memory, Part},
};
use clawstead_cluster::{
    envelope::{MailState, Outbound, Priority, seal_letter},
    keys::{FarmRoot, GatewayKey, KeyStatus},
};
use clawstead_config::{DevFlag, Env, FarmConfig, Paths, Profile, ReadOptions, SecretOptions, Snapshot, Strictness};
use clawstead_farm::{
    Farm, Ground, OpenError, Prepared, Relay,
    engines::Engines,
    enrol,
    key_files::KeyFolder,
    link::{Call, EventSink},
    membership::AgentFacts,
    prepare_on,
};
use clawstead_state::{
    MemoryStore, Store as _,
    keeper::{Claims, Keeper},
};
use clawstead_terms::{Failure, Fence};
use clawstead_world::World;
use kit::{Echo, Wrong, agent, letter};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
const DAYS: i64 = 90 * 86_400_000;

struct Nobody;

#[async_trait]
impl Relay for Nobody {
    async fn call(&self, _: &str, _: Call, _: EventSink) -> Result<Value, Failure> {
        Err(Failure::not_found("nobody is asked here"))
    }
}

/// What all gateways share.
struct Site {
    memory: Memory,
    root: FarmRoot,
    seed: World,
}

struct Gateway {
    farm: Farm,
    world: World,
    echo: Arc<Echo>,
    dir: tempfile::TempDir,
    config: FarmConfig,
}

fn config(gateway: &str, roots: &[String]) -> FarmConfig {
    let rule = json!({"from": {"agent": "*"}, "to": {"agent": "*"}, "capabilities": ["sessions.*", "reply"], "effect": "allow"});
    let text = json!({"farm": {"id": "octant", "gateway": gateway, "roots": roots, "coord": {"kind": "consul"}, "bus": {"kind": "consul"}, "policy": [rule]}});
    let env = Env::from_pairs([("HOME", "/home/ann")]);
    let paths = Paths::resolve(Profile::from_flags(None, DevFlag::Off).unwrap(), &env);
    let snapshot = Snapshot::from_bytes(text.to_string().as_bytes(), &paths, &env, ReadOptions::default());
    snapshot.load(Strictness::Tolerant, SecretOptions::default()).unwrap().config.farm.clone().unwrap()
}

impl Site {
    fn new() -> Self {
        let seed = World::simulated(11);
        Self { memory: Memory::new(), root: FarmRoot::generate(&*seed.rng), seed }
    }

    fn world(&self, gateway: &str, skew_ms: i64) -> World {
        let clock = Arc::new(Wrong(Arc::clone(&self.seed.clock), skew_ms));
        World { clock, ..World::simulated(gateway.len() as u64 + self.seed.rng.below(1_000)) }
    }

    async fn approve(&self, root: &FarmRoot, key: &GatewayKey) {
        let coord = self.memory.coord("operator");
        let now = self.seed.clock.now();
        let request = enrol::ask(&*coord, "octant", key, now, None).await.unwrap();
        enrol::approve(&*coord, "octant", root, &request, now.plus(-3_600_000), now.plus(DAYS)).await.unwrap();
    }

    fn prepare(&self, gateway: &str, world: &World, dir: &tempfile::TempDir) -> (Prepared, FarmConfig) {
        let folder = KeyFolder::of(dir.path());
        let key = folder.load_or_make(gateway, &*world.rng).unwrap();
        let engines = Engines { coord: self.memory.coord(gateway), bus: Some(self.memory.bus(gateway)) };
        let config = config(gateway, &[self.root.pin().text()]);
        (prepare_on(&config, engines, key, world).unwrap().with_keys(folder), config)
    }

    async fn raise(&self, gateway: &str, id: &str, skew_ms: i64) -> Gateway {
        let (world, dir) = (self.world(gateway, skew_ms), tempfile::tempdir().unwrap());
        let key = KeyFolder::of(dir.path()).load_or_make(gateway, &*world.rng).unwrap();
        self.approve(&self.root, &key).await;
        enrol::advance(&*self.memory.coord("operator"), gateway, key.kid(), KeyStatus::Active).await.ok();
        let (prepared, config) = self.prepare(gateway, &world, &dir);
        prepared.alone().await.unwrap();
        let (store, claims) = (Arc::new(MemoryStore::new()), Arc::new(Claims::default()));
        let fence = Fence { epoch: 7, owner: gateway.to_owned(), incarnation: 1 };
        store.claim(&agent(id), &fence).await.unwrap();
        claims.hold(agent(id), fence);
        let echo = Arc::new(Echo::default());
        let ground = Ground {
            keeper: Keeper { store, claims },
            url: format!("ws://{gateway}"),
            address: ("127.0.0.1".into(), 18_789),
            version: "1".into(),
            incarnation: 1,
            agents: vec![AgentFacts { id: id.into(), capabilities: vec!["sessions.send".into()], model: None, heartbeat: false }],
            handler: echo.clone(),
            relay: Arc::new(Nobody),
        };
        Gateway { farm: prepared.open(ground).await.unwrap(), world, echo, dir, config }
    }

    async fn pair(&self) -> (Gateway, Gateway) {
        let (jerry, bobby) = (self.raise("jerry-gateway", "jerry", 0).await, self.raise("bobby-gateway", "bobby", 0).await);
        jerry.sees("bobby").await;
        bobby.sees("jerry").await;
        (jerry, bobby)
    }
}

impl Gateway {
    async fn sees(&self, id: &str) {
        self.until("the other's agent is known", || self.farm.membership.agents().iter().any(|agent| agent.id == id && agent.healthy)).await;
    }

    async fn until(&self, what: &str, mut probe: impl FnMut() -> bool) {
        let looking = async {
            while !probe() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        if tokio::time::timeout(MINUTE * 5, looking).await.is_err() {
            panic!("never: {what}: {:?} {:?}", self.farm.membership.problems(), self.farm.events.counts());
        }
    }

    async fn send(&self, from: &str, to: &str, run: &str) {
        self.farm.mailroom.send(letter(&self.world, from, to, run, run)).await.unwrap();
    }

    async fn answer(&self, run: &str) -> clawstead_farm::mailroom::Outcome {
        self.farm.mailroom.wait(&run.into(), MINUTE * 20).await.unwrap().unwrap_or_else(|| panic!("{run} never ended")).outcome.unwrap()
    }

    fn rejects(&self) -> u64 {
        self.farm.events.count("farm.msg.rejected")
    }
}

/// One letter every 500 ms from jerry to bobby, until it is stopped; how many.
fn load(jerry: &Gateway) -> (tokio::task::JoinHandle<u64>, tokio_util::sync::CancellationToken) {
    let (room, world, stop) = (jerry.farm.mailroom.clone(), jerry.world.clone(), tokio_util::sync::CancellationToken::new());
    let token = stop.clone();
    let task = tokio::spawn(async move {
        let mut n = 0;
        while tokio::time::timeout(Duration::from_millis(500), token.cancelled()).await.is_err() {
            let run = format!("load-{n}");
            room.send(letter(&world, "jerry", "bobby", &run, &run)).await.unwrap();
            n += 1;
        }
        n
    });
    (task, stop)
}

/// Fault row K1: a gateway's key and then the farm's root change while letters go; nothing is refused, nothing restarts.
#[tokio::test(start_paused = true)]
async fn k1_keys_and_roots_change_under_load_and_nothing_is_refused() {
    let site = Site::new();
    let (jerry, bobby) = site.pair().await;
    let (task, stop) = load(&jerry);
    let coord = site.memory.coord("operator");
    let wait = async |minutes: u32| tokio::time::sleep(MINUTE * minutes).await;
    wait(1).await;

    // The key, step by step as `farm rotate gateway-key` does it.
    let folder = KeyFolder::of(jerry.dir.path());
    let old = jerry.farm.kid();
    let next = folder.next_or_make("jerry-gateway", &*jerry.world.rng).unwrap();
    site.approve(&site.root, &next).await;
    wait(5).await;
    assert_eq!(jerry.farm.kid(), old, "the next key does not sign yet");
    enrol::advance(&*coord, "jerry-gateway", next.kid(), KeyStatus::Active).await.unwrap();
    enrol::advance(&*coord, "jerry-gateway", &old, KeyStatus::Retiring).await.unwrap();
    folder.promote("jerry-gateway").unwrap();
    jerry.until("the running gateway signs with the new key", || jerry.farm.kid() == next.kid()).await;
    // No letter that the old one signed is on its way any more after this.
    wait(5).await;
    enrol::advance(&*coord, "jerry-gateway", &old, KeyStatus::Revoked).await.unwrap();
    wait(2).await;
    assert_eq!((jerry.rejects(), bobby.rejects()), (0, 0), "{:?} {:?}", jerry.farm.events.counts(), bobby.farm.events.counts());

    // The root: both are pinned, records are signed anew, the old one is taken out.
    let new_root = FarmRoot::generate(&*site.seed.rng);
    let pins = [site.root.pin().text(), new_root.pin().text()];
    for gateway in [&jerry, &bobby] {
        gateway.farm.take_up(&FarmConfig { roots: pins.to_vec(), ..gateway.config.clone() }).unwrap();
    }
    wait(1).await;
    for gateway in [&jerry, &bobby] {
        let key = KeyFolder::of(gateway.dir.path()).load(&gateway.farm.membership.me().gateway).unwrap();
        let now = site.seed.clock.now();
        let approved = new_root.approve(key.gateway(), &key.public(), now.plus(-3_600_000), now.plus(DAYS));
        let record = approved.stage(KeyStatus::Active);
        coord.put(&record.store_key(), serde_json::to_vec(record).unwrap().into()).await.unwrap();
    }
    wait(1).await;
    for gateway in [&jerry, &bobby] {
        gateway.farm.take_up(&FarmConfig { roots: vec![new_root.pin().text()], ..gateway.config.clone() }).unwrap();
    }
    wait(2).await;
    // Bad edits are refused, and what was before stays.
    assert!(jerry.farm.take_up(&FarmConfig { roots: Vec::new(), ..jerry.config.clone() }).unwrap_err().contains("farm.roots"));
    wait(1).await;

    stop.cancel();
    let count = task.await.unwrap();
    jerry.answer(&format!("load-{}", count - 1)).await;
    assert_eq!((jerry.rejects(), bobby.rejects()), (0, 0), "{:?} {:?}", jerry.farm.events.counts(), bobby.farm.events.counts());
    assert_eq!(bobby.echo.handled.lock().unwrap().len() as u64, count);
    assert!(count > 1_500, "{count}");
}

/// Fault row K2: a key is stolen and revoked. Within a minute nobody believes it, also where the news does not come through.
#[tokio::test(start_paused = true)]
async fn k2_a_revoked_key_is_refused_everywhere_within_a_minute() {
    let site = Site::new();
    let (jerry, bobby) = site.pair().await;
    let billy = site.raise("billy-gateway", "billy", 0).await;
    billy.sees("jerry").await;
    jerry.sees("billy").await;
    jerry.send("jerry", "bobby", "before").await;
    assert!(jerry.answer("before").await.failure.is_none());
    // billy's gateway does not hear of it: its way to the store is cut as the key is revoked.
    site.memory.cut("billy-gateway", Part::Coord);
    let coord = site.memory.coord("operator");
    enrol::advance(&*coord, "jerry-gateway", &jerry.farm.kid(), KeyStatus::Revoked).await.unwrap();
    tokio::time::sleep(Duration::from_secs(61)).await;
    // Whoever has the key writes straight into the boxes.
    let key = KeyFolder::of(jerry.dir.path()).load("jerry-gateway").unwrap();
    let steal = async |to: &str, run: &str| {
        let made = letter(&jerry.world, "jerry", to, run, run);
        let out = Outbound {
            farm_id: "octant",
            source: &agent("jerry"),
            epoch: 7,
            target_gateway: None,
            correlation_id: None,
            ttl_default_ms: 300_000,
            priority: Priority::Normal,
        };
        let bytes = seal_letter(&made, &out, &key).unwrap().to_bytes().unwrap();
        let sealed = Sealed { message_id: made.id.to_string(), attempt: 0, bytes: bytes.into() };
        site.memory.bus("thief").publish(&MailBox::Unit(to.into()), &sealed).await.unwrap();
    };
    steal("bobby", "stolen-1").await;
    steal("billy", "stolen-2").await;
    bobby.until("bobby refuses it", || bobby.farm.events.counts().contains_key(&("farm.msg.rejected", "key_revoked".into()))).await;
    billy.until("billy refuses it", || billy.farm.events.counts().contains_key(&("farm.msg.rejected", "keys_stale".into()))).await;
    site.memory.heal("billy-gateway", Part::Coord);
    tokio::time::sleep(Duration::from_secs(20)).await;
    steal("billy", "stolen-3").await;
    billy.until("billy knows", || billy.farm.events.counts().contains_key(&("farm.msg.rejected", "key_revoked".into()))).await;
    assert_eq!((bobby.echo.handled.lock().unwrap().len(), billy.echo.handled.lock().unwrap().len()), (1, 0));
    let status = bobby.farm.status().await.unwrap();
    assert!(status["refusedLately"].as_array().unwrap().iter().any(|one| one["reason"] == "key_revoked"), "{status}");
}

/// Fault row C5: the store forgets everything, or comes back as it was long ago. Gateways write what they know again, and do
/// not believe records below the epochs they have seen; that is told until it is right again.
#[tokio::test(start_paused = true)]
async fn c5_wiped_or_restored_coordination_data_is_repaired_by_the_gateways() {
    let site = Site::new();
    let (jerry, bobby) = site.pair().await;
    let coord = site.memory.coord("operator");
    tokio::time::sleep(MINUTE).await;
    let everything = async || coord.list("openclaw/").await.unwrap();

    // Wiped.
    for entry in everything().await {
        coord.delete(&entry.key, None).await.unwrap();
    }
    tokio::time::sleep(MINUTE).await;
    let keys: Vec<String> = everything().await.into_iter().map(|entry| entry.key).collect();
    for part in ["members/jerry-gateway", "keys/bobby-gateway/", "shards/agent.jerry", "shards/agent.bobby"] {
        assert!(keys.iter().any(|key| key.starts_with(&format!("openclaw/farm/v1/{part}"))), "{part} is not there again: {keys:?}");
    }
    jerry.send("jerry", "bobby", "after-the-wipe").await;
    assert!(jerry.answer("after-the-wipe").await.failure.is_none());

    // Restored from long ago: bobby's agent at another gateway, under an epoch that is over.
    let shard = "openclaw/farm/v1/shards/agent.bobby";
    let mut record: Value = serde_json::from_slice(&coord.get(shard).await.unwrap().unwrap().value).unwrap();
    (record["epoch"], record["owner"]) = (json!(3), json!("jerry-gateway"));
    coord.put(shard, record.to_string().into()).await.unwrap();
    jerry.until("it is told", || jerry.farm.membership.problems().iter().any(|text| text.contains("went back") && text.contains("agent.bobby"))).await;
    jerry.send("jerry", "bobby", "meanwhile").await;
    assert!(jerry.answer("meanwhile").await.failure.is_none(), "the older record is not believed");
    jerry.until("it is repaired", || jerry.farm.membership.problems().is_empty()).await;
    let record: Value = serde_json::from_slice(&coord.get(shard).await.unwrap().unwrap().value).unwrap();
    assert_eq!((record["epoch"].as_u64(), record["owner"].as_str()), (Some(7), Some("bobby-gateway")));
    drop(bobby);
}

/// Fault row T1: clocks ten minutes apart are named in the status of whoever sees them, and so are the letters that were
/// refused for it.
#[tokio::test(start_paused = true)]
async fn t1_a_wrong_clock_is_named() {
    for (skew_ms, way) in [(600_000, "ahead of"), (-600_000, "behind")] {
        let site = Site::new();
        let jerry = site.raise("jerry-gateway", "jerry", 0).await;
        let bobby = site.raise("bobby-gateway", "bobby", skew_ms).await;
        jerry.sees("bobby").await;
        bobby.sees("jerry").await;
        let named = || {
            let gateways = jerry.farm.membership.gateways();
            gateways.iter().any(|one| {
                one.name == "bobby-gateway" && one.problems.iter().any(|text| text.contains(way) && (text.contains("600 s") || text.contains("599 s")))
            })
        };
        jerry.until("the clock is named", named).await;
        assert!(jerry.farm.membership.gateways().iter().all(|one| one.name != "jerry-gateway" || one.problems.is_empty()), "not our own");
        if skew_ms > 0 {
            bobby.send("bobby", "jerry", "from-the-future").await;
            assert!(bobby.answer("from-the-future").await.failure.unwrap().message.contains("clock_skew"));
            let status = jerry.farm.status().await.unwrap();
            let told = status["refusedLately"].as_array().unwrap();
            assert!(told.iter().any(|one| one["reason"] == "clock_skew" && one["fromGateway"] == "bobby-gateway"), "{status}");
        }
    }
}

/// Two gateways with one name: the second is refused before it writes anything; the first goes on.
#[tokio::test(start_paused = true)]
async fn a_second_gateway_with_the_same_name_is_refused() {
    let site = Site::new();
    let (jerry, bobby) = site.pair().await;
    let (world, dir) = (site.world("bobby-gateway", 0), tempfile::tempdir().unwrap());
    let (second, _) = site.prepare("bobby-gateway", &world, &dir);
    let refused = second.alone().await.unwrap_err();
    assert!(matches!(refused, OpenError::NameTaken { .. }));
    assert!(refused.to_string().starts_with("another gateway named bobby-gateway is running") && refused.to_string().contains("farm.gateway"), "{refused}");
    jerry.send("jerry", "bobby", "still-there").await;
    assert!(jerry.answer("still-there").await.failure.is_none());
    assert!(bobby.farm.membership.problems().is_empty() && jerry.farm.membership.problems().is_empty());
    // Once the first is dead, its name is free.
    bobby.world.tasks.stop(Duration::from_secs(5)).await;
    let (second, _) = site.prepare("bobby-gateway", &world, &dir);
    second.alone().await.unwrap();
    let states: Vec<MailState> = jerry.farm.mailroom.sent(&agent("jerry"), 5).await.unwrap().iter().map(|sent| sent.row.state).collect();
    assert_eq!(states, [MailState::Acked]);
}
