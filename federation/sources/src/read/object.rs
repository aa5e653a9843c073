//! One document -> one object: which kind it is, what it is called, and what it says.

use std::{net::IpAddr, sync::Arc};

use identity::{Labels, is_dns_subdomain};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, ServiceAccount},
    networking::v1::NetworkPolicy,
};
use policy::model::{PeerMatch, Policy};
use serde_json::Value;

use super::{
    admin_policies::{AdminNetworkPolicy, admin_network_policy, baseline_admin_network_policy},
    cluster_network_policy::{ClusterNetworkPolicy, cluster_network_policy},
    federation_peers::Context,
    federation_policy::{cluster_federation_policy, federation_policy},
    foreign,
    kind::{Kind, Name, ObjectKey},
    names::{LABEL, SUBDOMAIN, is_dns_label},
    namespace::{NamespaceObject, namespace},
    network_policy::network_policy,
    network_set::network_set,
    node::node,
    peer::peer,
    pod::{PodObject, pod},
    scope::{check_annotations, staged},
    team::{TeamObject, from_plain, platform, team},
    workload::workload,
    zones::{ZonesObject, zones},
};
use crate::{
    FederationConfig, FederationPeerConfig,
    crd::{
        ClusterFederationPolicy, ClusterNetworkSet, Federation, FederationPeer, FederationPolicy,
        NetworkSet, PlatformAllowList, Team, Workload, Zones,
    },
    decode::{decode, one_of},
    draft::Draft,
    fault::{Faults, FieldPath},
    suggest::nearest,
};

/// What an object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    Namespace(NamespaceObject),
    ServiceAccount,
    Pod(Box<PodObject>),
    Policy(Draft),
    /// The peers that a NetworkSet or ClusterNetworkSet stands for.
    NetworkSet(Vec<PeerMatch>),
    /// The labels and addresses of a node.
    Node(Labels, Vec<IpAddr>),
    Zones(ZonesObject),
    Team(TeamObject),
    Peer(Box<FederationPeerConfig>),
    Federation(FederationConfig),
    /// A policy that could not be read at start; see [`closed`].
    ClosedPolicy(Arc<Policy>),
    /// A namespace that could not be read at start: its pods wait.
    ClosedNamespace,
}

impl Object {
    /// Its policies, as far as it says them itself.
    fn policies(&self) -> &[Arc<Policy>] {
        match self {
            Self::Policy(draft) => &draft.policies,
            Self::Zones(zones) => &zones.policies,
            Self::Team(team) => &team.draft.policies,
            _ => &[],
        }
    }

    pub fn is_closed(&self) -> bool {
        matches!(self, Self::ClosedPolicy(_) | Self::ClosedNamespace)
    }
}

/// What came of one document.
#[derive(Debug)]
pub(crate) struct Reading {
    pub key: Option<ObjectKey>,
    /// `None` when it is refused.
    pub object: Option<Object>,
    pub faults: Faults,
}

/// Reads `tree` as an object of the cluster `own`. Without a federation only a Federation is read.
pub(crate) fn read(tree: &Value, federation: Option<&FederationConfig>, own: &str) -> Reading {
    let plain = from_plain(tree);
    let mut reading = read_object(plain.as_ref().unwrap_or(tree), federation, own);
    if plain.is_some() {
        reading.faults.strip("spec");
    }
    reading
}

fn read_object(tree: &Value, federation: Option<&FederationConfig>, own: &str) -> Reading {
    let mut faults = Faults::default();
    let head = head(tree, &mut faults);
    let object = head.as_ref().and_then(|(kind, name)| {
        let object = object(*kind, name, tree, federation, own, &mut faults)?;
        if let Some(cluster) = federation.and_then(|f| f.cluster(own))
            && !faults.refused()
            && let Some(error) = (object.policies().iter())
                .find_map(|p| policy::check(p, &cluster.trust_domain).err())
        {
            faults.add(FieldPath::default(), error.to_string(), "");
        }
        Some(object)
    });
    Reading {
        key: head.map(|(kind, name)| ObjectKey {
            kind,
            namespace: name.namespace,
            name: name.name,
        }),
        object: object.filter(|_| !faults.refused()),
        faults,
    }
}

/// What `tree` is called, as far as it can be told.
pub(crate) fn key(tree: &Value) -> Option<ObjectKey> {
    let (kind, name) = head(tree, &mut Faults::default())?;
    Some(ObjectKey {
        kind,
        namespace: name.namespace,
        name: name.name,
    })
}

