//! One session's lane: takes its runs one after the other, feeds [`Turn::step`] and carries out what it says.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};

use clawstead_terms::{AgentId, Envelope, Message, RunEvent, RunEventKind, RunId, RunPhase, SessionId, SessionKey};
use clawstead_world::TaskKind;

use crate::{
    BrainAsk, BrainStream,
    begin::{Begun, Task},
    drive::Drive,
    lanes::Lanes,
    room::Room,
    session::{Session, Write, lock},
    watch,
};

/// How a run left the lane.
pub(crate) enum Flow {
    Next,
    /// Lanes stop: the run was put aside.
    Halt,
}

/// Sends the events of one run, counted.
pub(crate) struct Emitter {
    lanes: Lanes,
    run_id: RunId,
    agent: AgentId,
    session: SessionKey,
    session_id: SessionId,
    spawned_by: Option<SessionKey>,
    heartbeat: bool,
    seq: AtomicU64,
}

impl Emitter {
    pub fn new(lanes: &Lanes, row: &crate::SessionRow, letter: &Envelope, run_id: RunId) -> Self {
        Self {
            lanes: lanes.clone(),
            run_id,
            agent: row.agent_id.clone(),
            session: row.key.clone(),
            session_id: row.session_id.clone(),
            spawned_by: row.spawned_by.clone(),
            heartbeat: letter.options.heartbeat,
            seq: AtomicU64::new(0),
        }
    }

    pub fn emit(&self, kind: RunEventKind) {
        self.lanes.parts.sink.emit(RunEvent {
            run_id: self.run_id.clone(),
            agent: self.agent.clone(),
            session: self.session.clone(),
            session_id: self.session_id.clone(),
            seq: self.seq.fetch_add(1, Ordering::Relaxed) + 1,
            at: self.lanes.now(),
            spawned_by: self.spawned_by.clone(),
            heartbeat: self.heartbeat,
            kind,
        });
    }

    pub fn said(&self, message: &Message, position: u64) {
        self.emit(RunEventKind::Said { message: Box::new(message.clone()), position });
    }
}

impl Lanes {
    /// Starts the task of a lane; the desk's `lane` flag is set already.
    pub(crate) fn start_lane(&self, room: &Arc<Room>, session: &Arc<Session>, begun: Option<Begun>) {
        let (lanes, room, session) = (self.clone(), Arc::clone(room), Arc::clone(session));
        self.parts.world.tasks.spawn(TaskKind::logged("lane"), async move {
            let body = clawstead_world::spawn(lanes.clone().lane(Arc::clone(&room), Arc::clone(&session), begun));
            match body.await {
                Ok(()) => Ok(()),
                Err(err) => {
                    // A fault of ours in one lane must cost only its turn: what is stored is read again, the run
                    // counts as crashed and is resumed, or given up after a few times.
                    session.dead.store(true, Ordering::Release);
                    *lock(&session.active) = None;
                    room.forget(&session.key);
                    lanes.wake_session(&room, &session.key);
                    Err(format!("lane of {} stopped: {err}", session.key))
                }
            }
        });
    }

    async fn lane(self, room: Arc<Room>, session: Arc<Session>, mut begun: Option<Begun>) {
        loop {
            let work = match begun.take() {
                Some(work) => work,
                None => match self.next_work(&room, &session).await {
                    Some(work) => work,
                    None => return,
                },
            };
            self.inner.going.send_modify(|count| *count += 1);
            let _going = Going(&self);
            let flow = self.run(&room, &session, work).await;
            if matches!(flow, Flow::Halt) {
                self.put_aside(&room, &session).await;
                return;
            }
        }
    }

    /// Stores what a running turn has, and that it is no crash.
    async fn put_aside(&self, room: &Arc<Room>, session: &Arc<Session>) {
        let active = lock(&session.active).take();
        let mut desk = session.desk.lock().await;
        if let Some(active) = active
            && let Some(open) = desk.row.open.iter_mut().find(|open| open.run_id == active.run_id)
        {
            open.set_aside = true;
        }
        let write = session.commit(room, &*self.parts.store, &mut desk, Write::default(), self.now());
        if !matches!(tokio::time::timeout(Duration::from_secs(3), write).await, Ok(Ok(_))) {
            tracing::debug!(session = %session.key, "a run was put aside without a last write; it counts as interrupted");
        }
        desk.lane = false;
        session.dead.store(true, Ordering::Release);
        room.forget(&session.key);
    }

