//! The policy digest: what a cluster says of its own policy, signed by its issuer key.
//! docs/spec/peering.md, section 4.

use std::sync::Arc;

use identity::{IssuerKey, MAX_SIGNED, TrustBundle, TrustDomain, UnixMillis, VerifyError};
use policy::model::PolicySet;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

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
    /// The part of it that admits identities of other clusters; none when it would not fit into a
    /// message: then only the destination can decide.
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

/// Signs the digest of `part.cluster`. The part is left out when the whole would be too long.
pub(crate) fn sign(
    key: &IssuerKey,
    sequence: u64,
    hash: [u8; 32],
    part: &PolicySet,
) -> (Vec<u8>, Digest) {
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
    (key.sign(CONTEXT, &bytes), payload.into())
}

/// The digest of the bundle's trust domain in `signed`, with its payload and the payload's SHA-256.
pub(crate) fn open(
    bundle: &TrustBundle,
    signed: &[u8],
    now: UnixMillis,
) -> Result<(Digest, Vec<u8>, [u8; 32]), DigestError> {
    let payload = bundle.open(CONTEXT, signed, now)?;
    let digest = read(&bundle.trust_domain, &payload)?;
    let content = Sha256::digest(&payload).into();
    Ok((digest, payload, content))
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
