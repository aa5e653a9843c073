//! What a cluster tells its peers of its policy, and the hash by which both know it is that.
//!
//! The hash is over bytes of our own (`docs/spec/digest.md`), not over a serialisation, so that a
//! change of serde or of a field's name cannot change it.

use identity::{Assurance, Claims, TrustDomain};
use ipnet::IpNet;
use sha2::{Digest, Sha256};

use crate::{
    KnownKeys, Peer, Table,
    anchor::{Marks, Offer},
    decide::too_weak,
    held::{self, canonical_order},
    index::{Purpose, Shelf},
    model::{
        Action, ClusterMatch, Direction, LabelSelector, NamespaceMatch, Operator, Part, PeerMatch,
        Policy, PolicyKind, PolicySet, PortMatch, PortSpec, Rule, Scope, Term, Tier,
        WorkloadSelector,
    },
    selector::{self, Context, Fit},
};

/// Separates the hash of a set from every other use of SHA-256.
const DOMAIN: &[u8] = b"landbridge policy digest 3\0";
/// The same for the hash of one policy.
const POLICY_DOMAIN: &[u8] = b"landbridge policy 3\0";

impl Table {
    /// The part that can admit, or refuse, identities of other clusters on ingress. For every such
    /// query its table gives the same decision and rule as this one; Log rules stay at home. Equal
    /// policies give equal parts, in canonical order.
    #[must_use]
    pub fn digest_part(&self) -> PolicySet {
        let told = self.held.iter().filter_map(|held| held.announced.clone());
        let mut policies: Vec<_> = told.collect();
        // In order already, but for policies of one name whose difference is not told.
        policies.sort_by(|a, b| canonical_order(a, b));
        policies.dedup();
        PolicySet {
            cluster: self.cluster().clone(),
            policies,
        }
    }

    /// SHA-256 of the canonical form of everything enforced. Equal for equal policies, however
    /// their lists were ordered.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let hashes: Vec<_> = self.held.iter().map(|held| held.hash).collect();
        set_hash(self.cluster(), &hashes)
    }

    /// Asked of a *digest's* table at the source: could any pod of that cluster admit `subject` at
    /// `port`? False only when no rule does, whatever the destination's labels, named ports and
    /// this pod's address as seen there.
    #[must_use]
    pub fn may_admit(&self, subject: &Claims, protocol: u8, port: u16) -> bool {
        let known = KnownKeys::all();
        let context = Context {
            own: self.cluster(),
            known: &known,
        };
        let peer = Peer::Identity {
            claims: subject,
            address: None,
        };
        let shelf = Shelf {
            lane: held::number((Direction::Ingress, Scope::Remote)),
            purpose: Purpose::Admission,
        };
        let marks = Marks::of(subject, &known);
        let offer = Offer::by_peer(&marks, protocol, port);
        let mut offered = Vec::new();
        self.index.offer(shelf, &marks, offer, |id| {
            offered.push(self.turn(id));
        });
        offered.into_iter().any(|turn| {
            let rule = &self.held[turn.policy()].policy.rules[turn.rule()];
            let fits = |wanted: &PeerMatch| match wanted {
                PeerMatch::Net { .. } => true,
                PeerMatch::Domain(_) => false,
                PeerMatch::Workload(_) => matches!(selector::peer(wanted, peer, context), Fit::Yes),
            };
            rule.action == Action::Allow
                && (rule.peers.is_empty() || rule.peers.iter().any(fits))
                && (rule.ports.is_empty() || rule.ports.iter().any(|p| may_fit(p, protocol, port)))
                && !rule.not_ports.iter().any(|p| must_fit(p, protocol, port))
                && !too_weak(rule, peer, Scope::Remote)
        })
    }
}

fn may_fit(wanted: &PortMatch, protocol: u8, port: u16) -> bool {
    wanted.protocol == protocol
        && match wanted.port {
            PortSpec::Any | PortSpec::Named(_) => true,
            PortSpec::Range(first, last) => (first..=last).contains(&port),
        }
}

/// The same whatever the destination calls its ports.
fn must_fit(unwanted: &PortMatch, protocol: u8, port: u16) -> bool {
    !matches!(unwanted.port, PortSpec::Named(_)) && may_fit(unwanted, protocol, port)
}

