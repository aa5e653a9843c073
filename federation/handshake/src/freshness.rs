//! How old, or how far ahead of this clock, a HELLO may be.

use std::time::Duration;

use identity::UnixMillis;
use policy::DropReason;

/// 30 s of clock skew, and the 15 s for which a HELLO is retransmitted unchanged.
pub const MAX_AGE: Duration = Duration::from_secs(45);
/// 30 s of clock skew.
pub const MAX_LEAD: Duration = Duration::from_secs(30);

/// Accepts a HELLO made at `made` (milliseconds since the epoch).
///
/// # Errors
/// [`DropReason::Stale`] when it is too old or too far ahead.
pub fn check(made: u64, now: UnixMillis) -> Result<(), DropReason> {
    let made = UnixMillis(made);
    let fresh = made.after(MAX_AGE) >= now && made <= now.after(MAX_LEAD);
    if fresh {
        Ok(())
    } else {
        Err(DropReason::Stale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_from_45_s_old_to_30_s_ahead() {
        let now = UnixMillis(1_000_000);
        for (made, fresh) in [
            (1_000_000 - 45_000, true),
            (1_000_000 - 45_001, false),
            (1_000_000 + 30_000, true),
            (1_000_000 + 30_001, false),
            (0, false),
            (u64::MAX, false),
        ] {
            assert_eq!(check(made, now).is_ok(), fresh, "{made}");
        }
    }
}
