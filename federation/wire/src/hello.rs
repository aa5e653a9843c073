//! HELLO: what the initiator says of itself, the payload of its SYN.
//!
//! docs/spec/handshake.md, "Wire format". Fixed header 0..104, segment proof 104..128, credential
//! from 128.

use crate::{ParseError, bytes::Reader};

/// Length in bytes of the fixed header, which segment proof and transcript cover.
pub const HEADER_LEN: usize = 104;
/// Length in bytes of the segment proof.
pub const PROOF_LEN: usize = 24;
/// The longest credential in bytes.
pub const MAX_CREDENTIAL: usize = 960;
/// Length in bytes of what stands before the credential.
pub const HEAD_LEN: usize = HEADER_LEN + PROOF_LEN;
/// The longest HELLO in bytes.
pub const MAX_LEN: usize = HEADER_LEN + PROOF_LEN + MAX_CREDENTIAL;
/// The first four bytes.
pub const MAGIC: [u8; 4] = *b"LBHE";
/// The version of HELLO and REPLY.
pub const VERSION: u8 = 1;

/// The end that a HELLO is meant for, in the form that 1:1 prefix translation leaves alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// The first 16 bytes of SHA-256 of the owner's trust domain name.
    pub trust_domain: [u8; 16],
    /// The owner's number for the range.
    pub range_id: u16,
    /// The address minus the range's prefix, big-endian, IPv4 in the last four bytes.
    pub offset: [u8; 16],
    /// The port as the initiator's enforcer saw it leave the node.
    pub port: u16,
}

/// The fixed header: magic 0..4, version 4, flags 5 (zero), credential length 6..8, nonce 8..24,
/// timestamp 24..32, ISN 32..36, destination 36..72 (trust domain 36..52, range id 52..54, offset
/// 54..70, port 70..72), credential hash 72..104.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloHeader {
    /// Length in bytes of the credential that follows the proof, at most [`MAX_CREDENTIAL`].
    pub credential_len: u16,
    /// Random, new with every HELLO that is not a repetition.
    pub nonce: [u8; 16],
    /// When it was made, in milliseconds since 1970-01-01T00:00:00Z.
    pub timestamp: u64,
    /// The sequence number of the SYN that carries it.
    pub isn: u32,
    /// Whom it is meant for.
    pub destination: Destination,
    /// SHA-256 of the credential.
    pub credential_hash: [u8; 32],
}

impl HelloHeader {
    /// The bytes on the wire, over which the segment proof and the transcript run.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[6..8].copy_from_slice(&self.credential_len.to_be_bytes());
        bytes[8..24].copy_from_slice(&self.nonce);
        bytes[24..32].copy_from_slice(&self.timestamp.to_be_bytes());
        bytes[32..36].copy_from_slice(&self.isn.to_be_bytes());
        bytes[36..52].copy_from_slice(&self.destination.trust_domain);
        bytes[52..54].copy_from_slice(&self.destination.range_id.to_be_bytes());
        bytes[54..70].copy_from_slice(&self.destination.offset);
        bytes[70..72].copy_from_slice(&self.destination.port.to_be_bytes());
        bytes[72..104].copy_from_slice(&self.credential_hash);
        bytes
    }

    /// Reads a fixed header.
    ///
    /// # Errors
    /// [`ParseError::Version`] for another magic or version, [`ParseError::Reserved`] for flags,
    /// [`ParseError::Length`] for no credential or too long a one.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, ParseError> {
        let mut r = Reader(bytes);
        if r.array()? != MAGIC || r.array()? != [VERSION] {
            return Err(ParseError::Version);
        }
        if r.array()? != [0] {
            return Err(ParseError::Reserved);
        }
        let credential_len = r.u16()?;
        if !(1..=MAX_CREDENTIAL).contains(&credential_len.into()) {
            return Err(ParseError::Length);
        }
        Ok(Self {
            credential_len,
            nonce: r.array()?,
            timestamp: u64::from_be_bytes(r.array()?),
            isn: r.u32()?,
            destination: Destination {
                trust_domain: r.array()?,
                range_id: r.u16()?,
                offset: r.array()?,
                port: r.u16()?,
            },
            credential_hash: r.array()?,
        })
    }
}

/// Shows that a member of the cluster made the HELLO; it proves no identity. All zero: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentProof {
    /// Names the segment key: 0..8.
    pub key_id: [u8; 8],
    /// HMAC-SHA256 over the fixed header under that key, truncated to 16 bytes: 8..24.
    pub mac: [u8; 16],
}

impl SegmentProof {
    /// All zero.
    pub const NONE: Self = Self {
        key_id: [0; 8],
        mac: [0; 16],
    };

    /// The bytes on the wire.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; PROOF_LEN] {
        let mut bytes = [0; PROOF_LEN];
        bytes[..8].copy_from_slice(&self.key_id);
        bytes[8..].copy_from_slice(&self.mac);
        bytes
    }
}

/// A checked view of a whole HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The fixed header.
    pub header: HelloHeader,
    /// The same as bytes, over which the segment proof and the transcript run.
    pub header_bytes: &'a [u8; HEADER_LEN],
    /// The segment proof.
    pub proof: SegmentProof,
    /// The credential, not looked into.
    pub credential: &'a [u8],
}

impl<'a> Hello<'a> {
    /// Checks `bytes`, which must be a HELLO and nothing more.
    ///
    /// # Errors
    /// What [`HelloHeader::parse`] says, [`ParseError::Truncated`], and [`ParseError::Length`] for
    /// trailing bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (header_bytes, rest) = bytes.split_first_chunk().ok_or(ParseError::Truncated)?;
        let header = HelloHeader::parse(header_bytes)?;
        let mut r = Reader(rest);
        let proof = SegmentProof {
            key_id: r.array()?,
            mac: r.array()?,
        };
        let credential = r.take(header.credential_len.into())?;
        r.finish()?;
        Ok(Self {
            header,
            header_bytes,
            proof,
            credential,
        })
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self.header_bytes, &self.proof, self.credential)
    }
}

/// Puts a HELLO together. `header` must state the length of `credential`.
#[must_use]
pub fn encode(header: &[u8; HEADER_LEN], proof: &SegmentProof, credential: &[u8]) -> Vec<u8> {
    debug_assert_eq!(header[6..8], (credential.len() as u16).to_be_bytes());
    [&head(header, proof)[..], credential].concat()
}

/// What stands before the credential.
#[must_use]
pub fn head(header: &[u8; HEADER_LEN], proof: &SegmentProof) -> [u8; HEAD_LEN] {
    let mut bytes = [0; HEAD_LEN];
    bytes[..HEADER_LEN].copy_from_slice(header);
    bytes[HEADER_LEN..].copy_from_slice(&proof.to_bytes());
    bytes
}
