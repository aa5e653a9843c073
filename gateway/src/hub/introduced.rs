//! Members that know each other by a third one: those that this cluster introduces, and those that
//! its peers introduce to it. docs/spec/membership.md.

use std::{sync::Arc, time::Duration};

use identity::TrustDomain;
use peering::{
    introductions::{self, Pending, Said, judge},
    join::MAX_ENDPOINTS,
    peers::{Pair, Party},
};
use quic::Pin;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{Hub, join::here, members::describe};

/// How long an introduction holds when its introducer is not heard any more, unless it is said otherwise.
const LIFE: Duration = Duration::from_hours(24 * 30);
/// Where it says that what peers introduce cannot be taken.
const PROBLEM: &str = "introductions";

impl Hub {
    /// Finds out again who of those that peers introduce is a member.
    pub(super) fn settle_introduced(&mut self) {
        let world = Arc::clone(&self.world.borrow());
        let members: Vec<_> = self.members.iter().cloned().collect();
        let (pool, stored) = (&self.config.federation_prefixes, &self.members.stored);
        let here = here(&self.own, pool, &world, &self.control, stored);
        let rules = self.config.introduction_rules();
        let (said, now) = (self.said(), self.now().unix);
        let changes = judge(&members, self.members.refused(), &said, rules, &here, now);
        for pending in &changes.pending {
            if !self.members.pending.contains(pending) {
                let Pending {
                    trust_domain, by, ..
                } = pending;
                warn!(%trust_domain, %by, audit = true, "introduced, not accepted: {}", pending.why);
            }
        }
        self.members.pending = changes.pending;
        if changes.members == members {
            return;
        }
        let joined = changes.joined.iter().map(|member| {
            let by = &member.introduced;
            let (domain, name) = (&member.trust_domain, &member.name);
            json!({"do": "introduced", "member": domain, "name": name, "by": by})
        });
        let gone = changes.gone.iter().map(|(member, why)| {
            json!({"do": "introduction-ended", "member": member.trust_domain, "why": why})
        });
        let mut done = joined
            .chain(gone)
            .try_for_each(|about| self.audited(&about));
        if done.is_ok() {
            for member in &changes.joined {
                info!(peer = %member.trust_domain, name = member.name, audit = true, "was introduced");
            }
            for (member, why) in &changes.gone {
                warn!(peer = %member.trust_domain, audit = true, "is a member no more: {why}");
            }
            let gone: Vec<_> = changes.gone.into_iter().map(|(member, _)| member).collect();
            done = self.replace_members(changes.members, &gone);
        }
        match done {
            Ok(()) => drop(self.problems.remove(PROBLEM)),
            Err(why) => self.problem(PROBLEM, why),
        }
    }

    /// An introduction may have ended without anybody saying so.
    pub(super) fn end_introduced(&mut self) {
        let now = self.now().unix;
        let introduced = || self.members.iter().flat_map(|member| &member.introduced);
        if introduced().any(|introduced| introduced.until <= now) {
            self.settle_introduced();
        }
    }

