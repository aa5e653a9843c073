//! What agents are told of their own and of other clusters: bundles, restrictions, names, ranges.

use std::{collections::BTreeMap, sync::Arc};

use handshake::{
    admission::{Admission, Restricted},
    credentials::PodStates,
};
use identity::{BundleStore, IdentityRange, TrustBundle, TrustDomain};
use policy::KnownKeys;

use super::{Issuer, MAX_RANGES, Node, Retained};
use crate::node_messages::JoinedCluster;

impl Issuer {
    /// Takes the bundles in force, the own one and those of peers.
    pub fn set_bundles(&mut self, bundles: &BundleStore) {
        let gone: Vec<_> = self
            .bundles
            .iter()
            .map(|(domain, _)| domain.clone())
            .filter(|domain| bundles.bundle(domain).is_none())
            .collect();
        let mut changed = !gone.is_empty();
        for domain in gone {
            self.bundles.remove(domain.clone());
            self.keep_records(&domain, |_| false);
        }
        for bundle in bundles.iter() {
            let domain = &bundle.trust_domain;
            if self.bundles.set(domain.clone(), bundle.to_jwks().into()) {
                changed = true;
                self.drop_unbelievable(bundle);
            }
        }
        if changed {
            self.all_dirty = true;
        }
    }

    /// Drops a peer's records of keys that are retired: an agent could not check them, and what they make void was
    /// signed by such keys too. What is still offered here the peer signs anew.
    fn drop_unbelievable(&mut self, bundle: &TrustBundle) {
        if bundle.trust_domain == self.press.trust_domain {
            return;
        }
        self.keep_records(&bundle.trust_domain, |record| {
            let id = record.signed().and_then(|signed| signed.key_id());
            bundle.issuer_keys.iter().any(|key| Some(key.id()) == id)
        });
    }

    /// Removes all other records of `domain`.
    fn keep_records(&mut self, domain: &TrustDomain, keep: impl Fn(&Retained) -> bool) {
        let records = self.records.iter();
        let gone = records.filter(|((of, _), record)| of == domain && !keep(record));
        let gone: Vec<_> = gone.map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.records.remove(key);
        }
    }

    /// Takes what restricts each trust domain. What is revoked of the own one gets no credential.
    pub fn set_restrictions(&mut self, restricted: &BTreeMap<TrustDomain, Arc<Restricted>>) {
        let gone: Vec<_> = self
            .restricted
            .iter()
            .map(|(domain, _)| domain.clone())
            .filter(|domain| !restricted.contains_key(domain))
            .collect();
        for domain in gone {
            self.restricted.remove(domain);
            self.all_dirty = true;
        }
        for (domain, restricted) in restricted {
            self.all_dirty |= self.restricted.set(domain.clone(), restricted.clone());
        }
        // The issuer knows every label, carried or not.
        self.press.admission =
            Admission::new(PodStates::default(), restricted.clone(), KnownKeys::all());
        self.nodes.values_mut().for_each(Node::forget_signed);
        // Who is believed again does not wait until its agent asks again.
        let refused = self.pods.iter_mut().filter_map(|(uid, pod)| {
            pod.complained = false;
            let refused = std::mem::take(&mut pod.refused);
            refused.then(|| (pod.workload.node.clone(), uid.clone(), pod.withdrawn))
        });
        for (node, uid, withdrawn) in refused.collect::<Vec<_>>() {
            match withdrawn {
                // A record says that it is gone, which only one of a higher generation takes back.
                true => self.relabel(&uid),
                false => self.issue_for_all_keys(&node, &uid),
            }
        }
    }

    /// Takes the clusters that were joined, which agents find in no configuration.
    pub fn set_clusters(&mut self, clusters: &BTreeMap<TrustDomain, JoinedCluster>) {
        let gone: Vec<_> = self
            .clusters
            .iter()
            .map(|(domain, _)| domain.clone())
            .filter(|domain| !clusters.contains_key(domain))
            .collect();
        for domain in gone {
            self.all_dirty |= self.clusters.remove(domain);
        }
        for (domain, cluster) in clusters {
            self.all_dirty |= self.clusters.set(domain.clone(), cluster.clone());
        }
    }

    /// Takes the SHA-256 of the X.509 root that signs SVIDs from now on.
    pub fn set_signing_root(&mut self, root: [u8; 32]) {
        if self.signing_root.1 != root {
            self.signing_root = (self.signing_root.0 + 1, root);
            self.all_dirty = true;
        }
    }

    /// Takes the identity networks as this cluster sees them, its own ranges included.
    pub fn set_ranges(&mut self, ranges: Vec<IdentityRange>) {
        if ranges.len() > MAX_RANGES {
            self.problem(format!(
                "more than {MAX_RANGES} identity networks: kept the last list"
            ));
        } else if self.ranges.0 == 0 || self.ranges.1 != ranges {
            self.ranges = (self.ranges.0 + 1, ranges);
            self.all_dirty = true;
        }
    }
}
