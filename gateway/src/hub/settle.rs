//! After every input: store, act on events until all is quiet, send, publish.

use std::sync::Arc;

use gateway_core::{
    Side,
    control::{ControlEvent, Recipient, Unready},
};
use observe::AuditLine;
use peering::{
    Signature,
    issuer::IssuerEvent,
    peers::{PeerEvent, StateKey},
};
use serde_json::json;
use tracing::{debug, error, info, warn};

use super::{Hub, introduced::waiting, view::View};
use crate::signer::SignerCommand;

/// Where it says that the issuer's state is not stored.
pub(super) const ISSUER_STATE: &str = "issuer state";

/// A signature, as the audit log has it.
fn signed(signature: &Signature) -> AuditLine {
    let about = match signature {
        Signature::Credential {
            id,
            subject,
            pod_uid,
            agent_key,
            expires,
        } => json!({
            "what": "credential", "credential": hex::encode(id), "subject": subject,
            "pod_uid": pod_uid, "agent_key": hex::encode(agent_key),
            "expires": expires.to_string(),
        }),
        Signature::Record {
            pod_uid,
            generation,
            sequence,
        } => json!({
            "what": "record", "pod_uid": pod_uid, "generation": generation, "sequence": sequence,
        }),
        Signature::Digest(sequence) => json!({"what": "digest", "sequence": sequence}),
        Signature::Revocations(sequence) => json!({"what": "revocations", "sequence": sequence}),
        Signature::Introductions { audience, sequence } => {
            json!({"what": "introductions", "audience": audience, "sequence": sequence})
        }
        Signature::Lost(count) => json!({"what": "not recorded", "count": count}),
    };
    AuditLine {
        event: "signed",
        about,
    }
}

impl Hub {
    /// Until control is quiet. Returns whether everything that had to be stored is: while the disk
    /// does not take it nothing else may happen, and nothing more may be read.
    pub(super) fn settle(&mut self) -> bool {
        loop {
            if !self.persist() {
                self.show();
                return false;
            }
            let mut quiet = true;
            while let Some(event) = self.control.poll_event() {
                self.control_event(event);
                quiet = false;
            }
            // What events had signed must be in the audit log before it leaves.
            if !self.audit_signatures() {
                self.show();
                return false;
            }
            while let Some((recipient, message)) = self.control.poll_transmit() {
                self.send(&recipient, message);
            }
            if quiet && self.control.poll_persist().is_none() {
                break;
            }
        }
        if let Some(snapshot) = self.control.poll_snapshot() {
            debug!(epoch = snapshot.transit.epoch, "a new snapshot");
            self.shared.snapshot.store(snapshot);
            self.show();
        }
        true
    }

    pub(super) fn send(&self, to: &Recipient, message: Vec<u8>) {
        match to {
            Recipient::Peer(peer) => self.peers.send(peer, message),
            Recipient::Node(node) => self.nodes.send(node, message),
        }
    }

    /// Stores what must not be forgotten: no peer hears a sequence, and nothing is believed, that a
    /// crash could undo.
    fn persist(&mut self) -> bool {
        if !self.audit_signatures() {
            return false;
        }
        while let Some((key, bytes)) = self.control.poll_persist() {
            let name = match &key {
                StateKey::Own => "own".to_owned(),
                StateKey::Peer(domain) => format!("peer.{domain}"),
            };
            if !self.stored("disk", self.state.store_sealed(&name, &bytes)) {
                return false;
            }
            self.control.handle_persisted(&key);
        }
        true
    }

    /// Whether everything that was signed is in the audit log.
    pub(super) fn audit_signatures(&mut self) -> bool {
        let signatures = self.control.take_signatures();
        self.unaudited.extend(signatures.iter().map(signed));
        if self.unaudited.is_empty() {
            return true;
        }
        let written = self.audit.write_all(&self.unaudited);
        let written = self.stored("audit", written.map_err(Into::into));
        if written {
            self.unaudited.clear();
        }
        written
    }

    /// Stores what the issuer must not forget. What is not stored now is tried again with each tick.
    pub(super) fn persist_issuer(&mut self) {
        let stored = self.state.store("issuer", &self.control.issuer().state());
        let stored = self.stored(ISSUER_STATE, stored);
        self.control.set_storing(stored);
    }

    /// Says what became of an attempt to store something; once, while it is the same.
    fn stored(&mut self, what: &str, attempt: anyhow::Result<()>) -> bool {
        match attempt {
            Ok(()) => {
                if self.problems.remove(what).is_some() {
                    info!("state can be stored again");
                }
                true
            }
            Err(e) => {
                let words = format!("state cannot be stored: {e:#}");
                if self.problems.get(what) != Some(&words) {
                    error!("{words}");
                    self.problem(what, words);
                }
                false
            }
        }
    }

