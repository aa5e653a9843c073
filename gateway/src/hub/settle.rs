//! After every input: store, deliver events from machine to machine until all are quiet, send,
//! publish.

use std::sync::Arc;

use peering::{
    issuer::IssuerEvent,
    peers::{PeerEvent, StateKey},
};
use tracing::{debug, error, info, warn};

use super::{
    Hub,
    assemble::{Parts, PeerState, assemble},
    steer::sides,
    view::View,
};

impl Hub {
    /// Until every machine is quiet. Returns whether everything that had to be stored is: while the
    /// disk does not take it nothing else may happen, and nothing more may be read.
    pub(super) fn settle(&mut self) -> bool {
        loop {
            if !self.persist() {
                self.show();
                return false;
            }
            let mut quiet = true;
            while let Some(event) = self.peering.poll_event() {
                self.peer_event(event);
                quiet = false;
            }
            while let Some((peer, after, most)) = self.peering.poll_records() {
                let records: Vec<_> = self.issuer.own_records(after).take(most).collect();
                if let Some(message) = self.peering.handle_own_records(&peer, &records) {
                    self.peers.send(&peer, message);
                }
            }
            while let Some((peer, message)) = self.peering.poll_transmit() {
                self.peers.send(&peer, message);
            }
            while let Some(event) = self.issuer.poll_event() {
                self.issuer_event(event);
                quiet = false;
            }
            while let Some((node, message)) = self.issuer.poll_transmit() {
                self.nodes.send(&node, message);
            }
            if quiet && self.peering.poll_persist().is_none() {
                break;
            }
        }
        self.publish();
        true
    }

    /// Stores what `peering` must not forget: no peer hears a sequence, and nothing is believed, that
    /// a crash could undo.
    fn persist(&mut self) -> bool {
        while let Some((key, bytes)) = self.peering.poll_persist() {
            let name = match &key {
                StateKey::Own => "own".to_owned(),
                StateKey::Peer(domain) => format!("peer.{domain}"),
            };
            if let Err(e) = self.state.store_sealed(&name, &bytes) {
                error!("state is not stored: {e:#}");
                self.problem("disk", format!("{e:#}"));
                return false;
            }
            self.peering.handle_persisted(&key);
            self.problems.remove("disk");
        }
        true
    }

