//! What a policy object becomes in the model.
#![allow(clippy::unwrap_used)]

use landbridge_sources::load_once;
use policy::model::{
    ClusterMatch, Direction, NamespaceMatch, Operator, PeerMatch, Policy, PortMatch, PortSpec,
    Requirement, Scope, Term, Tier, WorkloadSelector,
};

mod common;
use common::{folder, network_policy};

use Direction::{Egress, Ingress};
use Scope::{Local, Remote};

/// The only policy of west in `text`.
fn policy(text: &str) -> Policy {
    let dir = folder(&[("west/p.yaml", text)]);
    let mut worlds = load_once(dir.path()).unwrap();
    let world = worlds.pop().unwrap();
    let refused: Vec<_> = world.problems.iter().filter(|p| !p.is_warning()).collect();
    assert!(refused.is_empty(), "{refused:#?}");
    let [policy] = <[_; 1]>::try_from(world.policies.policies).unwrap();
    Policy::clone(&policy)
}

fn scoped(scope: &str, spec: &str) -> Policy {
    policy(&network_policy("p", spec).replace(
        "namespace: shop",
        &format!("namespace: shop, annotations: {{landbridge.io/scope: {scope}}}"),
    ))
}

fn federation_policy(spec: &str) -> Policy {
    policy(&format!(
        "{{apiVersion: landbridge.io/v1alpha1, kind: FederationPolicy, metadata: {{name: p, namespace: shop}}, spec: {spec}}}"
    ))
}

fn cluster_policy(spec: &str) -> Policy {
    policy(&format!(
        "{{apiVersion: landbridge.io/v1alpha1, kind: ClusterFederationPolicy, metadata: {{name: p}}, spec: {spec}}}"
    ))
}

fn workload(peer: &PeerMatch) -> &WorkloadSelector {
    let PeerMatch::Workload(selector) = peer else {
        panic!("{peer:?} is no workload");
    };
    selector
}

/// `pkg/apis/networking/v1/defaults.go`: Ingress always, Egress when there is an egress rule.
#[test]
fn policy_types_are_defaulted_as_by_the_api_server() {
    for (spec, isolates) in [
        ("{}", vec![Ingress]),
        ("{podSelector: {}}", vec![Ingress]),
        ("{egress: []}", vec![Ingress]),
        ("{egress: [{}]}", vec![Ingress, Egress]),
        ("{ingress: [{}]}", vec![Ingress]),
        ("{policyTypes: [Egress]}", vec![Egress]),
        ("{policyTypes: [Egress], ingress: [{}]}", vec![Egress]),
        ("{policyTypes: [Egress, Ingress]}", vec![Ingress, Egress]),
        ("{policyTypes: []}", vec![Ingress]),
    ] {
        let policy = policy(&network_policy("p", spec));
        let found: Vec<Direction> = policy.isolates.iter().map(|(d, _)| *d).collect();
        assert_eq!(found, isolates, "{spec}");
        assert!(policy.isolates.iter().all(|(_, s)| *s == Local), "{spec}");
        assert!(
            policy.rules.iter().all(|r| isolates.contains(&r.direction)),
            "{spec}"
        );
        assert!(
            policy
                .rules
                .iter()
                .all(|r| r.scopes == [Local] && r.peers.is_empty())
        );
    }
}

#[test]
fn a_network_policy_selects_peers_as_kubernetes_says() {
    let policy = policy(&network_policy(
        "p",
        "{ingress: [{from: [{podSelector: {}}, {namespaceSelector: {}}, \
         {namespaceSelector: {matchLabels: {team: shop}}, podSelector: {matchLabels: {app: web}}}, \
         {ipBlock: {cidr: 10.9.0.0/16, except: [10.9.1.0/24]}}]}]}",
    ));
    let peers = &policy.rules[0].peers;
    let alone = workload(&peers[0]);
    assert_eq!(alone.clusters, ClusterMatch::Own);
    assert_eq!(alone.namespaces, NamespaceMatch::Names(vec!["shop".into()]));
    let all = workload(&peers[1]);
    assert_eq!(all.clusters, ClusterMatch::Own);
    assert_eq!(all.namespaces, NamespaceMatch::Labels(Default::default()));
    assert!(all.pods.0.is_empty());
    let both = workload(&peers[2]);
    assert!(matches!(&both.namespaces, NamespaceMatch::Labels(l) if l.0.len() == 1));
    let web = Requirement {
        key: "app".into(),
        operator: Operator::In(vec!["web".into()]),
    };
    assert_eq!(both.pods.0, [web.into()]);
    let net = PeerMatch::Net {
        cidr: "10.9.0.0/16".parse().unwrap(),
        except: vec!["10.9.1.0/24".parse().unwrap()],
    };
    assert_eq!(peers[3], net);
}

