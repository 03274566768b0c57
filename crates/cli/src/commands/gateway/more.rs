//! The smaller verbs: health, discover, usage-cost, auth-token, stability.

use std::io::IsTerminal as _;

use serde_json::{Value, json};

use crate::{
    commands::{Outcome, health},
    cx::Cx,
    fail::Fail,
    format::{list, text},
    local, print,
    rpc::{self, Connect},
};

/// Health of the running gateway.
#[derive(clap::Args)]
pub struct HealthArgs {
    #[command(flatten)]
    gateway: Connect,
    /// JSON
    #[arg(long)]
    json: bool,
    /// Ask every channel account now
    #[arg(long, alias = "debug")]
    verbose: bool,
}

/// `gateway health`.
pub fn health(args: &HealthArgs, cx: &Cx) -> Outcome {
    health::show(cx, &args.gateway, 10_000, args.json, args.verbose)
}

/// Look for gateways in the local network.
#[derive(clap::Args)]
pub struct DiscoverArgs {
    /// How long to listen, milliseconds
    #[arg(long, default_value_t = 2_000, value_name = "MS")]
    timeout: u64,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `gateway discover`. This program announces and hears nothing by mDNS; what it can look at is this machine.
pub fn discover(args: &DiscoverArgs, cx: &Cx) -> Outcome {
    let (_, config) = cx.config_or_defaults();
    let mut beacons = Vec::new();
    if local::port_busy(config.gateway.port) {
        beacons.push(json!({"domain": "local.", "displayName": "this machine", "host": "127.0.0.1", "port": config.gateway.port, "gatewayPort": config.gateway.port, "wsUrl": format!("ws://127.0.0.1:{}", config.gateway.port)}));
    }
    if args.json {
        print::json(&json!({"timeoutMs": args.timeout, "domains": ["local."], "count": beacons.len(), "beacons": beacons}));
        return Ok(0);
    }
    print::line(&format!("Found {} gateway(s); only this machine was looked at (no mDNS).", beacons.len()));
    for beacon in &beacons {
        print::line(&format!("- {} {}", text(beacon, "displayName"), text(beacon, "wsUrl")));
    }
    Ok(0)
}

/// Tokens and cost of the last days.
#[derive(clap::Args)]
pub struct UsageArgs {
    /// Days, today included
    #[arg(long, default_value_t = 30)]
    days: u32,
    /// One agent
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// All agents together
    #[arg(long)]
    all_agents: bool,
    #[command(flatten)]
    gateway: Connect,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `gateway usage-cost`.
pub fn usage(args: &UsageArgs, cx: &Cx) -> Outcome {
    let mut params = json!({"days": args.days});
    if let Some(agent) = &args.agent {
        params["agentId"] = agent.as_str().into();
    }
    if args.all_agents {
        params["agentScope"] = "all".into();
    }
    let result = rpc::call(cx, &args.gateway, 10_000, "usage.cost", params)?;
    if args.json {
        print::json(&result);
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = list(&result, "daily")
        .iter()
        .filter(|day| day.get("totalTokens").and_then(Value::as_u64).unwrap_or(0) > 0)
        .map(|day| {
            vec![text(day, "date").to_owned(), day["input"].to_string(), day["output"].to_string(), format!("{:.4}", day["totalCost"].as_f64().unwrap_or(0.0))]
        })
        .collect();
    if rows.is_empty() {
        print::line(&format!("No usage in the last {} days.", args.days));
    } else {
        print::columns(&["Date", "Input", "Output", "Cost (USD)"], &rows);
    }
    Ok(0)
}

/// Print the shared token.
#[derive(clap::Args)]
pub struct TokenArgs {
    /// Show it (on a terminal only)
    #[arg(long)]
    show: bool,
}

/// `gateway auth-token --show`.
pub fn token(args: &TokenArgs, cx: &Cx) -> Outcome {
    if !args.show {
        return Err(Fail::new("Pass --show to print the gateway token.").hint("openclaw gateway auth-token --show"));
    }
    if !std::io::stdout().is_terminal() {
        return Err(Fail::new("The token is printed on a terminal only, so that it does not end in a log.").hint("run the command in a terminal"));
    }
    let (_, config) = cx.config_or_defaults();
    match local::gateway_token(cx, &config) {
        Some(token) => print::line(token.expose()),
        None => return Err(Fail::new("This gateway has no shared token yet.").hint("openclaw doctor --generate-gateway-token")),
    }
    Ok(0)
}

/// Recent diagnostic events.
#[derive(clap::Args)]
pub struct StabilityArgs {
    /// Events at most
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    #[command(flatten)]
    gateway: Connect,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `gateway stability`.
pub fn stability(args: &StabilityArgs, cx: &Cx) -> Outcome {
    let result = rpc::call(cx, &args.gateway, 10_000, "diagnostics.stability", json!({"limit": args.limit}))?;
    print::json(&result);
    Ok(0)
}
