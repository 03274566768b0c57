//! One whole gateway on simulated ground.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use clawstead_agent::{LetterRow, OutboxRow, OutboxState};
use clawstead_config::{Config, DevFlag, Env, Paths, Profile, ReadOptions, SecretOptions, Snapshot, Strictness, diff, plan};
use clawstead_gateway::{
    building::{Building, Ground, SetUpWorkspaces},
    cron::job::{SlotEnd, SlotRow},
    live::{Live, Reloaded},
    rpc::system::Process,
};
use clawstead_state::{MemoryStore, Scan, Table, scan_json};
use clawstead_terms::{AgentId, Failure, Unit};
use clawstead_tools::Places;
use clawstead_wire::device::DeviceIdentity;
use clawstead_world::{SeededRng, World};

use crate::{
    actors::{
        brain::Script,
        clock::WallClock,
        platform::{ACCOUNTS, CHANNEL, Phone},
        store::{Death, Watched},
        tools,
    },
    outside::Outside,
    scenario::{AGENTS, Plan},
};

/// A folder that is not there: nothing of a simulation touches a disk.
const HOME: &str = "/nonexistent/clawstead-sim";

/// A gateway that runs.
pub struct House {
    /// The gateway.
    pub building: Building,
    /// Its store below the faults.
    pub memory: MemoryStore,
    /// Its store.
    pub store: Arc<Watched>,
    /// Its surroundings.
    pub world: World,
    /// The config in force.
    pub live: Arc<Live>,
    /// Asked for a restart.
    pub process: Arc<Process>,
    reloads: mpsc::Sender<Reloaded>,
    plan: Plan,
}

/// The config of a plan in one of its variants.
///
/// # Errors
/// When it is not valid, which is a fault of the simulator.
pub fn config(scenario: &Plan, variant: u64) -> Result<(Snapshot, Arc<Config>, Env), String> {
    let env = Env::from_pairs([("HOME", HOME)]);
    let profile = Profile::from_flags(None, DevFlag::Off).map_err(|err| err.to_string())?;
    let paths = Paths::resolve(profile, &env);
    let heartbeat = format!("{}s", scenario.heartbeat_s);
    let (turns, mode) = [(8, "steer"), (2, "followup"), (1, "collect"), (4, "interrupt")][usize::try_from(variant % 4).unwrap_or(0)];
    let text = json!({
        "gateway": {"mode": "local", "auth": {"mode": "none"}},
        "agents": {
            "defaults": {
                "model": {"primary": "sim/m"},
                "maxConcurrent": turns,
                "timeoutSeconds": 60,
                "userTimezone": "UTC",
                "heartbeat": {"every": heartbeat},
            },
            "list": AGENTS.map(|id| json!({"id": id, "default": id == "jerry", "workspace": format!("{HOME}/{id}")})),
        },
        "tools": {"profile": "full", "agentToAgent": {"enabled": true}},
        "session": {"dmScope": if scenario.seed % 2 == 0 { "main" } else { "per-channel-peer" }},
        "messages": {"queue": {"mode": mode}},
        "cron": {"enabled": true, "maxConcurrentRuns": 1 + variant % 3},
        "bindings": [{"agentId": "bobby", "match": {"channel": CHANNEL, "accountId": "idem"}}],
    })
    .to_string();
    let snapshot = Snapshot::from_bytes(text.as_bytes(), &paths, &env, ReadOptions::default());
    let loaded = snapshot.load(Strictness::Tolerant, SecretOptions::default()).map_err(|invalid| invalid.to_string())?;
    Ok((snapshot, loaded.config, env))
}

/// How a house is raised.
pub struct Site<'a> {
    /// What everybody shares.
    pub outside: &'a Arc<Outside>,
    /// The plan.
    pub plan: &'a Plan,
    /// The life it belongs to.
    pub life: u64,
    /// Its clock.
    pub clock: &'a WallClock,
    /// Its store.
    pub memory: MemoryStore,
    /// Its name in fences and in the log.
    pub name: &'static str,
    /// When it dies.
    pub death: Death,
    /// Told when it dies.
    pub died: Arc<Notify>,
    /// Milliseconds every read takes.
    pub read_ms: u64,
    /// Variant of the config.
    pub config: u64,
}