    async fn run(&self, room: &Arc<Room>, session: &Arc<Session>, begun: Begun) -> Flow {
        let Some(settings) = self.parts.settings.agent(&room.agent) else { return Flow::Halt };
        let (row, first_position) = {
            let desk = session.desk.lock().await;
            let loaded = session.load_transcript(room, &*self.parts.store, &desk).await;
            if let Err(err) = loaded {
                // The begin is stored; the next start of this lane resumes it.
                tracing::error!(session = %session.key, err = %err, "the transcript cannot be read");
                drop(desk);
                return self.retry_later(room, session).await;
            }
            (desk.row.clone(), session.ink().position.saturating_sub(begun.said.len() as u64))
        };
        let emitter = Emitter::new(self, &row, &begun.letter, begun.run_id.clone());
        match &begun.task {
            Task::Answered { row: run_row, text } => {
                self.answered(&emitter, session, &row, run_row, text, &begun);
                return Flow::Next;
            }
            Task::Compact { .. } => {}
            Task::Turn | Task::Resumed { .. } => {
                if begun.letter.options.status_events {
                    emitter.emit(RunEventKind::Phase(RunPhase::PreparingWorkspace));
                    emitter.emit(RunEventKind::Phase(RunPhase::PreparingContext));
                }
            }
        }
        emitter.emit(RunEventKind::Started);
        for (number, message) in begun.said.iter().enumerate() {
            emitter.said(message, first_position + number as u64 + 1);
        }
        self.changed(&session.key, "run-started", Some(&row));
        if let Task::Compact { instructions } = &begun.task {
            let ending = self.compact_by_letter(room, session, &settings, &row, &emitter, instructions.as_deref()).await;
            return match ending {
                Some(ending) => self.finish(room, session, &emitter, begun, ending).await,
                None => Flow::Halt,
            };
        }
        let watched = watch::Run::begin(&self.parts.world, &begun.letter, begun.attempt);
        let mut drive = Drive::new(self, room, session, &settings, &row, &begun, &emitter, watched.traceparent());
        let ending = drive.go().await;
        drop(drive);
        match ending {
            Some(ending) => {
                watched.ended(&ending);
                self.finish(room, session, &emitter, begun, *ending).await
            }
            None => Flow::Halt,
        }
    }

    /// The store fails while a run is between its begin and its turn: give the session up and start it again.
    async fn retry_later(&self, room: &Arc<Room>, session: &Arc<Session>) -> Flow {
        tokio::select! { biased;
            () = room.closed.cancelled() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        self.put_aside(room, session).await;
        if !room.closed.is_cancelled() {
            self.wake_session(room, &session.key);
        }
        Flow::Halt
    }
}

struct Going<'a>(&'a Lanes);

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.0.inner.going.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Lanes {
    /// Writes under the desk lock and insists while the store is away, full or behind: what is written here must not
    /// be lost. `prepare` changes the row and says what else to write; it runs again for every try. False when lanes
    /// stop or the agent was lost.
    pub(crate) async fn insist(&self, room: &Arc<Room>, session: &Arc<Session>, prepare: impl FnMut(&mut crate::session::Desk) -> Write) -> bool {
        self.insist_then(room, session, prepare, |_| {}).await
    }

    /// The same; `settle` runs under the same lock when the write is durable.
    pub(crate) async fn insist_then(
        &self,
        room: &Arc<Room>,
        session: &Arc<Session>,
        mut prepare: impl FnMut(&mut crate::session::Desk) -> Write,
        settle: impl FnOnce(&mut crate::session::Desk),
    ) -> bool {
        let mut pause = Duration::from_millis(50);
        loop {
            {
                let mut desk = session.desk.lock().await;
                let result = match session.load(room, &*self.parts.store, &mut desk).await {
                    Ok(()) => {
                        let before = desk.row.clone();
                        let write = prepare(&mut desk);
                        let result = session.commit(room, &*self.parts.store, &mut desk, write, self.now()).await;
                        if result.is_err() {
                            desk.row = before;
                        }
                        result.map(|_| ())
                    }
                    Err(err) => Err(err),
                };
                match result {
                    Ok(()) => {
                        settle(&mut desk);
                        return true;
                    }
                    Err(err) => tracing::warn!(session = %session.key, err = %err, "a running turn waits for the store"),
                }
            }
            if room.closed.is_cancelled() {
                return false;
            }
            tokio::select! { biased;
                () = room.closed.cancelled() => return false,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }
}

/// The question and its answer as one stream, so that waiting for either can be stopped.
pub(crate) fn open(lanes: &Lanes, ask: BrainAsk) -> BrainStream {
    let brain = Arc::clone(&lanes.parts.brain);
    stream::once(async move { brain.ask(ask).await }).try_flatten().boxed()
}
