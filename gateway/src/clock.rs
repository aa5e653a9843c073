//! The only place of the gateway that reads clocks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use identity::{Mono, Now, UnixMillis};
use nix::time::{ClockId, clock_gettime};

/// Both clocks of this process. Copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose monotonic time begins now.
    #[must_use]
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// The time on both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        // A clock before 1970 makes every credential "not yet valid": closed.
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix = unix.unwrap_or(Duration::ZERO).as_millis();
        Now {
            mono: Mono(self.start.elapsed()),
            unix: UnixMillis(u64::try_from(unix).unwrap_or(u64::MAX)),
        }
    }
}

/// The processor time that the calling thread has used. Zero when the kernel does not say: a signature check is
/// then paid for by the least that one may cost.
#[must_use]
pub fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
