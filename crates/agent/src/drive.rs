//! One turn as it is carried out: the commands of [`Turn::step`], the answer as it streams, the calls that run.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use tokio::{
    sync::mpsc,
    task::{Id, JoinSet},
    time::Instant,
};

use clawstead_terms::{EnvelopeKind, JournalEvent, Message, Part, RunEventKind, RunPhase};
use clawstead_tools::{ToolCx, ToolError, ToolOutput};
use clawstead_world::TaskKind;

use crate::{
    AgentSettings, BrainAsk, BrainChunk, BrainStream, Offer, ToolScope,
    begin::{Begun, Task, is_expired, is_owner, may_merge},
    compact,
    context::{Depth, PromptFor},
    deltas::Deltas,
    lane::{Emitter, open},
    lanes::Lanes,
    room::Room,
    session::{Session, Write, lock, note_message},
    turn::{CallTool, Command, Durability, Ending, Turn, TurnEvent, TurnPlan},
    watch::{self, Asked},
};

/// Output updates of running tools that may wait; newer ones replace what is dropped.
const PROGRESS_MAX: usize = 64;

struct Running {
    index: usize,
    call_id: String,
    name: String,
    since: Instant,
}

pub(crate) struct Drive<'a> {
    lanes: &'a Lanes,
    room: &'a Arc<Room>,
    session: &'a Arc<Session>,
    settings: &'a Arc<AgentSettings>,
    row: &'a crate::SessionRow,
    begun: &'a Begun,
    emitter: &'a Emitter,
    turn: Turn,
    offer: Arc<dyn Offer>,
    system: Option<Arc<str>>,
    models: Vec<String>,
    stream: Option<BrainStream>,
    calls: JoinSet<Result<ToolOutput, ToolError>>,
    running: HashMap<Id, Running>,
    progress_in: mpsc::Sender<(usize, String)>,
    progress_out: mpsc::Receiver<(usize, String)>,
    deadline: Option<Instant>,
    deltas: Deltas,
    /// What calls are part of, for spans.
    traceparent: Option<String>,
    asked: Option<Asked>,
}

enum Done {
    Nothing,
    Event(TurnEvent),
    End(Box<Ending>),
    Halt,
}

impl<'a> Drive<'a> {
    #[expect(clippy::too_many_arguments, reason = "the parts of one turn, at hand in its only caller")]
    pub fn new(
        lanes: &'a Lanes,
        room: &'a Arc<Room>,
        session: &'a Arc<Session>,
        settings: &'a Arc<AgentSettings>,
        row: &'a crate::SessionRow,
        begun: &'a Begun,
        emitter: &'a Emitter,
        traceparent: Option<String>,
    ) -> Self {
        let options = &begun.letter.options;
        let offer = lanes.parts.toolbox.offer(&ToolScope {
            agent: room.agent.clone(),
            session: session.key.clone(),
            owner: is_owner(&begun.letter),
            spawn_depth: row.spawn_depth,
            deny: options.deny_tools.clone(),
        });
        let (steps_done, messages_done, open_calls) = match &begun.task {
            Task::Resumed { steps_done, messages_done, open_calls } => (*steps_done, *messages_done, open_calls.clone()),
            _ => Default::default(),
        };
        watch::broken_off(&lanes.parts.world.metrics, &open_calls);
        let turn = Turn::new(TurnPlan {
            run_id: begun.run_id.clone(),
            attempt: begun.attempt,
            steps_done,
            messages_done,
            open_calls,
            offer: Arc::clone(&offer),
            model_calls_max: settings.model_calls_max,
            parallel_max: settings.parallel_tools_max,
            timeout_ms: options.timeout_ms.unwrap_or(settings.timeout_ms),
            heartbeat: options.heartbeat,
            ack_chars_max: settings.heartbeat_ack_chars_max,
        });
        let (progress_in, progress_out) = mpsc::channel(PROGRESS_MAX);
        // A model that a person chose is the only one; the agent's own has its fallbacks.
        let models = match options.model.as_ref().or(row.model_override.as_ref()) {
            Some(chosen) => vec![chosen.clone()],
            None => settings.model.iter().chain(&settings.fallbacks).cloned().collect(),
        };
        Self {
            lanes,
            room,
            session,
            settings,
            row,
            begun,
            emitter,
            turn,
            offer,
            system: None,
            models,
            stream: None,
            calls: JoinSet::new(),
            running: HashMap::new(),
            progress_in,
            progress_out,
            deadline: None,
            deltas: Deltas::default(),
            traceparent,
            asked: None,
        }
    }

