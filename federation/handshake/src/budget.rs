//! How much processor time others can have this one spend on signatures.
//!
//! What a check costs differs by machine and by what else runs on it, so a number of checks in a second is
//! no bound of time. Each check is paid for by what it took; who has nothing left waits until as much time has
//! passed as the share allows.

use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use identity::{Mono, TrustDomain};
use serde::Deserialize;

/// For how long an upstream that sent nothing new may have saved its share.
const SAVED: Duration = Duration::from_millis(100);
/// A check is paid for by at least this, also under a clock that stands.
const LEAST: Duration = Duration::from_micros(1);
/// And by at most this, also under a clock that jumps.
const MOST: Duration = Duration::from_millis(100);
/// What it counts as where nothing measures it: strict Ed25519 on a machine of some age.
const ASSUMED: Duration = Duration::from_micros(50);

/// A share of one core, from 1 to 100 per cent; in words such as `25%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct CoreShare(u8);

/// Not a share of one core.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no share of a core: write 1% to 100%")]
pub struct NoShare(String);

impl CoreShare {
    fn percent(self) -> i128 {
        i128::from(self.0)
    }
}

impl Default for CoreShare {
    fn default() -> Self {
        Self(25)
    }
}

impl FromStr for CoreShare {
    type Err = NoShare;

    fn from_str(text: &str) -> Result<Self, NoShare> {
        let number = text.strip_suffix('%').and_then(|n| n.parse().ok());
        match number {
            Some(percent @ 1..=100) => Ok(Self(percent)),
            _ => Err(NoShare(text.into())),
        }
    }
}

impl TryFrom<String> for CoreShare {
    type Error = NoShare;

    fn try_from(text: String) -> Result<Self, NoShare> {
        text.parse()
    }
}

impl fmt::Display for CoreShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// What a signature check is paid for with.
#[derive(Clone, Copy, Debug)]
pub enum Cost {
    /// This, for virtual time.
    Each(Duration),
    /// What it took: the processor time that the calling thread has used, read before and after.
    Measured(fn() -> Duration),
}

/// How much of a core signature checks may take, for each upstream.
#[derive(Clone, Copy, Debug)]
pub struct SignatureLimits {
    /// The share.
    pub share: CoreShare,
    /// How it is counted.
    pub cost: Cost,
}

impl Default for SignatureLimits {
    fn default() -> Self {
        Self {
            share: CoreShare::default(),
            cost: Cost::Each(ASSUMED),
        }
    }
}

/// What is left to each upstream. All threads of an enforcer share one.
#[derive(Debug)]
pub struct SignatureBudget {
    limits: SignatureLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bounded: an upstream is the own cluster or a configured peer.
    upstreams: BTreeMap<TrustDomain, Purse>,
    spent: Duration,
}

/// Processor time in hundredths of a nanosecond, so that a nanosecond adds exactly its per cent. Below
/// zero while the last check, or those of several threads at once, took more than was left.
#[derive(Debug)]
struct Purse {
    left: i128,
    filled: Mono,
}

impl Default for SignatureBudget {
    fn default() -> Self {
        Self::new(SignatureLimits::default())
    }
}

impl SignatureBudget {
    /// With everything saved that may be.
    #[must_use]
    pub fn new(limits: SignatureLimits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
        }
    }

    /// Processor time that was paid so far, for all upstreams.
    #[must_use]
    pub fn spent(&self) -> Duration {
        self.state().spent
    }

    /// What `check` finds, for which `upstream` pays; `None` when it has nothing left.
    pub fn pay<T>(
        &self,
        upstream: &TrustDomain,
        now: Mono,
        check: impl FnOnce() -> T,
    ) -> Option<T> {
        if !self.has_left(upstream, now) {
            return None;
        }
        // Without the lock: other threads check at the same time.
        let (found, took) = match self.limits.cost {
            Cost::Each(each) => (check(), each),
            Cost::Measured(used) => {
                let before = used();
                let found = check();
                (found, used().saturating_sub(before))
            }
        };
        let took = took.clamp(LEAST, MOST);
        let mut state = self.state();
        state.spent = state.spent.saturating_add(took);
        if let Some(purse) = state.upstreams.get_mut(upstream) {
            purse.left -= hundredths(took);
        }
        Some(found)
    }

    fn has_left(&self, upstream: &TrustDomain, now: Mono) -> bool {
        let mut state = self.state();
        let share = self.limits.share.percent();
        let full = nanoseconds(SAVED) * share;
        let purse = match state.upstreams.get_mut(upstream) {
            Some(purse) => purse,
            None => state.upstreams.entry(upstream.clone()).or_insert(Purse {
                left: full,
                filled: now,
            }),
        };
        let passed = nanoseconds(now.since(purse.filled));
        purse.filled = purse.filled.max(now);
        purse.left = (purse.left + passed * share).min(full);
        purse.left > 0
    }

    /// A thread that panicked left whole numbers behind.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Below 2^127 for any duration, also times 100.
