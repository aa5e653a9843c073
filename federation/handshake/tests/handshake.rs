//! The handshake between two enforcers, as the sockets and the wire see it.
#![allow(clippy::unwrap_used)]

mod support;

use std::{net::IpAddr, sync::Arc};

use handshake::{
    node::{Event, Handled, Mark, Path},
    transit::{Origin, Passed},
};
use policy::DropReason;
use support::*;

/// Runs SYN, SYN-ACK and ACK; returns what stood on the wire.
fn open(a: &mut handshake::node::Node, b: &mut handshake::node::Node, conn: &Conn) -> [Vec<u8>; 3] {
    let syn = out(a, &conn.syn(), at(0));
    into(b, &syn, at(1));
    let syn_ack = out(b, &conn.syn_ack(), at(2));
    into(a, &syn_ack, at(3));
    let ack = out(a, &conn.ack(), at(4));
    into(b, &ack, at(5));
    [syn, syn_ack, ack]
}

#[test]
fn a_connection_opens_and_the_sockets_see_only_their_own_bytes() {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let conn = Conn::new(FRONTEND, API);

    let syn = out(&mut a, &conn.syn(), at(0));
    assert!(tcp_payload(&syn).starts_with(b"LBHE"));
    assert_eq!(
        into(&mut b, &syn, at(1)),
        conn.syn(),
        "the listener sees the pod's own SYN"
    );

    let syn_ack = out(&mut b, &conn.syn_ack(), at(2));
    assert!(tcp_payload(&syn_ack).starts_with(b"LBRE"));
    let seen = into(&mut a, &syn_ack, at(3));
    assert_eq!(tcp_payload(&seen), b"");
    assert_eq!(
        &tcp_options(&seen)[..4],
        [2, 4, 0x05, 0xa0],
        "MSS 1460 - 20"
    );

    let ack = out(&mut a, &conn.ack(), at(4));
    assert_eq!(tcp_options(&ack).len(), 12 + 20);
    let (seen, mark) = passed(b.handle_packet(Path::ToPod, &ack, at(5)), &ack);
    assert_eq!((seen, mark), (conn.ack(), Mark::Established));

    // The client goes on proving itself until it has heard the server.
    let request = out(&mut a, &conn.request(b"GET /"), at(6));
    assert_eq!(into(&mut b, &request, at(7)), conn.request(b"GET /"));
    let response = conn.response(b"200");
    assert_eq!(
        b.handle_packet(Path::FromPod, &response, at(8)),
        Handled::Accept(Mark::Established)
    );
    assert_eq!(
        a.handle_packet(Path::ToPod, &response, at(9)),
        Handled::Accept(Mark::Established)
    );
    let next = conn.client_sends("P", 1_006, Some(9_004), b"more");
    assert_eq!(
        a.handle_packet(Path::FromPod, &next, at(10)),
        Handled::Accept(Mark::Established)
    );

    for node in [&mut a, &mut b] {
        let opened = events(node);
        let [Event::FlowOpened(record)] = &opened[..] else {
            panic!("{opened:?}")
        };
        assert_eq!((record.key.src, record.key.dst), (FRONTEND, API));
    }
    assert_eq!(a.signature_checks() + b.signature_checks(), 2);
}

#[test]
fn a_warm_pair_checks_no_signature_again() {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    for cport in 40_000..40_050 {
        open(
            &mut a,
            &mut b,
            &Conn {
                cport,
                ..Conn::new(FRONTEND, API)
            },
        );
    }
    assert_eq!((a.signature_checks(), b.signature_checks()), (1, 1));
}

