//! `openclaw status`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Outcome, gateway::unit::Unit};
use crate::{
    COMPATIBLE, OWN,
    cx::Cx,
    fail::Fail,
    format::{dash, list, now_ms, number, span, text},
    print,
    rpc::{self, Connect, Target},
};

/// The budget when the flag gives none, ms.
const LIMIT_MS: u64 = 10_000;

/// Overview of gateway, agents, channels and sessions.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  openclaw status\n  openclaw status --deep       With live channel probes and health\n  openclaw status --all        Long report for pasting"
)]
pub struct Args {
    /// JSON
    #[arg(long)]
    json: bool,
    /// Long read-only report
    #[arg(long)]
    all: bool,
    /// Ask channels and gateway now
    #[arg(long)]
    deep: bool,
    /// Quota of providers
    #[arg(long)]
    usage: bool,
    /// Agent, with --usage
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Budget, milliseconds
    #[arg(long, value_name = "MS")]
    timeout: Option<u64>,
    /// More words
    #[arg(long, alias = "debug")]
    verbose: bool,
}

/// What the gateway told, or why not.
struct Asked {
    status: Option<Value>,
    health: Option<Value>,
    channels: Option<Value>,
    sessions: Option<Value>,
    usage: Option<Value>,
    who: Option<Value>,
    latency_ms: Option<u64>,
    error: Option<String>,
}

/// Runs it.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let (snapshot, config) = cx.config_or_defaults();
    let target = Target::resolve(cx, &Connect::configured(args.timeout), &snapshot, &config);
    let limit = args.timeout.unwrap_or(LIMIT_MS);
    let asked = match &target {
        Ok(target) => cx.block_on(async { Ok::<_, Fail>(ask(cx, target.clone(), limit, args).await) })?,
        Err(fail) => {
            Asked { status: None, health: None, channels: None, sessions: None, usage: None, who: None, latency_ms: None, error: Some(fail.message.clone()) }
        }
    };
    let report = report(cx, &config, target.as_ref().ok(), &asked, args);
    if args.json {
        print::json(&report);
    } else {
        human(cx, &report, &asked, args, !snapshot.blocking(clawstead_config::Strictness::Tolerant).is_empty());
    }
    Ok(0)
}

async fn ask(cx: &Cx, target: Target, limit: u64, args: &Args) -> Asked {
    let started = Instant::now();
    let mut asked = Asked { status: None, health: None, channels: None, sessions: None, usage: None, who: None, latency_ms: None, error: None };
    let gateway = match rpc::connect(cx, &target, Duration::from_millis(limit.max(1))).await {
        Ok(client) => client,
        Err(err) => {
            asked.error = Some(rpc::explain(&err, &target).message);
            return asked;
        }
    };
    asked.latency_ms = u64::try_from(started.elapsed().as_millis()).ok();
    let hello = gateway.hello();
    asked.who = Some(json!({"version": hello.server.version, "connId": hello.server.conn_id, "bootId": hello.server.boot_id}));
    let left = || Duration::from_millis(limit).saturating_sub(started.elapsed()).max(Duration::from_millis(1));
    match gateway.call_within("status", json!({"includeChannelSummary": true}), left()).await {
        Ok(value) => asked.status = Some(value),
        Err(err) => asked.error = Some(err.to_string()),
    }
    asked.channels = gateway.call_within("channels.status", json!({"probe": args.deep}), left()).await.ok();
    asked.sessions = gateway.call_within("sessions.list", json!({"limit": 200}), left()).await.ok();
    if args.deep || args.all {
        asked.health = gateway.call_within("health", json!({"probe": args.deep}), left()).await.ok();
    }
    if args.usage {
        let params = args.agent.as_ref().map_or_else(|| json!({}), |agent| json!({"agentId": agent}));
        asked.usage = gateway.call_within("usage.status", params, left()).await.ok();
    }
    gateway.close().await;
    asked
}

fn os() -> Value {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    json!({"platform": std::env::consts::OS, "arch": std::env::consts::ARCH, "release": release, "label": format!("{} {release} ({})", std::env::consts::OS, std::env::consts::ARCH)})
}