/// Kind and name, as far as they can be told.
fn head(tree: &Value, faults: &mut Faults) -> Option<(Kind, Name)> {
    let root = FieldPath::default();
    if !tree.is_object() {
        faults.add(
            root,
            "is no object",
            "a mapping with apiVersion, kind and metadata",
        );
        return None;
    }
    let kind = kind(tree, faults)?;
    let metadata = root.key("metadata");
    let text = |field: &str| tree.get("metadata")?.get(field)?.as_str();
    let Some(name) = text("name").filter(|n| !n.is_empty()) else {
        faults.add(metadata.key("name"), "the name is missing", "a string");
        return None;
    };
    match kind {
        Kind::Namespace if !is_dns_label(name) => {
            faults.add(
                metadata.key("name"),
                format!("{name:?} is not a DNS label"),
                LABEL,
            );
        }
        _ if !is_dns_subdomain(name) => {
            let message = format!("{name:?} is not a DNS subdomain");
            faults.add(metadata.key("name"), message, SUBDOMAIN);
        }
        _ => {}
    }
    let namespace = match (kind.is_namespaced(), text("namespace")) {
        (true, None | Some("")) => "default",
        (true, Some(namespace)) => {
            if !is_dns_label(namespace) {
                let message = format!("{namespace:?} is not a DNS label");
                faults.add(metadata.key("namespace"), message, LABEL);
            }
            namespace
        }
        (false, None | Some("")) => "",
        (false, Some(_)) => {
            let message = format!("a {} belongs to no namespace", kind.word());
            faults.add(metadata.key("namespace"), message, "no namespace");
            ""
        }
    };
    Some((
        kind,
        Name {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        },
    ))
}

fn kind(tree: &Value, faults: &mut Faults) -> Option<Kind> {
    let root = FieldPath::default();
    let words: Vec<&str> = Kind::ALL.iter().map(|k| k.word()).collect();
    let text = |field: &str| tree.get(field).and_then(Value::as_str);
    let Some(word) = text("kind") else {
        faults.add(root.key("kind"), "the kind is missing", one_of(&words));
        return None;
    };
    let Some(kind) = Kind::ALL.into_iter().find(|k| k.word() == word) else {
        let kind = root.key("kind");
        if let Some(meaning) = foreign::meaning(text("apiVersion"), word) {
            faults.warn(kind, format!("{word} {meaning}"), "");
            return None;
        }
        if let Some(reason) = foreign::refusal(text("apiVersion"), word) {
            faults.add(kind, format!("{word} {reason}"), "");
            return None;
        }
        let hint = nearest(word, &words);
        let hint = hint.map_or_else(String::new, |near| format!(", did you mean {near}?"));
        let message = format!("{word:?} is not read here{hint}");
        faults.add(kind, message, one_of(&words));
        return None;
    };
    if text("apiVersion") != Some(kind.api_version()) {
        let message = match text("apiVersion") {
            Some(found) => format!("{found:?} has no {word} that is read here"),
            None => "the API version is missing".into(),
        };
        faults.add(root.key("apiVersion"), message, kind.api_version());
    }
    Some(kind)
}

/// Whether `tree` is an object of a kind that has nothing to do with us, rather than a slip.
pub(crate) fn is_foreign(tree: &Value) -> bool {
    let words: Vec<&str> = Kind::ALL.iter().map(|k| k.word()).collect();
    let word = tree.get("kind").and_then(Value::as_str);
    word.is_some_and(|w| !words.contains(&w) && nearest(w, &words).is_none())
}

