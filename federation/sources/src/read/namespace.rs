//! `v1` Namespace -> its labels, and whether its pods are protected.

use std::collections::BTreeMap;

use identity::Labels;
use k8s_openapi::api::core::v1::Namespace;

use super::{kind::Name, names::labels};
use crate::{
    fault::{Faults, FieldPath},
    suggest::nearest,
};

/// The label that takes a namespace out of protection.
const MODE_LABEL: &str = "landbridge.io/mode";
/// The annotation of Kubernetes before 1.7 that isolated a namespace.
pub(crate) const OLD_ANNOTATION: &str = "net.beta.kubernetes.io/network-policy";
/// The label that an API server gives every namespace.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamespaceObject {
    pub labels: Labels,
    /// Its pods neither prove nor are asked for an identity.
    pub unprotected: bool,
    /// The deprecated annotation isolates its pods on ingress.
    pub default_deny: bool,
}

impl NamespaceObject {
    /// A namespace that is only mentioned by others.
    pub fn implied(name: &str) -> Self {
        let labels = BTreeMap::from([(NAME_LABEL.to_owned(), name.to_owned())]);
        Self {
            labels: Labels::try_from(labels).unwrap_or_default(),
            unprotected: false,
            default_deny: false,
        }
    }
}

/// The namespace that `object` describes; nothing of it counts when `faults` refuse it.
pub(super) fn namespace(object: &Namespace, name: &Name, faults: &mut Faults) -> NamespaceObject {
    let path = FieldPath::of(&["metadata", "labels"]);
    let mut map = object.metadata.labels.clone().unwrap_or_default();
    if let Some(other) = map.insert(NAME_LABEL.into(), name.name.clone())
        && other != name.name
    {
        let message = format!("{other:?} is not the namespace's name");
        faults.add(path.key(NAME_LABEL), message, format!("{:?}", name.name));
    }
    for key in map.keys().filter(|k| k.starts_with("landbridge.io/")) {
        if key != MODE_LABEL {
            let hint = nearest(key, &[MODE_LABEL]);
            let hint = hint.map_or("", |_| ", did you mean landbridge.io/mode?");
            faults.warn(
                path.key(key),
                format!("the label means nothing{hint}"),
                MODE_LABEL,
            );
        }
    }
    let unprotected = match map.get(MODE_LABEL).map(String::as_str) {
        None | Some("enforce") => false,
        Some("unprotected") => true,
        Some(other) => {
            let message = format!("{other:?} is no mode");
            faults.add(path.key(MODE_LABEL), message, "enforce or unprotected");
            false
        }
    };
    NamespaceObject {
        labels: labels(&map, &path, faults),
        unprotected,
        default_deny: default_deny(object, faults),
    }
}

/// Whether the annotation that NetworkPolicy had before it had policyTypes says so.
fn default_deny(object: &Namespace, faults: &mut Faults) -> bool {
    let annotations = object.metadata.annotations.iter().flatten();
    let Some((_, text)) = annotations
        .into_iter()
        .find(|(key, _)| *key == OLD_ANNOTATION)
    else {
        return false;
    };
    let path = FieldPath::of(&["metadata", "annotations", OLD_ANNOTATION]);
    let isolation = |value: serde_json::Value| {
        let isolation = value.get("ingress")?.get("isolation")?.as_str()?.to_owned();
        (isolation == "DefaultDeny").then_some(())
    };
    let expected = "a NetworkPolicy with podSelector {} and policyTypes [Ingress]";
    match serde_json::from_str(text).ok().and_then(isolation) {
        Some(()) => {
            let message =
                "is deprecated: it isolates the pods of the namespace on ingress, as before";
            faults.warn(path, message, expected);
        }
        None => {
            // What cannot be read may have been what forbids.
            let message = "is deprecated and not understood, so the pods of the namespace are isolated on ingress";
            faults.warn(path, message, expected);
        }
    }
    true
}
