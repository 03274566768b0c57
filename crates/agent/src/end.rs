//! How a run ends: one write with the answer, the ledger, the reply that leaves and the letters that are owed.

use std::{sync::Arc, time::Duration};

use clawstead_state::{Batch, Op, Scan, Table, TxError, scan_json};
use clawstead_terms::{
    DeliveryTarget, Envelope, EnvelopeKind, Failure, JournalEvent, Millis, Origin, Part, Retry, RunEnd, RunEventKind, RunStatus, StopReason, TurnOptions, Usage,
};
use clawstead_world::TaskKind;

use crate::{
    LetterRow, OutboxRow, OutboxState, RunRow, SessionRow, SessionStatus,
    accept::{address_of, fresh_run, put_run, request_hash},
    begin::{Begun, model_of},
    lane::{Emitter, Flow},
    lanes::Lanes,
    prefix,
    room::Room,
    session::{Session, Write, lock, note_message},
    turn::{self, Ending},
};

/// Tries to hand a letter on before it waits for the next start.
const LETTER_TRIES_MAX: u32 = 30;
/// Letters owed that are read at once.
const OWED_MAX: usize = 1_000;

/// What a reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Answer,
    Error,
}

impl Lanes {
    /// Stores the end of a turn, then tells everybody.
    pub(crate) async fn finish(&self, room: &Arc<Room>, session: &Arc<Session>, emitter: &Emitter, begun: Begun, ending: Ending) -> Flow {
        let now = self.now();
        let max = self.parts.limits.run_text_bytes_max;
        let mut run_row = None;
        let mut ended_row: Option<SessionRow> = None;
        let mut outbox = false;
        let stored = self
            .insist(room, session, |desk| {
                let mut row = fresh_run(&desk.row, &begun.letter, request_hash(&begun.letter), begun.letter.at);
                fill(&mut row, &ending, &begun, now, max);
                end_row(&mut desk.row, &row, &ending, now);
                let mut write = Write::default();
                for event in &ending.events {
                    if let JournalEvent::Said { message } = event {
                        note_message(&mut desk.row, message);
                    }
                }
                write.events.extend(ending.events.iter().cloned());
                write.events.push(JournalEvent::RunEnded { run_id: begun.run_id.clone(), at: now, end: ending.end.clone(), usage: ending.usage });
                match put_run(&row) {
                    Ok(op) => write.ops.push(op),
                    // Cannot happen with our own types; the end itself must be stored all the same.
                    Err(err) => tracing::error!(err = %err, "a ledger row has no JSON form"),
                }
                let replies = match &ending.end {
                    RunEnd::Ok if !ending.silent => self.reply_ops(&desk.row, &begun.letter, &ending.text, Kind::Answer, now),
                    RunEnd::Error { failure } => self.reply_ops(&desk.row, &begun.letter, &failure.message, Kind::Error, now),
                    RunEnd::Aborted { reason } if begun.letter.reply_to.is_some() => {
                        self.reply_ops(&desk.row, &begun.letter, &format!("the run was stopped ({reason})"), Kind::Error, now)
                    }
                    _ => Vec::new(),
                };
                outbox = !replies.is_empty();
                write.ops.extend(replies);
                run_row = Some(row);
                ended_row = Some(desk.row.clone());
                write
            })
            .await;
        if !stored {
            return Flow::Halt;
        }
        *lock(&session.active) = None;
        let (Some(run_row), Some(ended_row)) = (run_row, ended_row) else { return Flow::Next };
        let position = session.ink().position.saturating_sub(ending.events.len() as u64);
        for (number, event) in ending.events.iter().enumerate() {
            if let JournalEvent::Said { message } = event {
                emitter.said(message, position + number as u64 + 1);
            }
        }
        emitter.emit(RunEventKind::Model(None));
        emitter.emit(match &ending.end {
            RunEnd::Error { failure } => RunEventKind::Failed {
                failure: failure.clone(),
                error_kind: ending.error_kind.unwrap_or("internal").into(),
                started_at: begun.started_at,
                partial: ending.text.clone(),
            },
            RunEnd::Aborted { reason } => RunEventKind::Aborted { reason: reason.clone(), started_at: begun.started_at, partial: ending.text.clone() },
            RunEnd::Ok | RunEnd::Merged { .. } => RunEventKind::Finished {
                text: ending.text.clone(),
                stop_reason: ending.stop_reason,
                usage: ending.usage,
                started_at: begun.started_at,
                tools_used: ending.tools_used.clone(),
            },
        });
        self.announce_end(&run_row);
        self.changed(&session.key, "run-ended", Some(&ended_row));
        if outbox {
            self.sent_off(room, &begun.letter);
        }
        Flow::Next
    }

