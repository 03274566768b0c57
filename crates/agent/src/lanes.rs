//! All lanes of a gateway: one door in ([`Lanes::accept`]), one task for each session with work, bounds everywhere.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use tokio::sync::{OwnedMutexGuard, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use clawstead_state::{Store, get_json};
use clawstead_state::{Table, TxError};
use clawstead_terms::{AgentId, Failure, FailureCode, Fence, Millis, Retry, RunId, RunStatus, SessionKey};
use clawstead_tools::Rpc;
use clawstead_world::{Post, TaskKind, World};

use crate::{
    AgentSettings, Brain, LaneLimits, RunRow, RunSink, SessionChange, SessionRow, Settings, Toolbox,
    context::Contexts,
    room::Room,
    session::{Desk, Session, lock},
};

/// How long a caller waits for a session whose last write hangs, before it is told to come back.
const DESK_WAIT: Duration = Duration::from_secs(10);
/// Runs that anybody may wait for at once.
const WATCHED_RUNS_MAX: usize = 20_000;
/// How long [`Lanes::abort`] waits for a stopped run to end.
const ABORT_WAIT: Duration = Duration::from_secs(10);

/// What lanes are built from.
#[derive(Clone)]
pub struct Parts {
    /// The outside.
    pub world: World,
    /// Journals and rows.
    pub store: Arc<dyn Store>,
    /// Agents.
    pub settings: Arc<dyn Settings>,
    /// Models.
    pub brain: Arc<dyn Brain>,
    /// Tools.
    pub toolbox: Arc<dyn Toolbox>,
    /// Whoever watches.
    pub sink: Arc<dyn RunSink>,
    /// Where letters to other sessions go.
    pub post: Arc<dyn Post>,
    /// The gateway's methods, for tools.
    pub rpc: Arc<dyn Rpc>,
    /// Bounds.
    pub limits: LaneLimits,
}

/// All lanes of a gateway. Clones are the same.
#[derive(Clone)]
pub struct Lanes {
    pub(crate) parts: Arc<Parts>,
    pub(crate) inner: Arc<Inner>,
}

/// The row of a run that ended.
type Ended = Option<Arc<RunRow>>;

pub(crate) struct Inner {
    pub contexts: Contexts,
    pub rooms: RwLock<BTreeMap<AgentId, Arc<Room>>>,
    pub runs: Arc<Semaphore>,
    pub subagent_runs: Arc<Semaphore>,
    /// One sender for each who waits: they wake in the order in which they came. One sender for all of them would wake
    /// them in an order of chance.
    pub watched: Mutex<HashMap<RunId, Vec<watch::Sender<Ended>>>>,
    pub going: watch::Sender<usize>,
    /// Cancelled when lanes must stop: running turns are put aside.
    pub halt: CancellationToken,
}

/// What taking over an agent found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Its sessions.
    pub sessions: usize,
    /// Letters without an ended run; their lanes are going now.
    pub open_runs: usize,
    /// Letters to other sessions that were still owed; they are on their way.
    pub letters: usize,
}

/// What a stop did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// The runs that were going or waiting and are over now.
    pub runs: Vec<RunId>,
}

