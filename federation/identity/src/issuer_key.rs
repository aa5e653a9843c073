//! The Ed25519 keys that sign credentials, records and digests of one trust domain.

use std::fmt;

use ed25519_dalek::{SigningKey, VerifyingKey};
use rand_core::CryptoRng;
use sha2::{Digest, Sha256};

/// The first 8 bytes of SHA-256 of an issuer's public key. It finds a key, it proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An issuer's private key. Never printed, overwritten when dropped.
pub struct IssuerKey {
    pub(crate) signing: SigningKey,
    pub(crate) id: KeyId,
}

impl IssuerKey {
    /// The key whose RFC 8032 seed is `seed`.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let signing = SigningKey::from_bytes(seed);
        let id = key_id(signing.verifying_key().as_bytes());
        Self { signing, id }
    }

    /// A new key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let signing = SigningKey::generate(rng);
        let id = key_id(signing.verifying_key().as_bytes());
        Self { signing, id }
    }

    /// The seed, for the one file that keeps it.
    #[must_use]
    pub fn seed(&self) -> &[u8; 32] {
        self.signing.as_bytes()
    }

    /// What verifies this key's signatures.
    #[must_use]
    pub fn public(&self) -> IssuerPublicKey {
        IssuerPublicKey {
            key: self.signing.verifying_key(),
            id: self.id,
        }
    }
}

impl fmt::Debug for IssuerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuerKey({})", self.id)
    }
}

/// Why 32 bytes are not an issuer's public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 public key, or one of small order")]
pub struct KeyError;

/// An issuer's public key, decompressed once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IssuerPublicKey {
    pub(crate) key: VerifyingKey,
    id: KeyId,
}

impl IssuerPublicKey {
    /// Checks and takes the 32 bytes of RFC 8032, section 5.1.5.
    ///
    /// # Errors
    /// When they are no point of the curve, or one of small order, for which a signature proves
    /// nothing.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| KeyError)?;
        if key.is_weak() {
            return Err(KeyError);
        }
        let id = key_id(bytes);
        Ok(Self { key, id })
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Its short name.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }
}

impl fmt::Debug for IssuerPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuerPublicKey({})", self.id)
    }
}

fn key_id(public: &[u8; 32]) -> KeyId {
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(Sha256::digest(public));
    KeyId([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// RFC 8032, section 7.1, test 1.
    #[test]
    fn the_public_key_is_the_one_of_the_rfc() {
        let seed: [u8; 32] =
            hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
                .unwrap()
                .try_into()
                .unwrap();
        let key = IssuerKey::from_seed(&seed);
        assert_eq!(
            hex::encode(key.public().as_bytes()),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
        assert_eq!(
            IssuerPublicKey::from_bytes(key.public().as_bytes()),
            Ok(key.public())
        );
    }

    #[test]
    fn a_key_of_small_order_is_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(IssuerPublicKey::from_bytes(&identity), Err(KeyError));
        assert_eq!(IssuerPublicKey::from_bytes(&[0; 32]), Err(KeyError));
    }

    #[test]
    fn no_formatting_shows_the_private_key() {
        let key = IssuerKey::from_seed(&[0x5a; 32]);
        let shown = format!("{key:?}");
        assert!(!shown.contains("5a5a"), "{shown}");
        assert!(!shown.contains("90, 90"), "{shown}");
    }
}
