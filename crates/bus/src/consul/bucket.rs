use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How many letters may still be published: a store of configuration is not a message broker.
pub(super) struct Bucket {
    per_second: f64,
    burst: f64,
    level: Mutex<(f64, Instant)>,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second: per_second.into(), burst: burst.into(), level: Mutex::new((burst.into(), Instant::now())) }
    }

    /// Takes one, or says after which time there is one.
    pub(super) fn take(&self) -> Result<(), Duration> {
        let now = Instant::now();
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, at) = *level;
        let left = (left + now.duration_since(at).as_secs_f64() * self.per_second).min(self.burst);
        let taken = left >= 1.0;
        *level = (if taken { left - 1.0 } else { left }, now);
        if taken { Ok(()) } else { Err(Duration::from_secs_f64((1.0 - left) / self.per_second)) }
    }

    /// Gives one back that was not used.
    pub(super) fn give_back(&self) {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        level.0 = (level.0 + 1.0).min(self.burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_the_rate() {
        let bucket = Bucket::new(50, 200);
        assert_eq!((0..300).filter(|_| bucket.take().is_ok()).count(), 200);
        let wait = bucket.take().unwrap_err();
        assert!(wait > Duration::from_millis(15) && wait <= Duration::from_millis(20), "{wait:?}");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!((0..300).filter(|_| bucket.take().is_ok()).count(), 100);
        bucket.give_back();
        assert_eq!((bucket.take().is_ok(), bucket.take().is_ok()), (true, false));
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!((0..300).filter(|_| bucket.take().is_ok()).count(), 200);
    }
}
