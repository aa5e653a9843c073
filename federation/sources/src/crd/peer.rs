//! FederationPeer: a cluster that this cluster speaks with.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::ObjectStatus;

/// Another cluster of the federation that this cluster speaks with. Deleting the object ends it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "landbridge.io",
    version = "v1alpha1",
    kind = "FederationPeer",
    status = "ObjectStatus",
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].reason"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    derive = "PartialEq",
    doc = "Another cluster of the federation that this cluster speaks with."
)]
#[serde(rename_all = "camelCase")]
pub struct FederationPeerSpec {
    /// The cluster's name in the Federation.
    #[schemars(length(min = 1, max = 63))]
    pub cluster: String,
    /// Its trust domain, as a check: it must be the one that the Federation gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// Where its gateways listen, `address:port` or `name:port`. Empty when only they dial.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// `sha256:` and 64 hex digits over the DER of its root certificate: what the first session is
    /// checked against. Later sessions are checked against its stored bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_pin: Option<String>,
    /// Where the roots of its trust domain are published, in place of `rootPin`: they are fetched from there again
    /// and again, and count as long as they were fetched within a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle_endpoint: Option<BundleEndpointSpec>,
    /// What its credentials may claim here. By default anything of its own trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<AcceptSpec>,
    /// Which pods of this cluster its pods may reach and be reached by: those whose own namespace, service account and
    /// labels keep to this. By default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offer: Option<AcceptSpec>,
    /// It may introduce further clusters to this one, where the gateway accepts that of introducers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub introducer: bool,
    /// What becomes of it when it stays away. By default what it said holds until its bundle ends, a day after it was
    /// heard last at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<AwaySpec>,
}

/// A SPIFFE bundle endpoint, and by what it is believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BundleEndpointSpec {
    /// Its `https` URL.
    #[schemars(length(min = 1, max = 2048))]
    pub url: String,
    /// By what the server is believed. No other way is ever tried.
    pub profile: BundleProfileWord,
    /// `https_spiffe`: the SPIFFE ID of the server, such as `spiffe://south.example/spire/server`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    /// `https_spiffe`, where the server is of the peer's own trust domain: a bundle of it, as a JWK set, by which the
    /// server is believed until one was fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 262144))]
    pub bundle: Option<String>,
    /// `https_web`: certificates of authorities in PEM, in place of those of the gateway's system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 262144))]
    pub authorities: Option<String>,
}

/// A profile of SPIFFE Federation, section 5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BundleProfileWord {
    /// The server shows an X.509-SVID.
    #[serde(rename = "https_spiffe")]
    Spiffe,
    /// The server shows a certificate of the Web PKI.
    #[serde(rename = "https_web")]
    Web,
}

/// How long a peer may be away, and what holds of it then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwaySpec {
    /// A time of 1 s to 365 days, such as `90s`, `15m`, `2h` or `7d`.
    pub limit: String,
    /// What holds after that.
    #[serde(default)]
    pub then: AwayWord,
}

/// What holds of a peer that is away for too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AwayWord {
    /// Nothing of it is admitted, and its live connections are cut.
    #[default]
    Closed,
    /// What it said last stays in force, its bundle beyond its end too.
    Keep,
}

/// What credentials may claim: those of a peer here, or those of own pods that are offered to it. A list that is left out limits nothing. In names and values one `*` stands
/// for any text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcceptSpec {
    /// The namespaces of its pods, such as `shop` or `team-*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub namespaces: Vec<String>,
    /// The service accounts of its pods, such as `shop/api` or `*/deployer`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub service_accounts: Vec<String>,
    /// The labels of its pods and namespaces. The first entry that names a key counts; a key that none names is free.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub labels: Vec<AcceptLabelSpec>,
}

/// What labels of some keys may say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcceptLabelSpec {
    /// The key, such as `env` or `security.example.com/*`.
    pub key: String,
    /// The values. With none, no pod or namespace with such a label is accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub values: Vec<String>,
}
