//! What of an answer must be as it was recorded, and what may differ.

use std::collections::BTreeMap;

use serde_json::Value;

/// Top-level values that mean something by themselves; they must be equal.
const CONSTANT: [&str; 25] = [
    "ok",
    "status",
    "kind",
    "subscribed",
    "aborted",
    "summary",
    "state",
    "mainKey",
    "scope",
    "type",
    "protocol",
    "deleted",
    "removed",
    "compacted",
    "enqueued",
    "runStarted",
    "valid",
    "exists",
    "defaultId",
    "agentId",
    "sessionKey",
    "stopReason",
    "role",
    "selectionRequired",
    "name",
];
/// Lists whose rows clients read field by field: the first row must have what the first recorded one has.
const ROWS: [&str; 6] = ["agents", "models", "jobs", "messages", "items", "entries"];

/// Fields whose text clients hand back without looking into it.
const OPAQUE: [&str; 2] = ["deltaCursor", "configRevision"];

fn cut(text: &str) -> bool {
    text.contains('…')
}

/// True for text that a gateway made up: an id, a hash, a run's name.
fn made_up(text: &str) -> bool {
    let hex = |part: &str| part.chars().all(|c| c.is_ascii_hexdigit());
    let uuid = text.len() == 36 && text.matches('-').count() == 4 && text.split('-').all(hex);
    uuid || (text.len() == 64 && hex(text)) || text.starts_with("hmac-sha256:") || text.starts_with("manual:")
}

/// Pairs recorded ids with ours, wherever both stand at the same place.
pub fn learn(want: &Value, have: &Value, ids: &mut BTreeMap<String, String>) {
    match (want, have) {
        (Value::Object(want), Value::Object(have)) => {
            for (name, want) in want {
                if let Some(have) = have.get(name) {
                    if let (Some(want), Some(have)) = (want.as_str(), have.as_str())
                        && OPAQUE.contains(&name.as_str())
                    {
                        ids.insert(want.to_owned(), have.to_owned());
                    }
                    learn(want, have, ids);
                }
            }
        }
        (Value::Array(want), Value::Array(have)) => want.iter().zip(have).for_each(|(want, have)| learn(want, have, ids)),
        (Value::String(want), Value::String(have)) if want != have && made_up(want) => {
            ids.entry(want.clone()).or_insert_with(|| have.clone());
        }
        _ => {}
    }
}

/// A recorded frame with our ids, without what the recorder cut.
pub fn translated(value: &Value, ids: &BTreeMap<String, String>) -> Value {
    match value {
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), translated(value, ids))).collect(),
        Value::Array(items) => items.iter().filter(|item| !item.as_str().is_some_and(cut)).map(|item| translated(item, ids)).collect(),
        Value::String(text) => {
            if let Some(ours) = ids.get(text) {
                return ours.clone().into();
            }
            // Ids also stand inside keys of sessions.
            ids.iter().fold(text.clone(), |text, (want, have)| if want.len() == 36 { text.replace(want, have) } else { text }).into()
        }
        other => other.clone(),
    }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Fields that `have` misses or has as something else. Nothing is missed where the recording has nothing.
pub fn shape(place: &str, want: &Value, have: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match (want, have) {
        (Value::Object(want), Value::Object(have)) => {
            for (name, want) in want {
                if cut(name) || want.is_null() {
                    continue;
                }
                match have.get(name) {
                    None => found.push(format!("{place}.{name} is missing")),
                    Some(have) if have.is_null() || kind(have) == kind(want) => {}
                    Some(have) => found.push(format!("{place}.{name} is {}, recorded {}", kind(have), kind(want))),
                }
            }
        }
        (want, have) if kind(want) != kind(have) => found.push(format!("{place} is {}, recorded {}", kind(have), kind(want))),
        _ => {}
    }
    found
}

/// Paths, ports and long numbers in messages say nothing about the protocol.
fn plain(message: &str) -> String {
    let words = message.split(' ').map(|word| if word.starts_with('/') || word.starts_with('~') || made_up(word) { "<>" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

fn error(want: &Value, have: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if want["code"] != have["code"] {
        found.push(format!("error.code is {}, recorded {}", have["code"], want["code"]));
    }
    let (wanted, had) = (want["message"].as_str().unwrap_or(""), have["message"].as_str().unwrap_or(""));
    if plain(wanted) != plain(had) && !cut(wanted) {
        found.push(format!("error.message is {had:?}, recorded {wanted:?}"));
    }
    for name in ["code", "reason", "method", "missingScope"] {
        if want["details"][name] != have["details"][name] && want["details"][name].is_string() {
            found.push(format!("error.details.{name} is {}, recorded {}", have["details"][name], want["details"][name]));
        }
    }
    if want["details"].is_object() {
        found.extend(shape("error.details", &want["details"], &have["details"]));
    }
    if want["retryable"] != have["retryable"] {
        found.push(format!("error.retryable is {}, recorded {}", have["retryable"], want["retryable"]));
    }
    found
}

/// Differences of an answer to `method`, without what is known to differ.
pub fn answer(method: &str, want: &Value, have: &Value) -> Vec<String> {
    response(want, have).into_iter().map(|what| format!("{method}: {what}")).collect()
}

/// Differences of one answer.
fn response(want: &Value, have: &Value) -> Vec<String> {
    if want["ok"] != have["ok"] {
        let why = have["error"]["message"].as_str().unwrap_or("");
        return vec![format!("ok is {}, recorded {} {why}", have["ok"], want["ok"])];
    }
    if want["ok"] == false {
        return error(&want["error"], &have["error"]);
    }
    let (want, have) = (&want["payload"], &have["payload"]);
    let mut found = shape("payload", want, have);
    if let (Value::Object(want), Value::Object(have)) = (want, have) {
        for name in CONSTANT {
            if let (Some(want), Some(have)) = (want.get(name), have.get(name))
                && want != have
                && !(want.is_object() || want.is_array() || want.as_str().is_some_and(|text| cut(text) || made_up(text)))
            {
                found.push(format!("payload.{name} is {have}, recorded {want}"));
            }
        }
        for name in ROWS {
            let rows = |rows: Option<&Value>| rows.and_then(Value::as_array).cloned().unwrap_or_default();
            let Some(want) = rows(want.get(name)).into_iter().find(Value::is_object) else { continue };
            // Of messages, one of the same kind.
            let like = |row: &&Value| ["role", "stopReason"].iter().all(|field| row.get(field) == want.get(field));
            let have = rows(have.get(name));
            if let Some(have) = if name == "messages" { have.iter().find(like) } else { have.first() } {
                found.extend(shape(&format!("payload.{name}[]"), &want, have));
            }
        }
    }
    found
}
