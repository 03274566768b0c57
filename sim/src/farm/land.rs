//! What all gateways of a farm stand on: the engines between them, the farm's root, the ledger; and whoever breaks
//! things.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use clawstead_bus::{
    Coord,
    memory::{Memory, Part},
};
use clawstead_cluster::keys::{ApprovedKey, FarmRoot, GatewayKey, KeyRecord, KeyStatus};
use clawstead_state::MemoryStore;
use clawstead_terms::Millis;
use clawstead_world::{Rng, SeededRng};

use super::{
    air::Air,
    ledger::Ledger,
    node::Node,
    plan::{FarmPlan, Fault, Storage},
    stranger::Stranger,
};
use crate::{
    actors::clock::{BEGIN_MS, WallClock},
    evidence::Evidence,
    invariants::{INVARIANTS, When},
    outside::Outside,
};

/// The farm's name.
pub const FARM: &str = "octant";
/// Keys are valid from this long before the begin, ms: clocks are wrong.
const VALID_BEFORE_MS: i64 = 10 * 86_400_000;
/// Keys are valid this long, ms.
const VALID_MS: i64 = 90 * 86_400_000;
/// Everybody has heard of a new key after this time, as `farm rotate` waits.
const SPREAD: Duration = Duration::from_secs(300);

/// See the module.
pub struct Land {
    /// What happens.
    pub plan: FarmPlan,
    /// What everybody shares.
    pub outside: Arc<Outside>,
    /// What was written and carried.
    pub ledger: Arc<Ledger>,
    /// What is between the gateways.
    pub air: Arc<Air>,
    /// The engines.
    pub memory: Memory,
    /// The farm's root.
    pub root: FarmRoot,
    /// The gateways.
    pub nodes: Vec<Arc<Node>>,
    /// The other one.
    pub stranger: Stranger,
    rng: SeededRng,
    approved: Mutex<Vec<(&'static str, ApprovedKey)>>,
    breaking: AtomicUsize,
}

impl Land {
    /// A farm whose gateways do not run yet. Call inside a runtime with paused time.
    ///
    /// # Errors
    /// When a key cannot be made, which is a fault of the simulator.
    pub async fn new(plan: FarmPlan, outside: Arc<Outside>) -> Result<Arc<Self>, String> {
        outside.set_clock(WallClock::of_life(0, Arc::default()));
        let ledger = Ledger::new(Arc::clone(&outside));
        let air = Air::new(plan.seed, Arc::clone(&ledger));
        let memory = Memory::with_faults(air.clone());
        let rng = SeededRng::new(plan.seed.rotate_left(7) ^ 0x00fa_12a5);
        let root = FarmRoot::generate(&rng);
        let server = MemoryStore::new();
        let (mut nodes, mut approved) = (Vec::new(), Vec::new());
        for gateway in &plan.gateways {
            let key = GatewayKey::generate(gateway.name, &rng).map_err(|err| err.to_string())?;
            approved.push((gateway.name, approve(&root, &key)));
            let store = match plan.storage {
                Storage::Own => MemoryStore::new(),
                Storage::Shared => server.sibling(),
            };
            nodes.push(Node::new(gateway.clone(), plan.storage, store, key));
        }
        let stranger = Stranger::new(&root, &rng)?;
        let land =
            Self { plan, outside, ledger, air, memory, root, nodes, stranger, rng, approved: Mutex::new(approved.clone()), breaking: AtomicUsize::new(0) };
        for (_, key) in &approved {
            land.publish(key.stage(KeyStatus::Active)).await;
        }
        for record in land.stranger.records() {
            land.publish(&record).await;
        }
        let plan = &land.plan;
        land.air.set_mail(plan.letters_weather, plan.receipts_weather);
        land.air.set_requests(plan.watch_late_ms, plan.troubled);
        Ok(Arc::new(land))
    }

    /// The coordination store as the operator reaches it.
    #[must_use]
    pub fn operator(&self) -> Arc<dyn Coord> {
        self.memory.coord("operator")
    }

    /// Writes a key record, again and again until the store has it.
    pub async fn publish(&self, record: &KeyRecord) {
        let Ok(json) = serde_json::to_vec(record) else { return };
        while let Err(err) = self.operator().put(&record.store_key(), json.clone().into()).await {
            self.outside.log(format!("the operator waits: {err}"));
        }
    }

    /// The gateway of that name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.iter().find(|node| node.plan.name == name)
    }

    /// The gateway at which an agent lives now; where it moves, one that may take it when nobody has it.
    #[must_use]
    pub fn home(&self, agent: &str) -> Option<&Arc<Node>> {
        let planned = self.nodes.iter().find(|node| node.plan.agents.contains(&agent));
        match self.plan.storage {
            Storage::Own => planned,
            Storage::Shared => self.nodes.iter().find(|node| node.holds(agent)).or(planned),
        }
    }

