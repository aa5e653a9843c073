//! A cluster's gateway: the real data plane with the frames of both its sides.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use gateway_core::{
    Context, Dataplane, Disposition, Event, Frame, Limits, SharedCache, Side, Snapshot, Totals,
    link,
    nexthop::{NextHops, Route},
    owners::Owners,
    snapshot::{Inbound, Interface, Peer},
};
use handshake::{credentials::CredentialCache, transit::TransitSnapshot};
use identity::{Mono, Now, TrustDomain};
use peering::peers::TunnelState;

use crate::{dice::Dice, tunnel::Tunnel, wires};

/// The UDP port of all tunnels.
pub const TUNNEL_PORT: u16 = 1000;
const SWEEP: Duration = Duration::from_millis(250);
const HEADROOM: usize = 128;
const BUFFER: usize = 2048;
const NODES: usize = 2;

/// A gateway. While its process does not run, its interfaces drop all that is for it.
pub struct Gateway {
    number: usize,
    /// All clusters by their numbers.
    clusters: Vec<TrustDomain>,
    dice: Dice,
    process: Option<Process>,
}

struct Process {
    dataplane: Dataplane,
    cx: Context,
    snapshot: Snapshot,
    tunnels: BTreeMap<TrustDomain, Tunnel>,
    sweep_at: Mono,
    seen: Seen,
}

/// What went in and came out, as the interfaces saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    taken: u64,
    sent: u64,
    answers: u64,
}

impl Gateway {
    /// The gateway of cluster `number`, which does not run yet.
    #[must_use]
    pub fn new(number: usize, clusters: Vec<TrustDomain>, dice: Dice) -> Self {
        Self {
            number,
            clusters,
            dice,
            process: None,
        }
    }

    /// The process is killed: flows, half-open flows, nonces and associations are lost.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// A new process, which knows nothing of the one before.
    pub fn start(&mut self, transit: Arc<TransitSnapshot>, now: Mono) {
        let limits = Limits {
            established: 4096,
            half_open: 4096,
            nonces: 65_536,
            unproven_per_second: 100,
            flow_shards: 4,
            handshake_shards: 2,
        };
        let [cache_key, flow_key] = [(); 2].map(|()| {
            let bytes = self.dice.bytes();
            *bytes.first_chunk().expect("32 bytes")
        });
        let cache: Arc<dyn CredentialCache> = Arc::new(SharedCache::new(1024, &cache_key));
        let tunnels = BTreeMap::new();
        let mut process = Process {
            dataplane: Dataplane::new(&limits, &flow_key, &cache),
            cx: Context::new(0, 1000),
            snapshot: assemble(self.number, &self.clusters, transit, &tunnels),
            tunnels,
            sweep_at: now.after(SWEEP),
            seen: Seen::default(),
        };
        process.rebuild(self.number, &self.clusters);
        self.process = Some(process);
    }

    /// Whether the process runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Decides by `transit` from now on.
    pub fn set_transit(&mut self, transit: Arc<TransitSnapshot>) {
        if let Some(process) = &mut self.process {
            process.snapshot.transit = transit;
            process.rebuild(self.number, &self.clusters);
        }
    }

    /// The associations with `peer` are these from now on.
    pub fn set_tunnel(&mut self, peer: &TrustDomain, state: &TunnelState) {
        if let Some(process) = &mut self.process {
            process.tunnels.entry(peer.clone()).or_default().set(state);
            process.rebuild(self.number, &self.clusters);
        }
    }

    /// A frame arrives on `side`; what is sent, and where.
    pub fn handle_frame(&mut self, side: Side, bytes: &[u8], now: Now) -> Option<(Side, Vec<u8>)> {
        let process = self.process.as_mut()?;
        process.seen.taken += 1;
        let mut memory = [0; BUFFER];
        let range = HEADROOM..HEADROOM + bytes.len();
        memory
            .get_mut(range.clone())
            .expect("frames fit into the MTU")
            .copy_from_slice(bytes);
        let mut frame = Frame::new(&mut memory, range).expect("it is inside");
        let snapshot = &process.snapshot;
        let fate = process
            .dataplane
            .process(&mut process.cx, side, &mut frame, snapshot, now);
        while let Some(event) = process.cx.poll_event() {
            // Every station of this world is known.
            assert!(!matches!(event, Event::Unresolved(..)), "{event:?}");
        }
        let (side, count) = match fate {
            Disposition::Forward(side) => (side, &mut process.seen.sent),
            Disposition::Answer(side, _) => (side, &mut process.seen.answers),
            Disposition::Drop(_) => return None,
        };
        *count += 1;
        Some((side, frame.packet().to_vec()))
    }

