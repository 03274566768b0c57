//! Messages and sessions as clients see them: one place for `chat.history`, `session.message`, `sessions.list` and
//! `sessions.changed`.

use serde_json::{Map, Value, json};

use clawstead_agent::{SessionRow, SessionStatus};
use clawstead_terms::{ChatType, Message, Part, Role, SessionId, StopReason, Usage};

/// A message as `chat.history` and `session.message` show it. `position` counts from 1.
#[must_use]
pub fn message(message: &Message, position: u64, session_id: &SessionId) -> Value {
    let mut marks = json!({
        "id": message.id,
        "seq": position,
        "recordTimestampMs": message.at,
        "transcriptPosition": {"source": session_id, "rawSeq": position},
    });
    if let Some(run) = &message.run_id {
        marks["runId"] = json!(run);
    }
    let content: Vec<Value> = message.parts.iter().filter_map(part).collect();
    let mut out = Map::new();
    match message.role {
        Role::User => {
            out.insert("role".into(), json!("user"));
            let text_only = matches!(message.parts.as_slice(), [Part::Text { .. }]);
            out.insert("content".into(), if text_only { json!(message.plain_text()) } else { Value::Array(content) });
            if let Some(run) = &message.run_id {
                out.insert("idempotencyKey".into(), json!(format!("{run}:user")));
            }
        }
        Role::Assistant => {
            out.insert("role".into(), json!("assistant"));
            out.insert("content".into(), Value::Array(content));
            if let Some((provider, model)) = message.model.as_deref().and_then(|m| m.split_once('/')) {
                out.insert("provider".into(), json!(provider));
                out.insert("model".into(), json!(model));
            }
            if let Some(tokens) = &message.usage {
                out.insert("usage".into(), usage(tokens));
            }
            if let Some(reason) = message.stop_reason {
                out.insert("stopReason".into(), json!(stop_reason(reason)));
            }
        }
        Role::Tool => return tool_result(message, content, marks),
        Role::System => {
            out.insert("role".into(), json!("system"));
            out.insert("content".into(), Value::Array(content));
        }
    }
    out.insert("timestamp".into(), json!(message.at));
    for (key, value) in message.meta.as_ref().and_then(Value::as_object).into_iter().flatten() {
        if !out.contains_key(key) {
            out.insert(key.clone(), value.clone());
        }
    }
    out.insert("__openclaw".into(), marks);
    Value::Object(out)
}

fn tool_result(message: &Message, content: Vec<Value>, marks: Value) -> Value {
    // One result a message: that is how lanes write them.
    let Some(Part::ToolResult { id, name, content: parts, details, is_error }) = message.parts.iter().find(|p| matches!(p, Part::ToolResult { .. })) else {
        return json!({"role": "toolResult", "content": content, "timestamp": message.at, "__openclaw": marks});
    };
    let parts: Vec<Value> = parts.iter().filter_map(part).collect();
    json!({"role": "toolResult", "toolCallId": id, "toolName": name, "content": parts, "details": details, "isError": is_error, "timestamp": message.at, "__openclaw": marks})
}

/// A content part; tool results have their own message.
#[must_use]
pub fn part(part: &Part) -> Option<Value> {
    Some(match part {
        Part::Text { text } => json!({"type": "text", "text": text}),
        Part::Thinking { text, .. } => json!({"type": "thinking", "thinking": text}),
        Part::Image { mime_type, data } => json!({"type": "image", "mimeType": mime_type, "data": data}),
        Part::File { name, mime_type, path } => json!({"type": "file", "fileName": name, "mimeType": mime_type, "path": path}),
        Part::ToolCall { id, name, arguments } => json!({"type": "toolCall", "id": id, "name": name, "arguments": arguments}),
        Part::ToolResult { .. } => return None,
    })
}

/// Tokens and cost of a message.
#[must_use]
pub fn usage(usage: &Usage) -> Value {
    json!({
        "input": usage.input,
        "output": usage.output,
        "cacheRead": usage.cache_read,
        "cacheWrite": usage.cache_write,
        "totalTokens": usage.total(),
        "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0, "total": usage.cost_usd},
    })
}

/// The word of a stop reason.
#[must_use]
pub const fn stop_reason(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Stop => "stop",
        StopReason::Length => "length",
        StopReason::ToolUse => "toolUse",
        StopReason::Aborted => "aborted",
        StopReason::Refusal => "refusal",
        StopReason::Error => "error",
    }
}

