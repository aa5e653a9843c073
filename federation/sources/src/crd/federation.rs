//! Federation: which clusters there are.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::ObjectStatus;

/// The clusters of a federation and the addresses of their pods. Every member holds the same one.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "landbridge.io",
    version = "v1alpha1",
    kind = "Federation",
    status = "ObjectStatus",
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].reason"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    derive = "PartialEq",
    doc = "The clusters of a federation and the addresses of their pods."
)]
#[serde(rename_all = "camelCase")]
pub struct FederationSpec {
    /// The clusters; at least one. Their order gives the default pod ranges.
    #[schemars(length(min = 1, max = 1000))]
    pub clusters: Vec<ClusterSpec>,
}

/// One cluster of a federation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSpec {
    /// A DNS label, unique in the federation.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The SPIFFE trust domain, unique in the federation. By default the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub trust_domain: Option<String>,
    /// Where the addresses of its pods lie. By default 10.N.0.0/16 with id 1 for the N-th cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pod_ranges: Vec<PodRangeSpec>,
    /// The names of its nodes, in the order in which they get subnets of the pod range. By default
    /// those that its pods name, sorted, or else `node1`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Its gateways.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<GatewaySpec>,
}

/// A range of pod addresses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodRangeSpec {
    /// The cluster's own number for the range. Handshakes are bound to it, so a number must never
    /// be used again for another range.
    pub id: u16,
    /// The prefix, such as `10.1.0.0/16`, without host bits.
    pub cidr: String,
    /// Where all other clusters see the range, of the same family and length, such as `100.64.0.0/16`.
    /// Needed when it overlaps a range of another cluster: their gateways translate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map_to: Option<String>,
}

/// A gateway of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// A DNS label, unique in the cluster.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Address and port where it listens for QUIC sessions of other gateways, such as
    /// `192.0.2.1:4433`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}
