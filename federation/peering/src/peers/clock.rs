//! How far a peer's clock is from ours, as its pongs tell.

use std::{collections::VecDeque, time::Duration};

use identity::{Now, UnixMillis};

/// A peer's HELLOs are refused beyond this.
pub const TOLERATED: Duration = Duration::from_secs(30);

/// How often the peer is asked.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(10);
/// Of so many answers the quickest counts, because it errs least.
const SAMPLES: usize = 8;
/// What a clock that was said without being asked may have been under way.
const UNASKED: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(crate) struct PeerClock {
    /// {round trip, offset in ms}.
    samples: VecDeque<(Duration, i64)>,
    asked: Option<(u64, Now)>,
    number: u64,
    /// It was said that it is off.
    said: bool,
}

impl PeerClock {
    /// The number of the next ping.
    pub(crate) fn ask(&mut self, now: Now) -> u64 {
        self.number += 1;
        self.asked = Some((self.number, now));
        self.number
    }

    /// A pong. One that was not asked for is ignored.
    pub(crate) fn answer(&mut self, number: u64, theirs: UnixMillis, now: Now) {
        let Some((_, asked)) = self.asked.take_if(|(asked, _)| *asked == number) else {
            return;
        };
        let trip = now.mono.since(asked.mono);
        self.sample(trip, theirs, asked.unix.after(trip / 2));
    }

    /// The clock that the peer said of itself in its greeting.
    pub(crate) fn greeting(&mut self, theirs: UnixMillis, now: Now) {
        self.samples.clear();
        self.asked = None;
        self.sample(UNASKED, theirs, now.unix);
    }

    fn sample(&mut self, trip: Duration, theirs: UnixMillis, ours: UnixMillis) {
        let ms = |at: UnixMillis| i64::try_from(at.0).unwrap_or(i64::MAX);
        let offset = ms(theirs).saturating_sub(ms(ours));
        self.samples.push_back((trip, offset));
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
    }

    /// The peer's clock minus ours in milliseconds.
    pub(crate) fn offset(&self) -> Option<i64> {
        let quickest = self.samples.iter().min_by_key(|(trip, _)| *trip);
        quickest.map(|(_, offset)| *offset)
    }

    /// In words, when it is more than what is tolerated.
    pub(crate) fn problem(&self, now: UnixMillis) -> Option<String> {
        let offset = self.offset()?;
        if u128::from(offset.unsigned_abs()) <= TOLERATED.as_millis() {
            return None;
        }
        let there = UnixMillis(now.0.saturating_add_signed(offset));
        let (secs, tenth) = (
            offset.unsigned_abs() / 1000,
            offset.unsigned_abs() % 1000 / 100,
        );
        let tenth = match tenth {
            0 => String::new(),
            tenth => format!(".{tenth}"),
        };
        Some(format!(
            "clock off by {secs}{tenth} s: here it is {now}, there {there}; more than {} s is not \
             tolerated",
            TOLERATED.as_secs()
        ))
    }

    /// What is new since it was asked last: that it is off, in words, or that it is right again.
    pub(crate) fn news(&mut self, now: UnixMillis) -> Option<Option<String>> {
        let problem = self.problem(now);
        let is_news = self.said != problem.is_some();
        self.said = problem.is_some();
        is_news.then_some(problem)
    }
}

#[cfg(test)]
mod tests {
    use identity::Mono;

    use super::*;

    fn at(secs: u64) -> Now {
        Now {
            mono: Mono(Duration::from_secs(secs)),
            unix: UnixMillis::from_secs(1_800_000_000 + secs),
        }
    }

    #[test]
    fn the_quickest_answer_counts() {
        let mut clock = PeerClock::default();
        assert_eq!(clock.offset(), None);
        clock.greeting(UnixMillis(at(0).unix.0 + 9000), at(0));
        assert_eq!(clock.offset(), Some(9000));
        let number = clock.ask(at(10));
        // Two seconds under way: the clock was read in the middle.
        clock.answer(number, UnixMillis(at(11).unix.0 + 7000), at(12));
        assert_eq!(clock.offset(), Some(7000));
        clock.answer(number, UnixMillis(0), at(12));
        clock.answer(99, UnixMillis(0), at(12));
        assert_eq!(
            clock.offset(),
            Some(7000),
            "what was not asked for is ignored"
        );
    }

    #[test]
    fn both_clocks_are_named_beyond_30_s() {
        let mut clock = PeerClock::default();
        clock.greeting(UnixMillis(at(0).unix.0 + 30_000), at(0));
        assert_eq!(clock.problem(at(0).unix), None);
        clock.greeting(UnixMillis(at(0).unix.0 - 47_000), at(0));
        assert_eq!(
            clock.problem(at(0).unix).as_deref(),
            Some(
                "clock off by 47 s: here it is 2027-01-15T08:00:00Z, there 2027-01-15T07:59:13Z; \
                 more than 30 s is not tolerated"
            )
        );
        clock.greeting(UnixMillis(at(0).unix.0 + 30_900), at(0));
        let said = clock.problem(at(0).unix).unwrap_or_default();
        assert!(said.starts_with("clock off by 30.9 s"), "{said}");
        clock.greeting(UnixMillis(u64::MAX), at(0));
        assert!(clock.problem(at(0).unix).is_some());
    }
}
