//! The decision: design section 8, and `docs/policy.md` for people.
//!
//! Admin tier, application tier, baseline, default. Within a tier lower `order` first, at equal
//! order what is only logged, then deny, pass, allow. `explain` runs the same walk over every rule
//! with a [`Trace`]; the data plane runs it over those that the index offers.

use crate::{
    Decision, DropReason, Peer, Query, RuleRef, Table, Verdict,
    compile::{Entry, Lane, Lanes},
    model::{Action, Policy, Rule, Scope, Tier},
    selector::{self, Context, Fit, Mismatch},
};

/// As many rules as mostly concern one pair: their list then grows without being moved.
const FEW: usize = 16;

/// Told of everything that the walk looks at, in its order.
pub(crate) trait Trace {
    /// Whether it wants to hear of every isolating policy, after the first that selects the pod.
    const EXHAUSTIVE: bool;
    /// A rule was asked.
    fn rule(&mut self, entry: &Entry, policy: &Policy, rule: &Rule, asked: Asked<'_>);
    /// A policy that isolates was asked whether it selects the subject.
    fn isolation(&mut self, policy: &Policy, fit: Fit<'_>);
    /// What decided when no rule did.
    fn settled(&mut self, by: Settled);
}

/// How the parts of a rule fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// The policy's subject alone.
    pub subject: Fit<'a>,
    /// The whole rule.
    pub fit: Fit<'a>,
    /// Whether the rule had its effect.
    pub effective: bool,
}

/// What decided when no rule did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Traffic between a pod and its own node.
    Node,
    /// The subject is not a pod of this cluster.
    ForeignSubject,
    /// A policy isolates the pod.
    Isolated(Tier),
    /// Nothing else did.
    Default(Scope),
}

/// What a tier says.
enum Outcome<'t> {
    /// The next tier is asked.
    Next,
    Allow(&'t RuleRef),
    Drop(Option<&'t RuleRef>, DropReason, bool),
}

impl Table {
    /// Judges one connection. Touches the labels of two identities and no other state; the same
    /// table and query give the same verdict everywhere.
    #[must_use]
    pub fn decide(&self, query: &Query<'_>) -> Verdict {
        let mut verdict = self.decide_by(self.lanes(), query);
        if let Some(staged) = self.staged() {
            verdict.stage(self.decide_by(staged, query));
        }
        verdict
    }

    fn decide_by(&self, lanes: &Lanes, query: &Query<'_>) -> Verdict {
        let lane = lanes.of(query.direction, query.scope(self.cluster()));
        let mut offered = Vec::with_capacity(FEW);
        lane.by_subject
            .offer(query.subject, query.known, &mut offered);
        match query.peer {
            Peer::Identity { claims, address } => {
                lane.by_peer.offer(claims, query.known, &mut offered);
                if let Some(address) = address {
                    lane.by_peer.offer_address(address, &mut offered);
                }
            }
            Peer::Address(_) | Peer::Named { .. } => {
                lane.by_peer.offer_always(&mut offered);
                if let Some(address) = query.peer.address() {
                    lane.by_peer.offer_address(address, &mut offered);
                }
            }
            Peer::Node => {}
        }
        offered.sort_unstable();
        offered.dedup();
        let isolations = || {
            let mut isolations = Vec::with_capacity(FEW);
            lane.isolation_index
                .offer(query.subject, query.known, &mut isolations);
            isolations.sort_unstable();
            isolations.dedup();
            isolations
        };
        self.walk(lane, query, &offered, &isolations, &mut Silent)
    }

    /// Asks the entries `offered` and the places `isolations` of the query's `lane`, both ascending.
    /// The places are looked for only when no rule decides.
    pub(crate) fn walk<'w>(
        &'w self,
        lane: &'w Lane,
        query: &'w Query<'w>,
        offered: &[u32],
        isolations: &'w dyn Fn() -> Vec<u32>,
        trace: &'w mut impl Trace,
    ) -> Verdict {
        let scope = query.scope(self.cluster());
        let mut walk = Walk {
            table: self,
            lane,
            query,
            scope,
            context: Context {
                own: self.cluster(),
                known: query.known,
            },
            logs: Vec::new(),
            near_miss: None,
            provisional: None,
            subject: None,
            isolations,
            trace,
        };
        let (decision, rule) = walk.verdict(offered);
        Verdict {
            decision,
            rule: rule.cloned(),
            logs: walk.logs,
            staged: None,
        }
    }
}

