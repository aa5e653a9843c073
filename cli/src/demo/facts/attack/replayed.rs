//! What was recorded is played back.

use anyhow::{Context, Result, bail};

use super::{ARRIVES, Drops, Scene, Side};
use crate::demo::{
    facts::{Demo, crash},
    http::{self, Connected},
    onpath::{Kind, Tap},
    tap::Verdict,
};

/// Plays back the SYN of a connection that was opened and closed, where it left the client's node and
/// where it reached the server's.
pub fn at_once(demo: &mut Demo) -> Result<Verdict> {
    let Some(scene) = Scene::find(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let recorded = record(&scene)?;
    for (side, frame) in [Side::Near, Side::Far].into_iter().zip(&recorded) {
        play(demo, &scene, side, frame)?;
    }
    Ok(Verdict::Holds(format!(
        "{}: replay, in both clusters",
        scene.pair.name()
    )))
}

/// Plays back a SYN that the client's gateway, which remembered it, was killed after.
pub fn after_restart(demo: &mut Demo) -> Result<Verdict> {
    let Some(scene) = Scene::find(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let [near, _] = record(&scene)?;
    let cluster = demo.place(&scene.pair.from)?.0.clone();
    crash::kill_gateway(demo, &cluster)?;
    crash::start_gateway(demo, &cluster)?;
    crash::works_again(demo, &scene.pair)?;
    play(demo, &scene, Side::Near, &near)?;
    Ok(Verdict::Holds(format!("{}: replay", scene.pair.name())))
}

/// The SYN of a connection that was opened and closed, as it crossed both switches.
pub fn record(scene: &Scene) -> Result<[Vec<u8>; 2]> {
    let client = scene.client()?;
    let which = scene.segments(&client, Kind::Syn);
    let tap = |side| {
        let hop = scene.hop(side, Kind::Syn);
        Tap::open(hop.netns, hop.from)
    };
    let (mut near, mut far) = (tap(Side::Near)?, tap(Side::Far)?);
    let (frames, connected) = client.connect_while(ARRIVES, || {
        Ok([
            near.next(ARRIVES, |frame| which.takes(frame))?,
            far.next(ARRIVES, |frame| which.takes(frame))?,
        ])
    })?;
    let Connected::Yes(mut stream) = connected else {
        bail!("{} was not connected", scene.pair.name());
    };
    stream.set_read_timeout(Some(ARRIVES))?;
    http::echo(&mut stream)?;
    Ok(frames)
}

fn play(demo: &Demo, scene: &Scene, side: Side, frame: &[u8]) -> Result<()> {
    let before = Drops::now(demo)?;
    scene.hop(side, Kind::Syn).onward()?.send(frame)?;
    before
        .wait_for(demo, &["replay"], 1, ARRIVES)
        .with_context(|| format!("a SYN played back in the cluster on the {side:?} side"))?;
    Ok(())
}
