//! The control side: what this cluster, its nodes and its peers say goes in, and out comes what the
//! data plane decides by, as one immutable [`Snapshot`].
//!
//! It owns the gateway's state machines and carries events from one to the other; it has no I/O and
//! no clock. The contract, for the one task that owns it:
//!
//! 1. Call `set_*` and `handle_*` with what happened, and [`Control::handle_timeout`] when the time
//!    of [`Control::poll_timeout`] has come.
//! 2. Then store what [`Control::poll_persist`] gives and say so with [`Control::handle_persisted`],
//!    until it gives nothing. While storing fails, do nothing else, and read nothing more.
//! 3. Then act on [`Control::poll_event`] and send what [`Control::poll_transmit`] gives until both
//!    give nothing and nothing is to be stored.
//! 4. Then publish what [`Control::poll_snapshot`] gives.

pub mod assemble;
mod inputs;
mod judge;
mod settle;
pub mod tunnels;

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc, time::Duration};

use handshake::transit::TransitSnapshot;
use identity::{Mono, Now, TrustDomain};
use peering::{
    Signature,
    issuer::{Issuer, IssuerEvent},
    peers::{PeerConfig, PeerEvent, Peering, StateKey},
    records::RecordBook,
};

use crate::{
    control::{
        assemble::{Link, Parts, PeerState, assemble},
        judge::Judge,
        tunnels::Tunnels,
    },
    snapshot::{Side, Snapshot},
};

/// How often counters are read and old records forgotten.
const TICK: Duration = Duration::from_secs(1);

/// A peer as it is configured.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who it is.
    pub config: PeerConfig,
    /// Where its gateway listens for QUIC; its tunnel ends there too until it says where.
    pub address: SocketAddr,
}

/// To whom a message goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Recipient {
    /// The gateway of a peer.
    Peer(TrustDomain),
    /// The agent of a node of this cluster.
    Node(String),
}

/// What happened, of which control has done its own part already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlEvent {
    /// Among peers.
    Peer(PeerEvent),
    /// At the issuer.
    Issuer(IssuerEvent),
    /// Something that should not happen, in words.
    Warning(String),
}

/// Why no new flow may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unready {
    /// No policy was ever compiled.
    NoPolicy,
    /// The interface of this side is down.
    NoInterface(Side),
    /// What must not be forgotten cannot be stored.
    NotStoring,
    /// The state was restored from a backup, and peers may have seen more.
    Restored,
}

/// See the module.
pub struct Control {
    own: TrustDomain,
    tunnel_port: u16,
    now: Now,
    peering: Peering,
    issuer: Issuer,
    records: RecordBook,
    /// Up to where own records are in `records`.
    own_records: u64,
    judge: Judge,
    transit: Option<Arc<TransitSnapshot>>,
    tunnels: Tunnels,
    ends: BTreeMap<TrustDomain, PeerEnd>,
    lan: Link,
    wan: Link,
    storing: bool,
    tick_at: Mono,
    /// What handshakes are judged by changed.
    judge_again: bool,
    /// Anything else of the snapshot changed.
    assemble_again: bool,
    warnings: Vec<String>,
}

/// Where a peer is reached.
#[derive(Clone, Copy, Debug)]
struct PeerEnd {
    address: SocketAddr,
    /// Where its tunnel ends, once it said so. Without a session the last one stays: flows outlive
    /// it.
    tunnel: Option<SocketAddr>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("own", &self.own)
            .field("epoch", &self.transit.as_ref().map(|transit| transit.epoch))
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

impl Control {
    /// The control side of a gateway of the cluster `own`, which has heard nothing yet. Peers send
    /// to our `tunnel_port`.
    #[must_use]
    pub fn new(
        own: TrustDomain,
        tunnel_port: u16,
        peering: Peering,
        issuer: Issuer,
        now: Now,
    ) -> Self {
        Self {
            own,
            tunnel_port,
            now,
            peering,
            issuer,
            records: RecordBook::default(),
            own_records: 0,
            judge: Judge::default(),
            transit: None,
            tunnels: Tunnels::default(),
            ends: BTreeMap::new(),
            lan: Link::default(),
            wan: Link::default(),
            storing: true,
            tick_at: now.mono.after(TICK),
            judge_again: true,
            assemble_again: true,
            warnings: Vec::new(),
        }
    }

    /// When [`Control::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Mono {
        let machines = [self.peering.poll_timeout(), self.issuer.poll_timeout()];
        let first = machines.into_iter().flatten().min();
        first.map_or(self.tick_at, |first| first.min(self.tick_at))
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        self.peering.handle_timeout(now);
        self.issuer.handle_timeout(now);
        if self.tick_at <= now.mono {
            self.tick_at = now.mono.after(TICK);
            for (peer, spi, packets) in self.tunnels.sealed() {
                self.peering.handle_sent(peer, spi, packets);
            }
            self.records.forget_old(now.mono);
        }
    }

