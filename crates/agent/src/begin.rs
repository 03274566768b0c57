//! How a run begins: resets, commands, the transcript's first line, or taking up what a crash left.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use clawstead_state::TxError;
use clawstead_terms::{
    Envelope, EnvelopeKind, Failure, FailureCode, JournalEvent, Message, Millis, Origin, Part, QueueMode, Role, RunEnd, RunEventKind, RunId, RunStatus,
    StopReason, Usage,
};

use crate::{
    AgentSettings, RunRow, SessionRow, SessionStatus,
    accept::{QUEUE_FULL, fresh_run, mode_of, note_of, put_run, request_hash, said_by, stopped},
    commands::{self, TextCommand},
    context::zone_of,
    lane::Emitter,
    lanes::Lanes,
    queue::{self, Overflow, is_among},
    reset,
    room::Room,
    session::{Desk, Queued, Session, Write, note_message},
    turn::OpenCall,
};

/// A run that crashed the gateway this often is given up.
pub const ATTEMPTS_MAX: u32 = 3;
/// Letters collected into one turn at most.
const COLLECT_MAX: usize = 50;

/// What the lane has to do for a run that has begun.
pub(crate) enum Task {
    /// A turn.
    Turn,
    /// A turn that an earlier attempt left unfinished.
    Resumed { steps_done: u32, messages_done: u32, open_calls: Vec<OpenCall> },
    /// Nothing: a command was answered, its end is stored.
    Answered { row: Box<RunRow>, text: String },
    /// Summarise now, then answer.
    Compact { instructions: Option<String> },
}

/// A run that has begun; its begin is stored.
pub(crate) struct Begun {
    pub run_id: RunId,
    pub letter: Arc<Envelope>,
    pub attempt: u32,
    pub started_at: Millis,
    /// Positions and messages said at the begin, for whoever watches.
    pub said: Vec<clawstead_terms::Message>,
    pub task: Task,
    /// Held until the run is over.
    #[expect(dead_code, reason = "dropping it lets the next run begin")]
    pub permit: OwnedSemaphorePermit,
}

impl Lanes {
    /// Puts the begin of a fresh run into `write`. `run_row` is the first letter's.
    #[expect(clippy::too_many_arguments, reason = "the same facts are at hand in both callers")]
    pub(crate) fn open_run(
        &self,
        settings: &AgentSettings,
        desk: &mut Desk,
        letters: Vec<Queued>,
        left_out: &[Queued],
        write: &mut Write,
        run_row: &mut RunRow,
        permit: OwnedSemaphorePermit,
        now: Millis,
    ) -> Begun {
        let letter = Arc::clone(&letters[0].letter);
        let run_id = letter.run_id.clone();
        let command = commands::of_letter(&letter, &settings.reset_triggers);
        let mut body = letter.body.clone();
        let mut begun = Begun { run_id: run_id.clone(), letter: Arc::clone(&letter), attempt: 1, started_at: now, said: Vec::new(), task: Task::Turn, permit };
        let why = match &command {
            Some(TextCommand::Reset { reason, .. }) => Some(*reason),
            _ if letter.options.heartbeat => None,
            _ => {
                let channel = match &letter.from {
                    Origin::Channel { channel, .. } => Some(channel.as_str()),
                    _ => desk.row.delivery_context.as_ref().map(|target| target.channel.as_str()),
                };
                reset::stale(settings.reset.of(&desk.row.key, channel), desk.row.last_interaction_at, now, &zone_of(settings))
            }
        };
        if let Some(reason) = why {
            write.events.push(JournalEvent::Reset { reason: reason.into(), at: now, session_id: desk.row.session_id.clone() });
            clear(&mut desk.row, now);
        }
        if !letter.options.heartbeat {
            desk.row.last_interaction_at = Some(now);
        }
        desk.row.last_run_id = Some(run_id.clone());
        desk.row.started_at = Some(now);
        desk.row.ended_at = None;
        let answer = match command {
            Some(TextCommand::Reset { rest: Some(rest), .. }) => {
                body = vec![Part::text(rest)];
                None
            }
            Some(TextCommand::Compact(instructions)) => {
                begun.task = Task::Compact { instructions };
                None
            }
            Some(command) => Some(self.answer(settings, &mut desk.row, command)),
            None => None,
        };
        if let Some(text) = answer {
            end_command(&mut desk.row, run_row, &text, now);
            write.events.push(JournalEvent::RunEnded { run_id: run_id.clone(), at: now, end: RunEnd::Ok, usage: Usage::default() });
            write.ops.extend(self.reply_ops(&desk.row, &letter, &text, crate::end::Kind::Answer, now));
            begun.task = Task::Answered { row: Box::new(run_row.clone()), text };
            return begun;
        }
        let also: Vec<RunId> = letters[1..].iter().chain(left_out).map(|queued| queued.letter.run_id.clone()).collect();
        write.events.push(JournalEvent::RunStarted { run_id: run_id.clone(), also: also.clone(), at: now, attempt: 1 });
        if matches!(begun.task, Task::Turn) {
            if !left_out.is_empty() {
                begun.said.push(Message {
                    id: self.parts.world.rng.uuid().into(),
                    meta: Some(json!({ "kind": "queue-summary" })),
                    ..said_by(&letter, vec![Part::text(queue::summary(left_out))], now)
                });
            }
            let first = said_by(&letter, body, now);
            note_message(&mut desk.row, &first);
            begun.said.push(first);
            for queued in &letters[1..] {
                let message = said_by(&queued.letter, queued.letter.body.clone(), now);
                note_message(&mut desk.row, &message);
                begun.said.push(message);
            }
        }
        write.events.extend(begun.said.iter().map(|message| JournalEvent::Said { message: Box::new(message.clone()) }));
        for queued in letters[1..].iter().chain(left_out) {
            self.merge(&mut desk.row, queued, &run_id, write, now);
        }
        run_row.status = RunStatus::Running;
        run_row.started_at = Some(now);
        desk.row.status = Some(SessionStatus::Running);
        if let Some(open) = desk.row.open.iter_mut().find(|open| open.run_id == run_id) {
            open.attempt = 1;
        }
        begun
    }

