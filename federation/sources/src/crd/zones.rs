//! Zones: named groups of workloads, and what may pass between them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::ObjectStatus;
use super::{PolicyPort, RuleAction, schema};

/// Named groups of workloads in all clusters, and a matrix of what may pass between them. It is asked before every
/// other policy of its order in tier Admin; each cluster enforces it for its own workloads.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "landbridge.io",
    version = "v1alpha1",
    kind = "Zones",
    plural = "zones",
    status = "ObjectStatus",
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].reason"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    derive = "PartialEq",
    doc = "Named groups of workloads, and what may pass between them."
)]
#[serde(rename_all = "camelCase")]
pub struct ZonesSpec {
    /// The order of the first row in tier Admin; each later row has one more. By default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<u32>,
    /// True: nothing is enforced by it, and what it would decide is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<bool>,
    /// The zones. A workload may be in several.
    #[serde(default)]
    #[schemars(length(max = 100))]
    pub zones: Vec<Zone>,
    /// What may pass, asked in this order: the first row that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub rows: Vec<ZoneRow>,
    /// What becomes of a connection between two different zones that no row matches. By default Pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<ZoneDefault>,
}

/// A zone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Zone {
    /// What rows and policies call it, once in a cluster.
    pub name: String,
    /// Workloads that any of these chooses.
    pub members: Vec<ZoneMember>,
}

/// A choice of workloads. All parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ZoneMember {
    /// In these clusters, by their names in the Federation. Empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<String>,
    /// Any of these namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// By the proven labels of the namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub namespace_selector: Option<LabelSelector>,
    /// By the labels of the namespaces, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_expression: Option<String>,
    /// By the proven labels of the workloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub pod_selector: Option<LabelSelector>,
    /// By the labels of the workloads, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The same for those that it does not mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_selector: Option<String>,
    /// Any of these service accounts. Empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<String>,
}

/// A row of the matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ZoneRow {
    /// The zones of the source. Empty means every source, addresses without identity too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// The zones of the destination. Empty means every destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
    /// Allow and Deny decide; Pass leaves it to the policies after tier Admin; Log reports and goes on.
    pub action: RuleAction,
    /// Report the connection, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<bool>,
    /// Only for Deny: answer instead of silence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reject: Option<bool>,
    /// Ports of the destination. Absent means every protocol and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PolicyPort>>,
}

/// What becomes of what no row matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ZoneDefault {
    /// The policies after tier Admin decide.
    Pass,
    /// It is denied.
    Deny,
}
