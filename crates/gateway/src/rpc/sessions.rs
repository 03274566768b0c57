//! `sessions.*`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use clawstead_agent::{HistoryPage, SessionPatch, SessionRow};
use clawstead_state::{Table, TxError, change_json};
use clawstead_terms::{AgentId, Failure, Millis, RunId, SessionKey, TurnOptions, Unit};
use clawstead_wire::{
    error::ErrorShape,
    methods::{
        chat::RunAck,
        sessions::{
            CatalogParams, CleanupParams, CommitParams, CompactParams, CreateParams, DeleteParams, DescribeParams, ExportParams, GetParams, GroupsDeleteParams,
            GroupsPutParams, GroupsRenameParams, KeyParams, ListParams, MessagesSubscribeParams, PatchParams, PreviewParams, ResetParams, ResetReason,
            ResolveParams, Resolved, SearchParams, SessionAbortParams, SessionKeyParams, SessionSendParams, SessionSort, SessionsApi, UsageParams, Viewers,
            ViewersParams,
        },
        system::Nothing,
    },
};

use super::{
    Cx,
    chat::{ChatRpc, Wishes},
};
use crate::{
    fanout::messages_json,
    keeper::{Keeper, sort},
    shown,
};

/// Sessions of a list when the caller names no number.
const PAGE_DEFAULT: usize = 100;
/// Sessions of a page at most.
const PAGE_MAX: usize = 1_000;
/// How long a caller waits for a compaction; it goes on by itself afterwards.
const COMPACT_WAIT: Duration = Duration::from_secs(300);
/// How long `sessions.commit` waits when the caller does not say.
const COMMIT_WAIT: Duration = Duration::from_secs(30);
/// How long it waits at most.
const COMMIT_WAIT_MAX: Duration = Duration::from_secs(24 * 3_600);
/// The row of the groups.
pub(crate) const GROUPS_KEY: &str = "session-groups";

/// The handlers of this area.
pub struct SessionsRpc {
    /// Shared with `chat.*`.
    pub chat: Arc<ChatRpc>,
    /// Where groups lie.
    pub keeper: Keeper,
}

impl SessionsRpc {
    fn key(&self, text: &str, agent: Option<&str>) -> Result<SessionKey, ErrorShape> {
        self.chat.desk.key(text, agent).map_err(ErrorShape::from)
    }

    fn now(&self) -> Millis {
        self.chat.world.clock.now()
    }

    fn known(&self, key: &SessionKey) -> Result<Arc<SessionRow>, ErrorShape> {
        self.chat.desk.row(key).ok_or_else(|| ErrorShape::invalid(format!("session not found: {key}")))
    }

    fn agents(&self, one: Option<&str>) -> Result<Vec<AgentId>, ErrorShape> {
        match one {
            Some(id) => Ok(vec![self.chat.desk.agent(Some(id)).map_err(ErrorShape::from)?]),
            None => Ok(self.chat.config.load().agents.list.iter().map(|a| a.id.clone()).collect()),
        }
    }

    /// What an agent's tool may see: its own sessions, those it spawned, and others as `tools.sessions.visibility` says.
    fn visible(&self, cx: &Cx, row: &SessionRow) -> bool {
        let Some(own) = &cx.caller.session else { return true };
        let config = self.chat.config.load();
        match config.tools.sessions_visibility.as_str() {
            "self" => row.key == *own,
            "tree" => row.key == *own || row.spawned_by.as_ref() == Some(own),
            "agent" => row.agent_id == own.agent(),
            _ => row.agent_id == own.agent() || config.tools.agent_to_agent,
        }
    }

