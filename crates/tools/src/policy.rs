//! Which tools an agent may use, decided from its config: profiles, allow and deny lists, groups, per-provider
//! lists, the sandbox's and the sub-agents' lists. Pure: the same input gives the same answer.
//!
//! A policy is a row of steps; a tool is allowed when every step lets it pass. In a step deny wins, an absent or
//! empty allow list lets everything pass. Names are compared without case; `*` stands for any text.

use std::collections::BTreeSet;

use serde_json::Value;

/// Tools that `POST /tools/invoke` refuses unless `gateway.tools.allow` names them.
pub const HTTP_INVOKE_DENY: [&str; 12] =
    ["exec", "spawn", "shell", "fs_write", "fs_delete", "fs_move", "apply_patch", "sessions_spawn", "sessions_send", "cron", "gateway", "nodes"];

/// Groups and their tools; names that this gateway does not have yet are kept so that configs stay valid.
const GROUPS: [(&str, &[&str]); 11] = [
    ("group:runtime", &["exec", "process", "code_execution"]),
    ("group:fs", &["read", "write", "edit", "apply_patch", "ls"]),
    (
        "group:sessions",
        &[
            "sessions",
            "sessions_list",
            "sessions_history",
            "sessions_search",
            "sessions_send",
            "sessions_spawn",
            "sessions_yield",
            "session_status",
            "subagents",
        ],
    ),
    ("group:memory", &["memory_search", "memory_get"]),
    ("group:web", &["web_search", "web_fetch", "x_search"]),
    ("group:ui", &["browser", "canvas"]),
    ("group:automation", &["cron", "gateway"]),
    ("group:messaging", &["message"]),
    ("group:nodes", &["nodes"]),
    ("group:agents", &["agents_list", "a2a_send"]),
    ("group:media", &["image", "image_generate", "tts"]),
];

/// What each profile allows; `full` allows everything and has no list.
const PROFILES: [(&str, &[&str]); 3] = [
    ("minimal", &["session_status"]),
    ("coding", &["group:fs", "group:runtime", "group:web", "group:sessions", "group:memory", "cron", "image"]),
    ("messaging", &["group:messaging", "sessions", "sessions_list", "sessions_history", "sessions_search", "sessions_send", "session_status"]),
];

/// What a sandboxed session may use when `tools.sandbox.tools` says nothing.
const SANDBOX_ALLOW: [&str; 13] = [
    "exec",
    "process",
    "read",
    "write",
    "edit",
    "apply_patch",
    "image",
    "sessions_list",
    "sessions_history",
    "sessions_send",
    "sessions_spawn",
    "subagents",
    "session_status",
];
/// What a sandboxed session may not use.
const SANDBOX_DENY: [&str; 5] = ["browser", "canvas", "nodes", "cron", "gateway"];
/// What sub-agents may not use: they work on one task and report once.
const SUBAGENT_DENY: [&str; 7] = ["gateway", "agents_list", "session_status", "cron", "memory_search", "memory_get", "sessions_send"];
/// What sub-agents that may not spawn further ones may not use besides.
const LEAF_DENY: [&str; 4] = ["subagents", "sessions_list", "sessions_history", "sessions_spawn"];

/// The tool's own name: lower case, spaces off, older and other spellings mapped.
#[must_use]
pub fn canonical(name: &str) -> String {
    let lower = name.trim().to_lowercase();
    match lower.as_str() {
        "bash" | "shell" => "exec".into(),
        "apply-patch" => "apply_patch".into(),
        "web-fetch" => "web_fetch".into(),
        "web-search" => "web_search".into(),
        _ => lower,
    }
}

/// Whether the session's tools run in a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandboxed {
    /// On the host.
    #[default]
    No,
    /// In a sandbox: `tools.sandbox.tools` applies.
    Yes,
}

/// Where a session stands among sub-agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rank {
    /// No sub-agent.
    #[default]
    Main,
    /// A sub-agent that may spawn further ones.
    Orchestrator,
    /// A sub-agent that may not.
    Leaf,
}

