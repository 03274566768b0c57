//! Every spelling that was ever right, in today's words. Works on the value in memory; the file stays as it is.
//!
//! Keys that only older releases had and that we honour (for example `cron.maxConcurrentRuns`) stay where they are.

use clawstead_terms::AgentId;
use serde_json::{Map, Value};

use crate::{
    issue::Issue,
    paths::Paths,
    view::{overlay, value_at},
};

mod agents;
mod models;

/// Where parts came from: new path, old path.
#[derive(Debug, Default)]
pub(crate) struct Moves(Vec<(Vec<String>, Vec<String>)>);

impl Moves {
    /// The path as the file has it.
    pub fn original(&self, path: &[String]) -> Vec<String> {
        let mut path = path.to_vec();
        // a part may have moved twice; more than a few steps would be a ring
        for _ in 0..4 {
            let best = self.0.iter().filter(|(new, _)| path.starts_with(new)).max_by_key(|(new, _)| new.len());
            let Some((new, old)) = best.filter(|(new, old)| new != old) else { break };
            path = old.iter().chain(&path[new.len()..]).cloned().collect();
        }
        path
    }

    fn note(&mut self, new: &[&str], old: &[&str]) {
        self.0.push((own(new), own(old)));
    }
}

pub(crate) fn own(path: &[&str]) -> Vec<String> {
    path.iter().map(|s| (*s).to_owned()).collect()
}

/// The pass over one value.
struct Pass<'a> {
    root: &'a mut Value,
    paths: &'a Paths,
    issues: &'a mut Vec<Issue>,
    moves: Moves,
}

/// Whether using an old spelling is worth a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Say {
    Warn,
    Nothing,
}

pub(crate) fn normalise(root: &mut Value, paths: &Paths, issues: &mut Vec<Issue>) -> Moves {
    if !root.is_object() {
        return Moves::default();
    }
    let mut pass = Pass { root, paths, issues, moves: Moves::default() };
    pass.old_roots();
    pass.mission_roots();
    agents::normalise(&mut pass);
    pass.bindings();
    pass.sessions_and_messages();
    pass.channels();
    pass.gateway();
    models::normalise(&mut pass);
    pass.others();
    pass.moves
}

/// Simple renames, old path to new path. `Warn` says one line.
const RENAMES: &[(&[&str], &[&str], Say)] = &[
    (&["agent"], &["agents", "defaults"], Say::Warn),
    (&["routing", "allowFrom"], &["channels", "whatsapp", "allowFrom"], Say::Warn),
    (&["routing", "bindings"], &["bindings"], Say::Warn),
    (&["routing", "agents"], &["agents", "list"], Say::Warn),
    (&["routing", "defaultAgentId"], &["agents", "defaults", "systemAgent", "agentId"], Say::Warn),
    (&["routing", "agentToAgent"], &["tools", "agentToAgent"], Say::Warn),
    (&["routing", "queue"], &["messages", "queue"], Say::Warn),
    (&["routing", "groupChat"], &["messages", "groupChat"], Say::Warn),
    (&["memorySearch"], &["agents", "defaults", "memorySearch"], Say::Warn),
    (&["heartbeat"], &["agents", "defaults", "heartbeat"], Say::Warn),
    (&["defaultModel"], &["agents", "defaults", "model"], Say::Warn),
    (&["mcpServers"], &["mcp", "servers"], Say::Warn),
    (&["modelProviders"], &["models", "providers"], Say::Warn),
    (&["gateway", "token"], &["gateway", "auth", "token"], Say::Warn),
    (&["gateway", "nodes", "allowCommands"], &["gateway", "nodes", "commands", "allow"], Say::Nothing),
    (&["gateway", "nodes", "denyCommands"], &["gateway", "nodes", "commands", "deny"], Say::Nothing),
    (&["tools", "bash"], &["tools", "exec"], Say::Warn),
    (&["tools", "exec", "timeoutSec"], &["tools", "exec", "timeoutSeconds"], Say::Nothing),
    (&["session", "idleMinutes"], &["session", "reset", "idleMinutes"], Say::Nothing),
    (&["session", "resetByType", "dm"], &["session", "resetByType", "direct"], Say::Nothing),
    (&["session", "typingMode"], &["agents", "defaults", "typingMode"], Say::Nothing),
    (&["session", "typingIntervalSeconds"], &["agents", "defaults", "typingIntervalSeconds"], Say::Nothing),
    (&["agents", "defaults", "embeddedPi"], &["agents", "defaults", "embeddedAgent"], Say::Nothing),
    (&["browser", "ssrfPolicy", "allowPrivateNetwork"], &["browser", "ssrfPolicy", "dangerouslyAllowPrivateNetwork"], Say::Nothing),
    (&["browser", "ssrfPolicy", "hostnameAllowlist"], &["browser", "ssrfPolicy", "allowedHostnames"], Say::Nothing),
];

