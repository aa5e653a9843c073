//! Why a signed object is not believed.

use crate::{KeyId, TrustDomain, UnixMillis};

/// Why a credential, record or other signed object is not believed. The handshake maps each to its
/// own drop reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The bytes have another shape than docs/spec/credential.md gives them, or a claim another
    /// form.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// The key is known and did not sign this.
    #[error("the signature of key {0} does not hold")]
    Signature(KeyId),
    /// The bundle of the trust domain holds no such key.
    #[error("no key {0} in the bundle")]
    UnknownKey(KeyId),
    /// `exp` is reached.
    #[error("expired at {at}, and the clock here says {now}")]
    Expired {
        /// The end of the validity.
        at: UnixMillis,
        /// This clock.
        now: UnixMillis,
    },
    /// `iat` lies more than 10 s ahead.
    #[error("issued at {at}, and the clock here says {now}")]
    NotYetValid {
        /// The begin of the validity.
        at: UnixMillis,
        /// This clock.
        now: UnixMillis,
    },
    /// It speaks for another trust domain than the one whose key signed it.
    #[error("speaks for another trust domain than {0}, whose bundle this is")]
    WrongTrustDomain(TrustDomain),
    /// The bundle of the trust domain is past its own end.
    #[error("the bundle of {0} expired")]
    BundleExpired(TrustDomain),
    /// The bundle of the trust domain holds no issuer key: the domain is invalid.
    #[error("the bundle of {0} holds no issuer key")]
    BundleEmpty(TrustDomain),
}
