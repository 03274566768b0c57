use async_trait::async_trait;

use clawstead_terms::{Envelope, Failure, RunStatus};

/// What the one door says of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Stored now: it survives a crash from here on.
    Stored,
    /// The same letter (same run id) was stored before; this is where its run stands.
    Duplicate(RunStatus),
}

/// The one door: everything that wants an agent's attention goes through `deliver`.
#[async_trait]
pub trait Post: Send + Sync {
    /// Stores the letter with its owner. `Ok` means stored, not handled.
    ///
    /// # Errors
    /// `NotFound` for an agent that does not exist, `Forbidden` by policy, `InvalidRequest` when the same run
    /// id was used for another text, `Busy` when the inbox is full, `Unavailable` when the store is away.
    async fn deliver(&self, letter: Envelope) -> Result<Accepted, Failure>;
}
