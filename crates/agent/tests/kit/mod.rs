//! A gateway's surroundings for lane tests: a brain that answers by what it reads, tools that keep count, a post that
//! leads back to the lanes, and a store that dies when told.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![allow(dead_code, reason = "each test file uses its part of the kit")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::Notify;

use clawstead_agent::{
    AgentSettings, Brain, BrainAsk, BrainChunk, BrainStream, LaneLimits, Lanes, ModelLimits, Offer, Parts, RunSink, SessionChange, ToolScope, Toolbox,
};
use clawstead_providers::{Chunk, ErrorKind, ProviderError};
use clawstead_state::{Batch, Image, MemoryStore, Row, Scan, Store, StoreCounters, Table, TxError};
use clawstead_terms::{
    Address, AgentId, EffectClass, Envelope, EnvelopeKind, Failure, Fence, Message, Millis, Origin, Part, Role, RunEvent, RunEventKind, SessionKey, StopReason,
    ToolDefinition, TurnOptions, Unit, Usage,
};
use clawstead_tools::{Rpc, ToolCaller, ToolCx, ToolError, ToolOutput};
use clawstead_world::{Accepted, Post, World};

pub fn agent(name: &str) -> AgentId {
    AgentId::normalise(name)
}

pub fn key(name: &str, rest: &str) -> SessionKey {
    SessionKey::of(&agent(name), rest)
}

pub fn letter(to: &SessionKey, run: &str, text: &str) -> Envelope {
    Envelope {
        id: format!("letter-{run}").into(),
        run_id: run.into(),
        kind: EnvelopeKind::Request,
        from: Origin::Client { client_id: "test".into(), device_id: None, owner: true },
        to: Address { agent: to.agent(), session: to.clone() },
        reply_to: None,
        cause: None,
        body: vec![Part::text(text)],
        options: TurnOptions::default(),
        path: Vec::new(),
        at: Millis(1_767_225_600_000),
        expires: None,
        traceparent: None,
    }
}

/// Answers by the last message: `hang` never answers, `exec x` / `put x` / `read x` call a tool, `fail kind` fails,
/// `say x` answers x, anything else is echoed; results of tools are answered with `done`.
#[derive(Default)]
pub struct Script {
    pub asks: Mutex<Vec<BrainAsk>>,
    pub asked: Notify,
    /// Lets answers to `wait` through, one permit each.
    pub gate: Option<Arc<tokio::sync::Semaphore>>,
    pub window: Option<u64>,
    pub fail_summaries: bool,
    /// Takes raw requests with calls and results out of order, as a damaged journal gives them.
    pub lenient: bool,
}

impl Script {
    pub fn texts(&self) -> Vec<Vec<String>> {
        self.asks.lock().unwrap().iter().map(|ask| ask.messages.iter().map(|m| shown(m)).collect()).collect()
    }
}

pub fn shown(message: &Message) -> String {
    let parts: Vec<String> = message
        .parts
        .iter()
        .map(|part| match part {
            Part::Text { text } => text.clone(),
            Part::ToolCall { name, arguments, .. } => format!("<{name} {}>", arguments["what"].as_str().unwrap_or("")),
            Part::ToolResult { content, is_error, .. } => {
                let text: Vec<&str> = content.iter().filter_map(|part| if let Part::Text { text } = part { Some(text.as_str()) } else { None }).collect();
                format!("{}{}", if *is_error { "!" } else { "=" }, text.join(" "))
            }
            other => format!("{other:?}"),
        })
        .collect();
    let who = match message.role {
        Role::User => "u",
        Role::Assistant => "a",
        Role::Tool => "t",
        Role::System => "s",
    };
    format!("{who}:{}", parts.join("|"))
}

/// Every call in a request has its one result before anybody else speaks.
pub fn check_pairs(messages: &[Arc<Message>]) {
    let mut open: Vec<&str> = Vec::new();
    for message in messages {
        for part in &message.parts {
            match part {
                Part::ToolResult { id, .. } => {
                    let at = open.iter().position(|call| call == id).unwrap_or_else(|| panic!("a result without a call: {id}"));
                    open.remove(at);
                }
                _ => assert!(open.is_empty() || matches!(part, Part::ToolCall { .. }), "calls without results: {open:?}"),
            }
            if let Part::ToolCall { id, .. } = part {
                open.push(id);
            }
        }
    }
    assert!(open.is_empty(), "calls without results: {open:?}");
}