/// SHA-256 of the canonical form of a set, by those of its policies in canonical order.
pub(crate) fn set_hash(cluster: &TrustDomain, policies: &[[u8; 32]]) -> [u8; 32] {
    let mut out = Canon(Sha256::new());
    out.0.update(DOMAIN);
    out.text(cluster.as_str());
    out.list(policies, |out, hash| out.0.update(hash));
    out.0.finalize().into()
}

/// SHA-256 of the canonical form of one policy, which is in that form.
pub(crate) fn policy_hash(policy: &Policy) -> [u8; 32] {
    let mut out = Canon(Sha256::new());
    out.0.update(POLICY_DOMAIN);
    out.policy(policy);
    out.0.finalize().into()
}

/// What peers may know of `policy`; `None` when it does not concern them.
pub(crate) fn announced(policy: &Policy, own: &TrustDomain) -> Option<Policy> {
    if policy.staged {
        return None;
    }
    let concern = (Direction::Ingress, Scope::Remote);
    let isolates: Vec<_> = policy
        .isolates
        .iter()
        .copied()
        .filter(|i| *i == concern)
        .collect();
    let rules: Vec<_> = policy
        .rules
        .iter()
        .filter_map(|r| announced_rule(r, own))
        .collect();
    if isolates.is_empty() && rules.is_empty() {
        return None;
    }
    Some(Policy {
        isolates,
        rules,
        ..policy.clone()
    })
}

fn announced_rule(rule: &Rule, own: &TrustDomain) -> Option<Rule> {
    let concerns = rule.direction == Direction::Ingress
        && rule.scopes.contains(&Scope::Remote)
        && rule.action != Action::Log;
    if !concerns {
        return None;
    }
    let remote = rule.peers.iter().filter(|p| may_be_remote(p, own));
    let peers: Vec<_> = remote.cloned().collect();
    if peers.is_empty() && !rule.peers.is_empty() {
        return None;
    }
    Some(Rule {
        scopes: vec![Scope::Remote],
        peers,
        ..rule.clone()
    })
}

fn may_be_remote(peer: &PeerMatch, own: &TrustDomain) -> bool {
    match peer {
        PeerMatch::Net { .. } => true,
        PeerMatch::Domain(_) => false,
        PeerMatch::Workload(selector) => match &selector.clusters {
            ClusterMatch::Own => false,
            ClusterMatch::Any | ClusterMatch::Remote => true,
            ClusterMatch::Listed(listed) => listed.iter().any(|c| c != own),
        },
    }
}

/// Writes the canonical form: every list and text behind its length, every choice behind a number.
struct Canon(Sha256);

impl Canon {
    fn policy(&mut self, policy: &Policy) {
        self.byte(match policy.tier {
            Tier::Admin => 0,
            Tier::Application => 1,
            Tier::Baseline => 2,
        });
        self.0.update(policy.order.to_be_bytes());
        self.byte(match policy.kind {
            PolicyKind::NetworkPolicy => 0,
            PolicyKind::FederationPolicy => 1,
            PolicyKind::ClusterFederationPolicy => 2,
            PolicyKind::ClusterNetworkPolicy => 3,
            PolicyKind::AdminNetworkPolicy => 4,
            PolicyKind::BaselineAdminNetworkPolicy => 5,
            PolicyKind::Zones => 6,
            PolicyKind::Team => 7,
            PolicyKind::PlatformAllowList => 8,
        });
        self.list(policy.namespace.as_slice(), |c, n| c.text(n));
        self.text(&policy.name);
        self.byte(u8::from(policy.staged));
        self.workloads(&policy.subject);
        self.list(&policy.isolates, |c, (direction, scope)| {
            c.direction(*direction);
            c.scope(*scope);
        });
        self.list(&policy.rules, Self::rule);
    }

    fn rule(&mut self, rule: &Rule) {
        self.text(&rule.name);
        self.direction(rule.direction);
        self.byte(match rule.action {
            Action::Allow => 0,
            Action::Deny => 1,
            Action::Pass => 2,
            Action::Log => 3,
        });
        self.byte(u8::from(rule.reject));
        self.list(&rule.scopes, |c, s| c.scope(*s));
        self.list(&rule.peers, Self::peer);
        self.list(&rule.ports, Self::port);
        self.list(&rule.not_ports, Self::port);
        self.byte(match rule.assurance {
            Assurance::Gateway => 0,
            Assurance::Agent => 1,
        });
    }

