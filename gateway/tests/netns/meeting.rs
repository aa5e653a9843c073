//! They meet, refuse what has no identity, stay closed when killed, come back, and leave nothing
//! behind.

use std::{fs, net::SocketAddr};

use peering::node_messages::{Boot, NODE_PROTOCOL, Numbered, ToIssuer, ToNode};
use quic::{
    Anchor, Credentials, Endpoint, Identity, Limits, Pin, Protocol, SvidRequest, Target, Trust,
    enrol,
};
use serde_json::{Value, json};

use crate::{
    namespaces::root_or_skip,
    world::{PATIENCE, PODS, SECRET, World},
};

#[test]
fn two_gateways_meet_refuse_survive_and_leave_nothing_behind() {
    if !root_or_skip() {
        return;
    }
    let world = World::new("gw");
    let n = &world.namespaces;
    // What the test looks for does happen without gateways: the kernel forwards in clear, and the
    // answer (a reset: nobody listens) comes back the same way.
    n.ip("west", "route add 10.1.0.0/16 via 192.0.2.1");
    let refused = world.plain_connect().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    let (east, west) = (world.start("east"), world.start("west"));
    let (at_east, at_west) = (east.until_connected(), west.until_connected());
    for what in ["bundle_sequence", "digest_sequence", "digest_hash"] {
        assert_eq!(at_east["own"][what], at_west["peers"][0][what], "{what}");
        assert_eq!(at_west["own"][what], at_east["peers"][0][what], "{what}");
    }
    assert_eq!(at_east["problems"], json!([]));
    assert_eq!(at_east["interfaces"]["wan0"]["xdp"], "driver");

    // A pod without an agent proves nothing.
    assert_eq!(
        world.plain_connect().unwrap_err().kind(),
        std::io::ErrorKind::TimedOut
    );
    let counters = east.ask(&json!({"op": "counters"})).unwrap();
    assert!(
        counters["dropped"]["no-identity"].as_u64() >= Some(1),
        "{counters:#}"
    );
    assert!(balanced(&counters), "{counters:#}");

    // A second gateway on the same state is refused, in words.
    let mut second = world.start("east");
    assert!(!second.child.wait().unwrap().success());
    let log = fs::read_to_string(world.path("east.log")).unwrap();
    assert!(
        log.contains("another gateway uses the state directory"),
        "{log}"
    );

    // Saving a file is enough.
    let epoch = east.status()["epoch"].as_u64().unwrap();
    world.write("east/pods.yaml", &PODS.replace("app: front", "app: other"));
    east.until("a new epoch", |status| {
        status["epoch"].as_u64() > Some(epoch)
    });

    // A crash: closed. A new process: back, with the attachment it found.
    east.kill();
    assert_eq!(
        world.plain_connect().unwrap_err().kind(),
        std::io::ErrorKind::TimedOut
    );
    let east = world.start("east");
    let again = east.until_connected();
    assert_eq!(again["interfaces"]["lan0"]["adopted"], true);
    west.until_connected();

    nodes_are_served(&world);

    east.terminate();
    west.terminate();
    for cluster in ["east", "west"] {
        let link = n.ip(cluster, "link show");
        assert!(!link.contains("xdp"), "{link}");
        let state = world.path(cluster);
        assert!(!state.join("admin.sock").exists());
        assert_eq!(
            fs::read_dir(state.join("bpf")).unwrap().count(),
            0,
            "unmounted"
        );
        let neighbours = n.ip(cluster, "neigh show");
        assert!(!neighbours.contains("managed"), "{neighbours}");
    }
}

fn balanced(counters: &Value) -> bool {
    let count = |value: &Value| value.as_u64().unwrap();
    let fates = ["forwarded", "replied", "punted", "consumed", "held"];
    let kept: u64 = fates.iter().map(|fate| count(&counters[fate])).sum();
    let dropped: u64 = counters["dropped"]
        .as_object()
        .unwrap()
        .values()
        .map(count)
        .sum();
    count(&counters["received"]) == kept + dropped
}

/// A node enrols with its secret, once, and its agent is greeted by the issuer.
fn nodes_are_served(world: &World) {
    let pin: Pin = world.init("east").parse().unwrap();
    let domain = identity::TrustDomain::new("east.example").unwrap();
    let gateway: SocketAddr = "172.16.1.1:4434".parse().unwrap();
    let trust = Trust::new(domain.clone());
    trust.set(domain.clone(), Anchor::Pinned(pin));
    let talk = async {
        let ask = |secret: &[u8]| Credentials::Secret {
            node: "node1".into(),
            secret: secret.to_vec().into(),
        };
        let limits = Limits::default();
        let request = || SvidRequest::generate().unwrap();
        let wrong = enrol(gateway, &domain, &trust, ask(b"wrong"), request(), &limits).await;
        assert!(wrong.unwrap_err().to_string().contains("secret is wrong"));
        let svid = enrol(gateway, &domain, &trust, ask(SECRET), request(), &limits)
            .await
            .unwrap();
        let again = enrol(gateway, &domain, &trust, ask(SECRET), request(), &limits).await;
        assert!(again.unwrap_err().to_string().contains("was used before"));

        let any = "0.0.0.0:0".parse().unwrap();
        let (endpoint, _) =
            Endpoint::bind(any, Identity::new(svid), trust.clone(), &[], limits).unwrap();
        let target = Target {
            address: gateway,
            trust_domain: domain.clone(),
            protocol: Protocol::Node,
        };
        let mut session = endpoint.dial(&target).await.unwrap();
        let hello = ToIssuer::Hello {
            version: NODE_PROTOCOL,
            boot: Boot::default(),
            position: 0,
            clock: identity::UnixMillis(0),
        };
        session.sender.send(hello.encode()).await.unwrap();
        let first = session.receiver.recv().await.unwrap();
        let ToNode::Welcome { trust_domain, .. } = Numbered::decode(&first).unwrap().1 else {
            panic!("not a welcome");
        };
        assert_eq!(trust_domain, domain);
        let mut bundles = Vec::new();
        loop {
            match Numbered::decode(&session.receiver.recv().await.unwrap())
                .unwrap()
                .1
            {
                ToNode::Bundle { trust_domain, .. } => bundles.push(trust_domain.to_string()),
                ToNode::Synced => break,
                _ => {}
            }
        }
        assert_eq!(bundles, ["east.example", "west.example"]);
        endpoint.close("done").await;
    };
    world.namespaces.within("east-node", || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, talk).await.unwrap() });
    });
}
