//! `sessions_list`: the sessions this agent may see.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use clawstead_terms::EffectClass;

use crate::{Tool, ToolCx, ToolError, ToolOutput, ToolSpec};

/// Sessions of one answer at most.
const SESSIONS_MAX: u64 = 200;
/// What is told of a session; a full row is many times as long.
const FIELDS: [&str; 18] = [
    "key",
    "agentId",
    "kind",
    "classification",
    "label",
    "displayName",
    "derivedTitle",
    "sessionId",
    "status",
    "updatedAt",
    "chatType",
    "channel",
    "model",
    "modelProvider",
    "totalTokens",
    "contextTokens",
    "parentSessionKey",
    "lastMessagePreview",
];

/// Lists sessions.
pub struct SessionsList;

/// Arguments of `sessions_list`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Args {
    /// Only these kinds: main, direct, group, channel, cron, custom.
    #[serde(default)]
    kinds: Vec<String>,
    /// How many at most, 1 to 200. Default 50.
    #[serde(default)]
    limit: Option<u64>,
    /// Only sessions with activity in the last so many minutes.
    #[serde(default)]
    active_minutes: Option<u64>,
    /// Only sessions of this agent.
    #[serde(default)]
    agent_id: Option<String>,
    /// Only sessions with this label.
    #[serde(default)]
    label: Option<String>,
    /// Only sessions whose name or text has this.
    #[serde(default)]
    search: Option<String>,
    /// More than 0 shows the last message too.
    #[serde(default)]
    message_limit: Option<u64>,
}

#[async_trait]
impl Tool for SessionsList {
    type Args = Args;
    const SPEC: ToolSpec = ToolSpec {
        name: "sessions_list",
        title: "Sessions",
        description: "List the sessions you may see, newest first, with their keys.",
        group: "group:sessions",
        class: EffectClass::Read,
        timeout_ms: 30_000,
    };

    async fn call(&self, cx: ToolCx, args: Args) -> Result<ToolOutput, ToolError> {
        let mut params = Map::new();
        let limit = args.limit.unwrap_or(50).clamp(1, SESSIONS_MAX);
        // Kinds are chosen here, so that more rows are asked for.
        params.insert("limit".into(), json!(if args.kinds.is_empty() { limit } else { SESSIONS_MAX }));
        for (key, value) in [("agentId", &args.agent_id), ("label", &args.label), ("search", &args.search)] {
            if let Some(text) = value.as_deref().map(str::trim).filter(|t| !t.is_empty()) {
                params.insert(key.into(), json!(text));
            }
        }
        if let Some(minutes) = args.active_minutes.filter(|m| *m > 0) {
            params.insert("activeMinutes".into(), json!(minutes));
        }
        if args.message_limit.unwrap_or(0) > 0 {
            params.insert("includeLastMessage".into(), json!(true));
        }
        params.insert("includeDerivedTitles".into(), json!(true));
        let answer = cx.rpc("sessions.list", Value::Object(params)).await?;
        let wanted: Vec<String> = args.kinds.iter().map(|k| k.to_lowercase()).collect();
        let is = |row: &Value| {
            let has = |key: &str| row.get(key).and_then(Value::as_str).is_some_and(|v| wanted.iter().any(|w| w == v));
            wanted.is_empty() || has("kind") || has("classification") || has("chatType")
        };
        let rows: Vec<Value> = answer
            .get("sessions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter(|row| is(row))
            .take(usize::try_from(limit).unwrap_or(usize::MAX))
            .map(|row| Value::Object(FIELDS.iter().filter_map(|f| Some(((*f).to_owned(), row.get(*f).filter(|v| !v.is_null())?.clone()))).collect()))
            .collect();
        Ok(ToolOutput::json(json!({"count": rows.len(), "sessions": rows})))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::test_kit::Kit;

    #[tokio::test]
    async fn rows_are_short_and_chosen_by_kind() {
        let kit = Kit::new();
        kit.answer("sessions.list", |_| Ok(json!({"sessions": [{"key": "agent:a:main", "kind": "direct", "classification": "main", "thinkingLevels": []}, {"key": "agent:a:cron:1", "kind": "direct", "classification": "cron"}]})));
        let seen = kit.call("sessions_list", json!({"kinds": ["cron"], "agentId": "a", "limit": 5})).await.unwrap().details.unwrap();
        assert_eq!(seen, json!({"count": 1, "sessions": [{"key": "agent:a:cron:1", "kind": "direct", "classification": "cron"}]}));
        assert_eq!(kit.calls("sessions.list")[0], json!({"limit": 200, "agentId": "a", "includeDerivedTitles": true}));
    }
}