#[async_trait]
impl Brain for Script {
    async fn ask(&self, ask: BrainAsk) -> Result<BrainStream, ProviderError> {
        if !self.lenient {
            check_pairs(&ask.messages);
        }
        let target = clawstead_providers::Target { provider: "mock", images: false, reasoning: false, call_ids: clawstead_providers::CallIds::Word40 };
        assert!(!clawstead_providers::repair(&ask.messages, &target).is_empty());
        let last = ask.messages.last().cloned();
        let words = last.as_ref().map(|m| m.plain_text()).unwrap_or_default();
        let is_result = last.as_ref().is_some_and(|m| m.role == Role::Tool);
        let number = ask.messages.len();
        let summary = ask.messages.first().is_some_and(|m| m.id.as_str() == "summary-request");
        self.asks.lock().unwrap().push(ask);
        self.asked.notify_waiters();
        let fail =
            |kind| Err(ProviderError { kind, provider: "mock".into(), model: "m".into(), message: "told to".into(), status: None, retry_after_ms: None });
        let mut out = vec![Ok(BrainChunk::Chosen { provider: "mock".into(), model: "m".into() })];
        let say = |text: &str| Ok(BrainChunk::Piece(Chunk::Text(text.into())));
        let mut stop = StopReason::Stop;
        if summary {
            if self.fail_summaries {
                return fail(ErrorKind::Overloaded);
            }
            out.push(say("NOTES"));
        } else if is_result {
            out.push(say("done"));
        } else {
            let line = words.lines().last().unwrap_or("").to_owned();
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match verb {
                "hang" => return Ok(stream::iter(out).chain(stream::pending()).boxed()),
                "wait" => {
                    if let Some(gate) = &self.gate {
                        gate.acquire().await.unwrap().forget();
                    }
                    out.push(say(&format!("waited {rest}")));
                }
                "fail" => {
                    return fail(match rest {
                        "content" => ErrorKind::Content,
                        "context" => ErrorKind::Context,
                        _ => ErrorKind::Auth,
                    });
                }
                "exec" | "put" | "read" | "slow" | "panic" => {
                    out.push(Ok(BrainChunk::Piece(Chunk::ToolCall { id: format!("call-{number}"), name: verb.into(), arguments: json!({ "what": rest }) })));
                    stop = StopReason::ToolUse;
                }
                "say" => out.push(say(rest)),
                _ => out.push(say(&format!("echo {line}"))),
            }
        }
        out.push(Ok(BrainChunk::Piece(Chunk::Usage(Usage { input: 10, output: 2, ..Usage::default() }))));
        out.push(Ok(BrainChunk::Piece(Chunk::Done(stop))));
        Ok(stream::iter(out).boxed())
    }

    fn limits(&self, _: &AgentId, _: &str) -> ModelLimits {
        ModelLimits { context_window: self.window.unwrap_or(200_000), output_max: 1_000 }
    }
}

/// What tools did, over all lives of a gateway: (tool, what, effect id).
pub type Effects = Arc<Mutex<Vec<(String, String, String)>>>;

#[derive(Clone, Default)]
pub struct Tools {
    pub effects: Effects,
    pub slow: Arc<tokio::sync::Notify>,
}

impl Toolbox for Tools {
    fn offer(&self, _: &ToolScope) -> Arc<dyn Offer> {
        Arc::new(self.clone())
    }
}

#[async_trait]
impl Offer for Tools {
    fn definitions(&self) -> Arc<[ToolDefinition]> {
        Arc::from(Vec::new())
    }

    fn class(&self, name: &str) -> Option<EffectClass> {
        match name {
            "read" => Some(EffectClass::Read),
            "put" => Some(EffectClass::Idempotent),
            "exec" | "slow" | "panic" => Some(EffectClass::Once),
            _ => None,
        }
    }

    async fn call(&self, name: &str, cx: ToolCx, args: Value) -> Result<ToolOutput, ToolError> {
        let what = args["what"].as_str().unwrap_or("").to_owned();
        self.effects.lock().unwrap().push((name.into(), what.clone(), cx.effect_id.clone()));
        match name {
            "slow" => self.slow.notified().await,
            "panic" => panic!("a tool that breaks"),
            _ => tokio::task::yield_now().await,
        }
        let _ = cx.progress.send("half".into()).await;
        Ok(ToolOutput::text(format!("did {what}")))
    }
}

