//! Of ClusterNetworkPolicy.

use policy::model::Direction::{Egress, Ingress};
use serde_json::json;

use super::{ICMP, Row, TCP, UDP, admin, check, for_subject, takes, verdicts};
use verdicts::closed_by_network_policy;

#[test]
fn cluster_network_policy() {
    let all = || json!([{"namespaces": {}}]);
    let app = |app: &str| json!({"pods": {"podSelector": {"matchLabels": {"app": app}}}});
    let ops = || json!({"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "ops"}}});
    let mut last = admin(json!({"ingress": [{"action": "Accept", "from": all()}]}));
    last["spec"]["priority"] = json!(1000);
    let mut first = admin(json!({"ingress": [{"action": "Deny", "from": [ops()]}]}));
    first["spec"]["priority"] = json!(0);
    first["metadata"]["name"] = json!("first");
    check(vec![
        Row {
            field: "spec.priority",
            says: "a value from 0 to 1000",
            policies: vec![last, first],
            asks: vec![
                (Ingress, "api", "tool", TCP, 80, false),
                (Ingress, "api", "web", TCP, 80, true),
            ],
        },
        Row {
            field: "spec.tier",
            says: "All Admin tier rules have higher precedence than NetworkPolicy or Baseline tier rules. (whatever the priority)",
            policies: vec![
                {
                    let mut policy = admin(json!({"ingress": [{"action": "Deny", "from": all()}]}));
                    policy["spec"]["priority"] = json!(1000);
                    policy
                },
                {
                    let mut policy = admin(json!({"ingress": [{"action": "Accept", "from": all()}]}));
                    policy["metadata"]["name"] = json!("base");
                    policy["spec"]["tier"] = json!("Baseline");
                    policy["spec"]["priority"] = json!(0);
                    policy
                },
            ],
            asks: vec![(Ingress, "api", "web", TCP, 80, false)],
        },
        Row {
            field: "spec.subject.namespaces",
            says: "used to select pods via namespace selectors",
            policies: for_subject(json!({"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "ops"}}})),
            asks: vec![
                (Ingress, "tool", "web", TCP, 80, false),
                (Ingress, "api", "web", TCP, 80, true),
            ],
        },
        Row {
            field: "spec.subject.pods.namespaceSelector",
            says: "if empty, it selects all Namespaces",
            policies: for_subject(json!({"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "tool"}}}})),
            asks: vec![
                (Ingress, "tool", "web", TCP, 80, false),
                (Ingress, "api", "web", TCP, 80, true),
            ],
        },
        Row {
            field: "spec.subject.pods.namespaceSelector",
            says: "+optional: absent is empty",
            policies: for_subject(json!({"pods": {"podSelector": {"matchLabels": {"app": "tool"}}}})),
            asks: vec![
                (Ingress, "tool", "web", TCP, 80, false),
                (Ingress, "api", "web", TCP, 80, true),
            ],
        },
        Row {
            field: "spec.subject.pods.podSelector",
            says: "if empty, it selects all Pods",
            policies: for_subject(json!({"pods": {"podSelector": {}}})),
            asks: vec![
                (Ingress, "tool", "web", TCP, 80, false),
                (Ingress, "api", "web", TCP, 80, false),
                (Ingress, "api", "tool", TCP, 80, true),
            ],
        },
        Row {
            field: "spec.ingress[].action",
            says: "Accept: [...] No further ingress ClusterNetworkPolicy or NetworkPolicy rules will be processed.",
            policies: vec![
                admin(json!({"ingress": [{"action": "Accept", "from": [app("web")]}, {"action": "Deny", "from": all()}]})),
                closed_by_network_policy("api"),
            ],
            asks: vec![
                (Ingress, "api", "web", TCP, 80, true),
                (Ingress, "api", "tool", TCP, 80, false),
            ],
        },
        Row {
            field: "spec.ingress[].action",
            says: "Deny: [...] No further ClusterNetworkPolicy or NetworkPolicy rules will be processed.",
            policies: [
                vec![admin(json!({"ingress": [{"action": "Deny", "from": [app("web")]}]}))],
                takes(json!({})),
            ]
            .concat(),
            asks: vec![
                (Ingress, "api", "web", TCP, 80, false),
                (Ingress, "api", "tool", TCP, 80, true),
            ],
        },
        Row {
            field: "spec.ingress[].action",
            says: "Pass: Skips all further ClusterNetworkPolicy rules in the current tier, and passes evaluation to the next tier.",
            policies: [
                vec![admin(json!({"ingress": [{"action": "Pass", "from": [app("web")]}, {"action": "Deny", "from": all()}]}))],
                takes(json!({"ports": [{"port": 80}]})),
            ]
            .concat(),
            asks: vec![
                (Ingress, "api", "web", TCP, 80, true),
                (Ingress, "api", "web", TCP, 81, false),
                (Ingress, "api", "tool", TCP, 80, false),
            ],
        },
        Row {
            field: "spec.egress[].action",
            says: "Accept: [...] but any ingress rules at the destination do apply",
            policies: vec![
                {
                    let mut policy = admin(json!({"egress": [{"action": "Accept", "to": all()}]}));
                    policy["spec"]["subject"] = app("web");
                    policy
                },
                closed_by_network_policy("api"),
            ],
            asks: vec![
                (Egress, "web", "api", TCP, 80, true),
                (Ingress, "api", "web", TCP, 80, false),
            ],
        },
        Row {
            field: "spec.ingress[].from",
            says: "If any element matches the source of incoming traffic then the specified action is applied.",
            policies: vec![admin(json!({"ingress": [{"action": "Deny", "from": [app("nobody"), ops()]}]}))],
            asks: vec![
                (Ingress, "api", "tool", TCP, 80, false),
                (Ingress, "api", "web", TCP, 80, true),
            ],
        },
        Row {
            field: "spec.egress[].to",
            says: "If any element matches the destination of outgoing traffic then the specified action is applied.",
            policies: vec![admin(json!({"egress": [{"action": "Deny", "to": [ops(), {"networks": ["192.0.2.0/24"]}]}]}))],
            asks: vec![
                (Egress, "api", "tool", TCP, 80, false),
                (Egress, "api", "192.0.2.1", TCP, 80, false),
                (Egress, "api", "web", TCP, 80, true),
            ],
        },
        Row {
            field: "spec.ingress[].protocols",
            says: "If unspecified, protocol-specific attributes will not be used to match traffic.",
            policies: vec![admin(json!({"ingress": [{"action": "Deny", "from": [app("web")]}]}))],
            asks: vec![
                (Ingress, "api", "web", TCP, 1, false),
                (Ingress, "api", "web", UDP, 1, false),
                (Ingress, "api", "web", ICMP, 0, false),
            ],
        },
        Row {
            field: "from[].namespaces",
            says: "select all pods within a set of Namespaces",
            policies: vec![admin(json!({"ingress": [{"action": "Deny", "from": all()}]}))],
            asks: vec![
                (Ingress, "api", "web", TCP, 80, false),
                (Ingress, "api", "tool", TCP, 80, false),
                // What is no pod is in no namespace.
                (Ingress, "api", "192.0.2.1", TCP, 80, true),
            ],
        },
        Row {
            field: "to[].networks",
            says: "Networks matches both regular IP traffic and ICMP traffic",
            policies: vec![admin(json!({"egress": [{"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}]}))],
            asks: vec![
                (Egress, "api", "192.0.2.1", ICMP, 0, false),
                (Egress, "api", "192.0.2.1", TCP, 80, false),
                (Egress, "api", "2001:db8::1", 58, 0, true),
            ],
        },
    ]);
}