    /// Ends a letter's own run: another one answers for it.
    pub(crate) fn merge(&self, row: &mut SessionRow, queued: &Queued, into: &RunId, write: &mut Write, now: Millis) {
        let run_id = queued.letter.run_id.clone();
        write.events.push(JournalEvent::RunEnded { run_id: run_id.clone(), at: now, end: RunEnd::Merged { into: into.clone() }, usage: Usage::default() });
        row.open.retain(|open| open.run_id != run_id);
        if let Ok(op) = put_run(&merged_row(row, queued, into, now)) {
            write.ops.push(op);
        }
    }

    /// What a command says; it may change the row.
    fn answer(&self, settings: &AgentSettings, row: &mut SessionRow, command: TextCommand) -> String {
        match command {
            TextCommand::Reset { .. } => "A new conversation has begun.".into(),
            TextCommand::Stop => "Stopped.".into(),
            TextCommand::Help => commands::help(),
            TextCommand::Model(None) => {
                format!("Model: {}{}", model_of(settings, row), if row.model_override.is_some() { " (chosen for this session)" } else { "" })
            }
            TextCommand::Model(Some(name)) if name == "default" => {
                row.model_override = None;
                row.model_override_source = None;
                format!("Model: {} (default)", model_of(settings, row))
            }
            TextCommand::Model(Some(name)) => match self.parts.brain.resolve(&settings.id, &name) {
                Some(model) => {
                    row.model_override_source = Some("user".into());
                    row.model_override = Some(model.clone());
                    format!("Model: {model} (for this session)")
                }
                None => format!("There is no model \"{name}\" that this agent may use."),
            },
            TextCommand::Think(None) => format!("Thinking: {}", row.thinking_level.as_deref().or(settings.thinking.as_deref()).unwrap_or("default")),
            TextCommand::Think(Some(level)) => match level.to_ascii_lowercase().as_str() {
                "default" => {
                    row.thinking_level = None;
                    "Thinking: default".into()
                }
                level @ ("off" | "minimal" | "low" | "medium" | "high" | "xhigh" | "max" | "adaptive") => {
                    row.thinking_level = Some(level.to_owned());
                    format!("Thinking: {level}")
                }
                other => format!("There is no thinking level \"{other}\"; use off, minimal, low, medium, high or default."),
            },
            TextCommand::Status => {
                let model = model_of(settings, row);
                let window = self.parts.brain.limits(&settings.id, &model).context_window;
                format!(
                    "Agent: {}\nSession: {}\nModel: {model}\nContext: {} of {window} tokens, {} compactions\nTokens: {} in, {} out\nWaiting: {} messages",
                    settings.id,
                    row.key,
                    row.total_tokens,
                    row.compaction_count,
                    row.input_tokens,
                    row.output_tokens,
                    row.open.len().saturating_sub(1),
                )
            }
            // Needs the model; the lane does it.
            TextCommand::Compact(_) => String::new(),
        }
    }

