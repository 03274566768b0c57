//! Messages as clients know them, in `chat.history` and `session.message`.

use serde_json::{Map, Value, json};

use clawstead_terms::{Message, Part, Role, StopReason, Usage};

/// A transcript message as JSON. A message with several tool results becomes several, as clients expect one each.
/// `position` is its place in the transcript, from 1.
#[must_use]
pub fn messages_json(message: &Message, position: u64) -> Vec<Value> {
    let mut marks = json!({ "id": message.id, "seq": position, "recordTimestampMs": message.at });
    if let (Some(run), Some(marks)) = (&message.run_id, marks.as_object_mut()) {
        marks.insert("runId".into(), run.as_str().into());
    }
    for mark in ["senderIsOwner", "senderName", "senderId", "channel", "transport", "summary", "injected"] {
        if let (Some(value), Some(marks)) = (message.meta.as_ref().and_then(|meta| meta.get(mark)), marks.as_object_mut()) {
            marks.insert(mark.into(), value.clone());
        }
    }
    let finish = |mut body: Map<String, Value>| {
        body.insert("timestamp".into(), message.at.0.into());
        body.insert("__openclaw".into(), marks.clone());
        Value::Object(body)
    };
    match message.role {
        Role::Tool => message.parts.iter().filter_map(tool_result).map(finish).collect(),
        Role::User => {
            let only_text = message.parts.iter().all(|part| matches!(part, Part::Text { .. }));
            let content = if only_text { Value::from(message.plain_text()) } else { Value::Array(parts_json(&message.parts)) };
            let mut body = object(json!({ "role": "user", "content": content }));
            if let Some(run) = &message.run_id {
                body.insert("idempotencyKey".into(), format!("{run}:user").into());
            }
            vec![finish(body)]
        }
        Role::System => vec![finish(object(json!({ "role": "system", "content": message.plain_text() })))],
        Role::Assistant => {
            let mut body = object(json!({ "role": "assistant", "content": message.parts.iter().map(part_json).collect::<Vec<_>>() }));
            if let Some((provider, model)) = message.model.as_deref().and_then(|name| name.split_once('/')) {
                body.insert("provider".into(), provider.into());
                body.insert("model".into(), model.into());
            }
            if let Some(usage) = &message.usage {
                body.insert("usage".into(), usage_json(usage));
            }
            if let Some(stop) = message.stop_reason {
                body.insert("stopReason".into(), stop_word(stop).into());
            }
            if let Some(error) = message.meta.as_ref().and_then(|meta| meta.get("errorMessage")) {
                body.insert("errorMessage".into(), error.clone());
            }
            vec![finish(body)]
        }
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn part_json(part: &Part) -> Value {
    match part {
        Part::Text { text } => json!({ "type": "text", "text": text }),
        Part::Thinking { text, signature } => match signature {
            Some(signature) => json!({ "type": "thinking", "thinking": text, "thinkingSignature": signature }),
            None => json!({ "type": "thinking", "thinking": text }),
        },
        Part::Image { mime_type, data } => json!({ "type": "image", "mimeType": mime_type, "data": data }),
        Part::File { name, mime_type, path } => json!({ "type": "file", "fileName": name, "mimeType": mime_type, "path": path }),
        Part::ToolCall { id, name, arguments } => json!({ "type": "toolCall", "id": id, "name": name, "arguments": arguments }),
        Part::ToolResult { id, name, content, is_error, .. } => {
            json!({ "type": "toolResult", "toolCallId": id, "toolName": name, "content": parts_json(content), "isError": is_error })
        }
    }
}

/// Content parts as clients know them.
pub(crate) fn parts_json(parts: &[Part]) -> Vec<Value> {
    parts.iter().map(part_json).collect()
}

fn tool_result(part: &Part) -> Option<Map<String, Value>> {
    let Part::ToolResult { id, name, content, details, is_error } = part else { return None };
    let mut body = object(json!({ "role": "toolResult", "toolCallId": id, "toolName": name, "content": parts_json(content), "isError": is_error }));
    if let Some(details) = details {
        body.insert("details".into(), details.clone());
    }
    Some(body)
}

pub(crate) fn usage_json(usage: &Usage) -> Value {
    json!({ "input": usage.input, "output": usage.output, "totalTokens": usage.total(), "cacheRead": usage.cache_read,
        "cacheWrite": usage.cache_write, "cost": { "total": usage.cost_usd } })
}

/// The word of a stop reason.
pub(crate) const fn stop_word(stop: StopReason) -> &'static str {
    match stop {
        StopReason::Stop => "stop",
        StopReason::Length => "length",
        StopReason::ToolUse => "toolUse",
        StopReason::Aborted => "aborted",
        StopReason::Refusal => "refusal",
        StopReason::Error => "error",
    }
}
