//! Selectors that no declared pod fits, and named ports that no selected pod declares.

use identity::Claims;
use policy::model::{NamespaceMatch, PeerMatch, Policy, PortSpec, WorkloadSelector};

use super::{
    Linter, Warnings,
    blame::blame,
    hint,
    manifests::{Manifest, RuleText},
    names::subject_path,
    some_of,
};
use crate::fault::FieldPath;

impl<'a> Linter<'a> {
    pub(super) fn selectors(self, manifest: &Manifest<'_>, found: &mut Warnings) {
        let rules = manifest.rules();
        let direction = rules.first().map_or("ingress", |rule| rule.direction);
        let first = rules.first().map(|rule| {
            let peer = rule.peers().take(1).map(|(_, peer)| peer.clone()).collect();
            match rule.is_for_everybody() {
                true => rule.without_ports(),
                false => rule.with(rule.peers_field(), peer),
            }
        });
        let first = first.into_iter().collect();
        let Some(policy) = manifest.with_rules(self, direction, first) else {
            return;
        };
        let subjects = self.pods(&policy.subject);
        if subjects.as_ref().is_some_and(Vec::is_empty) {
            self.nothing(&policy.subject, subject_path(manifest), found);
        }
        for rule in &rules {
            self.peers(manifest, rule, found);
            self.ports(manifest, rule, subjects.as_deref(), found);
        }
    }

    fn peers(self, manifest: &Manifest<'_>, rule: &RuleText<'_>, found: &mut Warnings) {
        for (path, peer) in rule.peers() {
            let alone = rule.with(rule.peers_field(), vec![peer.clone()]);
            let Some(policy) = manifest.with_rules(self, rule.direction, vec![alone]) else {
                continue;
            };
            let selectors: Vec<&WorkloadSelector> = selectors(&policy).collect();
            let is_empty = |s: &&WorkloadSelector| self.pods(s).is_some_and(|pods| pods.is_empty());
            if let Some(selector) = selectors.first()
                && selectors.iter().all(is_empty)
            {
                self.nothing(selector, path, found);
            }
        }
    }

    /// Named ports, each asked of the pods that the rule's connections may go to.
    fn ports(
        self,
        manifest: &Manifest<'_>,
        rule: &RuleText<'_>,
        subjects: Option<&[&Claims]>,
        found: &mut Warnings,
    ) {
        // The pods that connections may go to; looked for when the first name is met.
        let mut destinations: Option<Option<Vec<&Claims>>> = None;
        for (field, index, port) in rule.ports() {
            // A peer must stand there where the kind wants one.
            let peer = rule.peers().take(1).map(|(_, peer)| peer.clone());
            let mut alone = rule.with(field, vec![port.clone()]);
            if let (Some(map), false) = (alone.as_object_mut(), rule.is_for_everybody()) {
                map.insert(rule.peers_field().to_owned(), peer.collect());
            }
            let Some(policy) = manifest.with_rules(self, rule.direction, vec![alone]) else {
                continue;
            };
            let ports = || policy.rules.iter().flat_map(|rule| &rule.ports);
            let named: Vec<(u8, &str)> = ports()
                .filter_map(|port| match &port.port {
                    PortSpec::Named(name) => Some((port.protocol, name.as_str())),
                    PortSpec::Any | PortSpec::Range(..) => None,
                })
                .collect();
            let Some((_, name)) = named.first() else {
                continue;
            };
            let pods = destinations.get_or_insert_with(|| match rule.direction {
                "ingress" => subjects.map(<[_]>::to_vec),
                _ => self.destinations(manifest, rule),
            });
            // Where there are no pods at all, that was told.
            let Some(pods) = pods.as_ref().filter(|pods| !pods.is_empty()) else {
                continue;
            };
            let declared = || pods.iter().flat_map(|pod| &pod.named_ports);
            let is_declared = declared().any(|p| {
                named
                    .iter()
                    .any(|(of, n)| p.protocol == *of && p.name == *n)
            });
            if !is_declared {
                let of_protocol =
                    declared().filter(|p| named.iter().any(|(of, _)| p.protocol == *of));
                let names: Vec<&str> = of_protocol.map(|p| p.name.as_str()).collect();
                let protocol = match named[..] {
                    [(6, _)] => "TCP port",
                    [(17, _)] => "UDP port",
                    [(132, _)] => "SCTP port",
                    _ => "port",
                };
                let message = format!(
                    "no pod that is selected declares a {protocol} named {name:?}{}",
                    hint(name, names.iter().copied())
                );
                found.add(rule.path.key(field).index(index), message, some_of(names));
            }
        }
    }

    /// The pods that egress by `rule` may go to; `None` when not all of them are declared.
    fn destinations(self, manifest: &Manifest<'_>, rule: &RuleText<'_>) -> Option<Vec<&'a Claims>> {
        if rule.is_for_everybody() {
            let is_told = self.all.iter().all(|c| !c.pods.is_empty());
            return is_told.then(|| self.all.iter().flat_map(|c| &c.pods).collect());
        }
        let policy = manifest.with_rules(self, rule.direction, vec![rule.without_ports()])?;
        let mut all = Vec::new();
        for selector in selectors(&policy) {
            all.extend(self.pods(selector)?);
        }
        Some(all)
    }

    /// The declared pods that fit; `None` when a cluster that is looked at declares none at all.
    pub(super) fn pods(self, selector: &WorkloadSelector) -> Option<Vec<&'a Claims>> {
        let clusters = self.looked_at(&selector.clusters);
        if clusters.iter().any(|c| c.pods.is_empty()) {
            return None;
        }
        let pods = clusters.into_iter().flat_map(|c| &c.pods);
        Some(policy::selected(selector, &self.own.trust_domain, pods).collect())
    }

    /// Says that no pod fits, and which part of the selector is to blame.
    pub(super) fn nothing(
        self,
        selector: &WorkloadSelector,
        path: FieldPath,
        found: &mut Warnings,
    ) {
        // What stands for a peer that is not enforced was told when it was read.
        let is_nobody =
            matches!(&selector.namespaces, NamespaceMatch::Names(names) if names.is_empty());
        if is_nobody || found.is_explained(&path) {
            return;
        }
        let clusters = self.looked_at(&selector.clusters);
        let names: Vec<&str> = clusters.iter().map(|c| c.name.as_str()).collect();
        let pods = clusters.iter().flat_map(|c| &c.pods).collect();
        let (message, expected) = blame(selector, &self.own.trust_domain, pods);
        let message = format!(
            "selects no pod that {} declares: {message}",
            names.join(" or ")
        );
        found.add(path, message, expected);
    }
}

fn selectors(policy: &Policy) -> impl Iterator<Item = &WorkloadSelector> {
    let peers = policy.rules.iter().flat_map(|rule| &rule.peers);
    peers.filter_map(|peer| match peer {
        PeerMatch::Workload(selector) => Some(selector),
        PeerMatch::Net { .. } | PeerMatch::Domain(_) => None,
    })
}
