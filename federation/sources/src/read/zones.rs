//! Zones -> peers by name, and policies of tier Admin for the rows of the matrix.

use std::{collections::BTreeMap, sync::Arc};

use identity::Assurance;
use policy::model::{
    Action, ClusterMatch, Direction, PeerMatch, Policy, PolicyKind, PortMatch, Rule, Tier,
    WorkloadSelector,
};

use super::{
    federation_peers::{Context, PeerReader},
    federation_policy::{action, reject_only_denials},
    kind::Name,
    names::check_label_name,
    policy_ports::ports,
    scope::scopes,
};
use crate::{
    crd::{PolicyPeer, RuleAction, ScopeWord, ZoneDefault, ZoneMember, ZoneRow, ZonesSpec},
    decode::one_of,
    fault::{Faults, FieldPath},
    suggest::nearest,
};

const DEFAULT_ORDER: u32 = 100;
const MAX_ZONES: usize = 100;
const MAX_ROWS: usize = 500;
const MAX_MEMBERS: usize = 100;

/// What an object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ZonesObject {
    pub policies: Vec<Arc<Policy>>,
    /// The members of each zone, for policies that name it.
    pub zones: BTreeMap<String, Vec<PeerMatch>>,
    /// What verdicts call each row of the matrix.
    pub rows: Vec<String>,
}

/// The zones and policies that `spec` describes; nothing of them counts when `faults` refuse it.
pub(super) fn zones(
    spec: &ZonesSpec,
    name: &Name,
    context: Context<'_>,
    faults: &mut Faults,
) -> ZonesObject {
    let path = FieldPath::of(&["spec"]);
    let bounds = [
        ("zones", spec.zones.len(), MAX_ZONES),
        ("rows", spec.rows.len(), MAX_ROWS),
    ];
    for (field, found, most) in bounds {
        if found > most {
            faults.add(
                path.key(field),
                format!("holds {found}"),
                format!("at most {most}"),
            );
        }
    }
    let zones = members(spec, context, &path.key("zones"), faults);
    let matrix = Matrix {
        name,
        zones: &zones,
        own: context,
        staged: spec.staged.unwrap_or(false),
    };
    let first = spec.order.unwrap_or(DEFAULT_ORDER);
    let mut policies = Vec::new();
    let path_of_rows = path.key("rows");
    for ((index, row), order) in spec.rows.iter().enumerate().zip(first..) {
        let path = path_of_rows.index(index);
        for (field, names) in [("from", &row.from), ("to", &row.to)] {
            check_zones(names, &zones, &path.key(field), faults);
        }
        let listed = row.ports.as_deref().unwrap_or_default();
        let ports = ports(listed, &path.key("ports"), faults);
        reject_only_denials(row.reject, row.action, &path, faults);
        policies.extend(matrix.row(row, &ports, order));
    }
    if spec.otherwise == Some(ZoneDefault::Deny) {
        let rows = u32::try_from(spec.rows.len()).unwrap_or(u32::MAX);
        policies.extend(matrix.otherwise(first.saturating_add(rows)));
    }
    ZonesObject {
        policies: policies.into_iter().map(Arc::new).collect(),
        zones,
        rows: spec.rows.iter().map(row_name).collect(),
    }
}

fn row_name(row: &ZoneRow) -> String {
    let words = |zones: &[String]| match zones {
        [] => "any".to_owned(),
        zones => zones.join(","),
    };
    format!("{} -> {}", words(&row.from), words(&row.to))
}

fn members(
    spec: &ZonesSpec,
    context: Context<'_>,
    path: &FieldPath,
    faults: &mut Faults,
) -> BTreeMap<String, Vec<PeerMatch>> {
    let mut zones = BTreeMap::new();
    for (index, zone) in spec.zones.iter().enumerate() {
        let path = path.index(index);
        check_label_name(&zone.name, path.key("name"), faults);
        let path_of_members = path.key("members");
        if zone.members.is_empty() || zone.members.len() > MAX_MEMBERS {
            let message = format!("holds {} members", zone.members.len());
            faults.add(
                path_of_members.clone(),
                message,
                format!("from 1 to {MAX_MEMBERS}"),
            );
        }
        let read = zone.members.iter().enumerate();
        let read =
            read.flat_map(|(index, m)| member(m, context, &path_of_members.index(index), faults));
        let read = read.collect();
        if zones.insert(zone.name.clone(), read).is_some() {
            let message = format!("{:?} names another zone too", zone.name);
            faults.add(path.key("name"), message, "each name once");
        }
    }
    zones
}

fn member(
    member: &ZoneMember,
    context: Context<'_>,
    path: &FieldPath,
    faults: &mut Faults,
) -> Vec<PeerMatch> {
    if *member == ZoneMember::default() {
        let expected = "a choice of workloads; podSelector: {} chooses all";
        faults.add(path.clone(), "the member is empty", expected);
    }
    let peer = PolicyPeer {
        scope: member.clusters.is_empty().then_some(ScopeWord::All),
        clusters: member.clusters.clone(),
        namespaces: member.namespaces.clone(),
        namespace_selector: member.namespace_selector.clone(),
        namespace_expression: member.namespace_expression.clone(),
        pod_selector: member.pod_selector.clone(),
        selector: member.selector.clone(),
        not_selector: member.not_selector.clone(),
        service_accounts: member.service_accounts.clone(),
        ..PolicyPeer::default()
    };
    let reader = PeerReader {
        namespace: None,
        context,
    };
    let part = reader.peer(&peer, path, faults);
    part.map(|p| p.peers).unwrap_or_default()
}

