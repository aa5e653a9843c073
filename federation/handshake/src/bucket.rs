//! A token bucket whose clock is an argument.

use identity::Mono;

/// At most `rate` a second on average, at most `burst` at once.
#[derive(Clone, Debug)]
pub struct Bucket {
    rate: u32,
    burst: u32,
    /// Tokens in billionths, so that a nanosecond adds exactly `rate`.
    level: u128,
    filled: Mono,
}

const TOKEN: u128 = 1_000_000_000;

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: u32, burst: u32) -> Self {
        Self {
            rate,
            burst,
            level: u128::from(burst) * TOKEN,
            filled: Mono::default(),
        }
    }

    /// Takes one token, if there is one.
    pub fn take(&mut self, now: Mono) -> bool {
        let elapsed = now.since(self.filled).as_nanos();
        self.filled = self.filled.max(now);
        let full = u128::from(self.burst) * TOKEN;
        self.level = self
            .level
            .saturating_add(elapsed * u128::from(self.rate))
            .min(full);
        let Some(rest) = self.level.checked_sub(TOKEN) else {
            return false;
        };
        self.level = rest;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn gives_the_burst_and_then_the_rate() {
        let mut bucket = Bucket::new(100, 5);
        let start = Mono(Duration::from_secs(7));
        assert_eq!((0..10).filter(|_| bucket.take(start)).count(), 5);
        let later = start.after(Duration::from_millis(30));
        assert_eq!((0..10).filter(|_| bucket.take(later)).count(), 3);
    }

    #[test]
    fn a_clock_that_stands_or_runs_back_gives_nothing() {
        let mut bucket = Bucket::new(100, 1);
        assert!(bucket.take(Mono(Duration::from_secs(9))));
        assert!(!bucket.take(Mono(Duration::from_secs(9))));
        assert!(!bucket.take(Mono(Duration::from_secs(8))));
    }
}
