//! Everything that is checked when a letter arrives, in one function and one order: size, JSON, schema, farm, key,
//! signatures, clock and time to live, hops, the sender's epoch, who owns the target, authorization, repeats.
//!
//! Decisions where the design leaves room:
//! - The source gateway must own the source agent in the epoch it signed, as far as our view of ownership reaches that
//!   epoch; otherwise any gateway of the farm could write in any agent's name.
//! - A gateway's own name in `hops` is a loop only when the letter would have to be passed on. Where the target lives, it
//!   is not: whoever takes over an agent finds letters in its inbox that it sent itself.
//! - A repeat is looked up before limits are counted, so that a retry is not charged.
//! - A receipt is believed when it answers a letter that is in the outbox here and comes from that letter's target.
//! - An expired letter that is known is a repeat: its stored receipt is repeated, so that the sender learns how it ended.

#[cfg(test)]
mod tests;
mod verdict;

pub use verdict::{Checks, Known, Verdict, believed, examine, examine_opened};
