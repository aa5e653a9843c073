//! FederationPolicy and ClusterFederationPolicy -> the model.

use identity::Assurance;
use policy::model::{
    Action, ClusterMatch, Direction, NamespaceMatch, PeerMatch, Policy, PolicyKind, Rule, Scope,
    Tier, WorkloadSelector,
};

use super::{
    common::ports,
    federation_peers::{Context, PeerReader, namespaces},
    names::{check_names, check_subdomain},
    network_policy::NETWORK_POLICY_ORDER,
    object::Name,
    scope::scopes,
    selector::selector,
};
use crate::{
    crd::{
        ClusterFederationPolicySpec, ClusterSubject, FederationPolicySpec, PolicyPeer, PolicyRule,
        RequiredAssurance, RuleAction, ScopeWord, TierWord,
    },
    fault::{Faults, FieldPath},
};

/// Longest name of a rule in bytes.
const MAX_RULE_NAME: usize = 100;

/// The policy that a namespaced object describes.
pub(super) fn federation_policy(
    spec: &FederationPolicySpec,
    name: &Name,
    context: Context<'_>,
    faults: &mut Faults,
) -> Policy {
    let subject = spec.subject.clone().unwrap_or_default();
    let body = Body {
        kind: PolicyKind::FederationPolicy,
        tier: Tier::Application,
        order: spec.order,
        isolates: spec.isolates,
        ingress: spec.ingress.as_deref(),
        egress: spec.egress.as_deref(),
        subject: ClusterSubject {
            namespaces: vec![name.namespace.clone()],
            namespace_selector: None,
            pod_selector: subject.pod_selector,
            service_accounts: subject.service_accounts,
        },
    };
    body.policy(Some(&name.namespace), &name.name, context, faults)
}

/// The policy that a cluster-wide object describes.
pub(super) fn cluster_federation_policy(
    spec: &ClusterFederationPolicySpec,
    name: &Name,
    context: Context<'_>,
    faults: &mut Faults,
) -> Policy {
    let body = Body {
        kind: PolicyKind::ClusterFederationPolicy,
        tier: match spec.tier {
            None | Some(TierWord::Application) => Tier::Application,
            Some(TierWord::Admin) => Tier::Admin,
            Some(TierWord::Baseline) => Tier::Baseline,
        },
        order: spec.order,
        isolates: spec.isolates,
        ingress: spec.ingress.as_deref(),
        egress: spec.egress.as_deref(),
        subject: spec.subject.clone().unwrap_or_default(),
    };
    body.policy(None, &name.name, context, faults)
}

/// What both kinds have in common.
struct Body<'a> {
    kind: PolicyKind,
    tier: Tier,
    order: Option<u32>,
    isolates: Option<ScopeWord>,
    ingress: Option<&'a [PolicyRule]>,
    egress: Option<&'a [PolicyRule]>,
    subject: ClusterSubject,
}