/// Keys without any effect, with the reason.
const DROPPED: &[(&[&str], &str)] = &[
    (&["tui"], "has no effect any more"),
    (&["bridge"], "has no effect: the node bridge was removed"),
    (&["model_routing", "passthrough_endpoints"], "has no effect: it belongs to the configuration of LiteLLM"),
];

impl Pass<'_> {
    fn warn(&mut self, at: &[String], message: impl Into<String>) {
        self.issues.push(Issue::warning(at, message));
    }

    fn info(&mut self, at: &[String], message: impl Into<String>) {
        self.issues.push(Issue::info(at, message));
    }

    fn get(&self, path: &[&str]) -> Option<&Value> {
        value_at(self.root, &own(path))
    }

    fn take(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        let parent = parents.iter().try_fold(&mut *self.root, |here, key| here.as_object_mut()?.get_mut(*key))?;
        parent.as_object_mut()?.shift_remove(*last)
    }

    /// The object at a path, made where missing; none when something else is in the way.
    fn object(&mut self, path: &[&str]) -> Option<&mut Map<String, Value>> {
        let mut here = &mut *self.root;
        for key in path {
            here = here.as_object_mut()?.entry((*key).to_owned()).or_insert_with(|| Value::Object(Map::new()));
        }
        here.as_object_mut()
    }

    /// Moves a part; what stands at the new place wins where both say something.
    fn rename(&mut self, from: &[&str], to: &[&str], say: Say) {
        let Some((last, parents)) = to.split_last() else { return };
        if self.get(from).is_none() {
            return;
        }
        if self.object(parents).is_none() {
            return;
        }
        let Some(value) = self.take(from) else { return };
        let Some(parent) = self.object(parents) else { return };
        let merged = match parent.get(*last) {
            Some(newer) => overlay(&value, newer),
            None => value,
        };
        let had = parent.insert((*last).to_owned(), merged).is_some();
        if !had {
            self.moves.note(to, from);
        }
        if say == Say::Warn {
            self.warn(&own(from), format!("\"{}\" is an old spelling, read as \"{}\"", from.join("."), to.join(".")));
        }
    }

    fn old_roots(&mut self) {
        for channel in ["whatsapp", "telegram", "discord", "slack", "signal", "imessage", "msteams"] {
            self.rename(&[channel], &["channels", channel], Say::Warn);
        }
        // the oldest agent block spells models differently
        for (old, new) in [("modelFallbacks", "fallbacks"), ("modelAliases", ""), ("allowedModels", "")] {
            let Some(value) = self.take(&["agent", old]) else { continue };
            match (old, value) {
                ("modelFallbacks", list) => {
                    let Some(agent) = self.object(&["agent"]) else { continue };
                    let model = agent.entry("model").or_insert_with(|| Value::Object(Map::new()));
                    if let Value::String(primary) = model {
                        *model = serde_json::json!({"primary": primary});
                    }
                    if let Some(map) = model.as_object_mut() {
                        map.insert(new.to_owned(), list);
                    }
                }
                ("modelAliases", Value::Object(aliases)) => {
                    for (alias, target) in aliases {
                        let Some(target) = target.as_str().map(str::to_owned) else { continue };
                        if let Some(entry) = self.object(&["agent", "models", &target]) {
                            entry.insert("alias".into(), Value::String(alias));
                        }
                    }
                }
                (_, Value::Array(list)) => {
                    for name in list.iter().filter_map(Value::as_str) {
                        self.object(&["agent", "models", name]);
                    }
                }
                _ => {}
            }
        }
        for (from, to, say) in RENAMES {
            self.rename(from, to, *say);
        }
        if let Some(Value::Object(rest)) = self.get(&["routing"])
            && rest.is_empty()
        {
            self.take(&["routing"]);
        }
        for (path, why) in DROPPED {
            if self.take(path).is_some() {
                self.warn(&own(path), format!("\"{}\" {why}", path.join(".")));
            }
        }
    }

    /// Root keys of the mission texts.
    fn mission_roots(&mut self) {
        if self.get(&["workspace"]).is_some_and(Value::is_string)
            && let Some(Value::String(dir)) = self.take(&["workspace"])
        {
            if self.paths.expand(&dir) == self.paths.state_dir {
                self.warn(&own(&["workspace"]), "\"workspace\" names the state folder and is ignored; set agents.defaults.workspace to another folder");
            } else if let Some(defaults) = self.object(&["agents_", "defaults"]) {
                // kept aside: `agents` may be a list here
                defaults.insert("workspace".into(), Value::String(dir));
                self.warn(&own(&["workspace"]), "\"workspace\" is read as \"agents.defaults.workspace\"");
            }
        }
    }

    fn bindings(&mut self) {
        let count = self.get(&["bindings"]).and_then(Value::as_array).map_or(0, Vec::len);
        for i in 0..count {
            let index = i.to_string();
            let Some(binding) = self.root.get_mut("bindings").and_then(|b| b.get_mut(i)) else { continue };
            if let Some(kind) = binding.pointer_mut("/match/peer/kind")
                && kind == "dm"
            {
                *kind = Value::String("direct".into());
            }
            if binding.pointer("/match/channel").and_then(Value::as_str).is_some_and(|c| c.trim().eq_ignore_ascii_case("cron")) {
                let agent = binding.get("agentId").and_then(Value::as_str).unwrap_or_default().to_owned();
                self.info(&own(&["bindings", &index]), format!("Cron jobs without an agent run as \"{agent}\" (binding with match.channel \"cron\")"));
            }
        }
    }

    fn sessions_and_messages(&mut self) {
        if let Some(Value::Array(rules)) = self.root.pointer_mut("/session/sendPolicy/rules") {
            for rule in rules {
                if let Some(kind) = rule.pointer_mut("/match/chatType")
                    && kind == "dm"
                {
                    *kind = Value::String("direct".into());
                }
            }
        }
        if let Some(days) = self.get(&["session", "maintenance", "pruneDays"]).and_then(Value::as_u64)
            && self.get(&["session", "maintenance", "pruneAfter"]).is_none()
            && let Some(m) = self.object(&["session", "maintenance"])
        {
            m.insert("pruneAfter".into(), Value::String(format!("{days}d")));
        }
    }

    fn channels(&mut self) {
        let ids: Vec<String> = self.get(&["channels"]).and_then(Value::as_object).into_iter().flatten().map(|(k, _)| k.clone()).collect();
        for id in ids {
            let mut blocks = vec![vec!["channels".to_owned(), id.clone()]];
            let accounts = self.get(&["channels", &id, "accounts"]).and_then(Value::as_object);
            blocks.extend(accounts.into_iter().flatten().map(|(a, _)| own(&["channels", &id, "accounts", a])));
            for block in blocks {
                let path: Vec<&str> = block.iter().map(String::as_str).collect();
                let join = |tail: &[&'static str]| path.iter().copied().chain(tail.iter().copied()).collect::<Vec<&str>>();
                if id == "slack" {
                    self.rename(&join(&["token"]), &join(&["botToken"]), Say::Warn);
                }
                if matches!(id.as_str(), "slack" | "discord") {
                    self.rename(&join(&["dm", "policy"]), &join(&["dmPolicy"]), Say::Nothing);
                    self.rename(&join(&["dm", "allowFrom"]), &join(&["allowFrom"]), Say::Nothing);
                }
                if matches!(id.as_str(), "slack" | "discord" | "telegram" | "whatsapp") {
                    self.rename(&join(&["heartbeat"]), &join(&["heartbeatVisibility"]), Say::Nothing);
                }
            }
        }
    }

    fn gateway(&mut self) {
        if let Some(Value::String(bind)) = self.root.pointer_mut("/gateway/bind") {
            let better = match bind.as_str() {
                "0.0.0.0" | "::" | "[::]" | "*" => Some("lan"),
                "localhost" | "127.0.0.1" | "::1" | "[::1]" => Some("loopback"),
                _ => None,
            };
            if let Some(better) = better {
                let message = format!("gateway.bind \"{bind}\" is read as \"{better}\"");
                *bind = better.to_owned();
                self.warn(&own(&["gateway", "bind"]), message);
            }
        }
        if self.get(&["canvasHost", "port"]).is_some() {
            self.warn(&own(&["canvasHost", "port"]), "canvas is served on the gateway port; canvasHost.port only adds a redirect");
        }
    }

    fn others(&mut self) {
        let reference = self
            .get(&["memory"])
            .and_then(Value::as_object)
            .map(|m| ["pgvector", "redis"].into_iter().filter(|k| m.get(*k).is_some_and(|v| v.get("enabled") == Some(&Value::Bool(true)))).collect::<Vec<_>>());
        for name in reference.unwrap_or_default() {
            // refused by a strict reader, a line at start
            let at = own(&["memory", name]);
            self.issues.push(Issue::new(crate::issue::Severity::Unknown, &at, format!("memory.{name} is enabled, but there is no such memory backend")));
        }
        let servers: Vec<String> = self.get(&["mcp", "servers"]).and_then(Value::as_object).into_iter().flatten().map(|(k, _)| k.clone()).collect();
        for name in servers {
            self.rename(&["mcp", "servers", &name, "type"], &["mcp", "servers", &name, "transport"], Say::Nothing);
            self.rename(&["mcp", "servers", &name, "timeout"], &["mcp", "servers", &name, "requestTimeoutMs"], Say::Nothing);
            if let Some(Value::Bool(off)) = self.take(&["mcp", "servers", &name, "disabled"])
                && let Some(server) = self.object(&["mcp", "servers", &name])
            {
                server.entry("enabled").or_insert(Value::Bool(!off));
            }
            if let Some(Value::String(t)) = self.root.pointer_mut(&format!("/mcp/servers/{}/transport", name.replace('~', "~0").replace('/', "~1")))
                && t == "http"
            {
                *t = "streamable-http".into();
            }
        }
    }

    fn agent_id(text: &str) -> String {
        AgentId::normalise(text).as_str().to_owned()
    }
}