    /// Finds the next work of a lane and stores its begin. None when there is none (the lane is marked as ended then)
    /// or when lanes must stop.
    pub(crate) async fn next_work(&self, room: &Arc<Room>, session: &Arc<Session>) -> Option<Begun> {
        let mut permit = None;
        let mut pause = Duration::from_millis(50);
        loop {
            if room.closed.is_cancelled() {
                session.desk.lock().await.lane = false;
                return None;
            }
            let mut desk = session.desk.lock().await;
            let step = async {
                session.load(room, &*self.parts.store, &mut desk).await?;
                self.clear_front(room, session, &mut desk).await?;
                if desk.queue.is_empty() {
                    desk.lane = false;
                    return Ok(Step::Idle);
                }
                if room.closing.is_cancelled() {
                    return Ok(Step::Closing);
                }
                let Some(settings) = self.parts.settings.agent(&room.agent) else {
                    return Err(TxError::Away { path: format!("the settings of agent {}", room.agent), why: "the agent was removed".into(), maybe: false });
                };
                match queue::hold_ms(&settings.queue, &settings.reset_triggers, &desk.queue, self.now()) {
                    0 => {}
                    ms => return Ok(Step::Hold(Duration::from_millis(ms))),
                }
                let Some(permit) = permit.take().or_else(|| self.try_permit(&session.key)) else { return Ok(Step::NoPermit) };
                self.begin(room, session, &settings, &mut desk, permit).await.map(Step::Begun)
            };
            match step.await {
                Ok(Step::Idle) => return None,
                Ok(Step::Begun(begun)) => {
                    self.set_active(session, &begun);
                    return Some(begun);
                }
                Ok(Step::Closing) => {
                    // About to move: the next gateway begins it.
                    drop((desk, permit.take()));
                    room.closed.cancelled().await;
                }
                Ok(Step::Hold(wait)) => {
                    drop(desk);
                    tokio::select! { biased;
                        () = room.closed.cancelled() => {}
                        // What came may end the waiting, or make it longer.
                        () = session.wake.notified() => {}
                        () = tokio::time::sleep(wait) => {}
                    }
                }
                Ok(Step::NoPermit) => {
                    drop(desk);
                    tokio::select! { biased;
                        () = room.closed.cancelled() => {}
                        got = Arc::clone(self.permits(&session.key)).acquire_owned() => match got {
                            Ok(got) => permit = Some(got),
                            // Draining: letters stay stored, nothing starts.
                            Err(_) => room.closed.cancelled().await,
                        },
                    }
                }
                Err(err) => {
                    drop(desk);
                    if !err.is_passing() {
                        tracing::error!(session = %session.key, err = %err, "a run cannot begin; trying again");
                    }
                    tokio::select! { biased;
                        () = room.closed.cancelled() => {}
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
            }
        }
    }

    /// Settles what needs no turn at the front of the queue: events, answers, letters whose time is over.
    async fn clear_front(&self, room: &Arc<Room>, session: &Arc<Session>, desk: &mut Desk) -> Result<(), TxError> {
        let now = self.now();
        let needs_turn = |queued: &Queued| queued.attempt > 0 || (queued.letter.kind == EnvelopeKind::Request && !is_expired(&queued.letter, now));
        let front: Vec<Queued> = desk.queue.iter().take_while(|queued| !needs_turn(queued)).cloned().collect();
        if front.is_empty() {
            return Ok(());
        }
        let before = desk.row.clone();
        let mut write = Write::default();
        let mut rows = Vec::new();
        for queued in &front {
            rows.push(self.settle_quietly(&mut desk.row, queued, &mut write, now));
        }
        if let Err(err) = session.commit(room, &*self.parts.store, desk, write, now).await {
            desk.row = before;
            return Err(err);
        }
        desk.queue.drain(..front.len());
        for (row, queued) in rows.iter().zip(&front) {
            if let Some(failure) = &row.failure {
                let emitter = Emitter::new(self, &desk.row, &queued.letter, row.run_id.clone());
                emitter.emit(RunEventKind::Failed { failure: failure.clone(), error_kind: "expired".into(), started_at: now, partial: String::new() });
                self.sent_off(room, &queued.letter);
            }
            self.announce_end(row);
        }
        Ok(())
    }

    /// An event joins the transcript as a note; a letter whose time is over ends as an error.
    pub(crate) fn settle_quietly(&self, row: &mut SessionRow, queued: &Queued, write: &mut Write, now: Millis) -> RunRow {
        let letter = &queued.letter;
        let run_id = letter.run_id.clone();
        let mut run_row = fresh_run(row, letter, request_hash(letter), letter.at);
        run_row.ended_at = Some(now);
        row.open.retain(|open| open.run_id != run_id);
        let end = if letter.kind == EnvelopeKind::Request {
            let failure = Failure::new(FailureCode::Timeout, "the message was too old when its turn came");
            run_row.status = RunStatus::Error;
            run_row.failure = Some(failure.clone());
            run_row.error_kind = Some("expired".into());
            write.ops.extend(self.reply_ops(row, letter, &failure.message, crate::end::Kind::Error, now));
            RunEnd::Error { failure }
        } else {
            let message = note_of(letter, now);
            note_message(row, &message);
            write.events.push(JournalEvent::Said { message: Box::new(message) });
            run_row.status = RunStatus::Ok;
            RunEnd::Ok
        };
        write.events.push(JournalEvent::RunEnded { run_id, at: now, end, usage: Usage::default() });
        if let Ok(op) = put_run(&run_row) {
            write.ops.push(op);
        }
        run_row
    }

    async fn begin(
        &self,
        room: &Arc<Room>,
        session: &Arc<Session>,
        settings: &AgentSettings,
        desk: &mut Desk,
        permit: OwnedSemaphorePermit,
    ) -> Result<Begun, TxError> {
        let now = self.now();
        let triggers = &settings.reset_triggers;
        let left_out = queue::left_out(&settings.queue, triggers, &desk.queue);
        let Some(first) = desk.queue.iter().find(|queued| !is_among(queued, &left_out)).cloned() else {
            return Err(TxError::Invalid { what: "a queue".into(), why: "it was empty".into() });
        };
        let before = desk.row.clone();
        let mut write = Write::default();
        let told: &[Queued] = if settings.queue.overflow == Overflow::Summarize { &left_out } else { &[] };
        let dropped: &[Queued] = if told.is_empty() { &left_out } else { &[] };
        let dropped_rows: Vec<RunRow> = dropped.iter().map(|queued| self.drop_letter(&mut desk.row, queued, &mut write, now)).collect();
        let mut run_row = fresh_run(&desk.row, &first.letter, request_hash(&first.letter), first.letter.at);
        let mut taken = vec![first.clone()];
        let begun = if first.attempt > 0 {
            session.load_transcript(room, &*self.parts.store, desk).await?;
            self.resume(session, desk, &first, &mut write, &mut run_row, permit, now)
        } else {
            let collect = mode_of(settings, &desk.row, &first.letter) == QueueMode::Collect;
            let may_join = |queued: &Queued, taken: &[Queued]| {
                let collected = collect && queued.attempt == 0 && mode_of(settings, &before, &queued.letter) == QueueMode::Collect;
                let breath = || taken.last().is_some_and(|last| queue::one_breath(&settings.queue, triggers, &first, last, queued));
                (collected || breath())
                    && may_merge(&first.letter, &queued.letter)
                    && commands::of_letter(&queued.letter, triggers).is_none()
                    && !is_expired(&queued.letter, now)
            };
            if commands::of_letter(&first.letter, triggers).is_none() {
                let behind = desk.queue.iter().filter(|queued| !is_among(queued, &left_out)).skip(1).take(COLLECT_MAX);
                for queued in behind {
                    if !may_join(queued, &taken) {
                        break;
                    }
                    taken.push(queued.clone());
                }
            }
            self.open_run(settings, desk, taken.clone(), told, &mut write, &mut run_row, permit, now)
        };
        if let Ok(op) = put_run(&run_row) {
            write.ops.push(op);
        }
        match session.commit(room, &*self.parts.store, desk, write, now).await {
            Ok(_) => {
                desk.queue.retain(|queued| !is_among(queued, &taken) && !is_among(queued, &left_out));
                for queued in taken[1..].iter().chain(told) {
                    self.announce_end(&merged_row(&desk.row, queued, &begun.run_id, now));
                }
                for (queued, row) in dropped.iter().zip(&dropped_rows) {
                    self.tell_stopped(&desk.row, &queued.letter, QUEUE_FULL, now);
                    self.announce_end(row);
                }
                Ok(begun)
            }
            Err(err) => {
                desk.row = before;
                Err(err)
            }
        }
    }

    /// Ends a letter that goes because too many wait.
    fn drop_letter(&self, row: &mut SessionRow, queued: &Queued, write: &mut Write, now: Millis) -> RunRow {
        let run_id = queued.letter.run_id.clone();
        let end = RunEnd::Aborted { reason: QUEUE_FULL.into() };
        write.events.push(JournalEvent::RunEnded { run_id: run_id.clone(), at: now, end, usage: Usage::default() });
        row.open.retain(|open| open.run_id != run_id);
        let mut run_row = fresh_run(row, &queued.letter, request_hash(&queued.letter), queued.letter.at);
        stopped(&mut run_row, QUEUE_FULL, now);
        if let Ok(op) = put_run(&run_row) {
            write.ops.push(op);
        }
        run_row
    }

    #[expect(clippy::too_many_arguments, reason = "the same facts as `open_run`")]
    fn resume(
        &self,
        session: &Session,
        desk: &mut Desk,
        first: &Queued,
        write: &mut Write,
        run_row: &mut RunRow,
        permit: OwnedSemaphorePermit,
        now: Millis,
    ) -> Begun {
        let run_id = first.letter.run_id.clone();
        let attempt = if first.set_aside { first.attempt } else { first.attempt + 1 };
        let mut begun =
            Begun { run_id: run_id.clone(), letter: Arc::clone(&first.letter), attempt, started_at: now, said: Vec::new(), task: Task::Turn, permit };
        if attempt > ATTEMPTS_MAX {
            let failure = Failure::internal("the run was interrupted by restarts too often and was given up")
                .with_hint("look at the log for why the gateway stopped, then ask again");
            run_row.status = RunStatus::Error;
            run_row.started_at = Some(now);
            run_row.ended_at = Some(now);
            run_row.failure = Some(failure.clone());
            run_row.error_kind = Some("interrupted".into());
            // Calls that never ended get a result, so that the next request of this session is whole.
            let (_, said, open_calls) = session.ink().transcript.as_ref().map(|transcript| transcript.progress(&run_id)).unwrap_or_default();
            for call in open_calls {
                write.events.push(JournalEvent::Said { message: Box::new(self.given_up(&run_id, call, now)) });
            }
            if said > 0 {
                // The question stands in the conversation: without a word after it the next answer would speak to both.
                let message = self.not_answered(&run_id, &failure.message, now);
                note_message(&mut desk.row, &message);
                write.events.push(JournalEvent::Said { message: Box::new(message) });
            }
            desk.row.open.retain(|open| open.run_id != run_id);
            desk.row.status = Some(SessionStatus::Failed);
            desk.row.ended_at = Some(now);
            desk.row.last_run_error = Some(failure.message.clone());
            write.ops.extend(self.reply_ops(&desk.row, &first.letter, &failure.message, crate::end::Kind::Error, now));
            let text = failure.message.clone();
            write.events.push(JournalEvent::RunEnded { run_id, at: now, end: RunEnd::Error { failure }, usage: Usage::default() });
            begun.task = Task::Answered { row: Box::new(run_row.clone()), text };
            return begun;
        }
        let (steps_done, messages_done, open_calls) = session.ink().transcript.as_ref().map(|transcript| transcript.progress(&run_id)).unwrap_or_default();
        write.events.push(JournalEvent::RunStarted { run_id: run_id.clone(), also: Vec::new(), at: now, attempt });
        run_row.status = RunStatus::Running;
        run_row.started_at = desk.row.started_at.or(Some(now));
        begun.started_at = desk.row.started_at.unwrap_or(now);
        desk.row.status = Some(SessionStatus::Running);
        desk.row.last_run_id = Some(run_id.clone());
        if let Some(open) = desk.row.open.iter_mut().find(|open| open.run_id == run_id) {
            open.attempt = attempt;
            open.set_aside = false;
        }
        begun.task = match commands::of_letter(&first.letter, &[]) {
            Some(TextCommand::Compact(instructions)) => Task::Compact { instructions },
            _ => Task::Resumed { steps_done, messages_done, open_calls },
        };
        begun
    }

    /// What stands where the answer of a run should be that was given up.
    fn not_answered(&self, run_id: &RunId, why: &str, now: Millis) -> Message {
        Message {
            id: self.parts.world.rng.uuid().into(),
            role: Role::Assistant,
            parts: vec![Part::text(format!("[Not answered: {why}.]"))],
            at: now,
            run_id: Some(run_id.clone()),
            model: None,
            usage: None,
            stop_reason: Some(StopReason::Error),
            meta: Some(json!({ "kind": "not-answered", "error": why })),
        }
    }

    /// The result of a call whose run was given up.
    fn given_up(&self, run_id: &RunId, call: OpenCall, now: Millis) -> Message {
        let text = if call.intent.is_some() {
            "The run was given up during this call. Its outcome is unknown: it may have happened. Check before you repeat it."
        } else {
            "The run was given up before this call ended."
        };
        Message {
            id: self.parts.world.rng.uuid().into(),
            role: Role::Tool,
            parts: vec![Part::ToolResult { id: call.call_id, name: call.name, content: vec![Part::text(text)], details: None, is_error: true }],
            at: now,
            run_id: Some(run_id.clone()),
            model: None,
            usage: None,
            stop_reason: None,
            meta: None,
        }
    }
}

enum Step {
    Idle,
    /// The agent is about to move.
    Closing,
    NoPermit,
    /// More may come.
    Hold(Duration),
    Begun(Begun),
}

/// Starts the conversation of a row afresh.
pub(crate) fn clear(row: &mut SessionRow, now: Millis) {
    row.session_started_at = Some(now);
    row.lifecycle_revision += 1;
    row.message_count = 0;
    row.compaction_count = 0;
    row.input_tokens = 0;
    row.output_tokens = 0;
    row.cache_read = 0;
    row.cache_write = 0;
    row.total_tokens = 0;
    row.total_tokens_fresh = true;
    row.cost_usd = 0.0;
    row.aborted_last_run = false;
    row.derived_title = None;
    row.last_message_preview = None;
}

fn end_command(row: &mut SessionRow, run_row: &mut RunRow, text: &str, now: Millis) {
    run_row.status = RunStatus::Ok;
    run_row.started_at = Some(now);
    run_row.ended_at = Some(now);
    run_row.text = Some(text.to_owned());
    run_row.stop_reason = Some(StopReason::Stop);
    row.open.retain(|open| open.run_id != run_row.run_id);
    row.status = Some(SessionStatus::Done);
    row.ended_at = Some(now);
}

pub(crate) fn merged_row(row: &SessionRow, queued: &Queued, into: &RunId, now: Millis) -> RunRow {
    let mut merged = fresh_run(row, &queued.letter, request_hash(&queued.letter), queued.letter.at);
    merged.status = RunStatus::Ok;
    merged.started_at = Some(now);
    merged.ended_at = Some(now);
    merged.merged_into = Some(into.clone());
    merged
}

/// The model that answers in this session.
pub(crate) fn model_of(settings: &AgentSettings, row: &SessionRow) -> String {
    row.model_override.clone().or_else(|| settings.model.clone()).unwrap_or_else(|| "default".into())
}

pub(crate) fn is_expired(letter: &Envelope, now: Millis) -> bool {
    letter.expires.is_some_and(|expires| expires < now)
}

/// Whether a letter may join a turn of another: same way back, nothing of its own wished for.
pub(crate) fn may_merge(into: &Envelope, letter: &Envelope) -> bool {
    let (a, b) = (&into.options, &letter.options);
    let same_chat = match (&a.deliver_to, &b.deliver_to) {
        (Some(a), Some(b)) => a.channel == b.channel && a.account == b.account && a.to == b.to && a.thread_id == b.thread_id,
        (None, None) => true,
        _ => false,
    };
    let same_wishes = a.model == b.model && a.thinking == b.thinking && a.extra_system_prompt == b.extra_system_prompt && a.deny_tools == b.deny_tools;
    let plain = |letter: &Envelope| matches!(letter.from, Origin::Client { .. } | Origin::Channel { .. } | Origin::Agent { .. } | Origin::Hook { .. });
    // Rights belong to who asked: a guest's text must not run with an owner's.
    letter.kind == EnvelopeKind::Request
        && same_chat
        && same_wishes
        && letter.reply_to.is_none()
        && !a.heartbeat
        && !b.heartbeat
        && plain(into)
        && plain(letter)
        && is_owner(into) == is_owner(letter)
}

/// Whether who wrote the letter may do owner things.
pub(crate) fn is_owner(letter: &Envelope) -> bool {
    match &letter.from {
        Origin::Client { owner, .. } | Origin::Channel { owner, .. } => *owner,
        Origin::Cron { .. } | Origin::Heartbeat => true,
        Origin::Agent { .. } | Origin::Hook { .. } => false,
    }
}
