//! What two gateways of different clusters say to each other: one message to a frame, its kind in
//! the first byte. docs/spec/peering.md.

use std::{fmt, sync::Arc};

use identity::{MAX_BUNDLE, MAX_RECORD, TrustDomain, UnixMillis};
use ipnet::IpNet;
use policy::model::Policy;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Longest message in bytes, its kind included.
pub const MAX_MESSAGE: usize = 1 << 20;
/// The version that both ends say; another one is refused.
pub const PEER_PROTOCOL: u16 = 3;
/// Most ranges of one cluster.
pub const MAX_PEER_RANGES: usize = 256;
/// Most associations in one direction between two gateways: one per sending queue.
pub const MAX_ASSOCIATIONS: usize = 64;
/// Most bytes of a digest in one piece of it.
pub const MAX_PIECE: usize = 512 << 10;
/// Most records in one message.
pub const MAX_BATCH: usize = 256;

/// How deep the longest message is nested, with room.
const DEPTH: usize = 64;

/// A message. The numbers of the kinds stand in [`PeerMessage::kind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMessage {
    /// The first message of each end.
    Hello(Hello),
    /// The sender's trust bundle as a JWK set.
    Bundle(String),
    /// The sender's identity ranges, all of them.
    Ranges(Vec<AnnouncedRange>),
    /// The sender's policy digest, signed.
    Digest(Vec<u8>),
    /// The policy that the sender's cluster enforces now.
    Enforcing(Enforcing),
    /// The associations on which the sender receives from now on.
    Associations(Associations),
    /// The sender uses the associations of this generation.
    InUse(u64),
    /// The sender has used up much of this generation and asks for the next.
    Rekey(u64),
    /// Records of pods of the sender's cluster.
    Records(RecordBatch),
    /// The sender has all records up to this position.
    RecordsSeen(u64),
    /// Asks for a [`PeerMessage::Pong`] with the same number.
    Ping(u64),
    /// The answer, with the sender's clock.
    Pong(Pong),
    /// The sender's policy digest, by what differs from one that the receiver has.
    DigestChange(Box<DigestChange>),
    /// The sender has not what that digest differs from: it wants the whole of it.
    DigestWanted(u64),
    /// A piece of a signed digest that is longer than a message.
    DigestPiece(DigestPiece),
    /// The piece that is to be sent next.
    PieceWanted(PieceWanted),
    /// What the sender revoked of itself, signed: all of it.
    Revocations(Vec<u8>),
    /// Whom the sender introduces to the receiver, signed: all of them.
    Introductions(Vec<u8>),
    /// The sender's cluster is no peer of the receiver's any more, in words.
    Leave(String),
    /// The receiver's own list of revocations is wanted back, if the sender was told one above this number.
    RevocationsWanted(u64),
    /// The receiver's own list of revocations, as it signed it.
    RevocationsReturned(Vec<u8>),
}

/// Who speaks, and what it has of the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// [`PEER_PROTOCOL`].
    pub version: u16,
    /// The sender's cluster, which the transport has proven.
    pub trust_domain: TrustDomain,
    /// The sender's process.
    pub instance: Instance,
    /// The sender's clock.
    pub clock: UnixMillis,
    /// The UDP port of the sender's tunnel, at the address of the session.
    pub tunnel_port: u16,
    /// How many queues send into the tunnel: so many associations are wanted.
    pub queues: u8,
    /// The newest bundle of the receiver that the sender has seen; 0 for none.
    pub seen_bundle: u64,
    /// The newest digest of the receiver that the sender has seen; 0 for none.
    pub seen_digest: u64,
    /// The newest list of revocations of the receiver that the sender has seen; 0 for none.
    pub seen_revocations: u64,
    /// The process of the receiver whose records the sender has.
    pub records_of: Instance,
    /// The position up to which it has them.
    pub records_position: u64,
}

/// Names one life of a process, by 16 random bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Instance(#[serde(with = "serde_bytes")] pub [u8; 16]);

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .take(4)
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A pod range as its owner has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnnouncedRange {
    /// The owner's number, never used again for another range.
    pub range_id: u16,
    /// The prefix in the owner's cluster.
    pub prefix: IpNet,
}

