//! The first milliseconds of a process that takes over from one that was killed.

use std::{
    sync::atomic::{AtomicBool, AtomicU16, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::super::attack::{Scene, Side, replayed};
use crate::demo::{
    facts::Demo,
    onpath::{Kind, Tap},
    segment::{self, Segment},
    tap::Verdict,
};

/// Between two probes.
const PAUSE: Duration = Duration::from_millis(1);
/// The ports that probes come from, one after the other.
const PORTS: std::ops::Range<u16> = 20_000..30_000;
/// How long what was let through may take to where it would be seen.
const LATE: Duration = Duration::from_millis(300);

/// Bare SYNs, one each millisecond, from before the agent beside the server is killed until its
/// successor is ready, and the same at the client's gateway.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let Some(scene) = Scene::find(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let (target, node) = demo.node_of(&scene.pair.to)?;
    let server = demo.place(&scene.pair.to)?.1;
    let agent = probe(&scene, Side::Far, (&server.netns, "eth0"), || {
        super::kill(demo, &target.agent_role(node))?;
        super::start_agent(demo, target, node)
    })
    .with_context(|| target.agent_role(node))?;

    let source = demo.place(&scene.pair.from)?.0;
    let wan = (demo.plan.wan.as_str(), source.wan_port());
    let gateway = probe(&scene, Side::Near, (wan.0, &wan.1), || {
        super::kill_gateway(demo, source)?;
        super::start_gateway(demo, source)?;
        super::works_again(demo, &scene.pair).map(drop)
    })
    .with_context(|| source.gateway_role())?;
    Ok(Verdict::Holds(format!(
        "{agent} bare SYNs at {}, {gateway} at {}: none passed",
        target.agent_role(node),
        source.gateway_role()
    )))
}

/// Sends probes where segments of the client come to `side`'s judge while `work` is done, and looks for
/// them at `behind`; how many were sent.
fn probe(
    scene: &Scene,
    side: Side,
    behind: (&str, &str),
    work: impl FnOnce() -> Result<()>,
) -> Result<u16> {
    let [near, far] = replayed::record(scene)?;
    let bare = segment::stripped(match side {
        Side::Near => &near,
        Side::Far => &far,
    })?;
    let segment = Segment::parse(&bare).context("it is no segment")?;
    let mut onward = scene.hop(side, Kind::Syn).onward()?;
    let mut tap = Tap::open(behind.0, behind.1)?;
    let (sent, over) = (AtomicU16::new(0), AtomicBool::new(false));
    let is_probe = |frame: &[u8]| {
        Segment::parse(frame).is_some_and(|it| {
            it.from.0 == scene.client && PORTS.contains(&it.from.1) && it.to == scene.server
        })
    };
    let (worked, passed) = thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<()> {
            for port in PORTS {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                onward.send(&segment.with_source(&bare, (scene.client, port)))?;
                sent.fetch_add(1, Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
            Ok(())
        });
        let watcher = scope.spawn(|| {
            let mut passed = 0;
            while !over.load(Ordering::Relaxed) {
                passed += u32::from(tap.next(LATE, is_probe).is_ok());
            }
            passed + u32::from(tap.next(LATE, is_probe).is_ok())
        });
        let worked = work();
        over.store(true, Ordering::Relaxed);
        let sending = sender
            .join()
            .unwrap_or_else(|_| bail!("the sender panicked"));
        (worked.and(sending), watcher.join().unwrap_or(u32::MAX))
    });
    worked?;
    if passed > 0 {
        bail!("{passed} bare SYNs passed");
    }
    Ok(sent.into_inner())
}
