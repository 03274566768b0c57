//! The agents. A message's first word decides (`echo`, `ask`, `hang`, `pieces`, `fail`, `reject`, `reply`, `silent`, `late`, `busy`);
//! a message id that begins with a scenario's name of the compatibility kit decides before it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use clawstead_a2a::{
    proto::{Artifact, Message, Part},
    server::{AgentProfile, Host, Peer, Piece, Resumed, Started, Stopped, TaskRef, Turn, TurnEvent},
};
use clawstead_terms::Failure;
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// How long the kit's long-running task is at work, milliseconds: twice the time after which the kit looks again.
const LONG_MS: u64 = 4_000;

struct Running {
    stop: CancellationToken,
    stopped: CancellationToken,
}

/// Agents `echo` and `other`.
#[derive(Default)]
pub struct EchoHost {
    running: Mutex<BTreeMap<String, Running>>,
    started: Mutex<Vec<String>>,
    gate: Gate,
}

/// Each piece of `pieces` waits for a permit.
struct Gate(Arc<Semaphore>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }
}

impl EchoHost {
    /// The keys of all turns that were started, in order.
    pub fn started(&self) -> Vec<String> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many turns are at work.
    pub fn at_work(&self) -> usize {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Lets that many more pieces through.
    pub fn let_through(&self, pieces: usize) {
        self.gate.0.add_permits(pieces);
    }

    /// Waits at the gate.
    async fn pass(&self) {
        if let Ok(permit) = self.gate.0.acquire().await {
            permit.forget();
        }
    }

    fn begin(self: &Arc<Self>, turn: Turn) -> Started {
        self.started.lock().unwrap_or_else(PoisonError::into_inner).push(turn.key.clone());
        if let Some(parts) = at_once(&turn.message) {
            return Started::Reply(parts);
        }
        Started::Turn(self.work(turn).boxed())
    }

    fn work(self: &Arc<Self>, turn: Turn) -> impl stream::Stream<Item = TurnEvent> + Send + use<> {
        let (tell, told) = mpsc::channel(64);
        let (stop, stopped) = (CancellationToken::new(), CancellationToken::new());
        let running = Running { stop: stop.clone(), stopped: stopped.clone() };
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(turn.task.task_id.clone(), running);
        let house = Arc::clone(self);
        tokio::spawn(async move {
            let _mark = stopped.drop_guard();
            let id = turn.task.task_id.clone();
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = act(&house.gate.0, &turn, &tell) => {}
            }
            house.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
        stream::unfold(told, |mut told| async move { Some((told.recv().await?, told)) })
    }
}

/// The house as the server sees it: its agents, and the media types they take.
#[derive(Default)]
pub struct House {
    pub agents: Arc<EchoHost>,
    pub takes: Vec<String>,
}

#[async_trait]
impl Host for House {
    fn agents(&self) -> Vec<Arc<AgentProfile>> {
        let profile = |id: &str, name: &str| {
            Arc::new(AgentProfile {
                id: id.into(),
                name: name.into(),
                description: format!("{name} says what you say"),
                version: "1.0.0".into(),
                input_modes: self.takes.clone(),
                ..AgentProfile::default()
            })
        };
        vec![profile("echo", "Echo"), profile("other", "Other")]
    }

    fn extended(&self, agent: &str, peer: &Peer) -> Option<Arc<AgentProfile>> {
        let public = self.agent(agent)?;
        Some(Arc::new(AgentProfile { description: format!("{}, {}", public.description, peer.key()), ..AgentProfile::clone(&public) }))
    }

    async fn start(&self, turn: Turn) -> Result<Started, Failure> {
        if turn.message.text() == "busy" {
            return Err(Failure::busy("The lane of this session is full", 3_000));
        }
        if first_word(&turn.message) == "late" {
            self.agents.pass().await;
        }
        Ok(self.agents.begin(turn))
    }

    async fn cancel(&self, task: &TaskRef) -> Result<Stopped, Failure> {
        let found = self.agents.running.lock().unwrap_or_else(PoisonError::into_inner).get(&task.task_id).map(|one| (one.stop.clone(), one.stopped.clone()));
        if let Some((stop, stopped)) = found {
            stop.cancel();
            stopped.cancelled().await;
        }
        Ok(Stopped::Yes)
    }

    async fn resume(&self, turn: Turn) -> Result<Resumed, Failure> {
        if first_word(&turn.message) == "hang" {
            return Ok(Resumed::Lost("The house was restarted while the agent was at work".into()));
        }
        match self.agents.begin(turn) {
            Started::Turn(events) => Ok(Resumed::Turn(events)),
            Started::Reply(_) => Ok(Resumed::Lost("Nothing is known of it".into())),
        }
    }
}

fn first_word(message: &Message) -> String {
    message.text().split_whitespace().next().unwrap_or_default().to_owned()
}

fn at_once(message: &Message) -> Option<Vec<Part>> {
    if message.message_id.starts_with("tck-message-response") {
        return Some(vec![Part::text("Direct message response")]);
    }
    (first_word(message) == "reply").then(|| vec![Part::text("at once")])
}

async fn act(gate: &Semaphore, turn: &Turn, tell: &mpsc::Sender<TurnEvent>) {
    let events = match scenario(&turn.message.message_id) {
        Some(events) => events,
        None => return obey(gate, turn, tell).await,
    };
    for event in events {
        let Step::Tell(event) = event else {
            tokio::time::sleep(Duration::from_millis(LONG_MS)).await;
            continue;
        };
        if tell.send(event).await.is_err() {
            return;
        }
    }
}

async fn obey(gate: &Semaphore, turn: &Turn, tell: &mpsc::Sender<TurnEvent>) {
    let text = turn.message.text();
    let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
    let say = |event| async { tell.send(event).await.is_ok() };
    match word {
        "ask" => drop(say(TurnEvent::InputRequired(vec![Part::text("Which one?")])).await),
        "fail" => drop(say(TurnEvent::Failed(format!("It did not work: {rest}"))).await),
        "reject" => drop(say(TurnEvent::Rejected("I will not do that".into())).await),
        "silent" => {}
        "hang" => {
            let _ = say(TurnEvent::Working(vec![Part::text("at it")])).await;
            std::future::pending::<()>().await;
        }
        "pieces" => {
            let _ = say(TurnEvent::Working(Vec::new())).await;
            for piece in rest.split(' ') {
                match gate.acquire().await {
                    Ok(permit) => permit.forget(),
                    Err(_) => return,
                }
                if !say(TurnEvent::Text(format!("{piece} "))).await {
                    return;
                }
            }
            let _ = say(TurnEvent::Done { answer: vec![Part::text(rest)], words: Vec::new() }).await;
        }
        _ => {
            let _ = say(TurnEvent::Working(Vec::new())).await;
            let answer = if word == "echo" { rest.to_owned() } else { format!("{} heard: {text}", turn.task.agent) };
            for piece in answer.split_inclusive(' ') {
                let _ = say(TurnEvent::Text(piece.to_owned())).await;
            }
            let _ = say(TurnEvent::Done { answer: vec![Part::text(answer)], words: Vec::new() }).await;
        }
    }
}

enum Step {
    Tell(TurnEvent),
    Wait,
}

fn whole(part: Part) -> TurnEvent {
    TurnEvent::Artifact { artifact: Artifact::new("made", vec![part]), piece: Piece::Whole }
}

fn done(words: &str) -> TurnEvent {
    let words = if words.is_empty() { Vec::new() } else { vec![Part::text(words)] };
    TurnEvent::Done { answer: Vec::new(), words }
}

/// What the compatibility kit expects of a system under test, by the beginning of the message id.
fn scenario(id: &str) -> Option<Vec<Step>> {
    let working = || TurnEvent::Working(Vec::new());
    let streamed = |text: &str| vec![working(), whole(Part::text(text)), done("")];
    let file = || Part::file(b"file content", "output.txt", "text/plain");
    let scenarios: Vec<(&str, Vec<TurnEvent>)> = vec![
        ("tck-complete-task", vec![done("Hello from TCK")]),
        ("tck-artifact-text", vec![whole(Part::text("Generated text content")), done("")]),
        ("tck-artifact-file-url", vec![whole(Part::link("https://example.com/output.txt", "output.txt", "text/plain")), done("")]),
        ("tck-artifact-file", vec![whole(file()), done("")]),
        ("tck-artifact-data", vec![whole(Part::data(json!({"key": "value", "count": 42}))), done("")]),
        ("tck-input-required", vec![TurnEvent::InputRequired(Vec::new())]),
        ("tck-reject-task", vec![TurnEvent::Rejected("rejected".into())]),
        ("tck-stream-001", streamed("Stream hello from TCK")),
        ("tck-stream-002", vec![done("")]),
        ("tck-stream-003", streamed("Stream task lifecycle")),
        ("tck-stream-ordering-001", streamed("Ordered output")),
        ("tck-stream-artifact-text", streamed("Streamed text content")),
        ("tck-stream-artifact-file", vec![working(), whole(file()), done("")]),
        (
            "tck-stream-artifact-chunked",
            vec![
                working(),
                TurnEvent::Artifact { artifact: Artifact::new("made", vec![Part::text("chunk-1 ")]), piece: Piece::First },
                TurnEvent::Artifact { artifact: Artifact::new("made", vec![Part::text("chunk-2")]), piece: Piece::Last },
                done(""),
            ],
        ),
    ];
    if id.starts_with("test-resubscribe-message-id") || id.starts_with("tck-test-resubscribe-message-id") {
        return Some(vec![Step::Tell(working()), Step::Wait, Step::Tell(done(""))]);
    }
    let found = scenarios.into_iter().find(|(prefix, _)| id.starts_with(prefix))?;
    Some(found.1.into_iter().map(Step::Tell).collect())
}
