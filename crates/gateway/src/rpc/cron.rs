//! `cron.*`: jobs and runs as clients see them.

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use clawstead_terms::{Failure, FailureCode};
use clawstead_wire::{
    error::ErrorShape,
    methods::{
        cron::{
            AddParams, CronApi, EnabledFilter, JobRef, JobSort, ListParams, RunMode, RunParams, RunStatusFilter, RunsParams, RunsScope, SortDir, UpdateParams,
            job_id,
        },
        system::{Nothing, WakeMode},
    },
};
use clawstead_world::World;

use crate::cron::{
    Cron,
    job::{Delivery, DeliveryMode, Job, JobState, Payload, RunEntry, Schedule},
    schedule,
};

/// The handlers of `cron.*`.
pub struct CronRpc {
    /// The service.
    pub cron: Cron,
    /// Clock and ids.
    pub world: World,
}

#[async_trait]
impl<C: Send + Sync + 'static> CronApi<C> for CronRpc {
    async fn get(&self, _: &C, params: JobRef) -> Result<Value, ErrorShape> {
        let job = self.find("cron.get", params.id.as_deref(), params.job_id.as_deref())?;
        Ok(job.shown(&self.cron.default_agent()))
    }

    async fn list(&self, _: &C, params: ListParams) -> Result<Value, ErrorShape> {
        let all = self.cron.everywhere().await.map_err(ErrorShape::from)?;
        let revision = revision(&all);
        let default = self.cron.default_agent();
        let mut jobs: Vec<Job> = all.into_iter().filter(|job| wanted(job, &params, &default)).collect();
        sort_jobs(&mut jobs, params.sort_by.as_ref(), params.sort_dir.as_ref());
        let (page, envelope) = page(jobs, params.offset, params.limit.unwrap_or(50));
        let mut previews = Map::new();
        if params.include_delivery_previews != Some(false) {
            for job in page.iter().filter(|job| job.delivery.is_some()) {
                previews.insert(job.id.clone(), self.cron.delivery_preview(job).await);
            }
        }
        let shown: Vec<Value> = page.iter().map(|job| job.shown(&default)).collect();
        Ok(merged(json!({"jobs": shown, "snapshotRevision": revision}), envelope, json!({"deliveryPreviews": previews})))
    }

    async fn status(&self, _: &C, _: Nothing) -> Result<Value, ErrorShape> {
        Ok(self.cron.status().await)
    }

    async fn add(&self, _: &C, params: AddParams) -> Result<Value, ErrorShape> {
        let method = "cron.add";
        let bad = |what: String| ErrorShape::params(method, &what);
        let now = self.world.clock.now();
        let schedule = read_schedule(params.schedule, now).map_err(bad)?;
        let payload = read_payload(params.payload, &params.session_target).map_err(bad)?;
        let delivery = match params.delivery {
            Some(value) => Some(serde_json::from_value::<Delivery>(value).map_err(|e| bad(format!("at /delivery: {e}")))?),
            None if matches!(payload, Payload::AgentTurn { .. }) && params.session_target != "main" => Some(announce()),
            None => None,
        };
        let declared = params.declaration_key.as_ref().and_then(|key| self.cron.jobs().into_iter().find(|job| job.declaration_key.as_ref() == Some(key)));
        let one_shot = matches!(schedule, Schedule::At { .. });
        let job = Job {
            id: declared.as_ref().map_or_else(|| self.world.rng.uuid(), |job| job.id.clone()),
            declaration_key: params.declaration_key,
            display_name: params.display_name,
            agent_id: params.agent_id.into_option().flatten(),
            session_key: params.session_key.into_option().flatten(),
            name: params.name,
            description: params.description,
            enabled: params.enabled.unwrap_or(true),
            delete_after_run: params.delete_after_run.or(one_shot.then_some(true)),
            created_at_ms: declared.as_ref().map_or(now.0, |job| job.created_at_ms),
            updated_at_ms: now.0,
            schedule,
            session_target: params.session_target,
            wake_mode: if params.wake_mode == Some(WakeMode::NextHeartbeat) { "next-heartbeat" } else { "now" }.into(),
            scheduled_tool_policy: matches!(payload, Payload::AgentTurn { .. }).then(|| json!({"version": 1, "mode": "trusted"})),
            payload,
            delivery,
            failure_alert: params.failure_alert,
            state: declared.map_or_else(JobState::default, |job| job.state),
        };
        let job = self.cron.put(job).await.map_err(|failure| refused(method, &failure))?;
        let preview =
            if job.delivery.is_some() { self.cron.delivery_preview(&job).await } else { json!({"label": "not requested", "detail": "not requested"}) };
        Ok(merged(job.shown(&self.cron.default_agent()), json!({"deliveryPreview": preview}), json!({})))
    }

    async fn update(&self, _: &C, params: UpdateParams) -> Result<Value, ErrorShape> {
        let method = "cron.update";
        let old = self.find(method, params.id.as_deref(), params.job_id.as_deref())?;
        if params.expected_config_revision.is_some_and(|expected| expected != old.revision()) {
            return Err(ErrorShape::invalid("the job was changed since it was read; read it again and retry"));
        }
        let job = patched(&old, params.patch.0, self.world.clock.now()).map_err(|what| ErrorShape::params(method, &what))?;
        let job = self.cron.put(job).await.map_err(|failure| refused(method, &failure))?;
        Ok(job.shown(&self.cron.default_agent()))
    }

    async fn remove(&self, _: &C, params: JobRef) -> Result<Value, ErrorShape> {
        let id = job_id("cron.remove", params.id.as_deref(), params.job_id.as_deref())?;
        let removed = self.cron.remove(id).await.map_err(ErrorShape::from)?;
        if removed { Ok(json!({"ok": true, "removed": true})) } else { Err(not_found(id)) }
    }

    async fn run(&self, _: &C, params: RunParams) -> Result<Value, ErrorShape> {
        let job = self.find("cron.run", params.id.as_deref(), params.job_id.as_deref())?;
        let not_run = |reason: &str| json!({"ok": true, "ran": false, "reason": reason, "processInstanceId": self.cron.instance()});
        if params.expected_process_instance_id.is_some_and(|expected| expected != self.cron.instance()) {
            return Ok(not_run("process-changed"));
        }
        let due = job.enabled && job.state.next_run_at_ms.is_some_and(|next| next <= self.world.clock.now().0);
        match params.mode {
            Some(RunMode::Due) if !due => return Ok(not_run("not-due")),
            Some(RunMode::IfEnabled) if !job.enabled => return Ok(not_run("disabled")),
            _ => {}
        }
        match self.cron.run_now(&job.id).await {
            Ok(Some(run_id)) => Ok(json!({"ok": true, "enqueued": true, "runId": run_id, "processInstanceId": self.cron.instance()})),
            Ok(None) => Ok(not_run("already-running")),
            Err(failure) => Err(ErrorShape::from(failure)),
        }
    }

    async fn runs(&self, _: &C, params: RunsParams) -> Result<Value, ErrorShape> {
        let id = params.id.as_deref().or(params.job_id.as_deref());
        if id.is_none() && params.scope == Some(RunsScope::Job) {
            return Err(ErrorShape::params("cron.runs", "must have required property 'id'"));
        }
        let mut entries = self.cron.runs(id).await.map_err(ErrorShape::from)?;
        let statuses: Vec<&str> = params.statuses.iter().flatten().chain(&params.status).filter_map(|s| status_word(s)).collect();
        let deliveries: Vec<&String> = params.delivery_statuses.iter().flatten().chain(&params.delivery_status).collect();
        entries.retain(|entry| {
            (statuses.is_empty() || statuses.contains(&entry.status.as_str()))
                && (deliveries.is_empty() || deliveries.contains(&&entry.delivery_status))
                && params.run_id.as_ref().is_none_or(|run| *run == entry.run_id)
                && params.agent_id.as_ref().is_none_or(|agent| entry.session_key.as_ref().is_some_and(|key| key.starts_with(&format!("agent:{agent}:"))))
                && params.query.as_ref().is_none_or(|query| mentions(entry, query))
        });
        if params.sort_dir == Some(SortDir::Asc) {
            entries.reverse();
        }
        let (page, envelope) = page(entries, params.offset, params.limit.unwrap_or(50));
        Ok(merged(json!({"entries": page}), envelope, json!({})))
    }
}

