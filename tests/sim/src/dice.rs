//! The only randomness of a run.

use std::time::Duration;

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};

/// Seeded dice.
#[derive(Clone, Debug)]
pub struct Dice(ChaCha20Rng);

impl Dice {
    /// Dice that fall the same way for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(ChaCha20Rng::seed_from_u64(seed))
    }

    /// A seed for other dice.
    pub fn seed(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Dice of their own for one part of the world, so that parts do not disturb each other.
    pub fn split(&mut self) -> Self {
        Self::new(self.0.next_u64())
    }

    /// A generator for code under test.
    pub fn rng(&mut self) -> ChaCha20Rng {
        ChaCha20Rng::seed_from_u64(self.0.next_u64())
    }

    /// 32 random bytes.
    pub fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.0.next_u64() % end as u64) as usize
    }

    /// True in `percent` of 100 throws.
    pub fn percent(&mut self, percent: u32) -> bool {
        self.0.next_u32() % 100 < percent
    }

    /// One of `choices`, which is not empty.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// A time between `from` and `to` milliseconds, in microseconds.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        let span = (to - from) * 1000 + 1;
        Duration::from_micros(from * 1000 + self.0.next_u64() % span)
    }
}
