//! Who watches which kinds of objects, and what is kept of them.

use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Map, Value};

use super::Viewer;
use crate::read::{Kind, OLD_ANNOTATION};

/// How the objects of a kind are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub kind: Kind,
    /// Only those whose fields say so.
    pub fields: Option<String>,
    /// Nothing but their metadata.
    pub is_metadata: bool,
}

impl Asked {
    /// What `viewer` needs besides the Federation.
    pub fn by(viewer: &Viewer) -> Vec<Self> {
        let all = Kind::ALL
            .into_iter()
            .filter(|kind| *kind != Kind::Federation);
        let asked = all.map(|kind| Self {
            kind,
            fields: match (kind, viewer) {
                (Kind::Pod, Viewer::Node(node)) => Some(format!("spec.nodeName={node}")),
                _ => None,
            },
            is_metadata: matches!(kind, Kind::Namespace | Kind::ServiceAccount),
        });
        asked.filter(|asked| viewer.needs(asked.kind)).collect()
    }

    /// All of it.
    pub fn of(kind: Kind) -> Self {
        Self {
            kind,
            fields: None,
            is_metadata: false,
        }
    }
}

impl Viewer {
    fn needs(&self, kind: Kind) -> bool {
        match (self, kind) {
            // Whether an account is there is for the issuer to say, and whom the gateway meets for the gateway.
            (Self::Node(_), Kind::ServiceAccount | Kind::FederationPeer) => false,
            // Every agent would hear of every node, all the time: only when a policy speaks of nodes.
            (Self::Node(_), Kind::Node) => false,
            _ => true,
        }
    }
}

impl Kind {
    /// Where the API server has it.
    pub(super) fn resource(self) -> ApiResource {
        let (group, version) = self
            .api_version()
            .split_once('/')
            .unwrap_or(("", self.api_version()));
        let kind = GroupVersionKind::gvk(group, version, self.word());
        ApiResource::from_gvk_with_plural(&kind, &self.plural())
    }

    /// As it stands in the paths of the API, and in what RBAC says.
    fn plural(self) -> String {
        let word = self.word().to_ascii_lowercase();
        match word.strip_suffix('y') {
            Some(stem) => format!("{stem}ies"),
            None if word.ends_with('s') => word,
            None => format!("{word}s"),
        }
    }

    /// Whether what an object says may depend on which clusters there are: then its text is kept.
    pub(super) fn speaks_of_clusters(self) -> bool {
        !matches!(
            self,
            Self::Namespace | Self::ServiceAccount | Self::Pod | Self::Node | Self::Federation
        )
    }

    /// Leaves of `tree`, an object that an API server sent, what is read here. A server may know fields of pods
    /// and nodes that nobody here does, and they mean nothing; a policy with an unknown field is another policy.
    pub(super) fn trim(self, tree: &mut Value) {
        let Value::Object(object) = tree else { return };
        object.insert("apiVersion".into(), self.api_version().into());
        object.insert("kind".into(), self.word().into());
        if let Some(metadata) = object.get_mut("metadata") {
            keep(
                metadata,
                &[
                    "name",
                    "namespace",
                    "uid",
                    "labels",
                    "annotations",
                    "generation",
                ],
            );
            if let Some(annotations) = metadata.get_mut("annotations") {
                retain(annotations, |key| {
                    // What kubectl applied last is the object once more.
                    key.starts_with("landbridge.io/") || key == OLD_ANNOTATION
                });
            }
        }
        match self {
            Self::Pod => {
                let spec = object.entry("spec").or_insert_with(|| Map::new().into());
                keep(
                    spec,
                    &[
                        "nodeName",
                        "serviceAccountName",
                        "hostNetwork",
                        "containers",
                        "initContainers",
                    ],
                );
                for containers in ["containers", "initContainers"] {
                    let containers = spec.get_mut(containers).and_then(Value::as_array_mut);
                    for container in containers.into_iter().flatten() {
                        keep(container, &["name", "ports", "restartPolicy"]);
                    }
                }
                if let Some(status) = object.get_mut("status") {
                    keep(status, &["podIP", "phase"]);
                }
            }
            Self::Node => {
                object.remove("spec");
                if let Some(status) = object.get_mut("status") {
                    keep(status, &["addresses"]);
                }
            }
            _ => drop(object.remove("status")),
        }
    }
}

fn keep(tree: &mut Value, known: &[&str]) {
    retain(tree, |key| known.contains(&key));
}

fn retain(tree: &mut Value, is_kept: impl Fn(&str) -> bool) {
    if let Value::Object(map) = tree {
        map.retain(|key, _| is_kept(key));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use kube::Resource as _;

    use super::*;
    use crate::crd;

    /// The names that are made here are those of the published definitions.
    #[test]
    fn plurals_are_those_of_the_definitions() {
        for (_, definition) in crd::definitions() {
            let names = definition.spec.names;
            let kind = Kind::ALL.into_iter().find(|kind| kind.word() == names.kind);
            let resource = kind.unwrap().resource();
            assert_eq!(resource.plural, names.plural);
            assert_eq!(resource.group, definition.spec.group);
        }
        type Policy = k8s_openapi::api::networking::v1::NetworkPolicy;
        let policy = Kind::NetworkPolicy.resource();
        assert_eq!(policy.plural, Policy::plural(&()));
        assert_eq!(
            (policy.group, policy.version),
            ("networking.k8s.io".into(), "v1".into())
        );
        let pods = Kind::Pod.resource();
        assert_eq!(
            (pods.group, pods.version, pods.plural),
            ("".into(), "v1".into(), "pods".into())
        );
    }

    #[test]
    fn of_a_pod_only_what_is_read_is_kept() {
        let mut pod = serde_json::json!({
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "1", "managedFields": [{"manager": "kubelet"}],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "landbridge.io/command": "true"},
            },
            "spec": {
                "nodeName": "node1", "volumes": [{"name": "data"}], "newField": 1,
                "containers": [{"name": "web", "image": "web:1", "ports": [{"containerPort": 80}]}],
            },
            "status": {"podIP": "10.1.1.1", "phase": "Running", "conditions": []},
        });
        Kind::Pod.trim(&mut pod);
        let kept = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "1", "annotations": {"landbridge.io/command": "true"},
            },
            "spec": {"nodeName": "node1", "containers": [{"name": "web", "ports": [{"containerPort": 80}]}]},
            "status": {"podIP": "10.1.1.1", "phase": "Running"},
        });
        assert_eq!(pod, kept);
    }

    #[test]
    fn an_agent_asks_for_the_pods_of_its_node() {
        let asked = Asked::by(&Viewer::Node("node7".into()));
        let pods = asked.iter().find(|asked| asked.kind == Kind::Pod).unwrap();
        assert_eq!(pods.fields.as_deref(), Some("spec.nodeName=node7"));
        assert!(asked.iter().all(|asked| asked.kind != Kind::ServiceAccount));
        let all = Asked::by(&Viewer::Gateway("gw1".into()));
        assert!(all.iter().all(|asked| asked.fields.is_none()));
    }
}
