//! The life of a key by which others believe this cluster: it is published, waits until everybody has
//! heard of it, is used, and goes when nothing that it signed is valid any more. docs/spec/bundle.md,
//! section 4.
//!
//! The ring knows numbers and times, and no key. Times are of the wall clock, since keys outlive
//! processes; a clock that goes back only delays what is due.

use std::time::Duration;

use identity::UnixMillis;
use serde::{Deserialize, Serialize};

/// Most keys of one kind at once: a bundle has room for 32.
pub const MAX_GENERATIONS: usize = 8;

/// When what becomes of keys of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// How long a key is used before the next one is published; `None`: until an operator says so.
    pub life: Option<Duration>,
    /// From when a key is published to its first use.
    pub publish: Duration,
    /// From when a key was used last to when it is believed no more.
    pub keep: Duration,
}

/// Where a key is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Phase {
    /// It is published and signs nothing yet.
    Next {
        /// From when on it signs.
        use_at: UnixMillis,
        /// For how many milliseconds the one before it is kept then.
        keep_before: u64,
    },
    /// It signs.
    Current {
        /// Since when.
        since: UnixMillis,
    },
    /// It signs nothing any more, and what it signed is believed.
    Old {
        /// Until when.
        retire_at: UnixMillis,
    },
}

/// One key of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Its number, never given twice.
    pub number: u32,
    /// Where it is in its life.
    pub phase: Phase,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A key is to be made and published: [`KeyRing::publish`].
    Publish,
    /// The key of this number signs from now on: [`KeyRing::take`].
    Use(u32),
    /// The key of this number is believed no more: [`KeyRing::take`].
    Retire(u32),
}

/// Why no key is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RotateError {
    /// One waits already.
    #[error("key {number} is published already and will be used at {use_at}")]
    Waiting {
        /// Its number.
        number: u32,
        /// When it is used.
        use_at: UnixMillis,
    },
    /// Too many old ones are still believed.
    #[error("{MAX_GENERATIONS} keys are believed already; the oldest is retired at {0}")]
    Full(UnixMillis),
}

/// The keys of one kind, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyRing(Vec<Generation>);

impl KeyRing {
    /// One key, number 1, in use since `since`.
    #[must_use]
    pub fn new(since: UnixMillis) -> Self {
        Self(vec![Generation {
            number: 1,
            phase: Phase::Current { since },
        }])
    }

