//! The roster: a list in February and March, a map today, and a bare list in one mission text.

use serde_json::{Map, Value, json};

use super::{Pass, Say, own};
use crate::{issue::Issue, view::overlay};

pub(super) fn normalise(pass: &mut Pass<'_>) {
    bare_list(pass);
    if let Some(aside) = pass.take(&["agents_"]) {
        if pass.root.get("agents").is_none_or(Value::is_object)
            && let Some(agents) = pass.object(&["agents"])
        {
            *agents = match overlay(&aside, &Value::Object(agents.clone())) {
                Value::Object(map) => map,
                _ => Map::new(),
            };
        }
        pass.moves.note(&["agents", "defaults", "workspace"], &["workspace"]);
    }
    list_to_entries(pass);
    normalise_ids(pass);
    for id in ids(pass) {
        one(pass, &id);
    }
    defaults(pass);
    root_identity(pass);
}

fn ids(pass: &Pass<'_>) -> Vec<String> {
    pass.get(&["agents", "entries"]).and_then(Value::as_object).into_iter().flatten().map(|(k, _)| k.clone()).collect()
}

/// `agents: [ {...} ]`.
fn bare_list(pass: &mut Pass<'_>) {
    if !pass.root.get("agents").is_some_and(Value::is_array) {
        return;
    }
    let Some(mut list) = pass.take(&["agents"]) else { return };
    for agent in list.as_array_mut().into_iter().flatten() {
        let Some(map) = agent.as_object_mut() else { continue };
        if !map.contains_key("id")
            && let Some(name) = map.get("name").and_then(Value::as_str)
        {
            let id = Pass::agent_id(name);
            map.insert("id".into(), Value::String(id));
        }
    }
    if let Some(agents) = pass.object(&["agents"]) {
        agents.insert("list".into(), list);
    }
    pass.moves.note(&["agents", "list"], &["agents"]);
    pass.warn(&own(&["agents"]), "\"agents\" is a list here, read as \"agents.list\"");
}

fn list_to_entries(pass: &mut Pass<'_>) {
    if !pass.get(&["agents", "list"]).is_some_and(Value::is_array) {
        return;
    }
    let Some(Value::Array(list)) = pass.take(&["agents", "list"]) else { return };
    let mut entries = Map::new();
    for (i, agent) in list.into_iter().enumerate() {
        let position = i.to_string();
        let at = own(&["agents", "list", &position]);
        let Value::Object(mut map) = agent else {
            let issue = Issue::error(&pass.moves.original(&at), format!("Invalid input: expected object, received {}", crate::validate::type_name(&agent)));
            pass.issues.push(issue);
            continue;
        };
        let Some(id) = map.get("id").and_then(Value::as_str).map(str::to_owned) else {
            let received = map.get("id").map_or("undefined", crate::validate::type_name);
            let at = pass.moves.original(&[at, own(&["id"])].concat());
            pass.issues.push(Issue::error(&at, format!("Invalid input: expected string, received {received}")));
            continue;
        };
        let key = Pass::agent_id(&id);
        if entries.contains_key(&key) {
            let at = pass.moves.original(&[at, own(&["id"])].concat());
            pass.issues.push(Issue::error(&at, format!("Duplicate agent id: \"{key}\"")));
            continue;
        }
        map.shift_remove("id");
        pass.moves.note(&["agents", "entries", &key], &["agents", "list", &position]);
        entries.insert(key, Value::Object(map));
    }
    // entries of today and a list together: the entries come after, and an agent in both is the entry over the list
    if let Some(Value::Object(newer)) = pass.take(&["agents", "entries"]) {
        for (id, agent) in newer {
            let merged = match entries.get(&id) {
                Some(old) => overlay(old, &agent),
                None => agent,
            };
            entries.insert(id, merged);
        }
    }
    if let Some(agents) = pass.object(&["agents"]) {
        agents.insert("entries".into(), Value::Object(entries));
    }
}

/// Keys of `agents.entries` are ids too.
fn normalise_ids(pass: &mut Pass<'_>) {
    let odd: Vec<String> = ids(pass).into_iter().filter(|id| Pass::agent_id(id) != *id).collect();
    if odd.is_empty() {
        return;
    }
    let Some(Value::Object(entries)) = pass.take(&["agents", "entries"]) else { return };
    let mut out = Map::new();
    for (id, agent) in entries {
        let key = Pass::agent_id(&id);
        if out.contains_key(&key) {
            pass.issues.push(Issue::error(&own(&["agents", "entries", &id]), format!("Duplicate agent id: \"{key}\"")));
            continue;
        }
        if key != id {
            pass.moves.note(&["agents", "entries", &key], &["agents", "entries", &id]);
        }
        out.insert(key, agent);
    }
    if let Some(agents) = pass.object(&["agents"]) {
        agents.insert("entries".into(), Value::Object(out));
    }
}

