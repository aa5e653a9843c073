//! What a gateway must know again after a restart, and the form in which it is stored: a magic, a
//! checksum, CBOR. docs/spec/peering.md, section 6.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
};

use handshake::admission::Revocation;
use identity::{BundleMark, MAX_SIGNED, TrustBundle, TrustDomain, UnixMillis};
use ipnet::IpNet;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::{
    Peering,
    introductions::{Pair, Told},
};
use crate::peer_messages::AnnouncedRange;

/// Longest stored object in bytes: a digest, a bundle, and room for the rest.
pub const MAX_STATE: usize = MAX_SIGNED + (1 << 20);

/// Bytes 0..8 of a stored object; the last of them is the version.
const MAGIC: [u8; 8] = *b"LBSTATE\x01";
/// Bytes 8..40: SHA-256 of the rest.
const CHECKSUM: usize = 32;

/// Names a stored object: one file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StateKey {
    /// What this cluster said.
    Own,
    /// What a peer said.
    Peer(TrustDomain),
}

impl fmt::Display for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("own sequences"),
            Self::Peer(domain) => write!(f, "state of peer {domain}"),
        }
    }
}

/// Why stored bytes cannot be used. A gateway must not start then: without its memory it would take
/// older bundles and digests for new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Another file, or of another version.
    #[error("not a state file of version 1")]
    Foreign,
    /// It was cut or changed.
    #[error("damaged: its checksum does not hold")]
    Damaged,
    /// The checksum holds and the content has another form.
    #[error("its content cannot be read")]
    Content,
}

/// The sequences of this cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnState {
    /// Of the last bundle that was announced.
    pub bundle_sequence: u64,
    /// Of the last digest that was announced.
    pub digest_sequence: u64,
    /// The policies that were announced last, newest last: {sequence, hash}.
    pub announced: VecDeque<(u64, [u8; 32])>,
    /// Of the last list of revocations that was announced.
    #[serde(default)]
    pub revocation_sequence: u64,
    /// What was revoked here, by trust domain; what is of this cluster is announced.
    #[serde(default)]
    pub revoked: BTreeMap<TrustDomain, Vec<Revocation>>,
    /// Of the last list of introductions that was announced to anybody, and the last number of one.
    #[serde(default)]
    pub introduction_sequence: u64,
    /// Who is introduced to whom.
    #[serde(default)]
    pub introduced: Vec<Pair>,
    /// What each peer was told of that.
    #[serde(default)]
    pub introductions: BTreeMap<TrustDomain, Told>,
    /// When each peer that may not stay away was heard last, up to a minute before.
    #[serde(default)]
    pub contacts: BTreeMap<TrustDomain, UnixMillis>,
    /// When this state was restored from a backup, until it is known what peers have seen beyond it.
    #[serde(default)]
    pub restored: Option<UnixMillis>,
}

/// What a peer said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PeerState {
    /// Whose it is.
    pub trust_domain: TrustDomain,
    /// The pin by which it was first believed, if by one: with another one, all of this is void.
    pub pin: Option<[u8; 32]>,
    /// The newest bundle that was seen.
    pub mark: Option<Mark>,
    /// That bundle, as a JWK set.
    pub bundle: Option<String>,
    /// The newest digest that was seen: its sequence, SHA-256 of its payload, the payload.
    pub digest: Option<StoredSigned>,
    /// The ranges that it announced last.
    pub ranges: Vec<AnnouncedRange>,
    /// Every range that it ever announced, by number: no number may get another meaning.
    pub range_ids: BTreeMap<u16, IpNet>,
    /// What it revoked of itself: the newest list that was seen.
    #[serde(default)]
    pub revocations: Option<StoredSigned>,
    /// Whom it introduces: the newest list that was seen.
    #[serde(default)]
    pub introductions: Option<StoredSigned>,
    /// The same as it was signed, to give it back to a peer that lost it.
    #[serde(default, with = "serde_bytes")]
    pub revocations_signed: Vec<u8>,
}

/// [`BundleMark`], with a form of its own on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mark {
    pub sequence: u64,
    #[serde(with = "serde_bytes")]
    pub hash: [u8; 32],
}

/// A numbered object whose signature was checked when it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredSigned {
    pub sequence: u64,
    #[serde(with = "serde_bytes")]
    pub content: [u8; 32],
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
}

impl PeerState {
    pub(crate) fn new(trust_domain: TrustDomain, pin: Option<[u8; 32]>) -> Self {
        Self {
            trust_domain,
            pin,
            mark: None,
            bundle: None,
            digest: None,
            ranges: Vec::new(),
            range_ids: BTreeMap::new(),
            revocations: None,
            introductions: None,
            revocations_signed: Vec::new(),
        }
    }

    /// Whether it is of the peer that is configured by `pin` now, although it was believed otherwise
    /// when this was stored: its bundle holds that root, or its roots come from elsewhere.
    pub(crate) fn fits(&self, pin: Option<[u8; 32]>) -> bool {
        let Some(pin) = pin else { return true };
        let bundle = self.bundle.as_ref();
        let bundle =
            bundle.and_then(|text| TrustBundle::from_jwks(self.trust_domain.clone(), text).ok());
        bundle.is_some_and(|bundle| Peering::holds_pin(&bundle, pin))
    }
}

