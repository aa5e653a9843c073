//! Clusters that know nothing of each other join by tokens, and stay joined through restarts; tokens that
//! are not good get a precise error and change nothing.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use landbridge_netns::{Demo, possible};
use serde_json::Value;

/// Facts of the demo that must hold between clusters that joined as between those that were configured.
const FACTS: [&str; 11] = [
    "trust",
    "allowed-across",
    "denied-across",
    "refused-early",
    "explained",
    "policy-saved",
    "live-cut",
    "revoked",
    // Then agents and gateways meet each other by the new keys alone.
    "rotated",
    "agent-killed",
    "gateway-killed",
];
/// Both status pages must show each other after so long.
const MEET: Duration = Duration::from_secs(5);
/// After this nobody waits any longer.
const HOPELESS: Duration = Duration::from_secs(20);
const EAST: [&str; 2] = ["--gateway", "east-gw1"];
const WEST: [&str; 2] = ["--gateway", "west-gw1"];

#[test]
fn clusters_join_by_a_token_leave_and_join_again() -> Result<()> {
    if !possible("the test of joining")? {
        return Ok(());
    }
    let demo = Demo::up_with("deploy/examples/three-tier", &["--by-token"])?;
    let result = look(&demo);
    demo.down()?;
    result
}

fn look(demo: &Demo) -> Result<()> {
    for fact in FACTS {
        let output = demo.landbridge(&["demo", "check", "--only", fact])?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success() && !said.contains("# SKIP"),
            "{fact}:\n{said}"
        );
    }
    refused_tokens(demo)?;
    leaves_and_comes_back(demo)?;
    no_secret_is_logged(demo)
}

/// A used, altered, foreign or expired token, or one brought to its own cluster.
fn refused_tokens(demo: &Demo) -> Result<()> {
    let before = members(demo, WEST)?;
    let token = invite(demo, EAST, &[])?;
    let mut altered = token.clone();
    let last = altered.pop().context("a token")?;
    altered.push(if last == 'A' { 'B' } else { 'A' });
    refuses(demo, WEST, &altered, "the token is damaged")?;
    refuses(demo, WEST, "some text", "this is no join token")?;
    refuses(demo, EAST, &token, "which is this cluster")?;
    let short = invite(demo, EAST, &["--ttl", "1s"])?;
    let begun = Instant::now();
    // Until it is over: before that it is good.
    while begun.elapsed() < Duration::from_millis(2100) {
        std::thread::yield_now();
    }
    refuses(demo, WEST, &short, "this token expired at")?;
    // Whoever was a member already is none the less for it.
    ensure!(
        members(demo, WEST)? == before,
        "a refused token changed something"
    );
    Ok(())
}

fn leaves_and_comes_back(demo: &Demo) -> Result<()> {
    let left = demo.said(&[&["leave"], &WEST[..]].concat())?;
    ensure!(left.contains("left: east"), "{left}");
    // Both ends: the other one is told.
    for gateway in [EAST, WEST] {
        wait(
            || Ok(peers(demo, gateway)?.is_empty()),
            "a peer is left behind",
        )?;
        ensure!(
            members(demo, gateway)? == Value::Array(vec![]),
            "a member is"
        );
    }
    // A token that was used is good for nobody else, and a new one joins again, under limits.
    let token = invite(demo, EAST, &["--accept-namespaces", "elsewhere"])?;
    let begun = Instant::now();
    let joined = demo.said(&[&["join", &token], &WEST[..]].concat())?;
    let took = begun.elapsed();
    ensure!(joined.contains("joined east"), "{joined}");
    for gateway in [EAST, WEST] {
        wait(|| Ok(!peers(demo, gateway)?.is_empty()), "no peer is shown")?;
    }
    ensure!(begun.elapsed() < MEET, "{} ms", begun.elapsed().as_millis());
    writeln!(std::io::stderr(), "joined again in {} ms", took.as_millis())?;
    // What the invitation accepts holds: no pod of west is in such a namespace.
    let explain = || {
        let ends = ["--from", "west/shop/api", "--to", "east/shop/frontend"];
        let explained = demo.said(&[&["explain", "--port", "8080"], &ends[..]].concat())?;
        Ok(explained.contains("is not accepted here"))
    };
    wait(explain, "any namespace is accepted")?;
    let removed = demo.said(&[&["remove", "west"], &EAST[..]].concat())?;
    ensure!(removed.contains("removed: west"), "{removed}");
    wait(
        || Ok(peers(demo, WEST)?.is_empty()),
        "the other end was not told",
    )
}

/// Threat row 39: neither tokens nor keys are in what anybody logs.
fn no_secret_is_logged(demo: &Demo) -> Result<()> {
    let mut secrets = Vec::new();
    for gateway in ["east-gw1", "west-gw1"] {
        let dir = demo.state().join("gateways").join(gateway);
        let before = secrets.len();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "key" || e == "pem") {
                secrets.push(std::fs::read(path)?);
            }
        }
        ensure!(secrets.len() > before, "{gateway} has no keys");
    }
    for entry in std::fs::read_dir(demo.state().join("logs"))? {
        let path = entry?.path();
        let log = std::fs::read(&path)?;
        let text = String::from_utf8_lossy(&log);
        ensure!(!text.contains("lbj1."), "{}: a token", path.display());
        for secret in &secrets {
            let found = log
                .windows(secret.len().min(32))
                .any(|part| secret.starts_with(part));
            ensure!(!found, "{}: a key", path.display());
        }
    }
    Ok(())
}

fn invite(demo: &Demo, gateway: [&str; 2], options: &[&str]) -> Result<String> {
    let said = demo.said(&[&["invite"], options, &gateway[..]].concat())?;
    let token = said.lines().next().context("a token")?;
    Ok(token.to_owned())
}

fn refuses(demo: &Demo, gateway: [&str; 2], token: &str, words: &str) -> Result<()> {
    let output = demo.landbridge(&[&["join", token], &gateway[..]].concat())?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() || !said.contains(words) {
        bail!("not refused for {words:?}: {said}");
    }
    Ok(())
}

fn members(demo: &Demo, gateway: [&str; 2]) -> Result<Value> {
    let said = demo.said(&[&["members", "--output", "json"], &gateway[..]].concat())?;
    Ok(serde_json::from_str(&said)?)
}

/// The peers that are connected.
fn peers(demo: &Demo, gateway: [&str; 2]) -> Result<Vec<Value>> {
    let said = demo.said(&["status", "--output", "json"])?;
    let all: Value = serde_json::from_str(&said)?;
    let peers = all[gateway[1]]["peers"].as_array().cloned();
    let connected = peers.context("no peers")?.into_iter();
    Ok(connected.filter(|peer| peer["connected"] == true).collect())
}

fn wait(mut holds: impl FnMut() -> Result<bool>, otherwise: &str) -> Result<()> {
    let begun = Instant::now();
    while !holds()? {
        ensure!(begun.elapsed() < HOPELESS, "{otherwise}");
    }
    Ok(())
}
