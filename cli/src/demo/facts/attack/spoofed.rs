//! Pods that speak under another's name, or write what only agents write.

use anyhow::{Context, Result, bail};

use super::{ARRIVES, Drops, Scene, Side};
use crate::demo::{
    facts::Demo,
    http::Connected,
    onpath::{Kind, Tap},
    segment::{self, Segment},
    tap::Verdict,
};

/// Sends an allowed pod's SYN from every other pod of its cluster.
pub fn source(demo: &mut Demo) -> Result<Verdict> {
    let Some(scene) = Scene::find(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let (bare, _) = syn(&scene)?;
    let segment = Segment::parse(&bare).context("it is no segment")?;
    let frame = segment.with_source(&bare, (scene.client, unused(segment.from.1)));
    let (cluster, pod) = demo.place(&scene.pair.from)?;
    let mut names = Vec::new();
    for thief in cluster.pods.iter().filter(|it| it.netns != pod.netns) {
        let before = Drops::now(demo)?;
        // The link addresses of all pods are the same.
        Tap::open(&thief.netns, "eth0")?.send(&frame)?;
        before
            .wait_for(demo, &["spoofed-source"], 1, ARRIVES)
            .with_context(|| format!("sent from {}", thief.name))?;
        names.push(thief.name.as_str());
    }
    if names.is_empty() {
        return Ok(Verdict::Skipped("the client's cluster has one pod".into()));
    }
    Ok(Verdict::Holds(format!(
        "{} from {}: spoofed-source",
        scene.client,
        names.join(", ")
    )))
}

/// Sends from the pod itself the SYN that its agent made of its own, and a bare one with a marker.
pub fn marker(demo: &mut Demo) -> Result<Verdict> {
    let Some(scene) = Scene::find(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let (bare, signed) = syn(&scene)?;
    let mut tap = Tap::open(&scene.client_netns, "eth0")?;
    for (what, frame) in [
        ("a whole HELLO", segment::beside(&bare, &signed)),
        ("a marker alone", segment::marked(&bare)?),
    ] {
        let segment = Segment::parse(&frame).context("it is no segment")?;
        let from = (scene.client, unused(segment.from.1));
        let before = Drops::now(demo)?;
        tap.send(&segment.with_source(&frame, from))?;
        before
            .wait_for(demo, &["spoofed-identity"], 1, ARRIVES)
            .with_context(|| what.to_string())?;
    }
    Ok(Verdict::Holds(format!(
        "{}: spoofed-identity",
        scene.client
    )))
}

/// The SYN of a connection as the pod sent it (a frame), and as it left the node (a packet).
fn syn(scene: &Scene) -> Result<(Vec<u8>, Vec<u8>)> {
    let client = scene.client()?;
    let which = scene.segments(&client, Kind::Syn);
    let hop = scene.hop(Side::Near, Kind::Syn);
    let mut in_pod = Tap::open(&scene.client_netns, "eth0")?;
    let mut on_lan = Tap::open(hop.netns, hop.from)?;
    let (frames, connected) = client.connect_while(ARRIVES, || {
        let bare = in_pod.next(ARRIVES, |frame| which.takes(frame))?;
        let signed = on_lan.next(ARRIVES, |frame| which.takes(frame))?;
        Ok((bare, segment::packet_of(&signed).to_vec()))
    })?;
    if !matches!(connected, Connected::Yes(_)) {
        bail!("{} was not connected: {connected:?}", scene.pair.name());
    }
    Ok(frames)
}

/// A port that no connection of the pod has.
fn unused(port: u16) -> u16 {
    if port < 1024 + 1 { port + 1 } else { port - 1 }
}
