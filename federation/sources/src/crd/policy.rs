//! FederationPolicy and ClusterFederationPolicy: ordered rules on identities of all clusters.

use k8s_openapi::{
    api::networking::v1::IPBlock,
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use super::status::ObjectStatus;

/// Ordered rules for pods of one namespace, on the proven identity of the other end, wherever in the
/// federation it runs. A pod that a policy selects is isolated in the directions and scopes that the
/// policy's rules speak of: what no rule allows there is denied.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "landbridge.io",
    version = "v1alpha1",
    kind = "FederationPolicy",
    namespaced,
    status = "ObjectStatus",
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].reason"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    derive = "PartialEq",
    doc = "Ordered rules for pods of one namespace on the proven identity of the other end."
)]
#[serde(rename_all = "camelCase")]
pub struct FederationPolicySpec {
    /// Lower is asked first; a NetworkPolicy counts as 1000. At equal order Deny goes before Pass
    /// and Pass before Allow. By default 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<u32>,
    /// True: nothing is enforced by it; what it would decide is told beside each verdict, in `explain`, in flow logs
    /// and by the tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<bool>,
    /// The pods that it governs. By default all of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// In which scope a selected pod is isolated. By default the scopes of the rules' peers, in each
    /// direction by its own rules; rules with action Log do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolates: Option<ScopeWord>,
    /// Rules for connections to the selected pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<PolicyRule>>,
    /// Rules for connections from the selected pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<PolicyRule>>,
}

/// Ordered rules for pods of any namespace of this cluster, on the proven identity of the other end.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "landbridge.io",
    version = "v1alpha1",
    kind = "ClusterFederationPolicy",
    plural = "clusterfederationpolicies",
    status = "ObjectStatus",
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].reason"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    derive = "PartialEq",
    doc = "Ordered rules for pods of any namespace on the proven identity of the other end."
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterFederationPolicySpec {
    /// When it is asked. By default Application, beside FederationPolicy and NetworkPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<TierWord>,
    /// Lower is asked first within the tier; a NetworkPolicy counts as 1000. By default 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<u32>,
    /// True: nothing is enforced by it; what it would decide is told beside each verdict, in `explain`, in flow logs
    /// and by the tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<bool>,
    /// The pods that it governs. By default all of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<ClusterSubject>,
    /// In which scope a selected pod is isolated; never in tier Admin. By default the scopes of the
    /// rules' peers, in each direction by its own rules; rules with action Log do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolates: Option<ScopeWord>,
    /// Rules for connections to the selected pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<PolicyRule>>,
    /// Rules for connections from the selected pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<PolicyRule>>,
}

/// Pods of the policy's namespace. All parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// By the labels of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub pod_selector: Option<LabelSelector>,
    /// By the labels of the pods, as text: `app == "api" && !has(legacy)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The same for pods that it does not mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_selector: Option<String>,
    /// Any of these service accounts. Empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<String>,
}

/// Pods of the cluster. All parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSubject {
    /// Any of these namespaces. Not together with `namespaceSelector`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// By the labels of the namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub namespace_selector: Option<LabelSelector>,
    /// By the labels of the namespaces, as text. Together with nothing else that chooses namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_expression: Option<String>,
    /// By the labels of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub pod_selector: Option<LabelSelector>,
    /// By the labels of the pods, as text: `app == "api" && !has(legacy)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The same for pods that it does not mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_selector: Option<String>,
    /// Any of these service accounts. Empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<String>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRule {
    /// What `explain` and the flow log call it, unique in the policy. By default its place, such as
    /// `ingress[0]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub name: Option<String>,
    /// What it does with a connection that it matches.
    pub action: RuleAction,
    /// Only for Deny: the connection is answered by a reset or an ICMP error instead of silence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reject: Option<bool>,
    /// Only in ingress: the other ends, any of these. Absent means every other end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Vec<PolicyPeer>>,
    /// Only in egress: the other ends, any of these. Absent means every other end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<PolicyPeer>>,
    /// Ports of the destination pod, any of these. Absent means every protocol and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PolicyPort>>,
    /// Ports of the destination pod that the rule does not match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_ports: Vec<PolicyPort>,
    /// Protocols that the rule does not match: names such as TCP, or numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::int_or_strings")]
    pub not_protocols: Vec<IntOrString>,
    /// Only for Allow: the weakest assurance of an identity of another cluster that it accepts. By
    /// default Agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_assurance: Option<RequiredAssurance>,
}