impl House {
    /// Raises one.
    ///
    /// # Errors
    /// As [`Building::raise`].
    pub async fn raise(site: Site<'_>) -> Result<Self, Failure> {
        let Site { outside, plan, life, clock, memory, name, death, died, read_ms, config: variant } = site;
        let (snapshot, config, env) = config(plan, variant).map_err(Failure::internal)?;
        let salt = name.bytes().fold(life, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let world = World { clock: Arc::new(clock.clone()), rng: Arc::new(SeededRng::new(plan.seed ^ salt.rotate_left(17))), ..World::simulated(plan.seed) };
        let store = Arc::new(Watched {
            memory: memory.clone(),
            outside: Arc::clone(outside),
            life,
            name,
            death,
            commits: AtomicU64::new(0),
            died,
            read_ms,
            replaced: AtomicBool::new(false),
            scribe: None,
        });
        let (live, _) = Live::new(snapshot, config, env, None, Strictness::Tolerant);
        let (reloads, applied) = mpsc::channel(16);
        let process = Arc::new(Process {
            version: "sim".into(),
            instance: format!("life-{life}"),
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
            identity: DeviceIdentity::from_seed(&[7; 32]),
            name: name.into(),
            process: process.clone(),
            brain: Some(Arc::new(Script { outside: Arc::clone(outside), life, window: plan.window })),
            places: Places { state_dir: PathBuf::from(HOME), home: PathBuf::from(HOME), env: std::collections::BTreeMap::new() },
            further_tools: tools::all(outside, life),
            set_up_workspaces: SetUpWorkspaces::No,
            farm: None,
        })
        .await?;
        for account in ACCOUNTS {
            building.outlets.add(CHANNEL.into(), account.into(), Arc::new(Phone { outside: Arc::clone(outside), life, account }));
        }
        Ok(Self { building, memory, store, world, live, process, reloads, plan: plan.clone() })
    }

    /// Takes another variant of the config into force.
    ///
    /// # Errors
    /// When it is not valid.
    pub async fn reload(&self, variant: u64) -> Result<(), String> {
        let (_, new, _) = config(&self.plan, variant)?;
        let old = self.live.config.load_full();
        let changed = diff(old.root(), new.root());
        if changed.is_empty() {
            return Ok(());
        }
        self.live.config.store(new.clone());
        let reloaded = Reloaded { old, new, plan: plan(&changed), changed };
        self.reloads.send(reloaded).await.map_err(|_| "nobody takes reloads".to_owned())
    }

    /// Says what is not done yet; none when all is.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn unfinished(&self) -> Result<Option<String>, Failure> {
        for agent in AGENTS {
            let agent = AgentId::normalise(agent);
            let unit = Unit::Agent(agent.clone());
            if let Some(row) = self.building.desk.rows(&agent).into_iter().find(|row| row.has_active_run()) {
                return Ok(Some(format!("session {} has open runs {:?}", row.key, row.open)));
            }
            let replies = scan_json::<OutboxRow>(&self.memory, &unit, Table::Outbox, &Scan::prefix(OutboxRow::PREFIX)).await?;
            if let Some(row) = replies.into_iter().find(|row| matches!(row.value.state, OutboxState::Queued | OutboxState::Sending)) {
                return Ok(Some(format!("the reply of {} is {:?} after {} tries", row.value.run_id, row.value.state, row.value.attempts)));
            }
            if let Some(row) = scan_json::<LetterRow>(&self.memory, &unit, Table::Outbox, &Scan::prefix(LetterRow::PREFIX)).await?.into_iter().next() {
                return Ok(Some(format!("a letter is owed to {}", row.value.to().session)));
            }
            let slots = scan_json::<SlotRow>(&self.memory, &unit, Table::CronRuns, &Scan::prefix("")).await?;
            if let Some(slot) = slots.into_iter().find(|slot| slot.value.end == SlotEnd::Started) {
                return Ok(Some(format!("the cron instant {} has no end", slot.key)));
            }
        }
        Ok(None)
    }

    /// Ends it in order, as the run loop does.
    pub async fn stop(&self) {
        self.building.lanes.drain(Duration::from_secs(20)).await;
        self.world.tasks.stop(Duration::from_secs(20)).await;
        clawstead_state::Store::close(self.store.as_ref()).await;
    }

    /// Another gateway has everything now.
    pub fn replaced(&self) {
        self.store.replaced.store(true, Ordering::Relaxed);
    }
}