#[test]
fn it_opens_through_both_gateways_and_they_know_when() {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let (mut ga, mut gb) = (transit(), transit());
    let (sa, sb) = (transit_snapshot("east"), transit_snapshot("west"));
    let (east, west) = (domain("east"), domain("west"));
    let conn = Conn::new(FRONTEND, API);

    let syn = out(&mut a, &conn.syn(), at(0));
    let on_wan = through(&mut ga, Origin::Own, &syn, &sa, at(1)).unwrap();
    assert_eq!(
        tcp_payload(&on_wan)[104..128],
        [0; 24],
        "no segment proof leaves the cluster"
    );
    let at_node = through(&mut gb, Origin::Peer(&east), &on_wan, &sb, at(2)).unwrap();
    assert_eq!(at_node.len(), syn.len());
    into(&mut b, &at_node, at(3));
    let syn_ack = out(&mut b, &conn.syn_ack(), at(4));
    let syn_ack = through(&mut gb, Origin::Own, &syn_ack, &sb, at(5)).unwrap();
    let syn_ack = through(&mut ga, Origin::Peer(&west), &syn_ack, &sa, at(6)).unwrap();
    into(&mut a, &syn_ack, at(7));
    let ack = out(&mut a, &conn.request(b"x"), at(8));
    let ack = through(&mut ga, Origin::Own, &ack, &sa, at(9)).unwrap();
    let ack = through(&mut gb, Origin::Peer(&east), &ack, &sb, at(9)).unwrap();
    into(&mut b, &ack, at(10));
    assert_eq!(
        (ga.half_open(), gb.half_open()),
        (1, 1),
        "CONFIRM proves nothing to a gateway"
    );
    let response = conn.response(b"y");
    let passed = gb
        .handle_packet(Origin::Own, &response, &sb, at(11))
        .unwrap();
    let Passed::Established(ends) = passed else {
        panic!("{passed:?}")
    };
    assert_eq!(
        (&*ends.initiator.pod, &*ends.responder.pod),
        ("frontend", "api")
    );
    let passed = ga
        .handle_packet(Origin::Peer(&west), &response, &sa, at(12))
        .unwrap();
    assert!(matches!(passed, Passed::Established(_)));
}

#[test]
fn policy_is_decided_on_labels_at_the_end_that_knows_them() {
    // db is admitted by nobody in west: refused on the SYN, by default.
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let conn = Conn::new(FRONTEND, DB);
    let syn = out(
        &mut a,
        &Conn {
            sport: 81,
            ..conn.clone()
        }
        .syn(),
        at(0),
    );
    assert_eq!(
        dropped(b.handle_packet(Path::ToPod, &syn, at(1))),
        DropReason::DeniedByDefault
    );

    // West admits frontend to db:80; east lets it talk to app=api only, known from the REPLY.
    let syn = out(&mut a, &conn.syn(), at(0));
    into(&mut b, &syn, at(1));
    let syn_ack = out(&mut b, &conn.syn_ack(), at(2));
    let refused = a.handle_packet(Path::ToPod, &syn_ack, at(3));
    assert_eq!(dropped(refused), DropReason::DeniedByDefault);
    // The server is told, with proof, and the pod's next SYN goes nowhere.
    let reset = a.poll_transmit().unwrap();
    assert!(!reset.to_pod);
    let (seen, _) = passed(
        b.handle_packet(Path::ToPod, &reset.packet, at(4)),
        &reset.packet,
    );
    assert_eq!(tcp_payload(&seen), b"");
    assert_eq!(
        b.half_open().1,
        0,
        "the first SYN was refused, the second was reset"
    );
    let again = a.handle_packet(Path::FromPod, &conn.syn(), at(5));
    assert_eq!(dropped(again), DropReason::DeniedByDefault);
}

#[test]
fn reject_answers_with_a_reset_that_the_client_takes() {
    let mut batch = east(false);
    batch.pods.insert(FRONTEND, local_pod("east", "batch"));
    let (mut a, mut b) = (node(batch, 1), node(west(true), 2));
    let conn = Conn::new(FRONTEND, API);
    let syn = out(&mut a, &conn.syn(), at(0));
    assert_eq!(
        dropped(b.handle_packet(Path::ToPod, &syn, at(1))),
        DropReason::DeniedByRule
    );
    let refused = events(&mut b);
    let [Event::Refused { rule, .. }] = &refused[..] else {
        panic!("{refused:?}")
    };
    assert_eq!(&**rule, "west: FederationPolicy shop/main rule deny-batch");
    let reset = b.poll_transmit().unwrap().packet;
    assert_eq!(into(&mut a, &reset, at(2)), reset);
    assert_eq!(a.half_open().0, 0);
}

