//! What the MACs of REPLY and CONFIRM cover.
//!
//! HELLO's fixed header already holds version, initiator nonce, time, initiator ISN, destination
//! and the initiator's credential hash; the responder's half is added to it. Every part has a
//! fixed length, so the concatenation is unambiguous.

use identity::{
    CredentialHash,
    fault::{self, Fault},
};

use crate::keys::{PairKeys, Role, Tag};

/// Separates these MACs from any other use of the keys.
const DOMAIN: &[u8; 23] = b"landbridge transcript 1";
/// Length in bytes of what is covered.
const LEN: usize = DOMAIN.len() + 2 + wire::hello::HEADER_LEN + 32 + 16 + 4;

/// Where HELLO's fixed header has the destination.
const DESTINATION: std::ops::Range<usize> = 36..72;

/// Both halves of one handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcript {
    /// The IP protocol number.
    pub protocol: u8,
    /// HELLO's fixed header, byte for byte.
    pub hello: [u8; wire::hello::HEADER_LEN],
    /// The responder's credential.
    pub responder: CredentialHash,
    /// The responder's nonce.
    pub nonce: [u8; 16],
    /// The responder's initial sequence number.
    pub isn: u32,
}

impl Transcript {
    /// The MAC that `role` sends: the responder's in REPLY, the initiator's in CONFIRM.
    #[must_use]
    pub fn tag(&self, keys: &PairKeys, role: Role) -> Tag {
        let (key, role_byte) = match role {
            Role::Initiator => (&keys.initiator, 1),
            Role::Responder => (&keys.responder, 2),
        };
        // In one piece: hashing many small ones costs more than putting them together.
        let mut bytes = [0; LEN];
        let mut rest = &mut bytes[..];
        let isn = self.isn.to_be_bytes();
        let mut hello = self.hello;
        if fault::is(Fault::TranscriptWithoutDestination) {
            hello[DESTINATION].fill(0);
        }
        let parts: [&[u8]; 6] = [
            DOMAIN,
            &[self.protocol, role_byte],
            &hello,
            &self.responder.0,
            &self.nonce,
            &isn,
        ];
        for part in parts {
            let (place, after) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = after;
        }
        key.tag(&bytes)
    }
}
