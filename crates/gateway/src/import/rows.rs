//! An entry of `sessions.json` (or `session_nodes.entry_json`) as our session row, and old session keys as ours.

use clawstead_agent::{SessionRow, SessionStatus};
use clawstead_terms::{AgentId, DeliveryTarget, Message, Millis, QueueMode, Role, SessionId, SessionKey};
use serde_json::{Map, Value};

use super::convert::moment;

/// Characters of a preview and of a title, as lanes cut them.
const PREVIEW_CHARS: usize = 160;
const TITLE_CHARS: usize = 60;
/// Further fields of one entry that are kept, bytes; more is left out.
const EXTRA_BYTES_MAX: usize = 16 * 1024;

/// Caches of the original, made anew by whoever needs them, and fields that we keep elsewhere.
const LEFT_OUT: [&str; 15] = [
    "skillsSnapshot",
    "systemPromptReport",
    "sessionFile",
    "sessionDiffBaselineCapture",
    "totalTokensVersion",
    "abortCutoffMessageSid",
    "abortCutoffTimestamp",
    "restartRecoveryRuns",
    "activeWriterRunId",
    "agentHarnessId",
    "contextBudgetStatus",
    "pendingFinalDelivery",
    "providerOverride",
    "modelOverride",
    "deliveryContext",
];

/// Every name of a field of ours: a further field of that name would make the row unreadable.
const OURS: [&str; 43] = [
    "key",
    "sessionId",
    "agentId",
    "label",
    "displayName",
    "derivedTitle",
    "createdAt",
    "createdVia",
    "updatedAt",
    "lastInteractionAt",
    "sessionStartedAt",
    "status",
    "startedAt",
    "endedAt",
    "modelProvider",
    "model",
    "modelOverride",
    "modelOverrideSource",
    "thinkingLevel",
    "queueMode",
    "sendPolicy",
    "inputTokens",
    "outputTokens",
    "cacheRead",
    "cacheWrite",
    "totalTokens",
    "totalTokensFresh",
    "contextTokens",
    "costUsd",
    "lastRunId",
    "lastRunError",
    "abortedLastRun",
    "archivedAt",
    "pinnedAt",
    "unread",
    "parentSessionKey",
    "spawnedBy",
    "spawnDepth",
    "lastMessagePreview",
    "deliveryContext",
    "lifecycleRevision",
    "compactionCount",
    "open",
];
/// The same, counters of our journal.
const OURS_TOO: [&str; 3] = ["messageCount", "resetSeq", "baseSeq"];

/// An old key as ours: `dm` becomes `direct`, bare and `group:` keys get their agent and channel, a main key of the
/// user's own becomes `main`. None when it cannot be a key.
#[must_use]
pub fn key(text: &str, entry: &Value, agent: &AgentId, main_key: Option<&str>) -> Option<SessionKey> {
    let key = SessionKey::resolve(text, agent).ok()?;
    let rest = key.rest().to_owned();
    if main_key.is_some_and(|main| rest == main.to_lowercase()) {
        return Some(SessionKey::main(&key.agent()));
    }
    if rest.starts_with("group:") {
        let channel =
            ["channel", "lastChannel"].into_iter().find_map(|name| entry.get(name).and_then(Value::as_str)).filter(|c| !c.is_empty() && *c != "webchat");
        if let Some(channel) = channel {
            return SessionKey::resolve(&format!("agent:{}:{channel}:{rest}", key.agent()), agent).ok();
        }
    }
    Some(key)
}