    fn filtered(&self, cx: &Cx, params: &ListParams) -> Result<Vec<Arc<SessionRow>>, ErrorShape> {
        let now = self.now();
        let query = params.search.as_deref().map(str::to_lowercase).filter(|q| !q.is_empty());
        let archived = match &params.archived {
            Some(Value::Bool(only)) => Some(*only),
            Some(Value::String(all)) if all == "all" => None,
            _ => Some(false),
        };
        let mut rows: Vec<Arc<SessionRow>> = Vec::new();
        for agent in self.agents(params.agent_id.as_deref())? {
            rows.extend(self.chat.desk.rows(&agent));
        }
        rows.retain(|row| {
            let last = row.last_interaction_at.unwrap_or(row.updated_at);
            archived.is_none_or(|want| row.archived_at.is_some() == want)
                && self.visible(cx, row)
                && params.active_minutes.is_none_or(|m| now.since(row.updated_at) <= i64::try_from(m).unwrap_or(i64::MAX).saturating_mul(60_000))
                && (params.active_only != Some(true) || row.has_active_run())
                && (params.require_last_interaction != Some(true) || row.last_interaction_at.is_some())
                && (params.exclude_subagents != Some(true) || !row.key.is_subagent())
                && (params.exclude_cron != Some(true) || !row.key.is_cron())
                && params.pinned.is_none_or(|want| row.pinned_at.is_some() == want)
                && params.label.as_ref().is_none_or(|label| row.label.as_ref() == Some(label))
                && params.spawned_by.as_ref().is_none_or(|by| row.spawned_by.as_ref().is_some_and(|key| key.as_str() == by))
                && params.group.as_ref().is_none_or(|group| row.extra.get("category").and_then(Value::as_str) == Some(group))
                && query.as_ref().is_none_or(|q| {
                    [Some(row.key.as_str()), row.label.as_deref(), row.derived_title.as_deref(), row.last_message_preview.as_deref()]
                        .into_iter()
                        .flatten()
                        .any(|t| t.to_lowercase().contains(q))
                })
                && last <= now.plus(i64::MAX / 4)
        });
        match params.sort_by {
            Some(SessionSort::LastInteractionAt) => rows.sort_by_key(|row| std::cmp::Reverse(row.last_interaction_at)),
            Some(SessionSort::Activity) => rows.sort_by_key(|row| std::cmp::Reverse((row.has_active_run(), row.last_interaction_at, row.updated_at))),
            Some(SessionSort::UpdatedAt) | None => rows.sort_by_key(|row| std::cmp::Reverse(row.updated_at)),
        }
        Ok(rows)
    }

    fn page(&self, cx: &Cx, params: &ListParams) -> Result<Value, ErrorShape> {
        let rows = self.filtered(cx, params)?;
        let total = rows.len();
        let limit = params.limit.map_or(PAGE_DEFAULT, |n| usize::try_from(n).unwrap_or(PAGE_MAX)).min(PAGE_MAX);
        let offset = usize::try_from(params.offset.unwrap_or(0)).unwrap_or(usize::MAX).min(total);
        let now = self.now();
        let page: Vec<Value> = rows.iter().skip(offset).take(limit).map(|row| shown::session(row, now)).collect();
        let next = offset + page.len();
        let more = next < total;
        let models = self.chat.minds.models.load();
        let model = models.default_model();
        let window = models.spec(&model).map(|spec| spec.context_window);
        Ok(json!({
            "ts": now,
            "path": "(multiple)",
            "count": page.len(),
            "totalCount": total,
            "limitApplied": limit,
            "nextOffset": if more { json!(next) } else { Value::Null },
            "hasMore": more,
            "owners": [],
            "defaults": {"modelProvider": model.provider, "model": model.model, "contextTokens": window, "thinkingDefault": "off", "modelSelectionTarget": "session"},
            "sessions": page,
        }))
    }

    async fn lines(&self, key: &SessionKey, limit: usize, max_chars: usize) -> Result<Vec<Value>, ErrorShape> {
        let lines = self.chat.desk.lanes().preview(key, limit, max_chars).await.map_err(ErrorShape::from)?;
        Ok(lines.into_iter().map(|(role, text)| json!({"role": role, "text": text})).collect())
    }

    fn resolved(&self, row: &SessionRow) -> Value {
        let models = self.chat.minds.models.load();
        let wanted = row.model_override.clone().or_else(|| self.chat.config.load().agents.get(row.agent_id.as_str()).and_then(|a| a.model.primary.clone()));
        let model = wanted.and_then(|name| models.resolve(&name).ok()).unwrap_or_else(|| models.default_model());
        json!({"modelProvider": model.provider, "model": model.model, "agentRuntime": {"id": "clawstead", "source": "implicit"}, "runtimeSelectionLocked": false})
    }

    /// Refuses a thinking level that the session's model does not have. Models that are not known may have any.
    fn may_think(&self, key: &SessionKey, model: Option<&str>, level: &str) -> Result<(), ErrorShape> {
        let models = self.chat.minds.models.load();
        let row = self.chat.desk.row(key);
        let named = model.map(str::to_owned).or_else(|| row.and_then(|row| row.model_override.clone()));
        let named = named.or_else(|| self.chat.config.load().agents.get(key.agent().as_str()).and_then(|one| one.model.primary.clone()));
        let chosen = named.and_then(|name| models.resolve(&name).ok()).unwrap_or_else(|| models.default_model());
        let never = models.list().iter().any(|row| row.provider == chosen.provider && row.id == chosen.model && !row.reasoning);
        if never { Err(ErrorShape::invalid(format!("thinkingLevel \"{level}\" is not supported for {chosen} (use off)"))) } else { Ok(()) }
    }

