//! A box on the path takes away what it does not know.

use anyhow::{Context, Result, bail};

use super::{ARRIVES, Drops, HELD_UP, Scene, Side};
use crate::demo::{
    facts::Demo,
    http::{self, Connected},
    onpath::Kind,
    segment,
    tap::Verdict,
};

/// Takes marker and HELLO from a SYN, marker and REPLY from a SYN-ACK, and CONFIRM from the client's
/// first segment, in each cluster: no such segment opens anything.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let Some(scene) = Scene::find(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    scene.each_segment(|kind, side| strip(demo, &scene, kind, side))?;
    Ok(Verdict::Holds(format!(
        "{}: SYN, SYN-ACK and first segment, in both clusters: no-identity",
        scene.pair.name()
    )))
}

fn strip(demo: &Demo, scene: &Scene, kind: Kind, side: Side) -> Result<()> {
    let client = scene.client()?;
    let which = scene.segments(&client, kind);
    let hop = scene.hop(side, kind);
    let (mut tap, held) = hop.hold(&which)?;
    let mut onward = hop.onward()?;
    let ((), connected) = client.connect_while(HELD_UP, || {
        let frame = tap.next(ARRIVES, |frame| which.takes(frame))?;
        let before = Drops::now(demo)?;
        onward.send(&segment::stripped(&frame)?)?;
        before.wait_for(demo, &["no-identity"], 1, ARRIVES)?;
        // As it was, it opens the connection.
        onward.send(&frame)?;
        held.release()
    })?;
    let Connected::Yes(mut stream) = connected else {
        bail!("with the segment as it was there is no connection: {connected:?}");
    };
    stream.set_read_timeout(Some(ARRIVES))?;
    http::echo(&mut stream).context("with the segment as it was, nothing is echoed")
}
