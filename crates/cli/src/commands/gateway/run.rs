//! `openclaw gateway run`: a gateway in the foreground.

use std::{
    io::IsTerminal as _,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::builder::PossibleValuesParser;
use clawstead_config::{AuthMode, Bind, Config, Profile, Snapshot, Strictness};
use clawstead_gateway::{
    doors::auth::AuthOverrides,
    logs::{FileLog, FileLogOptions},
    run::{AllowUnconfigured, Ended, RunOptions, StartError, Up, run as run_gateway},
};
use clawstead_state::LockError;
use owo_colors::OwoColorize as _;
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use super::service::{signal, wait_until};
use crate::{COMPATIBLE, OWN, commands::Outcome, cx::Cx, fail::Fail, local, log, pages, print};

/// Worker threads at most: a gateway waits more than it computes.
const WORKERS_MAX: usize = 4;
/// Threads for files, databases and programs at most.
const BLOCKING_MAX: usize = 64;
/// How long `--force` waits for the process on the port before it is killed.
const FORCE_WAIT: Duration = Duration::from_secs(10);

/// Start the gateway in the foreground.
#[derive(clap::Args, Default)]
#[group(skip)]
#[command(
    after_help = "Examples:\n  openclaw gateway run\n  openclaw gateway run --port 19001 --verbose\n  openclaw --dev gateway --dev            A throw-away gateway beside your own"
)]
pub struct Args {
    /// Port [default: OPENCLAW_GATEWAY_PORT, gateway.port, 18789]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Who may reach it [default: gateway.bind, loopback]
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(["loopback", "lan", "tailnet", "auto", "custom"]))]
    bind: Option<String>,
    /// How clients show who they are
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(["none", "token", "password", "trusted-proxy"]))]
    auth: Option<String>,
    /// Shared token [default: config, OPENCLAW_GATEWAY_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Shared password (visible in process listings; better: --password-file)
    #[arg(long, value_name = "PASSWORD")]
    password: Option<String>,
    /// File that holds the password
    #[arg(long, value_name = "PATH", conflicts_with = "password")]
    password_file: Option<PathBuf>,
    /// Tailscale exposure; managed outside of this program
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(["off", "serve", "funnel"]))]
    tailscale: Option<String>,
    /// Start although gateway.mode is not set; nothing is written to the config
    #[arg(long)]
    allow_unconfigured: bool,
    /// First stop whatever listens on the port
    #[arg(long)]
    force: bool,
    /// Make a development config and workspace when there is none
    #[arg(long)]
    dev: bool,
    /// With --dev: remove the development state first
    #[arg(long, requires = "dev")]
    reset: bool,
    /// Channels may configure themselves from environment variables
    #[arg(long, alias = "dev-ambient-channels", hide = true)]
    ambient_channels: bool,
    /// More on the console
    #[arg(long)]
    verbose: bool,
    /// How frames are logged: auto, full, compact
    #[arg(long, value_name = "STYLE", hide = true)]
    ws_log: Option<String>,
    /// Same as --ws-log compact
    #[arg(long, hide = true)]
    compact: bool,
    /// Console shows only the output of command-line models
    #[arg(long, alias = "claude-cli-logs", hide = true)]
    cli_backend_logs: bool,
    /// Write raw model streams as JSON lines
    #[arg(long, hide = true)]
    raw_stream: bool,
    /// Where raw model streams go
    #[arg(long, value_name = "PATH", hide = true)]
    raw_stream_path: Option<PathBuf>,
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    if args.dev {
        prepare_dev(&args, cx)?;
    }
    let (snapshot, config) = cx.config_or_defaults();
    let usable = snapshot.blocking(if snapshot.wants_strict() { Strictness::Strict } else { Strictness::Tolerant }).is_empty();
    let options = options(&args, cx, &snapshot, &config, usable)?;
    let port = options.port.or(cx.paths.env_port).unwrap_or(config.gateway.port);
    if args.force {
        free_port(cx, port)?;
    }
    let _log = start_log(&args, cx, &config)?;
    for (given, flag) in [
        (args.raw_stream || args.raw_stream_path.is_some(), "--raw-stream"),
        (args.ambient_channels, "--ambient-channels"),
        (args.cli_backend_logs, "--cli-backend-logs"),
    ] {
        if given {
            tracing::warn!("{flag} has no effect in this program");
        }
    }
    if args.tailscale.as_deref().is_some_and(|mode| mode != "off") {
        tracing::warn!("--tailscale: run `tailscale serve {port}` yourself; this program does not manage Tailscale");
    }
    let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(1, WORKERS_MAX);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(workers).max_blocking_threads(BLOCKING_MAX).thread_name("openclaw").enable_all().build()?;
    let shown = Shown {
        state: cx.paths.display(&cx.paths.state_dir),
        log: super::status::log_file(cx, &config),
        agents: config.agents.list.len(),
        tls: config.gateway.tls.enabled,
    };
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        let restart = Arc::new(Notify::new());
        listen_for_signals(&stop, &restart)?;
        Ok::<_, Fail>(
            run_gateway(options, stop, restart, |up| {
                banner(&shown, &up);
                pages::give_back_start_pages();
            })
            .await,
        )
    })?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    match ended {
        Ok(Ended::Stopped) => Ok(0),
        Ok(Ended::Failed) => Ok(1),
        Err(err) => Ok(explain(&err, port)),
    }
}

