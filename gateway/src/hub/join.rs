//! Joining by a token: invitations made here, clusters that come with one, and tokens that were brought
//! here.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use identity::{ClaimLimits, TrustDomain, UnixMillis};
use ipnet::IpNet;
use observe::{Caller, InviteRequest, JoinRequest};
use peering::join::{
    self, Here, Invitations, Invite, JoinRefusal, Member, Offer, Token, accepted, answered, refused,
};
use quic::{Joining, Limits, Pin, ask_to_join};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sources::{ClusterConfig, Joined, PodRange};
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    Hub,
    links::{Answer, Input, TokenAnswer},
};
use crate::state::State;

/// Where the members are stored, and the invitations.
pub const MEMBERS: &str = "members";
/// See [`MEMBERS`].
pub const INVITATIONS: &str = "invitations";
/// How long a session of somebody that we leave may go on, so that it hears it.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long the addresses of a former member are nobody's: what pods still send there on connections
/// that were cut must not leave in clear.
const HELD: Duration = Duration::from_hours(1);

/// What is stored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// Those that were joined.
    pub members: Vec<Member>,
    /// The pod ranges of those that are members no more, and until when nothing goes there.
    former: Vec<(IpNet, UnixMillis)>,
}

impl Stored {
    /// Everything that the kernel must not route.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        let members = self.members.iter().flat_map(|member| &member.ranges);
        let former = self.former.iter().map(|(prefix, _)| *prefix);
        members.map(|range| range.prefix).chain(former)
    }
}

/// The clusters that were joined, and who may.
pub(super) struct Members {
    stored: Stored,
    invitations: Invitations,
    /// Tells the source that they are clusters of the federation.
    known: Joined,
}

impl Members {
    /// What was stored.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn load(state: &State, known: Joined) -> anyhow::Result<Self> {
        Ok(Self {
            stored: load(state)?,
            invitations: Invitations::new(state.load(INVITATIONS)?),
            known,
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.stored.members.iter()
    }

    /// The ranges of former members to which nothing may go.
    pub fn held(&self) -> impl Iterator<Item = IpNet> {
        self.stored.former.iter().map(|(prefix, _)| *prefix)
    }
}

/// The members that were stored.
///
/// # Errors
/// When the file is damaged.
pub fn load(state: &State) -> anyhow::Result<Stored> {
    state.load(MEMBERS)
}

/// The members, as a source takes them.
#[must_use]
pub fn clusters(members: &[Member]) -> Vec<ClusterConfig> {
    let cluster = |member: &Member| {
        let ranges = member.ranges.iter().map(|range| PodRange {
            id: range.range_id,
            cidr: range.prefix,
        });
        ClusterConfig::joined(&member.name, member.trust_domain.clone(), ranges.collect())
    };
    members.iter().map(cluster).collect()
}

impl Hub {
    /// Makes a token.
    pub(super) fn invite(&mut self, wanted: &InviteRequest) -> Result<Value, String> {
        let now = self.now().unix;
        let invite = Invite {
            life: wanted
                .ttl
                .map_or(join::DEFAULT_LIFE, |ttl| Duration::from_secs(ttl.into())),
            name: wanted.name.clone(),
            accept: wanted.accept.clone(),
            pin: self.nodes.root_pin().0,
            trust_domain: self.own.clone(),
            endpoints: self.config.advertised(),
        };
        let invitations = &mut self.members.invitations;
        let token = invitations.invite(invite, &mut self.rng, now);
        let token = token.map_err(|e| e.to_string())?;
        self.store_invitations()?;
        Ok(json!({
            "token": *token.text(),
            "expires": token.expires.to_string(),
            "endpoints": token.endpoints,
        }))
    }

    /// A cluster came with a token, or without.
    pub(super) fn joining(&mut self, joining: Joining) {
        let remote = joining.remote();
        let answer = match self.admit(&joining) {
            Ok(answer) => answer,
            Err(why) => {
                let now = self.now();
                if self.refusals.note(remote.ip(), now.mono) {
                    warn!(%remote, audit = true, "may not join: {why}");
                }
                refused(&why)
            }
        };
        tokio::spawn(joining.answer(answer));
    }

    fn admit(&mut self, joining: &Joining) -> Result<Vec<u8>, String> {
        let now = self.now();
        let world = self.world.borrow().clone();
        let here = here(&self.own, &world, &self.control);
        let source = quic::source_of(joining.remote().ip());
        let (request, binding) = (joining.request(), joining.binding());
        let judged = (self.members.invitations).judge(source, request, binding, &here, now);
        let admitted = judged.map_err(|e| e.to_string())?;
        let own = self.own_offer()?;
        let about = json!({
            "do": "admit", "member": admitted.member.trust_domain, "name": admitted.member.name,
            "remote": joining.remote().to_string(), "again": admitted.again,
        });
        // Before the answer: a token must not be good twice after a crash, and who was told that it is a
        // member must be one.
        self.audited(&about)?;
        self.store_invitations()?;
        self.add_member(admitted.member)?;
        let signer = self.control.peering().signer();
        Ok(accepted(&admitted.key, &own, &signer, binding))
    }

