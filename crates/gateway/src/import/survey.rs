//! What an older OpenClaw left in a state folder. Looks, and reads nothing.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use clawstead_config::Config;
use clawstead_terms::AgentId;
use serde_json::Value;

/// What one agent left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSources {
    /// The agent.
    pub agent: AgentId,
    /// `openclaw-agent.sqlite`.
    pub database: Option<PathBuf>,
    /// `sessions.json`.
    pub store: Option<PathBuf>,
    /// `session.jsonl` of a collective.
    pub bare: Option<PathBuf>,
}

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Agents of the config that left something.
    pub agents: Vec<AgentSources>,
    /// `state/openclaw.sqlite`.
    pub database: Option<PathBuf>,
    /// `cron/jobs.json`.
    pub jobs: Option<PathBuf>,
    /// `devices/paired.json`.
    pub devices: Option<PathBuf>,
    /// `exec-approvals.json`.
    pub approvals: Option<PathBuf>,
}

fn there(path: PathBuf) -> Option<PathBuf> {
    path.is_file().then_some(path)
}

/// Looks into the state folder for these agents. `house` is whether what belongs to no agent is looked for too.
#[must_use]
pub fn survey(config: &Config, agents: &[AgentId], house: House) -> Survey {
    let state = &config.paths.state_dir;
    let mut found = Survey::default();
    if house == House::Too {
        found.database = there(state.join("state/openclaw.sqlite"));
        found.jobs = there(state.join("cron/jobs.json"));
        found.devices = there(state.join("devices/paired.json"));
        found.approvals = there(state.join("exec-approvals.json"));
    }
    let template = config.raw("session.store").and_then(Value::as_str);
    for one in config.agents.list.iter().filter(|one| agents.contains(&one.id)) {
        let folder = folder(state, &one.id);
        let shared = template.map(|text| config.paths.expand(&text.replace("{agentId}", one.id.as_str())));
        let sources = AgentSources {
            agent: one.id.clone(),
            database: there(one.agent_dir.join("openclaw-agent.sqlite")),
            store: shared.and_then(there).or_else(|| there(folder.join("sessions/sessions.json"))),
            bare: there(folder.join("session.jsonl")),
        };
        if sources.database.is_some() || sources.store.is_some() || sources.bare.is_some() {
            found.agents.push(sources);
        }
    }
    found
}

/// Whether to look for what belongs to no agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum House {
    /// Yes.
    Too,
    /// It was imported before.
    Not,
}

/// The folder of an agent, also when its name is spelled with capitals.
fn folder(state: &Path, agent: &AgentId) -> PathBuf {
    let plain = state.join("agents").join(agent.as_str());
    if plain.is_dir() {
        return plain;
    }
    let others = fs::read_dir(state.join("agents")).into_iter().flatten().flatten();
    others.map(|entry| entry.path()).find(|path| path.file_name().is_some_and(|name| AgentId::normalise(&name.to_string_lossy()) == *agent)).unwrap_or(plain)
}

impl Survey {
    /// True when there is nothing to import.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is there and is not imported, in words.
#[must_use]
pub fn left_behind(config: &Config, survey: &Survey) -> Vec<String> {
    let state = &config.paths.state_dir;
    let mut out = Vec::new();
    let known: BTreeSet<&AgentId> = config.agents.list.iter().map(|one| &one.id).collect();
    for entry in fs::read_dir(state.join("agents")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        let left = path.join("sessions/sessions.json").is_file() || path.join("agent/openclaw-agent.sqlite").is_file() || path.join("session.jsonl").is_file();
        if left && !known.contains(&AgentId::normalise(&name)) {
            out.push(format!("agent {name}: it is not in the config; its sessions are imported at the first start with it"));
        }
    }
    for sources in &survey.agents {
        let Some(folder) = sources.store.as_ref().and_then(|store| store.parent()) else { continue };
        let names: Vec<String> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        let archives = names.iter().filter(|name| name.contains(".jsonl.reset.") || name.contains(".jsonl.deleted.")).count();
        if archives > 0 {
            out.push(format!("agent {}: {archives} archives of ended conversations (*.jsonl.reset.*, *.jsonl.deleted.*) stay where they are", sources.agent));
        }
    }
    let count = |folder: &str, ends: &str| {
        fs::read_dir(state.join(folder)).into_iter().flatten().flatten().filter(|e| e.file_name().to_string_lossy().ends_with(ends)).count()
    };
    for (number, words) in [
        (
            count("credentials", "-allowFrom.json"),
            "lists of senders approved by pairing (credentials/*-allowFrom.json): put them into channels.<channel>.allowFrom",
        ),
        (count("delivery-queue", ".json"), "messages that OpenClaw had not sent yet (delivery-queue)"),
        (usize::from(state.join("nodes/paired.json").is_file()), "older list of paired nodes (nodes/paired.json): pair them again"),
        (usize::from(state.join("subagents/runs.json").is_file()), "list of running sub-agents (subagents/runs.json): they are not taken up"),
    ] {
        if number > 0 {
            out.push(format!("{number} {words}"));
        }
    }
    out
}
