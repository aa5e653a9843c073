//! The policies of a cluster as they stand in their files, so that a warning can say where.

use std::{collections::BTreeSet, sync::Arc};

use policy::model::Policy;
use serde_json::{Map, Value};

use super::{Linter, Warning};
use crate::{
    FederationConfig, Problem,
    documents::list_items,
    fault::FieldPath,
    folder::Loaded,
    read::{Object, ObjectKey, read},
    yaml::{self, Document},
};

/// A policy that is in force, and its text.
pub(super) struct Manifest<'a> {
    pub key: ObjectKey,
    pub tree: Value,
    pub object: Object,
    file: &'a str,
    document: Document<'a>,
    /// Where the object stands in the document: in a List, or at its root.
    place: FieldPath,
}

/// A rule of a manifest.
pub(super) struct RuleText<'a> {
    /// `ingress` or `egress`.
    pub direction: &'static str,
    pub path: FieldPath,
    /// What verdicts call it.
    pub name: String,
    pub tree: &'a Map<String, Value>,
}

/// The policies of `loaded` that are in force as they stand there.
pub(super) fn policies<'a>(loaded: &'a Loaded, federation: &FederationConfig) -> Vec<Manifest<'a>> {
    let own = loaded.world.cluster.name.as_str();
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    for (file, text) in loaded.files.manifests.iter().flatten() {
        let Ok(text) = text else { continue };
        for document in yaml::documents(text) {
            let Ok(tree) = yaml::tree(document) else {
                continue;
            };
            let objects = match list_items(&tree) {
                Some(items) => {
                    let place = FieldPath::of(&["items"]);
                    let items = items.iter().enumerate();
                    items.map(|(i, t)| (t.clone(), place.index(i))).collect()
                }
                None => vec![(tree, FieldPath::default())],
            };
            for (tree, place) in objects {
                let reading = read(&tree, Some(federation), own);
                let (Some(key), Some(object)) = (reading.key, reading.object) else {
                    continue;
                };
                if !matches!(
                    object,
                    Object::Policy(_) | Object::Team(_) | Object::Zones(_)
                ) {
                    continue;
                }
                let line = yaml::first_line(document);
                let accepted = loaded.store.objects().get(&key);
                let is_it = accepted.is_some_and(|a| a.file == *file && a.line == line);
                // Of two in one document the first counts.
                if is_it && seen.insert(key.clone()) {
                    found.push(Manifest {
                        key,
                        tree,
                        object,
                        file,
                        document,
                        place,
                    });
                }
            }
        }
    }
    found
}

impl Manifest<'_> {
    pub fn problem(&self, mut warning: Warning) -> Problem {
        let path = self.place.join(&warning.path);
        let line = yaml::line(self.document, &path, false);
        warning.path = path;
        Problem::warning((self.file, line), self.key.to_string(), warning)
    }

    /// A list of its spec, or of the whole where it is a team's that has no spec.
    pub fn list(&self, field: &str) -> impl Iterator<Item = &Value> {
        let spec = self.tree.get("spec").unwrap_or(&self.tree);
        let list = spec.get(field).and_then(Value::as_array);
        list.into_iter().flatten()
    }

    /// The rules, in the order of the object.
    pub fn rules(&self) -> Vec<RuleText<'_>> {
        let mut rules = Vec::new();
        for direction in ["ingress", "egress"] {
            let list = self.tree.get("spec").and_then(|spec| spec.get(direction));
            let list = list.and_then(Value::as_array).into_iter().flatten();
            for (index, tree) in list.enumerate() {
                let Some(tree) = tree.as_object() else {
                    continue;
                };
                let name = tree.get("name").and_then(Value::as_str).unwrap_or_default();
                rules.push(RuleText {
                    direction,
                    path: FieldPath::of(&["spec", direction]).index(index),
                    name: match name {
                        "" => format!("{direction}[{index}]"),
                        name => name.to_owned(),
                    },
                    tree,
                });
            }
        }
        rules
    }

    /// What the object means with `rules` of one direction in the place of all its own; `None` when that
    /// cannot be read.
    pub fn with_rules(
        &self,
        linter: Linter<'_>,
        direction: &str,
        rules: Vec<Value>,
    ) -> Option<Arc<Policy>> {
        let without = |map: &Map<String, Value>, gone: &[&str]| -> Map<String, Value> {
            let kept = map.iter().filter(|(key, _)| !gone.contains(&key.as_str()));
            kept.map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        let mut spec = without(self.tree.get("spec")?.as_object()?, &["ingress", "egress"]);
        spec.insert(direction.to_owned(), Value::Array(rules));
        let mut tree = without(self.tree.as_object()?, &["spec", "status"]);
        tree.insert("spec".to_owned(), Value::Object(spec));
        let tree = Value::Object(tree);
        match read(&tree, Some(linter.federation), &linter.own.name).object {
            // What it names of other objects is theirs.
            Some(Object::Policy(draft)) => draft.policies.into_iter().next(),
            _ => None,
        }
    }
}

impl RuleText<'_> {
    /// The field of its peers.
    pub fn peers_field(&self) -> &'static str {
        if self.direction == "ingress" {
            "from"
        } else {
            "to"
        }
    }

    /// The peers, each with where it stands.
    pub fn peers(&self) -> impl Iterator<Item = (FieldPath, &Value)> {
        let field = self.peers_field();
        let list = self.tree.get(field).and_then(Value::as_array);
        let list = list.into_iter().flatten().enumerate();
        list.map(move |(index, peer)| (self.path.key(field).index(index), peer))
    }

    /// The ports, each with its field and its place in it.
    pub fn ports(&self) -> impl Iterator<Item = (&'static str, usize, &Value)> {
        let of = |field: &'static str| {
            let list = self.tree.get(field).and_then(Value::as_array);
            let list = list.into_iter().flatten().enumerate();
            list.map(move |(index, port)| (field, index, port))
        };
        of("ports").chain(of("protocols"))
    }

    /// This rule with `list` alone in `field`, of all its peers and ports: lists are long, and each item is
    /// looked at by itself.
    pub fn with(&self, field: &str, list: Vec<Value>) -> Value {
        let lists = ["from", "to", "ports", "protocols"];
        let rest = self
            .tree
            .iter()
            .filter(|(key, _)| !lists.contains(&key.as_str()));
        let mut tree: Map<String, Value> = rest.map(|(k, v)| (k.clone(), v.clone())).collect();
        tree.insert(field.to_owned(), Value::Array(list));
        Value::Object(tree)
    }

    /// This rule without what it says of ports.
    pub fn without_ports(&self) -> Value {
        let mut tree = self.tree.clone();
        for field in ["ports", "protocols", "notPorts"] {
            tree.remove(field);
        }
        Value::Object(tree)
    }

    /// Whether nothing is said of the other end.
    pub fn is_for_everybody(&self) -> bool {
        self.peers().next().is_none()
    }
}
