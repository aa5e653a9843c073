//! The two clocks of the machine.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use identity::{Mono, Now, UnixMillis};
use nix::time::{ClockId, clock_gettime};

/// Reads both clocks; monotonic time begins with it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Begins now.
    #[must_use]
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// The instant that monotonic time calls `at`.
    #[must_use]
    pub fn instant(&self, at: Mono) -> Instant {
        // An instant that the clock cannot hold never comes; an hour is as good.
        let never = || Instant::now() + Duration::from_hours(1);
        self.start.checked_add(at.0).unwrap_or_else(never)
    }

    /// Reads both clocks. A wall clock before 1970 reads as 1970.
    #[must_use]
    pub fn now(&self) -> Now {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Now {
            mono: Mono(self.start.elapsed()),
            unix: UnixMillis(u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// The processor time that the calling thread has used. Zero when the kernel does not say: a signature check is
/// then paid for by the least that one may cost.
#[must_use]
pub fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