    /// A command's end was stored with its begin; only the telling is left.
    pub(crate) fn answered(&self, emitter: &Emitter, session: &Arc<Session>, row: &SessionRow, run_row: &RunRow, text: &str, begun: &Begun) {
        *lock(&session.active) = None;
        emitter.emit(RunEventKind::Started);
        emitter.emit(match &run_row.failure {
            Some(failure) => RunEventKind::Failed {
                failure: failure.clone(),
                error_kind: run_row.error_kind.clone().unwrap_or_else(|| "internal".into()),
                started_at: begun.started_at,
                partial: String::new(),
            },
            None => RunEventKind::Finished {
                text: text.to_owned(),
                stop_reason: StopReason::Stop,
                usage: Usage::default(),
                started_at: begun.started_at,
                tools_used: Vec::new(),
            },
        });
        self.announce_end(run_row);
        self.changed(&session.key, "run-ended", Some(row));
        if let Ok(room) = self.room(&row.agent_id) {
            self.sent_off(&room, &begun.letter);
        }
    }

    /// Replies and letters just became durable: start them on their way.
    pub(crate) fn sent_off(&self, room: &Arc<Room>, letter: &Envelope) {
        if letter.options.deliver_to.is_some() {
            self.parts.sink.outbox_grew(&room.agent);
        }
        if letter.reply_to.is_some() {
            let (lanes, room) = (self.clone(), Arc::clone(room));
            let key = format!("{}{}", LetterRow::PREFIX, reply_run(letter));
            self.parts.world.tasks.spawn(TaskKind::logged("owed letter"), async move {
                let row = clawstead_state::get_json::<LetterRow>(&*lanes.parts.store, &room.unit, Table::Outbox, &key).await;
                match row {
                    Ok(Some(row)) => lanes.send_letter(&room, row.value).await,
                    Ok(None) => {}
                    Err(err) => tracing::warn!(err = %err, "an owed letter cannot be read; it goes with the next start"),
                }
                Ok::<(), Failure>(())
            });
        }
    }

    /// The rows that bring an answer or an error to whoever waits outside of this session.
    pub(crate) fn reply_ops(&self, row: &SessionRow, letter: &Envelope, text: &str, kind: Kind, now: Millis) -> Vec<Op> {
        let mut ops = Vec::new();
        let text = text.trim();
        if text.is_empty() && letter.reply_to.is_none() {
            return ops;
        }
        // A failed heartbeat is for the log, not for a chat.
        let told = !(letter.options.heartbeat && kind == Kind::Error) && row.send_policy.as_deref() != Some("deny") && !text.is_empty();
        if let Some(target) = letter.options.deliver_to.as_ref().filter(|_| told) {
            let body = if kind == Kind::Error { format!("Error: {text}") } else { text.to_owned() };
            let body = self.with_prefix(row, target, body);
            let reply = OutboxRow {
                id: turn::reply_id(&letter.run_id),
                run_id: letter.run_id.clone(),
                session: row.key.clone(),
                target: target.clone(),
                body: vec![Part::text(body)],
                state: OutboxState::Queued,
                attempts: 0,
                next_attempt_at: None,
                created_at: now,
                updated_at: now,
                receipt: None,
                outcome: None,
                traceparent: letter.traceparent.clone(),
            };
            if let Ok(json) = serde_json::to_string(&reply) {
                ops.push(Op::Put(Table::Outbox, reply.key(), json));
            }
        }
        if let Some(to) = &letter.reply_to {
            let owed = LetterRow { letter: self.answer_letter(row, letter, to.clone(), text, kind, now), attempts: 0 };
            if let Ok(json) = serde_json::to_string(&owed) {
                ops.push(Op::Put(Table::Outbox, owed.key(), json));
            }
        }
        ops
    }

