//! The decision: design section 8, and `docs/policy.md` for people.
//!
//! Admin tier, application tier, baseline, default. Within a tier lower `order` first, at equal
//! order what is only logged, then deny, pass, allow. `explain` runs the same walk over every rule
//! with a [`Trace`]; the data plane runs it over those that the index offers.

use std::cell::LazyCell;

use crate::{
    Decision, DropReason, Peer, Query, RuleRef, Table, Verdict,
    anchor::{Marks, Offer},
    held::{Held, number},
    index::{Purpose, Shelf},
    model::{Action, Policy, Rule, Scope, Tier},
    order::{Id, Turn},
    selector::{self, Context, Fit, Mismatch},
};

/// As many rules as mostly concern one pair: their list then grows without being moved.
const FEW: usize = 16;

/// Told of everything that the walk looks at, in its order.
pub(crate) trait Trace {
    /// Whether it wants to hear of every isolating policy, after the first that selects the pod.
    const EXHAUSTIVE: bool;
    /// A rule was asked.
    fn rule(&mut self, name: &RuleRef, policy: &Policy, rule: &Rule, asked: Asked<'_>);
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
        let question = Question::new(query);
        let offered = self.offered(&question);
        if !self.has_staged() {
            return self.walk(query, &offered, &|| self.isolators(&question), &mut Silent);
        }
        let among = self.enforced(offered.clone());
        // Both walks may ask for them.
        let isolators = LazyCell::new(|| self.isolators(&question));
        let enforced = || self.enforced(isolators.clone());
        let mut verdict = self.walk(query, &among, &enforced, &mut Silent);
        verdict.stage(self.walk(query, &offered, &|| isolators.clone(), &mut Silent));
        verdict
    }

    /// The rules that could concern the query, staged ones too, in the order in which they are asked.
    fn offered(&self, question: &Question<'_>) -> Vec<Turn> {
        let Question { query, offer, .. } = *question;
        let (subjects, peers) = (
            self.shelf(query, Purpose::Subject),
            self.shelf(query, Purpose::Peer),
        );
        let index = &self.index;
        let mut offered = Vec::with_capacity(FEW);
        let mut take = |id: Id| offered.push(self.turn(id));
        index.offer(subjects, &question.subject, offer, &mut take);
        match &question.peer {
            Some(peer) => index.offer(peers, peer, offer, &mut take),
            None => index.offer_always(peers, offer, &mut take),
        }
        if let Some(address) = query.peer.address() {
            index.offer_address(peers, address, offer, &mut take);
        }
        offered.sort_unstable();
        offered.dedup();
        offered
    }

    /// The policies that could isolate the subject, staged ones too.
    fn isolators(&self, question: &Question<'_>) -> Vec<Turn> {
        let Question { query, offer, .. } = *question;
        let shelf = self.shelf(query, Purpose::Isolation);
        let mut isolators = Vec::with_capacity(FEW);
        let mut take = |id: Id| isolators.push(self.turn(id));
        self.index.offer(shelf, &question.subject, offer, &mut take);
        isolators.sort_unstable();
        isolators.dedup();
        isolators
    }

    fn shelf(&self, query: &Query<'_>, purpose: Purpose) -> Shelf {
        let lane = number((query.direction, query.scope(self.cluster())));
        Shelf { lane, purpose }
    }

    /// Asks the rules `offered` and the policies `isolators`, both ascending and of the query's lane.
    /// The latter are looked for only when no rule decides.
    pub(crate) fn walk<'w>(
        &'w self,
        query: &'w Query<'w>,
        offered: &[Turn],
        isolators: &'w dyn Fn() -> Vec<Turn>,
        trace: &'w mut impl Trace,
    ) -> Verdict {
        let scope = query.scope(self.cluster());
        let mut walk = Walk {
            table: self,
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
            isolators: LazyCell::new(isolators),
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

/// A query with what the index is asked by.
struct Question<'q> {
    query: &'q Query<'q>,
    subject: Marks<'q>,
    peer: Option<Marks<'q>>,
    offer: Offer,
}

impl<'q> Question<'q> {
    fn new(query: &'q Query<'q>) -> Self {
        let subject = Marks::of(query.subject, query.known);
        let peer = match query.peer {
            Peer::Identity { claims, .. } => Some(Marks::of(claims, query.known)),
            Peer::Address(_) | Peer::Named { .. } | Peer::Node => None,
        };
        let offer = Offer::new(query, &subject, peer.as_ref());
        Self {
            query,
            subject,
            peer,
            offer,
        }
    }
}

struct Walk<'w, T> {
    table: &'w Table,
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
    subject: Option<(usize, Fit<'w>)>,
    /// The policies that could isolate the subject, looked for when the first tier asks.
    isolators: LazyCell<Vec<Turn>, &'w dyn Fn() -> Vec<Turn>>,
    trace: &'w mut T,
}

impl<'w, T: Trace> Walk<'w, T> {
    fn verdict(&mut self, offered: &[Turn]) -> (Decision, Option<&'w RuleRef>) {
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

    fn tier(&mut self, tier: Tier, offered: &[Turn], doubtful: &mut bool) -> Outcome<'w> {
        for turn in self.table.of_tier(tier, offered) {
            if let Some(outcome) = self.ask(*turn, doubtful) {
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
    fn ask(&mut self, turn: Turn, doubtful: &mut bool) -> Option<Outcome<'w>> {
        let held: &'w Held = &self.table.held[turn.policy()];
        let (policy, rule) = (&held.policy, &held.policy.rules[turn.rule()]);
        let name = &held.names[turn.rule()];
        let subject = self.subject_fit(turn.policy(), policy);
        let fit = subject.and(|| fit(rule, self.query, self.scope, self.context));
        let outcome = match (rule.action, fit) {
            (_, Fit::No(_)) => None,
            (Action::Log, Fit::Yes | Fit::Unknown(_)) => {
                self.logs.push(name.clone());
                None
            }
            (Action::Deny, Fit::Yes) => Some(Outcome::Drop(
                Some(name),
                DropReason::DeniedByRule,
                rule.reject,
            )),
            (Action::Deny, Fit::Unknown(_)) => Some(Outcome::Drop(
                Some(name),
                DropReason::LabelNotCarried,
                rule.reject,
            )),
            (Action::Pass, Fit::Yes) => Some(Outcome::Next),
            (Action::Pass, Fit::Unknown(_)) => {
                *doubtful = true;
                None
            }
            (Action::Allow, Fit::Yes) => Some(Outcome::Allow(name)),
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
        self.trace.rule(name, policy, rule, asked);
        outcome
    }

    fn subject_fit(&mut self, place: usize, policy: &'w Policy) -> Fit<'w> {
        match self.subject {
            Some((asked, fit)) if asked == place => fit,
            _ => {
                let fit = selector::workload(&policy.subject, self.query.subject, self.context);
                self.subject = Some((place, fit));
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
        for turn in self.table.of_tier(tier, &self.isolators) {
            let policy = &self.table.held[turn.policy()].policy;
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
    fn rule(&mut self, _: &RuleRef, _: &Policy, _: &Rule, _: Asked<'_>) {}
    fn isolation(&mut self, _: &Policy, _: Fit<'_>) {}
    fn settled(&mut self, _: Settled) {}
}
