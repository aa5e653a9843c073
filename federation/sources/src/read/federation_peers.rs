//! The other end of a FederationPolicy's rule -> the model.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use policy::model::{ClusterMatch, NamespaceMatch, PeerMatch, Scope, WorkloadSelector};

use super::{
    common::ip_block,
    names::{check_label_name, check_names, check_subdomain},
    scope::{clusters, scopes},
    selector::selector,
};
use crate::{
    FederationConfig,
    crd::{PolicyPeer, ScopeWord},
    decode::one_of,
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

impl PeerReader<'_> {
    /// A peer and the scopes in which it can match.
    pub(super) fn peer(
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
pub(super) fn namespaces(
    names: &[String],
    labels: Option<&LabelSelector>,
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