    /// Somebody brought a token: the cluster that made it is asked, and `answer` is given when that has
    /// answered.
    pub(super) fn join(&mut self, wanted: JoinRequest, by: Caller, answer: Answer) {
        let begun = Token::read(&wanted.token)
            .map_err(|e| e.to_string())
            .and_then(|token| Ok((self.check_token(&token)?, self.own_offer()?, token)));
        let (token, own) = match begun {
            Ok(((), own, token)) => (token, own),
            Err(why) => return drop(answer.send(Err(why))),
        };
        let (signer, inputs) = (self.control.peering().signer(), self.sender.clone());
        tokio::spawn(async move {
            let mut why = "the token names no endpoint".to_owned();
            for endpoint in &token.endpoints {
                let make = |binding: &[u8; 32]| join::request(&token, &own, &signer, binding);
                let (domain, pin) = (&token.trust_domain, Pin(token.pin));
                let asked = ask_to_join(*endpoint, domain, pin, &Limits::default(), make).await;
                match asked {
                    Ok((bytes, binding)) => {
                        let said = TokenAnswer {
                            token,
                            bytes,
                            binding,
                            wanted,
                            by,
                            answer,
                        };
                        // A hub that is gone does not care.
                        let _ = inputs.send(Input::TokenAnswer(Box::new(said))).await;
                        return;
                    }
                    Err(e) => why = format!("{domain} at {endpoint} was not reached: {e}"),
                }
            }
            let _ = answer.send(Err(why));
        });
    }

    fn check_token(&self, token: &Token) -> Result<(), String> {
        let now = self.now().unix;
        if token.trust_domain == self.own {
            return Err(format!(
                "this token was made by {}, which is this cluster: join with it from the other one",
                self.own
            ));
        }
        if token.expires <= now {
            return Err(format!(
                "this token expired at {}, and the clock here says {now}: ask for a new one",
                token.expires
            ));
        }
        Ok(())
    }

    /// The cluster that made the token has answered.
    pub(super) fn token_answered(&mut self, said: TokenAnswer) {
        let TokenAnswer {
            token,
            bytes,
            binding,
            wanted,
            by,
            answer,
        } = said;
        let now = self.now().unix;
        let joined = answered(&token, &bytes, &binding, now)
            .map_err(|e| format!("{} says: {e}", token.trust_domain))
            .and_then(|offer| self.joined(offer, wanted.name, wanted.accept, by));
        self.waiting.push((answer, joined));
    }

    fn joined(
        &mut self,
        offer: Offer,
        name: Option<String>,
        accept: ClaimLimits,
        by: Caller,
    ) -> Result<Value, String> {
        let now = self.now().unix;
        let world = self.world.borrow().clone();
        let here = here(&self.own, &world, &self.control);
        let name = here.name_of(&offer, name.as_deref());
        let name = name.and_then(|name| here.takes(&offer, &name, now).map(|()| name));
        let name = name.map_err(|e| match e {
            JoinRefusal::Name { name, taken } => {
                format!("{name} is what {taken} is called here: join with --name")
            }
            other => other.to_string(),
        })?;
        let member = Member::new(offer, name, accept, now);
        let about = json!({
            "do": "joined", "member": member.trust_domain, "name": member.name,
            "uid": by.uid, "pid": by.pid,
        });
        self.audited(&about)?;
        let shown = describe(&member);
        self.add_member(member)?;
        Ok(shown)
    }

    /// From now on it is a peer; whoever was one under that name or trust domain is replaced.
    fn add_member(&mut self, member: Member) -> Result<(), String> {
        info!(peer = %member.trust_domain, name = member.name, audit = true, "is a member");
        let mut next = self.members.stored.clone();
        let members = &mut next.members;
        members.retain(|other| other.trust_domain != member.trust_domain);
        members.push(member);
        self.set_members(next)
    }

    fn set_members(&mut self, next: Stored) -> Result<(), String> {
        let stored = self.state.store(MEMBERS, &next);
        stored.map_err(|e| format!("state cannot be stored: {e:#}"))?;
        self.members.stored = next;
        let members = &self.members.stored.members;
        self.control.set_joined(members);
        // The source says the world anew, and with it who the peers are.
        self.members.known.set(clusters(members));
        Ok(())
    }

    /// The ranges of former members are other addresses in time.
    pub(super) fn release_held(&mut self) {
        let now = self.now().unix;
        if self
            .members
            .stored
            .former
            .iter()
            .all(|(_, until)| *until > now)
        {
            return;
        }
        let mut next = self.members.stored.clone();
        next.former.retain(|(_, until)| *until > now);
        if self.set_members(next).is_ok() {
            let world = std::sync::Arc::clone(&self.world.borrow());
            self.steer(&world);
        }
    }