#[derive(Default)]
pub struct Sink {
    pub events: Mutex<Vec<RunEvent>>,
    pub changes: Mutex<Vec<SessionChange>>,
    pub outbox: AtomicUsize,
}

impl Sink {
    /// What happened in a run, by kind.
    pub fn kinds(&self, run: &str) -> Vec<String> {
        self.events.lock().unwrap().iter().filter(|event| event.run_id.as_str() == run).map(|event| kind(&event.kind)).collect()
    }
}

pub fn kind(kind: &RunEventKind) -> String {
    match kind {
        RunEventKind::Said { message, position } => format!("said {position} {}", shown(message)),
        RunEventKind::Text { text, .. } => format!("text {text}"),
        RunEventKind::Finished { text, .. } => format!("finished {text}"),
        RunEventKind::Failed { error_kind, .. } => format!("failed {error_kind}"),
        RunEventKind::Aborted { reason, partial, .. } => format!("aborted {reason} {partial}"),
        RunEventKind::ToolStart { name, .. } => format!("start {name}"),
        RunEventKind::ToolUpdate { output, .. } => format!("update {output}"),
        RunEventKind::ToolEnd { name, is_error, .. } => format!("end {name} {is_error}"),
        RunEventKind::Model(chosen) => format!("model {}", chosen.is_some()),
        RunEventKind::Started => "started".into(),
        RunEventKind::Usage(_) => "usage".into(),
        RunEventKind::Compacted { .. } => "compacted".into(),
        other => format!("{other:?}"),
    }
}

impl RunSink for Sink {
    fn emit(&self, event: RunEvent) {
        self.events.lock().unwrap().push(event);
    }
    fn session_changed(&self, change: SessionChange) {
        self.changes.lock().unwrap().push(change);
    }
    fn outbox_grew(&self, _: &AgentId) {
        self.outbox.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Default)]
pub struct Loop(OnceLock<Lanes>);

#[async_trait]
impl Post for Loop {
    async fn deliver(&self, letter: Envelope) -> Result<Accepted, Failure> {
        self.0.get().ok_or_else(|| Failure::unavailable("not up yet", 10))?.accept(letter).await
    }
}

pub struct NoRpc;

#[async_trait]
impl Rpc for NoRpc {
    async fn call(&self, _: &ToolCaller, method: &str, _: Value) -> Result<Value, Failure> {
        Err(Failure::not_found(format!("no method {method} in tests")))
    }
}

pub struct House {
    pub lanes: Lanes,
    pub brain: Arc<Script>,
    pub tools: Tools,
    pub sink: Arc<Sink>,
    pub store: Arc<dyn Store>,
    pub workspace: tempfile::TempDir,
}

/// How a house differs from the plain one.
pub struct Build {
    pub store: Arc<dyn Store>,
    pub brain: Script,
    pub tools: Tools,
    pub limits: LaneLimits,
    pub change: fn(&mut AgentSettings),
    pub epoch: u64,
    pub seed: u64,
}

impl Default for Build {
    fn default() -> Self {
        Self {
            store: Arc::new(MemoryStore::new()),
            brain: Script::default(),
            tools: Tools::default(),
            limits: LaneLimits { runs_max: 4, ..LaneLimits::default() },
            change: |_| {},
            epoch: 1,
            seed: 1,
        }
    }
}

impl Build {
    pub async fn up(self) -> House {
        let workspace = tempfile::tempdir().unwrap();
        let mut agents = BTreeMap::new();
        for name in ["jerry", "bobby"] {
            let mut settings = AgentSettings::new(agent(name), workspace.path().join(name));
            settings.model = Some("mock/m".into());
            (self.change)(&mut settings);
            agents.insert(agent(name), Arc::new(settings));
        }
        let brain = Arc::new(self.brain);
        let sink = Arc::new(Sink::default());
        let post = Arc::new(Loop::default());
        let lanes = Lanes::new(Parts {
            world: World::simulated(self.seed),
            store: Arc::clone(&self.store),
            settings: Arc::new(agents),
            brain: Arc::clone(&brain) as Arc<dyn Brain>,
            toolbox: Arc::new(self.tools.clone()),
            sink: Arc::clone(&sink) as Arc<dyn RunSink>,
            post: Arc::clone(&post) as Arc<dyn Post>,
            rpc: Arc::new(NoRpc),
            limits: self.limits,
        });
        let _ = post.0.set(lanes.clone());
        for name in ["jerry", "bobby"] {
            let unit = Unit::Agent(agent(name));
            let fence = Fence { epoch: self.epoch, owner: "g".into(), incarnation: self.epoch };
            self.store.claim(&unit, &fence).await.unwrap();
            lanes.adopt(&agent(name), fence).await.unwrap();
        }
        House { lanes, brain, tools: self.tools, sink, store: self.store, workspace }
    }
}