    async fn groups(&self) -> Result<Vec<String>, ErrorShape> {
        Ok(self.keeper.get(&Unit::Global, Table::Meta, GROUPS_KEY).await.map_err(ErrorShape::from)?.unwrap_or_default())
    }

    /// Changes the groups; `change` is called again when somebody else was faster.
    async fn change_groups(&self, mut change: impl FnMut(&mut Vec<String>) -> Result<(), ErrorShape> + Send) -> Result<Value, ErrorShape> {
        let fence = self.keeper.claims.get(&Unit::Global).ok_or_else(|| ErrorShape::from(Failure::internal("the global unit is not held")))?;
        let changed = change_json(&*self.keeper.store, &fence, &Unit::Global, Table::Meta, GROUPS_KEY, |names: &mut Vec<String>| {
            change(names).map_err(NotChanged::Said)?;
            Ok(names.clone())
        });
        match changed.await {
            Ok(names) => Ok(groups_shown(&names)),
            Err(NotChanged::Said(said)) => Err(said),
            Err(NotChanged::Store(err)) => Err(ErrorShape::from(sort(err))),
        }
    }
}

/// Why groups were not changed.
enum NotChanged {
    /// The change makes no sense.
    Said(ErrorShape),
    /// The store says no.
    Store(TxError),
}

impl From<TxError> for NotChanged {
    fn from(err: TxError) -> Self {
        Self::Store(err)
    }
}

fn groups_shown(names: &[String]) -> Value {
    let groups: Vec<Value> = names.iter().enumerate().map(|(position, name)| json!({"name": name, "position": position})).collect();
    json!({"ok": true, "groups": groups, "names": names, "sectionOrder": []})
}

/// Tokens and price of sessions together.
fn totals(rows: &[&Arc<SessionRow>]) -> Value {
    let sum = |pick: fn(&SessionRow) -> u64| rows.iter().map(|row| pick(row)).sum::<u64>();
    let (input, output, read, write) = (sum(|r| r.input_tokens), sum(|r| r.output_tokens), sum(|r| r.cache_read), sum(|r| r.cache_write));
    let cost: f64 = rows.iter().map(|row| row.cost_usd).sum();
    json!({"input": input, "output": output, "cacheRead": read, "cacheWrite": write, "totalTokens": input + output + read + write, "totalCost": cost,
        "inputCost": 0, "outputCost": 0, "cacheReadCost": 0, "cacheWriteCost": 0, "missingCostEntries": 0})
}

/// Usage by model, provider and agent. What is not counted apart (days, channels, single tools) is empty.
fn aggregates(rows: &[Arc<SessionRow>]) -> Value {
    let mut models: BTreeMap<(&str, &str), Vec<&Arc<SessionRow>>> = BTreeMap::new();
    let mut providers: BTreeMap<&str, Vec<&Arc<SessionRow>>> = BTreeMap::new();
    let mut agents: BTreeMap<&str, Vec<&Arc<SessionRow>>> = BTreeMap::new();
    for row in rows {
        if let (Some(provider), Some(model)) = (row.model_provider.as_deref(), row.model.as_deref()) {
            models.entry((provider, model)).or_default().push(row);
            providers.entry(provider).or_default().push(row);
        }
        agents.entry(row.agent_id.as_str()).or_default().push(row);
    }
    let messages: u64 = rows.iter().map(|row| row.message_count).sum();
    json!({
        "sessionCount": rows.len(),
        "messages": {"total": messages, "user": 0, "assistant": 0, "toolCalls": 0, "toolResults": 0, "errors": 0},
        "tools": {"totalCalls": 0, "uniqueTools": 0, "tools": []},
        "byModel": models.iter().map(|((provider, model), rows)| json!({"provider": provider, "model": model, "count": rows.len(), "totals": totals(rows)})).collect::<Vec<_>>(),
        "byProvider": providers.iter().map(|(provider, rows)| json!({"provider": provider, "count": rows.len(), "totals": totals(rows)})).collect::<Vec<_>>(),
        "byAgent": agents.iter().map(|(agent, rows)| json!({"agentId": agent, "totals": totals(rows)})).collect::<Vec<_>>(),
        "byChannel": [], "byCreator": [], "costDaily": [], "dailyLatency": [], "modelDaily": [], "daily": [],
    })
}

