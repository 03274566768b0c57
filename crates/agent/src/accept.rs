//! Taking a letter: stored whole or not at all, then answered, then run.

use std::sync::Arc;

use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use clawstead_state::{Op, Table, TxError, get_json};
use clawstead_terms::{
    Address, Envelope, EnvelopeKind, Failure, FailureCode, JournalEvent, Message, Millis, Origin, Part, QueueMode, Role, RunEnd, RunEventKind, RunId,
    RunStatus, SessionKey, Usage,
};
use clawstead_world::Accepted;

use crate::{
    OpenRun, RunRow, SessionRow,
    begin::Begun,
    commands::{self, TextCommand},
    lanes::{CONFLICT, Lanes, not_taken, status_of},
    queue::{self, Overflow},
    room::Room,
    session::{Active, Desk, Queued, Session, Write, lock, note_message},
    turn,
};

/// Longest run id, bytes: it is a key of the store.
const RUN_ID_BYTES_MAX: usize = 512;
/// Agents a conversation of letters may pass.
const PATH_MAX: usize = 8;

impl Lanes {
    /// Takes a letter. `Ok` means durable. A letter with a run id that is known is not taken again: the answer says
    /// where its run stands.
    ///
    /// # Errors
    /// `NotFound` for an unknown agent, `InvalidRequest` for a letter that breaks a rule or whose run id was used for
    /// another text ([`crate::is_conflict`]), `Busy` when an inbox is full, `Unavailable` when the store is away or
    /// the agent is not here.
    pub async fn accept(&self, letter: Envelope) -> Result<Accepted, Failure> {
        let room = self.room(&letter.to.agent)?;
        check(&letter)?;
        let lanes = self.clone();
        self.shielded(async move { lanes.take(&room, Arc::new(letter)).await }).await
    }

