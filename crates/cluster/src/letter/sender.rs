use clawstead_terms::Millis;
use serde::{Deserialize, Serialize};

use super::{Event, REOPENS_MAX, RETRIES_MAX, SENDS_MAX, Timing, UNKNOWN_LETTER, backoff_ms};
use crate::{
    Now,
    envelope::{MailState, Receipt, ReceiptType, Refusal},
};

/// How long after a letter was delivered its owner is asked for the first time, ms.
const ASK_FIRST_MS: u64 = 2_000;
/// Longest time between two questions, ms.
const ASK_MAX_MS: u64 = 30_000;

/// Whether somebody runs the target now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A gateway holds it and is healthy.
    Live,
    /// Nobody: waiting costs no retry.
    Nobody,
    /// Not known, because the coordination store does not answer here: attempts are made, and cost no retry.
    Unknown,
}

/// How patient retries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As they should be.
    Normal,
    /// Delays are twice as long: too large a part of all sends are retries.
    Slow,
}

/// What a step may look at.
#[derive(Clone, Copy)]
pub struct Cx<'a> {
    /// Now.
    pub now: Now,
    /// How long is waited.
    pub timing: Timing,
    /// A random number below the bound given.
    pub below: &'a dyn Fn(u64) -> u64,
    /// Whether the target has an owner.
    pub owner: Owner,
    /// How patient retries are.
    pub pace: Pace,
}

