//! The first milliseconds of a process: one that takes over from one that was killed, and one before which
//! nothing ran.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};

use super::super::attack::{Scene, Side, replayed};
use crate::demo::{
    daemons,
    facts::Demo,
    netns,
    onpath::{Kind, Tap},
    preflight::Binaries,
    segment::{self, Segment},
    tap::Verdict,
    wait,
};

/// Between two probes.
const PAUSE: Duration = Duration::from_millis(1);
/// The ports that probes come from, one after the other.
const PORTS: std::ops::Range<u16> = 20_000..30_000;
/// How long it may take until one passes where nothing keeps it.
const OPEN: Duration = Duration::from_secs(5);
/// How long what was let through may take to where it would be seen.
const LATE: Duration = Duration::from_millis(300);

/// Where probes are judged, where they would be seen, and what they are.
struct Place<'a> {
    side: Side,
    behind: (&'a str, &'a str),
    bare: Vec<u8>,
}

/// What became of probes.
struct Probed {
    sent: u16,
    passed: u32,
}

/// Bare SYNs, one each millisecond, from before the agent beside the server is killed until its
/// successor is ready, and the same at the client's gateway. Then both are ended cleanly, which opens the
/// way, closed by their `close`, and probed from there until they are ready.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let Some(scene) = Scene::find(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let [near, far] = replayed::record(&scene)?;
    let agent = at_agent(demo, &scene, &far)?;
    let gateway = at_gateway(demo, &scene, &near)?;
    super::works_again(demo, &scene.pair)?;
    Ok(Verdict::Holds(format!(
        "{agent} bare SYNs at an agent, {gateway} at a gateway: none passed, killed or for the first time"
    )))
}

/// How many probes the agent beside the server kept.
fn at_agent(demo: &Demo, scene: &Scene, syn: &[u8]) -> Result<u16> {
    let (cluster, node) = demo.node_of(&scene.pair.to)?;
    let server = demo.place(&scene.pair.to)?.1;
    let place = Place {
        side: Side::Far,
        behind: (&server.netns, "eth0"),
        bare: segment::stripped(syn)?,
    };
    let role = cluster.agent_role(node);
    let start = || super::start_agent(demo, cluster, node);
    let killed = none_passes(scene, &place, || {
        super::kill(demo, &role)?;
        start()
    })
    .with_context(|| format!("{role}, killed"))?;

    super::stop(demo, &role)?;
    // Otherwise the probes would show nothing.
    let open = probe(scene, &place, |passed| {
        wait::until(OPEN, || passed.load(Ordering::Relaxed) > 0);
        Ok(())
    });
    let program = Binaries::beside_own()?.agent;
    let dir = demo.state.agent(cluster, node);
    let closed = daemons::close(&demo.state, &node.netns, &program, &dir);
    let first = none_passes(scene, &place, start);
    let first = first.with_context(|| format!("{role}, for the first time"))?;
    closed?;
    if open?.passed == 0 {
        bail!("no bare SYN passes although no agent is there: the probes show nothing");
    }
    Ok(killed + first)
}

/// How many probes the client's gateway kept.
fn at_gateway(demo: &Demo, scene: &Scene, syn: &[u8]) -> Result<u16> {
    let cluster = demo.place(&scene.pair.from)?.0;
    let wan_port = cluster.wan_port();
    let place = Place {
        side: Side::Near,
        behind: (&demo.plan.wan, &wan_port),
        bare: segment::stripped(syn)?,
    };
    let role = cluster.gateway_role();
    let start = || {
        super::start_gateway(demo, cluster)?;
        super::works_again(demo, &scene.pair).map(drop)
    };
    let killed = none_passes(scene, &place, || {
        super::kill(demo, &role)?;
        start()
    })
    .with_context(|| format!("{role}, killed"))?;

    // Between a clean end and `close` the kernel has the interfaces; it must not route, because nothing
    // in clear may cross the WAN.
    forwards(&cluster.gateway.netns, false)?;
    let closed = super::stop(demo, &role).and_then(|()| {
        let program = Binaries::beside_own()?.gateway;
        let dir = demo.state.gateway(cluster);
        daemons::close(&demo.state, &cluster.gateway.netns, &program, &dir)
    });
    if closed.is_ok() {
        forwards(&cluster.gateway.netns, true)?;
    }
    let first = none_passes(scene, &place, start);
    forwards(&cluster.gateway.netns, true)?;
    let first = first.with_context(|| format!("{role}, for the first time"))?;
    closed?;
    Ok(killed + first)
}

/// Lets the kernel of a namespace route, or not.
fn forwards(netns: &str, routes: bool) -> Result<()> {
    let value = if routes { "1" } else { "0" };
    netns::inside(netns, || {
        fs::write("/proc/sys/net/ipv4/ip_forward", value).context("ip_forward")
    })
}

/// Probes while `work` is done; how many were sent.
fn none_passes(scene: &Scene, place: &Place<'_>, work: impl FnOnce() -> Result<()>) -> Result<u16> {
    let probed = probe(scene, place, |_| work())?;
    if probed.passed > 0 {
        bail!("{} of {} bare SYNs passed", probed.passed, probed.sent);
    }
    Ok(probed.sent)
}

/// Sends probes where segments of the client come to the judge while `work` is done, and looks for them
/// behind it. `work` is told how many passed so far.
fn probe(
    scene: &Scene,
    place: &Place<'_>,
    work: impl FnOnce(&AtomicU32) -> Result<()>,
) -> Result<Probed> {
    let Place { side, behind, bare } = place;
    let segment = Segment::parse(bare).context("it is no segment")?;
    let mut onward = scene.hop(*side, Kind::Syn).onward()?;
    let mut tap = Tap::open(behind.0, behind.1)?;
    let (sent, passed) = (AtomicU16::new(0), AtomicU32::new(0));
    let over = AtomicBool::new(false);
    let is_probe = |frame: &[u8]| {
        Segment::parse(frame).is_some_and(|it| {
            it.from.0 == scene.client && PORTS.contains(&it.from.1) && it.to == scene.server
        })
    };
    let worked = thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<()> {
            for port in PORTS {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                onward.send(&segment.with_source(bare, (scene.client, port)))?;
                sent.fetch_add(1, Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
            Ok(())
        });
        let watcher = scope.spawn(|| {
            let mut look = || {
                let seen = u32::from(tap.next(LATE, is_probe).is_ok());
                passed.fetch_add(seen, Ordering::Relaxed);
            };
            while !over.load(Ordering::Relaxed) {
                look();
            }
            look();
        });
        let worked = work(&passed);
        over.store(true, Ordering::Relaxed);
        let sending = sender
            .join()
            .unwrap_or_else(|_| bail!("the sender panicked"));
        let watching = watcher.join().map_err(|_| anyhow!("the watcher panicked"));
        worked.and(sending).and(watching)
    });
    worked?;
    Ok(Probed {
        sent: sent.into_inner(),
        passed: passed.into_inner(),
    })
}
