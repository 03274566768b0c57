//! Health, status, logs, usage, wake, restart.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use clawstead_agent::SessionRow;
use clawstead_config::{Agent, Config};
use clawstead_terms::{AgentId, Millis, RunId, SessionKey};
use clawstead_wire::{
    error::ErrorShape,
    method::Loose,
    methods::system::{
        Done, HealthParams, LogsTailParams, Nothing, RestartParams, SetHeartbeatsParams, StatusParams, SuspendPrepareParams, SuspendStatusParams, SystemApi,
        UpdateStatusParams, UsageCostParams, WakeMode, WakeParams,
    },
};
use clawstead_world::World;

use super::Cx;
use crate::{
    accounts::Accounts,
    brain::Minds,
    cron::Cron,
    desk::Desk,
    logs,
    suspend::{BUSY_RETRY_MS, Prepared, Suspension, WhenBusy},
    vitals,
};

/// Sessions named in health and status.
const RECENT_MAX: usize = 5;
/// Sessions named when a suspension has to wait.
const BLOCKERS_MAX: usize = 20;

/// The handlers of this area.
#[derive(Clone)]
pub struct SystemRpc {
    /// The config in force.
    pub config: Arc<ArcSwap<Config>>,
    /// Sessions and runs.
    pub desk: Arc<Desk>,
    /// Scheduled work.
    pub cron: Cron,
    /// Channel accounts.
    pub accounts: Accounts,
    /// Models.
    pub minds: Arc<Minds>,
    /// Clock and ids.
    pub world: World,
    /// Who and where this process is.
    pub process: Arc<Process>,
    /// The gate before the one door.
    pub suspension: Arc<Suspension>,
}

/// This process.
pub struct Process {
    /// The version clients see.
    pub version: String,
    /// UUID of this start.
    pub instance: String,
    /// When it started.
    pub started: tokio::time::Instant,
    /// The port it answers on.
    pub port: u16,
    /// The state database, as shown.
    pub storage: String,
    /// The log file's folder, and the file when it is fixed.
    pub log_dir: PathBuf,
    /// `logging.file`.
    pub log_file: Option<PathBuf>,
    /// Cancelled when a client asks for a restart.
    pub restart: CancellationToken,
}

impl Process {
    /// Milliseconds since the start.
    #[must_use]
    pub fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The log file of today.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.log_file.clone().unwrap_or_else(|| self.log_dir.join(logs::file_of_today()))
    }
}

impl SystemRpc {
    /// The health summary, also sent as an event.
    pub async fn summary(&self) -> Value {
        let began = self.world.clock.now();
        let config = self.config.load();
        let channels = self.accounts.status();
        let mut agents = Vec::new();
        let mut all: Vec<Arc<SessionRow>> = Vec::new();
        for one in &config.agents.list {
            let rows = self.desk.rows(&one.id);
            agents.push(json!({
                "agentId": one.id,
                "name": one.name,
                "isDefault": one.is_default,
                "heartbeat": heartbeat(one),
                "sessions": self.sessions(&rows),
            }));
            all.extend(rows);
        }
        let beat = config.agents.default_agent().heartbeat.as_ref().map_or(0, |h| h.every_ms / 1_000);
        json!({
            "ok": true,
            "ts": began,
            "durationMs": self.world.clock.now().since(began),
            "plugins": {"loaded": [], "errors": [], "unavailable": []},
            "configReload": {"hotReloadStatus": "active"},
            "channels": channels["channels"],
            "channelOrder": channels["channelOrder"],
            "channelLabels": channels["channelLabels"],
            "heartbeatSeconds": beat,
            "defaultAgentId": config.default_agent(),
            "agents": agents,
            "sessions": self.sessions(&all),
            "modelRuntime": {"degraded": false, "pendingAgents": []},
            "eventLoop": vitals::event_loop(),
        })
    }

    fn sessions(&self, rows: &[Arc<SessionRow>]) -> Value {
        json!({"path": self.process.storage, "count": rows.len(), "recent": self.recent(rows)})
    }