impl CronRpc {
    fn find(&self, method: &str, id: Option<&str>, older: Option<&str>) -> Result<Job, ErrorShape> {
        let id = job_id(method, id, older)?;
        self.cron.job(id).ok_or_else(|| not_found(id))
    }
}

fn not_found(id: &str) -> ErrorShape {
    ErrorShape {
        details: Some(json!({"code": "CRON_JOB_NOT_FOUND", "jobId": id})),
        ..ErrorShape::invalid(format!("Automation not found: {id}. List them with cron.list."))
    }
}

fn refused(method: &str, failure: &Failure) -> ErrorShape {
    if failure.code == FailureCode::NotFound { ErrorShape::params(method, &failure.message) } else { ErrorShape::from(failure.clone()) }
}

const fn announce() -> Delivery {
    Delivery { mode: DeliveryMode::Announce, channel: None, to: None, account_id: None, thread_id: None, best_effort: None, failure_destination: None }
}

fn read_schedule(value: Value, now: clawstead_terms::Millis) -> Result<Schedule, String> {
    if let Some(kind @ ("on-exit" | "stream")) = value.get("kind").and_then(Value::as_str) {
        return Err(format!("at /schedule: schedules of kind {kind} are not available in this version; use at, every or cron"));
    }
    let schedule: Schedule = serde_json::from_value(value).map_err(|e| format!("at /schedule: {e}"))?;
    schedule::check(schedule, now).map_err(|why| format!("at /schedule: {why}"))
}

