//! The composition root: one gateway from its parts. It reads top to bottom; nothing below it knows the whole.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use clawstead_a2a::server::A2a;
use clawstead_agent::{Brain, Lanes, Parts as LaneParts, RunSink, SessionChange, workspace};
use clawstead_config::{Config, HotPart};
use clawstead_farm::ownership::Witness;
use clawstead_providers::Models;
use clawstead_state::{Scan, Store, Table};
use clawstead_terms::{AgentId, Failure, RunEvent, SessionKey, Unit};
use clawstead_tools::{AnyTool, Places, Rpc, Toolbox};
use clawstead_wire::device::DeviceIdentity;
use clawstead_wire::methods;
use clawstead_world::{Post, TaskKind, World};

use crate::{
    a2a::{self, A2aSend},
    accounts::Accounts,
    approvals::Approvals,
    brain::{HealthRows, Minds},
    cron::{self, Broadcast, Cron},
    desk::Desk,
    devices::Devices,
    doors::{DoorParts, Doors, Facts, Mounts, history, hooks, openai},
    fanout::{Fanout, SessionRows},
    farm as farmside, hub, import,
    keeper::{self, Claims, Keeper},
    live::{Live, Reloaded},
    observe,
    outbox::{Outbox, Outlets},
    post_office::PostOffice,
    presence::Presence,
    rpc::{self, Router, system::Process},
    settings::{self, Agents},
    shown, skill_jobs,
    suspend::Suspension,
    taps::Taps,
    tool_calls::ToolCalls,
    toolbox::Tools,
    vitals,
};

/// How often the house is tidied.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// How often stored sign-ins are looked at: what a command stored is in force this soon.
const SIGN_INS_EVERY: Duration = Duration::from_secs(5);
/// Ended runs stay in the ledger this long: repeats of a call are known that long.
const RUNS_KEPT_MS: i64 = 7 * 86_400_000;
/// How often ended A2A tasks are looked through for old ones; they are kept as long as runs.
const TASKS_EVERY: Duration = Duration::from_secs(3_600);

/// What a gateway stands on. `cli` gives the real things, `sim` gives simulated ones.
pub struct Ground {
    /// Clock, randomness, HTTP, tasks.
    pub world: World,
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// The config in force, and its reloads.
    pub live: Arc<Live>,
    /// Reloads of `live`.
    pub reloads: mpsc::Receiver<Reloaded>,
    /// The gateway's own key.
    pub identity: DeviceIdentity,
    /// Its name in fences and logs.
    pub name: String,
    /// This process.
    pub process: Arc<Process>,
    /// Who answers; none means the models of the config.
    pub brain: Option<Arc<dyn Brain>>,
    /// Where tools stand.
    pub places: Places,
    /// Tools besides the built-in ones: of plugins, of simulations.
    pub further_tools: Vec<Arc<dyn AnyTool>>,
    /// Files of workspaces are made where they are missing.
    pub set_up_workspaces: SetUpWorkspaces,
    /// The farm that this gateway is to join; none for one that stands alone.
    pub farm: Option<FarmGround>,
}

/// What joining a farm needs.
pub struct FarmGround {
    /// Engines and key.
    pub prepared: clawstead_farm::Prepared,
    /// Where clients reach us, `ws://host:port`.
    pub url: String,
    /// Host and port for the engine's discovery.
    pub address: (String, u16),
}

/// Whether missing workspace files are made at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetUpWorkspaces {
    /// Yes, in the background.
    Yes,
    /// No (simulations).
    No,
}

/// A gateway that runs. Dropping it stops nothing: stop `world.tasks`.
pub struct Building {
    /// Turns.
    pub lanes: Lanes,
    /// The one door.
    pub post: Arc<PostOffice>,
    /// Sessions and runs.
    pub desk: Arc<Desk>,
    /// Scheduled work.
    pub cron: Cron,
    /// Channel accounts.
    pub accounts: Accounts,
    /// Replies on their way.
    pub outbox: Outbox,
    /// Who can send.
    pub outlets: Arc<Outlets>,
    /// Who listens.
    pub fanout: Fanout,
    /// The doors, not open yet.
    pub doors: Arc<Doors>,
    /// The store with our fences.
    pub keeper: Keeper,
    /// Models.
    pub minds: Arc<Minds>,
    /// Things to say at the start: channels that are not there, models that are odd.
    pub notices: Vec<String>,
    /// The farm, where there is one.
    pub farm: farmside::Cell,
}