/// What makes a digest of the one that the receiver has: the signed object is put together from it, byte by byte, and
/// its signature is checked as if it had come whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DigestChange {
    /// SHA-256 of the payload that the receiver has.
    #[serde(with = "serde_bytes")]
    pub base: [u8; 32],
    /// The signed object up to its payload.
    #[serde(with = "serde_bytes")]
    pub before: Vec<u8>,
    /// The signed object after its payload.
    #[serde(with = "serde_bytes")]
    pub after: Vec<u8>,
    /// The new sequence.
    pub sequence: u64,
    /// The new hash.
    #[serde(with = "serde_bytes")]
    pub hash: [u8; 32],
    /// Places of policies in the list that the receiver has: those that are gone, ascending.
    pub removed: Vec<u32>,
    /// Places of policies in the new list, ascending, and the policies that stand there.
    pub added: Vec<(u32, Arc<Policy>)>,
}

/// Bytes of a signed digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DigestPiece {
    /// Of the digest.
    pub sequence: u64,
    /// How many bytes the signed digest has.
    pub length: u64,
    /// Where in it these stand.
    pub offset: u64,
    /// At least one, at most [`MAX_PIECE`].
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// Asks for the next piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PieceWanted {
    /// Of the digest.
    pub sequence: u64,
    /// How many bytes of it are there.
    pub offset: u64,
}

/// What is enforced, as opposed to announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enforcing {
    /// The digest it was announced by; 0 when it never was.
    pub sequence: u64,
    /// The hash of the canonical policy.
    #[serde(with = "serde_bytes")]
    pub hash: [u8; 32],
}

/// Security associations of one direction, all of them, made by their receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Associations {
    /// Rises within a session.
    pub generation: u64,
    /// One per sending queue; a queue takes the one of its number, modulo their number.
    pub keys: Vec<TunnelKey>,
}

/// One security association of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelKey {
    /// The receiver's name for it; never 0.
    pub spi: u32,
    /// The key.
    pub secret: TunnelSecret,
}

/// 16 bytes for AES-128-GCM or 32 for AES-256-GCM. Never printed, overwritten when dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct TunnelSecret(#[serde(with = "serde_bytes")] Vec<u8>);

impl TunnelSecret {
    /// Takes secret bytes.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, for the one place that makes a cipher of them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for TunnelSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TunnelSecret({} bytes)", self.0.len())
    }
}

/// Records, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordBatch {
    /// To be said in [`PeerMessage::RecordsSeen`], and in the next Hello.
    pub position: u64,
    /// [`identity::SignedRecord`]s, at most [`MAX_BATCH`].
    pub records: Vec<serde_bytes::ByteBuf>,
}

/// The answer to a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pong {
    /// The number of the ping.
    pub number: u64,
    /// The sender's clock.
    pub clock: UnixMillis,
}

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// No byte at all.
    #[error("an empty message")]
    Empty,
    /// More bytes than its kind may have.
    #[error("{length} bytes in a message of kind {kind}, at most {limit} are allowed")]
    TooLarge {
        /// The kind.
        kind: u8,
        /// How many there were.
        length: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Not of the form that its kind has, or bytes follow it.
    #[error("a message of kind {0} is malformed")]
    Malformed(u8),
    /// A list in it is longer than allowed.
    #[error("a list in a message of kind {0} is longer than allowed")]
    TooMany(u8),
}