impl Lanes {
    /// Lanes without agents; see [`Self::adopt`].
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let halt = parts.world.tasks.stopping().child_token();
        let inner = Inner {
            contexts: Contexts::default(),
            rooms: RwLock::default(),
            runs: Arc::new(Semaphore::new(parts.limits.runs_max.max(1))),
            subagent_runs: Arc::new(Semaphore::new(parts.limits.subagent_runs_max.max(1))),
            watched: Mutex::default(),
            going: watch::Sender::new(0),
            halt,
        };
        Self { parts: Arc::new(parts), inner: Arc::new(inner) }
    }

    /// Takes an agent over under `fence` (claimed in the store before): reads its sessions, resumes what was
    /// unfinished, hands on letters that were owed. Answers when the rows are read; resumed turns go on behind it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn adopt(&self, agent: &AgentId, fence: Fence) -> Result<Adopted, Failure> {
        let room = Arc::new(Room::new(agent.clone(), fence, self.inner.halt.child_token()));
        room.load(&*self.parts.store).await?;
        let old = self.inner.rooms.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(agent.clone(), Arc::clone(&room));
        if let Some(old) = old {
            old.closed.cancel();
        }
        let rows = room.rows();
        let mut found = Adopted { sessions: rows.len(), ..Adopted::default() };
        for row in rows.iter().filter(|row| row.has_active_run()) {
            found.open_runs += row.open.len();
            self.wake_session(&room, &row.key);
        }
        found.letters = self.send_owed_letters(&room).await?;
        if found.open_runs + found.letters > 0 {
            tracing::info!(agent = %agent, runs = found.open_runs, letters = found.letters, "unfinished work is taken up again");
        }
        Ok(found)
    }

    /// Gives an agent up, for another gateway to take: no turn starts any more, running turns are put aside (their
    /// calls are dropped, what they said so far is stored). Waits `limit` at most.
    pub async fn release(&self, agent: &AgentId, limit: Duration) {
        let room = self.inner.rooms.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(agent);
        let Some(room) = room else { return };
        room.closed.cancel();
        let idle = async {
            for session in room.live_all() {
                loop {
                    if !session.desk.lock().await.lane {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        if tokio::time::timeout(limit, idle).await.is_err() {
            tracing::warn!(agent = %agent, "lanes did not end in time");
        }
    }

    /// Before an agent moves in order: no turn of it begins any more, letters are stored; waits until its running turns
    /// ended, `limit` at most. Then [`Lanes::release`].
    pub async fn settle_down(&self, agent: &AgentId, limit: Duration) {
        let Ok(room) = self.room(agent) else { return };
        room.closing.cancel();
        let quiet = || room.live_all().iter().all(|session| crate::session::lock(&session.active).is_none());
        let mut going = self.inner.going.subscribe();
        let _ = tokio::time::timeout(limit, going.wait_for(|_| quiet())).await;
    }

    /// Whether an agent has something to do: letters whose run has not ended.
    #[must_use]
    pub fn is_busy(&self, agent: &AgentId) -> bool {
        self.room(agent).is_ok_and(|room| room.open.load(std::sync::atomic::Ordering::Acquire) > 0)
    }

    /// For a stop in order: from now on letters are stored but no turn starts; waits until running turns ended, at
    /// most `limit`, then puts the rest aside. Answers how many were put aside.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.inner.runs.close();
        self.inner.subagent_runs.close();
        let mut going = self.inner.going.subscribe();
        let _ = tokio::time::timeout(limit, going.wait_for(|count| *count == 0)).await;
        let left = *self.inner.going.borrow();
        self.inner.halt.cancel();
        // Putting aside is one write.
        let _ = tokio::time::timeout(Duration::from_secs(5), going.wait_for(|count| *count == 0)).await;
        left
    }

    /// Turns that are going now.
    #[must_use]
    pub fn turns_going(&self) -> usize {
        *self.inner.going.borrow()
    }

    /// Sessions with a transcript or a queue in memory.
    #[must_use]
    pub fn sessions_live(&self) -> usize {
        self.rooms().iter().map(|room| room.live_count()).sum()
    }

    /// Agents taken over.
    #[must_use]
    pub fn agents(&self) -> Vec<AgentId> {
        self.rooms().iter().map(|room| room.agent.clone()).collect()
    }

    /// The workspace files and skills as prompts see them.
    #[must_use]
    pub fn contexts(&self) -> &Contexts {
        &self.inner.contexts
    }

    pub(crate) fn rooms(&self) -> Vec<Arc<Room>> {
        self.inner.rooms.read().unwrap_or_else(std::sync::PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn room(&self, agent: &AgentId) -> Result<Arc<Room>, Failure> {
        let room = self.inner.rooms.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(agent).cloned();
        match room {
            Some(room) if !room.closed.is_cancelled() => Ok(room),
            _ if self.parts.settings.agent(agent).is_none() => {
                Err(Failure::not_found(format!("there is no agent \"{agent}\"")).with_hint("openclaw agents list shows all"))
            }
            _ => Err(Failure::unavailable(format!("agent \"{agent}\" is not running on this gateway now"), 500)),
        }
    }

    pub(crate) fn settings(&self, agent: &AgentId) -> Result<Arc<AgentSettings>, Failure> {
        self.parts.settings.agent(agent).ok_or_else(|| Failure::not_found(format!("there is no agent \"{agent}\"")).with_hint("openclaw agents list shows all"))
    }

    pub(crate) fn now(&self) -> Millis {
        self.parts.world.clock.now()
    }

    pub(crate) fn fresh_row(&self, key: &SessionKey) -> SessionRow {
        SessionRow::new(key.clone(), self.parts.world.rng.uuid().into(), self.now())
    }

    /// The session's desk, loaded. Bounded: a write that hangs does not hang callers for ever.
    pub(crate) async fn desk(&self, room: &Arc<Room>, key: &SessionKey) -> Result<(Arc<Session>, OwnedMutexGuard<Desk>), Failure> {
        loop {
            let session = room.session(key, self.now(), || self.fresh_row(key));
            let locked = tokio::time::timeout(DESK_WAIT, Arc::clone(&session.desk).lock_owned()).await;
            let Ok(mut desk) = locked else {
                return Err(Failure::unavailable(format!("session {key} waits for the state store"), 1_000));
            };
            if session.is_dead() {
                continue;
            }
            session.load(room, &*self.parts.store, &mut desk).await.map_err(Failure::from)?;
            return Ok((session, desk));
        }
    }

    /// The desk of a session that exists.
    pub(crate) async fn known_desk(&self, room: &Arc<Room>, key: &SessionKey) -> Result<(Arc<Session>, OwnedMutexGuard<Desk>), Failure> {
        let (session, desk) = self.desk(room, key).await?;
        if desk.stored {
            return Ok((session, desk));
        }
        drop((session, desk));
        Err(Failure::not_found(format!("there is no session {key}")))
    }

    /// Runs a write to its end even when its caller goes away half-way.
    pub(crate) async fn shielded<T: Send + 'static>(&self, work: impl Future<Output = Result<T, Failure>> + Send + 'static) -> Result<T, Failure> {
        match clawstead_world::spawn(work).await {
            Ok(result) => result,
            Err(err) => {
                tracing::error!(err = %err, "a write of a lane failed");
                Err(Failure::internal("the write failed inside; the log says more"))
            }
        }
    }

    pub(crate) fn changed(&self, key: &SessionKey, reason: &'static str, row: Option<&SessionRow>) {
        self.parts.sink.session_changed(SessionChange { key: key.clone(), reason, row: row.map(|row| Arc::new(row.clone())) });
    }

    /// Starts the lane of a session that may have work.
    pub(crate) fn wake_session(&self, room: &Arc<Room>, key: &SessionKey) {
        let (lanes, room, key) = (self.clone(), Arc::clone(room), key.clone());
        self.parts.world.tasks.spawn(TaskKind::logged("wake session"), async move {
            // The store may be away just now; letters that are stored must run all the same.
            let mut pause = Duration::from_millis(100);
            loop {
                match lanes.desk(&room, &key).await {
                    Ok((session, mut desk)) => {
                        if !desk.lane && !desk.queue.is_empty() {
                            desk.lane = true;
                            lanes.start_lane(&room, &session, None);
                        }
                        return Ok::<(), Failure>(());
                    }
                    Err(_) if room.closed.is_cancelled() => return Ok(()),
                    Err(err) => tracing::warn!(session = %key, err = %err, "a session cannot be read yet"),
                }
                tokio::select! { biased;
                    () = room.closed.cancelled() => return Ok(()),
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(Duration::from_secs(10));
            }
        });
    }

    /// Where a run stands, from the ledger; none when nobody knows it. A run that was merged into another is answered
    /// by that one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn report(&self, run: &RunId) -> Result<Option<RunRow>, Failure> {
        let mut wanted = run.clone();
        for _ in 0..8 {
            let Some(row) = self.ledger_row(&wanted).await? else { return Ok(None) };
            match &row.merged_into {
                Some(into) => wanted = into.clone(),
                None => return Ok(Some(row)),
            }
        }
        Ok(None)
    }

    pub(crate) async fn ledger_row(&self, run: &RunId) -> Result<Option<RunRow>, Failure> {
        for room in self.rooms() {
            if let Some(row) = get_json::<RunRow>(&*self.parts.store, &room.unit, Table::Runs, run.as_str()).await.map_err(Failure::from)? {
                return Ok(Some(row.value));
            }
        }
        Ok(None)
    }

    /// Waits until a run has ended, at most `limit`. None when the time is over or, then too, nobody knows the run.
    /// The run may be accepted after the call.
    ///
    /// # Errors
    /// `Busy` when too many wait; otherwise when the store cannot be read.
    pub async fn wait(&self, run: &RunId, limit: Duration) -> Result<Option<RunRow>, Failure> {
        let until = tokio::time::Instant::now() + limit;
        let mut wanted = run.clone();
        for _ in 0..8 {
            let mut heard = self.subscribe(&wanted)?;
            let known = self.ledger_row(&wanted).await?.filter(RunRow::is_over);
            let over = match known {
                Some(row) => Some(row),
                None => match tokio::time::timeout_at(until, heard.0.wait_for(Option::is_some)).await {
                    Ok(Ok(row)) => row.as_deref().cloned(),
                    // The run ended between the two looks, or the time is over.
                    _ => None,
                },
            };
            match over {
                Some(RunRow { merged_into: Some(into), .. }) => wanted = into,
                other => return Ok(other),
            }
        }
        Ok(None)
    }

    fn subscribe(&self, run: &RunId) -> Result<(watch::Receiver<Ended>, Unwatch), Failure> {
        let mut watched = lock(&self.inner.watched);
        if watched.len() >= WATCHED_RUNS_MAX && !watched.contains_key(run) {
            return Err(Failure::busy("too many callers wait for runs", 1_000));
        }
        let (sender, receiver) = watch::channel(None);
        watched.entry(run.clone()).or_default().push(sender);
        Ok((receiver, Unwatch { inner: Arc::clone(&self.inner), run: run.clone() }))
    }

    /// Tells who waits that a run ended.
    pub(crate) fn announce_end(&self, row: &RunRow) {
        let senders = lock(&self.inner.watched).remove(&row.run_id).unwrap_or_default();
        if senders.is_empty() {
            return;
        }
        let row = Arc::new(row.clone());
        for sender in senders {
            sender.send_replace(Some(Arc::clone(&row)));
        }
    }

    /// Stops runs of a session: the one named, or all that go or wait there. Answers after they ended. `reason` is
    /// `rpc`, `stop`, `interrupt`.
    ///
    /// # Errors
    /// `NotFound` for an unknown agent; otherwise when the store cannot be written.
    pub async fn abort(&self, key: &SessionKey, run: Option<&RunId>, reason: &str) -> Result<Stopped, Failure> {
        let room = self.room(&key.agent())?;
        if room.row(key).is_none() && room.live(key).is_none() {
            return Ok(Stopped::default());
        }
        let mut stopped = Stopped::default();
        let mut waits = Vec::new();
        let session = room.live(key);
        let going = session.as_ref().and_then(|session| lock(&session.active).as_ref().map(|active| active.run_id.clone()));
        // What waits goes first: otherwise the next one would begin the moment the running one ends.
        let mut dropped = Vec::new();
        if run.is_none() || run != going.as_ref() {
            let named = run.cloned();
            let (lanes, room, at, why) = (self.clone(), Arc::clone(&room), key.clone(), reason.to_owned());
            dropped = self.shielded(async move { lanes.abort_queued(&room, &at, named.as_ref(), &why).await }).await?;
        }
        if let Some(session) = session {
            let mut active = lock(&session.active);
            if let Some(going) = active.as_mut()
                && run.is_none_or(|run| *run == going.run_id)
            {
                going.abort.get_or_insert_with(|| reason.to_owned());
                waits.push((going.run_id.clone(), self.subscribe(&going.run_id)?));
                drop(active);
                session.wake.notify_one();
            }
        }
        for (run, mut heard) in waits {
            let _ = tokio::time::timeout(ABORT_WAIT, heard.0.wait_for(Option::is_some)).await;
            stopped.runs.push(run);
        }
        stopped.runs.extend(dropped);
        Ok(stopped)
    }

    /// Stops a run wherever it is.
    ///
    /// # Errors
    /// As [`Self::abort`].
    pub async fn abort_run(&self, run: &RunId, reason: &str) -> Result<Stopped, Failure> {
        match self.ledger_row(run).await? {
            Some(row) if !row.is_over() => self.abort(&row.session, Some(run), reason).await,
            _ => Ok(Stopped::default()),
        }
    }

    /// The run of a session that is going now, with the text said so far by no one else than the sink.
    #[must_use]
    pub fn active_run(&self, key: &SessionKey) -> Option<RunId> {
        let room = self.room(&key.agent()).ok()?;
        lock(&room.live(key)?.active).as_ref().map(|active| active.run_id.clone())
    }

    pub(crate) fn evict(&self, room: &Room) {
        let max = self.parts.limits.live_sessions_max;
        if room.live_count() > max || self.sessions_live() > max {
            // An eighth at once, so that a full house does not search with every letter.
            room.evict(max.saturating_sub(max / 8 + 1).min(room.live_count().saturating_sub(max / 8 + 1)));
        }
    }
}

/// Takes a watcher out again when nobody else waits.
struct Unwatch {
    inner: Arc<Inner>,
    run: RunId,
}

impl Drop for Unwatch {
    fn drop(&mut self) {
        let mut watched = lock(&self.inner.watched);
        // Its own receiver is dropped before it.
        if let Some(senders) = watched.get_mut(&self.run) {
            senders.retain(|sender| sender.receiver_count() > 0);
            if senders.is_empty() {
                watched.remove(&self.run);
            }
        }
    }
}

/// The words of a store error for a caller whose letter was not taken.
pub(crate) fn not_taken(err: &TxError) -> Failure {
    let mut failure = Failure::from(err.clone());
    if failure.code == FailureCode::Internal {
        return failure;
    }
    if failure.retry == Retry::Never && matches!(failure.code, FailureCode::Unavailable | FailureCode::Busy | FailureCode::Fenced) {
        // A letter has a run id: sending it again is harmless even where its first try may have been stored.
        failure.retry = Retry::AfterMs(1_000);
    }
    Failure { hint: failure.hint.or_else(|| Some("the message was not taken; send it again with the same id".into())), ..failure }
}

/// True when accepting failed because the run id was used for another text; clients get the reason
/// `chat-request-conflict`.
#[must_use]
pub fn is_conflict(failure: &Failure) -> bool {
    failure.code == FailureCode::InvalidRequest && failure.hint.as_deref() == Some(CONFLICT)
}

/// The hint that marks such a failure.
pub(crate) const CONFLICT: &str = "chat-request-conflict";

pub(crate) const fn status_of(row: &RunRow) -> RunStatus {
    row.status
}
