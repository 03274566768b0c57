use std::time::Duration;

use clawstead_config::{Bind, Config, Snapshot, Strictness};
use serde_json::{Value, json};

use super::unit::{self, Unit};
use crate::{
    COMPATIBLE,
    commands::Outcome,
    cx::Cx,
    fail::Fail,
    local, print,
    rpc::{self, Connect, Target},
};

/// Service, port, connection.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  openclaw gateway status\n  openclaw gateway status --json --require-rpc   Exit 1 unless the gateway answers")]
pub struct Args {
    #[command(flatten)]
    gateway: Connect,
    /// Do not connect
    #[arg(long, conflicts_with = "require_rpc")]
    no_probe: bool,
    /// Fail unless the gateway answers a read
    #[arg(long)]
    require_rpc: bool,
    /// Look for other installations too
    #[arg(long)]
    deep: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// What a probe of the connection found.
pub struct Probed {
    /// The `rpc` block.
    pub rpc: Value,
    /// True when a read worked.
    pub read: bool,
    /// `controlUiLinks` and others learn the version from it.
    pub version: Option<String>,
}

/// Connects, and reads health when it is let in.
pub async fn probe(cx: &Cx, target: &Target, limit: Duration) -> Probed {
    let started = std::time::Instant::now();
    match rpc::connect(cx, target, limit).await {
        Err(err) => {
            let capability = if err.shape().and_then(|s| s.detail_code()) == Some("PAIRING_REQUIRED") { "pairing_pending" } else { "unknown" };
            let fail = rpc::explain(&err, target);
            Probed {
                rpc: json!({"ok": false, "kind": "connect", "capability": capability, "error": fail.message, "url": target.url}),
                read: false,
                version: None,
            }
        }
        Ok(client) => {
            let hello = client.hello().clone();
            let read = client.call_within("status", json!({}), limit.saturating_sub(started.elapsed()).max(Duration::from_millis(1))).await;
            client.close().await;
            let capability = capability(&hello.auth.scopes);
            let mut rpc = json!({
                "ok": true,
                "kind": if read.is_ok() { "read" } else { "connect" },
                "capability": capability,
                "auth": {"role": hello.auth.role, "scopes": hello.auth.scopes, "capability": capability},
                "server": {"version": hello.server.version, "buildId": hello.server.build_id, "bootId": hello.server.boot_id, "connId": hello.server.conn_id},
                "version": hello.server.version,
                "url": target.url,
                "latencyMs": u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
            if let Err(err) = &read {
                rpc["error"] = err.to_string().into();
            }
            Probed { rpc, read: read.is_ok(), version: Some(hello.server.version) }
        }
    }
}

/// The word for a set of scopes.
#[must_use]
pub fn capability(scopes: &[String]) -> &'static str {
    let has = |name: &str| scopes.iter().any(|s| s == name);
    if has("operator.admin") {
        "admin_capable"
    } else if has("operator.write") {
        "write_capable"
    } else if has("operator.read") {
        "read_only"
    } else {
        "connected_no_operator_scope"
    }
}

/// Where the gateway's log is.
#[must_use]
pub fn log_file(cx: &Cx, config: &Config) -> String {
    config.logging.file.clone().unwrap_or_else(|| cx.paths.log_dir.join(clawstead_gateway::logs::file_of_today())).display().to_string()
}

/// The address that `bind` means, as people read it.
#[must_use]
pub fn bind_host(config: &Config) -> String {
    match config.gateway.bind {
        Bind::Loopback => "127.0.0.1".into(),
        Bind::Custom => config.gateway.custom_bind_host.clone().unwrap_or_else(|| "127.0.0.1".into()),
        Bind::Lan => "0.0.0.0".into(),
        Bind::Tailnet | Bind::Auto => "auto".into(),
    }
}

/// Runs it.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let (snapshot, config) = cx.config_or_defaults();
    let target = Target::resolve(cx, &args.gateway, &snapshot, &config)?;
    let limit = Duration::from_millis(args.gateway.timeout.unwrap_or(10_000));
    let probed = if args.no_probe { None } else { Some(cx.block_on(async { Ok::<_, Fail>(probe(cx, &target, limit).await) })?) };
    let port = args.gateway.port.unwrap_or(config.gateway.port);
    let unit = Unit::of(cx);
    let report = report(cx, &snapshot, &config, port, &target, probed.as_ref(), &unit, args.deep);
    if args.json {
        print::json(&report);
    } else {
        human(cx, &report, args.no_probe);
    }
    match probed {
        Some(probed) if args.require_rpc && !probed.read => Ok(1),
        _ => Ok(0),
    }
}

#[allow(clippy::too_many_arguments, reason = "one report of many sources")]
fn report(cx: &Cx, snapshot: &Snapshot, config: &Config, port: u16, target: &Target, probed: Option<&Probed>, unit: &Unit, deep: bool) -> Value {
    let valid = snapshot.blocking(Strictness::Tolerant).is_empty();
    let file = json!({"path": cx.paths.config_path, "exists": snapshot.exists, "valid": valid});
    let listener = local::listener(port);
    let busy = listener.is_some() || local::port_busy(port);
    let holder = local::running(cx);
    let entrypoint = std::env::current_exe().map(|p| p.display().to_string()).unwrap_or_default();
    let runtime = match (&holder, unit.runtime()) {
        (_, Some(running)) => running,
        (Some(holder), None) => json!({"status": "running", "detail": format!("pid {} (not started by a service)", holder.pid), "pid": holder.pid}),
        (None, None) => json!({"status": "stopped", "detail": "no gateway holds the state folder"}),
    };
    let base = config.gateway.control_ui.base_path.trim_end_matches('/');
    let listeners: Vec<Value> = listener
        .map(|(pid, line)| json!({"pid": pid, "command": line.split_whitespace().next().unwrap_or_default(), "commandLine": line, "address": format!("127.0.0.1:{port}")}))
        .into_iter()
        .collect();
    let mut out = json!({
        "cli": {"version": COMPATIBLE, "entrypoint": entrypoint},
        "logFile": log_file(cx, config),
        "service": unit.about(),
        "config": {"cli": file, "daemon": file},
        "gateway": {
            "bindMode": config.gateway.bind.as_str(),
            "bindHost": bind_host(config),
            "port": port,
            "portSource": local::port_source(&snapshot.env),
            "probeUrl": target.url,
            "controlUiLinks": {"httpUrl": format!("http://127.0.0.1:{port}{base}/"), "wsUrl": format!("ws://127.0.0.1:{port}")},
            "probeNote": if config.gateway.bind == Bind::Loopback { "Loopback-only gateway; only local clients can connect." } else { "The gateway listens beyond loopback; see openclaw security audit." },
            "version": probed.and_then(|p| p.version.clone()),
        },
        "hostDesktop": {"enabled": false, "state": "disabled", "port": null},
        "port": {"port": port, "status": if busy { "busy" } else { "free" }, "listeners": listeners, "hints": []},
        "extraServices": if deep { unit::others(cx) } else { json!([]) },
        "pluginVersionDrift": {"gatewayVersion": probed.and_then(|p| p.version.clone()), "drifts": []},
    });
    out["service"]["runtime"] = runtime;
    if let Some(probed) = probed {
        out["rpc"] = probed.rpc.clone();
    }
    out
}

fn human(cx: &Cx, report: &Value, no_probe: bool) {
    let at = |path: &str| report.pointer(path).map(crate::format::scalar).unwrap_or_default();
    let home = |path: String| cx.paths.display(std::path::Path::new(&path));
    print::line(&format!("Service: {} ({})", at("/service/label"), at("/service/loadedText")));
    print::line(&format!("File logs: {}", at("/logFile")));
    print::line("Host desktop: disabled");
    print::line("");
    print::line(&format!("Config (cli): {}", home(at("/config/cli/path"))));
    print::line(&format!("Config (service): {}", home(at("/config/daemon/path"))));
    if report.pointer("/config/cli/valid") == Some(&Value::Bool(false)) {
        print::line("Config is invalid. Run: openclaw doctor");
    }
    print::line("");
    print::line(&format!(
        "Gateway: bind={} ({}), port={} ({})",
        at("/gateway/bindMode"),
        at("/gateway/bindHost"),
        at("/gateway/port"),
        at("/gateway/portSource")
    ));
    print::line(&format!("Probe target: {}", at("/gateway/probeUrl")));
    print::line(&format!("Dashboard: {}", at("/gateway/controlUiLinks/httpUrl")));
    print::line(&format!("Probe note: {}", at("/gateway/probeNote")));
    print::line("");
    print::line(&format!("CLI version: {} ({})", at("/cli/version"), at("/cli/entrypoint")));
    if !at("/gateway/version").is_empty() {
        print::line(&format!("Gateway version: {}", at("/gateway/version")));
    }
    print::line("");
    print::line(&format!("Runtime: {} ({})", at("/service/runtime/status"), at("/service/runtime/detail")));
    if !no_probe {
        let ok = report.pointer("/rpc/ok") == Some(&Value::Bool(true));
        print::line(&format!("Connectivity probe: {}", if ok { "ok".to_owned() } else { format!("failed ({})", at("/rpc/error")) }));
        print::line(&format!("Capability: {}", at("/rpc/capability").replace('_', "-")));
    }
    print::line("");
    let port = at("/port/port");
    if at("/port/status") == "busy" {
        let by = report.pointer("/port/listeners/0/pid").map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        print::line(&format!("Listening: 127.0.0.1:{port}{by}"));
    } else {
        print::line(&format!("Nothing listens on port {port}. Start: openclaw gateway"));
    }
    for extra in report["extraServices"].as_array().into_iter().flatten() {
        print::line(&format!("Other service: {}", crate::format::scalar(extra)));
    }
    print::line("Troubles: run openclaw status");
}
