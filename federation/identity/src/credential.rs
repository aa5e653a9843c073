//! Workload credentials: a CWT (RFC 8392) in COSE_Sign1 (RFC 9052), signed with Ed25519.
//! docs/spec/credential.md gives the bytes.
//!
//! A credential is shown to everyone a pod talks to. It proves nothing about who shows it: only the
//! handshake does, by the key that `cnf` names.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

use crate::{
    Claims, IssuerKey, TrustBundle, TrustDomain, UnixMillis, VerifyError, claims_cbor,
    cose::{self, Sign1},
    issuer_key::KeyId,
};

/// Longest credential in bytes, so that HELLO fits into 1,100.
pub const MAX_CREDENTIAL: usize = 960;
/// Longest time between `iat` and `exp`.
pub const MAX_LIFETIME: Duration = Duration::from_hours(1);
/// How far ahead of this clock `iat` may lie.
pub const IAT_CUSHION: Duration = Duration::from_secs(10);

/// A credential is a plain CWT and binds nothing outside of itself. Other signed objects do
/// ([`crate::IssuerKey::sign`]), so that none can pass for a credential.
const NO_AAD: &[u8] = b"";

/// SHA-256 of a credential's bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CredentialHash(pub [u8; 32]);

impl CredentialHash {
    /// The hash of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for CredentialHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CredentialHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A credential's bytes and their hash. Holding one says nothing about the signature: whoever got
/// it from elsewhere calls [`verify_credential`].
#[derive(Clone, PartialEq, Eq)]
pub struct SignedCredential {
    bytes: Arc<[u8]>,
    hash: CredentialHash,
}

impl SignedCredential {
    /// Takes `bytes` without looking at them; `None` when they are more than [`MAX_CREDENTIAL`].
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= MAX_CREDENTIAL).then(|| Self {
            bytes: bytes.into(),
            hash: CredentialHash::of(bytes),
        })
    }

    /// The bytes that go into HELLO and REPLY.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 of the bytes.
    #[must_use]
    pub fn hash(&self) -> CredentialHash {
        self.hash
    }
}

impl fmt::Debug for SignedCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignedCredential({})", self.hash)
    }
}

impl Serialize for SignedCredential {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.bytes)
    }
}

impl<'de> Deserialize<'de> for SignedCredential {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = SignedCredential;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX_CREDENTIAL} bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                SignedCredential::from_bytes(bytes)
                    .ok_or_else(|| E::invalid_length(bytes.len(), &self))
            }
            /// JSON has no bytes and writes an array of numbers.
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = seq.next_element()? {
                    bytes.push(byte);
                    if bytes.len() > MAX_CREDENTIAL {
                        break;
                    }
                }
                self.visit_bytes(&bytes)
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}

/// Why a credential cannot be issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The labels do not fit.
    #[error(
        "the credential of {workload} would have {bytes} bytes, at most {MAX_CREDENTIAL} fit; \
         its labels, largest first: {}", .labels.join(", ")
    )]
    TooLarge {
        /// `cluster/namespace/pod`.
        workload: String,
        /// What it would need.
        bytes: usize,
        /// `key (n bytes)` of the pod's and its namespace's labels, the largest first.
        labels: Vec<String>,
    },
    /// A claim is not what a verifier accepts.
    #[error("no credential for {workload}: {problem}")]
    Invalid {
        /// `cluster/namespace/pod`.
        workload: String,
        /// What is wrong, in words.
        problem: &'static str,
    },
}

impl IssuerKey {
    /// Signs `claims`. Times are rounded down to whole seconds, named ports are sorted.
    ///
    /// # Errors
    /// When a verifier would refuse the result, so that this is seen here and not at a peer.
    pub fn issue(&self, claims: &Claims) -> Result<SignedCredential, IssueError> {
        let invalid = |problem| IssueError::Invalid {
            workload: claims.display_name(),
            problem,
        };
        check_lifetime(claims).map_err(invalid)?;
        let payload = claims_cbor::encode(claims).map_err(invalid)?;
        let bytes = cose::sign1(&self.signing, self.id, NO_AAD, &payload);
        SignedCredential::from_bytes(&bytes).ok_or_else(|| IssueError::TooLarge {
            workload: claims.display_name(),
            bytes: bytes.len(),
            labels: largest_labels(claims),
        })
    }
}

