//! Secrets of the handshake: the agent's X25519 key, the key pair of two agents, the segment keys.

use std::{fmt, sync::Arc};

use hkdf::HkdfExtract;
use hmac::{Hmac, KeyInit, Mac as _};
use identity::fault::{self, Fault};
use rand_core::CryptoRng;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroize;

/// A MAC of this handshake: HMAC-SHA256 truncated to 16 bytes.
pub type Tag = [u8; 16];

/// HKDF salt: separates these keys from every other use of the same X25519 keys.
const PAIR_SALT: &[u8] = b"landbridge handshake 1";

/// The private X25519 key of a node agent. Zeroized when the last clone goes, never printed.
#[derive(Clone)]
pub struct AgentSecret(Arc<AgentKeys>);

struct AgentKeys {
    secret: StaticSecret,
    /// Kept, because deriving it costs as much as a key agreement.
    public: [u8; 32],
    /// Takes the salt in, which is the same for every pair.
    extract: HkdfExtract<Sha256>,
}

impl AgentSecret {
    /// Makes a key from `rng`.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        StaticSecret::random_from_rng(rng).into()
    }

    /// Takes 32 secret bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        StaticSecret::from(bytes).into()
    }

    /// The public half, as `cnf` of a credential carries it.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.0.public
    }

    /// The two keys that this agent and the owner of `peer` share while this one is `role`.
    /// `None` when `peer` is a point of small order: no secret would come of it.
    #[must_use]
    pub fn pair(&self, role: Role, peer: &[u8; 32]) -> Option<PairKeys> {
        let shared = self.0.secret.diffie_hellman(&PublicKey::from(*peer));
        if !shared.was_contributory() {
            return None;
        }
        let (initiator, responder) = match role {
            Role::Initiator => (&self.0.public, peer),
            Role::Responder => (peer, &self.0.public),
        };
        let mut extract = self.0.extract.clone();
        extract.input_ikm(shared.as_bytes());
        let (_, hkdf) = extract.finalize();
        let expand = |label: &[u8]| {
            let mut key = [0; 32];
            let info = [label, initiator, responder];
            // 32 bytes is one HKDF block: it cannot be too long.
            hkdf.expand_multi_info(&info, &mut key).ok()?;
            let keyed = MacKey::from_bytes(key);
            key.zeroize();
            Some(keyed)
        };
        Some(PairKeys {
            initiator: expand(b"initiator")?,
            responder: expand(b"responder")?,
        })
    }
}

impl From<StaticSecret> for AgentSecret {
    fn from(secret: StaticSecret) -> Self {
        let public = PublicKey::from(&secret).to_bytes();
        Self(Arc::new(AgentKeys {
            secret,
            public,
            extract: HkdfExtract::new(Some(PAIR_SALT)),
        }))
    }
}

impl fmt::Debug for AgentSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentSecret(..)")
    }
}

/// Which side of a connection one is. The two have separate keys, so that nothing one side sends
/// can be reflected to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sends SYN and CONFIRM.
    Initiator,
    /// Sends SYN-ACK and REPLY.
    Responder,
}

/// The keys of one ordered pair of agents.
#[derive(Clone, Debug)]
pub struct PairKeys {
    /// For CONFIRM.
    pub initiator: MacKey,
    /// For REPLY.
    pub responder: MacKey,
}

/// A key for [`Tag`]s, already hashed: each MAC starts where the key ends. Zeroized on drop, never
/// printed.
#[derive(Clone)]
pub struct MacKey(Hmac<Sha256>);

/// What HMAC keeps of its key are two states of the hash, and those clear themselves.
const _: fn() = || {
    fn clears_itself<T: zeroize::ZeroizeOnDrop>() {}
    clears_itself::<<Sha256 as hmac::digest::block_api::CoreProxy>::Core>();
};

impl MacKey {
    /// Takes 32 secret bytes.
    #[must_use]
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        // HMAC takes a key of any length: `new_from_slice` has no failure to report.
        let Ok(keyed) = Hmac::new_from_slice(&bytes) else {
            unreachable!("HMAC takes a key of any length")
        };
        bytes.zeroize();
        Self(keyed)
    }

    /// The MAC of `bytes`.
    #[must_use]
    pub fn tag(&self, bytes: &[u8]) -> Tag {
        let mut mac = self.0.clone();
        mac.update(bytes);
        let full = mac.finalize().into_bytes();
        let mut tag = [0; 16];
        tag.copy_from_slice(&full[..16]);
        tag
    }

    /// Whether `tag` is the MAC of `bytes`, in time that does not depend on where they differ.
    #[must_use]
    pub fn holds(&self, bytes: &[u8], tag: &Tag) -> bool {
        tags_equal(&self.tag(bytes), tag)
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(..)")
    }
}

