//! `openclaw doctor`: checks, each with a next step.

use std::{
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use clap::builder::PossibleValuesParser;
use clawstead_agent::workspace::{Git, set_up};
use clawstead_config::{AuthMode, OverlapKind, PortUser, Severity, Strictness, Surfaces, overlaps};
use clawstead_state::{SqliteStore, StateDirLock, Store as _, sqlite};
use clawstead_terms::Millis;
use serde_json::{Value, json};

use super::{Outcome, config as config_command, security};
use crate::{
    cx::Cx,
    device,
    fail::Fail,
    format::{list, now_ms, text},
    local, print,
    rpc::{self, Connect},
};

/// Check the installation and repair it.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  openclaw doctor\n  openclaw doctor --fix\n  openclaw doctor --json --severity-min warning\n\nDoctor waits on nothing but the farm's coordination store (6 s at most) and the gateway that runs here (4 s), if it is in a farm; it works beside a running gateway and with a broken config, and never replaces a config by an older copy."
)]
pub struct Args {
    /// Repair what can be repaired
    #[arg(long, visible_alias = "repair")]
    fix: bool,
    /// Accept defaults (nothing is asked)
    #[arg(short, long)]
    yes: bool,
    /// Ask nothing (nothing is asked)
    #[arg(long)]
    non_interactive: bool,
    /// Accepted for compatibility
    #[arg(long, hide = true)]
    force: bool,
    /// Look for other services too
    #[arg(long)]
    deep: bool,
    /// Checks only
    #[arg(long)]
    lint: bool,
    /// Further checks that pass
    #[arg(long)]
    all: bool,
    /// Only this check
    #[arg(long, value_name = "ID")]
    only: Vec<String>,
    /// Not this check
    #[arg(long, value_name = "ID")]
    skip: Vec<String>,
    /// Findings from this level on
    #[arg(long, default_value = "info", value_parser = PossibleValuesParser::new(["info", "warning", "error"]))]
    severity_min: String,
    /// Make a gateway token and store it in the config
    #[arg(long)]
    generate_gateway_token: bool,
    /// Accepted for compatibility
    #[arg(long, hide = true)]
    no_workspace_suggestions: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// One result.
struct Finding {
    check: &'static str,
    severity: &'static str,
    message: String,
    next: Option<String>,
    fixed: bool,
}

struct Visit<'a> {
    cx: &'a Cx,
    fix: bool,
    findings: Vec<Finding>,
}

impl Visit<'_> {
    fn add(&mut self, check: &'static str, severity: &'static str, message: impl Into<String>, next: Option<String>) {
        self.findings.push(Finding { check, severity, message: message.into(), next, fixed: false });
    }

    fn fixed(&mut self, check: &'static str, message: impl Into<String>) {
        self.findings.push(Finding { check, severity: "info", message: message.into(), next: None, fixed: true });
    }

    fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        self.add(check, "ok", message, None);
    }
}

/// Runs it. Exit 1 when an error remains.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let mut visit = Visit { cx, fix: args.fix && !args.lint && !args.json, findings: Vec::new() };
    if args.generate_gateway_token {
        new_token(&mut visit)?;
    }
    config(&mut visit);
    state_folder(&mut visit);
    permissions(&mut visit)?;
    database(&mut visit);
    ports(&mut visit);
    workspaces(&mut visit);
    models(&mut visit);
    channels(&mut visit);
    farm(&mut visit);
    running(&mut visit);
    if args.deep {
        for unit in super::gateway::unit::others(cx).as_array().into_iter().flatten().filter_map(Value::as_str) {
            visit.add("services", "info", format!("Another service is installed: {unit}"), Some(format!("systemctl --user status {unit}")));
        }
    }
    let rank = |severity: &str| ["ok", "info", "warning", "error"].iter().position(|s| *s == severity).unwrap_or(0);
    let failed = visit.findings.iter().any(|f| f.severity == "error");
    let least = rank(&args.severity_min);
    let shown: Vec<&Finding> = visit
        .findings
        .iter()
        .filter(|f| args.only.is_empty() || args.only.iter().any(|o| o == f.check))
        .filter(|f| !args.skip.iter().any(|s| s == f.check))
        .filter(|f| rank(f.severity) >= least || (f.severity == "ok" && (args.all || !args.json) && least == 1))
        .collect();
    if args.json {
        let rows: Vec<Value> =
            shown.iter().map(|f| json!({"checkId": f.check, "severity": f.severity, "message": f.message, "fixHint": f.next, "fixed": f.fixed})).collect();
        print::json(&json!({"ok": !failed, "checksRun": visit.findings.len(), "findings": rows}));
        return Ok(u8::from(failed));
    }
    human(&shown);
    if failed {
        print::line("");
        print::line(if args.fix { "Some problems need you: see the steps above." } else { "Repair what can be repaired: openclaw doctor --fix" });
    }
    Ok(u8::from(failed))
}

