//! A pod as its source describes it, before anything is signed.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Assurance, Claims, Labels, NamedPort, SpiffeError, SpiffeId, TrustDomain, UnixMillis};

/// A pod of the own cluster. The issuer turns it into claims; the agent finds its address here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's UID; a re-created pod of the same name has another.
    pub uid: String,
    /// The pod's service account.
    pub service_account: String,
    /// The pod's labels.
    pub labels: Labels,
    /// Its namespace's labels.
    pub namespace_labels: Labels,
    /// The zone of its node.
    pub zone: Option<String>,
    /// Its named container ports, sorted.
    pub named_ports: Vec<NamedPort>,
    /// The node it runs on.
    pub node: String,
    /// Its address, once it has one.
    pub address: Option<IpAddr>,
    /// The interface of the node that must lead to it, where that is declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Its namespace is explicitly `unprotected`: no identity is asked for or given.
    pub unprotected: bool,
}

impl Workload {
    /// What a credential of `trust_domain` says of it when all labels are carried, without what makes
    /// it a proof: id, agent key, generation and the time of issue are zero, and it never expires.
    ///
    /// # Errors
    /// When namespace and service account make no SPIFFE ID.
    pub fn claims(&self, trust_domain: &TrustDomain) -> Result<Claims, SpiffeError> {
        let mut named_ports = self.named_ports.clone();
        named_ports.sort();
        named_ports.dedup();
        Ok(Claims {
            subject: SpiffeId::workload(trust_domain, &self.namespace, &self.service_account)?,
            issued_at: UnixMillis(0),
            expires_at: UnixMillis(u64::MAX),
            id: [0; 16],
            agent_key: [0; 32],
            pod: self.pod.clone(),
            pod_uid: self.uid.clone(),
            labels: self.labels.clone(),
            namespace_labels: self.namespace_labels.clone(),
            zone: self.zone.clone(),
            named_ports,
            assurance: Assurance::Agent,
            generation: 0,
        })
    }
}
