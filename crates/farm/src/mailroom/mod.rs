//! Letters to and from other gateways: the outbox and the inbox of every unit held here, carried out as the state
//! machines of `cluster::letter` say.
//!
//! One task, the [clerk](clerk), holds what is going on and decides; a second one writes. What a decision asks for is done
//! after the rows that say so are durable. So a crash at any point loses only attempts, receipts and questions, which are
//! made again, and never a letter or the knowledge that it was handled.

mod bodies;
mod by_hand;
mod carrying;
mod clerk;
mod inbox;
mod receipts;
mod rows;
mod seams;
mod writer;
mod writing;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use clawstead_bus::Bus;
use clawstead_cluster::{
    Now,
    envelope::Envelope,
    keys::{GatewayKey, KeyRing},
    letter::Timing,
    policy::Policy,
};
use clawstead_state::{
    Scan, Table,
    keeper::{Keeper, sort},
};
use clawstead_terms::{Envelope as Letter, Failure, FailureCode, RunId, RunStatus, Unit};
use clawstead_world::{Accepted, TaskKind, World};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};

pub use bodies::Peers;
pub use rows::{DeadRow, Head, OUT, Outcome, RemoteRun, SentRow, TakenRow, Told, env_key, out_key};
pub use seams::{Handled, Handler, Incoming, Place, Places, Silent, Witness};

/// A body of this kind is a question: `{method, params}`.
pub const CALL_CONTENT_TYPE: &str = "application/vnd.clawstead.call+json";
/// A body of this kind says what became of a request: an [`Outcome`].
pub const RESULT_CONTENT_TYPE: &str = "application/vnd.clawstead.result+json";
/// What is needed to ask.
pub const READ_CAPABILITY: &str = "sessions.read";
/// What is needed to answer.
pub const REPLY_CAPABILITY: &str = "reply";
/// How long a letter waits for its target when nobody says otherwise, ms: an hour.
pub const LETTER_TTL_DEFAULT_MS: u64 = 3_600_000;
/// Requests that wait for the clerk at most; more are told `Busy`.
const COMMANDS_MAX: usize = 4096;
/// Runs elsewhere that are read when somebody asks for one.
const RUNS_READ_MAX: usize = 16;

/// What a mailroom works with.
#[derive(Clone)]
pub struct Parts {
    /// Clock, chance, tasks.
    pub world: World,
    /// The store, with our fences.
    pub keeper: Keeper,
    /// The carrier.
    pub bus: Arc<dyn Bus>,
    /// The farm's name.
    pub farm: String,
    /// Ours.
    pub gateway: String,
    /// The key that signs.
    pub key: Arc<ArcSwap<GatewayKey>>,
    /// Who may sign.
    pub ring: Arc<RwLock<KeyRing>>,
    /// Who may ask what.
    pub policy: Arc<ArcSwap<Policy>>,
    /// Who lives where.
    pub places: Arc<dyn Places>,
    /// Does the work.
    pub handler: Arc<dyn Handler>,
    /// Hears of transitions.
    pub witness: Arc<dyn Witness>,
    /// How long is waited for answers.
    pub timing: Timing,
    /// Where boot time begins.
    pub began: tokio::time::Instant,
    /// Where large bodies are had from; none without links.
    pub peers: Option<Arc<dyn Peers>>,
    /// What an operator may change while it runs.
    pub rules: Arc<ArcSwap<Rules>>,
}

/// Rules of a mailroom that an operator may change while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long a letter that names no time waits for its target, ms (`farm.letterTtl`); at most a day.
    pub letter_ttl_ms: u64,
    /// Key prefixes below which unsigned letters are taken (`farm.acceptUnsigned`).
    pub accept_unsigned: Vec<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { letter_ttl_ms: LETTER_TTL_DEFAULT_MS, accept_unsigned: Vec::new() }
    }
}

impl Parts {
    /// The two times.
    #[must_use]
    pub fn now(&self) -> Now {
        Now { wall: self.world.clock.now(), mono_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX) }
    }
}

type Waiting = HashMap<(String, String), watch::Sender<Option<Arc<RemoteRun>>>>;

/// The mailroom of one gateway. Clones are the same one.
#[derive(Clone)]
pub struct Mailroom {
    parts: Arc<Parts>,
    commands: mpsc::Sender<clerk::Command>,
    waiting: Arc<Mutex<Waiting>>,
    /// The body that was asked for last: it is fetched piece by piece.
    served: Arc<Mutex<Option<(String, bytes::Bytes)>>>,
}

