//! The wall clock of a simulated gateway: true time, moved by whoever sets it.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use clawstead_terms::Millis;
use clawstead_world::Clock;

/// Wall time at the begin of every simulation: 2026-01-01T00:00:00Z.
pub const BEGIN_MS: i64 = 1_767_225_600_000;

/// True time goes on from life to life; the skew is what somebody did to the clock.
#[derive(Clone)]
pub struct WallClock {
    life_began_ms: i64,
    start: tokio::time::Instant,
    skew_ms: Arc<AtomicI64>,
}

impl WallClock {
    /// A clock for a life that begins now, `life_began_ms` after the begin of the simulation.
    #[must_use]
    pub fn of_life(life_began_ms: i64, skew_ms: Arc<AtomicI64>) -> Self {
        Self { life_began_ms, start: tokio::time::Instant::now(), skew_ms }
    }

    /// Milliseconds since the begin of the simulation, whatever the clock shows.
    #[must_use]
    pub fn true_ms(&self) -> i64 {
        self.life_began_ms + i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

impl Clock for WallClock {
    fn now(&self) -> Millis {
        Millis(BEGIN_MS + self.true_ms() + self.skew_ms.load(Ordering::Relaxed))
    }
}
