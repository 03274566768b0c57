//! One gateway process: takes the state folder, opens port and store, raises the building, serves until told to stop,
//! and raises it again when a restart is asked for.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use clawstead_config::{Bind, Config, Env, ExecRefs, Invalid, Paths, ReadOptions, SecretOptions, ShellImport, Snapshot, Strictness, keep_last_good};
use clawstead_state::{Holder, LockError, StateDirLock, TxError};
use clawstead_terms::Failure;
use clawstead_tools::Places;
use clawstead_wire::device::DeviceIdentity;
use clawstead_world::{TaskKind, World};

use crate::{
    VERSION,
    building::{Building, FarmGround, Ground, SetUpWorkspaces},
    doors::{self, BindError, Phase, auth::AuthOverrides},
    live::Live,
    rpc::system::Process,
    stores::{self, OpenError, Opened},
};

/// How long a stop waits for turns to be put aside and rows to be written.
const STOP_LIMIT: Duration = Duration::from_secs(20);
pub use crate::stores::DATABASE;

/// How a gateway is started.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Where everything lies.
    pub paths: Paths,
    /// The process environment.
    pub env: Env,
    /// The working folder, for its `.env`.
    pub cwd: Option<PathBuf>,
    /// `--port`; beats `OPENCLAW_GATEWAY_PORT` and the config. 0 takes a free one.
    pub port: Option<u16>,
    /// `--bind`.
    pub bind: Option<Bind>,
    /// `--token`, `--password`, `--auth`.
    pub auth: AuthOverrides,
    /// `gateway.mode` may be missing.
    pub allow_unconfigured: AllowUnconfigured,
}

/// Whether a config file without `gateway.mode` is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllowUnconfigured {
    /// No: such a file counts as damaged.
    #[default]
    No,
    /// `--allow-unconfigured`.
    Yes,
}

/// Why a gateway did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The config cannot be used: exit 78.
    #[error("{0}")]
    Config(Invalid),
    /// `gateway.mode` is missing in an existing file: exit 78.
    #[error(
        "{path} has no gateway.mode, so it may be damaged: restore it from {path}.bak, set it with `openclaw config set gateway.mode local`, or start with --allow-unconfigured"
    )]
    NoMode {
        /// The file.
        path: String,
    },
    /// The config is for a client of another gateway.
    #[error("gateway.mode is \"remote\": this machine is a client of another gateway; set it to \"local\" to run one here")]
    Remote,
    /// Another gateway has the state folder: exit 78 under a supervisor.
    #[error("{0}")]
    Lock(LockError),
    /// The port is not free, or listening there would be unsafe.
    #[error("{0}")]
    Bind(#[from] BindError),
    /// The store cannot be opened.
    #[error("{0}")]
    Store(#[from] OpenError),
    /// The farm that the config names cannot be joined: exit 78.
    #[error("{0}")]
    Farm(String),
    /// The state folder cannot be used.
    #[error("the state folder {path} cannot be used: {why}")]
    StateDir {
        /// The folder.
        path: String,
        /// The cause.
        why: String,
    },
    /// Anything else.
    #[error("{0}")]
    Failure(#[from] Failure),
}

impl StartError {
    /// The exit code that tells supervisors whether trying again helps: 78 means it does not.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::NoMode { .. }
            | Self::Remote
            | Self::Farm(_)
            | Self::Lock(LockError::Held(_))
            | Self::Store(OpenError::NoUrl | OpenError::Store(TxError::Schema { .. } | TxError::Invalid { .. })) => 78,
            _ => 1,
        }
    }
}

/// Why a gateway ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop.
    Stopped,
    /// A part without which nothing works failed; the log says which.
    Failed,
}

/// What is told when a gateway answers.
#[derive(Clone, Debug)]
pub struct Up {
    /// The port.
    pub port: u16,
    /// The addresses.
    pub hosts: Vec<IpAddr>,
    /// The secret for the dashboard, where the mode has one.
    pub token: Option<String>,
    /// The default agent and its model.
    pub agent: String,
    /// `provider/model`.
    pub model: String,
    /// Things to know.
    pub notices: Vec<String>,
    /// From the call of [`run`] to the first answer, ms.
    pub ready_ms: u64,
    /// `gateway.controlUi.basePath`.
    pub base_path: String,
}

