//! Sessions as clients see them: one place for `sessions.list`, `sessions.changed` and what changes answer.

use serde_json::{Value, json};

use clawstead_agent::{SessionRow, SessionStatus};
use clawstead_terms::ChatType;

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
    let at_work = row.has_active_run();
    let optional = [
        ("activeModelProvider", json!(row.model_provider.as_ref().filter(|_| at_work))),
        ("activeModel", json!(row.model.as_ref().filter(|_| at_work))),
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