    /// Starts gateways, faults and the stranger.
    pub fn wake_up(self: &Arc<Self>) {
        for node in &self.nodes {
            tokio::spawn(Arc::clone(node).exist(Arc::clone(self)));
        }
        self.breaking.store(self.plan.faults.len() + self.plan.letters.len(), Ordering::Relaxed);
        for (at, fault) in self.plan.faults.clone() {
            let land = Arc::clone(self);
            tokio::spawn(async move {
                land.until(at).await;
                land.outside.tell("fault", format!("{fault:?}"));
                land.break_one(&fault).await;
                land.outside.log(format!("over: {fault:?}"));
                land.breaking.fetch_sub(1, Ordering::Relaxed);
            });
        }
        for (number, (at, kind, to)) in self.plan.letters.clone().into_iter().enumerate() {
            let land = Arc::clone(self);
            tokio::spawn(async move {
                land.until(at).await;
                land.stranger.write(&land, number, kind, to).await;
                land.breaking.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }

    /// Waits until that true time.
    pub async fn until(&self, at_ms: i64) {
        let wait = u64::try_from(at_ms - self.outside.now_ms()).unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }

    /// True when all faults are over and all gateways are in a good life.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.breaking.load(Ordering::Relaxed) == 0 && self.nodes.iter().all(|node| node.settled.load(Ordering::Relaxed))
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        self.outside.heal();
        self.air.heal();
        for node in &self.nodes {
            node.skew_ms.store(0, Ordering::Relaxed);
            node.memory().clear_faults();
        }
        self.outside.tell("heal", "");
    }

    async fn break_one(&self, fault: &Fault) {
        let node = |name: &&'static str| self.node(name).cloned();
        let time = |ms: &u64| Duration::from_millis(*ms);
        match fault {
            Fault::Pause(name, ms) => {
                if let Some(node) = node(name) {
                    node.pause(time(ms)).await;
                }
            }
            Fault::CutCoord(name, ms) => {
                if let Some(node) = node(name) {
                    node.cut(self, Part::Coord, time(ms)).await;
                }
            }
            Fault::CutBus(name, ms) => {
                if let Some(node) = node(name) {
                    node.cut(self, Part::Bus, time(ms)).await;
                }
            }
            Fault::CutStore(name, ms) => {
                if let Some(node) = node(name) {
                    node.cut_store(time(ms)).await;
                }
            }
            Fault::Jump(name, ms) => {
                if let Some(node) = node(name) {
                    node.skew_ms.fetch_add(*ms, Ordering::Relaxed);
                }
            }
            Fault::Disk(name, fault) => {
                if let Some(node) = node(name) {
                    node.break_disk(*fault).await;
                }
            }
            Fault::Watch(name) => self.air.break_watches(name),
            Fault::LoseMail => self.memory.lose_mail(),
            Fault::Rotate(name) => self.rotate(name).await,
        }
    }

    /// A gateway gets a new key: published first, in force when everybody knows it.
    async fn rotate(&self, name: &'static str) {
        let Some(node) = self.node(name).cloned() else { return };
        let Ok(key) = GatewayKey::generate(name, &self.rng) else { return };
        let new = approve(&self.root, &key);
        self.publish(new.stage(KeyStatus::Next)).await;
        tokio::time::sleep(SPREAD).await;
        self.publish(new.stage(KeyStatus::Active)).await;
        let old: Vec<KeyRecord> = {
            let mut approved = self.approved.lock().unwrap_or_else(PoisonError::into_inner);
            let old = approved.iter().filter(|(gateway, _)| *gateway == name).map(|(_, key)| key.stage(KeyStatus::Retiring).clone()).collect();
            approved.push((name, new));
            old
        };
        for record in old {
            self.publish(&record).await;
        }
        node.restart_with(key);
    }

    /// A number below the bound.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        self.rng.below(bound)
    }

    /// Private keys as they must stand nowhere.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        let pems = self.nodes.iter().filter_map(|node| node.key().to_pem().ok()).chain(self.root.to_pem().ok());
        pems.flat_map(|pem| pem.lines().filter(|line| !line.starts_with('-') && !line.is_empty()).map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    /// Looks at what a gateway left: whatever happened, some things hold.
    pub fn look_at(&self, node: &Node, memory: &MemoryStore) {
        if let Err(err) = self.ledger.read(memory) {
            self.outside.violation(format!("the store of {} cannot be read: {err}", node.plan.name));
        }
        let mut evidence = match Evidence::read(&self.outside, memory) {
            Ok(evidence) => evidence,
            Err(err) => return self.outside.violation(format!("the store of {} cannot be read: {err}", node.plan.name)),
        };
        if node.storage == Storage::Own {
            evidence.taken.retain(|taken| node.plan.agents.contains(&taken.agent.as_str()));
        }
        evidence.arrivals.clear();
        for invariant in INVARIANTS.iter().filter(|invariant| invariant.when == When::Always) {
            for fault in (invariant.check)(&evidence) {
                self.outside.violation(format!("{} at {}: {fault}", invariant.name, node.plan.name));
            }
        }
        let ends = evidence.ends();
        self.outside.seen().ends.extend(ends);
    }
}

/// Vouches for a key.
#[must_use]
pub fn approve(root: &FarmRoot, key: &GatewayKey) -> ApprovedKey {
    let from = Millis(BEGIN_MS - VALID_BEFORE_MS);
    root.approve(key.gateway(), &key.public(), from, from.plus(VALID_MS))
}
