//! What a gateway judges handshakes by.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use identity::{BundleStore, Claims, IdentityNetworks, TrustDomain};
use policy::KnownKeys;

use crate::{admission::Admission, keys::SegmentKeys};

/// What a gateway judges handshakes by: one immutable value, replaced as a whole.
#[derive(Debug)]
pub struct TransitSnapshot {
    /// Rises with every change.
    pub epoch: u64,
    /// The gateway's cluster.
    pub own: TrustDomain,
    /// Whose addresses are whose.
    pub networks: IdentityNetworks,
    /// The bundles of the own cluster and of its peers.
    pub bundles: BundleStore,
    /// The own cluster's policy.
    pub policy: Arc<policy::Table>,
    /// What each peer announced that it admits.
    pub digests: BTreeMap<TrustDomain, Arc<policy::Table>>,
    /// Which label keys the clusters carry.
    pub known: KnownKeys,
    /// The protected pods of the own cluster, as its source describes them.
    pub pods: BTreeMap<IpAddr, Arc<Claims>>,
    /// The own cluster's segment keys.
    pub segment_keys: SegmentKeys,
    /// What is not believed although it is signed.
    pub admission: Admission,
}
