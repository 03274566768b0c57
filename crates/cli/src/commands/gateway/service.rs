//! install, start, stop, restart, uninstall.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::unit::Unit;
use crate::{
    commands::Outcome,
    cx::Cx,
    device,
    fail::Fail,
    format::now_ms,
    local, print,
    rpc::{self, Connect},
};

/// How long `stop` and `restart` wait for the process to go, unless told otherwise. Just above the gateway's own limit.
const STOP_WAIT: Duration = Duration::from_secs(330);
const POLL: Duration = Duration::from_millis(50);

/// Install the service.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  openclaw gateway install\n  openclaw gateway install --dry-run     Print the unit file only")]
pub struct InstallArgs {
    /// Port written into the unit
    #[arg(long)]
    port: Option<u16>,
    /// Token stored for the service
    #[arg(long)]
    token: Option<String>,
    /// Accepted for compatibility; this program needs no runtime
    #[arg(long, value_name = "NODE|BUN", hide = true)]
    runtime: Option<String>,
    /// Accepted for compatibility
    #[arg(long, hide = true)]
    runtime_path: Option<String>,
    /// Start through this program instead
    #[arg(long, value_name = "PATH")]
    wrapper: Option<String>,
    /// Replace an installed service (may restart it)
    #[arg(long)]
    force: bool,
    /// The service may start without gateway.mode
    #[arg(long)]
    allow_unconfigured: bool,
    /// Print the unit file and change nothing
    #[arg(long, visible_alias = "print")]
    dry_run: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

impl InstallArgs {
    /// Without any flag.
    #[must_use]
    pub const fn plain() -> Self {
        Self { port: None, token: None, runtime: None, runtime_path: None, wrapper: None, force: false, allow_unconfigured: false, dry_run: false, json: false }
    }
}

/// Start the service.
#[derive(clap::Args)]
pub struct StartArgs {
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Stop the service, or the gateway that runs here.
#[derive(clap::Args)]
pub struct StopArgs {
    /// Needed when no person is at the terminal
    #[arg(long)]
    force: bool,
    /// Also do not start at login any more
    #[arg(long)]
    disable: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Restart the service, or the gateway that runs here.
#[derive(clap::Args)]
pub struct RestartArgs {
    /// Wait for active work first, at most 5 minutes
    #[arg(long)]
    safe: bool,
    /// With --safe: do not wait for deferred work
    #[arg(long, requires = "safe")]
    skip_deferral: bool,
    /// At once
    #[arg(long)]
    force: bool,
    /// How long to wait, for example 30s; 0 means no limit
    #[arg(long, value_name = "DUR")]
    wait: Option<String>,
    /// Keep the unit file as it is
    #[arg(long)]
    preserve_definition: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Remove the service.
#[derive(clap::Args)]
pub struct UninstallArgs {
    /// JSON
    #[arg(long)]
    json: bool,
}

fn done(json_wanted: bool, action: &str, result: &str, message: &str, more: &[(&str, Value)]) -> Outcome {
    if json_wanted {
        let mut out = json!({"action": action, "ok": true, "result": result, "message": message});
        for (name, value) in more {
            out[*name] = value.clone();
        }
        print::json(&out);
    } else {
        print::line(message);
    }
    Ok(0)
}

/// Service commands have an envelope of their own.
fn refused(json_wanted: bool, action: &str, fail: Fail) -> Outcome {
    if !json_wanted || fail.said {
        return Err(fail);
    }
    let hints: Vec<&str> = fail.hint.as_deref().into_iter().collect();
    print::json(
        &json!({"action": action, "ok": false, "error": fail.message, "hints": hints, "hintItems": hints.iter().map(|h| json!({"kind": "command", "text": h})).collect::<Vec<_>>()}),
    );
    Ok(fail.exit)
}

/// Only the state folder that belongs to the account or the profile may have a service.
fn check_place(cx: &Cx) -> Result<(), Fail> {
    if cx.env.flag("OPENCLAW_NIX_MODE") {
        return Err(Fail::new("service management skipped: OPENCLAW_NIX_MODE is set."));
    }
    let moved = ["OPENCLAW_STATE_DIR", "OPENCLAW_CONFIG_PATH", "OPENCLAW_HOME"].into_iter().find(|name| cx.env.trimmed(name).is_some());
    match moved {
        Some(name) => Err(Fail::new(format!("service management skipped: non-default state dir or config path. ({name} is set.)"))
            .hint("use --profile <name> for a second gateway with a service")),
        None => Ok(()),
    }
}

/// `gateway install`.
pub fn install(args: &InstallArgs, cx: &Cx) -> Outcome {
    let unit = Unit::of(cx);
    let text = Unit::text(cx, args.port, args.wrapper.as_deref(), args.allow_unconfigured)?;
    if args.dry_run {
        if args.json {
            return done(true, "install", "dry-run", "Nothing was changed.", &[("path", json!(unit.path)), ("unit", json!(text))]);
        }
        print::line(&format!("# {}", unit.path.display()));
        print::piece(&text);
        return Ok(0);
    }
    match install_now(args, cx, &unit, &text) {
        Ok((result, backup)) => {
            let message = match result {
                "already-installed" => format!("{} is installed already; --force replaces it.", unit.name),
                _ => format!("Installed and started {} ({}).", unit.name, unit.path.display()),
            };
            let more: Vec<(&str, Value)> = backup.map(|b| ("definitionBackup", b)).into_iter().collect();
            done(args.json, "install", result, &message, &more)
        }
        Err(fail) => refused(args.json, "install", fail),
    }
}

fn install_now(args: &InstallArgs, cx: &Cx, unit: &Unit, text: &str) -> Result<(&'static str, Option<Value>), Fail> {
    check_place(cx)?;
    if unit.installed() && !args.force {
        return Ok(("already-installed", None));
    }
    // A unit without a service manager would be a promise that nobody keeps.
    Unit::systemctl(&["--version"])?;
    if let Some(token) = &args.token {
        device::write_private(&local::token_file(cx), &format!("{token}\n"))?;
    }
    let mut backup = None;
    if let Ok(old) = std::fs::read_to_string(&unit.path) {
        let kept = unit.path.with_extension("service.bak");
        std::fs::write(&kept, old)?;
        backup = Some(json!({"path": kept, "createdAtMs": now_ms()}));
    }
    if let Some(dir) = unit.path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(&unit.path, text)?;
    for call in [&["daemon-reload"][..], &["enable", &unit.name], &["restart", &unit.name]] {
        let answer = Unit::systemctl(call)?;
        if !answer.ok {
            return Err(Fail::new(format!("systemctl --user {} failed: {}", call.join(" "), answer.error)).hint(format!("journalctl --user -u {}", unit.name)));
        }
    }
    Ok(("installed", backup))
}

/// `gateway start`.
pub fn start(args: &StartArgs, cx: &Cx) -> Outcome {
    let unit = Unit::of(cx);
    let tried = (|| {
        check_place(cx)?;
        if !unit.installed() {
            return Err(
                Fail::new(format!("The service {} is not installed.", unit.name)).hint("openclaw gateway install, or in the foreground: openclaw gateway")
            );
        }
        if unit.runtime().is_some() {
            return Ok("already-running");
        }
        let answer = Unit::systemctl(&["start", &unit.name])?;
        if answer.ok { Ok("started") } else { Err(Fail::new(answer.error).hint(format!("journalctl --user -u {}", unit.name))) }
    })();
    match tried {
        Ok(result) => done(args.json, "start", result, &format!("{}: {result}.", unit.name), &[("service", unit.about())]),
        Err(fail) => refused(args.json, "start", fail),
    }
}

/// `gateway stop`.
pub fn stop(args: &StopArgs, cx: &Cx) -> Outcome {
    let unit = Unit::of(cx);
    let tried = (|| {
        let service = unit.runtime().is_some();
        let holder = local::running(cx);
        if !service && holder.is_none() {
            return Ok(("not-loaded", "No gateway runs here.".to_owned()));
        }
        if !args.force && !std::io::stdin().is_terminal() {
            return Err(
                Fail::new("This stops the operator's running gateway service. Pass --force to do it from a script.").hint("openclaw gateway stop --force")
            );
        }
        if service {
            if args.disable {
                Unit::systemctl(&["disable", &unit.name])?;
            }
            let answer = Unit::systemctl(&["stop", &unit.name])?;
            if !answer.ok {
                return Err(Fail::new(answer.error).hint(format!("systemctl --user status {}", unit.name)));
            }
            return Ok(("stopped", format!("Stopped {}.", unit.name)));
        }
        let Some(holder) = holder else { return Ok(("not-loaded", "No gateway runs here.".to_owned())) };
        signal(holder.pid, rustix::process::Signal::TERM)?;
        wait_until(STOP_WAIT, || !local::alive(holder.pid) || local::running(cx).is_none_or(|now| now.pid != holder.pid))
            .then(|| ("stopped", format!("Stopped the gateway (pid {}, port {}).", holder.pid, holder.port)))
            .ok_or_else(|| {
                Fail::new(format!("The gateway (pid {}) did not stop within {}s.", holder.pid, STOP_WAIT.as_secs())).hint(format!("kill -9 {}", holder.pid))
            })
    })();
    match tried {
        Ok((result, message)) => done(args.json, "stop", result, &message, &[("service", unit.about())]),
        Err(fail) => refused(args.json, "stop", fail),
    }
}

/// `gateway restart`.
pub fn restart(args: &RestartArgs, cx: &Cx) -> Outcome {
    let unit = Unit::of(cx);
    let limit = match args.wait.as_deref() {
        None => Duration::from_secs(if args.safe { 300 } else { 60 }),
        Some("0") => Duration::from_secs(u64::from(u32::MAX)),
        Some(text) => Duration::from_millis(crate::format::duration(text, 1_000).map_err(Fail::new)?),
    };
    let tried = (|| {
        if unit.runtime().is_some() {
            let answer = Unit::systemctl(&["restart", &unit.name])?;
            return if answer.ok { Ok(("restarted", format!("Restarted {}.", unit.name))) } else { Err(Fail::new(answer.error)) };
        }
        let Some(holder) = local::running(cx) else {
            return Err(Fail::new("No gateway runs here.").hint("openclaw gateway, or openclaw gateway install"));
        };
        // The process stays; what changes is the id of its start.
        let before = boot_id(cx, holder.port);
        signal(holder.pid, rustix::process::Signal::USR2)?;
        let back = wait_until(limit, || boot_id(cx, holder.port).is_some_and(|now| before.as_ref() != Some(&now)));
        if back {
            return Ok(("restarted", format!("Restarted the gateway (pid {}, port {}).", holder.pid, holder.port)));
        }
        if local::alive(holder.pid) {
            return Ok(("still-starting", format!("The gateway (pid {}) has not finished its restart within {}s.", holder.pid, limit.as_secs())));
        }
        Err(Fail::new("The gateway stopped and did not come back.").hint("openclaw logs"))
    })();
    match tried {
        Ok(("still-starting", message)) => {
            done(args.json, "restart", "still-starting", &message, &[])?;
            Ok(2)
        }
        Ok((result, message)) => done(args.json, "restart", result, &message, &[("service", unit.about())]),
        Err(fail) => refused(args.json, "restart", fail),
    }
}

/// `gateway uninstall`.
pub fn uninstall(args: &UninstallArgs, cx: &Cx) -> Outcome {
    let unit = Unit::of(cx);
    let tried = (|| {
        check_place(cx)?;
        if !unit.installed() {
            return Ok(("not-loaded", format!("{} is not installed.", unit.name)));
        }
        Unit::systemctl(&["disable", "--now", &unit.name])?;
        std::fs::remove_file(&unit.path)?;
        Unit::systemctl(&["daemon-reload"])?;
        Ok(("uninstalled", format!("Removed {}.", unit.name)))
    })();
    match tried {
        Ok((result, message)) => done(args.json, "uninstall", result, &message, &[]),
        Err(fail) => refused(args.json, "uninstall", fail),
    }
}

/// The id of a gateway's start, when it lets us in.
fn boot_id(cx: &Cx, port: u16) -> Option<String> {
    let flags = Connect { port: Some(port), timeout: Some(2_000), ..Connect::default() };
    let asked = cx.block_on(async {
        let gateway = rpc::open(cx, &flags, 2_000).await?;
        let id = gateway.client.hello().server.boot_id.clone();
        gateway.client.close().await;
        Ok(id)
    });
    asked.ok().flatten()
}

/// Sends a signal.
///
/// # Errors
/// When the process is gone or belongs to somebody else.
pub fn signal(pid: u32, signal: rustix::process::Signal) -> Result<(), Fail> {
    let target = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).ok_or_else(|| Fail::new(format!("{pid} is not a process id")))?;
    rustix::process::kill_process(target, signal).map_err(|err| Fail::new(format!("The process {pid} cannot be signalled: {err}")))
}

/// Asks again and again until it is so; false when the time is over.
pub fn wait_until(limit: Duration, so: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if so() {
            return true;
        }
        if started.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(POLL);
    }
}
