//! Accepted pods -> workloads, each with a node and an address.
//!
//! There may be a hundred thousand, and one of them changes: all is looked up once, and nothing is copied but
//! what leaves.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use identity::Workload;

use crate::{
    ClusterConfig, Effect, Place, PodSpec, Problem, Request, allotment,
    assemble::problem,
    read::{Kind, NamespaceObject, Object, ObjectKey, PodObject, default_uid},
    store::{Accepted, Store},
};

/// The node of a cluster that names none.
const DEFAULT_NODE: &str = "node1";

/// What becomes of a pod that declares no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Places {
    /// It gets one, and a node.
    Allotted,
    /// It has none.
    Declared,
    /// It has none yet, and what only the demo needs of a pod is left out. Accounts may not be known.
    Watched {
        /// They are.
        with_accounts: bool,
    },
}

/// Who has which address.
pub(crate) type Addresses = BTreeMap<IpAddr, Arc<ObjectKey>>;

/// The pods that have an identity or could have one, by namespace and name.
pub(crate) struct Placed<'a> {
    pods: Vec<Pod<'a>>,
    namespaces: BTreeMap<&'a str, &'a Object>,
    places: Places,
}

struct Pod<'a> {
    key: &'a Arc<ObjectKey>,
    pod: &'a PodObject,
    accepted: &'a Accepted,
}

impl<'a> Placed<'a> {
    /// Those of `store`. Of two with one address one is left out.
    pub fn new(store: &'a Store, places: Places, problems: &mut Vec<Problem>) -> Self {
        let mut placed = Self {
            pods: Vec::new(),
            namespaces: BTreeMap::new(),
            places,
        };
        let mut accounts = BTreeSet::new();
        for (key, accepted) in store.of([Kind::Namespace]) {
            placed.namespaces.insert(&key.name, &accepted.object);
        }
        for (key, _) in store.of([Kind::ServiceAccount]) {
            accounts.insert((&*key.namespace, &*key.name));
        }
        let accounts = match places {
            Places::Watched {
                with_accounts: false,
            } => None,
            _ => Some(accounts),
        };
        for (key, accepted) in store.of([Kind::Pod, Kind::Workload]) {
            if let Object::Pod(pod) = &accepted.object
                && let Some(pod) = placed.take(
                    Pod { key, pod, accepted },
                    store,
                    accounts.as_ref(),
                    problems,
                )
            {
                placed.pods.push(pod);
            }
        }
        placed.leave_out(store, problems);
        placed
    }

