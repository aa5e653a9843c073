//! Where a packet goes next on one side: routes and neighbours as the kernel has them.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use policy::DropReason;
use wire::ethernet::Mac;

/// A route on one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The destinations.
    pub prefix: IpNet,
    /// Where they are.
    pub next: Next,
}

/// Where the destinations of a route are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Next {
    /// They are neighbours themselves.
    Link,
    /// Behind this router.
    Router(IpAddr),
    /// By another interface, or nowhere: the kernel refuses them.
    Elsewhere,
}

/// Why there is no next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHop {
    /// No route holds the destination.
    Route,
    /// The link address of this neighbour is not known: it should be resolved.
    Neighbour(IpAddr),
}

impl From<NoHop> for DropReason {
    fn from(no_hop: NoHop) -> Self {
        match no_hop {
            NoHop::Route => Self::NoRoute,
            NoHop::Neighbour(_) => Self::NoNeighbour,
        }
    }
}

/// The routes and neighbours of one interface. Longest prefix wins.
#[derive(Clone, Debug, Default)]
pub struct NextHops {
    /// Sorted by prefix, so that a prefix comes right before what it contains.
    routes: Vec<Entry>,
    neighbours: BTreeMap<IpAddr, Mac>,
}

#[derive(Clone, Debug)]
struct Entry {
    route: Route,
    /// The closest route that contains this one.
    parent: Option<usize>,
}

impl NextHops {
    /// From the kernel's tables. Of two routes to one prefix the first counts, as the kernel
    /// orders them by metric.
    #[must_use]
    pub fn new(mut routes: Vec<Route>, neighbours: BTreeMap<IpAddr, Mac>) -> Self {
        for route in &mut routes {
            route.prefix = route.prefix.trunc();
        }
        routes.sort_by_key(|route| route.prefix);
        routes.dedup_by_key(|route| route.prefix);
        let mut entries: Vec<Entry> = Vec::with_capacity(routes.len());
        for route in routes {
            let mut parent = entries.len().checked_sub(1);
            while let Some(at) = parent
                && let Some(entry) = entries.get(at)
                && !entry.route.prefix.contains(&route.prefix)
            {
                parent = entry.parent;
            }
            entries.push(Entry { route, parent });
        }
        Self {
            routes: entries,
            neighbours,
        }
    }

    /// The link address to which packets for `destination` go.
    ///
    /// # Errors
    /// Why there is none.
    pub fn lookup(&self, destination: IpAddr) -> Result<Mac, NoHop> {
        let route = self.route(destination).ok_or(NoHop::Route)?;
        let neighbour = match route.next {
            Next::Link => destination,
            Next::Router(router) => router,
            Next::Elsewhere => return Err(NoHop::Route),
        };
        self.neighbours
            .get(&neighbour)
            .copied()
            .ok_or(NoHop::Neighbour(neighbour))
    }

    fn route(&self, destination: IpAddr) -> Option<Route> {
        let after = self
            .routes
            .partition_point(|e| e.route.prefix.network() <= destination);
        let mut at = after.checked_sub(1);
        while let Some(entry) = at.and_then(|at| self.routes.get(at)) {
            if entry.route.prefix.contains(&destination) {
                return Some(entry.route);
            }
            at = entry.parent;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix() -> impl Strategy<Value = IpNet> {
        // Few bits vary, so that prefixes nest.
        let v4 = (0u8..4, 0u8..4, 0u8..=32)
            .prop_map(|(a, b, len)| IpNet::new([10, a, b, 0].into(), len).unwrap());
        let v6 = (0u16..4, 0u8..=128)
            .prop_map(|(a, len)| IpNet::new([0xfd00, a, 0, 0, 0, 0, 0, 0].into(), len).unwrap());
        prop_oneof![4 => v4, 1 => v6]
    }

    proptest! {
        #[test]
        fn the_longest_prefix_wins(
            prefixes in prop::collection::vec(prefix(), 0..12), a in 0u8..4, b in 0u8..4, c in 0u8..2,
        ) {
            let routes: Vec<_> = prefixes
                .iter()
                .enumerate()
                .map(|(i, prefix)| Route {
                    prefix: *prefix,
                    next: Next::Router([192, 0, 2, i as u8].into()),
                })
                .collect();
            let hops = NextHops::new(routes.clone(), BTreeMap::new());
            for address in [
                IpAddr::from([10, a, b, c]),
                IpAddr::from([0xfd00, a.into(), 0, 0, 0, 0, 0, 0]),
            ] {
                let matching = routes.iter().filter(|r| r.prefix.contains(&address));
                let best = matching.map(|r| r.prefix.prefix_len()).max();
                prop_assert_eq!(hops.route(address).map(|r| r.prefix.prefix_len()), best);
            }
        }
    }

    #[test]
    fn says_what_is_missing() {
        let route = |prefix: &str, next| Route {
            prefix: prefix.parse().unwrap(),
            next,
        };
        let router = |address: &str| Next::Router(address.parse().unwrap());
        let node = Mac([2, 0, 0, 0, 0, 11]);
        let hops = NextHops::new(
            vec![
                route("10.1.1.0/24", router("172.16.1.11")),
                route("10.1.1.128/25", Next::Elsewhere),
                route("10.1.2.0/24", router("172.16.1.12")),
                route("172.16.1.0/24", Next::Link),
            ],
            BTreeMap::from([("172.16.1.11".parse().unwrap(), node)]),
        );
        let lookup = |address: &str| hops.lookup(address.parse().unwrap());
        assert_eq!(lookup("10.1.1.10"), Ok(node));
        assert_eq!(lookup("172.16.1.11"), Ok(node));
        let missing = "172.16.1.12".parse().unwrap();
        assert_eq!(lookup("10.1.2.10"), Err(NoHop::Neighbour(missing)));
        assert_eq!(lookup("172.16.1.12"), Err(NoHop::Neighbour(missing)));
        assert_eq!(lookup("10.1.3.10"), Err(NoHop::Route));
        assert_eq!(lookup("10.1.1.200"), Err(NoHop::Route));
    }
}
