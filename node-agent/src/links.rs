//! Where the kernel says that a pod is attached: the route to its address, by rtnetlink(7).

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use anyhow::Context;
use futures_util::{Stream, StreamExt, TryStreamExt};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection,
    packet_route::{
        link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
    },
};
use tokio::sync::watch;

use crate::rules::{LinkName, LinkNameError};

/// Changes that come together are read together.
const SETTLE: Duration = Duration::from_millis(20);
/// A lost notification heals after this time.
const REFRESH: Duration = Duration::from_secs(10);

/// What leads to pods, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Routes to one address each, without a router between.
    pub hosts: BTreeMap<IpAddr, LinkName>,
    /// The same to interfaces whose names rules cannot hold.
    pub unusable: BTreeMap<IpAddr, LinkNameError>,
    /// Bridges, and whether they are on the way to a network: {prefix, length, bridge}.
    pub bridges: Vec<(Ipv4Addr, u8, LinkName)>,
}

/// Where a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// Behind an interface of its own.
    Routed(LinkName),
    /// Somewhere on a bridge.
    Bridge(LinkName),
    /// Behind an interface whose name rules cannot hold.
    Unusable(LinkNameError),
    /// No route leads to it yet.
    Nowhere,
}

impl Links {
    /// Where `address` is attached.
    #[must_use]
    pub fn attachment(&self, address: IpAddr) -> Attachment {
        if let Some(link) = self.hosts.get(&address) {
            return Attachment::Routed(link.clone());
        }
        if let Some(error) = self.unusable.get(&address) {
            return Attachment::Unusable(error.clone());
        }
        let IpAddr::V4(v4) = address else {
            return Attachment::Nowhere;
        };
        let on = |(network, length, _): &&(Ipv4Addr, u8, LinkName)| {
            ipnet::Ipv4Net::new(*network, *length).is_ok_and(|net| net.contains(&v4))
        };
        match self.bridges.iter().find(on) {
            Some((_, _, bridge)) => Attachment::Bridge(bridge.clone()),
            None => Attachment::Nowhere,
        }
    }
}

/// Follows the kernel's tables from now on; the first are there when this returns.
///
/// # Errors
/// When netlink fails.
pub async fn follow() -> anyhow::Result<watch::Receiver<Links>> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Route];
    let (connection, handle, changes) =
        new_multicast_connection(&groups).context("open a netlink socket")?;
    tokio::spawn(connection);
    let (publish, links) = watch::channel(read(&handle).await?);
    tokio::spawn(refresh(handle, changes, publish));
    Ok(links)
}

async fn refresh<M>(
    handle: Handle,
    mut changes: impl Stream<Item = M> + Unpin,
    publish: watch::Sender<Links>,
) {
    loop {
        tokio::select! {
            change = changes.next() => if change.is_none() {
                tracing::error!("the netlink socket is gone: pods' interfaces are not followed");
                return;
            },
            () = tokio::time::sleep(REFRESH) => {}
            () = publish.closed() => return,
        }
        while let Ok(Some(_)) = tokio::time::timeout(SETTLE, changes.next()).await {}
        match read(&handle).await {
            Ok(new) => {
                publish.send_if_modified(|old| {
                    let differs = *old != new;
                    if differs {
                        *old = new;
                    }
                    differs
                });
            }
            // What is known stays in force; the next refresh tries again.
            Err(error) => tracing::warn!("pods' interfaces cannot be read: {error:#}"),
        }
    }
}

async fn read(handle: &Handle) -> anyhow::Result<Links> {
    let mut names = BTreeMap::new();
    let mut bridges = Vec::new();
    let mut messages = handle.link().get().execute();
    while let Some(message) = messages.try_next().await.context("read interfaces")? {
        let Some(name) = link_name(&message) else {
            continue;
        };
        if is_bridge(&message) {
            bridges.push(message.header.index);
        }
        names.insert(message.header.index, LinkName::new(name));
    }
    let mut links = Links::default();
    let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let mut messages = handle.route().get(query).execute();
    while let Some(message) = messages.try_next().await.context("read routes")? {
        let Some((network, length, index)) = direct_route(&message) else {
            continue;
        };
        let is_bridge = bridges.contains(&index);
        match names.get(&index) {
            Some(Ok(name)) if is_bridge => links.bridges.push((network, length, name.clone())),
            Some(Ok(name)) if length == 32 => {
                links.hosts.insert(network.into(), name.clone());
            }
            Some(Err(error)) if length == 32 => {
                links.unusable.insert(network.into(), error.clone());
            }
            _ => {}
        }
    }
    links.bridges.sort();
    Ok(links)
}

fn link_name(message: &LinkMessage) -> Option<&str> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.as_str()),
            _ => None,
        })
}

fn is_bridge(message: &LinkMessage) -> bool {
    let mut infos = message
        .attributes
        .iter()
        .filter_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        });
    infos.any(|infos| {
        infos
            .iter()
            .any(|info| matches!(info, LinkInfo::Kind(InfoKind::Bridge)))
    })
}

/// A unicast route of the main table without a router: {network, length, interface}.
fn direct_route(message: &RouteMessage) -> Option<(Ipv4Addr, u8, u32)> {
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let (mut network, mut interface) = (Ipv4Addr::UNSPECIFIED, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => network = *address,
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => return None,
            _ => {}
        }
    }
    Some((network, header.destination_prefix_length, interface?))
}

/// Whether bridged packets pass the inet hooks: both sysctls are 1. `None` when the kernel has no
/// bridge filter in this namespace.
///
/// # Errors
/// When the sysctls cannot be read for another reason.
pub fn bridge_netfilter() -> io::Result<Option<bool>> {
    let mut on = true;
    for name in ["iptables", "ip6tables"] {
        match fs::read_to_string(format!("/proc/sys/net/bridge/bridge-nf-call-{name}")) {
            Ok(value) => on &= value.trim() == "1",
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(on))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_route_of_its_own_wins_over_a_bridge_and_a_name_that_rules_cannot_hold_is_told() {
        let link = |name: &str| LinkName::new(name).unwrap();
        let odd = LinkName::new("p-web~2").unwrap_err();
        let links = Links {
            hosts: [("10.1.1.10".parse().unwrap(), link("veth1"))].into(),
            unusable: [("10.1.1.12".parse().unwrap(), odd.clone())].into(),
            bridges: vec![("10.1.1.0".parse().unwrap(), 24, link("br0"))],
        };
        let at = |address: &str| links.attachment(address.parse().unwrap());
        assert_eq!(at("10.1.1.10"), Attachment::Routed(link("veth1")));
        assert_eq!(at("10.1.1.11"), Attachment::Bridge(link("br0")));
        assert_eq!(at("10.1.1.12"), Attachment::Unusable(odd));
        assert_eq!(at("10.1.2.10"), Attachment::Nowhere);
        assert_eq!(at("fd00::1"), Attachment::Nowhere);
    }
}
