//! Cron jobs and the last entries of their run logs.

use clawstead_terms::Millis;
use serde_json::{Map, Value, json};

use super::{convert::moment, database::Database};
use crate::cron::job::{Job, RunEntry, SlotEnd, SlotRow};

/// Entries of a job's run log that are taken over.
pub const RUNS_MAX: usize = 50;
/// Jobs that the original declares for itself: they are its own machinery, not the user's wish.
const BUILT_IN: [&str; 3] = ["heartbeat:", "memory-core:", "skill-collection-review:"];

/// Jobs of `cron/jobs.json`: `{version, jobs: [..]}`, or the bare list of older files.
pub fn jobs(file: &Value, now: Millis, skipped: &mut Vec<String>) -> Vec<Job> {
    let list = file.get("jobs").unwrap_or(file).as_array().cloned().unwrap_or_default();
    list.into_iter().filter_map(|one| job(one, None, now, skipped)).collect()
}

/// Jobs of the shared database.
///
/// # Errors
/// When its table cannot be read.
pub fn jobs_of(database: &Database, now: Millis, skipped: &mut Vec<String>) -> Result<Vec<Job>, String> {
    if !database.has("cron_jobs") {
        return Ok(Vec::new());
    }
    let rows = database.rows("select job_json, state_json, updated_at from cron_jobs order by sort_order, job_id", |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
    })?;
    let mut out = Vec::new();
    for (text, state, updated) in rows {
        match serde_json::from_str::<Value>(&text) {
            Ok(mut one) => {
                if let Some(object) = one.as_object_mut() {
                    object.insert("updatedAtMs".into(), json!(updated));
                }
                out.extend(job(one, serde_json::from_str(&state).ok(), now, skipped));
            }
            Err(_) => skipped.push("a cron job in the database is no valid JSON".into()),
        }
    }
    Ok(out)
}

fn job(mut one: Value, state: Option<Value>, now: Millis, skipped: &mut Vec<String>) -> Option<Job> {
    let Some(object) = one.as_object_mut() else {
        skipped.push("a cron job that is no object".into());
        return None;
    };
    let name = object.get("name").and_then(Value::as_str).or_else(|| object.get("id").and_then(Value::as_str)).unwrap_or("(no name)").to_owned();
    let payload_kind = object.get("payload").and_then(|p| p.get("kind")).and_then(Value::as_str).unwrap_or_default().to_owned();
    let declared = object.get("declarationKey").and_then(Value::as_str).unwrap_or_default();
    if payload_kind == "heartbeat" || BUILT_IN.iter().any(|prefix| declared.starts_with(prefix)) {
        skipped.push(format!("cron job {name:?}: OpenClaw's own, made anew from the config where there is such a thing"));
        return None;
    }
    let schedule_kind = object.get("schedule").and_then(|s| s.get("kind")).and_then(Value::as_str).unwrap_or_default().to_owned();
    if !["at", "every", "cron"].contains(&schedule_kind.as_str()) {
        skipped.push(format!("cron job {name:?}: schedules of kind {schedule_kind:?} are not known"));
        return None;
    }
    if !["systemEvent", "agentTurn"].contains(&payload_kind.as_str()) {
        skipped.push(format!("cron job {name:?}: payloads of kind {payload_kind:?} are not known"));
        return None;
    }
    modernise(object, &payload_kind, now);
    if let Some(state) = state.filter(Value::is_object) {
        object.insert("state".into(), state);
    }
    match serde_json::from_value::<Job>(one) {
        Ok(job) if !job.id.is_empty() && job.id.len() <= 256 => Some(job),
        Ok(_) => {
            skipped.push(format!("cron job {name:?}: its id cannot be used"));
            None
        }
        Err(err) => {
            skipped.push(format!("cron job {name:?}: {err}"));
            None
        }
    }
}

