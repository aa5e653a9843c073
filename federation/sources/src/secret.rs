//! One Secret of a Kubernetes API server, as the files in it.

use std::{collections::BTreeMap, fmt, path::Path, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::time::timeout;
use zeroize::{Zeroize, Zeroizing};

use crate::{ConnectError, kubernetes};

/// How long one answer of the API server may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who made a Secret, for people and for other tools.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "landbridge");

/// Bytes by the name of their file.
pub type SecretFiles = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// Where a Secret is. Good within the runtime that made it.
pub struct SecretStore {
    secrets: Api<Secret>,
    namespace: String,
    name: String,
}

/// A Secret as it was read: who writes over it says so by this, and fails if somebody else has meanwhile.
pub struct HeldSecret {
    /// What is in it.
    pub files: SecretFiles,
    metadata: ObjectMeta,
    kind: Option<String>,
}

impl HeldSecret {
    /// The annotation of that name.
    #[must_use]
    pub fn annotation(&self, name: &str) -> Option<&str> {
        let all = self.metadata.annotations.as_ref()?;
        all.get(name).map(String::as_str)
    }
}

/// Why a Secret was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// RBAC does not allow it.
    #[error("{message}. The service account needs the verbs get, create and update on secrets")]
    Forbidden {
        /// What the API server said, with the verb and the resource.
        message: String,
    },
    /// The API server does not answer.
    #[error("cannot {verb} it: no answer of the API server within {} s", PATIENCE.as_secs())]
    Late {
        /// What was asked.
        verb: &'static str,
    },
    /// Anything else.
    #[error("cannot {verb} it")]
    Failed {
        /// What was asked.
        verb: &'static str,
        /// What came of it.
        #[source]
        cause: kube::Error,
    },
}

impl SecretStore {
    /// The Secret `name`; without a `kubeconfig` by the service account of this process's pod, without a
    /// `namespace` in that of whoever asks. Nothing is asked yet. To be called within a runtime.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn new(
        kubeconfig: Option<&Path>,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Self, ConnectError> {
        let mut config = kubernetes::config(kubeconfig).await?;
        config.connect_timeout = Some(PATIENCE);
        config.read_timeout = Some(PATIENCE);
        config.write_timeout = Some(PATIENCE);
        let namespace = namespace.unwrap_or(&config.default_namespace).to_owned();
        let client = Client::try_from(config)?;
        Ok(Self {
            secrets: Api::namespaced(client, &namespace),
            namespace,
            name: name.to_owned(),
        })
    }

    /// What is in it; `None` when there is none.
    ///
    /// # Errors
    /// [`SecretError`].
    pub async fn get(&self) -> Result<Option<HeldSecret>, SecretError> {
        let asked = self.secrets.get_opt(&self.name);
        let secret = answered("get", asked).await?;
        Ok(secret.map(|secret| {
            let files = secret.data.into_iter().flatten();
            let files = files.map(|(name, bytes)| (name, Zeroizing::new(bytes.0)));
            HeldSecret {
                files: files.collect(),
                metadata: secret.metadata,
                kind: secret.type_,
            }
        }))
    }

    /// Makes it, with one annotation.
    ///
    /// # Errors
    /// [`SecretError`]; also when there is one meanwhile.
    pub async fn create(
        &self,
        files: &SecretFiles,
        (annotation, value): (&str, &str),
    ) -> Result<(), SecretError> {
        let one = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                annotations: Some(one(annotation, value)),
                labels: Some(one(MANAGED_BY.0, MANAGED_BY.1)),
                ..ObjectMeta::default()
            },
            data: Some(data(files)),
            ..Secret::default()
        };
        let parameters = PostParams::default();
        let made = answered("create", self.secrets.create(&parameters, &secret)).await;
        overwrite(secret);
        made.map(overwrite)
    }

    /// Puts `files` in the place of all that is in it.
    ///
    /// # Errors
    /// [`SecretError`]; also when it is not as `held` any more.
    pub async fn replace(&self, held: HeldSecret, files: &SecretFiles) -> Result<(), SecretError> {
        let secret = Secret {
            metadata: held.metadata,
            type_: held.kind,
            data: Some(data(files)),
            ..Secret::default()
        };
        let parameters = PostParams::default();
        let asked = self.secrets.replace(&self.name, &parameters, &secret);
        let made = answered("update", asked).await;
        overwrite(secret);
        made.map(overwrite)
    }
}

impl fmt::Display for SecretStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {}/{}", self.namespace, self.name)
    }
}

async fn answered<T>(
    verb: &'static str,
    asked: impl Future<Output = kube::Result<T>>,
) -> Result<T, SecretError> {
    match timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            let message = status.message.clone();
            Err(SecretError::Forbidden { message })
        }
        Ok(Err(cause)) => Err(SecretError::Failed { verb, cause }),
        Err(_) => Err(SecretError::Late { verb }),
    }
}

fn data(files: &SecretFiles) -> BTreeMap<String, ByteString> {
    let files = files.iter();
    let files = files.map(|(name, bytes)| (name.clone(), ByteString(bytes.to_vec())));
    files.collect()
}

/// No secret stays in memory that is not used any more.
fn overwrite(secret: Secret) {
    let files = secret.data.into_iter().flatten();
    files.for_each(|(_, mut bytes)| bytes.0.zeroize());
}