struct Walk<'w, T> {
    table: &'w Table,
    lane: &'w Lane,
    query: &'w Query<'w>,
    scope: Scope,
    context: Context<'w>,
    logs: Vec<RuleRef>,
    /// Why the first Allow that nearly matched did not: the reason of a drop that follows.
    near_miss: Option<DropReason>,
    /// An Allow that stands only if the tiers after it allow too, because a Pass before it may have
    /// matched.
    provisional: Option<&'w RuleRef>,
    /// The policy that was asked last and how it fits the subject: its rules mostly come together.
    subject: Option<(u32, Fit<'w>)>,
    /// Places of the policies that could isolate the subject.
    isolations: &'w dyn Fn() -> Vec<u32>,
    trace: &'w mut T,
}

impl<'w, T: Trace> Walk<'w, T> {
    fn verdict(&mut self, offered: &[u32]) -> (Decision, Option<&'w RuleRef>) {
        if self.query.subject.trust_domain() != self.context.own {
            self.trace.settled(Settled::ForeignSubject);
            return (dropped(DropReason::WrongTrustDomain, false), None);
        }
        if matches!(self.query.peer, Peer::Node) {
            // Kubernetes: traffic between a pod and the node it runs on is always allowed.
            self.trace.settled(Settled::Node);
            return (Decision::Allow, None);
        }
        for tier in [Tier::Admin, Tier::Application, Tier::Baseline] {
            let mut doubtful = false;
            match self.tier(tier, offered, &mut doubtful) {
                Outcome::Drop(rule, reason, reject) => return (dropped(reason, reject), rule),
                Outcome::Allow(rule) if doubtful => {
                    self.provisional.get_or_insert(rule);
                }
                Outcome::Allow(rule) => {
                    return (Decision::Allow, Some(self.provisional.unwrap_or(rule)));
                }
                Outcome::Next => {}
            }
        }
        self.trace.settled(Settled::Default(self.scope));
        match self.scope {
            Scope::Local => (Decision::Allow, self.provisional),
            Scope::Remote => (dropped(self.default_reason(), false), None),
        }
    }

