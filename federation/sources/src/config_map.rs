//! One ConfigMap, in which a cluster says something to its own.

use std::{fmt, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::timeout;

use crate::{ConnectError, KubernetesSource, kubernetes};

/// How long an answer of the API server may take.
const PATIENCE: Duration = Duration::from_secs(10);
const MANAGER: &str = "landbridge";

/// A ConfigMap in the namespace of this process's pod.
pub struct ConfigMapWriter {
    maps: Api<ConfigMap>,
    name: String,
}

/// Why it was not written.
#[derive(Debug, thiserror::Error)]
pub enum ConfigMapError {
    /// RBAC does not allow it.
    #[error("{0}. The service account needs the verbs create and patch on configmaps")]
    Forbidden(String),
    /// The API server does not answer.
    #[error("no answer of the API server within {} s", PATIENCE.as_secs())]
    Late,
    /// Anything else.
    #[error("cannot write it")]
    Failed(#[source] kube::Error),
}

impl ConfigMapWriter {
    /// The one called `name`. Nothing is asked yet. To be called within a runtime.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn new(source: &KubernetesSource, name: &str) -> Result<Self, ConnectError> {
        let config = kubernetes::config(source.kubeconfig.as_deref()).await?;
        Ok(Self {
            maps: Api::default_namespaced(Client::try_from(config)?),
            name: name.to_owned(),
        })
    }

    /// Has it say `value` under `key`, beside what others have it say.
    ///
    /// # Errors
    /// [`ConfigMapError`].
    pub async fn set(&self, key: &str, value: &str) -> Result<(), ConfigMapError> {
        let map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self.name},
            "data": {key: value},
        });
        let parameters = PatchParams::apply(MANAGER).force();
        let map = Patch::Apply(&map);
        let asked = self.maps.patch(&self.name, &parameters, &map);
        match timeout(PATIENCE, asked).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                Err(ConfigMapError::Forbidden(status.message.clone()))
            }
            Ok(Err(error)) => Err(ConfigMapError::Failed(error)),
            Err(_) => Err(ConfigMapError::Late),
        }
    }
}

impl fmt::Debug for ConfigMapWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigMapWriter({})", self.name)
    }
}
