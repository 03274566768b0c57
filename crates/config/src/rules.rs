//! Rules between keys, which a table of types cannot say.

use std::{collections::BTreeMap, path::PathBuf};

use clawstead_terms::AgentId;
use serde_json::Value;

use crate::{
    a2a_rules,
    env::Env,
    farm_rules,
    issue::Severity,
    normalise::own,
    paths::Paths,
    sections::agents::minute,
    units,
    validate::{Sink, nearest},
    view::View,
};

/// Platforms whose block may stand under `channels`; others need a plugin of that name.
pub(crate) const CHANNELS: &[&str] = &[
    "bluebubbles",
    "clickclack",
    "dingtalk",
    "discord",
    "email",
    "feishu",
    "googlechat",
    "imessage",
    "irc",
    "line",
    "loopback",
    "matrix",
    "mattermost",
    "msteams",
    "nextcloud-talk",
    "nostr",
    "qqbot",
    "raft",
    "signal",
    "slack",
    "sms",
    "synology-chat",
    "telegram",
    "tlon",
    "twitch",
    "voice-call",
    "webchat",
    "wecom",
    "weixin",
    "whatsapp",
    "zalo",
    "zalouser",
];

/// Providers that have an address of their own.
const BUNDLED_PROVIDERS: &[&str] = &[
    "amazon-bedrock",
    "anthropic",
    "cerebras",
    "deepseek",
    "fireworks",
    "github-copilot",
    "google",
    "google-vertex",
    "groq",
    "huggingface",
    "kimi",
    "kimi-coding",
    "litellm",
    "lmstudio",
    "minimax",
    "mistral",
    "moonshot",
    "nvidia",
    "ollama",
    "openai",
    "openai-codex",
    "opencode",
    "openrouter",
    "perplexity",
    "qwen",
    "together",
    "venice",
    "vercel-ai-gateway",
    "vllm",
    "xai",
    "xiaomi",
    "z-ai",
    "zai",
];

const BUILTIN_SAFE_BINS: &[&str] = &["cut", "grep", "head", "jq", "sort", "tail", "tr", "uniq", "wc"];

pub(crate) fn check(root: &Value, paths: &Paths, env: &Env, sink: &mut Sink<'_>) {
    let root = View(Some(root));
    gateway(root, env, sink);
    agents(root, paths, sink);
    bindings(root, sink);
    channels(root, sink);
    tool_lists(root, sink);
    durations(root, sink);
    providers(root, sink);
    others(root, sink);
    farm_rules::check(root, sink);
    a2a_rules::check(root, sink);
}

fn gateway(root: View<'_>, env: &Env, sink: &mut Sink<'_>) {
    let g = root.at("gateway");
    let loopback = matches!(g.at("bind").str(), None | Some("loopback"))
        || (g.at("bind").str() == Some("custom") && g.at("customBindHost").str().is_some_and(|h| h == "127.0.0.1" || h == "::1"));
    let tailscale = g.path("tailscale.mode").str().filter(|m| *m != "off");
    if let Some(mode) = tailscale.filter(|_| !loopback) {
        // refused by a strict reader; a start falls back to loopback, which is the safe side
        sink.push(
            Severity::Unknown,
            &own(&["gateway", "bind"]),
            format!("gateway.bind must resolve to loopback when gateway.tailscale.mode={mode} (use gateway.bind=\"loopback\"); listening on loopback only"),
        );
    }
    if tailscale == Some("funnel") && g.path("auth.mode").str() != Some("password") {
        sink.error(&own(&["gateway", "auth", "mode"]), "gateway.tailscale.mode=funnel requires gateway.auth.mode=\"password\"");
    }
    if g.at("bind").str() == Some("custom") && g.at("customBindHost").word().is_none() {
        sink.error(&own(&["gateway", "customBindHost"]), "gateway.bind=custom requires gateway.customBindHost");
    }
    if !loopback && tailscale.is_none() {
        if g.path("auth.mode").str() == Some("none") {
            sink.error(
                &own(&["gateway", "auth", "mode"]),
                "refusing to bind to a non-loopback address without auth (set gateway.auth.token or gateway.auth.password)",
            );
        }
        let ui = g.at("controlUi");
        let open = ui.at("allowedOrigins").list().next().is_some() || ui.at("dangerouslyAllowHostHeaderOriginFallback").flag(false);
        if ui.at("enabled").flag(true) && !open {
            sink.push(
                Severity::Warning,
                &own(&["gateway", "controlUi", "allowedOrigins"]),
                "the dashboard accepts only its own loopback origins; set gateway.controlUi.allowedOrigins to open it from other machines",
            );
        }
    }
    let has = |key: &str, var: &str| g.at("auth").at(key).present() || env.trimmed(var).is_some();
    let both = g.path("auth.token").present() && g.path("auth.password").present();
    if both && !g.path("auth.mode").present() {
        sink.error(
            &own(&["gateway", "auth"]),
            "gateway.auth.token and gateway.auth.password are both configured, but gateway.auth.mode is unset. Set gateway.auth.mode to token or password.",
        );
    }
    if g.path("auth.mode").str() == Some("password") && !has("password", "OPENCLAW_GATEWAY_PASSWORD") {
        sink.push(Severity::Warning, &own(&["gateway", "auth", "password"]), "gateway.auth.mode is \"password\", but there is no password");
    }
    if g.path("auth.mode").str() == Some("trusted-proxy") {
        if g.at("trustedProxies").list().next().is_none() {
            sink.error(&own(&["gateway", "trustedProxies"]), "gateway.auth.mode=trusted-proxy requires gateway.trustedProxies");
        }
        if g.path("auth.trustedProxy.userHeader").word().is_none() {
            sink.error(&own(&["gateway", "auth", "trustedProxy"]), "gateway.auth.mode=trusted-proxy requires gateway.auth.trustedProxy.userHeader");
        }
    }
}

