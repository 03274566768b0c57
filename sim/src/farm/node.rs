//! One gateway of a farm: a whole building in a pen, on a store and engines that can be taken from it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use clawstead_agent::{LetterRow, OutboxRow, OutboxState};
use clawstead_bus::memory::Part;
use clawstead_cluster::{envelope::MailState, keys::GatewayKey};
use clawstead_farm::mailroom::{OUT, SentRow};
use clawstead_state::{Crash, Image, MemoryStore, Scan, Store as _, Table, TxError, scan_json};
use clawstead_terms::{AgentId, Failure, Unit};
use clawstead_world::Pen;

use super::{
    land::Land,
    plan::{GatewayPlan, Storage},
    raising::{Raised, Site, raise},
};
use crate::{
    actors::{clock::WallClock, store::Death},
    scenario::{LifePlan, StoreFault},
};

/// Whoever looks after a gateway starts it again after this time.
const START_AGAIN: Duration = Duration::from_secs(1);

struct State {
    up: Option<(Pen, Arc<Raised>)>,
    pen: Pen,
    memory: MemoryStore,
    key: GatewayKey,
    cuts: BTreeMap<Part, u32>,
    store_cuts: u32,
    counts: BTreeMap<(&'static str, String), u64>,
}

/// See the module.
pub struct Node {
    /// What happens to it.
    pub plan: GatewayPlan,
    /// Its wall clock.
    pub clock: WallClock,
    /// How wrong that is.
    pub skew_ms: Arc<AtomicI64>,
    /// Where it keeps its rows.
    pub storage: Storage,
    /// True when its bad lives are over.
    pub settled: AtomicBool,
    state: Mutex<State>,
    restart: Notify,
    over: CancellationToken,
    lives: AtomicU64,
}

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Again,
    ForGood,
}

