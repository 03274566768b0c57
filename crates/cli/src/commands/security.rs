//! `openclaw security audit`.

use std::os::unix::fs::PermissionsExt as _;

use clap::Subcommand;
use clawstead_config::{AuthMode, Bind};
use serde_json::{Value, json};

use super::Outcome;
use crate::{
    cx::Cx,
    format::{list, now_ms, text},
    local, print,
};

/// A shorter shared token can be guessed.
const TOKEN_CHARS_MIN: usize = 24;

/// Look for weak settings and open files.
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Check settings and file modes
    Audit(AuditArgs),
}

/// Check settings and file modes.
#[derive(clap::Args)]
struct AuditArgs {
    /// Ask the gateway too
    #[arg(long)]
    deep: bool,
    /// Tighten file modes
    #[arg(long)]
    fix: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Runs it. Findings are advice: the exit code stays 0.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    let Verb::Audit(args) = args.verb;
    if args.fix {
        for (path, mode) in private_paths(cx) {
            if path.exists() && open_to_others(&path) {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
                anstream::eprintln!("Tightened {} to {mode:o}.", cx.paths.display(&path));
            }
        }
    }
    let mut report = audit(cx);
    if args.deep {
        report["deep"] = json!({"gateway": {"attempted": true, "listening": local::port_busy(cx.config_or_defaults().1.gateway.port)}});
    }
    if args.json {
        print::json(&report);
        return Ok(0);
    }
    let summary = &report["summary"];
    print::line(&format!("Security audit: {} critical · {} warn · {} info", summary["critical"], summary["warn"], summary["info"]));
    for finding in list(&report, "findings") {
        print::line(&format!("{:<8} {} ({})", text(finding, "severity").to_uppercase(), text(finding, "title"), text(finding, "checkId")));
        print::line(&format!("         {}", text(finding, "detail")));
        if let Some(fix) = finding.get("remediation").and_then(Value::as_str) {
            print::line(&format!("         Fix: {fix}"));
        }
    }
    Ok(0)
}

/// Files and folders that nobody else should read, with the mode they should have.
pub fn private_paths(cx: &Cx) -> Vec<(std::path::PathBuf, u32)> {
    let state = &cx.paths.state_dir;
    let mut out = vec![
        (state.clone(), 0o700),
        (cx.paths.config_path.clone(), 0o600),
        (cx.paths.env_file.clone(), 0o600),
        (local::token_file(cx), 0o600),
        (state.join("identity"), 0o700),
        (state.join("credentials"), 0o700),
        (state.join(clawstead_gateway::run::DATABASE), 0o600),
    ];
    let (_, config) = cx.config_or_defaults();
    out.extend(config.agents.list.iter().map(|a| (a.agent_dir.join("auth-profiles.json"), 0o600)));
    out
}

/// True when group or others may read or write it.
#[must_use]
pub fn open_to_others(path: &std::path::Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0)
}

/// The report.
#[must_use]
pub fn audit(cx: &Cx) -> Value {
    let (snapshot, config) = cx.config_or_defaults();
    let mut findings = Vec::new();
    let mut add = |id: &str, severity: &str, title: &str, detail: String, fix: Option<&str>| {
        let mut finding = json!({"checkId": id, "severity": severity, "title": title, "detail": detail});
        if let Some(fix) = fix {
            finding["remediation"] = fix.into();
        }
        findings.push(finding);
    };
    let gateway = &config.gateway;
    let open = gateway.bind != Bind::Loopback;
    if gateway.auth.mode == AuthMode::None {
        let severity = if open { "critical" } else { "warn" };
        add(
            "gateway.bind_no_auth",
            severity,
            "The gateway asks for no credentials",
            format!("gateway.auth.mode is none, bind is {}.", gateway.bind.as_str()),
            Some("openclaw config set gateway.auth.mode token"),
        );
    }
    if let Some(token) = &gateway.auth.token
        && token.expose().chars().count() < TOKEN_CHARS_MIN
    {
        add(
            "gateway.token_too_short",
            "warn",
            "The gateway token is short",
            format!("It has fewer than {TOKEN_CHARS_MIN} characters."),
            Some("openclaw doctor --generate-gateway-token"),
        );
    }
    if open && !gateway.tls.enabled && gateway.tailscale == clawstead_config::TailscaleMode::Off {
        add(
            "gateway.plain_network",
            "warn",
            "The gateway listens beyond this machine without TLS",
            format!("gateway.bind is {}.", gateway.bind.as_str()),
            Some("put a TLS proxy or Tailscale in front, or bind to loopback"),
        );
    }
    if gateway.trusted_proxies.is_empty() && !open {
        add(
            "gateway.trusted_proxies_missing",
            "info",
            "No trusted proxies",
            "Behind a reverse proxy, set gateway.trustedProxies; otherwise nothing is to do.".into(),
            None,
        );
    }
    for (channel, block) in &config.channels.blocks {
        let policy = block.get("dmPolicy").or_else(|| block.get("dm").and_then(|dm| dm.get("policy"))).and_then(Value::as_str);
        if policy == Some("open") {
            add(
                &format!("channels.{channel}.dm_open"),
                "warn",
                "Anybody may write to this channel's agent",
                format!("channels.{channel} accepts direct messages from everybody."),
                Some("set dmPolicy to pairing or allowlist"),
            );
        }
    }
    for (path, _) in private_paths(cx) {
        if path.exists() && open_to_others(&path) {
            add("fs.permissions", "warn", "Others on this machine can read it", cx.paths.display(&path), Some("openclaw security audit --fix"));
        }
    }
    if config.agents.list.len() > 1 && config.tools.agent_to_agent {
        add(
            "security.trust_model.cross_agent_session_access_default",
            "info",
            "Agents may write to each other",
            "tools.agentToAgent is on; agents share one trust level.".into(),
            None,
        );
    }
    let secrets = super::secrets::plaintext(&snapshot);
    if !secrets.is_empty() {
        add(
            "config.plaintext_secrets",
            "info",
            "Credentials in plain text in the config",
            secrets.join(", "),
            Some("openclaw config set <path> --ref-source env --ref-id <VARIABLE>"),
        );
    }
    add(
        "summary.attack_surface",
        "info",
        "Attack surface",
        format!(
            "{} agents, {} channels, bind {}, auth {}",
            config.agents.list.len(),
            config.channels.blocks.len(),
            gateway.bind.as_str(),
            gateway.auth.mode.as_str()
        ),
        None,
    );
    let count = |severity: &str| findings.iter().filter(|f| text(f, "severity") == severity).count();
    json!({"ts": now_ms(), "summary": {"critical": count("critical"), "warn": count("warn"), "info": count("info")}, "findings": findings})
}