/// What happens in lanes, told to listeners and the outbox.
struct Hall {
    fanout: Fanout,
    outbox: Outbox,
    taps: Taps,
    world: World,
}

impl RunSink for Hall {
    fn emit(&self, event: RunEvent) {
        self.fanout.run(&event);
        self.taps.run(&event);
    }

    fn session_changed(&self, change: SessionChange) {
        self.fanout.session_changed(&change.key, change.reason, self.world.clock.now().0, Map::new());
    }

    fn outbox_grew(&self, agent: &AgentId) {
        self.outbox.grew(agent);
    }
}

struct News(Fanout);

impl Broadcast for News {
    fn broadcast(&self, event: &'static str, payload: Value) {
        self.0.send(event, &payload);
    }
}

struct Rows {
    lanes: Lanes,
    world: World,
}

impl SessionRows for Rows {
    fn row(&self, key: &SessionKey) -> Option<Map<String, Value>> {
        let row = self.lanes.session(key)?;
        match shown::session(&row, self.world.clock.now()) {
            Value::Object(map) => Some(map),
            _ => None,
        }
    }
}

struct Folders(Arc<ArcSwap<Config>>);

impl rpc::surfaces::Workspaces for Folders {
    fn workspaces(&self) -> Vec<(String, String)> {
        self.0.load().agents.list.iter().map(|a| (a.id.to_string(), a.workspace.display().to_string())).collect()
    }
}

/// The units that this gateway holds for as long as it runs.
fn units(config: &Config, moves: bool) -> Vec<Unit> {
    let mut units = vec![Unit::Global];
    if moves {
        return units;
    }
    units.extend(config.agents.list.iter().map(|a| Unit::Agent(a.id.clone())));
    units.extend(Accounts::units(&settings::channels(config)));
    units
}

/// Takes the units that this gateway holds for as long as it runs.
async fn hold(keeper: &Keeper, farm: Option<&clawstead_farm::Prepared>, config: &Config, name: &str, incarnation: u64) -> Result<(), Failure> {
    let moves = farm.is_some_and(clawstead_farm::Prepared::moves);
    if let Some(farm) = farm {
        // Before anything is written that others of this name would notice.
        farm.alone().await.map_err(|err| Failure::invalid(err.to_string()))?;
    }
    let pinned = units(config, moves);
    keeper.claim(&pinned, name, incarnation).await?;
    if let Some(farm) = farm.filter(|_| !moves) {
        farmside::above(keeper, farm.epochs(&pinned).await, name, incarnation).await?;
    }
    // Agents of programs stay with the gateway where they registered, also where others move.
    let guests = hub::units(keeper, config).await?;
    keeper.claim(&guests, name, incarnation).await?;
    if let Some(farm) = farm {
        farmside::above(keeper, farm.epochs(&guests).await, name, incarnation).await?;
    }
    Ok(())
}

impl Building {
    /// Raises a gateway: takes its units, reads its rows, resumes what was unfinished, starts cron and channels.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn raise(ground: Ground) -> Result<Self, Failure> {
        let Ground { world, store, live, reloads, identity, name, process, brain, places, mut further_tools, set_up_workspaces, farm: joining } = ground;
        let config = live.config.clone();
        let now = config.load_full();
        let mut notices = Vec::new();
        let known_as = joining.as_ref().map_or(name.as_str(), |ground| ground.prepared.gateway());
        observe::begin(&now, &world, &process.version, &process.instance, known_as);