fn report(cx: &Cx, config: &clawstead_config::Config, target: Option<&Target>, asked: &Asked, args: &Args) -> Value {
    let mut out = asked.status.clone().unwrap_or_else(|| json!({}));
    let set = |out: &mut Value, name: &str, value: Value| {
        if out.get(name).is_none_or(Value::is_null) {
            out[name] = value;
        }
    };
    let database = cx.paths.state_dir.join(clawstead_gateway::run::DATABASE);
    let rows = asked.sessions.as_ref().map(|s| list(s, "sessions").to_vec()).unwrap_or_default();
    let agents: Vec<Value> = config
        .agents
        .list
        .iter()
        .map(|agent| {
            let own: Vec<&Value> = rows.iter().filter(|r| text(r, "agentId") == agent.id.as_str() || text(r, "key").starts_with(&format!("agent:{}:", agent.id))).collect();
            let last = own.iter().filter_map(|r| number(r, "updatedAt")).max();
            json!({"id": agent.id, "name": agent.name, "workspaceDir": agent.workspace, "bootstrapPending": agent.workspace.join("BOOTSTRAP.md").is_file(), "sessionsPath": database, "sessionsCount": own.len(), "lastUpdatedAt": last, "lastActiveAgeMs": last.map(|at| (now_ms() - at).max(0))})
        })
        .collect();
    let pending = agents.iter().filter(|a| a["bootstrapPending"] == true).count();
    let unit = Unit::of(cx);
    let about = unit.about();
    let running = crate::local::running(cx);
    let short = running.as_ref().map_or_else(|| "stopped".to_owned(), |h| format!("running (pid {})", h.pid));
    let service = json!({
        "label": about["label"], "installed": unit.installed(), "loadState": about["loadState"], "managedByOpenClaw": unit.installed(), "externallyManaged": false,
        "loadedText": about["loadedText"], "runtime": {"status": if running.is_some() { "running" } else { "stopped" }}, "loaded": about["loaded"], "runtimeShort": short,
    });
    let node = json!({"label": about["label"], "installed": false, "loadState": {"status": "not-loaded"}, "managedByOpenClaw": false, "externallyManaged": false, "loadedText": "not installed", "runtime": null, "loaded": false, "runtimeShort": null});
    set(&mut out, "runtimeVersion", COMPATIBLE.into());
    set(&mut out, "hostDesktop", json!({"enabled": false, "state": "disabled", "port": null}));
    let beats: Vec<Value> = config.agents.list.iter().map(|a| json!({"agentId": a.id, "enabled": a.heartbeat.is_some(), "every": a.heartbeat.as_ref().map_or_else(|| "disabled".to_owned(), |h| crate::format::every(i64::try_from(h.every_ms).unwrap_or(0))), "everyMs": a.heartbeat.as_ref().map(|h| h.every_ms)})).collect();
    set(&mut out, "heartbeat", json!({"defaultAgentId": config.default_agent(), "agents": beats}));
    for name in ["channelSummary", "queuedSystemEvents", "degradedSecretOwners", "degradedPlugins", "secretDiagnostics"] {
        set(&mut out, name, json!([]));
    }
    set(&mut out, "tasks", json!({"total": 0, "active": 0, "terminal": 0, "failures": 0, "byStatus": {}, "byRuntime": {}}));
    set(&mut out, "taskAudit", json!({}));
    let recent: Vec<&Value> = rows.iter().take(10).collect();
    set(
        &mut out,
        "sessions",
        json!({"paths": [database], "count": rows.len(), "defaults": {"model": config.agents.default_agent().model.primary, "contextTokens": null}, "recent": recent, "byAgent": []}),
    );
    set(&mut out, "modelRuntime", json!({"degraded": false, "pendingAgents": []}));
    out["os"] = os();
    out["update"] = json!({"root": null, "installKind": "binary", "packageManager": null, "deps": null});
    out["updateChannel"] = "stable".into();
    out["updateChannelSource"] = "default".into();
    set(&mut out, "memory", Value::Null);
    set(&mut out, "memoryPlugin", json!({"enabled": false, "slot": null}));
    let remote = config.gateway.mode == Some(clawstead_config::GatewayMode::Remote);
    out["gateway"] = json!({
        "mode": if remote { "remote" } else { "local" },
        "url": target.map(|t| t.url.clone()),
        "urlSource": target.map(|t| t.source),
        "misconfigured": target.is_none(),
        "reachable": asked.who.is_some(),
        "connectLatencyMs": asked.latency_ms,
        "self": asked.who,
        "error": asked.error,
        "authWarning": null,
    });
    out["gatewayService"] = service;
    out["nodeService"] = node;
    out["agents"] = json!({"defaultId": config.default_agent(), "ownership": if config.agents.list.len() == 1 { "sole" } else { "multiple" }, "selectionRequired": false, "agents": agents, "totalSessions": rows.len(), "bootstrapPendingCount": pending});
    out["collection"] = json!({"source": if asked.status.is_some() { "gateway" } else { "local" }, "notCollected": if asked.status.is_some() { json!([]) } else { json!(["sessions", "channels", "health"]) }});
    if args.deep {
        out["health"] = asked.health.clone().unwrap_or(Value::Null);
        out["securityAudit"] = super::security::audit(cx);
        out["channels"] = asked.channels.clone().unwrap_or(Value::Null);
    }
    if args.usage {
        out["usage"] = asked.usage.clone().unwrap_or(Value::Null);
    }
    out
}

