//! The text of the tables. Chains of one hook run by their priority; see the picture above.

use std::{collections::BTreeMap, fmt::Write as _};

use super::model::{RuleSet, SETS, Set};
use crate::marks::{
    AGENT, ESTABLISHED, FAST, FLOW_ALLOWED, FROM_NODE, FROM_POD, LOCAL, MASK, ONCE, ORIGIN_NODE,
    ORIGIN_POD, TO_POD, TO_POD_SYN,
};

/// Our table.
pub const TABLE: &str = "inet landbridge";
/// Our table for the ports of bridges.
pub(super) const BRIDGE_TABLE: &str = "bridge landbridge";

/// The named counters of the table: `queued` went to a queue, `fast` passed by the connection
/// mark, the rest was dropped for the reason of that name.
pub const COUNTERS: [&str; 8] = [
    "queued",
    "fast",
    "spoofed_source",
    "rate_limited",
    "not_ready",
    "no_route",
    "unsupported_protocol",
    "unqueued",
];

/// Packets by counter.
pub type CounterValues = BTreeMap<String, u64>;

/// Replaces whatever tables of ours there are by those of `rules`, in one transaction. The counters
/// begin at `counters`.
#[must_use]
pub fn install(rules: &RuleSet, counters: &CounterValues) -> String {
    let limits = &rules.limits;
    let mut out = remove();
    let w = &mut out;
    open(w, TABLE);
    for name in COUNTERS {
        let packets = counters.get(name).copied().unwrap_or_default();
        line(
            w,
            &format!("counter {name} {{ packets {packets} bytes 0; }}"),
        );
    }
    for set in SETS.iter().filter(|set| set.table == TABLE) {
        declare(w, set, rules);
    }
    for (name, kind, size) in [
        ("syn_sources", "ipv4_addr", 65_535),
        ("syn_links", "ifname", 1_024),
        ("other_sources", "ipv4_addr", 65_535),
        ("other_links", "ifname", 1_024),
        ("pod_rates", "ipv4_addr", 65_535),
    ] {
        line(
            w,
            &format!(
                "set {name} {{ type {kind}; size {size}; flags dynamic, timeout; timeout 10s; }}"
            ),
        );
    }

    // Before connection tracking.
    chain(
        w,
        "prerouting_mark",
        "type filter hook prerouting priority -310; policy accept;",
        &[
            "iifname \"lo\" accept",
            &set_mark(0),
            "iifname @pod_links goto from_pod_link",
            "ip saddr @pods4 counter name spoofed_source drop",
            "iifname != @uplinks ip saddr @identity4 counter name not_ready drop",
            "ip6 saddr @identity6 counter name unsupported_protocol drop",
            "ip daddr @pods4 meta l4proto tcp goto to_pod_tcp",
        ],
    );
    chain(
        w,
        "from_pod_link",
        "",
        &[
            "meta nfproto ipv6 goto pod_ipv6",
            &format!(
                "iifname . ip saddr @pod_sources4 {} accept",
                set_mark(ORIGIN_POD)
            ),
            "counter name spoofed_source drop",
        ],
    );
    // Neighbour discovery keeps the link alive; nothing else of IPv6 is carried yet.
    chain(
        w,
        "pod_ipv6",
        "",
        &[
            "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept",
            "counter name unsupported_protocol drop",
        ],
    );
    chain(
        w,
        "to_pod_tcp",
        "",
        &[
            "tcp flags & (syn | ack) == syn goto network_syn",
            "tcp flags & syn == syn goto network_other",
            "tcp option 253 exists goto network_other",
        ],
    );
    chain(
        w,
        "network_syn",
        "",
        &[
            &limit("syn_sources", "ip saddr", limits.syn_per_source),
            &limit("syn_links", "iifname", limits.syn_per_link),
            &queue(TO_POD_SYN),
        ],
    );
    chain(
        w,
        "network_other",
        "",
        &[
            &limit("other_sources", "ip saddr", limits.other_per_source),
            &limit("other_links", "iifname", limits.other_per_link),
            &queue(TO_POD),
        ],
    );
    chain(
        w,
        "prerouting_check",
        "type filter hook prerouting priority -290; policy accept;",
        &[&format!(
            "{} {{ {TO_POD_SYN:#x}, {TO_POD:#x} }} counter name unqueued drop",
            ours()
        )],
    );
    chain(
        w,
        "output_mark",
        "type filter hook output priority -310; policy accept;",
        &[
            "oifname \"lo\" accept",
            &format!("{} {AGENT:#x} accept", ours()),
            &set_mark(ORIGIN_NODE),
        ],
    );

    // After translation.
    chain(
        w,
        "postrouting_mark",
        "type filter hook postrouting priority -160; policy accept;",
        &[
            "oifname \"lo\" accept",
            &format!(
                "{} {{ {ONCE:#x}, {ESTABLISHED:#x}, {AGENT:#x} }} accept",
                ours()
            ),
            "oifname @pod_links goto to_pod_link",
            &format!("{} {ORIGIN_POD:#x} goto from_pod", ours()),
            "ip6 daddr @identity6 counter name unsupported_protocol drop",
            "oifname != @uplinks ip daddr @identity4 counter name not_ready drop",
            &set_mark(0),
        ],
    );
    chain(
        w,
        "to_pod_link",
        "",
        &[
            "meta nfproto ipv6 goto pod_ipv6",
            // What a name server says is read, though its flow is allowed.
            "udp sport 53 ip saddr @name_servers4 goto judged",
            &allowed_jump(),
            "goto judged",
        ],
    );
    chain(
        w,
        "judged",
        "",
        &[
            &format!("{} {ORIGIN_POD:#x} goto local", ours()),
            &format!("{} {ORIGIN_NODE:#x} goto from_node", ours()),
            "goto network_other",
        ],
    );
    chain(
        w,
        "from_pod",
        "",
        &[
            "oifname != @uplinks ip daddr @identity4 counter name no_route drop",
            &allowed_jump(),
            &limit("pod_rates", "ip saddr", limits.per_pod),
            &queue(FROM_POD),
        ],
    );
    chain(
        w,
        "local",
        "",
        &[
            &limit("pod_rates", "ip saddr", limits.per_pod),
            &queue(LOCAL),
        ],
    );
    chain(w, "from_node", "", &[&queue(FROM_NODE)]);
    // A SYN could be forged on the tuple of a live connection, and our option is never a socket's.
    chain(
        w,
        "allowed",
        "",
        &[
            "tcp flags & syn == syn return",
            "tcp option 253 exists return",
            &format!("counter name fast {} accept", set_mark(FAST)),
        ],
    );
    chain(
        w,
        "postrouting_check",
        "type filter hook postrouting priority -140; policy accept;",
        &[
            "oifname \"lo\" accept",
            "jump check",
            "oifname @pod_links meta nfproto ipv4 counter name unqueued drop",
        ],
    );
    chain(
        w,
        "input_mark",
        "type filter hook input priority -160; policy accept;",
        &[
            &format!("meta mark & {MASK:#x} != {ORIGIN_POD:#x} accept"),
            &allowed_jump(),
            &limit("pod_rates", "ip saddr", limits.per_pod),
            &queue(FROM_NODE),
        ],
    );
    chain(
        w,
        "input_check",
        "type filter hook input priority -140; policy accept;",
        &[
            "jump check",
            "iifname @pod_links meta nfproto ipv4 counter name unqueued drop",
        ],
    );
    chain(
        w,
        "check",
        "",
        &[
            &format!(
                "{} {ESTABLISHED:#x} {}",
                ours(),
                set_flow_mark(FLOW_ALLOWED)
            ),
            // A new connection on the tuple of an old one is judged until it is established.
            &format!(
                "{} {ONCE:#x} tcp flags & syn == syn {} {}",
                ours(),
                flow_is_allowed(),
                set_flow_mark(0)
            ),
            &format!(
                "{} {{ {ONCE:#x}, {ESTABLISHED:#x}, {FAST:#x}, {AGENT:#x} }} {} accept",
                ours(),
                set_mark(0)
            ),
            &format!(
                "{} {{ {TO_POD_SYN:#x}, {TO_POD:#x}, {FROM_POD:#x}, {LOCAL:#x}, {FROM_NODE:#x} }} counter name unqueued drop",
                ours()
            ),
        ],
    );
    chain(
        w,
        "keep_source",
        "type nat hook postrouting priority 90; policy accept;",
        &["oifname @uplinks ip saddr @pods4 ip daddr @identity4 snat ip to ip saddr"],
    );
    close(w);
    bridge(w, rules);
    out
}