        // What is ours. Where units move, agents and accounts are claimed one by one, later and for ever.
        let moves = joining.as_ref().is_some_and(|ground| ground.prepared.moves());
        let (witness, seen) = Witness::new(store.clone());
        let store: Arc<dyn Store> = if moves { Arc::new(witness) } else { store };
        let keeper = Keeper { store: store.clone(), claims: Arc::new(Claims::default()) };
        let incarnation = u64::try_from(world.clock.now().0).unwrap_or(0);
        // In a farm the others know us by this name.
        let name = joining.as_ref().map_or(name, |ground| ground.prepared.gateway().to_owned());
        hold(&keeper, joining.as_ref().map(|ground| &ground.prepared), &now, &name, incarnation).await?;
        let global = keeper.claims.get(&Unit::Global).ok_or_else(|| Failure::internal("the global unit was not taken"))?;

        // What an older OpenClaw left, once; before anything reads its rows.
        if !moves {
            import::run(&keeper, &now, &world).await?;
        }

        // Who listens, who is paired, who is connected.
        let fanout = Fanout::new();
        let news: Arc<dyn Broadcast> = Arc::new(News(fanout.clone()));
        let devices = Arc::new(Devices::load(store.clone(), global.clone(), world.clone()).await.map_err(keeper::sort)?);
        devices.when_gone({
            let fanout = fanout.clone();
            move |device, role| fanout.close_device(device, role, "client invalidated: removed or revoked at another gateway")
        });
        let (host, ..) = vitals::machine();
        let presence = Arc::new(Presence::new(&host, &process.version, &process.instance, world.clock.now().0));

        // Models, tools and their policy.
        let health = HealthRows::start(keeper.clone(), &world);
        let rows = store.scan(&Unit::Global, Table::Models, &Scan::prefix("")).await.map_err(keeper::sort)?;
        // Looked at before they are read: one stored in between is seen as changed later, not missed.
        let sign_ins = settings::sign_ins(&now);
        let models = Models::new(world.clone(), settings::models(&now)).with_health(health.clone(), rows.into_iter().map(|row| (row.key, row.value)));
        notices.extend(models.warnings().iter().cloned());
        let minds = Arc::new(Minds { models: ArcSwap::from_pointee(models) });
        let approvals = Approvals::new(keeper.clone(), world.clone(), news.clone());
        let farm = farmside::Cell::default();
        let tool_calls = Arc::new(ToolCalls::new(approvals.clone(), config.clone(), world.clone(), farm.clone()));
        if now.a2a.as_ref().is_some_and(|a2a| a2a.enabled || !a2a.remotes.is_empty()) {
            further_tools.push(Arc::new(A2aSend::new(config.clone())));
        }
        if now.a2a.as_ref().is_some_and(|a2a| a2a.enabled) {
            further_tools.push(Arc::new(a2a::A2aTask::new(keeper.clone())));
        }
        let vault = hub::open_vault(&now, &world, &mut notices).await;
        further_tools.extend(vault.iter().flat_map(hub::vault_tools));
        let tools = Arc::new(Tools::new(Arc::new(Toolbox::with(places, further_tools)), config.clone()));

        // The one door, the lanes behind it, the way out.
        let agents = Arc::new(Agents::of(&now));
        let suspension = Suspension::new(world.clone());
        let post = Arc::new(PostOffice::new(config.clone(), suspension.clone(), farm.clone()));
        let programs = hub::Cell::default();
        post.know_programs(programs.clone());
        let outlets = Arc::new(Outlets::default());
        let outbox = Outbox::start(keeper.clone(), world.clone(), outlets.clone(), now.agents.list.iter().map(|a| a.id.clone()));
        let taps = Taps::default();
        let lanes = Lanes::new(LaneParts {
            world: world.clone(),
            store: store.clone(),
            settings: agents.clone(),
            brain: brain.unwrap_or_else(|| minds.clone()),
            toolbox: tools.clone(),
            sink: Arc::new(Hall { fanout: fanout.clone(), outbox: outbox.clone(), taps: taps.clone(), world: world.clone() }),
            post: post.clone(),
            rpc: tool_calls.clone() as Arc<dyn Rpc>,
            limits: settings::lane_limits(&now),
        });
        fanout.set_session_rows(Arc::new(Rows { lanes: lanes.clone(), world: world.clone() }));
        post.open(lanes.clone());
        let desk = Arc::new(Desk::new(lanes.clone(), config.clone(), keeper.clone(), outbox.clone(), agents.clone(), world.clone()));

