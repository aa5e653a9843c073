//! Zones, teams and workloads that are no pods: what few words mean for many.
#![allow(missing_docs, clippy::unwrap_used)]

use landbridge_sources::{Effect, World, worlds_of};
use policy::{Decision, DropReason, KnownKeys, Peer, Query, Table, model::Direction};
use serde_json::{Value, json};

const BY_RULE: Option<DropReason> = Some(DropReason::DeniedByRule);
const DENIED: Option<DropReason> = Some(DropReason::DeniedByDefault);

fn of(cluster: &str, mut object: Value) -> Value {
    object["metadata"]["annotations"]["landbridge.io/cluster"] = json!(cluster);
    object
}

fn ours(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "landbridge.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// Clusters `east` and `west`, each with namespaces `shop` and `pay` of the team of that name, and in each the pods
/// `web` and `api`.
fn clusters() -> Vec<Value> {
    let mut objects = Vec::new();
    for (cluster, net) in [("east", 1), ("west", 2)] {
        for (namespace, number) in [("shop", 0), ("pay", 10)] {
            objects.push(of(
                cluster,
                json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": namespace, "labels": {"team": namespace}}}),
            ));
            for (name, last) in [("web", 1), ("api", 2)] {
                objects.push(of(cluster, json!({"apiVersion": "v1", "kind": "Pod",
                    "metadata": {"name": format!("{namespace}-{name}"), "namespace": namespace, "labels": {"app": name}},
                    "spec": {"containers": [{"name": "main", "image": "x"}]},
                    "status": {"podIP": format!("10.{net}.0.{}", number + last)}})));
            }
        }
    }
    objects
}

struct Federation(Vec<(World, Table)>);

impl Federation {
    fn new(objects: &[Value]) -> Self {
        let (worlds, problems) = worlds_of(&[clusters(), objects.to_vec()].concat());
        assert_eq!(problems, []);
        let table = |world: World| {
            let table = policy::compile(&world.policies).unwrap();
            (world, table)
        };
        Self(worlds.into_iter().map(table).collect())
    }

    /// The same objects in both clusters, and nothing wrong with them.
    fn both(objects: &[Value]) -> Self {
        let of_both = |cluster| objects.iter().map(move |o| of(cluster, o.clone()));
        let federation = Self::new(&of_both("east").chain(of_both("west")).collect::<Vec<_>>());
        for (world, _) in &federation.0 {
            assert_eq!(world.problems, []);
        }
        federation
    }

    fn cluster(&self, name: &str) -> &(World, Table) {
        self.0.iter().find(|(w, _)| w.cluster.name == name).unwrap()
    }

    /// One end of `from` -> `to`; `None` when it allows.
    fn end(&self, direction: Direction, from: &str, to: &str, port: u16) -> Option<DropReason> {
        let (own, other) = match direction {
            Direction::Ingress => (to, from),
            Direction::Egress => (from, to),
        };
        let claims = |text: &str| {
            let (cluster, pod) = text.split_once('/')?;
            let (world, _) = self.cluster(cluster);
            let workload = world.workloads.iter().find(|w| w.pod == pod).unwrap();
            let claims = workload.claims(&world.cluster.trust_domain).unwrap();
            Some((claims, workload.address))
        };
        let (subject, _) = claims(own).unwrap();
        let known = claims(other);
        let names = [other.into()];
        let peer = match (&known, other.parse()) {
            (Some((claims, address)), _) => Peer::Identity {
                claims,
                address: *address,
            },
            (None, Ok(address)) => Peer::Address(address),
            (None, Err(_)) => Peer::Named {
                address: None,
                names: &names,
            },
        };
        let (_, table) = self.cluster(own.split_once('/').unwrap().0);
        let query = Query {
            direction,
            subject: &subject,
            peer,
            protocol: 6,
            port,
            known: &KnownKeys::all(),
        };
        match table.decide(&query).decision {
            Decision::Allow => None,
            Decision::Drop { reason, .. } => Some(reason),
        }
    }

    /// Both ends, the source's first.
    fn connect(&self, from: &str, to: &str) -> Option<DropReason> {
        let egress = self.end(Direction::Egress, from, to, 443);
        match to.contains('/') {
            true => egress.or_else(|| self.end(Direction::Ingress, from, to, 443)),
            false => egress,
        }
    }
}

fn zones(rows: Value, otherwise: &str) -> Value {
    ours(
        "Zones",
        "z",
        json!({"zones": [
        {"name": "quarantine", "members": [{"selector": "has(quarantine)"}]},
        {"name": "shop", "members": [{"namespaceSelector": {"matchLabels": {"team": "shop"}}}]},
        {"name": "pay", "members": [{"namespaceExpression": "team == 'pay'"}]},
    ], "rows": rows, "otherwise": otherwise}),
    )
}

#[test]
fn a_matrix_of_zones_holds_within_and_across_clusters() {
    let rows =
        json!([{"from": ["shop"], "to": ["pay"], "action": "Allow", "ports": [{"port": 443}]}]);
    let f = Federation::both(&[zones(rows, "Deny")]);
    assert_eq!(f.connect("east/shop-web", "west/pay-api"), None);
    assert_eq!(f.connect("east/shop-web", "east/pay-api"), None);
    assert_eq!(
        f.end(Direction::Egress, "east/shop-web", "west/pay-api", 80),
        BY_RULE
    );
    assert_eq!(
        f.end(Direction::Ingress, "east/shop-web", "west/pay-api", 80),
        BY_RULE
    );
    assert_eq!(f.connect("west/pay-api", "east/shop-web"), BY_RULE);
    // Within a zone the other policies decide.
    assert_eq!(f.connect("east/shop-web", "east/shop-api"), None);
    assert_eq!(f.connect("east/shop-web", "west/shop-api"), DENIED);
    // What is in no zone is not meant.
    assert_eq!(f.connect("east/shop-web", "192.0.2.1"), None);
    let f = Federation::both(&[zones(json!([]), "Pass")]);
    assert_eq!(f.connect("east/shop-web", "east/pay-api"), None);
}

/// A label moves a workload into isolation, whatever else allows.
#[test]
fn quarantine() {
    let rows = json!([
        {"from": ["quarantine"], "action": "Deny"},
        {"to": ["quarantine"], "action": "Deny", "reject": true},
        {"action": "Allow"},
    ]);
    let mut f = Federation::both(&[zones(rows, "Pass")]);
    assert_eq!(f.connect("east/shop-web", "west/pay-api"), None);
    assert_eq!(f.connect("east/shop-web", "192.0.2.1"), None);
    for (world, _) in &mut f.0 {
        for workload in world.workloads.iter_mut().filter(|w| w.pod == "shop-web") {
            let mut labels: std::collections::BTreeMap<String, String> = workload
                .labels
                .iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect();
            labels.insert("quarantine".into(), String::new());
            workload.labels = labels.try_into().unwrap();
        }
    }
    for other in ["west/pay-api", "east/shop-api", "192.0.2.1", "example.com"] {
        assert_eq!(f.connect("east/shop-web", other), BY_RULE, "{other}");
    }
    for other in ["west/pay-api", "east/shop-api"] {
        assert_eq!(f.connect(other, "east/shop-web"), BY_RULE, "{other}");
        assert_eq!(
            f.end(Direction::Ingress, other, "east/shop-web", 1),
            BY_RULE,
            "{other}"
        );
    }
    assert_eq!(f.connect("east/pay-web", "west/pay-api"), None);
}

#[test]
fn the_first_row_decides_even_for_members_of_two_zones() {
    let rows = |first: &str, second: &str| json!([{"from": ["shop"], "to": ["all"], "action": first}, {"from": ["all"], "to": ["pay"], "action": second}]);
    let zones = |rows: Value| {
        let mut zones = zones(rows, "Pass");
        let all = json!({"name": "all", "members": [{"podSelector": {}}]});
        zones["spec"]["zones"].as_array_mut().unwrap().push(all);
        zones
    };
    let f = Federation::both(&[zones(rows("Deny", "Allow"))]);
    assert_eq!(f.connect("east/shop-web", "east/pay-api"), BY_RULE);
    let f = Federation::both(&[zones(rows("Allow", "Deny"))]);
    assert_eq!(f.connect("east/shop-web", "west/pay-api"), None);
    assert_eq!(f.connect("east/pay-web", "east/pay-api"), BY_RULE);
}

#[test]
fn policies_choose_zones() {
    let policy = json!({"apiVersion": "landbridge.io/v1alpha1", "kind": "FederationPolicy",
        "metadata": {"name": "p", "namespace": "pay"},
        "spec": {"ingress": [{"action": "Allow", "from": [{"zones": ["shop"]}]}]}});
    let f = Federation::both(&[zones(json!([]), "Pass"), policy.clone()]);
    assert_eq!(
        f.end(Direction::Ingress, "east/shop-web", "west/pay-api", 1),
        None
    );
    assert_eq!(
        f.end(Direction::Ingress, "west/pay-web", "west/pay-api", 1),
        DENIED
    );
    let f = Federation::new(&[of("west", policy)]);
    let problem = &f.cluster("west").0.problems[0];
    assert!(
        problem.message.starts_with("there is no zone shop"),
        "{problem}"
    );
    assert_eq!(
        f.end(Direction::Ingress, "east/shop-web", "west/pay-api", 1),
        DENIED
    );
}

#[test]
fn broken_zones_say_where() {
    for (rows, expected) in [
        (
            json!([{"from": ["shp"], "action": "Deny"}]),
            "spec.rows[0].from[0]: there is no zone \"shp\" here, did you mean shop?",
        ),
        (
            json!([{"action": "Allow", "reject": true}]),
            "spec.rows[0].reject: stands with action Allow",
        ),
        (
            json!([{"action": "Allow", "ports": [{"port": 0}]}]),
            "spec.rows[0].ports[0].port: 0 is no port",
        ),
    ] {
        let f = Federation::new(&[of("east", zones(rows, "Pass"))]);
        let problems = &f.cluster("east").0.problems;
        assert!(
            problems.iter().any(|p| p.to_string().contains(expected)),
            "{problems:?}"
        );
        assert!(
            problems.iter().any(|p| p.effect == Effect::Closed),
            "{problems:?}"
        );
    }
    let empty = ours(
        "Zones",
        "z",
        json!({"zones": [{"name": "a", "members": [{}]}, {"name": "a", "members": []}]}),
    );
    let f = Federation::new(&[of("east", empty)]);
    let text: Vec<String> = f
        .cluster("east")
        .0
        .problems
        .iter()
        .map(ToString::to_string)
        .collect();
    let text = text.join("\n");
    for expected in [
        "zones[0].members[0]: the member is empty",
        "zones[1].members: holds 0 members",
        "\"a\" names another zone too",
    ] {
        assert!(text.contains(expected), "{text}");
    }
}

fn shop(ingress: Value, egress: Value) -> Value {
    ours(
        "Team",
        "shop",
        json!({"services": [
            {"name": "api", "ingressPrivate": ingress, "egressPublic": egress},
            {"name": "web", "ingressPrivate": {"mode": "AllowAll"}},
        ]}),
    )
}

fn pay() -> Value {
    ours(
        "Team",
        "pay",
        json!({"services": [{"name": "web", "ingressPrivate": {"mode": "DenyAll"}}]}),
    )
}

#[test]
fn teams_say_who_may_call() {
    let f = Federation::both(&[
        shop(
            json!({"mode": "AllowOnly", "services": ["pay/web"]}),
            json!([]),
        ),
        pay(),
    ]);
    assert_eq!(f.connect("east/pay-web", "east/shop-api"), None);
    assert_eq!(f.connect("east/pay-web", "west/shop-api"), None);
    assert_eq!(f.connect("east/shop-web", "east/shop-api"), DENIED);
    assert_eq!(
        f.end(Direction::Ingress, "192.0.2.1", "east/shop-api", 443),
        DENIED
    );
    let into = |f: &Federation, from| f.end(Direction::Ingress, from, "east/shop-api", 443);
    let f = Federation::both(&[shop(json!({"mode": "AllowAll"}), json!([]))]);
    assert_eq!(
        [
            into(&f, "east/shop-web"),
            into(&f, "west/pay-api"),
            into(&f, "192.0.2.1")
        ],
        [None, None, DENIED]
    );
    let f = Federation::both(&[shop(json!({"mode": "DenyAll"}), json!([]))]);
    assert_eq!(
        [
            into(&f, "east/shop-web"),
            into(&f, "west/pay-api"),
            into(&f, "192.0.2.1")
        ],
        [DENIED; 3]
    );
    // Nothing is left of a file that is gone.
    let f = Federation::both(&[]);
    assert_eq!(
        [
            into(&f, "east/shop-web"),
            into(&f, "west/pay-api"),
            into(&f, "192.0.2.1")
        ],
        [None, DENIED, None]
    );
}

#[test]
fn teams_say_what_of_the_outside_they_call() {
    let public = json!([
        {"domains": ["*.example.com"], "ports": [{"port": 443}]},
        {"nets": ["192.0.2.0/24"]},
    ]);
    let f = Federation::both(&[shop(json!({"mode": "DenyAll"}), public)]);
    let to = |whom, port| f.end(Direction::Egress, "east/shop-api", whom, port);
    assert_eq!(to("www.example.com", 443), None);
    assert_eq!(to("www.example.com", 80), DENIED);
    assert_eq!(to("192.0.2.7", 80), None);
    assert_eq!(to("198.51.100.1", 443), DENIED);
    // Other workloads decide for themselves.
    assert_eq!(to("west/pay-api", 80), None);
    assert_eq!(
        f.end(Direction::Egress, "east/shop-web", "192.0.2.7", 80),
        DENIED
    );
}

#[test]
fn the_platform_allows_beside_the_teams() {
    let platform = ours(
        "PlatformAllowList",
        "platform",
        json!({
            "ingressPrivate": ["pay/web"],
            "egressPublic": [{"nets": ["192.0.2.53/32"], "ports": [{"protocol": "TCP", "port": 53}]}],
        }),
    );
    let f = Federation::both(&[shop(json!({"mode": "DenyAll"}), json!([])), pay(), platform]);
    assert_eq!(f.connect("west/pay-web", "east/shop-api"), None);
    assert_eq!(f.connect("east/shop-web", "east/shop-api"), DENIED);
    assert_eq!(
        f.end(Direction::Egress, "east/shop-api", "192.0.2.53", 53),
        None
    );
    assert_eq!(
        f.end(Direction::Egress, "east/shop-api", "192.0.2.53", 54),
        DENIED
    );
}

#[test]
fn a_plain_file_of_a_team_is_the_same() {
    let plain = json!({"team": "shop", "services": [{"name": "api", "ingressPrivate": {"mode": "AllowOnly", "services": ["nobody/web"]}, "colour": "red"}]});
    let (worlds, problems) = worlds_of(&[vec![plain.clone()], clusters()].concat());
    assert_eq!(problems, []);
    let local = worlds.iter().find(|w| w.cluster.name == "local").unwrap();
    let problems: Vec<String> = local.problems.iter().map(ToString::to_string).collect();
    // Paths are those of the file.
    assert!(
        problems[0].contains("Team shop: services[0].colour: unknown field"),
        "{problems:?}"
    );
    let mut right = plain;
    right["services"][0]
        .as_object_mut()
        .unwrap()
        .remove("colour");
    let (worlds, _) = worlds_of(&[right]);
    let [policy] = &worlds[0].policies.policies[..] else {
        panic!()
    };
    assert_eq!(policy.name, "shop/api");
    let problem = worlds[0].problems[0].to_string();
    assert!(
        problem.contains("services[0].ingressPrivate.services[0]: there is no service nobody/web"),
        "{problem}"
    );
}

#[test]
fn broken_teams_say_where() {
    for (service, expected) in [
        (
            json!({"name": "a"}),
            "services[0]: field ingressPrivate is missing",
        ),
        (
            json!({"name": "a", "ingressPrivate": {"mode": "Open"}}),
            "ingressPrivate.mode",
        ),
        (
            json!({"name": "a", "ingressPrivate": {"mode": "AllowOnly"}}),
            "ingressPrivate.services: AllowOnly lists no service",
        ),
        (
            json!({"name": "a", "ingressPrivate": {"mode": "DenyAll", "services": ["a/b"]}}),
            "ingressPrivate.services: stands with mode DenyAll",
        ),
        (
            json!({"name": "a", "ingressPrivate": {"mode": "AllowOnly", "services": ["web"]}}),
            "services[0]: \"web\" names no service; expected team/service",
        ),
        (
            json!({"name": "a", "ingressPrivate": {"mode": "AllowAll"}, "egressPublic": [{}]}),
            "egressPublic[0]: names no destination",
        ),
        (
            json!({"name": "a", "ingressPrivate": {"mode": "AllowAll"}, "egressPublic": [{"nets": ["x"]}]}),
            "egressPublic[0].nets[0]: \"x\" is no CIDR",
        ),
    ] {
        let f = Federation::new(&[of(
            "east",
            ours("Team", "shop", json!({"services": [service]})),
        )]);
        let problems = &f.cluster("east").0.problems;
        assert!(
            problems.iter().any(|p| p.to_string().contains(expected)),
            "{expected}: {problems:?}"
        );
    }
}

#[test]
fn a_workload_that_is_no_pod() {
    let vm = |name: &str, spec: Value| {
        let mut vm = ours("Workload", name, spec);
        vm["metadata"]["namespace"] = json!("shop");
        vm["metadata"]["labels"] = json!({"app": "db"});
        of("east", vm)
    };
    let spec = json!({"node": "n1", "address": "10.1.0.77", "interface": "tap0", "serviceAccount": "db",
        "ports": [{"name": "pg", "port": 5432}]});
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"ports": [{"port": "pg"}],
            "from": [{"podSelector": {"matchLabels": {"app": "api"}}}]}]}});
    let mut account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "db", "namespace": "shop"}});
    account = of("east", account);
    let f = Federation::new(&[vm("db", spec.clone()), of("east", policy), account]);
    let world = &f.cluster("east").0;
    assert_eq!(world.problems, []);
    let db = world.workloads.iter().find(|w| w.pod == "db").unwrap();
    assert_eq!(
        (db.interface.as_deref(), db.node.as_str()),
        (Some("tap0"), "n1")
    );
    assert_eq!(
        db.claims(&world.cluster.trust_domain)
            .unwrap()
            .subject
            .to_string(),
        "spiffe://east/ns/shop/sa/db"
    );
    assert_eq!(
        f.end(Direction::Ingress, "east/shop-api", "east/db", 5432),
        None
    );
    assert_eq!(
        f.end(Direction::Ingress, "east/shop-api", "east/db", 22),
        DENIED
    );
    assert_eq!(
        f.end(Direction::Ingress, "east/shop-web", "east/db", 5432),
        DENIED
    );
    // A pod of the same name goes first.
    let f = Federation::new(&[vm("shop-api", spec.clone())]);
    let problem = &f.cluster("east").0.problems[0];
    assert!(
        problem
            .message
            .contains("Pod shop/shop-api has the name already"),
        "{problem}"
    );
    for (field, value, expected) in [
        ("interface", "a b", "\"a b\" is no name of an interface"),
        ("address", "x", "\"x\" is no address"),
        ("node", "N", "\"N\" is not a DNS subdomain"),
    ] {
        let mut spec = spec.clone();
        spec[field] = json!(value);
        let f = Federation::new(&[vm("db", spec)]);
        let problems = &f.cluster("east").0.problems;
        assert!(
            problems.iter().any(|p| p.to_string().contains(expected)),
            "{expected}: {problems:?}"
        );
    }
}

#[test]
fn a_host_endpoint_is_refused_with_the_reason() {
    let endpoint = json!({"apiVersion": "projectcalico.org/v3", "kind": "HostEndpoint", "metadata": {"name": "h"}, "spec": {}});
    let f = Federation::new(&[of("east", endpoint)]);
    let problem = &f.cluster("east").0.problems[0];
    assert!(
        problem
            .message
            .starts_with("HostEndpoint is about the traffic of a host itself."),
        "{problem}"
    );
}
