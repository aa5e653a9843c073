//! The agent's hold on a real kernel: namespaces, sockets, netfilter, and processes that are killed.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    io::{Read, Write},
    thread,
};

use common::{
    A, B, C, NODE1, Netns, REFUSED, World,
    agent::{Agent, Order, Setup},
    can_run,
    syn::{flood, send_syns},
    talk::{exchange, is_cut, talk},
};
use landbridge_agent::conntrack::Conntrack;
use nix::sys::signal::Signal;

/// Not a test: the agent's own process, see `common::agent`.
#[test]
#[ignore = "run by the other tests"]
fn agent_process() {
    common::agent::process();
}

fn setup1(world: &World) -> Setup {
    let state = world.state.path().join("node1");
    std::fs::create_dir_all(&state).unwrap();
    Setup {
        state,
        pods: vec![
            (A.parse().unwrap(), "vetha".into(), None),
            (B.parse().unwrap(), "vethb".into(), None),
        ],
        queue_length: 1024,
        syn_per_source: 2000,
        bridge_netfilter: true,
    }
}

fn setup2(world: &World) -> Setup {
    let state = world.state.path().join("node2");
    std::fs::create_dir_all(&state).unwrap();
    let pods = vec![(C.parse().unwrap(), "vethc".into(), None)];
    Setup {
        state,
        pods,
        ..setup1(world)
    }
}

fn both(world: &World) -> (Agent, Agent) {
    (
        Agent::start(&world.node1, &setup1(world)),
        Agent::start(&world.node2, &setup2(world)),
    )
}

fn invalid(node: &Netns) -> u64 {
    let text = node.sh("conntrack -S");
    text.split_whitespace()
        .filter_map(|word| word.strip_prefix("invalid="))
        .map(|n| n.parse::<u64>().unwrap())
        .sum()
}

#[test]
fn tokens_go_on_and_off_and_sockets_and_conntrack_see_a_plain_flow() {
    if !can_run() {
        return;
    }
    let world = World::routed();
    let (mut one, mut two) = both(&world);
    let listener = world.c.listen(8080);
    let (mut client, mut server) = talk(&world.a, &listener, "10.1.2.10:8080");
    exchange(&mut client, &mut server);

    // The token went over the wire: without an agent on the far side the SYN is not accepted.
    assert_eq!(server.peer_addr().unwrap().ip().to_string(), A);
    for (node, agent) in [(&world.node1, &mut one), (&world.node2, &mut two)] {
        let marked = node.run(|| Conntrack::open().unwrap().marked().unwrap());
        assert_eq!(marked.len(), 1, "{marked:?}");
        assert_eq!(marked[0].flow().dport, 8080);
        assert_eq!(
            marked[0].from_initiator.reversed(),
            marked[0].from_responder
        );
        assert_eq!(invalid(node), 0);
        let report = agent.report();
        assert_eq!((report.live, report.recorded), (1, 1), "{report:?}");
        assert!(report.balances, "{report:?}");
        assert_eq!(report.rules["queued"], report.judged, "{report:?}");
    }

    // Closing is plain, too; what the kernel no longer needs is forgotten.
    drop((client, server));
    world.node1.sh("conntrack -F");
    assert_eq!(one.order(&Order::Reconcile).recorded, 0);
    one.stop();
    two.stop();
}

#[test]
fn bulk_data_costs_no_packet_in_user_space() {
    if !can_run() {
        return;
    }
    let world = World::routed();
    let (mut one, mut two) = both(&world);
    let listener = world.c.listen(8080);
    let (mut client, mut server) = talk(&world.a, &listener, "10.1.2.10:8080");
    let before = [one.report(), two.report()];

    const LENGTH: usize = 100 << 20;
    let received = thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            let mut total = 0;
            while total < LENGTH {
                let read = server.read(&mut buffer).unwrap();
                assert!(read > 0 && buffer[..read].iter().all(|b| *b == 7));
                total += read;
            }
            total
        });
        let chunk = vec![7; 1 << 16];
        for _ in 0..LENGTH / chunk.len() {
            client.write_all(&chunk).unwrap();
        }
        reader.join().unwrap()
    });
    assert_eq!(received, LENGTH);
    for (agent, before) in [&mut one, &mut two].into_iter().zip(before) {
        let after = agent.report();
        assert_eq!(after.judged, before.judged, "packets in user space");
        assert!(
            after.rules["fast"] > before.rules["fast"] + 100,
            "{after:?}"
        );
        assert!(after.balances);
    }
}