fn text_change(change: clawstead_wire::method::Change<String>) -> Option<Option<String>> {
    change.into_option().map(|value| value.filter(|text| !text.trim().is_empty()))
}

#[async_trait]
impl SessionsApi<Cx> for SessionsRpc {
    async fn list(&self, cx: &Cx, params: ListParams) -> Result<Value, ErrorShape> {
        self.page(cx, &params)
    }

    async fn subscribe(&self, cx: &Cx, params: ListParams) -> Result<Value, ErrorShape> {
        cx.subscriptions.watch_all();
        if params == ListParams::default() {
            return Ok(json!({"subscribed": true}));
        }
        Ok(json!({"subscribed": true, "list": self.page(cx, &params)?}))
    }

    async fn messages_subscribe(&self, cx: &Cx, params: MessagesSubscribeParams) -> Result<Value, ErrorShape> {
        let key = self.key(&params.key, params.agent_id.as_deref())?;
        if !cx.subscriptions.watch(&key, params.include_approvals == Some(true)) {
            return Err(ErrorShape::retry("this connection watches too many sessions already; unsubscribe from some", 1_000));
        }
        let mut out = json!({"subscribed": true, "key": key});
        if params.include_approvals == Some(true) {
            out["approvalReplay"] = json!({"sessionKey": key, "updatedAtMs": self.now(), "approvals": [], "truncated": false});
        }
        Ok(out)
    }

    async fn messages_unsubscribe(&self, cx: &Cx, params: KeyParams) -> Result<Value, ErrorShape> {
        let key = self.key(&params.key, params.agent_id.as_deref())?;
        cx.subscriptions.unwatch(&key);
        Ok(json!({"subscribed": false, "key": key}))
    }

    async fn viewers_set(&self, cx: &Cx, params: ViewersParams) -> Result<Viewers, ErrorShape> {
        cx.subscriptions.set_viewing(params.session_keys.clone());
        Ok(Viewers { session_keys: params.session_keys })
    }

    async fn preview(&self, _: &Cx, params: PreviewParams) -> Result<Value, ErrorShape> {
        let mut previews = Vec::new();
        for text in params.keys.iter().take(64) {
            let key = self.key(text, None)?;
            previews.push(if self.chat.desk.row(&key).is_none() {
                json!({"key": text, "status": "missing", "items": []})
            } else {
                let (limit, chars) = (params.limit.unwrap_or(12), params.max_chars.unwrap_or(240));
                let items = self.lines(&key, usize::try_from(limit).unwrap_or(12).min(200), usize::try_from(chars).unwrap_or(240)).await?;
                json!({"key": text, "status": if items.is_empty() { "empty" } else { "ok" }, "items": items})
            });
        }
        Ok(json!({"ts": self.now(), "previews": previews}))
    }

    async fn describe(&self, cx: &Cx, params: DescribeParams) -> Result<Value, ErrorShape> {
        let key = self.key(&params.key, params.agent_id.as_deref())?;
        Ok(json!({"session": self.chat.desk.row(&key).filter(|row| self.visible(cx, row)).map(|row| shown::session(&row, self.now()))}))
    }

    async fn resolve(&self, cx: &Cx, params: ResolveParams) -> Result<Resolved, ErrorShape> {
        let found = |row: &SessionRow| Resolved { ok: true, key: row.key.to_string(), agent_id: Some(row.agent_id.to_string()) };
        if let Some(key) = &params.key {
            let key = self.key(key, params.agent_id.as_deref())?;
            return self.known(&key).map(|row| found(&row));
        }
        let mut matches = Vec::new();
        for agent in self.agents(params.agent_id.as_deref())? {
            for row in self.chat.desk.rows(&agent) {
                let by_id = params.session_id.as_ref().is_some_and(|id| row.session_id.as_str() == id)
                    || params.short_id.as_ref().is_some_and(|id| row.session_id.as_str().starts_with(id.as_str()));
                let by_label = params.label.as_ref().is_some_and(|label| row.label.as_ref() == Some(label));
                if (by_id || by_label) && self.visible(cx, &row) {
                    matches.push(row);
                }
            }
        }
        let named = params.label.as_deref().or(params.session_id.as_deref()).or(params.short_id.as_deref()).unwrap_or("(nothing named)");
        match matches.as_slice() {
            [one] => Ok(found(one)),
            [] => Err(ErrorShape::invalid(format!("No session found: {named}"))),
            many => Err(ErrorShape::invalid(format!(
                "{} sessions match {named}; name the key: {}",
                many.len(),
                many.iter().map(|r| r.key.as_str()).collect::<Vec<_>>().join(", ")
            ))),
        }
    }

