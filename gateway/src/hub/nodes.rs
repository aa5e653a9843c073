//! The hub's nodes: sessions of their agents, and enrolment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use identity::{SpiffeId, TrustDomain};
use quic::{Anchor, EnrolGate, Enrolling, Session, Trust, agent_node};
use serde_json::json;
use sources::{TokenError, TokenReviewer, World};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{info, warn};
use zeroize::Zeroizing;

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
    /// Who judges tokens of agents, and turns to ask.
    reviewer: Option<TokenReviewer>,
    reviews: Arc<Semaphore>,
}

/// Tokens that are judged at the same time.
const REVIEWS: usize = 8;

impl Nodes {
    pub(super) fn new(gate: EnrolGate, trust: Trust, reviewer: Option<TokenReviewer>) -> Self {
        Self {
            gate,
            trust,
            links: BTreeMap::new(),
            signing: BTreeSet::new(),
            reviewer,
            reviews: Arc::new(Semaphore::new(REVIEWS)),
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
        if !self.node_names().contains(&node) {
            warn!(node, "is no node of this cluster");
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

    /// The nodes of this cluster: by the configuration, and by its API server.
    pub(super) fn node_names(&self) -> BTreeSet<String> {
        let configured = self.config.nodes.iter().map(|node| node.name.clone());
        let world = self.world.borrow();
        let known = world.nodes.iter().map(|node| node.name.clone());
        configured.chain(known).collect()
    }

    /// Whom the API server has as nodes now. One that it has no more is no longer spoken with.
    pub(super) fn take_nodes(&mut self, world: &World) {
        let names = world.nodes.iter().map(|node| node.name.clone());
        self.nodes.gate.set_members(names.collect());
        let known = self.node_names();
        for node in self
            .nodes
            .links
            .keys()
            .filter(|node| !known.contains(*node))
        {
            self.nodes
                .close_one(node, "not a node of this cluster any more");
        }
    }

    /// A node asks for an X.509-SVID. Whoever keeps the root's key may take his time: the answer comes with
    /// [`Self::signed`]; whoever judges tokens, too: with [`Self::reviewed`].
    pub(super) fn enrol(&mut self, enrolling: Enrolling) {
        let judged = match enrolling.token() {
            None => self.may_enrol(&enrolling),
            Some(token) => match self.may_show(&enrolling) {
                Ok((reviewer, turn)) => {
                    let (token, inputs) = (Zeroizing::new(token.to_owned()), self.sender.clone());
                    tokio::spawn(async move {
                        let node = reviewer.node(&token).await;
                        drop(turn);
                        // A hub that is gone does not care.
                        let reviewed = Input::Reviewed(Box::new((enrolling, node)));
                        let _ = inputs.send(reviewed).await;
                    });
                    return;
                }
                Err(why) => Err(why),
            },
        };
        self.enrol_judged(enrolling, judged);
    }

    /// What the API server says of a token.
    pub(super) fn reviewed(&mut self, (enrolling, node): (Enrolling, Result<String, TokenError>)) {
        let (source, now) = (enrolling.remote().ip(), self.now());
        let words = |error| format!("{:#}", anyhow::Error::from(error));
        let judged = match node {
            // Nobody guessed.
            Err(error) if !error.is_of_token() => Err(words(error)),
            node => {
                let node = node.map_err(words);
                let judged = self.nodes.gate.judge_vouched(source, node, now.mono);
                judged.map_err(|e| e.to_string())
            }
        };
        let judged = judged.and_then(|id| self.is_free(id));
        self.enrol_judged(enrolling, judged);
    }

    fn enrol_judged(&mut self, enrolling: Enrolling, judged: Result<SpiffeId, String>) {
        match judged {
            Ok(id) => self.sign(enrolling, id),
            Err(why) => self.not_enrolled(enrolling, why),
        }
    }

    /// Who judges the token that is shown, and a turn to ask.
    fn may_show(
        &mut self,
        enrolling: &Enrolling,
    ) -> Result<(TokenReviewer, OwnedSemaphorePermit), String> {
        self.may_sign()?;
        let now = self.now();
        let judged = self.nodes.gate.may_show(enrolling.remote().ip(), now.mono);
        judged.map_err(|e| e.to_string())?;
        let reviewer = self.nodes.reviewer.clone().ok_or(
            "this gateway judges no tokens: say in its file which service account agents have (agents.serviceAccount)",
        )?;
        let turn = Arc::clone(&self.nodes.reviews).try_acquire_owned();
        let turn = turn.map_err(|_| "many others show tokens at this moment".to_owned())?;
        Ok((reviewer, turn))
    }

    fn may_sign(&self) -> Result<(), String> {
        self.in_use()?;
        if self.keys.no_roots() {
            return Err(
                "the X.509-SVIDs of this cluster are those of a Workload API: give the agent \
                 svid.workloadApi (docs/spire.md)"
                    .into(),
            );
        }
        Ok(())
    }

    fn is_free(&self, id: SpiffeId) -> Result<SpiffeId, String> {
        match self.nodes.signing.contains(&id) {
            true => Err(format!(
                "the one that {id} asked for before is being signed"
            )),
            false => Ok(id),
        }
    }

    fn may_enrol(&mut self, enrolling: &Enrolling) -> Result<SpiffeId, String> {
        self.may_sign()?;
        let now = self.now();
        let judged = self.nodes.gate.judge(&enrolling.asked(), now.mono);
        let id = judged.map_err(|e| e.to_string())?;
        let id = self.is_free(id)?;
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
