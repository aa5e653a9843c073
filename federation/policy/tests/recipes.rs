//! The well-known Kubernetes NetworkPolicy recipes, as a source translates them.
//!
//! Every row is one connection; it may be when the egress of its source and the ingress of its
//! destination both allow it. Source: `networking.k8s.io/v1` NetworkPolicy and
//! <https://kubernetes.io/docs/concepts/services-networking/network-policies/>.
#![allow(clippy::unwrap_used)]

#[allow(unused)]
mod common;

use common::*;
use identity::Claims;
use landbridge_policy::{KnownKeys, Peer, Query, Table, compile, model::*};

use Direction::{Egress, Ingress};

/// A NetworkPolicy in namespace `shop`: what it selects, the directions of its `policyTypes`, and
/// its rules (direction, peers, ports).
fn network_policy(name: &str, selects: &str, types: &[Direction], rules: Vec<R>) -> Policy {
    let mut counts = [0; 2];
    let rules = rules.into_iter().map(|(direction, peers, ports)| {
        let (count, word) = match direction {
            Ingress => (&mut counts[0], "ingress"),
            Egress => (&mut counts[1], "egress"),
        };
        *count += 1;
        Rule {
            peers,
            ports,
            ..rule(&format!("{word}[{}]", *count - 1), direction, Action::Allow)
        }
    });
    Policy {
        kind: PolicyKind::NetworkPolicy,
        subject: own("shop", selects),
        isolates: types.iter().map(|t| (*t, Scope::Local)).collect(),
        ..federation_policy("shop", name, 1000, rules.collect())
    }
}

type R = (Direction, Vec<PeerMatch>, Vec<PortMatch>);

/// `podSelector` alone: the policy's own namespace.
fn pods(selector: &str) -> PeerMatch {
    PeerMatch::Workload(own("shop", selector))
}

/// `namespaceSelector` alone, or with a `podSelector` in the same list item.
fn namespaces(namespaces: &str, pods: &str) -> PeerMatch {
    PeerMatch::Workload(WorkloadSelector {
        namespaces: NamespaceMatch::Labels(selector(namespaces)),
        ..own("", pods)
    })
}

fn block(cidr: &str, except: &[&str]) -> PeerMatch {
    PeerMatch::Net {
        cidr: cidr.parse().unwrap(),
        except: except.iter().map(|e| e.parse().unwrap()).collect(),
    }
}

fn port(protocol: u8, first: u16, last: u16) -> PortMatch {
    PortMatch {
        protocol,
        port: PortSpec::Range(first, last),
    }
}

fn named(name: &str) -> PortMatch {
    PortMatch {
        protocol: TCP,
        port: PortSpec::Named(name.to_owned()),
    }
}

/// The ends that rows name.
fn end(name: &str) -> Result<Claims, std::net::IpAddr> {
    let claims = match name {
        "web" => with_port(
            pod("west/shop/web", "app=web tier=front"),
            "http",
            TCP,
            8080,
        ),
        "api" => with_port(pod("west/shop/api", "app=api tier=back"), "http", TCP, 80),
        "db" => pod("west/shop/db", "app=db tier=back"),
        "bare" => pod("west/shop/bare", ""),
        "prod" => with_namespace_labels(pod("west/prod/client", "app=web"), "purpose=production"),
        "monitor" => with_namespace_labels(pod("west/ops/monitor", "type=monitor"), "team=ops"),
        "ops" => with_namespace_labels(pod("west/ops/shell", "type=shell"), "team=ops"),
        "dns" => pod("west/kube-system/dns", "k8s-app=kube-dns"),
        "east-web" => pod("east/shop/web", "app=web tier=front"),
        address => return Err(address.parse().unwrap()),
    };
    Ok(claims)
}

fn pod_address(name: &str) -> Option<std::net::IpAddr> {
    let last = name.bytes().map(u32::from).sum::<u32>() % 250;
    format!("10.1.0.{last}").parse().ok()
}

fn may(table: &Table, from: &str, to: &str, protocol: u8, port: u16) -> bool {
    let known = KnownKeys::all();
    let ask = |direction, subject: &str, other: &str| {
        let Ok(subject) = end(subject) else {
            return true;
        };
        if subject.trust_domain() != table.cluster() {
            return true;
        }
        let claims = end(other);
        let query = Query {
            direction,
            subject: &subject,
            peer: match (&claims, other) {
                (Ok(claims), _) => Peer::Identity {
                    claims,
                    address: pod_address(other),
                },
                (Err(address), _) => Peer::Address(*address),
            },
            protocol,
            port,
            known: &known,
        };
        table.decide(&query).is_allowed()
    };
    ask(Egress, from, to) && ask(Ingress, to, from)
}

