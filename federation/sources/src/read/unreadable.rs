//! What cannot be read: what it was meant to be, and what stands for it.

use identity::Assurance;
use policy::model::{
    Action, ClusterMatch, Direction, LabelSelector, NamespaceMatch, Policy, Rule, Scope, Tier,
    WorkloadSelector,
};

use super::{
    kind::{Kind, ObjectKey},
    object::Object,
};

/// What stands for a policy or namespace that cannot be read at start and whose last accepted
/// version nobody remembers: the pods that it may concern are cut off, because it may have been what
/// forbids. `None` for kinds whose absence allows nothing.
pub(crate) fn closed(key: &ObjectKey) -> Option<Object> {
    if key.kind == Kind::Namespace {
        return Some(Object::ClosedNamespace);
    }
    let kind = key.kind.policy()?;
    let namespace = (!key.namespace.is_empty()).then(|| key.namespace.clone());
    let deny = |direction| Rule {
        not_ports: Vec::new(),
        name: "unreadable".into(),
        direction,
        action: Action::Deny,
        reject: false,
        scopes: vec![Scope::Local, Scope::Remote],
        peers: Vec::new(),
        ports: Vec::new(),
        assurance: Assurance::default(),
    };
    let policy = Policy {
        staged: false,
        kind,
        name: key.name.clone(),
        tier: Tier::Admin,
        order: 0,
        subject: WorkloadSelector {
            clusters: ClusterMatch::Own,
            namespaces: match &namespace {
                Some(namespace) => NamespaceMatch::Names(vec![namespace.clone()]),
                None => NamespaceMatch::Any,
            },
            pods: LabelSelector::default(),
            service_accounts: Vec::new(),
        },
        namespace,
        isolates: Vec::new(),
        rules: vec![deny(Direction::Ingress), deny(Direction::Egress)],
    };
    Some(Object::ClosedPolicy(policy.into()))
}

/// Which object a text that is no YAML was probably meant to be: the first lines that look like
/// kind, name and namespace.
pub(crate) fn guess(text: &str) -> Option<ObjectKey> {
    let value = |line: &str, field: &str| {
        let (_, rest) = line.split_once(field)?;
        let rest = rest.trim_start().trim_start_matches(['"', '\'']);
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.')));
        let word = rest.get(..end.unwrap_or(rest.len()))?;
        (!word.is_empty()).then(|| word.to_owned())
    };
    let lines = || text.lines().take(1000);
    let word = lines()
        .filter(|l| l.starts_with("kind:"))
        .find_map(|l| value(l, "kind:"))?;
    let kind = Kind::ALL.into_iter().find(|k| k.word() == word)?;
    let after_metadata = || lines().skip_while(|l| !l.starts_with("metadata:")).take(20);
    let name = after_metadata().find_map(|l| value(l, "name:"))?;
    let namespace = match (
        kind.is_namespaced(),
        after_metadata().find_map(|l| value(l, "namespace:")),
    ) {
        (true, found) => found.unwrap_or_else(|| "default".into()),
        (false, _) => String::new(),
    };
    Some(ObjectKey {
        kind,
        namespace,
        name,
    })
}