fn human(cx: &Cx, report: &Value, asked: &Asked, args: &Args, invalid: bool) {
    print::headline("OpenClaw status");
    let gateway = &report["gateway"];
    let reach =
        if gateway["reachable"] == true { format!("reachable {}ms", gateway["connectLatencyMs"]) } else { format!("unreachable ({})", text(gateway, "error")) };
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let port = text(gateway, "url").rsplit(':').next().unwrap_or_default().to_owned();
    let agents = list(&report["agents"], "agents");
    let ids: Vec<&str> = agents.iter().map(|a| text(a, "id")).collect();
    let beats: Vec<String> = list(&report["heartbeat"], "agents")
        .iter()
        .filter(|b| b["enabled"] == true)
        .map(|b| format!("{} ({})", text(b, "every"), text(b, "agentId")))
        .collect();
    let mut rows = vec![
        row("OS", text(&report["os"], "label").to_owned()),
        row("Version", format!("{COMPATIBLE} (clawstead {OWN})")),
        row("Dashboard", format!("http://127.0.0.1:{port}/")),
        row("Config", format!("{}{}", cx.paths.display(&cx.paths.config_path), if invalid { " (invalid: run openclaw doctor)" } else { "" })),
        row("Gateway", format!("{} · {} ({}) · {reach}", text(gateway, "mode"), text(gateway, "url"), text(gateway, "urlSource"))),
        row("Gateway service", format!("{} · {}", text(&report["gatewayService"], "loadedText"), text(&report["gatewayService"], "runtimeShort"))),
        row(
            "Agents",
            format!("{} · default {} · {} bootstrapping", ids.join(", "), text(&report["agents"], "defaultId"), report["agents"]["bootstrapPendingCount"]),
        ),
        row("Heartbeat", if beats.is_empty() { "disabled".into() } else { beats.join(", ") }),
        row("Sessions", format!("{} stored", report["agents"]["totalSessions"])),
    ];
    let queued = list(report, "queuedSystemEvents").len();
    rows.push(row("Events", if queued == 0 { "none".into() } else { format!("{queued} queued") }));
    print::boxed(&["Item", "Value"], &rows);
    if let Some(channels) = &asked.channels {
        let rows: Vec<Vec<String>> = channels["channelAccounts"]
            .as_object()
            .into_iter()
            .flatten()
            .flat_map(|(id, accounts)| accounts.as_array().into_iter().flatten().map(move |a| (id.clone(), a.clone())))
            .map(|(id, account)| {
                let state = if account["connected"] == true || account["running"] == true {
                    "ok"
                } else if account["configured"] == true {
                    "stopped"
                } else {
                    "not configured"
                };
                vec![
                    format!("{id} {}", text(&account, "accountId")),
                    if account["enabled"] == true { "on" } else { "off" }.to_owned(),
                    state.to_owned(),
                    dash(text(&account, "lastError")),
                ]
            })
            .collect();
        print::line("");
        print::headline("Channels");
        if rows.is_empty() { print::line("none configured") } else { print::boxed(&["Channel", "Enabled", "State", "Detail"], &rows) }
    }
    if let Some(sessions) = &asked.sessions {
        let wanted = if args.all { 50 } else { 10 };
        let rows: Vec<Vec<String>> = list(sessions, "sessions")
            .iter()
            .take(wanted)
            .map(|s| {
                vec![
                    text(s, "key").to_owned(),
                    dash(text(s, "kind")),
                    number(s, "updatedAt").map_or_else(|| "-".into(), |at| span(now_ms() - at)),
                    dash(text(s, "model")),
                    number(s, "totalTokens").unwrap_or(0).to_string(),
                ]
            })
            .collect();
        print::line("");
        print::headline("Sessions");
        if rows.is_empty() { print::line("none yet") } else { print::boxed(&["Key", "Kind", "Age", "Model", "Tokens"], &rows) }
    }
    if let Some(health) = &asked.health {
        print::line("");
        print::headline("Health");
        print::line(&format!("Gateway: {} ({}ms)", if health["ok"] == true { "ok" } else { "degraded" }, health["durationMs"]));
    }
    if args.all {
        print::line("");
        print::headline("Agents");
        for agent in agents {
            print::line(&format!("- {}: {} sessions, workspace {}", text(agent, "id"), agent["sessionsCount"], text(agent, "workspaceDir")));
        }
        print::line("");
        print::headline("Last log lines");
        if let Some(file) = clawstead_gateway::logs::newest(&cx.paths.log_dir)
            && let Ok(page) = clawstead_gateway::logs::tail(&file, None, 20, 100_000)
        {
            for entry in page.lines.iter().filter_map(|l| super::logs::parse(l)) {
                print::line(&format!("{} {} {} {}", text(&entry, "time"), text(&entry, "level"), text(&entry, "subsystem"), text(&entry, "message")));
            }
        }
    }
    print::line("");
    if gateway["reachable"] == true {
        print::line("Next: openclaw logs --follow · openclaw status --deep · openclaw dashboard");
    } else {
        print::line("Next: openclaw gateway (start it) · openclaw gateway status · openclaw doctor");
    }
}