#[test]
fn a_syn_without_a_token_and_a_pod_without_an_agent_are_refused() {
    if !can_run() {
        return;
    }
    let world = World::routed();
    let _listener = world.a.listen(8080);
    // Only the first node has an agent: what the second sends carries nothing.
    let mut one = Agent::start(&world.node1, &setup1(&world));
    assert!(world.c.connect("10.1.1.10:8080", REFUSED).is_err());
    let report = one.report();
    assert!(report.dropped["no-identity"] >= 1, "{report:?}");
    assert!(report.balances);
}

#[test]
fn pods_of_one_node_and_the_node_itself_are_judged_without_tokens() {
    if !can_run() {
        return;
    }
    let world = World::routed();
    let mut one = Agent::start(&world.node1, &setup1(&world));
    let on_b = world.b.listen(8080);
    let on_node = world.node1.listen(9090);
    let _local = talk(&world.a, &on_b, "10.1.1.11:8080");
    let _from_node = talk(&world.node1, &on_b, "10.1.1.11:8080");
    let _to_node = talk(&world.a, &on_node, &format!("{NODE1}:9090"));
    let before = one.report();
    assert_eq!(before.live, 3, "{before:?}");

    // A change of policy reaches live flows at once, and only those it touches.
    let (mut client, mut server) = _local;
    let denied = one.order(&Order::Deny([8080].into()));
    assert_eq!(denied.live, 1, "{denied:?}");
    assert!(is_cut(&mut client, &mut server));
    let (mut client, mut server) = _to_node;
    exchange(&mut client, &mut server);
    assert!(world.a.connect("10.1.1.11:8080", REFUSED).is_err());
}

#[test]
fn bridged_pods_are_judged_and_cannot_borrow_an_address() {
    if !can_run() {
        return;
    }
    let world = World::bridged();
    for name in ["iptables", "ip6tables"] {
        world
            .node1
            .sh(&format!("sysctl -qw net.bridge.bridge-nf-call-{name}=1"));
    }
    let mut setup = setup1(&world);
    for pod in &mut setup.pods {
        pod.2 = Some("br0".into());
    }
    let mut one = Agent::start(&world.node1, &setup);
    let _two = Agent::start(&world.node2, &setup2(&world));
    let on_b = world.b.listen(8080);
    let on_c = world.c.listen(8080);
    let _local = talk(&world.a, &on_b, "10.1.1.11:8080");
    let _remote = talk(&world.a, &on_c, "10.1.2.10:8080");
    let report = one.report();
    assert_eq!(report.live, 2, "{report:?}");

    // A takes B's address: its own port does not let it.
    world.a.sh("ip addr add 10.1.1.11/24 dev eth0");
    let spoof = world.a.run(|| {
        let socket = std::net::UdpSocket::bind("10.1.1.11:5000").unwrap();
        socket.send_to(b"x", "10.1.2.10:5000")
    });
    spoof.unwrap();
    let report = one.report();
    assert!(report.dropped["spoofed-source"] >= 1, "{report:?}");

    world.a.sh("ip addr del 10.1.1.11/24 dev eth0");

    // Bridged traffic that bypasses the inet hooks is blocked by the bridge's own rules.
    one.stop();
    setup.bridge_netfilter = false;
    let mut one = Agent::start(&world.node1, &setup);
    assert!(world.a.connect("10.1.1.11:8080", REFUSED).is_err());
    assert!(one.report().dropped["no-agent"] >= 1);
}