    async fn get(&self, _: &Cx, params: GetParams) -> Result<Value, ErrorShape> {
        let key = self.key(&params.key, params.agent_id.as_ref().and_then(Value::as_str))?;
        if self.chat.desk.row(&key).is_none() {
            return Ok(json!({"messages": []}));
        }
        let limit = params.limit.as_ref().and_then(Value::as_u64).map_or(200, |n| usize::try_from(n).unwrap_or(200));
        let skip = usize::try_from(params.offset.unwrap_or(0)).unwrap_or(usize::MAX);
        let page = self.chat.desk.lanes().history(&key, HistoryPage::Newest { limit, skip }).await.map_err(ErrorShape::from)?;
        let messages: Vec<Value> = page.items.iter().flat_map(|item| messages_json(&item.message, item.position)).collect();
        let mut out = json!({"messages": messages});
        if page.more {
            out["hasMore"] = json!(true);
            out["nextOffset"] = json!(skip + page.items.len());
        }
        Ok(out)
    }

    async fn export(&self, cx: &Cx, params: ExportParams) -> Result<Value, ErrorShape> {
        let key = self.key(&params.key, params.agent_id.as_deref())?;
        if !self.visible(cx, self.known(&key)?.as_ref()) {
            return Err(ErrorShape::invalid(format!("session not found: {key}")));
        }
        let page = self.chat.desk.lanes().export_page(&key, params.cursor.as_deref()).await.map_err(ErrorShape::from)?;
        Ok(json!({"key": key, "lines": page.lines, "next": page.next}))
    }

    async fn commit(&self, cx: &Cx, params: CommitParams) -> Result<Value, ErrorShape> {
        let key = self.key(&params.key, params.agent_id.as_deref())?;
        if !self.visible(cx, self.known(&key)?.as_ref()) {
            return Err(ErrorShape::invalid(format!("session not found: {key}")));
        }
        if cx.caller.session.as_ref() == Some(&key) {
            return Err(ErrorShape::invalid("a session cannot wait for its own turn: its end would never come"));
        }
        let limit = params.timeout_ms.map_or(COMMIT_WAIT, Duration::from_millis).min(COMMIT_WAIT_MAX);
        let done = self.chat.desk.lanes().settled(&key, limit).await.map_err(ErrorShape::from)?;
        Ok(json!({
            "ok": done.open.is_empty(), "key": key, "sessionId": done.row.session_id, "updatedAt": done.row.updated_at,
            "lifecycleRevision": done.row.lifecycle_revision, "durable": true, "settled": done.open.is_empty(), "runs": done.runs,
            "open": done.open, "lines": done.lines, "messages": done.row.message_count,
        }))
    }

    async fn branches_list(&self, _: &Cx, _: SessionKeyParams) -> Result<Value, ErrorShape> {
        Ok(json!({"branches": []}))
    }

    async fn create(&self, cx: &Cx, params: CreateParams) -> Result<Value, ErrorShape> {
        let agent = self.chat.desk.agent(params.agent_id.as_deref()).map_err(ErrorShape::from)?;
        let key = match &params.key {
            Some(key) => self.key(key, Some(agent.as_str()))?,
            None => SessionKey::of(&agent, &format!("dashboard:{}", self.chat.world.rng.uuid())),
        };
        let patch = SessionPatch {
            label: params.label.map(Some),
            model: params.model.map(Some),
            thinking_level: params.thinking_level.filter(|t| !t.is_empty()).map(Some),
            parent: params.parent_session_key.as_deref().map(|parent| self.key(parent, None)).transpose()?.map(Some),
            ..SessionPatch::default()
        };
        let row = self.chat.desk.lanes().patch(&key, patch).await.map_err(ErrorShape::from)?;
        let mut started = None;
        if let Some(message) = params.message.as_ref().or(params.task.as_ref()).filter(|m| !m.trim().is_empty()) {
            let run = RunId::from(params.idempotency_key.clone().unwrap_or_else(|| self.chat.world.rng.uuid()));
            let attachments = params.attachments.unwrap_or_default().into_iter().map(|a| serde_json::to_value(a).unwrap_or_default()).collect();
            let wishes = Wishes { options: TurnOptions { status_events: true, timeout_ms: params.timeout_ms, ..TurnOptions::default() }, attachments };
            started = Some(self.chat.hand_over(cx, key.clone(), message, run, wishes).await?);
        }
        let mut out = json!({"ok": true, "key": key, "sessionId": row.session_id, "entry": shown::entry(&row), "runStarted": started.is_some(), "resolved": self.resolved(&row)});
        if let Some(ack) = started {
            out["runId"] = json!(ack.run_id);
        }
        Ok(out)
    }

