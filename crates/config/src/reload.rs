//! What changed, and what a running gateway must do about it.

use serde_json::Value;

/// The smallest paths at which two normalised values differ, in order. Lists that differ count as a whole.
#[must_use]
pub fn diff(old: &Value, new: &Value) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    walk(old, new, &mut Vec::new(), &mut out);
    // maps compare equal in any order, but the order of agents decides which one is the default
    let roster = |v: &Value| v.pointer("/agents/entries").and_then(Value::as_object).map(|m| m.keys().cloned().collect::<Vec<_>>());
    if roster(old) != roster(new) && out.iter().all(|p| !p.starts_with(&["agents".to_owned()])) {
        out.push(vec!["agents".into(), "entries".into()]);
    }
    out
}

fn walk(old: &Value, new: &Value, at: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let added = b.keys().filter(|k| !a.contains_key(*k));
            for key in a.keys().chain(added) {
                at.push(key.clone());
                match (a.get(key), b.get(key)) {
                    (Some(x), Some(y)) => walk(x, y, at, out),
                    _ => out.push(at.clone()),
                }
                at.pop();
            }
        }
        _ => out.push(at.clone()),
    }
}

/// What is restarted inside the process, or told of its new section.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HotPart {
    /// Credentials of the same mode: clients with the old ones must connect again.
    GatewayAuth,
    /// Limits, proxies, endpoints, tool lists, nodes: read again.
    GatewayDoors,
    /// Webhooks.
    Hooks,
    /// The scheduler.
    Cron,
    /// Heartbeats.
    Heartbeat,
    /// Browser control.
    Browser,
    /// The model catalogue.
    Models,
    /// Plugins.
    Plugins,
    /// The supervisor of channel connections.
    ChannelHealth,
    /// One platform restarts.
    Channel(String),
    /// Discovery in the local network.
    Discovery,
    /// Read at its next use, but somebody may hold a copy: commands, approvals, auth, memory, media.
    Settings,
}

/// What to do about changed paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadPlan {
    /// Taken up without doing anything: read at the next use.
    pub none: Vec<String>,
    /// Sorted, each once.
    pub hot: Vec<HotPart>,
    /// Paths that need a restart in the process; empty means none.
    pub restart: Vec<String>,
}

impl ReloadPlan {
    /// True when a restart is needed.
    #[must_use]
    pub fn needs_restart(&self) -> bool {
        !self.restart.is_empty()
    }
}

enum Act {
    None,
    Hot(HotPart),
    Restart,
}

/// The longest prefix decides; a path without any needs a restart.
const RULES: &[(&str, fn() -> Act)] = &[
    ("gateway", || Act::Restart),
    ("gateway.remote", || Act::None),
    ("gateway.reload", || Act::None),
    ("gateway.strictConfig", || Act::None),
    ("gateway.auth.token", || Act::Hot(HotPart::GatewayAuth)),
    ("gateway.auth.password", || Act::Hot(HotPart::GatewayAuth)),
    ("gateway.auth.rateLimit", || Act::Hot(HotPart::GatewayDoors)),
    ("gateway.trustedProxies", || Act::Hot(HotPart::GatewayDoors)),
    ("gateway.nodes", || Act::Hot(HotPart::GatewayDoors)),
    ("gateway.http.endpoints", || Act::Hot(HotPart::GatewayDoors)),
    ("gateway.tools", || Act::Hot(HotPart::GatewayDoors)),
    ("gateway.terminal", || Act::Hot(HotPart::GatewayDoors)),
    ("gateway.roles", || Act::Hot(HotPart::GatewayDoors)),
    ("gateway.channelHealthCheckMinutes", || Act::Hot(HotPart::ChannelHealth)),
    ("discovery", || Act::Restart),
    ("discovery.mdns.mode", || Act::Hot(HotPart::Discovery)),
    ("canvasHost", || Act::Restart),
    ("plugins", || Act::Hot(HotPart::Plugins)),
    ("hooks", || Act::Hot(HotPart::Hooks)),
    ("cron", || Act::Hot(HotPart::Cron)),
    ("browser", || Act::Hot(HotPart::Browser)),
    ("agents", || Act::None),
    ("agents.defaults.heartbeat", || Act::Hot(HotPart::Heartbeat)),
    ("agents.defaults.model", || Act::Hot(HotPart::Models)),
    ("agents.defaults.models", || Act::Hot(HotPart::Models)),
    ("models", || Act::Hot(HotPart::Models)),
    ("bindings", || Act::None),
    ("tools", || Act::None),
    ("messages", || Act::None),
    ("session", || Act::None),
    ("talk", || Act::None),
    ("tts", || Act::None),
    ("skills", || Act::None),
    ("secrets", || Act::None),
    ("logging", || Act::None),
    ("ui", || Act::None),
    ("meta", || Act::None),
    ("wizard", || Act::None),
    ("audio", || Act::None),
    ("mcp", || Act::None),
    ("$schema", || Act::None),
    ("farm", || Act::Restart),
    ("farm.policy", || Act::None),
    ("farm.roots", || Act::None),
    ("farm.acceptUnsigned", || Act::None),
    ("farm.letterTtl", || Act::None),
    ("a2a", || Act::Restart),
    ("web", || Act::Hot(HotPart::Channel(String::new()))),
    ("commands", || Act::Hot(HotPart::Settings)),
    ("env", || Act::Hot(HotPart::Settings)),
    ("auth", || Act::Hot(HotPart::Settings)),
    ("broadcast", || Act::Hot(HotPart::Settings)),
    ("approvals", || Act::Hot(HotPart::Settings)),
    ("memory", || Act::Hot(HotPart::Settings)),
    ("media", || Act::Hot(HotPart::Settings)),
];

