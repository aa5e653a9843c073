//! The part of a digest that is told to a peer which may meet only some pods of this cluster: what
//! can concern no such pod is left out. docs/spec/digest.md.
//!
//! For every pod that is offered the part decides as the whole does, by the same rules. A selector is
//! narrowed by its structure alone, so that what is told changes with policies and offers and never with
//! pods: a pod that comes needs no other digest.

use std::sync::Arc;

use identity::{ClaimLimits, LabelLimit, NamePattern};

use crate::{
    canonical::{canonical_policy, canonical_workloads},
    digest::{policy_hash, set_hash},
    held::canonical_order,
    model::{
        LabelSelector, NamespaceMatch, Operator, Part, Policy, PolicySet, Requirement, Term,
        WorkloadSelector,
    },
    selector::{Whose, holds},
};

/// The label that every namespace has, with its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A part of a digest, and what of it need not be found out again for the next one.
#[derive(Debug)]
pub struct OfferedPart {
    part: Arc<PolicySet>,
    hash: [u8; 32],
    /// Each policy of the whole with what is told of it, by its place in memory, which it keeps as
    /// long as it is here.
    known: Vec<(Arc<Policy>, Option<Told>)>,
}

/// What is told of a policy, and its hash.
type Told = (Arc<Policy>, [u8; 32]);

impl OfferedPart {
    /// What of `whole`, which [`crate::Table::digest_part`] gave, can concern pods that keep to `offer`.
    /// `carried`: the label keys that credentials carry, if not all; by another one nobody is left out.
    /// `last`: the part before, for the same offer and keys.
    #[must_use]
    pub fn new(
        whole: &PolicySet,
        offer: &ClaimLimits,
        carried: Option<&[String]>,
        last: Option<&Self>,
    ) -> Self {
        let offered = Offered { offer, carried };
        let known = last.map_or(&[][..], |last| &last.known);
        let each = whole.policies.iter().map(|policy| {
            let same = known.binary_search_by_key(&Arc::as_ptr(policy), |(of, _)| Arc::as_ptr(of));
            let told = match same {
                Ok(place) => known[place].1.clone(),
                Err(_) => offered.policy(policy),
            };
            (Arc::clone(policy), told)
        });
        let mut known: Vec<_> = each.collect();
        let mut told: Vec<Told> = known.iter().filter_map(|(_, told)| told.clone()).collect();
        told.sort_by(|(a, _), (b, _)| canonical_order(a, b));
        told.dedup_by(|(a, _), (b, _)| a == b);
        known.sort_by_key(|(policy, _)| Arc::as_ptr(policy));
        let hashes: Vec<_> = told.iter().map(|(_, hash)| *hash).collect();
        Self {
            hash: set_hash(&whole.cluster, &hashes),
            part: Arc::new(PolicySet {
                cluster: whole.cluster.clone(),
                policies: told.into_iter().map(|(policy, _)| policy).collect(),
            }),
            known,
        }
    }

    /// The part.
    #[must_use]
    pub fn part(&self) -> &Arc<PolicySet> {
        &self.part
    }

    /// The hash of the part alone: of what is not told not even that it changed is said.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }
}

/// What pods that are offered can be.
struct Offered<'a> {
    offer: &'a ClaimLimits,
    carried: Option<&'a [String]>,
}

/// What a part of a selector comes to when it is asked of pods that are offered alone.
enum Narrowed<T> {
    Never,
    Always,
    Only(T),
}

