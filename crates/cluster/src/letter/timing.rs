/// Attempts after the first until a letter is delivered.
pub const RETRIES_MAX: u32 = 8;
/// Tries after a failure, or after nothing was heard of the work.
pub const REOPENS_MAX: u32 = 3;
/// Attempts of one letter, whatever happens.
pub const SENDS_MAX: u32 = 1 + RETRIES_MAX + REOPENS_MAX;
/// First delay, ms.
pub const BACKOFF_FIRST_MS: u64 = 500;
/// Longest delay, ms.
pub const BACKOFF_MAX_MS: u64 = 60_000;
/// How long work may be silent, ms.
pub const PROCESS_TIMEOUT_MS: u64 = 600_000;

/// How long is waited for answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// For `delivered`, ms.
    pub ack_timeout_ms: u64,
    /// For any sign of work, ms.
    pub process_timeout_ms: u64,
}

impl Timing {
    /// One building.
    pub const LAN: Self = Self { ack_timeout_ms: 2_000, process_timeout_ms: PROCESS_TIMEOUT_MS };
    /// Over the Internet.
    pub const WAN: Self = Self { ack_timeout_ms: 6_000, process_timeout_ms: PROCESS_TIMEOUT_MS };
}

/// How long to wait before retry `n` (from 0), ms: half of `min(60 s, 0.5 s × 2^n)` and a random part of the other half.
/// Eight of them are at least a minute, longer than any failover. `below(bound)` gives a random number below `bound`.
#[must_use]
pub fn backoff_ms(n: u32, below: &dyn Fn(u64) -> u64) -> u64 {
    let full = BACKOFF_FIRST_MS.saturating_mul(1 << n.min(20)).min(BACKOFF_MAX_MS);
    full / 2 + below(full / 2 + 1)
}
