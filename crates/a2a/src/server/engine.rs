use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex as StdMutex, PoisonError},
};

use clawstead_terms::Millis;
use clawstead_world::{TaskKind, World};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Mutex, Semaphore};

use super::{
    host::{AgentProfile, Host, Peer, TaskRef, TurnStream},
    live::{Live, Record},
    run::{self, Durable},
    settings::Settings,
    store::{StoreError, Table, Tasks, Write},
};
use crate::proto::{A2aError, ErrorKind, Message, Part, Role, StreamResponse, Task, TaskState, TaskStatus, TaskStatusUpdateEvent, moment, stamp};

/// Most streams at a time.
pub(crate) const STREAMS_MAX: usize = 1024;

/// Most tasks one caller may have at work with one agent.
pub(crate) const OPEN_TASKS_PER_PEER_MAX: usize = 64;

/// Messages of one key wait at one of these doors.
const MESSAGE_DOORS: usize = 64;

/// When to come again when a bound is reached, milliseconds.
pub(crate) const RETRY_MS: u64 = 2_000;

/// A row of [`Table::ByTime`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TimeRow {
    pub context_id: String,
    pub state: TaskState,
    pub at_ms: i64,
}

/// Who calls which agent, and how.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub agent: Arc<AgentProfile>,
    pub peer: Peer,
    pub extensions: Vec<String>,
    /// The number of the last event a reader has seen.
    pub last_event: Option<u64>,
}

/// The tasks of all agents of this process.
pub(crate) struct Engine {
    pub host: Arc<dyn Host>,
    pub tasks: Arc<dyn Tasks>,
    pub world: World,
    pub settings: Settings,
    live: Mutex<BTreeMap<(String, String, String), Arc<Live>>>,
    pub doors: Vec<Mutex<()>>,
    pub streams: Arc<Semaphore>,
    pub sending: StdMutex<BTreeSet<(String, String)>>,
    /// By address: the tag of the card that was served last, and since when it says so.
    cards: StdMutex<BTreeMap<String, (String, Millis)>>,
}

impl Engine {
    pub fn new(host: Arc<dyn Host>, tasks: Arc<dyn Tasks>, world: World, settings: Settings) -> Self {
        Self {
            host,
            tasks,
            world,
            settings,
            live: Mutex::default(),
            doors: std::iter::repeat_with(Mutex::default).take(MESSAGE_DOORS).collect(),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            sending: StdMutex::default(),
            cards: StdMutex::default(),
        }
    }

    /// The task if it is the caller's, from memory or from the store.
    pub async fn load(&self, caller: &Caller, id: &str) -> Result<Arc<Live>, A2aError> {
        self.find(&caller.agent.id, &caller.peer, id).await?.ok_or_else(|| A2aError::no_task(id))
    }

    pub async fn find(&self, agent: &str, peer: &Peer, id: &str) -> Result<Option<Arc<Live>>, A2aError> {
        if !is_plain_id(id) {
            return Ok(None);
        }
        // Held over the read: two readers of one task must get the same one.
        let mut live = self.live.lock().await;
        let key = (agent.to_owned(), peer.key().to_owned(), id.to_owned());
        // One that was closed tells what was; the store knows what is.
        if let Some(found) = live.get(&key).filter(|found| !found.is_closed()) {
            return Ok(Some(Arc::clone(found)));
        }
        let Some(row) = self.tasks.get(agent, Table::Task, &task_key(peer, id)).await.map_err(away)? else { return Ok(None) };
        let record: Record =
            serde_json::from_value(row).map_err(|err| A2aError::new(ErrorKind::Internal, format!("The stored task {id} cannot be read: {err}")))?;
        let at = TaskRef { agent: agent.into(), peer: peer.clone(), task_id: id.into(), context_id: record.task.context_id.clone() };
        let found = Arc::new(Live::new(at, record));
        Self::sweep(&mut live);
        live.insert(key, Arc::clone(&found));
        Ok(Some(found))
    }