    fn recent(&self, rows: &[Arc<SessionRow>]) -> Vec<Value> {
        let now = self.world.clock.now();
        let mut rows: Vec<&Arc<SessionRow>> = rows.iter().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.updated_at));
        rows.into_iter().take(RECENT_MAX).map(|row| json!({"key": row.key, "updatedAt": row.updated_at, "age": now.since(row.updated_at)})).collect()
    }

    /// The sessions with a run that has not ended.
    fn at_work(&self) -> Vec<String> {
        let config = self.config.load();
        config.agents.list.iter().flat_map(|one| self.desk.rows(&one.id)).filter(|row| row.has_active_run()).map(|row| row.key.to_string()).collect()
    }

    fn agent(&self, id: Option<&str>) -> Result<AgentId, ErrorShape> {
        let config = self.config.load();
        let Some(id) = id else { return Ok(config.default_agent().clone()) };
        let id = AgentId::normalise(id);
        if config.agents.get(id.as_str()).is_none() {
            return Err(ErrorShape::invalid(format!("unknown agent id \"{id}\"")));
        }
        Ok(id)
    }
}

/// What stands in the way of a suspension, at most [`BLOCKERS_MAX`] of it.
fn blockers(active: &[String]) -> Vec<Value> {
    active
        .iter()
        .take(BLOCKERS_MAX)
        .map(|key| json!({"kind": "active-run", "count": 1, "sessionKey": key, "message": format!("session {key} is at work")}))
        .collect()
}

fn conflict(message: &str, expires_at: Millis, now: Millis) -> ErrorShape {
    ErrorShape::retry(message, u64::try_from(expires_at.since(now)).unwrap_or(0))
        .with_details(json!({"reason": "gateway-suspension-conflict", "expiresAtMs": expires_at}))
}

fn heartbeat(one: &Agent) -> Value {
    match &one.heartbeat {
        None => json!({"enabled": false, "every": "disabled", "everyMs": null, "prompt": "", "target": "none", "ackMaxChars": 300}),
        Some(beat) => json!({
            "enabled": true,
            "every": short(beat.every_ms),
            "everyMs": beat.every_ms,
            "prompt": beat.prompt.as_deref().unwrap_or(crate::cron::heartbeat::PROMPT),
            "target": beat.target.as_deref().unwrap_or("none"),
            "ackMaxChars": beat.ack_max_chars,
        }),
    }
}

/// `30m`, `1h`, `90s`.
fn short(ms: u64) -> String {
    match ms {
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms => format!("{}s", ms / 1_000),
    }
}

#[async_trait]
impl SystemApi<Cx> for SystemRpc {
    async fn health(&self, _: &Cx, _: HealthParams) -> Result<Value, ErrorShape> {
        Ok(self.summary().await)
    }

