//! Why an X.509-SVID is not believed.

use identity::{SpiffeError, SpiffeId, TrustDomain, UnixMillis};

use crate::{Pin, chain::MAX_CHAIN};

/// Why an X.509-SVID is not believed. The sentences are for the operator of either end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// None was sent.
    #[error("no certificate was sent")]
    NoCertificate,
    /// More than four were sent.
    #[error("{0} certificates were sent, at most {MAX_CHAIN} are read")]
    ChainTooLong(usize),
    /// Not a certificate, or an extension of it is broken.
    #[error("malformed certificate: {0}")]
    Malformed(String),
    /// X.509-SVID section 2: exactly one URI SAN.
    #[error("the certificate holds {0} URI SANs, an X.509-SVID holds exactly one")]
    UriSans(usize),
    /// The URI SAN is no SPIFFE ID.
    #[error("the URI SAN {0:?} is no SPIFFE ID: {1}")]
    NotSpiffe(String, SpiffeError),
    /// The ID of the trust domain itself signs and never speaks.
    #[error("{0} has no path: it names a trust domain, not a workload")]
    NoPath(SpiffeId),
    /// X.509-SVID section 4.1.
    #[error("the certificate of {0} is a CA, a leaf must not be")]
    LeafIsCa(SpiffeId),
    /// X.509-SVID section 4.3.
    #[error("the key usage of {0} {1}")]
    KeyUsage(SpiffeId, &'static str),
    /// The certificate is of another key than the one at hand.
    #[error("the certificate is of another key")]
    KeyMismatch,
    /// A root that cannot sign for the trust domain.
    #[error("the root {root} of {trust_domain} {problem}")]
    Root {
        /// Whose root it should be.
        trust_domain: TrustDomain,
        /// Its fingerprint.
        root: Pin,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Another cluster answered.
    #[error("{expected} was dialled and {found} answered")]
    OtherDomain {
        /// Who was dialled.
        expected: TrustDomain,
        /// Who answered.
        found: SpiffeId,
    },
    /// Another workload answered, where exactly one may.
    #[error("{found} answered, and only {expected} may")]
    OtherId {
        /// Who may.
        expected: SpiffeId,
        /// Who answered.
        found: SpiffeId,
    },
    /// The peer claims the trust domain of this cluster.
    #[error("{0} is of our own trust domain: two clusters with one trust domain")]
    OwnDomain(SpiffeId),
    /// No root is known for the trust domain.
    #[error("{0} is of no configured peer")]
    UnknownDomain(SpiffeId),
    /// The bundle of the trust domain holds no root: the domain is invalid.
    #[error("the bundle of {0} holds no X.509 root")]
    NoRoots(TrustDomain),
    /// No bundle is stored yet and none of the certificates has the configured pin.
    #[error("{id} sent no root with the pin {pin}")]
    PinMismatch {
        /// Who the peer says it is.
        id: SpiffeId,
        /// The pin of the configuration.
        pin: Pin,
    },
    /// No root of the trust domain signed it.
    #[error("{0} is not signed by a root of its trust domain")]
    UnknownIssuer(SpiffeId),
    /// Its end is past.
    #[error("the certificate of {id} expired at {at}, and the clock here says {now}")]
    Expired {
        /// Who.
        id: SpiffeId,
        /// The end.
        at: UnixMillis,
        /// This clock.
        now: UnixMillis,
    },
    /// Its begin is ahead.
    #[error("the certificate of {id} begins at {at}, and the clock here says {now}")]
    NotYetValid {
        /// Who.
        id: SpiffeId,
        /// The begin.
        at: UnixMillis,
        /// This clock.
        now: UnixMillis,
    },
    /// Anything else that RFC 5280 path validation says.
    #[error("the chain of {id} does not hold: {problem}")]
    Chain {
        /// Who.
        id: SpiffeId,
        /// What path validation said.
        problem: String,
    },
}