#[test]
fn a_killed_agent_leaves_the_way_closed_and_its_flows_alive() {
    if !can_run() {
        return;
    }
    let world = World::routed();
    let (one, mut two) = both(&world);
    let listener = world.c.listen(8080);
    let on_b = world.b.listen(8081);
    let (mut client, mut server) = talk(&world.a, &listener, "10.1.2.10:8080");
    one.crash();

    exchange(&mut client, &mut server);
    for to in ["10.1.2.10:8080", "10.1.1.11:8081"] {
        assert!(
            world.a.connect(to, REFUSED).is_err(),
            "{to} was reached without an agent"
        );
    }
    assert!(world.c.connect("10.1.1.11:8081", REFUSED).is_err());

    // The next agent knows the flow, counts what was lost meanwhile, and can cut the flow.
    let mut one = Agent::start(&world.node1, &setup1(&world));
    let report = one.report();
    assert_eq!(
        (report.live, report.recorded, report.orphans),
        (1, 1, 0),
        "{report:?}"
    );
    assert!(report.dropped["no-agent"] >= 3, "{report:?}");
    assert!(report.balances);
    exchange(&mut client, &mut server);
    let _local = talk(&world.a, &on_b, "10.1.1.11:8081");
    one.order(&Order::Deny([8080].into()));
    assert!(is_cut(&mut client, &mut server));
    two.report();
}

#[test]
fn a_marked_flow_without_a_record_is_cut_at_the_first_change() {
    if !can_run() {
        return;
    }
    let world = World::routed();
    let one = Agent::start(&world.node1, &setup1(&world));
    let on_b = world.b.listen(8081);
    let (mut client, mut server) = talk(&world.a, &on_b, "10.1.1.11:8081");
    one.crash();
    std::fs::remove_file(world.state.path().join("node1/flows")).unwrap();

    let mut one = Agent::start(&world.node1, &setup1(&world));
    assert_eq!(one.report().orphans, 1);
    exchange(&mut client, &mut server);
    assert_eq!(one.order(&Order::Deny([1].into())).orphans, 0);
    assert!(is_cut(&mut client, &mut server));
}

#[test]
fn a_clean_exit_leaves_no_rule() {
    if !can_run() {
        return;
    }
    let world = World::routed();
    let before = world.node1.sh("nft list ruleset");
    assert_eq!(before, "");
    let one = Agent::start(&world.node1, &setup1(&world));
    assert!(world.node1.sh("nft list ruleset").contains("landbridge"));
    one.stop();
    assert_eq!(world.node1.sh("nft list ruleset"), before);
}

#[test]
fn a_rule_of_others_stays_on_a_clean_exit() {
    if !can_run() {
        return;
    }
    let world = World::routed();
    world
        .node1
        .sh("iptables-nft -t raw -A PREROUTING -s 192.0.2.9 -j DROP");
    let one = Agent::start(&world.node1, &setup1(&world));
    one.stop();
    let after = world.node1.sh("nft list ruleset");
    assert!(
        after.contains("192.0.2.9") && !after.contains("landbridge"),
        "{after}"
    );
    assert!(!after.contains("mangle"), "{after}");
}

#[test]
fn a_missing_queue_rule_closes_and_does_not_open() {
    if !can_run() {
        return;
    }
    let world = World::routed();
    let mut one = Agent::start(&world.node1, &setup1(&world));
    let on_b = world.b.listen(8081);
    world.node1.sh("iptables-nft -t mangle -F");
    assert!(world.a.connect("10.1.1.11:8081", REFUSED).is_err());
    drop(on_b);
    assert!(one.report().dropped["no-agent"] >= 1);
}

