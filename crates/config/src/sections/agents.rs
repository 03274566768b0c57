use std::path::PathBuf;

use clawstead_terms::AgentId;
use serde_json::Value;

use super::{Cx, gateway::u32_or};
use crate::view::{Raw, View, overlay};

/// A model and what to try when it fails. References are `provider/model`, split at the first slash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelChoice {
    /// None when nothing is configured.
    pub primary: Option<String>,
    /// Tried in order.
    pub fallbacks: Vec<String>,
}

/// `identity`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Shown name.
    pub name: Option<String>,
    /// Character.
    pub theme: Option<String>,
    /// One emoji; also the default acknowledgement reaction.
    pub emoji: Option<String>,
    /// Workspace-relative path, URL or data URI.
    pub avatar: Option<String>,
}

/// `heartbeat` of an agent that beats.
#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeat {
    /// Default 30 minutes. 0 never gets here: such an agent has no heartbeat.
    pub every_ms: u64,
    /// `HH:MM` to `HH:MM`; only then.
    pub active_hours: Option<ActiveHours>,
    /// Another model.
    pub model: Option<String>,
    /// Session name; none means the main session.
    pub session: Option<String>,
    /// `owner`, `last`, `none` or a channel; none means the default (`none`).
    pub target: Option<String>,
    /// Peer for the target.
    pub to: Option<String>,
    /// Account for the target.
    pub account_id: Option<String>,
    /// Another prompt.
    pub prompt: Option<String>,
    /// Text beside the acknowledgement token that is still dropped; default 300 characters.
    pub ack_max_chars: u32,
    /// Only the small set of workspace files.
    pub light_context: bool,
    /// Own session for every beat.
    pub isolated_session: bool,
    /// Show reasoning too.
    pub include_reasoning: bool,
    /// `directPolicy: block`.
    pub block_direct: bool,
    /// Time limit.
    pub timeout_seconds: Option<u64>,
    /// As written, merged over the defaults.
    pub raw: Raw,
}

/// `heartbeat.activeHours`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveHours {
    /// Minutes since midnight.
    pub start_minute: u16,
    /// Minutes since midnight, 1440 for `24:00`.
    pub end_minute: u16,
    /// IANA name, `user` or `local`.
    pub timezone: Option<String>,
}

/// `sandbox`, agent over defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    /// `off` (default), `non-main`, `all`.
    pub mode: String,
    /// `session`, `agent` (default), `shared`.
    pub scope: String,
    /// `none` (default), `ro`, `rw`.
    pub workspace_access: String,
    /// Default `~/.openclaw/sandboxes`.
    pub workspace_root: Option<String>,
    /// Everything, merged; docker binds of both are joined.
    pub raw: Raw,
}

/// `subagents`, agent over defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subagents {
    /// Agents this one may spawn; `*` for all; none means only itself.
    pub allow_agents: Option<Vec<String>>,
    /// Model of what it spawns.
    pub model: Option<ModelChoice>,
    /// Thinking level of what it spawns.
    pub thinking: Option<String>,
    /// A spawn must name the agent.
    pub require_agent_id: bool,
    /// Default 8.
    pub max_concurrent: u32,
    /// Default 5.
    pub max_spawn_depth: u32,
    /// Default 5.
    pub max_children_per_agent: u32,
    /// Default 60; 0 means never.
    pub archive_after_minutes: u64,
    /// 0 means no limit.
    pub run_timeout_seconds: u64,
}

/// `groupChat`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupChat {
    /// Patterns that count as a mention; none means derived from the identity.
    pub mention_patterns: Option<Vec<String>>,
    /// Messages of others kept as context.
    pub history_limit: Option<u32>,
}

