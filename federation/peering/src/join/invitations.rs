//! The invitations of a cluster, and the judgement of who comes with a token. docs/spec/join.md,
//! section 3.
//!
//! No I/O and no clock. What [`Invitations::judge`] changes must be stored before its answer is sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use identity::{AwayRule, ClaimLimits, Guesses, Now, TrustDomain, UnixMillis};
use ipnet::IpNet;
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

use super::{
    InvitationId, Mapped, Member, OfferError, Token, TokenKey,
    offer::{Asked, Offer, is_label},
};
use crate::peer_messages::AnnouncedRange;

/// How long a token is good unless it is said otherwise, and at most.
pub const DEFAULT_LIFE: Duration = Duration::from_mins(15);
/// The longest life of a token.
pub const MAX_LIFE: Duration = Duration::from_hours(24 * 7);
/// Most invitations at once, those that are over and still known included.
pub const MAX_INVITATIONS: usize = 256;
/// How long it is known what became of a token, for whoever comes with it.
const REMEMBERED: Duration = Duration::from_hours(24);
/// Clocks may be apart by this much: then each end refuses what the other says as stale.
const SKEW: u64 = 30_000;

/// All of them, as they are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    invitations: BTreeMap<String, Invitation>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Invitation {
    key: StoredKey,
    expires: UnixMillis,
    /// What who comes is to be called here.
    name: Option<String>,
    accept: ClaimLimits,
    #[serde(default)]
    offer: ClaimLimits,
    #[serde(default)]
    introducer: bool,
    away: Option<AwayRule>,
    used: Option<Used>,
}

/// The key of a token, as it is stored. Never printed.
#[derive(Clone, PartialEq, Eq)]
struct StoredKey(TokenKey);

impl std::fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoredKey")
    }
}

impl Serialize for StoredKey {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.expose().serialize(to)
    }
}

impl<'de> Deserialize<'de> for StoredKey {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let bytes = zeroize::Zeroizing::new(<[u8; 32]>::deserialize(from)?);
        Ok(Self(TokenKey::from_bytes(&bytes)))
    }
}

/// Who used it: good for them again, since the answer may have been lost, and for nobody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Used {
    by: TrustDomain,
    pin: [u8; 32],
    at: UnixMillis,
}

/// What an invitation is made of.
#[derive(Clone, Debug)]
pub struct Invite {
    /// How long it is good.
    pub life: Duration,
    /// What who comes is to be called here; their own name when there is none.
    pub name: Option<String>,
    /// What their credentials may claim here.
    pub accept: ClaimLimits,
    /// Which pods of the own cluster they may meet.
    pub offer: ClaimLimits,
    /// They may introduce others.
    pub introducer: bool,
    /// What becomes of them when they stay away.
    pub away: Option<AwayRule>,
    /// SHA-256 of the own root.
    pub pin: [u8; 32],
    /// The own cluster.
    pub trust_domain: TrustDomain,
    /// Where the own gateways listen.
    pub endpoints: Vec<SocketAddr>,
}

/// Why there is no invitation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// No token lives so long.
    #[error("a token is good for 1 s to 7 days")]
    Life,
    /// The name is none.
    #[error("{0:?} is no name of a cluster: 1 to 63 of [a-z0-9-], none of - at an end")]
    Name(String),
    /// Too many at once.
    #[error("{MAX_INVITATIONS} invitations are out: wait until some are over")]
    TooMany,
}

/// What the judge knows of this cluster.
#[derive(Clone, Debug)]
pub struct Here<'a> {
    /// The own cluster.
    pub trust_domain: &'a TrustDomain,
    /// The names of all clusters that are known here.
    pub names: BTreeMap<&'a str, &'a TrustDomain>,
    /// The pod ranges of all clusters that are known here, where they are seen.
    pub ranges: Vec<(IpNet, &'a TrustDomain)>,
    /// Prefixes of former members, which nobody else gets yet.
    pub held: Vec<IpNet>,
    /// The ranges that are seen elsewhere than where they are, or were lately.
    pub mapped: Vec<Mapped<'a>>,
    /// From where ranges that overlap get a prefix.
    pub pool: &'a [IpNet],
    /// Peers, and the roots by which each is known: no token and no introduction changes them.
    pub peers: BTreeMap<&'a TrustDomain, Vec<[u8; 32]>>,
    /// The names of peers that are revoked.
    pub revoked: BTreeSet<&'a TrustDomain>,
}