/// Older spellings and what older files leave out.
fn modernise(job: &mut Map<String, Value>, payload_kind: &str, now: Millis) {
    if !job.contains_key("id")
        && let Some(id) = job.remove("jobId")
    {
        job.insert("id".into(), id);
    }
    let id = job.get("id").cloned().unwrap_or_default();
    job.entry("name").or_insert(id);
    job.entry("enabled").or_insert(json!(true));
    let created = moment(job.get("createdAtMs")).unwrap_or(now);
    job.insert("createdAtMs".into(), json!(created));
    let updated = moment(job.get("updatedAtMs")).unwrap_or(created);
    job.insert("updatedAtMs".into(), json!(updated));
    job.entry("sessionTarget").or_insert_with(|| json!(if payload_kind == "systemEvent" { "main" } else { "isolated" }));
    job.entry("wakeMode").or_insert(json!("now"));
    if !job.get("state").is_some_and(Value::is_object) {
        job.insert("state".into(), json!({}));
    }
    if let Some(schedule) = job.get_mut("schedule").and_then(Value::as_object_mut) {
        if !schedule.contains_key("at")
            && let Some(at) = moment(schedule.get("atMs")).and_then(|at| jiff::Timestamp::from_millisecond(at.0).ok())
        {
            schedule.insert("at".into(), json!(format!("{at:.3}")));
        }
        if !schedule.contains_key("expr")
            && let Some(expr) = schedule.remove("cron")
        {
            schedule.insert("expr".into(), expr);
        }
    }
    // Older jobs name the way of their answer in the payload.
    if let Some(payload) = job.get_mut("payload").and_then(Value::as_object_mut) {
        let deliver = payload.remove("deliver");
        let moved: Vec<(&str, Option<Value>)> =
            [("channel", "channel"), ("to", "to"), ("bestEffort", "bestEffortDeliver")].map(|(new, old)| (new, payload.remove(old))).into();
        let wanted = match &deliver {
            Some(Value::Bool(wanted)) => Some(*wanted),
            _ => moved.iter().any(|(name, value)| *name == "to" && value.is_some()).then_some(true),
        };
        if let (Some(wanted), false) = (wanted, job.contains_key("delivery")) {
            let mut delivery = Map::new();
            delivery.insert("mode".into(), json!(if wanted { "announce" } else { "none" }));
            delivery.extend(moved.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
            job.insert("delivery".into(), Value::Object(delivery));
        }
    }
    if let Some(delivery) = job.get_mut("delivery").and_then(Value::as_object_mut) {
        delivery.entry("mode").or_insert(json!("announce"));
    }
}

/// A line of `cron/runs/<job>.jsonl` as a row: its key's instant and the row.
#[must_use]
pub fn run(line: &Value, job: &Job) -> Option<(Millis, SlotRow)> {
    if line.get("action").and_then(Value::as_str) != Some("finished") {
        return None;
    }
    let ts = moment(line.get("ts"))?;
    let at = moment(line.get("runAtMs")).unwrap_or(ts);
    let status = line.get("status").and_then(Value::as_str).unwrap_or("ok");
    let error = line.get("error").and_then(Value::as_str).map(str::to_owned);
    let (completion, end) = match status {
        "ok" => ("succeeded", SlotEnd::Ran { ok: true, error: None }),
        "skipped" => ("skipped", SlotEnd::Skipped { reason: error.clone().unwrap_or_else(|| "skipped".into()) }),
        _ => ("failed", SlotEnd::Ran { ok: false, error }),
    };
    let run_id = line.get("runId").and_then(Value::as_str).map_or_else(|| format!("import:{}:{}", job.id, at), str::to_owned);
    let mut whole = line.clone();
    let object = whole.as_object_mut()?;
    for (name, value) in [
        ("ts", json!(ts)),
        ("jobId", json!(job.id)),
        ("status", json!(status)),
        ("completionStatus", json!(completion)),
        ("runId", json!(run_id)),
        ("runAtMs", json!(at)),
        ("jobName", json!(job.name)),
        ("end", json!(end)),
    ] {
        object.insert(name.into(), value);
    }
    object.entry("durationMs").or_insert(json!(0));
    object.entry("deliveryStatus").or_insert(json!("not-requested"));
    let entry: RunEntry = serde_json::from_value(whole).ok()?;
    Some((at, SlotRow { run_id, at: ts, entry: Some(entry), end }))
}
