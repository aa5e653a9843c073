//! A gateway whose pods, policies and nodes come from a real Kubernetes API server, and whose agents show the
//! tokens of their pods.

use std::{fs, time::Duration};

use quic::{Credentials, Pin};
use serde_json::{Value, json};

use crate::{
    kubernetes::{self, ApiServer},
    namespaces::root_or_skip,
    signer::ask,
    world::{FEDERATION, Gateway, PODS, World},
};

/// How long an API server takes to come back, and a gateway to find that out.
const BACK: Duration = Duration::from_secs(60);

/// Without a controller manager somebody has to make the accounts, and without a kubelet the pods' addresses.
const AGENTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: landbridge}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: agent, namespace: landbridge}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: other, namespace: landbridge}
---
apiVersion: v1
kind: Node
metadata: {name: node1}
---
apiVersion: v1
kind: Pod
metadata: {name: agent-1, namespace: landbridge}
spec: {serviceAccountName: agent, hostNetwork: true, nodeName: node1, containers: [{name: c, image: x}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other-1, namespace: landbridge}
spec: {serviceAccountName: other, nodeName: node1, containers: [{name: c, image: x}]}
---
apiVersion: v1
kind: Pod
metadata: {name: agent-9, namespace: landbridge}
spec: {serviceAccountName: agent, hostNetwork: true, nodeName: node9, containers: [{name: c, image: x}]}
";

const RIGHTS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: gateway}
rules:
- {apiGroups: [landbridge.io], resources: ['*'], verbs: [list, watch]}
- {apiGroups: [''], resources: [pods, namespaces, serviceaccounts, nodes], verbs: [list, watch]}
- {apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [list, watch]}
- apiGroups: [policy.networking.k8s.io]
  resources: [clusternetworkpolicies, adminnetworkpolicies, baselineadminnetworkpolicies]
  verbs: [list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: gateway}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: gateway}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: gateway}]
";

fn apply(world: &World, api: &ApiServer, text: &str) {
    let file = world.path("applied.yaml");
    fs::write(&file, text).unwrap();
    api.kubectl(&["apply", "-f", file.to_str().unwrap()]);
}

/// East, whose objects are there and whose gateway asks for them.
fn start(world: &World) -> Option<ApiServer> {
    let api = ApiServer::start(kubernetes::program()?, &world.namespaces.name("east"));
    let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/crds");
    api.kubectl(&["apply", "-f", crds]);
    api.kubectl(&["wait", "--for=condition=Established", "crd", "--all"]);
    let federation = FEDERATION.replace(", nodes: [node1]", "");
    apply(
        world,
        &api,
        &format!("{federation}---{AGENTS}---{PODS}---{RIGHTS}"),
    );
    for (pod, namespace, address) in [
        ("front", "shop", "10.1.1.10"),
        ("other-1", "landbridge", "10.1.1.20"),
    ] {
        let status =
            json!({"status": {"podIP": address, "podIPs": [{"ip": address}], "phase": "Running"}});
        let status = status.to_string();
        api.kubectl(&[
            "patch",
            "pod",
            pod,
            "-n",
            namespace,
            "--subresource=status",
            "-p",
            &status,
        ]);
    }
    let file = world.path("east.yaml");
    let config = fs::read_to_string(&file).unwrap();
    let lines = config
        .lines()
        .map(|line| match line.split_once(':').unwrap().0 {
            "source" => {
                let kubeconfig = api.kubeconfig("gateway");
                format!(
                    "source: {{kubernetes: {{kubeconfig: {}}}}}",
                    kubeconfig.display()
                )
            }
            "nodes" => "agents: {serviceAccount: landbridge/agent, rootConfigMap: root}".into(),
            _ => line.to_owned(),
        });
    let config: Vec<String> = lines.collect();
    fs::write(file, config.join("\n")).unwrap();
    Some(api)
}

fn token(api: &ApiServer, account: &str, audience: &str, pod: Option<&str>) -> Credentials {
    let mut arguments = vec![
        "create",
        "token",
        account,
        "-n",
        "landbridge",
        "--audience",
        audience,
    ];
    if let Some(pod) = pod {
        arguments.extend(["--bound-object-kind", "Pod", "--bound-object-name", pod]);
    }
    let token = api.kubectl(&arguments);
    Credentials::Token(token.trim().to_owned().into())
}

