//! How to reach the API server.

use std::{path::Path, time::Duration};

use kube::{
    Client, Config,
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};

/// A server that does not take a connection within this does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Nothing says how to reach the API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig")]
    Kubeconfig(#[from] KubeconfigError),
    /// There is no service account.
    #[error("this process runs in no pod, and no kubeconfig is named")]
    NoPod(#[from] InClusterError),
    /// What is configured cannot be used.
    #[error("what is configured for the API server")]
    Client(#[from] kube::Error),
}

/// By a `kubeconfig`, or by the service account of this process's pod.
pub(crate) async fn config(kubeconfig: Option<&Path>) -> Result<Config, ConnectError> {
    Ok(match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
        None => Config::incluster()?,
    })
}

pub(super) async fn client(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    let mut config = config(kubeconfig).await?;
    config.connect_timeout = Some(PATIENCE);
    Ok(Client::try_from(config)?)
}
