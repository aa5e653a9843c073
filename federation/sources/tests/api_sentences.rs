//! Each sentence of the API documents that says must, default, empty or absent, and what it means in verdicts: of
//! NetworkPolicy (`k8s.io/api/networking/v1/types.go`) and ClusterNetworkPolicy
//! (`sigs.k8s.io/network-policy-api/apis/v1alpha2/clusternetworkpolicy_types.go`).
//!
//! Those that have a test elsewhere are not repeated:
//!
//! | field | sentence | test |
//! |---|---|---|
//! | NetworkPolicy `spec.podSelector` | "the ingress rules for each are combined additively" | traps `policies_are_added_up` |
//! | `spec.ingress`, `.from` | "if this field is empty", "empty or missing" | traps `no_rules_deny_and_an_empty_rule_allows_everyone` |
//! | `spec.policyTypes` | "If this field is not specified, it will default", and what egress policies must | traps `absent_policy_types_are_ingress_and_egress_only_with_egress_rules` |
//! | `spec.policyTypes` | "Valid options are" | refused.txt `networkpolicy: policyTypes` |
//! | `ports[].protocol` | "If not specified, this field defaults to TCP" | traps `an_absent_protocol_is_tcp` |
//! | `ports[].port` | "a numerical or named port on a pod" | traps `a_named_port_is_the_destination_s_and_of_its_own_protocol` |
//! | `ports[].endPort` | "inclusive" | traps `end_ports_are_included` |
//! | `peer.podSelector`, `.namespaceSelector` | "if present but empty", "If ... is also set", "Otherwise" | traps `a_pod_selector_alone_looks_into_its_own_namespace` |
//! | `ipBlock.except` | "should not be included" | traps `an_ip_block_matches_pods_too` |
//! | ClusterNetworkPolicy `spec.tier` | the order of tiers; "if a given connection wasn't allowed or denied" | admin_policies `tiers_stand_around_network_policies` |
//! | `spec.priority` | "lower priority values have higher precedence" | admin_policies `lower_priorities_go_first` |
//! | `spec.ingress` | "determined by the order in which the rule is written" | admin_policies `the_first_rule_of_an_object_that_matches_decides` |
//! | `spec.ingress`, `.egress` | "CNPs with no ingress rules do not affect ingress traffic" | admin_policies `a_policy_isolates_nobody` |
//! | `subject`, `namespaces`, `pods` | "host-networked pods are not included" | translation `pods_that_ended_or_use_their_host_have_no_identity` |
//! | `from[]`, `to[]` | "Exactly one of the fields must be set"; "it should fail closed"; `nodes` | admin_policies `what_is_not_enforced_fails_closed_by_itself` |
//! | `to[].networks` | "will allow or deny all IPv4 pod-to-pod traffic as well" | admin_policies `networks_match_pods_too` |
//! | `to[].domainNames` | "only supported for Accept rules", and the wildcard | admin_policies `domain_names_are_accepted` |
//! | `protocols[]` | numbers, inclusive ranges, named ports | admin_policies `protocols_narrow_a_rule` |
#![allow(clippy::unwrap_used)]

#[path = "api_sentences/cluster_network_policy.rs"]
mod cluster_network_policy;
#[path = "api_sentences/network_policy.rs"]
mod network_policy;
#[path = "api_sentences/refusals.rs"]
mod refusals;
#[path = "common/verdicts.rs"]
mod verdicts;

use policy::model::Direction;
use serde_json::{Value, json};
use verdicts::ask;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;

/// A field, what is said of it, policies, and connections with what becomes of them.
struct Row {
    field: &'static str,
    says: &'static str,
    policies: Vec<Value>,
    /// Direction, subject, peer, protocol, port, whether it is allowed.
    asks: Vec<(Direction, &'static str, &'static str, u8, u16, bool)>,
}

fn check(rows: Vec<Row>) {
    for row in rows {
        for (direction, subject, peer, protocol, port, allowed) in row.asks {
            let verdict = ask(&row.policies, direction, subject, peer, protocol, port);
            assert_eq!(
                verdict.is_none(),
                allowed,
                "{}: {:?}: {direction:?} {subject} {peer} {protocol} {port}: {verdict:?}",
                row.field,
                row.says
            );
        }
    }
}

/// A NetworkPolicy of namespace `shop`.
fn np(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

/// A NetworkPolicy for pod `api`.
fn api(mut spec: Value) -> Vec<Value> {
    spec["podSelector"] = json!({"matchLabels": {"app": "api"}});
    vec![np("p", spec)]
}

/// As [`api`], with one rule of ingress.
fn takes(rule: Value) -> Vec<Value> {
    api(json!({"ingress": [rule]}))
}

/// As [`api`], with one rule of egress.
fn sends(rule: Value) -> Vec<Value> {
    api(json!({"egress": [rule], "policyTypes": ["Egress"]}))
}

fn pods(app: &str) -> Value {
    json!({"podSelector": {"matchLabels": {"app": app}}, "namespaceSelector": {}})
}

/// A ClusterNetworkPolicy.
fn cnp(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name}, "spec": spec})
}

/// One of the Admin tier for pod `api`.
fn admin(rules: Value) -> Value {
    let mut spec = json!({"tier": "Admin", "priority": 5, "subject": {"pods": {"podSelector": {"matchLabels": {"app": "api"}}}}});
    for (direction, list) in rules.as_object().unwrap() {
        spec[direction] = list.clone();
    }
    cnp("admin", spec)
}

/// For every pod of `subject`, what comes from `web` is denied.
fn for_subject(subject: Value) -> Vec<Value> {
    let web = json!({"pods": {"podSelector": {"matchLabels": {"app": "web"}}}});
    vec![cnp(
        "p",
        json!({"tier": "Admin", "priority": 5, "subject": subject,
        "ingress": [{"action": "Deny", "from": [web]}]}),
    )]
}