/// What a running gateway must do about changed paths (from [`diff`]).
#[must_use]
pub fn plan(paths: &[Vec<String>]) -> ReloadPlan {
    let mut out = ReloadPlan::default();
    for path in paths {
        match act(path) {
            Act::None => out.none.push(crate::join_path(path)),
            Act::Restart => out.restart.push(crate::join_path(path)),
            Act::Hot(part) => out.hot.push(part),
        }
    }
    out.hot.sort();
    out.hot.dedup();
    out
}

fn act(path: &[String]) -> Act {
    let segments: Vec<&str> = path.iter().map(String::as_str).collect();
    match segments.as_slice() {
        ["channels", "defaults" | "modelByChannel", ..] => return Act::None,
        ["channels", id, ..] => return Act::Hot(HotPart::Channel((*id).to_owned())),
        ["channels"] | [] => return Act::Restart,
        ["web", ..] => return Act::Hot(HotPart::Channel("whatsapp".into())),
        ["agents", "entries", _, "heartbeat", ..] => return Act::Hot(HotPart::Heartbeat),
        // a path above a finer rule may hold what that rule is about
        ["agents"] | ["agents", "entries"] | ["agents", "entries", _] | ["agents", "defaults"] => return Act::Hot(HotPart::Heartbeat),
        _ => {}
    }
    let matches = |rule: &str| rule.split('.').count() <= segments.len() && rule.split('.').zip(&segments).all(|(a, b)| a == *b);
    RULES.iter().filter(|(rule, _)| matches(rule)).max_by_key(|(rule, _)| rule.split('.').count()).map_or(Act::Restart, |(_, act)| act())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_longest_prefix_decides() {
        let p = |s: &str| crate::split_path(s).unwrap();
        let one = |s: &str| plan(&[p(s)]);
        for path in [
            "gateway.remote.url",
            "gateway.reload.mode",
            "agents.defaults.workspace",
            "bindings",
            "tools.exec.security",
            "session.dmScope",
            "logging.level",
            "channels.defaults.groupPolicy",
        ] {
            assert_eq!(one(path).none, [path], "{path}");
        }
        for path in [
            "gateway.port",
            "gateway.bind",
            "gateway.auth.mode",
            "gateway.tls.enabled",
            "gateway.controlUi.basePath",
            "discovery.wideArea.domain",
            "canvasHost.port",
            "nope",
            "gateway",
        ] {
            assert_eq!(one(path).restart, [path], "{path}");
        }
        for (path, part) in [
            ("gateway.auth.token", HotPart::GatewayAuth),
            ("gateway.auth.rateLimit.maxAttempts", HotPart::GatewayDoors),
            ("gateway.http.endpoints.responses.enabled", HotPart::GatewayDoors),
            ("hooks.token", HotPart::Hooks),
            ("cron.enabled", HotPart::Cron),
            ("agents.defaults.heartbeat.every", HotPart::Heartbeat),
            ("agents.entries.a.heartbeat", HotPart::Heartbeat),
            ("agents.defaults.model.primary", HotPart::Models),
            ("models.providers.x.baseUrl", HotPart::Models),
            ("channels.slack.botToken", HotPart::Channel("slack".into())),
            ("plugins.entries.x", HotPart::Plugins),
            ("commands.native", HotPart::Settings),
            ("discovery.mdns.mode", HotPart::Discovery),
        ] {
            assert_eq!(one(path).hot, [part], "{path}");
        }
        assert!(plan(&[]) == ReloadPlan::default());
    }

    #[test]
    fn differences_are_the_smallest_paths() {
        let d = |a, b| diff(&a, &b).iter().map(|p| crate::join_path(p)).collect::<Vec<_>>();
        assert_eq!(d(json!({"a": {"b": 1, "c": 2}, "l": [1]}), json!({"a": {"b": 1, "c": 3, "d": 4}, "l": [1, 2]})), ["a.c", "a.d", "l"]);
        assert_eq!(d(json!({"a": 1}), json!({})), ["a"]);
        assert!(d(json!({"a": [1]}), json!({"a": [1]})).is_empty());
        assert_eq!(d(json!({"agents": {"entries": {"a": {}, "b": {}}}}), json!({"agents": {"entries": {"b": {}, "a": {}}}})), ["agents.entries"]);
    }
}
