//! Rules that can never decide, because rules that are asked before them match all that they match.
//!
//! What is reported is proven: without the rule every verdict is the same (`tests/shadow.rs`). Not all that
//! is so is found: only subjects as a whole, peer by peer and port by port, are compared (`cover.rs`).

use std::collections::{BTreeMap, BTreeSet};

use identity::{Assurance, TrustDomain};

use crate::{
    KnownKeys, RuleName, RuleRef, Table,
    cover::{Lane, covers_port},
    model::{
        Action, Direction, LabelSelector, NamespaceMatch, PeerMatch, Policy, Rule, Scope, Term,
        Tier, WorkloadSelector,
    },
    order::turn,
};

/// Most peers that are compared for one rule; where there are more, nothing is claimed of it.
const MAX_COMPARISONS: usize = 1 << 22;

/// A rule that can never decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadowed {
    /// The rule.
    pub rule: RuleRef,
    /// Its direction: a name may stand in both.
    pub direction: Direction,
    /// The rules that decide all that it matches, in the order in which they are asked; at least one.
    pub by: Vec<RuleRef>,
}

impl Table {
    /// The rules that can never decide, in the order of policies and rules. Without them every verdict would
    /// be the same, as long as what their policies isolate stays.
    #[must_use]
    pub fn shadowed(&self, known: &KnownKeys) -> Vec<Shadowed> {
        // By policy, direction and name: a rule of an object may have become several here.
        let mut found: BTreeMap<(usize, Direction, &str), Cover> = BTreeMap::new();
        for direction in [Direction::Ingress, Direction::Egress] {
            for scope in [Scope::Local, Scope::Remote] {
                let queue = Queue::new(self, direction, scope, known);
                for place in 0..queue.asked.len() {
                    let Some(asked) = queue.asked.get(place) else {
                        continue;
                    };
                    let key = (asked.policy, direction, asked.rule.name.as_str());
                    found.entry(key).or_default().add(queue.cover(place));
                }
            }
        }
        let policies: Vec<&Policy> = self.policies().collect();
        let name = |(policy, rule): (usize, &str)| {
            let policy = policies.get(policy)?;
            Some(reference(self.cluster(), policy, rule))
        };
        let shadowed = found
            .iter()
            .filter_map(|((policy, direction, rule), cover)| {
                let Cover::By(by) = cover else { return None };
                let by = by
                    .iter()
                    .filter_map(|(_, policy, rule)| name((*policy, rule)));
                let mut names: Vec<RuleRef> = Vec::new();
                for one in by {
                    if !names.contains(&one) {
                        names.push(one);
                    }
                }
                (!names.is_empty()).then_some(Shadowed {
                    rule: name((*policy, rule))?,
                    direction: *direction,
                    by: names,
                })
            });
        shadowed.collect()
    }
}

fn reference(cluster: &TrustDomain, policy: &Policy, rule: &str) -> RuleRef {
    RuleRef::from(RuleName {
        cluster: cluster.clone(),
        tier: policy.tier,
        kind: policy.kind,
        namespace: policy.namespace.clone(),
        policy: policy.name.clone(),
        rule: rule.to_owned(),
    })
}

/// When a rule is asked, and which one it is.
type Turn<'t> = ((Tier, u32, u8), usize, &'t str);

/// What is known of a rule, so far.
enum Cover<'t> {
    /// By these; by none where the rule can match nothing.
    By(BTreeSet<Turn<'t>>),
    /// Something is left to it.
    Open,
}

impl Default for Cover<'_> {
    fn default() -> Self {
        Self::By(BTreeSet::new())
    }
}

impl<'t> Cover<'t> {
    fn add(&mut self, more: Self) {
        match (&mut *self, more) {
            (Self::By(all), Self::By(more)) => all.extend(more),
            (Self::By(_), Self::Open) => *self = Self::Open,
            (Self::Open, _) => {}
        }
    }
}

/// A rule of one direction and scope.
struct Asked<'t> {
    turn: (Tier, u32, u8),
    policy: usize,
    place: usize,
    subject: &'t WorkloadSelector,
    rule: &'t Rule,
    /// Its policy decides nothing yet.
    staged: bool,
    /// It can be left undecided by labels that a cluster does not carry.
    uncertain: bool,
}

/// The rules of one direction and scope, in the order in which they are asked.
struct Queue<'t> {
    lane: Lane<'t>,
    asked: Vec<Asked<'t>>,
    /// Places by the namespaces that their subject names.
    by_namespace: BTreeMap<&'t str, Vec<usize>>,
    /// Those whose subject names none.
    wide: Vec<usize>,
    /// The first Pass of each tier: what comes after it in the tier may not be asked.
    first_pass: BTreeMap<Tier, usize>,
}

impl<'t> Queue<'t> {
    fn new(table: &'t Table, direction: Direction, scope: Scope, known: &KnownKeys) -> Self {
        let mut asked = Vec::new();
        for (number, policy) in table.policies().enumerate() {
            for (place, rule) in policy.rules.iter().enumerate() {
                if rule.direction == direction && rule.scopes.contains(&scope) {
                    asked.push(Asked {
                        turn: (policy.tier, policy.order, turn(policy, rule)),
                        policy: number,
                        place,
                        subject: &policy.subject,
                        rule,
                        staged: policy.staged,
                        uncertain: is_uncertain(&policy.subject, rule, known),
                    });
                }
            }
        }
        asked.sort_by_key(|a| (a.turn, a.policy, a.place));
        let mut queue = Self {
            lane: Lane {
                own: table.cluster(),
                scope,
            },
            asked,
            by_namespace: BTreeMap::new(),
            wide: Vec::new(),
            first_pass: BTreeMap::new(),
        };
        for (place, asked) in queue.asked.iter().enumerate() {
            if asked.rule.action == Action::Pass {
                queue.first_pass.entry(asked.turn.0).or_insert(place);
            }
            match &asked.subject.namespaces {
                NamespaceMatch::Names(names) => {
                    for name in names {
                        queue.by_namespace.entry(name).or_default().push(place);
                    }
                }
                NamespaceMatch::Any | NamespaceMatch::Labels(_) => queue.wide.push(place),
            }
        }
        queue
    }

