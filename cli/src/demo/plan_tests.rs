#![allow(clippy::unwrap_used)]

use super::*;

fn pod(namespace: &str, name: &str, node: &str, address: &str) -> DeclaredPod {
    DeclaredPod {
        namespace: namespace.into(),
        name: name.into(),
        node: node.into(),
        address: address.parse().unwrap(),
        ports: vec![8080],
        command: None,
    }
}

fn cluster(name: &str, n: u8, nodes: &[&str], pods: Vec<DeclaredPod>) -> DeclaredCluster {
    DeclaredCluster {
        name: name.into(),
        trust_domain: format!("{name}.example"),
        ranges: vec![Ipv4Net::new(Ipv4Addr::new(10, n, 0, 0), 16).unwrap()],
        seen: vec![Ipv4Net::new(Ipv4Addr::new(10, n, 0, 0), 16).unwrap()],
        peers: Vec::new(),
        nodes: (1..)
            .zip(nodes)
            .map(|(i, &name)| DeclaredNode {
                name: name.into(),
                serves: Ipv4Net::new(Ipv4Addr::new(10, n, i, 0), 24).ok(),
            })
            .collect(),
        pods,
    }
}

fn plan(clusters: Vec<DeclaredCluster>) -> Result<Plan> {
    Plan::new("lb", &Declared { clusters })
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.pods().map(|(_, pod)| pod.netns.as_str()).collect()
}

#[test]
fn addresses_and_names_follow_the_documented_scheme() {
    let plan = plan(vec![
        cluster(
            "east",
            1,
            &["node1", "node2"],
            vec![pod("shop", "api", "node2", "10.1.2.10")],
        ),
        cluster("west", 2, &["node1"], vec![]),
    ])
    .unwrap();
    assert_eq!(plan.wan, "lb-wan");
    let west = &plan.clusters[1];
    assert_eq!(west.gateway.wan, Ipv4Addr::new(192, 0, 2, 2));
    assert_eq!(west.gateway.lan, Ipv4Addr::new(172, 16, 2, 1));
    assert_eq!(west.lan, "lb-west-lan");
    let east = &plan.clusters[0];
    let node2 = east.node("node2").unwrap();
    assert_eq!(node2.address, Ipv4Addr::new(172, 16, 1, 12));
    assert_eq!(node2.serves, ["10.1.2.0/24".parse().unwrap()]);
    assert_eq!(names(&plan), ["lb-east-api"]);
    assert_eq!(east.pods[0].veth, "p-api");
}

#[test]
fn equal_pod_names_get_telling_names() {
    let plan = plan(vec![cluster(
        "east",
        1,
        &["node1"],
        vec![
            pod("b", "api", "node1", "10.1.1.11"),
            pod("a", "api", "node1", "10.1.1.10"),
            pod("a", "web", "node1", "10.1.1.12"),
        ],
    )])
    .unwrap();
    assert_eq!(
        names(&plan),
        ["lb-east-a-api", "lb-east-web", "lb-east-b-api"]
    );
    let veths: Vec<_> = plan.pods().map(|(_, p)| p.veth.as_str()).collect();
    assert_eq!(veths, ["p-api", "p-web", "p-api-2"]);
}

#[test]
fn a_pod_cannot_take_the_name_of_a_gateway_or_of_another_pod() {
    let plan = plan(vec![cluster(
        "east",
        1,
        &["node1"],
        vec![
            pod("shop", "gw1", "node1", "10.1.1.10"),
            pod("a-b", "c", "node1", "10.1.1.11"),
            pod("a", "c", "node1", "10.1.1.12"),
            pod("a", "b-c", "node1", "10.1.1.13"),
            pod("x", "b-c", "node1", "10.1.1.14"),
        ],
    )])
    .unwrap();
    assert_eq!(
        names(&plan),
        [
            "lb-east-a-b-c",
            "lb-east-a-c",
            "lb-east-a-b-c-2",
            "lb-east-shop-gw1",
            "lb-east-x-b-c"
        ]
    );
}

#[test]
fn names_do_not_depend_on_the_order_of_the_files() {
    let pods = vec![
        pod("b", "api", "node1", "10.1.1.11"),
        pod("a", "api", "node1", "10.1.1.10"),
    ];
    let reversed = pods.iter().rev().cloned().collect();
    assert_eq!(
        plan(vec![cluster("east", 1, &["node1"], pods)]).unwrap(),
        plan(vec![cluster("east", 1, &["node1"], reversed)]).unwrap()
    );
}

#[test]
fn an_address_outside_of_the_nodes_prefix_is_routed_alone() {
    let plan = plan(vec![cluster(
        "east",
        1,
        &["node1"],
        vec![pod("shop", "api", "node1", "10.1.77.1")],
    )])
    .unwrap();
    let serves = &plan.clusters[0].nodes[0].serves;
    assert_eq!(serves[1], "10.1.77.1/32".parse().unwrap());
}

#[test]
fn what_cannot_be_built_is_refused_in_words() {
    let refusal = |clusters| plan(clusters).unwrap_err().to_string();
    let one = |pods| vec![cluster("east", 1, &["node1"], pods)];
    assert_eq!(refusal(vec![]), "the configuration declares no cluster");
    assert_eq!(
        refusal(one(vec![pod("a", "x", "node9", "10.1.1.10")])),
        "east/a/x runs on node \"node9\", which the cluster does not have"
    );
    assert_eq!(
        refusal(one(vec![pod("a", "x", "node1", "10.2.1.10")])),
        "east/a/x has address 10.2.1.10, outside of the cluster's pod ranges"
    );
    assert_eq!(
        refusal(one(vec![
            pod("a", "x", "node1", "10.1.1.9"),
            pod("b", "y", "node1", "10.1.1.9")
        ])),
        "east/a/x and east/b/y have the same address 10.1.1.9"
    );
    assert_eq!(
        refusal(vec![
            cluster("east", 1, &["node1"], vec![]),
            cluster("west", 1, &["node1"], vec![])
        ]),
        "pod range 10.1.0.0/16 of east overlaps 10.1.0.0/16 of west"
    );
    let same_name = refusal(vec![
        cluster("east", 1, &[], vec![]),
        cluster("east", 2, &[], vec![]),
    ]);
    assert!(same_name.contains("\"lb-east-lan\""), "{same_name}");
}
