//! Names of namespaces and service accounts that no object defines. Names of clusters are checked when a
//! policy is read.

use policy::model::{ClusterMatch, PeerMatch, Policy};
use serde_json::Value;

use super::{Declared, Linter, Warnings, hint, manifests::Manifest, some_of};
use crate::fault::FieldPath;

/// What a name names.
#[derive(Clone, Copy)]
enum What {
    Namespace,
    ServiceAccount,
}

impl What {
    fn word(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::ServiceAccount => "ServiceAccount",
        }
    }

    fn field(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::ServiceAccount => "serviceAccounts",
        }
    }

    fn of(self, declared: &Declared) -> impl Iterator<Item = &str> {
        let names = match self {
            Self::Namespace => &declared.namespaces,
            Self::ServiceAccount => &declared.accounts,
        };
        // Every namespace has an account of this name.
        let always = matches!(self, Self::ServiceAccount).then_some("default");
        names.iter().map(String::as_str).chain(always)
    }
}

impl Linter<'_> {
    pub(super) fn names(self, manifest: &Manifest<'_>, found: &mut Warnings) {
        let own = [self.own];
        let namespace = manifest.key.namespace.as_str();
        if !namespace.is_empty() {
            let path = FieldPath::of(&["metadata", "namespace"]);
            if !check(What::Namespace, namespace, &own, path, found) {
                found.explain(&subject_path(manifest));
            }
        }
        if let Some(subject) = manifest.tree.get("spec").and_then(|s| s.get("subject")) {
            let path = FieldPath::of(&["spec", "subject"]);
            check_lists(subject, &path, &own, &path, found);
        }
        for rule in manifest.rules() {
            for (path, peer) in rule.peers() {
                let lists = [What::Namespace, What::ServiceAccount];
                if lists.iter().all(|w| peer.get(w.field()).is_none()) {
                    continue;
                }
                let alone = rule.with(rule.peers_field(), vec![peer.clone()]);
                let policy = manifest.with_rules(self, rule.direction, vec![alone]);
                let Some(clusters) = policy.as_deref().and_then(clusters) else {
                    continue;
                };
                check_lists(peer, &path, &self.looked_at(clusters), &path, found);
            }
        }
    }
}

/// Where the subject of a policy stands.
pub(super) fn subject_path(manifest: &Manifest<'_>) -> FieldPath {
    let spec = manifest.tree.get("spec");
    let fields = ["subject", "podSelector"];
    let field = fields
        .into_iter()
        .find(|f| spec.and_then(|s| s.get(f)).is_some());
    let path = FieldPath::of(&["spec"]);
    field.map_or(path.clone(), |field| path.key(field))
}

/// The clusters that the one peer of a policy looks at.
fn clusters(policy: &Policy) -> Option<&ClusterMatch> {
    let mut peers = policy.rules.iter().flat_map(|rule| &rule.peers);
    peers.find_map(|peer| match peer {
        PeerMatch::Workload(selector) => Some(&selector.clusters),
        PeerMatch::Net { .. } | PeerMatch::Domain(_) => None,
    })
}

pub(super) fn check_lists(
    tree: &Value,
    path: &FieldPath,
    clusters: &[&Declared],
    whole: &FieldPath,
    found: &mut Warnings,
) {
    for what in [What::Namespace, What::ServiceAccount] {
        let list = tree.get(what.field()).and_then(Value::as_array);
        for (index, name) in list.into_iter().flatten().enumerate() {
            let Some(name) = name.as_str() else { continue };
            let at = path.key(what.field()).index(index);
            if !check(what, name, clusters, at, found) {
                found.explain(whole);
            }
        }
    }
}

/// Whether one of `clusters` defines `name`, or some of them tell nothing of their pods.
fn check(
    what: What,
    name: &str,
    clusters: &[&Declared],
    path: FieldPath,
    found: &mut Warnings,
) -> bool {
    let is_told = |c: &&Declared| !c.namespaces.is_empty();
    let known = || clusters.iter().flat_map(|c| what.of(c));
    if !clusters.iter().all(is_told) || known().any(|k| k == name) {
        return true;
    }
    let of: Vec<&str> = clusters.iter().map(|c| c.name.as_str()).collect();
    let message = format!(
        "no object of {} defines {} {name:?}{}",
        of.join(" or "),
        what.word(),
        hint(name, known())
    );
    found.add(path, message, some_of(known()));
    false
}
