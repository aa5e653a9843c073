//! Team and PlatformAllowList: what teams intend for their services, in few words.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::ObjectStatus;
use super::{PolicyPort, schema};

/// The services of a team, who may call each and what of the outside each may call. A file may also hold the spec
/// alone, with `team: NAME` before it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "landbridge.io",
    version = "v1alpha1",
    kind = "Team",
    status = "ObjectStatus",
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].reason"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    derive = "PartialEq",
    doc = "The services of a team, who may call each and what of the outside each may call."
)]
#[serde(rename_all = "camelCase")]
pub struct TeamSpec {
    /// The namespaces of the team, in all clusters, by their proven labels. By default those with `team: NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub namespace_selector: Option<LabelSelector>,
    /// The team's services.
    #[serde(default)]
    #[schemars(length(max = 500))]
    pub services: Vec<TeamService>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TeamService {
    /// What other teams call it: `team/name`.
    pub name: String,
    /// Its pods in the team's namespaces. By default those with `app: NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub pod_selector: Option<LabelSelector>,
    /// Which workloads may call it. What has no identity may not.
    pub ingress_private: IngressPrivate,
    /// What of the outside it may call; nothing when it is left out. Other workloads it may call always: they
    /// decide for themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub egress_public: Vec<PublicDestination>,
}

/// Who may call a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IngressPrivate {
    /// Nobody, every workload, or those listed.
    pub mode: IngressMode,
    /// With AllowOnly: services as `team/service`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub services: Vec<String>,
}

/// Which workloads may call a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IngressMode {
    /// None.
    DenyAll,
    /// All, in all clusters.
    AllowAll,
    /// Those listed.
    AllowOnly,
}

/// Something outside of all clusters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PublicDestination {
    /// Names of the DNS; `*.` before a name means all names below it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<String>,
    /// Addresses with their prefix lengths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<String>,
    /// Absent means every protocol and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PolicyPort>>,
}

/// What the platform allows every team's service beside what the teams intend.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "landbridge.io",
    version = "v1alpha1",
    kind = "PlatformAllowList",
    status = "ObjectStatus",
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].reason"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    derive = "PartialEq",
    doc = "What the platform allows every team's service beside what the teams intend."
)]
#[serde(rename_all = "camelCase")]
pub struct PlatformAllowListSpec {
    /// The namespaces that it is for. By default those with a label `team`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub namespace_selector: Option<LabelSelector>,
    /// Services as `team/service` that may call every service, such as monitoring.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub ingress_private: Vec<String>,
    /// What of the outside every service may call, such as name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub egress_public: Vec<PublicDestination>,
}
