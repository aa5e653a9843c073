//! Who of those that were introduced is a member here. docs/spec/membership.md, section 3.

use std::{fmt, net::SocketAddr};

use identity::{AwayRule, ClaimLimits, TrustDomain, UnixMillis};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

use super::{Introduced, Introduction, MAX_LIFE};
use crate::{
    join::{Here, JoinRefusal, Member},
    peers::MAX_PEERS,
};

/// Whose introductions are accepted without asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accepting {
    /// Nobody's: peers are those that the operator listed, or joined by a token.
    #[default]
    Listed,
    /// Those of members that the operator marked as introducers.
    Introduced,
    /// Those of every member.
    All,
}

impl fmt::Display for Accepting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listed => "listed",
            Self::Introduced => "introduced",
            Self::All => "all",
        })
    }
}

/// What an operator says of introductions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Whose are accepted.
    pub accepting: Accepting,
    /// What becomes of those who were introduced when they stay away.
    pub away: Option<AwayRule>,
}

/// A peer, and whom it introduces.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// The peer.
    pub by: &'a TrustDomain,
    /// The operator marked it as an introducer.
    pub introducer: bool,
    /// All of it is revoked here: it introduces nobody.
    pub revoked: bool,
    /// What its own credentials may claim here; those of whom it introduces may claim no more.
    pub limits: &'a ClaimLimits,
    /// Which pods of this cluster it may meet; those whom it introduces may meet no others.
    pub offer: &'a ClaimLimits,
    /// Whom it introduces; none when it has not said so yet.
    pub list: Option<&'a [Introduction]>,
}

impl Said<'_> {
    /// Whether what it introduces is accepted without asking.
    #[must_use]
    pub fn is_heard(&self, accepting: Accepting) -> bool {
        !self.revoked && not_allowed(self, accepting).is_none()
    }
}

/// An introduction that an operator ended: it does not come back by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Refused {
    /// Who was introduced.
    pub trust_domain: TrustDomain,
    /// By whom.
    pub by: TrustDomain,
    /// The introduction of this number, and those before it.
    pub number: u64,
}

/// An introduction that was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pending {
    /// Who was introduced.
    pub trust_domain: TrustDomain,
    /// What its introducer calls it.
    pub name: String,
    /// SHA-256 of each of its roots.
    #[serde(skip)]
    pub roots: Vec<ByteArray<32>>,
    /// Where its gateways listen.
    pub endpoints: Vec<SocketAddr>,
    /// By whom.
    pub by: TrustDomain,
    /// Why not.
    pub why: String,
}

/// What becomes of the members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// All members from now on.
    pub members: Vec<Member>,
    /// Those that are new.
    pub joined: Vec<Member>,
    /// Those that are none any more, and why.
    pub gone: Vec<(Member, String)>,
    /// Introductions that were not accepted.
    pub pending: Vec<Pending>,
}

