//! `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy -> the model, checked as its CRD does
//! (`apis/v1alpha2/clusternetworkpolicy_types.go`).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use policy::model::{Action, Direction, PolicyKind, PortMatch, PortSpec, Tier};
use serde::Deserialize;
use serde_json::Value;

use super::{
    common::number,
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
    rules: 25,
    peers: 25,
    networks: 25,
};
/// The most protocols of a rule.
const MAX_PROTOCOLS: usize = 25;

/// The object.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ClusterNetworkPolicy {
    #[serde(default)]
    pub metadata: ObjectMeta,
    spec: Spec,
    /// What an implementation said of it.
    #[serde(default, rename = "status")]
    _status: Value,
}

#[derive(Clone, Debug, Deserialize)]
struct Spec {
    tier: TierWord,
    priority: i32,
    subject: Subject,
    #[serde(default)]
    ingress: Vec<IngressRule>,
    #[serde(default)]
    egress: Vec<EgressRule>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum TierWord {
    Admin,
    Baseline,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum ActionWord {
    Accept,
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
    protocols: Option<Vec<Protocol>>,
}

#[derive(Clone, Debug, Deserialize)]
struct EgressRule {
    #[serde(default)]
    name: String,
    action: ActionWord,
    #[serde(default)]
    to: Vec<Peer>,
    protocols: Option<Vec<Protocol>>,
}

/// Exactly one field is set.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Protocol {
    tcp: Option<OfProtocol>,
    udp: Option<OfProtocol>,
    sctp: Option<OfProtocol>,
    destination_named_port: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfProtocol {
    destination_port: Option<Port>,
}

/// Exactly one field is set.
#[derive(Clone, Debug, Deserialize)]
struct Port {
    number: Option<i32>,
    range: Option<PortRange>,
}

#[derive(Clone, Debug, Deserialize)]
struct PortRange {
    start: i32,
    end: i32,
}

/// The policy that `object` describes; nothing of it counts when `faults` refuse it.
pub(super) fn cluster_network_policy(
    object: &ClusterNetworkPolicy,
    name: &Name,
    faults: &mut Faults,
) -> Draft {
    let annotations = object.metadata.annotations.clone().unwrap_or_default();
    let spec = &object.spec;
    let path = FieldPath::of(&["spec"]);
    let reader = Reader {
        scope: annotated(&annotations, faults),
        bounds: &BOUNDS,
    };
    let place = path.key("ingress");
    let ingress: Vec<RuleText<'_>> = (spec.ingress.iter().enumerate())
        .map(|(index, rule)| RuleText {
            name: &rule.name,
            action: Some(action(rule.action)),
            peers: &rule.from,
            ports: protocols(&rule.protocols, &place.index(index), faults),
        })
        .collect();
    let mut rules = reader.rules(ingress.into_iter(), Direction::Ingress, &place, faults);
    let place = path.key("egress");
    let egress: Vec<RuleText<'_>> = (spec.egress.iter().enumerate())
        .map(|(index, rule)| {
            check_named_ports(rule, &place.index(index), faults);
            RuleText {
                name: &rule.name,
                action: Some(action(rule.action)),
                peers: &rule.to,
                ports: protocols(&rule.protocols, &place.index(index), faults),
            }
        })
        .collect();
    rules.extend(reader.rules(egress.into_iter(), Direction::Egress, &place, faults));
    let tier = match spec.tier {
        TierWord::Admin => Tier::Admin,
        TierWord::Baseline => Tier::Baseline,
    };
    let order = priority(spec.priority, faults);
    let chosen = subject(&spec.subject, &path.key("subject"), faults);
    let kind = PolicyKind::ClusterNetworkPolicy;
    policy(kind, name, tier, order, chosen, rules)
}

fn action(word: ActionWord) -> Action {
    match word {
        ActionWord::Accept => Action::Allow,
        ActionWord::Deny => Action::Deny,
        ActionWord::Pass => Action::Pass,
    }
}

/// Networks, nodes and domains give no names to ports.
fn check_named_ports(rule: &EgressRule, path: &FieldPath, faults: &mut Faults) {
    let outside = |peer: &Peer| {
        peer.networks.is_some() || peer.nodes.is_some() || peer.domain_names.is_some()
    };
    let named = |protocol: &Protocol| protocol.destination_named_port.is_some();
    if rule.to.iter().any(outside) && rule.protocols.iter().flatten().any(named) {
        let message = "names a port of peers that give no names to ports";
        faults.add(
            path.key("protocols"),
            message,
            "port numbers beside networks, nodes and domainNames",
        );
    }
}

fn protocols(
    listed: &Option<Vec<Protocol>>,
    rule: &FieldPath,
    faults: &mut Faults,
) -> Option<Vec<PortMatch>> {
    port_list(
        listed.as_ref(),
        MAX_PROTOCOLS,
        (rule, "protocols"),
        faults,
        one_protocol,
    )
}

fn one_protocol(protocol: &Protocol, path: &FieldPath, faults: &mut Faults) -> Vec<PortMatch> {
    let given = [
        ("tcp", &protocol.tcp, WITH_PORTS[0]),
        ("udp", &protocol.udp, WITH_PORTS[1]),
        ("sctp", &protocol.sctp, WITH_PORTS[2]),
    ];
    let given: Vec<_> = (given.into_iter())
        .filter_map(|(field, of, number)| Some((field, of.as_ref()?, number)))
        .collect();
    let named = protocol.destination_named_port.as_ref();
    if given.len() + usize::from(named.is_some()) != 1 {
        let expected = "exactly one of tcp, udp, sctp, destinationNamedPort";
        faults.add(path.clone(), "names not exactly one protocol", expected);
    }
    let mut ports: Vec<PortMatch> = (given.into_iter())
        .filter_map(|(field, of, number)| {
            let path = path.key(field).key("destinationPort");
            let Some(port) = &of.destination_port else {
                faults.add(path, "is missing", "number or range");
                return None;
            };
            destination(port, number, &path, faults)
        })
        .collect();
    if let Some(name) = named {
        check_port_name(name, path.key("destinationNamedPort"), faults);
        ports.extend(WITH_PORTS.map(|protocol| PortMatch {
            protocol,
            port: PortSpec::Named(name.clone()),
        }));
    }
    ports
}

fn destination(
    port: &Port,
    protocol: u8,
    path: &FieldPath,
    faults: &mut Faults,
) -> Option<PortMatch> {
    match (port.number, &port.range) {
        (Some(one), None) => {
            let one = number(one, path.key("number"), faults)?;
            Some(PortMatch {
                protocol,
                port: PortSpec::Range(one, one),
            })
        }
        (None, Some(ports)) => {
            let path = path.key("range");
            let (start, end) = (path.key("start"), path.key("end"));
            range(protocol, (ports.start, start), (ports.end, end), faults)
        }
        _ => {
            faults.add(
                path.clone(),
                "names not exactly one of both",
                "number or range",
            );
            None
        }
    }
}