    async fn send(&self, cx: &Cx, params: SessionSendParams) -> Result<RunAck, ErrorShape> {
        let key = self.key(&params.key, params.agent_id.as_deref())?;
        let run = RunId::from(params.idempotency_key.unwrap_or_else(|| self.chat.world.rng.uuid()));
        let options = TurnOptions {
            thinking: params.thinking.filter(|t| !t.is_empty()),
            timeout_ms: params.timeout_ms.filter(|_| cx.caller.session.is_none()),
            status_events: cx.caller.session.is_none(),
            ..TurnOptions::default()
        };
        let attachments = params.attachments.unwrap_or_default().into_iter().map(|a| serde_json::to_value(a).unwrap_or_default()).collect();
        self.chat.hand_over(cx, key, &params.message, run, Wishes { options, attachments }).await
    }

    async fn steer(&self, cx: &Cx, params: SessionSendParams) -> Result<RunAck, ErrorShape> {
        self.send(cx, params).await
    }

    async fn abort(&self, _: &Cx, params: SessionAbortParams) -> Result<Value, ErrorShape> {
        let lanes = self.chat.desk.lanes();
        let run = params.run_id.as_deref().map(RunId::from);
        let stopped = match (&params.key, &run) {
            (Some(key), run) => lanes.abort(&self.key(key, params.agent_id.as_deref())?, run.as_ref(), "rpc").await,
            (None, Some(run)) => lanes.abort_run(run, "rpc").await,
            (None, None) => return Err(ErrorShape::params("sessions.abort", "must have required property 'key'")),
        }
        .map_err(ErrorShape::from)?;
        let first = stopped.runs.first();
        Ok(json!({"ok": true, "abortedRunId": first, "status": if first.is_some() { "aborted" } else { "no-active-run" }}))
    }

    async fn patch(&self, _: &Cx, params: PatchParams) -> Result<Value, ErrorShape> {
        let key = self.key(&params.key, params.agent_id.as_deref())?;
        if let (Some(expected), Some(row)) = (&params.expected_session_id, self.chat.desk.row(&key))
            && row.session_id.as_str() != expected
        {
            return Err(ErrorShape::invalid("the session was reset since it was read"));
        }
        let model = text_change(params.model);
        if let Some(Some(name)) = &model {
            self.chat.minds.models.load().resolve(name).map_err(|e| ErrorShape::invalid(e.to_string()))?;
        }
        let thinking = text_change(params.thinking_level);
        if let Some(Some(level)) = &thinking
            && !["off", "minimal", "low", "medium", "high", "xhigh", "max", "adaptive"].contains(&level.as_str())
        {
            return Err(ErrorShape::invalid(format!("unsupported thinking level \"{level}\"; one of off, minimal, low, medium, high")));
        }
        if let Some(Some(level)) = &thinking
            && level != "off"
        {
            self.may_think(&key, model.as_ref().and_then(Option::as_deref), level)?;
        }
        let queue_mode = match text_change(params.queue_mode) {
            Some(Some(word)) => {
                Some(Some(serde_json::from_value(json!(word)).map_err(|_| ErrorShape::invalid("queueMode must be steer, followup, collect or interrupt"))?))
            }
            Some(None) => Some(None),
            None => None,
        };
        let mut extra = Map::new();
        for (name, change) in [
            ("category", params.category),
            ("icon", params.icon),
            ("color", params.color),
            ("autoLabel", params.auto_label),
            ("verboseLevel", params.verbose_level),
            ("reasoningLevel", params.reasoning_level),
            ("responseUsage", params.response_usage),
            ("elevatedLevel", params.elevated_level),
            ("groupActivation", params.group_activation),
            ("statusNote", params.status_note),
        ] {
            if let Some(value) = text_change(change) {
                extra.insert(name.to_owned(), value.map_or(Value::Null, Value::String));
            }
        }
        let patch = SessionPatch {
            label: text_change(params.label),
            model,
            thinking_level: thinking,
            queue_mode,
            send_policy: text_change(params.send_policy),
            archived: params.archived,
            pinned: params.pinned,
            unread: params.unread,
            extra,
            ..SessionPatch::default()
        };
        let row = self.chat.desk.lanes().patch(&key, patch).await.map_err(ErrorShape::from)?;
        Ok(json!({"ok": true, "path": "(store)", "key": key, "entry": shown::entry(&row), "resolved": self.resolved(&row)}))
    }

