//! What a new snapshot takes away from flows that nobody remembers the beginning of.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use identity::BundleStore;
use wire::flow::FlowKey;

use super::snapshot::{LocalPod, NodeSnapshot};

/// What a new snapshot changes for flows whose enforcer did not see them begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// Nothing they were allowed by: a credential was renewed, a key came.
    Nothing,
    /// These pods.
    Pods(BTreeSet<IpAddr>),
    /// The policy, or the trust in a cluster.
    All,
}

impl Touched {
    /// Whether a flow may have lost what allowed it.
    #[must_use]
    pub fn touches(&self, key: &FlowKey) -> bool {
        match self {
            Self::Nothing => false,
            Self::Pods(pods) => pods.contains(&key.src) || pods.contains(&key.dst),
            Self::All => true,
        }
    }
}

impl NodeSnapshot {
    /// What `next` changes for flows that were allowed by this one.
    #[must_use]
    pub fn touched_by(&self, next: &Self) -> Touched {
        let same_policy =
            Arc::ptr_eq(&self.policy, &next.policy) || self.policy.hash() == next.policy.hash();
        let all = !same_policy
            || self.networks != next.networks
            || self.known != next.known
            || !self.admission.restricts_as(&next.admission)
            || lost_domain(&self.bundles, &next.bundles);
        if all {
            return Touched::All;
        }
        let mut pods: BTreeSet<IpAddr> = self
            .unprotected
            .symmetric_difference(&next.unprotected)
            .copied()
            .collect();
        for (address, before) in &self.pods {
            let after = next.pods.get(address);
            let same = after.is_some_and(|after| {
                before.uid == after.uid && generation(before) == generation(after)
            });
            // A first credential takes nothing away from a flow that it did not open.
            let first =
                after.is_some_and(|after| before.uid == after.uid) && before.identity.is_none();
            if !same && !first {
                pods.insert(*address);
            }
        }
        if pods.is_empty() {
            Touched::Nothing
        } else {
            Touched::Pods(pods)
        }
    }
}

fn generation(pod: &LocalPod) -> Option<u64> {
    pod.identity
        .as_ref()
        .map(|identity| identity.claims.generation)
}

fn lost_domain(old: &BundleStore, new: &BundleStore) -> bool {
    old.iter()
        .any(|bundle| new.bundle(&bundle.trust_domain).is_none())
}