impl Body<'_> {
    fn policy(
        &self,
        namespace: Option<&String>,
        name: &str,
        context: Context<'_>,
        faults: &mut Faults,
    ) -> Policy {
        let path = FieldPath::of(&["spec"]);
        let reader = Reader {
            peers: PeerReader { namespace, context },
        };
        let mut rules = Vec::new();
        let mut isolates = Vec::new();
        let directions = [
            (Direction::Ingress, "ingress", self.ingress),
            (Direction::Egress, "egress", self.egress),
        ];
        for (direction, field, list) in directions {
            let Some(list) = list else { continue };
            let read = reader.rules(list, direction, &path.key(field), faults);
            let scopes = self.isolated_scopes(list, &read, &path.key(field), faults);
            isolates.extend(scopes.into_iter().map(|s| (direction, s)));
            rules.extend(read);
        }
        if self.ingress.is_none() && self.egress.is_none() {
            faults.add(
                path.clone(),
                "says nothing of any direction",
                "ingress, egress or both",
            );
        }
        if self.tier == Tier::Admin && self.isolates.is_some_and(|s| s != ScopeWord::None) {
            let message = "the Admin tier isolates nothing";
            faults.add(path.key("isolates"), message, "a rule with action Deny");
        }
        check_rule_names(self, &path, faults);
        Policy {
            staged: false,
            kind: self.kind,
            namespace: namespace.cloned(),
            name: name.to_owned(),
            tier: self.tier,
            order: self.order.unwrap_or(NETWORK_POLICY_ORDER),
            subject: self.subject(&path.key("subject"), faults),
            isolates,
            rules,
        }
    }

    fn subject(&self, path: &FieldPath, faults: &mut Faults) -> WorkloadSelector {
        let subject = &self.subject;
        let namespaces = namespaces(
            &subject.namespaces,
            subject.namespace_selector.as_ref(),
            path,
            faults,
        );
        let pods = subject.pod_selector.as_ref();
        let pods = pods.map(|s| selector(s, &path.key("podSelector"), faults));
        let path_of_accounts = path.key("serviceAccounts");
        check_names(
            &subject.service_accounts,
            &path_of_accounts,
            check_subdomain,
            faults,
        );
        WorkloadSelector {
            clusters: ClusterMatch::Own,
            namespaces: namespaces.unwrap_or(NamespaceMatch::Any),
            pods: pods.unwrap_or_default(),
            service_accounts: subject.service_accounts.clone(),
        }
    }

    /// The scopes of the rules' peers, unless the policy says otherwise.
    fn isolated_scopes(
        &self,
        list: &[PolicyRule],
        rules: &[Rule],
        path: &FieldPath,
        faults: &mut Faults,
    ) -> Vec<Scope> {
        if self.tier == Tier::Admin {
            return Vec::new();
        }
        if let Some(word) = self.isolates {
            return scopes(word);
        }
        if list.is_empty() {
            let expected = "rules, or `isolates` with Local, Remote or All";
            faults.add(
                path.clone(),
                "an empty list does not say in which scope",
                expected,
            );
        }
        let counted = rules.iter().filter(|r| r.action != Action::Log);
        let mut found: Vec<Scope> = counted.flat_map(|r| r.scopes.iter().copied()).collect();
        found.sort();
        found.dedup();
        found
    }
}

/// A rule's own name is one of the policy's, and does not read like the place of another.
fn check_rule_names(body: &Body<'_>, path: &FieldPath, faults: &mut Faults) {
    let mut seen: Vec<&str> = Vec::new();
    for (field, list) in [("ingress", body.ingress), ("egress", body.egress)] {
        for (index, rule) in list.unwrap_or_default().iter().enumerate() {
            let Some(name) = rule.name.as_deref() else {
                continue;
            };
            let path = path.key(field).index(index).key("name");
            let is_short = (1..=MAX_RULE_NAME).contains(&name.len());
            let is_place = name.starts_with("ingress[") || name.starts_with("egress[");
            if !is_short || is_place || name.chars().any(char::is_control) {
                let expected = "1-100 bytes without control characters, not like \"ingress[0]\"";
                faults.add(path, format!("{name:?} is no name of a rule"), expected);
            } else if seen.contains(&name) {
                let message = format!("{name:?} names another rule of the policy too");
                faults.add(path, message, "each name once");
            }
            seen.push(name);
        }
    }
}

/// Reads rules.
struct Reader<'a> {
    peers: PeerReader<'a>,
}

