//! One form for equal policies, and refusal of what cannot be meant.
//!
//! Policies arrive from files, from an API server and, inside a digest, from other clusters. After
//! this file the order of lists no longer depends on who wrote them, so that equal policies give
//! equal hashes, and values are sorted, so that a match is a binary search.

use ipnet::IpNet;

use identity::{Assurance, TrustDomain};

use crate::labels::{canonical_labels, is_bounded};
use crate::model::{
    Action, ClusterMatch, Direction, NamespaceMatch, PeerMatch, Policy, PolicyKind, PolicySet,
    PortMatch, PortSpec, Rule, Scope, WorkloadSelector,
};

/// Most policies of one set.
pub(crate) const MAX_POLICIES: usize = 65_536;
/// Most rules of one set.
pub(crate) const MAX_RULES: usize = 262_144;
/// Longest name of a namespace, policy or rule in bytes: what Kubernetes allows for a name.
const MAX_NAME: usize = 253;

/// A policy set that cannot be compiled. Nothing of it is in force: the caller keeps the last good
/// table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// More than 65,536 policies or 262,144 rules.
    #[error("{policies} policies with {rules} rules are more than a table holds")]
    TooLarge {
        /// How many policies there are.
        policies: usize,
        /// How many rules they have in all.
        rules: usize,
    },
    /// One policy is at fault; [`check`] finds it beforehand, so that it can be refused alone.
    #[error("{kind} {}{name}{}: {problem}", prefix(.namespace, "/"), suffix(.rule))]
    Policy {
        /// The object's kind.
        kind: PolicyKind,
        /// The object's namespace.
        namespace: Option<String>,
        /// The object's name.
        name: String,
        /// The rule at fault, unless it is the policy itself.
        rule: Option<String>,
        /// What is wrong.
        problem: Problem,
    },
}

/// What is wrong with one policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A name is empty, longer than 253 bytes, or holds a control character.
    #[error("name {0:?} is not 1-253 bytes without control characters")]
    Name(String),
    /// The rule names no scope, so it could never match.
    #[error("the rule has no scope, so it could never match")]
    NoScope,
    /// The last port of a range is below its first.
    #[error("port range {0}-{1} is empty")]
    EmptyRange(u16, u16),
    /// A selector nests deeper, or holds more requirements, than anybody writes.
    #[error("a selector of labels is nested too deeply or too long")]
    Selector,
    /// Names are learned from what pods ask for, so they say nothing of who connects to a pod.
    #[error("domain names stand in a rule that is not an Allow or a Log of egress")]
    Domain,
    /// The protocol has no ports, so a port of it could never match.
    #[error("protocol {0} has no ports")]
    NoPorts(u8),
    /// The subject looks at other clusters only, so it selects nothing.
    #[error("the subject does not look at the own cluster, so it selects no pod")]
    ForeignSubject,
}

/// Whether `compile` takes `policy` of `cluster`. A source asks this to refuse one object alone.
///
/// # Errors
/// [`CompileError::Policy`] with the first problem.
pub fn check(policy: &Policy, cluster: &TrustDomain) -> Result<(), CompileError> {
    let fault = |rule: Option<&Rule>, problem| CompileError::Policy {
        kind: policy.kind,
        namespace: policy.namespace.clone(),
        name: policy.name.clone(),
        rule: rule.map(|r| r.name.clone()),
        problem,
    };
    for name in policy.namespace.iter().chain([&policy.name]) {
        check_name(name).map_err(|p| fault(None, p))?;
    }
    let selects_own = match &policy.subject.clusters {
        ClusterMatch::Own | ClusterMatch::Any => true,
        ClusterMatch::Remote => false,
        ClusterMatch::Listed(listed) => listed.contains(cluster),
    };
    if !selects_own {
        return Err(fault(None, Problem::ForeignSubject));
    }
    if !is_bounded_workloads(&policy.subject) {
        return Err(fault(None, Problem::Selector));
    }
    for rule in &policy.rules {
        check_rule(rule).map_err(|p| fault(Some(rule), p))?;
    }
    Ok(())
}

fn check_rule(rule: &Rule) -> Result<(), Problem> {
    check_name(&rule.name)?;
    if rule.scopes.is_empty() {
        return Err(Problem::NoScope);
    }
    for peer in &rule.peers {
        match peer {
            PeerMatch::Workload(selector) if !is_bounded_workloads(selector) => {
                return Err(Problem::Selector);
            }
            PeerMatch::Domain(_)
                if rule.direction != Direction::Egress
                    || !matches!(rule.action, Action::Allow | Action::Log) =>
            {
                return Err(Problem::Domain);
            }
            PeerMatch::Workload(_) | PeerMatch::Net { .. } | PeerMatch::Domain(_) => {}
        }
    }
    rule.ports
        .iter()
        .chain(&rule.not_ports)
        .try_for_each(check_port)
}

