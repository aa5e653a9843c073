//! Keeps [`NextHops`] up to date and asks the kernel to resolve what is needed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt};
use gateway_xdp::Nic;
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection,
    packet_route::neighbour::{
        NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourState,
    },
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use super::{Interface, NextHops, kernel, kernel::Neighbour};

/// After a change the tables are read again once nothing else changed for this long, at most
/// [`LATEST`] after the first change.
const SETTLE: Duration = Duration::from_millis(20);
const LATEST: Duration = Duration::from_millis(200);
/// Without a change they are read again after this time: a lost notification heals, and what does not
/// answer is asked again.
const REFRESH: Duration = Duration::from_secs(5);

/// A task that follows the kernel's tables.
#[derive(Debug)]
pub struct NextHopWatch {
    tables: watch::Receiver<Arc<NextHops>>,
    task: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl NextHopWatch {
    /// Follows routes and neighbours of `interfaces` and keeps resolved what leads to `destinations`.
    /// The first tables are there when this returns.
    ///
    /// # Errors
    /// When an interface is not there or netlink fails.
    pub async fn start(
        interfaces: Vec<String>,
        destinations: watch::Receiver<BTreeSet<IpAddr>>,
    ) -> anyhow::Result<Self> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, handle, changes) =
            new_multicast_connection(&groups).context("open a netlink socket")?;
        tokio::spawn(connection);
        let mut resolver = Resolver {
            handle,
            interfaces,
            destinations,
            managed: BTreeSet::new(),
            can_manage: true,
        };
        let (publish, tables) = watch::channel(Arc::new(resolver.refresh().await?));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(follow(resolver, changes, publish, stopped));
        Ok(Self { tables, task, stop })
    }

    /// The tables as of now, and a way to wait for newer ones.
    #[must_use]
    pub fn tables(&self) -> watch::Receiver<Arc<NextHops>> {
        self.tables.clone()
    }

    /// Ends the task and takes back the neighbour entries that it made.
    pub async fn close(self) {
        let _ = self.stop.send(true);
        if let Err(e) = self.task.await {
            tracing::warn!("next hops: {e}");
        }
    }
}

async fn follow<M>(
    mut resolver: Resolver,
    mut changes: impl futures_util::Stream<Item = M> + Unpin,
    publish: watch::Sender<Arc<NextHops>>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let changed = tokio::select! {
            change = changes.next() => change.is_some(),
            // A sender that is gone has said its last word: the refresh below still runs.
            Ok(()) = resolver.destinations.changed() => true,
            _ = stop.changed() => break,
            () = tokio::time::sleep(REFRESH) => true,
        };
        if !changed {
            tracing::error!("next hops: the netlink socket is gone, routes are not followed");
            break;
        }
        settle(&mut changes).await;
        match resolver.refresh().await {
            Ok(new) => {
                publish.send_if_modified(|old| {
                    let differs = **old != new;
                    if differs {
                        *old = Arc::new(new);
                    }
                    differs
                });
            }
            // What is known stays in force; the next refresh tries again.
            Err(e) => tracing::warn!("next hops: {e:#}"),
        }
    }
    resolver.take_back().await;
}

/// Swallows the changes that follow the first one at once, as when a routing daemon starts.
async fn settle<M>(changes: &mut (impl futures_util::Stream<Item = M> + Unpin)) {
    let latest = Instant::now() + LATEST;
    loop {
        let quiet = (Instant::now() + SETTLE).min(latest);
        match tokio::time::timeout_at(quiet, changes.next()).await {
            Ok(Some(_)) if quiet < latest => {}
            _ => return,
        }
    }
}

struct Resolver {
    handle: Handle,
    interfaces: Vec<String>,
    destinations: watch::Receiver<BTreeSet<IpAddr>>,
    /// The entries that this process made.
    managed: BTreeSet<(u32, IpAddr)>,
    /// Cleared by a kernel that knows no managed entries (before 5.16).
    can_manage: bool,
}