    /// The turn from begin to end; none when lanes stop.
    pub async fn go(&mut self) -> Option<Box<Ending>> {
        let mut events = VecDeque::from([TurnEvent::Started]);
        let closed = self.room.closed.clone();
        let session = Arc::clone(self.session);
        loop {
            while let Some(event) = events.pop_front() {
                for command in self.turn.step(event, self.lanes.now()) {
                    match self.carry_out(command).await {
                        Done::Nothing => {}
                        Done::Event(event) => events.push_back(event),
                        Done::End(ending) => return Some(ending),
                        Done::Halt => return None,
                    }
                }
            }
            if let Some(reason) = lock(&session.active).as_ref().and_then(|active| active.abort.clone()) {
                events.push_back(TurnEvent::Abort(reason));
                continue;
            }
            let flush_at = self.deltas.due();
            let deadline = self.deadline;
            tokio::select! { biased;
                () = closed.cancelled() => return None,
                () = session.wake.notified() => {}
                () = sleep_until(deadline), if deadline.is_some() => {
                    self.deadline = None;
                    events.push_back(TurnEvent::Deadline);
                }
                Some(ended) = self.calls.join_next_with_id(), if !self.calls.is_empty() => events.extend(self.call_ended(ended)),
                chunk = next_chunk(&mut self.stream), if self.stream.is_some() => events.extend(self.heard(chunk)),
                Some((index, output)) = self.progress_out.recv() => self.show_progress(index, output),
                () = sleep_until(flush_at), if flush_at.is_some() => self.flush_deltas(),
            }
        }
    }

    fn heard(&mut self, chunk: Option<Result<BrainChunk, clawstead_providers::ProviderError>>) -> Option<TurnEvent> {
        match chunk {
            None => {
                self.stream = None;
                self.answered(None);
                Some(TurnEvent::ModelDone)
            }
            Some(Err(err)) => {
                self.stream = None;
                self.answered(Some(err.kind.word()));
                Some(TurnEvent::ModelFailed(err))
            }
            Some(Ok(BrainChunk::Chosen { provider, model })) => {
                if let Some(asked) = &mut self.asked {
                    asked.chosen(&provider, &model);
                }
                Some(TurnEvent::Chosen { provider, model })
            }
            Some(Ok(BrainChunk::Fallback { from, to, failure, delay_ms })) => {
                self.flush_deltas();
                self.deltas.forget();
                if let Some(asked) = &mut self.asked {
                    asked.failover(&from, &to, &failure);
                }
                self.emitter.emit(RunEventKind::Fallback { from, to, failure, delay_ms });
                Some(TurnEvent::Fallback)
            }
            Some(Ok(BrainChunk::Piece(piece))) => {
                match &piece {
                    clawstead_providers::Chunk::Done(_) => {
                        self.stream = None;
                        self.answered(None);
                    }
                    clawstead_providers::Chunk::Usage(usage) => {
                        if let Some(asked) = &mut self.asked {
                            asked.used(usage);
                        }
                    }
                    _ => {}
                }
                Some(TurnEvent::Chunk(piece))
            }
        }
    }

    /// The model's answer is over; `failed` is the kind of failure.
    fn answered(&mut self, failed: Option<&str>) {
        if let Some(asked) = self.asked.take() {
            asked.ended(failed);
        }
    }