#[test]
fn a_closed_port_refuses_at_once() {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let conn = Conn::new(FRONTEND, API);
    let syn = out(&mut a, &conn.syn(), at(0));
    into(&mut b, &syn, at(1));
    let reset = conn.server_sends("R", 0, Some(1_001), b"");
    out(&mut b, &reset, at(2));
    into(&mut a, &reset, at(3));
    assert_eq!((a.half_open().0, b.half_open().1), (0, 0));
}

#[test]
fn a_retransmitted_syn_carries_the_same_hello_until_it_is_15_s_old() {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let conn = Conn::new(FRONTEND, API);
    let first = out(&mut a, &conn.syn(), at(0));
    let again = out(&mut a, &conn.syn(), at(14_999));
    assert_eq!(first, again);
    let later = out(&mut a, &conn.syn(), at(15_000));
    assert_ne!(first, later);
    // Both ends keep only the newest.
    into(&mut b, &later, at(15_001));
    into(&mut b, &later, at(15_002));
    assert_eq!(
        dropped(b.handle_packet(Path::ToPod, &first, at(15_003))),
        DropReason::Superseded
    );
    let syn_ack = out(&mut b, &conn.syn_ack(), at(15_004));
    into(&mut a, &syn_ack, at(15_005));
}

#[test]
fn a_flow_is_cut_when_a_new_policy_denies_it_and_its_next_packet_is_refused() {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let conn = Conn::new(FRONTEND, API);
    open(&mut a, &mut b, &conn);
    events(&mut b);
    let mut closed = west(false);
    let mut set = policies("west", false);
    std::sync::Arc::make_mut(&mut set.policies[0]).rules.clear();
    closed.policy = Arc::new(policy::compile(&set).unwrap());
    closed.epoch = 2;
    b.set_snapshot(Arc::new(closed), at(10));
    let cut = events(&mut b);
    assert!(
        matches!(
            cut[..],
            [Event::FlowCut {
                reason: DropReason::DeniedByDefault,
                ..
            }]
        ),
        "{cut:?}"
    );
    let response = conn.response(b"secret");
    assert_eq!(
        dropped(b.handle_packet(Path::FromPod, &response, at(11))),
        DropReason::UnknownFlow
    );
}

#[test]
fn a_restored_flow_goes_on_and_is_judged_again() {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let conn = Conn::new(FRONTEND, API);
    open(&mut a, &mut b, &conn);
    let Some(Event::FlowOpened(record)) = b.poll_event() else {
        panic!("no record")
    };
    let mut restarted = node(west(false), 3);
    restarted.restore_flow((*record).clone()).unwrap();
    let response = conn.response(b"still here");
    assert_eq!(
        restarted.handle_packet(Path::FromPod, &response, at(20)),
        Handled::Accept(Mark::Established)
    );
    let mut other = west(false);
    other.pods.insert(API, local_pod("west", "other"));
    let mut restarted = node(other, 4);
    assert_eq!(
        restarted.restore_flow((*record).clone()),
        Err(DropReason::Revoked)
    );
}

#[test]
fn pods_of_one_node_are_decided_in_one_pass_and_carry_no_token() {
    let mut b = node(west(false), 2);
    let conn = Conn::new(DB, API);
    let syn = conn.syn();
    assert_eq!(
        b.handle_packet(Path::Local, &syn, at(0)),
        Handled::Accept(Mark::Established)
    );
    let syn_ack = conn.syn_ack();
    assert_eq!(
        b.handle_packet(Path::Local, &syn_ack, at(1)),
        Handled::Accept(Mark::Established)
    );
}