/// Removes our tables, if there are any, in one transaction.
#[must_use]
pub fn remove() -> String {
    format!(
        "table {TABLE} {{ }}\ndelete table {TABLE}\n\
         table {BRIDGE_TABLE} {{ }}\ndelete table {BRIDGE_TABLE}\n"
    )
}

/// What passes a bridge's ports: the pod's own address, and nothing of it past the inet hooks.
fn bridge(w: &mut String, rules: &RuleSet) {
    open(w, BRIDGE_TABLE);
    line(w, "counter spoofed_source { packets 0 bytes 0; }");
    line(w, "counter unfiltered { packets 0 bytes 0; }");
    for set in SETS.iter().filter(|set| set.table == BRIDGE_TABLE) {
        declare(w, set, rules);
    }
    chain(
        w,
        "prerouting_source",
        "type filter hook prerouting priority -310; policy accept;",
        &[
            "iifname != @ports accept",
            "ether type ip iifname . ip saddr @sources4 accept",
            "ether type arp iifname . arp saddr ip @sources4 accept",
            "ether type arp arp saddr ip 0.0.0.0 accept",
            "ether type ip6 icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept",
            "counter name spoofed_source drop",
        ],
    );
    chain(
        w,
        "forward_filtered",
        "type filter hook forward priority -310; policy accept;",
        &[
            "iifname @ports ether type != arp jump unfiltered",
            "oifname @ports ether type != arp jump unfiltered",
        ],
    );
    chain(w, "unfiltered", "", &[]);
    close(w);
    w.push_str(&unfiltered_rules(rules));
}