impl Node {
    /// A gateway that does not run yet.
    #[must_use]
    pub fn new(plan: GatewayPlan, storage: Storage, memory: MemoryStore, key: GatewayKey) -> Arc<Self> {
        let skew_ms = Arc::new(AtomicI64::new(plan.skew_ms));
        let state = State { up: None, pen: Pen::new(), memory, key, cuts: BTreeMap::new(), store_cuts: 0, counts: BTreeMap::new() };
        Arc::new(Self {
            plan,
            clock: WallClock::of_life(0, Arc::clone(&skew_ms)),
            skew_ms,
            settled: AtomicBool::new(false),
            storage,
            state: Mutex::new(state),
            restart: Notify::new(),
            over: CancellationToken::new(),
            lives: AtomicU64::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gateway, while it runs.
    #[must_use]
    pub fn up(&self) -> Option<Arc<Raised>> {
        self.state().up.as_ref().map(|(_, raised)| Arc::clone(raised))
    }

    /// Its store below the faults.
    #[must_use]
    pub fn memory(&self) -> MemoryStore {
        self.state().memory.clone()
    }

    /// What is durable.
    #[must_use]
    pub fn image(&self) -> Image {
        self.memory().image()
    }

    /// The key that signs from its next start on.
    #[must_use]
    pub fn key(&self) -> GatewayKey {
        self.state().key.clone()
    }

    /// Events of all its lives by name and reason.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<(&'static str, String), u64> {
        self.state().counts.clone()
    }

    /// Does something in it. None when it does not run, or dies before the answer.
    pub async fn call<T, F, W>(&self, work: W) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
        W: FnOnce(Arc<Raised>) -> F,
    {
        let (pen, raised) = self.state().up.clone()?;
        let (told, heard) = oneshot::channel();
        let work = work(raised);
        pen.spawn(async move {
            let _ = told.send(work.await);
        });
        heard.await.ok()
    }

    /// It stands still for so long.
    pub async fn pause(&self, length: Duration) {
        let pen = self.state().pen.clone();
        pen.hold();
        tokio::time::sleep(length).await;
        pen.release();
    }

    /// It does not reach a part of what gateways share.
    pub async fn cut(&self, land: &Land, part: Part, length: Duration) {
        *self.state().cuts.entry(part).or_default() += 1;
        land.memory.cut(self.plan.name, part);
        tokio::time::sleep(length).await;
        let left = {
            let mut state = self.state();
            let left = state.cuts.entry(part).or_default();
            *left = left.saturating_sub(1);
            *left
        };
        if left == 0 {
            land.memory.heal(self.plan.name, part);
        }
    }

    /// It does not reach its store.
    pub async fn cut_store(&self, length: Duration) {
        self.state().store_cuts += 1;
        self.memory().disconnect("simulated");
        tokio::time::sleep(length).await;
        let mut state = self.state();
        state.store_cuts = state.store_cuts.saturating_sub(1);
        if state.store_cuts == 0 {
            state.memory.reconnect();
        }
    }

    /// Its next writes fail.
    pub async fn break_disk(&self, fault: StoreFault) {
        let memory = self.memory();
        let (path, why) = ("memory".to_owned(), "simulated".to_owned());
        match fault {
            StoreFault::Full(count) => memory.fail_next(count, &TxError::Full { path }),
            StoreFault::Away(count) => memory.fail_next(count, &TxError::Away { path, why, maybe: false }),
            StoreFault::Busy(count) => memory.fail_next(count, &TxError::Busy { path, retry_after_ms: 100 }),
            StoreFault::LostAnswers(count) => memory.lose_next_answers(count),
            StoreFault::Disconnected(ms) => self.cut_store(Duration::from_millis(ms)).await,
        }
    }

    /// It starts again in order, and signs with this key from then on.
    pub fn restart_with(&self, key: GatewayKey) {
        self.state().key = key;
        self.restart.notify_one();
    }

    /// It stops in order and does not come back.
    pub fn stop(&self) {
        self.over.cancel();
    }

    /// All its lives.
    pub async fn exist(self: Arc<Self>, land: Arc<Land>) {
        for life in self.plan.lives.clone() {
            if self.live(&land, Some(life)).await == End::ForGood {
                return;
            }
            tokio::time::sleep(Duration::from_millis(u64::try_from(life.downtime_ms).unwrap_or(0))).await;
        }
        self.settled.store(true, Ordering::Relaxed);
        while self.live(&land, None).await == End::Again {
            tokio::time::sleep(START_AGAIN).await;
        }
    }

    async fn live(&self, land: &Arc<Land>, life: Option<LifePlan>) -> End {
        let outside = &land.outside;
        let (number, died) = (outside.begin_one(), Arc::new(Notify::new()));
        outside.tell("life", format!("{} {number} {life:?}", self.plan.name));
        let pen = Pen::new();
        {
            let mut state = self.state();
            state.pen = pen.clone();
            state.memory = state.memory.clone().with_sync_time(Duration::from_millis(life.map_or(0, |life| life.sync_ms)));
            if state.store_cuts > 0 {
                state.memory.disconnect("simulated");
            }
        }
        let limit = async {
            match life {
                Some(life) => tokio::time::sleep(Duration::from_millis(life.length_ms)).await,
                None => std::future::pending().await,
            }
        };
        let going = async {
            let (told, heard) = oneshot::channel();
            let raise = raise(Arc::clone(land), self.site(land, number, life, Arc::clone(&died)));
            pen.spawn(async move {
                let _ = told.send(raise.await);
            });
            let raised = match heard.await {
                Ok(Ok(raised)) => Arc::new(raised),
                Ok(Err(why)) => {
                    outside.tell("not-raised", format!("{} {why}", self.plan.name));
                    return None;
                }
                Err(_) => return None,
            };
            outside.tell("raised", format!("{} {}", self.plan.name, raised.building.notices.join("; ")));
            self.state().up = Some((pen.clone(), Arc::clone(&raised)));
            let (asked, failed) = (raised.process.restart.clone(), raised.world.tasks.failed());
            let why = tokio::select! { biased;
                () = self.over.cancelled() => "over",
                () = self.restart.notified() => "restart",
                () = asked.cancelled() => "asked",
                () = failed.cancelled() => {
                    // The process ends and is started again; after the heal nothing may fail any more.
                    outside.tell("vital", self.plan.name);
                    if outside.is_healed() {
                        outside.violation(format!("no_failure: a vital task of {} failed", self.plan.name));
                    }
                    return None;
                }
            };
            Some((raised, why))
        };
        let end = tokio::select! { biased;
            () = died.notified() => None,
            () = limit => Some(None),
            end = going => Some(end),
        };
        let in_order = match end {
            Some(Some((_, why))) => Some(why),
            Some(None) if life.is_some_and(|life| life.in_order) => Some("in order"),
            _ => None,
        };
        if let Some(why) = in_order {
            outside.tell("stop", format!("{} {why}", self.plan.name));
            self.call(|raised| async move {
                raised.building.lanes.drain(Duration::from_secs(20)).await;
                raised.world.tasks.stop(Duration::from_secs(20)).await;
                raised.store.close().await;
            })
            .await;
        } else {
            outside.tell("kill", self.plan.name);
        }
        self.bury(land, &pen, number, life.map_or(Crash::LoseUnanswered, |life| life.crash));
        if in_order == Some("over") { End::ForGood } else { End::Again }
    }

    fn bury(&self, land: &Land, pen: &Pen, number: u64, crash: Crash) {
        pen.end();
        land.outside.end_one(number);
        let mut state = self.state();
        if let Some((_, raised)) = state.up.take()
            && let Some(farm) = raised.building.farm.get()
        {
            for (event, count) in farm.events.counts() {
                *state.counts.entry(event).or_default() += count;
            }
        }
        state.memory.crash(crash);
        state.memory = match self.storage {
            Storage::Own => MemoryStore::on(state.memory.image()),
            Storage::Shared => state.memory.sibling(),
        };
        let memory = state.memory.clone();
        drop(state);
        land.look_at(self, &memory);
    }

    fn site(&self, land: &Land, life: u64, plan: Option<LifePlan>, died: Arc<Notify>) -> Site {
        // What moves is configured everywhere.
        let agents = match self.storage {
            Storage::Own => self.plan.agents.clone(),
            Storage::Shared => land.plan.agents(),
        };
        let state = self.state();
        Site {
            life,
            name: self.plan.name,
            agents,
            storage: self.storage,
            number: self.lives.fetch_add(1, Ordering::Relaxed),
            clock: self.clock.clone(),
            memory: state.memory.clone(),
            key: state.key.clone(),
            death: plan.map_or(Death::Never, |life| life.death),
            read_ms: plan.map_or(0, |life| life.read_ms),
            died,
        }
    }

    /// True when it acts for this agent.
    #[must_use]
    pub fn holds(&self, agent: &str) -> bool {
        let unit = Unit::Agent(AgentId::normalise(agent));
        self.up().is_some_and(|raised| raised.building.keeper.claims.get(&unit).is_some())
    }

    /// Says what is not done yet of the agents that it acts for; none when all is.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn unfinished(&self) -> Result<Option<String>, Failure> {
        let Some(raised) = self.up() else { return Ok(Some(format!("{} does not run", self.plan.name))) };
        let memory = self.memory();
        for agent in raised.building.keeper.claims.all().into_iter().filter_map(|(unit, _)| if let Unit::Agent(agent) = unit { Some(agent) } else { None }) {
            let unit = Unit::Agent(agent.clone());
            if let Some(row) = raised.building.desk.rows(&agent).into_iter().find(|row| row.has_active_run()) {
                return Ok(Some(format!("session {} has open runs {:?}", row.key, row.open)));
            }
            let replies = scan_json::<OutboxRow>(&memory, &unit, Table::Outbox, &Scan::prefix(OutboxRow::PREFIX)).await?;
            if let Some(row) = replies.into_iter().find(|row| matches!(row.value.state, OutboxState::Queued | OutboxState::Sending)) {
                return Ok(Some(format!("the reply of {} is {:?} after {} tries", row.value.run_id, row.value.state, row.value.attempts)));
            }
            if let Some(row) = scan_json::<LetterRow>(&memory, &unit, Table::Outbox, &Scan::prefix(LetterRow::PREFIX)).await?.into_iter().next() {
                return Ok(Some(format!("a letter is owed to {}", row.value.to().session)));
            }
            let sent = scan_json::<SentRow>(&memory, &unit, Table::Outbox, &Scan::prefix(OUT).limit(10_000)).await?;
            if let Some(row) = sent.into_iter().find(|row| !matches!(row.value.row.state, MailState::Acked | MailState::DeadLetter)) {
                let row = row.value;
                return Ok(Some(format!(
                    "the letter {} of {agent} to {} is {:?} after {} sends",
                    row.row.message_id, row.head.to, row.row.state, row.row.sends
                )));
            }
        }
        Ok(None)
    }
}
