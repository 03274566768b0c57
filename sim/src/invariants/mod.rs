//! What must hold whatever happens: one file each. To add one: its file and one line in [`INVARIANTS`].
//!
//! Three more are checked where they happen: every request a model gets is legal (`actors/brain.rs`), a replaced gateway
//! writes nothing (`actors/store.rs`), and a healed gateway comes to rest and answers in every session (`life.rs`).

mod answered_once;
mod cron_instants;
mod ends_stay;
pub mod farm;
mod letters_between_agents;
mod no_letter_lost;
mod once_tools;
mod one_send;
mod order;
mod replies_settled;
mod rows_agree;

use crate::evidence::Evidence;

/// When an invariant can be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At every death.
    Always,
    /// Only when nothing is left to do.
    Healed,
}

/// A promise.
pub struct Invariant {
    /// Its name.
    pub name: &'static str,
    /// When it is checked.
    pub when: When,
    /// Answers what breaks it.
    pub check: fn(&Evidence) -> Vec<String>,
}

/// All promises.
pub const INVARIANTS: &[Invariant] = &[
    Invariant { name: "no_letter_lost", when: When::Healed, check: no_letter_lost::check },
    Invariant { name: "taken_is_stored", when: When::Always, check: no_letter_lost::taken_is_stored },
    Invariant { name: "answered_once", when: When::Always, check: answered_once::check },
    Invariant { name: "ends_stay", when: When::Always, check: ends_stay::check },
    Invariant { name: "order", when: When::Always, check: order::check },
    Invariant { name: "one_send", when: When::Always, check: one_send::check },
    Invariant { name: "replies_settled", when: When::Healed, check: replies_settled::check },
    Invariant { name: "once_tools", when: When::Always, check: once_tools::check },
    Invariant { name: "cron_instants", when: When::Healed, check: cron_instants::check },
    Invariant { name: "letters_between_agents", when: When::Healed, check: letters_between_agents::check },
    Invariant { name: "rows_agree", when: When::Always, check: rows_agree::check },
];