    async fn carry_out(&mut self, command: Command) -> Done {
        match command {
            Command::Delta { item_id, text } => {
                if self.deltas.add(item_id, &text, Instant::now()) {
                    self.flush_deltas();
                }
            }
            Command::Emit(kind) => {
                self.flush_deltas();
                self.emitter.emit(*kind);
            }
            Command::Persist(events, durability) => return self.persist(events, durability).await,
            Command::AskModel => return self.ask().await,
            Command::CancelModel => {
                self.stream = None;
                self.answered(Some("cancelled"));
                self.deltas.forget();
            }
            Command::CallTool(call) => self.call(call),
            Command::CancelTools => {
                self.calls.abort_all();
                self.running.clear();
            }
            Command::Boundary => return self.boundary().await,
            Command::Compact => return self.compact().await,
            Command::SetTimer(ms) => self.deadline = Instant::now().checked_add(Duration::from_millis(ms)),
            Command::End(ending) => {
                self.flush_deltas();
                return Done::End(ending);
            }
        }
        Done::Nothing
    }

    fn flush_deltas(&mut self) {
        if let Some((item_id, text, delta)) = self.deltas.take(Instant::now()) {
            self.emitter.emit(RunEventKind::Text { item_id, text, delta });
        }
    }

    /// Background writes are noted and flushed by their own task; awaited ones are insisted on.
    async fn persist(&mut self, events: Vec<JournalEvent>, durability: Durability) -> Done {
        self.flush_deltas();
        for event in &events {
            if let (Some(position), JournalEvent::Said { message }) = (self.session.note(event), event) {
                self.emitter.said(message, position);
            }
        }
        match durability {
            Durability::Soon => {
                let (lanes, room, session) = (self.lanes.clone(), Arc::clone(self.room), Arc::clone(self.session));
                self.lanes.parts.world.tasks.spawn(TaskKind::logged("flush"), async move {
                    let mut desk = session.desk.lock().await;
                    if session.has_notes()
                        && !room.closed.is_cancelled()
                        && let Err(err) = session.commit(&room, &*lanes.parts.store, &mut desk, Write::default(), lanes.now()).await
                    {
                        // The lines stay noted; the next write of this session takes them along.
                        tracing::warn!(session = %session.key, err = %err, "lines of a running turn wait for the store");
                    }
                    Ok::<(), String>(())
                });
                Done::Nothing
            }
            Durability::Awaited => {
                if self.lanes.insist(self.room, self.session, |_| Write::default()).await {
                    Done::Event(TurnEvent::Persisted)
                } else {
                    Done::Halt
                }
            }
        }
    }

    async fn ask(&mut self) -> Done {
        let system = self.system();
        let model = self.models.first().cloned().unwrap_or_default();
        let limits = self.lanes.parts.brain.limits(&self.room.agent, &model);
        let tools = self.offer.definitions();
        let fixed = compact::text_tokens(&system) + tools.iter().map(|tool| 32 + compact::text_tokens(&tool.description)).sum::<u64>();
        let used = fixed + self.session.ink().transcript.as_ref().map_or(0, crate::transcript::Transcript::tokens);
        if used > compact::threshold(&self.settings.compaction, limits.context_window) {
            let made = self.lanes.make_smaller(self.room, self.session, self.settings, &self.models, self.emitter, None, &self.begun.run_id).await;
            if made.is_none() {
                return Done::Halt;
            }
            if lock(&self.session.active).as_ref().is_some_and(|active| active.abort.is_some()) {
                return Done::Nothing;
            }
        }
        if self.begun.letter.options.status_events {
            self.emitter.emit(RunEventKind::Phase(RunPhase::StartingModel));
        }
        let options = &self.begun.letter.options;
        let messages = self.session.ink().transcript.as_ref().map(crate::transcript::Transcript::request).unwrap_or_default();
        let ask = BrainAsk {
            agent: self.room.agent.clone(),
            session: self.session.key.clone(),
            run: self.begun.run_id.clone(),
            models: self.models.clone(),
            system,
            messages: Arc::from(messages),
            tools,
            max_tokens: options.max_tokens.or(self.settings.max_tokens),
            temperature: options.temperature.or(self.settings.temperature),
            thinking: options.thinking.clone().or_else(|| self.row.thinking_level.clone()).or_else(|| self.settings.thinking.clone()),
            params: self.settings.params.clone(),
        };
        self.asked = Some(Asked::begin(&self.lanes.parts.world, self.traceparent.as_deref(), &model));
        self.stream = Some(open(self.lanes, ask));
        Done::Nothing
    }