#[test]
fn counters_add_up() {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    open(&mut a, &mut b, &Conn::new(FRONTEND, API));
    a.handle_packet(Path::FromPod, b"nonsense", at(9));
    for node in [&a, &b] {
        let counters = node.counters();
        let dropped: u64 = counters.dropped.values().sum();
        assert_eq!(counters.received, counters.forwarded + dropped);
    }
}

/// What staged policies would do is told of new connections, of live ones when the policy is staged, and no more.
#[test]
fn a_staged_policy_is_told_and_not_enforced() {
    let staged_set = || {
        let mut set = policies("west", false);
        let mut staged = policy::model::Policy::clone(&set.policies[0]);
        staged.name = "closed".into();
        staged.staged = true;
        staged.order = 1;
        for rule in &mut staged.rules {
            rule.action = policy::model::Action::Deny;
        }
        set.policies.push(staged.into());
        Arc::new(policy::compile(&set).unwrap())
    };
    let told = |node: &mut handshake::node::Node| {
        let told = events(node).into_iter().filter_map(|event| match event {
            Event::Staged { dropped, rule, .. } => Some((dropped, rule.to_string())),
            Event::FlowCut { .. } | Event::Refused { .. } => panic!("{event:?}"),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    let expected = || {
        let rule = &policies("west", false).policies[0].rules[0].name;
        vec![(
            Some(DropReason::DeniedByRule),
            format!("west: FederationPolicy shop/closed rule {rule}"),
        )]
    };
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    open(&mut a, &mut b, &Conn::new(FRONTEND, API));
    assert_eq!(told(&mut b), []);
    let snapshot = |epoch| {
        let mut snapshot = west(false);
        snapshot.policy = staged_set();
        snapshot.epoch = epoch;
        snapshot
    };
    b.set_snapshot(Arc::new(snapshot(7)), at(10));
    assert_eq!(told(&mut b), expected());
    // Another change says nothing new of it.
    b.set_snapshot(Arc::new(snapshot(8)), at(11));
    assert_eq!(told(&mut b), []);
    let (mut a, mut b) = (node(east(false), 1), node(snapshot(9), 2));
    open(&mut a, &mut b, &Conn::new(FRONTEND, API));
    assert_eq!(told(&mut b), expected());
}

/// A pod may connect to an address as long as a trusted name server told it a name that policy allows.
#[test]
fn addresses_are_allowed_by_the_names_that_dns_told_the_pod() {
    let mut snapshot = east(false);
    let mut set = policies("east", false);
    let mut rule = set.policies[0].rules[0].clone();
    rule.direction = policy::model::Direction::Egress;
    rule.action = policy::model::Action::Allow;
    rule.scopes = vec![policy::model::Scope::Local];
    rule.ports.clear();
    let name = |name: &str| {
        policy::model::PeerMatch::Domain(policy::model::DomainPattern {
            below: false,
            name: name.into(),
        })
    };
    rule.peers = vec![name("www.example.com")];
    let mut dns = rule.clone();
    dns.ports = vec![policy::model::PortMatch {
        protocol: 17,
        port: policy::model::PortSpec::Range(53, 53),
    }];
    dns.peers.clear();
    Arc::make_mut(&mut set.policies[0]).rules = vec![rule, dns];
    Arc::make_mut(&mut set.policies[0]).isolates = vec![(
        policy::model::Direction::Egress,
        policy::model::Scope::Local,
    )];
    snapshot.policy = Arc::new(policy::compile(&set).unwrap());
    let mut node = node(snapshot, 1);
    let (server, other, far) = ([192, 0, 2, 53], [192, 0, 2, 54], [198, 51, 100, 1]);
    node.trust_name_servers([server.into()].into());
    let IpAddr::V4(pod) = FRONTEND else {
        unreachable!()
    };
    let pod = pod.octets();
    // The header (RFC 1035 section 4.1.1), the question, and one A record with a pointer to its name and 60 seconds.
    let question = b"\x03www\x07example\x03com\0\0\x01\0\x01";
    let mut answer = b"\0\x07\x81\x80\0\x01\0\x01\0\0\0\0".to_vec();
    answer.extend(question);
    answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04");
    answer.extend(far);
    let udp = |from: [u8; 4], to: [u8; 4], ports: (u16, u16), payload: &[u8]| {
        let mut packet = Vec::new();
        etherparse::PacketBuilder::ipv4(from, to, 64)
            .udp(ports.0, ports.1)
            .write(&mut packet, payload)
            .unwrap();
        packet
    };
    let syn = |sport| {
        let mut packet = Vec::new();
        etherparse::PacketBuilder::ipv4(pod, far, 64)
            .tcp(sport, 443, 1, 100)
            .syn()
            .write(&mut packet, &[])
            .unwrap();
        packet
    };
    let connects = |node: &mut handshake::node::Node, sport, time| {
        node.handle_packet(Path::FromPod, &syn(sport), at(time))
            == Handled::Accept(Mark::Established)
    };
    assert!(!connects(&mut node, 1, 0));
    // An answer that nobody asked for, and one of somebody else.
    let _ = node.handle_packet(Path::ToPod, &udp(server, pod, (53, 4001), &answer), at(1));
    assert!(!connects(&mut node, 2, 2));
    for from in [other, server] {
        assert!(!connects(&mut node, 3, 3));
        let asks = udp(pod, from, (4000, 53), question);
        assert_eq!(
            node.handle_packet(Path::FromPod, &asks, at(4)),
            Handled::Accept(Mark::Established)
        );
        let answers = udp(from, pod, (53, 4000), &answer);
        assert_eq!(
            node.handle_packet(Path::ToPod, &answers, at(5)),
            Handled::Accept(Mark::Established)
        );
    }
    assert!(connects(&mut node, 4, 6));
    // Live connections outlive the answer, new ones do not.
    let later = |node: &mut handshake::node::Node, sport| {
        let now = identity::Now {
            mono: at(5).mono.after(std::time::Duration::from_secs(61)),
            ..at(5)
        };
        node.handle_packet(Path::FromPod, &syn(sport), now) == Handled::Accept(Mark::Established)
    };
    assert!(!later(&mut node, 5));
    let mut again = east(false);
    again.policy = Arc::new(policy::compile(&set).unwrap());
    again.epoch = 9;
    node.set_snapshot(Arc::new(again), at(70));
    let cut = events(&mut node)
        .into_iter()
        .any(|e| matches!(e, Event::FlowCut { .. }));
    assert!(!cut);
    Arc::make_mut(&mut set.policies[0]).rules[0].peers = vec![name("other.example.com")];
    let mut changed = east(false);
    changed.policy = Arc::new(policy::compile(&set).unwrap());
    changed.epoch = 10;
    node.set_snapshot(Arc::new(changed), at(71));
    let cut = events(&mut node)
        .into_iter()
        .any(|e| matches!(e, Event::FlowCut { key, .. } if key.dport == 443));
    assert!(cut);
}

#[test]
fn a_log_rule_speaks_once_for_each_new_connection() {
    let mut logging = west(false);
    let mut set = policies("west", false);
    let mut log = set.policies[0].rules[0].clone();
    log.name = "note".into();
    log.action = policy::model::Action::Log;
    std::sync::Arc::make_mut(&mut set.policies[0])
        .rules
        .insert(0, log);
    logging.policy = Arc::new(policy::compile(&set).unwrap());
    let (mut a, mut b) = (node(east(false), 1), node(logging, 2));
    open(&mut a, &mut b, &Conn::new(FRONTEND, API));
    let logged = events(&mut b).into_iter().filter_map(|event| match event {
        Event::Logged { rule, .. } => Some(rule),
        _ => None,
    });
    assert_eq!(
        logged.collect::<Vec<_>>(),
        ["west: FederationPolicy shop/main rule note".into()]
    );
}