    async fn reset(&self, _: &Cx, params: ResetParams) -> Result<Value, ErrorShape> {
        let key = self.key(&params.key, params.agent_id.as_deref())?;
        let reason = if params.reason == Some(ResetReason::New) { "new" } else { "reset" };
        let row = self.chat.desk.lanes().reset(&key, reason).await.map_err(ErrorShape::from)?;
        Ok(json!({"ok": true, "key": key, "entry": shown::entry(&row), "resolved": self.resolved(&row)}))
    }

    async fn delete(&self, _: &Cx, params: DeleteParams) -> Result<Value, ErrorShape> {
        let key = self.key(&params.key, params.agent_id.as_deref())?;
        if key.is_main() {
            return Err(ErrorShape::invalid(format!("Cannot delete the main session ({key}).")));
        }
        let Some(row) = self.chat.desk.row(&key) else { return Ok(json!({"ok": true, "key": key, "deleted": false, "archived": []})) };
        if params.archived_only == Some(true) && row.archived_at.is_none() {
            return Err(ErrorShape::invalid(format!("session {key} is not archived")));
        }
        let gone = self.chat.desk.lanes().delete(&key).await.map_err(ErrorShape::from)?;
        Ok(json!({"ok": true, "key": key, "deleted": gone.deleted, "archived": []}))
    }

    async fn compact(&self, _: &Cx, params: CompactParams) -> Result<Value, ErrorShape> {
        let key = self.key(&params.key, params.agent_id.as_deref())?;
        self.known(&key)?;
        let operation = self.chat.world.rng.uuid();
        let tell = |more: Value| {
            let mut event = json!({"operationId": operation, "operation": "compact", "sessionKey": key, "agentId": key.agent(), "ts": self.now()});
            if let (Some(event), Value::Object(more)) = (event.as_object_mut(), more) {
                event.extend(more);
            }
            self.chat.fanout.send("session.operation", &event);
        };
        tell(json!({"phase": "start"}));
        let done = self.chat.desk.lanes().compact(&key, None, COMPACT_WAIT).await;
        tell(json!({"phase": "end", "completed": done.is_ok()}));
        let done = done.map_err(ErrorShape::from)?;
        if !done.compacted {
            return Ok(json!({"ok": true, "key": key, "compacted": false, "reason": done.text}));
        }
        Ok(
            json!({"ok": true, "key": key, "compacted": true, "result": {"summary": done.summary, "firstKeptEntryId": done.first_kept, "tokensBefore": done.tokens_before, "details": {"readFiles": [], "modifiedFiles": []}}}),
        )
    }

    async fn cleanup(&self, _: &Cx, params: CleanupParams) -> Result<Value, ErrorShape> {
        let rules = self.chat.config.load().session.maintenance.clone();
        let now = self.now();
        let age = i64::try_from(rules.prune_after_ms).unwrap_or(i64::MAX);
        let mut stale = Vec::new();
        let mut before = 0;
        for agent in self.agents(params.agent.as_deref())? {
            let mut rows = self.chat.desk.rows(&agent);
            before += rows.len();
            rows.sort_by_key(|row| std::cmp::Reverse(row.updated_at));
            let keep = rules.max_entries as usize;
            stale.extend(
                rows.into_iter()
                    .enumerate()
                    .filter(|(index, row)| {
                        (now.since(row.updated_at) > age || *index >= keep) && !row.key.is_main() && row.pinned_at.is_none() && !row.has_active_run()
                    })
                    .map(|(_, row)| row.key.clone()),
            );
        }
        stale.retain(|key| params.active_key.as_deref() != Some(key.as_str()));
        let apply = params.enforce.unwrap_or(rules.enforce);
        if apply {
            for key in &stale {
                self.chat.desk.lanes().delete(key).await.map_err(ErrorShape::from)?;
            }
        }
        Ok(
            json!({"ok": true, "mode": if apply { "enforce" } else { "warn" }, "dryRun": !apply, "beforeCount": before, "afterCount": before - if apply { stale.len() } else { 0 }, "pruned": stale.len(), "keys": stale}),
        )
    }