fn human(findings: &[&Finding]) {
    use owo_colors::OwoColorize as _;
    print::headline("OpenClaw doctor");
    for finding in findings {
        let mark = match finding.severity {
            "error" => format!("{}", "error".red()),
            "warning" => format!("{}", "warn ".yellow()),
            "info" if finding.fixed => format!("{}", "fixed".green()),
            "info" => format!("{}", "info ".cyan()),
            _ => format!("{}", "ok   ".green()),
        };
        print::line(&format!("{mark}  {:<12} {}", finding.check, finding.message));
        if let Some(next) = &finding.next {
            print::line(&format!("                    → {next}"));
        }
    }
}

fn new_token(visit: &mut Visit<'_>) -> Result<(), Fail> {
    let path = |name: &str| vec!["gateway".to_owned(), "auth".to_owned(), name.to_owned()];
    let edits = [
        clawstead_config::Edit::Set { path: path("mode"), value: "token".into(), mode: clawstead_config::MapWrite::Merge },
        clawstead_config::Edit::Set { path: path("token"), value: device::new_token().into(), mode: clawstead_config::MapWrite::Merge },
    ];
    config_command::apply(visit.cx, &visit.cx.snapshot(), &edits, false)?;
    visit.fixed("auth", "Made a gateway token and stored it as gateway.auth.token");
    Ok(())
}

fn config(visit: &mut Visit<'_>) {
    let cx = visit.cx;
    let snapshot = cx.snapshot();
    let shown = cx.paths.display(&cx.paths.config_path);
    if !snapshot.exists {
        visit.add(
            "config",
            "info",
            format!("There is no config yet ({shown}); a gateway starts with defaults"),
            Some("openclaw onboard, or openclaw setup".into()),
        );
    }
    let blocking = snapshot.blocking(Strictness::Tolerant).len();
    for issue in &snapshot.issues {
        let (severity, next) = match issue.severity {
            Severity::Error => ("error", Some(format!("correct it in {shown}, then openclaw config validate"))),
            Severity::Unknown => ("warning", Some(format!("openclaw config unset {}", issue.path))),
            Severity::Warning => ("warning", None),
            Severity::Info => ("info", None),
        };
        visit.add("config", severity, issue.located(), next);
    }
    if blocking > 0 && clawstead_config::last_good_path(&cx.paths.config_path).is_file() {
        // Only said: an older copy never replaces a config without being asked for.
        visit.add(
            "config",
            "info",
            "A copy of the last config that worked is kept",
            Some(format!("diff {} {}", shown, cx.paths.display(&clawstead_config::last_good_path(&cx.paths.config_path)))),
        );
    }
    if snapshot.exists && blocking == 0 {
        visit.ok("config", format!("{shown} is valid"));
    }
    for old in cx.paths.legacy_configs.iter().chain(&cx.paths.legacy_state_dirs) {
        visit.add(
            "config",
            "info",
            format!("Files of an older release: {}", cx.paths.display(old)),
            Some(format!("move what you need to {}", cx.paths.display(&cx.paths.state_dir))),
        );
    }
    let (_, config) = cx.config_or_defaults();
    if snapshot.exists && blocking == 0 && config.gateway.mode.is_none() {
        if visit.fix {
            let edit =
                clawstead_config::Edit::Set { path: vec!["gateway".into(), "mode".into()], value: "local".into(), mode: clawstead_config::MapWrite::Merge };
            match config_command::apply(cx, &snapshot, &[edit], false) {
                Ok(_) => visit.fixed("config", "Set gateway.mode to local"),
                Err(fail) => visit.add("config", "error", format!("gateway.mode is not set and cannot be: {}", fail.message), None),
            }
        } else {
            visit.add(
                "config",
                "warning",
                "gateway.mode is not set: a gateway starts only with --allow-unconfigured",
                Some("openclaw config set gateway.mode local".into()),
            );
        }
    }
    match config.gateway.auth.mode {
        AuthMode::None => visit.add("auth", "warning", "gateway.auth.mode is none", Some("openclaw config set gateway.auth.mode token".into())),
        AuthMode::Token if local::gateway_token(cx, &config).is_none() => {
            visit.add("auth", "info", "No gateway token yet; the first start makes one", Some("openclaw doctor --generate-gateway-token".into()))
        }
        AuthMode::Password if config.gateway.auth.password.is_none() => {
            visit.add("auth", "error", "gateway.auth.mode is password, but there is none", Some("openclaw config set gateway.auth.password <password>".into()))
        }
        mode => visit.ok("auth", format!("gateway.auth.mode {}", mode.as_str())),
    }
}

