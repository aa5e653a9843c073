//! The other end of a FederationPolicy's rule -> the model.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use policy::{
    expression::Labels,
    model::{ClusterMatch, NamespaceMatch, PeerMatch, Scope, WorkloadSelector},
};

use super::{
    common::{block, ip_block},
    names::{check_label_name, check_names, check_subdomain},
    network_set::domains,
    scope::{clusters, scopes},
    selector::{chosen_pods, expression, selector},
};
use crate::{
    FederationConfig,
    crd::{PolicyPeer, ScopeWord},
    decode::one_of,
    draft::Named,
    fault::{Faults, FieldPath},
    suggest::nearest,
};

/// What a policy is read against.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub federation: &'a FederationConfig,
    /// The cluster that owns the policy.
    pub cluster: &'a str,
}

/// Reads the peers of one policy.
pub(super) struct PeerReader<'a> {
    /// The policy's own namespace, if it has one.
    pub namespace: Option<&'a String>,
    pub context: Context<'a>,
}

/// What a peer says, and the scopes in which it can match.
pub(super) struct PeerPart {
    /// It speaks of addresses, which do not say whose they are, so its scopes are the rule's.
    pub is_net: bool,
    pub scopes: Vec<Scope>,
    pub peers: Vec<PeerMatch>,
    /// Peers that another object defines, each with its place.
    pub named: Vec<(Named, FieldPath)>,
}

impl PeerReader<'_> {
    /// A peer.
    pub(super) fn peer(
        &self,
        peer: &PolicyPeer,
        path: &FieldPath,
        faults: &mut Faults,
    ) -> Option<PeerPart> {
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
        if let Some(part) = self.addresses(peer, scope, path, faults) {
            return part;
        }
        Some(self.workloads(peer, scope, path, faults))
    }

    /// What speaks of addresses or of names that others define; `None` for a choice of workloads.
    fn addresses(
        &self,
        peer: &PolicyPeer,
        scope: ScopeWord,
        path: &FieldPath,
        faults: &mut Faults,
    ) -> Option<Option<PeerPart>> {
        let fields = [
            ("ipBlock", peer.ip_block.is_some()),
            ("notNets", !peer.not_nets.is_empty()),
            ("networkSets", !peer.network_sets.is_empty()),
            ("clusterNetworkSets", !peer.cluster_network_sets.is_empty()),
            ("domains", !peer.domains.is_empty()),
            ("zones", !peer.zones.is_empty()),
        ];
        let (field, _) = fields.into_iter().find(|(_, is_set)| *is_set)?;
        let takes_scope = !matches!(field, "domains" | "zones");
        let mut alone = PolicyPeer {
            scope: peer.scope.filter(|_| takes_scope),
            ..PolicyPeer::default()
        };
        match field {
            "ipBlock" => alone.ip_block.clone_from(&peer.ip_block),
            "notNets" => alone.not_nets.clone_from(&peer.not_nets),
            "networkSets" => alone.network_sets.clone_from(&peer.network_sets),
            "clusterNetworkSets" => alone
                .cluster_network_sets
                .clone_from(&peer.cluster_network_sets),
            "domains" => alone.domains.clone_from(&peer.domains),
            _ => alone.zones.clone_from(&peer.zones),
        }
        if *peer != alone {
            let message = match takes_scope {
                true => "stands together with another choice than `scope`",
                false => "stands together with another choice",
            };
            faults.add(path.key(field), message, "two peers, one with each");
        }
        let path = path.key(field);
        let mut part = PeerPart {
            is_net: true,
            scopes: scopes(scope),
            peers: Vec::new(),
            named: Vec::new(),
        };
        let named = |names: &[String], make: &dyn Fn(&String) -> Named| {
            let names = names.iter().enumerate();
            names.map(|(i, name)| (make(name), path.index(i))).collect()
        };
        match field {
            "ipBlock" => match ip_block(peer.ip_block.as_ref()?, &path, faults) {
                Some(net) => part.peers.push(net),
                None => return Some(None),
            },
            "notNets" => part.peers = outside(&peer.not_nets, &path, faults),
            "networkSets" => match self.namespace {
                Some(namespace) => {
                    part.named = named(&peer.network_sets, &|name| Named::NetworkSet {
                        namespace: namespace.clone(),
                        name: name.clone(),
                    });
                }
                None => {
                    let message = "stands in a policy that belongs to no namespace";
                    faults.add(path.clone(), message, "`clusterNetworkSets`");
                }
            },
            "clusterNetworkSets" => {
                let make = |name: &String| Named::ClusterNetworkSet(name.clone());
                part.named = named(&peer.cluster_network_sets, &make);
            }
            "domains" => part.peers = domains(&peer.domains, &path, faults),
            _ => {
                part.is_net = false;
                part.scopes = scopes(ScopeWord::All);
                part.named = named(&peer.zones, &|name| Named::Zone(name.clone()));
            }
        }
        Some(Some(part))
    }

    fn workloads(
        &self,
        peer: &PolicyPeer,
        scope: ScopeWord,
        path: &FieldPath,
        faults: &mut Faults,
    ) -> PeerPart {
        let clusters = self.clusters(peer, scope, path, faults);
        let (scopes, is_own) = self.scopes_of(&clusters);
        let chosen = namespaces(
            &peer.namespaces,
            peer.namespace_selector.as_ref(),
            peer.namespace_expression.as_deref(),
            path,
            faults,
        );
        let namespaces = match (chosen, self.namespace) {
            (Some(chosen), _) => chosen,
            (None, None) => NamespaceMatch::Any,
            (None, Some(own)) => {
                if !is_own {
                    let message = "a peer of other clusters does not say in which namespaces";
                    let expected =
                        "`namespaces`, `namespaceExpression`, or `namespaceSelector` ({} for all)";
                    faults.add(path.clone(), message, expected);
                }
                NamespaceMatch::Names(vec![own.clone()])
            }
        };
        let texts = (peer.selector.as_deref(), peer.not_selector.as_deref());
        let pods = chosen_pods(peer.pod_selector.as_ref(), texts, path, faults);
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
            pods,
            service_accounts: peer.service_accounts.clone(),
        };
        PeerPart {
            is_net: false,
            scopes,
            peers: vec![PeerMatch::Workload(selector)],
            named: Vec::new(),
        }
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