    /// Those that were joined.
    pub(super) fn list_members(&self) -> Value {
        self.members.iter().map(describe).collect()
    }

    /// Ends the membership of one, or of all, at both ends if they can be reached.
    pub(super) fn leave(&mut self, only: Option<&TrustDomain>) -> Result<Value, String> {
        let leaving: Vec<_> = self
            .members
            .iter()
            .filter(|member| only.is_none_or(|only| member.trust_domain == *only))
            .cloned()
            .collect();
        if let (Some(only), true) = (only, leaving.is_empty()) {
            return Err(
                match self.control.peering().peers().any(|peer| peer == only) {
                    true => format!(
                        "{only} was not joined by a token: a FederationPeer object, or the gateway's \
                     configuration, makes it a peer, and deleting that ends it"
                    ),
                    false => format!("{only} is no peer"),
                },
            );
        }
        // What was signed meanwhile must be in the audit log before anything leaves.
        if !self.audit_signatures() {
            return Err("state cannot be stored".into());
        }
        for member in &leaving {
            let why = format!("{} ended the membership", self.own);
            self.control.leave(&member.trust_domain, &why);
            while let Some((recipient, message)) = self.control.poll_transmit() {
                self.send(&recipient, message);
            }
            // It is told before its session ends.
            if let Some(link) = self.peers.take_link(&member.trust_domain) {
                tokio::spawn(async move {
                    sleep(GOODBYE).await;
                    link.close("not a peer any more");
                });
                let now = self.now();
                let why = "the membership ended";
                self.control
                    .handle_peer_disconnected(&member.trust_domain, why, now);
            }
        }
        self.forget_members(&leaving)?;
        Ok(leaving.iter().map(describe).collect())
    }

    /// A peer says that it is none any more.
    pub(super) fn left(&mut self, peer: &TrustDomain, why: &str) {
        warn!(%peer, audit = true, "left: {why}");
        let gone: Vec<_> = self
            .members
            .iter()
            .filter(|member| member.trust_domain == *peer)
            .cloned()
            .collect();
        if gone.is_empty() {
            // By configuration it is one still; its status says that it left.
            return;
        }
        let about = json!({"do": "left", "member": peer, "why": why});
        let done = self
            .audited(&about)
            .and_then(|()| self.forget_members(&gone));
        if let Err(why) = done {
            self.problem(&format!("leave {peer}"), why);
        }
    }

    fn forget_members(&mut self, gone: &[Member]) -> Result<(), String> {
        let until = self.now().unix.after(HELD);
        let mut next = self.members.stored.clone();
        next.members.retain(|member| !gone.contains(member));
        let ranges = gone.iter().flat_map(|member| &member.ranges);
        next.former
            .extend(ranges.map(|range| (range.prefix, until)));
        self.set_members(next)
    }

    fn own_offer(&self) -> Result<Offer, String> {
        let (name, pin) = (&self.config.cluster, self.nodes.root_pin());
        let endpoints = self.config.advertised();
        let now = self.now().unix;
        let offer = (self.control.peering()).join_offer(name, pin.0, endpoints, now);
        offer.ok_or_else(|| "this gateway is starting".into())
    }

    fn store_invitations(&self) -> Result<(), String> {
        let stored = self
            .state
            .store(INVITATIONS, self.members.invitations.stored());
        stored.map_err(|e| format!("state cannot be stored: {e:#}"))
    }

    pub(super) fn audited(&self, about: &Value) -> Result<(), String> {
        let written = self.audit.write("trust", about);
        written.map_err(|e| format!("nothing changes without an audit log: {e}"))
    }
}

/// What a newcomer must not clash with.
fn here<'a>(
    own: &'a TrustDomain,
    world: &'a sources::World,
    control: &'a gateway_core::Control,
) -> Here<'a> {
    let clusters = world.federation.clusters.iter();
    let peering = control.peering();
    Here {
        trust_domain: own,
        names: clusters
            .clone()
            .map(|cluster| (cluster.name.as_str(), &cluster.trust_domain))
            .collect(),
        ranges: clusters
            .flat_map(|cluster| {
                let ranges = cluster.pod_ranges.iter();
                ranges.map(|range| (range.cidr, &cluster.trust_domain))
            })
            .collect(),
        peers: peering
            .peers()
            .filter_map(|peer| Some((peer, peering.pin(peer)?)))
            .collect::<BTreeMap<_, _>>(),
        revoked: peering
            .peers()
            .filter(|peer| peering.revoked_cluster(peer).is_some())
            .collect::<BTreeSet<_>>(),
    }
}

fn describe(member: &Member) -> Value {
    json!({
        "name": member.name,
        "trust_domain": member.trust_domain,
        "root_pin": Pin(member.pin).to_string(),
        "endpoints": member.endpoints,
        "ranges": member.ranges,
        "accept": member.accept,
        "since": member.since.to_string(),
    })
}
