//! REPLY: what the responder says of itself, the payload of its SYN-ACK.
//!
//! docs/spec/handshake.md, "Wire format". Magic 0..4, version 4, flags 5 (zero), credential length
//! n 6..8, nonce 8..24, credential 24..24+n, MAC 24+n..40+n.

use crate::{
    ParseError,
    bytes::Reader,
    hello::{MAX_CREDENTIAL, VERSION},
};

/// The first four bytes.
pub const MAGIC: [u8; 4] = *b"LBRE";
/// Length in bytes of what stands before the credential.
pub const HEAD_LEN: usize = 24;
/// The longest REPLY in bytes.
pub const MAX_LEN: usize = HEAD_LEN + MAX_CREDENTIAL + 16;

/// A checked view of a whole REPLY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// Random, one per HELLO.
    pub nonce: [u8; 16],
    /// The credential, not looked into; 1 to [`MAX_CREDENTIAL`] bytes.
    pub credential: &'a [u8],
    /// HMAC-SHA256 over the transcript under the responder's pair key, truncated to 16 bytes.
    pub mac: [u8; 16],
}

impl<'a> Reply<'a> {
    /// Checks `bytes`, which must be a REPLY and nothing more.
    ///
    /// # Errors
    /// [`ParseError::Version`] for another magic or version, [`ParseError::Reserved`] for flags,
    /// [`ParseError::Length`] for no credential, too long a one, or trailing bytes, and
    /// [`ParseError::Truncated`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let mut r = Reader(bytes);
        if r.array()? != MAGIC || r.array()? != [VERSION] {
            return Err(ParseError::Version);
        }
        if r.array()? != [0] {
            return Err(ParseError::Reserved);
        }
        let credential_len = r.u16()?.into();
        if !(1..=MAX_CREDENTIAL).contains(&credential_len) {
            return Err(ParseError::Length);
        }
        let reply = Self {
            nonce: r.array()?,
            credential: r.take(credential_len)?,
            mac: r.array()?,
        };
        r.finish()?;
        Ok(reply)
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [&self.head()[..], self.credential, &self.mac].concat()
    }

    /// What stands before the credential.
    #[must_use]
    pub fn head(&self) -> [u8; HEAD_LEN] {
        debug_assert!((1..=MAX_CREDENTIAL).contains(&self.credential.len()));
        let mut bytes = [0; HEAD_LEN];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[6..8].copy_from_slice(&(self.credential.len() as u16).to_be_bytes());
        bytes[8..24].copy_from_slice(&self.nonce);
        bytes
    }
}