/// Source, destination, protocol, port, and whether the connection may be.
type Row = (&'static str, &'static str, u8, u16, bool);

fn check(recipe: &str, policies: Vec<Policy>, rows: &[Row]) {
    let table = compile(&set("west", policies)).unwrap();
    for (from, to, protocol, port, expected) in rows {
        let got = may(&table, from, to, *protocol, *port);
        assert_eq!(got, *expected, "{recipe}: {from} -> {to} {protocol}/{port}");
    }
}

#[test]
fn deny_and_allow_all() {
    let deny = || network_policy("deny", "app=web", &[Ingress], vec![]);
    check(
        "deny all traffic to an application",
        vec![deny()],
        &[
            ("api", "web", TCP, 80, false),
            ("web", "web", TCP, 80, false),
            ("prod", "web", TCP, 80, false),
            ("192.0.2.1", "web", TCP, 80, false),
            ("web", "api", TCP, 80, true),
            ("api", "db", TCP, 80, true),
        ],
    );
    let allow = network_policy(
        "allow",
        "app=web",
        &[Ingress],
        vec![(Ingress, vec![], vec![])],
    );
    check(
        "allow all beside deny all: policies only add",
        vec![deny(), allow],
        &[
            ("api", "web", TCP, 80, true),
            ("prod", "web", UDP, 53, true),
            ("192.0.2.1", "web", SCTP, 9, true),
            // Unannotated, so it says nothing of other clusters.
            ("east-web", "web", TCP, 80, false),
        ],
    );
    check(
        "default deny for a namespace",
        vec![network_policy("default", "", &[Ingress], vec![])],
        &[
            ("web", "api", TCP, 80, false),
            ("bare", "web", TCP, 80, false),
            ("web", "prod", TCP, 80, true),
        ],
    );
}

#[test]
fn who_may_come_in() {
    let ingress =
        |peers| network_policy("p", "app=api", &[Ingress], vec![(Ingress, peers, vec![])]);
    check(
        "limit traffic to an application",
        vec![ingress(vec![pods("app=web")])],
        &[
            ("web", "api", TCP, 80, true),
            ("db", "api", TCP, 80, false),
            // The same labels in another namespace, and in another cluster.
            ("prod", "api", TCP, 80, false),
            ("east-web", "api", TCP, 80, false),
        ],
    );
    check(
        "deny traffic from other namespaces",
        vec![ingress(vec![pods("")])],
        &[
            ("web", "api", TCP, 80, true),
            ("bare", "api", TCP, 80, true),
            ("prod", "api", TCP, 80, false),
            ("192.0.2.1", "api", TCP, 80, false),
        ],
    );
    check(
        "allow traffic from all namespaces: pods, not addresses",
        vec![ingress(vec![namespaces("", "")])],
        &[
            ("web", "api", TCP, 80, true),
            ("prod", "api", TCP, 80, true),
            ("192.0.2.1", "api", TCP, 80, false),
        ],
    );
    check(
        "allow a namespace",
        vec![ingress(vec![namespaces("purpose=production", "")])],
        &[
            ("prod", "api", TCP, 80, true),
            ("web", "api", TCP, 80, false),
        ],
    );
    check(
        "one item with both selectors means both",
        vec![ingress(vec![namespaces("team=ops", "type=monitor")])],
        &[
            ("monitor", "api", TCP, 80, true),
            ("ops", "api", TCP, 80, false),
            ("web", "api", TCP, 80, false),
        ],
    );
    check(
        "two items mean either",
        vec![ingress(vec![namespaces("team=ops", ""), pods("app=web")])],
        &[
            ("monitor", "api", TCP, 80, true),
            ("ops", "api", TCP, 80, true),
            ("web", "api", TCP, 80, true),
            ("db", "api", TCP, 80, false),
        ],
    );
    check(
        "a namespace by the label that the API server gives it",
        vec![ingress(vec![namespaces(
            "kubernetes.io/metadata.name=prod",
            "",
        )])],
        &[
            ("prod", "api", TCP, 80, true),
            ("ops", "api", TCP, 80, false),
        ],
    );
}

