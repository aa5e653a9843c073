//! A real API server as a source.
#![allow(clippy::unwrap_used)]

#[path = "../../../tests/peers/kubernetes.rs"]
mod kubernetes;

use std::{
    fs,
    future::Future,
    io::Write,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use kubernetes::ApiServer;
use landbridge_sources::{
    ClusterConfig, Effect, Joined, KubernetesSource, PodRange, Viewer, World, load_once,
};
use tokio::{runtime::Runtime, sync::watch::Receiver, time::timeout};

const FEDERATION: &str = "\
apiVersion: landbridge.io/v1alpha1
kind: Federation
metadata: {name: sea}
spec:
  clusters:
  - {name: west, podRanges: [{id: 1, cidr: 10.1.0.0/16}]}
  - {name: east, podRanges: [{id: 1, cidr: 10.2.0.0/16}]}
";

/// The namespace of all pods. Without a controller manager somebody has to make its account.
const SHOP: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: shop}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: shop}
";

const POLICIES: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{protocol: TCP, port: http}]
---
apiVersion: landbridge.io/v1alpha1
kind: FederationPolicy
metadata: {name: from-east, namespace: shop}
spec:
  ingress:
  - action: Allow
    from: [{clusters: [east], namespaceSelector: {}, podSelector: {matchLabels: {app: client}}}]
";

/// As far as a test needs the kind of somebody else.
const CLUSTER_NETWORK_POLICIES: &str = "\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: clusternetworkpolicies.policy.networking.k8s.io
  annotations: {api-approved.kubernetes.io: 'unapproved, of a test'}
spec:
  group: policy.networking.k8s.io
  scope: Cluster
  names: {kind: ClusterNetworkPolicy, plural: clusternetworkpolicies}
  versions:
  - name: v1alpha2
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

/// What speaks of nodes, and one of them.
const NODES: &str = "\
apiVersion: v1
kind: Node
metadata: {name: node9, labels: {role: ingress}}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: nodes}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  egress:
  - action: Deny
    to: [{nodes: {matchLabels: {role: ingress}}}]
";

fn pod(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\n\
         spec:\n  nodeName: {node}\n  automountServiceAccountToken: false\n  containers:\n  - {{name: main, \
         image: none, ports: [{{name: http, containerPort: 8080}}]}}\n"
    )
}

/// An API server with our definitions.
struct Cluster {
    api: ApiServer,
    runtime: Runtime,
    folder: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Option<Self> {
        // For who reads why a test failed; another one set it already.
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
        let api = ApiServer::start_here(kubernetes::program()?);
        let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds");
        api.kubectl(&["apply", "-f", crds.to_str().unwrap()]);
        api.kubectl(&["wait", "--for=condition=Established", "crd", "--all"]);
        Some(Self {
            api,
            runtime: Runtime::new().unwrap(),
            folder: tempfile::tempdir().unwrap(),
        })
    }

    fn apply(&self, text: &str) {
        let file = self.folder.path().join("applied.yaml");
        fs::write(&file, text).unwrap();
        self.api.kubectl(&["apply", "-f", file.to_str().unwrap()]);
    }

    fn give_address(&self, pod: &str, address: &str) {
        let status = format!(
            r#"{{"status": {{"phase": "Running", "podIP": "{address}", "podIPs": [{{"ip": "{address}"}}]}}}}"#
        );
        let patch = [
            "patch",
            "pod",
            pod,
            "-n",
            "shop",
            "--subresource=status",
            "-p",
            &status,
        ];
        self.api.kubectl(&patch);
    }

    fn delete(&self, what: &str, name: &str) {
        self.api.kubectl(&[
            "delete",
            what,
            name,
            "-n",
            "shop",
            "--force",
            "--grace-period=0",
        ]);
    }

    fn source(&self, user: &str) -> KubernetesSource {
        KubernetesSource {
            kubeconfig: Some(self.api.kubeconfig(user)),
        }
    }

    fn opening(
        &self,
        user: &str,
        viewer: Viewer,
    ) -> impl Future<Output = (Receiver<Arc<World>>, Joined)> + use<> {
        let source = self.source(user);
        async move { source.open("west", &viewer, Vec::new()).await.unwrap() }
    }

    fn open(&self, viewer: Viewer) -> (Receiver<Arc<World>>, Joined) {
        let opening = self.opening("admin", viewer);
        self.block_on(opening)
    }

    /// The limit only ends a test that fails.
    fn block_on<T>(&self, done: impl Future<Output = T>) -> T {
        let limited = async { timeout(Duration::from_secs(60), done).await };
        self.runtime.block_on(limited).expect("it never came")
    }

