//! By what the server of a bundle is believed: SPIFFE Federation, section 5.2. Exactly one is
//! configured and no other is ever tried (section 7.2).

use std::{fmt, path::PathBuf, sync::Arc};

use identity::SpiffeId;
use tokio::sync::watch;

/// An endpoint profile with its parameters.
#[derive(Clone)]
pub enum Profile {
    /// `https_spiffe`: the server has the X.509-SVID of exactly this ID. The name of the host says
    /// nothing.
    Spiffe {
        /// Who serves the bundle.
        endpoint: SpiffeId,
        /// The X.509 roots, in DER, of the trust domain of `endpoint`. The caller replaces them with
        /// every bundle of that domain that it takes: the latest must be used (section 5.2.2.4).
        roots: watch::Receiver<Arc<Vec<Vec<u8>>>>,
    },
    /// `https_web`: the server has a certificate of the Web PKI for the host.
    Web {
        /// By which authorities.
        roots: WebRoots,
    },
}

/// The authorities of the Web PKI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebRoots {
    /// Those of the operating system, read anew for each fetch.
    System,
    /// Those in this PEM file and no others, read anew for each fetch.
    File(PathBuf),
    /// Those in this PEM text and no others.
    Pem(Arc<str>),
}

impl Profile {
    /// As the standard and the configuration call it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Spiffe { .. } => "https_spiffe",
            Self::Web { .. } => "https_web",
        }
    }
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spiffe { endpoint, .. } => write!(f, "https_spiffe({endpoint})"),
            Self::Web { roots } => write!(f, "https_web({roots:?})"),
        }
    }
}
