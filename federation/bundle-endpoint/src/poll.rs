//! A bundle fetched again and again: SPIFFE Federation, sections 4.1 and 6.2.

use std::{sync::Arc, time::Duration};

use identity::{Backoff, FetchedBundle, TrustDomain, UnixMillis};
use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tracing::{info, warn};

use crate::{EndpointUrl, FetchError, FetchLimits, Profile, fetch};

/// After the first failure; then twice as long each time, up to the interval of success.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// Before any bundle said how often it wants to be asked for: the standard's five minutes.
const INTERVAL: Duration = Duration::from_mins(5);

/// Asks one endpoint for the bundle of one trust domain.
#[derive(Clone, Debug)]
pub struct Poller {
    /// Whose bundle is there: by configuration, never by what the endpoint says.
    pub trust_domain: TrustDomain,
    /// Where.
    pub url: EndpointUrl,
    /// By what the endpoint is believed.
    pub profile: Profile,
    /// How long a fetch may take.
    pub limits: FetchLimits,
}

/// A bundle as it came. Whether it is taken is [`FetchedBundle::accept`]'s to say.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The text.
    pub text: Arc<str>,
    /// What it says, with its trust domain.
    pub bundle: FetchedBundle,
    /// When.
    pub at: UnixMillis,
}

/// How it went lately, for a status page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PollState {
    /// Whose bundle.
    pub trust_domain: TrustDomain,
    /// Where.
    pub url: EndpointUrl,
    /// `https_spiffe` or `https_web`.
    pub profile: &'static str,
    /// When a bundle was fetched last.
    pub last_success: Option<UnixMillis>,
    /// The last failure. It stays until the next one; `failures` says whether it is over.
    pub last_error: Option<Failure>,
    /// Failures since the last success.
    pub failures: u32,
    /// When it is asked for next.
    pub next: Option<UnixMillis>,
}

/// A fetch that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// When.
    pub at: UnixMillis,
    /// Where, what, and what to do.
    pub what: String,
}

impl Poller {
    /// The state before the first fetch.
    #[must_use]
    pub fn state(&self) -> PollState {
        PollState {
            trust_domain: self.trust_domain.clone(),
            url: self.url.clone(),
            profile: self.profile.name(),
            last_success: None,
            last_error: None,
            failures: 0,
            next: None,
        }
    }

    /// Fetches until nobody listens to `out` any more. Every success is told, also of the same text
    /// as before: it says that the domain still stands by it.
    pub async fn run(
        self,
        clock: impl Fn() -> UnixMillis,
        out: mpsc::Sender<Fetched>,
        state: watch::Sender<PollState>,
    ) {
        let mut roots = match &self.profile {
            Profile::Spiffe { roots, .. } => Some(roots.clone()),
            Profile::Web { .. } => None,
        };
        let mut pace = Pace::new();
        loop {
            if let Some(roots) = &mut roots {
                roots.mark_unchanged();
            }
            let fetched = fetch(&self.url, &self.profile, self.limits).await;
            let read = fetched.and_then(|text| self.read(text));
            let at = clock();
            let failed = read.is_err();
            let wait = match &read {
                Ok((_, bundle)) => pace.after_success(bundle.refresh_after(), random()),
                Err(_) => pace.after_failure(random()),
            };
            note(&state, at, wait, read.as_ref().err());
            if let Ok((text, bundle)) = read
                && out.send(Fetched { text, bundle, at }).await.is_err()
            {
                return;
            }
            tokio::select! {
                () = sleep(wait) => {}
                () = out.closed() => return,
                // The roots that it failed by are no more.
                () = replaced(&mut roots), if failed => {}
            }
        }
    }

    fn read(&self, text: String) -> Result<(Arc<str>, FetchedBundle), FetchError> {
        FetchedBundle::from_jwks(self.trust_domain.clone(), &text)
            .map(|bundle| (text.into(), bundle))
            .map_err(|e| FetchError {
                url: self.url.to_string(),
                profile: self.profile.name(),
                problem: Box::new(e.into()),
            })
    }
}

fn note(
    state: &watch::Sender<PollState>,
    at: UnixMillis,
    wait: Duration,
    error: Option<&FetchError>,
) {
    state.send_modify(|state| {
        state.next = Some(at.after(wait));
        match error {
            None => {
                if state.failures > 0 || state.last_success.is_none() {
                    info!(trust_domain = %state.trust_domain, url = %state.url, "bundle fetched");
                }
                state.last_success = Some(at);
                state.failures = 0;
            }
            Some(error) => {
                warn!(trust_domain = %state.trust_domain, "bundle not fetched: {error}");
                let what = error.to_string();
                state.last_error = Some(Failure { at, what });
                state.failures = state.failures.saturating_add(1);
            }
        }
    });
}

/// Until the roots were replaced; for ever when there are none, or nobody will.
async fn replaced(roots: &mut Option<watch::Receiver<Arc<Vec<Vec<u8>>>>>) {
    let changed = match roots {
        Some(roots) => roots.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending::<()>().await;
    }
}

/// When to fetch next.
struct Pace {
    interval: Duration,
    backoff: Backoff,
}

impl Pace {
    fn new() -> Self {
        Self {
            interval: INTERVAL,
            backoff: Backoff::new(FIRST_RETRY, INTERVAL),
        }
    }

    /// Up to a tenth earlier than the hint, so that those who began together part.
    fn after_success(&mut self, interval: Duration, random: u32) -> Duration {
        if interval != self.interval {
            *self = Self {
                interval,
                backoff: Backoff::new(FIRST_RETRY, interval),
            };
        }
        self.backoff.reset();
        interval - interval.mul_f64(0.1 * f64::from(random) / f64::from(u32::MAX))
    }

    fn after_failure(&mut self, random: u32) -> Duration {
        self.backoff.wait(random)
    }
}

fn random() -> u32 {
    // Without randomness all that is lost is the jitter.
    getrandom::u32().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_spaced_up_to_the_interval_and_success_keeps_to_the_hint() {
        let s = Duration::from_secs;
        let mut pace = Pace::new();
        assert_eq!(pace.after_success(s(20), 0), s(20));
        assert_eq!(pace.after_success(s(20), u32::MAX), s(18));
        let waits: Vec<_> = (0..4).map(|_| pace.after_failure(u32::MAX)).collect();
        assert_eq!(waits, [s(5), s(10), s(20), s(20)]);
        assert_eq!(pace.after_success(s(20), 0), s(20));
        assert_eq!(pace.after_failure(u32::MAX), s(5), "it begins again");
        assert_eq!(pace.after_failure(0), s(5), "half of ten at least");
    }
}