    async fn take(&self, room: &Arc<Room>, letter: Arc<Envelope>) -> Result<Accepted, Failure> {
        let settings = self.settings(&room.agent)?;
        let key = letter.to.session.clone();
        let hash = request_hash(&letter);
        let text_command = commands::of_letter(&letter, &settings.reset_triggers);
        if text_command == Some(TextCommand::Stop)
            && let Some(done) = self.stop_by_letter(room, &letter, &hash).await?
        {
            return Ok(done);
        }
        let (session, mut desk) = self.desk(room, &key).await?;
        if let Err(full) = self.check_room(room, &settings, &desk, &letter) {
            // A repeat is told so even when nothing new is taken.
            drop(desk);
            return match self.known(room, &letter.run_id, &hash).await? {
                Some(status) => Ok(Accepted::Duplicate(status)),
                None => Err(full),
            };
        }
        let now = self.now();
        let before = desk.row.clone();
        let fresh = !desk.stored;
        let idle = !desk.lane && desk.queue.is_empty();
        let mut write = Write::default();
        write.events.push(JournalEvent::Accepted { letter: Box::new((*letter).clone()) });
        touch(&mut desk.row, &letter, now);
        let mut run_row = fresh_run(&desk.row, &letter, hash.clone(), now);
        let quiet = letter.kind != EnvelopeKind::Request;
        let arrived = Queued { letter: Arc::clone(&letter), attempt: 0, set_aside: false, since: Some(now), behind: !idle };
        // What waits for more of the same person begins in the lane.
        let waits = settings.queue.inbound_of(&letter, &settings.reset_triggers) > 0;
        let permit = if idle && !quiet && !waits && !room.closing.is_cancelled() { self.try_permit(&key) } else { None };
        let mut begun = None;
        let refused = !idle && is_too_many(&settings, &desk, &letter);
        if refused {
            write.events.push(JournalEvent::RunEnded {
                run_id: letter.run_id.clone(),
                at: now,
                end: RunEnd::Aborted { reason: QUEUE_FULL.into() },
                usage: Usage::default(),
            });
            stopped(&mut run_row, QUEUE_FULL, now);
        } else if idle && quiet {
            let message = note_of(&letter, now);
            note_message(&mut desk.row, &message);
            write.events.push(JournalEvent::Said { message: Box::new(message) });
            run_row.status = RunStatus::Ok;
            run_row.started_at = Some(now);
            run_row.ended_at = Some(now);
            write.events.push(JournalEvent::RunEnded { run_id: letter.run_id.clone(), at: now, end: RunEnd::Ok, usage: Usage::default() });
        } else {
            desk.row.open.push(OpenRun { run_id: letter.run_id.clone(), seq: 0, attempt: 0, set_aside: false });
            if let Some(permit) = permit {
                begun = Some(self.open_run(&settings, &mut desk, vec![arrived.clone()], &[], &mut write, &mut run_row, permit, now));
            }
        }
        let text = serde_json::to_string(&run_row).map_err(|err| Failure::internal(err.to_string()))?;
        write.ops.insert(0, Op::Insert(Table::Runs, letter.run_id.to_string(), text));
        match session.commit(room, &*self.parts.store, &mut desk, write, now).await {
            Ok(_) => {}
            Err(err) => {
                desk.row = before;
                if !desk.stored && !desk.lane {
                    session.dead.store(true, std::sync::atomic::Ordering::Release);
                    room.forget(&key);
                }
                drop(desk);
                if let TxError::Exists { table: "runs", .. } = err {
                    return match self.known(room, &letter.run_id, &hash).await? {
                        Some(status) => Ok(Accepted::Duplicate(status)),
                        None => Err(Failure::internal("the run ledger changed while it was read")),
                    };
                }
                return Err(not_taken(&err));
            }
        }
        if let Some(begun) = begun {
            self.set_active(&session, &begun);
            desk.lane = true;
            self.start_lane(room, &session, Some(begun));
        } else if refused {
            self.tell_stopped(&desk.row, &letter, QUEUE_FULL, now);
            self.announce_end(&run_row);
        } else if idle && quiet {
            self.announce_end(&run_row);
        } else {
            desk.queue.push_back(arrived);
            if !desk.lane {
                desk.lane = true;
                self.start_lane(room, &session, None);
            }
            self.nudge(&session, &settings, &desk.row, &letter);
        }
        self.changed(&key, if fresh { "create" } else { "send" }, Some(&desk.row));
        drop(desk);
        drop(session);
        self.evict(room);
        Ok(Accepted::Stored)
    }

    pub(crate) fn set_active(&self, session: &Session, begun: &Begun) {
        *lock(&session.active) = Some(Active { run_id: begun.run_id.clone(), abort: None });
    }

    /// Tells a running turn that a letter came.
    fn nudge(&self, session: &Session, settings: &crate::AgentSettings, row: &SessionRow, letter: &Envelope) {
        if mode_of(settings, row, letter) == QueueMode::Interrupt
            && let Some(active) = lock(&session.active).as_mut()
        {
            active.abort.get_or_insert_with(|| "interrupt".into());
        }
        session.wake.notify_one();
    }

    pub(crate) fn try_permit(&self, key: &SessionKey) -> Option<OwnedSemaphorePermit> {
        Arc::clone(self.permits(key)).try_acquire_owned().ok()
    }

    pub(crate) fn permits(&self, key: &SessionKey) -> &Arc<tokio::sync::Semaphore> {
        // Sub-agents have their own bound, so that parents who wait for them cannot starve them.
        if key.is_subagent() { &self.inner.subagent_runs } else { &self.inner.runs }
    }

