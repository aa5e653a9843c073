//! The clusters that were joined: what is stored of them, and how a membership begins and ends.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use identity::{TrustDomain, UnixMillis};
use ipnet::IpNet;
use peering::{
    introductions::{self, Pending, Refused},
    join::{Invitations, Mapped, Member},
};
use quic::Pin;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sources::{ClusterConfig, Joined, PodRange};
use tokio::time::sleep;
use tracing::{info, warn};

use super::{Hub, introduced::waiting, join::INVITATIONS};
use crate::state::State;

/// Where they are stored.
const MEMBERS: &str = "members";
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
    /// Which of these were mapped, so that whoever comes back in time is seen where it was.
    #[serde(default)]
    formerly_mapped: Vec<FormerlyMapped>,
    /// Introductions that an operator ended.
    #[serde(default)]
    refused: Vec<Refused>,
}

/// A range of a former member, and where it was seen.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FormerlyMapped {
    trust_domain: TrustDomain,
    real: IpNet,
    to: IpNet,
    until: UnixMillis,
}

impl Stored {
    /// Everything that the kernel must not route.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        let members = self.members.iter().flat_map(Member::seen);
        members.map(|range| range.prefix).chain(self.held())
    }

    /// What is seen elsewhere than it is, or was lately.
    pub fn mapped(&self) -> impl Iterator<Item = Mapped<'_>> {
        let members = self.members.iter().flat_map(|member| {
            mapped(member).map(|(real, to)| Mapped {
                trust_domain: &member.trust_domain,
                real,
                to,
            })
        });
        let former = self.formerly_mapped.iter().map(|former| Mapped {
            trust_domain: &former.trust_domain,
            real: former.real,
            to: former.to,
        });
        members.chain(former)
    }

    /// The prefixes of former members, to which nothing may go.
    pub fn held(&self) -> impl Iterator<Item = IpNet> {
        self.former.iter().map(|(prefix, _)| *prefix)
    }

    /// Nothing goes to the pod ranges of `gone` for a time.
    fn hold(&mut self, gone: &[Member], now: UnixMillis) {
        let until = now.after(HELD);
        let ranges = gone.iter().flat_map(Member::seen);
        self.former
            .extend(ranges.map(|range| (range.prefix, until)));
        let formerly = gone.iter().flat_map(|member| {
            mapped(member).map(|(real, to)| FormerlyMapped {
                trust_domain: member.trust_domain.clone(),
                real,
                to,
                until,
            })
        });
        self.formerly_mapped.extend(formerly);
    }
}

/// The ranges of `member` that are seen elsewhere, and where.
fn mapped(member: &Member) -> impl Iterator<Item = (IpNet, IpNet)> {
    member.ranges.iter().filter_map(|range| {
        let to = member.mapped.get(&range.range_id)?;
        Some((range.prefix.trunc(), *to))
    })
}

/// The clusters that were joined, and who may.
pub(super) struct Members {
    pub(super) stored: Stored,
    pub(super) invitations: Invitations,
    /// Peers that the operator marked: they may introduce others.
    pub(super) introducers: BTreeSet<TrustDomain>,
    /// What peers introduce and is not accepted.
    pub(super) pending: Vec<Pending>,
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
            introducers: BTreeSet::new(),
            pending: Vec::new(),
            known,
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.stored.members.iter()
    }

    /// Introductions that an operator ended.
    pub fn refused(&self) -> &[Refused] {
        &self.stored.refused
    }

    /// The ranges of former members to which nothing may go.
    pub fn held(&self) -> impl Iterator<Item = IpNet> {
        self.stored.held()
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
            map_to: member.mapped.get(&range.range_id).copied(),
        });
        ClusterConfig::joined(&member.name, member.trust_domain.clone(), ranges.collect())
    };
    members.iter().map(cluster).collect()
}

impl Hub {
    /// From now on it is a peer; whoever was one under that name or trust domain is replaced.
    pub(super) fn add_member(&mut self, member: Member) -> Result<(), String> {
        info!(peer = %member.trust_domain, name = member.name, audit = true, "is a member");
        let mut next = self.members.stored.clone();
        let members = &mut next.members;
        members.retain(|other| other.trust_domain != member.trust_domain);
        let domain = &member.trust_domain;
        next.refused.retain(|no| no.trust_domain != *domain);
        members.push(member);
        self.set_members(next)
    }

    /// Those who were introduced came and went: all members from now on, and those that are none any more.
    pub(super) fn replace_members(
        &mut self,
        members: Vec<Member>,
        gone: &[Member],
    ) -> Result<(), String> {
        let mut next = self.members.stored.clone();
        next.members = members;
        next.hold(gone, self.now().unix);
        self.set_members(next)
    }

    pub(super) fn set_refused(&mut self, refused: Vec<Refused>) -> Result<(), String> {
        let mut next = self.members.stored.clone();
        next.refused = refused;
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
        next.formerly_mapped.retain(|former| former.until > now);
        if self.set_members(next).is_ok() {
            let world = Arc::clone(&self.world.borrow());
            self.steer(&world);
        }
    }

    /// Those that were joined.
    pub(super) fn list_members(&self) -> Value {
        let pending = self.members.pending.iter().map(waiting);
        self.members.iter().map(describe).chain(pending).collect()
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

    /// Not even who introduces them brings them back.
    fn forget_members(&mut self, gone: &[Member]) -> Result<(), String> {
        let mut next = self.members.stored.clone();
        next.members.retain(|member| !gone.contains(member));
        next.hold(gone, self.now().unix);
        let said = self.said();
        for member in gone {
            introductions::refuse(&mut next.refused, &member.trust_domain, &said);
        }
        self.set_members(next)
    }
}

/// A member, for people and programs.
pub(super) fn describe(member: &Member) -> Value {
    let by = member.introduced.iter();
    let by = by.map(|by| format!("{} until {}", by.by, by.until));
    json!({
        "name": member.name,
        "trust_domain": member.trust_domain,
        "root_pin": Pin(member.pin).to_string(),
        "endpoints": member.endpoints,
        "ranges": member.ranges,
        "mapped": member.mapped,
        "accept": member.accept,
        "offer": member.offer,
        "away": member.away,
        "since": member.since.to_string(),
        "introducer": member.introducer,
        "introduced_by": by.collect::<Vec<_>>(),
    })
}
