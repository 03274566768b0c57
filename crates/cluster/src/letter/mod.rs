//! The life of a letter: at its sender (S1 to S11) and at its receiver (R1 to R6).
//!
//! Both are state machines over one row: a row and an input go in, the next row and actions come out. Whoever drives them
//! commits row and events in one transaction and carries out the other actions afterwards; a crash between the two loses
//! actions only, and every lost action is made good by a later attempt. Losing, repeating, delaying and reordering on the
//! way can therefore neither lose a letter nor handle it twice.
//!
//! Decisions where the design leaves room:
//! - An attempt is counted before it is handed over, so that crashes cannot make more of them than [`SENDS_MAX`].
//! - Order is kept by having one letter of a lane (source, target, session) on its way until it ended. A letter that its
//!   sender gave up may still arrive late; it is then handled out of order, and the dead letter says so.
//! - A receipt `acked` for a letter still queued says `delivered` too: two transitions, two events.
//! - A failure that carries a refusal's code means that the letter was not taken: queued letters try again or end. Any
//!   other failure means that it was tried.
//! - A failed letter that is tried again says so in its hop data (`state: failed`): only such an attempt opens the
//!   receiver's row again, a late repeat of an older attempt does not.
//! - A new delivery because nothing was heard of the work (S8) spends one of the three tries after a failure.
//! - While a letter is delivered and not done, its sender asks from time to time where it stands (2 s after delivery, at most
//!   once in 30 s): else one lost `acked` would hold its lane until the process timeout. Questions are small events outside of
//!   the count of attempts; the receiver answers with the receipt of the row.
//! - Time to live bounds the start of work. Once a letter is delivered, its end is waited for.

mod breaker;
mod busy;
mod desk;
mod event;
mod receiver;
mod replay;
mod sender;
mod status;
#[cfg(test)]
mod tests;
mod timing;

pub use breaker::{Breaker, RetryBudget};
pub use busy::{BusyLevel, INBOX_BYTES_MAX, INBOX_HARD, INBOX_SOFT, OUTBOX_MAX, busy_level};
pub use desk::{Change, Desk, DeskFull, IN_FLIGHT_MAX, IN_FLIGHT_PER_TARGET_MAX, Posting, Sight};
pub use event::Event;
pub use receiver::{Act, CRASHES_MAX, HEARTBEAT_MS, HandlerEnd, Row, RowInput, RowState, UNKNOWN_LETTER};
pub use replay::{Replay, replay};
pub use sender::{Action, Cx, Input, Outgoing, Owner, Pace};
pub use status::{STATUS_CAPABILITY, StatusQuery, status_query};
pub use timing::{BACKOFF_FIRST_MS, BACKOFF_MAX_MS, PROCESS_TIMEOUT_MS, REOPENS_MAX, RETRIES_MAX, SENDS_MAX, Timing, backoff_ms};