    fn tier(&mut self, tier: Tier, offered: &[u32], doubtful: &mut bool) -> Outcome<'w> {
        let lane = self.lane;
        let entries = offered
            .iter()
            .filter_map(|id| lane.entries.get(*id as usize));
        for entry in entries
            .skip_while(|e| e.tier < tier)
            .take_while(|e| e.tier == tier)
        {
            if let Some(outcome) = self.ask(entry, doubtful) {
                return outcome;
            }
        }
        if tier != Tier::Admin && self.isolated(tier) {
            self.trace.settled(Settled::Isolated(tier));
            return Outcome::Drop(None, self.default_reason(), false);
        }
        Outcome::Next
    }

    /// Asks one rule. An unknown label key makes a Deny match and an Allow not; after a Pass that
    /// tests one, both ways are asked.
    fn ask(&mut self, entry: &'w Entry, doubtful: &mut bool) -> Option<Outcome<'w>> {
        let (policy, rule) = self.table.rule(entry);
        let subject = self.subject_fit(entry.policy, policy);
        let fit = subject.and(|| fit(rule, self.query, self.scope, self.context));
        let outcome = match (rule.action, fit) {
            (_, Fit::No(_)) => None,
            (Action::Log, Fit::Yes | Fit::Unknown(_)) => {
                self.logs.push(entry.name.clone());
                None
            }
            (Action::Deny, Fit::Yes) => Some(Outcome::Drop(
                Some(&entry.name),
                DropReason::DeniedByRule,
                rule.reject,
            )),
            (Action::Deny, Fit::Unknown(_)) => Some(Outcome::Drop(
                Some(&entry.name),
                DropReason::LabelNotCarried,
                rule.reject,
            )),
            (Action::Pass, Fit::Yes) => Some(Outcome::Next),
            (Action::Pass, Fit::Unknown(_)) => {
                *doubtful = true;
                None
            }
            (Action::Allow, Fit::Yes) => Some(Outcome::Allow(&entry.name)),
            (Action::Allow, Fit::Unknown(_)) => None,
        };
        if rule.action == Action::Allow {
            self.note_near_miss(fit);
        }
        let effective = match rule.action {
            Action::Log => !matches!(fit, Fit::No(_)),
            Action::Deny | Action::Pass | Action::Allow => outcome.is_some(),
        };
        let asked = Asked {
            subject,
            fit,
            effective,
        };
        self.trace.rule(entry, policy, rule, asked);
        outcome
    }

    fn subject_fit(&mut self, number: u32, policy: &'w Policy) -> Fit<'w> {
        match self.subject {
            Some((asked, fit)) if asked == number => fit,
            _ => {
                let fit = selector::workload(&policy.subject, self.query.subject, self.context);
                self.subject = Some((number, fit));
                fit
            }
        }
    }

    fn note_near_miss(&mut self, fit: Fit<'_>) {
        let reason = match fit {
            Fit::Unknown(_) => DropReason::LabelNotCarried,
            Fit::No(Mismatch::Assurance { .. }) => DropReason::AssuranceTooLow,
            Fit::Yes | Fit::No(_) => return,
        };
        self.near_miss.get_or_insert(reason);
    }

    /// Whether a policy of `tier` isolates the pod in this direction and scope. One that may select
    /// it does.
    fn isolated(&mut self, tier: Tier) -> bool {
        let (mut certain, mut possible) = (false, false);
        for place in (self.isolations)() {
            let number = self.lane.isolations.get(place as usize);
            let policy = number.and_then(|n| self.table.policies().get(*n as usize));
            let Some(policy) = policy.filter(|p| p.tier == tier) else {
                continue;
            };
            let fit = selector::workload(&policy.subject, self.query.subject, self.context);
            self.trace.isolation(policy, fit);
            match fit {
                Fit::Yes => certain = true,
                Fit::Unknown(_) => possible = true,
                Fit::No(_) => {}
            }
            if certain && !T::EXHAUSTIVE {
                return true;
            }
        }
        if possible && !certain {
            self.near_miss.get_or_insert(DropReason::LabelNotCarried);
        }
        certain || possible
    }

    /// Why nothing allowed it.
    fn default_reason(&self) -> DropReason {
        match (self.near_miss, self.provisional) {
            (Some(reason), _) => reason,
            (None, Some(_)) => DropReason::LabelNotCarried,
            (None, None) => DropReason::DeniedByDefault,
        }
    }
}

/// How a rule fits, its policy's subject apart.
fn fit<'a>(rule: &'a Rule, query: &'a Query<'a>, scope: Scope, context: Context<'a>) -> Fit<'a> {
    selector::ports(rule, query)
        .and(|| selector::peers(&rule.peers, query.peer, context))
        .and(|| assurance(rule, query, scope))
}

fn assurance<'a>(rule: &Rule, query: &Query<'a>, scope: Scope) -> Fit<'a> {
    match query.peer {
        Peer::Identity { claims, .. } if too_weak(rule, query.peer, scope) => {
            Fit::No(Mismatch::Assurance {
                found: claims.assurance,
                wanted: rule.assurance,
            })
        }
        _ => Fit::Yes,
    }
}

/// Whether the peer is vouched for too weakly: only an Allow asks, and only of another cluster.
pub(crate) fn too_weak(rule: &Rule, peer: Peer<'_>, scope: Scope) -> bool {
    let Peer::Identity { claims, .. } = peer else {
        return false;
    };
    rule.action == Action::Allow && scope == Scope::Remote && claims.assurance < rule.assurance
}

fn dropped(reason: DropReason, reject: bool) -> Decision {
    Decision::Drop { reason, reject }
}

/// The data plane wants no account.
struct Silent;

impl Trace for Silent {
    const EXHAUSTIVE: bool = false;
    fn rule(&mut self, _: &Entry, _: &Policy, _: &Rule, _: Asked<'_>) {}
    fn isolation(&mut self, _: &Policy, _: Fit<'_>) {}
    fn settled(&mut self, _: Settled) {}
}
