//! The running agents and gateways explain both ends, and name the same rules that the files say.

use anyhow::{Context, Result, bail};
use policy::{Explanation, model::Direction};
use serde_json::json;

use super::{
    Demo, Enforcer,
    pairs::{self, Distance, Pair},
};
use crate::{
    demo::{pods, tap::Verdict},
    explain::explanation,
};

/// Asks both ends of an allowed and of a denied pair: the agent beside the source for its egress, the
/// source's gateway for what the other cluster announced, and the agent beside the destination for
/// what that one enforces.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let pairs = pairs::all(demo)?;
    let across = |allowed: bool| {
        pairs
            .iter()
            .filter(move |p| p.distance() == Distance::Across && p.answer.is_allowed() == allowed)
            // A rule of the other end says more than a default, and the more when it alone decides.
            .max_by_key(|p| {
                let by_rule = p.answer.ingress.verdict.rule.is_some();
                (by_rule, p.answer.egress.verdict.is_allowed())
            })
    };
    let chosen: Vec<&Pair> = [true, false].into_iter().filter_map(across).collect();
    if chosen.is_empty() {
        return Ok(Verdict::Skipped("there is no pair across clusters".into()));
    }
    let mut notes = Vec::new();
    for pair in chosen {
        let near = demo.agent_of(&pair.from)?;
        let gateway = demo.gateway(demo.place(&pair.from)?.0);
        let far = demo.agent_of(&pair.to)?;
        let egress = ask(demo, pair, &near, Direction::Egress)?;
        let announced = ask(demo, pair, &gateway, Direction::Ingress)?;
        let ingress = ask(demo, pair, &far, Direction::Ingress)?;
        same(pair, &near, &egress, &pair.answer.egress)?;
        same(pair, &gateway, &announced, &pair.answer.ingress)?;
        same(pair, &far, &ingress, &pair.answer.ingress)?;
        notes.push(format!(
            "{}\n  {}: egress {}\n  {} from the digest: ingress {}\n  {}: ingress {}",
            pair.name(),
            near.role,
            egress.because,
            gateway.role,
            announced.because,
            far.role,
            ingress.because
        ));
    }
    Ok(Verdict::Holds(notes.join("\n")))
}

fn ask(demo: &Demo, pair: &Pair, whom: &Enforcer, direction: Direction) -> Result<Explanation> {
    let name = |end| {
        let (cluster, pod) = demo.place(end)?;
        anyhow::Ok(pods::full_name(cluster, pod))
    };
    let (from, to) = (name(&pair.from)?, name(&pair.to)?);
    let described = [
        pair.from.described(from.clone()),
        pair.to.described(to.clone()),
    ];
    let answer = whom.request(&json!({
        "op": "explain",
        "from": from,
        "to": to,
        "port": pair.port,
        "protocol": "tcp",
        "described": described,
    }))?;
    explanation(&answer, direction)
        .with_context(|| format!("{} explains no {direction:?}: {answer}", whom.role))
}

/// Both must come to the same end by the same rule.
fn same(pair: &Pair, whom: &Enforcer, said: &Explanation, files: &Explanation) -> Result<()> {
    if said.verdict.decision != files.verdict.decision || said.verdict.rule != files.verdict.rule {
        bail!(
            "{}: {} says {:?}, the files say {:?}",
            pair.name(),
            whom.role,
            said.because,
            files.because
        );
    }
    Ok(())
}