    fn system(&mut self) -> Arc<str> {
        if let Some(system) = &self.system {
            return Arc::clone(system);
        }
        let options = &self.begun.letter.options;
        let light = options.light_context || self.session.key.is_cron() || self.session.key.is_subagent();
        let system = self.lanes.inner.contexts.prompt(&PromptFor {
            settings: self.settings,
            session: &self.session.key,
            depth: if light { Depth::Light } else { Depth::Full },
            heartbeat: options.heartbeat,
            extra: options.extra_system_prompt.as_deref(),
            model: self.models.first().map(String::as_str),
            now: self.lanes.now(),
        });
        self.system = Some(Arc::clone(&system));
        system
    }

    fn call(&mut self, call: CallTool) {
        let offer = Arc::clone(&self.offer);
        let (progress, mut output) = mpsc::channel::<String>(4);
        let cx = ToolCx {
            agent: self.room.agent.clone(),
            session: self.session.key.clone(),
            run: self.begun.run_id.clone(),
            owner: is_owner(&self.begun.letter),
            workspace: self.settings.workspace.clone(),
            settings: Arc::clone(&self.settings.tool_settings),
            effect_id: call.effect_id,
            world: self.lanes.parts.world.clone(),
            rpc: Arc::clone(&self.lanes.parts.rpc),
            progress,
        };
        let shown = self.progress_in.clone();
        let (room, store) = (Arc::clone(self.room), Arc::clone(&self.lanes.parts.store));
        let (index, name, arguments) = (call.index, call.name.clone(), call.arguments);
        let mut span = watch::tool_span(&cx.world.tracer, self.traceparent.as_deref(), &name);
        let traceparent = span.traceparent();
        let handle = self.calls.spawn(clawstead_world::penned(clawstead_world::trace::within(traceparent, async move {
            if !room.may_act(&*store).await {
                return Err(ToolError::Failed("it was not begun: this gateway may not act for the agent now".into()));
            }
            let work = offer.call(&name, cx, arguments);
            tokio::pin!(work);
            loop {
                tokio::select! { biased;
                    result = &mut work => {
                        if result.is_err() {
                            span.fail("error");
                        }
                        return result;
                    }
                    Some(text) = output.recv() => {
                        // Each item is all output so far: a dropped one is made good by the next.
                        let _ = shown.try_send((index, text));
                    }
                }
            }
        })));
        self.running.insert(handle.id(), Running { index, call_id: call.call_id, name: call.name, since: Instant::now() });
    }

    fn show_progress(&mut self, index: usize, output: String) {
        if let Some(call) = self.running.values().find(|call| call.index == index) {
            self.emitter.emit(RunEventKind::ToolUpdate { call_id: call.call_id.clone(), name: call.name.clone(), output });
        }
    }

