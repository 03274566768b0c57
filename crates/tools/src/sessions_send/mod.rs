//! `sessions_send`: a letter to another session, with or without waiting for its answer.

use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use clawstead_terms::{AgentId, EffectClass, SessionKey};

use crate::{Tool, ToolCx, ToolError, ToolOutput, ToolSpec};

/// How long an answer is awaited, when the caller names no time, s.
const WAIT_DEFAULT_S: f64 = 30.0;
/// The longest wait, s.
const WAIT_MAX_S: f64 = 3600.0;
/// Time beyond the wait in which the gateway must say that it is over.
const SLACK: Duration = Duration::from_secs(5);

/// Sends to sessions.
pub struct SessionsSend;

/// Arguments of `sessions_send`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Args {
    /// The session to send to. Or give label, or agentId.
    #[serde(default, alias = "session_key", alias = "key")]
    session_key: Option<String>,
    /// The label of the session.
    #[serde(default)]
    label: Option<String>,
    /// The agent to send to: its main session; with label, the agent whose session has it.
    #[serde(default, alias = "agent_id", alias = "agent")]
    agent_id: Option<String>,
    /// What to say.
    #[serde(alias = "text")]
    message: String,
    /// Seconds to wait for the answer. Default 30; 0 does not wait.
    #[serde(default, alias = "timeout_seconds", alias = "timeout")]
    timeout_seconds: Option<f64>,
}

#[async_trait]
impl Tool for SessionsSend {
    type Args = Args;
    const SPEC: ToolSpec = ToolSpec {
        name: "sessions_send",
        title: "Send to session",
        description: "Send a message to another session or agent and wait for its answer, or send only (timeoutSeconds: 0).",
        group: "group:sessions",
        class: EffectClass::Idempotent,
        timeout_ms: 0,
    };

    async fn call(&self, cx: ToolCx, args: Args) -> Result<ToolOutput, ToolError> {
        if args.message.trim().is_empty() {
            return Err(ToolError::BadArguments("field `message` must not be empty".into()));
        }
        let wait = args.timeout_seconds.unwrap_or(WAIT_DEFAULT_S);
        if !wait.is_finite() || wait < 0.0 {
            return Err(ToolError::BadArguments("field `timeoutSeconds` must be 0 or a positive number".into()));
        }
        let wait = Duration::from_secs_f64(wait.min(WAIT_MAX_S));
        let key = target(&cx, &args).await?;
        if key == cx.session {
            return Err(ToolError::BadArguments("field `sessionKey` names this session itself; answer directly instead".into()));
        }
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let sent = cx.rpc("sessions.send", json!({"key": key, "message": args.message, "idempotencyKey": cx.effect_id, "timeoutMs": wait_ms})).await;
        let sent = match sent {
            Ok(sent) => sent,
            // The model is told as a result: it often can do something else.
            Err(err) => return Ok(ToolOutput::json(json!({"runId": cx.effect_id, "status": "error", "error": err.to_string(), "sessionKey": key}))),
        };
        let run = sent.get("runId").and_then(Value::as_str).unwrap_or(&cx.effect_id).to_owned();
        if wait.is_zero() {
            return Ok(ToolOutput::json(json!({"runId": run, "status": "accepted", "sessionKey": key})));
        }
        let answer = tokio::time::timeout(wait + SLACK, cx.rpc("agent.wait", json!({"runId": run, "timeoutMs": wait_ms}))).await;
        let result = match answer {
            Err(_) => json!({"runId": run, "status": "timeout", "sessionKey": key}),
            Ok(Err(err)) => json!({"runId": run, "status": "error", "error": err.to_string(), "sessionKey": key}),
            Ok(Ok(end)) => match end.get("status").and_then(Value::as_str) {
                Some("ok") => {
                    let reply = end.pointer("/terminalReply/text").and_then(Value::as_str).unwrap_or_default();
                    json!({"runId": run, "status": "ok", "reply": reply, "sessionKey": key})
                }
                Some("timeout") => json!({"runId": run, "status": "timeout", "sessionKey": key}),
                _ => {
                    let why = end.get("error").and_then(|e| e.as_str().or_else(|| e.get("message").and_then(Value::as_str))).unwrap_or("the run failed");
                    json!({"runId": run, "status": "error", "error": why, "sessionKey": key})
                }
            },
        };
        Ok(ToolOutput::json(result))
    }
}