    fn until(
        &self,
        worlds: &mut Receiver<Arc<World>>,
        what: &str,
        holds: impl Fn(&World) -> bool,
    ) -> Arc<World> {
        let limit = Duration::from_secs(60);
        let waited = async { timeout(limit, worlds.wait_for(|world| holds(world))).await };
        if let Ok(world) = self.runtime.block_on(waited) {
            return world.unwrap().clone();
        }
        panic!("{what}: not in force; the world is {:#?}", worlds.borrow());
    }
}

fn names(world: &World) -> Vec<&str> {
    world
        .workloads
        .iter()
        .map(|workload| workload.pod.as_str())
        .collect()
}

fn has_problem(world: &World, words: &str) -> bool {
    world
        .problems
        .iter()
        .any(|problem| problem.to_string().contains(words))
}

/// What the same manifests say in a folder.
fn in_a_folder(manifests: &str) -> World {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("federation.yaml"), FEDERATION).unwrap();
    for cluster in ["west", "east"] {
        fs::create_dir(folder.path().join(cluster)).unwrap();
    }
    fs::write(folder.path().join("west/all.yaml"), manifests).unwrap();
    load_once(folder.path()).unwrap().remove(0)
}

#[test]
fn what_is_applied_patched_and_deleted_is_known_at_once() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    cluster.apply(CLUSTER_NETWORK_POLICIES);
    cluster
        .api
        .kubectl(&["wait", "--for=condition=Established", "crd", "--all"]);
    cluster.apply(&format!("{FEDERATION}---\n{SHOP}---\n{POLICIES}"));
    let (mut all, joined) = cluster.open(Viewer::Gateway("gw1".into()));
    let (mut of_node, _joined) = cluster.open(Viewer::Node("node1".into()));
    let first = all.borrow().clone();
    assert_eq!(first.problems, []);
    assert_eq!(
        first.policies,
        in_a_folder(&format!("{SHOP}---\n{POLICIES}")).policies
    );
    assert_eq!(of_node.borrow().policies, first.policies);

    for (pod_name, node) in [("web", "node1"), ("client", "node2")] {
        cluster.apply(&pod(pod_name, node));
    }
    let world = cluster.until(&mut all, "pods", |world| names(world) == ["client", "web"]);
    assert!(
        world
            .workloads
            .iter()
            .all(|workload| workload.address.is_none())
    );
    cluster.give_address("web", "10.1.1.7");
    let has_address = |world: &World| {
        let web = world.workload("shop", "web");
        web.is_some_and(|web| web.address == Some("10.1.1.7".parse().unwrap()))
    };
    let world = cluster.until(&mut all, "its address", has_address);
    let web = world.workload("shop", "web").unwrap();
    assert_eq!(
        (web.node.as_str(), web.service_account.as_str()),
        ("node1", "default")
    );
    assert_eq!(web.namespace_labels.value("team"), Some("shop"));
    assert_eq!(web.named_ports[0].name, "http");
    let uid = cluster.api.kubectl(&[
        "get",
        "pod",
        "web",
        "-n",
        "shop",
        "-o",
        "jsonpath={.metadata.uid}",
    ]);
    assert_eq!(web.uid, uid);
    // Pods of other nodes are never told to an agent.
    let world = cluster.until(&mut of_node, "its pod", has_address);
    assert_eq!(names(&world), ["web"]);

    cluster
        .api
        .kubectl(&["label", "pod", "web", "-n", "shop", "tier=front"]);
    cluster
        .api
        .kubectl(&["label", "namespace", "shop", "team=other", "--overwrite"]);
    cluster.until(&mut of_node, "labels", |world| {
        let web = world.workload("shop", "web").unwrap();
        let of = |labels: &identity::Labels, key| labels.value(key).map(str::to_owned);
        of(&web.labels, "tier").as_deref() == Some("front")
            && of(&web.namespace_labels, "team").as_deref() == Some("other")
    });

    // An address outside of our ranges belongs to somebody else.
    cluster.apply(&pod("stray", "node1"));
    cluster.give_address("stray", "10.9.0.1");
    let words = "10.9.0.1 is in no pod range of cluster west";
    let world = cluster.until(&mut all, "a problem", |world| has_problem(world, words));
    assert!(
        !names(&world).contains(&"stray")
            || world.workload("shop", "stray").unwrap().address.is_none()
    );
    cluster.delete("pod", "stray");
    cluster.until(&mut all, "no problem", |world| world.problems.is_empty());

    cluster.delete("networkpolicy", "web");
    cluster.delete("pod", "client");
    cluster.until(&mut all, "deletions", |world| {
        names(world) == ["web"] && world.policies.policies.len() == 1
    });

    let condition = |what: &str, field: &str| {
        let path = format!("jsonpath={{.status.conditions[?(@.type==\"Accepted\")].{field}}}");
        cluster
            .api
            .kubectl(&["get", what, "-n", "shop", "-o", &path])
    };
    let until_said = |what: &str, field: &str, wanted: &str| {
        let said = async {
            while condition(what, field) != wanted {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        cluster.block_on(said);
    };
    until_said("federationpolicy/from-east", "reason", "Accepted");
    until_said("federation/sea", "status", "True");

    // A policy that makes no sense leaves the one before in force, until it does, and says so itself.
    let policy = |cluster: &str| {
        POLICIES
            .split("---\n")
            .nth(1)
            .unwrap()
            .replace("east]", &format!("{cluster}]"))
    };
    cluster.apply(&policy("north"));
    let world = cluster.until(&mut all, "a refusal", |world| {
        has_problem(world, "\"north\"")
    });
    let [problem] = &world.problems[..] else {
        panic!("{:?}", world.problems)
    };
    assert_eq!(problem.effect, Effect::KeptPrevious);
    assert_eq!(world.policies.policies.len(), 1);
    until_said("federationpolicy/from-east", "reason", "KeptPrevious");
    until_said("federationpolicy/from-east", "status", "False");
    until_said("federationpolicy/from-east", "observedGeneration", "2");
    assert_eq!(
        condition("federationpolicy/from-east", "message"),
        problem.words()
    );
    let told = async {
        let path = "jsonpath={range .items[*]}{.involvedObject.name} {.reason} {.message}{end}";
        let events = ["get", "events", "-n", "shop", "-o", path];
        let wanted = format!("from-east KeptPrevious {}", problem.words());
        while !cluster.api.kubectl(&events).contains(&wanted) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    cluster.block_on(told);
    // A cluster of that name is joined.
    joined.set(vec![ClusterConfig::joined(
        "north",
        identity::TrustDomain::new("north").unwrap(),
        vec![PodRange {
            id: 1,
            cidr: "10.3.0.0/16".parse().unwrap(),
            map_to: None,
        }],
    )]);
    let world = cluster.until(&mut all, "the joined cluster", |world| {
        world.problems.is_empty()
    });
    assert_ne!(world.policies, first.policies);
    until_said("federationpolicy/from-east", "status", "True");
    let listed = cluster
        .api
        .kubectl(&["get", "federationpolicies", "-n", "shop"]);
    assert!(
        listed
            .lines()
            .nth(1)
            .unwrap()
            .starts_with("from-east   True       Accepted"),
        "{listed}"
    );
    let lease = [
        "get",
        "lease",
        "landbridge-west",
        "-o",
        "jsonpath={.spec.holderIdentity}",
    ];
    assert!(cluster.api.kubectl(&lease).starts_with("gw1_"));

    // Nodes are asked for by an agent from the moment on at which a policy speaks of them.
    assert_eq!(of_node.borrow().nodes, []);
    cluster.apply(NODES);
    let address = r#"{"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.9"}]}}"#;
    cluster.api.kubectl(&[
        "patch",
        "node",
        "node9",
        "--subresource=status",
        "-p",
        address,
    ]);
    cluster.until(&mut of_node, "the nodes of a policy", |world| {
        let node = world.nodes.first();
        node.is_some_and(|node| {
            node.addresses == ["192.0.2.9".parse::<std::net::IpAddr>().unwrap()]
        })
    });

    // A kind that is there no more leaves nothing, and is a problem for a while only: a server that starts may say
    // so of all kinds.
    let only_web = |world: &World| world.policies.policies.len() == 1 && names(world) == ["web"];
    let crd = ["delete", "crd", "federationpolicies.landbridge.io"];
    cluster.api.kubectl(&crd);
    let words = "asked for FederationPolicy: does not answer";
    cluster.until(&mut all, "a problem", |world| has_problem(world, words));
    cluster.until(&mut all, "no problem", |world| {
        world.problems.is_empty() && only_web(world)
    });
}

#[test]
fn while_the_api_server_is_away_all_stays_and_nothing_is_lost() {
    let Some(mut cluster) = Cluster::start() else {
        return;
    };
    cluster.apply(&format!(
        "{FEDERATION}---\n{SHOP}---\n{POLICIES}---\n{}---\n{}",
        pod("web", "node1"),
        pod("old", "node1")
    ));
    cluster.give_address("web", "10.1.1.7");
    let (mut worlds, _joined) = cluster.open(Viewer::Gateway("gw1".into()));
    let before = worlds.borrow().clone();
    assert_eq!(names(&before), ["old", "web"]);

    cluster.api.kill();
    let away = cluster.until(&mut worlds, "that it is away", |world| {
        has_problem(world, "does not answer")
    });
    assert_eq!(
        (&away.workloads, &away.policies),
        (&before.workloads, &before.policies)
    );
    assert!(
        away.problems
            .iter()
            .all(|problem| problem.effect == Effect::KeptPrevious)
    );

    // What changes meanwhile is seen all the same, a deletion, too: the server that comes back knows no version
    // of before, and all is listed again.
    let known = cluster.api.move_to(ApiServer::free_port());
    cluster.api.run();
    cluster.api.until_ready();
    cluster.delete("pod", "old");
    cluster.apply(&pod("new", "node2"));
    cluster.api.kill();
    cluster.api.move_to(known);
    cluster.api.run();
    cluster.api.until_ready();
    let world = cluster.until(&mut worlds, "that it is back", |world| {
        names(world) == ["new", "web"] && world.problems.is_empty()
    });
    assert_eq!(world.policies, before.policies);
    cluster
        .api
        .kubectl(&["label", "pod", "web", "-n", "shop", "tier=front"]);
    cluster.until(&mut worlds, "a label", |world| {
        world.workload("shop", "web").unwrap().labels.value("tier") == Some("front")
    });
}

/// Of two gateways the one that has the lease writes; another takes it when nothing is heard of the first.
#[test]
fn one_gateway_says_what_became_of_objects_and_another_takes_its_place() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    cluster.apply(&format!("{FEDERATION}---\n{SHOP}"));
    let holder = || {
        let lease = [
            "get",
            "lease",
            "--ignore-not-found",
            "-o",
            "jsonpath={.items[*].spec.holderIdentity}",
        ];
        let holder = cluster.api.kubectl(&lease);
        holder.split('_').next().unwrap().to_owned()
    };
    let until_holds = |name: &str| {
        let held = async {
            while holder() != name {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        cluster.block_on(held);
    };
    let first = cluster.open(Viewer::Gateway("gw1".into()));
    until_holds("gw1");
    let (mut worlds, _joined) = cluster.open(Viewer::Gateway("gw2".into()));
    drop(first);
    until_holds("gw2");
    cluster.apply(&FEDERATION.replace("sea", "lake"));
    cluster.until(&mut worlds, "a problem", |world| has_problem(world, "lake"));
    let said = async {
        let path = "jsonpath={.status.conditions[0].reason}";
        while cluster
            .api
            .kubectl(&["get", "federation", "lake", "-o", path])
            != "NotInForce"
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    cluster.block_on(said);
}

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    async fn says(&self, words: &str) {
        while !String::from_utf8_lossy(&self.0.lock().unwrap()).contains(words) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[test]
fn a_start_waits_for_rights_and_a_federation_and_says_for_which() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .finish();
    // Other tests of this process may have their own.
    let guard = cluster.runtime.enter();
    let opening = cluster.opening("gateway", Viewer::Gateway("gw1".into()));
    let opening = tracing::instrument::WithSubscriber::with_subscriber(opening, subscriber);
    let opening = tokio::spawn(opening);
    drop(guard);

    cluster.block_on(
        log.says(
            r#"User "gateway" cannot list resource "federations" in API group "landbridge.io""#,
        ),
    );
    let may = |kinds: &str, name: &str| {
        let resource = format!("--resource={kinds}");
        cluster.api.kubectl(&[
            "create",
            "clusterrole",
            name,
            "--verb=list,watch",
            &resource,
        ]);
        let role = format!("--clusterrole={name}");
        cluster.api.kubectl(&[
            "create",
            "clusterrolebinding",
            name,
            &role,
            "--user=gateway",
        ]);
    };
    may("federations.landbridge.io", "federations");
    cluster.block_on(log.says("there is no Federation object"));
    cluster.apply(&FEDERATION.replace("name: west", "name: south"));
    cluster.block_on(log.says(r#"Federation sea has no cluster "west""#));
    cluster.apply(FEDERATION);
    cluster.block_on(log.says(r#"cannot list resource "pods""#));
    may("*", "all");
    may("*.*", "everything");
    let (mut worlds, _joined) = cluster.block_on(opening).unwrap();
    cluster.until(&mut worlds, "no problem", |world| world.problems.is_empty());

    // Another Federation is refused, with the remedy.
    cluster.apply(&FEDERATION.replace("sea", "lake"));
    let world = cluster.until(&mut worlds, "a problem", |world| {
        has_problem(world, "Federation sea is in force already")
    });
    assert_eq!(world.federation.name, "sea");
    cluster.api.kubectl(&["delete", "federation", "lake"]);
    cluster.until(&mut worlds, "no problem", |world| world.problems.is_empty());

    // One that is deleted stays in force, and the next one takes its place.
    cluster.api.kubectl(&["delete", "federation", "sea"]);
    cluster.until(&mut worlds, "a problem", |world| {
        has_problem(world, "was deleted")
    });
    cluster.apply(&FEDERATION.replace("sea", "ocean"));
    cluster.until(&mut worlds, "the next", |world| {
        world.federation.name == "ocean" && world.problems.is_empty()
    });
}