    /// No key at all: those of this kind are somebody else's. Nothing is ever due.
    #[must_use]
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Whether it is one that this code makes: numbers rise, one key is in use, at most one waits.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let rises = self.0.is_sorted_by(|a, b| a.number < b.number);
        let count = |of: fn(&Phase) -> bool| self.0.iter().filter(|g| of(&g.phase)).count();
        let current = count(|phase| matches!(phase, Phase::Current { .. }));
        let next = count(|phase| matches!(phase, Phase::Next { .. }));
        rises && current == 1 && next <= 1 && self.0.len() <= MAX_GENERATIONS
    }

    /// All that are believed, oldest first.
    #[must_use]
    pub fn generations(&self) -> &[Generation] {
        &self.0
    }

    /// The number of the one that signs.
    #[must_use]
    pub fn current(&self) -> u32 {
        let mut all = self.0.iter();
        let current = all.find(|g| matches!(g.phase, Phase::Current { .. }));
        current.map_or(0, |current| current.number)
    }

    /// The one that waits, and when it is used.
    #[must_use]
    pub fn next(&self) -> Option<(u32, UnixMillis)> {
        self.0.iter().find_map(|g| match g.phase {
            Phase::Next { use_at, .. } => Some((g.number, use_at)),
            _ => None,
        })
    }

    /// What is to be done now. One thing at a time: to be asked again.
    #[must_use]
    pub fn due(&self, schedule: &Schedule, now: UnixMillis) -> Option<Step> {
        let step = self.0.iter().find_map(|g| match g.phase {
            Phase::Next { use_at, .. } if use_at <= now => Some(Step::Use(g.number)),
            Phase::Old { retire_at } if retire_at <= now => Some(Step::Retire(g.number)),
            _ => None,
        });
        let full = self.0.len() >= MAX_GENERATIONS;
        step.or_else(|| {
            let life = schedule.life.filter(|_| self.next().is_none() && !full)?;
            let aged = self.0.iter().any(|g| match g.phase {
                Phase::Current { since } => since.after(life) <= now,
                _ => false,
            });
            aged.then_some(Step::Publish)
        })
    }

    /// A new key is published now, used `publish` from now, and the one before it is kept for `keep`
    /// after that. Returns its number.
    ///
    /// # Errors
    /// [`RotateError`]; nothing changed then.
    pub fn publish(
        &mut self,
        publish: Duration,
        keep: Duration,
        now: UnixMillis,
    ) -> Result<u32, RotateError> {
        if let Some((number, use_at)) = self.next() {
            return Err(RotateError::Waiting { number, use_at });
        }
        if self.0.len() >= MAX_GENERATIONS {
            let ends = self.0.iter().filter_map(|g| match g.phase {
                Phase::Old { retire_at } => Some(retire_at),
                _ => None,
            });
            return Err(RotateError::Full(ends.min().unwrap_or(now)));
        }
        let number = self.0.last().map_or(0, |last| last.number) + 1;
        self.0.push(Generation {
            number,
            phase: Phase::Next {
                use_at: now.after(publish),
                keep_before: u64::try_from(keep.as_millis()).unwrap_or(u64::MAX),
            },
        });
        Ok(number)
    }

    /// Does a step that was due.
    pub fn take(&mut self, step: Step, now: UnixMillis) {
        match step {
            Step::Publish => {}
            Step::Use(number) => {
                let mut keep = Duration::ZERO;
                for g in &mut self.0 {
                    if let Phase::Next { keep_before, .. } = g.phase
                        && g.number == number
                    {
                        keep = Duration::from_millis(keep_before);
                        g.phase = Phase::Current { since: now };
                    }
                }
                for g in &mut self.0 {
                    if matches!(g.phase, Phase::Current { .. }) && g.number != number {
                        let retire_at = now.after(keep);
                        g.phase = Phase::Old { retire_at };
                    }
                }
            }
            // Only an old one goes, whatever is asked.
            Step::Retire(number) => self
                .0
                .retain(|g| g.number != number || !matches!(g.phase, Phase::Old { .. })),
        }
    }

    /// For how long the key before the one that waits is to be kept.
    #[must_use]
    pub fn keep_before(&self, number: u32) -> Option<Duration> {
        self.0.iter().find_map(|g| match g.phase {
            Phase::Next { keep_before, .. } if g.number == number => {
                Some(Duration::from_millis(keep_before))
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const SCHEDULE: Schedule = Schedule {
        life: Some(Duration::from_hours(24)),
        publish: Duration::from_hours(3),
        keep: HOUR,
    };

    fn at(hours: u64) -> UnixMillis {
        UnixMillis(0).after(HOUR * hours as u32)
    }

    #[test]
    fn a_key_is_published_waits_is_used_and_the_one_before_goes_later() {
        let mut ring = KeyRing::new(at(0));
        assert_eq!(ring.due(&SCHEDULE, at(23)), None);
        assert_eq!(ring.due(&SCHEDULE, at(24)), Some(Step::Publish));
        let number = ring
            .publish(SCHEDULE.publish, SCHEDULE.keep, at(24))
            .unwrap();
        assert_eq!((number, ring.current()), (2, 1));
        assert_eq!(ring.next(), Some((2, at(27))));
        assert_eq!(ring.due(&SCHEDULE, at(26)), None);
        assert_eq!(
            ring.publish(HOUR, HOUR, at(26)),
            Err(RotateError::Waiting {
                number: 2,
                use_at: at(27)
            })
        );
        assert_eq!(ring.due(&SCHEDULE, at(27)), Some(Step::Use(2)));
        ring.take(Step::Use(2), at(27));
        assert_eq!(ring.current(), 2);
        assert_eq!(ring.generations().len(), 2, "the old one is believed");
        assert_eq!(ring.due(&SCHEDULE, at(27)), None);
        assert_eq!(ring.due(&SCHEDULE, at(28)), Some(Step::Retire(1)));
        ring.take(Step::Retire(2), at(28));
        assert_eq!(ring.current(), 2, "the one in use does not go");
        ring.take(Step::Retire(1), at(28));
        assert_eq!(ring.generations().len(), 1);
        assert_eq!(
            ring.due(&SCHEDULE, at(50)),
            None,
            "it lives from its first use"
        );
        assert_eq!(ring.due(&SCHEDULE, at(51)), Some(Step::Publish));
    }

    #[test]
    fn a_clock_that_goes_back_delays_and_nothing_more() {
        let mut ring = KeyRing::new(at(1000));
        assert_eq!(ring.due(&SCHEDULE, at(0)), None);
        ring.publish(HOUR, HOUR, at(1000)).unwrap();
        assert_eq!(ring.due(&SCHEDULE, at(5)), None);
        assert_eq!(ring.due(&SCHEDULE, at(1001)), Some(Step::Use(2)));
    }

    #[test]
    fn the_number_of_keys_is_bounded() {
        let mut ring = KeyRing::new(at(0));
        for _ in 1..MAX_GENERATIONS {
            let number = ring.publish(Duration::ZERO, HOUR, at(0)).unwrap();
            ring.take(Step::Use(number), at(0));
        }
        assert_eq!(
            ring.publish(HOUR, HOUR, at(0)),
            Err(RotateError::Full(at(1)))
        );
        assert!(ring.is_sound());
    }

    proptest! {
        /// Whatever comes: one key is in use, none is used before it was published for as long as was
        /// said, and none goes before the one after it was used for as long as was said.
        #[test]
        fn nobody_meets_a_key_too_early_or_too_late(
            steps in prop::collection::vec((0_u64..40, 0_u8..3, 0_u64..6, 0_u64..6), 1..60),
        ) {
            let mut ring = KeyRing::new(at(0));
            let mut now = at(0);
            // Of each number: when it is used, and when the one after it was.
            let mut use_at = std::collections::BTreeMap::new();
            let mut retire_at = std::collections::BTreeMap::new();
            let mut keeps = std::collections::BTreeMap::new();
            for (hours, what, publish, keep) in steps {
                now = now.after(HOUR * hours as u32);
                if what == 0 && let Ok(number) = ring.publish(HOUR * publish as u32, HOUR * keep as u32, now) {
                    use_at.insert(number, now.after(HOUR * publish as u32));
                    keeps.insert(number, HOUR * keep as u32);
                }
                while let Some(step) = ring.due(&SCHEDULE, now) {
                    match step {
                        Step::Publish => {
                            let number = ring.publish(SCHEDULE.publish, SCHEDULE.keep, now).unwrap();
                            use_at.insert(number, now.after(SCHEDULE.publish));
                            keeps.insert(number, SCHEDULE.keep);
                        }
                        Step::Use(number) => {
                            prop_assert!(use_at[&number] <= now);
                            retire_at.insert(ring.current(), now.after(keeps[&number]));
                        }
                        Step::Retire(number) => prop_assert!(retire_at[&number] <= now),
                    }
                    ring.take(step, now);
                }
                prop_assert!(ring.is_sound());
                let stored = serde_json::to_vec(&ring).unwrap();
                prop_assert_eq!(&serde_json::from_slice::<KeyRing>(&stored).unwrap(), &ring);
            }
        }
    }
}