/// The session that is meant.
async fn target(cx: &ToolCx, args: &Args) -> Result<SessionKey, ToolError> {
    let text = |value: &Option<String>| value.as_deref().map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned);
    if let Some(key) = text(&args.session_key) {
        return SessionKey::resolve(&key, &cx.agent).map_err(|e| ToolError::BadArguments(format!("field `sessionKey`: {e}")));
    }
    let agent = match text(&args.agent_id) {
        Some(id) => Some(AgentId::parse(&id.to_lowercase()).map_err(|e| ToolError::BadArguments(format!("field `agentId`: {e}")))?),
        None => None,
    };
    if let Some(label) = text(&args.label) {
        let mut params = json!({"label": label});
        if let Some(agent) = &agent {
            params["agentId"] = json!(agent);
        }
        let found = cx.rpc("sessions.resolve", params).await?;
        let key = found.get("key").and_then(Value::as_str).ok_or_else(|| ToolError::Failed(format!("no session has the label {label}")))?;
        return SessionKey::resolve(key, &cx.agent).map_err(|e| ToolError::Failed(e.to_string()));
    }
    agent.map(|a| SessionKey::main(&a)).ok_or_else(|| ToolError::BadArguments("give one of the fields `sessionKey`, `label` or `agentId`".into()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use clawstead_terms::{Failure, FailureCode};

    use crate::{ToolError, test_kit::Kit};

    async fn send(kit: &Kit, args: Value) -> Value {
        kit.call("sessions_send", args).await.unwrap().details.unwrap()
    }

    fn kit() -> Kit {
        let kit = Kit::new();
        kit.answer("sessions.send", |p| Ok(json!({"runId": p["idempotencyKey"], "status": "started"})));
        kit.answer("agent.wait", |_| Ok(json!({"status": "ok", "terminalReply": {"disposition": "visible", "text": "pong"}})));
        kit
    }

    #[tokio::test]
    async fn waiting_gives_the_reply_and_not_waiting_does_not() {
        let kit = kit();
        assert_eq!(
            send(&kit, json!({"agentId": "Bobby", "message": "ping"})).await,
            json!({"runId": "effect-1", "status": "ok", "reply": "pong", "sessionKey": "agent:bobby:main"})
        );
        assert_eq!(kit.calls("sessions.send")[0], json!({"key": "agent:bobby:main", "message": "ping", "idempotencyKey": "effect-1", "timeoutMs": 30000}));
        assert_eq!(
            send(&kit, json!({"sessionKey": "agent:bobby:x", "message": "m", "timeoutSeconds": 0})).await,
            json!({"runId": "effect-1", "status": "accepted", "sessionKey": "agent:bobby:x"})
        );
        assert_eq!(kit.calls("agent.wait").len(), 1);
        kit.answer("sessions.resolve", |p| Ok(json!({"key": format!("agent:bobby:{}", p["label"].as_str().unwrap())})));
        assert_eq!(send(&kit, json!({"label": "ops", "message": "m", "timeoutSeconds": 0})).await["sessionKey"], "agent:bobby:ops");
    }

    #[tokio::test]
    async fn every_end_has_its_word() {
        let kit = kit();
        for (answer, want) in [(json!({"status": "timeout"}), "timeout"), (json!({"status": "error", "error": "boom"}), "error"), (json!({}), "error")] {
            kit.answer("agent.wait", move |_| Ok(answer.clone()));
            assert_eq!(send(&kit, json!({"agentId": "bobby", "message": "m"})).await["status"], want);
        }
        kit.answer("sessions.send", |_| Err(Failure::new(FailureCode::Forbidden, "agentToAgent is off")));
        let seen = send(&kit, json!({"agentId": "bobby", "message": "m"})).await;
        assert_eq!((&seen["status"], &seen["error"]), (&json!("error"), &json!("agentToAgent is off")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_never_answers_is_a_timeout() {
        let kit = kit();
        kit.answer("agent.wait", |_| Ok(json!("hang")));
        assert_eq!(send(&kit, json!({"agentId": "bobby", "message": "m", "timeoutSeconds": 2})).await["status"], "timeout");
    }

    #[tokio::test]
    async fn wrong_targets_name_their_field() {
        let kit = kit();
        for (args, field) in [
            (json!({"message": "m"}), "`sessionKey`"),
            (json!({"agentId": "b c", "message": "m"}), "`agentId`"),
            (json!({"sessionKey": "main", "message": "m"}), "itself"),
            (json!({"agentId": "bobby", "message": " "}), "`message`"),
            (json!({"agentId": "bobby", "message": "m", "timeoutSeconds": -1}), "`timeoutSeconds`"),
        ] {
            let err = kit.call("sessions_send", args).await.unwrap_err();
            assert!(matches!(&err, ToolError::BadArguments(text) if text.contains(field)), "{err}");
        }
        assert!(kit.calls("sessions.send").is_empty());
    }
}
