//! Which gateway owns which unit, as a state machine for each unit.
//!
//! Three things make one owner: the ownership record changes by compare-and-swap only, so one claimant wins an epoch; the
//! fence in the state store is raised before the winner reads anything, so no older owner commits after that; and an owner
//! begins an effect only within half a window of a commit that proved its fence, while a winner waits a whole window after
//! raising it. Leases only decide when to try. No wall clock is asked.
//!
//! Decisions where the design leaves room:
//! - Silence of an owner is counted from its last change of lease, from when the store came back, and from our own start,
//!   whichever is latest.
//! - A graceful move stops the old owner first and says so in the record (`handed`): the next one needs no window.
//! - A record below an epoch we have seen is not believed, neither to claim on nor to stop for; it is told as an alert.
//! - An owner that loses the state store for L stops and, where the coordination store answers, releases the unit (the
//!   record's owner is empty then), so that another one may claim it without waiting G.
//! - An owner that stopped and finds the unit still its own claims it again with the next epoch after G, as if it had
//!   restarted.
//! - A unit that nobody ever owned is created by the first of `prefer` at once, by the others after G and their rank; a
//!   pinned one (`none`) by the first only.

mod leases;
mod prefer;
mod step;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use leases::Leases;
pub use prefer::{FAILBACK_HOME_MS, FAILBACK_IDLE_MS, fails_back, preference};
pub use step::{Claim, Command, Input};

/// After raising the fence nothing acts for this long, ms. An owner begins an effect within half of it after a commit.
pub const WINDOW_MS: u64 = 2_000;
/// Claimants try one after the other, this far apart, ms.
pub const RANK_DELAY_MS: u64 = 250;
/// How long a graceful move waits for turns to end, ms.
pub const DRAIN_MAX_MS: u64 = 30_000;
/// Between two tries of something that a store did not answer, ms.
pub const AGAIN_MS: u64 = 1_000;

/// How leases are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// R: how often a lease is renewed, ms.
    pub renew_ms: u64,
    /// L: an owner that reaches no store stops after this long, ms.
    pub stop_ms: u64,
    /// G: a claimant sees a lease unchanged for this long before it claims, ms.
    pub wait_ms: u64,
}

impl Profile {
    /// Tests, one switch.
    pub const FAST: Self = Self { renew_ms: 500, stop_ms: 1_500, wait_ms: 2_000 };
    /// One building; the default.
    pub const LAN: Self = Self { renew_ms: 1_000, stop_ms: 4_000, wait_ms: 6_000 };
    /// Over the Internet.
    pub const WAN: Self = Self { renew_ms: 3_000, stop_ms: 12_000, wait_ms: 18_000 };
}

/// What happens to a unit whose owner is silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Failover {
    /// Another gateway claims it.
    Auto,
    /// An operator says who takes it.
    Manual,
    /// Nothing: its state lies with its owner (SQLite).
    #[default]
    None,
}

/// `openclaw/farm/v1/shards/<unit>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Grows by one exactly when owner or incarnation changes.
    pub epoch: u64,
    /// The gateway that owns it; empty when it was released.
    pub owner: String,
    /// The owner's incarnation.
    pub incarnation: u64,
    /// Who should own it, best first.
    pub prefer: Vec<String>,
    /// What happens when the owner is silent.
    pub failover: Failover,
    /// When the owner last changed, for people.
    #[serde(default)]
    pub since: String,
    /// True when the owner before stopped first and handed it over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handed: bool,
}

impl Record {
    /// Where the record of a unit lies.
    #[must_use]
    pub fn store_key(unit: &clawstead_terms::Unit) -> String {
        format!("openclaw/farm/v1/shards/{unit}")
    }
}
