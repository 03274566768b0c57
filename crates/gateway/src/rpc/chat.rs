//! `agent`, `agent.*`, `chat.*`.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde_json::{Map, Value, json};

use clawstead_agent::{HISTORY_MAX, History, HistoryItem, HistoryPage, RunRow, SessionRow, is_conflict};
use clawstead_config::Config;
use clawstead_terms::{AgentId, DeliveryTarget, Failure, FailureCode, QueueMode, RunId, RunStatus, SessionKey, TurnOptions};
use clawstead_wire::{
    error::ErrorShape,
    methods::chat::{
        AbortParams, Aborted, AgentIdentityParams, AgentParams, AgentWaitParams, BootstrapContextMode, ChatApi, HistoryParams, InjectParams, Injected,
        MessageGetParams, MetadataParams, QueueModeWord, RunAck, SendParams, StartupParams, ToolTitlesParams,
    },
};
use clawstead_world::{Accepted, Post, World};

use super::Cx;
use crate::{
    brain::Minds,
    desk::Desk,
    fanout::{Fanout, messages_json, stop_word, usage_json},
    letters,
    rpc::{models, tools},
    shown,
};

/// Messages of a history page when the caller names no number.
const PAGE_DEFAULT: usize = 200;
/// Longest single wait for a run.
const WAIT_MS_MAX: u64 = 24 * 3_600_000;

/// The handlers of this area.
#[derive(Clone)]
pub struct ChatRpc {
    /// Sessions and runs.
    pub desk: Arc<Desk>,
    /// The one door.
    pub post: Arc<dyn Post>,
    /// Models.
    pub minds: Arc<Minds>,
    /// The config in force.
    pub config: Arc<ArcSwap<Config>>,
    /// Text of runs that are going.
    pub fanout: Fanout,
    /// Clock and ids.
    pub world: World,
    /// The farm, where there is one.
    pub farm: crate::farm::Cell,
    /// Agents of programs here.
    pub programs: crate::hub::Cell,
}

/// Wishes common to `chat.send`, `sessions.send` and `agent`.
#[derive(Default)]
pub struct Wishes {
    /// See [`TurnOptions`].
    pub options: TurnOptions,
    /// Attachments as sent.
    pub attachments: Vec<Value>,
}

/// What a duplicate run id says.
#[must_use]
pub const fn duplicate_word(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Queued | RunStatus::Running => "in_flight",
        RunStatus::Ok => "ok",
        RunStatus::Error | RunStatus::Aborted | RunStatus::Unknown => "error",
    }
}

/// A refused letter as an error response.
#[must_use]
pub fn refused(failure: Failure) -> ErrorShape {
    if is_conflict(&failure) {
        return ErrorShape::invalid(failure.message).with_details(json!({"reason": "chat-request-conflict"}));
    }
    if failure.code == FailureCode::NotFound && failure.message.starts_with("unknown agent id") {
        return ErrorShape::invalid(failure.message).with_details(json!({"code": "UNKNOWN_AGENT_ID"}));
    }
    ErrorShape::from(failure)
}

impl ChatRpc {
    /// Hands a message over. `started` means stored.
    ///
    /// # Errors
    /// As the one door.
    pub async fn hand_over(&self, cx: &Cx, key: SessionKey, message: &str, run_id: RunId, wishes: Wishes) -> Result<RunAck, ErrorShape> {
        let body = letters::body(message, &wishes.attachments).map_err(ErrorShape::from)?;
        if body.is_empty() {
            return Err(ErrorShape::invalid("message or attachment required"));
        }
        let letter = letters::request(&self.world, &cx.caller, key, run_id.clone(), body, wishes.options);
        let status = match self.post.deliver(letter).await.map_err(refused)? {
            Accepted::Stored => "started",
            Accepted::Duplicate(status) => duplicate_word(status),
        };
        Ok(RunAck { run_id: run_id.to_string(), status: status.into(), message_seq: None, server_timing: None })
    }

    fn key(&self, text: &str, agent: Option<&str>) -> Result<SessionKey, ErrorShape> {
        self.desk.key(text, agent).map_err(ErrorShape::from)
    }

    fn last_target(&self, key: &SessionKey) -> Option<DeliveryTarget> {
        let row = self.desk.row(key)?;
        let mut target = row.delivery_context.clone()?;
        target.reply_to = None;
        Some(target)
    }