    /// Puts a new task into the store and into memory.
    pub async fn create(&self, at: TaskRef, record: Record, mut writes: Vec<Write>) -> Result<Arc<Live>, A2aError> {
        {
            let mut live = self.live.lock().await;
            Self::sweep(&mut live);
            let of_peer = live.values().filter(|one| one.at.agent == at.agent && one.at.peer == at.peer && !one.state().is_terminal()).count();
            if of_peer >= OPEN_TASKS_PER_PEER_MAX {
                return Err(A2aError::busy(format!("{OPEN_TASKS_PER_PEER_MAX} of your tasks are at work; let one end first"), RETRY_MS));
            }
        }
        // Nobody knows the id yet, so that nobody can ask between the two.
        writes.extend(rows(&at.peer, &record, None));
        self.tasks.commit(&at.agent, writes).await.map_err(away)?;
        let key = (at.agent.clone(), at.peer.key().to_owned(), at.task_id.clone());
        let made = Arc::new(Live::new(at, record));
        self.live.lock().await.insert(key, Arc::clone(&made));
        Ok(made)
    }

    /// Takes a task back that never began.
    pub async fn withdraw(&self, made: &Live, mut writes: Vec<Write>) -> Result<(), StoreError> {
        let at = &made.at;
        let indexed_ms = made.lock().record.indexed_ms;
        let key = task_key(&at.peer, &at.task_id);
        writes.extend([
            Write::Delete(Table::Task, key.clone()),
            Write::Delete(Table::Open, key.clone()),
            Write::Delete(Table::ByTime, time_key(&at.peer, indexed_ms, &at.task_id)),
        ]);
        for (push, _) in self.tasks.scan(&at.agent, Table::Push, &format!("{key}/"), None, super::push::CONFIGS_MAX).await? {
            writes.push(Write::Delete(Table::Push, push));
        }
        self.tasks.commit(&at.agent, writes).await?;
        self.live.lock().await.remove(&(at.agent.clone(), at.peer.key().to_owned(), at.task_id.clone()));
        made.close();
        Ok(())
    }

    /// Sends the readers of an agent's tasks away and hears no more of its turns.
    pub async fn release(&self, agent: &str) {
        let mut live = self.live.lock().await;
        live.retain(|(of, ..), one| {
            let stays = of != agent;
            if !stays {
                one.close();
            }
            stays
        });
    }

    /// Lets go of tasks that nobody holds.
    fn sweep(live: &mut BTreeMap<(String, String, String), Arc<Live>>) {
        live.retain(|_, one| Arc::strong_count(one) > 1);
    }