#[test]
fn a_syn_flood_is_dropped_before_the_queue() {
    if !can_run() {
        return;
    }
    let world = World::routed();
    let mut setup = setup1(&world);
    setup.syn_per_source = 100;
    let mut one = Agent::start(&world.node1, &setup);
    let _two = Agent::start(&world.node2, &setup2(&world));
    let on_a = world.a.listen(8080);
    const PACKETS: u64 = 20_000;
    world
        .node2
        .run(|| flood([10, 1, 2, 99], [10, 1, 1, 10], PACKETS));
    let _other_source = talk(&world.c, &on_a, "10.1.1.10:8080");
    let report = one.report();
    let limited = report.dropped["rate-limited"];
    // A burst of one second's worth, and what the seconds of the flood itself allow.
    assert!(limited > PACKETS * 9 / 10, "{report:?}");
    assert!(report.judged < PACKETS / 10, "{report:?}");
    assert!(report.balances);
    assert_eq!(
        report.rules["queued"],
        report.judged + report.queue_full,
        "{report:?}"
    );
}

#[test]
fn a_full_queue_drops_and_is_counted() {
    if !can_run() {
        return;
    }
    let world = World::routed();
    let mut setup = setup1(&world);
    (setup.queue_length, setup.syn_per_source) = (16, 100_000);
    let mut one = Agent::start(&world.node1, &setup);
    let _listener = world.a.listen(8080);
    one.signal(Signal::SIGSTOP);
    world
        .node2
        .run(|| flood([10, 1, 2, 99], [10, 1, 1, 10], 1000));
    one.signal(Signal::SIGCONT);
    let report = one.report();
    assert!(report.dropped["queue-full"] >= 900, "{report:?}");
    assert!(report.balances);
}

#[test]
fn a_removed_pod_takes_its_connections_with_it() {
    if !can_run() {
        return;
    }
    let world = World::routed();
    let mut one = Agent::start(&world.node1, &setup1(&world));
    let on_b = world.b.listen(8081);
    let _flow = talk(&world.a, &on_b, "10.1.1.11:8081");
    let report = one.order(&Order::RemovePod(B.parse().unwrap()));
    assert!(report.removed >= 1 && report.recorded == 0, "{report:?}");
    assert!(
        !world
            .node1
            .sh("conntrack -L 2>/dev/null || true")
            .contains(B)
    );
    // Its interface is not a pod's any more, and its address is nobody's.
    assert!(world.b.connect("172.16.1.12:1", REFUSED).is_err());
    let report = one.report();
    assert!(report.dropped["not-ready"] >= 1, "{report:?}");
}

#[test]
fn a_pods_source_is_its_own_and_survives_masquerading() {
    if !can_run() {
        return;
    }
    let world = World::routed();
    let (mut one, mut two) = both(&world);
    world.node1.sh("nft add table ip cni");
    world
        .node1
        .sh("nft add chain ip cni post '{ type nat hook postrouting priority 100; }'");
    world
        .node1
        .sh("nft add rule ip cni post oifname up0 masquerade");
    let listener = world.c.listen(8080);
    let (_client, server) = talk(&world.a, &listener, "10.1.2.10:8080");
    assert_eq!(server.peer_addr().unwrap().ip().to_string(), A);

    // Another source from the pod's port, and a pod's source from the wire.
    world.a.run(|| flood([10, 1, 1, 11], [10, 1, 2, 10], 3));
    assert!(one.report().dropped["spoofed-source"] >= 3);
    world.node1.sh("nft delete table ip cni");
    world.node1.run(|| flood([10, 1, 2, 10], [10, 1, 2, 10], 3));
    assert!(two.report().dropped["spoofed-source"] >= 3);
}

#[test]
fn a_syn_on_a_live_tuple_does_not_ride_the_connection_mark() {
    if !can_run() {
        return;
    }
    let world = World::routed();
    let (mut one, _two) = both(&world);
    let listener = world.c.listen(8080);
    let (mut client, mut server) = talk(&world.a, &listener, "10.1.2.10:8080");
    let sport = client.local_addr().unwrap().port();
    let before = one.report();
    world
        .node2
        .run(|| send_syns([10, 1, 2, 10], [10, 1, 1, 10], [(8080, sport)]));
    let after = one.report();
    assert_eq!(after.judged, before.judged + 1, "{after:?}");
    assert_eq!(after.dropped["no-identity"], 1, "{after:?}");
    exchange(&mut client, &mut server);
}