        // Rooms that start by themselves.
        let parts = cron::Parts {
            keeper: keeper.clone(),
            world: world.clone(),
            post: post.clone(),
            desk: desk.clone(),
            news: news.clone(),
            storage: process.storage.clone(),
            instance: process.instance.clone(),
        };
        let book = Arc::new(ArcSwap::from_pointee(settings::book(&now)));
        let accounts = Accounts::new(world.clone(), keeper.clone(), post.clone() as Arc<dyn Post>, book.clone(), outlets.clone());

        // Methods. Lanes resume after the router is there: their tools may call it at once.
        let cron = Cron::prepare(parts, settings::cron(&now));
        let chat = rpc::chat::ChatRpc {
            desk: desk.clone(),
            post: post.clone(),
            minds: minds.clone(),
            config: config.clone(),
            fanout: fanout.clone(),
            world: world.clone(),
            farm: farm.clone(),
            programs: programs.clone(),
        };
        let chat = Arc::new(chat);
        let system = Arc::new(rpc::system::SystemRpc {
            config: config.clone(),
            desk: desk.clone(),
            cron: cron.clone(),
            accounts: accounts.clone(),
            minds: minds.clone(),
            world: world.clone(),
            process: process.clone(),
            suspension,
        });
        let tools_rpc = Arc::new(rpc::tools::ToolsRpc { tools: tools.clone(), desk: desk.clone(), rpc: tool_calls.clone(), world: world.clone() });
        let device = Arc::new(identity.clone());
        let router = Router::new()
            .mount(methods::system::mount(system.as_ref().clone()))
            .mount(methods::presence::mount(rpc::presence::PresenceRpc { presence: presence.clone(), identity, world: world.clone() }))
            .mount(methods::chat::mount(chat.as_ref().clone()))
            .mount(methods::sessions::mount(rpc::sessions::SessionsRpc { chat: chat.clone(), keeper: keeper.clone() }))
            .mount(methods::models::mount(rpc::models::ModelsRpc { minds: minds.clone(), config: config.clone(), world: world.clone() }))
            .mount(methods::agents::mount(rpc::agents::AgentsRpc { live: live.clone(), desk: desk.clone(), world: world.clone(), farm: farm.clone() }))
            .mount(methods::config::mount(rpc::config::ConfigRpc { live: live.clone(), world: world.clone(), news: news.clone() }))
            .mount(methods::cron::mount(rpc::cron::CronRpc { cron: cron.clone(), world: world.clone() }))
            .mount(methods::channels::mount(rpc::channels::ChannelsRpc {
                accounts: accounts.clone(),
                outlets: outlets.clone(),
                outbox: outbox.clone(),
                desk: desk.clone(),
                world: world.clone(),
            }))
            .mount(methods::devices::mount(rpc::devices::DevicesRpc { devices: devices.clone(), fanout: fanout.clone(), world: world.clone() }))
            .mount(methods::nodes::mount(rpc::nodes::NodesRpc { devices: devices.clone(), fanout: fanout.clone(), world: world.clone() }))
            .mount(methods::farm::mount(rpc::farm::FarmRpc { farm: farm.clone() }))
            .mount(methods::approvals::mount(rpc::approvals::ApprovalsRpc { approvals, storage: process.storage.clone() }))
            .mount(methods::tools::mount(tools_rpc.as_ref().clone()))
            .mount(methods::questions::mount(rpc::questions::QuestionsRpc))
            .mount(methods::surfaces::mount(rpc::surfaces::SurfacesRpc {
                store: store.clone(),
                fence: global,
                boot_id: process.instance.clone(),
                workspaces: Arc::new(Folders(config.clone())),
                prefs: tokio::sync::Mutex::default(),
            }));
        let router = Arc::new(router);
        router.reach(farmside::Elsewhere::new(farm.clone(), fanout.clone(), lanes.clone(), config.clone(), world.clone()));
        tool_calls.open(router.clone(), lanes.clone(), post.clone());