/// The row of an entry, before its transcript is read.
#[must_use]
pub fn row(key: &SessionKey, session_id: &SessionId, entry: &Value, now: Millis) -> SessionRow {
    let word = |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.trim().is_empty()).map(str::to_owned);
    let time = |name: &str| moment(entry.get(name));
    let count = |name: &str| entry.get(name).and_then(Value::as_f64).map_or(0, |n| n.max(0.0) as u64);
    let flag = |name: &str| entry.get(name).and_then(Value::as_bool);
    let updated = time("updatedAt").unwrap_or(now);
    let related = |name: &str| word(name).and_then(|text| SessionKey::resolve(&text, &key.agent()).ok());
    let model_override = word("modelOverride").map(|model| match word("providerOverride") {
        Some(provider) if !model.starts_with(&format!("{provider}/")) => format!("{provider}/{model}"),
        _ => model,
    });
    let status = match entry.get("status").and_then(Value::as_str) {
        Some("done") => Some(SessionStatus::Done),
        Some("failed" | "killed" | "timeout" | "running") => Some(SessionStatus::Failed),
        _ => None,
    };
    let mut row = SessionRow::new(key.clone(), session_id.clone(), updated);
    row.created_at = time("createdAt").or_else(|| time("sessionStartedAt")).unwrap_or(updated);
    row.created_via = word("createdVia");
    row.session_started_at = time("sessionStartedAt");
    row.last_interaction_at = time("lastInteractionAt").or(Some(updated));
    row.label = word("label");
    row.display_name = word("displayName").or_else(|| word("subject"));
    row.status = status;
    row.started_at = time("startedAt");
    row.ended_at = time("endedAt");
    row.model_provider = word("modelProvider");
    row.model = word("model");
    row.model_override_source = model_override.as_ref().and(word("modelOverrideSource"));
    row.model_override = model_override;
    row.thinking_level = word("thinkingLevel");
    row.queue_mode = entry.get("queueMode").and_then(|mode| serde_json::from_value::<QueueMode>(mode.clone()).ok());
    row.send_policy = word("sendPolicy").filter(|policy| policy == "allow" || policy == "deny");
    (row.input_tokens, row.output_tokens) = (count("inputTokens"), count("outputTokens"));
    (row.cache_read, row.cache_write, row.total_tokens) = (count("cacheRead"), count("cacheWrite"), count("totalTokens"));
    row.total_tokens_fresh = flag("totalTokensFresh").unwrap_or(false);
    row.context_tokens = entry.get("contextTokens").and_then(Value::as_u64);
    // A run that was going when the original was stopped is not taken up: it counts as stopped.
    row.aborted_last_run = flag("abortedLastRun").unwrap_or(false) || entry.get("status").and_then(Value::as_str) == Some("running");
    row.archived_at = time("archivedAt");
    row.pinned_at = time("pinnedAt");
    row.parent_session_key = related("parentSessionKey");
    row.spawned_by = related("spawnedBy");
    row.spawn_depth = u32::try_from(count("spawnDepth")).unwrap_or(0);
    row.compaction_count = count("compactionCount");
    row.delivery_context = delivery(entry);
    row.extra = extra(entry);
    row
}

fn delivery(entry: &Value) -> Option<DeliveryTarget> {
    let one = |channel: Option<&Value>, to: Option<&Value>, account: Option<&Value>, thread: Option<&Value>| {
        let channel = channel?.as_str().filter(|c| !c.is_empty() && *c != "webchat" && *c != "internal")?.to_lowercase();
        let account = account.and_then(Value::as_str).filter(|a| !a.is_empty()).unwrap_or("default").to_lowercase();
        let thread_id = thread.and_then(|thread| thread.as_str().map(str::to_owned).or_else(|| thread.as_i64().map(|n| n.to_string())));
        Some(DeliveryTarget { channel: channel.into(), account: account.into(), to: to?.as_str()?.to_owned(), thread_id, reply_to: None })
    };
    let nested = ["deliveryContext", "delivery"].into_iter().find_map(|name| {
        let context = entry.get(name)?;
        let context = context.get("target").filter(|target| target.is_object()).unwrap_or(context);
        one(context.get("channel"), context.get("to"), context.get("accountId"), context.get("threadId"))
    });
    nested.or_else(|| one(entry.get("lastChannel"), entry.get("lastTo"), entry.get("lastAccountId"), entry.get("lastThreadId")))
}