    /// A page of history with what belongs to it.
    async fn page(&self, asked: &str, key: &SessionKey, params: &HistoryParams) -> Result<Value, ErrorShape> {
        let row = self.desk.row(key);
        let now = self.world.clock.now();
        let defaults = self.defaults(&key.agent());
        let Some(row) = row else {
            return Ok(
                json!({"sessionKey": asked, "sessionId": null, "messages": [], "pendingInputs": {"items": [], "total": 0}, "deltaCursor": "0", "hasMore": false, "totalMessages": 0, "defaults": defaults}),
            );
        };
        let lanes = self.desk.lanes();
        if let Some(cursor) = &params.cursor {
            let Ok(cursor) = cursor.parse::<u64>() else { return Ok(json!({"kind": "reset"})) };
            let page = lanes.history(key, HistoryPage::Since { cursor, limit: HISTORY_MAX }).await.map_err(ErrorShape::from)?;
            if !page.cursor_valid {
                return Ok(json!({"kind": "reset"}));
            }
            let messages: Vec<Value> = page.items.iter().flat_map(|item| self.events(&row, item)).collect();
            let mut out = json!({"kind": "delta", "messages": messages, "deltaCursor": page.cursor.to_string(), "pendingInputs": {"items": [], "total": 0}, "sessionInfo": shown::session(&row, now)});
            if let Some(run) = lanes.active_run(key) {
                out["inFlightRun"] = json!({"runId": run, "text": self.fanout.text_so_far(&run).unwrap_or_default()});
            }
            return Ok(out);
        }
        let limit = params.limit.map_or(PAGE_DEFAULT, |n| usize::try_from(n).unwrap_or(PAGE_DEFAULT));
        let offset = usize::try_from(params.offset.unwrap_or(0)).unwrap_or(usize::MAX);
        let History { items, total, cursor, .. } = lanes.history(key, HistoryPage::Newest { limit, skip: offset }).await.map_err(ErrorShape::from)?;
        let (mut bytes, mut taken) = (0_u64, 0);
        let budget = params.max_bytes.unwrap_or(6_000_000);
        // The newest messages matter most: the budget is spent from the end.
        let mut messages: Vec<Value> = Vec::with_capacity(items.len());
        for item in items.iter().rev() {
            let mut values = messages_json(&item.message, item.position);
            for value in &mut values {
                cut_text(value, params.max_chars);
                bytes += u64::try_from(value.to_string().len()).unwrap_or(u64::MAX);
            }
            if bytes > budget && !messages.is_empty() {
                break;
            }
            taken += 1;
            messages.extend(values.into_iter().rev());
        }
        messages.reverse();
        let seen = offset + taken;
        let more = u64::try_from(seen).unwrap_or(u64::MAX) < total;
        let mut out = json!({
            "sessionKey": asked,
            "sessionId": row.session_id,
            "messages": messages,
            "pendingInputs": {"items": [], "total": 0},
            "deltaCursor": cursor.to_string(),
            "hasMore": more,
            "totalMessages": total,
            "defaults": defaults,
            "sessionInfo": shown::session(&row, now),
            "thinkingLevel": row.thinking_level.as_deref().unwrap_or("off"),
        });
        if more {
            out["nextOffset"] = json!(seen);
        }
        if let Some(run) = lanes.active_run(key) {
            out["inFlightRun"] = json!({"runId": run, "text": self.fanout.text_so_far(&run).unwrap_or_default()});
        }
        Ok(out)
    }

    fn events(&self, row: &SessionRow, item: &HistoryItem) -> Vec<Value> {
        let one = |message: Value| json!({"sessionKey": row.key, "agentId": row.agent_id, "messageId": item.message.id, "messageSeq": item.position, "message": message});
        messages_json(&item.message, item.position).into_iter().map(one).collect()
    }

    fn defaults(&self, agent: &AgentId) -> Value {
        let models = self.minds.models.load();
        let chosen = self.config.load().agents.get(agent.as_str()).and_then(|a| a.model.primary.clone());
        let model = chosen.and_then(|name| models.resolve(&name).ok()).unwrap_or_else(|| models.default_model());
        let window = models.spec(&model).map(|spec| spec.context_window);
        json!({"modelProvider": model.provider, "model": model.model, "contextTokens": window, "thinkingDefault": "off", "modelSelectionTarget": "session"})
    }

