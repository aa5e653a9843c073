//! What handshakes are judged by, put together from what the parts of the gateway know.

use std::{collections::BTreeMap, sync::Arc};

use handshake::{
    admission::{self, Admission},
    keys::{SegmentKey, SegmentKeys},
    transit::TransitSnapshot,
};
use identity::{IdentityNetworks, TrustDomain};
use peering::{
    issuer::Issuer,
    peers::{Digest, Peering},
    records::RecordBook,
};
use policy::{KnownKeys, Table, model::PolicySet};

/// Compiles what changes and keeps what does not; the last good policy stays in force.
#[derive(Debug, Default)]
pub struct Judge {
    epoch: u64,
    policy: Option<Arc<Table>>,
    policy_problem: Option<String>,
    networks_problem: Option<String>,
    /// By peer: the digest, and what was compiled from it.
    digests: BTreeMap<TrustDomain, (Arc<Digest>, Compiled)>,
}

/// A digest's table; none when the peer's policy was too large to be announced. In words when it
/// cannot be compiled: then only the destination decides.
type Compiled = Result<Option<Arc<Table>>, String>;

impl Judge {
    /// Takes the policies of this cluster. Returns whether others are in force now.
    pub fn set_policies(&mut self, policies: &PolicySet) -> bool {
        self.policy_problem = None;
        let next = match &self.policy {
            Some(last) => last.update(policies),
            None => policy::compile(policies),
        };
        match next {
            Ok(next) => {
                let last = self.policy.as_ref();
                let is_other = last.is_none_or(|last| !last.has_policies_of(&next));
                self.policy = Some(Arc::new(next));
                is_other
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
        self.policy.as_deref()
    }

    /// What an operator has to put right.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        let own = [&self.policy_problem, &self.networks_problem];
        let digests = self.digests.values();
        let digests = digests.filter_map(|(_, table)| table.as_ref().err());
        own.into_iter().flatten().chain(digests).map(String::as_str)
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
        let policy = self.policy.as_ref()?;
        // Never overlapping: whoever claims a range that is taken does not get it.
        let networks = match IdentityNetworks::new(peering.ranges()) {
            Ok(networks) => networks,
            Err(e) => {
                self.networks_problem = Some(format!("identity networks: {e}"));
                return None;
            }
        };
        self.networks_problem = None;
        self.epoch += 1;
        let compiled = self.digests.iter();
        let digests = compiled
            .filter_map(|(peer, (_, table))| Some((peer.clone(), table.clone().ok().flatten()?)));
        let known = KnownKeys::published(peering.bundles());
        let pods = issuer.addresses();
        Some(Arc::new(TransitSnapshot {
            epoch: self.epoch,
            own: own.clone(),
            networks,
            bundles: admission::lasting(peering.bundles(), peering.restrictions()),
            policy: policy.clone(),
            digests: digests.collect(),
            known: known.clone(),
            pods: pods
                .map(|(address, claims)| (address, Arc::new(claims)))
                .collect(),
            segment_keys: SegmentKeys::new(issuer.segment_keys().map(SegmentKey::from).into()),
            admission: Admission::new(
                records.states(),
                peering.restrictions().clone(),
                known.clone(),
            ),
        }))
    }

    fn take_digests(&mut self, peering: &Peering) {
        let mut digests = BTreeMap::new();
        for peer in peering.peers() {
            let Some(digest) = peering.digest(peer) else {
                continue;
            };
            let known = self.digests.remove(peer);
            let last = known
                .as_ref()
                .and_then(|(_, table)| table.clone().ok().flatten());
            let entry = known.filter(|(old, _)| old == digest).unwrap_or_else(|| {
                let compile = |part| match &last {
                    Some(last) => last.update(part),
                    None => policy::compile(part),
                };
                let part = digest.part.as_deref().map(compile);
                let table = part.transpose().map(|table| table.map(Arc::new));
                let table =
                    table.map_err(|e| format!("the digest of {peer} cannot be compiled: {e}"));
                (Arc::clone(digest), table)
            });
            digests.insert(peer.clone(), entry);
        }
        self.digests = digests;
    }
}
