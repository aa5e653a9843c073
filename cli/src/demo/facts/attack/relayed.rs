//! A host that an allowed pod dials passes the pod's proof on to a third.

use std::{net::TcpListener, time::Duration};

use anyhow::{Context, Result, bail};

use super::{ARRIVES, Drops, Scene, Side, replayed};
use crate::demo::{
    facts::{Demo, plain_client::PlainHost},
    http::{self, Connected},
    netns,
    onpath::{Kind, Tap, Which},
    segment::{self, Segment},
    tap::Verdict,
};

/// How long a connection that must not come up is watched: two SYNs.
const WATCHED: Duration = Duration::from_millis(1500);

/// A plain host with an address of the client's cluster takes the HELLO of a client that dials it,
/// and sends it to a server which would let the client in: under its own address and under the
/// client's. Then it tries with sockets.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let Some(scene) = Scene::find(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let cluster = demo.place(&scene.pair.from)?.0.clone();
    let host = PlainHost::add(demo, &cluster)?;
    let outcome = relay(demo, &scene, &host);
    host.take_away()?;
    outcome
}

fn relay(demo: &Demo, scene: &Scene, host: &PlainHost) -> Result<Verdict> {
    let port = scene.server.1;
    let dialled = (host.address, port);
    // A socket that listens, so that the client gets what a relay can give it.
    let listener = netns::inside(&host.netns, || Ok(TcpListener::bind(dialled)?))?;
    listener.set_nonblocking(true)?;
    let mut tap = Tap::open(&host.netns, "eth0")?;
    let client = scene.client_to(dialled)?;
    let which = Which {
        from: (scene.client, client.port),
        to: dialled,
        kind: Kind::Syn,
    };
    let [example, _] = replayed::record(scene)?;
    let mut onward = scene.hop(Side::Near, Kind::Syn).onward()?;
    let ((), connected) = client.connect_while(WATCHED, || {
        let frame = tap.next(ARRIVES, |frame| which.takes(frame))?;
        let segment = Segment::parse(&frame).context("it is no segment")?;
        if segment.our_option(&frame).is_none() {
            bail!("the client's SYN carries no marker, so there is nothing to relay");
        }
        let relayed = segment.with_destination(&frame, scene.server);
        // The way to the gateway, as a frame that went it.
        let relayed = segment::beside(&example, segment::packet_of(&relayed));
        for from in [segment.from, (host.address, segment.from.1)] {
            let before = Drops::now(demo)?;
            onward.send(&segment.with_source(&relayed, from))?;
            before
                .wait_for(demo, &["transcript-mismatch"], 1, ARRIVES)
                .with_context(|| format!("a HELLO relayed under the address {}", from.0))?;
        }
        Ok(())
    })?;
    if let Connected::Yes(_) = connected {
        bail!("the client took the connection of a host that proved nothing");
    }
    if listener.accept().is_ok() {
        bail!("the relay's socket got a connection of the client");
    }
    let address = scene.pair.address(demo)?;
    let dialled = netns::inside(&host.netns, || Ok(http::connect(address, WATCHED)))?;
    if let Connected::Yes(_) = dialled {
        bail!("{address} accepted a connection of the relay");
    }
    Ok(Verdict::Holds(format!(
        "{} dials {}, which relays to {address}: transcript-mismatch",
        scene.client, host.address
    )))
}
