//! A [`Bus`] that breaks its promises on purpose: it drops, duplicates, delays and reorders letters, and loses answers.
//!
//! TCP carries a stream, so what happens to single letters has to be done above it. The wrapper is for the simulator
//! and for tests over real engines; every decision comes from the seeded [`Rng`], and always the same number of
//! decisions per letter, so that a seed repeats a run.
//!
//! Units' boxes (letters) and gateways' boxes (receipts) have faults of their own. Nothing happens to what is read:
//! dropping a letter on the way in and on the way out is the same to both ends.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use clawstead_world::{Rng, TaskKind, Tasks};
use futures_util::stream::BoxStream;

use crate::mail::{Bus, BusCaps, BusError, Delivery, Depth, MailBox, Published, Sealed};

/// Copies and late letters travel under attempt numbers from here on, so that an engine that drops repeats lets them
/// through.
const COPY: u32 = 1 << 30;
/// A held letter goes on after this long, also when no other follows it.
const HELD_MAX: Duration = Duration::from_secs(2);
/// Chances are given in millionths.
const ONE: u64 = 1_000_000;

/// How long a letter is late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delay {
    /// Not at all.
    #[default]
    None,
    /// Always this long.
    Fixed(Duration),
    /// Between nothing and this, evenly.
    Even(Duration),
    /// Exponential: often short, sometimes long.
    Exponential {
        /// The mean.
        mean: Duration,
        /// Never longer.
        max: Duration,
    },
}

impl Delay {
    /// The delay for a number drawn evenly from 0..1.
    #[must_use]
    pub fn at(self, drawn: f64) -> Duration {
        match self {
            Self::None => Duration::ZERO,
            Self::Fixed(always) => always,
            Self::Even(max) => max.mul_f64(drawn.clamp(0.0, 1.0)),
            Self::Exponential { mean, max } => mean.mul_f64(-(1.0 - drawn.clamp(0.0, 0.999_999)).ln()).min(max),
        }
    }
}

/// What happens to letters. Chances are 0..=1; the default is that nothing does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MailFaults {
    /// The letter is lost, the answer is `Accepted`.
    pub drop: f64,
    /// The letter is not handed over, the answer is that the engine is away.
    pub refuse: f64,
    /// The letter is handed over, the answer is that the engine is away.
    pub lose_answer: f64,
    /// A copy follows.
    pub duplicate: f64,
    /// How long after the letter its copy comes.
    pub duplicate_after: Delay,
    /// How late letters are. Does not hold the sender up.
    pub delay: Delay,
    /// The letter waits until others of its box have overtaken it.
    pub reorder: f64,
    /// How many overtake it at most: between 1 and this.
    pub reorder_window: u32,
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// Letters asked to carry.
    pub asked: u64,
    /// Letters lost.
    pub dropped: u64,
    /// Letters refused.
    pub refused: u64,
    /// Answers lost.
    pub answers_lost: u64,
    /// Copies handed over.
    pub duplicated: u64,
    /// Letters handed over late.
    pub delayed: u64,
    /// Letters that waited for others.
    pub reordered: u64,
    /// Late letters, copies and held letters the engine did not take in the end: lost as well.
    pub lost_late: u64,
}

/// The wrapper. Clones share faults and counters.
#[derive(Clone)]
pub struct FaultyBus {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Arc<dyn Bus>,
    rng: Arc<dyn Rng>,
    tasks: Tasks,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    units: MailFaults,
    gateways: MailFaults,
    injected: Injected,
    copies: u32,
    held_number: u64,
    held: BTreeMap<MailBox, BTreeMap<u64, Held>>,
}

struct Held {
    letter: Sealed,
    overtakers: u64,
}

/// What was drawn for one letter.
struct Drawn {
    drop: bool,
    refuse: bool,
    lose_answer: bool,
    duplicate: bool,
    duplicate_after: Duration,
    delay: Duration,
    /// How many overtake it; 0 for none.
    overtakers: u64,
}

impl FaultyBus {
    /// Carries everything faithfully until faults are set. Late letters are tasks of `tasks`.
    #[must_use]
    pub fn new(inner: Arc<dyn Bus>, rng: Arc<dyn Rng>, tasks: Tasks) -> Self {
        Self { shared: Arc::new(Shared { inner, rng, tasks, state: Mutex::default() }) }
    }

    /// What happens to letters for units from now on.
    pub fn set_units(&self, faults: MailFaults) {
        self.shared.lock().units = faults;
    }

    /// What happens to mail for gateways (receipts) from now on.
    pub fn set_gateways(&self, faults: MailFaults) {
        self.shared.lock().gateways = faults;
    }

    /// The same for both.
    pub fn set(&self, faults: MailFaults) {
        let mut state = self.shared.lock();
        state.units = faults;
        state.gateways = faults;
    }

    /// No faults from now on. Letters that are late or held still come.
    pub fn heal(&self) {
        self.set(MailFaults::default());
    }

    /// What was done so far.
    #[must_use]
    pub fn injected(&self) -> Injected {
        self.shared.lock().injected
    }
}