    fn peer(&mut self, peer: &PeerMatch) {
        match peer {
            PeerMatch::Workload(selector) => {
                self.byte(0);
                self.workloads(selector);
            }
            PeerMatch::Net { cidr, except } => {
                self.byte(1);
                self.net(cidr);
                self.list(except, Self::net);
            }
            PeerMatch::Domain(pattern) => {
                self.byte(2);
                self.byte(u8::from(pattern.below));
                self.text(&pattern.name);
            }
        }
    }

    fn workloads(&mut self, selector: &WorkloadSelector) {
        match &selector.clusters {
            ClusterMatch::Own => self.byte(0),
            ClusterMatch::Any => self.byte(1),
            ClusterMatch::Remote => self.byte(2),
            ClusterMatch::Listed(listed) => {
                self.byte(3);
                self.list(listed, |c, td| c.text(td.as_str()));
            }
        }
        match &selector.namespaces {
            NamespaceMatch::Any => self.byte(0),
            NamespaceMatch::Names(names) => {
                self.byte(1);
                self.list(names, |c, n| c.text(n));
            }
            NamespaceMatch::Labels(labels) => {
                self.byte(2);
                self.labels(labels);
            }
        }
        self.labels(&selector.pods);
        self.list(&selector.service_accounts, |c, a| c.text(a));
    }

    fn labels(&mut self, selector: &LabelSelector) {
        self.list(&selector.0, |c, term| {
            let requirement = match term {
                Term::Label(requirement) => requirement,
                Term::AnyOf(choices) => {
                    c.byte(1);
                    return c.list(choices, Self::labels);
                }
            };
            c.byte(0);
            c.text(&requirement.key);
            match &requirement.operator {
                Operator::In(values) => {
                    c.byte(0);
                    c.list(values, |c, v| c.text(v));
                }
                Operator::NotIn(values) => {
                    c.byte(1);
                    c.list(values, |c, v| c.text(v));
                }
                Operator::Exists => c.byte(2),
                Operator::DoesNotExist => c.byte(3),
                Operator::Like(part) => {
                    c.byte(4);
                    c.part(part);
                }
                Operator::NotLike(part) => {
                    c.byte(5);
                    c.part(part);
                }
            }
        });
    }

    fn part(&mut self, part: &Part) {
        let (number, text) = match part {
            Part::Contains(text) => (0, text),
            Part::StartsWith(text) => (1, text),
            Part::EndsWith(text) => (2, text),
        };
        self.byte(number);
        self.text(text);
    }

    fn port(&mut self, port: &PortMatch) {
        self.byte(port.protocol);
        match &port.port {
            PortSpec::Any => self.byte(0),
            PortSpec::Range(first, last) => {
                self.byte(1);
                self.0.update(first.to_be_bytes());
                self.0.update(last.to_be_bytes());
            }
            PortSpec::Named(name) => {
                self.byte(2);
                self.text(name);
            }
        }
    }

    fn net(&mut self, net: &IpNet) {
        match net {
            IpNet::V4(net) => {
                self.byte(4);
                self.0.update(net.addr().octets());
            }
            IpNet::V6(net) => {
                self.byte(6);
                self.0.update(net.addr().octets());
            }
        }
        self.byte(net.prefix_len());
    }

    fn direction(&mut self, direction: Direction) {
        self.byte(match direction {
            Direction::Ingress => 0,
            Direction::Egress => 1,
        });
    }

    fn scope(&mut self, scope: Scope) {
        self.byte(match scope {
            Scope::Local => 0,
            Scope::Remote => 1,
        });
    }

    fn list<T>(&mut self, list: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.length(list.len());
        for one in list {
            each(self, one);
        }
    }

    fn text(&mut self, text: &str) {
        self.length(text.len());
        self.0.update(text.as_bytes());
    }

    fn length(&mut self, length: usize) {
        self.0.update((length as u64).to_be_bytes());
    }

    fn byte(&mut self, byte: u8) {
        self.0.update([byte]);
    }
}