/// Checks that `bytes` is a credential of `bundle`'s trust domain that is valid at `now`.
///
/// # Errors
/// [`VerifyError`] says why not.
pub fn verify_credential(
    bytes: &[u8],
    bundle: &TrustBundle,
    now: UnixMillis,
) -> Result<Claims, VerifyError> {
    let claims = verify_ignoring_expiry(bytes, bundle, now)?;
    if now >= claims.expires_at {
        return Err(VerifyError::Expired {
            at: claims.expires_at,
            now,
        });
    }
    Ok(claims)
}

/// The same for a credential whose labels count although its time may be over: a record that came
/// late.
pub(crate) fn verify_ignoring_expiry(
    bytes: &[u8],
    bundle: &TrustBundle,
    now: UnixMillis,
) -> Result<Claims, VerifyError> {
    let object = parse(bytes)?;
    bundle.check_signature(&object, NO_AAD, now)?;
    let decoded = claims_cbor::decode(object.payload).map_err(VerifyError::Malformed)?;
    let claims = decoded.claims;
    // The one rule that keeps clusters apart: a cluster speaks only for its own trust domain,
    // whatever else it signs.
    let domain = &bundle.trust_domain;
    if decoded.issuer != domain.as_str() || claims.trust_domain() != domain {
        return Err(VerifyError::WrongTrustDomain(domain.clone()));
    }
    check_lifetime(&claims).map_err(VerifyError::Malformed)?;
    if claims.issued_at > now.after(IAT_CUSHION) {
        return Err(VerifyError::NotYetValid {
            at: claims.issued_at,
            now,
        });
    }
    Ok(claims)
}

/// The trust domain that `bytes` says it is of: unproven, good only for the words of a refusal.
///
/// # Errors
/// [`VerifyError::Malformed`].
pub fn claimed_issuer(bytes: &[u8]) -> Result<TrustDomain, VerifyError> {
    let decoded = claims_cbor::decode(parse(bytes)?.payload).map_err(VerifyError::Malformed)?;
    TrustDomain::new(decoded.issuer).map_err(|_| VerifyError::Malformed("iss is no trust domain"))
}

/// The key that `bytes` says signed it; of a credential that was verified, the one that did.
#[must_use]
pub fn claimed_key(bytes: &[u8]) -> Option<KeyId> {
    Some(parse(bytes).ok()?.key_id)
}

fn parse(bytes: &[u8]) -> Result<Sign1<'_>, VerifyError> {
    if bytes.len() > MAX_CREDENTIAL {
        return Err(VerifyError::Malformed("longer than a credential may be"));
    }
    Sign1::parse(bytes).ok_or(VerifyError::Malformed(
        "not a COSE_Sign1 of the known shape",
    ))
}

fn check_lifetime(claims: &Claims) -> Result<(), &'static str> {
    let (from, to) = (claims.issued_at.as_secs(), claims.expires_at.as_secs());
    match to.checked_sub(from) {
        None | Some(0) => Err("exp is not after iat"),
        Some(lifetime) if lifetime > MAX_LIFETIME.as_secs() => Err("valid for more than an hour"),
        Some(_) => Ok(()),
    }
}

fn largest_labels(claims: &Claims) -> Vec<String> {
    let mut sizes: Vec<_> = claims
        .labels
        .iter()
        .map(|(key, value)| (key.len() + value.len(), "", key))
        .chain(
            claims
                .namespace_labels
                .iter()
                .map(|(key, value)| (key.len() + value.len(), "namespace label ", key)),
        )
        .collect();
    sizes.sort_by(|a, b| b.cmp(a));
    sizes
        .into_iter()
        .map(|(size, kind, key)| format!("{kind}{key} ({size} bytes)"))
        .collect()
}

#[cfg(test)]
mod tests;