impl House {
    pub async fn send(&self, letter: Envelope) -> clawstead_agent::RunRow {
        let run = letter.run_id.clone();
        self.lanes.accept(letter).await.unwrap();
        self.lanes.wait(&run, Duration::from_secs(600)).await.unwrap().expect("the run ended")
    }

    /// The conversation of a session as short lines.
    pub async fn said(&self, key: &SessionKey) -> Vec<String> {
        let history = self.lanes.history(key, clawstead_agent::HistoryPage::Newest { limit: 1000, skip: 0 }).await.unwrap();
        assert!(history.items.iter().enumerate().all(|(at, item)| item.position == at as u64 + 1), "positions count from 1");
        history.items.iter().map(|item| shown(&item.message)).collect()
    }

    /// Waits until the brain was asked so often.
    pub async fn asked(&self, times: usize) {
        loop {
            let notified = self.brain.asked.notified();
            if self.brain.asks.lock().unwrap().len() >= times {
                return;
            }
            notified.await;
        }
    }
}

/// When a store dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The batch is not written.
    Before,
    /// The batch is written, but nobody hears of it.
    After,
}

/// A store that hangs for ever at its n-th commit.
pub struct Dying {
    pub memory: MemoryStore,
    pub at: usize,
    pub death: Death,
    pub commits: AtomicUsize,
    pub dead: Arc<Notify>,
}

impl Dying {
    pub fn new(image: Image, at: usize, death: Death) -> Self {
        Self { memory: MemoryStore::on(image), at, death, commits: AtomicUsize::new(0), dead: Arc::new(Notify::new()) }
    }
}

#[async_trait]
impl Store for Dying {
    async fn claim(&self, unit: &Unit, fence: &Fence) -> Result<(), TxError> {
        self.memory.claim(unit, fence).await
    }
    async fn fence(&self, unit: &Unit) -> Result<Option<Fence>, TxError> {
        self.memory.fence(unit).await
    }
    async fn commit(&self, fence: &Fence, batch: Batch) -> Result<(), TxError> {
        let number = self.commits.fetch_add(1, Ordering::SeqCst) + 1;
        if number > self.at || (number == self.at && self.death == Death::Before) {
            self.dead.notify_one();
            return std::future::pending().await;
        }
        let done = self.memory.commit(fence, batch).await;
        if number == self.at {
            self.dead.notify_one();
            return std::future::pending().await;
        }
        done
    }
    async fn get(&self, unit: &Unit, table: Table, key: &str) -> Result<Option<Row>, TxError> {
        self.memory.get(unit, table, key).await
    }
    async fn scan(&self, unit: &Unit, table: Table, scan: &Scan) -> Result<Vec<Row>, TxError> {
        self.memory.scan(unit, table, scan).await
    }
    async fn read_journal(&self, unit: &Unit, journal: &str, from: u64, limit: usize) -> Result<Vec<(u64, String)>, TxError> {
        self.memory.read_journal(unit, journal, from, limit).await
    }
    async fn journal_end(&self, unit: &Unit, journal: &str) -> Result<u64, TxError> {
        self.memory.journal_end(unit, journal).await
    }
    async fn journals(&self, unit: &Unit, after: Option<&str>, limit: usize) -> Result<Vec<String>, TxError> {
        self.memory.journals(unit, after, limit).await
    }
    async fn units(&self) -> Result<Vec<Unit>, TxError> {
        self.memory.units().await
    }
    fn describe(&self) -> String {
        "memory".into()
    }
    fn counters(&self) -> StoreCounters {
        self.memory.counters()
    }
    async fn close(&self) {
        self.memory.close().await;
    }
}
