//! What should be allowed, worked out the slow way.
//!
//! The simulator compares what happened with this. It reads the policies as they were written,
//! afresh for every question: no table, no index, no cache, no order kept between questions. It
//! shares the types of the model with `policy`, and no code that judges.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use identity::{Claims, TrustDomain};
use policy::{
    DropReason,
    model::{
        Action, ClusterMatch, Direction, LabelSelector, NamespaceMatch, Operator, Part, PeerMatch,
        Policy, PolicyKind, PolicySet, PortMatch, PortSpec, Rule, Scope, Term, Tier,
        WorkloadSelector,
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
    /// The same, known or not, with the names that DNS told the pod of it.
    Named(Option<IpAddr>, &'a [Arc<str>]),
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
    /// As if staged policies were enforced.
    staged: bool,
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
        self.judge_as_if(false, direction, subject, other, protocol, port)
    }

    /// The same with or without staged policies.
    #[must_use]
    pub fn judge_as_if(
        &self,
        staged: bool,
        direction: Direction,
        subject: &Claims,
        other: Other<'_>,
        protocol: u8,
        port: u16,
    ) -> Judgement {
        let question = Question {
            own: subject.trust_domain(),
            carried: &self.carried,
            staged,
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
    fn tiers(&self, from: usize, policies: &[Arc<Policy>], notes: &mut Notes) -> (usize, Answer) {
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
            let isolating = policies.iter().filter(|p| self.counts(p, tier));
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

    /// Lower order first; at equal order objects whose rules stand in an order, then logs, then deny, pass,
    /// allow of the others; then by object and by place in it.
    fn rules_in_order<'p>(
        &self,
        tier: Tier,
        policies: &'p [Arc<Policy>],
    ) -> Vec<(&'p Policy, &'p Rule)> {
        let mut rules = Vec::new();
        let policies = policies.iter().map(|policy| &**policy);
        for policy in policies.filter(|p| self.counts(p, tier)) {
            for (place, rule) in policy.rules.iter().enumerate() {
                let ordered = !matches!(
                    policy.kind,
                    PolicyKind::NetworkPolicy
                        | PolicyKind::FederationPolicy
                        | PolicyKind::ClusterFederationPolicy
                        | PolicyKind::Team
                        | PolicyKind::PlatformAllowList
                );
                let action = match rule.action {
                    _ if ordered => ' ',
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

    fn counts(&self, policy: &Policy, tier: Tier) -> bool {
        policy.tier == tier && (self.staged || !policy.staged)
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
        let port = (rule.ports.is_empty() || rule.ports.iter().any(|p| self.port_fits(p)))
            && !rule.not_ports.iter().any(|p| self.port_fits(p));
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
            (PeerMatch::Net { cidr, except }, Other::Named(Some(a), _)) => {
                Some(cidr.contains(&a) && !except.iter().any(|e| e.contains(&a)))
            }
            (PeerMatch::Domain(wanted), Other::Named(_, names)) => {
                Some(names.iter().any(|name| match wanted.below {
                    true => name.ends_with(&format!(".{}", wanted.name)),
                    false => **name == *wanted.name,
                }))
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
                self.labels_fit(labels, cluster, &|key| claims.namespace_labels.value(key))
            }
        };
        let labelled = self.labels_fit(&selector.pods, cluster, &|key| claims.labels.value(key));
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
        value: &dyn Fn(&str) -> Option<&'c str>,
    ) -> Option<bool> {
        let fits = selector.0.iter().map(|term| match term {
            Term::AnyOf(choices) => {
                let choices = choices.iter();
                or(choices
                    .map(|c| self.labels_fit(c, cluster, value))
                    .collect())
            }
            Term::Label(wanted) => {
                let carried = self.carried.get(cluster);
                if carried.is_some_and(|keys| !keys.contains(&wanted.key)) {
                    return None;
                }
                Some(label_fits(value(&wanted.key), &wanted.operator))
            }
        });
        and(fits.collect())
    }
}

fn label_fits(found: Option<&str>, wanted: &Operator) -> bool {
    let like = |part: &Part| match (part, found) {
        (_, None) => false,
        (Part::Contains(text), Some(found)) => found.contains(text),
        (Part::StartsWith(text), Some(found)) => found.starts_with(text),
        (Part::EndsWith(text), Some(found)) => found.ends_with(text),
    };
    match wanted {
        Operator::In(values) => values.iter().any(|v| found == Some(v)),
        Operator::NotIn(values) => values.iter().all(|v| found != Some(v)),
        Operator::Exists => found.is_some(),
        Operator::DoesNotExist => found.is_none(),
        Operator::Like(part) => like(part),
        Operator::NotLike(part) => !like(part),
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

// By its path, because tests of other crates take this file in.
#[cfg(test)]
#[path = "naive/tests.rs"]
mod tests;