fn says(gateway: &Gateway<'_>, words: &str) -> bool {
    gateway.status()["problems"].to_string().contains(words)
}

/// Whether connections between pods of the two are allowed, as the gateway of east has it.
fn explained(gateway: &Gateway<'_>) -> Option<Value> {
    let request = json!({
        "op": "explain", "from": "east/shop/front", "to": "east/landbridge/other-1", "port": 80, "protocol": "tcp",
    });
    let answer = gateway.ask(&request)?;
    answer.get("ingress").cloned()
}

#[test]
fn pods_policies_and_nodes_come_from_an_api_server_and_agents_enrol_by_their_tokens() {
    if !root_or_skip() || kubernetes::program().is_none() {
        return;
    }
    let world = World::new("api");
    let mut api = start(&world).unwrap();
    let pin: Pin = world.init("east").parse().unwrap();
    let (east, west) = (world.start("east"), world.start("west"));
    let status = east.until_connected();
    west.until_connected();
    assert_eq!(status["problems"], json!([]));
    let allowed = explained(&east).unwrap();
    assert_eq!(allowed["verdict"]["decision"], "allow", "{allowed:#}");

    // A policy is in force as soon as it is applied, and no more when it is deleted.
    apply(
        &world,
        &api,
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody, namespace: landbridge}
spec: {podSelector: {}, policyTypes: [Ingress]}
",
    );
    let is =
        |decision: &str| explained(&east).is_some_and(|one| one["verdict"]["decision"] == decision);
    world.until("the policy", || !is("allow"));
    api.kubectl(&["delete", "networkpolicy", "nobody", "-n", "landbridge"]);
    world.until("its end", || is("allow"));

    // Agents find the root's pin, once the gateway may write it.
    let in_default = [
        "create",
        "role",
        "root",
        "--verb=create,patch",
        "--resource=configmaps",
    ];
    api.kubectl(&in_default);
    api.kubectl(&[
        "create",
        "rolebinding",
        "root",
        "--role=root",
        "--user=gateway",
    ]);
    let path = "jsonpath={.data.rootPin}";
    World::until_within(BACK, "the pin of the root", || {
        api.kubectl(&["get", "configmap", "root", "--ignore-not-found", "-o", path])
            == pin.to_string()
    });

    // An agent is the node that its token says, once the gateway may ask.
    let agent = || token(&api, "agent", "landbridge", Some("agent-1"));
    let refused = |credentials| ask(&world, pin, credentials).unwrap_err().to_string();
    let why = refused(agent());
    assert!(why.contains("create on tokenreviews"), "{why}");
    api.kubectl(&[
        "create",
        "clusterrolebinding",
        "reviews",
        "--clusterrole=system:auth-delegator",
        "--user=gateway",
    ]);
    let svid = ask(&world, pin, agent()).unwrap();
    assert!(svid.id().to_string().ends_with("/node1"), "{}", svid.id());

    for (what, credentials, words) in [
        (
            "another audience",
            token(&api, "agent", "https://kubernetes.default", Some("agent-1")),
            "refuses the token",
        ),
        (
            "another account",
            token(&api, "other", "landbridge", Some("other-1")),
            "serviceaccount:landbridge:other",
        ),
        (
            "no pod",
            token(&api, "agent", "landbridge", None),
            "bound to no pod",
        ),
        (
            "no node",
            token(&api, "agent", "landbridge", Some("agent-9")),
            "the cluster has no node node9",
        ),
        (
            "no token",
            Credentials::Token("none".to_owned().into()),
            "refuses the token",
        ),
    ] {
        let why = refused(credentials);
        assert!(why.contains(words), "{what}: {why}");
    }
    east.terminate();
    // A start forgets who guessed.
    let east = world.start("east");
    east.until_connected();
    let late = agent();
    api.kubectl(&[
        "delete",
        "pod",
        "agent-1",
        "-n",
        "landbridge",
        "--force",
        "--grace-period=0",
    ]);
    let why = refused(late);
    assert!(why.contains("refuses the token"), "{why}");

    // Without an API server all goes on, and it is said.
    api.kill();
    World::until_within(BACK, "it says that the server is away", || {
        says(&east, "does not answer")
    });
    east.until_connected();
    assert!(explained(&east).is_some_and(|one| one["verdict"]["decision"] == "allow"));
    api.run();
    api.until_ready();
    World::until_within(BACK, "all is well", || {
        east.status()["problems"] == json!([])
    });
}