/// A row of the outbox. What is not stored (timers) begins anew after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    /// The letter.
    pub message_id: String,
    /// Where it stands.
    pub state: MailState,
    /// Attempts so far. Those that count are at most [`SENDS_MAX`]. The number of the last one, from 0, is the hop data's `retry_count`.
    pub sends: u32,
    /// Attempts that do not count: the bus did not take them, or nobody could have answered.
    #[serde(default)]
    pub free: u32,
    /// Retries until it was delivered. Those that count are at most [`RETRIES_MAX`].
    pub retries: u32,
    /// Retries that do not count: the target had no owner, as it turned out.
    #[serde(default)]
    pub forgiven: u32,
    /// Tries spent after failures, at most [`REOPENS_MAX`].
    pub reopens: u32,
    /// The next attempts ask the receiver to try a failed letter again.
    pub reopening: bool,
    /// When its time is over.
    pub expires_at: Millis,
    /// Highest epoch of the receiver that answered.
    pub receiver_epoch: u64,
    /// What the last attempt ended with; of a dead letter, why.
    pub last_error: Option<String>,
    #[serde(skip, default)]
    wait: Wait,
    /// Questions asked since the last sign of work.
    #[serde(skip, default)]
    asks: u32,
    /// Epoch of the newest owner that was asked.
    #[serde(skip, default)]
    asked_epoch: u64,
    /// Attempts in a row that did not count, for the length of pauses.
    #[serde(skip, default)]
    idle: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wait {
    /// May be sent.
    #[default]
    Ready,
    /// May be sent after this moment.
    Pause(u64),
    /// Sent; nothing was heard until this moment means it was lost.
    Answer(u64),
    /// Delivered; no sign of work until the first moment means it was lost, at the second one we ask.
    Work(u64, u64),
    /// Ended.
    Nothing,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// It is its turn: make an attempt.
    Send,
    /// The attempt was not carried: the bus is away (`None`), or wants nothing before so many ms.
    NotCarried(Option<u64>),
    /// A receipt that was checked.
    Receipt(&'a Receipt),
    /// A gateway holds the target under this epoch now.
    OwnerEpoch(u64),
    /// Time went on.
    Tick,
    /// The operator, or an emergency, ends it with this code.
    GiveUp(&'static str),
}

/// What is to be done. `Tell` belongs into the transaction that stores the row, the others come after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the event.
    Tell(Event),
    /// Sign hop data for this attempt and hand the letter to the bus.
    Publish {
        /// Its number, from 0: the hop data's `retry_count`.
        attempt: u32,
        /// The hop data's `state`: `Queued`, or `Failed` to ask for another try.
        state: MailState,
    },
    /// Ask the owner where the letter stands ([`super::status_query`]): a receipt may have been lost, or another gateway
    /// may hold the target now. The answer is a receipt, with the code [`UNKNOWN_LETTER`] when it does not know it.
    Ask,
    /// A receipt came after the letter was given up: add it to the dead letter's history.
    Note(Receipt),
}

impl Outgoing {
    /// S1: a letter that is being stored together with its cause.
    #[must_use]
    pub fn queued(message_id: impl Into<String>, expires_at: Millis) -> (Self, Vec<Action>) {
        let row = Self {
            message_id: message_id.into(),
            state: MailState::Queued,
            sends: 0,
            free: 0,
            retries: 0,
            forgiven: 0,
            reopens: 0,
            reopening: false,
            expires_at,
            receiver_epoch: 0,
            last_error: None,
            wait: Wait::Ready,
            asks: 0,
            asked_epoch: 0,
            idle: 0,
        };
        (row, vec![Action::Tell(Event::Queued)])
    }

    /// The row as it is after a restart: what was on its way may be lost, so a queued letter is sent again at once and a
    /// delivered one is waited for anew.
    #[must_use]
    pub fn restarted(mut self, cx: &Cx<'_>) -> Self {
        self.wait = match self.state {
            MailState::Queued => Wait::Ready,
            MailState::Delivered => work(0, cx),
            MailState::Acked | MailState::Failed | MailState::DeadLetter => Wait::Nothing,
        };
        self
    }

    /// Attempts that count.
    #[must_use]
    pub const fn spent_sends(&self) -> u32 {
        self.sends.saturating_sub(self.free)
    }

    /// Retries that count.
    #[must_use]
    pub const fn spent_retries(&self) -> u32 {
        self.retries.saturating_sub(self.forgiven)
    }

    /// True when nothing will happen any more.
    #[must_use]
    pub const fn ended(&self) -> bool {
        matches!(self.state, MailState::Acked | MailState::DeadLetter)
    }

    /// True when an attempt is on its way and nothing was heard of it.
    #[must_use]
    pub const fn in_flight(&self) -> bool {
        matches!(self.wait, Wait::Answer(_))
    }

    /// True when an attempt may be made now.
    #[must_use]
    pub fn sendable(&self, now: Now) -> bool {
        match self.wait {
            Wait::Ready => self.state == MailState::Queued,
            Wait::Pause(until) => until <= now.mono_ms,
            Wait::Answer(_) | Wait::Work(..) | Wait::Nothing => false,
        }
    }

    /// When [`Input::Tick`] is due, on the boot clock. `None` when there is nothing to wait for.
    #[must_use]
    pub fn due_at(&self, now: Now) -> Option<u64> {
        let left = u64::try_from(self.expires_at.since(now.wall)).unwrap_or(0);
        let over = now.mono_ms.saturating_add(left).saturating_add(1);
        match self.wait {
            Wait::Ready => Some(over),
            Wait::Pause(until) if until > now.mono_ms => Some(until.min(over)),
            Wait::Pause(_) => Some(over),
            Wait::Answer(until) => Some(until),
            Wait::Work(until, ask_at) => Some(until.min(ask_at)),
            Wait::Nothing => None,
        }
    }

    /// One input, the next row and what is to be done.
    #[must_use]
    pub fn step(mut self, input: &Input<'_>, cx: &Cx<'_>) -> (Self, Vec<Action>) {
        let mut out = Vec::new();
        if self.ended() {
            if let (Input::Receipt(receipt), MailState::DeadLetter) = (input, self.state)
                && matches!(receipt.kind, ReceiptType::Acked | ReceiptType::Failed)
            {
                out.push(Action::Note((*receipt).clone()));
            }
            return (self, out);
        }
        match input {
            Input::Send => self.send(cx, &mut out),
            Input::NotCarried(_) if !self.in_flight() => {}
            Input::NotCarried(Some(after_ms)) => self.retry("busy", *after_ms, cx, &mut out),
            // The bus is away, and so may we be: no fault of the target, and the letter waits as long as it lives.
            Input::NotCarried(None) => self.wait_free("bus_error", cx, &mut out),
            Input::Receipt(receipt) => self.receipt(receipt, cx, &mut out),
            Input::OwnerEpoch(epoch) => self.owner_epoch(*epoch, &mut out),
            Input::Tick => {
                self.tick(cx, &mut out);
                if cx.owner == Owner::Nobody && self.state == MailState::Queued {
                    self.forgive(&mut out);
                }
            }
            Input::GiveUp(code) => self.dead(code, &mut out),
        }
        (self, out)
    }

    fn send(&mut self, cx: &Cx<'_>, out: &mut Vec<Action>) {
        if !self.sendable(cx.now) {
            return;
        }
        if self.expired(cx.now) {
            return self.dead("expired", out);
        }
        if self.spent_sends() >= SENDS_MAX {
            return self.dead("retries", out);
        }
        let attempt = self.sends;
        self.sends += 1;
        self.wait = Wait::Answer(cx.now.mono_ms + cx.timing.ack_timeout_ms);
        out.push(Action::Tell(Event::Sent { attempt }));
        out.push(Action::Publish { attempt, state: if self.reopening { MailState::Failed } else { MailState::Queued } });
    }

    fn tick(&mut self, cx: &Cx<'_>, out: &mut Vec<Action>) {
        match self.wait {
            Wait::Answer(until) if until <= cx.now.mono_ms => {
                match cx.owner {
                    // Nobody could have answered: it waits for an owner, and that costs nothing.
                    Owner::Nobody => {
                        self.wait = Wait::Ready;
                        self.last_error = Some("no_owner".into());
                        out.push(Action::Tell(Event::Retry { reason: "no_owner".into(), delay_ms: 0 }));
                    }
                    Owner::Unknown => self.wait_free("no_answer", cx, out),
                    Owner::Live => self.retry("no_answer", 0, cx, out),
                }
            }
            Wait::Work(until, _) if until <= cx.now.mono_ms => self.redeliver("process_timeout", cx, out),
            Wait::Work(until, ask_at) if ask_at <= cx.now.mono_ms => {
                self.asks += 1;
                self.wait = Wait::Work(until, cx.now.mono_ms + ask_delay_ms(self.asks));
                out.push(Action::Ask);
            }
            Wait::Ready | Wait::Pause(_) if self.expired(cx.now) => self.dead("expired", out),
            _ => {}
        }
    }

    /// S4 without spending anything: pauses grow, the time to live is the only end.
    fn wait_free(&mut self, reason: &str, cx: &Cx<'_>, out: &mut Vec<Action>) {
        self.free += 1;
        let n = self.idle;
        self.idle = self.idle.saturating_add(1);
        self.pause(reason, n, 0, cx, out);
    }

    /// The target turned out to have no owner: what was spent on it before that was known is given back.
    fn forgive(&mut self, out: &mut Vec<Action>) {
        let spent = self.spent_retries() > 0;
        (self.free, self.forgiven) = (self.sends, self.retries);
        if spent && out.is_empty() {
            out.push(Action::Tell(Event::Retry { reason: "no_owner".into(), delay_ms: 0 }));
        }
    }

    fn receipt(&mut self, receipt: &Receipt, cx: &Cx<'_>, out: &mut Vec<Action>) {
        self.idle = 0;
        let epoch = receipt.receiver_epoch;
        if epoch != 0 {
            if epoch < self.receiver_epoch {
                return;
            }
            self.receiver_epoch = epoch;
        }
        let refused = Refusal::CODES.contains(&receipt.code.as_str());
        let queued = self.state == MailState::Queued;
        match receipt.kind {
            ReceiptType::Delivered | ReceiptType::Heartbeat => self.delivered(cx, out),
            ReceiptType::Acked => {
                self.delivered(cx, out);
                (self.state, self.wait, self.last_error) = (MailState::Acked, Wait::Nothing, None);
                out.push(Action::Tell(Event::Acked));
            }
            ReceiptType::Busy if queued && self.in_flight() => self.retry("busy", receipt.retry_after_ms, cx, out),
            ReceiptType::Busy => {}
            ReceiptType::Failed if receipt.code == UNKNOWN_LETTER => {
                if !queued && self.asks > 0 {
                    self.redeliver(UNKNOWN_LETTER, cx, out);
                }
            }
            ReceiptType::Failed if queued && refused && receipt.retryable => {
                if self.in_flight() {
                    self.retry(&receipt.code, receipt.retry_after_ms, cx, out);
                }
            }
            ReceiptType::Failed if queued && refused => self.dead(&receipt.code, out),
            // What was refused is an attempt that came too late; the letter itself was taken. Only its time can be over.
            ReceiptType::Failed if refused && receipt.code != "expired" => {}
            // The failure that this attempt asks to make good, told once more.
            ReceiptType::Failed if queued && self.reopening && receipt.retryable && !self.in_flight() => {}
            ReceiptType::Failed => {
                self.delivered(cx, out);
                self.failed(receipt, cx, out);
            }
        }
    }

    /// S3, or a sign of work.
    fn delivered(&mut self, cx: &Cx<'_>, out: &mut Vec<Action>) {
        // Answers to our questions do not make us ask more often.
        self.wait = work(self.asks, cx);
        if self.state == MailState::Queued {
            (self.state, self.reopening, self.asks) = (MailState::Delivered, false, 0);
            self.wait = work(0, cx);
            out.push(Action::Tell(Event::Delivered));
        }
    }

    /// S7 and then S9 or S10.
    fn failed(&mut self, receipt: &Receipt, cx: &Cx<'_>, out: &mut Vec<Action>) {
        let code = if receipt.code.is_empty() { "failed" } else { &receipt.code };
        out.push(Action::Tell(Event::Failed { code: code.into(), retryable: receipt.retryable }));
        self.state = MailState::Failed;
        if !receipt.retryable || self.reopens >= REOPENS_MAX {
            return self.dead(code, out);
        }
        self.reopens += 1;
        (self.state, self.reopening) = (MailState::Queued, true);
        self.pause(code, self.reopens - 1, receipt.retry_after_ms, cx, out);
    }

    /// S8.
    fn redeliver(&mut self, reason: &str, cx: &Cx<'_>, out: &mut Vec<Action>) {
        if self.reopens >= REOPENS_MAX {
            return self.dead(reason, out);
        }
        self.reopens += 1;
        (self.state, self.wait, self.asked_epoch) = (MailState::Queued, Wait::Ready, 0);
        self.last_error = Some(reason.into());
        out.push(Action::Tell(Event::Redeliver { reason: reason.into() }));
        if self.expired(cx.now) {
            self.dead("expired", out);
        }
    }

    /// S4, or S5 when no retry is left.
    fn retry(&mut self, reason: &str, floor_ms: u64, cx: &Cx<'_>, out: &mut Vec<Action>) {
        if self.spent_retries() >= RETRIES_MAX {
            return self.dead(reason, out);
        }
        self.retries += 1;
        self.pause(reason, self.spent_retries() - 1, floor_ms, cx, out);
    }

    fn pause(&mut self, reason: &str, n: u32, floor_ms: u64, cx: &Cx<'_>, out: &mut Vec<Action>) {
        let pace = if cx.pace == Pace::Slow { 2 } else { 1 };
        let delay_ms = (backoff_ms(n, cx.below) * pace).max(floor_ms);
        self.wait = Wait::Pause(cx.now.mono_ms + delay_ms);
        self.last_error = Some(reason.into());
        out.push(Action::Tell(Event::Retry { reason: reason.into(), delay_ms }));
    }

    fn owner_epoch(&mut self, epoch: u64, out: &mut Vec<Action>) {
        if self.state == MailState::Delivered && epoch > self.receiver_epoch && epoch > self.asked_epoch {
            self.asked_epoch = epoch;
            self.asks += 1;
            out.push(Action::Ask);
        }
    }

    fn dead(&mut self, reason: &str, out: &mut Vec<Action>) {
        (self.state, self.wait) = (MailState::DeadLetter, Wait::Nothing);
        self.last_error = Some(reason.into());
        out.push(Action::Tell(Event::DeadLetter { reason: reason.into() }));
    }

    fn expired(&self, now: Now) -> bool {
        now.wall > self.expires_at
    }
}

fn work(asks: u32, cx: &Cx<'_>) -> Wait {
    Wait::Work(cx.now.mono_ms + cx.timing.process_timeout_ms, cx.now.mono_ms + ask_delay_ms(asks))
}

/// 2 s after the letter was delivered, then twice as long each time, up to once in 30 s.
fn ask_delay_ms(asks: u32) -> u64 {
    (ASK_FIRST_MS << asks.min(8)).min(ASK_MAX_MS)
}