/// A session as `sessions.list` and `sessions.changed` show it.
#[must_use]
pub fn session(row: &SessionRow, now: clawstead_terms::Millis) -> Value {
    let key = &row.key;
    let kind = match key.chat_type() {
        ChatType::Direct => "direct",
        ChatType::Group => "group",
        ChatType::Channel => "channel",
    };
    let classification = if key.is_main() {
        "main"
    } else if key.is_cron() {
        "cron"
    } else if key.is_subagent() {
        "subagent"
    } else if kind == "direct" && !key.rest().contains("direct:") {
        "custom"
    } else {
        kind
    };
    let status = row.status.map(|status| match status {
        SessionStatus::Running => "running",
        SessionStatus::Done => "done",
        SessionStatus::Failed => "failed",
    });
    let runtime = match (row.started_at, row.ended_at) {
        (Some(start), Some(end)) if end >= start => Some(end.since(start)),
        _ => None,
    };
    let runs: Vec<&clawstead_terms::RunId> = row.open.iter().map(|open| &open.run_id).collect();
    let level = row.thinking_level.as_deref();
    let mut out = json!({
        "key": key,
        "sessionId": row.session_id,
        "agentId": row.agent_id,
        "kind": kind,
        "classification": classification,
        "isMain": key.is_main(),
        "isBackground": key.is_cron() || key.is_subagent(),
        "chatType": kind,
        "visibility": "shared",
        "permissionModePending": false,
        "createdAt": row.created_at,
        "createdActor": null,
        "spawnDepth": row.spawn_depth,
        "participants": [],
        "participantCount": 0,
        "updatedAt": row.updated_at,
        "archived": row.archived_at.is_some(),
        "archivedAt": row.archived_at,
        "pinned": row.pinned_at.is_some(),
        "pinnedAt": row.pinned_at,
        "unread": row.unread,
        "systemSent": row.message_count > 0,
        "abortedLastRun": row.aborted_last_run,
        "status": status,
        "hasActiveRun": row.has_active_run(),
        "activeRunIds": runs,
        "inputTokens": row.input_tokens,
        "outputTokens": row.output_tokens,
        "totalTokens": row.total_tokens,
        "totalTokensFresh": row.total_tokens_fresh,
        "contextTokens": row.context_tokens,
        "compactionCount": row.compaction_count,
        "messageCount": row.message_count,
        "estimatedCostUsd": row.cost_usd,
        "modelProvider": row.model_provider,
        "model": row.model,
        "modelOverride": row.model_override,
        "modelOverrideSource": row.model_override_source,
        "runtimeSelectionLocked": false,
        "agentRuntime": {"id": "clawstead", "source": "implicit"},
        "thinkingLevel": level,
        "thinkingLevels": [{"id": "off", "label": "off"}, {"id": "low", "label": "low"}, {"id": "medium", "label": "medium"}, {"id": "high", "label": "high"}],
        "thinkingOptions": ["off", "low", "medium", "high"],
        "thinkingDefault": "off",
        "effectiveFastMode": false,
        "effectiveFastModeSource": "default",
        "fastAutoOnSeconds": 60,
        "effectiveResponseUsage": "off",
        "effectiveQueueMode": row.queue_mode.map_or_else(|| json!("steer"), |mode| json!(mode)),
        "snapshotAt": now,
        "placement": {"state": "local", "generation": 0},
        "activitySummary": {"state": "unavailable", "canEnsure": false},
        "sharingRole": "admin",
        "lifecycleRevision": row.lifecycle_revision.to_string(),
    });
    let optional = [
        ("label", json!(row.label)),
        ("displayName", json!(row.display_name.as_ref().or(row.label.as_ref()))),
        ("derivedTitle", json!(row.derived_title)),
        ("lastMessagePreview", json!(row.last_message_preview)),
        ("createdVia", json!(row.created_via)),
        ("parentSessionKey", json!(row.parent_session_key)),
        ("spawnedBy", json!(row.spawned_by)),
        ("lastInteractionAt", json!(row.last_interaction_at)),
        ("lastActivityAt", json!(row.last_interaction_at)),
        ("startedAt", json!(row.started_at)),
        ("endedAt", json!(row.ended_at)),
        ("runtimeMs", json!(runtime)),
        ("lastRunId", json!(row.last_run_id)),
        ("lastRunError", json!(row.last_run_error)),
        ("lastChannel", json!(row.delivery_context.as_ref().map(|t| &t.channel))),
        ("lastTo", json!(row.delivery_context.as_ref().map(|t| &t.to))),
        ("lastAccountId", json!(row.delivery_context.as_ref().map(|t| &t.account))),
        ("sendPolicy", json!(row.send_policy)),
    ];
    if let Some(out) = out.as_object_mut() {
        for (name, value) in optional {
            if !value.is_null() {
                out.insert(name.into(), value);
            }
        }
        for (name, value) in &row.extra {
            if !out.contains_key(name) {
                out.insert(name.clone(), value.clone());
            }
        }
    }
    out
}

/// The stored form of a session, as `sessions.create`, `patch` and `reset` answer it.
#[must_use]
pub fn entry(row: &SessionRow) -> Value {
    let mut value = serde_json::to_value(row).unwrap_or_default();
    if let Some(entry) = value.as_object_mut() {
        for hidden in ["open", "resetSeq", "baseSeq", "key", "agentId"] {
            entry.remove(hidden);
        }
        entry.insert("lifecycleRevision".into(), json!(row.lifecycle_revision.to_string()));
        let delivery = if row.delivery_context.is_some() { "channel" } else { "none" };
        entry.insert("delivery".into(), json!({"kind": delivery}));
    }
    value
}
