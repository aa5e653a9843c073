//! How often a source may fail to prove who it is: a few times at once, then once in ten seconds.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use crate::Mono;

/// Failures that a source may have at once, and how soon one of them is forgiven.
const BURST: u32 = 5;
const FORGIVEN_AFTER: Duration = Duration::from_secs(10);
/// Most sources whose failures are remembered.
const MAX_SOURCES: usize = 1024;

/// The failures of each source.
#[derive(Clone, Debug, Default)]
pub struct Guesses {
    failures: BTreeMap<IpAddr, Failures>,
}

#[derive(Clone, Debug)]
struct Failures {
    count: u32,
    /// When the oldest of them is forgiven.
    forgiven: Mono,
}

impl Guesses {
    /// Whether `source` may try now.
    ///
    /// # Errors
    /// After how many seconds it may.
    pub fn may_try(&mut self, source: IpAddr, now: Mono) -> Result<(), u64> {
        let Some(failures) = self.failures.get_mut(&source) else {
            return Ok(());
        };
        while failures.count > 0 && failures.forgiven <= now {
            failures.count -= 1;
            failures.forgiven = failures.forgiven.after(FORGIVEN_AFTER);
        }
        match failures.count {
            0 => {
                self.failures.remove(&source);
                Ok(())
            }
            1..BURST => Ok(()),
            _ => Err(failures.forgiven.since(now).as_secs() + 1),
        }
    }

    /// `source` tried and failed.
    pub fn failed(&mut self, source: IpAddr, now: Mono) {
        if self.failures.len() >= MAX_SOURCES && !self.failures.contains_key(&source) {
            // Whoever is forgiven first is forgotten: the table stays bounded.
            let first = self.failures.iter().min_by_key(|(_, f)| f.forgiven);
            if let Some(forgotten) = first.map(|(source, _)| *source) {
                self.failures.remove(&forgotten);
            }
        }
        self.failures
            .entry(source)
            .or_insert(Failures {
                count: 0,
                forgiven: now.after(FORGIVEN_AFTER),
            })
            .count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Mono {
        Mono(Duration::from_secs(secs))
    }

    #[test]
    fn failures_are_limited_per_source_and_forgiven_in_time() {
        let mut guesses = Guesses::default();
        let source = IpAddr::from([192, 0, 2, 7]);
        for _ in 0..BURST {
            assert_eq!(guesses.may_try(source, at(0)), Ok(()));
            guesses.failed(source, at(0));
        }
        assert_eq!(guesses.may_try(source, at(0)), Err(11));
        assert_eq!(guesses.may_try(source, at(9)), Err(2));
        assert_eq!(guesses.may_try([192, 0, 2, 8].into(), at(9)), Ok(()));
        assert_eq!(guesses.may_try(source, at(10)), Ok(()));
    }

    #[test]
    fn the_memory_of_failures_is_bounded() {
        let mut guesses = Guesses::default();
        for source in 0..3 * MAX_SOURCES as u32 {
            guesses.failed(IpAddr::V4(source.into()), at(0));
        }
        assert_eq!(guesses.failures.len(), MAX_SOURCES);
    }
}
