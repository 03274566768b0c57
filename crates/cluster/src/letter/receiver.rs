use clawstead_terms::Millis;
use serde::{Deserialize, Serialize};

use super::Event;
use crate::{
    Now,
    envelope::{Envelope, MailState, Receipt, ReceiptType, TTL_MAX_MS},
};

/// Crashes of a letter's handler after which it is not tried again.
pub const CRASHES_MAX: u32 = 3;
/// Work tells that it goes on this often, ms.
pub const HEARTBEAT_MS: u64 = 30_000;
/// The code of the answer to a question about a letter that is not known.
pub const UNKNOWN_LETTER: &str = "unknown_letter";
/// Tries that attempts may open one row for, with those of replays. A bound against a sender that never stops.
const REOPENED_MAX: u32 = 64;
/// How long a row is kept to know repeats by: twice the longest life of a letter.
const KEEP_MS: u64 = 2 * TTL_MAX_MS;

/// Where a letter stands at its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowState {
    /// In the inbox.
    Delivered,
    /// Being worked on.
    Processing,
    /// Done. Final.
    Acked,
    /// Not done; may be opened again.
    Failed,
}

/// How work ended, committed with its effects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlerEnd {
    /// Done.
    Done,
    /// Not done, and nothing was done.
    Failed {
        /// Why, a code; not one of a refusal.
        code: String,
        /// Whether it may be tried again.
        retryable: bool,
    },
}

/// A row of the inbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The letter that receipts are about: the newest that came for this row.
    pub message_id: String,
    /// Where it stands.
    pub state: RowState,
    /// Number of the newest attempt that opened the row.
    pub attempt: u32,
    /// Handler crashes since it was opened.
    pub crashes: u32,
    /// How often it was opened again.
    pub reopened: u32,
    /// No work begins after this moment.
    pub expires_at: Millis,
    /// Until when the row is kept.
    pub keep_until: Millis,
    /// Why it failed.
    pub code: String,
    /// Whether the failure may be made good.
    pub retryable: bool,
    #[serde(skip, default)]
    beat_at_ms: Option<u64>,
}

/// What happened to a row.
#[derive(Clone, Debug)]
pub enum RowInput<'a> {
    /// The letter came once more, or its replay did.
    Again(&'a Envelope),
    /// The lane is free.
    Start,
    /// Time went on.
    Tick,
    /// The work ended.
    End(HandlerEnd),
    /// The handler crashed, or this gateway starts and finds the work unfinished.
    Crashed,
}

/// What is to be done. `Tell` belongs into the transaction that stores the row, the others come after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Write the event.
    Tell(Event),
    /// Send this receipt to the letter's source.
    Receipt(Receipt),
    /// Begin the work.
    Work,
}

impl Row {
    /// R1: a letter that was checked and is being stored.
    #[must_use]
    pub fn arrived(letter: &Envelope, epoch: u64, now: Now) -> (Self, Vec<Act>) {
        let row = Self {
            message_id: letter.message_id.clone(),
            state: RowState::Delivered,
            attempt: letter.hop.retry_count,
            crashes: 0,
            reopened: 0,
            expires_at: letter.expires_at(),
            keep_until: keep_until(now),
            code: String::new(),
            retryable: false,
            beat_at_ms: None,
        };
        let receipt = row.receipt(&row.message_id, epoch);
        (row, vec![Act::Tell(Event::Received), Act::Receipt(receipt)])
    }

    /// True when this attempt asks to try a failed row again: the sender knows of the failure and this attempt is newer
    /// than the one that failed, or an operator replays the letter under a new id.
    #[must_use]
    pub fn is_reopened_by(&self, letter: &Envelope) -> bool {
        // Ids begin with the time, so a replay's is the greater one; a late repeat of what it replaced opens nothing.
        let replay = letter.message_id > self.message_id;
        let retry = self.retryable && letter.message_id == self.message_id && letter.hop.state == MailState::Failed && letter.hop.retry_count > self.attempt;
        self.state == RowState::Failed && self.reopened < REOPENED_MAX && (replay || retry)
    }

