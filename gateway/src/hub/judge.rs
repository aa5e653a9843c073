//! What handshakes are judged by, put together from what the parts of the gateway know.

use std::{collections::BTreeMap, sync::Arc};

use handshake::{
    credentials::{PodState, PodStates},
    keys::{MacKey, SegmentKey, SegmentKeys},
    transit::TransitSnapshot,
};
use identity::{BundleStore, IdentityNetworks, TrustDomain};
use peering::{
    issuer::Issuer,
    peers::{Digest, Peering},
    records::{RecordBook, RecordState},
};
use policy::{KnownKeys, Table, model::PolicySet};
use tracing::warn;

/// Compiles what changes and keeps what does not; the last good policy stays in force.
#[derive(Debug, Default)]
pub struct Judge {
    epoch: u64,
    policy: Option<(PolicySet, Arc<Table>)>,
    policy_problem: Option<String>,
    /// By peer: the digest, and what was compiled from it.
    digests: BTreeMap<TrustDomain, (Arc<Digest>, Option<Arc<Table>>)>,
}

impl Judge {
    /// Takes the policies of this cluster. Returns whether others are in force now.
    pub fn set_policies(&mut self, policies: &PolicySet) -> bool {
        if self.policy.as_ref().is_some_and(|(set, _)| set == policies) {
            return false;
        }
        match policy::compile(policies) {
            Ok(table) => {
                self.policy = Some((policies.clone(), Arc::new(table)));
                self.policy_problem = None;
                true
            }
            Err(e) => {
                self.policy_problem = Some(format!("the policies cannot be compiled: {e}"));
                false
            }
        }
    }

    /// The policy in force; none until the first one compiled.
    #[must_use]
    pub fn policy(&self) -> Option<&Table> {
        self.policy.as_ref().map(|(_, table)| &**table)
    }

    /// What an operator has to put right.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.policy_problem.as_deref()
    }

    /// A snapshot of a new epoch; `None` before there is a policy.
    pub fn snapshot(
        &mut self,
        own: &TrustDomain,
        peering: &Peering,
        issuer: &Issuer,
        records: &RecordBook,
    ) -> Option<Arc<TransitSnapshot>> {
        self.take_digests(peering);
        let (_, policy) = self.policy.as_ref()?;
        // Never overlapping: whoever claims a range that is taken does not get it.
        let networks = IdentityNetworks::new(peering.ranges())
            .inspect_err(|e| warn!("identity networks: {e}"))
            .ok()?;
        self.epoch += 1;
        let compiled = self.digests.iter();
        let digests =
            compiled.filter_map(|(peer, (_, table))| Some((peer.clone(), table.clone()?)));
        let pods = issuer.addresses();
        Some(Arc::new(TransitSnapshot {
            epoch: self.epoch,
            own: own.clone(),
            networks,
            bundles: peering.bundles().clone(),
            policy: policy.clone(),
            digests: digests.collect(),
            known: known_keys(peering.bundles()),
            pods: pods
                .map(|(address, claims)| (address, Arc::new(claims)))
                .collect(),
            segment_keys: segment_keys(issuer),
            changes: changes(records),
        }))
    }

    fn take_digests(&mut self, peering: &Peering) {
        let mut digests = BTreeMap::new();
        for peer in peering.peers() {
            let Some(digest) = peering.digest(peer) else {
                continue;
            };
            let known = self.digests.remove(peer);
            let entry = known.filter(|(old, _)| old == digest).unwrap_or_else(|| {
                let part = digest.part.as_deref().map(policy::compile);
                let table = part.transpose().unwrap_or_else(|e| {
                    // Without it only the destination decides.
                    warn!(%peer, "the peer's digest cannot be compiled: {e}");
                    None
                });
                (Arc::clone(digest), table.map(Arc::new))
            });
            digests.insert(peer.clone(), entry);
        }
        self.digests = digests;
    }
}

fn known_keys(bundles: &BundleStore) -> KnownKeys {
    let mut known = KnownKeys::all();
    for bundle in bundles.iter() {
        if let Some(carried) = &bundle.carried_labels {
            known.narrow(bundle.trust_domain.clone(), carried.iter().cloned());
        }
    }
    known
}

fn segment_keys(issuer: &Issuer) -> SegmentKeys {
    let keys = issuer.segment_keys().map(|grant| SegmentKey {
        id: grant.id,
        key: MacKey::from_bytes(*grant.secret.expose()),
    });
    SegmentKeys::new(keys.into())
}

fn changes(records: &RecordBook) -> PodStates {
    let mut states = PodStates::default();
    for (domain, uid, state) in records.iter() {
        let state = match state {
            RecordState::Relabelled(claims) => PodState::Relabelled(claims.clone()),
            RecordState::Gone => PodState::Gone,
        };
        states.insert(domain.clone(), uid.into(), state);
    }
    states
}
