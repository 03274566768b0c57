//! `cron`: scheduled work, through the gateway's own methods.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use clawstead_terms::EffectClass;

use crate::{Tool, ToolCx, ToolError, ToolOutput, ToolSpec, bound};

/// Keys of a job that models also write beside `action`.
const JOB_KEYS: [&str; 13] = [
    "name",
    "description",
    "enabled",
    "schedule",
    "sessionTarget",
    "wakeMode",
    "payload",
    "delivery",
    "deleteAfterRun",
    "agentId",
    "sessionKey",
    "failureAlert",
    "declarationKey",
];

/// Schedules work.
pub struct Cron;

/// What to do.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// How the scheduler is.
    Status,
    /// All jobs.
    List,
    /// A new job.
    Add,
    /// Change a job.
    Update,
    /// Take a job away.
    Remove,
    /// Run a job now.
    Run,
    /// The last runs of a job.
    Runs,
    /// Wake a session with a text.
    Wake,
}

/// Arguments of `cron`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Args {
    /// status, list, add, update, remove, run, runs or wake.
    action: Action,
    /// For add: {name, schedule: {kind: "at", at} | {kind: "every", everyMs} | {kind: "cron", expr, tz}, payload: {kind: "agentTurn", message} | {kind: "systemEvent", text}, sessionTarget: "main" | "isolated", delivery}.
    #[serde(default)]
    job: Option<Map<String, Value>>,
    /// The job, for update, remove, run and runs.
    #[serde(default, alias = "id", alias = "job_id")]
    job_id: Option<String>,
    /// For update: the keys of the job that change.
    #[serde(default)]
    patch: Option<Map<String, Value>>,
    /// For wake: the text.
    #[serde(default)]
    text: Option<String>,
    /// For wake: now or next-heartbeat (default).
    #[serde(default)]
    mode: Option<String>,
    /// For run: force (default) or due.
    #[serde(default)]
    run_mode: Option<String>,
    /// For list: true shows jobs that are switched off too.
    #[serde(default)]
    include_disabled: Option<bool>,
    /// Keys of a job may also stand here.
    #[serde(flatten)]
    #[schemars(skip)]
    rest: Map<String, Value>,
}

#[async_trait]
impl Tool for Cron {
    type Args = Args;
    const SPEC: ToolSpec = ToolSpec {
        name: "cron",
        title: "Scheduled work",
        description: "Manage scheduled jobs (status, list, add, update, remove, run, runs) and wake sessions. A job with sessionTarget main needs a systemEvent, one with isolated an agentTurn.",
        group: "group:automation",
        class: EffectClass::Once,
        timeout_ms: 60_000,
    };

    async fn call(&self, cx: ToolCx, args: Args) -> Result<ToolOutput, ToolError> {
        let id = || args.job_id.as_deref().map(str::trim).filter(|i| !i.is_empty()).ok_or_else(|| ToolError::BadArguments("missing field `jobId`".into()));
        let (method, params) = match args.action {
            Action::Status => ("cron.status", json!({})),
            Action::List => ("cron.list", json!({"includeDisabled": args.include_disabled.unwrap_or(false)})),
            Action::Add => ("cron.add", Value::Object(job(&cx, &args)?)),
            Action::Update => {
                let patch = args.patch.as_ref().filter(|p| !p.is_empty()).ok_or_else(|| ToolError::BadArguments("missing field `patch`".into()))?;
                ("cron.update", json!({"id": id()?, "patch": patch}))
            }
            Action::Remove => ("cron.remove", json!({"id": id()?})),
            Action::Run => {
                let mode = args.run_mode.as_deref().unwrap_or("force");
                if !matches!(mode, "force" | "due") {
                    return Err(ToolError::BadArguments("field `runMode` must be \"force\" or \"due\"".into()));
                }
                ("cron.run", json!({"id": id()?, "mode": mode}))
            }
            Action::Runs => ("cron.runs", json!({"id": id()?, "limit": 20})),
            Action::Wake => {
                let text = args.text.as_deref().filter(|t| !t.trim().is_empty()).ok_or_else(|| ToolError::BadArguments("missing field `text`".into()))?;
                let mode = args.mode.as_deref().unwrap_or("next-heartbeat");
                if !matches!(mode, "now" | "next-heartbeat") {
                    return Err(ToolError::BadArguments("field `mode` must be \"now\" or \"next-heartbeat\"".into()));
                }
                ("wake", json!({"mode": mode, "text": text, "sessionKey": cx.session, "agentId": cx.agent}))
            }
        };
        Ok(ToolOutput::json(cx.rpc(method, params).await?))
    }
}

