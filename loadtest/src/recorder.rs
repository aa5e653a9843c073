//! What came of each attempt, counted.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;

use crate::outcome::Failure;

/// Resolution and range of all histograms, in nanoseconds: one microsecond to one hour, within a
/// thousandth.
const LOWEST: u64 = 1_000;
const HIGHEST: u64 = 3_600_000_000_000;
const DIGITS: u8 = 3;

/// Times, in nanoseconds.
pub type Times = Histogram<u64>;

/// An empty histogram.
pub fn times() -> Result<Times> {
    Histogram::new_with_bounds(LOWEST, HIGHEST, DIGITS).context("no histogram of these bounds")
}

/// Counts of a run.
pub struct Recorder {
    begin: Instant,
    /// From the intended start: what a user waits who comes at that moment.
    pub response: Times,
    /// From the real start: what is left when the generator waits along with a target that stalls.
    pub service: Times,
    /// From the intended to the real start.
    pub late: Times,
    /// Failures by kind.
    pub failed: BTreeMap<Failure, u64>,
    /// Attempts that are under way.
    pub in_flight: u64,
    /// Successes and failures of each second.
    pub seconds: Vec<(u64, u64)>,
    /// Response times since the progress line was last drawn.
    pub recent: Times,
}

/// An attempt that began.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    intended: Instant,
    started: Instant,
}

impl Recorder {
    /// Nothing yet, at the beginning of the run.
    pub fn new(begin: Instant) -> Result<Self> {
        Ok(Self {
            begin,
            response: times()?,
            service: times()?,
            late: times()?,
            failed: BTreeMap::new(),
            in_flight: 0,
            seconds: Vec::new(),
            recent: times()?,
        })
    }

    /// An attempt begins now that was meant to begin at `intended`.
    pub fn start(&mut self, intended: Instant, now: Instant) -> Attempt {
        self.in_flight += 1;
        let late = now.saturating_duration_since(intended);
        self.late.saturating_record(nanos(late));
        Attempt {
            intended,
            started: now,
        }
    }

    /// The attempt ended now.
    pub fn end(&mut self, attempt: Attempt, result: Result<(), Failure>, now: Instant) {
        self.in_flight -= 1;
        match result {
            Ok(()) => {
                let response = nanos(now.saturating_duration_since(attempt.intended));
                self.response.saturating_record(response);
                self.recent.saturating_record(response);
                let service = now.saturating_duration_since(attempt.started);
                self.service.saturating_record(nanos(service));
                self.second(now).0 += 1;
            }
            Err(failure) => self.fail(failure, now),
        }
    }

    /// Something failed that has no time.
    pub fn fail(&mut self, failure: Failure, now: Instant) {
        *self.failed.entry(failure).or_default() += 1;
        self.second(now).1 += 1;
    }

    /// `attempts` were neither a success nor a failure when the run was over.
    pub fn leave(&mut self, attempts: u64) {
        self.in_flight = 0;
        if attempts > 0 {
            *self.failed.entry(Failure::Unfinished).or_default() += attempts;
        }
    }

    /// Successes.
    pub fn succeeded(&self) -> u64 {
        self.response.len()
    }

    /// Failures of all kinds.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    fn second(&mut self, now: Instant) -> &mut (u64, u64) {
        let second = now.saturating_duration_since(self.begin).as_secs();
        let second = usize::try_from(second).unwrap_or(usize::MAX - 1);
        if self.seconds.len() <= second {
            self.seconds.resize(second + 1, (0, 0));
        }
        &mut self.seconds[second]
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_attempt_that_began_late_has_waited_since_it_was_meant_to_begin() {
        let begin = Instant::now();
        let ms = |n| begin + Duration::from_millis(n);
        let mut recorder = Recorder::new(begin).unwrap();
        let attempt = recorder.start(ms(100), ms(1_100));
        assert_eq!(recorder.in_flight, 1);
        recorder.end(attempt, Ok(()), ms(1_101));
        let other = recorder.start(ms(1_200), ms(1_200));
        recorder.end(other, Err(Failure::Refused), ms(2_300));
        let about = |times: &Times| times.max() / 1_000_000;
        assert_eq!(
            (about(&recorder.response), about(&recorder.service)),
            (1_001, 1)
        );
        assert_eq!((recorder.succeeded(), recorder.failures()), (1, 1));
        assert_eq!(recorder.seconds, [(0, 0), (1, 0), (0, 1)]);
        assert_eq!(recorder.in_flight, 0);
    }
}
