//! Two nodes of one cluster, each with the real program, and a stand-in gateway.

use std::{fs, path::Path};

use super::{NODE2, Netns, World, binary::Binary, gateway::Gateway};

const FEDERATION: &str = "
apiVersion: landbridge.io/v1alpha1
kind: Federation
metadata: {name: test}
spec:
  clusters:
  - name: east
    podRanges: [{id: 1, cidr: 10.1.0.0/16}]
    nodes: [node1, node2]
";

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: shop, labels: {app: a}}
spec: {nodeName: node1, containers: [{name: c, image: i}]}
status: {podIP: 10.1.1.10}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: shop, labels: {app: b}}
spec: {nodeName: node1, containers: [{name: c, image: i}]}
status: {podIP: 10.1.1.11}
---
apiVersion: v1
kind: Pod
metadata: {name: c, namespace: shop, labels: {app: c}}
spec: {nodeName: node2, containers: [{name: c, image: i}]}
status: {podIP: 10.1.2.10}
";

pub fn allow(app: &str) -> String {
    format!(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: to-c, namespace: shop}}
spec:
  podSelector: {{matchLabels: {{app: c}}}}
  ingress:
  - from: [{{podSelector: {{matchLabels: {{app: {app}}}}}}}]
    ports: [{{port: 8080}}]
"
    )
}

pub struct Nodes {
    pub world: World,
    pub one: Binary,
    pub two: Binary,
    pub _gateway: Gateway,
}

impl Nodes {
    pub fn start() -> Self {
        let world = World::routed();
        let folder = world.state.path().join("config");
        fs::create_dir_all(folder.join("east")).unwrap();
        fs::write(folder.join("federation.yaml"), FEDERATION).unwrap();
        fs::write(folder.join("east/pods.yaml"), PODS).unwrap();
        fs::write(folder.join("east/policy.yaml"), allow("a")).unwrap();
        let loaded = sources::load_once(&folder).unwrap().remove(0);
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        let address = format!("{NODE2}:4434").parse().unwrap();
        let secrets = [("node1", "one"), ("node2", "two")];
        let gateway = Gateway::start(&world.node2, address, loaded, &secrets);
        for (node, secret) in secrets {
            configure(world.state.path(), node, secret, &gateway.root_pin);
        }
        let mut one = start(&world, "node1", &world.node1);
        let mut two = start(&world, "node2", &world.node2);
        one.ready(&world.node1);
        two.ready(&world.node2);
        Self {
            world,
            one,
            two,
            _gateway: gateway,
        }
    }

    pub fn write_policy(&self, text: &str) {
        fs::write(
            self.world.state.path().join("config/east/policy.yaml"),
            text,
        )
        .unwrap();
    }
}

fn configure(dir: &Path, node: &str, secret: &str, pin: &str) {
    use std::os::unix::fs::PermissionsExt;
    let file = dir.join(format!("{node}.secret"));
    fs::write(&file, format!("{secret}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let dir = dir.display();
    let text = format!(
        "cluster: east\nnode: {node}\nsource: {{folder: {dir}/config}}\nstateDir: {dir}/{node}\n\
         uplink: up0\ngateway: {{endpoint: \"{NODE2}:4434\", rootPin: \"{pin}\"}}\n\
         enrolSecretFile: {dir}/{node}.secret\nmetrics: 127.0.0.1:9465\n"
    );
    fs::write(format!("{dir}/{node}.yaml"), text).unwrap();
}

pub fn start(world: &World, name: &str, node: &Netns) -> Binary {
    let dir = world.state.path();
    Binary::start(node, &dir.join(format!("{name}.yaml")), &dir.join(name))
}

/// How many packets were dropped for `reason`; whether all are accounted for is checked, too.
pub fn dropped(agent: &Binary, reason: &str) -> u64 {
    let counters = agent.ask(r#"{"op":"counters"}"#);
    let sum: u64 = ["forwarded", "replied", "punted", "consumed", "held"]
        .iter()
        .map(|fate| counters[fate].as_u64().unwrap())
        .sum();
    let dropped = counters["dropped"].as_object().unwrap();
    let lost: u64 = dropped.values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(
        counters["received"].as_u64().unwrap(),
        sum + lost,
        "{counters}"
    );
    dropped.get(reason).map_or(0, |n| n.as_u64().unwrap())
}
