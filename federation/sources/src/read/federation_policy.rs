//! FederationPolicy and ClusterFederationPolicy -> the model.

use identity::Assurance;
use policy::model::{
    Action, ClusterMatch, Direction, NamespaceMatch, PeerMatch, Policy, PolicyKind, Rule, Scope,
    Tier, WorkloadSelector,
};

use super::{
    common::{ip_block, ports},
    names::{check_label_name, check_names, check_subdomain},
    network_policy::NETWORK_POLICY_ORDER,
    object::Name,
    scope::{clusters, scopes},
    selector::selector,
};
use crate::{
    FederationConfig,
    crd::{
        ClusterFederationPolicySpec, ClusterSubject, FederationPolicySpec, PolicyPeer, PolicyRule,
        RequiredAssurance, RuleAction, ScopeWord, TierWord,
    },
    decode::one_of,
    fault::{Faults, FieldPath},
    suggest::nearest,
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

/// What a policy is read against.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub federation: &'a FederationConfig,
    /// The cluster that owns the policy.
    pub cluster: &'a str,
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
        let reader = Reader { namespace, context };
        let mut rules = Vec::new();
        let mut isolates = Vec::new();
        let directions = [
            (Direction::Ingress, "ingress", self.ingress),
            (Direction::Egress, "egress", self.egress),
        ];
        for (direction, field, list) in directions {
            let Some(list) = list else { continue };
            let read = reader.rules(list, direction, &path.key(field), faults);
            let scopes = self.isolated_scopes(&read, &path.key(field), faults);
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
        check_rule_names(&rules, self, &path, faults);
        Policy {
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
    fn isolated_scopes(&self, rules: &[Rule], path: &FieldPath, faults: &mut Faults) -> Vec<Scope> {
        if self.tier == Tier::Admin {
            return Vec::new();
        }
        if let Some(word) = self.isolates {
            return scopes(word);
        }
        if rules.is_empty() {
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

/// A rule's own name is one of the policy's; rules that were split share one.
fn check_rule_names(rules: &[Rule], body: &Body<'_>, path: &FieldPath, faults: &mut Faults) {
    let own = |field: &'static str, list: Option<&'_ [PolicyRule]>| -> Vec<(FieldPath, String)> {
        let list = list.unwrap_or_default().iter().enumerate();
        let path = path.key(field);
        list.filter_map(|(i, r)| Some((path.index(i).key("name"), r.name.clone()?)))
            .collect()
    };
    let names = [own("ingress", body.ingress), own("egress", body.egress)].concat();
    for (index, (path, name)) in names.iter().enumerate() {
        let valid =
            (1..=MAX_RULE_NAME).contains(&name.len()) && !name.chars().any(char::is_control);
        if !valid {
            let expected = "1-100 bytes without control characters";
            faults.add(path.clone(), "is no name of a rule", expected);
        }
        if names.iter().take(index).any(|(_, n)| n == name) {
            faults.add(
                path.clone(),
                format!("{name:?} names another rule too"),
                "each name once",
            );
        }
        let (_, direction_of_place) = name.split_once('[').map_or(("", false), |(field, _)| {
            (field, matches!(field, "ingress" | "egress"))
        });
        if direction_of_place && rules.iter().filter(|r| r.name == *name).count() > 0 {
            let message = format!("{name:?} reads like the place of a rule");
            faults.add(path.clone(), message, "a name of another form");
        }
    }
}

/// Reads rules.
struct Reader<'a> {
    /// The policy's own, if it has one.
    namespace: Option<&'a String>,
    context: Context<'a>,
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
            let Some((scopes, peer)) = self.peer(peer, &path.index(index), faults) else {
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

    fn peer(
        &self,
        peer: &PolicyPeer,
        path: &FieldPath,
        faults: &mut Faults,
    ) -> Option<(Vec<Scope>, PeerMatch)> {
        if *peer == PolicyPeer::default() {
            let expected = "a selector, names or an ipBlock";
            faults.add(path.clone(), "the peer is empty", expected);
            return None;
        }
        if peer.scope == Some(ScopeWord::None) {
            faults.add(
                path.key("scope"),
                "matches nothing",
                "one of Local, Remote, All",
            );
        }
        let scope = peer.scope.unwrap_or(ScopeWord::Local);
        if let Some(block) = &peer.ip_block {
            let alone = PolicyPeer {
                scope: peer.scope,
                ip_block: peer.ip_block.clone(),
                ..PolicyPeer::default()
            };
            if *peer != alone {
                let message = "stands together with a choice of workloads";
                faults.add(path.key("ipBlock"), message, "two peers, one with each");
            }
            let net = ip_block(block, &path.key("ipBlock"), faults)?;
            return Some((scopes(scope), net));
        }
        let clusters = self.clusters(peer, scope, path, faults);
        let (scopes, is_own) = self.scopes_of(&clusters);
        let chosen = namespaces(
            &peer.namespaces,
            peer.namespace_selector.as_ref(),
            path,
            faults,
        );
        let namespaces = match (chosen, self.namespace) {
            (Some(chosen), _) => chosen,
            (None, None) => NamespaceMatch::Any,
            (None, Some(own)) => {
                if !is_own {
                    let message = "a peer of other clusters does not say in which namespaces";
                    let expected = "`namespaces`, or `namespaceSelector` ({} for all)";
                    faults.add(path.clone(), message, expected);
                }
                NamespaceMatch::Names(vec![own.clone()])
            }
        };
        let pods = peer.pod_selector.as_ref();
        let pods = pods.map(|s| selector(s, &path.key("podSelector"), faults));
        let path_of_accounts = path.key("serviceAccounts");
        check_names(
            &peer.service_accounts,
            &path_of_accounts,
            check_subdomain,
            faults,
        );
        let selector = WorkloadSelector {
            clusters,
            namespaces,
            pods: pods.unwrap_or_default(),
            service_accounts: peer.service_accounts.clone(),
        };
        Some((scopes, PeerMatch::Workload(selector)))
    }

    fn clusters(
        &self,
        peer: &PolicyPeer,
        scope: ScopeWord,
        path: &FieldPath,
        faults: &mut Faults,
    ) -> ClusterMatch {
        if peer.clusters.is_empty() {
            return clusters(scope);
        }
        if peer.scope.is_some() {
            faults.add(
                path.key("scope"),
                "stands together with clusters",
                "only one of them",
            );
        }
        let path = path.key("clusters");
        check_names(&peer.clusters, &path, check_label_name, faults);
        let federation = self.context.federation;
        let mut listed = Vec::new();
        for (index, name) in peer.clusters.iter().enumerate() {
            if let Some(cluster) = federation.cluster(name) {
                listed.push(cluster.trust_domain.clone());
                continue;
            }
            let known: Vec<&str> = federation
                .clusters
                .iter()
                .map(|c| c.name.as_str())
                .collect();
            let hint = nearest(name, &known);
            let hint = hint.map_or_else(String::new, |near| format!(", did you mean {near}?"));
            let message = format!(
                "federation {} has no cluster {name:?}{hint}",
                federation.name
            );
            faults.add(path.index(index), message, one_of(&known));
        }
        ClusterMatch::Listed(listed)
    }

    /// The scopes that a choice of clusters can match in, and whether it is the own cluster alone.
    fn scopes_of(&self, clusters: &ClusterMatch) -> (Vec<Scope>, bool) {
        let own = self.context.federation.cluster(self.context.cluster);
        let is_own = |td| own.is_some_and(|c| c.trust_domain == td);
        match clusters {
            ClusterMatch::Own => (vec![Scope::Local], true),
            ClusterMatch::Remote => (vec![Scope::Remote], false),
            ClusterMatch::Any => (scopes(ScopeWord::All), false),
            ClusterMatch::Listed(listed) => {
                let local = listed.iter().any(|td| is_own(td.clone()));
                let remote = listed.iter().any(|td| !is_own(td.clone()));
                let local_scope = local.then_some(Scope::Local);
                let remote_scope = remote.then_some(Scope::Remote);
                (
                    local_scope.into_iter().chain(remote_scope).collect(),
                    !remote,
                )
            }
        }
    }
}

/// The chosen namespaces; `None` when none are chosen.
fn namespaces(
    names: &[String],
    labels: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>,
    path: &FieldPath,
    faults: &mut Faults,
) -> Option<NamespaceMatch> {
    check_names(names, &path.key("namespaces"), check_label_name, faults);
    let labels = labels.map(|s| selector(s, &path.key("namespaceSelector"), faults));
    match (names.is_empty(), labels) {
        (true, None) => None,
        (false, None) => Some(NamespaceMatch::Names(names.to_vec())),
        (true, Some(labels)) => Some(NamespaceMatch::Labels(labels)),
        (false, Some(labels)) => {
            let message = "stands together with namespaces";
            faults.add(path.key("namespaceSelector"), message, "only one of them");
            Some(NamespaceMatch::Labels(labels))
        }
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
