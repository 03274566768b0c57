use std::time::{SystemTime, UNIX_EPOCH};

use clawstead_terms::Millis;

/// Wall time. Durations and sleeping stay plain tokio, which simulations pause.
pub trait Clock: Send + Sync {
    /// Now, UTC.
    fn now(&self) -> Millis;
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Millis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A clock that follows tokio's time, so that paused time moves it.
#[derive(Clone, Copy, Debug)]
pub struct SimClock {
    base_ms: i64,
    start: tokio::time::Instant,
}

impl SimClock {
    /// A clock that shows `base_ms` now.
    #[must_use]
    pub fn starting_at(base_ms: i64) -> Self {
        Self { base_ms, start: tokio::time::Instant::now() }
    }
}

impl Clock for SimClock {
    fn now(&self) -> Millis {
        Millis(self.base_ms).plus(i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX))
    }
}