fn read_payload(value: Value, target: &str) -> Result<Payload, String> {
    if let Some(kind @ ("command" | "script")) = value.get("kind").and_then(Value::as_str) {
        return Err(format!("at /payload: payloads of kind {kind} are not available in this version; use agentTurn or systemEvent"));
    }
    let mut payload: Payload = serde_json::from_value(value).map_err(|e| format!("at /payload: {e}"))?;
    match &mut payload {
        Payload::SystemEvent { text } if text.trim().is_empty() => return Err("at /payload/text: must not have fewer than 1 characters".into()),
        Payload::SystemEvent { .. } if target == "isolated" => return Err("sessionTarget isolated needs a payload of kind agentTurn".into()),
        Payload::AgentTurn { message, .. } if message.trim().is_empty() => return Err("at /payload/message: must not have fewer than 1 characters".into()),
        Payload::AgentTurn { tools_allow, .. } => {
            tools_allow.get_or_insert_with(|| vec!["*".into()]);
        }
        Payload::Heartbeat {} => return Err("at /payload/kind: heartbeats are made by the config (agents.*.heartbeat)".into()),
        Payload::SystemEvent { .. } => {}
    }
    Ok(payload)
}

/// The job with a patch laid over: objects merge, `null` removes, a payload or schedule of another kind replaces.
fn patched(old: &Job, patch: Map<String, Value>, now: clawstead_terms::Millis) -> Result<Job, String> {
    let mut value = serde_json::to_value(old).map_err(|e| e.to_string())?;
    let Some(object) = value.as_object_mut() else { return Err("the job cannot be read".into()) };
    const ALLOWED: [&str; 15] = [
        "name",
        "displayName",
        "agentId",
        "sessionKey",
        "description",
        "enabled",
        "deleteAfterRun",
        "schedule",
        "pacing",
        "trigger",
        "sessionTarget",
        "wakeMode",
        "payload",
        "delivery",
        "failureAlert",
    ];
    let (mut schedule_changed, mut payload_changed) = (false, false);
    for (key, new) in patch {
        if key == "state" {
            continue;
        }
        if !ALLOWED.contains(&key.as_str()) {
            return Err(format!("at /patch: unexpected property '{key}'"));
        }
        schedule_changed |= key == "schedule";
        payload_changed |= key == "payload";
        if new.is_null() {
            object.remove(&key);
            continue;
        }
        let same_kind = object.get(&key).is_some_and(|old| old.get("kind") == new.get("kind") || new.get("kind").is_none());
        match (object.get_mut(&key).and_then(Value::as_object_mut), new) {
            (Some(old), Value::Object(new)) if same_kind => {
                for (field, item) in new {
                    if item.is_null() {
                        old.remove(&field);
                    } else {
                        old.insert(field, item);
                    }
                }
            }
            (_, new) => {
                object.insert(key, new);
            }
        }
    }
    let mut job: Job = serde_json::from_value(value).map_err(|e| format!("at /patch: {e}"))?;
    if schedule_changed {
        job.schedule = read_schedule(serde_json::to_value(&job.schedule).unwrap_or_default(), now)?;
    }
    if payload_changed {
        job.payload = read_payload(serde_json::to_value(&job.payload).unwrap_or_default(), &job.session_target)?;
    }
    job.updated_at_ms = now.0;
    if job.enabled && !old.enabled {
        job.state.consecutive_errors = Some(0);
        job.state.schedule_error_count = Some(0);
    }
    if job.enabled != old.enabled {
        job.state.schedule_activated_at_ms = Some(now.0);
    }
    Ok(job)
}

