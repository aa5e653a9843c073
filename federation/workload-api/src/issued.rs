//! What of a Workload API's answer is taken, and why the rest is not. No socket, no clock.

use std::{fmt, sync::Arc, time::Duration};

use identity::{MAX_KEYS, SpiffeId, UnixMillis};
use rustls_pki_types::CertificateDer;
use svid::{Chain, Pin, Usage, VerifyError};
use zeroize::Zeroizing;

/// Most certificates of a chain: peers read a leaf, two intermediates and the root that is put behind them.
const MAX_SENT: usize = 3;
/// Of the IDs that were offered instead, so many are named.
const MAX_NAMED: usize = 5;

/// Who this process must be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its ID.
    pub id: SpiffeId,
    /// What it is, in words: "this gateway".
    pub what: &'static str,
}

/// One answer of a Workload API.
#[derive(Debug, Default)]
pub struct Offer {
    /// The X.509-SVIDs of this process.
    pub svids: Vec<Offered>,
    /// The roots of the own trust domain, in DER.
    pub roots: Vec<Vec<u8>>,
}

/// One X.509-SVID of an answer.
pub struct Offered {
    /// The ID that it is of, as it was written.
    pub id: String,
    /// The certificates in DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// The private key in PKCS#8.
    pub key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Offered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Offered({})", self.id)
    }
}

/// An X.509-SVID that a root of its own trust domain proves.
#[derive(Clone)]
pub struct Issued {
    /// Who it names: the ID that was wanted.
    pub id: SpiffeId,
    /// The certificates in DER: the leaf, those between, and the root, by whose fingerprint whoever has no
    /// bundle yet believes the leaf.
    pub chain: Vec<Vec<u8>>,
    /// The private key in PKCS#8.
    pub key: Arc<Zeroizing<Vec<u8>>>,
    /// The fingerprint of the root that the chain leads to.
    pub root: Pin,
    /// All roots of the own trust domain, in DER, sorted.
    pub roots: Vec<Vec<u8>>,
    /// The begin of its validity.
    pub not_before: UnixMillis,
    /// The end of its validity.
    pub expires_at: UnixMillis,
}

impl Issued {
    /// When three quarters of its life are over: by then the next one is long due.
    pub(crate) fn overdue(&self) -> UnixMillis {
        let life = Duration::from_millis(self.expires_at.0.saturating_sub(self.not_before.0));
        self.not_before.after(life * 3 / 4)
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issued({} until {})", self.id, self.expires_at)
    }
}

/// Why an answer is not taken. The sentences are for the operator of this process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has none for this process at all.
    #[error(
        "it has no X.509-SVID for this process: make a registration entry for {id}, which is what \
         {what} must be, with selectors of this process (docs/spire.md)"
    )]
    Nothing {
        /// Who this process must be.
        id: SpiffeId,
        /// What it is.
        what: &'static str,
    },
    /// It has others.
    #[error(
        "it has no X.509-SVID {id}, which {what} must be, but {others}: make a registration entry \
         for {id} with selectors of this process (docs/spire.md)"
    )]
    Other {
        /// Who this process must be.
        id: SpiffeId,
        /// What it is.
        what: &'static str,
        /// Whom it is said to be.
        others: String,
    },
    /// The trust domain would be invalid.
    #[error("it has no root of the trust domain of {0}")]
    NoRoots(SpiffeId),
    /// No bundle has room for them.
    #[error("it has {0} roots of its trust domain, and a bundle has room for {MAX_KEYS}")]
    TooManyRoots(usize),
    /// Peers would not read the chain.
    #[error(
        "its X.509-SVID has {0} certificates, and peers read {MAX_SENT} and the root: use fewer \
         authorities between that root and the issuer"
    )]
    TooLong(usize),
    /// Peers would not believe the chain.
    #[error("its X.509-SVID does not hold: {0}")]
    Unproven(VerifyError),
}

impl Offer {
    /// What of it is for `wanted`, as peers will judge it at `now`.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn take(mut self, wanted: &Wanted, now: UnixMillis) -> Result<Issued, Refusal> {
        let id = &wanted.id;
        let text = id.to_string();
        let Some(at) = self.svids.iter().position(|svid| svid.id == text) else {
            return Err(self.refuse(wanted));
        };
        let Offered { chain, key, .. } = self.svids.swap_remove(at);
        let mut roots = self.roots;
        roots.sort();
        roots.dedup();
        match roots.len() {
            0 => return Err(Refusal::NoRoots(id.clone())),
            1..=MAX_KEYS => {}
            many => return Err(Refusal::TooManyRoots(many)),
        }
        let certificates: Vec<_> = chain.iter().map(|der| der.as_slice().into()).collect();
        let mut certificates: Vec<CertificateDer<'_>> = certificates;
        // A root that it sends as well is put behind the others below.
        certificates.retain(|der| !roots.iter().any(|root| root.as_slice() == der.as_ref()));
        let Some((leaf, rest)) = certificates.split_first() else {
            return Err(Refusal::Unproven(VerifyError::NoCertificate));
        };
        if certificates.len() > MAX_SENT {
            return Err(Refusal::TooLong(certificates.len()));
        }
        let mut proven = None;
        // It is shown by both ends of TLS.
        for usage in [Usage::Client, Usage::Server] {
            let read = Chain::read(leaf, rest).map_err(Refusal::Unproven)?;
            if read.id() != id {
                let (expected, found) = (id.clone(), read.id().clone());
                return Err(Refusal::Unproven(VerifyError::OtherId { expected, found }));
            }
            let verified = read.verify(&roots, usage, now);
            proven = Some(verified.map_err(Refusal::Unproven)?);
        }
        let facts = svid::inspect(leaf).map_err(Refusal::Unproven)?;
        let root = proven.map(|verified| verified.root);
        let root = root.ok_or_else(|| Refusal::NoRoots(id.clone()))?;
        let shown = certificates.iter().map(|der| der.to_vec());
        let behind = roots.iter().find(|der| Pin::of(der) == root).cloned();
        Ok(Issued {
            id: id.clone(),
            chain: shown.chain(behind).collect(),
            key: Arc::new(key),
            root,
            not_before: facts.not_before,
            expires_at: facts.expires_at,
            roots,
        })
    }

    fn refuse(&self, wanted: &Wanted) -> Refusal {
        let (id, what) = (wanted.id.clone(), wanted.what);
        if self.svids.is_empty() {
            return Refusal::Nothing { id, what };
        }
        let named = self.svids.iter().take(MAX_NAMED);
        let named: Vec<_> = named.map(|svid| svid.id.as_str()).collect();
        let more = match self.svids.len().saturating_sub(MAX_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let others = format!("{}{more}", named.join(", "));
        Refusal::Other { id, what, others }
    }
}

#[cfg(test)]
mod tests;