    /// `messages.responsePrefix` before a reply.
    fn with_prefix(&self, row: &SessionRow, target: &DeliveryTarget, text: String) -> String {
        let Some(settings) = self.parts.settings.agent(&row.agent_id) else { return text };
        let Some(template) = settings.reply_prefix.of(target) else { return text };
        let answered = row.model_provider.as_ref().zip(row.model.as_ref()).map(|(provider, model)| format!("{provider}/{model}"));
        let facts = prefix::Facts {
            model: &answered.unwrap_or_else(|| model_of(&settings, row)),
            thinking: row.thinking_level.as_deref().or(settings.thinking.as_deref()).unwrap_or("off"),
            name: settings.identity.name.as_deref(),
        };
        prefix::put_before(template, facts, &text)
    }

    /// An answer to another session. A sub-agent's result is a request: its parent goes on with it. Any other answer
    /// only informs, so that two polite agents do not talk for ever.
    fn answer_letter(&self, row: &SessionRow, letter: &Envelope, to: clawstead_terms::Address, text: &str, kind: Kind, now: Millis) -> Envelope {
        let announce = row.spawned_by.as_ref() == Some(&to.session);
        let name = row.label.clone().unwrap_or_else(|| row.key.to_string());
        let body = match (announce, kind) {
            (true, Kind::Answer) if text.is_empty() => format!("The sub-agent \"{name}\" has ended without an answer."),
            (true, Kind::Answer) => format!(
                "The sub-agent \"{name}\" has ended. Its result:\n\n{text}\n\nUse it, and tell your person what matters; if nothing does, answer NO_REPLY."
            ),
            (true, Kind::Error) => format!("The sub-agent \"{name}\" failed: {text}"),
            (false, Kind::Answer) => text.to_owned(),
            (false, Kind::Error) => format!("[failed] {text}"),
        };
        let deliver_to =
            if announce { self.room(&to.agent).ok().and_then(|room| room.row(&to.session)).and_then(|row| row.delivery_context.clone()) } else { None };
        let mut path = letter.path.clone();
        if !announce {
            path.push(row.agent_id.clone());
        }
        let body = if body.trim().is_empty() { "(no answer)".to_owned() } else { body };
        let from = address_of(row);
        Envelope {
            id: self.parts.world.rng.uuid_v7(now).into(),
            run_id: reply_run(letter).into(),
            kind: if announce { EnvelopeKind::Request } else { EnvelopeKind::Reply },
            from: Origin::Agent { agent: from.agent, session: from.session },
            to,
            reply_to: None,
            cause: Some(letter.id.clone()),
            body: vec![Part::text(body)],
            options: TurnOptions { deliver_to, ..TurnOptions::default() },
            path,
            at: now,
            expires: None,
            traceparent: letter.traceparent.clone(),
        }
    }

    /// Letters that a crash left owed.
    pub(crate) async fn send_owed_letters(&self, room: &Arc<Room>) -> Result<usize, Failure> {
        let scan = Scan { prefix: LetterRow::PREFIX.into(), after: None, limit: OWED_MAX, newest_first: false };
        let rows = scan_json::<LetterRow>(&*self.parts.store, &room.unit, Table::Outbox, &scan).await.map_err(Failure::from)?;
        let count = rows.len();
        if count > 0 {
            let (lanes, room) = (self.clone(), Arc::clone(room));
            self.parts.world.tasks.spawn(TaskKind::logged("owed letters"), async move {
                for row in rows {
                    lanes.send_letter(&room, row.value).await;
                }
                Ok::<(), Failure>(())
            });
        }
        Ok(count)
    }