    /// Makes events happen to a task: stores the outcome if asked to, then tells the readers and the push targets. The
    /// caller holds the task's door.
    pub async fn publish(self: &Arc<Self>, live: &Arc<Live>, events: Vec<StreamResponse>, durable: Durable) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let mut record = live.lock().record.clone();
        for event in &events {
            record.task.apply(event);
            record.seq += 1;
        }
        if durable == Durable::Yes {
            let before = record.indexed_ms;
            record.indexed_ms = record.task.status.timestamp.as_deref().and_then(moment).map_or(before, |at| at.0);
            let mut writes = rows(&live.at.peer, &record, Some(before));
            let deliveries = self.deliveries(live, &record, &events).await?;
            let targets: BTreeSet<String> = deliveries.iter().map(|(config, _)| config.clone()).collect();
            writes.extend(deliveries.into_iter().map(|(_, write)| write));
            self.tasks.commit(&live.at.agent, writes).await?;
            live.publish(record, events);
            for config in targets {
                self.start_sending(&live.at.agent, &config);
            }
        } else {
            live.publish(record, events);
        }
        Ok(())
    }

    /// Stores a changed record that no events lead to. The caller holds the task's door.
    pub async fn replace(&self, live: &Live, mut record: Record, mut writes: Vec<Write>) -> Result<(), A2aError> {
        let before = live.lock().record.indexed_ms;
        record.indexed_ms = record.task.status.timestamp.as_deref().and_then(moment).map_or(before, |at| at.0);
        writes.extend(rows(&live.at.peer, &record, Some(before)));
        self.tasks.commit(&live.at.agent, writes).await.map_err(away)?;
        live.replace(record);
        Ok(())
    }

    /// Listens to a turn in the background.
    pub fn listen(self: &Arc<Self>, live: &Arc<Live>, turn: TurnStream) {
        let (engine, live, run) = (Arc::clone(self), Arc::clone(live), live.run());
        self.world.tasks.spawn::<_, StoreError>(TaskKind::logged("a2a turn"), async move {
            run::listen(engine, Arc::clone(&live), turn, &run.stop).await;
            live.over(&run);
            Ok(())
        });
    }

    pub fn now(&self) -> Millis {
        self.world.clock.now()
    }

    pub fn status_now(&self, at: &TaskRef, state: TaskState, words: Vec<Part>) -> TaskStatus {
        let message = (!words.is_empty()).then(|| Message {
            task_id: Some(at.task_id.clone()),
            context_id: Some(at.context_id.clone()),
            ..Message::new(self.world.rng.uuid(), Role::Agent, words)
        });
        TaskStatus { state, message, timestamp: Some(stamp(self.now())) }
    }

    pub fn status(&self, at: &TaskRef, state: TaskState, words: Vec<Part>) -> StreamResponse {
        let status = self.status_now(at, state, words);
        StreamResponse::StatusUpdate(TaskStatusUpdateEvent { task_id: at.task_id.clone(), context_id: at.context_id.clone(), status, metadata: None })
    }

    /// Since when, in the life of this process, the card at an address says this.
    pub fn card_since(&self, address: &str, tag: &str) -> Millis {
        let now = self.now();
        let mut cards = self.cards.lock().unwrap_or_else(PoisonError::into_inner);
        let known = cards.entry(address.to_owned()).or_insert_with(|| (tag.to_owned(), now));
        if known.0 != tag {
            *known = (tag.to_owned(), now);
        }
        known.1
    }

    pub fn is_sending(&self, agent: &str, config: &str) -> bool {
        !self.sending.lock().unwrap_or_else(PoisonError::into_inner).insert((agent.to_owned(), config.to_owned()))
    }

    pub fn sent_all(&self, agent: &str, config: &str) {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner).remove(&(agent.to_owned(), config.to_owned()));
    }
}

/// Does something to its end, whether or not somebody still waits for it: a request is dropped when its caller hangs up.
pub(crate) async fn whole<T: Send + 'static>(work: impl Future<Output = Result<T, A2aError>> + Send + 'static) -> Result<T, A2aError> {
    tokio::spawn(work).await.unwrap_or_else(|err| Err(A2aError::new(ErrorKind::Internal, format!("The request broke off inside: {err}"))))
}

/// The rows of a task as it is now; `before` is the time it was ordered by.
fn rows(peer: &Peer, record: &Record, before: Option<i64>) -> Vec<Write> {
    let task: &Task = &record.task;
    let key = task_key(peer, &task.id);
    let mut writes = Vec::new();
    if let Some(before) = before.filter(|before| *before != record.indexed_ms) {
        writes.push(Write::Delete(Table::ByTime, time_key(peer, before, &task.id)));
    }
    let state = task.status.state;
    writes.push(Write::Put(Table::Task, key.clone(), json!(record)));
    let row = TimeRow { context_id: task.context_id.clone(), state, at_ms: record.indexed_ms };
    writes.push(Write::Put(Table::ByTime, time_key(peer, record.indexed_ms, &task.id), json!(row)));
    if state.is_terminal() {
        writes.push(Write::Delete(Table::Open, key));
    } else if before.is_none() {
        writes.push(Write::Put(Table::Open, key, Value::Bool(true)));
    }
    writes
}

pub(crate) fn task_key(peer: &Peer, id: &str) -> String {
    format!("{}/{id}", peer.key())
}

/// Keys sort newest first.
pub(crate) fn time_key(peer: &Peer, at_ms: i64, id: &str) -> String {
    let inverted = u64::MAX - u64::try_from(at_ms).unwrap_or(0);
    format!("{}/{inverted:020}/{id}", peer.key())
}

/// Ids that can be part of a key: ours are UUIDs.
pub(crate) fn is_plain_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
}

pub(crate) fn away(err: StoreError) -> A2aError {
    tracing::error!(err = %err, "an A2A call could not reach the task store");
    A2aError { retry_after_ms: Some(RETRY_MS), ..A2aError::new(ErrorKind::Unavailable, "Tasks cannot be read or written right now; try again") }
}
