//! Which source there is, as files of gateways and agents say it.

use std::{borrow::Cow, path::PathBuf, sync::Arc};

use serde::Deserialize;
use tokio::sync::watch;

use crate::{
    ClusterConfig, ConnectError, FolderSource, Joined, KubernetesSource, LoadError, Viewer, World,
    load_once,
};

/// Where pods and policies come from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SourceSpec")]
pub enum Source {
    /// A folder with `federation.yaml` and one folder per cluster.
    Folder(PathBuf),
    /// An API server.
    Kubernetes(KubernetesSource),
}

#[derive(Deserialize)]
struct SourceSpec {
    folder: Option<PathBuf>,
    kubernetes: Option<KubernetesSource>,
}

impl TryFrom<SourceSpec> for Source {
    type Error = &'static str;

    fn try_from(spec: SourceSpec) -> Result<Self, &'static str> {
        match (spec.folder, spec.kubernetes) {
            (Some(folder), None) => Ok(Self::Folder(folder)),
            (None, Some(kubernetes)) => Ok(Self::Kubernetes(kubernetes)),
            _ => Err("one of folder and kubernetes is expected"),
        }
    }
}

/// Why a source gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] LoadError),
    /// The API server.
    #[error(transparent)]
    Kubernetes(#[from] ConnectError),
    /// The Federation is of others.
    #[error("the federation has no cluster {0:?}")]
    NoSuchCluster(String),
}

impl Source {
    /// The world of `cluster` as `viewer` needs it, kept up to date until every receiver is gone. `joined` are
    /// known beside the clusters of its Federation, until it is told of others. An API server that does not
    /// answer is waited for.
    ///
    /// # Errors
    /// When there is nothing to begin with.
    pub async fn open(
        &self,
        cluster: &str,
        viewer: &Viewer,
        joined: Vec<ClusterConfig>,
    ) -> Result<(watch::Receiver<Arc<World>>, Joined), SourceError> {
        Ok(match self {
            Self::Folder(folder) => FolderSource::open_with(folder, cluster, joined)?,
            Self::Kubernetes(server) => server.open(cluster, viewer, joined).await?,
        })
    }

    /// What it says of `cluster` at this moment; an API server, of nothing but its members.
    ///
    /// # Errors
    /// When there is nothing.
    pub async fn look(&self, cluster: &str) -> Result<World, SourceError> {
        match self {
            Self::Folder(folder) => {
                let worlds = load_once(folder)?;
                let ours = |world: &World| world.cluster.name == cluster;
                let none = || SourceError::NoSuchCluster(cluster.to_owned());
                worlds.into_iter().find(ours).ok_or_else(none)
            }
            Self::Kubernetes(server) => Ok(server.members(cluster).await?),
        }
    }

    /// All worlds that it has at this moment, for questions: a folder has those of every cluster, an API server
    /// the one of its own, which is `own`.
    ///
    /// # Errors
    /// When the folder has none.
    pub fn worlds<'a>(&self, own: &'a World) -> Result<Cow<'a, [World]>, LoadError> {
        match self {
            Self::Folder(folder) => Ok(load_once(folder)?.into()),
            Self::Kubernetes(_) => Ok(std::slice::from_ref(own).into()),
        }
    }
}