/// Design section 8, "Scope".
#[test]
fn the_annotation_lets_a_network_policy_speak_of_the_federation() {
    let spec = "{ingress: [{from: [{podSelector: {}}, {namespaceSelector: {}}]}]}";
    for (scope, scopes, clusters) in [
        ("local", vec![Local], ClusterMatch::Own),
        ("remote", vec![Remote], ClusterMatch::Remote),
        ("all", vec![Local, Remote], ClusterMatch::Any),
    ] {
        let policy = scoped(scope, spec);
        let isolated: Vec<Scope> = policy.isolates.iter().map(|(_, s)| *s).collect();
        assert_eq!(isolated, scopes, "{scope}");
        assert_eq!(policy.rules[0].scopes, scopes, "{scope}");
        // podSelector alone is the policy's own cluster and namespace, whatever the scope.
        assert_eq!(
            workload(&policy.rules[0].peers[0]).clusters,
            ClusterMatch::Own
        );
        assert_eq!(
            workload(&policy.rules[0].peers[1]).clusters,
            clusters,
            "{scope}"
        );
    }
}

#[test]
fn ports_of_all_forms() {
    let policy = policy(&network_policy(
        "p",
        "{egress: [{ports: [{port: 53, protocol: UDP}, {port: 8000, endPort: 8100}, {port: http}, {protocol: SCTP}, {}]}]}",
    ));
    let port = |protocol, port| PortMatch { protocol, port };
    let expected = [
        port(17, PortSpec::Range(53, 53)),
        port(6, PortSpec::Range(8000, 8100)),
        port(6, PortSpec::Named("http".into())),
        port(132, PortSpec::Any),
        port(6, PortSpec::Any),
    ];
    assert_eq!(policy.rules[0].ports, expected);
    assert_eq!(policy.rules[0].direction, Egress);
}

#[test]
fn expressions_of_all_operators() {
    let policy = policy(&network_policy(
        "p",
        "{podSelector: {matchExpressions: [{key: a, operator: In, values: [x, y]}, {key: a.b/c, operator: NotIn, values: [on, 'yes', y]}, {key: d, operator: Exists}, {key: e, operator: DoesNotExist}]}}",
    ));
    let terms = policy.subject.pods.0.iter().map(|term| match term {
        Term::Label(requirement) => &requirement.operator,
        Term::AnyOf(_) => panic!("a choice"),
    });
    let operators: Vec<&Operator> = terms.collect();
    let values = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect();
    let expected = [
        &Operator::In(values(&["x", "y"])),
        // What YAML 1.1 takes for booleans stays what was written.
        &Operator::NotIn(values(&["on", "yes", "y"])),
        &Operator::Exists,
        &Operator::DoesNotExist,
    ];
    assert_eq!(operators, expected);
}

/// Design section 8: FederationPolicy isolates in the scope of its peers.
#[test]
fn a_federation_policy_isolates_in_the_scope_of_its_peers() {
    let remote = "{clusters: [east], namespaces: [shop]}";
    let local = "{podSelector: {}}";
    for (spec, isolates) in [
        (
            format!("{{ingress: [{{action: Allow, from: [{remote}]}}]}}"),
            vec![(Ingress, Remote)],
        ),
        (
            format!("{{ingress: [{{action: Allow, from: [{local}]}}]}}"),
            vec![(Ingress, Local)],
        ),
        (
            format!(
                "{{ingress: [{{action: Allow, from: [{local}]}}], egress: [{{action: Deny, to: [{remote}]}}]}}"
            ),
            vec![(Ingress, Local), (Egress, Remote)],
        ),
        (
            format!("{{ingress: [{{action: Deny, from: [{remote}, {local}]}}]}}"),
            vec![(Ingress, Local), (Ingress, Remote)],
        ),
        (
            "{ingress: [{action: Allow}]}".into(),
            vec![(Ingress, Local), (Ingress, Remote)],
        ),
        (
            format!("{{ingress: [{{action: Log, from: [{remote}]}}]}}"),
            vec![],
        ),
        (
            format!("{{isolates: None, ingress: [{{action: Allow, from: [{remote}]}}]}}"),
            vec![],
        ),
        (
            format!("{{isolates: All, ingress: [{{action: Allow, from: [{remote}]}}]}}"),
            vec![(Ingress, Local), (Ingress, Remote)],
        ),
        (
            "{isolates: Remote, ingress: [], egress: []}".into(),
            vec![(Ingress, Remote), (Egress, Remote)],
        ),
        (
            "{ingress: [{action: Allow, from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}".into(),
            vec![(Ingress, Local)],
        ),
        (
            "{ingress: [{action: Allow, from: [{clusters: [west]}]}]}".into(),
            vec![(Ingress, Local)],
        ),
        (
            "{ingress: [{action: Allow, from: [{clusters: [west, east], namespaces: [shop]}]}]}"
                .into(),
            vec![(Ingress, Local), (Ingress, Remote)],
        ),
    ] {
        assert_eq!(federation_policy(&spec).isolates, isolates, "{spec}");
    }
}

