//! What an operator changes in a running gateway: whom its cluster trusts.
//!
//! A change stands in the audit log before it happens, and is answered when it is stored.

use handshake::admission::Revocation;
use identity::TrustDomain;
use observe::TrustRequest;
use serde_json::{Value, json};

use super::{
    Hub,
    links::{Answer, Command},
};

/// Answers that wait until what they say is stored.
pub(super) type Waiting = Vec<(Answer, Result<Value, String>)>;

impl Hub {
    pub(super) fn command(&mut self, command: Command) {
        let Command {
            request,
            by,
            answer,
        } = command;
        if let TrustRequest::Join(wanted) = request {
            // Another cluster is asked first; what comes of it is in the audit log.
            return self.join(wanted, by, answer);
        }
        if !request.changes() {
            let carried_out = self.carry_out(&request);
            return self.waiting.push((answer, carried_out));
        }
        let mut about = request.about();
        about["uid"] = by.uid.into();
        about["pid"] = by.pid.into();
        let audited = self.audited(&about);
        let carried_out = audited.and_then(|()| self.carry_out(&request));
        let answer = match &carried_out {
            Ok(_) => self.answer_root_later(&request, answer, about),
            Err(why) => {
                self.audit_refused(about, why);
                Some(answer)
            }
        };
        if let Some(answer) = answer {
            self.waiting.push((answer, carried_out));
        }
    }

    /// Answers what was carried out since; to be called when state was stored, or could not be.
    pub(super) fn answer_commands(&mut self, stored: bool) {
        for (answer, carried_out) in self.waiting.drain(..) {
            let said = match stored {
                true => carried_out,
                false => carried_out.and_then(|_| {
                    let why = "state cannot be stored: it holds here as soon as it can, and is told \
                               to nobody before";
                    Err(why.into())
                }),
            };
            // Whoever does not wait any more needs no answer.
            let _ = answer.send(said);
        }
    }

    fn carry_out(&mut self, request: &TrustRequest) -> Result<Value, String> {
        let now = self.now();
        match request {
            TrustRequest::Revoke { of, target, reason } => {
                let domain = self.domain(of)?;
                let revoked = self.control.revoke(&domain, target.clone(), reason, now);
                let revoked = revoked.map_err(|e| e.to_string())?;
                Ok(self.revocation(&domain, &revoked, None))
            }
            TrustRequest::Restore { of, target } => {
                let domain = self.domain(of)?;
                let restored = self.control.restore_revoked(&domain, target.clone(), now);
                let restored = restored.map_err(|e| e.to_string())?;
                Ok(self.revocation(&domain, &restored, None))
            }
            TrustRequest::Revocations {} => Ok(self.revocations()),
            TrustRequest::Invite(wanted) => self.invite(wanted),
            TrustRequest::Join(_) => Err("a token is not brought twice".into()),
            TrustRequest::Members {} => Ok(self.list_members()),
            TrustRequest::Introduce { clusters, ttl } => self.introduce(clusters, *ttl),
            TrustRequest::Withdraw { clusters } => self.withdraw(clusters),
            TrustRequest::Accept { cluster, name } => self.accept(cluster, name.as_deref()),
            TrustRequest::Introductions {} => Ok(self.list_introductions()),
            TrustRequest::Remove { cluster } => {
                let domain = self.domain(cluster)?;
                self.leave(Some(&domain))
            }
            TrustRequest::Leave {} => self.leave(None),
            TrustRequest::Keys {} => Ok(self.list_keys()),
            TrustRequest::Rotate(wanted) => self.rotate(wanted),
            // Whoever asks reads the files itself; here it is only written down.
            TrustRequest::Backup { .. } => Ok(json!({})),
            TrustRequest::ConfirmRestore {
                without_revocations,
            } => {
                let confirmed = self.control.confirm_restored(*without_revocations, now);
                let now_is = confirmed.map_err(|e| e.to_string())?;
                Ok(json!({
                    "bundle": now_is.bundle,
                    "digest": now_is.digest,
                    "revocations": now_is.revocations,
                }))
            }
        }
    }

    /// Whether this is no state of the past, of which nothing may be said.
    pub(super) fn in_use(&self) -> Result<(), String> {
        match self.control.peering().restored() {
            None => Ok(()),
            Some(_) => Err(
                "this gateway was restored from a backup, and its peers may have seen more: \
                 `landbridge status` says what it waits for"
                    .into(),
            ),
        }
    }

    /// Writes it into the audit log: before it happens.
    pub(super) fn audited(&self, about: &Value) -> Result<(), String> {
        let written = self.audit.write("trust", about);
        written.map_err(|e| format!("nothing changes without an audit log: {e}"))
    }

    /// That it did not happen after all, which is worth a try.
    pub(super) fn audit_refused(&self, mut about: Value, why: &str) {
        about["refused"] = why.into();
        let _ = self.audited(&about);
    }

    fn revocations(&self) -> Value {
        let peering = self.control.peering();
        let here = peering.revoked_here().iter();
        let here = here.flat_map(|(domain, of)| of.iter().map(move |r| (domain, r, None)));
        let peers = peering.peers();
        let there = peers.flat_map(|peer| {
            let of = peering.revoked_by(peer).iter();
            of.map(move |revocation| (peer, revocation, Some(peer)))
        });
        let all = here.chain(there);
        all.map(|(domain, revocation, by)| self.revocation(domain, revocation, by))
            .collect()
    }

    /// `by`: who revoked it, where that was not here.
    fn revocation(&self, of: &TrustDomain, is: &Revocation, by: Option<&TrustDomain>) -> Value {
        json!({
            "of": of,
            "target": is.target,
            "words": is.target.to_string(),
            "reason": is.reason,
            "at": is.at.to_string(),
            "by": by.unwrap_or(&self.own),
        })
    }

    /// The trust domain of the cluster `name`, which may be its trust domain already.
    pub(super) fn domain(&self, name: &str) -> Result<TrustDomain, String> {
        let world = self.world.borrow();
        if let Some(cluster) = world.federation.cluster(name) {
            return Ok(cluster.trust_domain.clone());
        }
        let mut known = self.control.peering().peers().chain([&self.own]);
        let found = known.find(|domain| domain.as_str() == name).cloned();
        found.ok_or_else(|| {
            let known: Vec<_> = self
                .control
                .peering()
                .peers()
                .map(TrustDomain::as_str)
                .collect();
            format!(
                "there is no cluster {name:?}: this is {}, and its peers are {}",
                self.own,
                match known.is_empty() {
                    true => "none".to_owned(),
                    false => known.join(", "),
                }
            )
        })
    }
}