fn agents(root: View<'_>, paths: &Paths, sink: &mut Sink<'_>) {
    let entries = root.path("agents.entries");
    let mut dirs: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut marked = Vec::new();
    for (id, agent) in entries.map() {
        let at = |tail: &[&str]| own(&[&["agents", "entries", id], tail].concat());
        let dir = agent.at("agentDir").word().map_or_else(|| paths.agent_dir(id), |d| paths.expand(&d));
        if let Some(other) = dirs.insert(dir, id.to_owned()) {
            sink.error(&at(&["agentDir"]), format!("Duplicate agentDir: agents \"{other}\" and \"{id}\" share one folder; credentials and sessions would mix"));
        }
        if agent.at("default").flag(false) {
            marked.push(id.to_owned());
        }
        if agent.path("skills").texts().is_some_and(|s| s.iter().any(|n| n.trim().is_empty())) {
            sink.error(&at(&["skills"]), "Too small: expected string to have >=1 characters");
        }
        avatar(agent, &at(&["identity", "avatar"]), sink);
        heartbeat(root, agent.at("heartbeat"), &at(&["heartbeat"]), sink);
        sandbox(agent.at("sandbox"), &at(&["sandbox"]), sink);
        safe_bins(agent.path("tools.exec"), &at(&["tools", "exec", "safeBins"]), sink);
    }
    if marked.len() > 1 {
        sink.push(Severity::Warning, &own(&["agents", "entries", &marked[1], "default"]), format!("more than one default agent; \"{}\" is used", marked[0]));
    }
    let owner = root.path("agents.defaults.systemAgent.agentId").str().map(|id| AgentId::normalise(id).as_str().to_owned());
    if let Some(owner) = owner
        && entries.at(&owner).0.is_none()
    {
        sink.push(Severity::Warning, &own(&["agents", "defaults", "systemAgent", "agentId"]), format!("Unknown agent id \"{owner}\""));
    }
    heartbeat(root, root.path("agents.defaults.heartbeat"), &own(&["agents", "defaults", "heartbeat"]), sink);
    sandbox(root.path("agents.defaults.sandbox"), &own(&["agents", "defaults", "sandbox"]), sink);
    safe_bins(root.path("tools.exec"), &own(&["tools", "exec", "safeBins"]), sink);
}

fn avatar(agent: View<'_>, at: &[String], sink: &mut Sink<'_>) {
    let Some(text) = agent.path("identity.avatar").word() else { return };
    let lower = text.to_lowercase();
    if ["http://", "https://", "data:"].iter().any(|p| lower.starts_with(p)) {
        return;
    }
    if text.starts_with(['~', '/', '\\']) || text.contains("://") || text.split(['/', '\\']).any(|p| p == "..") {
        sink.error(at, "identity.avatar must be a workspace-relative path, http(s) URL, or data URI");
    }
}