fn state_folder(visit: &mut Visit<'_>) {
    let state = &visit.cx.paths.state_dir;
    let shown = visit.cx.paths.display(state);
    if !state.exists() {
        visit.add("state", "info", format!("{shown} does not exist yet"), Some("openclaw setup".into()));
        return;
    }
    let probe = state.join(format!(".doctor.{}", std::process::id()));
    match std::fs::write(&probe, b"") {
        Ok(()) => {
            let _ = std::fs::remove_file(&probe);
            visit.ok("state", format!("{shown} can be written"));
        }
        Err(err) => visit.add("state", "error", format!("{shown} cannot be written: {err}"), Some(format!("chown -R $USER {shown}; df -h {shown}"))),
    }
    if let Some(holder) = StateDirLock::holder(state).filter(|h| !local::alive(h.pid)) {
        visit.add("lock", "info", format!("A gateway (pid {}) ended without saying goodbye; its work goes on at the next start", holder.pid), None);
    }
}

fn permissions(visit: &mut Visit<'_>) -> Result<(), Fail> {
    for (path, mode) in security::private_paths(visit.cx) {
        if !path.exists() || !security::open_to_others(&path) {
            continue;
        }
        let shown = visit.cx.paths.display(&path);
        if visit.fix {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
            visit.fixed("permissions", format!("{shown} is now {mode:o}"));
        } else {
            visit.add("permissions", "warning", format!("Others can read {shown}"), Some(format!("chmod {mode:o} {shown}")));
        }
    }
    Ok(())
}

fn database(visit: &mut Visit<'_>) {
    let path = visit.cx.paths.state_dir.join(clawstead_gateway::run::DATABASE);
    if !path.is_file() {
        return;
    }
    let shown = visit.cx.paths.display(&path);
    if let Some(holder) = local::running(visit.cx) {
        // The gateway checked it at its start; beside it, look at the header only.
        match header(&path) {
            Ok(true) => visit.ok("database", format!("{shown} is in use by the gateway (pid {}), which checked it at its start", holder.pid)),
            Ok(false) => visit.add("database", "error", format!("{shown} is not a SQLite database"), Some("stop the gateway and restore a backup".into())),
            Err(err) => visit.add("database", "error", format!("{shown} cannot be read: {err}"), None),
        }
        return;
    }
    let opened = visit.cx.block_on(async {
        let store = SqliteStore::open(&path, sqlite::Options::default())?;
        let units = store.units().await?.len();
        store.close().await;
        Ok::<_, Fail>(units)
    });
    match opened {
        Ok(units) => visit.ok("database", format!("{shown}: quick check passed, {units} units")),
        Err(fail) => visit.add("database", "error", format!("{shown}: {}", fail.message), Some(format!("keep a copy of {shown}, then restore a backup"))),
    }
}