impl Offered<'_> {
    fn policy(&self, policy: &Arc<Policy>) -> Option<Told> {
        let subject = self.workloads(&policy.subject)?;
        let told = match subject == policy.subject {
            true => Arc::clone(policy),
            false => Arc::new(canonical_policy(Policy {
                subject,
                ..Policy::clone(policy)
            })),
        };
        let hash = policy_hash(&told);
        Some((told, hash))
    }

    /// The selector, without what fits no pod that is offered; none when none of them fits it.
    fn workloads(&self, selector: &WorkloadSelector) -> Option<WorkloadSelector> {
        let namespaces = match &selector.namespaces {
            NamespaceMatch::Any => NamespaceMatch::Any,
            NamespaceMatch::Names(names) => {
                let names = names.iter().filter(|name| self.namespace(name));
                let names: Vec<_> = names.cloned().collect();
                if names.is_empty() {
                    return None;
                }
                NamespaceMatch::Names(names)
            }
            NamespaceMatch::Labels(labels) => match self.labels(Whose::Namespace, labels) {
                Narrowed::Never => return None,
                Narrowed::Always => NamespaceMatch::Labels(LabelSelector::default()),
                Narrowed::Only(labels) => NamespaceMatch::Labels(labels),
            },
        };
        let pods = match self.labels(Whose::Pod, &selector.pods) {
            Narrowed::Never => return None,
            Narrowed::Always => LabelSelector::default(),
            Narrowed::Only(labels) => labels,
        };
        let accounts = selector.service_accounts.iter();
        let accounts: Vec<_> = accounts
            .filter(|account| self.account(account, &namespaces))
            .cloned()
            .collect();
        if accounts.is_empty() && !selector.service_accounts.is_empty() {
            return None;
        }
        let mut narrowed = WorkloadSelector {
            clusters: selector.clusters.clone(),
            namespaces,
            pods,
            service_accounts: accounts,
        };
        canonical_workloads(&mut narrowed);
        Some(narrowed)
    }

    /// Whether there can be pods of this namespace.
    fn namespace(&self, name: &str) -> bool {
        let accounts = &self.offer.service_accounts;
        fits_any(&self.offer.namespaces, name)
            && (accounts.is_empty() || accounts.iter().any(|of| may_be_of_namespace(of, name)))
    }

    /// Whether there can be pods of one of these namespaces that run as this service account.
    fn account(&self, name: &str, namespaces: &NamespaceMatch) -> bool {
        let accounts = &self.offer.service_accounts;
        if accounts.is_empty() {
            return true;
        }
        match namespaces {
            NamespaceMatch::Names(names) => names
                .iter()
                .any(|namespace| fits_any(accounts, &format!("{namespace}/{name}"))),
            NamespaceMatch::Any | NamespaceMatch::Labels(_) => {
                accounts.iter().any(|of| may_be_account(of, name))
            }
        }
    }

    fn labels(&self, whose: Whose, selector: &LabelSelector) -> Narrowed<LabelSelector> {
        let mut terms = Vec::with_capacity(selector.0.len());
        for term in &selector.0 {
            let narrowed = match term {
                Term::Label(requirement) => self.requirement(whose, requirement),
                Term::AnyOf(choices) => self.choice(whose, choices),
            };
            match narrowed {
                Narrowed::Never => return Narrowed::Never,
                Narrowed::Always => {}
                Narrowed::Only(term) => terms.push(term),
            }
        }
        match terms.is_empty() {
            true => Narrowed::Always,
            false => Narrowed::Only(LabelSelector(terms)),
        }
    }

    fn choice(&self, whose: Whose, choices: &[LabelSelector]) -> Narrowed<Term> {
        let mut left = Vec::with_capacity(choices.len());
        for choice in choices {
            match self.labels(whose, choice) {
                Narrowed::Never => {}
                Narrowed::Always => return Narrowed::Always,
                Narrowed::Only(choice) => left.push(choice),
            }
        }
        match left.is_empty() {
            true => Narrowed::Never,
            false => Narrowed::Only(Term::AnyOf(left)),
        }
    }

    fn requirement(&self, whose: Whose, requirement: &Requirement) -> Narrowed<Term> {
        let Requirement { key, operator } = requirement;
        let limits = self.limits(whose, key);
        let may_be = |value: &String| limits.iter().all(|limit| limit.may_be(value));
        let may_hold = |part| limits.iter().all(|limit| limit.may_hold(part));
        let listed = |values: &[String], none, of: fn(Vec<String>) -> Operator| {
            let values: Vec<_> = values.iter().filter(|v| may_be(v)).cloned().collect();
            match values.is_empty() {
                true => none,
                false => Narrowed::Only(of(values)),
            }
        };
        let may_exist = limits.iter().all(Limit::may_exist);
        let narrowed = match operator {
            _ if limits.is_empty() => Narrowed::Only(operator.clone()),
            Operator::In(values) => listed(values, Narrowed::Never, Operator::In),
            Operator::NotIn(values) => listed(values, Narrowed::Always, Operator::NotIn),
            Operator::Exists if !may_exist => Narrowed::Never,
            Operator::DoesNotExist if !may_exist => Narrowed::Always,
            Operator::Like(part) if !may_hold(part) => Narrowed::Never,
            Operator::NotLike(part) if !may_hold(part) => Narrowed::Always,
            Operator::Exists
            | Operator::DoesNotExist
            | Operator::Like(_)
            | Operator::NotLike(_) => Narrowed::Only(operator.clone()),
        };
        match narrowed {
            Narrowed::Never => Narrowed::Never,
            Narrowed::Always => Narrowed::Always,
            Narrowed::Only(operator) => Narrowed::Only(Term::Label(Requirement {
                key: key.clone(),
                operator,
            })),
        }
    }

    /// What limits the values of a label. One that is not carried is unknown to whoever checks the offer too.
    fn limits(&self, whose: Whose, key: &String) -> Vec<Limit<'_>> {
        if self.carried.is_some_and(|carried| !carried.contains(key)) {
            return Vec::new();
        }
        let limit = self.offer.labels.iter().find(|limit| limit.key.fits(key));
        let mut limits: Vec<_> = limit.map(Limit::Label).into_iter().collect();
        if whose == Whose::Namespace && key == NAME_LABEL {
            limits.push(Limit::NamespaceName(self));
        }
        limits
    }
}

