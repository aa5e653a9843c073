//! X.509 roots as they are made, here or elsewhere.

use std::sync::Arc;

use identity::UnixMillis;
use quic::{ClusterRoot, Passphrase, Pin};

use super::files::Files;
use crate::signer::SignerCommand;

/// What protects private keys.
#[derive(Clone, Debug, Default)]
pub struct Protection {
    /// Encrypts those on disk.
    pub passphrase: Option<Passphrase>,
    /// Keeps those of roots that are not on disk.
    pub signer: Option<SignerCommand>,
    /// The key of the next root is on disk, also where there is a signer.
    pub on_disk: bool,
    /// X.509-SVIDs are somebody else's: no root is made here, and those that are here wait.
    pub no_roots: bool,
}

/// The X.509 roots of somebody else who issues the SVIDs of this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRoots {
    /// All of them, in DER, sorted.
    pub roots: Vec<Vec<u8>>,
    /// The one by which this gateway is met.
    pub shown: Pin,
}

/// Makes the root after the last one.
#[derive(Clone)]
pub struct RootMaker {
    files: Files,
    number: u32,
}

impl RootMaker {
    pub(super) fn new(files: Files, number: u32) -> Self {
        Self { files, number }
    }

    /// Makes it, and stores it; nobody hears of it before [`super::KeyStore::publish_root`]. Waits for the signer, if
    /// there is one.
    ///
    /// # Errors
    /// When the disk or the signer does not do it.
    pub fn make(self, now: UnixMillis) -> anyhow::Result<MadeRoot> {
        let Self { files, number } = self;
        let root = Arc::new(files.make_root(number, now)?);
        Ok(MadeRoot { number, root })
    }
}

/// A root that is stored and not announced.
#[derive(Debug)]
pub struct MadeRoot {
    pub(super) number: u32,
    pub(super) root: Arc<ClusterRoot>,
}
