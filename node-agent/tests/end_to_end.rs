//! The real program on two nodes of one cluster, with the real handshake and policies from a
//! folder; only the gateway is a stand-in that is nothing but an issuer.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use common::{
    A, NODE1, NODE2, Netns, REFUSED, SOON,
    binary::{Binary, get},
    can_run,
    nodes::{Nodes, allow, dropped, start},
    talk::{exchange, is_cut, talk},
};

#[test]
fn labels_decide_and_a_change_of_policy_reaches_live_connections() {
    if !can_run() {
        return;
    }
    let nodes = Nodes::start();
    let world = &nodes.world;
    let on_c = world.c.listen(8080);
    let on_b = world.b.listen(8081);
    let on_node = world.node1.listen(9090);

    let (mut client, mut server) = talk(&world.a, &on_c, "10.1.2.10:8080");
    let _local = talk(&world.a, &on_b, "10.1.1.11:8081");
    let _from_node = talk(&world.node1, &on_b, "10.1.1.11:8081");
    let _to_node = talk(&world.a, &on_node, &format!("{NODE1}:9090"));
    let _back = talk(&world.c, &on_b, "10.1.1.11:8081");
    assert!(
        world.b.connect("10.1.2.10:8080", REFUSED).is_err(),
        "b is not allowed"
    );
    assert!(dropped(&nodes.two, "denied-by-default") >= 1);
    assert_eq!(dropped(&nodes.one, "queue-full"), 0);

    let flows = nodes.two.ask(r#"{"op":"flows"}"#);
    let rule = "east: NetworkPolicy shop/to-c rule ingress[0]";
    assert!(flows.to_string().contains(rule), "{flows}");
    let explain = r#"{"op":"explain","from":"east/shop/b","to":"east/shop/c","port":8080}"#;
    let explained = nodes.two.ask(explain);
    assert!(
        explained["ingress"]
            .to_string()
            .contains("denied-by-default"),
        "{explained}"
    );
    let status = nodes.one.ask(r#"{"op":"status"}"#);
    assert_eq!(status["ready"], true, "{status}");
    assert_eq!(status["problems"].as_array().unwrap().len(), 0, "{status}");
    let metrics = world.node1.run(|| get("/metrics")).unwrap();
    assert!(
        metrics.contains("landbridge_agent_packets_total{fate=\"forwarded\"}"),
        "{metrics}"
    );
    let tracked = metrics
        .lines()
        .find_map(|line| line.strip_prefix("landbridge_agent_tracked_connections "));
    let tracked: u64 = tracked.unwrap().parse().unwrap();
    assert!(tracked > 0, "{metrics}");

    // A client that writes at once, a server that speaks first, an address outside that is
    // reached through a masquerade, and a table that somebody flushes.
    bulk(&world.a, &on_c, "10.1.2.10:8080");
    server_first(&world.c, &on_b, "10.1.1.11:8081");
    world.node1.sh("nft add table ip cni");
    world
        .node1
        .sh("nft add chain ip cni post '{ type nat hook postrouting priority 100; }'");
    world
        .node1
        .sh("nft add rule ip cni post oifname up0 masquerade");
    let outside = world.node2.listen(9999);
    let (_out, seen) = talk(&world.a, &outside, &format!("{NODE2}:9999"));
    assert_eq!(seen.peer_addr().unwrap().ip().to_string(), NODE1);
    let (_in, seen) = talk(&world.a, &on_c, "10.1.2.10:8080");
    assert_eq!(seen.peer_addr().unwrap().ip().to_string(), A);
    world.node1.sh("nft flush ruleset");
    assert!(comes_back(&world.node1), "the rules are gone");
    let _after = talk(&world.a, &on_c, "10.1.2.10:8080");
    assert!(
        world.b.connect("10.1.2.10:8080", REFUSED).is_err(),
        "b is still not allowed"
    );

    keeps_no_right_that_it_does_not_need(&nodes.one);

    // Only b may now: a's live connections end, b's begins.
    let port = 33_333;
    let quiet = world.a.connect_from(port, "10.1.2.10:8080", SOON).unwrap();
    let (unaware, _) = on_c.accept().unwrap();
    exchange(&mut client, &mut server);
    nodes.write_policy(&allow("b"));
    assert!(
        is_cut_soon(&mut client, &mut server),
        "the live connection went on"
    );
    let _b = talk(&world.b, &on_c, "10.1.2.10:8080");

    // One of them was cut while it was quiet: its server's socket is there still, and answers the next connection of
    // the same port by a challenge ACK.
    drop(quiet);
    nodes.write_policy(&allow("a"));
    let mut again = comes_again(&world.a, port);
    let (mut server, _) = on_c.accept().unwrap();
    exchange(&mut again, &mut server);
    let ended = unaware.take_error().unwrap();
    assert!(ended.is_some(), "the socket of the cut connection stands");
}

/// Connects from `port` as soon as policy allows it.
fn comes_again(from: &Netns, port: u16) -> TcpStream {
    let begun = std::time::Instant::now();
    loop {
        match from.connect_from(port, "10.1.2.10:8080", SOON) {
            Ok(stream) => return stream,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(8), "{error}"),
        }
    }
}

/// By then it has done everything but to end: rules, marks, packets, and rules again.
fn keeps_no_right_that_it_does_not_need(agent: &Binary) {
    // include/uapi/linux/capability.h.
    const NET_ADMIN: u64 = 1 << 12;
    const NET_RAW: u64 = 1 << 13;
    let all = |field: &str, value: u64| {
        let seen = agent.of_each_thread(field);
        assert!(seen.len() >= 3, "{seen:?}");
        assert!(seen.iter().all(|seen| *seen == value), "{field}: {seen:x?}");
    };
    for field in ["CapEff", "CapPrm", "CapBnd"] {
        all(field, NET_ADMIN | NET_RAW);
    }
    all("CapInh", 0);
    all("CapAmb", 0);
    all("NoNewPrivs", 1);
}

/// A megabyte from the client before the server ever answers.
fn bulk(from: &Netns, listener: &TcpListener, to: &str) {
    const LENGTH: usize = 1 << 20;
    let data: Vec<u8> = (0..LENGTH).map(|n| (n % 251) as u8).collect();
    let mut client = from.connect(to, SOON).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    let sent = data.clone();
    let writer = std::thread::spawn(move || client.write_all(&sent).unwrap());
    let mut received = vec![0; LENGTH];
    server.read_exact(&mut received).unwrap();
    writer.join().unwrap();
    assert!(received == data, "the data is not what was sent");
}

fn server_first(from: &Netns, listener: &TcpListener, to: &str) {
    let mut client = from.connect(to, SOON).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(b"hello").unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    let mut greeting = [0; 5];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"hello");
}

