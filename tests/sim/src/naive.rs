//! What should be allowed, worked out the slow way.
//!
//! The simulator compares what happened with this. It reads the policies as they were written,
//! afresh for every question: no table, no index, no cache, no order kept between questions. It
//! shares the types of the model with `policy`, and no code that judges.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use identity::{Claims, TrustDomain};
use policy::{
    DropReason,
    model::{
        Action, ClusterMatch, Direction, LabelSelector, NamespaceMatch, Operator, PeerMatch,
        Policy, PolicySet, PortMatch, PortSpec, Rule, Scope, Tier, WorkloadSelector,
    },
};

/// The policies of every cluster and the label keys that they carry.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    /// By the cluster that enforces them. A cluster without an entry has no policy.
    pub policies: BTreeMap<TrustDomain, PolicySet>,
    /// The keys of clusters that carry less than every label.
    pub carried: BTreeMap<TrustDomain, BTreeSet<String>>,
}

/// The other end, seen from a pod.
#[derive(Clone, Copy, Debug)]
pub enum Other<'a> {
    /// A pod that proved its identity, and its address if that is known here.
    Pod(&'a Claims, Option<IpAddr>),
    /// An address outside the identity networks.
    Address(IpAddr),
    /// The pod's own node.
    Node,
}

/// What should become of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Why it is dropped, and whether that is said to the sender; `None` when it is allowed.
    pub dropped: Option<(DropReason, bool)>,
    /// `namespace/policy rule` that decided, or `policy rule` of a cluster-wide one.
    pub rule: Option<String>,
    /// The same of the Log rules that matched before.
    pub logs: Vec<String>,
}

impl Judgement {
    /// Whether it may be.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.dropped.is_none()
    }
}

/// One connection, seen from one of its ends.
struct Question<'a> {
    own: &'a TrustDomain,
    carried: &'a BTreeMap<TrustDomain, BTreeSet<String>>,
    direction: Direction,
    subject: &'a Claims,
    other: Other<'a>,
    protocol: u8,
    port: u16,
}

/// What was noticed on the way.
#[derive(Default)]
struct Notes {
    logs: Vec<String>,
    /// Why the first Allow that would have matched but for one thing did not.
    near_miss: Option<DropReason>,
}

const TIERS: [Tier; 3] = [Tier::Admin, Tier::Application, Tier::Baseline];

impl Oracle {
    /// A connection between two pods: the egress of `from` and the ingress of `to` must both allow
    /// it, each by the policies of its own cluster. Gives the first that does not.
    ///
    /// # Errors
    /// The direction that refuses, and why.
    pub fn connect(
        &self,
        from: (&Claims, Option<IpAddr>),
        to: (&Claims, Option<IpAddr>),
        protocol: u8,
        port: u16,
    ) -> Result<(), (Direction, Judgement)> {
        let egress = Other::Pod(to.0, to.1);
        let ingress = Other::Pod(from.0, from.1);
        for (direction, subject, other) in [
            (Direction::Egress, from.0, egress),
            (Direction::Ingress, to.0, ingress),
        ] {
            let judgement = self.judge(direction, subject, other, protocol, port);
            if !judgement.is_allowed() {
                return Err((direction, judgement));
            }
        }
        Ok(())
    }

    /// One direction, by the policies of the subject's cluster.
    #[must_use]
    pub fn judge(
        &self,
        direction: Direction,
        subject: &Claims,
        other: Other<'_>,
        protocol: u8,
        port: u16,
    ) -> Judgement {
        let question = Question {
            own: subject.trust_domain(),
            carried: &self.carried,
            direction,
            subject,
            other,
            protocol,
            port,
        };
        let written = self.policies.get(subject.trust_domain());
        let policies = written.map_or(&[][..], |set| &set.policies);
        let mut notes = Notes::default();
        let (dropped, rule) = if matches!(other, Other::Node) {
            (None, None)
        } else {
            question.tiers(0, policies, &mut notes).1
        };
        Judgement {
            dropped,
            rule,
            logs: notes.logs,
        }
    }
}

type Answer = (Option<(DropReason, bool)>, Option<String>);

