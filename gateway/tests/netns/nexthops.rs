//! Next hops on a real kernel: routes are followed, neighbours resolved, changes noticed.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use landbridge_gateway::nexthops::{NextHopWatch, NextHops};
use tokio::{sync::watch, time::timeout};

use crate::namespaces::{Namespaces, root_or_skip};

/// A gateway's namespace joined by a veth to that of its neighbours.
struct World(Namespaces);

impl World {
    fn new() -> Self {
        let namespaces = Namespaces::new("hops", &["gw", "peer"]);
        namespaces.join(("gw", "lan0"), ("peer", "up0"));
        let world = Self(namespaces);
        for line in [
            "addr add 172.16.1.1/24 dev lan0",
            "addr add fd00::1/64 dev lan0 nodad",
            "link set lan0 up",
            "route add 10.1.1.0/24 via 172.16.1.11",
            "route add unreachable 10.9.0.0/16",
            "route add 10.1.2.0/24 table 77 dev lan0",
        ] {
            world.gateway(line);
        }
        for line in [
            "link set up0 address 02:00:00:00:00:0b",
            "addr add 172.16.1.11/24 dev up0",
            "addr add 172.16.1.12/24 dev up0",
            "addr add fd00::11/64 dev up0 nodad",
            "link set up0 up",
        ] {
            world.peer(line);
        }
        world
    }

    fn gateway(&self, line: &str) -> String {
        self.0.ip("gw", line)
    }

    fn peer(&self, line: &str) {
        self.0.ip("peer", line);
    }
}

/// Waits until the tables are as `wanted` says.
async fn until(tables: &mut watch::Receiver<Arc<NextHops>>, wanted: impl Fn(&NextHops) -> bool) {
    let found = timeout(Duration::from_secs(20), tables.wait_for(|t| wanted(t)))
        .await
        .is_ok();
    assert!(found, "{:#?}", tables.borrow());
}

fn address(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn mac(tables: &NextHops, to: &str) -> Option<[u8; 6]> {
    tables.lookup(address(to)).and_then(|hop| hop.mac)
}

#[test]
fn routes_are_followed_neighbours_resolved_and_changes_noticed() {
    if !root_or_skip() {
        return;
    }
    let world = World::new();
    // This thread is the test's own; the runtime below has no other.
    world.0.enter("gw");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(follow(&world));
}

async fn follow(world: &World) {
    let first = [2, 0, 0, 0, 0, 0x0b];
    let second = [2, 0, 0, 0, 0, 0x0c];
    let destinations = BTreeSet::from(["172.16.1.12", "fd00::11", "172.16.1.99"].map(address));
    let (_wanted, wanted) = watch::channel(destinations.clone());
    let watch = NextHopWatch::start(vec!["lan0".into()], wanted)
        .await
        .unwrap();
    let mut tables = watch.tables();

    // The router of a route, a destination on the link, and IPv6, without a packet sent by anybody.
    until(&mut tables, |t| {
        ["10.1.1.10", "172.16.1.12", "fd00::11"]
            .iter()
            .all(|to| mac(t, to) == Some(first))
    })
    .await;
    let now = tables.borrow().clone();
    let hop = now.lookup(address("10.1.1.10")).unwrap();
    assert_eq!(
        (hop.interface.name.as_str(), hop.interface.mtu),
        ("lan0", 1500)
    );
    assert_eq!(hop.address, address("172.16.1.11"));
    assert_eq!(now.lookup(address("10.9.0.1")), None, "refused by a route");
    assert_eq!(now.lookup(address("10.1.2.1")), None, "in another table");
    let problems = now.problems(&destinations);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].to_string().contains("172.16.1.99 on lan0"));
    let entries = world.gateway("neigh show");
    assert_eq!(entries.matches("managed").count(), 4, "{entries}");

    // A node that comes back with another link address announces it.
    world.peer("link set up0 down");
    world.peer("link set up0 address 02:00:00:00:00:0c");
    world.peer("link set up0 up");
    world.gateway("neigh flush dev lan0");
    until(&mut tables, |t| mac(t, "10.1.1.10") == Some(second)).await;

    world.gateway("route del 10.1.1.0/24");
    until(&mut tables, |t| t.lookup(address("10.1.1.10")).is_none()).await;
    world.gateway("route add 10.1.1.0/24 via 172.16.1.12");
    until(&mut tables, |t| {
        let hop = t.lookup(address("10.1.1.10"));
        hop.is_some_and(|h| h.address == address("172.16.1.12") && h.mac == Some(second))
    })
    .await;

    watch.close().await;
    let entries = world.gateway("neigh show");
    assert_eq!(
        entries.matches("managed").count(),
        0,
        "taken back: {entries}"
    );
}