/// Runs a gateway until `stop`. `restart` asks for a restart in the process. `up` is called whenever it answers.
///
/// # Errors
/// As [`StartError`] lists. After the first start a failed restart keeps trying only where that can help.
pub async fn run(options: RunOptions, stop: CancellationToken, restart: Arc<tokio::sync::Notify>, mut up: impl FnMut(Up)) -> Result<Ended, StartError> {
    let mut port = None;
    let mut lock = None;
    loop {
        match once(&options, &stop, &restart, &mut port, &mut lock, &mut up).await? {
            Round::Stopped => return Ok(Ended::Stopped),
            Round::Failed => return Ok(Ended::Failed),
            Round::Restart => tracing::info!("restarting in this process"),
        }
    }
}

enum Round {
    Stopped,
    Failed,
    Restart,
}

fn state_dir(path: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| StartError::StateDir { path: path.display().to_string(), why: e.to_string() })
}

/// The gateway's own Ed25519 key, made at the first start.
fn identity(paths: &Paths, world: &World) -> Result<DeviceIdentity, StartError> {
    let fail = |path: &Path, why: String| StartError::StateDir { path: path.display().to_string(), why };
    let path = paths.state_dir.join("identity").join("gateway.pem");
    if let Ok(text) = std::fs::read_to_string(&path) {
        return DeviceIdentity::from_pem(&text).map_err(|e| fail(&path, e.to_string()));
    }
    let mut seed = [0; 32];
    world.rng.fill(&mut seed);
    let made = DeviceIdentity::from_seed(&seed);
    let pem = made.private_pem().map_err(|e| fail(&path, e.to_string()))?;
    let written = (|| {
        use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
        state_dir(path.parent().unwrap_or(&paths.state_dir)).map_err(|e| std::io::Error::other(e.to_string()))?;
        let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path)?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()
    })();
    written.map_err(|e: std::io::Error| fail(&path, e.to_string()))?;
    Ok(made)
}

