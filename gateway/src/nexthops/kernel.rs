//! The kernel's messages about routes and neighbours, as values (rtnetlink(7)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::packet_route::{
    AddressFamily,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState,
    },
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType, RouteVia,
    },
};

use super::Route;

/// What the entries that a gateway makes are marked with (`NDA_PROTOCOL`), so that the next process
/// knows them. The numbers from 64 on have no meaning of their own in the kernel.
pub(super) const OURS: RouteProtocol = RouteProtocol::Other(0x4c);

/// A neighbour entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    /// The index of its interface.
    pub(super) interface: u32,
    /// Its address.
    pub(super) address: IpAddr,
    /// Its link address, when the kernel would send to it.
    pub(super) mac: Option<[u8; 6]>,
    /// Whether the kernel keeps it resolved by itself (`NTF_EXT_MANAGED`).
    pub(super) managed: bool,
    /// Whether a gateway made the entry ([`OURS`]), this one or one that was killed.
    pub(super) ours: bool,
    /// Whether somebody set the link address for good (`NUD_PERMANENT`).
    pub(super) permanent: bool,
}

/// A route of the main table; `None` for other tables and for local and broadcast addresses.
pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    let table = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let main = u32::from(RouteHeader::RT_TABLE_MAIN);
    if table.unwrap_or(message.header.table.into()) != main {
        return None;
    }
    let refuses = match message.header.kind {
        RouteType::Unicast => false,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => true,
        _ => return None,
    };
    let any = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut destination, mut interface, mut via, mut metric) = (any, None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(address) => via = Some(ip(address)?),
            RouteAttribute::Via(address) => via = Some(other_family(address)?),
            RouteAttribute::Priority(priority) => metric = *priority,
            // One of several equal ways: packets of a flow keep to the first.
            RouteAttribute::MultiPath(hops) => {
                let first = hops.first()?;
                interface = Some(first.interface_index);
                via = first.attributes.iter().find_map(|a| match a {
                    RouteAttribute::Gateway(address) => ip(address),
                    RouteAttribute::Via(address) => other_family(address),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(Route {
        prefix: IpNet::new(destination, message.header.destination_prefix_length).ok()?,
        interface: interface.filter(|_| !refuses),
        via,
        metric,
    })
}

/// A neighbour with an IP address.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut address, mut mac, mut managed, mut ours) = (None, None, false, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => {
                address = Some((*a).into())
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => {
                address = Some((*a).into());
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            NeighbourAttribute::Protocol(protocol) => ours = *protocol == OURS,
            NeighbourAttribute::ExtFlags(flags) => {
                managed = flags.contains(NeighbourExtFlags::Managed);
            }
            _ => {}
        }
    }
    // NUD_VALID without NUD_NOARP, which is for links without link addresses.
    let valid = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    );
    Some(Neighbour {
        interface: message.header.ifindex,
        address: address?,
        mac: mac.filter(|_| valid),
        managed,
        ours,
        permanent: message.header.state == NeighbourState::Permanent,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

fn other_family(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(a) => Some((*a).into()),
        RouteVia::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}
