//! `GetTask`, `ListTasks`, `CancelTask`, `SubscribeToTask`, and what becomes of tasks over restarts and time.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clawstead_terms::Millis;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    engine::{Caller, Engine, RETRY_MS, STREAMS_MAX, TimeRow, away, task_key, time_key, whole},
    follow::{Follower, Until},
    host::{Peer, Resumed, Stopped, Turn},
    live::{Live, Record},
    run::Durable,
    send::MessageRow,
    store::{Table, Write},
};
use crate::proto::{
    A2aError, CancelTaskRequest, ErrorKind, GetTaskRequest, ListTasksRequest, ListTasksResponse, Part, Role, SubscribeToTaskRequest, Task, TaskState, moment,
};

/// Page size when none is asked for.
const PAGE_DEFAULT: u32 = 50;

/// Largest page.
const PAGE_MAX: u32 = 100;

/// Rows read at a time.
const SCAN_ROWS: usize = 500;

impl Engine {
    pub fn permit(&self) -> Result<OwnedSemaphorePermit, A2aError> {
        Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_| A2aError::busy(format!("{STREAMS_MAX} streams are open; try again, or ask with GetTask"), RETRY_MS))
    }

    pub async fn get_task(&self, caller: &Caller, request: GetTaskRequest) -> Result<Task, A2aError> {
        Ok(self.load(caller, &request.id).await?.snapshot().0.with_history(request.history_length))
    }

    pub async fn list_tasks(&self, caller: &Caller, request: ListTasksRequest) -> Result<ListTasksResponse, A2aError> {
        let page_size = request.page_size.unwrap_or(PAGE_DEFAULT);
        if !(1..=PAGE_MAX).contains(&page_size) {
            return Err(A2aError::field("pageSize", format!("1 to {PAGE_MAX}")));
        }
        let since = match &request.status_timestamp_after {
            Some(text) => Some(moment(text).ok_or_else(|| A2aError::field("statusTimestampAfter", "not a moment like 2025-10-28T10:30:00Z"))?),
            None => None,
        };
        let prefix = format!("{}/", caller.peer.key());
        let from = match &request.page_token {
            Some(token) => Some(page_key(&prefix, token)?),
            None => None,
        };
        let agent = &caller.agent.id;
        let fits = |row: &TimeRow| {
            request.context_id.as_ref().is_none_or(|context| *context == row.context_id) && request.status.is_none_or(|state| state == row.state)
        };
        let (mut total, mut chosen, mut more) = (0_u32, Vec::new(), false);
        let mut after: Option<String> = None;
        'scan: loop {
            let rows = self.tasks.scan(agent, Table::ByTime, &prefix, after.as_deref(), SCAN_ROWS).await.map_err(away)?;
            let full = rows.len() == SCAN_ROWS;
            for (key, row) in rows {
                let Ok(row) = serde_json::from_value::<TimeRow>(row) else { continue };
                if since.is_some_and(|since| row.at_ms < since.0) {
                    break 'scan;
                }
                if fits(&row) {
                    total += 1;
                    if from.as_ref().is_none_or(|from| key > *from) {
                        if chosen.len() < usize::try_from(page_size).unwrap_or(usize::MAX) {
                            chosen.push(key.clone());
                        } else {
                            more = true;
                        }
                    }
                }
                after = Some(key);
            }
            if !full {
                break;
            }
        }
        let next_page_token = match chosen.last() {
            Some(last) if more => URL_SAFE_NO_PAD.encode(&last[prefix.len()..]),
            _ => String::new(),
        };
        let mut tasks = Vec::with_capacity(chosen.len());
        for key in &chosen {
            let id = key.rsplit('/').next().unwrap_or_default();
            let Some(row) = self.tasks.get(agent, Table::Task, &task_key(&caller.peer, id)).await.map_err(away)? else { continue };
            let Ok(record) = serde_json::from_value::<Record>(row) else { continue };
            let mut task = record.task.with_history(request.history_length);
            if request.include_artifacts == Some(true) {
                task.artifacts.get_or_insert_default();
            } else {
                task.artifacts = None;
            }
            tasks.push(task);
        }
        Ok(ListTasksResponse { tasks, next_page_token, page_size, total_size: total })
    }

    pub async fn cancel_task(self: &Arc<Self>, caller: &Caller, request: CancelTaskRequest) -> Result<Task, A2aError> {
        let live = self.load(caller, &request.id).await?;
        let engine = Arc::clone(self);
        whole(async move { engine.cancel(&live, &request).await }).await
    }

    async fn cancel(self: &Arc<Self>, live: &Arc<Live>, request: &CancelTaskRequest) -> Result<Task, A2aError> {
        let _turn_door = live.turn_door.lock().await;
        let not_any_more = |state: TaskState| {
            A2aError::new(ErrorKind::TaskNotCancelable, format!("The task {} is {} and cannot be cancelled", request.id, state.word()))
                .with("taskId", &request.id)
        };
        let state = live.state();
        if state.is_terminal() {
            return Err(not_any_more(state));
        }
        // The task's door stays open meanwhile: the turn's own last event may be the one that tells of the end.
        // A task that waits for its caller has nothing at work, and no turn begins while its door is held.
        let stopped = if state.is_interrupted() { Stopped::Yes } else { self.host.cancel(&live.at).await? };
        let _door = live.door.lock().await;
        match (live.state(), stopped) {
            (TaskState::Canceled, _) => {}
            (state, _) if state.is_terminal() => return Err(not_any_more(state)),
            (_, Stopped::TooLate) => {
                let words = format!("The task {} is past the point where it can be stopped; wait for its end", request.id);
                return Err(A2aError::new(ErrorKind::TaskNotCancelable, words).with("taskId", &request.id));
            }
            (_, Stopped::Yes) => {
                let event = self.status(&live.at, TaskState::Canceled, vec![Part::text("Cancelled by the caller")]);
                self.publish(live, vec![event], Durable::Yes).await.map_err(away)?;
                live.stop();
            }
        }
        Ok(live.snapshot().0)
    }

    pub async fn subscribe(self: &Arc<Self>, caller: &Caller, request: SubscribeToTaskRequest) -> Result<Follower, A2aError> {
        let permit = self.permit()?;
        let live = self.load(caller, &request.id).await?;
        let state = live.state();
        if state.is_terminal() {
            let words = format!("The task {} is {}: nothing more will come; ask with GetTask", request.id, state.word());
            return Err(A2aError::new(ErrorKind::UnsupportedOperation, words).with("taskId", &request.id));
        }
        let (first, seq) = match caller.last_event {
            Some(seen) => live.resume_at(seen),
            None => live.snapshot(),
        };
        Ok(Follower::new(self, live, first, seq, Until::Terminal, permit))
    }

    /// Asks the host about every task of an agent that was at work, and goes on sending what is still to be sent.
    /// Answers with the number of tasks that go on.
    pub async fn recover(self: &Arc<Self>, agent: &str) -> Result<usize, A2aError> {
        let mut after: Option<String> = None;
        let mut going_on = 0;
        loop {
            let rows = self.tasks.scan(agent, Table::Open, "", after.as_deref(), SCAN_ROWS).await.map_err(away)?;
            let full = rows.len() == SCAN_ROWS;
            for (key, _) in rows {
                if let Some((peer, id)) = key.split_once('/')
                    && let Some(live) = self.find(agent, &Peer::of_key(peer), id).await?
                    && self.pick_up(&live).await?
                {
                    going_on += 1;
                }
                after = Some(key);
            }
            if !full {
                break;
            }
        }
        self.recover_deliveries(agent).await.map_err(away)?;
        Ok(going_on)
    }

    async fn pick_up(self: &Arc<Self>, live: &Arc<Live>) -> Result<bool, A2aError> {
        let _turn_door = live.turn_door.lock().await;
        let _door = live.door.lock().await;
        let record = live.lock().record.clone();
        if live.is_running() {
            return Ok(true);
        }
        if !matches!(record.task.status.state, TaskState::Submitted | TaskState::Working) {
            return Ok(false);
        }
        let lost = |words: String| self.status(&live.at, TaskState::Failed, vec![Part::text(words)]);
        let asked = record.task.history.iter().flatten().rev().find(|message| message.role == Role::User).cloned();
        let event = match asked {
            None => lost("The message of this task is gone".into()),
            Some(message) => {
                let turn =
                    Turn { task: live.at.clone(), message, key: record.turn_key, metadata: None, extensions: Vec::new(), accepted_output_modes: Vec::new() };
                match self.host.resume(turn).await {
                    Ok(Resumed::Turn(events)) => {
                        self.listen(live, events);
                        return Ok(true);
                    }
                    Ok(Resumed::Lost(words)) => lost(words),
                    Err(failure) => {
                        tracing::warn!(agent = live.at.agent, task = live.at.task_id, err = %failure, "a task waits: its host could not say how it goes on");
                        return Ok(false);
                    }
                }
            }
        };
        self.publish(live, vec![event], Durable::Yes).await.map_err(away)?;
        Ok(false)
    }

    /// Forgets tasks that ended before `before`, with the messages that began them. Answers with their number.
    pub async fn prune(&self, agent: &str, before: Millis) -> Result<usize, A2aError> {
        let mut gone = 0;
        for table in [Table::ByTime, Table::Message] {
            let mut after: Option<String> = None;
            loop {
                let rows = self.tasks.scan(agent, table, "", after.as_deref(), SCAN_ROWS).await.map_err(away)?;
                let full = rows.len() == SCAN_ROWS;
                after = rows.last().map(|row| row.0.clone());
                for (key, row) in rows {
                    let writes = match table {
                        Table::ByTime => self.forget(agent, &key, row, before).await?,
                        _ => old_message(&key, row, before),
                    };
                    if !writes.is_empty() {
                        gone += usize::from(table == Table::ByTime);
                        self.tasks.commit(agent, writes).await.map_err(away)?;
                    }
                }
                if !full {
                    break;
                }
            }
        }
        Ok(gone)
    }

    async fn forget(&self, agent: &str, key: &str, row: serde_json::Value, before: Millis) -> Result<Vec<Write>, A2aError> {
        let mut parts = key.split('/');
        let (Some(peer), Some(_), Some(id)) = (parts.next(), parts.next(), parts.next()) else { return Ok(Vec::new()) };
        let Ok(row) = serde_json::from_value::<TimeRow>(row) else { return Ok(Vec::new()) };
        if !row.state.is_terminal() || row.at_ms >= before.0 {
            return Ok(Vec::new());
        }
        let peer = Peer::of_key(peer);
        let task = task_key(&peer, id);
        let mut writes = vec![Write::Delete(Table::Task, task.clone()), Write::Delete(Table::ByTime, time_key(&peer, row.at_ms, id))];
        for table in [Table::Push, Table::Delivery] {
            let rows = self.tasks.scan(agent, table, &format!("{task}/"), None, SCAN_ROWS).await.map_err(away)?;
            writes.extend(rows.into_iter().map(|(key, _)| Write::Delete(table, key)));
        }
        Ok(writes)
    }
}

fn old_message(key: &str, row: serde_json::Value, before: Millis) -> Vec<Write> {
    let old = serde_json::from_value::<MessageRow>(row).map_or(true, |row| row.at_ms < before.0);
    if old { vec![Write::Delete(Table::Message, key.to_owned())] } else { Vec::new() }
}

fn page_key(prefix: &str, token: &str) -> Result<String, A2aError> {
    URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .filter(|rest| rest.split('/').count() == 2)
        .map(|rest| format!("{prefix}{rest}"))
        .ok_or_else(|| A2aError::field("pageToken", "not a token of this server; begin without one"))
}