    fn take(
        &self,
        pod: Pod<'a>,
        store: &Store,
        accounts: Option<&BTreeSet<(&str, &str)>>,
        problems: &mut Vec<Problem>,
    ) -> Option<Pod<'a>> {
        let (namespace, name) = (&pod.pod.namespace, &pod.pod.name);
        if pod.key.kind == Kind::Workload && store.objects().contains_key(&pod_key(namespace, name))
        {
            let message = format!("Pod {namespace}/{name} has the name already");
            let (expected, effect) = ("a name of its own", Effect::NotInForce);
            problems.push(pod.problem("metadata.name", message, expected, effect));
            return None;
        }
        let is_closed = self.namespaces.get(&**namespace) == Some(&&Object::ClosedNamespace);
        if pod.pod.without_identity || is_closed {
            return None;
        }
        let account = &*pod.pod.service_account;
        if account != "default"
            && accounts.is_some_and(|all| !all.contains(&(&**namespace, account)))
        {
            let message = format!("namespace {namespace} has no ServiceAccount {account:?}");
            let expected = "an account that is declared, or none for \"default\"";
            let path = match pod.key.kind {
                Kind::Workload => "spec.serviceAccount",
                _ => "spec.serviceAccountName",
            };
            problems.push(pod.problem(path, message, expected, Effect::Warning));
        }
        Some(pod)
    }

    /// Whoever had an address keeps it; else the first by name has it, and all others are left out.
    fn leave_out(&mut self, store: &Store, problems: &mut Vec<Problem>) {
        let mut holders: BTreeMap<IpAddr, &Arc<ObjectKey>> = BTreeMap::new();
        for Pod { key, pod, .. } in &self.pods {
            let Some(address) = pod.address else { continue };
            let holder = holders.entry(address).or_insert(key);
            if holder != key && store.addresses.get(&address) == Some(key) {
                *holder = key;
            }
        }
        self.pods.retain(|pod| {
            let holder = pod.pod.address.and_then(|address| holders.get(&address));
            let Some(holder) = holder.filter(|holder| **holder != pod.key) else {
                return true;
            };
            let message = format!("{holder} has the address already");
            let (expected, effect) = ("an address of its own", Effect::NotInForce);
            problems.push(pod.problem("status.podIP", message, expected, effect));
            false
        });
    }

    /// Nodes that a Federation does not list are those that pods name.
    pub fn fill_nodes(&self, config: &mut ClusterConfig) {
        if !config.nodes.is_empty() {
            return;
        }
        let named = self.pods.iter().filter_map(|pod| pod.pod.node.as_ref());
        let named: BTreeSet<&String> = named.collect();
        config.nodes = named.into_iter().cloned().collect();
        if config.nodes.is_empty() {
            config.nodes.push(DEFAULT_NODE.into());
        }
    }

    /// What becomes of them in the cluster `config`.
    pub fn settle(
        self,
        config: &ClusterConfig,
        problems: &mut Vec<Problem>,
    ) -> (Vec<Workload>, Vec<PodSpec>, Addresses) {
        let requests = self.pods.iter().map(|Pod { pod, .. }| Request {
            namespace: &pod.namespace,
            name: &pod.name,
            node: pod.node.as_deref(),
            address: pod.address,
        });
        let places = match self.places {
            Places::Allotted => allotment(config, &requests.collect::<Vec<_>>()),
            Places::Declared | Places::Watched { .. } => requests.map(declared).collect(),
        };
        let mut workloads = Vec::with_capacity(self.pods.len());
        let (mut specs, mut addresses) = (Vec::new(), Addresses::new());
        for (placed, place) in self.pods.iter().zip(places) {
            let Pod { key, pod, .. } = placed;
            if place.address.is_none() && self.places == Places::Allotted {
                let (node, ranges) = (&place.node, ranges(config));
                let message = format!("node {node} has no free address in {ranges}");
                let effect = Effect::NotInForce;
                problems.push(placed.problem("status.podIP", message, "an address", effect));
                continue;
            }
            if let Some(address) = place.address {
                addresses.insert(address, Arc::clone(key));
                if !matches!(self.places, Places::Watched { .. }) {
                    specs.push(PodSpec {
                        namespace: pod.namespace.clone(),
                        name: pod.name.clone(),
                        node: place.node.clone(),
                        address,
                        ports: pod.ports.clone(),
                        command: pod.command.clone(),
                    });
                }
            }
            workloads.push(self.workload(config, pod, place));
        }
        (workloads, specs, addresses)
    }

    fn workload(&self, config: &ClusterConfig, pod: &PodObject, place: Place) -> Workload {
        let namespace = match self.namespaces.get(&*pod.namespace) {
            Some(Object::Namespace(namespace)) => namespace.clone(),
            _ => NamespaceObject::implied(&pod.namespace),
        };
        let uid = || default_uid(&config.trust_domain, &pod.namespace, &pod.name);
        Workload {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            uid: pod.uid.clone().unwrap_or_else(uid),
            service_account: pod.service_account.clone(),
            labels: pod.labels.clone(),
            namespace_labels: namespace.labels,
            zone: pod.zone.clone(),
            named_ports: pod.named_ports(),
            node: place.node,
            address: place.address,
            interface: pod.interface.clone(),
            unprotected: namespace.unprotected,
        }
    }
}

impl Pod<'_> {
    fn problem(&self, path: &str, message: String, expected: &str, effect: Effect) -> Problem {
        problem(self.key, self.accepted, path, message, expected, effect)
    }
}

fn pod_key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey {
        kind: Kind::Pod,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// Where a pod says that it is.
fn declared(request: Request<'_>) -> Place {
    Place {
        node: request.node.unwrap_or(DEFAULT_NODE).to_owned(),
        address: request.address,
    }
}

fn ranges(config: &ClusterConfig) -> String {
    let ranges = config.pod_ranges.iter().map(|range| range.cidr.to_string());
    ranges.collect::<Vec<_>>().join(", ")
}