        // Now the past goes on.
        for one in &now.agents.list {
            if let Some(fence) = keeper.claims.get(&Unit::Agent(one.id.clone())) {
                lanes.adopt(&one.id, fence).await?;
            }
        }
        cron.begin().await?;
        let at_peers_call = Arc::new(farmside::Desk {
            router: router.clone(),
            fanout: fanout.clone(),
            lanes: lanes.clone(),
            config: config.clone(),
            farm: farm.clone(),
            world: world.clone(),
            limiter: std::sync::Mutex::default(),
            open: std::sync::OnceLock::new(),
            outbox: outbox.clone(),
        });
        let joining_programs = hub::Parts {
            name: name.clone(),
            config: config.clone(),
            farm: farm.clone(),
            keeper: keeper.clone(),
            post: post.clone(),
            lanes: lanes.clone(),
            world: world.clone(),
            incarnation,
        };
        if let Some(host) = hub::open(joining_programs) {
            let _ = programs.set(host);
        }
        let answers_a2a = a2a::Cell::default();
        if let Some(FarmGround { prepared, url, address }) = joining {
            let of_agents = farmside::Handler { post: post.clone(), lanes: lanes.clone(), calls: tool_calls.clone(), world: world.clone() };
            let ground = clawstead_farm::Ground {
                keeper: keeper.clone(),
                url,
                address,
                version: process.version.clone(),
                incarnation,
                agents: if moves { Vec::new() } else { farmside::facts(&now) },
                handler: Arc::new(hub::Front { inner: Arc::new(of_agents), hub: programs.clone(), farm: farm.clone() }),
                relay: Arc::new(a2a::Front { inner: at_peers_call.clone(), a2a: answers_a2a.clone() }),
            };
            let joined = prepared.open(ground).await.map_err(|err| Failure::unavailable(err.to_string(), 1_000))?;
            observe::broadcast(&joined.events, fanout.clone(), &world);
            hub::tell_of_ours(&joined, &now);
            let _ = farm.set(joined);
        }
        notices.extend(accounts.apply(&settings::channels(&now)));

        // Callers of other houses.
        let a2a_parts = a2a::Parts {
            config: config.clone(),
            post: post.clone(),
            desk: desk.clone(),
            taps: taps.clone(),
            keeper: keeper.clone(),
            world: world.clone(),
            farm: farm.clone(),
            identity: device,
        };
        let (a2a, of_a2a) = a2a::open(now.a2a.as_ref(), process.port, a2a_parts)?;
        notices.extend(of_a2a);
        if let Some(a2a) = &a2a {
            let _ = answers_a2a.set(a2a.clone());
        }
        for one in lanes.agents() {
            a2a::recover(a2a.as_ref(), &one).await?;
        }

        let hooked = config.clone();
        let hooks = hooks::open(chat.clone(), cron.clone(), config.clone(), keeper.clone());
        let observed = Arc::new(observe::Collector {
            world: world.clone(),
            lanes: lanes.clone(),
            fanout: fanout.clone(),
            farm: farm.clone(),
            rows_read: tokio::sync::Mutex::default(),
        });
        let mounts = Mounts {
            mcp: programs.get().and_then(|host| hub::routes(host, vault, &mut notices)),
            v1: Some(openai::routes(chat, config.clone(), taps)),
            hooks: Some(hooks::routes(hooks.clone())),
            sessions: Some(history::routes(desk.clone())),
            hooks_path: Some(Arc::new(move || hooked.load().hooks.path.clone())),
            tools: Some(tools_rpc),
            a2a: a2a.as_ref().map(A2a::router),
            metrics: Some(observe::routes(observed)),
            ..Mounts::default()
        };
        let doors = Doors::new(DoorParts {
            world: world.clone(),
            settings: live.door_settings(&now),
            facts: facts(&now, &minds),
            devices,
            presence,
            fanout: fanout.clone(),
            router,
            mounts,
        });
        let _ = at_peers_call.open.set((doors.clone(), hooks));