/// Why somebody may not join. The sentences are for the operator who has the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefusal {
    /// Said to whoever proves nothing: nobody learns which tokens there are.
    #[error("this token is not known here, or it was altered: ask for a new one")]
    Unknown,
    /// Too many failures from this source.
    #[error("too many failed attempts: wait {0} s")]
    TooMany(u64),
    /// It was used.
    #[error("this token was used by {by} at {at}: ask for a new one")]
    Used {
        /// By whom.
        by: TrustDomain,
        /// When.
        at: UnixMillis,
    },
    /// It is over.
    #[error("this token expired at {at}, and the clock here says {now}: ask for a new one")]
    Expired {
        /// When.
        at: UnixMillis,
        /// This clock.
        now: UnixMillis,
    },
    /// The request does not hold together.
    #[error(transparent)]
    Offer(#[from] OfferError),
    /// The clocks are apart.
    #[error(
        "the clocks are {seconds} s apart: here it is {here}, there {there}; more than 30 s is not tolerated"
    )]
    Clock {
        /// By how much.
        seconds: u64,
        /// This clock.
        here: UnixMillis,
        /// The joiner's.
        there: UnixMillis,
    },
    /// It is the inviter itself.
    #[error("{0} cannot join itself: two clusters with one trust domain cannot be peers")]
    Own(TrustDomain),
    /// It is a peer already, under another root.
    #[error("{0} is a peer already, under another root: remove it first, if it was set up anew")]
    OtherRoot(TrustDomain),
    /// It is revoked.
    #[error("{0} is revoked here")]
    Revoked(TrustDomain),
    /// Its name is another's.
    #[error("{name} is what {taken} is called here: invite with --name")]
    Name {
        /// The name.
        name: String,
        /// Whose it is.
        taken: TrustDomain,
    },
    /// It is known under another name.
    #[error("{trust_domain} is called {known} here already")]
    Known {
        /// Which.
        trust_domain: TrustDomain,
        /// Its name here.
        known: String,
    },
    /// Its addresses are another's.
    #[error(
        "its pod range {range} overlaps {other} of {owner}, and federationPrefixes of the gateway of {here} \
         has no free prefix of that size to map it to"
    )]
    Range {
        /// Its range.
        range: IpNet,
        /// The other range.
        other: IpNet,
        /// Whose that is.
        owner: TrustDomain,
        /// Who sees both.
        here: TrustDomain,
    },
}

/// Who may join.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// What the answer is proven with.
    pub key: TokenKey,
    /// The new member.
    pub member: Member,
    /// Its bundle, in force from the beginning.
    pub bundle: String,
    /// It was admitted before, and asks again.
    pub again: bool,
}

/// The invitations of a cluster.
#[derive(Debug)]
pub struct Invitations {
    stored: Stored,
    guesses: Guesses,
}

impl Invitations {
    /// Those that were stored.
    #[must_use]
    pub fn new(stored: Stored) -> Self {
        Self {
            stored,
            guesses: Guesses::default(),
        }
    }

    /// What must be stored before a token is handed out, and before an answer is.
    #[must_use]
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Makes an invitation.
    ///
    /// # Errors
    /// [`InviteError`].
    pub fn invite(
        &mut self,
        invite: Invite,
        rng: &mut dyn CryptoRng,
        now: UnixMillis,
    ) -> Result<Token, InviteError> {
        self.forget_old(now);
        if invite.life < Duration::from_secs(1) || invite.life > MAX_LIFE {
            return Err(InviteError::Life);
        }
        if let Some(name) = invite.name.iter().find(|name| !is_label(name)) {
            return Err(InviteError::Name(name.clone()));
        }
        if self.stored.invitations.len() >= MAX_INVITATIONS {
            return Err(InviteError::TooMany);
        }
        let (mut id, mut secret) = ([0; 8], zeroize::Zeroizing::new([0; 32]));
        rng.fill_bytes(&mut id);
        rng.fill_bytes(&mut *secret);
        let expires = now.after(invite.life);
        let token = Token::new(
            InvitationId(id),
            &secret,
            invite.pin,
            expires,
            invite.trust_domain,
            invite.endpoints,
        );
        let invitation = Invitation {
            key: StoredKey(token.key()),
            expires: token.expires,
            name: invite.name,
            accept: invite.accept,
            offer: invite.offer,
            introducer: invite.introducer,
            away: invite.away,
            used: None,
        };
        self.stored.invitations.insert(hex(id), invitation);
        Ok(token)
    }

    /// Judges `request`, which came from `source` on the connection of `binding`.
    ///
    /// # Errors
    /// [`JoinRefusal`]; nothing changed then but what is known of the source.
    pub fn judge(
        &mut self,
        source: IpAddr,
        request: &[u8],
        binding: &[u8; 32],
        here: &Here<'_>,
        now: Now,
    ) -> Result<Admitted, JoinRefusal> {
        let may_try = self.guesses.may_try(source, now.mono);
        may_try.map_err(JoinRefusal::TooMany)?;
        let judged = self.admit(request, binding, here, now);
        // Who has a token is no guesser, whatever else is wrong.
        if matches!(judged, Err(JoinRefusal::Unknown)) {
            self.guesses.failed(source, now.mono);
        }
        judged
    }

