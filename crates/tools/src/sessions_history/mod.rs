//! `sessions_history`: what was said in a session.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use clawstead_terms::EffectClass;

use crate::{Tool, ToolCx, ToolError, ToolOutput, ToolSpec, bound};

/// Messages of one answer at most.
const MESSAGES_MAX: u64 = 200;
/// Text of one message, bytes.
const MESSAGE_BYTES_MAX: usize = 4000;
/// All messages together, bytes; older ones are left out first.
const ANSWER_BYTES_MAX: usize = 48 * 1024;

/// Reads history.
pub struct SessionsHistory;

/// Arguments of `sessions_history`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Args {
    /// The session's key, as sessions_list tells it.
    #[serde(alias = "session_key", alias = "key")]
    session_key: String,
    /// How many of the last messages, 1 to 200. Default 50.
    #[serde(default)]
    limit: Option<u64>,
    /// True shows tool calls and results too.
    #[serde(default)]
    include_tools: Option<bool>,
}

#[async_trait]
impl Tool for SessionsHistory {
    type Args = Args;
    const SPEC: ToolSpec = ToolSpec {
        name: "sessions_history",
        title: "Session history",
        description: "Read the last messages of a session you may see.",
        group: "group:sessions",
        class: EffectClass::Read,
        timeout_ms: 30_000,
    };

    async fn call(&self, cx: ToolCx, args: Args) -> Result<ToolOutput, ToolError> {
        let limit = args.limit.unwrap_or(50).clamp(1, MESSAGES_MAX);
        let answer = cx.rpc("chat.history", json!({"sessionKey": args.session_key, "limit": limit, "maxBytes": 512 * 1024})).await?;
        let tools = if args.include_tools.unwrap_or(false) { Tools::Shown } else { Tools::Hidden };
        let all: Vec<Value> = answer.get("messages").and_then(Value::as_array).into_iter().flatten().filter_map(|m| brief(m, tools)).collect();
        let (mut kept, mut size) = (Vec::new(), 0);
        for message in all.iter().rev() {
            size += message.to_string().len();
            if size > ANSWER_BYTES_MAX {
                break;
            }
            kept.push(message.clone());
        }
        kept.reverse();
        let truncated = kept.len() < all.len() || answer.get("hasMore").and_then(Value::as_bool).unwrap_or(false);
        Ok(ToolOutput::json(json!({"sessionKey": args.session_key, "messages": kept, "truncated": truncated})))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tools {
    Shown,
    Hidden,
}

/// A message without reasoning, pictures and what is only for user interfaces.
fn brief(message: &Value, tools: Tools) -> Option<Value> {
    let role = message.get("role").and_then(Value::as_str)?;
    if role.starts_with("tool") && tools == Tools::Hidden {
        return None;
    }
    let mut text = String::new();
    match message.get("content") {
        Some(Value::String(whole)) => text.push_str(whole),
        Some(Value::Array(parts)) => {
            for part in parts {
                let add = match part.get("type").and_then(Value::as_str) {
                    Some("text") => part.get("text").and_then(Value::as_str).unwrap_or_default().to_owned(),
                    Some("image") => "[picture]".into(),
                    Some("toolCall") if tools == Tools::Shown => format!("[calls {} {}]", part["name"].as_str().unwrap_or("?"), part["arguments"]),
                    _ => continue,
                };
                if !text.is_empty() {
                    text.push('\n');
                }
                text.push_str(&add);
            }
        }
        _ => {}
    }
    if text.is_empty() {
        return None;
    }
    Some(json!({"role": role, "text": bound::cut(text, MESSAGE_BYTES_MAX), "timestamp": message.get("timestamp")}))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::test_kit::Kit;

    #[tokio::test]
    async fn history_is_text_and_bounded() {
        let kit = Kit::new();
        kit.answer("chat.history", |_| {
            let mut messages = vec![json!({"role": "user", "content": "x".repeat(100_000)}); 30];
            messages.push(json!({"role": "assistant", "content": [{"type": "thinking", "text": "hidden"}, {"type": "toolCall", "name": "exec", "arguments": {"command": "ls"}}]}));
            messages.push(json!({"role": "toolResult", "content": [{"type": "text", "text": "out"}]}));
            messages.push(json!({"role": "assistant", "content": [{"type": "text", "text": "done"}], "timestamp": 5}));
            Ok(json!({"messages": messages}))
        });
        let seen = kit.call("sessions_history", json!({"sessionKey": "main"})).await.unwrap();
        assert!(seen.plain_text().len() < crate::OUTPUT_BYTES_MAX);
        let details = seen.details.unwrap();
        let messages = details["messages"].as_array().unwrap();
        assert_eq!(messages.last().unwrap(), &json!({"role": "assistant", "text": "done", "timestamp": 5}));
        assert!(details["truncated"].as_bool().unwrap() && !details.to_string().contains("hidden") && !details.to_string().contains("exec"));
        let seen = kit.call("sessions_history", json!({"sessionKey": "main", "includeTools": true})).await.unwrap().plain_text();
        assert!(seen.contains("calls exec") && seen.contains("out"));
    }
}