#[test]
fn expressions_on_labels() {
    let ingress = |peer| {
        network_policy(
            "p",
            "app=api",
            &[Ingress],
            vec![(Ingress, vec![peer], vec![])],
        )
    };
    let rows = |expected: [bool; 3]| {
        let [web, db, bare] = expected;
        [
            ("web", "api", TCP, 80, web),
            ("db", "api", TCP, 80, db),
            ("bare", "api", TCP, 80, bare),
        ]
    };
    let cases = [
        ("In", "tier=front,edge", [true, false, false]),
        (
            "NotIn holds of a pod without the label",
            "tier!=front",
            [false, true, true],
        ),
        ("Exists", "tier", [true, true, false]),
        ("DoesNotExist", "!tier", [false, false, true]),
        (
            "all must hold",
            "tier=front app!=web",
            [false, false, false],
        ),
        (
            "the same key twice",
            "tier!=front tier!=edge",
            [false, true, true],
        ),
    ];
    for (recipe, selector, expected) in cases {
        check(recipe, vec![ingress(pods(selector))], &rows(expected));
    }
    let not_prod = ingress(namespaces("purpose!=production", ""));
    let rows = [
        ("prod", "api", TCP, 80, false),
        ("ops", "api", TCP, 80, true),
    ];
    check(
        "NotIn on a namespace without the label",
        vec![not_prod],
        &rows,
    );
}

#[test]
fn ports() {
    let on = |ports| network_policy("p", "tier=back", &[Ingress], vec![(Ingress, vec![], ports)]);
    check(
        "only a port, from everywhere",
        vec![on(vec![port(TCP, 5000, 5000)])],
        &[
            ("web", "api", TCP, 5000, true),
            ("192.0.2.1", "api", TCP, 5000, true),
            ("web", "api", TCP, 5001, false),
            ("web", "api", UDP, 5000, false),
            ("web", "api", SCTP, 5000, false),
        ],
    );
    check(
        "endPort is included",
        vec![on(vec![port(UDP, 32000, 32768)])],
        &[
            ("web", "api", UDP, 31999, false),
            ("web", "api", UDP, 32000, true),
            ("web", "api", UDP, 32768, true),
            ("web", "api", UDP, 32769, false),
        ],
    );
    let whole = PortMatch {
        protocol: SCTP,
        port: PortSpec::Any,
    };
    check(
        "a protocol without a port",
        vec![on(vec![whole])],
        &[("web", "db", SCTP, 7, true), ("web", "db", TCP, 7, false)],
    );
    check(
        "a named port is what the selected pod calls so",
        vec![on(vec![named("http")])],
        &[
            ("web", "api", TCP, 80, true),
            ("web", "api", TCP, 8080, false),
            // db has no port of that name.
            ("web", "db", TCP, 80, false),
        ],
    );
    check(
        "peers and ports of one rule both hold; of two rules they do not mix",
        vec![network_policy(
            "p",
            "app=api",
            &[Ingress],
            vec![
                (Ingress, vec![pods("app=web")], vec![port(TCP, 80, 80)]),
                (Ingress, vec![pods("app=db")], vec![port(TCP, 90, 90)]),
            ],
        )],
        &[
            ("web", "api", TCP, 80, true),
            ("db", "api", TCP, 90, true),
            ("web", "api", TCP, 90, false),
            ("db", "api", TCP, 80, false),
        ],
    );
}

#[test]
fn egress() {
    check(
        "deny egress of an application",
        vec![network_policy("p", "app=web", &[Egress], vec![])],
        &[
            ("web", "api", TCP, 80, false),
            ("web", "192.0.2.1", TCP, 443, false),
            ("api", "web", TCP, 80, true),
            ("192.0.2.1", "web", TCP, 80, true),
        ],
    );
    let dns = vec![port(UDP, 53, 53), port(TCP, 53, 53)];
    check(
        "egress to DNS only",
        vec![network_policy(
            "p",
            "",
            &[Egress],
            vec![(
                Egress,
                vec![namespaces("", "k8s-app=kube-dns")],
                dns.clone(),
            )],
        )],
        &[
            ("web", "dns", UDP, 53, true),
            ("web", "dns", TCP, 53, true),
            ("web", "dns", TCP, 80, false),
            ("web", "api", UDP, 53, false),
            ("web", "192.0.2.53", UDP, 53, false),
        ],
    );
    check(
        "nothing leaves the cluster",
        vec![network_policy(
            "p",
            "",
            &[Egress],
            vec![
                (Egress, vec![namespaces("", "")], vec![]),
                (Egress, vec![], dns),
            ],
        )],
        &[
            ("web", "api", TCP, 80, true),
            ("web", "prod", TCP, 80, true),
            ("web", "192.0.2.1", TCP, 443, false),
            ("web", "192.0.2.53", UDP, 53, true),
        ],
    );
    check(
        "a named port is what each destination calls so",
        vec![network_policy(
            "p",
            "app=db",
            &[Egress],
            vec![(Egress, vec![], vec![named("http")])],
        )],
        &[
            ("db", "web", TCP, 8080, true),
            ("db", "web", TCP, 80, false),
            ("db", "api", TCP, 80, true),
            // An address has no port names.
            ("db", "192.0.2.1", TCP, 80, false),
        ],
    );
    check(
        "both ends must allow",
        vec![
            network_policy(
                "out",
                "app=web",
                &[Egress],
                vec![(Egress, vec![pods("app=api")], vec![])],
            ),
            network_policy(
                "in",
                "app=api",
                &[Ingress],
                vec![(Ingress, vec![pods("app=db")], vec![])],
            ),
        ],
        &[
            ("web", "api", TCP, 80, false),
            ("web", "db", TCP, 80, false),
            ("db", "api", TCP, 80, true),
        ],
    );
    check(
        "one policy for both directions",
        vec![network_policy(
            "p",
            "app=api",
            &[Ingress, Egress],
            vec![
                (Ingress, vec![pods("app=web")], vec![]),
                (Egress, vec![pods("app=db")], vec![]),
            ],
        )],
        &[
            ("web", "api", TCP, 80, true),
            ("api", "db", TCP, 80, true),
            ("api", "web", TCP, 80, false),
            ("db", "api", TCP, 80, false),
        ],
    );
}