/// What values a label of a pod that is offered may have.
enum Limit<'a> {
    Label(&'a LabelLimit),
    /// It is the namespace's name.
    NamespaceName(&'a Offered<'a>),
}

impl Limit<'_> {
    fn may_be(&self, value: &str) -> bool {
        match self {
            Self::Label(limit) => limit.values.iter().any(|pattern| pattern.fits(value)),
            Self::NamespaceName(offered) => offered.namespace(value),
        }
    }

    fn may_exist(&self) -> bool {
        match self {
            Self::Label(limit) => !limit.values.is_empty(),
            Self::NamespaceName(_) => true,
        }
    }

    fn may_hold(&self, part: &Part) -> bool {
        let any = |patterns: &[NamePattern]| patterns.iter().any(|of| may_hold(of, part));
        match self {
            Self::Label(limit) => any(&limit.values),
            Self::NamespaceName(offered) => {
                offered.offer.namespaces.is_empty() || any(&offered.offer.namespaces)
            }
        }
    }
}

fn fits_any(patterns: &[NamePattern], text: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.fits(text))
}

/// Whether a text that fits `pattern` may hold `part`.
fn may_hold(pattern: &NamePattern, part: &Part) -> bool {
    let Some((before, after)) = pattern.around_star() else {
        return holds(pattern.as_str(), part);
    };
    match part {
        Part::Contains(_) => true,
        Part::StartsWith(text) => before.starts_with(text.as_str()) || text.starts_with(before),
        Part::EndsWith(text) => after.ends_with(text.as_str()) || text.ends_with(after),
    }
}

/// Whether some `namespace/account` fits `pattern`. No name has a `/`.
fn may_be_of_namespace(pattern: &NamePattern, namespace: &str) -> bool {
    let Some((before, after)) = pattern.around_star() else {
        let named = pattern.as_str().split_once('/');
        return named.is_some_and(|(of, _)| of == namespace);
    };
    match (before.split_once('/'), after.split_once('/')) {
        (Some((of, _)), _) => of == namespace,
        (None, Some((end, _))) => {
            namespace.len() >= before.len() + end.len()
                && namespace.starts_with(before)
                && namespace.ends_with(end)
        }
        (None, None) => namespace.starts_with(before),
    }
}

/// Whether some `namespace/account` fits `pattern`, whatever the namespace.
fn may_be_account(pattern: &NamePattern, account: &str) -> bool {
    let Some((before, after)) = pattern.around_star() else {
        let named = pattern.as_str().split_once('/');
        return named.is_some_and(|(_, of)| of == account);
    };
    match (before.split_once('/'), after.split_once('/')) {
        (Some((_, start)), _) => {
            account.len() >= start.len() + after.len()
                && account.starts_with(start)
                && account.ends_with(after)
        }
        (None, Some((_, of))) => of == account,
        (None, None) => account.ends_with(after),
    }
}
