//! Clusters that know nothing of each other: each reads a folder that speaks of itself alone, and they
//! join by tokens, as an operator would have them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use serde_norway::Value;

use super::{
    netns,
    plan::{Cluster, Plan},
    process,
    state::State,
};

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

/// Every cluster joins every one before it. How long each took, in words.
pub fn join_all(plan: &Plan, state: &State, own: &Path) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for (number, joiner) in plan.clusters.iter().enumerate() {
        for inviter in plan.clusters.iter().take(number) {
            let begun = Instant::now();
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
    landbridge(own, &state.gateway(joiner), &["join", token])?;
    Ok(())
}

/// What the command says to the gateway whose state is in `gateway`.
pub fn landbridge(own: &Path, gateway: &Path, args: &[&str]) -> Result<String> {
    let mut command = Command::new(own);
    command.args(args).arg("--gateway").arg(gateway);
    netns::output(command.env(process::MARK, gateway))
}