impl PeerMessage {
    /// The first byte.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Bundle(_) => 2,
            Self::Ranges(_) => 3,
            Self::Digest(_) => 4,
            Self::Enforcing(_) => 5,
            Self::Associations(_) => 6,
            Self::InUse(_) => 7,
            Self::Rekey(_) => 8,
            Self::Records(_) => 9,
            Self::RecordsSeen(_) => 10,
            Self::Ping(_) => 11,
            Self::Pong(_) => 12,
            Self::DigestChange(_) => 13,
            Self::DigestWanted(_) => 14,
            Self::DigestPiece(_) => 15,
            Self::PieceWanted(_) => 16,
            Self::Revocations(_) => 17,
            Self::Leave(_) => 18,
            Self::Introductions(_) => 19,
            Self::RevocationsWanted(_) => 20,
            Self::RevocationsReturned(_) => 21,
        }
    }

    /// Reads a message. `None` when its kind is not known here: a newer peer may have more to say.
    ///
    /// # Errors
    /// [`MessageError`]. The length is checked before anything is decoded.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, MessageError> {
        let Some((&kind, body)) = bytes.split_first() else {
            return Err(MessageError::Empty);
        };
        let limit = limit(kind);
        if body.len() > limit {
            return Err(MessageError::TooLarge {
                kind,
                length: body.len(),
                limit,
            });
        }
        let read = Body { kind, body };
        let message = match kind {
            1 => Self::Hello(read.cbor()?),
            2 => Self::Bundle(read.text()?),
            3 => Self::Ranges(read.cbor()?),
            4 => Self::Digest(body.to_vec()),
            5 => Self::Enforcing(read.cbor()?),
            6 => Self::Associations(read.cbor()?),
            7 => Self::InUse(read.cbor()?),
            8 => Self::Rekey(read.cbor()?),
            9 => Self::Records(read.cbor()?),
            10 => Self::RecordsSeen(read.cbor()?),
            11 => Self::Ping(read.cbor()?),
            12 => Self::Pong(read.cbor()?),
            13 => Self::DigestChange(read.cbor()?),
            14 => Self::DigestWanted(read.cbor()?),
            15 => Self::DigestPiece(read.cbor()?),
            16 => Self::PieceWanted(read.cbor()?),
            17 => Self::Revocations(body.to_vec()),
            18 => Self::Leave(read.text()?),
            19 => Self::Introductions(body.to_vec()),
            20 => Self::RevocationsWanted(read.cbor()?),
            21 => Self::RevocationsReturned(body.to_vec()),
            _ => return Ok(None),
        };
        message.check(kind)?;
        Ok(Some(message))
    }

    fn check(&self, kind: u8) -> Result<(), MessageError> {
        let (many, malformed) = match self {
            Self::Ranges(ranges) => (ranges.len() > MAX_PEER_RANGES, false),
            Self::Associations(offered) => {
                let sound =
                    |key: &TunnelKey| key.spi != 0 && matches!(key.secret.expose().len(), 16 | 32);
                let keys = &offered.keys;
                (
                    keys.len() > MAX_ASSOCIATIONS,
                    keys.is_empty() || !keys.iter().all(sound),
                )
            }
            Self::Records(batch) => (
                batch.records.len() > MAX_BATCH,
                batch.records.iter().any(|record| record.len() > MAX_RECORD),
            ),
            _ => (false, false),
        };
        match (many, malformed) {
            (true, _) => Err(MessageError::TooMany(kind)),
            (_, true) => Err(MessageError::Malformed(kind)),
            _ => Ok(()),
        }
    }

    /// The message as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind()];
        match self {
            Self::Hello(body) => cbor(body, &mut bytes),
            Self::Bundle(text) | Self::Leave(text) => bytes.extend_from_slice(text.as_bytes()),
            Self::Ranges(body) => cbor(body, &mut bytes),
            Self::Digest(signed)
            | Self::Revocations(signed)
            | Self::Introductions(signed)
            | Self::RevocationsReturned(signed) => bytes.extend_from_slice(signed),
            Self::Enforcing(body) => cbor(body, &mut bytes),
            Self::Associations(body) => cbor(body, &mut bytes),
            Self::InUse(number)
            | Self::Rekey(number)
            | Self::RecordsSeen(number)
            | Self::Ping(number)
            | Self::DigestWanted(number)
            | Self::RevocationsWanted(number) => cbor(number, &mut bytes),
            Self::DigestChange(body) => cbor(body, &mut bytes),
            Self::DigestPiece(body) => cbor(body, &mut bytes),
            Self::PieceWanted(body) => cbor(body, &mut bytes),
            Self::Records(body) => cbor(body, &mut bytes),
            Self::Pong(body) => cbor(body, &mut bytes),
        }
        bytes
    }
}

/// Most bytes after the first, by kind.
fn limit(kind: u8) -> usize {
    match kind {
        1 => 1 << 10,
        2 => MAX_BUNDLE,
        3 => 32 << 10,
        5 | 7 | 8 | 10 | 11 | 12 | 14 | 16 | 20 => 128,
        15 => MAX_PIECE + 128,
        6 => 8 << 10,
        9 => MAX_BATCH * (MAX_RECORD + 8) + 64,
        18 => 1 << 10,
        _ => MAX_MESSAGE - 1,
    }
}

struct Body<'a> {
    kind: u8,
    body: &'a [u8],
}

impl Body<'_> {
    fn cbor<T: DeserializeOwned>(&self) -> Result<T, MessageError> {
        let mut rest = self.body;
        ciborium::de::from_reader_with_recursion_limit(&mut rest, DEPTH)
            .ok()
            .filter(|_| rest.is_empty())
            .ok_or(MessageError::Malformed(self.kind))
    }

    fn text(&self) -> Result<String, MessageError> {
        String::from_utf8(self.body.to_vec()).map_err(|_| MessageError::Malformed(self.kind))
    }
}

fn cbor<T: Serialize>(body: &T, bytes: &mut Vec<u8>) {
    // Writing to memory does not fail, and every type here has a form in CBOR.
    let written = ciborium::into_writer(body, bytes);
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests;
