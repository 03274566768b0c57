//! `message`: says something on a chat platform, or does something with what is there.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use clawstead_terms::EffectClass;

use crate::{Tool, ToolCx, ToolError, ToolOutput, ToolSpec};

/// Keys of the call that are not the platform's.
const OWN_KEYS: [&str; 3] = ["action", "channel", "accountId"];

/// Sends messages.
pub struct SendMessage;

/// Arguments of `message`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Args {
    /// send (default), reply, react, edit, delete, read, poll, pin, thread-reply and what else the platform can.
    #[serde(default)]
    action: Option<String>,
    /// The platform: slack, telegram, discord. Default: the one this conversation is on.
    #[serde(default)]
    channel: Option<String>,
    /// The account there. Default: the one of this conversation.
    #[serde(default, alias = "account_id")]
    account_id: Option<String>,
    /// To whom: a person, channel or group as the platform names it. Default: this conversation.
    #[serde(default, alias = "to")]
    target: Option<String>,
    /// What to say.
    #[serde(default, alias = "text")]
    message: Option<String>,
    /// A file to send: a path or an address.
    #[serde(default, alias = "mediaUrl")]
    media: Option<String>,
    /// The thread to send to.
    #[serde(default, alias = "thread_id")]
    thread_id: Option<String>,
    /// The message to quote.
    #[serde(default, alias = "reply_to", alias = "replyToId")]
    reply_to: Option<String>,
    /// The message to react to, edit or delete.
    #[serde(default, alias = "message_id")]
    message_id: Option<String>,
    /// The reaction.
    #[serde(default)]
    emoji: Option<String>,
    /// Further keys go to the platform as they are.
    #[serde(flatten)]
    #[schemars(skip)]
    rest: Map<String, Value>,
}

#[async_trait]
impl Tool for SendMessage {
    type Args = Args;
    const SPEC: ToolSpec = ToolSpec {
        name: "message",
        title: "Message",
        description: "Send a message on a chat platform, or react to, edit, delete or read messages there. An ordinary answer to this conversation needs no tool.",
        group: "group:messaging",
        class: EffectClass::Idempotent,
        timeout_ms: 120_000,
    };

    async fn call(&self, cx: ToolCx, args: Args) -> Result<ToolOutput, ToolError> {
        let action = args.action.as_deref().map(str::trim).filter(|a| !a.is_empty()).unwrap_or("send").to_lowercase();
        if action == "send" && args.message.as_deref().is_none_or(|m| m.trim().is_empty()) && args.media.is_none() {
            return Err(ToolError::BadArguments("missing field `message`".into()));
        }
        if let Some(allow) = cx.setting(&["message", "actions", "allow"]).and_then(Value::as_array)
            && !allow.iter().filter_map(Value::as_str).any(|a| a == "*" || a.eq_ignore_ascii_case(&action))
        {
            return Err(ToolError::Denied(format!("the action {action} is not in tools.message.actions.allow")));
        }
        // What a model writes of its own accord must not look like the gateway's private keys.
        let mut params: Map<String, Value> = args.rest.into_iter().filter(|(k, _)| !k.starts_with("__") && !OWN_KEYS.contains(&k.as_str())).collect();
        for (key, value) in [
            ("target", args.target),
            ("message", args.message),
            ("media", args.media),
            ("threadId", args.thread_id),
            ("replyTo", args.reply_to),
            ("messageId", args.message_id),
            ("emoji", args.emoji),
        ] {
            if let Some(text) = value {
                params.insert(key.into(), json!(text));
            }
        }
        let mut call = json!({
            "action": action, "params": params, "sessionKey": cx.session, "agentId": cx.agent, "senderIsOwner": cx.owner, "idempotencyKey": cx.effect_id,
        });
        for (key, value) in [("channel", args.channel), ("accountId", args.account_id)] {
            if let Some(text) = value.filter(|t| !t.trim().is_empty()) {
                call[key] = json!(text.trim().to_lowercase());
            }
        }
        Ok(ToolOutput::json(cx.rpc("message.action", call).await?))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{ToolError, test_kit::Kit};

    #[tokio::test]
    async fn a_send_has_one_effect_key() {
        let kit = Kit::new();
        kit.answer("message.action", |_| Ok(json!({"messageId": "1"})));
        let seen = kit.call("message", json!({"channel": "Slack", "to": "C1", "message": "hi", "silent": true, "__agentId": "other"})).await.unwrap();
        assert_eq!(seen.details.unwrap(), json!({"messageId": "1"}));
        assert_eq!(
            kit.calls("message.action")[0],
            json!({"action": "send", "params": {"silent": true, "target": "C1", "message": "hi"}, "sessionKey": "agent:jerry:main", "agentId": "jerry", "senderIsOwner": true,
                   "idempotencyKey": "effect-1", "channel": "slack"})
        );
        assert!(kit.call("message", json!({"target": "C1"})).await.unwrap_err().to_string().contains("`message`"));
        kit.set(json!({"message": {"actions": {"allow": ["send"]}}}));
        assert!(matches!(kit.call("message", json!({"action": "delete", "messageId": "1"})).await, Err(ToolError::Denied(_))));
    }
}
