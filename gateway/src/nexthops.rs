//! Where a packet goes next: routes and neighbours as the kernel knows them, ready to be looked up.
//!
//! The kernel's tables are the operator's interface: a gateway forwards pods' packets to where
//! `ip route` says, and its link addresses are resolved by the kernel (`watch`).

mod kernel;
mod watch;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;

pub use watch::NextHopWatch;

/// An interface that packets can leave by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The kernel's number of it.
    pub index: u32,
    /// The source link address of what it sends.
    pub mac: [u8; 6],
    /// The largest packet in bytes, Ethernet header not counted.
    pub mtu: u32,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destinations.
    pub prefix: IpNet,
    /// The index of the interface; `None` when the route refuses (blackhole, unreachable).
    pub interface: Option<u32>,
    /// The next router; `None` when destinations are on the link itself.
    pub via: Option<IpAddr>,
    /// Among equal prefixes the lowest wins.
    pub metric: u32,
}

/// Where one destination goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop<'a> {
    /// Out of this interface,
    pub interface: &'a Interface,
    /// to this address on its link,
    pub address: IpAddr,
    /// which has this link address, once it is resolved.
    pub mac: Option<[u8; 6]>,
}

/// Everything a lookup needs, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextHops {
    /// Sorted by prefix length, longest first, then by metric.
    routes: Vec<Route>,
    interfaces: BTreeMap<u32, Interface>,
    neighbours: BTreeMap<(u32, IpAddr), [u8; 6]>,
}

impl NextHops {
    /// Takes the tables.
    #[must_use]
    pub fn new(
        mut routes: Vec<Route>,
        interfaces: Vec<Interface>,
        neighbours: BTreeMap<(u32, IpAddr), [u8; 6]>,
    ) -> Self {
        routes.sort_by_key(|r| (Reverse(r.prefix.prefix_len()), r.metric));
        Self {
            routes,
            interfaces: interfaces.into_iter().map(|i| (i.index, i)).collect(),
            neighbours,
        }
    }

    /// Where packets to `destination` go. `None` when no route serves it, or the best one leaves by an
    /// interface that is not the gateway's.
    #[must_use]
    pub fn lookup(&self, destination: IpAddr) -> Option<Hop<'_>> {
        let route = self
            .routes
            .iter()
            .find(|r| r.prefix.contains(&destination))?;
        self.hop(route, destination)
    }

    /// The gateway's interfaces, by index.
    pub fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.interfaces.values()
    }

    /// The routes, longest prefix first.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Link addresses by interface and address.
    #[must_use]
    pub fn neighbours(&self) -> &BTreeMap<(u32, IpAddr), [u8; 6]> {
        &self.neighbours
    }

    /// The neighbours whose link address is needed: the routers of all routes that leave by our
    /// interfaces, and the next hops towards `destinations`.
    pub(crate) fn needed(&self, destinations: &BTreeSet<IpAddr>) -> BTreeSet<(u32, IpAddr)> {
        let routers = self.routes.iter().filter_map(|r| self.hop(r, r.via?));
        let towards = destinations.iter().filter_map(|d| self.lookup(*d));
        routers
            .chain(towards)
            .map(|hop| (hop.interface.index, hop.address))
            .collect()
    }

    /// What is missing to reach `destinations`, in words.
    #[must_use]
    pub fn problems(&self, destinations: &BTreeSet<IpAddr>) -> Vec<Missing> {
        let missing = |destination: &IpAddr| match self.lookup(*destination) {
            None => Some(Missing::Route(*destination)),
            Some(Hop {
                mac: None,
                interface,
                address,
            }) => Some(Missing::Neighbour {
                destination: *destination,
                interface: interface.name.clone(),
                address,
            }),
            Some(_) => None,
        };
        destinations.iter().filter_map(missing).collect()
    }

    fn hop(&self, route: &Route, destination: IpAddr) -> Option<Hop<'_>> {
        let interface = self.interfaces.get(&route.interface?)?;
        let address = route.via.unwrap_or(destination);
        Some(Hop {
            interface,
            address,
            mac: self.neighbours.get(&(interface.index, address)).copied(),
        })
    }
}