fn wanted(job: &Job, params: &ListParams, default: &clawstead_terms::AgentId) -> bool {
    let enabled = match (&params.enabled, params.include_disabled) {
        (Some(EnabledFilter::All), _) | (None, Some(true)) => true,
        (Some(EnabledFilter::Disabled), _) => !job.enabled,
        (Some(EnabledFilter::Enabled), _) | (None, _) => job.enabled,
    };
    let kind = match &job.schedule {
        Schedule::At { .. } => "at",
        Schedule::Every { .. } => "every",
        Schedule::Cron { .. } => "cron",
    };
    let word = |value: &dyn erased::Word| value.word();
    enabled
        && params.schedule_kind.as_ref().is_none_or(|filter| matches!(word(filter).as_str(), "all") || word(filter) == kind)
        && params.last_run_status.as_ref().is_none_or(|filter| match word(filter).as_str() {
            "all" => true,
            "unknown" => job.state.last_run_status.is_none(),
            status => job.state.last_run_status.as_deref() == Some(status),
        })
        && params.agent_id.as_ref().or(params.session_agent_id.as_ref()).is_none_or(|agent| job.agent(default).as_str() == agent.to_lowercase())
        && params.session_key.as_ref().is_none_or(|key| job.session_key.as_ref() == Some(key))
        && params.query.as_ref().is_none_or(|query| {
            let query = query.to_lowercase();
            [Some(&job.name), job.description.as_ref(), Some(&job.id)].into_iter().flatten().any(|text| text.to_lowercase().contains(&query))
        })
}

/// The wire word of a filter.
mod erased {
    pub trait Word {
        fn word(&self) -> String;
    }
    impl<T: serde::Serialize> Word for T {
        fn word(&self) -> String {
            serde_json::to_value(self).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
        }
    }
}

fn status_word(filter: &RunStatusFilter) -> Option<&'static str> {
    match filter {
        RunStatusFilter::All => None,
        RunStatusFilter::Ok => Some("ok"),
        RunStatusFilter::Error => Some("error"),
        RunStatusFilter::Skipped => Some("skipped"),
    }
}

fn mentions(entry: &RunEntry, query: &str) -> bool {
    let query = query.to_lowercase();
    [Some(&entry.job_name), entry.summary.as_ref(), entry.error.as_ref()].into_iter().flatten().any(|text| text.to_lowercase().contains(&query))
}

fn sort_jobs(jobs: &mut [Job], by: Option<&JobSort>, dir: Option<&SortDir>) {
    match by {
        Some(JobSort::Name) => jobs.sort_by(|a, b| a.name.cmp(&b.name)),
        Some(JobSort::UpdatedAtMs) => jobs.sort_by_key(|job| job.updated_at_ms),
        Some(JobSort::NextRunAtMs) | None => jobs.sort_by_key(|job| (job.state.next_run_at_ms.unwrap_or(i64::MAX), job.created_at_ms)),
    }
    if dir == Some(&SortDir::Desc) {
        jobs.reverse();
    }
}