    async fn usage(&self, cx: &Cx, params: UsageParams) -> Result<Value, ErrorShape> {
        let list = ListParams { agent_id: params.agent_id.clone(), archived: Some(json!("all")), ..ListParams::default() };
        let mut rows = self.filtered(cx, &list)?;
        if let Some(key) = &params.key {
            let key = self.key(key, params.agent_id.as_deref())?;
            rows.retain(|row| row.key == key);
        }
        let limit = usize::try_from(params.limit.unwrap_or(50)).unwrap_or(50);
        let sessions: Vec<Value> = rows
            .iter()
            .take(limit)
            .map(|row| {
                let total = row.input_tokens + row.output_tokens + row.cache_read + row.cache_write;
                json!({"key": row.key, "label": row.label, "sessionId": row.session_id, "agentId": row.agent_id, "updatedAt": row.updated_at, "modelProvider": row.model_provider, "model": row.model,
                    "usage": {"input": row.input_tokens, "output": row.output_tokens, "cacheRead": row.cache_read, "cacheWrite": row.cache_write, "totalTokens": total, "totalCost": row.cost_usd, "missingCostEntries": 0}})
            })
            .collect();
        let (from, to) = (params.start_date.as_deref().unwrap_or(""), params.end_date.as_deref().unwrap_or(""));
        Ok(json!({
            "updatedAt": self.now(),
            "startDate": from,
            "endDate": to,
            "sessions": sessions,
            "totals": totals(&rows.iter().collect::<Vec<_>>()),
            "aggregates": aggregates(&rows),
            "creatorOptions": [],
            "cacheStatus": {"status": "fresh", "cachedFiles": rows.len(), "pendingFiles": 0, "staleFiles": 0},
        }))
    }

    async fn search(&self, cx: &Cx, params: SearchParams) -> Result<Value, ErrorShape> {
        let query = params.query.to_lowercase();
        let limit = usize::try_from(params.limit.unwrap_or(20)).unwrap_or(20).min(100);
        let list = ListParams { agent_id: params.agent_id.clone(), archived: Some(json!("all")), ..ListParams::default() };
        let mut results = Vec::new();
        for row in self.filtered(cx, &list)?.iter().filter(|row| params.session_keys.as_ref().is_none_or(|keys| keys.iter().any(|k| k == row.key.as_str()))) {
            let page = self.chat.desk.lanes().history(&row.key, HistoryPage::Newest { limit: 500, skip: 0 }).await.map_err(ErrorShape::from)?;
            for item in page.items.iter().rev() {
                let (position, message) = (item.position, &item.message);
                let text = message.plain_text();
                if text.to_lowercase().contains(&query) {
                    results.push(json!({"sessionKey": row.key, "agentId": row.agent_id, "messageId": message.id, "seq": position, "snippet": text.chars().take(240).collect::<String>(), "timestamp": message.at}));
                    if results.len() >= limit {
                        return Ok(json!({"results": results, "truncated": true}));
                    }
                }
            }
        }
        Ok(json!({"results": results, "truncated": false}))
    }

    async fn groups_list(&self, _: &Cx, _: Nothing) -> Result<Value, ErrorShape> {
        Ok(groups_shown(&self.groups().await?))
    }

    async fn groups_defaults(&self, _: &Cx, _: Nothing) -> Result<Value, ErrorShape> {
        Ok(json!({"ok": true, "defaults": []}))
    }

    async fn groups_put(&self, _: &Cx, params: GroupsPutParams) -> Result<Value, ErrorShape> {
        self.change_groups(|names| {
            names.clone_from(&params.names);
            Ok(())
        })
        .await
    }

    async fn groups_rename(&self, _: &Cx, params: GroupsRenameParams) -> Result<Value, ErrorShape> {
        self.change_groups(|names| {
            let Some(name) = names.iter_mut().find(|name| **name == params.name) else {
                return Err(ErrorShape::invalid(format!("no group \"{}\"", params.name)));
            };
            params.to.clone_into(name);
            Ok(())
        })
        .await
    }

    async fn groups_delete(&self, _: &Cx, params: GroupsDeleteParams) -> Result<Value, ErrorShape> {
        self.change_groups(|names| {
            names.retain(|name| *name != params.name);
            Ok(())
        })
        .await
    }

    async fn catalog_list(&self, _: &Cx, _: CatalogParams) -> Result<Value, ErrorShape> {
        Ok(json!({"catalogs": []}))
    }
}