fn header(path: &Path) -> std::io::Result<bool> {
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(0))?;
    let mut start = [0; 16];
    file.read_exact(&mut start)?;
    Ok(&start == b"SQLite format 3\0")
}

fn ports(visit: &mut Visit<'_>) {
    let (_, config) = visit.cx.config_or_defaults();
    let port = config.gateway.port;
    match (local::running(visit.cx), local::listener(port)) {
        (Some(holder), _) if holder.port == port => visit.ok("port", format!("{port} is used by this profile's gateway")),
        (_, Some((pid, line))) => visit.add(
            "port",
            "warning",
            format!("{port} is used by pid {pid}: {line}"),
            Some("openclaw config set gateway.port <port>, or openclaw gateway --force".into()),
        ),
        (_, None) if local::port_busy(port) => {
            visit.add("port", "warning", format!("{port} is used by another user's process"), Some("openclaw config set gateway.port <port>".into()))
        }
        _ => visit.ok("port", format!("{port} is free")),
    }
    // Other profiles on this machine: their derived ports may meet ours.
    let own = PortUser {
        name: visit.cx.paths.profile.name().unwrap_or("main").to_owned(),
        base: port,
        surfaces: if config.browser.enabled { Surfaces::Browser } else { Surfaces::BaseOnly },
    };
    let mut users = vec![own];
    for (name, paths) in profiles(visit.cx) {
        let snapshot = clawstead_config::Snapshot::read(&paths, &visit.cx.env, clawstead_config::ReadOptions::default());
        let base = snapshot
            .get(&["gateway".to_owned(), "port".to_owned()])
            .and_then(Value::as_u64)
            .and_then(|p| u16::try_from(p).ok())
            .unwrap_or_else(|| paths.default_port());
        users.push(PortUser { name, base, surfaces: Surfaces::default() });
    }
    for overlap in overlaps(&users) {
        visit.add(
            "ports",
            if overlap.kind == OverlapKind::SamePort { "warning" } else { "info" },
            overlap.message,
            Some("give the profiles base ports at least 120 apart".into()),
        );
    }
}