/// What a policy is made from. Values are sections as they stand in the config.
#[derive(Clone, Debug, Default)]
pub struct PolicyInput<'a> {
    /// `tools`.
    pub global: Option<&'a Value>,
    /// `agents.list[].tools` of the agent.
    pub agent: Option<&'a Value>,
    /// The provider of the model that runs.
    pub provider: &'a str,
    /// The model, without the provider.
    pub model: &'a str,
    /// Further lists `{allow?, alsoAllow?, deny?}` with the name shown in a refusal: the group's or channel's
    /// `tools`, the sender's entry of `toolsBySender`.
    pub further: Vec<(&'a str, &'a Value)>,
    /// Where tools run.
    pub sandboxed: Sandboxed,
    /// Where the session stands among sub-agents.
    pub rank: Rank,
    /// Tools this turn may not use (`TurnOptions::deny_tools`).
    pub turn_deny: &'a [String],
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    /// The config path shown in a refusal.
    path: String,
    /// None lets everything pass.
    allow: Option<Vec<String>>,
    deny: Vec<String>,
}

/// Which tools one session may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolPolicy {
    steps: Vec<Step>,
    /// What is odd about the config, for logs and `doctor`.
    pub warnings: Vec<String>,
}

impl ToolPolicy {
    /// Allows everything.
    #[must_use]
    pub fn open() -> Self {
        Self::default()
    }

    /// The policy of one session. Order: profile, the provider's profile, global lists, the provider's lists, the
    /// agent's, the agent's for the provider, further ones, sandbox, sub-agent, turn.
    #[must_use]
    pub fn of(input: &PolicyInput<'_>) -> Self {
        let mut policy = Self::default();
        let get = |section: Option<&'_ Value>, key: &str| section.and_then(|s| s.get(key)).filter(|v| !v.is_null()).cloned();
        let global_by = input.global.and_then(|s| by_provider(s, input.provider, input.model));
        let agent_by = input.agent.and_then(|s| by_provider(s, input.provider, input.model));

        let also = get(input.agent, "alsoAllow").or_else(|| get(input.global, "alsoAllow"));
        match (get(input.agent, "profile"), get(input.global, "profile")) {
            (Some(profile), _) => policy.profile("agents.list[].tools.profile", &profile, also.as_ref()),
            (None, Some(profile)) => policy.profile("tools.profile", &profile, also.as_ref()),
            (None, None) => {}
        }
        let by_also = get(agent_by, "alsoAllow").or_else(|| get(global_by, "alsoAllow"));
        if let Some(profile) = get(agent_by, "profile").or_else(|| get(global_by, "profile")) {
            policy.profile("tools.byProvider.*.profile", &profile, by_also.as_ref());
        }
        for (path, section) in
            [("tools", input.global), ("tools.byProvider.*", global_by), ("agents.list[].tools", input.agent), ("agents.list[].tools.byProvider.*", agent_by)]
        {
            if let Some(section) = section {
                policy.lists(path, section);
            }
        }
        for (path, section) in &input.further {
            policy.lists(path, section);
        }
        if input.sandboxed == Sandboxed::Yes {
            policy.sandbox(input);
        }
        if input.rank != Rank::Main {
            policy.subagent(input);
        }
        if !input.turn_deny.is_empty() {
            policy.push("this turn", None, input.turn_deny.iter().map(|n| canonical(n)).collect());
        }
        policy
    }

    /// True when the tool may be used.
    #[must_use]
    pub fn allows(&self, tool: &str) -> bool {
        self.why_denied(tool).is_none()
    }

    /// The rule that forbids a tool, as a sentence; `None` when it may be used.
    #[must_use]
    pub fn why_denied(&self, tool: &str) -> Option<String> {
        let tool = canonical(tool);
        for step in &self.steps {
            if let Some(entry) = step.deny.iter().find(|p| matches(p, &tool)) {
                return Some(format!("Tool {tool} is denied by {}{} ({entry})", step.path, if step.path.starts_with("this") { "" } else { ".deny" }));
            }
            if let Some(allow) = &step.allow {
                // Patching is writing by another name: who may run commands may patch.
                let passes = allow.iter().any(|p| matches(p, &tool)) || (tool == "apply_patch" && allow.iter().any(|p| matches(p, "exec")));
                if !passes {
                    return Some(format!("Tool {tool} is not in the list of {}", step.path));
                }
            }
        }
        None
    }

    fn push(&mut self, path: &str, allow: Option<Vec<String>>, deny: Vec<String>) {
        if allow.is_some() || !deny.is_empty() {
            self.steps.push(Step { path: path.into(), allow, deny });
        }
    }

