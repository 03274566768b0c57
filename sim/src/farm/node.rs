//! One gateway of a farm: a whole building in a pen, on a store and engines that can be taken from it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use clawstead_agent::{LetterRow, OutboxRow, OutboxState};
use clawstead_bus::memory::Part;
use clawstead_cluster::{envelope::MailState, keys::GatewayKey};
use clawstead_config::{Config, DevFlag, Env, Paths, Profile, ReadOptions, SecretOptions, Snapshot, Strictness};
use clawstead_farm::{engines::Engines, mailroom::SentRow, prepare_on};
use clawstead_gateway::{
    building::{Building, FarmGround, Ground, SetUpWorkspaces},
    live::{Live, Reloaded},
    rpc::system::Process,
};
use clawstead_state::{Crash, Image, MemoryStore, Scan, Store as _, Table, TxError, scan_json};
use clawstead_terms::{AgentId, Failure, Unit};
use clawstead_tools::Places;
use clawstead_wire::device::DeviceIdentity;
use clawstead_world::{Pen, SeededRng, World};

use super::{
    land::{FARM, Land},
    plan::{GatewayPlan, Storage},
};
use crate::{
    actors::{
        brain::Script,
        clock::WallClock,
        platform::{ACCOUNTS, CHANNEL, Phone},
        store::{Death, Watched},
        tools,
    },
    scenario::{LifePlan, StoreFault},
};

/// A folder that is not there: nothing of a simulation touches a disk.
const HOME: &str = "/nonexistent/clawstead-sim";
/// Whoever looks after a gateway starts it again after this time.
const START_AGAIN: Duration = Duration::from_secs(1);

/// A gateway that runs.
pub struct Raised {
    /// The gateway.
    pub building: Building,
    /// Its store.
    pub store: Arc<Watched>,
    /// Its surroundings.
    pub world: World,
    process: Arc<Process>,
    /// Nobody reloads here; a closed channel would end whoever listens.
    _reloads: mpsc::Sender<Reloaded>,
}

struct State {
    up: Option<(Pen, Arc<Raised>)>,
    pen: Pen,
    memory: MemoryStore,
    key: GatewayKey,
    cuts: BTreeMap<Part, u32>,
    store_cuts: u32,
    counts: BTreeMap<(&'static str, String), u64>,
}

/// See the module.
pub struct Node {
    /// What happens to it.
    pub plan: GatewayPlan,
    /// Its wall clock.
    pub clock: WallClock,
    /// How wrong that is.
    pub skew_ms: Arc<AtomicI64>,
    /// True when its bad lives are over.
    pub settled: AtomicBool,
    storage: Storage,
    state: Mutex<State>,
    restart: Notify,
    over: CancellationToken,
    lives: AtomicU64,
}

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Again,
    ForGood,
}

