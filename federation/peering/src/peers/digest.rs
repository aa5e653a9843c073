//! The policy digest: what a cluster says of its own policy, signed by its issuer key.
//! docs/spec/peering.md, section 4.

use std::{cmp::Ordering, collections::VecDeque, ops::Range, sync::Arc};

use identity::{IssuerKey, MAX_SIGNED, TrustBundle, TrustDomain, UnixMillis, VerifyError};
use policy::model::{Policy, PolicySet};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::peer_messages::DigestChange;

/// Separates this signature from that of every other object.
const CONTEXT: &str = "policy-digest";
/// What a signature adds to a payload, at most.
const SIGNATURE: usize = 256;

/// A cluster's digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Rises with every change.
    pub sequence: u64,
    /// The hash of the canonical policy that the cluster enforces.
    pub hash: [u8; 32],
    /// The part of it that admits identities of other clusters; none when the signed object would be longer than
    /// [`MAX_SIGNED`]: then only the destination can decide.
    pub part: Option<Arc<PolicySet>>,
}

/// Why a digest is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The signature, or the bundle it should hold by.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The signature holds and the payload has another form.
    #[error("its payload cannot be read")]
    Malformed,
    /// It speaks of another cluster's policy.
    #[error("it speaks for {0}")]
    Foreign(TrustDomain),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    trust_domain: TrustDomain,
    sequence: u64,
    #[serde(with = "serde_bytes")]
    hash: [u8; 32],
    part: Option<PolicySet>,
}

/// How many digests are remembered: a peer that has an older one gets the whole.
const REMEMBERED: usize = 8;

/// The digests that were announced last.
#[derive(Debug, Default)]
pub(crate) struct Announced(VecDeque<Signed>);

/// A digest of this cluster, as it is sent.
#[derive(Debug)]
pub(crate) struct Signed {
    pub digest: Digest,
    pub signed: Arc<[u8]>,
    /// SHA-256 of its payload.
    content: [u8; 32],
    /// Where in `signed` the payload stands.
    payload: Range<usize>,
}

impl Announced {
    pub(crate) fn newest(&self) -> Option<&Signed> {
        self.0.back()
    }

    pub(crate) fn push(&mut self, newest: Signed) {
        // Only the newest is sent whole.
        if let Some(last) = self.0.back_mut() {
            last.signed = Arc::default();
        }
        self.0.push_back(newest);
        if self.0.len() > REMEMBERED {
            self.0.pop_front();
        }
    }

    /// The newest is signed by `key` from now on; its number, if there is one.
    pub(crate) fn sign_again(&mut self, key: &IssuerKey) -> Option<u64> {
        let newest = self.0.back_mut()?;
        let payload = newest.signed.get(newest.payload.clone())?.to_vec();
        (newest.signed, newest.payload) = seal(key, &payload);
        Some(newest.digest.sequence)
    }

    /// What makes the newest digest of the one that had `sequence`; `None` when that is forgotten, or one of them has
    /// no part.
    pub(crate) fn change_from(&self, sequence: u64) -> Option<DigestChange> {
        let base = self.0.iter().find(|of| of.digest.sequence == sequence)?;
        let newest = self.newest()?;
        let (old, new) = (base.digest.part.as_ref()?, newest.digest.part.as_ref()?);
        let (removed, added) = difference(&old.policies, &new.policies);
        Some(DigestChange {
            base: base.content,
            before: newest.signed.get(..newest.payload.start)?.to_vec(),
            after: newest.signed.get(newest.payload.end..)?.to_vec(),
            sequence: newest.digest.sequence,
            hash: newest.digest.hash,
            removed,
            added,
        })
    }
}

/// Which places of `old` are gone and which of `new` are new. Few, when both are in canonical order.
fn difference(old: &[Arc<Policy>], new: &[Arc<Policy>]) -> (Vec<u32>, Vec<(u32, Arc<Policy>)>) {
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    let (mut was, mut is) = (
        old.iter().zip(0..).peekable(),
        new.iter().zip(0..).peekable(),
    );
    loop {
        let order = match (was.peek(), is.peek()) {
            (None, None) => return (removed, added),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) if Arc::ptr_eq(a, b) => Ordering::Equal,
            (Some((a, _)), Some((b, _))) => policy::canonical_order(a, b),
        };
        if order != Ordering::Greater {
            let gone = was.next().filter(|_| order == Ordering::Less);
            removed.extend(gone.map(|(_, place)| place));
        }
        if order != Ordering::Less {
            let came = is.next().filter(|_| order == Ordering::Greater);
            added.extend(came.map(|(policy, place)| (place, Arc::clone(policy))));
        }
    }
}

/// The signed object that `change` makes of `held`, and its part; `None` when it speaks of places that there are not.
pub(crate) fn apply(
    own: &TrustDomain,
    held: &Digest,
    change: &DigestChange,
) -> Option<(Vec<u8>, Arc<PolicySet>)> {
    let old = &held.part.as_ref()?.policies;
    let mut places = change.removed.iter();
    let ascend = change.removed.is_sorted_by(|a, b| a < b)
        && change.added.is_sorted_by(|(a, _), (b, _)| a < b);
    if !ascend
        || change
            .removed
            .last()
            .is_some_and(|last| *last as usize >= old.len())
    {
        return None;
    }
    let mut gone = places.next();
    let kept = old.iter().zip(0_u32..).filter(|(_, place)| {
        let is_gone = gone == Some(place);
        if is_gone {
            gone = places.next();
        }
        !is_gone
    });
    let mut kept = kept.map(|(policy, _)| Arc::clone(policy));
    let mut policies = Vec::with_capacity(old.len());
    for (place, policy) in &change.added {
        while policies.len() < *place as usize {
            policies.push(kept.next()?);
        }
        policies.push(Arc::clone(policy));
    }
    policies.extend(kept);
    let mut payload = Payload {
        trust_domain: own.clone(),
        sequence: change.sequence,
        hash: change.hash,
        part: Some(PolicySet {
            cluster: own.clone(),
            policies,
        }),
    };
    let bytes = encode(&payload);
    let part = payload.part.take().map(Arc::new)?;
    Some(([&change.before[..], &bytes, &change.after].concat(), part))
}

