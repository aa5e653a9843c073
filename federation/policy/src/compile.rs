//! Policies -> a table that is quick to ask. Its size grows with rules, never with pods.

use identity::TrustDomain;

use crate::{
    CompileError, RuleName, RuleRef,
    canonical::{canonical, rank},
    index::{Census, SelectorIndex},
    model::{Action, Direction, PeerMatch, Policy, PolicySet, Rule, Scope, Tier, WorkloadSelector},
};

/// Everything one cluster enforces, ready to be asked. Build it with [`compile`].
#[derive(Clone, Debug)]
pub struct Table {
    cluster: TrustDomain,
    /// In canonical order.
    policies: Vec<Policy>,
    /// What is enforced.
    lanes: Lanes,
    /// What would be if staged policies were; `None` when none is staged.
    staged: Option<Box<Lanes>>,
}

/// By direction and scope.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lanes([Lane; 4]);

/// What concerns one direction and scope.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lane {
    /// In the order in which they are asked.
    pub entries: Vec<Entry>,
    /// Entries that are found by the subject.
    pub by_subject: SelectorIndex,
    /// Entries that are found by the peer, because that is rarer.
    pub by_peer: SelectorIndex,
    /// The Allow entries, found by the peer alone; only for ingress from other clusters.
    pub admissions: SelectorIndex,
    /// The policies that isolate, ascending.
    pub isolations: Vec<u32>,
    /// Places in `isolations`, found by the subject.
    pub isolation_index: SelectorIndex,
}

/// One rule in one lane.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub tier: Tier,
    pub order: u32,
    pub policy: u32,
    pub rule: u32,
    pub name: RuleRef,
}

/// Compiles `set`. Equal sets give equal tables, however their lists are ordered.
///
/// # Errors
/// When a policy cannot be meant so, or there are too many; see [`CompileError`].
pub fn compile(set: &PolicySet) -> Result<Table, CompileError> {
    let policies = canonical(set)?;
    let lanes = |with_staged| {
        let lane =
            |(direction, scope)| lane(&set.cluster, &policies, direction, scope, with_staged);
        Lanes(LANES.map(lane))
    };
    let is_staged = policies.iter().any(|p| p.staged);
    Ok(Table {
        cluster: set.cluster.clone(),
        lanes: lanes(false),
        staged: is_staged.then(|| Box::new(lanes(true))),
        policies,
    })
}

impl Table {
    /// What a cluster without policies enforces.
    #[must_use]
    pub fn empty(cluster: TrustDomain) -> Self {
        Self {
            cluster,
            policies: Vec::new(),
            lanes: Lanes::default(),
            staged: None,
        }
    }

    /// The cluster that enforces it.
    #[must_use]
    pub fn cluster(&self) -> &TrustDomain {
        &self.cluster
    }

    /// The policies in canonical order: by tier, order, kind, namespace and name.
    #[must_use]
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// How many rules all policies have.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.policies.iter().map(|p| p.rules.len()).sum()
    }

    /// What is enforced.
    pub(crate) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// What would be enforced if staged policies were, if any is staged.
    pub(crate) fn staged(&self) -> Option<&Lanes> {
        self.staged.as_deref()
    }

    /// Policy and rule of an entry. Entries are made from these lists and never outlive them.
    pub(crate) fn rule(&self, entry: &Entry) -> (&Policy, &Rule) {
        let policy = &self.policies[entry.policy as usize];
        (policy, &policy.rules[entry.rule as usize])
    }
}

impl Lanes {
    pub(crate) fn of(&self, direction: Direction, scope: Scope) -> &Lane {
        let [ingress_local, ingress_remote, egress_local, egress_remote] = &self.0;
        match (direction, scope) {
            (Direction::Ingress, Scope::Local) => ingress_local,
            (Direction::Ingress, Scope::Remote) => ingress_remote,
            (Direction::Egress, Scope::Local) => egress_local,
            (Direction::Egress, Scope::Remote) => egress_remote,
        }
    }
}

/// In the order of [`Lanes::of`].
const LANES: [(Direction, Scope); 4] = [
    (Direction::Ingress, Scope::Local),
    (Direction::Ingress, Scope::Remote),
    (Direction::Egress, Scope::Local),
    (Direction::Egress, Scope::Remote),
];