/// The job as `cron.add` takes it: what the model left out is filled in, so that its answer comes back here.
fn job(cx: &ToolCx, args: &Args) -> Result<Map<String, Value>, ToolError> {
    let mut job = args.job.clone().unwrap_or_default();
    if job.is_empty() {
        job.extend(args.rest.iter().filter(|(k, _)| JOB_KEYS.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())));
    }
    let schedule = job.get_mut("schedule").and_then(Value::as_object_mut).ok_or_else(|| ToolError::BadArguments("missing field `job.schedule`".into()))?;
    if !schedule.contains_key("kind") {
        let kind = ["at", "everyMs", "expr"].into_iter().find(|k| schedule.contains_key(*k));
        let kind = kind.ok_or_else(|| ToolError::BadArguments("field `job.schedule` needs at, everyMs or expr".into()))?;
        schedule.insert(
            "kind".into(),
            json!(match kind {
                "at" => "at",
                "everyMs" => "every",
                _ => "cron",
            }),
        );
    }
    let payload = job.get_mut("payload").and_then(Value::as_object_mut).ok_or_else(|| ToolError::BadArguments("missing field `job.payload`".into()))?;
    if !payload.contains_key("kind") {
        let kind = if payload.contains_key("message") { "agentTurn" } else { "systemEvent" };
        payload.insert("kind".into(), json!(kind));
    }
    let turn = payload.get("kind").and_then(Value::as_str) == Some("agentTurn");
    let said = payload.get(if turn { "message" } else { "text" }).and_then(Value::as_str).unwrap_or_default().trim().to_owned();
    if said.is_empty() {
        return Err(ToolError::BadArguments(format!("missing field `job.payload.{}`", if turn { "message" } else { "text" })));
    }
    let mut fill = |key: &str, value: Value| {
        if job.get(key).is_none_or(Value::is_null) {
            job.insert(key.into(), value);
        }
    };
    fill("name", json!(bound::head(said.lines().next().unwrap_or("job"), 60)));
    fill("sessionTarget", json!(if turn { "isolated" } else { "main" }));
    fill("wakeMode", json!("now"));
    fill("agentId", json!(cx.agent));
    fill("sessionKey", json!(cx.session));
    Ok(job)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::test_kit::Kit;

    #[tokio::test]
    async fn a_job_is_filled_in_and_belongs_to_its_session() {
        let kit = Kit::new();
        kit.answer("cron.add", |p| Ok(p.clone()));
        let want = json!({
            "schedule": {"everyMs": 60000, "kind": "every"}, "payload": {"message": "check mail", "kind": "agentTurn"}, "name": "check mail",
            "sessionTarget": "isolated", "wakeMode": "now", "agentId": "jerry", "sessionKey": "agent:jerry:main"
        });
        for args in [
            json!({"action": "add", "job": {"schedule": {"everyMs": 60000}, "payload": {"message": "check mail"}}}),
            json!({"action": "add", "schedule": {"everyMs": 60000}, "payload": {"message": "check mail"}}),
        ] {
            assert_eq!(kit.call("cron", args).await.unwrap().details.unwrap(), want);
        }
    }

    #[tokio::test]
    async fn actions_become_methods_and_errors_name_fields() {
        let kit = Kit::new();
        for (args, method, params) in [
            (json!({"action": "status"}), "cron.status", json!({})),
            (json!({"action": "list"}), "cron.list", json!({"includeDisabled": false})),
            (json!({"action": "remove", "id": "j"}), "cron.remove", json!({"id": "j"})),
            (json!({"action": "run", "jobId": "j"}), "cron.run", json!({"id": "j", "mode": "force"})),
            (json!({"action": "update", "jobId": "j", "patch": {"enabled": false}}), "cron.update", json!({"id": "j", "patch": {"enabled": false}})),
            (json!({"action": "runs", "jobId": "j"}), "cron.runs", json!({"id": "j", "limit": 20})),
            (
                json!({"action": "wake", "text": "t"}),
                "wake",
                json!({"mode": "next-heartbeat", "text": "t", "sessionKey": "agent:jerry:main", "agentId": "jerry"}),
            ),
        ] {
            kit.answer(method, |_| Ok(json!({"ok": true})));
            kit.call("cron", args).await.unwrap();
            assert_eq!(kit.calls(method)[0], params);
        }
        for (args, field) in [
            (json!({"action": "remove"}), "`jobId`"),
            (json!({"action": "add"}), "`job.schedule`"),
            (json!({"action": "add", "job": {"schedule": {"at": "x"}}}), "`job.payload`"),
            (json!({"action": "wake"}), "`text`"),
            (json!({"action": "nope"}), "`action`"),
            (json!({}), "`action`"),
        ] {
            let err = kit.call("cron", args).await.unwrap_err().to_string();
            assert!(err.contains(field), "{err}");
        }
    }
}