    /// The next object that must be stored before anything else happens.
    #[must_use]
    pub fn poll_persist(&self) -> Option<(StateKey, Vec<u8>)> {
        self.peering.poll_persist()
    }

    /// The object that was polled last is stored.
    pub fn handle_persisted(&mut self, key: &StateKey) {
        self.peering.handle_persisted(key);
    }

    /// What was signed since: to be in the audit log before anything is sent.
    pub fn take_signatures(&mut self) -> Vec<Signature> {
        let mut all = self.issuer.take_signatures();
        all.extend(self.peering.take_signatures());
        all
    }

    /// What happened, until every machine is quiet.
    pub fn poll_event(&mut self) -> Option<ControlEvent> {
        if let Some(words) = self.warnings.pop() {
            return Some(ControlEvent::Warning(words));
        }
        if let Some(event) = self.peering.poll_event() {
            self.peer_event(&event);
            return Some(ControlEvent::Peer(event));
        }
        let event = self.issuer.poll_event()?;
        self.issuer_event(&event);
        Some(ControlEvent::Issuer(event))
    }

    /// The next message to a peer or a node.
    pub fn poll_transmit(&mut self) -> Option<(Recipient, Vec<u8>)> {
        while let Some((peer, after, most)) = self.peering.poll_records() {
            let offer = self.peering.offered(&peer).cloned().unwrap_or_default();
            let (records, through) = self.issuer.records_for(&offer, after, most);
            if let Some(message) = self.peering.handle_own_records(&peer, &records, through) {
                return Some((Recipient::Peer(peer), message));
            }
        }
        if let Some((peer, message)) = self.peering.poll_transmit() {
            return Some((Recipient::Peer(peer), message));
        }
        let (node, message) = self.issuer.poll_transmit()?;
        Some((Recipient::Node(node), message))
    }

    /// The newest snapshot, if anything in it changed since the last call; none before there is a
    /// policy.
    pub fn poll_snapshot(&mut self) -> Option<Arc<Snapshot>> {
        if std::mem::take(&mut self.judge_again) {
            let (peering, issuer, records) = (&self.peering, &self.issuer, &self.records);
            let next = self.judge.snapshot(&self.own, peering, issuer, records);
            if let Some(transit) = next {
                self.transit = Some(transit);
                self.assemble_again = true;
            }
        }
        if !std::mem::take(&mut self.assemble_again) {
            return None;
        }
        let peers = self.peering.peers().filter_map(|domain| {
            let end = self.ends.get(domain)?;
            let endpoint = end.tunnel.unwrap_or(end.address);
            Some(PeerState {
                trust_domain: domain.clone(),
                endpoint: endpoint.ip(),
                port: endpoint.port(),
                tunnel: self.tunnels.of(domain),
            })
        });
        Some(Arc::new(assemble(Parts {
            transit: self.transit.clone()?,
            ready: self.unready().is_empty(),
            lan: &self.lan,
            wan: &self.wan,
            tunnel_port: self.tunnel_port,
            peers: peers.collect(),
        })))
    }

    /// Why no new flow may be opened; nothing when one may.
    #[must_use]
    pub fn unready(&self) -> Vec<Unready> {
        let down = |link: &Link| link.interface.addresses.is_empty();
        let why = [
            (self.transit.is_none(), Unready::NoPolicy),
            (down(&self.wan), Unready::NoInterface(Side::Wan)),
            (down(&self.lan), Unready::NoInterface(Side::Lan)),
            (!self.storing, Unready::NotStoring),
            (self.peering.restored().is_some(), Unready::Restored),
        ];
        let why = why.into_iter().filter(|(holds, _)| *holds);
        why.map(|(_, why)| why).collect()
    }

    /// What an operator has to put right, in words.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        self.judge.problems()
    }

    /// The peers, sans-IO.
    #[must_use]
    pub fn peering(&self) -> &Peering {
        &self.peering
    }

    /// The issuer, sans-IO.
    #[must_use]
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// What became of pods of all clusters.
    #[must_use]
    pub fn records(&self) -> &RecordBook {
        &self.records
    }

    /// What handshakes are judged by, once there is something.
    #[must_use]
    pub fn transit(&self) -> Option<&Arc<TransitSnapshot>> {
        self.transit.as_ref()
    }

    /// Where peers' gateways are: their QUIC ends, and their tunnels' where these are others.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let ends = self.ends.values();
        ends.flat_map(|end| [Some(end.address), end.tunnel])
            .flatten()
    }
}
