//! The pods of a workload, by their names: a folder declares pods, and nobody who made them.

use anyhow::{Result, bail};
use sources::World;

/// What makes pods, and how it names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Pod,
    /// `NAME-HASH-SUFFIX`.
    Deployment,
    /// `NAME-NUMBER`.
    StatefulSet,
    /// `NAME-SUFFIX`.
    DaemonSet,
    /// Any of these, or a service of that name.
    Any,
}

/// Where a workload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub namespace: String,
    pub name: String,
}

/// `CLUSTER/NAMESPACE/POD` of the pods of a workload, sorted.
///
/// # Errors
/// When there is none: those of the namespace.
pub fn pods(world: &World, kind: Kind, place: &Place) -> Result<Vec<String>> {
    let Place { namespace, name } = place;
    let cluster = &world.cluster.name;
    let here = || world.workloads.iter().filter(|w| w.namespace == *namespace);
    let of_kind = here().filter(|w| is_pod_of(&w.pod, kind, name));
    let pods: Vec<String> = of_kind
        .map(|w| format!("{cluster}/{namespace}/{}", w.pod))
        .collect();
    if pods.is_empty() {
        let known: Vec<&str> = here().map(|w| w.pod.as_str()).collect();
        let known = match known.is_empty() {
            true => "none".to_owned(),
            false => known.join(", "),
        };
        bail!(
            "cluster {cluster} has no pod of {kind} {namespace}/{name}; the pods of the namespace are: {known}"
        );
    }
    Ok(pods)
}

/// Whether Kubernetes would name a pod of the workload `name` so. A pod that has the workload's own name, or a
/// number behind it, was written by hand and counts too.
fn is_pod_of(pod: &str, kind: Kind, name: &str) -> bool {
    if pod == name {
        return true;
    }
    let rest = pod
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix('-'));
    let Some(rest) = rest.filter(|_| kind != Kind::Pod) else {
        return false;
    };
    let is_word = |word: &str| {
        word.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    let is_number = !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
    let is_suffix = |word: &str| word.len() == 5 && is_word(word);
    let is_hashed = rest.split_once('-').is_some_and(|(hash, suffix)| {
        (1..=10).contains(&hash.len()) && is_word(hash) && is_suffix(suffix)
    });
    is_number
        || match kind {
            Kind::Pod | Kind::StatefulSet => false,
            Kind::Deployment => is_hashed,
            Kind::DaemonSet => is_suffix(rest),
            Kind::Any => is_hashed || is_suffix(rest),
        }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pod => "Pod",
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::Any => "workload or Service",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_told_by_their_names() {
        let kinds = [
            Kind::Pod,
            Kind::Deployment,
            Kind::StatefulSet,
            Kind::DaemonSet,
            Kind::Any,
        ];
        for (pod, of) in [
            ("api", [true; 5]),
            ("api-7c4f8d9b5-x2x4z", [false, true, false, false, true]),
            ("api-0", [false, true, true, true, true]),
            ("api-x2x4z", [false, false, false, true, true]),
            ("api-gateway-7c4f8d9b5-x2x4z", [false; 5]),
            ("api-gateway", [false; 5]),
            ("api-", [false; 5]),
            ("apis", [false; 5]),
            ("web-api", [false; 5]),
        ] {
            let found = kinds.map(|kind| is_pod_of(pod, kind, "api"));
            assert_eq!(found, of, "{pod}");
        }
    }
}
