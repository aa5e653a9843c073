//! Whether a chain of certificates proves an X.509-SVID: the X.509-SVID standard, section 5.

use std::time::Duration;

use identity::{SpiffeId, TrustDomain, UnixMillis};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::{
    Pin, VerifyError,
    certificate::{self, Leaf},
};

/// Most certificates that a peer may send: a leaf, two intermediates, a root.
pub(crate) const MAX_CHAIN: usize = 4;

/// Which side of TLS the certificate is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// The one that dialled.
    Client,
    /// The one that was dialled.
    Server,
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

/// Certificates as a peer sent them, whose leaf keeps the rules of an X.509-SVID. Nothing is proven
/// yet.
pub struct Chain<'a> {
    leaf: &'a CertificateDer<'a>,
    rest: &'a [CertificateDer<'a>],
    facts: Leaf,
}

impl<'a> Chain<'a> {
    /// Reads what the peer claims to be. `rest` is what it sent after the leaf, in any order.
    ///
    /// # Errors
    /// [`VerifyError`], when there are more than four or the leaf is no X.509-SVID.
    pub fn read(
        leaf: &'a CertificateDer<'a>,
        rest: &'a [CertificateDer<'a>],
    ) -> Result<Self, VerifyError> {
        if rest.len() >= MAX_CHAIN {
            return Err(VerifyError::ChainTooLong(rest.len() + 1));
        }
        let facts = certificate::inspect(leaf)?;
        Ok(Self { leaf, rest, facts })
    }

    /// Who it claims to be. The roots to verify it by are those of this ID's trust domain.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.facts.id
    }

    /// The certificates after the leaf.
    #[must_use]
    pub fn rest(&self) -> &[CertificateDer<'a>] {
        self.rest
    }

    /// Judges it by `roots`, in DER, which are those of the trust domain of [`Self::id`] and of no
    /// other.
    ///
    /// # Errors
    /// [`VerifyError`]; when none of several roots will do, what was wrong with the last that had
    /// anything to do with it.
    pub fn verify(
        self,
        roots: &[Vec<u8>],
        usage: Usage,
        now: UnixMillis,
    ) -> Result<Verified, VerifyError> {
        let Leaf {
            ref id,
            not_before,
            expires_at,
            ..
        } = self.facts;
        if roots.is_empty() {
            return Err(VerifyError::NoRoots(id.trust_domain().clone()));
        }
        if now < not_before {
            let (id, at) = (id.clone(), not_before);
            return Err(VerifyError::NotYetValid { id, at, now });
        }
        if now >= expires_at {
            let (id, at) = (id.clone(), expires_at);
            return Err(VerifyError::Expired { id, at, now });
        }
        let root = self.path(roots, usage, now)?;
        Ok(Verified {
            id: self.facts.id,
            root,
            expires_at,
        })
    }

    /// RFC 5280 path validation from the leaf to one of `roots`, which is returned.
    fn path(&self, roots: &[Vec<u8>], usage: Usage, now: UnixMillis) -> Result<Pin, VerifyError> {
        let id = &self.facts.id;
        let chain = |e: webpki::Error| VerifyError::Chain {
            id: id.clone(),
            problem: e.to_string(),
        };
        let end_entity = EndEntityCert::try_from(self.leaf).map_err(chain)?;
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
                ALL_VERIFICATION_ALGS,
                &anchors,
                self.rest,
                UnixTime::since_unix_epoch(Duration::from_millis(now.0)),
                usage,
                None,
                None,
            );
            match verified {
                Ok(_) => return Ok(Pin::of(der)),
                Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => {
                }
                Err(e) => refused = chain(e),
            }
        }
        Err(refused)
    }
}

/// Path validation looks only at the key and name of a root; the rest is checked here.
fn usable_root(der: &[u8], trust_domain: &TrustDomain, now: UnixMillis) -> Result<(), VerifyError> {
    let root = certificate::inspect_root(der, trust_domain)?;
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

#[cfg(test)]
mod tests;