    fn check_room(&self, room: &Room, settings: &crate::AgentSettings, desk: &Desk, letter: &Envelope) -> Result<(), Failure> {
        let limits = &self.parts.limits;
        // Who can hear it is told; a platform would only bring the message again.
        if matches!(letter.from, Origin::Client { .. }) && desk.lane && is_too_many(settings, desk, letter) {
            return Err(Failure::busy(
                format!("{} messages wait in session {} (messages.queue.cap)", settings.queue.cap.unwrap_or_default(), desk.row.key),
                2_000,
            )
            .with_hint("wait until some are answered, or stop the run that is going"));
        }
        let waiting = desk.row.open.len();
        let max = if letter.kind == EnvelopeKind::Request { limits.session_inbox_soft_max } else { limits.session_inbox_hard_max };
        if waiting >= max.min(limits.session_inbox_hard_max) {
            return Err(Failure::busy(format!("{waiting} messages wait in session {}", desk.row.key), 2_000)
                .with_hint("wait until some are answered, or stop the run that is going"));
        }
        let all = room.open.load(std::sync::atomic::Ordering::Acquire);
        if all >= limits.agent_inbox_max {
            return Err(Failure::busy(format!("{all} messages wait for agent {}", room.agent), 5_000));
        }
        Ok(())
    }

    /// Where a known run stands; a conflict when it was another text.
    async fn known(&self, room: &Arc<Room>, run: &RunId, hash: &str) -> Result<Option<RunStatus>, Failure> {
        let Some(row) = get_json::<RunRow>(&*self.parts.store, &room.unit, Table::Runs, run.as_str()).await.map_err(Failure::from)? else { return Ok(None) };
        if row.value.request_hash != hash {
            return Err(
                Failure::invalid("This message id was used for another message already; look at the conversation and use a new id.").with_hint(CONFLICT)
            );
        }
        if !row.value.is_over() {
            // It may wait in a session that nobody woke since a lost answer.
            self.wake_session(room, &row.value.session);
        }
        Ok(Some(status_of(&row.value)))
    }

    /// `/stop` does not wait in the queue: what goes and what waits ends, then the letter is its own short run.
    async fn stop_by_letter(&self, room: &Arc<Room>, letter: &Arc<Envelope>, hash: &str) -> Result<Option<Accepted>, Failure> {
        if let Some(status) = self.known(room, &letter.run_id, hash).await? {
            return Ok(Some(Accepted::Duplicate(status)));
        }
        let key = &letter.to.session;
        self.abort_queued(room, key, None, "stop").await?;
        if let Some(session) = room.live(key)
            && let Some(active) = lock(&session.active).as_mut()
        {
            active.abort.get_or_insert_with(|| "stop".into());
            session.wake.notify_one();
        }
        Ok(None)
    }

    /// Tells whoever watches that a letter's run ended before it began.
    pub(crate) fn tell_stopped(&self, row: &SessionRow, letter: &Envelope, reason: &str, now: Millis) {
        let emitter = crate::lane::Emitter::new(self, row, letter, letter.run_id.clone());
        emitter.emit(RunEventKind::Aborted { reason: reason.into(), started_at: now, partial: String::new() });
    }

    /// Ends letters that wait.
    pub(crate) async fn abort_queued(&self, room: &Arc<Room>, key: &SessionKey, run: Option<&RunId>, reason: &str) -> Result<Vec<RunId>, Failure> {
        let (session, mut desk) = self.desk(room, key).await?;
        let now = self.now();
        let wanted: Vec<Queued> =
            desk.queue.iter().filter(|queued| queued.attempt == 0 && run.is_none_or(|run| *run == queued.letter.run_id)).cloned().collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let before = desk.row.clone();
        let mut write = Write::default();
        let mut rows = Vec::new();
        for queued in &wanted {
            let run_id = queued.letter.run_id.clone();
            write.events.push(JournalEvent::RunEnded {
                run_id: run_id.clone(),
                at: now,
                end: RunEnd::Aborted { reason: reason.into() },
                usage: Usage::default(),
            });
            desk.row.open.retain(|open| open.run_id != run_id);
            let mut row = fresh_run(&desk.row, &queued.letter, request_hash(&queued.letter), queued.letter.at);
            stopped(&mut row, reason, now);
            if queued.letter.reply_to.is_some() {
                // Another session waits for this answer.
                let text = format!("the run was stopped ({reason})");
                write.ops.extend(self.reply_ops(&desk.row, &queued.letter, &text, crate::end::Kind::Error, now));
            }
            write.ops.push(put_run(&row)?);
            rows.push(row);
        }
        if let Err(err) = session.commit(room, &*self.parts.store, &mut desk, write, now).await {
            desk.row = before;
            return Err(err.into());
        }
        desk.queue.retain(|queued| !wanted.iter().any(|gone| gone.letter.run_id == queued.letter.run_id));
        for (row, queued) in rows.iter().zip(&wanted) {
            self.tell_stopped(&desk.row, &queued.letter, reason, now);
            self.announce_end(row);
            if queued.letter.reply_to.is_some() {
                self.sent_off(room, &queued.letter);
            }
        }
        Ok(wanted.into_iter().map(|queued| queued.letter.run_id.clone()).collect())
    }
}

