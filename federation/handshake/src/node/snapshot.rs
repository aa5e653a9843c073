//! What a node decides by: one immutable value, replaced as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use identity::{BundleStore, Claims, IdentityNetworks, SignedCredential, TrustDomain};
use policy::KnownKeys;

use crate::{
    admission::Admission,
    keys::{AgentSecret, SegmentKeys},
};

/// Everything that a node's decisions depend on.
#[derive(Debug)]
pub struct NodeSnapshot {
    /// Rises with every change; a flow keeps the epoch that decided it.
    pub epoch: u64,
    /// The cluster of this node.
    pub own: TrustDomain,
    /// Whose addresses must prove an identity; the own cluster's too.
    pub networks: IdentityNetworks,
    /// The bundles of the own cluster and of its peers.
    pub bundles: BundleStore,
    /// The own cluster's policy.
    pub policy: Arc<policy::Table>,
    /// The protected pods of this node.
    pub pods: BTreeMap<IpAddr, LocalPod>,
    /// Addresses inside identity networks whose namespace is `unprotected`: they are judged as
    /// addresses without identity.
    pub unprotected: BTreeSet<IpAddr>,
    /// Which label keys the clusters carry.
    pub known: KnownKeys,
    /// The cluster's segment keys.
    pub segment_keys: SegmentKeys,
    /// What is not believed although it is signed.
    pub admission: Admission,
}

/// A protected pod of this node.
#[derive(Clone, Debug)]
pub struct LocalPod {
    /// The pod's UID, as its source gives it.
    pub uid: Arc<str>,
    /// Its identity, once the issuer gave one.
    pub identity: Option<LocalIdentity>,
}

/// What this node proves a pod's identity with.
#[derive(Clone, Debug)]
pub struct LocalIdentity {
    /// The credential that is sent.
    pub credential: SignedCredential,
    /// What it says.
    pub claims: Arc<Claims>,
    /// The private half of its `cnf` key.
    pub secret: AgentSecret,
}

impl NodeSnapshot {
    /// The owner of `address`, unless it is judged without identity.
    #[must_use]
    pub fn identity_owner(&self, address: IpAddr) -> Option<&TrustDomain> {
        if self.unprotected.contains(&address) {
            return None;
        }
        self.networks.owner(address)
    }
}