fn nanoseconds(duration: Duration) -> i128 {
    duration.as_nanos() as i128
}

fn hundredths(duration: Duration) -> i128 {
    nanoseconds(duration) * 100
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, thread_local};

    use super::*;

    thread_local! {
        static USED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// What this thread has used, as the test has it.
    fn used() -> Duration {
        USED.get()
    }

    fn budget(share: &str) -> SignatureBudget {
        SignatureBudget::new(SignatureLimits {
            share: share.parse().unwrap(),
            cost: Cost::Measured(used),
        })
    }

    fn at(ms: u64) -> Mono {
        Mono(Duration::from_millis(ms))
    }

    /// More checks than any budget here pays for.
    const ENDLESS: usize = 200_000;

    /// As many checks of `each` as there is time for, in every millisecond of `window`.
    fn flood(budget: &SignatureBudget, each: Duration, window: std::ops::Range<u64>) -> Duration {
        let (domain, before) = (TrustDomain::new("east").unwrap(), budget.spent());
        for ms in window {
            let check = || USED.set(USED.get() + each);
            let paid = (0..ENDLESS).take_while(|_| budget.pay(&domain, at(ms), check).is_some());
            assert!(paid.count() < ENDLESS, "whoever floods pays nothing");
        }
        budget.spent() - before
    }

    #[test]
    fn a_share_of_the_time_is_spent_whatever_a_check_costs() {
        for (share, each) in [
            ("25%", 20),
            ("25%", 50),
            ("25%", 900),
            ("3%", 50),
            ("100%", 70),
        ] {
            let budget = budget(share);
            let each = Duration::from_micros(each);
            // What was saved goes first.
            flood(&budget, each, 0..1_000);
            let spent = flood(&budget, each, 1_000..11_000).as_secs_f64();
            let due = 10.0 * budget.limits.share.percent() as f64 / 100.0;
            assert!(
                (spent / due - 1.0).abs() < 0.01,
                "{share} {each:?}: {spent} s"
            );
        }
    }

    #[test]
    fn no_more_than_a_moment_is_saved() {
        let budget = budget("25%");
        let each = Duration::from_micros(50);
        for second in [0, 1_000, 1_000_000] {
            let spent = flood(&budget, each, second..second + 1);
            assert_eq!(spent, Duration::from_millis(25));
        }
    }

    #[test]
    fn a_clock_that_stands_or_jumps_neither_frees_checks_nor_ends_them() {
        let standing = budget("25%");
        assert_eq!(
            flood(&standing, Duration::ZERO, 0..1),
            Duration::from_millis(25)
        );
        let jumping = budget("25%");
        assert_eq!(flood(&jumping, Duration::from_hours(9), 0..1), MOST);
        // It owes 75 ms, at a quarter of a core.
        assert_eq!(flood(&jumping, LEAST, 1..300), Duration::ZERO);
        assert!(flood(&jumping, LEAST, 300..302) > Duration::ZERO);
    }

    #[test]
    fn each_upstream_has_its_own() {
        let budget = budget("25%");
        flood(&budget, Duration::from_micros(50), 0..1);
        let pay = |domain| budget.pay(&TrustDomain::new(domain).unwrap(), at(0), || ());
        assert_eq!((pay("east"), pay("west")), (None, Some(())));
    }

    #[test]
    fn a_share_is_one_to_a_hundred_per_cent() {
        let share = |text: &str| text.parse::<CoreShare>().map(|share| share.to_string());
        assert_eq!(share("1%").unwrap(), "1%");
        assert_eq!(share("100%").unwrap(), "100%");
        for text in ["0%", "101%", "25", "-1%", "2.5%", "%", "25 %"] {
            assert_eq!(share(text), Err(NoShare(text.into())));
        }
    }
}
