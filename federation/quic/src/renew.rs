//! The next X.509-SVID is had at half life, so that half a life remains to try again, or sooner when
//! another root signs.

use std::{fmt, sync::Arc, time::Duration};

use identity::UnixMillis;
use tokio::{sync::Notify, time::sleep};
use tracing::{info, warn};

use crate::{Backoff, Identity, Svid, pki::CUSHION};

/// When an SVID is to be renewed: in the middle between when it was made and its end.
#[must_use]
pub fn half_life(svid: &Svid) -> UnixMillis {
    let (made, end) = (svid.not_before().after(CUSHION), svid.expires_at());
    UnixMillis(made.0.saturating_add(end.0.saturating_sub(made.0) / 2))
}

/// Keeps `identity` valid for ever: at half life, or when `sooner` says so, `issue` is asked for the next
/// SVID, which new sessions use at once; sessions that stand go on. A failure is tried again after 1 s, then up to
/// 60 s. `issue` stores what must survive a restart. Never returns.
pub async fn renew<E: fmt::Display>(
    identity: Identity,
    clock: impl Fn() -> UnixMillis,
    sooner: Arc<Notify>,
    mut issue: impl AsyncFnMut(&Svid) -> Result<Svid, E>,
) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    let mut wanted = false;
    loop {
        let current = identity.current();
        let due = half_life(&current).0.saturating_sub(clock().0);
        if due > 0 && !wanted {
            // At most an hour at a time: the wall clock may be set meanwhile.
            let pause = Duration::from_millis(due).min(Duration::from_hours(1));
            tokio::select! {
                () = sleep(pause) => {}
                () = sooner.notified() => wanted = true,
            }
            continue;
        }
        match issue(&current).await {
            Ok(next) => {
                info!(id = %next.id(), until = %next.expires_at(), "X.509-SVID renewed");
                identity.set(next);
                wanted = false;
                backoff.reset();
                // Whatever the issuer hands out, this loop does not spin.
                sleep(Duration::from_secs(1)).await;
            }
            Err(e) => {
                let left = current.expires_at().0.saturating_sub(clock().0) / 1000;
                warn!(id = %current.id(), "X.509-SVID not renewed, {left} s are left: {e}");
                sleep(backoff.wait(u32::MAX)).await;
            }
        }
    }
}
