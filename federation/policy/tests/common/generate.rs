//! Random policies and identities from a vocabulary so small that most of them meet.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use identity::{Assurance, Claims};
use ipnet::IpNet;
use landbridge_policy::model::*;
use proptest::{collection::vec, option, prelude::*, sample};

use super::*;

const CLUSTERS: [&str; 3] = ["west", "east", "north"];
const NAMESPACES: [&str; 2] = ["shop", "db"];
const KEYS: [&str; 3] = ["app", "env", "tier"];
const VALUES: [&str; 3] = ["a", "b", "c"];
const ACCOUNTS: [&str; 2] = ["default", "robot"];
const PORTS: [u16; 3] = [80, 443, 8080];
const DOMAINS: [&str; 3] = ["example.com", "api.example.com", "ample.com"];

fn pick<T: Clone + std::fmt::Debug + 'static>(list: &[T]) -> sample::Select<T> {
    sample::select(list.to_vec())
}

/// A pod of one of `clusters`.
pub fn claims(clusters: &'static [&'static str]) -> impl Strategy<Value = Claims> {
    let pair = || (pick(&KEYS), pick(&VALUES));
    let names = vec((pick(&["http", "dns"]), protocol(), pick(&PORTS)), 0..3);
    (
        (pick(clusters), pick(&NAMESPACES), pick(&ACCOUNTS)),
        (vec(pair(), 0..4), vec(pair(), 0..3)),
        names,
        prop_oneof![3 => Just(Assurance::Agent), 1 => Just(Assurance::Gateway)],
    )
        .prop_map(
            |((cluster, namespace, account), (own, more), names, assurance)| {
                let text = |pairs: &[(&str, &str)]| {
                    let words: Vec<_> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
                    words.join(" ")
                };
                let claims = pod(&format!("{cluster}/{namespace}/pod"), &text(&own));
                let claims = with_account(with_namespace_labels(claims, &text(&more)), account);
                let named =
                    |claims, (name, protocol, port)| with_port(claims, name, protocol, port);
                with_assurance(names.into_iter().fold(claims, named), assurance)
            },
        )
}

pub fn address() -> impl Strategy<Value = IpAddr> {
    let text = [
        "10.1.0.5",
        "10.2.0.5",
        "192.0.2.7",
        "fd00::5",
        "2001:db8::1",
    ];
    pick(&text).prop_map(|a| a.parse().unwrap())
}

/// What DNS may have told of an address.
pub fn names() -> impl Strategy<Value = Vec<Arc<str>>> {
    vec(pick(&DOMAINS), 0..3).prop_map(|names| names.into_iter().map(Into::into).collect())
}

pub fn protocol() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(TCP), 1 => Just(UDP), 1 => Just(SCTP)]
}

pub fn port() -> impl Strategy<Value = u16> {
    pick(&PORTS)
}

/// The label keys that `east` carries, if not all.
pub fn carried() -> impl Strategy<Value = Option<BTreeSet<String>>> {
    let keys = ["app", "env", "tier", "kubernetes.io/metadata.name"];
    option::weighted(0.5, sample::subsequence(keys.to_vec(), 0..4))
        .prop_map(|keys| Some(keys?.into_iter().map(str::to_owned).collect()))
}

