//! A gateway that is killed over and over never seals with a key and a counter that were used before:
//! with AES-GCM two such packets would give away the key of their authentication.

use std::{collections::HashSet, time::Duration};

use anyhow::{Context, Result, bail};

use super::super::attack::Scene;
use crate::demo::{
    facts::Demo,
    http::{self, Connected},
    pcap,
    tap::Verdict,
    wait,
};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// Kills and starts the client's gateway, with traffic in between, and compares every tunnel packet of
/// the whole capture with every other.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let Some(scene) = Scene::find(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let cluster = demo.place(&scene.pair.from)?.0.clone();
    for number in 0..demo.restarts {
        demo.interrupts.check()?;
        super::kill_gateway(demo, &cluster)?;
        super::start_gateway(demo, &cluster)?;
        super::works_again(demo, &scene.pair).with_context(|| format!("restart {number}"))?;
        let Connected::Yes(mut stream) = scene.pair.connect(demo, ANSWER)? else {
            bail!("{} was not connected", scene.pair.name());
        };
        http::get_on(&mut stream, "/bytes/10000", ANSWER)?;
    }
    let file = demo.capture.tunnel_file();
    let (mut seen, mut keys, mut twice) = Default::default();
    // The end may be half a record, which is whole a moment later.
    let whole = wait::until(ANSWER, || {
        (seen, keys, twice) = (HashSet::new(), HashSet::new(), 0_u64);
        let look_at = |frame: &[u8]| {
            if let Some((key, counter)) = pcap::tunnel_counter(frame) {
                keys.insert(key);
                twice += u64::from(!seen.insert((key, counter)));
            }
        };
        pcap::for_each(file, look_at).is_ok()
    });
    if !whole {
        bail!("{} is not whole", file.display());
    }
    if twice > 0 {
        bail!("{twice} tunnel packets have the key and the counter of another");
    }
    if seen.is_empty() {
        bail!("the capture holds no tunnel packet");
    }
    Ok(Verdict::Holds(format!(
        "{} restarts, {} tunnel packets under {} keys",
        demo.restarts,
        seen.len(),
        keys.len()
    )))
}