/// One agent with everything resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Shown name.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// `role` of a mission text spelling; shown in `agents list`.
    pub role: Option<String>,
    /// Published in the registry.
    pub capabilities: Vec<String>,
    /// True for exactly one agent.
    pub is_default: bool,
    /// Absolute.
    pub workspace: PathBuf,
    /// Absolute; auth profiles live there. Never shared.
    pub agent_dir: PathBuf,
    /// Absolute.
    pub sessions_dir: PathBuf,
    /// Working folder of tools when it is not the workspace.
    pub cwd: Option<PathBuf>,
    /// Model and fallbacks, own over defaults.
    pub model: ModelChoice,
    /// Image model, own over defaults.
    pub image_model: Option<ModelChoice>,
    /// Skills it may use; none means all, empty means none.
    pub skills: Option<Vec<String>>,
    /// Who it is.
    pub identity: Identity,
    /// `tools` with the agent's over the global ones (lists replaced). For policy layers use `tools_own` and the global `tools`.
    pub tools: Raw,
    /// The agent's own `tools` block, or null.
    pub tools_own: Raw,
    /// Where its commands run.
    pub sandbox: Sandbox,
    /// None when it does not beat.
    pub heartbeat: Option<Heartbeat>,
    /// What it may spawn.
    pub subagents: Subagents,
    /// Groups.
    pub group_chat: GroupChat,
    /// `off`, `low`, ...; none means the provider decides.
    pub thinking_default: Option<String>,
    /// `on`, `off`, `full`.
    pub verbose_default: Option<String>,
    /// `on`, `off`, `stream`.
    pub reasoning_default: Option<String>,
    /// Turn limit; default 172800.
    pub timeout_seconds: u64,
    /// One workspace file in the prompt; default 20000.
    pub bootstrap_max_chars: u32,
    /// All of them; default 60000.
    pub bootstrap_total_max_chars: u32,
    /// `always` (default), `continuation-skip`, `never`.
    pub context_injection: String,
    /// Tokens the context may have; none means as the model says.
    pub context_tokens: Option<u64>,
    /// `compaction` as written, or null.
    pub compaction: Raw,
    /// `contextPruning` as written, or null.
    pub context_pruning: Raw,
    /// Time zone of the user; none means the host's.
    pub user_timezone: Option<String>,
    /// Model references it may be switched to; none means all.
    pub model_allow: Option<Vec<String>>,
    /// Model call parameters.
    pub params: Raw,
    /// The agent's block as written, normalised.
    pub raw: Raw,
}

/// `agents`.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentsConfig {
    /// In the order of the file; at least one.
    pub list: Vec<Agent>,
    /// True when the file names no agent and `main` was made up.
    pub implicit: bool,
    /// Turns at once over all sessions; default the larger of 8 and 4 per processor.
    pub max_concurrent: u32,
    /// `agents.defaults` as written, or null.
    pub defaults: Raw,
}

impl AgentsConfig {
    /// By id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Agent> {
        self.list.iter().find(|a| a.id.as_str() == id)
    }

    /// The default agent.
    #[must_use]
    pub fn default_agent(&self) -> &Agent {
        // the reader always makes at least one and marks exactly one
        self.list.iter().find(|a| a.is_default).unwrap_or(&self.list[0])
    }
}

pub(crate) fn model_choice(v: View<'_>) -> Option<ModelChoice> {
    match v.0? {
        Value::String(s) => Some(ModelChoice { primary: Some(s.trim().to_owned()).filter(|s| !s.is_empty()), fallbacks: Vec::new() }),
        Value::Object(_) => Some(ModelChoice { primary: v.at("primary").word(), fallbacks: v.at("fallbacks").texts().unwrap_or_default() }),
        _ => None,
    }
}