fn lane(
    cluster: &TrustDomain,
    policies: &[Policy],
    direction: Direction,
    scope: Scope,
    with_staged: bool,
) -> Lane {
    let mut entries = Vec::new();
    let mut isolations = Vec::new();
    for (policy, number) in policies.iter().zip(0_u32..) {
        if policy.staged && !with_staged {
            continue;
        }
        if policy.isolates.contains(&(direction, scope)) {
            isolations.push(number);
        }
        for (rule, place) in policy.rules.iter().zip(0_u32..) {
            if rule.direction == direction && rule.scopes.contains(&scope) {
                let entry = entry(cluster, policy, number, rule, place);
                entries.push((turn(policy, rule), entry));
            }
        }
    }
    entries.sort_by_key(|(turn, e): &(u8, Entry)| (e.tier, e.order, *turn, e.policy, e.rule));
    let entries: Vec<Entry> = entries.into_iter().map(|(_, entry)| entry).collect();
    let (by_subject, by_peer) = index_rules(policies, &entries);
    let admissions = match (direction, scope) {
        (Direction::Ingress, Scope::Remote) => index_admissions(policies, &entries),
        _ => SelectorIndex::default(),
    };
    let isolation_index = index_isolations(policies, &isolations);
    Lane {
        entries,
        by_subject,
        by_peer,
        admissions,
        isolations,
        isolation_index,
    }
}

/// When a rule is asked among those of its tier and order: objects whose rules stand in an order first, one
/// after the other, then the rules of all others by what they do.
pub(crate) fn turn(policy: &Policy, rule: &Rule) -> u8 {
    match policy.kind.in_order() {
        true => 0,
        false => 1 + rank(rule.action),
    }
}

fn entry(cluster: &TrustDomain, policy: &Policy, number: u32, rule: &Rule, place: u32) -> Entry {
    Entry {
        tier: policy.tier,
        order: policy.order,
        policy: number,
        rule: place,
        name: RuleRef::from(RuleName {
            cluster: cluster.clone(),
            kind: policy.kind,
            namespace: policy.namespace.clone(),
            policy: policy.name.clone(),
            rule: rule.name.clone(),
        }),
    }
}

/// Each rule hangs on its subject or on its peers, whichever is rarer.
fn index_rules(policies: &[Policy], entries: &[Entry]) -> (SelectorIndex, SelectorIndex) {
    let of = |entry: &Entry| {
        let policy = policies.get(entry.policy as usize)?;
        Some((&policy.subject, policy.rules.get(entry.rule as usize)?))
    };
    let (mut subjects, mut peers) = (Census::default(), Census::default());
    for (subject, rule) in entries.iter().filter_map(of) {
        subjects.count(subject);
        rule.peers.iter().for_each(|p| peers.count_peer(p));
    }
    let (mut by_subject, mut by_peer) = (SelectorIndex::default(), SelectorIndex::default());
    for ((subject, rule), id) in entries.iter().filter_map(of).zip(0_u32..) {
        if peers.cost_of_peers(&rule.peers) < subjects.cost(subject) {
            let wanted = rule.peers.iter();
            wanted.for_each(|p| by_peer.insert_peer(p, id, &peers));
        } else {
            by_subject.insert(subject, id, &subjects);
        }
    }
    (by_subject, by_peer)
}

/// Allow rules hang on their peers, for a source that knows nothing of the destination.
fn index_admissions(policies: &[Policy], entries: &[Entry]) -> SelectorIndex {
    let rule = |e: &Entry| policies.get(e.policy as usize)?.rules.get(e.rule as usize);
    let allows = || {
        let rules = entries.iter().zip(0_u32..);
        let rules = rules.filter_map(move |(e, id)| Some((rule(e)?, id)));
        rules.filter(|(r, _)| r.action == Action::Allow)
    };
    let mut census = Census::default();
    for selector in allows().filter_map(|(r, _)| workloads(r)).flatten() {
        census.count(selector);
    }
    let mut index = SelectorIndex::default();
    for (rule, id) in allows() {
        match workloads(rule) {
            Some(selectors) => selectors
                .into_iter()
                .for_each(|s| index.insert(s, id, &census)),
            None => index.insert_always(id),
        }
    }
    index
}

/// The peers of a rule that only workloads fit; `None` when an address may fit too.
fn workloads(rule: &Rule) -> Option<Vec<&WorkloadSelector>> {
    if rule.peers.is_empty() {
        return None;
    }
    let selectors = rule.peers.iter().map(|peer| match peer {
        PeerMatch::Workload(selector) => Some(selector),
        PeerMatch::Net { .. } | PeerMatch::Domain(_) => None,
    });
    selectors.collect()
}

fn index_isolations(policies: &[Policy], isolations: &[u32]) -> SelectorIndex {
    let subjects = || {
        let policies = isolations.iter().filter_map(|n| policies.get(*n as usize));
        policies.map(|p| &p.subject)
    };
    let mut census = Census::default();
    subjects().for_each(|s| census.count(s));
    let mut index = SelectorIndex::default();
    for (subject, place) in subjects().zip(0_u32..) {
        index.insert(subject, place, &census);
    }
    index
}