fn options(args: &Args, cx: &Cx, snapshot: &Snapshot, config: &Config, usable: bool) -> Result<RunOptions, Fail> {
    let mut env = cx.env.clone();
    let auth_mode = args.auth.as_deref().and_then(AuthMode::parse);
    let password = match &args.password_file {
        Some(path) => Some(
            std::fs::read_to_string(path)
                .map_err(|err| Fail::new(format!("--password-file {}: {err}", path.display())))?
                .trim_end_matches(['\r', '\n'])
                .to_owned(),
        ),
        None => args.password.clone(),
    };
    let wants_token = auth_mode.unwrap_or(config.gateway.auth.mode) == AuthMode::Token && password.is_none();
    let known = args.token.is_some() || config.gateway.auth.token.is_some();
    let damaged = snapshot.exists && config.gateway.mode.is_none() && !args.allow_unconfigured;
    if usable && wants_token && !known && !damaged {
        // Safe without any set-up: a token made once, found again by every command of this machine. Given as the
        // environment would give it, so that a config that brings a token later is obeyed.
        if let Some(token) = local::gateway_token_or_new(cx, config)? {
            env.set("OPENCLAW_GATEWAY_TOKEN", token.expose());
        }
    }
    // Also in the environment, where a config may refer to them.
    for (name, given) in [("OPENCLAW_GATEWAY_TOKEN", &args.token), ("OPENCLAW_GATEWAY_PASSWORD", &password)] {
        if let Some(secret) = given {
            env.set(name, secret.as_str());
        }
    }
    Ok(RunOptions {
        paths: cx.paths.clone(),
        env,
        cwd: std::env::current_dir().ok(),
        port: args.port,
        bind: args.bind.as_deref().and_then(Bind::parse),
        auth: AuthOverrides {
            token: args.token.clone(),
            mode: auth_mode.or(if password.is_some() && args.token.is_none() && !config.gateway.auth.mode_explicit { Some(AuthMode::Password) } else { None }),
            password,
        },
        allow_unconfigured: if args.allow_unconfigured { AllowUnconfigured::Yes } else { AllowUnconfigured::No },
    })
}

