//! When things should begin: the schedule of an open loop, and a clock that keeps it.
//!
//! The runtime's timers tick in milliseconds, too coarse to time a connection that takes a third of
//! one. So a thread of its own sleeps until the next start is due, and hands it over.

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::sync::mpsc;

/// The longest sleep, so that a stop is seen soon.
const NAP: Duration = Duration::from_millis(20);

/// Starts at a fixed rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Starts in a second.
    pub rate: f64,
    /// No start at or after this time from the beginning.
    pub length: Duration,
}

impl Schedule {
    /// When start `number` (from 0) is due, counted from the beginning; `None` after the end. Not a sum
    /// of intervals: a rounding error would grow with the run.
    pub fn due(&self, number: u64) -> Option<Duration> {
        let at = Duration::try_from_secs_f64(number as f64 / self.rate).ok()?;
        (at < self.length).then_some(at)
    }
}

/// Start `number` of a schedule.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Counted from 0.
    pub number: u64,
    /// When it is due. Latency counts from here, however late it really begins.
    pub intended: Instant,
}

/// Sends each start when it is due, and ends with the schedule, when `stop` is set or when nobody
/// listens any more. It never waits for the listener.
pub fn keep(
    schedule: Schedule,
    begin: Instant,
    stop: Arc<AtomicBool>,
) -> Result<mpsc::UnboundedReceiver<Start>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    thread::Builder::new()
        .name("pace".into())
        .spawn(move || {
            // By default the kernel may let a sleeper oversleep by 50 us. A kernel that refuses
            // only costs precision, which the report shows as late starts.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
            let mut number = 0;
            while let Some(due) = schedule.due(number) {
                let intended = begin + due;
                loop {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let wait = intended.saturating_duration_since(Instant::now());
                    if wait.is_zero() {
                        break;
                    }
                    thread::sleep(wait.min(NAP));
                }
                if sender.send(Start { number, intended }).is_err() {
                    return;
                }
                number += 1;
            }
        })
        .context("cannot start a thread")?;
    Ok(receiver)
}

/// Packets that leave many at a time, at a rate or as fast as they are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batches {
    /// Packets in a second; `None` is as fast as they are taken.
    rate: Option<f64>,
    /// The most at a time.
    most: u64,
    /// The shortest rest between two batches.
    rest: Duration,
    done: u64,
}

impl Batches {
    /// None of them left so far.
    pub fn new(rate: Option<f64>, most: u64, rest: Duration) -> Self {
        Self {
            rate,
            most,
            rest,
            done: 0,
        }
    }

    /// How many are due at `age` from the beginning, or how long to rest.
    fn next(&mut self, age: Duration) -> Result<u64, Duration> {
        let Some(rate) = self.rate else {
            return Ok(self.most);
        };
        let due = (age.as_secs_f64() * rate) as u64;
        let count = due.saturating_sub(self.done).min(self.most);
        if count == 0 {
            let next = Duration::from_secs_f64(((self.done + 1) as f64 / rate).min(1e9));
            return Err(next.saturating_sub(age).max(self.rest));
        }
        self.done += count;
        Ok(count)
    }

    /// The size of each batch when it is due; ends `length` after `begin`, or when `stop` is set.
    pub fn keep(
        mut self,
        begin: Instant,
        length: Duration,
        stop: Arc<AtomicBool>,
    ) -> impl Iterator<Item = u64> {
        std::iter::from_fn(move || {
            loop {
                let age = begin.elapsed();
                if stop.load(Ordering::Relaxed) || age >= length {
                    return None;
                }
                match self.next(age) {
                    Ok(count) => return Some(count),
                    Err(rest) => thread::sleep(rest.min(NAP)),
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn starts_lie_on_the_grid_and_end_with_the_run() {
        let schedule = Schedule {
            rate: 3.0,
            length: Duration::from_secs(1_000_000),
        };
        assert_eq!(schedule.due(0), Some(Duration::ZERO));
        // Without a drift: three million starts later it is a whole second again.
        let late = schedule.due(2_999_997).unwrap();
        assert_eq!(late, Duration::from_secs(999_999));
        assert_eq!(schedule.due(3_000_000), None);
    }

    #[tokio::test]
    async fn every_start_comes_not_before_it_is_due() {
        let schedule = Schedule {
            rate: 2_000.0,
            length: Duration::from_millis(100),
        };
        let begin = Instant::now();
        let mut starts = keep(schedule, begin, Arc::default()).unwrap();
        let mut count = 0;
        while let Some(start) = starts.recv().await {
            assert!(Instant::now() >= start.intended);
            assert_eq!(start.number, count);
            count += 1;
        }
        assert_eq!(count, 200);
    }

    #[test]
    fn batches_catch_up_with_the_rate_and_rest_until_the_next_packet_is_due() {
        let at = Duration::from_millis;
        let mut paced = Batches::new(Some(1_000.0), 64, at(1));
        assert_eq!(paced.next(at(0)), Err(at(1)));
        assert_eq!(paced.next(at(10)), Ok(10));
        assert_eq!(paced.next(at(10)), Err(at(1)));
        // Late by 100 packets.
        assert_eq!(paced.next(at(110)), Ok(64));
        assert_eq!(paced.next(at(110)), Ok(36));
        let mut slow = Batches::new(Some(0.1), 64, at(1));
        assert_eq!(slow.next(at(0)), Err(at(10_000)));
        let mut fast = Batches::new(None, 64, at(1));
        assert_eq!((fast.next(at(0)), fast.next(at(0))), (Ok(64), Ok(64)));
    }

    #[tokio::test]
    async fn a_stop_ends_it() {
        let schedule = Schedule {
            rate: 0.001,
            length: Duration::from_secs(1_000_000),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let mut starts = keep(schedule, Instant::now(), stop.clone()).unwrap();
        assert_eq!(starts.recv().await.unwrap().number, 0);
        stop.store(true, Ordering::Relaxed);
        assert!(starts.recv().await.is_none());
    }
}
