//! Joining by a token: invitations made here, clusters that come with one, and tokens that were brought
//! here.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use identity::TrustDomain;
use ipnet::IpNet;
use observe::{Caller, InviteRequest, JoinRequest};
use peering::join::{
    self, Here, Invite, JoinRefusal, Mapped, Member, Offer, Token, accepted, answered, refused,
};
use quic::{Joining, Limits, Pin, ask_to_join};
use serde_json::{Value, json};
use tracing::warn;

use super::{
    Hub,
    links::{Answer, Input, TokenAnswer},
    members::{self, describe},
};

/// Where the invitations are stored.
pub(super) const INVITATIONS: &str = "invitations";

impl Hub {
    /// Makes a token.
    pub(super) fn invite(&mut self, wanted: &InviteRequest) -> Result<Value, String> {
        self.in_use()?;
        let now = self.now().unix;
        let life = wanted.ttl.map(|ttl| Duration::from_secs(ttl.into()));
        let life = life.unwrap_or(join::DEFAULT_LIFE);
        let invite = Invite {
            life,
            name: wanted.name.clone(),
            accept: wanted.accept.clone(),
            offer: wanted.offer.clone(),
            away: wanted.away,
            pin: self.token_pin(life, now)?,
            introducer: wanted.introducer,
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
        self.in_use()?;
        let now = self.now();
        let world = self.world.borrow().clone();
        let (pool, members) = (&self.config.federation_prefixes, &self.members.stored);
        let here = here(&self.own, pool, &world, &self.control, members);
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
            .and_then(|offer| self.joined(offer, wanted, by));
        self.waiting.push((answer, joined));
    }

    fn joined(&mut self, offer: Offer, wanted: JoinRequest, by: Caller) -> Result<Value, String> {
        let now = self.now().unix;
        let world = self.world.borrow().clone();
        let (pool, members) = (&self.config.federation_prefixes, &self.members.stored);
        let here = here(&self.own, pool, &world, &self.control, members);
        let name = here.name_of(&offer, wanted.name.as_deref());
        let named = name.and_then(|name| Ok((here.takes(&offer, &name, now)?, name)));
        let (mapped, name) = named.map_err(|e| match e {
            JoinRefusal::Name { name, taken } => {
                format!("{name} is what {taken} is called here: join with --name")
            }
            other => other.to_string(),
        })?;
        let member = Member {
            introducer: wanted.introducer,
            away: wanted.away,
            offer: wanted.offer,
            ..Member::new(offer, name, mapped, wanted.accept, now)
        };
        let about = json!({
            "do": "joined", "member": member.trust_domain, "name": member.name,
            "uid": by.uid, "pid": by.pid,
        });
        self.audited(&about)?;
        let shown = describe(&member);
        self.add_member(member)?;
        Ok(shown)
    }

    fn own_offer(&self) -> Result<Offer, String> {
        self.in_use()?;
        let (name, pin) = (&self.config.cluster, self.keys.root_pin());
        let pin = pin.ok_or("this gateway has no X.509-SVID yet")?;
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
}

/// What a newcomer must not clash with.
pub(super) fn here<'a>(
    own: &'a TrustDomain,
    pool: &'a [IpNet],
    world: &'a sources::World,
    control: &'a gateway_core::Control,
    members: &'a members::Stored,
) -> Here<'a> {
    let clusters = world.federation.clusters.iter();
    let peering = control.peering();
    let declared = clusters.clone().flat_map(|cluster| {
        let ranges = cluster.pod_ranges.iter();
        ranges.map(|range| (range.seen(), &cluster.trust_domain))
    });
    // The source needs a moment to say those that joined last.
    let joined = members.members.iter().flat_map(|member| {
        let ranges = member.seen();
        ranges.map(|range| (range.prefix, &member.trust_domain))
    });
    let listed = clusters
        .clone()
        .map(|cluster| (cluster.name.as_str(), &cluster.trust_domain));
    let members_too = members.members.iter();
    let members_too = members_too.map(|member| (member.name.as_str(), &member.trust_domain));
    let names = members_too.chain(listed);
    let mapped = clusters.clone().flat_map(|cluster| {
        let ranges = cluster.pod_ranges.iter();
        ranges.filter_map(|range| {
            Some(Mapped {
                trust_domain: &cluster.trust_domain,
                real: range.cidr,
                to: range.map_to?,
            })
        })
    });
    Here {
        trust_domain: own,
        names: names.collect(),
        ranges: declared.chain(joined).collect(),
        held: members.held().collect(),
        mapped: mapped.chain(members.mapped()).collect(),
        pool,
        peers: peering
            .peers()
            .map(|peer| (peer, peering.roots(peer)))
            .collect::<BTreeMap<_, _>>(),
        // Those that are no peers any more too.
        revoked: peering
            .revoked_here()
            .keys()
            .filter(|domain| peering.revoked_cluster(domain).is_some())
            .collect::<BTreeSet<_>>(),
    }
}