fn check_port(port: &PortMatch) -> Result<(), Problem> {
    match port.port {
        PortSpec::Range(first, last) if first > last => Err(Problem::EmptyRange(first, last)),
        PortSpec::Range(..) if is_icmp(port.protocol) => Ok(()),
        PortSpec::Range(..) | PortSpec::Named(_) if !has_ports(port.protocol) => {
            Err(Problem::NoPorts(port.protocol))
        }
        PortSpec::Any | PortSpec::Range(..) | PortSpec::Named(_) => Ok(()),
    }
}

fn is_bounded_workloads(selector: &WorkloadSelector) -> bool {
    let namespaces = match &selector.namespaces {
        NamespaceMatch::Labels(labels) => is_bounded(labels),
        NamespaceMatch::Any | NamespaceMatch::Names(_) => true,
    };
    namespaces && is_bounded(&selector.pods)
}

/// ICMP and ICMPv6, which have types and codes instead.
fn is_icmp(protocol: u8) -> bool {
    matches!(protocol, 1 | 58)
}

/// TCP, UDP, DCCP, SCTP, UDP-Lite.
fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}

fn check_name(name: &str) -> Result<(), Problem> {
    let valid = (1..=MAX_NAME).contains(&name.len()) && !name.chars().any(char::is_control);
    if valid {
        Ok(())
    } else {
        // The message itself must stay short whatever was sent.
        Err(Problem::Name(name.chars().take(MAX_NAME).collect()))
    }
}

/// Whether a table can hold so many, before anything is done for each.
pub(crate) fn check_size(set: &PolicySet) -> Result<(), CompileError> {
    let policies = set.policies.len();
    let rules = set.policies.iter().map(|policy| policy.rules.len());
    let rules = rules.fold(0_usize, usize::saturating_add);
    if policies > MAX_POLICIES || rules > MAX_RULES {
        return Err(CompileError::TooLarge { policies, rules });
    }
    Ok(())
}

/// The order in which rules of equal `order` are asked: what is only reported first, then deny
/// before pass before allow.
pub(crate) fn rank(action: Action) -> u8 {
    match action {
        Action::Log => 0,
        Action::Deny => 1,
        Action::Pass => 2,
        Action::Allow => 3,
    }
}

/// The one form of all policies that are equal to `policy`.
pub(crate) fn canonical_policy(mut policy: Policy) -> Policy {
    canonical_workloads(&mut policy.subject);
    sort(&mut policy.isolates);
    for rule in &mut policy.rules {
        canonical_rule(rule);
    }
    if !policy.kind.in_order() {
        // Stable: among rules of one action the place in the object counts.
        policy.rules.sort_by_key(|r| rank(r.action));
    }
    policy
}

fn canonical_rule(rule: &mut Rule) {
    sort(&mut rule.scopes);
    for peer in &mut rule.peers {
        match peer {
            PeerMatch::Workload(selector) => canonical_workloads(selector),
            PeerMatch::Net { cidr, except } => {
                *cidr = cidr.trunc();
                except.iter_mut().for_each(|e: &mut IpNet| *e = e.trunc());
                sort(except);
            }
            PeerMatch::Domain(_) => {}
        }
    }
    sort(&mut rule.peers);
    sort(&mut rule.ports);
    sort(&mut rule.not_ports);
    // Fields that mean nothing here must not make two equal rules differ.
    rule.reject &= rule.action == Action::Deny;
    if rule.action != Action::Allow || !rule.scopes.contains(&Scope::Remote) {
        rule.assurance = Assurance::default();
    }
}

pub(crate) fn canonical_workloads(selector: &mut WorkloadSelector) {
    match &mut selector.clusters {
        ClusterMatch::Listed(listed) => sort(listed),
        ClusterMatch::Own | ClusterMatch::Any | ClusterMatch::Remote => {}
    }
    match &mut selector.namespaces {
        NamespaceMatch::Any => {}
        NamespaceMatch::Names(names) => sort(names),
        NamespaceMatch::Labels(labels) => canonical_labels(labels),
    }
    canonical_labels(&mut selector.pods);
    sort(&mut selector.service_accounts);
}

fn sort<T: Ord>(list: &mut Vec<T>) {
    list.sort();
    list.dedup();
}

fn prefix(part: &Option<String>, separator: &str) -> String {
    part.as_ref()
        .map_or_else(String::new, |p| p.clone() + separator)
}

fn suffix(rule: &Option<String>) -> String {
    rule.as_ref()
        .map_or_else(String::new, |r| format!(" rule {r}"))
}
