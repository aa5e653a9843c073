//! The hub's nodes: sessions of their agents, and enrolment.

use std::collections::BTreeMap;

use identity::TrustDomain;
use quic::{Anchor, EnrolGate, Enrolling, Session, Trust, agent_node};
use serde_json::json;
use tracing::{info, warn};

use super::{
    Hub,
    links::{Link, LinkId},
};
use crate::state::SVID_VALIDITY;

/// All nodes.
pub(super) struct Nodes {
    gate: EnrolGate,
    trust: Trust,
    links: BTreeMap<String, Link>,
}

impl Nodes {
    pub(super) fn new(gate: EnrolGate, trust: Trust) -> Self {
        Self {
            gate,
            trust,
            links: BTreeMap::new(),
        }
    }

    /// From now on agents of the cluster `own` are believed by these roots, in DER.
    pub(super) fn believe(&self, own: TrustDomain, roots: Vec<Vec<u8>>) {
        self.trust.set(own, Anchor::Roots(roots));
    }

    /// Whose session it is.
    pub(super) fn of(&self, id: LinkId) -> Option<String> {
        let mut links = self.links.iter();
        let found = links.find(|(_, link)| link.id == id);
        found.map(|(node, _)| node.clone())
    }

    /// The session ended; whose it was, unless another has taken its place.
    pub(super) fn ended(&mut self, id: LinkId) -> Option<String> {
        let node = self.of(id)?;
        self.links.remove(&node);
        Some(node)
    }

    pub(super) fn is_connected(&self, node: &str) -> bool {
        self.links.contains_key(node)
    }

    pub(super) fn send(&self, node: &str, message: Vec<u8>) {
        if let Some(link) = self.links.get(node) {
            link.send(message);
        }
    }

    /// Ends the node's session; that it ended is heard from the session itself.
    pub(super) fn close_one(&self, node: &str, reason: &str) {
        if let Some(link) = self.links.get(node) {
            link.close(reason);
        }
    }

    pub(super) fn close(&mut self, reason: &str) {
        self.links.values().for_each(|link| link.close(reason));
        self.links.clear();
    }
}

impl Hub {
    pub(super) fn node_session(&mut self, session: Session) {
        let Some(node) = agent_node(&session.info.peer.id).map(str::to_owned) else {
            session.sender.close("not an agent");
            return;
        };
        if !self.config.nodes.iter().any(|n| n.name == node) {
            warn!(node, "is not configured");
            session.sender.close("not a node of this gateway");
            return;
        }
        if let Err(why) = self.in_use() {
            // What it was told last is newer than what could be said to it.
            session.sender.close(&why);
            return;
        }
        let now = self.now();
        let id = self.link_id();
        info!(node, remote = %session.info.remote, "session");
        let link = Link::start(id, session, self.sender.clone());
        if let Some(old) = self.nodes.links.insert(node.clone(), link) {
            // An agent that comes again gave up the older one.
            old.close("another session took its place");
            self.control.handle_node_disconnected(&node, now);
        }
        self.control.handle_node_connected(&node, now);
    }

    pub(super) fn enrol(&mut self, enrolling: Enrolling) {
        let now = self.now();
        let judged = self.in_use().and_then(|()| {
            let judged = self.nodes.gate.judge(&enrolling.asked(), now.mono);
            judged.map_err(|e| e.to_string())
        });
        let signed = judged.and_then(|id| {
            // Before it is handed out: a secret must not be good twice after a crash.
            let stored = self.state.store("enrolled", self.nodes.gate.spent());
            stored.map_err(|e| format!("state cannot be stored: {e:#}"))?;
            let request = enrolling.request();
            let root = self.keys.signing_root().load_full();
            let chain = root.sign_request(&id, request, now.unix, SVID_VALIDITY);
            self.audited(
                &json!({"do": "enrol", "id": id, "remote": enrolling.remote().to_string()}),
            )?;
            chain.map(|chain| (id, chain)).map_err(|e| e.to_string())
        });
        let remote = enrolling.remote();
        match signed {
            Ok((id, chain)) => {
                info!(%id, %remote, audit = true, "enrolled");
                tokio::spawn(enrolling.grant(chain));
            }
            Err(why) => {
                if self.refusals.note(remote.ip(), now.mono) {
                    warn!(%remote, audit = true, "not enrolled: {why}");
                }
                tokio::spawn(async move { enrolling.refuse(&why).await });
            }
        }
    }
}
