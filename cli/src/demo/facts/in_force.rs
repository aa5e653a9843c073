//! What is saved is in force: for policies and for labels, in both directions.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use identity::Labels;

use super::{
    Demo,
    edit::{self, Edited},
    live,
    pairs::{self, Distance, Pair, TCP},
};
use crate::demo::{http::Connected, tap::Verdict};

/// What is saved must decide connections that begin this much later.
const IN_FORCE: Duration = Duration::from_secs(1);
/// After this nobody waits any longer.
const HOPELESS: Duration = Duration::from_secs(5);
/// An allowed connection on this machine takes a few milliseconds.
const ATTEMPT: Duration = Duration::from_millis(150);
/// Attempts in a row that must agree.
const IN_A_ROW: usize = 3;

/// A FederationPolicy that denies an allowed pair is saved beside the others, and removed.
pub fn policy_saved(demo: &mut Demo) -> Result<Verdict> {
    let Some(pair) = pairs::allowed_across(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let (source, from) = demo.place(&pair.from)?;
    let (target, to) = demo.place(&pair.to)?;
    let policy = format!(
        "apiVersion: landbridge.io/v1alpha1\n\
         kind: FederationPolicy\n\
         metadata: {{name: demo-check, namespace: {}}}\n\
         spec:\n  order: 1\n  isolates: None\n  ingress:\n  - name: check\n    action: Deny\n    \
         from:\n    - {{clusters: [{}], namespaces: [{}]}}\n",
        to.namespace, source.name, from.namespace
    );
    let path = demo
        .state
        .config()
        .join(&target.name)
        .join("zz-demo-check.yaml");
    expect_now(demo, &pair, true)?;
    let (edited, saved) = Edited::save(path, &policy)?;
    let denied = takes_effect(demo, &pair, false, saved)?;
    let removed = edited.undo()?;
    let allowed = takes_effect(demo, &pair, true, removed)?;
    Ok(Verdict::Holds(format!(
        "{}: denied after {} ms, allowed again after {} ms",
        pair.name(),
        denied.as_millis(),
        allowed.as_millis()
    )))
}

/// A label of the source of an allowed pair is changed so that policy denies it, and put back.
pub fn relabelled(demo: &mut Demo) -> Result<Verdict> {
    let Some((pair, key)) = label_that_matters(demo)? else {
        return Ok(Verdict::Skipped(
            "no single label decides a pair across clusters".into(),
        ));
    };
    let (cluster, pod) = demo.place(&pair.from)?;
    let dir = demo.state.config().join(&cluster.name);
    let (path, mut documents, place) = edit::find_pod(&dir, &pod.namespace, &pod.name)?;
    documents[place]["metadata"]["labels"][key.as_str()] = CHANGED.into();
    expect_now(demo, &pair, true)?;
    let (edited, saved) = Edited::save(path, &edit::text(&documents)?)?;
    let denied = takes_effect(demo, &pair, false, saved)?;
    let put_back = edited.undo()?;
    let allowed = takes_effect(demo, &pair, true, put_back)?;
    Ok(Verdict::Holds(format!(
        "{} with {key}={CHANGED}: denied after {} ms, allowed again after {} ms",
        pair.name(),
        denied.as_millis(),
        allowed.as_millis()
    )))
}

/// A connection that stands is cut when a label of its source changes so that policy denies it.
pub fn live_cut(demo: &mut Demo) -> Result<Verdict> {
    let Some((pair, key)) = label_that_matters(demo)? else {
        return Ok(Verdict::Skipped(
            "no single label decides a pair across clusters".into(),
        ));
    };
    let (cluster, pod) = demo.place(&pair.from)?;
    let dir = demo.state.config().join(&cluster.name);
    let (path, mut documents, place) = edit::find_pod(&dir, &pod.namespace, &pod.name)?;
    documents[place]["metadata"]["labels"][key.as_str()] = CHANGED.into();
    let mut stream = live::established(demo, &pair)?;
    let (edited, saved) = Edited::save(path, &edit::text(&documents)?)?;
    let heard = live::ends(&mut stream, &pair, saved);
    let put_back = edited.undo()?;
    takes_effect(demo, &pair, true, put_back)?;
    let heard = heard?;
    Ok(Verdict::Holds(format!(
        "{} with {key}={CHANGED}: last heard {} ms after the file was saved",
        pair.name(),
        heard.as_millis()
    )))
}

/// A label value that no policy allows.
const CHANGED: &str = "demo-check";

/// An allowed pair across clusters and a label of its source without which it would be denied.
fn label_that_matters(demo: &Demo) -> Result<Option<(Pair, String)>> {
    for pair in pairs::all(demo)? {
        if pair.distance() != Distance::Across || !pair.answer.is_allowed() {
            continue;
        }
        for (key, _) in &pair.from.claims.labels {
            let mut labels: BTreeMap<_, _> = pair.from.claims.labels.clone().into();
            labels.insert(key.to_owned(), CHANGED.into());
            let mut changed = pair.from.clone();
            changed.claims.labels = Labels::try_from(labels)?;
            if !demo
                .oracle
                .ask(&changed, &pair.to, TCP, pair.port)
                .is_allowed()
            {
                return Ok(Some((pair.clone(), key.to_owned())));
            }
        }
    }
    Ok(None)
}

/// Fails at once when the pair is not as it must be before a change.
pub fn expect_now(demo: &Demo, pair: &Pair, allowed: bool) -> Result<()> {
    let limit = if allowed { HOPELESS } else { ATTEMPT };
    let connected = matches!(pair.connect(demo, limit)?, Connected::Yes(_));
    if connected != allowed {
        bail!(
            "{} was {} before anything was changed",
            pair.name(),
            if connected {
                "connected"
            } else {
                "not connected"
            }
        );
    }
    Ok(())
}

/// How long after `since` the first of several connections in a row began that were all allowed,
/// or all denied.
///
/// # Errors
/// When that took longer than 1 s.
pub fn takes_effect(demo: &Demo, pair: &Pair, allowed: bool, since: Instant) -> Result<Duration> {
    let word = if allowed { "allowed" } else { "denied" };
    let mut first: Option<Instant> = None;
    let mut agreeing = 0;
    while since.elapsed() < HOPELESS {
        let begin = Instant::now();
        let connected = matches!(pair.connect(demo, ATTEMPT)?, Connected::Yes(_));
        if connected != allowed {
            first = None;
            agreeing = 0;
            // Lets the enforcers work; on two cores, attempts without a pause would slow them.
            thread::sleep(Duration::from_millis(5));
            continue;
        }
        let first = *first.get_or_insert(begin);
        agreeing += 1;
        if agreeing == IN_A_ROW {
            let took = first.duration_since(since);
            if took > IN_FORCE {
                bail!(
                    "{} was {word} only {} ms after the file was saved",
                    pair.name(),
                    took.as_millis()
                );
            }
            return Ok(took);
        }
    }
    bail!(
        "{} was not {word} within {} s after the file was saved",
        pair.name(),
        HOPELESS.as_secs()
    )
}
