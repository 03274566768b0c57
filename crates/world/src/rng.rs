use std::sync::{Mutex, PoisonError};

use rand::{Rng as _, RngCore, SeedableRng, rngs::StdRng};
use uuid::Uuid;

use clawstead_terms::Millis;

/// Randomness and ids.
pub trait Rng: Send + Sync {
    /// Fills `out` with random bytes; from the system they are fit for secrets.
    fn fill(&self, out: &mut [u8]);

    /// A number below `bound`; 0 when `bound` is 0.
    fn below(&self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes).checked_rem(bound).unwrap_or(0)
    }

    /// A random UUID (version 4), lower case.
    fn uuid(&self) -> String {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// A time-ordered UUID (version 7) for the moment given.
    fn uuid_v7(&self, now: Millis) -> String {
        let mut bytes = [0; 10];
        self.fill(&mut bytes);
        let millis = u64::try_from(now.0).unwrap_or(0);
        let id: Uuid = uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid();
        id.to_string()
    }
}

/// The operating system's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRng;

impl Rng for SystemRng {
    #[expect(clippy::disallowed_methods, reason = "the one place that takes real randomness")]
    fn fill(&self, out: &mut [u8]) {
        rand::rng().fill(out);
    }
}

/// Randomness from a seed: the same seed gives the same run.
#[derive(Debug)]
pub struct SeededRng(Mutex<StdRng>);

impl SeededRng {
    /// Starts the sequence of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Rng for SeededRng {
    fn fill(&self, out: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(out);
    }
}

#[cfg(test)]
mod tests {
    use super::{Rng, SeededRng};
    use clawstead_terms::Millis;

    #[test]
    fn one_seed_gives_one_sequence() {
        let (a, b) = (SeededRng::new(7), SeededRng::new(7));
        assert_eq!((a.uuid(), a.below(10)), (b.uuid(), b.below(10)));
        assert!(a.uuid_v7(Millis(1)) < a.uuid_v7(Millis(2)));
    }
}
