//! Scheduled work.

use serde_json::Value;

use super::system::Nothing;
use crate::{
    error::ErrorShape,
    method::{methods, params, words},
};

words! {
    /// Which jobs by switch.
    EnabledFilter: "all" => All, "enabled" => Enabled, "disabled" => Disabled;
    /// Which jobs by schedule.
    ScheduleFilter: "all" => All, "at" => At, "every" => Every, "cron" => Cron, "on-exit" => OnExit, "stream" => Stream;
    /// Which jobs by their last run.
    LastRunFilter: "all" => All, "ok" => Ok, "error" => Error, "skipped" => Skipped, "unknown" => Unknown;
    /// Which jobs by trigger.
    TriggerFilter: "all" => All, "conditional" => Conditional, "unconditional" => Unconditional;
    /// The order of a job list.
    JobSort: "nextRunAtMs" => NextRunAtMs, "updatedAtMs" => UpdatedAtMs, "name" => Name;
    /// Up or down.
    SortDir: "asc" => Asc, "desc" => Desc;
    /// When a run by hand happens.
    RunMode: "due" => Due, "force" => Force, "if-enabled" => IfEnabled;
    /// Runs of one job or of all.
    RunsScope: "job" => Job, "all" => All;
    /// How a run ended.
    RunStatusFilter: "all" => All, "ok" => Ok, "error" => Error, "skipped" => Skipped;
}

params! {
    /// A job, by `id` or by its older name `jobId`.
    #[derive(Default)]
    JobRef { id?: text, job_id?: text }
    /// For `cron.list`.
    #[derive(Default)]
    ListParams {
        session_key?: text,
        session_agent_id?: text,
        include_disabled?: bool,
        limit?: int(1..200),
        offset?: int,
        query?: String,
        enabled?: EnabledFilter,
        schedule_kind?: ScheduleFilter,
        last_run_status?: LastRunFilter,
        trigger?: TriggerFilter,
        sort_by?: JobSort,
        sort_dir?: SortDir,
        agent_id?: text,
        compact?: bool,
        include_delivery_previews?: bool,
    }
    /// For `cron.add`.
    AddParams {
        name: text,
        declaration_key?: text(200),
        display_name?: text(200),
        owner?: Value,
        agent_id?: change(String),
        session_key?: change(String),
        description?: String,
        enabled?: bool,
        delete_after_run?: bool,
        /// `{kind: "at", at}`, `{kind: "every", everyMs, anchorMs?}`, `{kind: "cron", expr, tz?, staggerMs?}`, ...
        schedule: Value,
        pacing?: Value,
        trigger?: Value,
        /// `main`, `isolated`, `current` or `session:<key>`.
        session_target: text,
        wake_mode?: super::system::WakeMode,
        /// `{kind: "systemEvent", text}` or `{kind: "agentTurn", message, model?, thinking?, timeoutSeconds?, ...}`.
        payload: Value,
        /// `{mode: "none" | "announce" | "webhook", channel?, to?, ...}`.
        delivery?: Value,
        failure_alert?: Value,
    }
    /// For `cron.update`.
    UpdateParams { id?: text, job_id?: text, patch: crate::method::Loose, expected_config_revision?: text(128) }
    /// For `cron.run`.
    #[derive(Default)]
    RunParams { id?: text, job_id?: text, mode?: RunMode, expected_process_instance_id?: text }
    /// For `cron.runs`.
    #[derive(Default)]
    RunsParams {
        agent_id?: text,
        scope?: RunsScope,
        id?: text,
        job_id?: text,
        run_id?: text,
        limit?: int(1..200),
        offset?: int,
        #[schemars(length(max = 3))]
        statuses?: Vec<RunStatusFilter>,
        status?: RunStatusFilter,
        #[schemars(length(max = 4))]
        delivery_statuses?: Vec<String>,
        delivery_status?: String,
        query?: String,
        sort_dir?: SortDir,
    }
}

/// The job that `id` or `jobId` names.
///
/// # Errors
/// `invalid <method> params: must have required property 'id'` when neither is given.
pub fn job_id<'a>(method: &str, id: Option<&'a str>, job_id: Option<&'a str>) -> Result<&'a str, ErrorShape> {
    id.or(job_id).ok_or_else(|| ErrorShape::params(method, "must have required property 'id'"))
}

methods! {
    /// Scheduled work.
    trait CronApi {
        /// One job.
        Get: "cron.get" => fn get(JobRef) -> Value, scope: Read;
        /// Jobs, a page of `limit` (default 50).
        List: "cron.list" => fn list(ListParams) -> Value, scope: Read;
        /// Whether the clock runs, and when it wakes next.
        Status: "cron.status" => fn status(Nothing) -> Value, scope: Read;
        /// Adds a job. Answers with the stored job and its next run.
        Add: "cron.add" => fn add(AddParams) -> Value, scope: Admin, flags: [CONTROL];
        /// Changes a job.
        Update: "cron.update" => fn update(UpdateParams) -> Value, scope: Admin, flags: [CONTROL];
        /// Removes a job.
        Remove: "cron.remove" => fn remove(JobRef) -> Value, scope: Admin, flags: [CONTROL];
        /// Runs a job now.
        Run: "cron.run" => fn run(RunParams) -> Value, scope: Admin, flags: [CONTROL];
        /// Past runs, newest first.
        Runs: "cron.runs" => fn runs(RunsParams) -> Value, scope: Read;
    }
}
