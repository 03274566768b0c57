use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::status::{capability, probe};
use crate::{
    commands::Outcome,
    cx::Cx,
    fail::Fail,
    format::{now_ms, scalar, text},
    local, print,
    rpc::{Connect, Target},
};

/// Which gateways answer: the configured one, this machine's, and one given by hand.
#[derive(clap::Args)]
pub struct Args {
    /// A further address
    #[arg(long, value_name = "WS-URL")]
    url: Option<String>,
    /// Local gateway on this port
    #[arg(long)]
    port: Option<u16>,
    /// Gateway token
    #[arg(long)]
    token: Option<String>,
    /// Gateway password
    #[arg(long)]
    password: Option<String>,
    /// Budget for everything, milliseconds
    #[arg(long, default_value_t = 3_000, value_name = "MS")]
    timeout: u64,
    /// Through SSH: user@host[:port]
    #[arg(long, value_name = "TARGET")]
    ssh: Option<String>,
    /// Find the SSH target by discovery
    #[arg(long)]
    ssh_auto: bool,
    /// SSH key file
    #[arg(long, value_name = "FILE")]
    ssh_identity: Option<String>,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let started = Instant::now();
    let limit = Duration::from_millis(args.timeout.max(1));
    let (snapshot, config) = cx.config_or_defaults();
    let flags = |url: Option<String>, port: Option<u16>| Connect {
        url,
        port,
        token: args.token.clone(),
        password: args.password.clone(),
        timeout: Some(args.timeout),
        expect_final: false,
    };
    let mut targets: Vec<(&str, &str, Target)> = Vec::new();
    if let Some(url) = &args.url {
        targets.push(("explicit", "explicit", Target::resolve(cx, &flags(Some(url.clone()), None), &snapshot, &config)?));
    }
    let configured = Target::resolve(cx, &flags(None, None), &snapshot, &config);
    if let Ok(remote) = &configured
        && remote.source == "config gateway.remote.url"
    {
        targets.push(("configRemote", "configRemote", remote.clone()));
    }
    let port = args.port.or(Some(config.gateway.port));
    targets.push(("localLoopback", "localLoopback", Target::resolve(cx, &flags(None, port), &snapshot, &config)?));
    let mut warnings = Vec::new();
    if args.ssh.is_some() || args.ssh_auto {
        warnings.push(json!({"code": "ssh_tunnel_failed", "message": "SSH tunnels are not opened here; start one with ssh -N -L 18789:127.0.0.1:18789 <host> and probe ws://127.0.0.1:18789", "targetIds": []}));
    }
    let rows = cx.block_on(async {
        let mut rows = Vec::new();
        for (id, kind, target) in &targets {
            let asked = Instant::now();
            let found = probe(cx, target, limit.saturating_sub(started.elapsed()).max(Duration::from_millis(1))).await;
            let ok = found.rpc["ok"] == true;
            rows.push(json!({
                "id": id, "kind": kind, "url": target.url, "active": true, "tunnel": null,
                "connect": {"ok": ok, "rpcOk": found.read, "scopeLimited": ok && !found.read, "latencyMs": u64::try_from(asked.elapsed().as_millis()).unwrap_or(0), "error": found.rpc.get("error"), "close": null},
                "auth": found.rpc.get("auth"), "server": found.rpc.get("server"), "self": null, "config": null, "health": null, "summary": null, "presence": null,
            }));
        }
        Ok::<_, Fail>(rows)
    })?;
    let answered: Vec<&Value> = rows.iter().filter(|r| r["connect"]["ok"] == true).collect();
    let ok = !answered.is_empty();
    if answered.len() > 1 && answered.windows(2).any(|pair| pair[0]["server"]["bootId"] != pair[1]["server"]["bootId"]) {
        warnings.push(json!({"code": "multiple_gateways", "message": "More than one gateway answers.", "targetIds": answered.iter().map(|r| r["id"].clone()).collect::<Vec<_>>()}));
    }
    for row in rows.iter().filter(|r| r["connect"]["scopeLimited"] == true) {
        warnings.push(json!({"code": "probe_scope_limited", "message": "Connected, but without the scope operator.read.", "targetIds": [row["id"]]}));
    }
    let word = answered.first().map_or("unknown", |row| {
        let scopes: Vec<String> = row["auth"]["scopes"].as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned)).collect();
        capability(&scopes)
    });
    let found = json!({
        "ok": ok,
        "degraded": ok && answered.iter().any(|r| r["connect"]["rpcOk"] != true),
        "capability": word,
        "ts": now_ms(),
        "durationMs": u64::try_from(started.elapsed().as_millis()).unwrap_or(0),
        "timeoutMs": args.timeout,
        "primaryTargetId": answered.first().map(|r| r["id"].clone()),
        "warnings": warnings,
        "network": {"localLoopbackUrl": format!("ws://127.0.0.1:{}", config.gateway.port), "localTailnetUrl": null, "tailnetIPv4": null},
        "discovery": {"timeoutMs": args.timeout, "count": 0, "beacons": []},
        "targets": rows,
    });
    if args.json {
        print::json(&found);
    } else {
        human(&found);
    }
    if ok {
        return Ok(0);
    }
    if !args.json && local::port_busy(config.gateway.port) {
        print::line(&format!("Port {} is in use, but not by a gateway that lets us in.", config.gateway.port));
    }
    Ok(1)
}

fn human(found: &Value) {
    print::headline("Gateway Status");
    print::line(&format!("Reachable: {}", if found["ok"] == true { "yes" } else { "no" }));
    print::line(&format!("Capability: {}", text(found, "capability").replace('_', "-")));
    print::line(&format!("Probe budget: {}ms", scalar(&found["timeoutMs"])));
    let warnings = crate::format::list(found, "warnings");
    if !warnings.is_empty() {
        print::line("");
        print::line("Warning:");
        for warning in warnings {
            print::line(&format!("- {}", text(warning, "message")));
        }
    }
    print::line("");
    print::line("Targets");
    for target in crate::format::list(found, "targets") {
        let label = match text(target, "kind") {
            "localLoopback" => "Local loopback",
            "configRemote" => "Remote (configured)",
            _ => "URL (explicit)",
        };
        print::line(&format!("{label} {}", text(target, "url")));
        let connect = &target["connect"];
        if connect["ok"] == true {
            let read = if connect["rpcOk"] == true { "ok".to_owned() } else { format!("limited - {}", scalar(&connect["error"])) };
            let word = text(&target["auth"], "capability").replace('_', "-");
            print::line(&format!("  Connect: ok ({}ms) · Capability: {word} · Read probe: {read}", scalar(&connect["latencyMs"])));
        } else {
            print::line(&format!("  Connect: failed - {}", scalar(&connect["error"])));
        }
    }
}
