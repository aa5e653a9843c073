//! What is revoked, and what a peer may not claim.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use handshake::admission::Target;
use observe::TrustRequest;
use serde_json::json;

use super::{ends, established};
use crate::demo::{
    facts::{
        Demo, Enforcer, crash,
        edit::{self, Edited},
        in_force,
        pairs::{self, Pair},
    },
    tap::Verdict,
};

/// Revokes the source of an allowed pair, by its own cluster and by the destination's, and all of its
/// cluster: each time live connections end, none comes up, and all is as before when it is taken back.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let Some(pair) = pairs::allowed_across(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let source = demo.gateway(demo.place(&pair.from)?.0);
    let target = demo.gateway(demo.place(&pair.to)?.0);
    let id = Target::Identity(pair.from.claims.subject.clone());
    let mut notes = Vec::new();
    for (by, what) in [(&source, &id), (&target, &id), (&target, &Target::Cluster)] {
        notes.push(revoked(demo, &pair, by, what)?);
    }
    Ok(Verdict::Holds(format!(
        "{}: {}",
        pair.name(),
        notes.join("; ")
    )))
}

/// Put back when it is dropped.
struct Revoked<'a> {
    by: &'a Enforcer,
    of: String,
    target: Target,
    restored: bool,
}

impl Revoked<'_> {
    fn restore(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.restored, true) {
            return Ok(());
        }
        let (of, target) = (self.of.clone(), self.target.clone());
        ask(self.by, &TrustRequest::Restore { of, target })
    }
}

impl Drop for Revoked<'_> {
    fn drop(&mut self) {
        // A fact that failed reports its own error, not this one.
        let _ = self.restore();
    }
}

fn ask(gateway: &Enforcer, request: &TrustRequest) -> Result<()> {
    let mut line = json!(request);
    line["op"] = "trust".into();
    gateway.request(&line).map(drop)
}

fn revoked(demo: &Demo, pair: &Pair, by: &Enforcer, target: &Target) -> Result<String> {
    let of = pair.from.claims.trust_domain().to_string();
    let mut stream = established(demo, pair)?;
    let request = TrustRequest::Revoke {
        of: of.clone(),
        target: target.clone(),
        reason: "the demo looks what becomes of it".into(),
    };
    let since = Instant::now();
    ask(by, &request)?;
    let mut revoked = Revoked {
        by,
        of,
        target: target.clone(),
        restored: false,
    };
    let heard = ends(&mut stream, pair, since);
    let denied = in_force::takes_effect(demo, pair, false, since);
    let counted = refusals(demo, pair, "revoked");
    revoked.restore()?;
    let again = crash::works_again(demo, pair)?;
    let (heard, denied) = (heard?, denied?);
    if counted? == 0 {
        bail!("{}: nobody counted a packet as revoked", pair.name());
    }
    if again > super::HOPELESS + super::HOPELESS {
        let ms = again.as_millis();
        bail!("{} came back only after {ms} ms", pair.name());
    }
    let words = match target {
        Target::Cluster => "its cluster",
        _ => "its identity",
    };
    Ok(format!(
        "{words} by {}: last heard after {}, denied after {}, again after {}",
        by.role,
        ms(heard),
        ms(denied),
        ms(again)
    ))
}

/// The destination's cluster accepts no pod of the source's namespace any more.
pub fn not_accepted(demo: &mut Demo) -> Result<Verdict> {
    let Some(pair) = pairs::allowed_across(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let (source, target) = (demo.place(&pair.from)?.0, demo.place(&pair.to)?.0);
    let dir = demo.state.config().join(&target.name);
    let (path, mut documents, place) = edit::find(&dir, |document| {
        document["kind"] == "FederationPeer" && document["spec"]["cluster"] == *source.name
    })?;
    let accept = json!({"namespaces": ["some-other-namespace"]});
    documents[place]["spec"]["accept"] = serde_norway::to_value(accept)?;
    let mut stream = established(demo, &pair)?;
    let (edited, saved) = Edited::save(path, &edit::text(&documents)?)?;
    let heard = ends(&mut stream, &pair, saved);
    let denied = in_force::takes_effect(demo, &pair, false, saved);
    let counted = refusals(demo, &pair, "claim-not-accepted");
    edited.undo()?;
    let again = crash::works_again(demo, &pair)?;
    let (heard, denied) = (heard?, denied?);
    if counted? == 0 {
        bail!("nobody counted a packet as claim-not-accepted");
    }
    Ok(Verdict::Holds(format!(
        "{}: last heard after {}, denied after {}, again after {}",
        pair.name(),
        ms(heard),
        ms(denied),
        ms(again)
    )))
}

/// How many packets the enforcers on the way dropped for this reason.
fn refusals(demo: &Demo, pair: &Pair, reason: &str) -> Result<u64> {
    let gateways = [&pair.from, &pair.to].map(|end| demo.place(end).map(|(c, _)| demo.gateway(c)));
    let agents = [demo.agent_of(&pair.from), demo.agent_of(&pair.to)];
    let mut all = 0;
    for enforcer in gateways.into_iter().chain(agents) {
        all += enforcer?.counter(&format!("dropped.{reason}"))?;
    }
    Ok(all)
}

fn ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
