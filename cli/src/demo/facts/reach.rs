//! Who reaches whom: the kernel and the policies agree on every pair of pods.

use std::time::Duration;

use anyhow::{Result, bail};

use super::{
    Demo,
    pairs::{self, Attempt, Distance, TCP},
};
use crate::demo::{http::Connected, tap::Verdict, wait};

/// Attempts that are looked at, should a packet of another connection cross during one.
const LOOKS: usize = 3;
/// Complaints that are printed.
const MOST: usize = 8;

/// Across clusters, allowed.
pub fn allowed_across(demo: &mut Demo) -> Result<Verdict> {
    judge(demo, Distance::Across, true)
}

/// Across clusters, not allowed.
pub fn denied_across(demo: &mut Demo) -> Result<Verdict> {
    judge(demo, Distance::Across, false)
}

/// Between two nodes of a cluster, allowed.
pub fn allowed_inside(demo: &mut Demo) -> Result<Verdict> {
    judge(demo, Distance::Inside, true)
}

/// Between two nodes of a cluster, denied.
pub fn denied_inside(demo: &mut Demo) -> Result<Verdict> {
    judge(demo, Distance::Inside, false)
}

/// On one node, allowed.
pub fn allowed_same_node(demo: &mut Demo) -> Result<Verdict> {
    judge(demo, Distance::SameNode, true)
}

/// On one node, denied.
pub fn denied_same_node(demo: &mut Demo) -> Result<Verdict> {
    judge(demo, Distance::SameNode, false)
}

/// The SYN of a connection that no rule of the peer's digest admits is counted as `peer-denies` at
/// the own gateway, and the peer's gateway receives nothing of it.
pub fn refused_early(demo: &mut Demo) -> Result<Verdict> {
    let hopeless = pairs::all(demo)?.into_iter().find(|pair| {
        let target = pair.to.claims.trust_domain();
        pair.distance() == Distance::Across
            && pair.answer.egress.verdict.is_allowed()
            && !demo.oracle.may_admit(target, &pair.from, TCP, pair.port)
    });
    let Some(pair) = hopeless else {
        return Ok(Verdict::Skipped(
            "every pod may reach something on each port of the other cluster".into(),
        ));
    };
    let near = demo.gateway(demo.place(&pair.from)?.0);
    let far = demo.gateway(demo.place(&pair.to)?.0);
    let counted = || near.counter("dropped.peer-denies");
    let mut crossed = 0;
    for _ in 0..LOOKS {
        let (before, far_before) = (counted()?, far.counter("received")?);
        if let Connected::Yes(_) = pair.connect(demo, Duration::from_millis(500))? {
            bail!("{} was connected", pair.name());
        }
        let grew = || counted().is_ok_and(|now| now > before);
        if !wait::until(Duration::from_secs(2), grew) {
            bail!(
                "{}: {} counts no packet as peer-denies; its counters: {}",
                pair.name(),
                near.role,
                near.ask("counters")?
            );
        }
        crossed = far.counter("received")? - far_before;
        if crossed == 0 {
            return Ok(Verdict::Holds(format!(
                "{}: peer-denies at {}",
                pair.name(),
                near.role
            )));
        }
    }
    bail!(
        "{}: {crossed} packets reached {}, and some each of {LOOKS} times",
        pair.name(),
        far.role
    )
}

fn judge(demo: &mut Demo, distance: Distance, allowed: bool) -> Result<Verdict> {
    if demo.attempts.is_none() {
        demo.attempts = Some(pairs::try_all(demo)?);
    }
    let attempts: Vec<&Attempt> = demo
        .attempts
        .iter()
        .flatten()
        .filter(|a| a.pair.distance() == distance && a.pair.answer.is_allowed() == allowed)
        .collect();
    if attempts.is_empty() {
        return Ok(Verdict::Skipped(
            "the configuration has no such pair".into(),
        ));
    }
    let wrong: Vec<String> = attempts
        .iter()
        .filter_map(|attempt| Some((attempt, attempt.wrong.as_ref()?)))
        .map(|(attempt, wrong)| complaint(demo, attempt, wrong))
        .collect();
    if wrong.is_empty() {
        return Ok(Verdict::Holds(format!(
            "{} connections tried",
            attempts.len()
        )));
    }
    let shown: Vec<_> = wrong.iter().take(MOST).cloned().collect();
    bail!(
        "{} of {} connections are not as policy says:\n{}",
        wrong.len(),
        attempts.len(),
        shown.join("\n")
    )
}

fn complaint(demo: &Demo, attempt: &Attempt, wrong: &str) -> String {
    let pair = &attempt.pair;
    let enter = demo.place(&pair.from).map_or_else(
        |_| String::new(),
        |(_, pod)| format!("\n  look from nsenter --net=/run/netns/{}", pod.netns),
    );
    format!(
        "{}: {wrong}\n  egress {}\n  ingress {}{enter}",
        pair.name(),
        pair.answer.egress.because,
        pair.answer.ingress.because
    )
}
