//! Keeps the log short while somebody is refused over and over: one line per source and interval, and
//! after it one line that says how many were left out.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use identity::Mono;
use quic::source_of;

/// One line per source in this time.
const INTERVAL: Duration = Duration::from_secs(10);
/// Sources that are told apart.
const MAX_SOURCES: usize = 256;

/// Who was refused lately.
#[derive(Debug, Default)]
pub struct Refusals {
    /// `None` is everybody beyond [`MAX_SOURCES`].
    sources: BTreeMap<Option<IpAddr>, Interval>,
}

#[derive(Clone, Copy, Debug)]
struct Interval {
    begin: Mono,
    left_out: u64,
}

impl Refusals {
    /// Whether the refusal of `from` is to be written down.
    pub fn note(&mut self, from: IpAddr, now: Mono) -> bool {
        let mut source = Some(source_of(from));
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            source = None;
        }
        let mut new = false;
        let interval = self.sources.entry(source).or_insert_with(|| {
            new = true;
            Interval {
                begin: now,
                left_out: 0,
            }
        });
        if !new {
            interval.left_out += 1;
        }
        new
    }

    /// The intervals that are over and in which more was refused than was written: by whom (`None`:
    /// by many), and how much more. To be called about once a second.
    pub fn over(&mut self, now: Mono) -> Vec<(Option<IpAddr>, u64)> {
        let mut more = Vec::new();
        self.sources.retain(|source, interval| {
            if now.since(interval.begin) < INTERVAL {
                return true;
            }
            let left_out = std::mem::take(&mut interval.left_out);
            if left_out == 0 {
                return false;
            }
            more.push((*source, left_out));
            // It may go on: the line that is written now is the one of the next interval.
            interval.begin = now;
            true
        });
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Mono {
        Mono(Duration::from_secs(secs))
    }

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + number).into())
    }

    #[test]
    fn a_source_gets_one_line_per_interval_and_all_are_counted() {
        let mut refusals = Refusals::default();
        let mut lines = 0;
        let mut counted = 0;
        for second in 0..100 {
            for _ in 0..50 {
                lines += u64::from(refusals.note(v4(1), at(second)));
            }
            for (source, more) in refusals.over(at(second)) {
                assert_eq!(source, Some(v4(1)));
                lines += 1;
                counted += more;
            }
        }
        assert_eq!(lines, 10, "one at first and one each ten seconds");
        for (_, more) in refusals.over(at(100)) {
            counted += more;
        }
        assert_eq!(counted + 1, 100 * 50);
        assert!(refusals.over(at(200)).is_empty());
        assert!(refusals.note(v4(1), at(201)), "it begins anew");
    }

    #[test]
    fn a_second_source_has_a_line_of_its_own_and_a_64_is_one() {
        let mut refusals = Refusals::default();
        assert!(refusals.note(v4(1), at(0)));
        assert!(refusals.note(v4(2), at(0)));
        let in_64 = |host: u128| IpAddr::V6((0x2001_0db8_u128 << 96 | host).into());
        assert!(refusals.note(in_64(1), at(0)));
        assert!(!refusals.note(in_64(2), at(0)));
    }

    #[test]
    fn more_sources_than_are_told_apart_share_a_line() {
        let mut refusals = Refusals::default();
        let lines = (0..10_000).filter(|n| refusals.note(v4(*n), at(0))).count();
        assert_eq!(lines, MAX_SOURCES + 1);
        assert_eq!(
            refusals.over(at(10)),
            [(None, 10_000 - MAX_SOURCES as u64 - 1)]
        );
    }
}
