//! One policy as a table holds it: what can be worked out from it alone, once, and what of it hangs
//! where in the index.

use std::{cmp::Ordering, sync::Arc};

use identity::TrustDomain;

use crate::{
    RuleName, RuleRef,
    anchor::{Needs, Wanted},
    digest,
    index::{Hung, Index, Purpose, Shelf},
    model::{Action, Direction, PeerMatch, Policy, Rule, Scope},
    order::Id,
};

#[derive(Debug)]
pub(crate) struct Held {
    /// By which the table knows it.
    pub slot: u32,
    /// In canonical form: the same in memory as what was given, if that was in it.
    pub policy: Arc<Policy>,
    /// Of its rules, in their order.
    pub names: Vec<RuleRef>,
    /// Of the policy alone.
    pub hash: [u8; 32],
    /// What peers may know of it, if anything: the same in memory, if it is all.
    pub announced: Option<Arc<Policy>>,
}

impl Held {
    pub(crate) fn new(own: &TrustDomain, slot: u32, policy: Arc<Policy>) -> Self {
        let name = |rule: &Rule| {
            RuleRef::from(RuleName {
                cluster: own.clone(),
                tier: policy.tier,
                kind: policy.kind,
                namespace: policy.namespace.clone(),
                policy: policy.name.clone(),
                rule: rule.name.clone(),
            })
        };
        Self {
            slot,
            names: policy.rules.iter().map(name).collect(),
            hash: digest::policy_hash(&policy),
            announced: digest::announced(&policy, own).map(|told| shared(told, &policy)),
            policy,
        }
    }
}

/// `policy`, by what is in memory already if that is equal: a gateway holds the policies of each peer.
pub(crate) fn shared(policy: Policy, held: &Arc<Policy>) -> Arc<Policy> {
    match policy == **held {
        true => Arc::clone(held),
        false => Arc::new(policy),
    }
}

/// The order in which policies are asked, and written.
#[must_use]
pub fn canonical_order(a: &Policy, b: &Policy) -> Ordering {
    let key = |p: &Policy| (p.tier, p.order);
    key(a).cmp(&key(b)).then_with(|| a.cmp(b))
}

/// A direction and a scope, in which rules are looked for apart from those of others.
pub(crate) type Lane = (Direction, Scope);

/// All of them, by number.
const LANES: [Lane; 4] = [
    (Direction::Ingress, Scope::Local),
    (Direction::Ingress, Scope::Remote),
    (Direction::Egress, Scope::Local),
    (Direction::Egress, Scope::Remote),
];

/// Where in [`LANES`] it stands.
pub(crate) fn number((direction, scope): Lane) -> u8 {
    match (direction, scope) {
        (Direction::Ingress, Scope::Local) => 0,
        (Direction::Ingress, Scope::Remote) => 1,
        (Direction::Egress, Scope::Local) => 2,
        (Direction::Egress, Scope::Remote) => 3,
    }
}

/// The rules of `policy` that are asked in `lane`, with their places.
pub(crate) fn rules_in(policy: &Policy, lane: Lane) -> impl Iterator<Item = (&Rule, u32)> {
    let rules = policy.rules.iter().zip(0_u32..);
    rules.filter(move |(r, _)| r.direction == lane.0 && r.scopes.contains(&lane.1))
}

/// What the index finds of a policy, and by what.
pub(crate) struct Hanger<'p> {
    lane: u8,
    hung: Hung,
    found: Found<'p>,
}

enum Found<'p> {
    /// A rule, by its subject or by its peers, whichever is rarer. It has no peers when it means all.
    Rule(Wanted<'p>, Vec<Wanted<'p>>),
    /// An Allow rule by its peers alone, for a source that knows nothing of the destination.
    Admission(Vec<Wanted<'p>>),
    /// The policy, because it isolates.
    Isolation(Wanted<'p>),
}

/// All that hangs of the policy in `slot`.
pub(crate) fn hangers(policy: &Policy, slot: u32) -> Vec<Hanger<'_>> {
    let mut out = Vec::new();
    for of in LANES {
        let lane = number(of);
        let mut hang = |id, needs, found| {
            let hung = Hung { id, needs };
            out.push(Hanger { lane, hung, found });
        };
        if policy.isolates.contains(&of) {
            let subject = Wanted::workload(&policy.subject);
            let needs = Needs::subject(&subject);
            hang(Id::policy(slot), needs, Found::Isolation(subject));
        }
        for (rule, place) in rules_in(policy, of) {
            let id = Id::rule(slot, policy, rule, place);
            let peers: Vec<_> = rule.peers.iter().map(Wanted::peer).collect();
            let subject = Wanted::workload(&policy.subject);
            let needs = Needs::rule(&subject, &peers, rule);
            hang(id, needs, Found::Rule(subject, peers));
            let is_told = of == (Direction::Ingress, Scope::Remote) && !policy.staged;
            if is_told && rule.action == Action::Allow {
                hang(id, needs, Found::Admission(admitted(rule)));
            }
        }
    }
    out
}

/// The peers of a rule; everything when an address may be one.
fn admitted<'r>(rule: &'r Rule) -> Vec<Wanted<'r>> {
    let workload = |peer: &'r PeerMatch| match peer {
        PeerMatch::Workload(selector) => Some(Wanted::workload(selector)),
        PeerMatch::Net { .. } | PeerMatch::Domain(_) => None,
    };
    let workloads: Option<Vec<_>> = rule.peers.iter().map(workload).collect();
    match workloads {
        Some(workloads) if !workloads.is_empty() => workloads,
        _ => vec![Wanted::everything()],
    }
}

impl Hanger<'_> {
    /// Counts what is required, so that all of a change is counted before any of it hangs.
    pub(crate) fn count(&self, index: &mut Index) {
        for (purpose, wanted) in self.all() {
            index.count(self.shelf(purpose), wanted);
        }
    }

    pub(crate) fn hang(&self, index: &mut Index) {
        let purpose = self.rarest(index);
        for (of, wanted) in self.all() {
            if of == purpose {
                index.hang(self.shelf(of), wanted, self.hung);
            }
        }
    }

    pub(crate) fn unhang(&self, index: &mut Index) {
        for (purpose, wanted) in self.all() {
            index.unhang(self.shelf(purpose), wanted, self.hung.id);
        }
    }

    fn shelf(&self, purpose: Purpose) -> Shelf {
        let lane = self.lane;
        Shelf { lane, purpose }
    }

    fn all(&self) -> Vec<(Purpose, &Wanted<'_>)> {
        let by = |purpose| move |wanted| (purpose, wanted);
        match &self.found {
            Found::Rule(subject, peers) => {
                let peers = peers.iter().map(by(Purpose::Peer));
                peers.chain([(Purpose::Subject, subject)]).collect()
            }
            Found::Admission(peers) => peers.iter().map(by(Purpose::Admission)).collect(),
            Found::Isolation(subject) => vec![(Purpose::Isolation, subject)],
        }
    }

    fn rarest(&self, index: &Index) -> Purpose {
        match &self.found {
            Found::Rule(subject, peers) => {
                let cost = |wanted| index.cost(self.shelf(Purpose::Peer), wanted);
                let by_peers = peers.iter().map(cost).fold(0, u32::saturating_add);
                let by_subject = index.cost(self.shelf(Purpose::Subject), subject);
                match !peers.is_empty() && by_peers < by_subject {
                    true => Purpose::Peer,
                    false => Purpose::Subject,
                }
            }
            Found::Admission(_) => Purpose::Admission,
            Found::Isolation(_) => Purpose::Isolation,
        }
    }
}
