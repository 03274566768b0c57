//! Carries out what the cron clock decides: rows, letters, deliveries, news.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::{HeaderValue, Method, header};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use clawstead_agent::{OutboxRow, OutboxState, RunRow, SessionRow};
use clawstead_state::{Batch, Scan, Table, TxError};
use clawstead_terms::{
    Address, AgentId, DeliveryTarget, Envelope, EnvelopeKind, Failure, FailureCode, Millis, Origin, Part, RunId, RunStatus, SessionKey, TurnOptions, Unit,
};
use clawstead_world::{HttpRequest, NetPolicy, Post, TaskKind, World};

use super::{
    clock::{self, Clock, Command, Event},
    heartbeat::{self, Plan},
    job::{Delivery, DeliveryMode, Job, Payload, RunEntry, Schedule, SlotEnd, SlotRow},
};
use crate::keeper::{self, Keeper};

/// How long a run's reply may take to reach its channel before its state counts as unknown.
const DELIVERY_WAIT: Duration = Duration::from_secs(30);
/// Characters of an answer kept in the run history.
const SUMMARY_CHARS_MAX: usize = 2_000;
/// Finished instants kept for each job.
const RUNS_KEPT: usize = 2_000;
/// Longest sleep of the timer: bounds the effect of a clock that was set.
const NAP_MAX: Duration = Duration::from_secs(60);

/// What cron asks the rest of the gateway.
#[async_trait]
pub trait RunDesk: Send + Sync {
    /// Waits for the end of a run.
    ///
    /// # Errors
    /// When there is no such run.
    async fn ended(&self, agent: &AgentId, run: &RunId) -> Result<RunRow, Failure>;
    /// A session's row.
    async fn session(&self, key: &SessionKey) -> Option<Arc<SessionRow>>;
    /// Waits at most `limit` for the reply of a run to reach its channel.
    async fn delivered(&self, agent: &AgentId, run: &RunId, limit: Duration) -> Option<OutboxRow>;
    /// The agent's HEARTBEAT.md.
    async fn heartbeat_file(&self, agent: &AgentId) -> Option<String>;
    /// Removes isolated sessions of cron runs that ended longer than `age_ms` ago.
    async fn forget_cron_sessions(&self, agent: &AgentId, age_ms: i64);
}

/// Tells connected clients.
pub trait Broadcast: Send + Sync {
    /// Sends an event to everybody who may see it.
    fn broadcast(&self, event: &'static str, payload: Value);
}

/// What the config says.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The clock's.
    pub clock: clock::Settings,
    /// All agents.
    pub agents: Vec<AgentId>,
    /// The default one.
    pub default_agent: AgentId,
    /// Heartbeats.
    pub heartbeats: Vec<Plan>,
    /// Isolated sessions are removed after this; none keeps them.
    pub session_retention_ms: Option<i64>,
    /// Webhooks may reach private addresses.
    pub webhook_private: bool,
    /// Bearer token for webhooks.
    pub webhook_token: Option<String>,
}

/// The parts cron is made of.
pub struct Parts {
    /// The store.
    pub keeper: Keeper,
    /// The outside.
    pub world: World,
    /// The one door.
    pub post: Arc<dyn Post>,
    /// Runs and sessions.
    pub desk: Arc<dyn RunDesk>,
    /// Clients.
    pub news: Arc<dyn Broadcast>,
    /// The state database's name, for `cron.status`.
    pub storage: String,
    /// This process.
    pub instance: String,
}

/// Scheduled work of one gateway.
#[derive(Clone)]
pub struct Cron(Arc<Inner>);

struct Inner {
    parts: Parts,
    settings: ArcSwap<Settings>,
    /// Decisions and what follows from them happen one after the other.
    clock: tokio::sync::Mutex<Clock>,
    /// A copy for readers.
    shown: Mutex<BTreeMap<String, Job>>,
    wake: watch::Sender<Option<Millis>>,
    manual: AtomicU64,
    /// For each agent whose jobs are here: cancelled when they are let go.
    here: Mutex<BTreeMap<AgentId, CancellationToken>>,
}

impl Cron {
    /// Nothing runs and nothing is read yet; see [`Cron::begin`].
    #[must_use]
    pub fn prepare(parts: Parts, settings: Settings) -> Self {
        Self(Arc::new(Inner {
            parts,
            settings: ArcSwap::from_pointee(settings),
            clock: tokio::sync::Mutex::default(),
            shown: Mutex::default(),
            wake: watch::Sender::new(None),
            manual: AtomicU64::new(0),
            here: Mutex::default(),
        }))
    }

