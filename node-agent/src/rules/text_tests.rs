//! The text says what it should, rule by rule.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::rules::{LinkName, PodPort};

fn rules() -> RuleSet {
    let link = |name: &str| LinkName::new(name).unwrap();
    let mut rules = RuleSet {
        uplinks: [link("up0")].into(),
        identity: vec!["10.1.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()],
        ..RuleSet::default()
    };
    let routed = PodPort::Routed {
        link: link("veth1"),
    };
    let bridged = PodPort::Bridged {
        bridge: link("br0"),
        port: link("veth2"),
    };
    rules.pods.insert("10.1.1.10".parse().unwrap(), routed);
    rules.pods.insert("10.1.1.11".parse().unwrap(), bridged);
    rules
}

fn chain_of<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!("chain {name} {{");
    let body = text
        .split_once(&start)
        .unwrap()
        .1
        .split_once("\n  }\n")
        .unwrap()
        .0;
    body.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect()
}

#[test]
fn the_sets_say_who_is_where() {
    let text = install(&rules(), &CounterValues::new());
    for expected in [
        r#"set uplinks { type ifname; elements = { "up0" }; }"#,
        r#"set pod_links { type ifname; elements = { "br0", "veth1" }; }"#,
        "set pods4 { type ipv4_addr; elements = { 10.1.1.10, 10.1.1.11 }; }",
        r#"set pod_sources4 { type ifname . ipv4_addr; elements = { "br0" . 10.1.1.11, "veth1" . 10.1.1.10 }; }"#,
        "set identity4 { type ipv4_addr; flags interval; elements = { 10.1.0.0/16 }; }",
        "set identity6 { type ipv6_addr; flags interval; elements = { fd00::/64 }; }",
        r#"set ports { type ifname; elements = { "veth2" }; }"#,
        r#"set sources4 { type ifname . ipv4_addr; elements = { "veth2" . 10.1.1.11 }; }"#,
    ] {
        assert!(text.contains(expected), "{expected}\nis not in\n{text}");
    }
}

#[test]
fn every_way_to_a_pod_ends_in_a_check() {
    let text = install(&rules(), &CounterValues::new());
    let last = |name| *chain_of(&text, name).last().unwrap();
    assert_eq!(
        last("postrouting_check"),
        "oifname @pod_links meta nfproto ipv4 counter name unqueued drop"
    );
    assert_eq!(
        last("input_check"),
        "iifname @pod_links meta nfproto ipv4 counter name unqueued drop"
    );
    assert_eq!(last("from_pod_link"), "counter name spoofed_source drop");
    assert_eq!(last("pod_ipv6"), "counter name unsupported_protocol drop");
}

#[test]
fn syn_and_our_option_never_take_the_fast_path() {
    let text = install(&rules(), &CounterValues::new());
    assert_eq!(
        chain_of(&text, "allowed"),
        [
            "tcp flags & syn == syn return",
            "tcp option 253 exists return",
            "counter name fast meta mark set meta mark & 0xfffff0ff | 0xc00 accept",
        ]
    );
    // The mark is only ever asked by a jump to that chain.
    let asked = text.matches("ct mark & 0xf00 == 0x100").count();
    let jumps = text
        .matches("ct mark & 0xf00 == 0x100 jump allowed")
        .count();
    // The one besides is the check that a new SYN clears an old mark.
    assert_eq!((asked, jumps), (4, 3));
}

/// Only answers of name servers, and only when policies speak of names: the set is empty otherwise.
#[test]
fn answers_of_name_servers_are_judged_each() {
    let server = "192.0.2.53".parse().unwrap();
    let with = RuleSet {
        name_servers: [server, "2001:db8::53".parse().unwrap()].into(),
        ..rules()
    };
    let text = install(&with, &CounterValues::new());
    assert!(text.contains("set name_servers4 { type ipv4_addr; elements = { 192.0.2.53 }; }"));
    let chain = chain_of(&text, "to_pod_link");
    let place = |part: &str| chain.iter().position(|rule| rule.contains(part)).unwrap();
    assert!(place("udp sport 53 ip saddr @name_servers4 goto judged") < place("jump allowed"));
    let without = install(&rules(), &CounterValues::new());
    assert!(without.contains("set name_servers4 { type ipv4_addr; }"));
}

#[test]
fn the_rate_limit_stands_before_the_queue() {
    let text = install(&rules(), &CounterValues::new());
    for name in ["network_syn", "network_other", "from_pod", "local"] {
        let chain = chain_of(&text, name);
        let limit = chain
            .iter()
            .position(|rule| rule.contains("limit rate over"))
            .unwrap();
        let queue = chain
            .iter()
            .position(|rule| rule.contains("name queued"))
            .unwrap();
        assert!(limit < queue, "{name}");
    }
}

#[test]
fn counters_go_on_where_they_were() {
    let values = CounterValues::from([("fast".to_owned(), 77)]);
    let text = install(&rules(), &values);
    assert!(text.contains("counter fast { packets 77 bytes 0; }"));
    assert!(text.contains("counter queued { packets 0 bytes 0; }"));
}

#[test]
fn without_bridge_netfilter_ports_cannot_reach_each_other() {
    let closed = "add rule bridge landbridge unfiltered counter name unfiltered drop";
    assert!(install(&rules(), &CounterValues::new()).contains(closed));
    let open = RuleSet {
        bridge_netfilter: true,
        ..rules()
    };
    assert!(!install(&open, &CounterValues::new()).contains(closed));
}
