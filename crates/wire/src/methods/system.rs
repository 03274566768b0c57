//! Health, status, logs, usage, restart.

use serde_json::Value;

use crate::method::{Loose, methods, params, words};

params! {
    /// Nothing.
    #[derive(Default)]
    Nothing {}
    /// For `health`.
    #[derive(Default)]
    HealthParams {
        /// True asks every channel now instead of answering from the last check.
        probe?: bool,
    }
    /// For `status`.
    #[derive(Default)]
    StatusParams { include_channel_summary?: bool, include_cli_projection?: bool }
    /// For `logs.tail`.
    #[derive(Default)]
    LogsTailParams {
        /// Byte offset of the last answer.
        cursor?: int,
        limit?: int(1..5000),
        max_bytes?: int(1..1_000_000),
    }
    /// For `wake`.
    WakeParams { mode: WakeMode, text: text, session_key?: text, agent_id?: text }
    /// For `set-heartbeats`.
    SetHeartbeatsParams { enabled: bool }
    /// For `update.status`.
    #[derive(Default)]
    UpdateStatusParams { refresh_checkout?: bool }
    /// For `gateway.restart.request`.
    #[derive(Default)]
    RestartParams { reason?: String, target?: Value, safe?: bool, restart_intent?: Value, skip_deferral?: bool }
    /// For `gateway.suspend.prepare`.
    SuspendPrepareParams {
        /// The same for every repeat of one request.
        request_id: text(128),
        /// What happens to terminals; there are none here.
        terminal_policy?: TerminalPolicy,
        /// True lets nothing new begin and waits for what goes on; otherwise a busy gateway refuses.
        drain?: bool,
    }
    /// For `gateway.suspend.status` and `gateway.suspend.resume`.
    SuspendStatusParams { suspension_id: text(128) }
    /// For `usage.cost`.
    #[derive(Default)]
    UsageCostParams {
        start_date?: String,
        end_date?: String,
        days?: int,
        mode?: String,
        time_zone?: String,
        utc_offset?: String,
        agent_id?: String,
        agent_scope?: String,
    }
    /// Done.
    Done { ok: bool }
}

words! {
    /// What happens to terminals during a suspension.
    TerminalPolicy: "preserve" => Preserve, "terminate" => Terminate;
    /// When a system event is looked at.
    WakeMode: "now" => Now, "next-heartbeat" => NextHeartbeat;
}

methods! {
    /// Health, status, logs, usage, restart.
    trait SystemApi {
        /// How the gateway is. Needs no scope.
        Health: "health" => fn health(HealthParams) -> Value, scope: Open;
        /// What the gateway is doing. Paths are blank without admin scope.
        Status: "status" => fn status(StatusParams) -> Value, scope: Read;
        /// New lines of the log file since `cursor`.
        LogsTail: "logs.tail" => fn logs_tail(LogsTailParams) -> Value, scope: Read;
        /// The latest diagnostic events.
        DiagnosticsStability: "diagnostics.stability" => fn diagnostics_stability(Loose) -> Value, scope: Read;
        /// Quotas of model providers, where they tell.
        UsageStatus: "usage.status" => fn usage_status(Loose) -> Value, scope: Read;
        /// Cost and tokens by day.
        UsageCost: "usage.cost" => fn usage_cost(UsageCostParams) -> Value, scope: Read;
        /// Whether an update is waiting.
        UpdateStatus: "update.status" => fn update_status(UpdateStatusParams) -> Value, scope: Admin;
        /// The latest heartbeat, or `null`.
        LastHeartbeat: "last-heartbeat" => fn last_heartbeat(Loose) -> Value, scope: Read;
        /// Switches heartbeats on or off until the next start.
        SetHeartbeats: "set-heartbeats" => fn set_heartbeats(SetHeartbeatsParams) -> Value, scope: Admin;
        /// Puts a system event before the agent, now or at its next heartbeat.
        Wake: "wake" => fn wake(WakeParams) -> Done, scope: Write;
        /// Records a system event (and a client's presence).
        SystemEvent: "system-event" => fn system_event(Loose) -> Value, scope: Admin;
        /// Whether a restart would interrupt something.
        RestartPreflight: "gateway.restart.preflight" => fn restart_preflight(Loose) -> Value, scope: Read;
        /// Asks for a restart.
        RestartRequest: "gateway.restart.request" => fn restart_request(RestartParams) -> Value, scope: Admin, flags: [CONTROL];
        /// Asks that nothing new begins, so that the machine can sleep; a lease of two minutes.
        SuspendPrepare: "gateway.suspend.prepare" => fn suspend_prepare(SuspendPrepareParams) -> Value, scope: Admin, flags: [CONTROL];
        /// Ends a suspension.
        SuspendResume: "gateway.suspend.resume" => fn suspend_resume(SuspendStatusParams) -> Value, scope: Admin;
        /// Whether a suspension is going on.
        SuspendStatus: "gateway.suspend.status" => fn suspend_status(SuspendStatusParams) -> Value, scope: Read;
        /// The machine and the process.
        SystemInfo: "system.info" => fn system_info(Nothing) -> Value, scope: Read;
    }
}