    /// Hands a letter to the post until it is stored there. Its run id makes a second try harmless.
    async fn send_letter(&self, room: &Arc<Room>, row: LetterRow) {
        let mut pause = Duration::from_millis(100);
        for _ in 0..LETTER_TRIES_MAX {
            if room.closed.is_cancelled() {
                return;
            }
            let batch = match self.parts.post.deliver(row.letter.clone()).await {
                Ok(_) => Batch::new(room.unit.clone()).delete(Table::Outbox, row.key()),
                Err(failure) if failure.retry == Retry::Never => {
                    tracing::warn!(run = %row.letter.run_id, to = %row.to().session, err = %failure, "a letter was refused for good");
                    let dead = serde_json::json!({ "letter": row.letter, "reason": failure.message, "at": self.now() }).to_string();
                    Batch::new(room.unit.clone()).delete(Table::Outbox, row.key()).op(Op::Put(Table::DeadLetters, row.key(), dead))
                }
                Err(failure) => {
                    tracing::debug!(run = %row.letter.run_id, err = %failure, "a letter is handed on later");
                    if !self.rest(room, &mut pause).await {
                        return;
                    }
                    continue;
                }
            };
            match self.parts.store.commit(&room.fence, batch).await {
                Ok(()) => return,
                Err(err @ TxError::Fenced { .. }) => return room.lose(&err),
                // The letter is stored twice at worst; its run id is known then.
                Err(_) => {
                    if !self.rest(room, &mut pause).await {
                        return;
                    }
                }
            }
        }
        tracing::warn!(run = %row.letter.run_id, to = %row.to().session, "a letter could not be handed on; it goes with the next start");
    }

    async fn rest(&self, room: &Room, pause: &mut Duration) -> bool {
        tokio::select! { biased;
            () = room.closed.cancelled() => return false,
            () = tokio::time::sleep(*pause) => {}
        }
        *pause = (*pause * 2).min(Duration::from_secs(60));
        true
    }
}

/// The run id of the answer to a letter: the same at every try.
fn reply_run(letter: &Envelope) -> String {
    turn::effect_id(&letter.run_id, 0, usize::MAX)
}

fn fill(row: &mut RunRow, ending: &Ending, begun: &Begun, now: Millis, text_bytes_max: usize) {
    row.status = match &ending.end {
        RunEnd::Ok | RunEnd::Merged { .. } => RunStatus::Ok,
        RunEnd::Error { .. } => RunStatus::Error,
        RunEnd::Aborted { .. } => RunStatus::Aborted,
    };
    row.started_at = Some(begun.started_at);
    row.ended_at = Some(now);
    row.text = (!ending.text.is_empty()).then(|| cut_bytes(&ending.text, text_bytes_max).to_owned());
    row.stop_reason = Some(ending.stop_reason);
    row.usage = ending.usage;
    row.model = ending.model.as_ref().map(|(provider, model)| format!("{provider}/{model}"));
    row.tools_used.clone_from(&ending.tools_used);
    row.silent = ending.silent;
    row.error_kind = ending.error_kind.map(str::to_owned);
    match &ending.end {
        RunEnd::Error { failure } => row.failure = Some(failure.clone()),
        RunEnd::Aborted { reason } => row.abort_reason = Some(reason.clone()),
        _ => {}
    }
}

fn end_row(row: &mut SessionRow, run: &RunRow, ending: &Ending, now: Millis) {
    row.open.retain(|open| open.run_id != run.run_id);
    row.ended_at = Some(now);
    row.status = Some(if run.status == RunStatus::Error { SessionStatus::Failed } else { SessionStatus::Done });
    row.aborted_last_run = run.status == RunStatus::Aborted;
    row.last_run_error = run.failure.as_ref().map(|failure| failure.message.clone());
    if let Some((provider, model)) = &ending.model {
        row.model_provider = Some(provider.clone());
        row.model = Some(model.clone());
    }
    row.input_tokens += ending.usage.input;
    row.output_tokens += ending.usage.output;
    row.cache_read += ending.usage.cache_read;
    row.cache_write += ending.usage.cache_write;
    row.cost_usd += ending.usage.cost_usd;
    if let Some(last) = ending.last_usage {
        row.total_tokens = last.total();
        row.total_tokens_fresh = true;
    }
    if run.text.is_some() && !ending.silent {
        row.unread = true;
    }
}

fn cut_bytes(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