    fn admit(
        &mut self,
        request: &[u8],
        binding: &[u8; 32],
        here: &Here<'_>,
        now: Now,
    ) -> Result<Admitted, JoinRefusal> {
        let asked = Asked::read(request).map_err(|_| JoinRefusal::Unknown)?;
        let invitation = self.stored.invitations.get_mut(&hex(asked.id.0));
        let invitation = invitation.ok_or(JoinRefusal::Unknown)?;
        let key = invitation.key.0.clone();
        let offer = match asked.open(&key, binding, now.unix) {
            Err(OfferError::Proof) => return Err(JoinRefusal::Unknown),
            opened => opened,
        };
        // Its holder may know what became of it.
        if invitation.expires <= now.unix {
            return Err(JoinRefusal::Expired {
                at: invitation.expires,
                now: now.unix,
            });
        }
        let offer = offer?;
        let again = match &invitation.used {
            Some(used) if used.by == offer.trust_domain && used.pin == offer.pin => true,
            Some(used) => {
                return Err(JoinRefusal::Used {
                    by: used.by.clone(),
                    at: used.at,
                });
            }
            None => false,
        };
        let name = here.name_of(&offer, invitation.name.as_deref())?;
        let mapped = here.takes(&offer, &name, now.unix)?;
        invitation.used.get_or_insert(Used {
            by: offer.trust_domain.clone(),
            pin: offer.pin,
            at: now.unix,
        });
        let bundle = offer.bundle.clone();
        let (accept, away) = (invitation.accept.clone(), invitation.away);
        let (introducer, meets) = (invitation.introducer, invitation.offer.clone());
        Ok(Admitted {
            key,
            member: Member {
                introducer,
                away,
                offer: meets,
                ..Member::new(offer, name, mapped, accept, now.unix)
            },
            bundle,
            again,
        })
    }

    fn forget_old(&mut self, now: UnixMillis) {
        let invitations = &mut self.stored.invitations;
        invitations.retain(|_, one| one.expires.after(REMEMBERED) > now);
    }

    /// When the next sweep is worth it does not matter: [`Self::invite`] sweeps. How many are out.
    #[must_use]
    pub fn open(&self, now: UnixMillis) -> usize {
        let all = self.stored.invitations.values();
        all.filter(|one| one.used.is_none() && one.expires > now)
            .count()
    }

    /// Until when the last of those that are out is good.
    #[must_use]
    pub fn open_until(&self, now: UnixMillis) -> Option<UnixMillis> {
        let all = self.stored.invitations.values();
        let open = all.filter(|one| one.used.is_none() && one.expires > now);
        open.map(|one| one.expires).max()
    }
}

impl Here<'_> {
    /// What the cluster that made `offer` is called here: as it is known already, else as is `wanted`,
    /// else as it calls itself.
    ///
    /// # Errors
    /// When it is known under another name than is wanted.
    pub fn name_of(&self, offer: &Offer, wanted: Option<&str>) -> Result<String, JoinRefusal> {
        self.called(&offer.trust_domain, &offer.name, wanted)
    }

    /// What the cluster of `domain` is called here, which others call `theirs`.
    ///
    /// # Errors
    /// As [`Self::name_of`].
    pub fn called(
        &self,
        domain: &TrustDomain,
        theirs: &str,
        wanted: Option<&str>,
    ) -> Result<String, JoinRefusal> {
        let known = self.names.iter().find(|(_, of)| **of == domain);
        match (known, wanted) {
            (Some((known, _)), Some(wanted)) if *known != wanted => Err(JoinRefusal::Known {
                trust_domain: domain.clone(),
                known: (*known).to_owned(),
            }),
            (Some((known, _)), _) => Ok((*known).to_owned()),
            (None, wanted) => Ok(wanted.unwrap_or(theirs).to_owned()),
        }
    }

    /// Whether the cluster that made `offer` can be a peer, called `name`; asked by both ends. By number, where
    /// those of its ranges are seen here that overlap others.
    ///
    /// # Errors
    /// [`JoinRefusal`].
    pub fn takes(
        &self,
        offer: &Offer,
        name: &str,
        now: UnixMillis,
    ) -> Result<BTreeMap<u16, IpNet>, JoinRefusal> {
        let domain = &offer.trust_domain;
        let apart = offer.clock.0.abs_diff(now.0);
        if apart > SKEW {
            return Err(JoinRefusal::Clock {
                seconds: apart / 1000,
                here: now,
                there: offer.clock,
            });
        }
        self.fits(domain, &offer.pin, name, &offer.ranges)
    }

    /// Whether a cluster with this root, name and ranges clashes with nothing that is known here; as
    /// [`Self::takes`] answers.
    ///
    /// # Errors
    /// [`JoinRefusal`].
    pub fn fits(
        &self,
        domain: &TrustDomain,
        pin: &[u8; 32],
        name: &str,
        ranges: &[AnnouncedRange],
    ) -> Result<BTreeMap<u16, IpNet>, JoinRefusal> {
        if domain == self.trust_domain {
            return Err(JoinRefusal::Own(domain.clone()));
        }
        if self.revoked.contains(domain) {
            return Err(JoinRefusal::Revoked(domain.clone()));
        }
        if self
            .peers
            .get(domain)
            .is_some_and(|known| !known.contains(pin))
        {
            return Err(JoinRefusal::OtherRoot(domain.clone()));
        }
        if let Some(taken) = self.names.get(name).filter(|taken| **taken != domain) {
            return Err(JoinRefusal::Name {
                name: name.to_owned(),
                taken: (*taken).clone(),
            });
        }
        self.mapped(domain, ranges)
    }
}

fn hex(id: [u8; 8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
