//! A gateway that is killed: the kernel must not route in its place, although it could.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::super::attack::{ARRIVES, Drops, Scene, Side};
use crate::demo::{
    facts::Demo,
    http::{self, Connected},
    netns,
    onpath::{Kind, Which},
    pods,
    tap::Verdict,
    wait,
};

/// How long a connection that must not come up is watched: two SYNs.
const WATCHED: Duration = Duration::from_millis(1300);
/// A gateway that starts again lets new connections through after this time.
const BACK: Duration = Duration::from_secs(2);
/// How long an end may take to hear that its connection is gone, once it sends.
const RESET: Duration = Duration::from_secs(8);

/// Kills the gateway of the client's cluster while two connections stand.
pub fn killed(demo: &mut Demo) -> Result<Verdict> {
    let Some(scene) = Scene::find(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let cluster = demo.place(&scene.pair.from)?.0.clone();
    let server = demo.place(&scene.pair.to)?.1.clone();
    let (_, mut speaks) = scene.established(RESET)?;
    let (port, mut hears) = scene.established(RESET)?;

    // The server's answer is held up, so that it speaks when the gateway is back.
    let answer = Which {
        from: scene.server,
        to: (scene.client, port),
        kind: Kind::Later,
    };
    let hop = scene.hop(Side::Far, Kind::SynAck);
    let (mut tap, held) = hop.hold(&answer)?;
    http::ping(&mut hears)?;
    tap.next(ARRIVES, |frame| answer.takes(frame))?;

    let routed = routed(&cluster.gateway.netns)?;
    super::kill_gateway(demo, &cluster)?;
    let meanwhile = pair_is_closed(demo, &scene);
    let begin = Instant::now();
    super::start_gateway(demo, &cluster)?;
    let outcome = meanwhile.and_then(|()| {
        super::works_again(demo, &scene.pair)?;
        Ok(begin.elapsed())
    });
    let took = outcome?;
    if took > BACK {
        bail!(
            "{} was connected again {} ms after the gateway was started",
            scene.pair.name(),
            took.as_millis()
        );
    }
    let more = self::routed(&cluster.gateway.netns)? - routed;
    if more > 0 {
        bail!(
            "the kernel routed {more} packets in {}",
            cluster.gateway.netns
        );
    }

    let before = Drops::now(demo)?;
    match http::echo(&mut speaks) {
        Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
        other => bail!("the client was to be reset and got {other:?}"),
    }
    let before = before
        .wait_for(demo, &["unknown-flow"], 1, ARRIVES)
        .context("the client spoke on a connection that the gateway lost")?;
    held.release()?;
    let gone = || pods::connections(&server.netns, port).is_ok_and(|n| n == 0);
    if !wait::until(RESET, gone) {
        bail!("the server still has the connection that the gateway lost");
    }
    before
        .wait_for(demo, &["unknown-flow"], 1, ARRIVES)
        .context("the server spoke on a connection that the gateway lost")?;
    Ok(Verdict::Holds(format!(
        "{}: connected again {} ms after its start; the kernel routed nothing; both ends were reset",
        cluster.gateway.netns,
        took.as_millis()
    )))
}

fn pair_is_closed(demo: &Demo, scene: &Scene) -> Result<()> {
    if let Connected::Yes(_) = scene.pair.connect(demo, WATCHED)? {
        bail!("{} was connected without a gateway", scene.pair.name());
    }
    Ok(())
}

/// Packets that the kernel of the namespace routed: ForwDatagrams of IP (RFC 4293).
fn routed(netns: &str) -> Result<u64> {
    let text = netns::inside(netns, || {
        Ok(std::fs::read_to_string("/proc/thread-self/net/snmp")?)
    })?;
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (lines.next(), lines.next());
    let mut both = names
        .into_iter()
        .flat_map(str::split_whitespace)
        .zip(values.into_iter().flat_map(str::split_whitespace));
    let value = both.find(|(name, _)| *name == "ForwDatagrams");
    Ok(value.context("no ForwDatagrams")?.1.parse()?)
}