    /// Which rules leave nothing to the one at `place`.
    fn cover(&self, place: usize) -> Cover<'t> {
        let Some(late) = self.asked.get(place) else {
            return Cover::Open;
        };
        let shares = self.lane.shares(&late.rule.peers);
        let ports: Vec<_> = match late.rule.ports.is_empty() {
            true => vec![None],
            false => late.rule.ports.iter().map(Some).collect(),
        };
        if shares.is_empty() {
            return Cover::default();
        }
        let earlier = self.earlier(place, late);
        let peers = earlier.iter().map(|early| early.rule.peers.len() + 1);
        let comparisons = peers.sum::<usize>().saturating_mul(shares.len());
        if comparisons.saturating_mul(ports.len()) > MAX_COMPARISONS {
            return Cover::Open;
        }
        let mut by = BTreeSet::new();
        for share in shares {
            for port in &ports {
                let covers = |early: &&&Asked<'t>| {
                    covers_port(early.rule, late.rule, *port)
                        && self.lane.covers(&early.rule.peers, share)
                };
                let Some(early) = earlier.iter().find(covers) else {
                    return Cover::Open;
                };
                by.insert((early.turn, early.policy, early.rule.name.as_str()));
            }
        }
        Cover::By(by)
    }

    /// The rules before `place` that end the question for every subject of `late`, if peer and port fit.
    fn earlier(&self, place: usize, late: &Asked<'t>) -> Vec<&Asked<'t>> {
        let named = match &late.subject.namespaces {
            NamespaceMatch::Names(names) => names.first().map(String::as_str),
            NamespaceMatch::Any | NamespaceMatch::Labels(_) => None,
        };
        let named = named.and_then(|name| self.by_namespace.get(name));
        let mut places: Vec<usize> = named.into_iter().flatten().copied().collect();
        places.extend(&self.wide);
        places.sort_unstable();
        let before = places.into_iter().take_while(|p| *p < place);
        let before = before.filter_map(|p| Some((p, self.asked.get(p)?)));
        let ends = before.filter(|(p, early)| self.ends(*p, early, late));
        ends.map(|(_, early)| early).collect()
    }

    /// Whether `late` is not asked where `early` matches, their subjects included.
    fn ends(&self, place: usize, early: &Asked<'t>, late: &Asked<'t>) -> bool {
        let (action, tier) = (early.rule.action, early.turn.0);
        let reaches = match action {
            Action::Log => false,
            _ if tier == late.turn.0 => true,
            // A later tier is asked after a Pass.
            Action::Pass => false,
            Action::Allow | Action::Deny => self.first_pass.get(&tier).is_none_or(|p| *p > place),
        };
        // In doubt a Deny matches, an Allow does not, and a Pass lets go on.
        let both_allow = action == Action::Allow && late.rule.action == Action::Allow;
        let is_certain = action == Action::Deny || both_allow || !early.uncertain;
        // Only an Allow asks how the other end is vouched for.
        let asked_of_late = match late.rule.action {
            Action::Allow => late.rule.assurance,
            Action::Deny | Action::Pass | Action::Log => Assurance::Gateway,
        };
        let is_content = action != Action::Allow
            || self.lane.scope == Scope::Local
            || early.rule.assurance <= asked_of_late;
        // A subject is of the own cluster, whatever the scope of the peer.
        let subjects = Lane {
            scope: Scope::Local,
            ..self.lane
        };
        let covers = || subjects.covers_workloads(early.subject, late.subject);
        let is_enforced = late.staged || !early.staged;
        reaches && is_enforced && is_certain && is_content && covers()
    }
}

/// Whether a label that the rule asks for may not be carried by some cluster.
fn is_uncertain(subject: &WorkloadSelector, rule: &Rule, known: &KnownKeys) -> bool {
    let unknown = |labels: &LabelSelector| has_unknown(labels, known);
    let of_workloads = |selector: &WorkloadSelector| {
        let of_namespaces = match &selector.namespaces {
            NamespaceMatch::Labels(labels) => unknown(labels),
            NamespaceMatch::Any | NamespaceMatch::Names(_) => false,
        };
        of_namespaces || unknown(&selector.pods)
    };
    let of_peer = |peer: &PeerMatch| match peer {
        PeerMatch::Workload(selector) => of_workloads(selector),
        PeerMatch::Net { .. } | PeerMatch::Domain(_) => false,
    };
    of_workloads(subject) || rule.peers.iter().any(of_peer)
}

fn has_unknown(labels: &LabelSelector, known: &KnownKeys) -> bool {
    labels.0.iter().any(|term| match term {
        Term::Label(requirement) => !known.all_carry(&requirement.key),
        Term::AnyOf(choices) => choices.iter().any(|choice| has_unknown(choice, known)),
    })
}
