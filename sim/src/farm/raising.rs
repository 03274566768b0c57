//! A gateway is raised: its config, its world, its store, and the building on them.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
};

use serde_json::json;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use clawstead_cluster::keys::GatewayKey;
use clawstead_config::{Config, DevFlag, Env, Paths, Profile, ReadOptions, SecretOptions, Snapshot, Strictness};
use clawstead_farm::{engines::Engines, prepare_on};
use clawstead_gateway::{
    building::{Building, FarmGround, Ground, SetUpWorkspaces},
    live::{Live, Reloaded},
    rpc::system::Process,
    stores::COMMON_META,
};
use clawstead_state::{MemoryStore, Shared, Store};
use clawstead_tools::Places;
use clawstead_wire::device::DeviceIdentity;
use clawstead_world::{SeededRng, World};

use super::{
    land::{FARM, Land},
    plan::Storage,
};
use crate::actors::{
    brain::Script,
    clock::WallClock,
    platform::{ACCOUNTS, CHANNEL, Phone},
    store::{Death, Watched},
    tools,
};

/// A folder that is not there: nothing of a simulation touches a disk.
const HOME: &str = "/nonexistent/clawstead-sim";

/// A gateway that runs.
pub struct Raised {
    /// The gateway.
    pub building: Building,
    /// Its store.
    pub store: Arc<Watched>,
    /// Its surroundings.
    pub world: World,
    /// The process that it believes to be.
    pub process: Arc<Process>,
    /// Nobody reloads here; a closed channel would end whoever listens.
    _reloads: mpsc::Sender<Reloaded>,
}

/// How a gateway is raised.
pub struct Site {
    /// The life.
    pub life: u64,
    /// Its name.
    pub name: &'static str,
    /// The agents of its config.
    pub agents: Vec<&'static str>,
    /// Where it keeps its rows.
    pub storage: Storage,
    /// How often it was raised before.
    pub number: u64,
    /// Its wall clock.
    pub clock: WallClock,
    /// Its store.
    pub memory: MemoryStore,
    /// The key that signs.
    pub key: GatewayKey,
    /// When it dies.
    pub death: Death,
    /// Milliseconds every read takes.
    pub read_ms: u64,
    /// Told when it dies.
    pub died: Arc<Notify>,
}

fn config(land: &Land, site: &Site) -> Result<(Snapshot, Arc<Config>, Env), String> {
    let home = format!("{HOME}/{}", site.name);
    let env = Env::from_pairs([("HOME", home.as_str())]);
    let profile = Profile::from_flags(None, DevFlag::Off).map_err(|err| err.to_string())?;
    let paths = Paths::resolve(profile, &env);
    let default = site.agents.first().copied().unwrap_or("jerry");
    let anybody = |capabilities: &[&str]| json!({"from": {"agent": "*"}, "to": {"agent": "*"}, "capabilities": capabilities, "effect": "allow"});
    let mut text = json!({
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
    });
    if site.storage == Storage::Shared {
        // A name only, like the engines: the store is handed over.
        text["farm"]["state"] = json!({"kind": "postgres", "url": "postgres://sim@127.0.0.1/sim"});
        text["farm"]["home"] = land.plan.gateways.iter().flat_map(|gateway| gateway.agents.iter().map(|agent| (*agent, json!([gateway.name])))).collect();
    }
    let text = text.to_string();
    let snapshot = Snapshot::from_bytes(text.as_bytes(), &paths, &env, ReadOptions::default());
    let loaded = snapshot.load(Strictness::Tolerant, SecretOptions::default()).map_err(|invalid| invalid.to_string())?;
    Ok((snapshot, loaded.config, env))
}

/// Raises it. Call inside its pen.
///
/// # Errors
/// Why it does not start.
pub async fn raise(land: Arc<Land>, site: Site) -> Result<Raised, String> {
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
    let below: Arc<dyn Store> = match site.storage {
        Storage::Own => store.clone(),
        Storage::Shared => Arc::new(Shared::new(store.clone(), site.name, COMMON_META)),
    };
    let building = Building::raise(Ground {
        world: world.clone(),
        store: below,
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