fn extra(entry: &Value) -> Map<String, Value> {
    let mut kept = Map::new();
    let mut bytes = 0;
    for (name, value) in entry.as_object().into_iter().flatten() {
        if LEFT_OUT.contains(&name.as_str()) || OURS.contains(&name.as_str()) || OURS_TOO.contains(&name.as_str()) || value.is_null() {
            continue;
        }
        bytes += name.len() + value.to_string().len();
        if bytes > EXTRA_BYTES_MAX {
            break;
        }
        kept.insert(name.clone(), value.clone());
    }
    kept
}

/// What lists show of a message: title and preview.
pub fn note_message(row: &mut SessionRow, message: &Message) {
    let text = message.plain_text();
    let line = one_line(&text, PREVIEW_CHARS);
    if line.is_empty() {
        return;
    }
    if message.role == Role::User && row.derived_title.is_none() {
        row.derived_title = Some(one_line(&text, TITLE_CHARS));
    }
    if matches!(message.role, Role::User | Role::Assistant) {
        row.last_message_preview = Some(line);
    }
}

fn one_line(text: &str, chars: usize) -> String {
    let mut out = String::new();
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        if out.len() > chars * 4 {
            break;
        }
    }
    out.chars().take(chars).collect()
}

#[cfg(test)]
mod tests {
    use clawstead_terms::{AgentId, Millis};
    use serde_json::{Value, json};

    use super::{OURS, OURS_TOO, key, row};

    #[test]
    fn old_keys_become_ours() {
        let jerry = AgentId::normalise("jerry");
        let cases = [
            ("main", json!({}), "agent:jerry:main"),
            ("agent:jerry:hello", json!({}), "agent:jerry:main"),
            ("agent:jerry:telegram:dm:42", json!({}), "agent:jerry:telegram:direct:42"),
            ("agent:jerry:dm:bob", json!({}), "agent:jerry:direct:bob"),
            ("telegram:group:-100", json!({}), "agent:jerry:telegram:group:-100"),
            ("group:-100", json!({"channel": "telegram"}), "agent:jerry:telegram:group:-100"),
            ("group:-100", json!({}), "agent:jerry:group:-100"),
            ("agent:bobby:main", json!({}), "agent:bobby:main"),
            ("global", json!({}), "agent:jerry:global"),
        ];
        for (old, entry, want) in cases {
            assert_eq!(key(old, &entry, &jerry, Some("hello")).unwrap().as_str(), want, "{old}");
        }
        assert_eq!(key("  ", &json!({}), &jerry, None), None);
    }

    /// Whatever an entry holds, the row can be read again.
    #[test]
    fn no_field_of_an_entry_spoils_the_row() {
        let key = key("main", &json!({}), &AgentId::normalise("main"), None).unwrap();
        let mut entry = serde_json::Map::new();
        for name in OURS.iter().chain(&OURS_TOO) {
            entry.insert((*name).into(), json!("text where ours is a number"));
        }
        entry.insert("verboseLevel".into(), json!("full"));
        let made = row(&key, &"s-1".into(), &Value::Object(entry), Millis(5));
        let text = serde_json::to_string(&made).unwrap();
        let back: clawstead_agent::SessionRow = serde_json::from_str(&text).unwrap();
        assert_eq!(back, made);
        assert_eq!(back.extra.keys().collect::<Vec<_>>(), ["verboseLevel"]);
        // The list of our names is complete: a full row has no other ones.
        let Value::Object(all) = serde_json::to_value(clawstead_agent::SessionRow::new(key, "s".into(), Millis(1))).unwrap() else { panic!() };
        for name in all.keys() {
            assert!(OURS.contains(&name.as_str()) || OURS_TOO.contains(&name.as_str()), "{name} is missing in the list");
        }
    }
}
