//! Which roots speak for which trust domain, and the judgement of a chain against them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use identity::{SpiffeError, SpiffeId, TrustDomain, UnixMillis};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::{Pin, svid, tls::provider};

/// Most certificates that a peer may send: a leaf, two intermediates, a root.
const MAX_CHAIN: usize = 4;

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

/// By what a trust domain is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// The roots of its bundle, in DER.
    Roots(Vec<Vec<u8>>),
    /// No bundle is stored yet: the root that the peer sends must have this fingerprint.
    Pinned(Pin),
}

/// Trust domain -> anchor, shared by an endpoint and its owner, who changes it while it is in use.
#[derive(Clone)]
pub struct Trust {
    own: TrustDomain,
    anchors: Arc<RwLock<BTreeMap<TrustDomain, Anchor>>>,
}

/// A chain that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Who it names.
    pub id: SpiffeId,
    /// The root that it leads to.
    pub root: Pin,
    /// When the leaf ends.
    pub expires_at: UnixMillis,
}

/// Which side of TLS the certificate is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    Client,
    Server,
}

impl Trust {
    /// Nobody is trusted yet. `own` only makes the error for a peer that claims it precise.
    #[must_use]
    pub fn new(own: TrustDomain) -> Self {
        Self {
            own,
            anchors: Arc::default(),
        }
    }

    /// From now on `trust_domain` is believed by `anchor` and nothing else. Sessions that stand
    /// already are not judged again.
    pub fn set(&self, trust_domain: TrustDomain, anchor: Anchor) {
        self.anchors
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(trust_domain, anchor);
    }

    /// From now on `trust_domain` is not believed.
    pub fn remove(&self, trust_domain: &TrustDomain) {
        self.anchors
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(trust_domain);
    }

    fn anchor(&self, id: &SpiffeId) -> Result<Anchor, VerifyError> {
        let anchors = self.anchors.read().unwrap_or_else(PoisonError::into_inner);
        match anchors.get(id.trust_domain()) {
            Some(anchor) => Ok(anchor.clone()),
            None if *id.trust_domain() == self.own => Err(VerifyError::OwnDomain(id.clone())),
            None => Err(VerifyError::UnknownDomain(id.clone())),
        }
    }

    /// Judges a chain, leaf first, against the anchor of the trust domain that the leaf names.
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixMillis,
    ) -> Result<Verified, VerifyError> {
        if rest.len() >= MAX_CHAIN {
            return Err(VerifyError::ChainTooLong(rest.len() + 1));
        }
        let facts = svid::inspect(leaf)?;
        let id = facts.id;
        let roots = match self.anchor(&id)? {
            Anchor::Roots(roots) if roots.is_empty() => {
                return Err(VerifyError::NoRoots(id.trust_domain().clone()));
            }
            Anchor::Roots(roots) => roots,
            Anchor::Pinned(pin) => match rest.iter().find(|sent| Pin::of(sent) == pin) {
                Some(root) => vec![root.to_vec()],
                None => return Err(VerifyError::PinMismatch { id, pin }),
            },
        };
        if now < facts.not_before {
            let at = facts.not_before;
            return Err(VerifyError::NotYetValid { id, at, now });
        }
        if now >= facts.expires_at {
            let at = facts.expires_at;
            return Err(VerifyError::Expired { id, at, now });
        }
        let root = path(&id, leaf, rest, &roots, usage, now)?;
        Ok(Verified {
            id,
            root,
            expires_at: facts.expires_at,
        })
    }
}

/// RFC 5280 path validation from `leaf` to one of `roots`, which is returned.
fn path(
    id: &SpiffeId,
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    roots: &[Vec<u8>],
    usage: Usage,
    now: UnixMillis,
) -> Result<Pin, VerifyError> {
    let chain = |e: webpki::Error| VerifyError::Chain {
        id: id.clone(),
        problem: e.to_string(),
    };
    let end_entity = EndEntityCert::try_from(leaf).map_err(chain)?;
    let usage = match usage {
        Usage::Client => KeyUsage::client_auth(),
        Usage::Server => KeyUsage::server_auth(),
    };
    let mut refused = VerifyError::UnknownIssuer(id.clone());
    // One root at a time: the result names the root, and a broken one spoils no other.
    for der in roots {
        let root = CertificateDer::from(der.as_slice());
        if let Err(e) = usable_root(der, id.trust_domain(), now) {
            refused = e;
            continue;
        }
        let anchors = [anchor_from_trusted_cert(&root).map_err(chain)?];
        let verified = end_entity.verify_for_usage(
            provider().signature_verification_algorithms.all,
            &anchors,
            rest,
            UnixTime::since_unix_epoch(Duration::from_millis(now.0)),
            usage,
            None,
            None,
        );
        match verified {
            Ok(_) => return Ok(Pin::of(der)),
            Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => {}
            Err(e) => refused = chain(e),
        }
    }
    Err(refused)
}

/// Path validation looks only at the key and name of a root; the rest is checked here.
fn usable_root(der: &[u8], trust_domain: &TrustDomain, now: UnixMillis) -> Result<(), VerifyError> {
    let root = svid::inspect_root(der, trust_domain)?;
    let problem = if now < root.not_before {
        "is not valid yet"
    } else if now >= root.expires_at {
        "expired"
    } else {
        return Ok(());
    };
    Err(VerifyError::Root {
        trust_domain: trust_domain.clone(),
        root: Pin::of(der),
        problem,
    })
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let anchors = self.anchors.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(anchors.keys()).finish()
    }
}

#[cfg(test)]
mod tests;
