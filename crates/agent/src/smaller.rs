//! Compaction as the lane does it: one summary call a round, each round stored, so that a crash goes on from there.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;

use clawstead_providers::Chunk;
use clawstead_terms::{Failure, FailureCode, JournalEvent, RunEnd, RunEventKind, RunId, StopReason, Usage};

use crate::{
    AgentSettings, BrainAsk, BrainChunk, SessionRow,
    compact::{self, ROUNDS_MAX},
    lane::{Emitter, open},
    lanes::Lanes,
    room::Room,
    session::{Session, Write, lock},
    turn::Ending,
};

/// Time for one summary.
const SUMMARY_TIMEOUT: Duration = Duration::from_secs(180);
/// Output tokens of a summary.
const SUMMARY_TOKENS_MAX: u32 = 4_096;

impl Lanes {
    /// Makes the context smaller: summarises older messages, or leaves them out with a note when two summary calls
    /// failed. `Some(true)` when it is smaller now, `Some(false)` when nothing could be done, none when lanes stop.
    #[expect(clippy::too_many_arguments, reason = "the lane's own facts")]
    pub(crate) async fn make_smaller(
        &self,
        room: &Arc<Room>,
        session: &Arc<Session>,
        settings: &Arc<AgentSettings>,
        models: &[String],
        emitter: &Emitter,
        instructions: Option<&str>,
        run: &RunId,
    ) -> Option<bool> {
        let chain: Vec<String> = settings.compaction.model.iter().chain(models).cloned().collect();
        let window = self.parts.brain.limits(&room.agent, chain.first().map_or("", String::as_str)).context_window;
        let main_window = self.parts.brain.limits(&room.agent, models.first().map_or("", String::as_str)).context_window;
        let keep = settings.compaction.keep_recent_tokens.min(main_window / 4);
        let tokens_before = self.tokens(session);
        let mut any = false;
        let mut failures = 0;
        for round in 0..ROUNDS_MAX {
            // Room for the earlier summary, the answer and the frame of the request.
            let (plan, earlier) = {
                let ink = session.ink();
                let transcript = ink.transcript.as_ref()?;
                (compact::plan(transcript, keep, window / 2), transcript.summary())
            };
            let Some(plan) = plan else { break };
            if lock(&session.active).as_ref().is_some_and(|active| active.abort.is_some()) {
                break;
            }
            let text = if failures >= 2 || round + 1 == ROUNDS_MAX {
                Err("gave up".to_owned())
            } else {
                let request = compact::request(earlier.as_deref(), &plan.older, instructions.or(settings.compaction.instructions.as_deref()), self.now());
                let ask = BrainAsk {
                    agent: room.agent.clone(),
                    session: session.key.clone(),
                    run: run.clone(),
                    models: chain.clone(),
                    system: compact::SYSTEM.into(),
                    messages: Arc::from(vec![Arc::new(request)]),
                    tools: Arc::from(Vec::new()),
                    max_tokens: Some(SUMMARY_TOKENS_MAX),
                    temperature: None,
                    thinking: None,
                    params: None,
                };
                self.summary(room, session, ask).await?
            };
            let summary = match text {
                Ok(text) => text,
                Err(why) if failures < 2 && round + 1 < ROUNDS_MAX => {
                    failures += 1;
                    tracing::warn!(session = %session.key, err = %why, "a summary failed");
                    continue;
                }
                Err(_) => compact::dropped_note(earlier.as_deref(), plan.older.len()),
            };
            let event = JournalEvent::Compacted { summary, first_kept: plan.first_kept.clone(), tokens_before, at: self.now() };
            let first_seq = plan.first_kept.as_ref().and_then(|id| session.ink().transcript.as_ref()?.seq_of(id));
            let stored = self
                .insist(room, session, |desk| {
                    desk.row.base_seq = first_seq.unwrap_or(desk.end + 1).min(desk.end + 1);
                    if !plan.more {
                        desk.row.compaction_count += 1;
                    }
                    desk.row.total_tokens_fresh = false;
                    Write { events: vec![event.clone()], ops: Vec::new() }
                })
                .await;
            if !stored {
                return None;
            }
            any = true;
            if !plan.more {
                break;
            }
        }
        if any {
            emitter.emit(RunEventKind::Compacted { tokens_before });
        }
        Some(any)
    }

    fn tokens(&self, session: &Session) -> u64 {
        session.ink().transcript.as_ref().map_or(0, crate::transcript::Transcript::tokens)
    }

    /// One summary call: its text, or why there is none. None when lanes stop.
    async fn summary(&self, room: &Room, session: &Session, ask: BrainAsk) -> Option<Result<String, String>> {
        let mut pieces = open(self, ask);
        let until = tokio::time::Instant::now() + SUMMARY_TIMEOUT;
        let mut text = String::new();
        loop {
            tokio::select! { biased;
                () = room.closed.cancelled() => return None,
                () = session.wake.notified() => {
                    if lock(&session.active).as_ref().is_some_and(|active| active.abort.is_some()) {
                        // The run's own loop sees the wish to stop; what is stored so far stands.
                        session.wake.notify_one();
                        return Some(Err("stopped".into()));
                    }
                }
                () = tokio::time::sleep_until(until) => return Some(Err("the summary took too long".into())),
                piece = pieces.next() => match piece {
                    Some(Ok(BrainChunk::Piece(Chunk::Text(more)))) => text.push_str(&more),
                    Some(Ok(BrainChunk::Fallback { .. })) => text.clear(),
                    Some(Ok(BrainChunk::Piece(Chunk::Done(_)))) => break,
                    Some(Ok(_)) => {}
                    Some(Err(err)) => return Some(Err(err.to_string())),
                    None => return Some(Err("the answer broke off".into())),
                },
            }
        }
        let text = text.trim();
        Some(if text.is_empty() { Err("the summary was empty".into()) } else { Ok(text.to_owned()) })
    }

    /// `/compact`: a run of its own.
    pub(crate) async fn compact_by_letter(
        &self,
        room: &Arc<Room>,
        session: &Arc<Session>,
        settings: &Arc<AgentSettings>,
        row: &SessionRow,
        emitter: &Emitter,
        instructions: Option<&str>,
    ) -> Option<Ending> {
        let models: Vec<String> = match &row.model_override {
            Some(model) => vec![model.clone()],
            None => settings.model.iter().chain(&settings.fallbacks).cloned().collect(),
        };
        let before = self.tokens(session);
        let run = row.last_run_id.clone().unwrap_or_else(|| "compact".into());
        let made = self.make_smaller(room, session, settings, &models, emitter, instructions, &run).await?;
        let aborted = lock(&session.active).as_ref().and_then(|active| active.abort.clone());
        let text =
            if made { format!("Summarised: about {before} tokens became {}.", self.tokens(session)) } else { "There is nothing to summarise yet.".into() };
        Some(Ending {
            events: Vec::new(),
            end: aborted.map_or(RunEnd::Ok, |reason| RunEnd::Aborted { reason }),
            text,
            stop_reason: StopReason::Stop,
            usage: Usage::default(),
            last_usage: None,
            model: None,
            tools_used: Vec::new(),
            error_kind: None,
            silent: false,
        })
    }

    /// The failure of a method that needs an idle session.
    pub(crate) fn busy_session(key: &clawstead_terms::SessionKey) -> Failure {
        Failure::new(FailureCode::Busy, format!("a run is going in session {key}")).with_hint("wait for its end or stop it first")
    }
}