/// Why a destination cannot be reached now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No route leaves by an interface of the gateway.
    Route(IpAddr),
    /// The next hop does not answer.
    Neighbour {
        /// What is to be reached.
        destination: IpAddr,
        /// By which interface.
        interface: String,
        /// The next hop.
        address: IpAddr,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(to) => write!(f, "no route to {to} by an interface of this gateway"),
            Self::Neighbour {
                destination,
                interface,
                address,
            } => write!(
                f,
                "next hop {address} on {interface}, towards {destination}, does not answer"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn route(prefix: &str, interface: u32, via: Option<&str>, metric: u32) -> Route {
        Route {
            prefix: prefix.parse().unwrap(),
            interface: Some(interface),
            via: via.map(address),
            metric,
        }
    }

    fn table() -> NextHops {
        let interface = |index, name: &str| Interface {
            name: name.into(),
            index,
            mac: [2, 0, 0, 0, 0, index as u8],
            mtu: 1500,
        };
        let mut routes = vec![
            route("0.0.0.0/0", 1, Some("192.0.2.254"), 0),
            route("10.1.1.0/24", 2, Some("172.16.1.12"), 200),
            route("10.1.1.0/24", 2, Some("172.16.1.11"), 100),
            route("172.16.1.0/24", 2, None, 0),
            route("198.51.100.0/24", 9, None, 0),
        ];
        routes.push(Route {
            interface: None,
            ..route("203.0.113.0/24", 0, None, 0)
        });
        let neighbours = [
            ((2, address("172.16.1.11")), [2, 0, 0, 0, 1, 1]),
            ((1, address("172.16.1.12")), [2, 0, 0, 0, 9, 9]),
        ];
        NextHops::new(
            routes,
            vec![interface(1, "wan0"), interface(2, "lan0")],
            neighbours.into(),
        )
    }

    #[test]
    fn the_longest_prefix_and_the_lowest_metric_win() {
        let table = table();
        let hop = table.lookup(address("10.1.1.10")).unwrap();
        assert_eq!(
            (hop.interface.name.as_str(), hop.address),
            ("lan0", address("172.16.1.11"))
        );
        assert_eq!(hop.mac, Some([2, 0, 0, 0, 1, 1]));
        let hop = table.lookup(address("172.16.1.12")).unwrap();
        assert_eq!(hop.address, address("172.16.1.12"), "on the link itself");
        assert_eq!(
            hop.mac, None,
            "a neighbour on another interface is another one"
        );
        assert_eq!(
            table.lookup(address("8.8.8.8")).unwrap().address,
            address("192.0.2.254")
        );
    }

    #[test]
    fn other_interfaces_refusing_routes_and_families_without_route_serve_nothing() {
        let table = table();
        for to in ["198.51.100.1", "203.0.113.1", "fd00::1"] {
            assert_eq!(table.lookup(address(to)), None, "{to}");
        }
    }

    #[test]
    fn routers_and_wanted_destinations_are_resolved_and_what_is_missing_is_said() {
        let table = table();
        let wanted = ["172.16.1.13", "10.1.1.10", "198.51.100.1"]
            .map(address)
            .into();
        let needed: Vec<_> = table.needed(&wanted).into_iter().collect();
        let expected = [
            (1, "192.0.2.254"),
            (2, "172.16.1.11"),
            (2, "172.16.1.12"),
            (2, "172.16.1.13"),
        ];
        assert_eq!(needed, expected.map(|(i, a)| (i, address(a))));
        let problems: Vec<String> = table
            .problems(&wanted)
            .iter()
            .map(|p| p.to_string())
            .collect();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("172.16.1.13 on lan0"), "{problems:?}");
        assert!(
            problems[1].contains("no route to 198.51.100.1"),
            "{problems:?}"
        );
    }
}