/// A page of a list and the fields that say where it lies.
fn page<T>(all: Vec<T>, offset: Option<u64>, limit: u64) -> (Vec<T>, Value) {
    let total = all.len();
    let offset = usize::try_from(offset.unwrap_or(0)).unwrap_or(usize::MAX).min(total);
    let limit_len = usize::try_from(limit).unwrap_or(usize::MAX);
    let page: Vec<T> = all.into_iter().skip(offset).take(limit_len).collect();
    let next = offset + page.len();
    let more = next < total;
    (page, json!({"total": total, "offset": offset, "limit": limit, "hasMore": more, "nextOffset": if more { json!(next) } else { Value::Null }}))
}

fn merged(mut first: Value, second: Value, third: Value) -> Value {
    if let Some(object) = first.as_object_mut() {
        for value in [second, third] {
            if let Value::Object(more) = value {
                object.extend(more);
            }
        }
    }
    first
}

fn revision(jobs: &[Job]) -> String {
    use base64::Engine as _;
    let mut hash = Sha256::new();
    for job in jobs {
        hash.update(job.id.as_bytes());
        hash.update(job.revision().as_bytes());
        hash.update(job.state.next_run_at_ms.unwrap_or(0).to_le_bytes());
        hash.update(job.state.last_run_at_ms.unwrap_or(0).to_le_bytes());
    }
    format!("sha256:{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::{patched, read_payload, read_schedule};
    use crate::cron::job::{Job, JobState, Payload, Schedule};
    use clawstead_terms::Millis;
    use serde_json::json;

    fn job() -> Job {
        Job {
            id: "1".into(),
            declaration_key: None,
            display_name: None,
            agent_id: Some("bobby".into()),
            session_key: None,
            name: "n".into(),
            description: None,
            enabled: true,
            delete_after_run: None,
            created_at_ms: 0,
            updated_at_ms: 0,
            schedule: Schedule::Every { every_ms: 60_000, anchor_ms: Some(1) },
            session_target: "isolated".into(),
            wake_mode: "now".into(),
            payload: Payload::AgentTurn {
                message: "m".into(),
                model: Some("a/b".into()),
                fallbacks: None,
                thinking: None,
                timeout_seconds: None,
                light_context: None,
                allow_unsafe_external_content: None,
                tools_allow: None,
            },
            delivery: None,
            failure_alert: None,
            state: JobState::default(),
            scheduled_tool_policy: None,
        }
    }

    #[test]
    fn patches_merge_remove_and_replace() {
        let patch = |value: serde_json::Value| patched(&job(), value.as_object().unwrap().clone(), Millis(9));
        let renamed = patch(json!({"name": "x", "payload": {"message": "new"}})).unwrap();
        assert!(matches!(&renamed.payload, Payload::AgentTurn { message, model: Some(_), .. } if message == "new"), "the rest of the payload stays");
        assert_eq!(patch(json!({"agentId": null})).unwrap().agent_id, None);
        let cron = patch(json!({"schedule": {"kind": "cron", "expr": "0 9 * * *"}})).unwrap();
        assert!(matches!(cron.schedule, Schedule::Cron { .. }));
        assert!(patch(json!({"schedule": {"kind": "cron", "expr": "x"}})).unwrap_err().contains("cron expression"));
        assert!(patch(json!({"nmae": "x"})).unwrap_err().contains("nmae"));
        assert!(patch(json!({"enabled": "yes"})).is_err());
    }

    #[test]
    fn what_cannot_work_says_so() {
        for schedule in [json!({"kind": "on-exit", "command": "x"}), json!({"kind": "stream", "command": ["x"]})] {
            let said = read_schedule(schedule, Millis(0)).unwrap_err();
            assert!(said.starts_with("at /schedule") && said.contains("use at, every or cron"), "{said}");
        }
        for payload in [json!({"kind": "command", "command": "x"}), json!({"kind": "script", "script": "x"})] {
            let said = read_payload(payload, "isolated").unwrap_err();
            assert!(said.starts_with("at /payload") && said.contains("use agentTurn or systemEvent"), "{said}");
        }
        assert!(read_payload(json!({"kind": "systemEvent", "text": "x"}), "isolated").unwrap_err().contains("agentTurn"));
        assert!(read_payload(json!({"kind": "agentTurn", "message": " "}), "main").unwrap_err().contains("message"));
    }
}
