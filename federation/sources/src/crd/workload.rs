//! Workload: what is no pod and has an identity all the same.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::ObjectStatus;

/// A virtual machine, or anything else behind an interface of a node that an agent serves. Its metadata.labels are
/// those that policies see, and its namespace's labels count as a pod's.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "landbridge.io",
    version = "v1alpha1",
    kind = "Workload",
    namespaced,
    status = "ObjectStatus",
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].reason"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    derive = "PartialEq",
    doc = "A virtual machine, or anything else behind an interface of a node, that has an identity."
)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSpec {
    /// The node that it is behind: the agent there proves its identity.
    pub node: String,
    /// Its address, in one of the cluster's ranges; the node routes it to the interface.
    pub address: String,
    /// The interface of the node that leads to it. By default the one that the node routes the address to; another
    /// than this one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub interface: Option<String>,
    /// Its service account, the last part of its SPIFFE ID. By default `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// Ports that policies may name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub ports: Vec<WorkloadPort>,
}

/// A port with a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkloadPort {
    /// What policies call it.
    pub name: String,
    /// The port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// TCP, UDP or SCTP. By default TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}