    /// The final answer of the `agent` method.
    fn result(&self, row: &RunRow) -> Result<Value, ErrorShape> {
        let run = &row.run_id;
        if row.status == RunStatus::Error || row.status == RunStatus::Unknown {
            let failure = row.failure.clone().unwrap_or_else(|| Failure::internal("the run failed"));
            return Err(ErrorShape::unavailable(failure.message).with_details(json!({"runId": run, "status": "error", "errorKind": row.error_kind})));
        }
        let text = row.text.clone().unwrap_or_default();
        let (provider, model) = row.model.as_deref().and_then(|m| m.split_once('/')).unwrap_or(("", ""));
        let usage = usage_json(&row.usage);
        let usage = json!({"input": row.usage.input, "output": row.usage.output, "cacheRead": row.usage.cache_read, "cacheWrite": row.usage.cache_write, "total": row.usage.total(), "cost": usage["cost"]});
        let aborted = row.status == RunStatus::Aborted;
        let payloads = if text.is_empty() || row.silent { json!([]) } else { json!([{"text": text, "mediaUrl": null}]) };
        let duration = row.ended_at.zip(row.started_at).map_or(0, |(end, start)| end.since(start));
        Ok(json!({
            "runId": run,
            "status": if aborted { "aborted" } else { "ok" },
            "summary": if aborted { "aborted" } else { "completed" },
            "result": {
                "payloads": payloads,
                "meta": {
                    "durationMs": duration,
                    "agentMeta": {"sessionId": row.session_id, "sessionFile": row.session, "provider": provider, "model": model, "usage": usage, "lastCallUsage": usage, "promptTokens": row.usage.input, "terminalReceipt": receipt(row)},
                    "aborted": aborted,
                    "stopReason": row.stop_reason.map(stop_word),
                },
            },
        }))
    }
}

/// `terminalReceipt` of a run.
#[must_use]
pub fn receipt(row: &RunRow) -> Value {
    let (provider, model) = row.model.as_deref().and_then(|m| m.split_once('/')).unwrap_or(("", ""));
    json!({
        "runId": row.run_id,
        "sessionId": row.session_id,
        "turnId": row.run_id,
        "requested": {"provider": provider, "model": model},
        "effective": {"provider": provider, "model": model, "responseModel": model},
        "successfulToolNames": row.tools_used,
        "rerouted": false,
        "terminalDisposition": if row.silent { "silent" } else { "visible" },
    })
}

fn cut_text(message: &mut Value, max_chars: Option<u64>) {
    let Some(max) = max_chars.and_then(|n| usize::try_from(n).ok()) else { return };
    let cut = |text: &mut Value| {
        if let Some(s) = text.as_str()
            && s.chars().count() > max
        {
            *text = json!(s.chars().take(max).collect::<String>());
        }
    };
    match message.get_mut("content") {
        Some(Value::Array(parts)) => parts.iter_mut().filter_map(|part| part.get_mut("text")).for_each(cut),
        Some(text) => cut(text),
        None => {}
    }
}

const fn queue_mode(word: &QueueModeWord) -> QueueMode {
    match word {
        QueueModeWord::Steer => QueueMode::Steer,
        QueueModeWord::Followup => QueueMode::Followup,
        QueueModeWord::Collect => QueueMode::Collect,
        QueueModeWord::Interrupt => QueueMode::Interrupt,
    }
}

/// What `agent.wait` says of a run at another gateway.
fn elsewhere_end(run: &RunId, row: Option<clawstead_farm::mailroom::RemoteRun>) -> Value {
    let Some((row, end)) = row.and_then(|row| row.outcome.clone().map(|end| (row, end))) else { return json!({"runId": run, "status": "timeout"}) };
    let mut out = json!({
        "runId": run,
        "status": if end.status == RunStatus::Ok { "ok" } else { "error" },
        "startedAt": row.at,
        "endedAt": row.ended_at,
        "stopReason": end.abort_reason.as_deref().unwrap_or("stop"),
        "livenessState": "working",
    });
    match &end.failure {
        Some(failure) => out["error"] = json!(failure.message),
        None => out["terminalReply"] = json!({"disposition": "visible", "text": end.text.unwrap_or_default()}),
    }
    out
}

