//! What a node decides by, put together from what its agent holds.

use std::{net::IpAddr, sync::Arc};

use handshake::{
    admission::{self, Admission},
    keys::{SegmentKey, SegmentKeys},
    node::{LocalIdentity, LocalPod, NodeSnapshot},
};
use identity::{IdentityNetworks, Workload};
use policy::{KnownKeys, Table};

use super::AgentMember;

impl AgentMember {
    /// The snapshot of now. A pod that `serves` does not know at its address is left out, whatever
    /// its credential: it is not attached there. `declared`: the identity networks, as long as the
    /// issuer said nothing of them, or contradicts itself.
    #[must_use]
    pub fn snapshot(
        &self,
        epoch: u64,
        policy: &Arc<Table>,
        declared: impl FnOnce() -> IdentityNetworks,
        serves: impl Fn(IpAddr, &Workload) -> bool,
    ) -> NodeSnapshot {
        let pods = self.pods().filter_map(|pod| {
            let address = pod.workload.address?;
            let identity = pod.identity.map(|identity| LocalIdentity {
                credential: identity.credential.clone(),
                claims: identity.claims.clone(),
                secret: identity.secret.clone(),
            });
            let uid = pod.workload.uid.as_str().into();
            serves(address, pod.workload).then_some((address, LocalPod { uid, identity }))
        });
        let told = match &*self.ranges {
            [] => None,
            // They know of translated prefixes, as what is declared does not.
            ranges => IdentityNetworks::new(ranges.to_vec()).ok(),
        };
        let known = KnownKeys::published(&self.bundles);
        let keys = self.segment_keys.iter().map(SegmentKey::from);
        NodeSnapshot {
            epoch,
            own: self.trust_domain.clone(),
            networks: told.unwrap_or_else(declared),
            bundles: admission::lasting(&self.bundles, &self.restricted),
            policy: Arc::clone(policy),
            pods: pods.collect(),
            unprotected: self.unprotected().collect(),
            known: known.clone(),
            segment_keys: SegmentKeys::new(keys.collect()),
            admission: Admission::new(self.records.states(), self.restricted.clone(), known),
        }
    }
}