fn heartbeat(root: View<'_>, h: View<'_>, at: &[String], sink: &mut Sink<'_>) {
    let below = |tail: &[&str]| [at, &own(tail)].concat();
    if let Some(every) = h.at("every").str()
        && units::duration_ms(every, 60_000).is_none()
    {
        sink.error(&below(&["every"]), "invalid duration (use ms, s, m, h)");
    }
    for (key, start) in [("start", true), ("end", false)] {
        if let Some(text) = h.at("activeHours").at(key).str() {
            match minute(text) {
                Some(1440) if start => {
                    sink.error(&below(&["activeHours", key]), "activeHours.start cannot be 24:00");
                }
                Some(_) => {}
                None => {
                    sink.error(&below(&["activeHours", key]), "invalid time (use \"HH:MM\" 24h format)");
                }
            }
        }
    }
    if let Some(target) = h.at("target").word() {
        let lower = target.to_lowercase();
        let words = ["last", "none", "owner"];
        if !words.contains(&lower.as_str()) && !CHANNELS.contains(&lower.as_str()) && !root.at("channels").at(&lower).present() && !has_plugin(root, &lower) {
            let issue = sink.push(Severity::Unknown, &below(&["target"]), format!("unknown heartbeat target: {target}"));
            issue.suggestion = nearest(&lower, words.iter().chain(CHANNELS).copied());
        }
    }
}

fn has_plugin(root: View<'_>, id: &str) -> bool {
    root.path("plugins.entries").at(id).present()
}

fn sandbox(s: View<'_>, at: &[String], sink: &mut Sink<'_>) {
    let below = |tail: &[&str]| [at, &own(tail)].concat();
    let docker = s.at("docker");
    match docker.at("network").str().map(str::trim) {
        Some("host") => {
            sink.error(&below(&["docker", "network"]), "Sandbox security: network mode \"host\" is blocked. Use \"bridge\" or \"none\" instead.");
        }
        Some(n) if n.starts_with("container:") && !docker.at("dangerouslyAllowContainerNamespaceJoin").flag(false) => {
            sink.error(&below(&["docker", "network"]), "Sandbox security: network mode \"container:*\" is blocked by default.");
        }
        _ => {}
    }
    for key in ["seccompProfile", "apparmorProfile"] {
        if docker.at(key).str().is_some_and(|p| p.trim().eq_ignore_ascii_case("unconfined")) {
            sink.error(&below(&["docker", key]), format!("Sandbox security: {key} \"unconfined\" is blocked."));
        }
    }
    for (i, bind) in docker.at("binds").list().enumerate() {
        if bind.str().is_some_and(|b| !b.trim().starts_with('/')) {
            sink.error(&below(&["docker", "binds", &i.to_string()]), "Sandbox security: bind mounts must use absolute source paths.");
        }
    }
}

fn safe_bins(exec: View<'_>, at: &[String], sink: &mut Sink<'_>) {
    let profiles = exec.at("safeBinProfiles");
    let custom: Vec<String> =
        exec.at("safeBins").texts().unwrap_or_default().into_iter().filter(|b| !BUILTIN_SAFE_BINS.contains(&b.as_str()) && !profiles.at(b).present()).collect();
    if !custom.is_empty() {
        let meaning = if exec.at("security").str() == Some("allowlist") || exec.at("mode").str() == Some("allowlist") {
            "allowed as commands of this allowlist"
        } else {
            "without effect: they need a profile in safeBinProfiles, or security \"allowlist\""
        };
        sink.push(Severity::Warning, at, format!("safeBins are filters that read only standard input; {} are {meaning}", custom.join(", ")));
    }
}

