//! What must hold in a farm whatever happens, by the names of the fault matrix: one file each. To add one: its file and
//! one line in [`ALL`].
//!
//! I12 (all gateways tell the same story) and parts of I14 are checked where they are seen, in `farm/mod.rs`.

mod authentic;
mod bounded_retries;
mod loops;
mod no_lost_letter;
mod no_repeat;
mod one_event;
mod one_owner;
mod order;
mod times;

use crate::{
    evidence::Evidence,
    farm::{
        land::Land,
        ledger::{Books, Carried, Written},
    },
};

/// What is known when everything is over.
pub struct End<'a> {
    /// The farm.
    pub land: &'a Land,
    /// Everything that was written about letters.
    pub books: &'a Books,
    /// What all stores hold.
    pub evidence: &'a Evidence,
}

/// A promise. Each part of it is checked as soon as it can be decided.
pub struct Invariant {
    /// Its name in the fault matrix.
    pub name: &'static str,
    /// Checked at every write of a row about a letter.
    pub written: Option<fn(&Written<'_>) -> Vec<String>>,
    /// Checked at every letter that a gateway hands to the bus.
    pub carried: Option<fn(&Carried<'_>) -> Vec<String>>,
    /// Checked when everything is over.
    pub end: Option<fn(&End<'_>) -> Vec<String>>,
}

/// All promises.
pub const ALL: &[Invariant] = &[
    Invariant { name: "I1 no repeated effect", written: None, carried: None, end: Some(no_repeat::end) },
    Invariant { name: "I2 no lost message", written: Some(no_lost_letter::written), carried: None, end: Some(no_lost_letter::end) },
    Invariant { name: "I3 one owner acts", written: None, carried: None, end: Some(one_owner::end) },
    Invariant { name: "I6 retries stay bounded", written: Some(bounded_retries::written), carried: None, end: Some(bounded_retries::end) },
    Invariant { name: "I7 ttl", written: Some(times::written), carried: None, end: Some(times::end) },
    Invariant { name: "I8 no loops", written: None, carried: Some(loops::carried), end: None },
    Invariant { name: "I9 only authentic", written: None, carried: None, end: Some(authentic::end) },
    Invariant { name: "I11 one event per transition", written: Some(one_event::written), carried: None, end: None },
    Invariant { name: "I13 order", written: None, carried: None, end: Some(order::end) },
];