/// The other end of a connection: workloads by identity, all parts must hold, or addresses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyPeer {
    /// Whether it is looked for in this cluster, in the others or in all. By default Local. Not
    /// together with `clusters`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<ScopeWord>,
    /// The clusters it is looked for in, by their names in the Federation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<String>,
    /// Any of these namespaces. Not together with `namespaceSelector`. In a namespaced policy the
    /// default is the policy's own namespace, but only for peers of this cluster: for others one of
    /// both must be given, because an equal name there says nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// By the proven labels of the namespaces; `{}` means all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub namespace_selector: Option<LabelSelector>,
    /// By the labels of the namespaces, as text. Together with nothing else that chooses namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_expression: Option<String>,
    /// By the proven labels of the pods; `{}` means all pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub pod_selector: Option<LabelSelector>,
    /// By the labels of the pods, as text: `app == "api" && !has(legacy)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The same for pods that it does not mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_selector: Option<String>,
    /// Any of these service accounts. Empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<String>,
    /// Addresses. Together only with `scope`: a pod of another cluster is matched by its address
    /// only when the scope says so, and only after it proved its identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::ip_block")]
    pub ip_block: Option<IPBlock>,
    /// Every address outside of all these prefixes. Together only with `scope`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_nets: Vec<String>,
    /// Addresses and names of NetworkSets of the policy's namespace. Together only with `scope`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network_sets: Vec<String>,
    /// Addresses and names of ClusterNetworkSets. Together only with `scope`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_network_sets: Vec<String>,
    /// Only in egress, in rules that allow or log: addresses that DNS told the pod for one of these names; `*.`
    /// before a name means all names below it. Stands alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<String>,
    /// The members of these zones, in all clusters. Stands alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
}

/// A protocol and its ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyPort {
    /// TCP, UDP, SCTP, ICMP, ICMPv6, UDPLite, DCCP, or a number from 0 to 255. By default TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::int_or_string")]
    pub protocol: Option<IntOrString>,
    /// A number, or a name that the destination pod gives. Absent means all of the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::int_or_string")]
    pub port: Option<IntOrString>,
    /// The last port of a range that begins with `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub end_port: Option<i32>,
    /// Only for ICMP and ICMPv6: the type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub icmp_type: Option<i32>,
    /// Only with `icmpType`: the code. Absent means all codes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub icmp_code: Option<i32>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RuleAction {
    /// The connection is allowed and no later rule is asked.
    Allow,
    /// The connection is dropped and no later rule is asked.
    Deny,
    /// The rest of the tier is skipped.
    Pass,
    /// The connection is reported and the next rule is asked.
    Log,
}

/// Seen from the cluster that owns the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScopeWord {
    /// This cluster, and addresses without identity.
    Local,
    /// The other clusters of the federation.
    Remote,
    /// Both.
    All,
    /// Neither: only for `isolates`.
    None,
}

/// When a policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TierWord {
    /// Before all others. Isolates nothing: what it does not match or passes goes on.
    Admin,
    /// Beside FederationPolicy and NetworkPolicy.
    Application,
    /// Only for pods that no policy of the application tier selects.
    Baseline,
}

/// How an identity must be vouched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RequiredAssurance {
    /// By its gateway, or better.
    Gateway,
    /// By the agent beside the pod.
    Agent,
}