fn profiles(cx: &Cx) -> Vec<(String, clawstead_config::Paths)> {
    use clawstead_config::{DevFlag, Env, Paths, Profile};
    let mut found = Vec::new();
    // The variables that move this profile say nothing about the others.
    let env = Env::from_pairs([("HOME", cx.paths.home.display().to_string())]);
    let names = std::fs::read_dir(&cx.paths.home).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    for name in names {
        let profile = match name.as_str() {
            ".openclaw" => Profile::Main,
            ".openclaw-dev" => Profile::Dev,
            other => match other.strip_prefix(".openclaw-").map(|p| Profile::from_flags(Some(p), DevFlag::Off)) {
                Some(Ok(profile)) => profile,
                _ => continue,
            },
        };
        let paths = Paths::resolve(profile.clone(), &env);
        if profile != cx.paths.profile && paths.config_path.is_file() && paths.state_dir != cx.paths.state_dir {
            found.push((profile.name().unwrap_or("main").to_owned(), paths));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn workspaces(visit: &mut Visit<'_>) {
    let (_, config) = visit.cx.config_or_defaults();
    for agent in &config.agents.list {
        let shown = visit.cx.paths.display(&agent.workspace);
        let missing: Vec<&str> = ["AGENTS.md", "SOUL.md", "IDENTITY.md", "USER.md"].into_iter().filter(|name| !agent.workspace.join(name).is_file()).collect();
        if missing.is_empty() {
            visit.ok("workspace", format!("{}: {shown}", agent.id));
        } else if visit.fix {
            match set_up(&agent.workspace, Millis(now_ms()), Git::Never) {
                Ok(done) => visit.fixed("workspace", format!("{}: made {} files in {shown}", agent.id, done.created.len())),
                Err(err) => visit.add("workspace", "error", format!("{}: {shown} cannot be written: {err}", agent.id), None),
            }
        } else {
            visit.add(
                "workspace",
                "info",
                format!("{}: {} missing in {shown}; the gateway makes them at its start", agent.id, missing.join(", ")),
                Some("openclaw doctor --fix".into()),
            );
        }
    }
    for (at, agent) in config.agents.list.iter().enumerate() {
        if let Some(other) = config.agents.list[..at].iter().find(|o| o.agent_dir == agent.agent_dir) {
            visit.add(
                "workspace",
                "error",
                format!("{} and {} share one agent folder", other.id, agent.id),
                Some(format!("openclaw config unset agents.entries.{}.agentDir", agent.id)),
            );
        }
    }
}

fn models(visit: &mut Visit<'_>) {
    let (_, config) = visit.cx.config_or_defaults();
    for agent in &config.agents.list {
        let Some(model) = &agent.model.primary else {
            visit.add(
                "models",
                "info",
                format!("{} has no model set: one is found at the start (environment keys, local servers, else the demo model)", agent.id),
                Some("openclaw models set <provider/model>".into()),
            );
            continue;
        };
        let Some((provider, _)) = clawstead_config::split_model_ref(model) else { continue };
        let known = config.models.provider(provider);
        let stored = std::fs::read_to_string(agent.agent_dir.join("auth-profiles.json")).is_ok_and(|t| t.contains(&format!("\"{provider}\"")));
        let local = matches!(provider, "ollama" | "lmstudio" | "litellm" | "vllm" | "demo") || known.is_some_and(|p| p.base_url.is_some());
        let variable = super::models::key_variable(provider);
        if local || stored || known.is_some_and(|p| p.api_key.is_some()) || config.env.trimmed(&variable).is_some() {
            visit.ok("models", format!("{}: {model}", agent.id));
        } else {
            visit.add(
                "models",
                "warning",
                format!("{}: no key for {model}", agent.id),
                Some(format!("set {variable}, or openclaw models auth paste-api-key --provider {provider}")),
            );
        }
    }
}

fn channels(visit: &mut Visit<'_>) {
    let (_, config) = visit.cx.config_or_defaults();
    for (id, _) in &config.channels.blocks {
        let accounts: Vec<String> = config.channels.accounts(id).into_iter().filter(|a| a.enabled).map(|a| a.id).collect();
        if accounts.is_empty() {
            continue;
        }
        if clawstead_channels::CHANNELS.iter().any(|spec| spec.id == id) {
            visit.ok("channels", format!("{id}: {}", accounts.join(", ")));
        } else {
            visit.add(
                "channels",
                "warning",
                format!("{id} is configured ({}), but not available in this version", accounts.join(", ")),
                Some(format!("openclaw channels remove --channel {id} hides this notice")),
            );
        }
    }
}

fn farm(visit: &mut Visit<'_>) {
    for said in super::farm::check::farm(visit.cx) {
        visit.add("farm", said.severity, said.message, said.next);
    }
}

/// What only a running gateway knows: letters whose fate is unknown.
fn running(visit: &mut Visit<'_>) {
    let Some(holder) = local::running(visit.cx) else {
        visit.add("gateway", "info", "No gateway runs for this profile", Some("openclaw gateway".into()));
        return;
    };
    let connect = Connect { port: Some(holder.port), timeout: Some(3_000), ..Connect::default() };
    match rpc::call(visit.cx, &connect, 3_000, "health", json!({})) {
        Ok(health) => {
            visit.ok("gateway", format!("pid {} answers on port {}", holder.pid, holder.port));
            let queues = &health["deliveryQueues"];
            for (name, value) in queues.as_object().into_iter().flatten() {
                let troubled = ["dead", "unknown", "failed"].iter().filter_map(|k| value.get(*k).and_then(Value::as_u64)).sum::<u64>();
                if troubled > 0 {
                    visit.add(
                        "delivery",
                        "warning",
                        format!("{name}: {troubled} messages could not be delivered or their fate is unknown"),
                        Some("openclaw logs --limit 500".into()),
                    );
                }
            }
            for error in list(&health["plugins"], "errors") {
                visit.add("gateway", "warning", text(error, "message").to_owned(), None);
            }
        }
        Err(fail) => visit.add(
            "gateway",
            "warning",
            format!("pid {} holds the state folder, but does not let us in: {}", holder.pid, fail.message),
            Some("openclaw gateway status".into()),
        ),
    }
}
