use std::collections::{BTreeMap, VecDeque};

const MINUTE_MS: u64 = 60_000;
/// Pairs counted at once at most; the one that was silent longest is forgotten.
pub const LIMIT_KEYS_MAX: usize = 10_000;
/// Moments kept for one pair at most; above, moments are taken together, so that a limit is kept a little too strictly.
const MOMENTS_MAX: usize = 256;

/// Counts letters over a sliding minute. State of one gateway, in memory: after a restart the minute begins anew.
#[derive(Clone, Debug, Default)]
pub struct Limiter {
    seen: BTreeMap<String, VecDeque<(u64, u32)>>,
}

impl Limiter {
    /// Counts one letter of `key`.
    ///
    /// # Errors
    /// When the minute before `mono_ms` has `per_minute` letters already: how long to wait, ms, at least 1.
    pub fn take(&mut self, key: &str, per_minute: u32, mono_ms: u64) -> Result<(), u64> {
        if !self.seen.contains_key(key) && self.seen.len() >= LIMIT_KEYS_MAX {
            self.forget(mono_ms);
        }
        let moments = self.seen.entry(key.to_owned()).or_default();
        while moments.front().is_some_and(|(at, _)| mono_ms.saturating_sub(*at) >= MINUTE_MS) {
            moments.pop_front();
        }
        let count: u32 = moments.iter().map(|(_, n)| n).sum();
        if count >= per_minute {
            let first = moments.front().map_or(mono_ms, |(at, _)| *at);
            return Err((first + MINUTE_MS).saturating_sub(mono_ms).max(1));
        }
        let full = moments.len() >= MOMENTS_MAX;
        match moments.back_mut() {
            Some((at, n)) if *at == mono_ms || full => (*at, *n) = (mono_ms, *n + 1),
            _ => moments.push_back((mono_ms, 1)),
        }
        Ok(())
    }

    fn forget(&mut self, mono_ms: u64) {
        self.seen.retain(|_, moments| moments.back().is_some_and(|(at, _)| mono_ms.saturating_sub(*at) < MINUTE_MS));
        if self.seen.len() >= LIMIT_KEYS_MAX {
            let oldest = self.seen.iter().min_by_key(|(_, moments)| moments.back().map(|(at, _)| *at)).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.seen.remove(&key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// In no minute pass more than the limit, and what is refused says truly when there is room.
        #[test]
        fn never_more_than_the_limit(gaps in proptest::collection::vec(0u64..5_000, 1..400), limit in 1u32..40) {
            let mut limiter = Limiter::default();
            let (mut now, mut passed) = (0, Vec::new());
            for gap in gaps {
                now += gap;
                match limiter.take("k", limit, now) {
                    Ok(()) => passed.push(now),
                    Err(wait) => prop_assert!(limiter.clone().take("k", limit, now + wait).is_ok()),
                }
                let in_minute = passed.iter().filter(|at| now - **at < MINUTE_MS).count();
                prop_assert!(in_minute <= usize::try_from(limit).unwrap());
            }
        }
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let mut limiter = Limiter::default();
        for n in 0..LIMIT_KEYS_MAX + 50 {
            assert_eq!(limiter.take(&n.to_string(), 1, 5), Ok(()));
        }
        assert_eq!(limiter.seen.len(), LIMIT_KEYS_MAX);
        for n in 0..10_000 {
            assert_eq!(limiter.take("busy", 1_000_000, 10 + n), Ok(()));
        }
        assert!(limiter.seen["busy"].len() <= MOMENTS_MAX);
    }
}