/// Constant-time comparison.
#[must_use]
pub fn tags_equal(a: &Tag, b: &Tag) -> bool {
    bool::from(a.ct_eq(b))
}

/// A key of the cluster under which agents prove that a HELLO came from one of them. It lets a
/// receiver refuse floods by one MAC; it proves no identity.
#[derive(Clone, Debug)]
pub struct SegmentKey {
    /// Names the key on the wire; never all zero.
    pub id: [u8; 8],
    /// The secret.
    pub key: MacKey,
}

/// The segment keys that are valid now: the newest makes proofs, all check them.
#[derive(Clone, Debug, Default)]
pub struct SegmentKeys(Vec<SegmentKey>);

/// What a segment proof is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofCheck {
    /// A member of the cluster made it.
    Holds,
    /// It names a key that is held and is wrong.
    Broken,
    /// No proof, or a key that is not held: nothing is known.
    Unknown,
}

impl SegmentKeys {
    /// Takes the valid keys, newest first.
    #[must_use]
    pub fn new(newest_first: Vec<SegmentKey>) -> Self {
        Self(newest_first)
    }

    /// {key id, MAC} over `header`, or all zero when no key is held.
    #[must_use]
    pub fn prove(&self, header: &[u8]) -> ([u8; 8], Tag) {
        match self.0.first() {
            Some(newest) => (newest.id, newest.key.tag(header)),
            None => ([0; 8], [0; 16]),
        }
    }

    /// Judges {`id`, `tag`} over `header`.
    #[must_use]
    pub fn check(&self, header: &[u8], id: &[u8; 8], tag: &Tag) -> ProofCheck {
        match self.0.iter().find(|key| key.id == *id) {
            _ if fault::is(Fault::ProofUnchecked) => ProofCheck::Holds,
            None => ProofCheck::Unknown,
            Some(key) if key.key.holds(header, tag) => ProofCheck::Holds,
            Some(_) => ProofCheck::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    use super::*;

    fn secret(seed: u64) -> AgentSecret {
        AgentSecret::generate(&mut ChaCha20Rng::seed_from_u64(seed))
    }

    #[test]
    fn both_ends_derive_the_same_keys_and_each_role_its_own() {
        let (a, b) = (secret(1), secret(2));
        let at_a = a.pair(Role::Initiator, &b.public()).unwrap();
        let at_b = b.pair(Role::Responder, &a.public()).unwrap();
        assert_eq!(at_a.initiator.tag(b"x"), at_b.initiator.tag(b"x"));
        assert_eq!(at_a.responder.tag(b"x"), at_b.responder.tag(b"x"));
        assert_ne!(at_a.initiator.tag(b"x"), at_a.responder.tag(b"x"));
    }

    #[test]
    fn the_opposite_direction_has_other_keys() {
        let (a, b) = (secret(1), secret(2));
        let there = a.pair(Role::Initiator, &b.public()).unwrap();
        let back = a.pair(Role::Responder, &b.public()).unwrap();
        assert_ne!(there.initiator.tag(b"x"), back.initiator.tag(b"x"));
        assert_ne!(there.responder.tag(b"x"), back.responder.tag(b"x"));
    }

    #[test]
    fn a_point_of_small_order_gives_no_key() {
        assert!(secret(1).pair(Role::Initiator, &[0; 32]).is_none());
    }

    #[test]
    fn a_proof_is_unknown_without_its_key_and_broken_with_one_bit_changed() {
        let key = |n| SegmentKey {
            id: [n; 8],
            key: MacKey::from_bytes([n; 32]),
        };
        let maker = SegmentKeys::new(vec![key(2), key(1)]);
        let (id, mut tag) = maker.prove(b"header");
        assert_eq!(id, [2; 8]);
        assert_eq!(maker.check(b"header", &id, &tag), ProofCheck::Holds);
        assert_eq!(
            SegmentKeys::default().check(b"header", &id, &tag),
            ProofCheck::Unknown
        );
        tag[15] ^= 1;
        assert_eq!(maker.check(b"header", &id, &tag), ProofCheck::Broken);
        assert_eq!(
            maker.check(b"header", &[0; 8], &[0; 16]),
            ProofCheck::Unknown
        );
    }
}
