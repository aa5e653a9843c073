//! Bundles as other implementations publish them (SPIRE, Istio, go-spiffe): SPIFFE Trust Domain and
//! Bundle, section 4, without what we add to it. docs/spec/bundle.md, section 5.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    BundleChange, BundleError, BundleParseError, TrustBundle, TrustDomain, UnixMillis, jwks,
};

/// What a bundle endpoint said: a bundle whose number or end may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedBundle {
    /// Without a number: 0. Without an end: 0.
    said: TrustBundle,
    numbered: bool,
    ends: bool,
}

/// The newest bundle that was taken from an endpoint: what has to survive a restart, and the domain's
/// leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedMark {
    /// Its number.
    pub sequence: u64,
    /// Whether the number is ours, because the bundle had none.
    pub counted_here: bool,
    /// [`TrustBundle::hash`] of what was said, with that number.
    pub hash: [u8; 32],
}

/// A bundle that may be put in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// It, with a number and an end.
    pub bundle: TrustBundle,
    /// To be stored before the bundle is acted on.
    pub mark: FetchedMark,
    /// Whether it says anything new, but for its end.
    pub change: BundleChange,
}

/// Why a bundle is not put in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// By its number.
    #[error(transparent)]
    Numbered(BundleError),
    /// A domain that gave its bundles numbers gives one without: taking it would let an old one in.
    #[error(
        "the bundle of {domain} has no spiffe_sequence, and one with the sequence {held} was seen before"
    )]
    Unnumbered {
        /// Whose.
        domain: TrustDomain,
        /// The newest that was seen.
        held: u64,
    },
}

impl FetchedBundle {
    /// Reads a JWK set of any implementation as the bundle of `trust_domain`: all of it or nothing.
    /// It may leave out `spiffe_sequence` and everything that is ours, and an element of `keys`
    /// without a certificate is ignored (X.509-SVID, section 6.2).
    ///
    /// # Errors
    /// [`BundleParseError`] says what is wrong.
    pub fn from_jwks(trust_domain: TrustDomain, json: &str) -> Result<Self, BundleParseError> {
        let read = jwks::read_fetched(trust_domain, json)?;
        Ok(Self {
            said: read.bundle,
            numbered: read.numbered,
            ends: read.ends,
        })
    }

    /// Whose bundle it is.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.said.trust_domain
    }

    /// X.509 roots in DER.
    #[must_use]
    pub fn x509_roots(&self) -> &[Vec<u8>] {
        &self.said.x509_roots
    }

    /// `spiffe_sequence`, when there is one.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.numbered.then_some(self.said.sequence)
    }

    /// When to ask for it again: the hint, within 5 s and a day.
    #[must_use]
    pub fn refresh_after(&self) -> Duration {
        self.said.refresh_after()
    }

    /// Judges it by the one that was taken before. A bundle with a number keeps the rules of
    /// [`crate::BundleStore`]. One without is always the newest (SPIFFE Federation, section 4.2), and
    /// gets the next number when it says anything new; but a domain that once gave numbers gives them
    /// for ever. `believed_until` is the end of a bundle that names none.
    ///
    /// # Errors
    /// [`AcceptError`]; the one in force then stays.
    pub fn accept(
        self,
        held: Option<&FetchedMark>,
        believed_until: UnixMillis,
    ) -> Result<Accepted, AcceptError> {
        let mut bundle = self.said;
        let domain = || bundle.trust_domain.clone();
        let mut change = BundleChange::Taken;
        match held {
            Some(held) if self.numbered && !held.counted_here => {
                let offered = bundle.sequence;
                if offered < held.sequence {
                    return Err(AcceptError::Numbered(BundleError::Older {
                        domain: domain(),
                        offered,
                        held: held.sequence,
                    }));
                }
                if offered == held.sequence {
                    if bundle.hash() != held.hash {
                        return Err(AcceptError::Numbered(BundleError::Equivocation {
                            domain: domain(),
                            sequence: offered,
                        }));
                    }
                    change = BundleChange::Unchanged;
                }
            }
            // It begins to count: whatever we counted meanwhile says nothing of its numbers.
            _ if self.numbered => {}
            Some(held) if !held.counted_here => {
                return Err(AcceptError::Unnumbered {
                    domain: domain(),
                    held: held.sequence,
                });
            }
            Some(held) => {
                bundle.sequence = held.sequence;
                if bundle.hash() == held.hash {
                    change = BundleChange::Unchanged;
                } else {
                    bundle.sequence = held.sequence.saturating_add(1);
                }
            }
            None => bundle.sequence = 1,
        }
        let mark = FetchedMark {
            sequence: bundle.sequence,
            counted_here: !self.numbered,
            hash: bundle.hash(),
        };
        if !self.ends {
            // In whole seconds, as a bundle is written.
            bundle.expires_at = UnixMillis::from_secs(believed_until.as_secs());
        }
        Ok(Accepted {
            bundle,
            mark,
            change,
        })
    }
}
