//! Clusters that know nothing of each other: each reads a folder that speaks of itself alone, and they
//! join by tokens, as an operator would have them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use serde_norway::Value;

use super::{
    netns,
    plan::{Cluster, Plan},
    process,
    state::State,
};
use crate::admin;

/// How long two that were introduced may take to show each other, and how often that is looked at.
const MEET: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);

/// The folder that `cluster` reads: a Federation of itself, and its own manifests, which stay where they
/// are edited.
pub fn view(cluster: &Cluster, state: &State) -> Result<PathBuf> {
    let dir = state.dir().join("views").join(&cluster.name);
    if dir.join("federation.yaml").exists() {
        // Somebody reads it already.
        return Ok(dir);
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let text = fs::read_to_string(state.config().join("federation.yaml"))?;
    let mut federation = Value::deserialize(serde_norway::Deserializer::from_str(&text))?;
    let clusters = federation["spec"]["clusters"].as_sequence();
    let own = clusters.and_then(|all| all.iter().find(|of| of["name"] == *cluster.name));
    let mut own = own.context("the Federation has no such cluster")?.clone();
    if own.get("podRanges").is_none() {
        // By default they follow from its place among the others, which are not there now.
        let ranges = cluster.ranges.iter().zip(1_u16..);
        let ranges: Vec<_> = ranges
            .map(|(cidr, id)| json!({"id": id, "cidr": cidr}))
            .collect();
        own["podRanges"] = serde_norway::to_value(ranges)?;
    }
    federation["spec"]["clusters"] = Value::Sequence(vec![own]);
    let made = serde_norway::to_string(&federation)?;
    fs::write(dir.join("federation.yaml"), made)?;
    let link = dir.join(&cluster.name);
    if fs::symlink_metadata(&link).is_err() {
        symlink(state.config().join(&cluster.name), &link)
            .with_context(|| format!("cannot make {}", link.display()))?;
    }
    Ok(dir)
}

/// Every cluster joins every one before it, or the first one alone, which introduces them to each other.
/// How long each took, in words.
pub fn join_all(plan: &Plan, state: &State, own: &Path) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for (number, joiner) in plan.clusters.iter().enumerate() {
        for (place, inviter) in plan.clusters.iter().enumerate().take(number) {
            let begun = Instant::now();
            if plan.introduced && place > 0 {
                said.push(introduce(plan, [inviter, joiner], state, own)?);
                continue;
            }
            join(inviter, joiner, state, own)?;
            said.push(format!(
                "{} joined {} in {} ms",
                joiner.name,
                inviter.name,
                begun.elapsed().as_millis()
            ));
        }
    }
    Ok(said)
}

/// One token is made and brought, by the commands that people use.
pub fn join(inviter: &Cluster, joiner: &Cluster, state: &State, own: &Path) -> Result<()> {
    let made = landbridge(
        own,
        &state.gateway(inviter),
        &["invite", "--output", "json"],
    )?;
    let made: Json = serde_json::from_str(&made).context("the invitation")?;
    let token = made["token"].as_str().context("no token came")?;
    // Who made the token may introduce others, where the joiner accepts that at all.
    let join = ["join", token, "--introducer"];
    landbridge(own, &state.gateway(joiner), &join)?;
    Ok(())
}

/// The first cluster introduces two others to each other, which know each other then.
fn introduce(plan: &Plan, clusters: [&Cluster; 2], state: &State, own: &Path) -> Result<String> {
    let begun = Instant::now();
    let first = plan.clusters.first().context("no cluster")?;
    let [one, other] = clusters;
    let introduce = ["introduce", &*one.name, &*other.name];
    landbridge(own, &state.gateway(first), &introduce)?;
    for (at, of) in [(one, other), (other, one)] {
        let meets = || -> Result<bool> {
            let status = admin::ask(&state.gateway(at), &json!({"op": "status"}))?;
            let peers = status["peers"].as_array().cloned().unwrap_or_default();
            let meets = |peer: &Json| {
                peer["trust_domain"] == *of.trust_domain
                    && peer["connected"] == true
                    && peer["digest_sequence"].is_number()
            };
            Ok(peers.iter().any(meets))
        };
        while !meets()? {
            if begun.elapsed() > MEET {
                bail!("{} does not show {}", at.name, of.name);
            }
            sleep(LOOK);
        }
    }
    let took = begun.elapsed().as_millis();
    Ok(format!(
        "{} introduced {} and {} in {took} ms",
        first.name, one.name, other.name
    ))
}

/// What the command says to the gateway whose state is in `gateway`.
pub fn landbridge(own: &Path, gateway: &Path, args: &[&str]) -> Result<String> {
    let mut command = Command::new(own);
    command.args(args).arg("--gateway").arg(gateway);
    netns::output(command.env(process::MARK, gateway))
}