/// Signs the digest of `part.cluster`. The part is left out when the whole would be too long.
pub(crate) fn sign(key: &IssuerKey, sequence: u64, hash: [u8; 32], part: &PolicySet) -> Signed {
    let mut payload = Payload {
        trust_domain: part.cluster.clone(),
        sequence,
        hash,
        part: Some(part.clone()),
    };
    let mut bytes = encode(&payload);
    if bytes.len() > MAX_SIGNED - SIGNATURE {
        payload.part = None;
        bytes = encode(&payload);
    }
    let (signed, place) = seal(key, &bytes);
    Signed {
        digest: payload.into(),
        content: Sha256::digest(&bytes).into(),
        payload: place,
        signed,
    }
}

/// The signed object, and where in it the payload stands.
fn seal(key: &IssuerKey, payload: &[u8]) -> (Arc<[u8]>, Range<usize>) {
    let signed = key.sign(CONTEXT, payload);
    // Near the front: only a short header goes before it.
    let start = signed
        .windows(payload.len())
        .position(|window| window == payload);
    let start = start.unwrap_or_default();
    (signed.into(), start..start + payload.len())
}

/// A digest whose signature holds.
pub(crate) struct Opened {
    pub digest: Digest,
    pub payload: Vec<u8>,
    /// SHA-256 of the payload.
    pub content: [u8; 32],
}

/// The digest of the bundle's trust domain in `signed`.
pub(crate) fn open(
    bundle: &TrustBundle,
    signed: &[u8],
    now: UnixMillis,
) -> Result<Opened, DigestError> {
    let payload = bundle.open(CONTEXT, signed, now)?;
    Ok(Opened {
        digest: read(&bundle.trust_domain, &payload)?,
        content: Sha256::digest(&payload).into(),
        payload,
    })
}

/// A payload whose signature was checked.
pub(crate) fn read(trust_domain: &TrustDomain, payload: &[u8]) -> Result<Digest, DigestError> {
    let mut rest = payload;
    let read: Payload = ciborium::from_reader(&mut rest).map_err(|_| DigestError::Malformed)?;
    if !rest.is_empty() {
        return Err(DigestError::Malformed);
    }
    let part = read.part.as_ref().map(|part| &part.cluster);
    for of in [Some(&read.trust_domain), part].into_iter().flatten() {
        if of != trust_domain {
            return Err(DigestError::Foreign(of.clone()));
        }
    }
    Ok(read.into())
}

fn encode(payload: &Payload) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing to memory does not fail, and every type here has a form in CBOR.
    let written = ciborium::into_writer(payload, &mut bytes);
    debug_assert!(written.is_ok());
    bytes
}

impl From<Payload> for Digest {
    fn from(payload: Payload) -> Self {
        Self {
            sequence: payload.sequence,
            hash: payload.hash,
            part: payload.part.map(Arc::new),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use identity::IssuerKey;
    use policy::model::{LabelSelector, NamespaceMatch, PolicyKind, Tier, WorkloadSelector};
    use proptest::prelude::*;

    use super::*;

    fn policy(name: u8, order: u8) -> Arc<Policy> {
        Arc::new(Policy {
            kind: PolicyKind::FederationPolicy,
            namespace: None,
            name: format!("p{name}"),
            tier: Tier::Application,
            order: order.into(),
            subject: WorkloadSelector {
                clusters: policy::model::ClusterMatch::Own,
                namespaces: NamespaceMatch::Any,
                pods: LabelSelector::default(),
                service_accounts: Vec::new(),
            },
            staged: false,
            isolates: Vec::new(),
            rules: Vec::new(),
        })
    }

    fn set(policies: &[(u8, u8)]) -> PolicySet {
        PolicySet {
            cluster: TrustDomain::new("west").unwrap(),
            policies: policies
                .iter()
                .map(|(name, order)| policy(*name, *order))
                .collect(),
        }
    }

    proptest! {
        /// In whatever order the lists are: then a change is only longer.
        #[test]
        fn a_change_makes_the_newest_of_any_other(
            old in prop::collection::vec((0_u8..20, 0_u8..3), 0..12),
            new in prop::collection::vec((0_u8..20, 0_u8..3), 0..12),
        ) {
            let key = IssuerKey::from_seed(&[1; 32]);
            let (old, new) = (set(&old), set(&new));
            let mut announced = Announced::default();
            announced.push(sign(&key, 1, [1; 32], &old));
            announced.push(sign(&key, 2, [2; 32], &new));
            let change = announced.change_from(1).unwrap();
            let held = Digest { sequence: 1, hash: [1; 32], part: Some(Arc::new(old)) };
            let made = apply(&new.cluster, &held, &change);
            let (signed, part) = made.unwrap();
            prop_assert_eq!(&*signed, &*announced.newest().unwrap().signed);
            prop_assert_eq!(&*part, &new);
            prop_assert!(announced.change_from(3).is_none());
        }
    }
}