#[test]
fn clusters_of_a_peer() {
    let listed = |names: &[&str]| {
        let domain = |n: &&str| format!("{n}.example").parse().unwrap();
        ClusterMatch::Listed(names.iter().map(domain).collect())
    };
    for (peer, clusters) in [
        ("{podSelector: {}}", ClusterMatch::Own),
        ("{scope: Local, podSelector: {}}", ClusterMatch::Own),
        ("{scope: Remote, namespaces: [shop]}", ClusterMatch::Remote),
        ("{scope: All, namespaceSelector: {}}", ClusterMatch::Any),
        (
            "{clusters: [west, east], namespaces: [shop]}",
            listed(&["west", "east"]),
        ),
    ] {
        let policy =
            federation_policy(&format!("{{ingress: [{{action: Allow, from: [{peer}]}}]}}"));
        assert_eq!(
            workload(&policy.rules[0].peers[0]).clusters,
            clusters,
            "{peer}"
        );
    }
}

/// An address block has no cluster to look at, so its scope must be the rule's.
#[test]
fn address_blocks_are_split_from_workloads() {
    let policy = federation_policy(
        "{egress: [{name: out, action: Allow, to: [{scope: Remote, namespaceSelector: {}}, \
         {ipBlock: {cidr: 192.0.2.0/24}}, {scope: All, ipBlock: {cidr: 198.51.100.0/24}}, {ipBlock: {cidr: 203.0.113.0/24}}]}]}",
    );
    let parts: Vec<(&str, &[Scope], usize)> = policy
        .rules
        .iter()
        .map(|r| (r.name.as_str(), r.scopes.as_slice(), r.peers.len()))
        .collect();
    let expected: [(&str, &[Scope], usize); 3] = [
        ("out", &[Remote], 1),
        ("out", &[Local], 2),
        ("out", &[Local, Remote], 1),
    ];
    assert_eq!(parts, expected);
}

#[test]
fn a_cluster_wide_policy() {
    let policy = cluster_policy(
        "{tier: Admin, order: 7, subject: {namespaceSelector: {matchLabels: {team: shop}}, serviceAccounts: [api]}, \
         ingress: [{action: Pass, from: [{scope: All, serviceAccounts: [monitor]}]}, {action: Deny, reject: true}]}",
    );
    assert_eq!(
        (policy.tier, policy.order, policy.namespace),
        (Tier::Admin, 7, None)
    );
    assert_eq!(policy.isolates, []);
    assert_eq!(policy.subject.clusters, ClusterMatch::Own);
    assert_eq!(policy.subject.service_accounts, ["api"]);
    let peer = workload(&policy.rules[0].peers[0]);
    assert_eq!(
        (&peer.clusters, &peer.namespaces),
        (&ClusterMatch::Any, &NamespaceMatch::Any)
    );
    assert!(policy.rules[1].reject);
    assert_eq!(policy.rules[1].name, "ingress[1]");
    let policy =
        cluster_policy("{tier: Baseline, ingress: [{action: Allow, from: [{namespaces: [a]}]}]}");
    assert_eq!(policy.tier, Tier::Baseline);
    assert_eq!(policy.isolates, [(Ingress, Local)]);
}