impl Question<'_> {
    /// What the tiers from number `from` on say, and the number of the tier that said it.
    fn tiers(&self, from: usize, policies: &[Policy], notes: &mut Notes) -> (usize, Answer) {
        let Some(&tier) = TIERS.get(from) else {
            let local = self.scope() == Scope::Local;
            let answer = if local {
                None
            } else {
                Some((because(notes), false))
            };
            return (from, (answer, None));
        };
        let mut unsure_pass = false;
        for (policy, rule) in self.rules_in_order(tier, policies) {
            let fits = self.rule_fits(policy, rule);
            let name = Some(name(policy, rule));
            match rule.action {
                Action::Log if fits != Some(false) => notes.logs.extend(name),
                Action::Deny if fits == Some(true) => {
                    return (from, (Some((DropReason::DeniedByRule, rule.reject)), name));
                }
                Action::Deny if fits.is_none() => {
                    return (
                        from,
                        (Some((DropReason::LabelNotCarried, rule.reject)), name),
                    );
                }
                Action::Pass if fits == Some(true) => {
                    return self.tiers(from + 1, policies, notes);
                }
                Action::Pass if fits.is_none() => unsure_pass = true,
                Action::Allow if fits == Some(true) && !self.too_weak(rule) => {
                    if !unsure_pass {
                        return (from, (None, name));
                    }
                    // Perhaps the Pass before it matched: then the later tiers decide.
                    return match self.tiers(from + 1, policies, notes) {
                        (_, (None, _)) => (from, (None, name)),
                        (at, (Some((DropReason::DeniedByDefault, reject)), rule)) => {
                            (at, (Some((DropReason::LabelNotCarried, reject)), rule))
                        }
                        refused => refused,
                    };
                }
                Action::Allow if fits != Some(false) => {
                    let why = if self.too_weak(rule) {
                        DropReason::AssuranceTooLow
                    } else {
                        DropReason::LabelNotCarried
                    };
                    notes.near_miss.get_or_insert(why);
                }
                _ => {}
            }
        }
        // An Admin policy never isolates: what it does not match goes on.
        if tier != Tier::Admin {
            let isolating = policies.iter().filter(|p| p.tier == tier);
            let isolating =
                isolating.filter(|p| p.isolates.contains(&(self.direction, self.scope())));
            let selects: Vec<_> = isolating
                .map(|p| self.selects(&p.subject, self.subject))
                .collect();
            if selects.contains(&Some(true)) {
                return (from, (Some((because(notes), false)), None));
            }
            if selects.contains(&None) {
                notes.near_miss.get_or_insert(DropReason::LabelNotCarried);
                return (from, (Some((because(notes), false)), None));
            }
        }
        self.tiers(from + 1, policies, notes)
    }

    /// Lower order first; at equal order logs, then deny, pass, allow; then by object and by place
    /// in it.
    fn rules_in_order<'p>(
        &self,
        tier: Tier,
        policies: &'p [Policy],
    ) -> Vec<(&'p Policy, &'p Rule)> {
        let mut rules = Vec::new();
        for policy in policies.iter().filter(|p| p.tier == tier) {
            for (place, rule) in policy.rules.iter().enumerate() {
                let action = match rule.action {
                    Action::Log => 'a',
                    Action::Deny => 'b',
                    Action::Pass => 'c',
                    Action::Allow => 'd',
                };
                let object = (policy.kind, &policy.namespace, &policy.name);
                rules.push(((policy.order, action, object, place), (policy, rule)));
            }
        }
        rules.sort_by_key(|(key, _)| *key);
        rules.into_iter().map(|(_, rule)| rule).collect()
    }

    fn scope(&self) -> Scope {
        match self.other {
            Other::Pod(claims, _) if claims.trust_domain() != self.own => Scope::Remote,
            _ => Scope::Local,
        }
    }

    /// Yes, no, or `None`: it depends on a label that is not carried.
    fn rule_fits(&self, policy: &Policy, rule: &Rule) -> Option<bool> {
        if rule.direction != self.direction || !rule.scopes.contains(&self.scope()) {
            return Some(false);
        }
        let peers: Vec<_> = rule.peers.iter().map(|p| self.peer_fits(p)).collect();
        let peer = if peers.is_empty() {
            Some(true)
        } else {
            or(peers)
        };
        let port = rule.ports.is_empty() || rule.ports.iter().any(|p| self.port_fits(p));
        and(vec![
            self.selects(&policy.subject, self.subject),
            peer,
            Some(port),
        ])
    }

    fn peer_fits(&self, wanted: &PeerMatch) -> Option<bool> {
        match (wanted, self.other) {
            (PeerMatch::Workload(selector), Other::Pod(claims, _)) => {
                self.selects(selector, claims)
            }
            (PeerMatch::Net { cidr, except }, Other::Address(a) | Other::Pod(_, Some(a))) => {
                Some(cidr.contains(&a) && !except.iter().any(|e| e.contains(&a)))
            }
            _ => Some(false),
        }
    }

    fn port_fits(&self, wanted: &PortMatch) -> bool {
        let destination = match (self.direction, self.other) {
            (Direction::Ingress, _) => Some(self.subject),
            (Direction::Egress, Other::Pod(claims, _)) => Some(claims),
            (Direction::Egress, _) => None,
        };
        let names = destination.map_or(&[][..], |claims| &claims.named_ports);
        let port = match &wanted.port {
            PortSpec::Any => true,
            PortSpec::Range(first, last) => *first <= self.port && self.port <= *last,
            PortSpec::Named(name) => names
                .iter()
                .any(|n| &n.name == name && n.port == self.port && n.protocol == self.protocol),
        };
        port && wanted.protocol == self.protocol
    }

    /// Only another cluster's pods must be vouched for as strongly as an Allow asks.
    fn too_weak(&self, rule: &Rule) -> bool {
        match self.other {
            Other::Pod(claims, _) if self.scope() == Scope::Remote => {
                claims.assurance < rule.assurance
            }
            _ => false,
        }
    }

    fn selects(&self, selector: &WorkloadSelector, claims: &Claims) -> Option<bool> {
        let cluster = claims.trust_domain();
        let in_cluster = match &selector.clusters {
            ClusterMatch::Own => cluster == self.own,
            ClusterMatch::Any => true,
            ClusterMatch::Remote => cluster != self.own,
            ClusterMatch::Listed(list) => list.iter().any(|c| c == cluster),
        };
        let in_namespace = match &selector.namespaces {
            NamespaceMatch::Any => Some(true),
            NamespaceMatch::Names(names) => Some(names.iter().any(|n| n == claims.namespace())),
            NamespaceMatch::Labels(labels) => {
                self.labels_fit(labels, cluster, |key| claims.namespace_labels.value(key))
            }
        };
        let labelled = self.labels_fit(&selector.pods, cluster, |key| claims.labels.value(key));
        let accounts = &selector.service_accounts;
        let account = accounts.is_empty() || accounts.iter().any(|a| a == claims.service_account());
        and(vec![
            Some(in_cluster),
            in_namespace,
            labelled,
            Some(account),
        ])
    }

    fn labels_fit<'c>(
        &self,
        selector: &LabelSelector,
        cluster: &TrustDomain,
        value: impl Fn(&str) -> Option<&'c str>,
    ) -> Option<bool> {
        let fits = selector.0.iter().map(|wanted| {
            let carried = self.carried.get(cluster);
            if carried.is_some_and(|keys| !keys.contains(&wanted.key)) {
                return None;
            }
            let found = value(&wanted.key);
            Some(match &wanted.operator {
                Operator::In(values) => values.iter().any(|v| found == Some(v)),
                Operator::NotIn(values) => values.iter().all(|v| found != Some(v)),
                Operator::Exists => found.is_some(),
                Operator::DoesNotExist => found.is_none(),
            })
        });
        and(fits.collect())
    }
}

/// One no is no; else one unknown is unknown.
fn and(parts: Vec<Option<bool>>) -> Option<bool> {
    if parts.contains(&Some(false)) {
        Some(false)
    } else if parts.contains(&None) {
        None
    } else {
        Some(true)
    }
}

/// One yes is yes; else one unknown is unknown.
fn or(parts: Vec<Option<bool>>) -> Option<bool> {
    if parts.contains(&Some(true)) {
        Some(true)
    } else if parts.contains(&None) {
        None
    } else {
        Some(false)
    }
}

fn because(notes: &Notes) -> DropReason {
    notes.near_miss.unwrap_or(DropReason::DeniedByDefault)
}

fn name(policy: &Policy, rule: &Rule) -> String {
    match &policy.namespace {
        Some(namespace) => format!("{namespace}/{} {}", policy.name, rule.name),
        None => format!("{} {}", policy.name, rule.name),
    }
}

#[cfg(test)]
mod tests {
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
            pods: LabelSelector(vec![Requirement {
                key: "app".to_owned(),
                operator,
            }]),
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
            isolates: vec![
                (Direction::Ingress, Scope::Local),
                (Direction::Ingress, Scope::Remote),
            ],
            rules: vec![Rule {
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
            policies,
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
}
