//! Which part of a selector it is that no pod fits, and what the pods have instead.

use identity::{Claims, TrustDomain};
use policy::model::{
    ClusterMatch, LabelSelector, NamespaceMatch, Operator, Requirement, Term, WorkloadSelector,
};

use super::{hint, some_of};

/// Message and expectation for a `selector` of a policy of `own` that fits none of `pods`, which are those of
/// the clusters that it looks at.
pub(super) fn blame(
    selector: &WorkloadSelector,
    own: &TrustDomain,
    pods: Vec<&Claims>,
) -> (String, String) {
    let mut left = Left { own, pods };
    match &selector.namespaces {
        NamespaceMatch::Any => {}
        NamespaceMatch::Names(names) => {
            let known = left.words(|pod| vec![pod.namespace()]);
            let part = WorkloadSelector {
                namespaces: selector.namespaces.clone(),
                ..everybody()
            };
            if !left.narrow(&part) {
                return one_of_names("none is in namespace", names, known);
            }
        }
        NamespaceMatch::Labels(labels) => {
            for term in &labels.0 {
                let part = WorkloadSelector {
                    namespaces: NamespaceMatch::Labels(LabelSelector(vec![term.clone()])),
                    ..everybody()
                };
                let before = left.pods.clone();
                if !left.narrow(&part) {
                    return label(Whose::Namespace, term, &before);
                }
            }
        }
    }
    for term in &selector.pods.0 {
        let part = WorkloadSelector {
            pods: LabelSelector(vec![term.clone()]),
            ..everybody()
        };
        let before = left.pods.clone();
        if !left.narrow(&part) {
            return label(Whose::Pod, term, &before);
        }
    }
    let accounts = &selector.service_accounts;
    let known = left.words(|pod| vec![pod.service_account()]);
    one_of_names("none of those has service account", accounts, known)
}

fn everybody() -> WorkloadSelector {
    WorkloadSelector {
        clusters: ClusterMatch::Any,
        namespaces: NamespaceMatch::Any,
        pods: LabelSelector::default(),
        service_accounts: Vec::new(),
    }
}

/// The pods that fit all parts so far.
struct Left<'a> {
    own: &'a TrustDomain,
    pods: Vec<&'a Claims>,
}

impl<'a> Left<'a> {
    /// Whether any of them fits `part` too; those stay.
    fn narrow(&mut self, part: &WorkloadSelector) -> bool {
        self.pods = policy::selected(part, self.own, self.pods.iter().copied()).collect();
        !self.pods.is_empty()
    }

    fn words(&self, of: impl Fn(&'a Claims) -> Vec<&'a str>) -> Vec<&'a str> {
        self.pods.iter().flat_map(|pod| of(pod)).collect()
    }
}

fn one_of_names(message: &str, names: &[String], known: Vec<&str>) -> (String, String) {
    let near = names.first().map(|name| hint(name, known.iter().copied()));
    let message = format!(
        "{message} {}{}",
        names.join(" or "),
        near.unwrap_or_default()
    );
    (message, some_of(known))
}

#[derive(Clone, Copy)]
enum Whose {
    Pod,
    Namespace,
}

/// Which label it is that none of `pods` has so.
fn label(whose: Whose, term: &Term, pods: &[&Claims]) -> (String, String) {
    let (word, of): (_, fn(&Claims) -> &identity::Labels) = match whose {
        Whose::Pod => ("label", |pod| &pod.labels),
        Whose::Namespace => ("namespace label", |pod| &pod.namespace_labels),
    };
    let Term::Label(Requirement { key, operator }) = term else {
        return (
            format!("none of them has {word}s so that {term}"),
            String::new(),
        );
    };
    let found: Vec<&str> = pods.iter().filter_map(|pod| of(pod).value(key)).collect();
    match operator {
        Operator::In(_) | Operator::Exists | Operator::Like(_) if found.is_empty() => {
            let keys = || pods.iter().flat_map(|pod| of(pod).iter());
            let keys = || keys().map(|(key, _)| key);
            let message = format!("none of them has {word} {key:?}{}", hint(key, keys()));
            (message, some_of(keys()))
        }
        Operator::In(values) => one_of_names(
            &format!("none of them has {word} {key:?} with value"),
            values,
            found,
        ),
        Operator::Like(_) => (
            format!("none of them has a {word} so that {term}"),
            some_of(found),
        ),
        Operator::NotIn(_) | Operator::DoesNotExist | Operator::Exists | Operator::NotLike(_) => {
            let message = format!("all of them have a {word} {key:?} that is excluded");
            (message, String::new())
        }
    }
}
