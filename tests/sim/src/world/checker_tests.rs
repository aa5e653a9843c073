//! The checker itself: each thing that must never happen is made to happen, and must be seen.

use std::{net::IpAddr, time::Duration};

use policy::model::Action;
use wire::flow::FlowKey;

use super::World;
use crate::{
    objects::{PORTS, address, everybody},
    plan::Plan,
    sockets::{Delivery, WORD},
};

const PORT: u16 = PORTS[0];
/// Longer than anybody may go by what was replaced.
const LATER: Duration = Duration::from_secs(1);

const EAST: (usize, usize, usize) = (0, 0, 0);
const WEST: (usize, usize, usize) = (1, 0, 0);

fn place((cluster, node, place): (usize, usize, usize)) -> IpAddr {
    address(cluster, node, place)
}

/// Two clusters in fair weather; `ingress` says what west's pods take from everywhere.
fn world(ingress: Option<Action>) -> World {
    let mut world = World::of(&Plan::idle(7, 2));
    for number in 0..2 {
        world.change(number, |cluster| {
            cluster.policies.policies =
                ingress.map(everybody).into_iter().map(Into::into).collect();
        });
    }
    world.run_until(world.now.after(Duration::from_secs(3)));
    world
}

fn read(key: FlowKey) -> Delivery {
    Delivery {
        key,
        bytes: WORD.into(),
        at_server: true,
    }
}

#[test]
fn what_is_allowed_is_no_offence() {
    let mut world = world(Some(Action::Allow));
    let key = world.connect(place(EAST), place(WEST), PORT);
    world.run_until(world.now.after(Duration::from_secs(1)));
    assert!(world.summary.far > 0 && world.watches[0].judged > 0);
    world.judge(&read(key));
    world.check_gateway(0);
    world.check_convergence();
    world.change(1, |cluster| {
        cluster.policies.policies = vec![everybody(Action::Deny).into()]
    });
    // Still in force somewhere, perhaps.
    world.judge(&read(key));
}

#[test]
#[should_panic(expected = "Ingress is denied")]
fn a_denied_delivery_is_seen() {
    let mut world = world(Some(Action::Allow));
    let key = world.connect(place(EAST), place(WEST), PORT);
    world.change(1, |cluster| {
        cluster.policies.policies = vec![everybody(Action::Deny).into()]
    });
    world.run_until(world.now.after(LATER));
    world.judge(&read(key));
}

#[test]
#[should_panic(expected = "nobody opened it")]
fn a_delivery_that_nobody_opened_is_seen() {
    let mut world = world(Some(Action::Allow));
    world.judge(&read(FlowKey {
        protocol: wire::ip::TCP,
        src: place(EAST),
        dst: place(WEST),
        sport: 9,
        dport: PORT,
    }));
}

#[test]
#[should_panic(expected = "Ingress is denied")]
fn a_delivery_to_the_pod_that_replaced_the_client_is_seen() {
    let mut world = world(Some(Action::Allow));
    let key = world.connect(place(EAST), place(WEST), PORT);
    world.change(0, |cluster| {
        let pod = cluster.pods.get_mut(&place(EAST));
        pod.expect("a pod").name = "another".into();
    });
    world.now = world.now.after(LATER);
    world.judge(&read(key));
}

#[test]
#[should_panic(expected = "a gateway lost count")]
fn an_unbalanced_counter_is_seen() {
    let mut world = world(None);
    let totals = world.gateways[0].totals_mut().expect("it runs");
    totals.consumed += 1;
    world.check_gateway(0);
}

#[test]
#[should_panic(expected = "a gateway counts other packets")]
fn a_packet_that_was_counted_and_never_came_is_seen() {
    let mut world = world(None);
    let totals = world.gateways[0].totals_mut().expect("it runs");
    totals.received += 1;
    totals.consumed += 1;
    world.check_gateway(0);
}

#[test]
#[should_panic(expected = "in clear between clusters")]
fn a_word_in_clear_between_clusters_is_seen() {
    let world = world(None);
    world.look_for_clear_text(format!("0123456789{WORD}1").as_bytes());
}

#[test]
#[should_panic(expected = "0 of 1")]
fn a_digest_that_did_not_arrive_is_seen() {
    let mut world = world(Some(Action::Allow));
    world.change(1, |cluster| {
        cluster.policies.policies = vec![everybody(Action::Deny).into()]
    });
    // West's gateway has heard of it, and east's has not heard of west's.
    world.hears(super::Place::Gateway(1, gateway_core::Side::Lan));
    world.check_convergence();
}

#[test]
#[should_panic(expected = "is allowed and does not flow")]
fn silence_where_the_model_allows_is_seen() {
    let mut world = world(Some(Action::Allow));
    for host in world.hosts.values_mut() {
        host.crash();
    }
    world.check_every_pair();
}
