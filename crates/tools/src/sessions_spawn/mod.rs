//! `sessions_spawn`: a sub-agent with a task of its own. Its end comes back as a message; nobody waits.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use clawstead_terms::{AgentId, EffectClass};

use crate::{Tool, ToolCx, ToolError, ToolOutput, ToolSpec};

/// The longest run limit, s.
const LIMIT_MAX_S: f64 = 7.0 * 24.0 * 3600.0;

/// Spawns sub-agents.
pub struct SessionsSpawn;

/// Arguments of `sessions_spawn`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Args {
    /// What the sub-agent is to do; it knows nothing else of this conversation.
    task: String,
    /// A name for it.
    #[serde(default)]
    label: Option<String>,
    /// The agent to run as. Default: this one.
    #[serde(default, alias = "agent_id")]
    agent_id: Option<String>,
    /// The model, provider/model. Default: as the agent is set.
    #[serde(default)]
    model: Option<String>,
    /// How much it thinks: off, low, medium, high.
    #[serde(default)]
    thinking: Option<String>,
    /// Its time limit in seconds. Default 0: none.
    #[serde(default, alias = "run_timeout_seconds", alias = "timeoutSeconds")]
    run_timeout_seconds: Option<f64>,
    /// keep (default) or delete its session after the end.
    #[serde(default)]
    cleanup: Option<String>,
}

#[async_trait]
impl Tool for SessionsSpawn {
    type Args = Args;
    const SPEC: ToolSpec = ToolSpec {
        name: "sessions_spawn",
        title: "Spawn sub-agent",
        description: "Give a task to a sub-agent in a session of its own. Returns at once; its result comes to you as a message when it is done.",
        group: "group:sessions",
        class: EffectClass::Idempotent,
        timeout_ms: 60_000,
    };

    async fn call(&self, cx: ToolCx, args: Args) -> Result<ToolOutput, ToolError> {
        if args.task.trim().is_empty() {
            return Err(ToolError::BadArguments("field `task` must not be empty".into()));
        }
        let limit = args.run_timeout_seconds.unwrap_or(0.0);
        if !(0.0..=LIMIT_MAX_S).contains(&limit) {
            return Err(ToolError::BadArguments(format!("field `runTimeoutSeconds` must be 0 to {LIMIT_MAX_S}")));
        }
        let cleanup = match args.cleanup.as_deref() {
            None | Some("keep") => "keep",
            Some("delete") => "delete",
            Some(_) => return Err(ToolError::BadArguments("field `cleanup` must be \"keep\" or \"delete\"".into())),
        };
        let mut params = Map::new();
        params.insert("task".into(), json!(args.task));
        if let Some(id) = args.agent_id.as_deref().map(str::trim).filter(|id| !id.is_empty()) {
            let id = AgentId::parse(&id.to_lowercase()).map_err(|e| ToolError::BadArguments(format!("field `agentId`: {e}")))?;
            params.insert("agentId".into(), json!(id));
        }
        for (key, value) in [("label", args.label), ("model", args.model), ("thinking", args.thinking)] {
            if let Some(text) = value.filter(|t| !t.trim().is_empty()) {
                params.insert(key.into(), json!(text.trim()));
            }
        }
        params.insert("runTimeoutSeconds".into(), json!(limit));
        params.insert("cleanup".into(), json!(cleanup));
        params.insert("requesterSessionKey".into(), json!(cx.session));
        params.insert("requesterRunId".into(), json!(cx.run));
        params.insert("idempotencyKey".into(), json!(cx.effect_id));
        let answer = match cx.rpc("internal.sessions.spawn", Value::Object(params)).await {
            Ok(answer) => answer,
            Err(ToolError::Denied(why)) => return Ok(ToolOutput::json(json!({"status": "forbidden", "error": why}))),
            Err(err) => return Ok(ToolOutput::json(json!({"status": "error", "error": err.to_string()}))),
        };
        Ok(ToolOutput::json(json!({"status": "accepted", "childSessionKey": answer.get("childSessionKey"), "runId": answer.get("runId")})))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use clawstead_terms::{Failure, FailureCode};

    use crate::test_kit::Kit;

    #[tokio::test]
    async fn a_child_is_accepted_or_refused() {
        let kit = Kit::new();
        kit.answer("internal.sessions.spawn", |_| Ok(json!({"childSessionKey": "agent:jerry:subagent:1", "runId": "r"})));
        let seen = kit.call("sessions_spawn", json!({"task": "count", "model": "a/b", "runTimeoutSeconds": 60})).await.unwrap().details.unwrap();
        assert_eq!(seen, json!({"status": "accepted", "childSessionKey": "agent:jerry:subagent:1", "runId": "r"}));
        let asked = kit.calls("internal.sessions.spawn").remove(0);
        assert_eq!(
            asked,
            json!({"task": "count", "model": "a/b", "runTimeoutSeconds": 60.0, "cleanup": "keep", "requesterSessionKey": "agent:jerry:main", "requesterRunId": "run-1", "idempotencyKey": "effect-1"})
        );
        for (args, field) in [
            (json!({}), "`task`"),
            (json!({"task": "x", "cleanup": "burn"}), "`cleanup`"),
            (json!({"task": "x", "runTimeoutSeconds": -1}), "`runTimeoutSeconds`"),
        ] {
            assert!(kit.call("sessions_spawn", args).await.unwrap_err().to_string().contains(field));
        }
        kit.answer("internal.sessions.spawn", |_| Err(Failure::new(FailureCode::Forbidden, "too deep")));
        let seen = kit.call("sessions_spawn", json!({"task": "count"})).await.unwrap().details.unwrap();
        assert_eq!(seen["status"], "forbidden");
    }
}
