//! A folder of manifests as a source: `DIR/federation.yaml` and `DIR/<cluster>/*.yaml`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::watch;

use crate::{Problem, World};

/// Watches a folder.
#[derive(Debug)]
pub struct FolderSource;

/// Why nothing could be loaded. Only the Federation itself is needed to begin; whatever else is
/// wrong is a [`Problem`] of a [`World`].
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The folder or its federation.yaml cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// What cannot be read.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The Federation was refused.
    #[error("{}", lines(.0))]
    Refused(Vec<Problem>),
    /// The Federation has no cluster of that name.
    #[error("federation {federation} has no cluster {cluster:?}; it has {}", known.join(", "))]
    NoSuchCluster {
        /// The Federation's name.
        federation: String,
        /// The cluster that was asked for.
        cluster: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The folder cannot be watched.
    #[error("cannot watch {}: {error}", path.display())]
    Unwatchable {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: String,
    },
}

impl FolderSource {
    /// Loads the world of `cluster` from `dir` and keeps it up to date until every receiver is
    /// gone. Needs no async runtime; a thread of its own watches.
    ///
    /// # Errors
    /// When there is no usable Federation to begin with, or the folder cannot be watched.
    pub fn open(dir: &Path, cluster: &str) -> Result<watch::Receiver<Arc<World>>, LoadError> {
        let _ = (dir, cluster);
        Err(LoadError::Refused(Vec::new()))
    }
}

/// Loads the worlds of all clusters, in the order of the Federation.
///
/// # Errors
/// When there is no usable Federation.
pub fn load_once(dir: &Path) -> Result<Vec<World>, LoadError> {
    let _ = dir;
    Err(LoadError::Refused(Vec::new()))
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
