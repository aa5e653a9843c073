//! FederationPolicy and ClusterFederationPolicy -> the model.

use identity::Assurance;
use policy::model::{
    Action, ClusterMatch, Direction, NamespaceMatch, PeerMatch, Policy, PolicyKind, Rule, Scope,
    Tier, WorkloadSelector,
};

use super::{
    federation_peers::{Context, PeerPart, PeerReader, namespaces},
    kind::Name,
    names::{check_names, check_subdomain},
    network_policy::NETWORK_POLICY_ORDER,
    policy_ports::{ports, protocols},
    scope::scopes,
    selector::chosen_pods,
};
use crate::{
    crd::{
        ClusterFederationPolicySpec, ClusterSubject, FederationPolicySpec, PolicyPeer, PolicyRule,
        RequiredAssurance, RuleAction, ScopeWord, TierWord,
    },
    draft::{Draft, NamedRule, nobody, takes_names},
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
) -> Draft {
    let subject = spec.subject.clone().unwrap_or_default();
    let body = Body {
        kind: PolicyKind::FederationPolicy,
        tier: Tier::Application,
        order: spec.order,
        staged: spec.staged.unwrap_or(false),
        isolates: spec.isolates,
        ingress: spec.ingress.as_deref(),
        egress: spec.egress.as_deref(),
        subject: ClusterSubject {
            namespaces: vec![name.namespace.clone()],
            pod_selector: subject.pod_selector,
            selector: subject.selector,
            not_selector: subject.not_selector,
            service_accounts: subject.service_accounts,
            ..ClusterSubject::default()
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
) -> Draft {
    let body = Body {
        kind: PolicyKind::ClusterFederationPolicy,
        tier: match spec.tier {
            None | Some(TierWord::Application) => Tier::Application,
            Some(TierWord::Admin) => Tier::Admin,
            Some(TierWord::Baseline) => Tier::Baseline,
        },
        order: spec.order,
        staged: spec.staged.unwrap_or(false),
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
    staged: bool,
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
    ) -> Draft {
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
        let policy = Policy {
            staged: self.staged,
            kind: self.kind,
            namespace: namespace.cloned(),
            name: name.to_owned(),
            tier: self.tier,
            order: self.order.unwrap_or(NETWORK_POLICY_ORDER),
            subject: self.subject(&path.key("subject"), faults),
            isolates,
            rules: Vec::new(),
        };
        Draft::of(policy, rules)
    }

    fn subject(&self, path: &FieldPath, faults: &mut Faults) -> WorkloadSelector {
        let subject = &self.subject;
        let namespaces = namespaces(
            &subject.namespaces,
            subject.namespace_selector.as_ref(),
            subject.namespace_expression.as_deref(),
            path,
            faults,
        );
        let texts = (subject.selector.as_deref(), subject.not_selector.as_deref());
        let pods = chosen_pods(subject.pod_selector.as_ref(), texts, path, faults);
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
            pods,
            service_accounts: subject.service_accounts.clone(),
        }
    }

    /// The scopes of the rules' peers, unless the policy says otherwise.
    fn isolated_scopes(
        &self,
        list: &[PolicyRule],
        rules: &[NamedRule],
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
        let counted = rules.iter().map(|(rule, _)| rule);
        let counted = counted.filter(|r| r.action != Action::Log);
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
    ) -> Vec<NamedRule> {
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
    ) -> Vec<NamedRule> {
        let (place, own, own_field, other, other_field) = match direction {
            Direction::Ingress => ("ingress", &rule.from, "from", &rule.to, "to"),
            Direction::Egress => ("egress", &rule.to, "to", &rule.from, "from"),
        };
        if other.is_some() {
            let message = format!("stands in a rule of {place}");
            faults.add(path.key(other_field), message, format!("`{own_field}`"));
        }
        let mut not_ports = ports(&rule.not_ports, &path.key("notPorts"), faults);
        let path_of_protocols = path.key("notProtocols");
        not_ports.extend(protocols(&rule.not_protocols, &path_of_protocols, faults));
        let listed_ports = rule.ports.as_deref().unwrap_or_default();
        let template = Rule {
            not_ports,
            name: rule
                .name
                .clone()
                .unwrap_or_else(|| format!("{place}[{index}]")),
            direction,
            action: action(rule.action),
            reject: reject(rule, path, faults),
            scopes: scopes(ScopeWord::All),
            peers: Vec::new(),
            ports: ports(listed_ports, &path.key("ports"), faults),
            assurance: assurance(rule, path, faults),
        };
        let listed = own.as_deref().unwrap_or_default();
        if own.is_some() && listed.is_empty() {
            let expected = format!("at least one peer, or no `{own_field}` for every peer");
            faults.add(path.key(own_field), "the list is empty", expected);
        }
        if listed.is_empty() {
            return vec![(template, Vec::new())];
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
    ) -> Vec<NamedRule> {
        let mut parts: Vec<PeerPart> = Vec::new();
        for (index, peer) in listed.iter().enumerate() {
            let Some(part) = self.peers.peer(peer, &path.index(index), faults) else {
                continue;
            };
            let has_names = part.peers.iter().any(|p| matches!(p, PeerMatch::Domain(_)));
            if has_names && !takes_names(template.direction, template.action) {
                let message = "names are learned from what pods ask for, so they say nothing of who connects, \
                     and another address of a name that is denied would pass";
                let expected = "egress with action Allow or Log";
                faults.add(path.index(index).key("domains"), message, expected);
                continue;
            }
            let fits = |known: &&mut PeerPart| {
                known.is_net == part.is_net && (!part.is_net || known.scopes == part.scopes)
            };
            match parts.iter_mut().find(fits) {
                Some(known) => {
                    known.scopes.extend(part.scopes);
                    known.scopes.sort();
                    known.scopes.dedup();
                    known.peers.extend(part.peers);
                    known.named.extend(part.named);
                }
                None => parts.push(part),
            }
        }
        let rule = |mut part: PeerPart| {
            if part.peers.is_empty() {
                // What is named may turn out to be nothing, which is not everything.
                part.peers.push(nobody());
            }
            let rule = Rule {
                scopes: part.scopes,
                peers: part.peers,
                ..template.clone()
            };
            (rule, part.named)
        };
        parts.into_iter().map(rule).collect()
    }
}

pub(super) fn action(action: RuleAction) -> Action {
    match action {
        RuleAction::Allow => Action::Allow,
        RuleAction::Deny => Action::Deny,
        RuleAction::Pass => Action::Pass,
        RuleAction::Log => Action::Log,
    }
}

fn reject(rule: &PolicyRule, path: &FieldPath, faults: &mut Faults) -> bool {
    reject_only_denials(rule.reject, rule.action, path, faults);
    rule.reject.unwrap_or(false)
}

/// Only a denied connection can be answered.
pub(super) fn reject_only_denials(
    reject: Option<bool>,
    action: RuleAction,
    path: &FieldPath,
    faults: &mut Faults,
) {
    if reject == Some(true) && action != RuleAction::Deny {
        let message = format!("stands with action {action:?}");
        faults.add(path.key("reject"), message, "action Deny");
    }
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