/// How a numbered object stands to the one that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbered {
    /// There was none, or an older one.
    Newer,
    /// It is the same.
    Same,
    /// The one that is held has this higher number.
    Older(u64),
    /// It has the number of the one that is held, and says something else.
    Other,
}

impl Numbered {
    pub(crate) fn of(held: Option<&StoredSigned>, sequence: u64, content: &[u8; 32]) -> Self {
        match held {
            Some(held) if sequence < held.sequence => Self::Older(held.sequence),
            Some(held) if sequence == held.sequence && held.content != *content => Self::Other,
            Some(held) if sequence == held.sequence => Self::Same,
            _ => Self::Newer,
        }
    }
}

impl From<Mark> for BundleMark {
    fn from(mark: Mark) -> Self {
        Self {
            sequence: mark.sequence,
            hash: mark.hash,
        }
    }
}

impl From<BundleMark> for Mark {
    fn from(mark: BundleMark) -> Self {
        Self {
            sequence: mark.sequence,
            hash: mark.hash,
        }
    }
}

/// Whether stored bytes can be used.
///
/// # Errors
/// [`StateError`].
pub fn check_stored(bytes: &[u8]) -> Result<(), StateError> {
    match open::<OwnState>(bytes) {
        Err(StateError::Content) => open::<PeerState>(bytes).map(drop),
        other => other.map(drop),
    }
}

/// What was stored of this cluster itself, or nothing, as a backup is put back: marked, so that the
/// gateway asks its peers first what they have seen beyond it. `None` when the bytes are of a peer.
///
/// # Errors
/// [`StateError`].
pub fn mark_restored(own: Option<&[u8]>, at: UnixMillis) -> Result<Option<Vec<u8>>, StateError> {
    let mut state = match own.map(open::<OwnState>).transpose() {
        Ok(state) => state.unwrap_or_default(),
        Err(StateError::Content) => {
            let peer = own.map(open::<PeerState>).transpose();
            return peer.map(|_| None);
        }
        Err(e) => return Err(e),
    };
    state.restored = Some(at);
    Ok(Some(seal(&state)))
}

/// `object` as it is stored.
pub(crate) fn seal<T: Serialize>(object: &T) -> Vec<u8> {
    let mut content = Vec::new();
    // Writing to memory does not fail, and every type here has a form in CBOR.
    let written = ciborium::into_writer(object, &mut content);
    debug_assert!(written.is_ok());
    let checksum = Sha256::digest(&content);
    [&MAGIC[..], checksum.as_slice(), &content].concat()
}

/// What was stored.
pub(crate) fn open<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StateError> {
    let rest = bytes.strip_prefix(&MAGIC).ok_or(StateError::Foreign)?;
    let (checksum, mut content) = rest.split_at_checked(CHECKSUM).ok_or(StateError::Damaged)?;
    if Sha256::digest(content).as_slice() != checksum {
        return Err(StateError::Damaged);
    }
    let object = ciborium::from_reader(&mut content).map_err(|_| StateError::Content)?;
    if content.is_empty() {
        Ok(object)
    } else {
        Err(StateError::Content)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn sample() -> PeerState {
        PeerState {
            mark: Some(Mark {
                sequence: 7,
                hash: [1; 32],
            }),
            bundle: Some("{}".into()),
            digest: Some(StoredSigned {
                sequence: 9,
                content: [2; 32],
                payload: vec![3; 40],
            }),
            ranges: vec![AnnouncedRange {
                range_id: 1,
                prefix: "10.1.0.0/16".parse().unwrap(),
            }],
            range_ids: BTreeMap::from([(1, "10.1.0.0/16".parse().unwrap())]),
            revocations: Some(StoredSigned {
                sequence: 2,
                content: [5; 32],
                payload: vec![6; 3],
            }),
            introductions: None,
            ..PeerState::new(TrustDomain::new("west").unwrap(), Some([4; 32]))
        }
    }

    #[test]
    fn what_is_stored_is_read_again_and_nothing_else_is() {
        let bytes = seal(&sample());
        assert_eq!(open(&bytes), Ok(sample()));
        assert_eq!(open::<OwnState>(&bytes), Err(StateError::Content));
        assert_eq!(open::<PeerState>(&bytes[1..]), Err(StateError::Foreign));
        assert_eq!(open::<PeerState>(b""), Err(StateError::Foreign));
    }

    proptest! {
        #[test]
        fn any_damage_is_seen(at: prop::sample::Index, bit in 0u8..8, cut: prop::sample::Index) {
            let whole = seal(&sample());
            let mut bytes = whole.clone();
            bytes[at.index(whole.len())] ^= 1 << bit;
            prop_assert!(open::<PeerState>(&bytes).is_err());
            prop_assert!(open::<PeerState>(&whole[..cut.index(whole.len())]).is_err());
        }

        #[test]
        fn any_bytes_never_panic(bytes: Vec<u8>) {
            let _ = open::<PeerState>(&bytes);
        }
    }
}