    fn control_event(&mut self, event: ControlEvent) {
        match event {
            ControlEvent::Peer(event) => self.peer_event(event),
            ControlEvent::Issuer(event) => self.issuer_event(event),
            ControlEvent::Warning(words) => warn!("{words}"),
        }
    }

    fn peer_event(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Connected(peer) => info!(%peer, "connected"),
            PeerEvent::Disconnected(peer) => info!(%peer, "disconnected"),
            PeerEvent::BundlesChanged => {
                self.trust_bundles();
                self.publish_bundle();
            }
            // A cluster that is revoked as a whole has no session; one that is not any more has.
            PeerEvent::RestrictionsChanged => {
                let world = Arc::clone(&self.world.borrow());
                self.configure_peers(&world);
            }
            PeerEvent::Clock { peer, off } => match off {
                Some(words) => warn!(%peer, "{words}"),
                None => info!(%peer, "its clock is right again"),
            },
            PeerEvent::RestoredChanged => {
                match self.control.peering().restored() {
                    None => info!(audit = true, "not a state of the past any more"),
                    Some(why) => warn!(audit = true, "a state of the past: {why:?}"),
                }
                self.publish_bundle();
            }
            PeerEvent::RangesChanged => {
                let world = Arc::clone(&self.world.borrow());
                self.steer(&world);
            }
            // It may end elsewhere now.
            PeerEvent::TunnelChanged(_) => self.want_neighbours(),
            PeerEvent::DigestChanged(_) | PeerEvent::Records(_) => {}
            PeerEvent::IntroductionsChanged(_) => self.settle_introduced(),
            PeerEvent::Left { peer, why } => self.left(&peer, &why),
            PeerEvent::Alarm { peer, what } => error!(%peer, alarm = true, "{what}"),
            PeerEvent::Close { peer, reason } => {
                warn!(%peer, "session closed: {reason}");
                self.peers.close_one(&peer, &reason);
            }
            PeerEvent::Removed(peer) => {
                if self.control.peering().peers().all(|other| *other != peer) {
                    info!(%peer, "is no peer any more");
                    self.peers.remove(&peer);
                }
            }
        }
    }

    fn issuer_event(&mut self, event: IssuerEvent) {
        match event {
            IssuerEvent::StateChanged => self.persist_issuer(),
            IssuerEvent::RegistryChanged
            | IssuerEvent::SegmentKeysChanged
            | IssuerEvent::RecordsChanged => {}
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

    /// Why no traffic should come yet.
    fn unready(&self) -> Vec<String> {
        let words = |why: Unready| match why {
            Unready::NoPolicy => "no policy is in force yet".to_owned(),
            Unready::NoInterface(Side::Wan) => {
                format!("wan interface {} is down", self.config.wan.interface)
            }
            Unready::NoInterface(Side::Lan) => {
                format!("lan interface {} is down", self.config.lan.interface)
            }
            Unready::NotStoring => "the issuer's state cannot be stored".to_owned(),
            Unready::Restored => {
                "it was restored from a backup, and peers may have seen more".to_owned()
            }
        };
        let why = self.control.unready().into_iter().map(words);
        let disk = ["disk", "audit"].map(|what| self.problems.get(what).cloned());
        why.chain(disk.into_iter().flatten()).collect()
    }

    pub(super) fn show(&self) {
        let missing = self.hops.borrow().problems(&self.destinations.borrow());
        let signer = self.keys.signer();
        let said = self.control.problems().map(str::to_owned);
        let peering = self.control.peering().status(self.now().unix);
        let problems: Vec<String> = self
            .problems
            .values()
            .cloned()
            .chain(said)
            .chain(peering.problems.iter().cloned())
            .chain(missing.iter().map(ToString::to_string))
            .chain(
                signer
                    .and_then(|signer| signer.problem())
                    .as_deref()
                    .cloned(),
            )
            .collect();
        let issuer = self.control.issuer();
        let nodes = issuer.registry().map(|entry| {
            let connected = self.nodes.is_connected(&entry.node);
            (entry.node.clone(), connected, entry.addresses.len())
        });
        let world = Arc::clone(&self.world.borrow());
        let clusters = world.federation.clusters.iter();
        self.view.store(Arc::new(View {
            peering: Some(peering),
            nodes: nodes.collect(),
            transit: self.control.transit().cloned(),
            unready: self.unready(),
            problems,
            clusters: clusters
                .map(|cluster| (cluster.name.clone(), cluster.trust_domain.clone()))
                .collect(),
            fetched: self.fetched.status(),
            pending: self.members.pending.iter().map(waiting).collect(),
            signer: signer.map(SignerCommand::counts),
        }));
    }
}