impl Resolver {
    async fn refresh(&mut self) -> anyhow::Result<NextHops> {
        let mut interfaces = Vec::new();
        for name in &self.interfaces {
            let nic = Nic::query(name)?;
            // The same interface may be named for both sides.
            if nic.up && !interfaces.iter().any(|i: &Interface| i.index == nic.index) {
                interfaces.push(Interface {
                    name: nic.name,
                    index: nic.index,
                    mac: nic.mac,
                    mtu: nic.mtu,
                });
            }
        }
        let mut routes = Vec::new();
        for query in [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ] {
            let mut messages = self.handle.route().get(query).execute();
            while let Some(message) = messages.try_next().await.context("read routes")? {
                routes.extend(kernel::route(&message));
            }
        }
        let entries = self.entries().await?;
        let resolved = entries
            .iter()
            .filter_map(|n| Some(((n.interface, n.address), n.mac?)))
            .filter(|((index, _), _)| interfaces.iter().any(|i| i.index == *index))
            .collect();
        let tables = NextHops::new(routes, interfaces, resolved);
        self.resolve(&tables, &entries).await;
        Ok(tables)
    }

    async fn entries(&self) -> anyhow::Result<Vec<Neighbour>> {
        let messages = self.handle.neighbours().get().execute();
        let messages: Vec<_> = messages.try_collect().await.context("read neighbours")?;
        Ok(messages.iter().filter_map(kernel::neighbour).collect())
    }

    /// Asks the kernel for every needed neighbour that it does not look after already.
    async fn resolve(&mut self, tables: &NextHops, entries: &[Neighbour]) {
        let needed = tables.needed(&self.destinations.borrow_and_update().clone());
        let entries: BTreeMap<_, _> = entries
            .iter()
            .map(|n| ((n.interface, n.address), n))
            .collect();
        // Those of a process that was killed are this one's now, to keep and to take back.
        let left = entries
            .iter()
            .filter(|(_, entry)| entry.managed && entry.ours);
        self.managed.extend(left.map(|(key, _)| *key));
        for key in &needed {
            let looked_after = entries
                .get(key)
                .is_some_and(|n| n.managed || n.permanent || (!self.can_manage && n.mac.is_some()));
            if !looked_after {
                self.ask(*key).await;
            }
        }
        for key in self
            .managed
            .difference(&needed)
            .copied()
            .collect::<Vec<_>>()
        {
            self.forget(key).await;
        }
    }

    async fn ask(&mut self, (interface, address): (u32, IpAddr)) {
        let neighbours = self.handle.neighbours();
        if self.can_manage {
            let mut request = neighbours
                .add(interface, address)
                .state(NeighbourState::None)
                .replace();
            request.message_mut().attributes.extend([
                NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed),
                NeighbourAttribute::Protocol(kernel::OURS),
            ]);
            match request.execute().await {
                Ok(()) => {
                    self.managed.insert((interface, address));
                    return;
                }
                Err(e) => {
                    tracing::info!("managed neighbours do not work here, probing instead: {e}");
                    self.can_manage = false;
                }
            }
        }
        // NTF_USE: resolve as if a packet were waiting.
        let probe = neighbours
            .add(interface, address)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        if let Err(e) = probe.execute().await {
            tracing::debug!("probe for {address}: {e}");
        }
    }

    async fn forget(&mut self, (interface, address): (u32, IpAddr)) {
        self.managed.remove(&(interface, address));
        let mut request = self.handle.neighbours().add(interface, address);
        let message = request.message_mut().clone();
        // The entry may be gone with its interface.
        if let Err(e) = self.handle.neighbours().del(message).execute().await {
            tracing::debug!("neighbour entry of {address}: {e}");
        }
    }

    async fn take_back(&mut self) {
        for key in self.managed.clone() {
            self.forget(key).await;
        }
    }
}