async fn once(
    options: &RunOptions,
    stop: &CancellationToken,
    restart: &tokio::sync::Notify,
    fixed_port: &mut Option<u16>,
    lock: &mut Option<StateDirLock>,
    up: &mut impl FnMut(Up),
) -> Result<Round, StartError> {
    let began = tokio::time::Instant::now();
    let world = World::real().map_err(|e| Failure::internal(e.to_string()))?;
    let strictness = if options.env.flag("OPENCLAW_STRICT_CONFIG") { Strictness::Strict } else { Strictness::Tolerant };

    // The config, on a blocking thread: files, helpers, the login shell.
    let (paths, env, cwd) = (options.paths.clone(), options.env.clone(), options.cwd.clone());
    let (snapshot, loaded) = tokio::task::spawn_blocking(move || {
        let snapshot = Snapshot::read(&paths, &env, ReadOptions { cwd: cwd.as_deref(), shell: ShellImport::Run });
        let strictness = if snapshot.wants_strict() { Strictness::Strict } else { strictness };
        let loaded = snapshot.load(strictness, SecretOptions { exec: ExecRefs::Run, store: None });
        (snapshot, loaded)
    })
    .await
    .map_err(|e| Failure::internal(e.to_string()))?;
    let loaded = loaded.map_err(StartError::Config)?;
    let config = loaded.config;
    match config.gateway.mode {
        Some(clawstead_config::GatewayMode::Remote) => return Err(StartError::Remote),
        None if snapshot.exists && options.allow_unconfigured == AllowUnconfigured::No => {
            return Err(StartError::NoMode { path: config.paths.display(&config.paths.config_path) });
        }
        _ => {}
    }

    // The doors' settings as given on the command line.
    let door_settings = options.auth.over(doors::DoorSettings::from_config(&config.gateway));
    let wanted_port = fixed_port.or(options.port).or(options.paths.env_port).unwrap_or(config.gateway.port);
    let hosts = doors::addresses(options.bind.unwrap_or(config.gateway.bind), config.gateway.custom_bind_host.as_deref(), tailnet_address())?;

    // Port and state folder first: what is taken is said at once, before anything is touched.
    state_dir(&config.paths.state_dir)?;
    let listeners = doors::bind(&hosts, wanted_port, &door_settings.auth).await?;
    let port = listeners.first().and_then(|l| l.local_addr().ok()).map_or(wanted_port, |a| a.port());
    if lock.is_none() && !options.env.flag("OPENCLAW_ALLOW_MULTI_GATEWAY") {
        let holder = Holder { pid: std::process::id(), port, config_path: config.paths.config_path.clone(), started_at_ms: world.clock.now() };
        *lock = Some(StateDirLock::acquire(&config.paths.state_dir, &holder).map_err(StartError::Lock)?);
    }

    let Opened { store, place, notices: of_store } = stores::open(&config, &world).await?;

    let process = Arc::new(Process {
        version: VERSION.into(),
        instance: world.rng.uuid(),
        started: began,
        port,
        storage: place,
        log_dir: config.paths.log_dir.clone(),
        log_file: config.logging.file.clone(),
        restart: CancellationToken::new(),
    });
    let identity = identity(&config.paths, &world)?;
    let mut notices: Vec<String> = loaded.notices.iter().map(clawstead_config::Issue::located).collect();
    notices.extend(loaded.unresolved.iter().map(|u| format!("{}: the secret is not resolved: {}", clawstead_config::join_path(&u.path), u.reason)));
    notices.extend(of_store);
    let good = snapshot.clone();
    let (live, reloads) = Live::new(snapshot, config.clone(), options.env.clone(), options.cwd.clone(), strictness);
    live.keep_overrides(options.auth.clone());
    let ground = Ground {
        world: world.clone(),
        store: store.clone(),
        live: live.clone(),
        reloads,
        identity,
        name: options.paths.profile.name().map_or_else(|| "gateway".to_owned(), |name| format!("gateway-{name}")),
        process: process.clone(),
        brain: None,
        places: Places::of_process(config.paths.state_dir.clone()),
        further_tools: Vec::new(),
        set_up_workspaces: SetUpWorkspaces::Yes,
        farm: joining(&config, &hosts, port, &world).await?,
    };
    let building = Building::raise(ground).await?;
    notices.extend(building.notices.iter().cloned());

    for listener in listeners {
        let doors = building.doors.clone();
        world.tasks.spawn(TaskKind::vital("listener"), async move {
            doors::serve(listener, doors).await;
            Ok::<(), Failure>(())
        });
    }
    building.doors.set_phase(Phase::Ready);
    if config.gateway.reload != clawstead_config::ReloadMode::Off
        && let Err(err) = live.watch(&world)
    {
        tracing::warn!(err = %err, "the config file cannot be watched; changes are taken up at the next restart");
    }
    let models = building.minds.models.load();
    let chosen = config.agents.default_agent().model.primary.clone().unwrap_or_else(|| models.default_model().to_string());
    drop(models);
    for notice in &notices {
        tracing::warn!("{notice}");
    }
    up(Up {
        port,
        hosts,
        token: door_settings.auth.token.clone(),
        agent: config.default_agent().to_string(),
        model: chosen,
        notices,
        ready_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        base_path: config.gateway.control_ui.base_path.clone(),
    });
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    // A start that works makes its config the last good one.
    tokio::task::spawn_blocking(move || keep_last_good(&good));

    let failed = world.tasks.failed();
    let round = tokio::select! {
        biased;
        () = failed.cancelled() => Round::Failed,
        () = stop.cancelled() => Round::Stopped,
        () = restart.notified() => Round::Restart,
        () = process.restart.cancelled() => Round::Restart,
    };
    let going_on = matches!(round, Round::Restart);
    if going_on {
        *fixed_port = Some(port);
    } else {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    }
    building.doors.say_goodbye(going_on.then_some(1_000));
    if !going_on && let Some(ownership) = building.farm.get().and_then(clawstead_farm::Farm::ownership) {
        // Other gateways go on with what we have, without waiting for our silence.
        ownership.leave(STOP_LIMIT).await;
    }
    let put_aside = building.lanes.drain(STOP_LIMIT).await;
    if put_aside > 0 {
        tracing::warn!(turns = put_aside, "turns did not end in time; they go on at the next start");
    }
    if !world.tasks.stop(STOP_LIMIT).await {
        tracing::warn!("some tasks did not end in time");
    }
    store.close().await;
    Ok(round)
}

/// This machine's Tailscale address: the first one in 100.64.0.0/10.
fn tailnet_address() -> Option<IpAddr> {
    // Connecting a datagram socket sends nothing; it only asks the routing table which address would be used.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("100.100.100.100:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    match address {
        IpAddr::V4(v4) if v4.octets()[0] == 100 && (64..128).contains(&v4.octets()[1]) => Some(address),
        _ => None,
    }
}

/// What joining the farm needs, when the config names one that others are part of.
async fn joining(config: &Config, hosts: &[IpAddr], port: u16, world: &World) -> Result<Option<FarmGround>, StartError> {
    let Some(farm) = &config.farm else { return Ok(None) };
    let prepared = clawstead_farm::prepare(farm, &config.paths.state_dir, world).map_err(|err| StartError::Farm(err.to_string()))?;
    let Some(prepared) = prepared else { return Ok(None) };
    let (host, port) = clawstead_farm::reach::address(farm, hosts, port).await;
    Ok(Some(FarmGround { prepared, url: format!("ws://{}:{port}", clawstead_farm::reach::bracketed(&host)), address: (host, port) }))
}