    /// What each peer introduces.
    pub(super) fn said(&self) -> Vec<Said<'_>> {
        let peering = self.control.peering();
        let said = peering.peers().filter_map(|peer| {
            Some(Said {
                by: peer,
                introducer: self.members.introducers.contains(peer),
                revoked: peering.revoked_cluster(peer).is_some(),
                limits: peering.limits(peer)?,
                offer: peering.offered(peer)?,
                list: peering.introduced(peer),
            })
        });
        said.collect()
    }

    /// These are peers no more because the configuration names them no more: what introduces them does
    /// not bring them back.
    pub(super) fn refuse_introduced(&mut self, gone: &[TrustDomain]) {
        let accepting = self.config.introductions;
        let mut refused = self.members.refused().to_vec();
        let said = self.said();
        for domain in gone {
            // One that is not heard took it away by that, and may bring it back.
            let heard = said.iter().filter(|said| said.is_heard(accepting));
            let lists = heard.filter_map(|said| said.list);
            if lists.flatten().any(|one| one.trust_domain == *domain) {
                introductions::refuse(&mut refused, domain, &said);
            }
        }
        if refused != self.members.refused()
            && let Err(why) = self.set_refused(refused)
        {
            self.problem(PROBLEM, why);
        }
    }

    /// Takes one that was introduced, by the operator's word.
    pub(super) fn accept(&mut self, cluster: &str, name: Option<&str>) -> Result<Value, String> {
        let pending = self.members.pending.iter();
        let named =
            pending.filter(|one| one.name == cluster || one.trust_domain.as_str() == cluster);
        let mut named: Vec<_> = named.map(|one| one.trust_domain.clone()).collect();
        named.dedup();
        let [domain] = &named[..] else {
            return Err(match named.is_empty() {
                true => format!("no cluster {cluster:?} waits to be accepted"),
                false => format!("{cluster:?} is what several are called: name the trust domain"),
            });
        };
        let world = Arc::clone(&self.world.borrow());
        let members: Vec<_> = self.members.iter().cloned().collect();
        let (pool, stored) = (&self.config.federation_prefixes, &self.members.stored);
        let here = here(&self.own, pool, &world, &self.control, stored);
        let (said, now) = (self.said(), self.now().unix);
        let by = (self.config.introduction_rules(), &here, now);
        let member = introductions::accept(domain, name, &members, &said, by)?;
        let shown = describe(&member);
        self.add_member(member)?;
        self.settle_introduced();
        Ok(shown)
    }

    /// Introduces two peers to each other.
    pub(super) fn introduce(
        &mut self,
        clusters: &[String; 2],
        ttl: Option<u32>,
    ) -> Result<Value, String> {
        let [one, other] = clusters.each_ref().map(|name| self.party(name));
        let life = ttl.map_or(LIFE, |ttl| Duration::from_secs(ttl.into()));
        let now = self.now();
        let made = self.control.introduce([one?, other?], life, now);
        made.map(|pair| made_here(&pair)).map_err(|e| e.to_string())
    }

    /// Takes that back.
    pub(super) fn withdraw(&mut self, clusters: &[String; 2]) -> Result<Value, String> {
        let [one, other] = clusters.each_ref().map(|name| self.domain(name));
        let now = self.now();
        let withdrawn = self.control.withdraw(&one?, &other?, now);
        let withdrawn = withdrawn.map_err(|e| e.to_string())?;
        Ok(made_here(&withdrawn))
    }

    /// Who is introduced here, and what others introduce.
    pub(super) fn list_introductions(&self) -> Value {
        let made = self.control.peering().introductions().iter();
        json!({
            "made": made.map(made_here).collect::<Vec<_>>(),
            "accepting": self.config.introductions,
            "pending": self.members.pending.iter().map(waiting).collect::<Vec<_>>(),
        })
    }

    /// A peer, as others may hear of it.
    fn party(&self, name: &str) -> Result<Party, String> {
        let trust_domain = self.domain(name)?;
        let world = self.world.borrow();
        let cluster = world.federation.cluster_of(&trust_domain);
        let name = cluster.map_or(name, |cluster| &cluster.name).to_owned();
        let mut members = self.members.iter();
        let member = members.find(|member| member.trust_domain == trust_domain);
        let mut endpoints = Vec::from_iter(self.peers.address(&trust_domain));
        for endpoint in member.into_iter().flat_map(|member| &member.endpoints) {
            if !endpoints.contains(endpoint) {
                endpoints.push(*endpoint);
            }
        }
        endpoints.truncate(MAX_ENDPOINTS);
        if endpoints.is_empty() {
            return Err(format!("where {name} listens is not known here"));
        }
        Ok(Party {
            trust_domain,
            name,
            endpoints,
        })
    }
}

/// An introduction that was made here, for people and programs.
fn made_here(pair: &Pair) -> Value {
    let parties = pair.parties.iter();
    let party = |party: &Party| json!({"name": party.name, "trust_domain": party.trust_domain});
    json!({
        "clusters": parties.map(party).collect::<Vec<_>>(),
        "until": pair.until.to_string(),
    })
}

/// One that was not accepted, for people and programs.
pub(super) fn waiting(pending: &Pending) -> Value {
    json!({
        "name": pending.name,
        "trust_domain": pending.trust_domain,
        "root_pin": pending.roots.first().map(|root| Pin(**root).to_string()),
        "endpoints": pending.endpoints,
        "introduced_by": [pending.by],
        "pending": pending.why,
    })
}
