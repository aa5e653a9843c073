//! A cluster that is no peer any more.

use anyhow::{Result, bail};

use super::{ends, established};
use crate::demo::{
    facts::{
        Demo,
        edit::{self, Edited},
        in_force, pairs,
    },
    tap::Verdict,
};

/// Takes the destination's cluster from the peers of the source's: live connections end, and none
/// comes up.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let Some(pair) = pairs::allowed_across(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let (source, target) = (demo.place(&pair.from)?.0, demo.place(&pair.to)?.0);
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
