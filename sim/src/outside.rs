//! Everything that outlives a gateway: true time, the log, what platforms and tools have seen, what clients were told.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use clawstead_terms::EffectClass;

use crate::actors::clock::WallClock;

thread_local! {
    /// Panics of this thread since they were last taken: a simulation runs on one thread.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Notes panics for [`take_panics`]; they are caught by the runtime and would go unseen.
pub fn note_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with(|panics| panics.borrow_mut().push(info.to_string()));
            before(info);
        }));
    });
}

/// The panics since the last call.
#[must_use]
pub fn take_panics() -> Vec<String> {
    PANICS.with(|panics| std::mem::take(&mut *panics.borrow_mut()))
}

/// One execution of a simulated tool.
#[derive(Clone, Debug)]
pub struct ToolEffect {
    /// What may be done again.
    pub class: EffectClass,
    /// The call as the model meant it: run, round, place.
    pub call: String,
    /// The key the gateway gave it.
    pub effect_id: String,
}

/// One request that reached a platform.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The account.
    pub account: String,
    /// The conversation.
    pub to: String,
    /// The key of the effect.
    pub effect_id: String,
    /// What was said.
    pub text: String,
    /// True when people see it (a repeat that the platform knows is not shown).
    pub shown: bool,
}

/// Something done to the outside by one life of a gateway.
#[derive(Clone, Debug)]
pub struct Effect {
    /// The life.
    pub life: u64,
    /// For whom; none where the outside cannot know (a platform sees an account).
    pub agent: Option<String>,
    /// The key of the effect.
    pub effect_id: String,
    /// When it began, true time.
    pub began_ms: i64,
}

/// A unit that was taken in a store.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The unit.
    pub unit: String,
    /// Under this epoch.
    pub epoch: u64,
    /// By this life.
    pub life: u64,
    /// When, true time.
    pub at_ms: i64,
}

/// A letter whose delivery was answered `Ok`.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The agent.
    pub agent: String,
    /// Its run.
    pub run_id: String,
}

/// A cron job as the simulation made it.
#[derive(Clone, Debug)]
pub struct KnownJob {
    /// The agent.
    pub agent: String,
    /// Wall time before the call that added it.
    pub added_ms: i64,
    /// Wall time before and after the call that switched it off.
    pub off_ms: Option<(i64, i64)>,
    /// True when somebody asked for runs by hand.
    pub by_hand: bool,
}

/// What was seen.
#[derive(Default)]
pub struct Seen {
    /// Lines with true time.
    pub log: String,
    /// Executions of tools.
    pub tools: Vec<ToolEffect>,
    /// What was done to the outside, by whom.
    pub effects: Vec<Effect>,
    /// Units that were taken, in order.
    pub claims: Vec<Claim>,
    /// What reached platforms, in order.
    pub arrivals: Vec<Arrival>,
    /// Letters that were taken.
    pub taken: Vec<Taken>,
    /// Jobs by id.
    pub jobs: BTreeMap<String, KnownJob>,
    /// Ends that were stored at an earlier look: what, how.
    pub ends: BTreeMap<String, String>,
    /// What must not happen and happened.
    pub violations: Vec<String>,
    /// Asks of the model by run.
    pub asks: BTreeMap<String, u64>,
    /// What happened how often.
    pub counts: BTreeMap<&'static str, u64>,
    /// Clients that still try.
    pub busy: BTreeSet<String>,
}

/// Shared by everybody.
pub struct Outside {
    /// The seed.
    pub seed: u64,
    seen: Mutex<Seen>,
    clock: Mutex<Option<WallClock>>,
    /// What was done to the wall clock.
    pub skew_ms: Arc<AtomicI64>,
    /// The number of the last life that began.
    life: AtomicU64,
    /// Lives that go on; whoever belongs to another one is dead.
    living: Mutex<BTreeSet<u64>>,
    /// From now on nothing goes wrong any more.
    healed: AtomicBool,
    /// Platform accounts that are down, until this true time.
    pub down: Mutex<BTreeMap<String, i64>>,
    last_ms: AtomicI64,
}

impl Outside {
    /// A fresh world.
    #[must_use]
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            seed,
            seen: Mutex::default(),
            clock: Mutex::default(),
            skew_ms: Arc::default(),
            life: AtomicU64::new(0),
            living: Mutex::default(),
            healed: AtomicBool::new(false),
            down: Mutex::default(),
            last_ms: AtomicI64::new(0),
        })
    }

    /// What was seen.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A gateway begins to live alone; answers its number.
    pub fn begin_life(&self, clock: WallClock) -> u64 {
        self.set_clock(clock);
        self.living().clear();
        self.begin_one()
    }

    /// From now on this clock tells true time.
    pub fn set_clock(&self, clock: WallClock) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock);
    }

    /// One gateway of several begins to live; answers its number.
    pub fn begin_one(&self) -> u64 {
        let life = self.life.fetch_add(1, Ordering::Relaxed) + 1;
        self.living().insert(life);
        life
    }

    /// That life is over: nobody hears its gateway any more.
    pub fn end_one(&self, life: u64) {
        self.living().remove(&life);
    }

    fn living(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life that goes now is over: nobody hears its gateways any more. Answers true time.
    pub fn end_life(&self) -> i64 {
        let now = self.now_ms();
        self.last_ms.store(now, Ordering::Relaxed);
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.life.fetch_add(1, Ordering::Relaxed);
        self.living().clear();
        now
    }

    /// True time, ms since the begin.
    pub fn now_ms(&self) -> i64 {
        let clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.as_ref().map_or_else(|| self.last_ms.load(Ordering::Relaxed), WallClock::true_ms)
    }

    /// Waits for ever when that life is over: the dead say nothing.
    pub async fn alive(&self, life: u64) {
        if !self.is_alive(life) {
            std::future::pending::<()>().await;
        }
    }

    /// True while that life goes on.
    pub fn is_alive(&self, life: u64) -> bool {
        self.living().contains(&life)
    }

    /// Faults end here.
    pub fn heal(&self) {
        self.healed.store(true, Ordering::Relaxed);
        self.down.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// True when nothing goes wrong any more.
    pub fn is_healed(&self) -> bool {
        self.healed.load(Ordering::Relaxed)
    }

    /// Writes a line.
    pub fn log(&self, line: impl AsRef<str>) {
        let now = self.now_ms();
        let mut seen = self.seen();
        let _ = writeln!(seen.log, "{now:>9} {}", line.as_ref());
    }

    /// Writes a line and counts it.
    pub fn tell(&self, what: &'static str, line: impl AsRef<str>) {
        *self.seen().counts.entry(what).or_default() += 1;
        self.log(format!("{what} {}", line.as_ref()));
    }

    /// Something that must not happen, happened.
    pub fn violation(&self, text: impl Into<String>) {
        let text = text.into();
        self.log(format!("VIOLATION {text}"));
        self.seen().violations.push(text);
    }
}
