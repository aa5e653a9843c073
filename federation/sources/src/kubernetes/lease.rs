//! One writer among several gateways: whoever holds the Lease (`coordination.k8s.io/v1`).
//!
//! Two may believe for a moment that they hold it, when one was stopped for longer than it lasts: what they
//! write says the same.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Error,
    api::{ObjectMeta, PostParams},
};
use tokio::time::Instant;

/// After this without a sign of its holder others take it.
const LASTS: Duration = Duration::from_secs(15);
/// How often it is renewed, or looked at.
pub(super) const RENEWED: Duration = Duration::from_secs(5);

pub(super) struct Holder {
    leases: Api<Lease>,
    name: String,
    /// Who we are.
    identity: String,
    /// What was seen last of another holder, and when by our own clock: clocks of others are not believed.
    seen: Option<(Option<MicroTime>, Instant)>,
}

impl Holder {
    pub fn new(leases: Api<Lease>, name: &str, identity: &str) -> Self {
        Self {
            leases,
            name: name.to_owned(),
            identity: identity.to_owned(),
            seen: None,
        }
    }

    /// Takes the lease or renews it; whether it is ours now.
    pub async fn hold(&mut self) -> Result<bool, Error> {
        let now = MicroTime(Timestamp::now());
        let Some(held) = self.leases.get_opt(&self.name).await? else {
            let metadata = ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            };
            let first = self.lease(metadata, now.clone(), now, 0);
            return self.put(self.leases.create(&PostParams::default(), &first).await);
        };
        let spec = held.spec.unwrap_or_default();
        let is_ours = spec.holder_identity.as_deref() == Some(&self.identity);
        if !is_ours && spec.holder_identity.is_some() && !self.is_over(spec.renew_time.clone()) {
            return Ok(false);
        }
        let changes = spec.lease_transitions.unwrap_or_default();
        let (since, changes) = match (is_ours, spec.acquire_time) {
            (true, Some(since)) => (since, changes),
            _ => (now.clone(), changes.saturating_add(1)),
        };
        // The version that was read goes with it: of two who take it at once one fails.
        let next = self.lease(held.metadata, since, now, changes);
        self.put(
            self.leases
                .replace(&self.name, &PostParams::default(), &next)
                .await,
        )
    }

    /// Whether its holder was not heard of for as long as it lasts.
    fn is_over(&mut self, renewed: Option<MicroTime>) -> bool {
        match &self.seen {
            Some((before, at)) if *before == renewed => at.elapsed() > LASTS,
            _ => {
                self.seen = Some((renewed, Instant::now()));
                false
            }
        }
    }

    fn lease(&self, metadata: ObjectMeta, since: MicroTime, now: MicroTime, changes: i32) -> Lease {
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
                acquire_time: Some(since),
                renew_time: Some(now),
                lease_transitions: Some(changes),
                ..LeaseSpec::default()
            }),
        }
    }

    fn put(&self, written: Result<Lease, Error>) -> Result<bool, Error> {
        match written {
            Ok(_) => Ok(true),
            Err(Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }
}