    async fn status(&self, cx: &Cx, params: StatusParams) -> Result<Value, ErrorShape> {
        let config = self.config.load();
        let admin = cx.caller.is_admin();
        let shown = |rows: &[Arc<SessionRow>]| if admin { self.recent(rows) } else { Vec::new() };
        let path = if admin { json!(self.process.storage) } else { json!("[redacted]") };
        let mut all = Vec::new();
        let mut by_agent = Vec::new();
        for one in &config.agents.list {
            let rows = self.desk.rows(&one.id);
            by_agent.push(json!({"agentId": one.id, "path": path, "count": rows.len(), "recent": shown(&rows)}));
            all.extend(rows);
        }
        let models = self.minds.models.load();
        let model = models.default_model();
        let spec = models.spec(&model);
        let beats: Vec<Value> = config
            .agents
            .list
            .iter()
            .map(|one| json!({"agentId": one.id, "enabled": one.heartbeat.is_some(), "every": one.heartbeat.as_ref().map_or("disabled".to_owned(), |h| short(h.every_ms)), "everyMs": one.heartbeat.as_ref().map(|h| h.every_ms)}))
            .collect();
        let channels = self.accounts.status();
        let channel_summary: Vec<String> = if params.include_channel_summary == Some(false) {
            Vec::new()
        } else {
            channels["channelOrder"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(|id| {
                    let one = &channels["channels"][id];
                    let state = if one["running"] == json!(true) { "running" } else { one["lastError"].as_str().unwrap_or("stopped") };
                    format!("{}: {state}", channels["channelLabels"][id].as_str().unwrap_or(id))
                })
                .collect()
        };
        let defaults =
            if admin { json!({"model": model.model, "contextTokens": spec.map(|s| s.context_window)}) } else { json!({"model": null, "contextTokens": null}) };
        let going = self.desk.lanes().turns_going();
        Ok(json!({
            "runtimeVersion": self.process.version,
            "hostDesktop": {"enabled": false, "state": "disabled", "port": 5900},
            "heartbeat": {"defaultAgentId": config.default_agent(), "agents": beats},
            "channelSummary": channel_summary,
            "queuedSystemEvents": [],
            "degradedSecretOwners": [],
            "degradedPlugins": [],
            "tasks": {"total": going, "active": going, "terminal": 0, "failures": 0,
                "byStatus": {"queued": 0, "running": going, "succeeded": 0, "failed": 0, "timed_out": 0, "cancelled": 0, "lost": 0},
                "byRuntime": {"subagent": 0, "acp": 0, "cli": going, "cron": 0}},
            "taskAudit": {"total": 0, "warnings": 0, "errors": 0, "byCode": {"stale_queued": 0, "stale_running": 0, "lost": 0, "delivery_failed": 0, "missing_cleanup": 0, "inconsistent_timestamps": 0}},
            "sessions": {"paths": if admin { json!([self.process.storage]) } else { json!([]) }, "count": all.len(), "defaults": defaults, "recent": shown(&all), "byAgent": by_agent},
            "modelRuntime": {"degraded": false, "pendingAgents": []},
            "eventLoop": vitals::event_loop(),
            "processMemory": vitals::process_memory(),
            "workerPools": {},
            "pid": std::process::id(),
            "shutdownBudget": {"timeoutMs": 30_000, "reserveMs": 5_000},
        }))
    }

    async fn logs_tail(&self, _: &Cx, params: LogsTailParams) -> Result<Value, ErrorShape> {
        let file = self.process.log_file();
        let (limit, bytes) = (params.limit.unwrap_or(500), params.max_bytes.unwrap_or(250_000));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let read = tokio::task::spawn_blocking({
            let file = file.clone();
            move || logs::tail(&file, params.cursor, limit, bytes)
        })
        .await
        .map_err(|e| ErrorShape::unavailable(e.to_string()))?;
        let tail = read.map_err(|e| ErrorShape::unavailable(format!("the log file {} cannot be read: {e}", file.display())))?;
        Ok(json!({"file": file, "cursor": tail.cursor, "size": tail.size, "lines": tail.lines, "truncated": tail.truncated, "reset": tail.reset}))
    }

    async fn diagnostics_stability(&self, _: &Cx, _: Loose) -> Result<Value, ErrorShape> {
        let now = jiff::Timestamp::from_millisecond(self.world.clock.now().0).map(|t| format!("{t:.3}")).unwrap_or_default();
        Ok(json!({"generatedAt": now, "capacity": 0, "count": 0, "dropped": 0, "firstSeq": 0, "lastSeq": 0, "events": [], "summary": {"byType": {}}}))
    }

    async fn usage_status(&self, _: &Cx, _: Loose) -> Result<Value, ErrorShape> {
        Ok(json!({"updatedAt": self.world.clock.now(), "providers": [], "refreshing": false}))
    }

    async fn usage_cost(&self, _: &Cx, params: UsageCostParams) -> Result<Value, ErrorShape> {
        let days = params.days.unwrap_or(30).clamp(1, 366);
        let agents: Vec<AgentId> = match &params.agent_id {
            Some(id) => vec![self.agent(Some(id))?],
            None => self.config.load().agents.list.iter().map(|a| a.id.clone()).collect(),
        };
        let daily = self.desk.usage_by_day(&agents, days).await.map_err(ErrorShape::from)?;
        let fields = [
            "input",
            "output",
            "cacheRead",
            "cacheWrite",
            "totalTokens",
            "totalCost",
            "inputCost",
            "outputCost",
            "cacheReadCost",
            "cacheWriteCost",
            "missingCostEntries",
        ];
        let sum = |key: &str| daily.iter().filter_map(|day| day[key].as_f64()).sum::<f64>();
        let totals: Map<String, Value> = fields
            .iter()
            .map(|key| {
                let total = sum(key);
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "token counts are whole and small enough")]
                let value = if key.ends_with("Cost") { json!(total) } else { json!(total as u64) };
                ((*key).to_owned(), value)
            })
            .collect();
        Ok(
            json!({"updatedAt": self.world.clock.now(), "days": days, "daily": daily, "totals": totals, "cacheStatus": {"status": "fresh", "cachedFiles": 0, "pendingFiles": 0, "staleFiles": 0}}),
        )
    }

    async fn update_status(&self, _: &Cx, _: UpdateStatusParams) -> Result<Value, ErrorShape> {
        Ok(
            json!({"sentinel": null, "updateAvailable": null, "effectiveChannel": "stable", "schedule": {"channel": "stable", "autoEnabled": false, "install": {"kind": "package"}}}),
        )
    }

    async fn last_heartbeat(&self, _: &Cx, _: Loose) -> Result<Value, ErrorShape> {
        let beats: Vec<String> = self.cron.jobs().into_iter().filter(|job| job.is_heartbeat()).map(|job| job.id).collect();
        let mut last: Option<crate::cron::job::RunEntry> = None;
        for id in beats {
            let newest = self.cron.runs(Some(&id)).await.map_err(ErrorShape::from)?.into_iter().next();
            if newest.as_ref().map(|e| e.ts) > last.as_ref().map(|e| e.ts) {
                last = newest;
            }
        }
        Ok(last.map_or(Value::Null, |entry| {
            let status = match entry.status.as_str() {
                "ok" if entry.summary.is_none() => "ok-empty",
                "ok" => "sent",
                "skipped" => "skipped",
                _ => "failed",
            };
            json!({"ts": entry.ts, "status": status, "preview": entry.summary, "reason": entry.error, "hasMedia": false, "durationMs": entry.duration_ms})
        }))
    }

    async fn set_heartbeats(&self, _: &Cx, params: SetHeartbeatsParams) -> Result<Value, ErrorShape> {
        let mut settings = crate::settings::cron(&self.config.load());
        if !params.enabled {
            settings.heartbeats.clear();
        }
        self.cron.reload(settings).await.map_err(ErrorShape::from)?;
        Ok(json!({"ok": true, "enabled": params.enabled}))
    }

    async fn wake(&self, _: &Cx, params: WakeParams) -> Result<Done, ErrorShape> {
        let agent = self.agent(params.agent_id.as_deref())?;
        let text = params.text.trim();
        if text.is_empty() {
            return Err(ErrorShape::params("wake", "at /text: must not have fewer than 1 characters"));
        }
        let session = params.session_key.as_deref().map(|key| SessionKey::resolve(key, &agent)).transpose().map_err(|e| ErrorShape::invalid(e.to_string()))?;
        let run = RunId::from(format!("wake:{}", self.world.rng.uuid()));
        self.cron.wake(&session.as_ref().map_or(agent, SessionKey::agent), session, text, params.mode == WakeMode::Now, run).await.map_err(ErrorShape::from)?;
        Ok(Done { ok: true })
    }

    async fn system_event(&self, _: &Cx, params: Loose) -> Result<Value, ErrorShape> {
        if let Some(text) = params.0.get("text").and_then(Value::as_str).filter(|t| !t.trim().is_empty()) {
            let agent = self.agent(params.0.get("agentId").and_then(Value::as_str))?;
            let run = RunId::from(format!("event:{}", self.world.rng.uuid()));
            self.cron.wake(&agent, None, text, false, run).await.map_err(ErrorShape::from)?;
        }
        Ok(json!({"ok": true}))
    }

    async fn restart_preflight(&self, _: &Cx, _: Loose) -> Result<Value, ErrorShape> {
        let going = self.desk.lanes().turns_going();
        Ok(
            json!({"safe": true, "counts": {"queueSize": 0, "pendingReplies": 0, "activeRuns": going, "totalActive": going}, "blockers": [], "summary": "turns that are going are put aside and go on after the restart"}),
        )
    }

    async fn restart_request(&self, _: &Cx, params: RestartParams) -> Result<Value, ErrorShape> {
        tracing::info!(reason = params.reason.as_deref().unwrap_or("none given"), "a client asks for a restart");
        self.process.restart.cancel();
        Ok(json!({"ok": true, "status": "scheduled", "restart": {"ok": true, "pid": std::process::id(), "delayMs": 0}}))
    }

    async fn suspend_prepare(&self, cx: &Cx, params: SuspendPrepareParams) -> Result<Value, ErrorShape> {
        if cx.caller.run.is_some() {
            // The turn that asks would wait for its own end.
            return Err(ErrorShape::retry("gateway suspension cannot begin from a nested request", 1_000)
                .with_details(json!({"method": "gateway.suspend.prepare", "reason": "nested-gateway-request"})));
        }
        let request = params.request_id.trim();
        if request.is_empty() {
            return Err(ErrorShape::params("gateway.suspend.prepare", "at /requestId: must not have fewer than 1 characters"));
        }
        let when_busy = if params.drain == Some(true) { WhenBusy::Drain } else { WhenBusy::Refuse };
        let now = self.world.clock.now();
        Ok(match self.suspension.prepare(request, when_busy, || self.at_work()).await {
            Prepared::Ready { id, expires_at } => {
                json!({"status": "ready", "suspensionId": id, "expiresAtMs": expires_at, "activeCount": 0, "blockers": [], "writeCustody": []})
            }
            Prepared::Draining { id, expires_at, active } => {
                json!({"status": "draining", "suspensionId": id, "expiresAtMs": expires_at, "retryAfterMs": BUSY_RETRY_MS, "activeCount": active.len(), "blockers": blockers(&active), "writeCustody": []})
            }
            Prepared::Busy { active } => {
                json!({"status": "busy", "reason": "active-work", "retryAfterMs": BUSY_RETRY_MS, "activeCount": active.len(), "blockers": blockers(&active), "writeCustody": []})
            }
            Prepared::Conflict { expires_at } => return Err(conflict("another gateway suspension is already prepared", expires_at, now)),
        })
    }

    async fn suspend_status(&self, _: &Cx, params: SuspendStatusParams) -> Result<Value, ErrorShape> {
        let now = self.world.clock.now();
        let Some((id, expires_at)) = self.suspension.current() else { return Ok(json!({"status": "running"})) };
        if id != params.suspension_id.trim() {
            return Err(conflict("a different gateway suspension is prepared", expires_at, now));
        }
        let active = self.at_work();
        Ok(if active.is_empty() {
            json!({"status": "ready", "expiresAtMs": expires_at, "writeCustody": []})
        } else {
            json!({"status": "draining", "expiresAtMs": expires_at, "retryAfterMs": BUSY_RETRY_MS, "activeCount": active.len(), "blockers": blockers(&active), "writeCustody": []})
        })
    }

    async fn suspend_resume(&self, _: &Cx, params: SuspendStatusParams) -> Result<Value, ErrorShape> {
        match self.suspension.resume(params.suspension_id.trim()) {
            Some(resumed) => Ok(json!({"ok": true, "status": "running", "resumed": resumed})),
            None => Err(ErrorShape::invalid("gateway suspension id does not match")),
        }
    }

    async fn system_info(&self, _: &Cx, _: Nothing) -> Result<Value, ErrorShape> {
        let config = self.config.load();
        let (host, release, arch) = vitals::machine();
        let (total, free) = vitals::memory();
        let (disk_total, disk_free) = vitals::disk(&config.paths.state_dir).unwrap_or_default();
        Ok(json!({
            "machineName": host,
            "hostname": host,
            "platform": std::env::consts::OS,
            "release": release,
            "arch": arch,
            "osLabel": format!("Linux {release}"),
            "port": self.process.port,
            "nodeVersion": format!("clawstead {}", env!("CARGO_PKG_VERSION")),
            "pid": std::process::id(),
            "processInstanceId": self.process.instance,
            "uptimeMs": self.process.uptime_ms(),
            "cpuCount": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            "cpuModel": vitals::cpu_model(),
            "loadAverage": vitals::load_average(),
            "memoryTotalBytes": total,
            "memoryFreeBytes": free,
            "eventLoop": vitals::event_loop(),
            "processMemory": vitals::process_memory(),
            "disks": [{"path": config.paths.state_dir, "totalBytes": disk_total, "availableBytes": disk_free}],
            "diskTotalBytes": disk_total,
            "diskAvailableBytes": disk_free,
            "diskPath": config.paths.state_dir,
            "defaultAgentUtilityModel": {"status": "unavailable"},
        }))
    }
}
