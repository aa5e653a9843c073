//! Which roots speak for which trust domain. `svid` judges a chain against them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use identity::{SpiffeId, TrustDomain, UnixMillis};
use rustls_pki_types::CertificateDer;
use svid::{Chain, Pin, Usage, Verified, VerifyError};

/// By what a trust domain is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// The roots of its bundle, in DER.
    Roots(Vec<Vec<u8>>),
    /// No bundle is stored yet: the root that the peer sends must have this fingerprint.
    Pinned(Pin),
    /// The same, of one that was introduced: one of these, while its root is exchanged.
    OneOf(Vec<Pin>),
}

/// Trust domain -> anchor, shared by an endpoint and its owner, who changes it while it is in use.
#[derive(Clone)]
pub struct Trust {
    own: TrustDomain,
    anchors: Arc<RwLock<BTreeMap<TrustDomain, Anchor>>>,
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
        let chain = Chain::read(leaf, rest)?;
        let roots = match self.anchor(chain.id())? {
            Anchor::Roots(roots) => roots,
            Anchor::Pinned(pin) => vec![pinned(&chain, &[pin])?],
            Anchor::OneOf(pins) => vec![pinned(&chain, &pins)?],
        };
        chain.verify(&roots, usage, now)
    }
}

/// The root that was sent, if it is one of those pinned.
fn pinned(chain: &Chain<'_>, pins: &[Pin]) -> Result<Vec<u8>, VerifyError> {
    let mut sent = chain.rest().iter();
    if let Some(root) = sent.find(|sent| pins.contains(&Pin::of(sent))) {
        return Ok(root.to_vec());
    }
    let id = chain.id().clone();
    Err(match pins.first() {
        Some(pin) => VerifyError::PinMismatch { id, pin: *pin },
        None => VerifyError::UnknownDomain(id),
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