    /// Reads the store and starts: open runs go on, missed instants are settled.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn begin(&self) -> Result<(), Failure> {
        let settings = self.0.settings.load_full();
        let mut wakes = self.0.wake.subscribe();
        self.apply(Event::Settings(settings.clock)).await?;
        let held: Vec<&AgentId> = settings.agents.iter().filter(|agent| self.holds(agent)).collect();
        let loaded = self.load(held).await?;
        self.apply(loaded).await?;
        self.sync_heartbeats(&settings).await?;
        let (running, stop) = (self.clone(), self.0.parts.world.tasks.stopping());
        self.0.parts.world.tasks.spawn(TaskKind::vital("cron"), async move {
            loop {
                let at = *wakes.borrow_and_update();
                let now = running.0.parts.world.clock.now();
                let nap = at.map_or(NAP_MAX, |at| Duration::from_millis(u64::try_from(at.since(now)).unwrap_or(0)).min(NAP_MAX));
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok::<(), Failure>(()),
                    changed = wakes.changed() => { if changed.is_err() { return Ok(()); } continue; }
                    () = tokio::time::sleep(nap) => {}
                }
                if let Err(failure) = running.apply(Event::Tick).await {
                    tracing::warn!(err = %failure, "cron could not write its rows, it tries again");
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
            }
        });
        Ok(())
    }

    /// An agent came to this gateway: its jobs run here from now on, open runs go on, missed instants are settled.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn take_up(&self, agent: &AgentId) -> Result<(), Failure> {
        let loaded = self.load([agent]).await?;
        self.apply(loaded).await?;
        self.sync_heartbeats(&self.0.settings.load_full()).await
    }

    /// An agent leaves this gateway: nothing of its jobs is started or written any more.
    pub async fn let_go(&self, agent: &AgentId) {
        if let Some(token) = lock(&self.0.here).remove(agent) {
            token.cancel();
        }
        let default = self.default_agent();
        let ids = self.jobs().into_iter().filter(|job| job.agent(&default) == *agent).map(|job| job.id).collect();
        if let Err(failure) = self.apply(Event::LetGo(ids)).await {
            tracing::debug!(%agent, err = %failure, "a row of another agent could not be written");
        }
    }

    fn holds(&self, agent: &AgentId) -> bool {
        self.0.parts.keeper.claims.get(&Unit::Agent(agent.clone())).is_some()
    }

    /// Cancelled when the agent's jobs leave this gateway.
    fn here(&self, agent: &AgentId) -> CancellationToken {
        lock(&self.0.here).entry(agent.clone()).or_default().clone()
    }

    async fn load(&self, agents: impl IntoIterator<Item = &AgentId>) -> Result<Event, Failure> {
        let (mut jobs, mut open) = (Vec::new(), Vec::new());
        for agent in agents {
            let unit = Unit::Agent(agent.clone());
            for row in self.0.parts.keeper.scan::<Job>(&unit, Table::CronJobs, &Scan::prefix("")).await? {
                // A run that was going may lie behind many instants that were missed or skipped since.
                let limit = if row.value.state.running_at_ms.is_some() { RUNS_KEPT + 200 } else { 50 };
                for slot in self
                    .0
                    .parts
                    .keeper
                    .scan::<SlotRow>(&unit, Table::CronRuns, &Scan { limit, newest_first: true, ..Scan::prefix(format!("{}/", row.value.id)) })
                    .await?
                {
                    if slot.value.end == SlotEnd::Started
                        && let Some(at) = slot.key.rsplit('/').next().and_then(|n| n.parse().ok())
                    {
                        open.push((row.value.id.clone(), Millis(at), slot.value.run_id));
                    }
                }
                jobs.push(row.value);
            }
        }
        Ok(Event::Loaded { jobs, open })
    }

    /// Makes the built-in heartbeat jobs agree with the config.
    async fn sync_heartbeats(&self, settings: &Settings) -> Result<(), Failure> {
        let now = self.0.parts.world.clock.now();
        let mut gone: Vec<String> = self.jobs().into_iter().filter(Job::is_heartbeat).map(|job| job.id).collect();
        for plan in settings.heartbeats.iter().filter(|plan| plan.every_ms > 0 && self.holds(&plan.agent)) {
            let id = heartbeat_id(&plan.agent);
            gone.retain(|other| *other != id);
            let old = self.job(&id);
            if old.as_ref().is_some_and(|job| matches!(job.schedule, Schedule::Every { every_ms, .. } if every_ms == plan.every_ms)) {
                continue;
            }
            let anchor = old.as_ref().map_or(now.0, |job| job.created_at_ms);
            let job = Job {
                id,
                declaration_key: Some(format!("heartbeat:{}", plan.agent)),
                display_name: Some(format!("Heartbeat ({})", plan.agent)),
                agent_id: Some(plan.agent.to_string()),
                session_key: None,
                name: format!("heartbeat-{}", plan.agent),
                description: None,
                enabled: true,
                delete_after_run: None,
                created_at_ms: anchor,
                updated_at_ms: now.0,
                schedule: Schedule::Every { every_ms: plan.every_ms, anchor_ms: Some(anchor) },
                session_target: "main".into(),
                wake_mode: "next-heartbeat".into(),
                payload: Payload::Heartbeat {},
                delivery: None,
                failure_alert: None,
                state: old.map(|job| job.state).unwrap_or_default(),
                scheduled_tool_policy: None,
            };
            self.apply(Event::Put(Box::new(job))).await?;
        }
        for id in gone {
            self.apply(Event::Removed(id)).await?;
        }
        Ok(())
    }

    /// The config changed.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn reload(&self, settings: Settings) -> Result<(), Failure> {
        self.0.settings.store(Arc::new(settings.clone()));
        self.apply(Event::Settings(settings.clock)).await?;
        self.sync_heartbeats(&settings).await
    }

    /// All jobs.
    #[must_use]
    pub fn jobs(&self) -> Vec<Job> {
        lock(&self.0.shown).values().cloned().collect()
    }

    /// All jobs, those of agents that other gateways have just now included, where the state is shared.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn everywhere(&self) -> Result<Vec<Job>, Failure> {
        let mut jobs = self.jobs();
        if self.0.parts.keeper.store.is_shared() {
            for agent in self.0.settings.load_full().agents.iter().filter(|agent| !self.holds(agent)) {
                let rows = self.0.parts.keeper.scan::<Job>(&Unit::Agent(agent.clone()), Table::CronJobs, &Scan::prefix("")).await?;
                jobs.extend(rows.into_iter().map(|row| row.value));
            }
        }
        Ok(jobs)
    }

    /// One job.
    #[must_use]
    pub fn job(&self, id: &str) -> Option<Job> {
        lock(&self.0.shown).get(id).cloned()
    }

    /// The default agent.
    #[must_use]
    pub fn default_agent(&self) -> AgentId {
        self.0.settings.load().default_agent.clone()
    }

    /// Adds or changes a job; its instants are computed anew where its schedule changed.
    ///
    /// # Errors
    /// When the agent is not there or the store cannot be written.
    pub async fn put(&self, job: Job) -> Result<Job, Failure> {
        let settings = self.0.settings.load();
        let agent = job.agent(&settings.default_agent);
        if !settings.agents.contains(&agent) {
            return Err(Failure::not_found(format!("unknown agent id \"{agent}\"")));
        }
        let id = job.id.clone();
        let old = self.job(&id);
        if let Some(before) = old.as_ref().map(|job| job.agent(&settings.default_agent)).filter(|before| *before != agent) {
            // The job moves to another agent's shelf.
            self.0.parts.keeper.delete(&Unit::Agent(before), Table::CronJobs, &id).await?;
        }
        self.apply(Event::Put(Box::new(job))).await?;
        let job = self.job(&id).ok_or_else(|| Failure::internal("the job vanished while it was stored"))?;
        self.news(if old.is_some() { "updated" } else { "added" }, &job, json!({}));
        Ok(job)
    }

    /// Removes a job. Answers whether it was there.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn remove(&self, id: &str) -> Result<bool, Failure> {
        let Some(job) = self.job(id) else { return Ok(false) };
        self.apply(Event::Removed(id.into())).await?;
        self.news("removed", &job, json!({}));
        Ok(true)
    }

    /// Starts a run now; answers its id, or `None` when a run is going or waiting already.
    ///
    /// # Errors
    /// When there is no such job or the store cannot be written.
    pub async fn run_now(&self, id: &str) -> Result<Option<String>, Failure> {
        if self.job(id).is_none() {
            return Err(Failure::not_found(format!("no cron job {id}")));
        }
        if self.0.clock.lock().await.is_busy(id) {
            return Ok(None);
        }
        let count = self.0.manual.fetch_add(1, Ordering::Relaxed) + 1;
        let run_id = format!("manual:{id}:{}:{count}", self.0.parts.world.clock.now().0);
        self.apply(Event::RunNow { job_id: id.into(), run_id: run_id.clone() }).await?;
        Ok(Some(run_id))
    }

    /// Ended instants of a job, or of all, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn runs(&self, job_id: Option<&str>) -> Result<Vec<RunEntry>, Failure> {
        let mut entries: Vec<RunEntry> = Vec::new();
        for agent in &self.0.settings.load().agents {
            let scan = Scan { limit: RUNS_KEPT, newest_first: true, ..Scan::prefix(job_id.map(|id| format!("{id}/")).unwrap_or_default()) };
            let rows = self.0.parts.keeper.scan::<SlotRow>(&Unit::Agent(agent.clone()), Table::CronRuns, &scan).await?;
            entries.extend(rows.into_iter().filter_map(|row| row.value.entry));
        }
        entries.sort_by_key(|entry| std::cmp::Reverse((entry.ts, entry.run_at_ms)));
        Ok(entries)
    }

    /// `cron.status`.
    pub async fn status(&self) -> Value {
        let clock = self.0.clock.lock().await;
        json!({
            "enabled": clock.settings().enabled,
            "triggersEnabled": false,
            "storePath": self.0.parts.storage,
            "storage": "sqlite",
            "sqlitePath": self.0.parts.storage,
            "jobs": clock.jobs().count(),
            "nextWakeAtMs": clock.next_wake(),
        })
    }

    /// This process, as `cron.run` names it.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.0.parts.instance
    }

    /// Where a job's answer would go, in words.
    pub async fn delivery_preview(&self, job: &Job) -> Value {
        let agent = job.agent(&self.default_agent());
        let Some(delivery) = &job.delivery else { return json!({"label": "not requested", "detail": "not requested"}) };
        let (label, detail) = match delivery.mode {
            DeliveryMode::None => ("not requested".to_owned(), "not requested".to_owned()),
            DeliveryMode::Webhook => ("webhook".to_owned(), delivery.to.clone().unwrap_or_else(|| "no address".into())),
            DeliveryMode::Announce => {
                let channel = delivery.channel.as_deref().unwrap_or("last");
                let detail = match self.target(&agent, delivery).await {
                    Ok(target) => format!("{channel} -> {} {}", target.channel, target.to),
                    Err(why) => format!("{channel} -> no route: {why}"),
                };
                (format!("announce -> {channel}"), detail)
            }
        };
        json!({"label": label, "detail": detail})
    }

    /// Puts a line into an agent's main session: at once as a turn, or with the next one.
    ///
    /// # Errors
    /// As the one door.
    pub async fn wake(&self, agent: &AgentId, session: Option<SessionKey>, text: &str, turn_now: bool, run_id: RunId) -> Result<(), Failure> {
        let now = self.0.parts.world.clock.now();
        let letter = Envelope {
            id: self.0.parts.world.rng.uuid_v7(now).into(),
            run_id,
            kind: if turn_now { EnvelopeKind::Request } else { EnvelopeKind::Event },
            from: Origin::Hook { name: "wake".into() },
            to: Address { agent: agent.clone(), session: session.unwrap_or_else(|| SessionKey::main(agent)) },
            reply_to: None,
            cause: None,
            body: vec![Part::text(format!("System: {text}"))],
            options: TurnOptions { heartbeat: turn_now, ..TurnOptions::default() },
            path: Vec::new(),
            at: now,
            expires: None,
            traceparent: None,
        };
        self.0.parts.post.deliver(letter).await.map(|_| ())
    }

    /// One decision with everything that follows from it. What is written down comes first; when that fails the
    /// decision is taken back, and the next look at the clock makes it again: no instant is lost to a store that is
    /// away for a moment.
    async fn apply(&self, event: Event) -> Result<(), Failure> {
        let mut clock = self.0.clock.lock().await;
        let removed = if let Event::Removed(id) = &event { clock.job(id).cloned() } else { None };
        let settings = if let Event::Settings(settings) = &event { Some(*settings) } else { None };
        let before = clock.clone();
        let commands = clock.step(event, self.0.parts.world.clock.now());
        let default = self.default_agent();
        let (starts, rows): (Vec<Command>, Vec<Command>) =
            commands.into_iter().partition(|c| matches!(c, Command::Start { .. } | Command::Resume { .. } | Command::WakeAt(_)));
        let mut problem = Ok(());
        for command in rows {
            let done = match command {
                Command::Save(job) => self.0.parts.keeper.put(&Unit::Agent(job.agent(&default)), Table::CronJobs, &job.id, &job).await,
                Command::Delete(id) => self.delete(removed.as_ref(), &id, &default).await,
                Command::Record { job_id, slot, end } => match clock.job(&job_id) {
                    Some(job) => self.record(job, slot, end).await,
                    None => Ok(()),
                },
                Command::Start { .. } | Command::Resume { .. } | Command::WakeAt(_) => Ok(()),
            };
            if let Err(failure) = done {
                *clock = before;
                if let Some(settings) = settings {
                    clock.set(settings);
                }
                self.show(&clock);
                self.0.wake.send_replace(clock.next_wake());
                return Err(failure);
            }
        }
        self.show(&clock);
        for command in starts {
            let done = match command {
                Command::Start { job, slot, run_id } => self.take(*job, slot, run_id).await,
                Command::Resume { job, slot, run_id } => {
                    self.follow(*job, slot, run_id);
                    Ok(())
                }
                Command::WakeAt(at) => {
                    self.0.wake.send_if_modified(|old| std::mem::replace(old, at) != at);
                    Ok(())
                }
                Command::Save(_) | Command::Delete(_) | Command::Record { .. } => Ok(()),
            };
            // Go on with the rest: each instant stands for itself.
            if let Err(failure) = done {
                problem = Err(failure);
            }
        }
        problem
    }

    fn show(&self, clock: &Clock) {
        *lock(&self.0.shown) = clock.jobs().map(|job| (job.id.clone(), job.clone())).collect();
    }

    async fn delete(&self, removed: Option<&Job>, id: &str, default: &AgentId) -> Result<(), Failure> {
        let agents = removed.map_or_else(|| self.0.settings.load().agents.clone(), |job| vec![job.agent(default)]);
        for agent in agents {
            self.0.parts.keeper.delete(&Unit::Agent(agent), Table::CronJobs, id).await?;
        }
        Ok(())
    }

    async fn record(&self, job: &Job, slot: Millis, end: SlotEnd) -> Result<(), Failure> {
        let reason = match &end {
            SlotEnd::Skipped { reason } | SlotEnd::Missed { reason } => reason.clone(),
            SlotEnd::Started | SlotEnd::Ran { .. } => String::new(),
        };
        let now = self.0.parts.world.clock.now();
        let run_id = format!("cron:{}:{}", job.id, slot.0);
        let entry = RunEntry {
            error: Some(reason),
            status: "skipped".into(),
            completion_status: "skipped".into(),
            ..blank_entry(job, slot, &run_id, now, end.clone())
        };
        let row = SlotRow { run_id, at: now, entry: Some(entry), end };
        let unit = Unit::Agent(job.agent(&self.default_agent()));
        let batch = Batch::new(unit).insert_json(Table::CronRuns, slot_key(&job.id, slot), &row).map_err(keeper::sort)?;
        match self.0.parts.keeper.commit(batch).await {
            // It has an end already: one is all an instant gets.
            Ok(()) | Err(TxError::Exists { .. }) => Ok(()),
            Err(err) => Err(keeper::sort(err)),
        }
    }

    /// Takes an instant: from the moment the row is there, nobody else starts it.
    async fn take(&self, job: Job, slot: Millis, run_id: String) -> Result<(), Failure> {
        let unit = Unit::Agent(job.agent(&self.default_agent()));
        let row = SlotRow { run_id: run_id.clone(), at: self.0.parts.world.clock.now(), entry: None, end: SlotEnd::Started };
        let batch = Batch::new(unit)
            .insert_json(Table::CronRuns, slot_key(&job.id, slot), &row)
            .and_then(|batch| batch.put_json(Table::CronJobs, job.id.clone(), &job))
            .map_err(keeper::sort)?;
        match self.0.parts.keeper.commit(batch).await {
            Ok(()) => {}
            Err(TxError::Exists { .. }) => {
                tracing::info!(job = %job.id, slot = slot.0, "this instant was taken before");
                let row = self.0.parts.keeper.get::<SlotRow>(&Unit::Agent(job.agent(&self.default_agent())), Table::CronRuns, &slot_key(&job.id, slot)).await;
                if let Ok(Some(row)) = row
                    && row.end != SlotEnd::Started
                {
                    // It has its end already, which is all an instant gets; only the job did not know.
                    self.ended_before(job, slot, row);
                    return Ok(());
                }
            }
            Err(err) => {
                let failure = keeper::sort(err);
                self.ended_later(job, slot, run_id, failure.clone());
                return Err(failure);
            }
        }
        self.news("started", &job, json!({"runAtMs": slot.0}));
        self.follow(job, slot, run_id);
        Ok(())
    }

    /// Runs the rest of an instant in its own task: letter, end, delivery, row.
    fn follow(&self, job: Job, slot: Millis, run_id: String) {
        let this = self.clone();
        self.0.parts.world.tasks.spawn(TaskKind::logged("cron run"), async move {
            let stop = this.0.parts.world.tasks.stopping();
            let here = this.here(&job.agent(&this.default_agent()));
            let entry = tokio::select! {
                biased;
                // The row says `started`: the next start of the gateway goes on with it, or the gateway that has the agent.
                () = stop.cancelled() => return Ok(()),
                () = here.cancelled() => return Ok(()),
                entry = this.carry_out(&job, slot, &run_id) => entry,
            };
            this.close(&job, slot, run_id, entry).await
        });
    }

    fn ended_before(&self, job: Job, slot: Millis, row: SlotRow) {
        let this = self.clone();
        self.0.parts.world.tasks.spawn(TaskKind::logged("cron run"), async move {
            let entry = row.entry.unwrap_or_else(|| blank_entry(&job, slot, &row.run_id, row.at, row.end));
            this.end(&job, slot, &entry).await
        });
    }

    fn ended_later(&self, job: Job, slot: Millis, run_id: String, failure: Failure) {
        let this = self.clone();
        self.0.parts.world.tasks.spawn(TaskKind::logged("cron run"), async move {
            let now = this.0.parts.world.clock.now();
            let end = SlotEnd::Ran { ok: false, error: Some(failure.message.clone()) };
            let entry = RunEntry {
                status: "error".into(),
                completion_status: "failed".into(),
                error: Some(failure.message),
                ..blank_entry(&job, slot, &run_id, now, end)
            };
            this.close(&job, slot, run_id, entry).await
        });
    }

    async fn close(&self, job: &Job, slot: Millis, run_id: String, mut entry: RunEntry) -> Result<(), Failure> {
        let now = self.0.parts.world.clock.now();
        let began = self.job(&job.id).and_then(|job| job.state.running_at_ms).unwrap_or(slot.0);
        entry.ts = now.0;
        entry.duration_ms = now.0.saturating_sub(began).max(0);
        entry.next_run_at_ms = self.job(&job.id).and_then(|job| job.state.next_run_at_ms);
        let unit = Unit::Agent(job.agent(&self.default_agent()));
        let row = SlotRow { run_id, at: now, entry: Some(entry.clone()), end: entry.end.clone() };
        let key = slot_key(&job.id, slot);
        while let Err(failure) = self.0.parts.keeper.put(&unit, Table::CronRuns, &key, &row).await {
            if failure.code == FailureCode::Fenced {
                return Err(failure);
            }
            tracing::warn!(err = %failure, job = %job.id, "the end of a cron run could not be stored, it is tried again");
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        let mut extra = serde_json::to_value(&entry).unwrap_or_default();
        extra["runAtMs"] = json!(began);
        self.news("finished", job, extra);
        self.end(job, slot, &entry).await?;
        self.tidy(job).await
    }

    /// Tells the clock that a run ended, until that is stored.
    async fn end(&self, job: &Job, slot: Millis, entry: &RunEntry) -> Result<(), Failure> {
        while let Err(failure) = self.apply(Event::Ended { job_id: job.id.clone(), slot, entry: Box::new(entry.clone()) }).await {
            if failure.code == FailureCode::Fenced || !self.0.clock.lock().await.is_busy(&job.id) {
                return Err(failure);
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        Ok(())
    }

    /// Keeps the history bounded and removes old isolated sessions.
    async fn tidy(&self, job: &Job) -> Result<(), Failure> {
        let agent = job.agent(&self.default_agent());
        let unit = Unit::Agent(agent.clone());
        let scan = Scan { limit: RUNS_KEPT + 200, newest_first: true, ..Scan::prefix(format!("{}/", job.id)) };
        let rows = self.0.parts.keeper.store.scan(&unit, Table::CronRuns, &scan).await.map_err(keeper::sort)?;
        let old = rows.into_iter().skip(RUNS_KEPT).fold(Batch::new(unit), |batch, row| batch.delete(Table::CronRuns, row.key));
        if !old.is_empty() {
            self.0.parts.keeper.commit(old).await.map_err(keeper::sort)?;
        }
        if let Some(age_ms) = self.0.settings.load().session_retention_ms {
            self.0.parts.desk.forget_cron_sessions(&agent, age_ms).await;
        }
        Ok(())
    }

    async fn carry_out(&self, job: &Job, slot: Millis, run_id: &str) -> RunEntry {
        let now = self.0.parts.world.clock.now();
        let failed = |why: String| RunEntry {
            status: "error".into(),
            completion_status: "failed".into(),
            error: Some(why.clone()),
            ..blank_entry(job, slot, run_id, now, SlotEnd::Ran { ok: false, error: Some(why) })
        };
        let letter = match self.letter(job, slot, run_id).await {
            Ok(Ok(letter)) => letter,
            Ok(Err(skip)) => {
                let end = SlotEnd::Skipped { reason: skip.clone() };
                return RunEntry {
                    status: "skipped".into(),
                    completion_status: "skipped".into(),
                    error: Some(skip),
                    ..blank_entry(job, slot, run_id, now, end)
                };
            }
            Err(failure) => return failed(failure.message),
        };
        let (agent, session, run) = (letter.to.agent.clone(), letter.to.session.clone(), letter.run_id.clone());
        let starts_a_turn = letter.kind == EnvelopeKind::Request;
        let deliver_to = letter.options.deliver_to.clone();
        let mut wait = Duration::from_millis(250);
        loop {
            match self.0.parts.post.deliver(letter.clone()).await {
                Ok(_) => break,
                Err(failure) if failure.retry != clawstead_terms::Retry::Never && wait < Duration::from_secs(60) => {
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
                Err(failure) => return failed(failure.message),
            }
        }
        if !starts_a_turn {
            return RunEntry { session_key: Some(session.to_string()), ..blank_entry(job, slot, run_id, now, SlotEnd::Ran { ok: true, error: None }) };
        }
        match self.0.parts.desk.ended(&agent, &run).await {
            Ok(row) => self.entry(job, slot, run_id, row, &session, deliver_to.as_ref()).await,
            Err(failure) => failed(failure.message),
        }
    }

    async fn entry(&self, job: &Job, slot: Millis, run_id: &str, row: RunRow, session: &SessionKey, deliver_to: Option<&DeliveryTarget>) -> RunEntry {
        let now = self.0.parts.world.clock.now();
        let ok = row.status == RunStatus::Ok;
        let error = (!ok).then(|| row.failure.as_ref().map_or_else(|| row.abort_reason.clone().unwrap_or_else(|| "stopped".into()), |f| f.message.clone()));
        let (provider, model) = row.model.as_deref().and_then(|m| m.split_once('/')).map_or((None, None), |(p, m)| (Some(p.to_owned()), Some(m.to_owned())));
        let mut entry = RunEntry {
            status: if ok { "ok" } else { "error" }.into(),
            completion_status: if ok { "succeeded" } else { "failed" }.into(),
            summary: row.text.as_ref().filter(|text| !text.is_empty()).map(|text| text.chars().take(SUMMARY_CHARS_MAX).collect()),
            usage: Some(json!({"input_tokens": row.usage.input, "output_tokens": row.usage.output, "total_tokens": row.usage.total()})),
            session_id: Some(row.session_id.to_string()),
            session_key: Some(session.to_string()),
            model,
            provider,
            error: error.clone(),
            ..blank_entry(job, slot, run_id, now, SlotEnd::Ran { ok, error })
        };
        let (status, problem) = if ok { self.deliver(job, &row, deliver_to).await } else { ("not-requested", None) };
        entry.delivered = (status != "not-requested").then_some(status == "delivered");
        entry.delivery_status = status.into();
        entry.delivery_error = problem;
        entry
    }

    async fn deliver(&self, job: &Job, row: &RunRow, deliver_to: Option<&DeliveryTarget>) -> (&'static str, Option<String>) {
        let text = row.text.clone().unwrap_or_default();
        let Some(delivery) = job.delivery.as_ref().filter(|d| d.mode != DeliveryMode::None) else { return ("not-requested", None) };
        if delivery.mode == DeliveryMode::Webhook {
            return match self.webhook(job, row, delivery, &text).await {
                Ok(()) => ("delivered", None),
                Err(why) => ("not-delivered", Some(why)),
            };
        }
        if row.silent || text.trim().is_empty() {
            return ("not-requested", None);
        }
        if deliver_to.is_none() {
            let agent = job.agent(&self.default_agent());
            let why = self.target(&agent, delivery).await.err().unwrap_or_else(|| "no route".into());
            return ("not-delivered", Some(why));
        }
        match self.0.parts.desk.delivered(&row.session.agent(), &row.run_id, DELIVERY_WAIT).await.map(|o| o.state) {
            Some(OutboxState::Done) => ("delivered", None),
            Some(OutboxState::Failed) => ("not-delivered", Some("the channel refused the message".into())),
            _ => ("unknown", None),
        }
    }

    async fn webhook(&self, job: &Job, row: &RunRow, delivery: &Delivery, text: &str) -> Result<(), String> {
        let settings = self.0.settings.load();
        let url = delivery.to.clone().ok_or("delivery.to has no address")?;
        let policy = if settings.webhook_private { NetPolicy::Trusted } else { NetPolicy::Public };
        let mut request = HttpRequest::new(Method::POST, url, policy);
        request.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(mut token) = settings.webhook_token.as_ref().and_then(|t| HeaderValue::from_str(&format!("Bearer {t}")).ok()) {
            token.set_sensitive(true);
            request.headers.insert(header::AUTHORIZATION, token);
        }
        // The receiver knows repeats by the run id.
        if let Ok(key) = HeaderValue::from_str(row.run_id.as_str()) {
            request.headers.insert("idempotency-key", key);
        }
        let body = json!({"action": "finished", "jobId": job.id, "jobName": job.name, "runId": row.run_id, "sessionKey": row.session, "status": "ok", "summary": text});
        request.body = Some(body.to_string().into());
        request.head_timeout_ms = 15_000;
        let response = self.0.parts.world.http.send(request).await.map_err(|e| e.to_string())?;
        if response.status.is_success() { Ok(()) } else { Err(format!("the webhook answered {}", response.status)) }
    }

    /// The letter of a run, or the reason to skip it.
    async fn letter(&self, job: &Job, slot: Millis, run_id: &str) -> Result<Result<Envelope, String>, Failure> {
        let settings = self.0.settings.load();
        let now = self.0.parts.world.clock.now();
        let agent = job.agent(&settings.default_agent);
        let mut options = TurnOptions::default();
        let mut kind = EnvelopeKind::Request;
        let (session, text) = match &job.payload {
            Payload::Heartbeat {} => {
                let Some(plan) = settings.heartbeats.iter().find(|plan| plan.agent == agent) else { return Ok(Err("heartbeat skipped: switched off".into())) };
                let session = SessionKey::of(&agent, plan.session.as_deref().unwrap_or("main"));
                let busy = self.0.parts.desk.session(&session).await.is_some_and(|row| row.has_active_run());
                let file = self.0.parts.desk.heartbeat_file(&agent).await;
                if let Some(why) = heartbeat::reason_to_skip(plan, now, busy, file.as_deref()) {
                    return Ok(Err(why));
                }
                options = TurnOptions { heartbeat: true, model: plan.model.clone(), light_context: plan.light_context, timeout_ms: plan.timeout_ms, ..options };
                if plan.target != "none" {
                    let channel = if plan.target == "owner" { "last" } else { &plan.target };
                    let delivery = Delivery {
                        mode: DeliveryMode::Announce,
                        channel: Some(channel.into()),
                        to: plan.to.clone(),
                        account_id: plan.account.clone(),
                        thread_id: None,
                        best_effort: None,
                        failure_destination: None,
                    };
                    options.deliver_to = self.target(&agent, &delivery).await.ok();
                }
                (session, plan.prompt.clone())
            }
            Payload::SystemEvent { text } => {
                if job.wake_mode == "next-heartbeat" {
                    kind = EnvelopeKind::Event;
                } else {
                    options.heartbeat = true;
                }
                (self.session_of(job, &agent, slot)?, format!("System: {text}"))
            }
            Payload::AgentTurn { message, model, thinking, timeout_seconds, light_context, .. } => {
                options.model.clone_from(model);
                options.thinking.clone_from(thinking);
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a day before")]
                let limit_ms = timeout_seconds.map(|s| (s.clamp(0.0, 86_400.0) * 1_000.0) as u64);
                options.timeout_ms = limit_ms;
                options.light_context = light_context.unwrap_or(job.session_target == "isolated");
                if let Some(delivery) = job.delivery.as_ref().filter(|d| d.mode == DeliveryMode::Announce) {
                    options.deliver_to = self.target(&agent, delivery).await.ok();
                }
                (self.session_of(job, &agent, slot)?, format!("[cron: {}] {message}", job.name))
            }
        };
        let from = if job.is_heartbeat() { Origin::Heartbeat } else { Origin::Cron { job_id: job.id.clone() } };
        Ok(Ok(Envelope {
            id: self.0.parts.world.rng.uuid_v7(now).into(),
            run_id: run_id.into(),
            kind,
            from,
            to: Address { agent, session },
            reply_to: None,
            cause: None,
            body: vec![Part::text(text)],
            options,
            path: Vec::new(),
            at: slot,
            expires: None,
            traceparent: None,
        }))
    }

    fn session_of(&self, job: &Job, agent: &AgentId, slot: Millis) -> Result<SessionKey, Failure> {
        let resolve = |text: &str| SessionKey::resolve(text, agent).map_err(|e| Failure::invalid(e.to_string()));
        match job.session_target.as_str() {
            "main" => Ok(SessionKey::main(agent)),
            "isolated" => Ok(SessionKey::of(agent, &format!("cron:{}:run:{}", job.id, slot.0))),
            "current" => job.session_key.as_deref().map_or_else(|| Ok(SessionKey::main(agent)), resolve),
            other => resolve(other.strip_prefix("session:").unwrap_or(other)),
        }
    }

    /// Where an announcement goes.
    async fn target(&self, agent: &AgentId, delivery: &Delivery) -> Result<DeliveryTarget, String> {
        let channel = delivery.channel.as_deref().unwrap_or("last");
        let last = self.0.parts.desk.session(&SessionKey::main(agent)).await.and_then(|row| row.delivery_context.clone());
        let thread_id = delivery.thread_id.as_ref().map(|t| t.as_str().map_or_else(|| t.to_string(), str::to_owned));
        if channel == "last" {
            let mut target = last.ok_or("Channel is required (the agent has not talked on any channel yet); set delivery.channel and delivery.to")?;
            target.reply_to = None;
            if let Some(to) = &delivery.to {
                target.to.clone_from(to);
                target.thread_id = thread_id;
            }
            return Ok(target);
        }
        let to = delivery
            .to
            .clone()
            .or_else(|| last.filter(|t| t.channel.as_str() == channel).map(|t| t.to))
            .ok_or_else(|| format!("delivery.to is required for channel {channel}"))?;
        let account = delivery.account_id.as_deref().unwrap_or("default").to_lowercase();
        Ok(DeliveryTarget { channel: channel.to_lowercase().into(), account: account.into(), to, thread_id, reply_to: None })
    }

    fn news(&self, action: &str, job: &Job, extra: Value) {
        let mut payload = json!({"jobId": job.id, "action": action, "job": self.job(&job.id).as_ref().unwrap_or(job)});
        if let Some(next) = self.job(&job.id).and_then(|job| job.state.next_run_at_ms) {
            payload["nextRunAtMs"] = json!(next);
        }
        if let (Some(payload), Value::Object(extra)) = (payload.as_object_mut(), extra) {
            for (key, value) in extra.into_iter().filter(|(key, _)| !matches!(key.as_str(), "action" | "jobId" | "end")) {
                payload.insert(key, value);
            }
        }
        self.0.parts.news.broadcast("cron", payload);
    }
}

fn heartbeat_id(agent: &AgentId) -> String {
    uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, format!("clawstead:heartbeat:{agent}").as_bytes()).to_string()
}

fn slot_key(job_id: &str, slot: Millis) -> String {
    format!("{job_id}/{:020}", slot.0)
}

fn blank_entry(job: &Job, slot: Millis, run_id: &str, now: Millis, end: SlotEnd) -> RunEntry {
    RunEntry {
        ts: now.0,
        job_id: job.id.clone(),
        action: "finished".into(),
        status: "ok".into(),
        completion_status: "succeeded".into(),
        run_id: run_id.into(),
        error: None,
        summary: None,
        run_at_ms: slot.0,
        duration_ms: 0,
        next_run_at_ms: job.state.next_run_at_ms,
        model: None,
        provider: None,
        usage: None,
        delivered: None,
        delivery_status: "not-requested".into(),
        delivery_error: None,
        session_id: None,
        session_key: None,
        job_name: job.name.clone(),
        end,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
