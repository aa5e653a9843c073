//! What a credential says of a workload. Policy decides on these and on nothing else.

use serde::{Deserialize, Serialize};

use crate::{Labels, SpiffeId, TrustDomain, UnixMillis};

/// How an identity was vouched for.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Assurance {
    /// The pod's gateway attested it by its address, because no agent serves the pod.
    Gateway,
    /// The node agent beside the pod proved possession of the key in the credential.
    #[default]
    Agent,
}

/// A named container port that a policy can refer to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamedPort {
    /// The IANA service name, at most 15 bytes.
    pub name: String,
    /// The IP protocol number.
    pub protocol: u8,
    /// The port number.
    pub port: u16,
}

/// The content of a workload credential. Invariant: the path of `subject` is
/// `/ns/<namespace>/sa/<service account>`, so both names can be read from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `iss` and `sub`: the trust domain of `subject` is the issuer.
    pub subject: SpiffeId,
    /// `iat`.
    pub issued_at: UnixMillis,
    /// `exp`.
    pub expires_at: UnixMillis,
    /// `cti`: names this credential in audit logs and revocations.
    pub id: [u8; 16],
    /// `cnf` (RFC 8747): the X25519 public key of the node agent that speaks for the pod.
    pub agent_key: [u8; 32],
    /// The pod's name.
    pub pod: String,
    /// The pod's UID, as its source gives it; at most 36 bytes.
    pub pod_uid: String,
    /// The pod's labels that are carried.
    pub labels: Labels,
    /// The namespace's labels that are carried.
    pub namespace_labels: Labels,
    /// The topology zone of the pod's node.
    pub zone: Option<String>,
    /// The pod's named ports, sorted.
    pub named_ports: Vec<NamedPort>,
    /// How the identity was vouched for.
    pub assurance: Assurance,
    /// Rises whenever a carried label of this pod changes.
    pub generation: u64,
}

impl Claims {
    /// The cluster that issued the credential.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        self.subject.trust_domain()
    }

    /// The pod's namespace, empty only if the invariant of `subject` was broken.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.subject
            .namespace_and_account()
            .map_or("", |(namespace, _)| namespace)
    }

    /// The pod's service account, empty only if the invariant of `subject` was broken.
    #[must_use]
    pub fn service_account(&self) -> &str {
        self.subject
            .namespace_and_account()
            .map_or("", |(_, account)| account)
    }

    /// `cluster/namespace/pod`, as people name a workload.
    #[must_use]
    pub fn display_name(&self) -> String {
        format!("{}/{}/{}", self.trust_domain(), self.namespace(), self.pod)
    }
}