fn start_log(args: &Args, cx: &Cx, config: &Config) -> Result<impl Drop + use<>, Fail> {
    let forced = cx.globals.log_level.clone().or_else(|| cx.env.trimmed("OPENCLAW_LOG_LEVEL").map(str::to_owned));
    let file_level = log::filter(forced.as_deref().unwrap_or(&config.logging.level));
    let console_level = match (&forced, args.verbose) {
        (Some(level), _) => log::filter(level),
        (None, true) => LevelFilter::DEBUG,
        (None, false) => log::filter(&config.logging.console_level),
    };
    let options = FileLogOptions { dir: cx.paths.log_dir.clone(), file: config.logging.file.clone(), bytes_max: config.logging.max_file_bytes, version: OWN };
    let (file, guard) = FileLog::open(options).map_err(|err| Fail::new(format!("The log cannot be opened: {err}")))?;
    let colour = std::io::stderr().is_terminal() && !cx.globals.no_colour && cx.env.get("NO_COLOR").is_none();
    let json_console = config.logging.console_style == "json";
    let console = (!json_console).then(|| {
        tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(colour)
            .event_format(log::Pretty { colour })
            .with_filter(log::targets(console_level))
    });
    tracing_subscriber::registry().with(file.with_filter(log::targets(file_level))).with(console).try_init().map_err(|err| Fail::new(err.to_string()))?;
    Ok(guard)
}

fn listen_for_signals(stop: &CancellationToken, restart: &Arc<Notify>) -> Result<(), Fail> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    // SIGUSR1 asked for a restart until March, SIGUSR2 does today.
    let mut usr1 = signal(SignalKind::user_defined1())?;
    let mut usr2 = signal(SignalKind::user_defined2())?;
    let (stop, restart) = (stop.clone(), Arc::clone(restart));
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                biased;
                _ = term.recv() => "SIGTERM",
                _ = int.recv() => "SIGINT",
                _ = usr1.recv() => "SIGUSR1",
                _ = usr2.recv() => "SIGUSR2",
            };
            if name.starts_with("SIGUSR") {
                tracing::info!(target: "clawstead_gateway", "received {name}; restarting");
                restart.notify_one();
            } else if stop.is_cancelled() {
                tracing::warn!(target: "clawstead_gateway", "received {name} again; leaving now");
                std::process::exit(130);
            } else {
                tracing::info!(target: "clawstead_gateway", "received {name}; shutting down");
                stop.cancel();
            }
        }
    });
    Ok(())
}

struct Shown {
    state: String,
    log: String,
    agents: usize,
    tls: bool,
}