/// Whether the rules are there again within a second.
fn comes_back(node: &Netns) -> bool {
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        let ours = node.sh("nft list ruleset").contains("postrouting_check");
        if ours && node.sh("iptables-nft-save").contains("NFQUEUE") {
            return true;
        }
    }
    false
}

fn is_cut_soon(client: &mut std::net::TcpStream, server: &mut std::net::TcpStream) -> bool {
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        if is_cut(client, server) {
            return true;
        }
    }
    false
}

/// Kills the agent of one node and starts another in its place.
fn restart(nodes: &mut Nodes, which: usize) {
    let (name, node) = [("node1", &nodes.world.node1), ("node2", &nodes.world.node2)][which];
    let slot = if which == 0 {
        &mut nodes.one
    } else {
        &mut nodes.two
    };
    slot.crash();
    *slot = start(&nodes.world, name, node);
    slot.ready(node);
}

#[test]
fn a_killed_agent_takes_its_flows_over_and_a_terminated_one_leaves_nothing() {
    if !can_run() {
        return;
    }
    let mut nodes = Nodes::start();
    let on_c = nodes.world.c.listen(8080);
    let (mut client, mut server) = talk(&nodes.world.a, &on_c, "10.1.2.10:8080");
    for which in [0, 1] {
        restart(&mut nodes, which);
        exchange(&mut client, &mut server);
        let agent = if which == 0 { &nodes.one } else { &nodes.two };
        let status = agent.ask(r#"{"op":"status"}"#);
        let flows = &status["flows"];
        assert_eq!(
            (&flows["live"], &flows["inherited"]),
            (&1.into(), &0.into()),
            "{status}"
        );
    }
    // The kernel forgets the connection, the agents do not.
    for node in [&nodes.world.node1, &nodes.world.node2] {
        node.sh("sysctl -qw net.netfilter.nf_conntrack_tcp_loose=1");
        node.sh("conntrack -F");
    }
    exchange(&mut client, &mut server);

    // What it took over it can take away.
    nodes.write_policy(&allow("b"));
    assert!(
        is_cut_soon(&mut client, &mut server),
        "the inherited connection went on"
    );

    let Nodes {
        world,
        one,
        two,
        _gateway,
    } = nodes;
    one.terminate();
    two.terminate();
    for node in [&world.node1, &world.node2] {
        assert_eq!(node.sh("nft list ruleset"), "");
    }
}