fn object(
    kind: Kind,
    name: &Name,
    tree: &Value,
    federation: Option<&FederationConfig>,
    own: &str,
    faults: &mut Faults,
) -> Option<Object> {
    if tree.get("apiVersion").and_then(Value::as_str) != Some(kind.api_version()) {
        return None;
    }
    let tree = &body(kind, tree);
    if kind == Kind::Federation {
        let object: Federation = decode(tree, faults)?;
        let read = super::federation(&name.name, &object.spec, faults);
        return Some(Object::Federation(read));
    }
    let federation = federation?;
    let context = Context {
        federation,
        cluster: own,
    };
    let annotations = match kind {
        Kind::Namespace => {
            let object: Namespace = decode(tree, faults)?;
            let read = Object::Namespace(namespace(&object, name, faults));
            return Some(read);
        }
        Kind::Pod => {
            let object: Pod = decode(tree, faults)?;
            let read = pod(&object, name, federation.cluster(own)?, faults);
            (object.metadata.annotations, Object::Pod(Box::new(read)))
        }
        Kind::Node => {
            let object: Node = decode(tree, faults)?;
            let (labels, addresses) = node(&object, faults);
            (object.metadata.annotations, Object::Node(labels, addresses))
        }
        Kind::ServiceAccount => {
            let object: ServiceAccount = decode(tree, faults)?;
            (object.metadata.annotations, Object::ServiceAccount)
        }
        Kind::NetworkPolicy => {
            let object: NetworkPolicy = decode(tree, faults)?;
            let read = Object::Policy(network_policy(&object, name, faults).into());
            (object.metadata.annotations, read)
        }
        Kind::FederationPolicy => {
            let object: FederationPolicy = decode(tree, faults)?;
            let read = federation_policy(&object.spec, name, context, faults);
            (object.metadata.annotations, Object::Policy(read))
        }
        Kind::ClusterFederationPolicy => {
            let object: ClusterFederationPolicy = decode(tree, faults)?;
            let read = cluster_federation_policy(&object.spec, name, context, faults);
            (object.metadata.annotations, Object::Policy(read))
        }
        Kind::ClusterNetworkPolicy => {
            let object: ClusterNetworkPolicy = decode(tree, faults)?;
            let read = cluster_network_policy(&object, name, faults);
            (object.metadata.annotations, Object::Policy(read))
        }
        Kind::AdminNetworkPolicy => {
            let object: AdminNetworkPolicy = decode(tree, faults)?;
            let read = admin_network_policy(&object, name, faults);
            (object.metadata.annotations, Object::Policy(read))
        }
        Kind::BaselineAdminNetworkPolicy => {
            let object: AdminNetworkPolicy = decode(tree, faults)?;
            let read = baseline_admin_network_policy(&object, name, faults);
            (object.metadata.annotations, Object::Policy(read))
        }
        Kind::NetworkSet => {
            let object: NetworkSet = decode(tree, faults)?;
            let read = network_set(&object.spec.nets, &object.spec.domains, faults);
            (object.metadata.annotations, Object::NetworkSet(read))
        }
        Kind::ClusterNetworkSet => {
            let object: ClusterNetworkSet = decode(tree, faults)?;
            let read = network_set(&object.spec.nets, &object.spec.domains, faults);
            (object.metadata.annotations, Object::NetworkSet(read))
        }
        Kind::Zones => {
            let object: Zones = decode(tree, faults)?;
            let read = zones(&object.spec, name, context, faults);
            (object.metadata.annotations, Object::Zones(read))
        }
        Kind::Team => {
            let object: Team = decode(tree, faults)?;
            let read = team(&object.spec, name, faults);
            (object.metadata.annotations, Object::Team(read))
        }
        Kind::PlatformAllowList => {
            let object: PlatformAllowList = decode(tree, faults)?;
            let read = platform(&object.spec, name, faults);
            (object.metadata.annotations, Object::Policy(read))
        }
        Kind::Workload => {
            let object: Workload = decode(tree, faults)?;
            let read = workload(&object, name, federation.cluster(own)?, faults);
            (object.metadata.annotations, Object::Pod(Box::new(read)))
        }
        Kind::FederationPeer => {
            let object: FederationPeer = decode(tree, faults)?;
            let read = peer(&object.spec, federation, own, faults)?;
            (object.metadata.annotations, Object::Peer(Box::new(read)))
        }
        Kind::Federation => return None,
    };
    let (annotations, mut object) = annotations;
    let annotations = annotations.unwrap_or_default();
    check_annotations(&annotations, own, faults);
    if staged(&annotations, faults) {
        let policies = match &mut object {
            Object::Policy(draft) => &mut draft.policies[..],
            Object::Zones(zones) => &mut zones.policies[..],
            Object::Team(team) => &mut team.draft.policies[..],
            _ => &mut [],
        };
        for policy in policies {
            Arc::make_mut(policy).staged = true;
        }
    }
    Some(object)
}

/// What is left to read. Kubernetes' types read their apiVersion and kind themselves, ours do not
/// know them; and what a status says of our objects, whoever wrote it, is not read.
fn body(kind: Kind, tree: &Value) -> Value {
    let mut body = tree.clone();
    let types_read_it = matches!(
        kind,
        Kind::Namespace | Kind::ServiceAccount | Kind::Pod | Kind::Node | Kind::NetworkPolicy
    );
    if !types_read_it && let Value::Object(map) = &mut body {
        map.remove("apiVersion");
        map.remove("kind");
        map.remove("status");
    }
    body
}
