//! The hub's nodes: sessions of their agents, and enrolment.

use std::collections::{BTreeMap, BTreeSet};

use identity::{SpiffeId, TrustDomain};
use quic::{Anchor, EnrolGate, Enrolling, Session, Trust, agent_node};
use serde_json::json;
use tracing::{info, warn};

use super::{
    Hub,
    links::{Input, Link, LinkId, Signed},
};
use crate::state::SVID_VALIDITY;

/// All nodes.
pub(super) struct Nodes {
    gate: EnrolGate,
    trust: Trust,
    links: BTreeMap<String, Link>,
    /// For whom an X.509-SVID is being signed: one at a time for each.
    signing: BTreeSet<SpiffeId>,
}

impl Nodes {
    pub(super) fn new(gate: EnrolGate, trust: Trust) -> Self {
        Self {
            gate,
            trust,
            links: BTreeMap::new(),
            signing: BTreeSet::new(),
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

    /// A node asks for an X.509-SVID. Whoever keeps the root's key may take his time: the answer comes with
    /// [`Self::signed`].
    pub(super) fn enrol(&mut self, enrolling: Enrolling) {
        match self.may_enrol(&enrolling) {
            Ok(id) => self.sign(enrolling, id),
            Err(why) => self.not_enrolled(enrolling, why),
        }
    }

    fn may_enrol(&mut self, enrolling: &Enrolling) -> Result<SpiffeId, String> {
        self.in_use()?;
        if self.keys.no_roots() {
            return Err(
                "the X.509-SVIDs of this cluster are those of a Workload API: give the agent \
                 svid.workloadApi (docs/spire.md)"
                    .into(),
            );
        }
        let now = self.now();
        let judged = self.nodes.gate.judge(&enrolling.asked(), now.mono);
        let id = judged.map_err(|e| e.to_string())?;
        if self.nodes.signing.contains(&id) {
            return Err(format!(
                "the one that {id} asked for before is being signed"
            ));
        }
        // Before it is handed out: a secret must not be good twice after a crash.
        let stored = self.state.store("enrolled", self.nodes.gate.spent());
        stored.map_err(|e| format!("state cannot be stored: {e:#}"))?;
        Ok(id)
    }

    fn sign(&mut self, enrolling: Enrolling, id: SpiffeId) {
        let Some(root) = self.keys.signing_root() else {
            return self.not_enrolled(enrolling, "this gateway signs nothing".into());
        };
        self.nodes.signing.insert(id.clone());
        let clock = self.clock;
        let (desk, inputs) = (self.desk.clone(), self.sender.clone());
        let request = enrolling.request().to_vec();
        tokio::spawn(async move {
            let turn = desk.turn().await;
            let chain = match turn {
                // Nobody would get what a signer is asked for in vain.
                _ if enrolling.is_gone() => None,
                Err(e) => Some(Err(e)),
                Ok(turn) => {
                    let id = id.clone();
                    let sign = move || {
                        let (root, now) = (root.load_full(), clock.now().unix);
                        Ok(root.sign_request(&id, &request, now, SVID_VALIDITY)?)
                    };
                    Some(turn.run(sign).await)
                }
            };
            let signed = Signed {
                enrolling,
                id,
                chain,
            };
            // A hub that is gone does not care.
            let _ = inputs.send(Input::Signed(Box::new(signed))).await;
        });
    }

    pub(super) fn signed(&mut self, signed: Signed) {
        let Signed {
            enrolling,
            id,
            chain,
        } = signed;
        self.nodes.signing.remove(&id);
        let Some(chain) = chain else { return };
        let remote = enrolling.remote();
        let granted = chain.map_err(|e| format!("{e:#}")).and_then(|chain| {
            let about = json!({"do": "enrol", "id": id, "remote": remote.to_string()});
            self.audited(&about)?;
            Ok(chain)
        });
        match granted {
            Ok(chain) => {
                info!(%id, %remote, audit = true, "enrolled");
                tokio::spawn(enrolling.grant(chain));
            }
            Err(why) => self.not_enrolled(enrolling, why),
        }
    }

    fn not_enrolled(&mut self, enrolling: Enrolling, why: String) {
        let (remote, now) = (enrolling.remote(), self.now());
        if self.refusals.note(remote.ip(), now.mono) {
            warn!(%remote, audit = true, "not enrolled: {why}");
        }
        tokio::spawn(async move { enrolling.refuse(&why).await });
    }
}