        if let Some(joined) = farm.get().filter(|_| moves) {
            let landlord = farmside::Landlord {
                keeper: keeper.clone(),
                lanes: lanes.clone(),
                cron: cron.clone(),
                accounts: accounts.clone(),
                outbox: outbox.clone(),
                farm: farm.clone(),
                config: config.clone(),
                a2a: a2a.clone(),
                world: world.clone(),
                busy: std::sync::Mutex::default(),
            };
            outbox.carry(Arc::new(farmside::ReplyCarrier(farm.clone())));
            joined.own(&world, Arc::new(landlord), seen, farmside::movables(&now));
        }

        let building = Self { lanes, post, desk, cron, accounts, outbox, outlets, fanout, doors, keeper, minds, notices, farm };
        let janitor = Janitor {
            world: world.clone(),
            live,
            name,
            incarnation,
            agents,
            book,
            health,
            system,
            lanes: building.lanes.clone(),
            cron: building.cron.clone(),
            accounts: building.accounts.clone(),
            outbox: building.outbox.clone(),
            keeper: building.keeper.clone(),
            minds: building.minds.clone(),
            doors: building.doors.clone(),
            desk: building.desk.clone(),
            farm: building.farm.clone(),
            a2a,
            process,
            sign_ins,
        };
        janitor.start(reloads, set_up_workspaces);
        Ok(building)
    }
}

fn facts(config: &Config, minds: &Minds) -> Facts {
    let default = config.agents.default_agent();
    let models = minds.models.load();
    let sole = config.agents.list.len() == 1;
    Facts {
        session_defaults: json!({
            "defaultAgentId": default.id,
            "modelConfigured": !models.nothing_configured(),
            "ownership": if sole { "sole" } else { "explicit" },
            "selectionRequired": false,
            "mainKey": "main",
            "mainSessionKey": SessionKey::main(&default.id),
            "scope": if config.session.global { "global" } else { "per-sender" },
        }),
        config_path: config.paths.config_path.display().to_string(),
        state_dir: config.paths.state_dir.display().to_string(),
        applied_config_hash: Some(config.hash.clone()).filter(|hash| !hash.is_empty()),
        capabilities: vec!["published-model-catalog"],
        default_agent: default.id.to_string(),
        assistant_name: default.identity.name.clone().or_else(|| default.name.clone()).unwrap_or_else(|| "Assistant".into()),
        failing: Vec::new(),
    }
}

/// Looks after the house: reloads, tidying, health, skills.
struct Janitor {
    world: World,
    live: Arc<Live>,
    name: String,
    incarnation: u64,
    agents: Arc<Agents>,
    book: Arc<ArcSwap<crate::reception::Book>>,
    health: Arc<HealthRows>,
    system: Arc<rpc::system::SystemRpc>,
    lanes: Lanes,
    cron: Cron,
    accounts: Accounts,
    outbox: Outbox,
    keeper: Keeper,
    minds: Arc<Minds>,
    doors: Arc<Doors>,
    desk: Arc<Desk>,
    farm: farmside::Cell,
    a2a: Option<A2a>,
    process: Arc<Process>,
    /// How the files of stored sign-ins looked when the models in use were made.
    sign_ins: Vec<(u64, Option<std::time::SystemTime>)>,
}