#[test]
fn pods_that_ended_or_use_their_host_have_no_identity() {
    let pod = |name: &str, spec: &str, status: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{{spec}containers: [{{name: a}}]}}, status: {{{status}}}}}\n"
        )
    };
    let text = pod("done", "", "phase: Succeeded")
        + &pod("failed", "", "phase: Failed")
        + &pod("host", "hostNetwork: true, ", "podIP: 172.16.1.11")
        + &pod("running", "", "phase: Running");
    let dir = folder(&[("west/p.yaml", &text)]);
    let world = load_once(dir.path()).unwrap().pop().unwrap();
    assert_eq!(world.problems, []);
    let names: Vec<&str> = world.workloads.iter().map(|w| w.pod.as_str()).collect();
    assert_eq!(names, ["running"]);
}

#[test]
fn what_kubectl_prints_is_read() {
    let text = r#"
apiVersion: v1
kind: Pod
metadata:
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: |
      {"apiVersion":"v1","kind":"Pod"}
  creationTimestamp: "2026-01-05T10:11:12Z"
  generation: 1
  labels:
    app: web
    pod-template-hash: 7d9f8c
    topology.kubernetes.io/zone: zone-a
  name: web-7d9f8c-x2x4z
  namespace: shop
  ownerReferences:
  - {apiVersion: apps/v1, blockOwnerDeletion: true, controller: true, kind: ReplicaSet, name: web, uid: 1b2c}
  resourceVersion: "4711"
  uid: 0f3c8a9e-0a55-4f0e-9a51-0d4d2f3a1c11
spec:
  containers:
  - image: web:1
    name: web
    ports:
    - {containerPort: 8080, name: http, protocol: TCP}
    - {containerPort: 9090, name: metrics, protocol: TCP}
    resources: {limits: {cpu: 500m, memory: 128Mi}}
    volumeMounts:
    - {mountPath: /var/run/secrets/kubernetes.io/serviceaccount, name: token, readOnly: true}
  - {image: proxy, name: proxy, ports: [{containerPort: 15000, name: http}]}
  dnsPolicy: ClusterFirst
  nodeName: node2
  restartPolicy: Always
  serviceAccountName: default
  tolerations:
  - {effect: NoExecute, key: node.kubernetes.io/not-ready, operator: Exists, tolerationSeconds: 300}
  volumes:
  - name: token
    projected: {defaultMode: 420, sources: [{serviceAccountToken: {expirationSeconds: 3607, path: token}}]}
status:
  conditions:
  - {lastProbeTime: null, lastTransitionTime: "2026-01-05T10:11:14Z", status: "True", type: Ready}
  hostIP: 172.16.2.12
  phase: Running
  podIP: 10.2.2.77
  podIPs: [{ip: 10.2.2.77}]
  qosClass: Burstable
  startTime: "2026-01-05T10:11:12Z"
"#;
    let dir = folder(&[("west/p.yaml", text)]);
    let world = load_once(dir.path()).unwrap().pop().unwrap();
    assert_eq!(world.problems, []);
    let pod = &world.workloads[0];
    assert_eq!(pod.uid, "0f3c8a9e-0a55-4f0e-9a51-0d4d2f3a1c11");
    assert_eq!(pod.zone.as_deref(), Some("zone-a"));
    assert_eq!(
        (pod.node.as_str(), pod.address),
        ("node2", Some("10.2.2.77".parse().unwrap()))
    );
    // Of two ports named http the first container's counts.
    let named: Vec<(&str, u16)> = pod
        .named_ports
        .iter()
        .map(|p| (p.name.as_str(), p.port))
        .collect();
    assert_eq!(named, [("http", 8080), ("metrics", 9090)]);
}

/// As `kubectl get -o yaml` writes several objects.
#[test]
fn the_items_of_a_list_are_objects_of_their_own() {
    let items: String = ["a", "b"]
        .map(|name| {
            format!(
                "- {{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop}}, \
                 spec: {{containers: [{{name: main}}]}}}}\n"
            )
        })
        .concat();
    let list = format!("apiVersion: v1\nkind: List\nmetadata: {{}}\nitems:\n{items}");
    let dir = folder(&[("west/p.yaml", &list)]);
    let worlds = load_once(dir.path()).unwrap();
    let west = worlds.last().unwrap();
    let names: Vec<_> = west.workloads.iter().map(|w| w.pod.as_str()).collect();
    assert_eq!((names, west.problems.len()), (vec!["a", "b"], 0));
}