fn lock(waiting: &Mutex<Waiting>) -> std::sync::MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mailroom {
    /// Opens it: reads what is unfinished in `units`, takes their boxes and ours, and goes on.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(parts: Parts, units: &[Unit]) -> Result<Self, Failure> {
        let parts = Arc::new(parts);
        let (commands, inbound) = mpsc::channel(COMMANDS_MAX);
        let waiting = Arc::new(Mutex::new(Waiting::new()));
        let room = Self { parts: Arc::clone(&parts), commands: commands.clone(), waiting: Arc::clone(&waiting), served: Arc::default() };
        let mut clerk = clerk::Clerk::new(Arc::clone(&parts), commands, waiting);
        for unit in units {
            clerk.take_over(unit).await?;
        }
        let stop = parts.world.tasks.stopping();
        parts.world.tasks.spawn::<_, Failure>(TaskKind::vital("mailroom"), async move {
            clerk.work(inbound, stop).await;
            Ok(())
        });
        Ok(room)
    }

    /// Takes a letter for an agent elsewhere. `Ok` means that it is stored here and will be carried until its receiver
    /// has it, or end as a dead letter with a reason.
    ///
    /// # Errors
    /// `Busy` when too much waits, `Forbidden` when such a letter does not travel, otherwise what the store says.
    pub async fn send(&self, mut letter: Letter) -> Result<Accepted, Failure> {
        let span = self.parts.world.tracer.begin("openclaw.farm.send", clawstead_world::SpanKind::Producer, letter.traceparent.as_deref());
        letter.traceparent = span.traceparent();
        let run = letter.run_id.as_str().to_owned();
        let agent = letter.to.agent.to_string();
        match self.post(clerk::Post::Letter(Box::new(letter))).await? {
            clerk::Posted::Stored => Ok(Accepted::Stored),
            clerk::Posted::Known => {
                let status = self.find(&run).await?.filter(|row| row.agent == agent).and_then(|row| row.outcome).map_or(RunStatus::Running, |end| end.status);
                Ok(Accepted::Duplicate(status))
            }
        }
    }

    /// Asks an agent elsewhere something about its sessions, as the agent `from`, and waits for the answer.
    ///
    /// # Errors
    /// What the other side said; `Unavailable` when it did not answer within `limit`.
    pub async fn call(&self, from: &Unit, to: &Unit, method: &str, params: Value, limit: Duration) -> Result<Value, Failure> {
        let run = self.parts.world.rng.uuid();
        let body = json!({"method": method, "params": params});
        let ttl = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let question = clerk::Question { run: run.clone(), from: from.clone(), to: to.clone(), body, ttl_ms: ttl };
        let agent = clawstead_cluster::names::unit_party(to).unwrap_or_default();
        let mut heard = self.listen(&run, &agent);
        self.post(clerk::Post::Question(Box::new(question))).await?;
        let end = tokio::time::timeout(limit, heard.wait_for(Option::is_some)).await;
        let outcome = match end {
            Ok(Ok(row)) => row.as_ref().and_then(|row| row.outcome.clone()),
            _ => None,
        };
        lock(&self.waiting).remove(&(run, agent.clone()));
        match outcome {
            Some(Outcome { failure: Some(failure), .. }) => Err(failure),
            Some(Outcome { value: Some(value), .. }) => Ok(value),
            Some(_) => Ok(Value::Null),
            None => Err(Failure::unavailable(format!("{agent} did not answer within {} s", limit.as_secs()), 1_000)),
        }
    }

    async fn post(&self, post: clerk::Post) -> Result<clerk::Posted, Failure> {
        let (reply, answer) = oneshot::channel();
        let busy = || Failure::busy("too many letters wait to be written", 200);
        self.commands.try_send(clerk::Command::Post { post, reply }).map_err(|_| busy())?;
        answer.await.unwrap_or_else(|_| Err(Failure::unavailable("the gateway stops", 1_000)))
    }

    fn served(&self) -> std::sync::MutexGuard<'_, Option<(String, bytes::Bytes)>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, run: &str, agent: &str) -> watch::Receiver<Option<Arc<RemoteRun>>> {
        lock(&self.waiting).entry((run.to_owned(), agent.to_owned())).or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    /// What is known of a run elsewhere.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn find(&self, run: &str) -> Result<Option<RemoteRun>, Failure> {
        for (unit, _) in self.parts.keeper.claims.all() {
            let scan = Scan::prefix(format!("{}{run}/", rows::ASKED)).limit(RUNS_READ_MAX);
            let asked = self.parts.keeper.scan::<String>(&unit, Table::Meta, &scan).await?;
            let Some(message_id) = asked.into_iter().next().map(|row| row.value) else { continue };
            return self.parts.keeper.get(&unit, Table::Meta, &rows::run_key(&message_id)).await;
        }
        Ok(None)
    }

    /// Waits until a run elsewhere has ended. None when nobody knows the run, or the time is over.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn wait(&self, run: &RunId, limit: Duration) -> Result<Option<RemoteRun>, Failure> {
        let Some(known) = self.find(run.as_str()).await? else { return Ok(None) };
        if known.outcome.is_some() {
            return Ok(Some(known));
        }
        let mut heard = self.listen(run.as_str(), &known.agent);
        // It may have ended between the two looks.
        if let Some(row) = self.find(run.as_str()).await?.filter(|row| row.outcome.is_some()) {
            return Ok(Some(row));
        }
        match tokio::time::timeout(limit, heard.wait_for(Option::is_some)).await {
            Ok(Ok(row)) => Ok(row.as_deref().cloned()),
            _ => Ok(None),
        }
    }

    /// From now on this unit is held here: its letters go on, its box is taken.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn take_over(&self, unit: Unit) -> Result<(), Failure> {
        self.ask(|reply| clerk::Command::TakeOver { unit, reply }).await?
    }

    /// The unit is somebody else's from now on.
    pub async fn let_go(&self, unit: Unit) {
        let _ = self.commands.send(clerk::Command::LetGo { unit }).await;
    }

    /// Something about places, keys or policy changed: what waited for it goes on.
    pub fn look_again(&self) {
        // A full queue means that it looks again soon anyway.
        let _ = self.commands.try_send(clerk::Command::LookAgain);
    }

    /// Ends a letter that has not ended, with this reason.
    ///
    /// # Errors
    /// `NotFound` when it is not on its way.
    pub async fn give_up(&self, message_id: &str, code: &'static str) -> Result<(), Failure> {
        let id = message_id.to_owned();
        self.ask(|reply| clerk::Command::GiveUp { id, code, reply }).await?
    }

    /// Sends a new letter in place of a dead one; answers with its id.
    ///
    /// # Errors
    /// `NotFound` when there is no such dead letter, `InvalidRequest` when it was replayed already.
    pub async fn replay(&self, unit: &Unit, message_id: &str) -> Result<String, Failure> {
        let dead: DeadRow =
            self.parts.keeper.get(unit, Table::DeadLetters, message_id).await?.ok_or_else(|| Failure::not_found(format!("no dead letter {message_id}")))?;
        if let Some(id) = &dead.replayed_as {
            return Err(Failure::invalid(format!("{message_id} was replayed as {id}")));
        }
        let body = bodies::sent_body(&self.parts, unit, &dead.letter).await?;
        if dead.letter.body_ref.is_some() && body.is_none() {
            return Err(Failure::internal(format!("the body of {message_id} is not in the store any more; it cannot be sent again")));
        }
        let unit = unit.clone();
        self.ask(|reply| clerk::Command::Replay { unit, dead: Box::new(dead), body, reply }).await?
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> clerk::Command) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        let stopped = || Failure::unavailable("the gateway stops", 1_000);
        self.commands.send(command(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())
    }

    /// Letters on their way and letters that ended lately, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn sent(&self, unit: &Unit, limit: usize) -> Result<Vec<SentRow>, Failure> {
        let scan = Scan::prefix(OUT).limit(limit).newest_first();
        Ok(self.parts.keeper.scan::<SentRow>(unit, Table::Outbox, &scan).await?.into_iter().map(|row| row.value).collect())
    }

    /// Letters that came, in no order that means anything.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn taken(&self, unit: &Unit, limit: usize) -> Result<Vec<TakenRow>, Failure> {
        let scan = Scan::prefix(rows::IN).limit(limit);
        Ok(self.parts.keeper.scan::<TakenRow>(unit, Table::Inbox, &scan).await?.into_iter().map(|row| row.value).collect())
    }

    /// Dead letters, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn dead(&self, unit: &Unit, limit: usize) -> Result<Vec<DeadRow>, Failure> {
        let scan = Scan::prefix("").limit(limit).newest_first();
        Ok(self.parts.keeper.scan::<DeadRow>(unit, Table::DeadLetters, &scan).await?.into_iter().map(|row| row.value).collect())
    }

    /// Removes a dead letter for good.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn drop_dead(&self, unit: &Unit, message_id: &str) -> Result<(), Failure> {
        let found: Option<DeadRow> = self.parts.keeper.get(unit, Table::DeadLetters, message_id).await?;
        let dead = found.ok_or_else(|| Failure::not_found(format!("no dead letter {message_id}")))?;
        let mut batch = clawstead_state::Batch::new(unit.clone()).delete(Table::DeadLetters, message_id);
        if let Some(key) = bodies::sent_key(&dead.letter) {
            batch = batch.delete(Table::Outbox, key);
        }
        self.parts.keeper.commit(batch).await.map_err(sort)
    }

    /// Removes rows that nobody needs any more: letters that ended an hour ago, receipts of letters that can only come
    /// late, runs of a week ago. At most 500 of each kind.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn prune(&self, unit: &Unit) -> Result<(), Failure> {
        inbox::prune(&self.parts, unit).await
    }
}

/// How a letter that cannot travel is refused.
fn untravelled(err: &clawstead_cluster::envelope::LetterError) -> Failure {
    Failure::new(FailureCode::Forbidden, err.to_string())
}

/// The envelope that a row of the store holds.
async fn envelope_of(parts: &Parts, unit: &Unit, message_id: &str) -> Result<Option<Envelope>, Failure> {
    clawstead_state::get_json(parts.keeper.store.as_ref(), unit, Table::Outbox, &env_key(message_id)).await.map_err(sort).map(|row| row.map(|row| row.value))
}
