//! `policy.networking.k8s.io/v1alpha1` AdminNetworkPolicy and BaselineAdminNetworkPolicy -> the model,
//! checked as their CRDs do (network-policy-api v0.1, `apis/v1alpha1`). ClusterNetworkPolicy is their
//! successor.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use policy::model::{Action, Direction, PolicyKind, PortMatch, PortSpec, Tier};
use serde::Deserialize;
use serde_json::Value;

use super::{
    common::{number, protocol},
    kind::Name,
    names::check_port_name,
    ordered::{
        Bounds, Peer, Reader, RuleText, Subject, WITH_PORTS, policy, port_list, priority, range,
        subject,
    },
    scope::annotated,
};
use crate::{
    draft::Draft,
    fault::{Faults, FieldPath},
};

const BOUNDS: Bounds = Bounds {
    rules: 100,
    peers: 100,
    networks: 25,
};
/// The most ports of a rule.
const MAX_PORTS: usize = 100;
/// The one name that a BaselineAdminNetworkPolicy may have.
const BASELINE_NAME: &str = "default";
/// A baseline of before ClusterNetworkPolicy has no priority: it is asked after those that have one.
const BASELINE_ORDER: u32 = 1001;

/// Either object.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct AdminNetworkPolicy {
    #[serde(default)]
    pub metadata: ObjectMeta,
    spec: Spec,
    /// What an implementation said of it.
    #[serde(default, rename = "status")]
    _status: Value,
}