    /// What a sender that asks for `message_id` is told now.
    #[must_use]
    pub fn receipt(&self, message_id: &str, epoch: u64) -> Receipt {
        let kind = match self.state {
            RowState::Delivered => ReceiptType::Delivered,
            RowState::Processing => ReceiptType::Heartbeat,
            RowState::Acked => ReceiptType::Acked,
            RowState::Failed => ReceiptType::Failed,
        };
        let mut receipt = Receipt::plain(message_id, kind, epoch);
        if self.state == RowState::Failed {
            receipt.code.clone_from(&self.code);
            receipt.retryable = self.retryable;
        }
        receipt
    }

    /// When [`RowInput::Tick`] is due, on the boot clock.
    #[must_use]
    pub const fn due_at(&self) -> Option<u64> {
        self.beat_at_ms
    }

    /// One input, the next row and what is to be done. `epoch` is the one under which the target is held.
    #[must_use]
    pub fn step(mut self, input: &RowInput<'_>, epoch: u64, now: Now) -> (Self, Vec<Act>) {
        let mut out = Vec::new();
        match input {
            RowInput::Again(letter) => self.again(letter, epoch, now, &mut out),
            RowInput::Start if self.state == RowState::Delivered => {
                if now.wall > self.expires_at {
                    self.end("expired", false, epoch, &mut out);
                } else {
                    (self.state, self.beat_at_ms) = (RowState::Processing, Some(now.mono_ms + HEARTBEAT_MS));
                    out.extend([Act::Tell(Event::Processing), Act::Work]);
                }
            }
            RowInput::Tick if self.state == RowState::Processing && self.beat_at_ms.is_none_or(|at| at <= now.mono_ms) => {
                self.beat_at_ms = Some(now.mono_ms + HEARTBEAT_MS);
                out.push(Act::Receipt(self.receipt(&self.message_id, epoch)));
            }
            RowInput::End(HandlerEnd::Done) if self.state == RowState::Processing => {
                (self.state, self.beat_at_ms) = (RowState::Acked, None);
                out.extend([Act::Tell(Event::Completed { failed: None }), Act::Receipt(self.receipt(&self.message_id, epoch))]);
            }
            RowInput::End(HandlerEnd::Failed { code, retryable }) if self.state == RowState::Processing => self.end(code, *retryable, epoch, &mut out),
            RowInput::Crashed if self.state == RowState::Processing => {
                self.crashes += 1;
                (self.state, self.beat_at_ms) = (RowState::Delivered, None);
                out.push(Act::Tell(Event::Recovered { crashes: self.crashes }));
                if self.crashes >= CRASHES_MAX {
                    self.end("poison", false, epoch, &mut out);
                }
            }
            RowInput::Start | RowInput::Tick | RowInput::End(_) | RowInput::Crashed => {}
        }
        (self, out)
    }

    fn again(&mut self, letter: &Envelope, epoch: u64, now: Now, out: &mut Vec<Act>) {
        let reopened = now.wall <= letter.expires_at() && self.is_reopened_by(letter);
        self.keep_until = self.keep_until.max(keep_until(now));
        if reopened {
            (self.state, self.crashes, self.attempt) = (RowState::Delivered, 0, letter.hop.retry_count);
            self.reopened += 1;
            self.expires_at = letter.expires_at();
        }
        // A replay under a new id is the one that somebody waits for now.
        if letter.message_id > self.message_id {
            self.message_id.clone_from(&letter.message_id);
        }
        out.push(Act::Tell(if reopened { Event::Reopened } else { Event::Duplicate }));
        out.push(Act::Receipt(self.receipt(&letter.message_id, epoch)));
    }

    fn end(&mut self, code: &str, retryable: bool, epoch: u64, out: &mut Vec<Act>) {
        (self.state, self.beat_at_ms, self.retryable) = (RowState::Failed, None, retryable);
        self.code = code.into();
        out.push(Act::Tell(Event::Completed { failed: Some(code.into()) }));
        out.push(Act::Receipt(self.receipt(&self.message_id, epoch)));
    }
}

fn keep_until(now: Now) -> Millis {
    now.wall.plus(i64::try_from(KEEP_MS).unwrap_or(i64::MAX))
}