/// Why a letter's run ended when too many waited.
pub(crate) const QUEUE_FULL: &str = "queue-full";

/// True when `messages.queue` says that a letter which comes now is the one that goes.
fn is_too_many(settings: &crate::AgentSettings, desk: &Desk, letter: &Envelope) -> bool {
    let rules = &settings.queue;
    let counts = queue::is_talk(letter) && commands::of_letter(letter, &settings.reset_triggers).is_none();
    rules.overflow == Overflow::New && counts && rules.cap.is_some_and(|cap| queue::waiting(&desk.queue, &settings.reset_triggers) >= cap)
}

/// Writes down that a run was stopped before it began.
pub(crate) fn stopped(row: &mut RunRow, reason: &str, now: Millis) {
    row.status = RunStatus::Aborted;
    row.ended_at = Some(now);
    row.abort_reason = Some(reason.into());
}

/// What the caller said, without what differs between two tries of the same call.
pub(crate) fn request_hash(letter: &Envelope) -> String {
    let asked = json!({ "to": letter.to, "kind": letter.kind, "body": letter.body });
    hex::encode(Sha256::digest(asked.to_string()))
}

fn check(letter: &Envelope) -> Result<(), Failure> {
    let run = letter.run_id.as_str();
    if run.trim().is_empty() || run.len() > RUN_ID_BYTES_MAX || run.chars().any(char::is_control) {
        return Err(Failure::invalid("the run id must have 1 to 512 bytes and no control characters"));
    }
    if letter.to.session.agent() != letter.to.agent {
        return Err(Failure::invalid(format!("session {} does not belong to agent {}", letter.to.session, letter.to.agent)));
    }
    if letter.path.len() > PATH_MAX {
        return Err(Failure::invalid(format!("this conversation passed {} agents already; it ends here", letter.path.len())));
    }
    if letter.kind == EnvelopeKind::Request && letter.path.contains(&letter.to.agent) {
        return Err(Failure::new(FailureCode::Forbidden, format!("this conversation passed agent {} already; it ends here", letter.to.agent)));
    }
    let said = letter.body.iter().any(|part| !matches!(part, Part::Text { text } if text.trim().is_empty()));
    if !said {
        return Err(Failure::invalid("the message is empty"));
    }
    let odd = letter.body.iter().any(|part| matches!(part, Part::ToolCall { .. } | Part::ToolResult { .. } | Part::Thinking { .. }));
    if odd {
        return Err(Failure::invalid("a message holds text, pictures and files only"));
    }
    let bytes: usize = letter.body.iter().map(bytes_of).sum();
    if bytes > BODY_BYTES_MAX {
        return Err(Failure::invalid(format!("the message has {bytes} bytes, at most {BODY_BYTES_MAX} are taken")));
    }
    Ok(())
}

/// Bytes of a letter's body at most: it is one value of the store together with its envelope.
pub const BODY_BYTES_MAX: usize = 12 * 1024 * 1024;

fn bytes_of(part: &Part) -> usize {
    match part {
        Part::Text { text } => text.len(),
        Part::Image { data, .. } => data.len(),
        Part::File { name, path, .. } => name.len() + path.len(),
        _ => 0,
    }
}

