//! In which scope a policy speaks: the annotation of a NetworkPolicy and the words of a
//! FederationPolicy mean the same.

use std::collections::BTreeMap;

use policy::model::{ClusterMatch, Scope};

use crate::{
    crd::ScopeWord,
    decode::one_of,
    fault::{Faults, FieldPath},
    suggest::nearest,
};

/// The annotation that lets a NetworkPolicy speak of peers of the federation.
pub(super) const SCOPE_ANNOTATION: &str = "landbridge.io/scope";
/// The annotation that lets a policy be told of and not enforced.
const STAGED_ANNOTATION: &str = "landbridge.io/staged";
/// The annotation that says what the demo runs in a pod.
pub(super) const COMMAND_ANNOTATION: &str = "landbridge.io/command";
/// The annotation that says which cluster an object belongs to, where no folder says it.
pub(crate) const CLUSTER_ANNOTATION: &str = "landbridge.io/cluster";
/// Ours; another one in `landbridge.io/` is a slip.
const ANNOTATIONS: [&str; 4] = [
    SCOPE_ANNOTATION,
    STAGED_ANNOTATION,
    COMMAND_ANNOTATION,
    CLUSTER_ANNOTATION,
];

/// The scope that the annotations of a NetworkPolicy give it.
pub(super) fn annotated(annotations: &BTreeMap<String, String>, faults: &mut Faults) -> ScopeWord {
    let path = FieldPath::of(&["metadata", "annotations", SCOPE_ANNOTATION]);
    match annotations.get(SCOPE_ANNOTATION).map(String::as_str) {
        None | Some("local") => ScopeWord::Local,
        Some("remote") => ScopeWord::Remote,
        Some("all") => ScopeWord::All,
        Some(other) => {
            faults.add(
                path,
                format!("{other:?} is no scope"),
                "one of local, remote, all",
            );
            ScopeWord::Local
        }
    }
}

/// Whether the annotations of a policy say that it is staged.
pub(super) fn staged(annotations: &BTreeMap<String, String>, faults: &mut Faults) -> bool {
    match annotations.get(STAGED_ANNOTATION).map(String::as_str) {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            let path = FieldPath::of(&["metadata", "annotations", STAGED_ANNOTATION]);
            let message = format!("{other:?} does not say whether it is staged");
            faults.add(path, message, "\"true\" or \"false\"");
            false
        }
    }
}

/// Warns of annotations under our prefix that mean nothing, and refuses an object of the cluster `own` that
/// says it belongs to another.
pub(super) fn check_annotations(
    annotations: &BTreeMap<String, String>,
    own: &str,
    faults: &mut Faults,
) {
    if let Some(cluster) = annotations.get(CLUSTER_ANNOTATION)
        && cluster != own
    {
        let path = FieldPath::of(&["metadata", "annotations", CLUSTER_ANNOTATION]);
        let message = format!("says {cluster:?}, but it stands among the objects of {own}");
        faults.add(path, message, format!("{own}, or no such annotation"));
    }
    let ours = |key: &&String| key.starts_with("landbridge.io/");
    for key in annotations.keys().filter(ours) {
        if ANNOTATIONS.contains(&key.as_str()) {
            continue;
        }
        let hint = nearest(key, &ANNOTATIONS);
        let hint = hint.map_or_else(String::new, |near| format!(", did you mean {near}?"));
        let path = FieldPath::of(&["metadata", "annotations", key]);
        faults.warn(
            path,
            format!("the annotation means nothing{hint}"),
            one_of(&ANNOTATIONS),
        );
    }
}

pub(super) fn scopes(word: ScopeWord) -> Vec<Scope> {
    match word {
        ScopeWord::Local => vec![Scope::Local],
        ScopeWord::Remote => vec![Scope::Remote],
        ScopeWord::All => vec![Scope::Local, Scope::Remote],
        ScopeWord::None => Vec::new(),
    }
}

/// The clusters that a scope looks at.
pub(super) fn clusters(word: ScopeWord) -> ClusterMatch {
    match word {
        ScopeWord::Local | ScopeWord::None => ClusterMatch::Own,
        ScopeWord::Remote => ClusterMatch::Remote,
        ScopeWord::All => ClusterMatch::Any,
    }
}
