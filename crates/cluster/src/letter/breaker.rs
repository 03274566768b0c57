use std::collections::VecDeque;

const OPEN_AFTER: u32 = 5;
const HALF_OPEN_MS: u64 = 5_000;

/// Stops sending to a gateway that does not answer: after five timeouts in a row nothing is sent for 5 s, then one letter
/// tries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    timeouts: u32,
    /// When it opened or let the last trial pass.
    since_ms: u64,
}

impl Breaker {
    /// True when a letter may be sent now.
    #[must_use]
    pub const fn lets_pass(&self, mono_ms: u64) -> bool {
        self.timeouts < OPEN_AFTER || mono_ms.saturating_sub(self.since_ms) >= HALF_OPEN_MS
    }

    /// When it lets a letter pass again; `None` when it does now.
    #[must_use]
    pub const fn passes_at(&self, mono_ms: u64) -> Option<u64> {
        if self.lets_pass(mono_ms) { None } else { Some(self.since_ms + HALF_OPEN_MS) }
    }

    /// True while the gateway counts as silent.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.timeouts >= OPEN_AFTER
    }

    /// A letter was sent; while open, it is the one trial.
    pub const fn sent(&mut self, mono_ms: u64) {
        if self.timeouts >= OPEN_AFTER {
            self.since_ms = mono_ms;
        }
    }

    /// The gateway answered, whatever it said.
    pub const fn answered(&mut self) {
        self.timeouts = 0;
    }

    /// Nothing was heard in time.
    pub const fn timed_out(&mut self, mono_ms: u64) {
        self.timeouts = self.timeouts.saturating_add(1);
        if self.timeouts >= OPEN_AFTER {
            self.since_ms = mono_ms;
        }
    }
}

const WINDOW_MS: u64 = 60_000;
const SLOT_MS: u64 = 5_000;
/// Retries in a minute that are free, so that a quiet gateway's first loss is no storm.
const FREE_RETRIES: u64 = 10;

/// How much of what is sent are retries. Above a fifth of the last minute, delays double.
#[derive(Clone, Debug, Default)]
pub struct RetryBudget {
    /// Slot, sends, retries among them.
    slots: VecDeque<(u64, u64, u64)>,
}

impl RetryBudget {
    /// An attempt was made; `attempt` is its number, from 0.
    pub fn sent(&mut self, attempt: u32, mono_ms: u64) {
        let (slot, retry) = (mono_ms / SLOT_MS, u64::from(attempt > 0));
        match self.slots.back_mut() {
            Some((at, sends, retries)) if *at == slot => (*sends, *retries) = (*sends + 1, *retries + retry),
            _ => self.slots.push_back((slot, 1, retry)),
        }
        while self.slots.front().is_some_and(|(at, ..)| slot.saturating_sub(*at) >= WINDOW_MS / SLOT_MS) {
            self.slots.pop_front();
        }
    }

    /// True when the budget is used up.
    #[must_use]
    pub fn is_spent(&self, mono_ms: u64) -> bool {
        let slot = mono_ms / SLOT_MS;
        let (sends, retries) = self
            .slots
            .iter()
            .filter(|(at, ..)| slot.saturating_sub(*at) < WINDOW_MS / SLOT_MS)
            .fold((0, 0), |(sends, retries), (_, s, r)| (sends + s, retries + r));
        retries > FREE_RETRIES && retries * 5 > sends
    }
}
