//! Waiting for a condition that the kernel or another process makes true.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Looks at `condition` until it holds or `limit` has passed; whether it held.
pub fn until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    for_some(limit, || condition().then_some(())).is_some()
}

/// Asks `probe` until it finds something or `limit` has passed.
pub fn for_some<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