impl Janitor {
    fn start(mut self, mut reloads: mpsc::Receiver<Reloaded>, set_up: SetUpWorkspaces) {
        let stop = self.world.tasks.stopping();
        let world = self.world.clone();
        world.tasks.spawn::<_, Failure>(TaskKind::vital("janitor"), async move {
            let config = self.live.config.load_full();
            if set_up == SetUpWorkspaces::Yes {
                self.set_up(&config).await;
            }
            self.minds.models.load_full().discover_in_background();
            self.skills(&config).await;
            let mut tidy = tokio::time::interval_at(tokio::time::Instant::now() + TIDY_EVERY, TIDY_EVERY);
            tidy.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut look = tokio::time::interval_at(tokio::time::Instant::now() + SIGN_INS_EVERY, SIGN_INS_EVERY);
            look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut tasks = tokio::time::interval_at(tokio::time::Instant::now() + TASKS_EVERY, TASKS_EVERY);
            tasks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    reload = reloads.recv() => match reload {
                        Some(reload) => self.reload(&reload).await,
                        None => return Ok(()),
                    },
                    _ = tidy.tick() => self.tidy().await,
                    _ = tasks.tick() => self.forget_tasks().await,
                    _ = look.tick() => {
                        let config = self.live.config.load_full();
                        let seen = settings::sign_ins(&config);
                        if seen != self.sign_ins {
                            self.sign_ins = seen;
                            self.models(&config);
                            self.doors.set_facts(facts(&config, &self.minds));
                        }
                    }
                }
            }
        });
    }

    async fn set_up(&self, config: &Config) {
        let folders: Vec<PathBuf> = config.agents.list.iter().map(|a| a.workspace.clone()).filter(|w| !w.join("AGENTS.md").exists()).collect();
        if folders.is_empty() {
            return;
        }
        let now = self.world.clock.now();
        let made = self.world.tasks.blocking(move || {
            for folder in folders {
                if let Err(err) = workspace::set_up(&folder, now, workspace::Git::WhenNew) {
                    tracing::warn!(workspace = %folder.display(), err = %err, "a workspace could not be made");
                }
            }
        });
        if made.await.is_none() {
            tracing::warn!("making workspaces ended early");
        }
    }

    async fn skills(&self, config: &Config) {
        for one in config.agents.list.iter().filter(|one| self.keeper.claims.get(&Unit::Agent(one.id.clone())).is_some()) {
            let Some(settings) = self.desk.settings(&one.id) else { continue };
            let (lanes, now) = (self.lanes.clone(), self.world.clock.now());
            let Some(skills) = self.world.tasks.blocking(move || lanes.contexts().skills(&settings, now)).await else { continue };
            for warning in &skills.warnings {
                tracing::warn!(agent = %one.id, "{warning}");
            }
            if let Err(failure) = skill_jobs::sync(&self.cron, &one.id, &skills, &self.world).await {
                tracing::warn!(agent = %one.id, err = %failure, "schedules of skills could not be stored");
            }
        }
    }

    async fn tidy(&self) {
        let config = self.live.config.load_full();
        let before = self.world.clock.now().plus(-RUNS_KEPT_MS);
        for one in config.agents.list.iter().filter(|one| self.keeper.claims.get(&Unit::Agent(one.id.clone())).is_some()) {
            let done = async {
                self.lanes.tidy_subagents(&one.id).await?;
                self.outbox.prune(&Unit::Agent(one.id.clone())).await?;
                self.lanes.prune_runs(&one.id, before, 500).await
            };
            if let Err(failure) = done.await {
                tracing::warn!(agent = %one.id, err = %failure, "tidying up did not work, it is tried again in a minute");
            }
        }
        for (unit, _) in self.keeper.claims.all().into_iter().filter(|(unit, _)| matches!(unit, Unit::Account(..))) {
            if let Err(failure) = self.outbox.prune(&unit).await {
                tracing::warn!(%unit, err = %failure, "tidying up did not work, it is tried again in a minute");
            }
        }
        if self.doors.fanout().listeners() > 0 {
            self.doors.fanout().health(self.system.summary().await);
        }
    }

    /// Forgets A2A tasks that ended long ago.
    async fn forget_tasks(&self) {
        let Some(a2a) = &self.a2a else { return };
        let before = self.world.clock.now().plus(-RUNS_KEPT_MS);
        for one in self.lanes.agents() {
            if let Err(err) = a2a.prune(one.as_str(), before).await {
                tracing::warn!(agent = %one, %err, "old A2A tasks could not be forgotten, it is tried again in an hour");
            }
        }
    }

    async fn reload(&self, reload: &Reloaded) {
        let new = &reload.new;
        self.agents.replace(new);
        self.book.store(Arc::new(settings::book(new)));
        if let Err(failure) = self.roster(&reload.old, new).await {
            tracing::error!(err = %failure, "agents of the new config could not be taken up");
        }
        let hot = |part: &HotPart| reload.plan.hot.contains(part);
        let touches = |root: &str| reload.changed.iter().any(|path| path.first().is_some_and(|first| first == root));
        if touches("models") || touches("auth") || touches("agents") || hot(&HotPart::Models) {
            self.models(new);
        }
        if (touches("cron") || touches("agents") || hot(&HotPart::Heartbeat))
            && let Err(failure) = self.cron.reload(settings::cron(new)).await
        {
            tracing::error!(err = %failure, "cron could not take the new config up");
        }
        if touches("channels") {
            for notice in self.accounts.apply(&settings::channels(new)) {
                tracing::warn!("{notice}");
            }
        }
        self.doors.set_settings(self.live.door_settings(new));
        self.doors.set_facts(facts(new, &self.minds));
        if touches("skills") || touches("agents") {
            self.skills(new).await;
        }
        self.doors.fanout().sessions_invalidated("config-reload", self.world.clock.now().0);
        if reload.plan.needs_restart() {
            tracing::info!(paths = reload.plan.restart.join(", "), "this change of the config needs a restart; it happens now, running turns go on afterwards");
            self.process.restart.cancel();
        }
    }

    /// Builds the registry of models anew.
    fn models(&self, config: &Config) {
        let rows = self.minds.models.load().health_rows();
        let models = Models::new(self.world.clone(), settings::models(config)).with_health(self.health.clone(), rows);
        self.minds.models.store(Arc::new(models));
        self.minds.models.load_full().discover_in_background();
    }

    /// Agents and accounts that came or went.
    async fn roster(&self, old: &Config, new: &Config) -> Result<(), Failure> {
        for came in new.agents.list.iter().filter(|agent| old.agents.get(agent.id.as_str()).is_none()) {
            // One of a program's agents had this name: the config goes first.
            let unit = Unit::Agent(came.id.clone());
            if self.lanes.agents().iter().all(|agent| *agent != came.id) && self.keeper.claims.get(&unit).is_some() {
                self.keeper.claims.give_up(&unit);
            }
        }
        let held: BTreeSet<Unit> = self.keeper.claims.all().into_iter().map(|(unit, _)| unit).collect();
        let moves = self.farm.get().is_some_and(|farm| farm.ownership().is_some());
        let fresh: Vec<Unit> = units(new, moves).into_iter().filter(|unit| !held.contains(unit)).collect();
        self.keeper.claim(&fresh, &self.name, self.incarnation).await?;
        for unit in &fresh {
            if let (Unit::Agent(agent), Some(fence)) = (unit, self.keeper.claims.get(unit)) {
                self.lanes.adopt(agent, fence).await?;
                a2a::recover(self.a2a.as_ref(), agent).await?;
                if let Some(farm) = self.farm.get() {
                    farm.mailroom.take_over(unit.clone()).await?;
                }
            }
        }
        if let Some(ownership) = self.farm.get().and_then(|farm| farm.ownership()) {
            ownership.set_units(farmside::movables(new));
        }
        for gone in old.agents.list.iter().filter(|a| !moves && new.agents.get(a.id.as_str()).is_none()) {
            if let Some(a2a) = &self.a2a {
                a2a.release(gone.id.as_str()).await;
            }
            self.lanes.release(&gone.id, Duration::from_secs(30)).await;
            self.keeper.claims.give_up(&Unit::Agent(gone.id.clone()));
            if let Some(farm) = self.farm.get() {
                farm.mailroom.let_go(Unit::Agent(gone.id.clone())).await;
            }
        }
        if let Some(farm) = self.farm.get() {
            let here = |fact: &clawstead_farm::membership::AgentFacts| self.keeper.claims.get(&Unit::Agent(AgentId::normalise(&fact.id))).is_some();
            farm.membership.set_agents(farmside::facts(new).into_iter().filter(here).collect()).await;
            hub::tell_of_ours(farm, new);
            if let Some(config) = &new.farm
                && let Err(why) = farm.take_up(config)
            {
                tracing::error!("{why}; what was before stays in force");
            }
        }
        self.set_up(new).await;
        Ok(())
    }
}