    /// When [`Gateway::handle_timeout`] is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Mono> {
        self.process.as_ref().map(|process| process.sweep_at)
    }

    /// Forgets what is too old.
    pub fn handle_timeout(&mut self, now: Now) {
        if let Some(process) = &mut self.process
            && process.sweep_at <= now.mono
        {
            process.sweep_at = now.mono.after(SWEEP);
            process.dataplane.handle_timeout(now);
        }
    }

    /// What became of its packets, while it runs.
    #[must_use]
    pub fn totals(&self) -> Option<&Totals> {
        self.process.as_ref().map(|process| &process.cx.totals)
    }

    /// The same, to be falsified by a test of the checker.
    pub fn totals_mut(&mut self) -> Option<&mut Totals> {
        self.process.as_mut().map(|process| &mut process.cx.totals)
    }

    /// Every packet is accounted for, by itself and by its interfaces.
    ///
    /// # Panics
    /// When one is not.
    pub fn check(&self) {
        let Some(process) = &self.process else { return };
        let totals = &process.cx.totals;
        assert!(totals.balanced(), "a gateway lost count: {totals:?}");
        let counted = Seen {
            taken: totals.received,
            sent: totals.forwarded,
            answers: totals.originated,
        };
        assert_eq!(counted, process.seen, "a gateway counts other packets");
        assert_eq!(process.cx.lost_events(), 0);
    }
}

impl Process {
    fn rebuild(&mut self, number: usize, clusters: &[TrustDomain]) {
        let transit = self.snapshot.transit.clone();
        self.snapshot = assemble(number, clusters, transit, &self.tunnels);
    }
}

/// The snapshot, as control puts it together from the kernel's tables and the peers' tunnels.
fn assemble(
    number: usize,
    clusters: &[TrustDomain],
    transit: Arc<TransitSnapshot>,
    tunnels: &BTreeMap<TrustDomain, Tunnel>,
) -> Snapshot {
    let interface = |mac, address| Interface {
        mac,
        addresses: vec![address],
        mtu: 1500,
    };
    let lan = interface(wires::lan_mac(number), wires::lan_address(number));
    let wan = interface(wires::wan_mac(number), wires::wan_address(number));
    // A number is the place in the sorted list.
    let others: BTreeMap<&TrustDomain, usize> = clusters
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != number)
        .map(|(other, domain)| (domain, other))
        .collect();
    let mut inbound = BTreeMap::new();
    let mut peers = Vec::new();
    for (place, (domain, other)) in (0_u16..).zip(&others) {
        let tunnel = tunnels.get(*domain);
        for (spi, association) in tunnel.into_iter().flat_map(|tunnel| &tunnel.receive) {
            let association = association.clone();
            let peer = place;
            inbound.insert(*spi, Inbound { association, peer });
        }
        let endpoint = wires::wan_address(*other);
        peers.push(Peer {
            trust_domain: (*domain).clone(),
            endpoint,
            port: TUNNEL_PORT,
            outbound: tunnel.map_or_else(Vec::new, |tunnel| tunnel.send.clone()),
            next_hop: Ok(wires::wan_mac(*other)),
            inner_mtu: link::inner_mtu(&lan, &wan, endpoint),
        });
    }
    let domains: Vec<TrustDomain> = others.keys().map(|domain| (*domain).clone()).collect();
    let routes = (0..NODES).map(|node| Route {
        prefix: format!("10.{}.{}.0/24", number + 1, node + 1)
            .parse()
            .expect("a prefix"),
        via: Some(wires::node_address(number, node)),
    });
    let stations = (0..NODES).map(|node| {
        let mac = wires::node_mac(number, node);
        (wires::node_address(number, node), mac)
    });
    let own = lan.addresses.iter().chain(&wan.addresses).copied();
    let endpoints: BTreeSet<_> = own.chain(peers.iter().map(|peer| peer.endpoint)).collect();
    Snapshot {
        ready: true,
        owners: Owners::new(&transit.networks, &transit.own, &domains),
        transit,
        endpoints,
        tunnel_port: TUNNEL_PORT,
        lan_hops: NextHops::new(routes.collect(), stations.collect()),
        lan,
        wan,
        peers,
        inbound,
    }
}