    fn profile(&mut self, path: &str, profile: &Value, also: Option<&Value>) {
        let name = profile.as_str().unwrap_or_default();
        if name == "full" {
            return;
        }
        let Some((_, tools)) = PROFILES.iter().find(|(id, _)| *id == name) else {
            self.warnings.push(format!("{path}: there is no tool profile {profile}; it is ignored"));
            return;
        };
        let mut allow = expand(tools.iter().copied());
        allow.extend(names(also));
        self.push(&format!("{path} ({name})"), Some(allow), Vec::new());
    }

    fn lists(&mut self, path: &str, section: &Value) {
        let mut allow = names(section.get("allow"));
        if !allow.is_empty() {
            if allow.iter().all(|name| !known(name)) {
                self.warnings.push(format!("{path}.allow names only tools that are not there ({}); it is ignored", allow.join(", ")));
                allow.clear();
            } else {
                allow.extend(names(section.get("alsoAllow")));
            }
        }
        let deny = names(section.get("deny"));
        self.push(path, (!allow.is_empty()).then_some(allow), deny);
    }

    fn sandbox(&mut self, input: &PolicyInput<'_>) {
        let section = |s: Option<&'_ Value>| s.and_then(|s| s.pointer("/sandbox/tools")).cloned();
        let (agent, global) = (section(input.agent), section(input.global));
        let pick = |key: &str| agent.as_ref().and_then(|s| s.get(key)).or_else(|| global.as_ref().and_then(|s| s.get(key))).filter(|v| !v.is_null());
        // An empty allow list opens everything; an absent one is the default.
        let allow = match pick("allow") {
            Some(list) if names(Some(list)).is_empty() => None,
            Some(list) => Some(names(Some(list))),
            None => Some(expand(SANDBOX_ALLOW)),
        };
        let also = names(pick("alsoAllow"));
        let deny =
            pick("deny").map_or_else(|| SANDBOX_DENY.iter().filter(|d| !also.iter().any(|a| a == *d)).map(|d| (*d).to_owned()).collect(), |d| names(Some(d)));
        let allow = allow.map(|mut list| {
            list.extend(also);
            list
        });
        self.push("tools.sandbox.tools", allow, deny);
    }

    fn subagent(&mut self, input: &PolicyInput<'_>) {
        let section = input.global.and_then(|s| s.pointer("/subagents/tools"));
        let allow = names(section.and_then(|s| s.get("allow")));
        let also = names(section.and_then(|s| s.get("alsoAllow")));
        let named: BTreeSet<&String> = allow.iter().chain(&also).collect();
        let base = SUBAGENT_DENY.iter().chain(if input.rank == Rank::Leaf { LEAF_DENY.iter() } else { [].iter() });
        let mut deny: Vec<String> = base.filter(|d| !named.iter().any(|n| n == *d)).map(|d| (*d).to_owned()).collect();
        deny.extend(names(section.and_then(|s| s.get("deny"))));
        let allow = (!allow.is_empty()).then(|| allow.iter().chain(&also).cloned().collect());
        self.push("tools.subagents.tools", allow, deny);
    }
}

/// The entry of `byProvider` for a model: `provider/model` before `provider`.
fn by_provider<'a>(section: &'a Value, provider: &str, model: &str) -> Option<&'a Value> {
    let map = section.get("byProvider")?.as_object()?;
    let find = |wanted: &str| map.iter().find(|(key, _)| key.trim().eq_ignore_ascii_case(wanted)).map(|(_, value)| value);
    find(&format!("{provider}/{model}")).or_else(|| find(model).filter(|_| model.contains('/'))).or_else(|| find(provider))
}

fn names(list: Option<&Value>) -> Vec<String> {
    expand(list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str))
}

/// Puts in the tools of groups; `group:openclaw` is every built-in tool. Unknown groups stay as they are.
fn expand<'a>(list: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut out = Vec::new();
    for name in list {
        let name = canonical(name);
        if name.is_empty() {
            continue;
        }
        if name == "group:openclaw" {
            out.extend(GROUPS.iter().flat_map(|(_, tools)| tools.iter().map(|t| (*t).to_owned())));
        } else if let Some((_, tools)) = GROUPS.iter().find(|(group, _)| *group == name) {
            out.extend(tools.iter().map(|t| (*t).to_owned()));
        } else {
            out.push(name);
        }
    }
    out
}

/// True for names of built-in tools, groups and patterns that match one.
fn known(pattern: &str) -> bool {
    GROUPS.iter().flat_map(|(_, tools)| tools.iter()).any(|tool| matches(pattern, tool))
}

/// Compares a lower-case name with a pattern in which `*` stands for any text.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(first) = parts.next() else { return false };
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
