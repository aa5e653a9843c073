//! Putting together what a node decides by, and what of it is new.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use handshake::{
    credentials::{PodState, PodStates},
    keys::{AgentSecret, MacKey, SegmentKey, SegmentKeys},
    node::{LocalIdentity, LocalPod, NodeSnapshot},
};
use identity::{BundleStore, IdentityNetworks};
use peering::{member::AgentMember, records::RecordState};
use policy::{KnownKeys, Table};
use sources::World;

use crate::{judge::Touched, local::LocalPods};

/// The next snapshot. Pods that are not `local` are left out, whatever their credentials.
#[must_use]
pub fn build(
    epoch: u64,
    world: &World,
    policy: &Arc<Table>,
    member: &AgentMember,
    local: &LocalPods,
) -> NodeSnapshot {
    let mut secrets: BTreeMap<[u8; 32], AgentSecret> = BTreeMap::new();
    let mut pods = BTreeMap::new();
    for pod in member.pods() {
        let Some(address) = pod.workload.address else {
            continue;
        };
        let served = local.served.get(&address);
        if served.is_none_or(|served| served.uid != pod.workload.uid) {
            continue;
        }
        let identity = pod.identity.map(|identity| {
            let secret = secrets
                .entry(identity.claims.agent_key)
                .or_insert_with(|| AgentSecret::from(identity.secret.clone()));
            LocalIdentity {
                credential: identity.credential.clone(),
                claims: identity.claims.clone(),
                secret: secret.clone(),
            }
        });
        pods.insert(
            address,
            LocalPod {
                uid: pod.workload.uid.clone(),
                identity,
            },
        );
    }
    NodeSnapshot {
        epoch,
        own: world.cluster.trust_domain.clone(),
        networks: networks(world, member),
        bundles: member.bundles().clone(),
        policy: policy.clone(),
        pods,
        unprotected: member.unprotected().collect(),
        known: known(member.bundles()),
        segment_keys: segment_keys(member),
        changes: changes(member),
    }
}

/// What `new` changes for flows that were allowed by `old`.
#[must_use]
pub fn touched(old: &NodeSnapshot, new: &NodeSnapshot) -> Touched {
    let same_policy =
        Arc::ptr_eq(&old.policy, &new.policy) || old.policy.hash() == new.policy.hash();
    let all = !same_policy
        || old.networks != new.networks
        || old.known != new.known
        || removed_domain(&old.bundles, &new.bundles);
    if all {
        return Touched::All;
    }
    let mut pods: BTreeSet<IpAddr> = old
        .unprotected
        .symmetric_difference(&new.unprotected)
        .copied()
        .collect();
    for (address, before) in &old.pods {
        let after = new.pods.get(address);
        let same = after.is_some_and(|after| {
            before.uid == after.uid && generation(before) == generation(after)
        });
        // A first credential takes nothing away from a flow that it did not open.
        let first = after.is_some_and(|after| before.uid == after.uid) && before.identity.is_none();
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

fn generation(pod: &LocalPod) -> Option<u64> {
    pod.identity
        .as_ref()
        .map(|identity| identity.claims.generation)
}

fn removed_domain(old: &BundleStore, new: &BundleStore) -> bool {
    old.iter()
        .any(|bundle| new.bundle(&bundle.trust_domain).is_none())
}

/// As the issuer says, once it said anything: it knows of translated prefixes. Until then, and if
/// what it says contradicts itself, as the federation says.
fn networks(world: &World, member: &AgentMember) -> IdentityNetworks {
    let declared = || world.federation.networks().unwrap_or_default();
    match member.ranges() {
        [] => declared(),
        ranges => IdentityNetworks::new(ranges.to_vec()).unwrap_or_else(|_| declared()),
    }
}

fn known(bundles: &BundleStore) -> KnownKeys {
    let mut known = KnownKeys::all();
    for bundle in bundles.iter() {
        if let Some(keys) = &bundle.carried_labels {
            known.narrow(bundle.trust_domain.clone(), keys.iter().cloned());
        }
    }
    known
}

fn segment_keys(member: &AgentMember) -> SegmentKeys {
    let keys = member.segment_keys().iter().map(|grant| SegmentKey {
        id: grant.id,
        key: MacKey::from_bytes(*grant.secret.expose()),
    });
    SegmentKeys::new(keys.collect())
}

fn changes(member: &AgentMember) -> PodStates {
    let mut changes = PodStates::default();
    for (domain, uid, state) in member.records().iter() {
        let state = match state {
            RecordState::Relabelled(claims) => PodState::Relabelled(Arc::clone(claims)),
            RecordState::Gone => PodState::Gone,
        };
        changes.insert(domain.clone(), uid.to_owned(), state);
    }
    changes
}
