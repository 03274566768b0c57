//! What is between the gateways: carries letters as the plan says, and shows every one of them to whoever looks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use clawstead_bus::{
    MailBox, Sealed,
    faulty::MailFaults,
    memory::{Fate, Faults, Part, WatchFate},
};

use super::ledger::Ledger;
use crate::dice::Dice;

/// Chances are drawn in millionths.
const ONE: u64 = 1_000_000;
/// A letter that was overtaken is this late at most for each letter that may overtake it.
const OVERTAKEN: Duration = Duration::from_millis(20);
/// Letters that are kept to come again later.
const KEPT_MAX: usize = 64;

#[derive(Default)]
struct State {
    letters: MailFaults,
    receipts: MailFaults,
    watch_late_ms: u64,
    troubled: u64,
    /// Watches that are to begin anew, by gateway.
    broken_watches: BTreeMap<String, u32>,
    kept: Vec<(MailBox, Sealed)>,
}

/// The faults of the engines that all gateways share.
pub struct Air {
    state: Mutex<State>,
    dice: Mutex<Dice>,
    ledger: Arc<Ledger>,
}

impl Air {
    /// Fair weather.
    #[must_use]
    pub fn new(seed: u64, ledger: Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), dice: Mutex::new(Dice::of(seed, "air")), ledger })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dice(&self) -> MutexGuard<'_, Dice> {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this happens to letters and receipts.
    pub fn set_mail(&self, letters: MailFaults, receipts: MailFaults) {
        let mut state = self.state();
        (state.letters, state.receipts) = (letters, receipts);
    }

    /// From now on watches are late and requests are troubled, so many of a thousand.
    pub fn set_requests(&self, watch_late_ms: u64, troubled: u64) {
        let mut state = self.state();
        (state.watch_late_ms, state.troubled) = (watch_late_ms, troubled);
    }

    /// The watches of a gateway break and begin anew; some of them tell the same again.
    pub fn break_watches(&self, gateway: &str) {
        *self.state().broken_watches.entry(gateway.to_owned()).or_default() += 6;
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        let mut state = self.state();
        let kept = std::mem::take(&mut state.kept);
        *state = State { kept, ..State::default() };
    }

    /// Letters that were carried, as they were.
    #[must_use]
    pub fn kept(&self) -> Vec<(MailBox, Sealed)> {
        self.state().kept.clone()
    }
}

impl Faults for Air {
    fn request(&self, _who: &str, _part: Part) -> Fate {
        let troubled = self.state().troubled;
        let mut dice = self.dice();
        let (fate, late) = (dice.below(1_000), dice.between(1, 1_500));
        if fate >= troubled {
            return Fate::Answered;
        }
        match fate % 4 {
            0 => Fate::Lost,
            1 => Fate::AnswerLost,
            _ => Fate::Late(Duration::from_millis(late)),
        }
    }

    fn copies(&self, who: &str, to: &MailBox, letter: &Sealed) -> Vec<Duration> {
        let receipt = matches!(to, MailBox::Gateway(_));
        self.ledger.carried(who, letter, receipt);
        let mut state = self.state();
        if !receipt && state.kept.len() < KEPT_MAX {
            state.kept.push((to.clone(), letter.clone()));
        }
        let faults = if receipt { state.receipts } else { state.letters };
        drop(state);
        let mut dice = self.dice();
        #[expect(clippy::cast_precision_loss, reason = "below a million")]
        let mut number = || dice.below(ONE) as f64 / ONE as f64;
        let (lost, twice, after, late, overtaken, by) = (number(), number(), number(), number(), number(), number());
        drop(dice);
        if lost < faults.drop {
            return Vec::new();
        }
        let mut delay = faults.delay.at(late);
        if overtaken < faults.reorder {
            delay += OVERTAKEN.mul_f64(by * f64::from(faults.reorder_window.max(1)));
        }
        let mut copies = vec![delay];
        if twice < faults.duplicate {
            copies.push(delay + faults.duplicate_after.at(after));
        }
        copies
    }

    fn watch_delay(&self, _who: &str) -> Duration {
        let most = self.state().watch_late_ms;
        Duration::from_millis(self.dice().below(most.max(1)))
    }

    fn watch(&self, who: &str) -> WatchFate {
        let mut state = self.state();
        let Some(left) = state.broken_watches.get_mut(who).filter(|left| **left > 0) else { return WatchFate::Told };
        *left -= 1;
        drop(state);
        if self.dice().often(500) { WatchFate::Lost } else { WatchFate::Again }
    }
}