    fn call_ended(&mut self, ended: Result<(Id, Result<ToolOutput, ToolError>), tokio::task::JoinError>) -> Option<TurnEvent> {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result),
            Err(err) if err.is_cancelled() => return None,
            Err(err) => {
                tracing::error!(session = %self.session.key, err = %err, "a tool panicked");
                self.lanes.parts.world.metrics.inc(clawstead_world::M::UncertainEffects, &["tool"]);
                (err.id(), Err(ToolError::Unknown("the tool broke off by a fault of the gateway".into())))
            }
        };
        let call = self.running.remove(&id)?;
        let is_error = result.is_err();
        watch::tool_ended(&self.lanes.parts.world.metrics, &call.name, is_error, call.since.elapsed());
        let (content, details) = match result {
            Ok(output) => (output.content, output.details),
            Err(err) => (vec![Part::text(err.to_string())], None),
        };
        self.flush_deltas();
        self.emitter.emit(RunEventKind::ToolEnd {
            call_id: call.call_id,
            name: call.name,
            content: content.clone(),
            details: details.clone(),
            is_error,
            duration_ms: u64::try_from(call.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
        Some(TurnEvent::ToolDone { index: call.index, content, details, is_error })
    }

    /// Letters that may join the running turn do so now, in the order they came; the first that may not keeps the
    /// rest waiting.
    async fn boundary(&mut self) -> Done {
        let now = self.lanes.now();
        // How many of the queue's front joined: counted while preparing, taken off when durable.
        let joined = AtomicUsize::new(0);
        let mut settled = Vec::new();
        let mut said: Vec<Message> = Vec::new();
        let (lanes, settings, begun) = (self.lanes, self.settings, self.begun);
        let peek = {
            let desk = self.session.desk.lock().await;
            !desk.queue.is_empty()
        };
        if !peek {
            return Done::Event(TurnEvent::Steered(0));
        }
        let stored = lanes
            .insist_then(
                self.room,
                self.session,
                |desk| {
                    let mut write = Write::default();
                    let mut taken = 0;
                    settled.clear();
                    said.clear();
                    for queued in desk.queue.clone() {
                        let quiet = queued.letter.kind != EnvelopeKind::Request;
                        let joins = crate::accept::mode_of(settings, &desk.row, &queued.letter) == clawstead_terms::QueueMode::Steer
                            && may_merge(&begun.letter, &queued.letter)
                            && crate::commands::of_letter(&queued.letter, &settings.reset_triggers).is_none();
                        if !quiet && (!joins || is_expired(&queued.letter, now)) {
                            break;
                        }
                        if quiet {
                            settled.push(lanes.settle_quietly(&mut desk.row, &queued, &mut write, now));
                        } else {
                            let message = crate::accept::said_by(&queued.letter, queued.letter.body.clone(), now);
                            note_message(&mut desk.row, &message);
                            write.events.push(JournalEvent::Said { message: Box::new(message.clone()) });
                            said.push(message);
                            lanes.merge(&mut desk.row, &queued, &begun.run_id, &mut write, now);
                            settled.push(crate::begin::merged_row(&desk.row, &queued, &begun.run_id, now));
                        }
                        taken += 1;
                    }
                    joined.store(taken, Ordering::Relaxed);
                    write
                },
                |desk| {
                    desk.queue.drain(..joined.load(Ordering::Relaxed));
                },
            )
            .await;
        if !stored {
            return Done::Halt;
        }
        let position = self.session.ink().position.saturating_sub(said.len() as u64);
        for (number, message) in said.iter().enumerate() {
            self.emitter.said(message, position + number as u64 + 1);
        }
        for row in &settled {
            self.lanes.announce_end(row);
        }
        Done::Event(TurnEvent::Steered(joined.load(Ordering::Relaxed)))
    }

    async fn compact(&mut self) -> Done {
        match self.lanes.make_smaller(self.room, self.session, self.settings, &self.models, self.emitter, None, &self.begun.run_id).await {
            Some(smaller) => Done::Event(TurnEvent::Compacted(smaller)),
            None => Done::Halt,
        }
    }
}

async fn next_chunk(stream: &mut Option<BrainStream>) -> Option<Result<BrainChunk, clawstead_providers::ProviderError>> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
