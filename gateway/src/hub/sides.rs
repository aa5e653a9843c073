//! The kernel's tables, one side at a time.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use gateway_core::{
    Side,
    control::assemble::Link,
    nexthop::{Next, NextHops as Hops, Route},
    snapshot::Interface,
};
use wire::ethernet::Mac;

use super::Hub;
use crate::nexthops::NextHops;

impl Hub {
    /// Takes what the kernel's tables say now.
    pub(super) fn take_hops(&mut self) {
        let hops = Arc::clone(&self.hops.borrow_and_update());
        let (lan, wan) = (&self.config.lan, &self.config.wan);
        let lan = link(&lan.interface, lan.address, &hops);
        let wan = link(&wan.interface, wan.address, &hops);
        self.control.set_link(Side::Lan, lan);
        self.control.set_link(Side::Wan, wan);
    }
}

/// The interface `name` with the gateway's `address` there, and what leaves by it. One that is not
/// there, or down, takes and sends nothing.
fn link(name: &str, address: IpAddr, hops: &NextHops) -> Link {
    let Some(interface) = hops.interfaces().find(|i| i.name == name) else {
        return Link::default();
    };
    // Routes come in the order of preference: the first of a prefix is the one that counts. One that
    // leaves elsewhere or refuses must hide a shorter one of ours, so it is there too.
    let mut seen = BTreeSet::new();
    let routes = hops.routes().iter();
    let routes = routes.filter(|route| seen.insert(route.prefix.trunc()));
    let routes = routes.map(|route| Route {
        prefix: route.prefix,
        next: match (route.interface == Some(interface.index), route.via) {
            (false, _) => Next::Elsewhere,
            (true, Some(router)) => Next::Router(router),
            (true, None) => Next::Link,
        },
    });
    let neighbours = hops.neighbours().iter();
    let neighbours = neighbours
        .filter(|((index, _), _)| *index == interface.index)
        .map(|((_, address), mac)| (*address, Mac(*mac)));
    Link {
        interface: Interface {
            mac: Mac(interface.mac),
            addresses: vec![address],
            mtu: u16::try_from(interface.mtu).unwrap_or(u16::MAX),
        },
        hops: Hops::new(routes.collect(), neighbours.collect()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use gateway_core::nexthop::NoHop;

    use super::*;
    use crate::nexthops::{Interface, Route};

    #[test]
    fn a_longer_route_by_another_interface_hides_ours() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let interface = |index, name: &str| Interface {
            name: name.into(),
            index,
            mac: [2, 0, 0, 0, 0, index as u8],
            mtu: 1500,
        };
        let route = |prefix: &str, interface, metric| Route {
            prefix: prefix.parse().unwrap(),
            interface,
            via: Some(address("172.16.1.11")),
            metric,
        };
        let tables = NextHops::new(
            vec![
                route("10.1.0.0/16", Some(2), 0),
                route("10.1.1.0/24", Some(1), 0),
                route("10.1.2.0/24", None, 0),
                route("10.1.3.0/24", Some(1), 200),
                route("10.1.3.0/24", Some(2), 100),
            ],
            vec![interface(1, "wan0"), interface(2, "lan0")],
            [((2, address("172.16.1.11")), [4; 6])].into(),
        );
        let lan = link("lan0", address("172.16.1.1"), &tables);
        assert_eq!(lan.interface.addresses, [address("172.16.1.1")]);
        let ours = |to| lan.hops.lookup(address(to));
        assert_eq!(ours("10.1.9.9"), Ok(Mac([4; 6])));
        assert_eq!(ours("10.1.1.1"), Err(NoHop::Route), "by the other side");
        assert_eq!(ours("10.1.2.1"), Err(NoHop::Route), "refused");
        assert_eq!(ours("10.1.3.1"), Ok(Mac([4; 6])), "by the lower metric");
        assert_eq!(ours("192.0.2.1"), Err(NoHop::Route));
        assert!(
            link("lan9", address("172.16.1.1"), &tables)
                .interface
                .addresses
                .is_empty()
        );
    }
}
