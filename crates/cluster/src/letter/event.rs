use serde::{Deserialize, Serialize};

/// What a transition is told as, once, in the same transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// S1.
    Queued,
    /// S2.
    Sent {
        /// From 0.
        attempt: u32,
    },
    /// S3.
    Delivered,
    /// S4 and S9.
    Retry {
        /// Why, a code.
        reason: String,
        /// How long is waited, ms.
        delay_ms: u64,
    },
    /// S5 and S10.
    DeadLetter {
        /// Why, a code.
        reason: String,
    },
    /// S6.
    Acked,
    /// S7.
    Failed {
        /// Why, a code.
        code: String,
        /// Whether it may be tried again.
        retryable: bool,
    },
    /// S8.
    Redeliver {
        /// Why, a code.
        reason: String,
    },
    /// S11.
    Replayed,
    /// R1.
    Received,
    /// R2.
    Duplicate,
    /// R2, of a row that had failed.
    Reopened,
    /// R3.
    Rejected {
        /// Why, a code.
        reason: String,
    },
    /// R4.
    Processing,
    /// R5.
    Completed {
        /// Why it failed, a code; none when it is done.
        failed: Option<String>,
    },
    /// R6.
    Recovered {
        /// Crashes so far.
        crashes: u32,
    },
}

impl Event {
    /// The stable name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Queued => "farm.msg.queued",
            Self::Sent { .. } => "farm.msg.sent",
            Self::Delivered => "farm.msg.delivered",
            Self::Retry { .. } => "farm.msg.retry",
            Self::DeadLetter { .. } => "farm.msg.dead_letter",
            Self::Acked => "farm.msg.acked",
            Self::Failed { .. } => "farm.msg.failed",
            Self::Redeliver { .. } => "farm.msg.redeliver",
            Self::Replayed => "farm.msg.replayed",
            Self::Received => "farm.msg.received",
            Self::Duplicate => "farm.msg.duplicate",
            Self::Reopened => "farm.msg.reopened",
            Self::Rejected { .. } => "farm.msg.rejected",
            Self::Processing => "farm.msg.processing",
            Self::Completed { .. } => "farm.msg.completed",
            Self::Recovered { .. } => "farm.msg.recovered",
        }
    }
}