fn bindings(root: View<'_>, sink: &mut Sink<'_>) {
    let entries = root.path("agents.entries");
    let any = entries.map().next().is_some();
    for (i, b) in root.at("bindings").list().enumerate() {
        let position = i.to_string();
        let at = |tail: &[&str]| own(&[&["bindings", position.as_str()], tail].concat());
        if !b.at("agentId").present() {
            sink.error(&at(&["agentId"]), "Invalid input: expected string, received undefined");
        }
        if !b.at("match").present() {
            sink.error(&at(&["match"]), "Invalid input: expected object, received undefined");
        } else if !b.path("match.channel").present() {
            sink.error(&at(&["match", "channel"]), "Invalid input: expected string, received undefined");
        }
        if let Some(id) = b.at("agentId").str() {
            let normal = AgentId::normalise(id);
            let known = if any { entries.at(normal.as_str()).0.is_some() } else { normal.as_str() == AgentId::MAIN };
            if !known {
                let issue = sink.push(Severity::Warning, &at(&["agentId"]), format!("Unknown agent id \"{id}\"; the default agent answers instead"));
                issue.suggestion = nearest(id, entries.map().map(|(k, _)| k));
            }
        }
        if b.at("type").str() == Some("acp") && b.path("match.peer.id").word().is_none_or(|p| p == "*") {
            sink.error(&at(&["match", "peer", "id"]), "ACP bindings require match.peer.id to target a concrete conversation.");
        }
    }
    for (key, list) in root.at("broadcast").map().filter(|(k, _)| *k != "strategy") {
        let ids = list.texts().or_else(|| list.at("agents").texts()).unwrap_or_default();
        for (i, id) in ids.iter().enumerate() {
            if any && entries.at(AgentId::normalise(id).as_str()).0.is_none() {
                sink.error(&own(&["broadcast", key, &i.to_string()]), format!("Unknown agent id \"{id}\" (not in agents.list)."));
            }
        }
    }
}

fn channels(root: View<'_>, sink: &mut Sink<'_>) {
    for (id, block) in root.at("channels").map() {
        if matches!(id, "defaults" | "modelByChannel") {
            continue;
        }
        if !CHANNELS.contains(&id.to_lowercase().as_str()) && !has_plugin(root, id) {
            let issue = sink.push(Severity::Unknown, &own(&["channels", id]), format!("unknown channel id: {id}"));
            issue.suggestion = nearest(id, CHANNELS.iter().copied());
            continue;
        }
        if block.object().is_none() {
            let received = block.0.map_or("undefined", crate::validate::type_name);
            sink.error(&own(&["channels", id]), format!("Invalid input: expected object, received {received}"));
            continue;
        }
        account(id, View(None), block, &own(&["channels", id]), sink);
        for (name, own_block) in block.at("accounts").map() {
            account(id, block, own_block, &own(&["channels", id, "accounts", name]), sink);
        }
    }
}

/// Rules of one block; `base` is what an account inherits.
fn account(channel: &str, base: View<'_>, a: View<'_>, at: &[String], sink: &mut Sink<'_>) {
    let both = |key: &str| a.at(key).or(base.at(key));
    let below = |key: &str| [at, &own(&[key])].concat();
    let dotted = at.join(".");
    let speaks = |keys: &[&str]| !base.present() || keys.iter().any(|k| a.at(k).present());
    if speaks(&["dmPolicy", "allowFrom"])
        && both("dmPolicy").str() == Some("open")
        && !both("allowFrom").texts().is_some_and(|l| l.iter().any(|x| x.trim() == "*"))
    {
        sink.error(&below("allowFrom"), format!("{dotted}.dmPolicy=\"open\" requires {dotted}.allowFrom to include \"*\""));
    }
    if channel == "telegram" && speaks(&["webhookUrl", "webhookSecret"]) && both("webhookUrl").word().is_some() && !both("webhookSecret").present() {
        sink.error(&below("webhookSecret"), format!("{dotted}.webhookUrl requires {dotted}.webhookSecret"));
    }
    let on = both("enabled").flag(true);
    let only_accounts = a.at("accounts").map().next().is_some();
    if channel == "slack"
        && on
        && !only_accounts
        && speaks(&["mode", "signingSecret"])
        && both("mode").str() == Some("http")
        && !both("signingSecret").present()
    {
        sink.error(&below("signingSecret"), format!("{dotted}.mode=\"http\" requires {dotted}.signingSecret"));
    }
}

