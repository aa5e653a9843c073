//! The running agents answer for both ends, and name the same rules that the files say.

use anyhow::{Context, Result, bail};
use policy::Explanation;
use serde_json::json;

use super::{
    Demo,
    pairs::{self, Distance, Pair},
};
use crate::{
    demo::{plan::Cluster, pods, tap::Verdict},
    explain::explanations,
};

/// Asks the agents of an allowed and of a denied pair, and compares with what the files say.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let pairs = pairs::all(demo)?;
    let across = |allowed: bool| {
        pairs
            .iter()
            .filter(move |p| p.distance() == Distance::Across && p.answer.is_allowed() == allowed)
            // One that a rule decides says more than one that a default decides.
            .max_by_key(|p| p.answer.ingress.verdict.rule.is_some())
    };
    let chosen: Vec<&Pair> = [true, false].into_iter().filter_map(across).collect();
    if chosen.is_empty() {
        return Ok(Verdict::Skipped("there is no pair across clusters".into()));
    }
    let mut notes = Vec::new();
    for pair in chosen {
        let egress = ask(demo, pair, true)?;
        let ingress = ask(demo, pair, false)?;
        same(pair, &egress, &pair.answer.egress)?;
        same(pair, &ingress, &pair.answer.ingress)?;
        notes.push(format!(
            "{}\negress {}\ningress {}",
            pair.name(),
            egress.because,
            ingress.because
        ));
    }
    Ok(Verdict::Holds(notes.join("\n")))
}

/// What the agent at one end says of its own cluster's policies.
fn ask(demo: &Demo, pair: &Pair, egress: bool) -> Result<Explanation> {
    let agent = demo.agent_of(if egress { &pair.from } else { &pair.to })?;
    let name = |(cluster, pod): (&Cluster, _)| pods::full_name(cluster, pod);
    let answer = agent.request(&json!({
        "op": "explain",
        "from": name(demo.place(&pair.from)?),
        "to": name(demo.place(&pair.to)?),
        "port": pair.port,
        "protocol": "tcp",
    }))?;
    let wanted = if egress { "egress" } else { "ingress" };
    explanations(&answer)
        .into_iter()
        .find(|e| serde_json::to_value(e.direction).is_ok_and(|d| d == wanted))
        .with_context(|| format!("{} explains no {wanted}: {answer}", agent.role))
}

fn same(pair: &Pair, agent: &Explanation, files: &Explanation) -> Result<()> {
    if agent.verdict != files.verdict {
        bail!(
            "{}: the agent says {:?}, the files say {:?}",
            pair.name(),
            agent.because,
            files.because
        );
    }
    Ok(())
}
