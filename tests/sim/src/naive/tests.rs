//! Each rule of the decision order, by hand.
#![allow(clippy::unwrap_used)]

use super::*;
use identity::{Assurance, Labels, NamedPort, SpiffeId, UnixMillis};
use policy::model::{PolicyKind, Requirement};

const TCP: u8 = 6;

fn td(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn pod(cluster: &str, namespace: &str, app: &str) -> Claims {
    let labels = |key: &str, value: &str| {
        Labels::try_from(BTreeMap::from([(key.to_owned(), value.to_owned())])).unwrap()
    };
    Claims {
        subject: SpiffeId::workload(&td(cluster), namespace, "default").unwrap(),
        issued_at: UnixMillis(0),
        expires_at: UnixMillis(600_000),
        id: [0; 16],
        agent_key: [0; 32],
        pod: app.to_owned(),
        pod_uid: app.to_owned(),
        labels: labels("app", app),
        namespace_labels: labels("kubernetes.io/metadata.name", namespace),
        zone: None,
        named_ports: vec![NamedPort {
            name: "http".to_owned(),
            protocol: TCP,
            port: 8080,
        }],
        assurance: Assurance::Agent,
        generation: 1,
    }
}

fn app(clusters: ClusterMatch, operator: Operator) -> WorkloadSelector {
    WorkloadSelector {
        clusters,
        namespaces: NamespaceMatch::Any,
        pods: LabelSelector(vec![
            Requirement {
                key: "app".to_owned(),
                operator,
            }
            .into(),
        ]),
        service_accounts: Vec::new(),
    }
}

fn is(value: &str) -> Operator {
    Operator::In(vec![value.to_owned()])
}

/// Ingress from pods of any cluster whose `app` is `web`, isolating in both scopes.
fn web_only(name: &str, tier: Tier, order: u32, action: Action) -> Policy {
    Policy {
        kind: PolicyKind::FederationPolicy,
        namespace: Some("shop".to_owned()),
        name: name.to_owned(),
        tier,
        order,
        subject: app(ClusterMatch::Own, is("api")),
        staged: false,
        isolates: vec![
            (Direction::Ingress, Scope::Local),
            (Direction::Ingress, Scope::Remote),
        ],
        rules: vec![Rule {
            not_ports: Vec::new(),
            name: "web".to_owned(),
            direction: Direction::Ingress,
            action,
            reject: false,
            scopes: vec![Scope::Local, Scope::Remote],
            peers: vec![PeerMatch::Workload(app(ClusterMatch::Any, is("web")))],
            ports: vec![PortMatch {
                protocol: TCP,
                port: PortSpec::Named("http".to_owned()),
            }],
            assurance: Assurance::Agent,
        }],
    }
}

fn oracle(policies: Vec<Policy>) -> Oracle {
    let cluster = td("west");
    let set = PolicySet {
        cluster: cluster.clone(),
        policies: policies.into_iter().map(Into::into).collect(),
    };
    Oracle {
        policies: BTreeMap::from([(cluster, set)]),
        carried: BTreeMap::new(),
    }
}

/// Ingress of `west/shop/api` on its port 8080: the rule, `allow` or the reason.
fn ingress(oracle: &Oracle, other: Other<'_>) -> String {
    let api = pod("west", "shop", "api");
    let judgement = oracle.judge(Direction::Ingress, &api, other, TCP, 8080);
    match (judgement.rule, judgement.dropped) {
        (Some(rule), None) => format!("allow by {rule}"),
        (Some(rule), Some((reason, _))) => format!("{reason} by {rule}"),
        (None, None) => "allow".to_owned(),
        (None, Some((reason, _))) => reason.to_string(),
    }
}

#[test]
fn defaults() {
    let open = oracle(vec![]);
    let (near, far) = (pod("west", "shop", "web"), pod("east", "shop", "web"));
    assert_eq!(ingress(&open, Other::Pod(&near, None)), "allow");
    assert_eq!(ingress(&open, Other::Pod(&far, None)), "denied-by-default");
    let address = Other::Address("192.0.2.1".parse().unwrap());
    assert_eq!(ingress(&open, address), "allow");
    let closed = oracle(vec![web_only("p", Tier::Application, 1, Action::Allow)]);
    assert_eq!(ingress(&closed, address), "denied-by-default");
    assert_eq!(ingress(&closed, Other::Node), "allow");
}

#[test]
fn an_allowed_peer_and_port() {
    let oracle = oracle(vec![web_only("p", Tier::Application, 1, Action::Allow)]);
    for cluster in ["west", "east"] {
        let (web, db) = (pod(cluster, "shop", "web"), pod(cluster, "shop", "db"));
        assert_eq!(
            ingress(&oracle, Other::Pod(&web, None)),
            "allow by shop/p web"
        );
        assert_eq!(ingress(&oracle, Other::Pod(&db, None)), "denied-by-default");
    }
    let (web, api) = (pod("west", "shop", "web"), pod("west", "shop", "api"));
    let to_api = |port| oracle.connect((&web, None), (&api, None), TCP, port);
    assert_eq!(to_api(8080), Ok(()));
    assert_eq!(to_api(8081).unwrap_err().0, Direction::Ingress);
    let far = pod("east", "shop", "api");
    let out = oracle.connect((&web, None), (&far, None), TCP, 8080);
    assert_eq!(out.unwrap_err().0, Direction::Egress);
}

#[test]
fn order_and_tiers() {
    let web = pod("west", "shop", "web");
    let with = |policies| ingress(&oracle(policies), Other::Pod(&web, None));
    let policy = |name, order, action| web_only(name, Tier::Application, order, action);
    let allow = || policy("allow", 5, Action::Allow);
    let deny = |order| policy("deny", order, Action::Deny);
    assert_eq!(
        with(vec![allow(), deny(5)]),
        "denied-by-rule by shop/deny web"
    );
    assert_eq!(with(vec![allow(), deny(6)]), "allow by shop/allow web");
    let admin = |action| web_only("admin", Tier::Admin, 9, action);
    assert_eq!(
        with(vec![allow(), admin(Action::Deny)]),
        "denied-by-rule by shop/admin web"
    );
    assert_eq!(
        with(vec![allow(), admin(Action::Pass)]),
        "allow by shop/allow web"
    );
    assert_eq!(with(vec![admin(Action::Log)]), "allow");
    assert_eq!(
        with(vec![policy("pass", 1, Action::Pass), deny(5)]),
        "allow"
    );
    let baseline = || web_only("base", Tier::Baseline, 1, Action::Allow);
    assert_eq!(with(vec![baseline()]), "allow by shop/base web");
    let mut isolating = policy("iso", 1, Action::Log);
    assert_eq!(
        with(vec![isolating.clone(), baseline()]),
        "denied-by-default"
    );
    isolating.isolates.clear();
    assert_eq!(with(vec![isolating, baseline()]), "allow by shop/base web");
}

#[test]
fn what_is_not_carried_never_helps() {
    let far = pod("east", "shop", "web");
    let with = |policies| {
        let mut oracle = oracle(policies);
        oracle.carried.insert(td("east"), BTreeSet::new());
        ingress(&oracle, Other::Pod(&far, None))
    };
    let policy = |name, action| web_only(name, Tier::Admin, 1, action);
    assert_eq!(with(vec![policy("a", Action::Allow)]), "label-not-carried");
    assert_eq!(
        with(vec![policy("d", Action::Deny)]),
        "label-not-carried by shop/d web"
    );
    let mut open = web_only("open", Tier::Admin, 2, Action::Allow);
    open.rules[0].peers.clear();
    assert_eq!(with(vec![open.clone()]), "allow by shop/open web");
    let pass = policy("pass", Action::Pass);
    assert_eq!(with(vec![pass.clone(), open.clone()]), "label-not-carried");
    let mut later = open.clone();
    (later.name, later.tier) = ("later".to_owned(), Tier::Application);
    assert_eq!(with(vec![pass, open, later]), "allow by shop/open web");
}

#[test]
fn weakly_vouched_for() {
    let mut far = pod("east", "shop", "web");
    far.assurance = Assurance::Gateway;
    let mut policy = web_only("p", Tier::Application, 1, Action::Allow);
    let strict = oracle(vec![policy.clone()]);
    assert_eq!(
        ingress(&strict, Other::Pod(&far, None)),
        "assurance-too-low"
    );
    policy.rules[0].assurance = Assurance::Gateway;
    let lax = oracle(vec![policy]);
    assert_eq!(ingress(&lax, Other::Pod(&far, None)), "allow by shop/p web");
}
