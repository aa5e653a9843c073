//! A cluster that is no peer any more.

use std::time::Instant;

use anyhow::{Result, bail};

use super::{ends, established};
use crate::demo::{
    by_token,
    facts::{
        Demo,
        edit::{self, Edited},
        in_force,
        pairs::{self, Pair},
    },
    plan::Cluster,
    tap::Verdict,
};

/// Ends a membership that began with a token, and begins it anew.
fn removed(demo: &Demo, pair: &Pair, source: &Cluster, target: &Cluster) -> Result<Verdict> {
    let mut stream = established(demo, pair)?;
    let since = Instant::now();
    let gateway = demo.state.gateway(source);
    by_token::landbridge(&demo.own, &gateway, &["remove", &target.name])?;
    let heard = ends(&mut stream, pair, since);
    let denied = in_force::takes_effect(demo, pair, false, since);
    let begun = Instant::now();
    by_token::join(target, source, &demo.state, &demo.own)?;
    crate::demo::facts::crash::works_again(demo, pair)?;
    let (heard, denied) = (heard?, denied?);
    Ok(Verdict::Holds(format!(
        "{}: last heard {} ms after the membership was ended, denied after {} ms, joined and connected in {} ms",
        pair.name(),
        heard.as_millis(),
        denied.as_millis(),
        begun.elapsed().as_millis()
    )))
}

/// Takes the destination's cluster from the peers of the source's: live connections end, and none
/// comes up.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let Some(pair) = pairs::allowed_across(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let (source, target) = (demo.place(&pair.from)?.0, demo.place(&pair.to)?.0);
    if demo.plan.by_token {
        return removed(demo, &pair, source, target);
    }
    let dir = demo.state.config().join(&source.name);
    let (path, mut documents, place) = edit::find(&dir, |document| {
        document["kind"] == "FederationPeer" && document["spec"]["cluster"] == *target.name
    })?;
    documents.remove(place);
    let mut stream = established(demo, &pair)?;
    let (edited, saved) = Edited::save(path, &edit::text(&documents)?)?;
    let heard = ends(&mut stream, &pair, saved);
    let denied = in_force::takes_effect(demo, &pair, false, saved);
    edited.undo()?;
    let again = crate::demo::facts::crash::works_again(demo, &pair)?;
    let (heard, denied) = (heard?, denied?);
    if again > super::HOPELESS {
        bail!(
            "{} came back only after {} ms",
            pair.name(),
            again.as_millis()
        );
    }
    Ok(Verdict::Holds(format!(
        "{}: last heard {} ms after the file was saved, denied after {} ms, again {} ms after it was put back",
        pair.name(),
        heard.as_millis(),
        denied.as_millis(),
        again.as_millis()
    )))
}
