//! A packet of the handshake is lost.

use anyhow::{Context, Result, bail};

use super::{ARRIVES, HELD_UP, Scene, Side};
use crate::demo::{
    facts::Demo,
    http::{self, Connected},
    onpath::Kind,
    pods,
    tap::Verdict,
};

/// Loses the first SYN, SYN-ACK or ACK: the connection comes up all the same, and once.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let Some(scene) = Scene::find(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    scene.each_segment(|kind, side| lose(demo, &scene, kind, side))?;
    Ok(Verdict::Holds(format!(
        "{}: SYN, SYN-ACK and ACK, in both clusters",
        scene.pair.name()
    )))
}

fn lose(demo: &Demo, scene: &Scene, kind: Kind, side: Side) -> Result<()> {
    let client = scene.client()?;
    let port = client.port;
    let which = scene.segments(&client, kind);
    let (mut tap, held) = scene.hop(side, kind).hold(&which)?;
    let ((), connected) = client.connect_while(HELD_UP, || {
        tap.next(ARRIVES, |frame| which.takes(frame))?;
        held.release()
    })?;
    let Connected::Yes(mut stream) = connected else {
        bail!("there is no connection: {connected:?}");
    };
    stream.set_read_timeout(Some(HELD_UP))?;
    http::echo(&mut stream).context("nothing is echoed")?;
    let (_, server) = demo.place(&scene.pair.to)?;
    match pods::connections(&server.netns, port)? {
        1 => Ok(()),
        other => bail!("the server has {other} connections with that port of the client"),
    }
}
