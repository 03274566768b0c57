//! `openclaw health`.

use serde_json::{Value, json};

use super::Outcome;
use crate::{
    cx::Cx,
    format::{list, scalar, text},
    print,
    rpc::{self, Connect},
};

/// Ask the running gateway how it is.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  openclaw health --json")]
pub struct Args {
    /// JSON
    #[arg(long)]
    json: bool,
    /// Budget, milliseconds
    #[arg(long, value_name = "MS")]
    timeout: Option<u64>,
    /// Ask every channel account now
    #[arg(long, alias = "debug")]
    verbose: bool,
}

/// Runs it.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    show(cx, &Connect::configured(args.timeout), 60_000, args.json, args.verbose)
}

/// Asks and prints.
pub fn show(cx: &Cx, connect: &Connect, default_ms: u64, json: bool, probe: bool) -> Outcome {
    let answer = cx.block_on(async {
        let (snapshot, config) = cx.config_or_defaults();
        let target = rpc::Target::resolve(cx, connect, &snapshot, &config)?;
        let limit = std::time::Duration::from_millis(connect.timeout.unwrap_or(default_ms));
        let client = match rpc::connect(cx, &target, limit).await {
            Ok(client) => client,
            Err(err) if err.shape().is_some_and(rpc::is_starting) => return Ok(json!({"ok": false, "status": "starting", "message": err.to_string()})),
            Err(err) => return Err(rpc::explain(&err, &target)),
        };
        let params = if probe { json!({"probe": true}) } else { json!({}) };
        let done = client.call_within("health", params, limit).await.map_err(|err| rpc::explain(&err, &target));
        client.close().await;
        done
    })?;
    if json {
        print::json(&answer);
        return Ok(0);
    }
    if text(&answer, "status") == "starting" {
        print::line("Gateway is starting.");
        return Ok(0);
    }
    human(&answer);
    Ok(0)
}

/// The recorded screen.
fn human(health: &Value) {
    let event_loop = &health["eventLoop"];
    if event_loop.is_object() {
        let state = if event_loop["degraded"] == true { "degraded" } else { "ok" };
        let at = |name: &str| scalar(&event_loop[name]);
        print::line(&format!(
            "Gateway event loop: {state} max={}ms p99={}ms util={} cpu={}",
            at("delayMaxMs"),
            at("delayP99Ms"),
            at("utilization"),
            at("cpuCoreRatio")
        ));
    }
    print::line(&format!("Gateway probe duration: {}ms", scalar(&health["durationMs"])));
    let agents: Vec<String> = list(health, "agents")
        .iter()
        .map(|agent| format!("{}{}", text(agent, "agentId"), if agent["isDefault"] == true { " (default)" } else { "" }))
        .collect();
    print::line(&format!("Agents: {}", agents.join(", ")));
    let beats: Vec<String> = list(health, "agents")
        .iter()
        .filter(|a| a["heartbeat"]["enabled"] == true)
        .map(|a| format!("{} ({})", text(&a["heartbeat"], "every"), text(a, "agentId")))
        .collect();
    print::line(&format!("Heartbeat interval: {}", if beats.is_empty() { "disabled".into() } else { beats.join(", ") }));
    for (id, channel) in health["channels"].as_object().into_iter().flatten() {
        let label = health["channelLabels"].get(id).and_then(Value::as_str).unwrap_or(id);
        let words = match (channel["configured"] == true, channel["lastError"].as_str()) {
            (false, _) => "not configured".to_owned(),
            (true, Some(error)) => format!("failed ({error})"),
            (true, None) if channel["connected"] == true || channel["running"] == true => "ok".to_owned(),
            (true, None) => "configured, not running".to_owned(),
        };
        print::line(&format!("{label}: {words}"));
    }
    for agent in list(health, "agents") {
        print::line(&format!(
            "Session store ({}): {} ({} entries)",
            text(agent, "agentId"),
            text(&agent["sessions"], "path"),
            scalar(&agent["sessions"]["count"])
        ));
        for recent in list(&agent["sessions"], "recent").iter().take(3) {
            print::line(&format!("- {} ({})", text(recent, "key"), crate::format::relative(crate::format::number(recent, "updatedAt"))));
        }
    }
}
