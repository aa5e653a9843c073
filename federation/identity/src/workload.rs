//! A pod as its source describes it, before anything is signed.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Labels, NamedPort};

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
    /// Its namespace is explicitly `unprotected`: no identity is asked for or given.
    pub unprotected: bool,
}