    fn peer_event(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Connected(peer) => info!(%peer, "connected"),
            PeerEvent::Disconnected(peer) => info!(%peer, "disconnected"),
            PeerEvent::BundlesChanged => {
                self.trust_bundles();
                self.issuer.set_bundles(self.peering.bundles());
                // Whatever was signed before the bundle came can be checked now.
                self.take_own_records();
                self.judge_again = true;
            }
            PeerEvent::DigestChanged(_) => self.judge_again = true,
            PeerEvent::RangesChanged => {
                self.issuer.set_ranges(self.peering.ranges());
                let world = Arc::clone(&self.world.borrow());
                self.steer(&world);
                self.judge_again = true;
            }
            PeerEvent::TunnelChanged(peer) => {
                let state = self.peering.tunnel(&peer);
                self.tunnels.set(&peer, &state);
                self.peers.set_tunnel_endpoint(&peer, state.endpoint);
                self.assemble_again = true;
            }
            PeerEvent::Records(records) => {
                let now = self.now().mono;
                for (signed, verified) in &records {
                    if self.records.insert(verified, now) {
                        self.issuer.handle_peer_record(signed, verified);
                        self.judge_again = true;
                    }
                }
            }
            PeerEvent::Alarm { peer, what } => error!(%peer, alarm = true, "{what}"),
            PeerEvent::Close { peer, reason } => {
                warn!(%peer, "session closed: {reason}");
                self.peers.close_one(&peer, &reason);
            }
            PeerEvent::Removed(peer) => {
                // Set up anew under another pin it is one again, of which nothing is known.
                if self.peering.peers().all(|other| *other != peer) {
                    info!(%peer, "is no peer any more");
                    self.peers.remove(&peer);
                }
                self.tunnels.remove(&peer);
                self.records.remove_domain(&peer);
                self.judge_again = true;
            }
        }
    }

    fn issuer_event(&mut self, event: IssuerEvent) {
        match event {
            IssuerEvent::StateChanged => {
                let stored = self.state.store("issuer", &self.issuer.state());
                match stored {
                    Ok(()) => drop(self.problems.remove("issuer state")),
                    Err(e) => {
                        error!("the issuer's state is not stored: {e:#}");
                        self.problem("issuer state", format!("{e:#}"));
                    }
                }
            }
            IssuerEvent::RegistryChanged | IssuerEvent::SegmentKeysChanged => {
                self.judge_again = true;
            }
            IssuerEvent::RecordsChanged => {
                self.take_own_records();
                self.peering.handle_records_changed();
            }
            IssuerEvent::Refused { node, pod_uid } => {
                warn!(
                    node,
                    pod_uid,
                    audit = true,
                    "asked for a pod of another node"
                );
            }
            IssuerEvent::Misbehaved { node, what } => {
                warn!(node, audit = true, "{what}");
                self.nodes.close_one(&node, &what);
            }
            IssuerEvent::Problem(words) => {
                warn!("issuer: {words}");
                self.problem("issuer", words);
            }
        }
    }

    /// What our own issuer said of pods holds here too.
    fn take_own_records(&mut self) {
        let now = self.now();
        let Some(bundle) = self.peering.bundles().bundle(&self.own).cloned() else {
            return;
        };
        let records: Vec<_> = self.issuer.own_records(self.own_records).collect();
        for (position, record) in records {
            match record.verify(&bundle, now.unix) {
                Ok(verified) => {
                    self.judge_again |= self.records.insert(&verified, now.mono);
                }
                Err(e) => error!("our own record does not hold: {e}"),
            }
            self.own_records = position;
        }
    }

    /// A snapshot of everything, if anything changed.
    fn publish(&mut self) {
        if std::mem::take(&mut self.judge_again) {
            let snapshot =
                self.judge
                    .snapshot(&self.own, &self.peering, &self.issuer, &self.records);
            if let Some(transit) = snapshot {
                debug!(epoch = transit.epoch, "a new epoch");
                self.transit = Some(transit);
                self.assemble_again = true;
            }
        }
        if !std::mem::take(&mut self.assemble_again) {
            return;
        }
        let Some(transit) = self.transit.clone() else {
            self.show();
            return;
        };
        let hops = Arc::clone(&self.hops.borrow());
        let peers = self.peering.peers().filter_map(|domain| {
            let endpoint = self.peers.endpoint(domain)?;
            Some(PeerState {
                trust_domain: domain.clone(),
                endpoint: endpoint.ip(),
                port: endpoint.port(),
                tunnel: self.tunnels.of(domain),
            })
        });
        let (lan, wan) = sides(&self.config);
        let snapshot = assemble(Parts {
            transit,
            ready: self.unready().is_empty(),
            lan: &lan,
            wan: &wan,
            tunnel_port: self.config.wan.psp_port,
            hops: &hops,
            peers: peers.collect(),
        });
        self.shared.snapshot.store(Arc::new(snapshot));
        self.show();
    }

    /// Why no traffic should come yet.
    fn unready(&self) -> Vec<String> {
        let mut why = Vec::new();
        if self.transit.is_none() {
            why.push("no policy is in force yet".into());
        }
        let hops = self.hops.borrow();
        for (side, name) in [
            ("wan", &self.config.wan.interface),
            ("lan", &self.config.lan.interface),
        ] {
            if !hops.interfaces().any(|i| i.name == *name) {
                why.push(format!("{side} interface {name} is down"));
            }
        }
        for what in ["disk", "issuer state"] {
            let problem = self.problems.get(what);
            why.extend(problem.map(|words| format!("state cannot be stored: {words}")));
        }
        why
    }

    pub(super) fn show(&self) {
        let hops = self.hops.borrow();
        let missing = hops.problems(&self.destinations.borrow());
        let problems = self.problems.values().cloned();
        let nodes = self.issuer.registry().map(|entry| {
            let connected = self.nodes.is_connected(&entry.node);
            (entry.node.clone(), connected, entry.addresses.len())
        });
        self.view.store(Arc::new(View {
            peering: Some(self.peering.status(self.now().unix)),
            nodes: nodes.collect(),
            transit: self.transit.clone(),
            unready: self.unready(),
            problems: problems
                .chain(missing.iter().map(ToString::to_string))
                .collect(),
        }));
    }
}