fn one(pass: &mut Pass<'_>, id: &str) {
    let here = own(&["agents", "entries", id]);
    let original = pass.moves.original(&here);
    let tell = |key: &str| original.iter().cloned().chain([key.to_owned()]).collect::<Vec<_>>();
    if pass.take(&["agents", "entries", id, "port"]).is_some() {
        pass.warn(&tell("port"), "agents have no port; \"port\" is ignored");
    }
    let fallback = match pass.get(&["agents", "entries", id, "fallbackModel"]) {
        Some(Value::String(_) | Value::Array(_)) => pass.take(&["agents", "entries", id, "fallbackModel"]),
        _ => None,
    };
    if let Some(fallback) = fallback {
        pass.warn(&tell("fallbackModel"), "\"fallbackModel\" is read as \"model.fallbacks\"");
        let list = if fallback.is_array() { fallback } else { json!([fallback]) };
        if let Some(agent) = pass.object(&["agents", "entries", id]) {
            let model = match agent.get("model") {
                Some(Value::String(primary)) => json!({"primary": primary, "fallbacks": list}),
                Some(Value::Object(map)) if map.contains_key("fallbacks") => Value::Object(map.clone()),
                Some(Value::Object(map)) => overlay(&Value::Object(map.clone()), &json!({"fallbacks": list})),
                _ => json!({"fallbacks": list}),
            };
            agent.insert("model".into(), model);
        }
    }
    if pass.get(&["agents", "entries", id, "description"]).is_none()
        && let Some(role) = pass.get(&["agents", "entries", id, "role"]).and_then(Value::as_str).map(str::to_owned)
        && let Some(agent) = pass.object(&["agents", "entries", id])
    {
        agent.insert("description".into(), Value::String(role));
    }
    pass.rename(&["agents", "entries", id, "tools", "bash"], &["agents", "entries", id, "tools", "exec"], Say::Warn);
    pass.rename(&["agents", "entries", id, "tools", "exec", "timeoutSec"], &["agents", "entries", id, "tools", "exec", "timeoutSeconds"], Say::Nothing);
    per_session(pass, &["agents", "entries", id, "sandbox"]);
}

fn defaults(pass: &mut Pass<'_>) {
    per_session(pass, &["agents", "defaults", "sandbox"]);
    let pdf = pass.get(&["agents", "defaults", "pdfMaxBytesMb"]).is_some_and(Value::is_number);
    if pdf {
        pass.rename(&["agents", "defaults", "pdfMaxBytesMb"], &["agents", "defaults", "pdfMaxMb"], Say::Nothing);
    }
}

/// `sandbox.perSession: true` was `scope: "session"`, `false` was `shared`.
fn per_session(pass: &mut Pass<'_>, sandbox: &[&str]) {
    let path: Vec<&str> = sandbox.iter().copied().chain(["perSession"]).collect();
    if let Some(Value::Bool(each)) = pass.get(&path).cloned() {
        pass.take(&path);
        if let Some(block) = pass.object(sandbox) {
            block.entry("scope").or_insert_with(|| Value::String(if each { "session" } else { "shared" }.into()));
        }
        pass.warn(&own(&path), "\"perSession\" is an old spelling, read as \"scope\"");
    }
}

/// Root `identity` belonged to the only agent.
fn root_identity(pass: &mut Pass<'_>) {
    if !pass.get(&["identity"]).is_some_and(Value::is_object) {
        return;
    }
    let Some(identity) = pass.take(&["identity"]) else { return };
    let roster = ids(pass);
    let marked = roster.iter().find(|id| pass.get(&["agents", "entries", id, "default"]) == Some(&Value::Bool(true)));
    let id = marked.or(roster.first()).cloned().unwrap_or_else(|| clawstead_terms::AgentId::MAIN.to_owned());
    pass.warn(&own(&["identity"]), format!("\"identity\" is an old spelling, read as the identity of agent \"{id}\""));
    if let Some(agent) = pass.object(&["agents", "entries", &id]) {
        agent.entry("identity").or_insert(identity);
    }
    pass.moves.note(&["agents", "entries", &id, "identity"], &["identity"]);
}