#[derive(Clone, Debug, Deserialize)]
struct Spec {
    priority: Option<i32>,
    subject: Subject,
    #[serde(default)]
    ingress: Vec<IngressRule>,
    #[serde(default)]
    egress: Vec<EgressRule>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum ActionWord {
    Allow,
    Deny,
    Pass,
}

#[derive(Clone, Debug, Deserialize)]
struct IngressRule {
    #[serde(default)]
    name: String,
    action: ActionWord,
    #[serde(default)]
    from: Vec<Peer>,
    ports: Option<Vec<Port>>,
}

#[derive(Clone, Debug, Deserialize)]
struct EgressRule {
    #[serde(default)]
    name: String,
    action: ActionWord,
    #[serde(default)]
    to: Vec<Peer>,
    ports: Option<Vec<Port>>,
}

/// Exactly one field is set.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    port_number: Option<PortNumber>,
    port_range: Option<PortRange>,
    named_port: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct PortNumber {
    protocol: Option<String>,
    port: i32,
}

#[derive(Clone, Debug, Deserialize)]
struct PortRange {
    protocol: Option<String>,
    start: i32,
    end: i32,
}

/// The policy that `object` describes; nothing of it counts when `faults` refuse it.
pub(super) fn admin_network_policy(
    object: &AdminNetworkPolicy,
    name: &Name,
    faults: &mut Faults,
) -> Draft {
    let order = match object.spec.priority {
        Some(given) => priority(given, faults),
        None => {
            let path = FieldPath::of(&["spec", "priority"]);
            faults.add(path, "is missing", "a number from 0 to 1000");
            0
        }
    };
    let kind = PolicyKind::AdminNetworkPolicy;
    read(object, name, (kind, Tier::Admin, order), faults)
}

/// The same of the one policy behind all others.
pub(super) fn baseline_admin_network_policy(
    object: &AdminNetworkPolicy,
    name: &Name,
    faults: &mut Faults,
) -> Draft {
    if name.name != BASELINE_NAME {
        let path = FieldPath::of(&["metadata", "name"]);
        let message = format!("{:?} is not the one of its kind", name.name);
        faults.add(path, message, BASELINE_NAME);
    }
    if object.spec.priority.is_some() {
        let path = FieldPath::of(&["spec", "priority"]);
        faults.add(
            path,
            "a BaselineAdminNetworkPolicy has none",
            "no such field",
        );
    }
    let kind = PolicyKind::BaselineAdminNetworkPolicy;
    read(object, name, (kind, Tier::Baseline, BASELINE_ORDER), faults)
}

fn read(
    object: &AdminNetworkPolicy,
    name: &Name,
    (kind, tier, order): (PolicyKind, Tier, u32),
    faults: &mut Faults,
) -> Draft {
    let annotations = object.metadata.annotations.clone().unwrap_or_default();
    let spec = &object.spec;
    let path = FieldPath::of(&["spec"]);
    let reader = Reader {
        scope: annotated(&annotations, faults),
        bounds: &BOUNDS,
    };
    let mut text = |name, word, peers, listed: &Option<Vec<Port>>, place: &FieldPath| RuleText {
        name,
        action: action(word, tier, place, faults),
        peers,
        ports: ports(listed, place, faults),
    };
    let place = path.key("ingress");
    let ingress: Vec<RuleText<'_>> = (spec.ingress.iter().enumerate())
        .map(|(i, r)| text(&r.name, r.action, &r.from, &r.ports, &place.index(i)))
        .collect();
    let place = path.key("egress");
    let egress: Vec<RuleText<'_>> = (spec.egress.iter().enumerate())
        .map(|(i, r)| text(&r.name, r.action, &r.to, &r.ports, &place.index(i)))
        .collect();
    let of = |direction, field| (direction, path.key(field));
    let mut rules = Vec::new();
    for (list, (direction, place)) in [
        (ingress, of(Direction::Ingress, "ingress")),
        (egress, of(Direction::Egress, "egress")),
    ] {
        rules.extend(reader.rules(list.into_iter(), direction, &place, faults));
    }
    let chosen = subject(&spec.subject, &path.key("subject"), faults);
    policy(kind, name, tier, order, chosen, rules)
}

fn action(word: ActionWord, tier: Tier, rule: &FieldPath, faults: &mut Faults) -> Option<Action> {
    match word {
        ActionWord::Allow => Some(Action::Allow),
        ActionWord::Deny => Some(Action::Deny),
        ActionWord::Pass if tier == Tier::Admin => Some(Action::Pass),
        ActionWord::Pass => {
            let message = "nothing comes after a BaselineAdminNetworkPolicy";
            faults.add(rule.key("action"), message, "Allow or Deny");
            None
        }
    }
}

fn ports(
    listed: &Option<Vec<Port>>,
    rule: &FieldPath,
    faults: &mut Faults,
) -> Option<Vec<PortMatch>> {
    port_list(
        listed.as_ref(),
        MAX_PORTS,
        (rule, "ports"),
        faults,
        one_port,
    )
}

fn one_port(port: &Port, path: &FieldPath, faults: &mut Faults) -> Vec<PortMatch> {
    match (&port.port_number, &port.port_range, &port.named_port) {
        (Some(one), None, None) => {
            let path = path.key("portNumber");
            let of = protocol(one.protocol.as_deref(), path.key("protocol"), faults);
            let one = number(one.port, path.key("port"), faults);
            let found = of.zip(one).map(|(protocol, port)| PortMatch {
                protocol,
                port: PortSpec::Range(port, port),
            });
            found.into_iter().collect()
        }
        (None, Some(all), None) => {
            let path = path.key("portRange");
            let of = protocol(all.protocol.as_deref(), path.key("protocol"), faults);
            let (start, end) = (path.key("start"), path.key("end"));
            let found = of.and_then(|of| range(of, (all.start, start), (all.end, end), faults));
            found.into_iter().collect()
        }
        (None, None, Some(name)) => {
            check_port_name(name, path.key("namedPort"), faults);
            let named = |protocol| PortMatch {
                protocol,
                port: PortSpec::Named(name.clone()),
            };
            WITH_PORTS.map(named).into()
        }
        _ => {
            let message = "names not exactly one of them";
            faults.add(path.clone(), message, "portNumber, portRange or namedPort");
            Vec::new()
        }
    }
}