pub(crate) fn read(cx: &Cx<'_>) -> AgentsConfig {
    let agents = cx.root.at("agents");
    let defaults = agents.at("defaults");
    let entries: Vec<(AgentId, View<'_>)> = agents.at("entries").map().map(|(id, v)| (AgentId::normalise(id), v)).collect();
    let implicit = entries.is_empty();
    let entries = if implicit { vec![(AgentId::normalise(AgentId::MAIN), View(None))] } else { entries };
    let default_id = default_agent(&entries, defaults);
    let someone_beats = entries.iter().any(|(_, e)| e.at("heartbeat").present());
    let list = entries.iter().map(|(id, e)| agent(cx, id, *e, defaults, *id == default_id, someone_beats)).collect();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    AgentsConfig {
        list,
        implicit,
        max_concurrent: u32_or(defaults.at("maxConcurrent"), u32::try_from(cpus * 4).unwrap_or(8).max(8)).max(1),
        defaults: defaults.cloned(),
    }
}

/// `default: true` (first wins), else the owner that today's keys name, else the first entry.
fn default_agent(entries: &[(AgentId, View<'_>)], defaults: View<'_>) -> AgentId {
    let marked = entries.iter().find(|(_, e)| e.at("default").flag(false)).map(|(id, _)| id.clone());
    let named = defaults.path("systemAgent.agentId").str().map(AgentId::normalise).filter(|id| entries.iter().any(|(e, _)| e == id));
    marked.or(named).unwrap_or_else(|| entries[0].0.clone())
}

fn agent(cx: &Cx<'_>, id: &AgentId, e: View<'_>, d: View<'_>, is_default: bool, someone_beats: bool) -> Agent {
    let both = |key: &str| e.at(key).or(d.at(key));
    let tools_own = e.at("tools").cloned();
    let own_model = model_choice(e.at("model"));
    let base_model = model_choice(d.at("model"));
    Agent {
        id: id.clone(),
        name: e.at("name").word(),
        description: e.at("description").word(),
        role: e.at("role").word(),
        capabilities: e.at("capabilities").texts().unwrap_or_default(),
        is_default,
        workspace: workspace(cx, id, e, d, is_default),
        agent_dir: e.at("agentDir").word().map_or_else(|| cx.paths.agent_dir(id.as_str()), |p| cx.paths.expand(&p)),
        sessions_dir: sessions_dir(cx, id),
        cwd: both("cwd").word().map(|p| cx.paths.expand(&p)),
        model: merge_models(e.at("model"), own_model, base_model),
        image_model: model_choice(both("imageModel")),
        skills: both("skills").texts(),
        identity: identity(e.at("identity")),
        tools: overlay(&cx.root.at("tools").cloned(), &tools_own).into(),
        tools_own,
        sandbox: sandbox(e.at("sandbox"), d.at("sandbox")),
        heartbeat: heartbeat(e.at("heartbeat"), d.at("heartbeat"), someone_beats, is_default),
        subagents: subagents(e.at("subagents"), d.at("subagents")),
        group_chat: group_chat(cx, e.at("groupChat")),
        thinking_default: both("thinkingDefault").word(),
        verbose_default: both("verboseDefault").word(),
        reasoning_default: both("reasoningDefault").word(),
        timeout_seconds: both("timeoutSeconds").u64().unwrap_or(172_800),
        bootstrap_max_chars: u32_or(both("bootstrapMaxChars"), 20_000),
        bootstrap_total_max_chars: u32_or(both("bootstrapTotalMaxChars"), 60_000),
        context_injection: both("contextInjection").word().unwrap_or_else(|| "always".into()),
        context_tokens: both("contextTokens").u64(),
        compaction: overlay(&d.at("compaction").cloned(), &e.at("compaction").cloned()).into(),
        context_pruning: overlay(&d.at("contextPruning").cloned(), &e.at("contextPruning").cloned()).into(),
        user_timezone: d.at("userTimezone").word(),
        model_allow: e.path("modelPolicy.allow").or(d.path("modelPolicy.allow")).texts(),
        params: overlay(&d.at("params").cloned(), &e.at("params").cloned()).into(),
        raw: e.cloned(),
    }
}

/// An agent's own primary keeps the default fallbacks unless it brings its own list, also an empty one.
fn merge_models(own_value: View<'_>, own: Option<ModelChoice>, base: Option<ModelChoice>) -> ModelChoice {
    let base = base.unwrap_or_default();
    let Some(own) = own else { return base };
    let has_list = own_value.at("fallbacks").present();
    ModelChoice { primary: own.primary.or(base.primary), fallbacks: if has_list { own.fallbacks } else { base.fallbacks } }
}

fn workspace(cx: &Cx<'_>, id: &AgentId, e: View<'_>, d: View<'_>, is_default: bool) -> PathBuf {
    if let Some(own) = e.at("workspace").word() {
        return cx.paths.expand(&own);
    }
    let root = d.at("workspace").word().map(|p| cx.paths.expand(&p));
    if is_default {
        return root.unwrap_or_else(|| cx.paths.default_workspace.clone());
    }
    let beside_state = cx.paths.state_dir.join(format!("workspace-{id}"));
    if beside_state.is_dir() {
        return beside_state;
    }
    // some set-ups keep SOUL.md right in the agent's folder
    let in_agents = cx.paths.state_dir.join("agents").join(id.as_str());
    if in_agents.join("SOUL.md").is_file() {
        return in_agents;
    }
    root.map_or(beside_state, |r| r.join(id.as_str()))
}

fn sessions_dir(cx: &Cx<'_>, id: &AgentId) -> PathBuf {
    match cx.root.path("session.store").word() {
        Some(store) => {
            let path = cx.paths.expand(&store.replace("{agentId}", id.as_str()));
            let is_file = path.extension().is_some_and(|x| x == "json");
            if is_file { path.parent().map_or_else(|| path.clone(), std::path::Path::to_path_buf) } else { path }
        }
        None => cx.paths.sessions_dir(id.as_str()),
    }
}

pub(crate) fn identity(v: View<'_>) -> Identity {
    Identity { name: v.at("name").word(), theme: v.at("theme").word(), emoji: v.at("emoji").word(), avatar: v.at("avatar").word() }
}

fn sandbox(own: View<'_>, base: View<'_>) -> Sandbox {
    let mut raw = overlay(&base.cloned(), &own.cloned());
    let binds: Vec<Value> = [base, own].into_iter().flat_map(|v| v.path("docker.binds").list()).filter_map(|v| v.0.cloned()).collect();
    if let Some(slot) = raw.pointer_mut("/docker/binds") {
        *slot = Value::Array(binds);
    }
    let v = View(Some(&raw));
    let word = |key: &str, default: &str| v.at(key).word().unwrap_or_else(|| default.to_owned());
    Sandbox {
        mode: word("mode", "off"),
        scope: word("scope", "agent"),
        workspace_access: word("workspaceAccess", "none"),
        workspace_root: v.at("workspaceRoot").word(),
        raw: raw.into(),
    }
}

fn heartbeat(own: View<'_>, base: View<'_>, someone_beats: bool, is_default: bool) -> Option<Heartbeat> {
    // when any agent has its own block only those beat; otherwise the default agent does
    if if someone_beats { !own.present() } else { !is_default } {
        return None;
    }
    let raw = overlay(&base.cloned(), &own.cloned());
    let v = View(Some(&raw));
    let every_ms = v.at("every").duration_ms(60_000).unwrap_or(30 * 60_000);
    if every_ms == 0 {
        return None;
    }
    let hours = v.at("activeHours");
    let active_hours = minute(hours.at("start").str().unwrap_or("00:00"))
        .zip(minute(hours.at("end").str().unwrap_or("24:00")))
        .filter(|_| hours.present())
        .map(|(start_minute, end_minute)| ActiveHours { start_minute, end_minute, timezone: hours.at("timezone").word() });
    Some(Heartbeat {
        every_ms,
        active_hours,
        model: v.at("model").word(),
        session: v.at("session").word(),
        target: v.at("target").word(),
        to: v.at("to").word(),
        account_id: v.at("accountId").word(),
        prompt: v.at("prompt").word(),
        ack_max_chars: u32_or(v.at("ackMaxChars"), 300),
        light_context: v.at("lightContext").flag(false),
        isolated_session: v.at("isolatedSession").flag(false),
        include_reasoning: v.at("includeReasoning").flag(false),
        block_direct: v.at("directPolicy").str() == Some("block"),
        timeout_seconds: v.at("timeoutSeconds").u64(),
        raw: raw.clone().into(),
    })
}

/// `HH:MM` as minutes since midnight; `24:00` is 1440.
pub(crate) fn minute(text: &str) -> Option<u16> {
    let (h, m) = text.split_once(':')?;
    if h.len() != 2 || m.len() != 2 || !text.bytes().all(|b| b.is_ascii_digit() || b == b':') {
        return None;
    }
    let (h, m): (u16, u16) = (h.parse().ok()?, m.parse().ok()?);
    (m < 60 && (h < 24 || (h == 24 && m == 0))).then_some(h * 60 + m)
}

fn subagents(own: View<'_>, base: View<'_>) -> Subagents {
    let both = |key: &str| own.at(key).or(base.at(key));
    Subagents {
        allow_agents: both("allowAgents").texts(),
        model: model_choice(both("model")),
        thinking: both("thinking").word(),
        require_agent_id: both("requireAgentId").flag(false),
        max_concurrent: u32_or(both("maxConcurrent"), 8).max(1),
        max_spawn_depth: u32_or(both("maxSpawnDepth"), 5),
        max_children_per_agent: u32_or(both("maxChildrenPerAgent"), 5),
        archive_after_minutes: both("archiveAfterMinutes").u64().unwrap_or(60),
        run_timeout_seconds: both("runTimeoutSeconds").u64().unwrap_or(0),
    }
}

fn group_chat(cx: &Cx<'_>, own: View<'_>) -> GroupChat {
    let base = cx.root.path("messages.groupChat");
    GroupChat {
        mention_patterns: own.at("mentionPatterns").or(base.at("mentionPatterns")).texts(),
        history_limit: own.at("historyLimit").or(base.at("historyLimit")).u64().map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
    }
}