fn check_zones(
    names: &[String],
    zones: &BTreeMap<String, Vec<PeerMatch>>,
    path: &FieldPath,
    faults: &mut Faults,
) {
    let known: Vec<&str> = zones.keys().map(String::as_str).collect();
    for (index, name) in names.iter().enumerate() {
        if !zones.contains_key(name) {
            let hint = nearest(name, &known);
            let hint = hint.map_or_else(String::new, |near| format!(", did you mean {near}?"));
            let message = format!("there is no zone {name:?} here{hint}");
            faults.add(path.index(index), message, one_of(&known));
        }
    }
}

struct Matrix<'a> {
    name: &'a Name,
    zones: &'a BTreeMap<String, Vec<PeerMatch>>,
    own: Context<'a>,
    staged: bool,
}

impl Matrix<'_> {
    /// A row as the destination's cluster enforces it, and as the source's does.
    fn row(&self, row: &ZoneRow, ports: &[PortMatch], order: u32) -> Vec<Policy> {
        let name = row_name(row);
        let mut policies = Vec::new();
        for (direction, own, other) in [
            (Direction::Ingress, &row.to, &row.from),
            (Direction::Egress, &row.from, &row.to),
        ] {
            let peers = self.members(other);
            if peers.is_empty() && !other.is_empty() {
                continue;
            }
            let rule = |action| Rule {
                reject: row.reject.unwrap_or(false),
                ports: ports.to_vec(),
                ..rule(&name, direction, action, peers.clone())
            };
            let mut rules = Vec::new();
            if row.log.unwrap_or(false) && row.action != RuleAction::Log {
                rules.push(rule(Action::Log));
            }
            rules.push(rule(action(row.action)));
            policies.extend(self.subjects(own).into_iter().map(|subject| Policy {
                subject,
                rules: rules.clone(),
                ..self.policy(order)
            }));
        }
        policies
    }

    /// What stays within a zone passes, what goes to another is denied.
    fn otherwise(&self, order: u32) -> Vec<Policy> {
        let mut policies = Vec::new();
        for (zone, members) in self.zones {
            let others = self.zones.iter().filter(|(other, _)| *other != zone);
            let others: Vec<PeerMatch> = others.flat_map(|(_, m)| m.clone()).collect();
            let mut add = |order, action, peers: &[PeerMatch]| {
                if peers.is_empty() {
                    return;
                }
                for subject in self.subjects(std::slice::from_ref(zone)) {
                    let rule = |direction| rule("otherwise", direction, action, peers.to_vec());
                    policies.push(Policy {
                        subject,
                        rules: vec![rule(Direction::Ingress), rule(Direction::Egress)],
                        ..self.policy(order)
                    });
                }
            };
            add(order, Action::Pass, members);
            add(order.saturating_add(1), Action::Deny, &others);
        }
        policies
    }

    fn members(&self, zones: &[String]) -> Vec<PeerMatch> {
        let members = zones.iter().filter_map(|zone| self.zones.get(zone));
        members.flatten().cloned().collect()
    }

    /// What of `zones` is in the own cluster; everything when they are none.
    fn subjects(&self, zones: &[String]) -> Vec<WorkloadSelector> {
        let own = self.own.federation.cluster(self.own.cluster);
        let Some(own) = own.map(|c| &c.trust_domain) else {
            return Vec::new();
        };
        if zones.is_empty() {
            return vec![everyone()];
        }
        let members = self.members(zones).into_iter();
        let subjects = members.filter_map(|member| match member {
            PeerMatch::Workload(selector) => Some(selector),
            PeerMatch::Net { .. } | PeerMatch::Domain(_) => None,
        });
        let is_own = |selector: &WorkloadSelector| match &selector.clusters {
            ClusterMatch::Own | ClusterMatch::Any => true,
            ClusterMatch::Remote => false,
            ClusterMatch::Listed(listed) => listed.contains(own),
        };
        let subjects = subjects.filter(is_own).map(|selector| WorkloadSelector {
            clusters: ClusterMatch::Own,
            ..selector
        });
        subjects.collect()
    }

    fn policy(&self, order: u32) -> Policy {
        Policy {
            kind: PolicyKind::Zones,
            namespace: None,
            name: self.name.name.clone(),
            tier: Tier::Admin,
            order,
            subject: everyone(),
            staged: self.staged,
            isolates: Vec::new(),
            rules: Vec::new(),
        }
    }
}

fn rule(name: &str, direction: Direction, action: Action, peers: Vec<PeerMatch>) -> Rule {
    Rule {
        name: name.to_owned(),
        direction,
        action,
        reject: false,
        scopes: scopes(ScopeWord::All),
        peers,
        ports: Vec::new(),
        not_ports: Vec::new(),
        assurance: Assurance::Agent,
    }
}

/// Every workload of the own cluster.
fn everyone() -> WorkloadSelector {
    WorkloadSelector {
        clusters: ClusterMatch::Own,
        namespaces: policy::model::NamespaceMatch::Any,
        pods: Default::default(),
        service_accounts: Vec::new(),
    }
}
