//! received = forwarded + replied + punted + consumed + held + dropped, at every gateway and agent.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    Demo, Enforcer,
    pairs::{self, Attempt, Distance},
};
use crate::demo::{tap::Verdict, wait};

/// How long packets may still be on their way through an enforcer.
const SETTLES: Duration = Duration::from_secs(3);
/// Where a packet that was received can have gone, besides `dropped`.
const FATES: [&str; 5] = ["forwarded", "replied", "punted", "consumed", "held"];

/// Adds up. An enforcer that pods are behind must have received something.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    if demo.attempts.is_none() {
        demo.attempts = Some(pairs::try_all(demo)?);
    }
    let busy = busy(demo)?;
    let mut notes = Vec::new();
    for enforcer in demo.enforcers() {
        let is_busy = busy.contains(&enforcer.role);
        let mut last = Value::Null;
        let balanced = wait::for_some(SETTLES, || match counters(&enforcer) {
            Ok((all, received, accounted)) => {
                last = all;
                (received == accounted && (received > 0 || !is_busy)).then_some(received)
            }
            Err(e) => {
                last = Value::String(format!("{e:#}"));
                None
            }
        });
        match balanced {
            Some(received) => notes.push(format!("{} {received}", enforcer.role)),
            None => bail!("{}: {}", enforcer.role, unbalanced(&last)),
        }
    }
    Ok(Verdict::Holds(notes.join(", ")))
}

/// Who must have seen a packet of the pairs that were tried: the agents beside both pods, and the
/// gateway of the source when it is another cluster's than the destination's.
fn busy(demo: &Demo) -> Result<BTreeSet<String>> {
    let mut busy = BTreeSet::new();
    for Attempt { pair, .. } in demo.attempts.iter().flatten() {
        busy.insert(demo.agent_of(&pair.from)?.role);
        if pair.distance() == Distance::Across && pair.answer.is_allowed() {
            busy.insert(demo.gateway(demo.place(&pair.from)?.0).role);
            busy.insert(demo.gateway(demo.place(&pair.to)?.0).role);
            busy.insert(demo.agent_of(&pair.to)?.role);
        }
    }
    Ok(busy)
}

fn counters(enforcer: &Enforcer) -> Result<(Value, u64, u64)> {
    let all = enforcer.ask("counters")?;
    let received = number(&all, "received")?;
    let mut accounted = 0;
    for fate in FATES {
        accounted += number(&all, fate)?;
    }
    let dropped = all["dropped"].as_object().context("no \"dropped\"")?;
    accounted += dropped.values().filter_map(Value::as_u64).sum::<u64>();
    Ok((all, received, accounted))
}

fn number(counters: &Value, name: &str) -> Result<u64> {
    counters[name]
        .as_u64()
        .with_context(|| format!("no number {name:?} in {counters}"))
}

fn unbalanced(counters: &Value) -> String {
    if counters["received"] == 0 {
        return "it received nothing, so its counters prove nothing".into();
    }
    format!("its counters do not add up: {counters}")
}