/// Every address outside of `nets`.
fn outside(nets: &[String], path: &FieldPath, faults: &mut Faults) -> Vec<PeerMatch> {
    let nets = nets.iter().enumerate();
    let nets: Vec<IpNet> = nets
        .filter_map(|(i, n)| block(n, path.index(i), faults))
        .collect();
    let everything = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
    let rest = everything.map(|cidr| PeerMatch::Net {
        cidr,
        except: nets.iter().filter(|n| cidr.contains(*n)).copied().collect(),
    });
    rest.into()
}

/// The chosen namespaces; `None` when none are chosen.
pub(super) fn namespaces(
    names: &[String],
    labels: Option<&LabelSelector>,
    text: Option<&str>,
    path: &FieldPath,
    faults: &mut Faults,
) -> Option<NamespaceMatch> {
    check_names(names, &path.key("namespaces"), check_label_name, faults);
    let labels = labels.map(|s| selector(s, &path.key("namespaceSelector"), faults));
    let field = path.key("namespaceExpression");
    let text = text.map(|t| expression(t, Labels::OfNamespaces, field, faults));
    let names = (!names.is_empty()).then(|| NamespaceMatch::Names(names.to_vec()));
    let choices = [
        ("namespaces", names),
        ("namespaceSelector", labels.map(NamespaceMatch::Labels)),
        ("namespaceExpression", text.map(NamespaceMatch::Labels)),
    ];
    let mut chosen = choices
        .into_iter()
        .filter_map(|(field, c)| Some((field, c?)));
    let (first, choice) = chosen.next()?;
    if let Some((second, _)) = chosen.next() {
        let message = format!("stands together with {first}");
        faults.add(path.key(second), message, "only one of them");
    }
    Some(choice)
}
