//! The signed list of those whom a cluster introduces to one of its peers. docs/spec/membership.md,
//! section 1.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use identity::{IssuerKey, TrustBundle, TrustDomain, UnixMillis, VerifyError};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use sha2::{Digest, Sha256};

use crate::{
    join::{MAX_ENDPOINTS, is_label},
    peer_messages::{AnnouncedRange, MAX_PEER_RANGES},
    peers::StoredSigned,
};

/// Most that one cluster introduces to one peer.
pub const MAX_INTRODUCED: usize = 256;
/// How long an introduction may hold without its introducer, at least and at most.
pub const MIN_LIFE: Duration = Duration::from_mins(1);
/// See [`MIN_LIFE`].
pub const MAX_LIFE: Duration = Duration::from_hours(24 * 365);
/// Most roots of one cluster that are told: more are never in use at once.
pub(crate) const MAX_ROOTS: usize = 4;
/// Separates this signature from that of every other object.
const CONTEXT: &str = "introductions";
/// Longest list in bytes, so that it fits into one message with room to spare.
const MAX_LIST: usize = 512 << 10;

/// A cluster, as another one introduces it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Introduction {
    /// The cluster.
    pub trust_domain: TrustDomain,
    /// What its introducer calls it, a DNS label.
    pub name: String,
    /// SHA-256 of each of its root certificates in DER: while a root is exchanged, of both.
    pub roots: Vec<ByteArray<32>>,
    /// Where its gateways listen.
    pub endpoints: Vec<SocketAddr>,
    /// Its pod ranges.
    pub ranges: Vec<AnnouncedRange>,
    /// Rises when the introducer's operator introduces it again; what was refused stays refused until
    /// then.
    pub number: u64,
    /// Until when it holds if it is not renewed.
    pub until: UnixMillis,
}

impl Introduction {
    /// Whether it says that `root` is its own.
    #[must_use]
    pub fn has_root(&self, root: &[u8; 32]) -> bool {
        self.pins().any(|own| own == *root)
    }

    /// Those of its roots.
    pub(super) fn pins(&self) -> impl Iterator<Item = [u8; 32]> {
        self.roots.iter().map(|root| **root)
    }

    /// The first of them, and the others.
    pub(super) fn first_and_others(&self) -> ([u8; 32], Vec<[u8; 32]>) {
        let mut pins = self.pins();
        (pins.next().unwrap_or_default(), pins.collect())
    }
}

/// On whose word a member is one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Introduced {
    /// Who introduced it.
    pub by: TrustDomain,
    /// The number of that introduction.
    pub number: u64,
    /// Until when it holds.
    pub until: UnixMillis,
    /// The operator took it himself.
    #[serde(default)]
    pub by_hand: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    /// Who introduces.
    trust_domain: TrustDomain,
    /// To whom.
    audience: TrustDomain,
    sequence: u64,
    introduced: Vec<Introduction>,
}

/// Why a list is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListError {
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error("they cannot be read")]
    Malformed,
    #[error("they speak for {0}")]
    Foreign(TrustDomain),
    #[error("they were made for {0}")]
    Audience(TrustDomain),
}

/// A list whose signature holds.
pub(crate) struct Opened {
    pub sequence: u64,
    pub introduced: Vec<Introduction>,
    pub bytes: Vec<u8>,
    pub content: [u8; 32],
}

/// The list of `domain` for `audience`, as that is sent it.
pub(crate) fn sign(
    key: &IssuerKey,
    domain: &TrustDomain,
    audience: &TrustDomain,
    sequence: u64,
    introduced: &[Introduction],
) -> Vec<u8> {
    let payload = Payload {
        trust_domain: domain.clone(),
        audience: audience.clone(),
        sequence,
        introduced: introduced.to_vec(),
    };
    let mut bytes = Vec::new();
    // Writing to memory does not fail, and every type here has a form in CBOR.
    let written = ciborium::into_writer(&payload, &mut bytes);
    debug_assert!(written.is_ok());
    key.sign(CONTEXT, &bytes)
}

/// What `signed` says, if a key of `bundle` signed it for `own`.
pub(crate) fn open(
    bundle: &TrustBundle,
    own: &TrustDomain,
    signed: &[u8],
    now: UnixMillis,
) -> Result<Opened, ListError> {
    if signed.len() > MAX_LIST {
        return Err(ListError::Malformed);
    }
    let bytes = bundle.open(CONTEXT, signed, now)?;
    let payload = read(&bytes).ok_or(ListError::Malformed)?;
    if payload.trust_domain != bundle.trust_domain {
        return Err(ListError::Foreign(payload.trust_domain));
    }
    if payload.audience != *own {
        return Err(ListError::Audience(payload.audience));
    }
    Ok(Opened {
        sequence: payload.sequence,
        introduced: payload.introduced,
        content: Sha256::digest(&bytes).into(),
        bytes,
    })
}

/// What is stored of a peer's list, which was checked when it came; none when it is void.
pub(crate) fn stored(stored: &StoredSigned) -> Option<Vec<Introduction>> {
    read(&stored.payload).map(|payload| payload.introduced)
}

fn read(bytes: &[u8]) -> Option<Payload> {
    let mut rest = bytes;
    let payload: Payload = ciborium::de::from_reader_with_recursion_limit(&mut rest, 16)
        .ok()
        .filter(|_| rest.is_empty())?;
    let introduced = &payload.introduced;
    let sound = |one: &Introduction| {
        is_label(&one.name)
            && (1..=MAX_ROOTS).contains(&one.roots.len())
            && (1..=MAX_ENDPOINTS).contains(&one.endpoints.len())
            && one.ranges.len() <= MAX_PEER_RANGES
            && one.number <= payload.sequence
    };
    let domains: BTreeSet<_> = introduced.iter().map(|one| &one.trust_domain).collect();
    let once = domains.len() == introduced.len();
    let holds = once && introduced.len() <= MAX_INTRODUCED && introduced.iter().all(sound);
    holds.then_some(payload)
}