fn tool_lists(root: View<'_>, sink: &mut Sink<'_>) {
    let mut scopes = vec![(own(&["tools"]), root.at("tools"))];
    scopes.extend(root.path("agents.entries").map().map(|(id, a)| (own(&["agents", "entries", id, "tools"]), a.at("tools"))));
    for (at, tools) in scopes {
        both_lists(&at, tools, sink);
        for (provider, t) in tools.at("byProvider").map() {
            both_lists(&[at.as_slice(), &own(&["byProvider", provider])].concat(), t, sink);
        }
        let l = tools.at("loopDetection");
        let limits = [("warningThreshold", 10.0), ("criticalThreshold", 20.0), ("globalCircuitBreakerThreshold", 30.0)];
        let values = limits.map(|(k, d)| l.at(k).f64().unwrap_or(d));
        if l.present() && !(values[0] < values[1] && values[1] < values[2]) {
            let at = [at.as_slice(), &own(&["loopDetection"])].concat();
            sink.error(&at, "tools.loopDetection thresholds must grow: warningThreshold < criticalThreshold < globalCircuitBreakerThreshold");
        }
    }
}

fn both_lists(at: &[String], tools: View<'_>, sink: &mut Sink<'_>) {
    let filled = |key: &str| tools.at(key).list().next().is_some();
    if filled("allow") && filled("alsoAllow") {
        sink.error(
            at,
            "tools policy cannot set both allow and alsoAllow in the same scope (merge alsoAllow into allow, or remove allow and use profile + alsoAllow)",
        );
    }
}

fn durations(root: View<'_>, sink: &mut Sink<'_>) {
    let day = 86_400_000;
    for (path, bare) in [
        (&["session", "maintenance", "pruneAfter"][..], day),
        (&["session", "maintenance", "resetArchiveRetention"], day),
        (&["cron", "sessionRetention"], 3_600_000),
    ] {
        let v = root.path(&path.join("."));
        if let Some(text) = v.str()
            && units::duration_ms(text, bare).is_none()
        {
            sink.error(&own(path), "invalid duration (use ms, s, m, h, d)");
        }
    }
    for path in [
        &["session", "maintenance", "maxDiskBytes"][..],
        &["session", "maintenance", "highWaterBytes"],
        &["session", "maintenance", "rotateBytes"],
        &["cron", "runLog", "maxBytes"],
    ] {
        if let Some(text) = root.path(&path.join(".")).str()
            && units::size_bytes(text).is_none()
        {
            sink.error(&own(path), "invalid size (use b, kb, mb, gb, tb)");
        }
    }
}

fn providers(root: View<'_>, sink: &mut Sink<'_>) {
    for (id, p) in root.path("models.providers").map() {
        let at = |tail: &[&str]| own(&[&["models", "providers", id], tail].concat());
        if p.at("baseUrl").word().is_none() && !BUNDLED_PROVIDERS.contains(&id.to_lowercase().as_str()) {
            sink.push(Severity::Warning, &at(&[]), format!("models.providers.{id} has no baseUrl and is not a bundled provider; its models cannot be used"));
        }
        for (i, m) in p.at("models").list().enumerate() {
            if m.at("id").word().is_none() {
                sink.error(&at(&["models", &i.to_string(), "id"]), "Invalid input: expected string, received undefined");
            }
        }
    }
}

fn others(root: View<'_>, sink: &mut Sink<'_>) {
    let hooks = root.at("hooks");
    if hooks.at("enabled").flag(false) && !hooks.at("token").present() {
        sink.error(&own(&["hooks", "token"]), "hooks.enabled requires hooks.token");
    }
    let same = hooks.at("token").word().zip(root.path("gateway.auth.token").word()).is_some_and(|(a, b)| a == b);
    if same {
        sink.push(Severity::Warning, &own(&["hooks", "token"]), "hooks.token should differ from gateway.auth.token");
    }
    for (name, profile) in root.path("browser.profiles").map() {
        let at = own(&["browser", "profiles", name]);
        let ok = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') && !name.starts_with('-');
        if !ok {
            sink.error(&at, "Profile names must be alphanumeric with hyphens only");
        }
        if !profile.at("cdpPort").present() && !profile.at("cdpUrl").present() && !matches!(profile.at("driver").str(), Some("existing-session" | "extension"))
        {
            sink.error(&at, "Profile must set cdpPort or cdpUrl");
        }
    }
}
