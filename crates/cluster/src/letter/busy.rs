use crate::envelope::Priority;

/// Letters waiting for one agent above which low ones are turned away.
pub const INBOX_SOFT: u64 = 200;
/// Letters waiting for one agent above which all are turned away.
pub const INBOX_HARD: u64 = 1000;
/// Bytes waiting for one agent above which all are turned away.
pub const INBOX_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Rows of one agent's outbox; above, its tools get an error and its channels stop confirming.
pub const OUTBOX_MAX: usize = 2000;

/// How full an agent's inbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BusyLevel {
    /// Room for everything.
    Open,
    /// No room for letters of low priority.
    Soft,
    /// No room.
    Hard,
}

/// How full an inbox with `letters` letters of together `bytes` bytes is.
#[must_use]
pub const fn busy_level(letters: u64, bytes: u64) -> BusyLevel {
    if letters >= INBOX_HARD || bytes >= INBOX_BYTES_MAX {
        BusyLevel::Hard
    } else if letters >= INBOX_SOFT {
        BusyLevel::Soft
    } else {
        BusyLevel::Open
    }
}

impl BusyLevel {
    /// How long a letter of this priority is asked to wait, ms; `None` when there is room for it.
    #[must_use]
    pub const fn turns_away(self, priority: Priority) -> Option<u64> {
        match (self, priority) {
            (Self::Open, _) | (Self::Soft, Priority::Normal | Priority::High) => None,
            (Self::Soft, Priority::Low) => Some(2_000),
            (Self::Hard, _) => Some(5_000),
        }
    }
}
