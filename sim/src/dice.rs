//! Randomness that depends on names, not on the order of calls: what the model does with a run does not change when
//! something else asks for a number first. That keeps a failing seed failing while its cause is looked for.

use rand::{RngCore as _, SeedableRng as _, rngs::StdRng};

/// A sequence of numbers.
pub struct Dice(StdRng);

impl Dice {
    /// The sequence of a seed and a name.
    #[must_use]
    pub fn of(seed: u64, name: &str) -> Self {
        // FNV-1a: only equal names must give equal sequences.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self(StdRng::seed_from_u64(seed.rotate_left(32) ^ hash))
    }

    /// A number below `bound`, 0 for 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64().checked_rem(bound).unwrap_or(0)
    }

    /// A number from `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// True so often in a thousand times.
    pub fn often(&mut self, in_thousand: u64) -> bool {
        self.below(1_000) < in_thousand
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let at = self.below(of.len() as u64);
        of[usize::try_from(at).unwrap_or(0)]
    }
}