impl fmt::Debug for FaultyBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyBus").field("engine", &self.shared.inner.engine()).field("injected", &self.injected()).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws everything for one letter, whether it is used or not: a seed stays aligned when chances change.
    fn draw(&self, faults: &MailFaults) -> Drawn {
        #[expect(clippy::cast_precision_loss, reason = "below a million")]
        let number = || self.rng.below(ONE) as f64 / ONE as f64;
        let (drop, refuse, lose_answer, duplicate, reorder) = (number(), number(), number(), number(), number());
        let (duplicate_after, delay, overtakers) = (number(), number(), self.rng.below(u64::from(faults.reorder_window.max(1))));
        Drawn {
            drop: drop < faults.drop,
            refuse: refuse < faults.refuse,
            lose_answer: lose_answer < faults.lose_answer,
            duplicate: duplicate < faults.duplicate,
            duplicate_after: faults.duplicate_after.at(duplicate_after),
            delay: faults.delay.at(delay),
            overtakers: if reorder < faults.reorder { overtakers + 1 } else { 0 },
        }
    }

    /// Hands a letter over later, in the background.
    fn later(self: &Arc<Self>, to: MailBox, letter: Sealed, after: Duration) {
        let shared = self.clone();
        self.tasks.spawn(TaskKind::logged("late-letter"), async move {
            tokio::time::sleep(after).await;
            shared.hand_over_late(&to, letter).await;
            Ok::<_, Infallible>(())
        });
    }

    async fn hand_over_late(&self, to: &MailBox, letter: Sealed) {
        if !matches!(self.inner.publish(to, &letter).await, Ok(Published::Accepted | Published::Duplicate)) {
            self.lock().injected.lost_late += 1;
        }
    }

    /// Keeps a letter back until enough others came, or until it waited long enough.
    fn hold(self: &Arc<Self>, to: &MailBox, letter: Sealed, overtakers: u64) {
        let number = {
            let mut state = self.lock();
            state.held_number += 1;
            let number = state.held_number;
            state.held.entry(to.clone()).or_default().insert(number, Held { letter, overtakers });
            number
        };
        let (shared, to) = (self.clone(), to.clone());
        self.tasks.spawn(TaskKind::logged("held-letter"), async move {
            tokio::time::sleep(HELD_MAX).await;
            let held = shared.lock().held.get_mut(&to).and_then(|held| held.remove(&number));
            if let Some(held) = held {
                shared.hand_over_late(&to, held.letter).await;
            }
            Ok::<_, Infallible>(())
        });
    }

    /// A letter has passed: the held ones of its box that were overtaken often enough.
    fn overtaken(&self, to: &MailBox) -> Vec<Sealed> {
        let mut state = self.lock();
        let Some(held) = state.held.get_mut(to) else { return Vec::new() };
        for held in held.values_mut() {
            held.overtakers = held.overtakers.saturating_sub(1);
        }
        let free: Vec<u64> = held.iter().filter(|(_, held)| held.overtakers == 0).map(|(number, _)| *number).collect();
        let letters = free.iter().filter_map(|number| held.remove(number)).map(|held| held.letter).collect();
        if held.is_empty() {
            state.held.remove(to);
        }
        letters
    }

    fn away(&self, why: &str) -> BusError {
        BusError::Unavailable { engine: self.inner.engine(), at: "an injected fault".into(), why: why.into() }
    }
}

#[async_trait]
impl Bus for FaultyBus {
    fn engine(&self) -> &'static str {
        self.shared.inner.engine()
    }

    fn caps(&self) -> BusCaps {
        self.shared.inner.caps()
    }

    async fn publish(&self, to: &MailBox, letter: &Sealed) -> Result<Published, BusError> {
        let shared = &self.shared;
        let drawn = {
            let faults = {
                let state = shared.lock();
                if matches!(to, MailBox::Unit(_)) { state.units } else { state.gateways }
            };
            let drawn = shared.draw(&faults);
            let injected = &mut shared.lock().injected;
            injected.asked += 1;
            if drawn.refuse {
                injected.refused += 1;
                return Err(shared.away("the letter was refused"));
            }
            if drawn.drop {
                injected.dropped += 1;
                return if drawn.lose_answer { Err(shared.away("the answer was lost")) } else { Ok(Published::Accepted) };
            }
            drawn
        };
        if drawn.duplicate {
            let copy = {
                let mut state = shared.lock();
                state.injected.duplicated += 1;
                state.copies = state.copies.wrapping_add(1) % COPY;
                Sealed { attempt: COPY + state.copies, ..letter.clone() }
            };
            shared.later(to.clone(), copy, drawn.delay + drawn.duplicate_after);
        }
        let answer = if drawn.overtakers > 0 {
            shared.lock().injected.reordered += 1;
            shared.hold(to, letter.clone(), drawn.overtakers);
            Published::Accepted
        } else if drawn.delay > Duration::ZERO {
            shared.lock().injected.delayed += 1;
            shared.later(to.clone(), letter.clone(), drawn.delay);
            Published::Accepted
        } else {
            let answer = shared.inner.publish(to, letter).await?;
            for held in shared.overtaken(to) {
                shared.hand_over_late(to, held).await;
            }
            answer
        };
        if drawn.lose_answer {
            shared.lock().injected.answers_lost += 1;
            return Err(shared.away("the answer was lost"));
        }
        Ok(answer)
    }

    fn subscribe(&self, from: &MailBox, consumer: &str) -> BoxStream<'static, Result<Delivery, BusError>> {
        self.shared.inner.subscribe(from, consumer)
    }

    fn blobs(&self) -> Option<&dyn crate::Blobs> {
        self.shared.inner.blobs()
    }

    async fn depth(&self, of: &MailBox) -> Result<Depth, BusError> {
        self.shared.inner.depth(of).await
    }
}

#[cfg(test)]
mod tests;