/// The first lines a person sees.
fn banner(shown: &Shown, up: &Up) {
    let scheme = if shown.tls { "https" } else { "http" };
    let base = up.base_path.trim_end_matches('/');
    let near = up.hosts.iter().all(IpAddr::is_loopback);
    let host = up
        .hosts
        .iter()
        .find(|ip| ip.is_loopback() || ip.is_unspecified())
        .map_or_else(|| up.hosts.first().map_or_else(|| "127.0.0.1".to_owned(), ToString::to_string), |_| "127.0.0.1".to_owned());
    let terminal = std::io::stdout().is_terminal();
    // The token belongs on a person's screen and nowhere else.
    let hint = match &up.token {
        Some(token) if terminal => format!("#token={token}"),
        _ => String::new(),
    };
    print::line(&format!("{} {}", format!("OpenClaw {COMPATIBLE}").bold(), format!("(clawstead {OWN}) is ready after {} ms", up.ready_ms).dimmed()));
    print::line(&format!("  Dashboard  {}", format!("{scheme}://{host}:{}{base}/{hint}", up.port).cyan()));
    if up.token.is_some() && !terminal {
        print::line("             (openclaw dashboard --no-open prints it with the token)");
    }
    let reach = if near { "this machine only".to_owned() } else { up.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ") };
    print::line(&format!("  Listening  port {} ({reach})", up.port));
    print::line(&format!("  Agents     {} (default: {})", shown.agents, up.agent));
    print::line(&format!("  Model      {}", up.model));
    print::line(&format!("  State      {}", shown.state));
    print::line(&format!("  Log        {}", shown.log));
    if !up.notices.is_empty() {
        print::line(&format!("  Notices    {} (above; openclaw doctor explains them)", up.notices.len()));
    }
}

fn explain(err: &StartError, port: u16) -> u8 {
    anstream::eprintln!("Gateway failed to start: {err}");
    match err {
        StartError::Config(_) => anstream::eprintln!("Run: openclaw doctor   (openclaw config validate lists the problems again)"),
        StartError::Bind(_) => {
            if let Some((pid, line)) = local::listener(port) {
                anstream::eprintln!("Port {port} is used by pid {pid}: {line}");
                anstream::eprintln!("Stop it, choose another port with --port, or take it over with --force.");
            }
        }
        StartError::Lock(LockError::Held(_)) => {
            anstream::eprintln!("For a second gateway on this machine use its own profile: openclaw --profile rescue gateway --port 19789")
        }
        _ => anstream::eprintln!("Run: openclaw doctor"),
    }
    // Only a supervisor must be told not to try again; for people a held lock is an ordinary failure.
    if matches!(err, StartError::Lock(_)) && !supervised() { 1 } else { err.exit_code() }
}

fn supervised() -> bool {
    ["NOTIFY_SOCKET", "INVOCATION_ID", "OPENCLAW_SERVICE_MARKER", "LAUNCH_JOB_LABEL"].iter().any(|name| std::env::var_os(name).is_some())
}

fn free_port(cx: &Cx, port: u16) -> Result<(), Fail> {
    let Some((pid, line)) = local::listener(port) else {
        return if local::port_busy(port) {
            Err(Fail::new(format!("Port {port} is in use by a process of another user.")).hint("choose another port with --port"))
        } else {
            Ok(())
        };
    };
    let verified = local::running(cx).is_some_and(|holder| holder.pid == pid);
    if verified && !std::io::stdin().is_terminal() {
        return Err(Fail::new(format!("--force would stop the running gateway (pid {pid}) from a script.")).hint("openclaw gateway stop --force"));
    }
    anstream::eprintln!("Stopping pid {pid} on port {port}: {line}");
    signal(pid, rustix::process::Signal::TERM)?;
    if !wait_until(FORCE_WAIT, || !local::port_busy(port)) {
        signal(pid, rustix::process::Signal::KILL)?;
        if !wait_until(FORCE_WAIT, || !local::port_busy(port)) {
            return Err(Fail::new(format!("Port {port} does not become free.")));
        }
    }
    Ok(())
}

/// Config and workspace of a development gateway, where there are none.
fn prepare_dev(args: &Args, cx: &Cx) -> Result<(), Fail> {
    if args.reset {
        if cx.paths.profile != Profile::Dev {
            return Err(Fail::new("--reset removes state and works with the development profile only: openclaw --dev gateway --dev --reset")
                .hint("openclaw --dev gateway --dev --reset"));
        }
        if let Some(holder) = local::running(cx) {
            return Err(Fail::new(format!("A development gateway runs (pid {}); stop it first.", holder.pid)).hint("openclaw --dev gateway stop"));
        }
        remove(&cx.paths.state_dir)?;
    }
    if !cx.paths.config_path.exists() {
        let workspace = cx.paths.state_dir.join("workspace-dev");
        let value = json!({
            "gateway": {"mode": "local", "bind": "loopback"},
            "agents": {"defaults": {"skipBootstrap": true}, "list": [{"id": "dev", "default": true, "workspace": cx.paths.display(&workspace), "identity": {"name": "Dev", "emoji": "🛠️"}}]},
        });
        clawstead_config::create(&cx.paths.config_path, &value)?;
        anstream::eprintln!("Made a development config: {}", cx.paths.display(&cx.paths.config_path));
    }
    Ok(())
}

fn remove(dir: &Path) -> Result<(), Fail> {
    match std::fs::remove_dir_all(dir) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(Fail::new(format!("{} cannot be removed: {err}", dir.display()))),
        _ => Ok(()),
    }
}