#[async_trait]
impl ChatApi<Cx> for ChatRpc {
    async fn agent(&self, cx: &Cx, params: AgentParams) -> Result<Value, ErrorShape> {
        let key = match (&params.session_key, &params.session_id) {
            (Some(key), _) if !key.is_empty() => self.key(key, params.agent_id.as_deref())?,
            (_, Some(id)) if !id.is_empty() => {
                let agent = self.desk.agent(params.agent_id.as_deref()).map_err(ErrorShape::from)?;
                let known = self.desk.rows(&agent).into_iter().find(|row| row.session_id.as_str() == id).map(|row| row.key.clone());
                known.unwrap_or_else(|| SessionKey::of(&agent, &format!("explicit:{id}")))
            }
            _ => SessionKey::main(&self.desk.agent(params.agent_id.as_deref()).map_err(ErrorShape::from)?),
        };
        let run = RunId::from(params.idempotency_key.as_str());
        if let Some(row) = self.desk.lanes().report(&run).await.map_err(ErrorShape::from)?.filter(RunRow::is_over) {
            return self.result(&row);
        }
        let model = match (&params.provider, &params.model) {
            (Some(provider), Some(model)) if !model.contains('/') => Some(format!("{provider}/{model}")),
            (_, model) => model.clone(),
        };
        let options = TurnOptions {
            model: model.filter(|m| !m.is_empty()),
            thinking: params.thinking.clone().filter(|t| !t.is_empty()),
            timeout_ms: params.timeout.map(|s| s.saturating_mul(1_000)),
            extra_system_prompt: params.extra_system_prompt.clone(),
            light_context: matches!(params.bootstrap_context_mode, Some(BootstrapContextMode::Lightweight)),
            deliver_to: if params.deliver == Some(true) { self.last_target(&key) } else { None },
            ..TurnOptions::default()
        };
        let wishes = Wishes { options, attachments: params.attachments.clone().unwrap_or_default() };
        let accepted_at = self.world.clock.now();
        self.hand_over(cx, key.clone(), &params.message, run.clone(), wishes).await?;
        cx.first_answer(&json!({"runId": run, "sessionKey": key, "agentId": key.agent(), "status": "accepted", "acceptedAt": accepted_at}));
        loop {
            if let Some(row) = self.desk.lanes().wait(&run, Duration::from_millis(WAIT_MS_MAX)).await.map_err(ErrorShape::from)? {
                return self.result(&row);
            }
        }
    }

    async fn agent_identity(&self, _: &Cx, params: AgentIdentityParams) -> Result<Value, ErrorShape> {
        let agent = match &params.session_key {
            Some(key) if params.agent_id.is_none() => self.key(key, None)?.agent(),
            _ => self.desk.agent(params.agent_id.as_deref()).map_err(ErrorShape::from)?,
        };
        let config = self.config.load();
        let one = config.agents.get(agent.as_str()).ok_or_else(|| ErrorShape::invalid(format!("unknown agent id \"{agent}\"")))?;
        let named = one.identity.name.clone().or_else(|| one.name.clone());
        let name = named.clone().unwrap_or_else(|| if config.agents.list.len() == 1 { "Assistant".into() } else { agent.to_string() });
        let initial = name.chars().next().map_or_else(String::new, |c| c.to_uppercase().to_string());
        let mut out = json!({"agentId": agent, "name": name, "nameSource": if named.is_some() { "config" } else { "default" }, "avatar": one.identity.avatar.clone().or_else(|| one.identity.emoji.clone()).unwrap_or(initial)});
        if let Some(emoji) = &one.identity.emoji {
            out["emoji"] = json!(emoji);
        }
        Ok(out)
    }

    async fn agent_wait(&self, _: &Cx, params: AgentWaitParams) -> Result<Value, ErrorShape> {
        let run = RunId::from(params.run_id.as_str());
        let limit = Duration::from_millis(params.timeout_ms.unwrap_or(30_000).min(WAIT_MS_MAX));
        if let Some(farm) = self.farm.get()
            && farm.mailroom.find(run.as_str()).await?.is_some()
        {
            return Ok(elsewhere_end(&run, farm.mailroom.wait(&run, limit).await?));
        }
        if let Some(programs) = self.programs.get()
            && let Some(row) = programs.wait(&run, limit).await?
        {
            return Ok(elsewhere_end(&run, Some(row)));
        }
        let Some(row) = self.desk.lanes().wait(&run, limit).await.map_err(ErrorShape::from)? else {
            return Ok(json!({"runId": run, "status": "timeout"}));
        };
        let mut out = json!({
            "runId": run,
            "status": if row.status == RunStatus::Ok { "ok" } else { "error" },
            "startedAt": row.started_at,
            "endedAt": row.ended_at,
            "stopReason": row.abort_reason.clone().or_else(|| row.stop_reason.map(|r| stop_word(r).to_owned())),
            "livenessState": "working",
            "terminalReceipt": receipt(&row),
        });
        match &row.failure {
            Some(failure) => out["error"] = json!(failure.message),
            None => out["terminalReply"] = json!({"disposition": if row.silent { "silent" } else { "visible" }, "text": row.text.clone().unwrap_or_default()}),
        }
        Ok(out)
    }

    async fn history(&self, _: &Cx, params: HistoryParams) -> Result<Value, ErrorShape> {
        let key = self.key(&params.session_key, params.agent_id.as_deref())?;
        self.page(&params.session_key, &key, &params).await
    }