impl Node {
    /// A gateway that does not run yet.
    #[must_use]
    pub fn new(plan: GatewayPlan, storage: Storage, memory: MemoryStore, key: GatewayKey) -> Arc<Self> {
        let skew_ms = Arc::new(AtomicI64::new(plan.skew_ms));
        let state = State { up: None, pen: Pen::new(), memory, key, cuts: BTreeMap::new(), store_cuts: 0, counts: BTreeMap::new() };
        Arc::new(Self {
            plan,
            clock: WallClock::of_life(0, Arc::clone(&skew_ms)),
            skew_ms,
            settled: AtomicBool::new(false),
            storage,
            state: Mutex::new(state),
            restart: Notify::new(),
            over: CancellationToken::new(),
            lives: AtomicU64::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gateway, while it runs.
    #[must_use]
    pub fn up(&self) -> Option<Arc<Raised>> {
        self.state().up.as_ref().map(|(_, raised)| Arc::clone(raised))
    }

    /// Its store below the faults.
    #[must_use]
    pub fn memory(&self) -> MemoryStore {
        self.state().memory.clone()
    }

    /// What is durable.
    #[must_use]
    pub fn image(&self) -> Image {
        self.memory().image()
    }

    /// The key that signs from its next start on.
    #[must_use]
    pub fn key(&self) -> GatewayKey {
        self.state().key.clone()
    }

    /// Events of all its lives by name and reason.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<(&'static str, String), u64> {
        self.state().counts.clone()
    }

    /// Does something in it. None when it does not run, or dies before the answer.
    pub async fn call<T, F, W>(&self, work: W) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
        W: FnOnce(Arc<Raised>) -> F,
    {
        let (pen, raised) = self.state().up.clone()?;
        let (told, heard) = oneshot::channel();
        let work = work(raised);
        pen.spawn(async move {
            let _ = told.send(work.await);
        });
        heard.await.ok()
    }

    /// It stands still for so long.
    pub async fn pause(&self, length: Duration) {
        let pen = self.state().pen.clone();
        pen.hold();
        tokio::time::sleep(length).await;
        pen.release();
    }

    /// It does not reach a part of what gateways share.
    pub async fn cut(&self, land: &Land, part: Part, length: Duration) {
        *self.state().cuts.entry(part).or_default() += 1;
        land.memory.cut(self.plan.name, part);
        tokio::time::sleep(length).await;
        let left = {
            let mut state = self.state();
            let left = state.cuts.entry(part).or_default();
            *left = left.saturating_sub(1);
            *left
        };
        if left == 0 {
            land.memory.heal(self.plan.name, part);
        }
    }

    /// It does not reach its store.
    pub async fn cut_store(&self, length: Duration) {
        self.state().store_cuts += 1;
        self.memory().disconnect("simulated");
        tokio::time::sleep(length).await;
        let mut state = self.state();
        state.store_cuts = state.store_cuts.saturating_sub(1);
        if state.store_cuts == 0 {
            state.memory.reconnect();
        }
    }

    /// Its next writes fail.
    pub async fn break_disk(&self, fault: StoreFault) {
        let memory = self.memory();
        let (path, why) = ("memory".to_owned(), "simulated".to_owned());
        match fault {
            StoreFault::Full(count) => memory.fail_next(count, &TxError::Full { path }),
            StoreFault::Away(count) => memory.fail_next(count, &TxError::Away { path, why, maybe: false }),
            StoreFault::Busy(count) => memory.fail_next(count, &TxError::Busy { path, retry_after_ms: 100 }),
            StoreFault::LostAnswers(count) => memory.lose_next_answers(count),
            StoreFault::Disconnected(ms) => self.cut_store(Duration::from_millis(ms)).await,
        }
    }

    /// It starts again in order, and signs with this key from then on.
    pub fn restart_with(&self, key: GatewayKey) {
        self.state().key = key;
        self.restart.notify_one();
    }

    /// It stops in order and does not come back.
    pub fn stop(&self) {
        self.over.cancel();
    }

    /// All its lives.
    pub async fn exist(self: Arc<Self>, land: Arc<Land>) {
        for life in self.plan.lives.clone() {
            if self.live(&land, Some(life)).await == End::ForGood {
                return;
            }
            tokio::time::sleep(Duration::from_millis(u64::try_from(life.downtime_ms).unwrap_or(0))).await;
        }
        self.settled.store(true, Ordering::Relaxed);
        while self.live(&land, None).await == End::Again {
            tokio::time::sleep(START_AGAIN).await;
        }
    }

    async fn live(&self, land: &Arc<Land>, life: Option<LifePlan>) -> End {
        let outside = &land.outside;
        let (number, died) = (outside.begin_one(), Arc::new(Notify::new()));
        outside.tell("life", format!("{} {number} {life:?}", self.plan.name));
        let pen = Pen::new();
        {
            let mut state = self.state();
            state.pen = pen.clone();
            state.memory = state.memory.clone().with_sync_time(Duration::from_millis(life.map_or(0, |life| life.sync_ms)));
            if state.store_cuts > 0 {
                state.memory.disconnect("simulated");
            }
        }
        let limit = async {
            match life {
                Some(life) => tokio::time::sleep(Duration::from_millis(life.length_ms)).await,
                None => std::future::pending().await,
            }
        };
        let going = async {
            let (told, heard) = oneshot::channel();
            let raise = raise(Arc::clone(land), self.site(number, life, Arc::clone(&died)));
            pen.spawn(async move {
                let _ = told.send(raise.await);
            });
            let raised = match heard.await {
                Ok(Ok(raised)) => Arc::new(raised),
                Ok(Err(why)) => {
                    outside.tell("not-raised", format!("{} {why}", self.plan.name));
                    return None;
                }
                Err(_) => return None,
            };
            outside.tell("raised", format!("{} {}", self.plan.name, raised.building.notices.join("; ")));
            self.state().up = Some((pen.clone(), Arc::clone(&raised)));
            let (asked, failed) = (raised.process.restart.clone(), raised.world.tasks.failed());
            let why = tokio::select! { biased;
                () = self.over.cancelled() => "over",
                () = self.restart.notified() => "restart",
                () = asked.cancelled() => "asked",
                () = failed.cancelled() => {
                    // The process ends and is started again; after the heal nothing may fail any more.
                    outside.tell("vital", self.plan.name);
                    if outside.is_healed() {
                        outside.violation(format!("no_failure: a vital task of {} failed", self.plan.name));
                    }
                    return None;
                }
            };
            Some((raised, why))
        };
        let end = tokio::select! { biased;
            () = died.notified() => None,
            () = limit => Some(None),
            end = going => Some(end),
        };
        let in_order = match end {
            Some(Some((_, why))) => Some(why),
            Some(None) if life.is_some_and(|life| life.in_order) => Some("in order"),
            _ => None,
        };
        if let Some(why) = in_order {
            outside.tell("stop", format!("{} {why}", self.plan.name));
            self.call(|raised| async move {
                raised.building.lanes.drain(Duration::from_secs(20)).await;
                raised.world.tasks.stop(Duration::from_secs(20)).await;
                raised.store.close().await;
            })
            .await;
        } else {
            outside.tell("kill", self.plan.name);
        }
        self.bury(land, &pen, number, life.map_or(Crash::LoseUnanswered, |life| life.crash));
        if in_order == Some("over") { End::ForGood } else { End::Again }
    }

    fn bury(&self, land: &Land, pen: &Pen, number: u64, crash: Crash) {
        pen.end();
        land.outside.end_one(number);
        let mut state = self.state();
        if let Some((_, raised)) = state.up.take()
            && let Some(farm) = raised.building.farm.get()
        {
            for (event, count) in farm.events.counts() {
                *state.counts.entry(event).or_default() += count;
            }
        }
        state.memory.crash(crash);
        state.memory = match self.storage {
            Storage::Own => MemoryStore::on(state.memory.image()),
            Storage::Shared => state.memory.sibling(),
        };
        let memory = state.memory.clone();
        drop(state);
        land.look_at(self, &memory);
    }

    fn site(&self, life: u64, plan: Option<LifePlan>, died: Arc<Notify>) -> Site {
        let state = self.state();
        Site {
            life,
            name: self.plan.name,
            agents: self.plan.agents.clone(),
            number: self.lives.fetch_add(1, Ordering::Relaxed),
            clock: self.clock.clone(),
            memory: state.memory.clone(),
            key: state.key.clone(),
            death: plan.map_or(Death::Never, |life| life.death),
            read_ms: plan.map_or(0, |life| life.read_ms),
            died,
        }
    }

    /// Says what is not done yet; none when all is.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn unfinished(&self) -> Result<Option<String>, Failure> {
        let Some(raised) = self.up() else { return Ok(Some(format!("{} does not run", self.plan.name))) };
        let memory = self.memory();
        for agent in &self.plan.agents {
            let agent = AgentId::normalise(agent);
            let unit = Unit::Agent(agent.clone());
            if let Some(row) = raised.building.desk.rows(&agent).into_iter().find(|row| row.has_active_run()) {
                return Ok(Some(format!("session {} has open runs {:?}", row.key, row.open)));
            }
            let replies = scan_json::<OutboxRow>(&memory, &unit, Table::Outbox, &Scan::prefix(OutboxRow::PREFIX)).await?;
            if let Some(row) = replies.into_iter().find(|row| matches!(row.value.state, OutboxState::Queued | OutboxState::Sending)) {
                return Ok(Some(format!("the reply of {} is {:?} after {} tries", row.value.run_id, row.value.state, row.value.attempts)));
            }
            if let Some(row) = scan_json::<LetterRow>(&memory, &unit, Table::Outbox, &Scan::prefix(LetterRow::PREFIX)).await?.into_iter().next() {
                return Ok(Some(format!("a letter is owed to {}", row.value.to().session)));
            }
            let sent = scan_json::<SentRow>(&memory, &unit, Table::Outbox, &Scan::prefix(clawstead_farm::mailroom::OUT).limit(10_000)).await?;
            if let Some(row) = sent.into_iter().find(|row| !matches!(row.value.row.state, MailState::Acked | MailState::DeadLetter)) {
                let row = row.value;
                return Ok(Some(format!("the letter {} of {agent} to {} is {:?} after {} sends", row.row.message_id, row.head.to, row.row.state, row.row.sends)));
            }
        }
        Ok(None)
    }
}

/// How a gateway is raised.
struct Site {
    life: u64,
    name: &'static str,
    agents: Vec<&'static str>,
    number: u64,
    clock: WallClock,
    memory: MemoryStore,
    key: GatewayKey,
    death: Death,
    read_ms: u64,
    died: Arc<Notify>,
}

fn config(land: &Land, site: &Site) -> Result<(Snapshot, Arc<Config>, Env), String> {
    let home = format!("{HOME}/{}", site.name);
    let env = Env::from_pairs([("HOME", home.as_str())]);
    let profile = Profile::from_flags(None, DevFlag::Off).map_err(|err| err.to_string())?;
    let paths = Paths::resolve(profile, &env);
    let default = site.agents.first().copied().unwrap_or("jerry");
    let anybody = |capabilities: &[&str]| json!({"from": {"agent": "*"}, "to": {"agent": "*"}, "capabilities": capabilities, "effect": "allow"});
    let text = json!({
        "gateway": {"mode": "local", "auth": {"mode": "none"}},
        "agents": {
            "defaults": {"model": {"primary": "sim/m"}, "maxConcurrent": 8, "timeoutSeconds": 60, "userTimezone": "UTC", "heartbeat": {"every": "0s"}},
            "list": site.agents.iter().map(|id| json!({"id": id, "default": *id == default, "workspace": format!("{home}/{id}")})).collect::<Vec<_>>(),
        },
        "tools": {"profile": "full", "agentToAgent": {"enabled": true}},
        "cron": {"enabled": false},
        "farm": {
            "id": FARM,
            "gateway": site.name,
            "roots": [land.root.pin().text()],
            // Names only: the engines themselves are handed over.
            "coord": {"kind": "consul", "addr": "http://127.0.0.1:8500"},
            "bus": {"kind": "consul"},
            "lease": "lan",
            "policy": [
                {"from": {"agent": "outcast"}, "to": {"agent": "*"}, "effect": "deny"},
                anybody(&["sessions.*", "reply"]),
            ],
        },
    })
    .to_string();
    let snapshot = Snapshot::from_bytes(text.as_bytes(), &paths, &env, ReadOptions::default());
    let loaded = snapshot.load(Strictness::Tolerant, SecretOptions::default()).map_err(|invalid| invalid.to_string())?;
    Ok((snapshot, loaded.config, env))
}

async fn raise(land: Arc<Land>, site: Site) -> Result<Raised, String> {
    let (snapshot, config, env) = config(&land, &site)?;
    let outside = &land.outside;
    let salt = site.name.bytes().fold(site.number, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let seed = land.plan.seed ^ salt.rotate_left(17);
    let world = World { clock: Arc::new(site.clock.clone()), rng: Arc::new(SeededRng::new(seed)), ..World::simulated(seed) };
    let store = Arc::new(Watched {
        memory: site.memory.clone(),
        outside: Arc::clone(outside),
        life: site.life,
        name: site.name,
        death: site.death,
        commits: AtomicU64::new(0),
        died: site.died,
        read_ms: site.read_ms,
        replaced: AtomicBool::new(false),
        scribe: Some(land.ledger.clone()),
    });
    let farm = config.farm.as_ref().ok_or("the config has no farm")?;
    let engines = Engines { coord: land.memory.coord(site.name), bus: Some(land.memory.bus(site.name)) };
    let prepared = prepare_on(farm, engines, site.key, &world).map_err(|err| err.to_string())?;
    let (live, _) = Live::new(snapshot, config, env, None, Strictness::Tolerant);
    let (reloads, applied) = mpsc::channel(16);
    let process = Arc::new(Process {
        version: "sim".into(),
        instance: format!("{}-{}", site.name, site.life),
        started: tokio::time::Instant::now(),
        port: 0,
        storage: "memory".into(),
        log_dir: PathBuf::from(HOME),
        log_file: None,
        restart: CancellationToken::new(),
    });
    let building = Building::raise(Ground {
        world: world.clone(),
        store: store.clone(),
        live: live.clone(),
        reloads: applied,
        identity: DeviceIdentity::from_seed(&[u8::try_from(site.name.len() % 250).unwrap_or(7); 32]),
        name: site.name.into(),
        process: process.clone(),
        brain: Some(Arc::new(Script { outside: Arc::clone(outside), life: site.life, window: None })),
        places: Places { state_dir: PathBuf::from(HOME), home: PathBuf::from(HOME), env: BTreeMap::new() },
        further_tools: tools::all(outside, site.life),
        set_up_workspaces: SetUpWorkspaces::No,
        farm: Some(FarmGround { prepared, url: format!("ws://{}:18789", site.name), address: (site.name.to_owned(), 18_789) }),
    })
    .await
    .map_err(|failure| failure.to_string())?;
    for account in ACCOUNTS {
        building.outlets.add(CHANNEL.into(), account.into(), Arc::new(Phone { outside: Arc::clone(outside), life: site.life, account }));
    }
    Ok(Raised { building, store, world, process, _reloads: reloads })
}