/// Closes or opens the way from port to port of a bridge.
pub(super) fn unfiltered_rules(rules: &RuleSet) -> String {
    let flush = format!("flush chain {BRIDGE_TABLE} unfiltered\n");
    match rules.bridge_netfilter {
        true => flush,
        false => {
            format!("{flush}add rule {BRIDGE_TABLE} unfiltered counter name unfiltered drop\n")
        }
    }
}

fn declare(w: &mut String, set: &Set, rules: &RuleSet) {
    let kind = match set.name {
        "uplinks" | "pod_links" | "ports" => "type ifname;",
        "pods4" | "name_servers4" => "type ipv4_addr;",
        "pod_sources4" | "sources4" => "type ifname . ipv4_addr;",
        "identity4" => "type ipv4_addr; flags interval;",
        _ => "type ipv6_addr; flags interval;",
    };
    let elements = (set.of)(rules).into_iter().collect::<Vec<_>>().join(", ");
    match elements.is_empty() {
        true => line(w, &format!("set {} {{ {kind} }}", set.name)),
        false => line(
            w,
            &format!("set {} {{ {kind} elements = {{ {elements} }}; }}", set.name),
        ),
    }
}

/// Our bits of the packet mark equal what follows: a value or a set of values.
fn ours() -> String {
    format!("meta mark & {MASK:#x} ==")
}

fn set_mark(value: u32) -> String {
    match value {
        0 => format!("meta mark set meta mark & {:#x}", !MASK),
        value => format!("meta mark set meta mark & {:#x} | {value:#x}", !MASK),
    }
}

fn set_flow_mark(value: u32) -> String {
    match value {
        0 => format!("ct mark set ct mark & {:#x}", !MASK),
        value => format!("ct mark set ct mark & {:#x} | {value:#x}", !MASK),
    }
}

fn flow_is_allowed() -> String {
    format!("ct mark & {MASK:#x} == {FLOW_ALLOWED:#x}")
}

fn allowed_jump() -> String {
    format!("{} jump allowed", flow_is_allowed())
}

fn queue(mark: u32) -> String {
    format!("counter name queued {} accept", set_mark(mark))
}

fn limit(set: &str, by: &str, rate: u32) -> String {
    format!(
        "update @{set} {{ {by} limit rate over {rate}/second burst {rate} packets }} counter name rate_limited drop"
    )
}

fn open(w: &mut String, table: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(w, "table {table} {{");
}

fn close(w: &mut String) {
    w.push_str("}\n");
}

fn line(w: &mut String, text: &str) {
    let _ = writeln!(w, "  {text}");
}

fn chain(w: &mut String, name: &str, hook: &str, rules: &[&str]) {
    let _ = writeln!(w, "  chain {name} {{");
    if !hook.is_empty() {
        let _ = writeln!(w, "    {hook}");
    }
    for rule in rules {
        let _ = writeln!(w, "    {rule}");
    }
    w.push_str("  }\n");
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