    async fn startup(&self, _: &Cx, params: StartupParams) -> Result<Value, ErrorShape> {
        let asked = params.session_key.clone().unwrap_or_else(|| "main".into());
        let key = self.key(&asked, params.agent_id.as_deref())?;
        let page = HistoryParams {
            session_key: asked.clone(),
            agent_id: params.agent_id,
            cursor: params.cursor,
            limit: params.limit,
            max_bytes: params.max_bytes,
            offset: params.offset,
            pending_before: None,
            input_run_ids: None,
            message_id: None,
            session_id: None,
            max_chars: params.max_chars,
        };
        let mut out = self.page(&asked, &key, &page).await?;
        if out.get("kind").is_none() {
            out["activity"] = json!([]);
        }
        Ok(out)
    }

    async fn metadata(&self, _: &Cx, _: MetadataParams) -> Result<Value, ErrorShape> {
        let models = self.minds.models.load();
        let mut list = models::rows(&models, self.config.load().models.allow.as_deref());
        list.retain(|row| row["available"] == json!(true) || row.get("tags").is_some());
        Ok(
            json!({"models": list, "accountSelection": models::automatic_account(), "commands": tools::commands(), "swarmEnabled": false, "runtimeSelectionLocked": false}),
        )
    }

    async fn message_get(&self, _: &Cx, params: MessageGetParams) -> Result<Value, ErrorShape> {
        let key = self.key(&params.session_key, params.agent_id.as_deref())?;
        if self.desk.row(&key).is_none() {
            return Ok(json!({"ok": false, "unavailableReason": "not_found"}));
        }
        let page = self.desk.lanes().history(&key, HistoryPage::Newest { limit: HISTORY_MAX, skip: 0 }).await.map_err(ErrorShape::from)?;
        let found = page.items.iter().find(|item| item.message.id.as_str() == params.message_id);
        let shown = found.and_then(|item| messages_json(&item.message, item.position).into_iter().next());
        Ok(match shown {
            Some(mut value) => {
                cut_text(&mut value, params.max_chars);
                json!({"ok": true, "message": value})
            }
            None => json!({"ok": false, "unavailableReason": "not_found"}),
        })
    }

    async fn abort(&self, _: &Cx, params: AbortParams) -> Result<Aborted, ErrorShape> {
        let key = self.key(&params.session_key, params.agent_id.as_deref())?;
        let run = params.run_id.as_deref().map(RunId::from);
        let stopped = self.desk.lanes().abort(&key, run.as_ref(), "rpc").await.map_err(ErrorShape::from)?;
        Ok(Aborted { ok: true, aborted: !stopped.runs.is_empty(), run_ids: stopped.runs.iter().map(ToString::to_string).collect() })
    }

    async fn send(&self, cx: &Cx, params: SendParams) -> Result<RunAck, ErrorShape> {
        let key = self.key(&params.session_key, params.agent_id.as_deref())?;
        if let (Some(wanted), Some(row)) = (&params.session_id, self.desk.row(&key))
            && row.session_id.as_str() != wanted
        {
            return Err(ErrorShape::invalid("the session was reset; reload it and send again").with_details(json!({"code": "SESSION_CHANGED"})));
        }
        let deliver_to = if params.deliver == Some(true) { self.last_target(&key) } else { None };
        let options = TurnOptions {
            model: params.model.clone().filter(|m| !m.is_empty()),
            thinking: params.thinking.clone().filter(|t| !t.is_empty()),
            timeout_ms: params.timeout_ms,
            queue_mode: params.queue_mode.as_ref().map(queue_mode),
            deliver_to,
            status_events: true,
            ..TurnOptions::default()
        };
        let attachments = params.attachments.unwrap_or_default().into_iter().map(|a| serde_json::to_value(a).unwrap_or_default()).collect();
        self.hand_over(cx, key, &params.message, params.idempotency_key.as_str().into(), Wishes { options, attachments }).await
    }

    async fn inject(&self, _: &Cx, params: InjectParams) -> Result<Injected, ErrorShape> {
        let key = self.key(&params.session_key, params.agent_id.as_deref())?;
        let id = self.desk.lanes().inject(&key, &params.message, params.label.as_deref().map(str::trim)).await.map_err(ErrorShape::from)?;
        Ok(Injected { ok: true, message_id: id.to_string() })
    }

    async fn tool_titles(&self, _: &Cx, params: ToolTitlesParams) -> Result<Value, ErrorShape> {
        let _ = params;
        Ok(json!({"titles": Map::new(), "disabled": true}))
    }
}
