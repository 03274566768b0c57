//! Lines that begin with `/`: some are for this program, the others are sent to the gateway as they are.

use clawstead_terms::SessionKey;
use serde_json::json;

use super::{abort, call, open, pick};
use crate::{
    command::{Command, Tag},
    picker::Subject,
    state::{Overlay, State},
};

/// The commands of this program: name and what it does.
pub const LOCAL: &[(&str, &str)] = &[
    ("help", "keys and commands"),
    ("sessions", "choose, search, rename, reset or delete sessions"),
    ("session", "<key>: show a session"),
    ("agents", "choose an agent"),
    ("agent", "<id>: talk to an agent"),
    ("model", "choose a model; with a name: set it"),
    ("rename", "<title>: name this session"),
    ("stop", "stop what runs"),
    ("tools", "show or hide what tools do"),
    ("thoughts", "show or hide what the model thinks"),
    ("allow", "allow the waiting command once"),
    ("always", "allow the waiting command and the like"),
    ("deny", "refuse the waiting command"),
    ("reconnect", "connect again now"),
    ("quit", "leave"),
];

/// Carries a line out when it is for this program; `None` sends it to the gateway.
pub fn local(state: &mut State, text: &str) -> Option<Vec<Command>> {
    let body = text.strip_prefix('/')?;
    let (name, rest) = body.split_once(char::is_whitespace).unwrap_or((body, ""));
    let rest = rest.trim();
    let commands = match (name, rest) {
        ("help", "") => {
            state.overlay = Some(Overlay::Help(0));
            Vec::new()
        }
        ("quit" | "exit", "") => vec![Command::Quit],
        ("sessions", "") | ("session", "") => pick::open(state, Subject::Sessions),
        ("agents", "") | ("agent", "") => pick::open(state, Subject::Agents),
        ("model" | "models", "") => pick::open(state, Subject::Models),
        ("session", key) => match SessionKey::resolve(key, &state.key.as_ref().map_or_else(|| state.default_agent.clone(), SessionKey::agent)) {
            Ok(key) => open(state, key),
            Err(err) => {
                state.flash(err.to_string());
                Vec::new()
            }
        },
        ("agent", id) => pick::talk_to(state, id),
        ("rename", title) if !title.is_empty() => vec![call(Tag::Changed("renamed"), "sessions.patch", json!({ "key": state.key_text(), "label": title }))],
        ("stop" | "abort", "") => abort(state),
        ("tools", "") => {
            state.show_tools = !state.show_tools;
            Vec::new()
        }
        ("thoughts", "") => {
            state.show_thinking = !state.show_thinking;
            Vec::new()
        }
        ("allow", "") => decide(state, "allow-once"),
        ("always", "") => decide(state, "allow-always"),
        ("deny", "") => decide(state, "deny"),
        ("reconnect", "") => vec![Command::Reconnect],
        _ => return None,
    };
    Some(commands)
}

/// Decides about the first command that waits.
pub fn decide(state: &mut State, decision: &str) -> Vec<Command> {
    let Some(approval) = state.approvals.pop_front() else {
        state.flash("no command waits for a decision");
        return Vec::new();
    };
    vec![call(Tag::Decision, "exec.approval.resolve", json!({ "id": approval.id, "decision": decision }))]
}

/// All commands whose name begins as the line does, ours first.
pub fn matching(state: &State) -> Vec<(String, String)> {
    let text = state.input.text();
    let Some(start) = text.strip_prefix('/').filter(|rest| !rest.contains(char::is_whitespace)) else { return Vec::new() };
    let ours = LOCAL.iter().map(|(name, what)| ((*name).to_owned(), (*what).to_owned()));
    let theirs = state.commands.iter().filter(|(name, _)| !LOCAL.iter().any(|(own, _)| own == name)).cloned();
    ours.chain(theirs).filter(|(name, _)| name.starts_with(start)).collect()
}

/// Completes the name of a command as far as it is clear.
pub fn complete(state: &mut State) {
    let found = matching(state);
    let Some((first, _)) = found.first() else {
        return;
    };
    let mut common = first.clone();
    for (name, _) in &found {
        while !name.starts_with(&common) {
            common.pop();
        }
    }
    let end = if found.len() == 1 { " " } else { "" };
    state.input.set(&format!("/{common}{end}"));
}