#[test]
fn address_blocks() {
    let from = |peers| network_policy("p", "app=api", &[Ingress], vec![(Ingress, peers, vec![])]);
    check(
        "a block with a hole",
        vec![from(vec![block("192.0.2.0/24", &["192.0.2.128/25"])])],
        &[
            ("192.0.2.1", "api", TCP, 80, true),
            ("192.0.2.200", "api", TCP, 80, false),
            ("198.51.100.1", "api", TCP, 80, false),
            ("web", "api", TCP, 80, false),
        ],
    );
    check(
        "the hole of one block is no hole of another",
        vec![from(vec![
            block("192.0.2.0/24", &["192.0.2.128/25"]),
            block("192.0.2.192/26", &[]),
        ])],
        &[
            ("192.0.2.200", "api", TCP, 80, true),
            ("192.0.2.129", "api", TCP, 80, false),
        ],
    );
    check(
        "a block that holds pods allows them, their identity being proven; never remote ones",
        vec![from(vec![block("0.0.0.0/0", &[])])],
        &[
            ("web", "api", TCP, 80, true),
            ("192.0.2.1", "api", TCP, 80, true),
            ("2001:db8::1", "api", TCP, 80, false),
            ("east-web", "api", TCP, 80, false),
        ],
    );
    check(
        "IPv6",
        vec![from(vec![block("2001:db8::/32", &["2001:db8:1::/48"])])],
        &[
            ("2001:db8::1", "api", TCP, 80, true),
            ("2001:db8:1::1", "api", TCP, 80, false),
            ("192.0.2.1", "api", TCP, 80, false),
        ],
    );
}

#[test]
fn an_annotated_policy_reaches_other_clusters() {
    let mut policy = network_policy(
        "p",
        "app=api",
        &[Ingress],
        vec![(
            Ingress,
            vec![namespaces("", "app=web"), pods("app=db")],
            vec![],
        )],
    );
    policy.isolates.push((Ingress, Scope::Remote));
    for rule in &mut policy.rules {
        rule.scopes.push(Scope::Remote);
        // A source reaches out with the namespaceSelector only.
        if let Some(PeerMatch::Workload(peer)) = rule.peers.first_mut() {
            peer.clusters = ClusterMatch::Any;
        }
    }
    check(
        "annotated",
        vec![policy],
        &[
            ("web", "api", TCP, 80, true),
            ("east-web", "api", TCP, 80, true),
            ("db", "api", TCP, 80, true),
            ("monitor", "api", TCP, 80, false),
        ],
    );
}

#[test]
fn a_pod_and_its_own_node_always_may() {
    let closed = vec![network_policy("p", "", &[Ingress, Egress], vec![])];
    let table = compile(&set("west", closed)).unwrap();
    let (subject, known) = (pod("west/shop/web", "app=web"), KnownKeys::all());
    for direction in [Ingress, Egress] {
        let query = Query {
            direction,
            subject: &subject,
            peer: Peer::Node,
            protocol: TCP,
            port: 80,
            known: &known,
        };
        assert!(table.decide(&query).is_allowed());
    }
}

#[test]
fn isolation_covers_every_protocol() {
    let icmp = 1;
    check(
        "ICMP to an isolated pod",
        vec![network_policy(
            "p",
            "app=api",
            &[Ingress],
            vec![(Ingress, vec![], vec![tcp(80)])],
        )],
        &[("web", "api", icmp, 0, false), ("web", "db", icmp, 0, true)],
    );
}