/// Finds out again who is a member: of `members`, those that were introduced stay as long as an
/// introduction holds, and what is introduced and allowed joins them.
#[must_use]
pub fn judge(
    members: &[Member],
    refused: &[Refused],
    said: &[Said<'_>],
    rules: Rules,
    here: &Here<'_>,
    now: UnixMillis,
) -> Changes {
    let accepting = rules.accepting;
    let mut changes = Changes::default();
    for member in members {
        match still(member, said, rules, here, now) {
            Ok(member) => changes.members.push(member),
            Err(why) => changes.gone.push((member.clone(), why)),
        }
    }
    for said in said.iter().filter(|said| !said.revoked) {
        for one in said
            .list
            .into_iter()
            .flatten()
            .filter(|one| one.until > now)
        {
            let judged = known(one, said, &mut changes.members, accepting, here, now)
                .unwrap_or_else(|| {
                    let mut why = not_allowed(said, accepting);
                    let no = |no: &&Refused| {
                        no.trust_domain == one.trust_domain
                            && no.by == *said.by
                            && no.number >= one.number
                    };
                    if refused.iter().any(|one| no(&one)) {
                        why = Some("it was removed here".into());
                    }
                    match why {
                        Some(why) => Err(why),
                        None => {
                            let member =
                                taken(one, said, None, &changes.members, (rules, here, now))?;
                            changes.joined.push(member.clone());
                            changes.members.push(member);
                            Ok(())
                        }
                    }
                });
            if let Err(why) = judged {
                changes.pending.push(pending(one, said, why));
            }
        }
    }
    changes
}

/// Takes the introduction of `domain` by the operator's own word, called `name` if that is given.
///
/// # Errors
/// Why it cannot be a member, in words.
pub fn accept(
    domain: &TrustDomain,
    name: Option<&str>,
    members: &[Member],
    said: &[Said<'_>],
    (rules, here, now): (Rules, &Here<'_>, UnixMillis),
) -> Result<Member, String> {
    let standing = |member: &&Member| member.trust_domain == *domain;
    if members.iter().any(|member| standing(&member)) || here.peers.contains_key(domain) {
        return Err(format!("{domain} is a peer already"));
    }
    let mut why = format!("nobody introduces {domain}");
    for said in said.iter().filter(|said| !said.revoked) {
        let list = said.list.into_iter().flatten();
        let mut list = list.filter(|one| one.until > now && one.trust_domain == *domain);
        let Some(one) = list.next() else { continue };
        match taken(one, said, name, members, (rules, here, now)) {
            Ok(mut member) => {
                for introduced in &mut member.introduced {
                    introduced.by_hand = true;
                }
                return Ok(member);
            }
            Err(said) => why = said,
        }
    }
    Err(why)
}

/// Whom the operator removed is not introduced again by what was said until now.
pub fn refuse(refused: &mut Vec<Refused>, domain: &TrustDomain, said: &[Said<'_>]) {
    let others = |no: &Refused| {
        let said = said.iter().find(|said| *said.by == no.by);
        let list = said.and_then(|said| said.list);
        // Whoever withdrew it can introduce it under a higher number only.
        list.is_none_or(|list| list.iter().any(|one| one.trust_domain == no.trust_domain))
    };
    refused.retain(|no| no.trust_domain != *domain && others(no));
    for said in said {
        let mut list = said.list.into_iter().flatten();
        let one = list.find(|one| one.trust_domain == *domain);
        refused.extend(one.map(|one| Refused {
            trust_domain: domain.clone(),
            by: said.by.clone(),
            number: one.number,
        }));
    }
}

/// The member as it is now, or why it is none any more.
fn still(
    member: &Member,
    said: &[Said<'_>],
    rules: Rules,
    here: &Here<'_>,
    now: UnixMillis,
) -> Result<Member, String> {
    let mut member = member.clone();
    if member.introduced.is_empty() {
        return Ok(member);
    }
    let mut why = String::new();
    let domain = &member.trust_domain;
    // It may have another root by now, under the first one.
    let roots = here.peers.get(domain).into_iter().flatten();
    let roots: Vec<_> = roots.chain([&member.pin]).collect();
    let is_it = |one: &Introduction| {
        one.trust_domain == *domain && roots.iter().any(|root| one.has_root(root))
    };
    member.introduced.retain_mut(|introduced| {
        let by = &introduced.by;
        let ended = match said.iter().find(|said| said.by == by) {
            Some(said) if said.revoked => Some(format!("{by}, which introduced it, is revoked")),
            Some(said) => {
                let not = not_allowed(said, rules.accepting).filter(|_| !introduced.by_hand);
                let list = said.list.map(|list| {
                    let mut list = list.iter();
                    list.find(|one| is_it(one))
                });
                match list {
                    _ if not.is_some() => not,
                    Some(None) => Some(format!("{by} introduces it no more")),
                    Some(Some(one)) => {
                        introduced.until = bounded(one.until, now);
                        None
                    }
                    None => None,
                }
            }
            // Its word outlives it, as long as it was given.
            None => None,
        };
        let over = format!("its introduction by {by} ended at {}", introduced.until);
        let ended = ended.or((introduced.until <= now).then_some(over));
        let stays = ended.is_none();
        why = ended.unwrap_or_default();
        stays
    });
    let Some(first) = member.introduced.first() else {
        return Err(why);
    };
    if let Some(said) = said.iter().find(|said| *said.by == first.by) {
        member.accept = said.limits.clone();
        member.offer = said.offer.clone();
        // Until it was met: its root may be exchanged before that.
        let mut list = said.list.into_iter().flatten();
        if let Some(one) = list.find(|one| is_it(one)) {
            let pin = member.pin;
            member.roots = one.pins().filter(|root| *root != pin).collect();
        }
    }
    member.away = rules.away;
    Ok(member)
}

/// What an introduction of somebody who is known here already changes; none when nobody is.
fn known(
    one: &Introduction,
    said: &Said<'_>,
    members: &mut [Member],
    accepting: Accepting,
    here: &Here<'_>,
    now: UnixMillis,
) -> Option<Result<(), String>> {
    let domain = &one.trust_domain;
    let mut standing = members.iter_mut();
    let member = standing.find(|member| member.trust_domain == *domain);
    let peer = here.peers.get(domain);
    let pin = member.as_ref().map(|member| &member.pin);
    let mut roots = pin.into_iter().chain(peer.into_iter().flatten()).peekable();
    roots.peek()?;
    if !roots.any(|root| one.has_root(root)) {
        let e = JoinRefusal::OtherRoot(domain.clone());
        return Some(Err(format!("{e}; an introduction never changes that")));
    }
    // By the word of another one it stays when the first one takes its own back.
    let member = member.filter(|member| !member.introduced.is_empty());
    if let Some(member) = member
        && not_allowed(said, accepting).is_none()
        && member.introduced.iter().all(|known| known.by != *said.by)
    {
        member.introduced.push(introduced(one, said, now));
    }
    Some(Ok(()))
}

fn not_allowed(said: &Said<'_>, accepting: Accepting) -> Option<String> {
    let by = said.by;
    match accepting {
        Accepting::All => None,
        Accepting::Introduced if said.introducer => None,
        Accepting::Introduced => Some(format!("{by} is not marked as an introducer here")),
        Accepting::Listed => Some("introductions are not accepted here (listed)".into()),
    }
}

/// The member that `one` makes, if it clashes with nothing.
fn taken(
    one: &Introduction,
    said: &Said<'_>,
    wanted: Option<&str>,
    members: &[Member],
    (rules, here, now): (Rules, &Here<'_>, UnixMillis),
) -> Result<Member, String> {
    let domain = &one.trust_domain;
    if domain == said.by {
        return Err("a cluster cannot introduce itself".into());
    }
    // The source does not know those yet that came just now.
    let mut here = here.clone();
    let own = here.trust_domain;
    for member in members {
        let of = &member.trust_domain;
        here.names.entry(&member.name).or_insert(of);
        here.ranges
            .extend(member.seen().map(|range| (range.prefix, of)));
    }
    if here.peers.len().max(members.len()) >= MAX_PEERS {
        return Err(format!("{own} has {MAX_PEERS} peers already"));
    }
    let words = |e: JoinRefusal| match e {
        JoinRefusal::Name { name, taken } => {
            format!("{name} is what {taken} is called here: accept it with --name")
        }
        other => other.to_string(),
    };
    let name = here.called(domain, &one.name, wanted).map_err(words)?;
    let (pin, roots) = one.first_and_others();
    let mapped = here.fits(domain, &pin, &name, &one.ranges);
    let mapped = mapped.map_err(words)?;
    Ok(Member {
        name,
        trust_domain: domain.clone(),
        pin,
        roots,
        endpoints: one.endpoints.clone(),
        ranges: one.ranges.clone(),
        mapped,
        accept: said.limits.clone(),
        offer: said.offer.clone(),
        away: rules.away,
        since: now,
        introducer: false,
        introduced: vec![introduced(one, said, now)],
    })
}

fn introduced(one: &Introduction, said: &Said<'_>, now: UnixMillis) -> Introduced {
    Introduced {
        by: said.by.clone(),
        number: one.number,
        until: bounded(one.until, now),
        by_hand: false,
    }
}

/// Nobody's word holds for ever.
fn bounded(until: UnixMillis, now: UnixMillis) -> UnixMillis {
    until.min(now.after(MAX_LIFE))
}

fn pending(one: &Introduction, said: &Said<'_>, why: String) -> Pending {
    Pending {
        trust_domain: one.trust_domain.clone(),
        name: one.name.clone(),
        roots: one.roots.clone(),
        endpoints: one.endpoints.clone(),
        by: said.by.clone(),
        why,
    }
}

#[cfg(test)]
mod tests;