/// What arriving means for the row.
fn touch(row: &mut SessionRow, letter: &Envelope, now: Millis) {
    if letter.kind == EnvelopeKind::Request && !letter.options.heartbeat {
        row.archived_at = None;
    }
    if row.created_via.is_none() {
        row.created_via = Some(
            match &letter.from {
                Origin::Client { .. } => "chat",
                Origin::Channel { .. } => "channel",
                Origin::Agent { .. } => "agent",
                Origin::Cron { .. } => "cron",
                Origin::Heartbeat => "heartbeat",
                Origin::Hook { .. } => "hook",
            }
            .into(),
        );
    }
    if let (Origin::Channel { .. }, Some(target)) = (&letter.from, &letter.options.deliver_to) {
        row.delivery_context = Some(target.clone());
    }
    row.updated_at = now;
}

pub(crate) fn fresh_run(row: &SessionRow, letter: &Envelope, request_hash: String, now: Millis) -> RunRow {
    RunRow {
        run_id: letter.run_id.clone(),
        session: row.key.clone(),
        session_id: row.session_id.clone(),
        request_hash,
        status: RunStatus::Queued,
        accepted_at: now,
        started_at: None,
        ended_at: None,
        text: None,
        stop_reason: None,
        usage: Usage::default(),
        model: None,
        tools_used: Vec::new(),
        failure: None,
        error_kind: None,
        abort_reason: None,
        merged_into: None,
        silent: false,
    }
}

pub(crate) fn put_run(row: &RunRow) -> Result<Op, Failure> {
    let text = serde_json::to_string(row).map_err(|err| Failure::internal(err.to_string()))?;
    Ok(Op::Put(Table::Runs, row.run_id.to_string(), text))
}

/// How a letter wants to be queued. Jobs, heartbeats and letters that want their own answer never join a turn.
pub(crate) fn mode_of(settings: &crate::AgentSettings, row: &SessionRow, letter: &Envelope) -> QueueMode {
    let own_answer = letter.reply_to.is_some() || letter.options.heartbeat || matches!(letter.from, Origin::Cron { .. } | Origin::Heartbeat);
    let mode = letter.options.queue_mode.or(row.queue_mode).unwrap_or_else(|| settings.queue.mode_of(letter));
    if own_answer && mode != QueueMode::Interrupt { QueueMode::Followup } else { mode }
}

/// The message a letter becomes.
pub(crate) fn said_by(letter: &Envelope, body: Vec<Part>, now: Millis) -> Message {
    let mut parts = body;
    if let Origin::Agent { agent, session } = &letter.from {
        parts.insert(0, Part::text(format!("[From agent {agent}, session {session}]")));
    }
    Message {
        id: turn::message_id(&letter.run_id, 0, 0).into(),
        role: Role::User,
        parts,
        at: now,
        run_id: Some(letter.run_id.clone()),
        model: None,
        usage: None,
        stop_reason: None,
        meta: Some(json!({ "from": letter.from })),
    }
}

/// The note that an event or an answer becomes: it is known at the next turn and starts none.
pub(crate) fn note_of(letter: &Envelope, now: Millis) -> Message {
    let head = match (&letter.kind, &letter.from) {
        (EnvelopeKind::Reply, Origin::Agent { agent, session }) => format!("[Answer of agent {agent}, session {session}]"),
        (_, Origin::Agent { agent, .. }) => format!("[Note from agent {agent}]"),
        (_, Origin::Hook { name }) => format!("[Event {name}]"),
        (_, Origin::Cron { job_id }) => format!("[Event of job {job_id}]"),
        _ => "[Event]".into(),
    };
    let mut parts = vec![Part::text(head)];
    parts.extend(letter.body.iter().cloned());
    Message { role: Role::System, parts, meta: Some(json!({ "from": letter.from, "kind": letter.kind })), ..said_by(letter, Vec::new(), now) }
}

/// Where an answer between agents goes.
pub(crate) fn address_of(row: &SessionRow) -> Address {
    Address { agent: row.agent_id.clone(), session: row.key.clone() }
}