pub fn policy_set() -> impl Strategy<Value = PolicySet> {
    vec(policy(), 0..6).prop_map(|mut policies: Vec<Policy>| {
        for (number, policy) in policies.iter_mut().enumerate() {
            policy.name = format!("p{number}");
            for (place, rule) in policy.rules.iter_mut().enumerate() {
                rule.name = format!("r{place}");
            }
        }
        set("west", policies)
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    let kinds = [
        PolicyKind::NetworkPolicy,
        PolicyKind::FederationPolicy,
        PolicyKind::ClusterFederationPolicy,
        PolicyKind::ClusterNetworkPolicy,
        PolicyKind::BaselineAdminNetworkPolicy,
    ];
    let tier = prop_oneof![
        1 => Just(Tier::Admin), 3 => Just(Tier::Application), 1 => Just(Tier::Baseline),
    ];
    let isolation = (direction(), pick(&[Scope::Local, Scope::Remote]));
    (
        (pick(&kinds), pick(&NAMESPACES), tier, pick(&[10_u32, 1000])),
        subject(),
        vec(isolation, 0..3),
        vec(rule(), 0..5),
        option::weighted(0.1, Just(())),
    )
        .prop_map(
            |((kind, namespace, tier, order), subject, isolates, rules, staged)| Policy {
                kind,
                namespace: matches!(
                    kind,
                    PolicyKind::NetworkPolicy | PolicyKind::FederationPolicy
                )
                .then(|| namespace.to_owned()),
                name: String::new(),
                tier,
                order,
                subject,
                staged: staged.is_some(),
                isolates,
                rules,
            },
        )
}

fn rule() -> impl Strategy<Value = Rule> {
    let actions = prop_oneof![
        4 => Just(Action::Allow), 2 => Just(Action::Deny),
        2 => Just(Action::Pass), 1 => Just(Action::Log),
    ];
    let scopes = [
        vec![Scope::Local],
        vec![Scope::Remote],
        vec![Scope::Remote, Scope::Local],
    ];
    let assurance = [Assurance::Agent, Assurance::Gateway];
    (
        (direction(), actions, any::<bool>()),
        (pick(&scopes), pick(&assurance)),
        vec(peer(), 0..3),
        (vec(port_match(), 0..3), vec(port_match(), 0..2)),
    )
        .prop_map(
            |((direction, action, reject), (scopes, assurance), peers, (ports, not_ports))| {
                let names =
                    direction == Direction::Egress && matches!(action, Action::Allow | Action::Log);
                let fits = |p: &PeerMatch| names || !matches!(p, PeerMatch::Domain(_));
                Rule {
                    name: String::new(),
                    direction,
                    action,
                    reject,
                    scopes,
                    peers: peers.into_iter().filter(fits).collect(),
                    ports,
                    not_ports,
                    assurance,
                }
            },
        )
}

fn direction() -> impl Strategy<Value = Direction> {
    pick(&[Direction::Ingress, Direction::Egress])
}

fn peer() -> impl Strategy<Value = PeerMatch> {
    let nets = ["10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "::/0", "fd00::/8"];
    let net = || pick(&nets).prop_map(|n| n.parse::<IpNet>().unwrap());
    prop_oneof![
        4 => workloads().prop_map(PeerMatch::Workload),
        1 => (net(), vec(net(), 0..2)).prop_map(|(cidr, except)| PeerMatch::Net { cidr, except }),
        1 => (any::<bool>(), pick(&DOMAINS)).prop_map(|(below, name)| {
            PeerMatch::Domain(DomainPattern { below, name: name.to_owned() })
        }),
    ]
}

/// What selects pods of the own cluster.
fn subject() -> impl Strategy<Value = WorkloadSelector> {
    let clusters = [ClusterMatch::Own, ClusterMatch::Any];
    (pick(&clusters), workloads()).prop_map(|(clusters, selector)| WorkloadSelector {
        clusters,
        ..selector
    })
}

fn workloads() -> impl Strategy<Value = WorkloadSelector> {
    let listed = vec(pick(&CLUSTERS), 0..3)
        .prop_map(|names| ClusterMatch::Listed(names.into_iter().map(td).collect()));
    let clusters = prop_oneof![
        2 => Just(ClusterMatch::Own), 2 => Just(ClusterMatch::Any),
        1 => Just(ClusterMatch::Remote), 1 => listed,
    ];
    let text = |s: &&str| (*s).to_owned();
    let names = vec(pick(&NAMESPACES), 0..3)
        .prop_map(move |names| NamespaceMatch::Names(names.iter().map(text).collect()));
    let namespaces = prop_oneof![
        2 => Just(NamespaceMatch::Any), 1 => names,
        1 => label_selector().prop_map(NamespaceMatch::Labels),
    ];
    let accounts = vec(pick(&ACCOUNTS), 0..2);
    (clusters, namespaces, label_selector(), accounts).prop_map(
        move |(clusters, namespaces, pods, accounts)| WorkloadSelector {
            clusters,
            namespaces,
            pods,
            service_accounts: accounts.iter().map(text).collect(),
        },
    )
}

pub fn label_selector() -> impl Strategy<Value = LabelSelector> {
    let values = || {
        let values = vec(pick(&VALUES), 0..3);
        values.prop_map(|v| v.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    let part = (0..3, pick(&["", "a", "b"])).prop_map(|(how, text)| match how {
        0 => Part::Contains(text.to_owned()),
        1 => Part::StartsWith(text.to_owned()),
        _ => Part::EndsWith(text.to_owned()),
    });
    let operator = prop_oneof![
        4 => values().prop_map(Operator::In), 2 => values().prop_map(Operator::NotIn),
        1 => Just(Operator::Exists), 1 => Just(Operator::DoesNotExist),
        1 => part.clone().prop_map(Operator::Like), 1 => part.prop_map(Operator::NotLike),
    ];
    let requirement = (pick(&KEYS), operator).prop_map(|(key, operator)| Requirement {
        key: key.to_owned(),
        operator,
    });
    let flat = vec(requirement.prop_map(Term::Label), 0..3).prop_map(LabelSelector);
    flat.prop_recursive(2, 8, 3, |inner| {
        vec(vec(inner, 0..3).prop_map(Term::AnyOf), 0..3).prop_map(LabelSelector)
    })
}

fn port_match() -> impl Strategy<Value = PortMatch> {
    let spec = prop_oneof![
        Just(PortSpec::Any),
        pick(&[(80, 80), (80, 443), (1, 65535), (8080, 8090)])
            .prop_map(|(first, last)| PortSpec::Range(first, last)),
        pick(&["http", "dns", "none"]).prop_map(|n| PortSpec::Named(n.to_owned())),
    ];
    (protocol(), spec).prop_map(|(protocol, port)| PortMatch { protocol, port })
}
