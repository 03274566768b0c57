//! Who may ask what of whom, across gateways. Decided where the target lives; the sender asks the same function early, so
//! that a letter that would be refused is not sent.
//!
//! A rule says from whom, to whom, which capabilities, and whether that is allowed. The first rule that fits decides;
//! when none fits, the letter is refused. Receipts are not asked about: whoever was allowed to ask is told where the
//! letter stands.
//!
//! Decisions where the design leaves room: an absent part of a rule means `*`; `max_ttl` of a rule makes it fit letters
//! with a shorter life only as an allowance (a longer one is refused by that rule, later rules are not asked);
//! `per_minute` counts per rule, source agent and target agent, over a sliding minute.

mod limit;
mod rule;

pub use limit::{LIMIT_KEYS_MAX, Limiter};
pub use rule::{CLIENT_PREFIX, CLIENTS_READ, CLIENTS_WRITE, Decision, Effect, Limits, Party, Policy, PolicyError, RULES_MAX, Rule, Subject, starter_policy};