impl Reader<'_> {
    fn rules(
        &self,
        list: &[PolicyRule],
        direction: Direction,
        path: &FieldPath,
        faults: &mut Faults,
    ) -> Vec<Rule> {
        let mut rules = Vec::new();
        for (index, rule) in list.iter().enumerate() {
            rules.extend(self.rule(rule, index, direction, &path.index(index), faults));
        }
        rules
    }

    /// One rule of the object, split where its peers speak in different scopes of addresses.
    fn rule(
        &self,
        rule: &PolicyRule,
        index: usize,
        direction: Direction,
        path: &FieldPath,
        faults: &mut Faults,
    ) -> Vec<Rule> {
        let (place, own, own_field, other, other_field) = match direction {
            Direction::Ingress => ("ingress", &rule.from, "from", &rule.to, "to"),
            Direction::Egress => ("egress", &rule.to, "to", &rule.from, "from"),
        };
        if other.is_some() {
            let message = format!("stands in a rule of {place}");
            faults.add(path.key(other_field), message, format!("`{own_field}`"));
        }
        let template = Rule {
            not_ports: Vec::new(),
            name: rule
                .name
                .clone()
                .unwrap_or_else(|| format!("{place}[{index}]")),
            direction,
            action: action(rule.action),
            reject: reject(rule, path, faults),
            scopes: scopes(ScopeWord::All),
            peers: Vec::new(),
            ports: ports(rule.ports.as_ref(), &path.key("ports"), faults),
            assurance: assurance(rule, path, faults),
        };
        let listed = own.as_deref().unwrap_or_default();
        if own.is_some() && listed.is_empty() {
            let expected = format!("at least one peer, or no `{own_field}` for every peer");
            faults.add(path.key(own_field), "the list is empty", expected);
        }
        if listed.is_empty() {
            return vec![template];
        }
        self.split(listed, &template, &path.key(own_field), faults)
    }

    /// Workloads carry their clusters in the selector, so one rule serves all of them; address
    /// blocks do not, so there is one rule for each scope that some speak in.
    fn split(
        &self,
        listed: &[PolicyPeer],
        template: &Rule,
        path: &FieldPath,
        faults: &mut Faults,
    ) -> Vec<Rule> {
        let mut parts: Vec<(bool, Vec<Scope>, Vec<PeerMatch>)> = Vec::new();
        for (index, peer) in listed.iter().enumerate() {
            let Some((scopes, peer)) = self.peers.peer(peer, &path.index(index), faults) else {
                continue;
            };
            let is_net = matches!(peer, PeerMatch::Net { .. });
            let fits = |(net, s, _): &&mut (bool, Vec<Scope>, _)| {
                *net == is_net && (!is_net || *s == scopes)
            };
            match parts.iter_mut().find(fits) {
                Some((_, known, peers)) => {
                    known.extend(scopes);
                    known.sort();
                    known.dedup();
                    peers.push(peer);
                }
                None => parts.push((is_net, scopes, vec![peer])),
            }
        }
        let rule = |(_, scopes, peers)| Rule {
            scopes,
            peers,
            ..template.clone()
        };
        parts.into_iter().map(rule).collect()
    }
}

fn action(action: RuleAction) -> Action {
    match action {
        RuleAction::Allow => Action::Allow,
        RuleAction::Deny => Action::Deny,
        RuleAction::Pass => Action::Pass,
        RuleAction::Log => Action::Log,
    }
}

fn reject(rule: &PolicyRule, path: &FieldPath, faults: &mut Faults) -> bool {
    let reject = rule.reject.unwrap_or(false);
    if reject && rule.action != RuleAction::Deny {
        let message = format!("stands with action {:?}", rule.action);
        faults.add(path.key("reject"), message, "action Deny");
    }
    reject
}

fn assurance(rule: &PolicyRule, path: &FieldPath, faults: &mut Faults) -> Assurance {
    if rule.required_assurance.is_some() && rule.action != RuleAction::Allow {
        let message = format!("stands with action {:?}", rule.action);
        faults.add(path.key("requiredAssurance"), message, "action Allow");
    }
    match rule.required_assurance {
        Some(RequiredAssurance::Gateway) => Assurance::Gateway,
        Some(RequiredAssurance::Agent) | None => Assurance::Agent,
    }
}
