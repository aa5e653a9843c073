//! Two clusters that joined a third one alone, by tokens, are introduced by it: their pods talk, on real
//! packets, and it is in none of their ways. What is taken back, removed, refused and accepted by hand.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use landbridge_netns::{Demo, possible};
use serde_json::Value;

/// After this nobody waits any longer.
const HOPELESS: Duration = Duration::from_secs(20);
const HUB: [&str; 2] = ["--gateway", "hub-gw1"];
const LEFT: [&str; 2] = ["--gateway", "left-gw1"];
const RIGHT: [&str; 2] = ["--gateway", "right-gw1"];
/// Of the demo: all pairs that policy allows connect, by TCP, and no others; what proves itself to whom.
const FACTS: [&str; 3] = ["trust", "allowed-across", "denied-across"];

#[test]
fn clusters_that_were_introduced_are_peers_of_each_other_alone() -> Result<()> {
    if !possible("the test of introductions")? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    write_clusters(folder.path())?;
    let config = folder.path().display().to_string();
    let demo = Demo::up_with(&config, &["--by-token", "--introduced"])?;
    let result = look(&demo);
    demo.down()?;
    result
}

fn look(demo: &Demo) -> Result<()> {
    for fact in FACTS {
        let output = demo.landbridge(&["demo", "check", "--only", fact])?;
        let said = String::from_utf8_lossy(&output.stdout);
        let shown = output.status.success() && !said.contains("# SKIP");
        ensure!(shown, "{fact}:\n{said}");
    }
    // It says who made them known, and what its pods may claim.
    let member = member(demo, LEFT, "right")?.context("right is no member of left")?;
    let by = member["introduced_by"][0].as_str().unwrap_or_default();
    ensure!(by.starts_with("hub.example until "), "{member}");
    withdrawn(demo)?;
    removed(demo)?;
    audited(demo)
}

/// Whoever knows the other by the introducer alone forgets it, and hears it again.
fn withdrawn(demo: &Demo) -> Result<()> {
    demo.said(&[&["introduce", "left", "right", "--withdraw"], &HUB[..]].concat())?;
    for (at, other) in [(LEFT, "right"), (RIGHT, "left")] {
        wait(
            || Ok(member(demo, at, other)?.is_none()),
            "it is not taken back",
        )?;
        wait(
            || Ok(!connected(demo, at, other)?),
            "there is a session still",
        )?;
        ensure!(connected(demo, at, "hub")?, "and the others stay");
    }
    demo.said(&[&["introduce", "right", "left"], &HUB[..]].concat())?;
    meet(demo)
}

/// An operator's word counts for more than the introducer's.
fn removed(demo: &Demo) -> Result<()> {
    demo.said(&[&["remove", "right"], &LEFT[..]].concat())?;
    for (at, other) in [(LEFT, "right"), (RIGHT, "left")] {
        let waits = || Ok(pending(demo, at, other)?.contains("it was removed here"));
        wait(waits, "it does not wait")?;
        ensure!(!connected(demo, at, other)?, "it is a peer still");
    }
    for (at, other) in [(LEFT, "right"), (RIGHT, "left")] {
        let accepted = demo.said(&[&["accept", other], &at[..]].concat())?;
        ensure!(accepted.contains("introduced by hub.example"), "{accepted}");
    }
    meet(demo)?;
    // By its own configuration it is one that nobody can take back; so it is for whoever is none.
    let output = demo.landbridge(&[&["accept", "right"], &LEFT[..]].concat())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        !output.status.success() && said.contains("waits to be accepted"),
        "{said}"
    );
    let output = demo.landbridge(&[&["introduce", "left", "nobody"], &HUB[..]].concat())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("there is no cluster"), "{said}");
    let said = demo.said(&[&["introductions"], &HUB[..]].concat())?;
    ensure!(
        said.contains("introduced: right (right.example) and left"),
        "{said}"
    );
    Ok(())
}

/// Both commands and what came of them stand in the audit logs, and so do the signatures.
fn audited(demo: &Demo) -> Result<()> {
    for (gateway, words) in [
        (
            "hub-gw1",
            &[
                "\"do\":\"introduce\"",
                "\"do\":\"withdraw\"",
                "\"what\":\"introductions\"",
            ][..],
        ),
        (
            "left-gw1",
            &[
                "\"do\":\"introduced\"",
                "\"do\":\"introduction-ended\"",
                "\"do\":\"accept\"",
            ],
        ),
    ] {
        let path = demo
            .state()
            .join("gateways")
            .join(gateway)
            .join("audit.log");
        let log = fs::read_to_string(&path)?;
        for word in words {
            ensure!(log.contains(word), "{gateway}: no {word} in its audit log");
        }
    }
    Ok(())
}

fn meet(demo: &Demo) -> Result<()> {
    for (at, other) in [(LEFT, "right"), (RIGHT, "left")] {
        wait(|| connected(demo, at, other), "they do not meet")?;
    }
    Ok(())
}

fn members(demo: &Demo, gateway: [&str; 2]) -> Result<Vec<Value>> {
    let said = demo.said(&[&["members", "--output", "json"], &gateway[..]].concat())?;
    Ok(serde_json::from_str(&said)?)
}

fn member(demo: &Demo, gateway: [&str; 2], name: &str) -> Result<Option<Value>> {
    let is = |member: &Value| member["name"] == name && member["pending"].is_null();
    Ok(members(demo, gateway)?.into_iter().find(is))
}

/// Why it waits; empty when it does not.
fn pending(demo: &Demo, gateway: [&str; 2], name: &str) -> Result<String> {
    let mut all = members(demo, gateway)?.into_iter();
    let found = all.find(|member| member["name"] == name && member["pending"].is_string());
    Ok(found.map_or_else(String::new, |member| member["pending"].to_string()))
}

fn connected(demo: &Demo, gateway: [&str; 2], peer: &str) -> Result<bool> {
    let said = demo.said(&["status", "--output", "json"])?;
    let all: Value = serde_json::from_str(&said)?;
    let mut peers = all[gateway[1]]["peers"]
        .as_array()
        .context("no peers")?
        .iter();
    let domain = format!("{peer}.example");
    Ok(peers.any(|peer| peer["trust_domain"] == *domain && peer["connected"] == true))
}

fn wait(mut holds: impl FnMut() -> Result<bool>, otherwise: &str) -> Result<()> {
    let begun = Instant::now();
    while !holds()? {
        ensure!(begun.elapsed() < HOPELESS, "{otherwise}");
    }
    Ok(())
}

/// A hub without pods of interest, and two clusters between which one pair may talk.
fn write_clusters(folder: &Path) -> Result<()> {
    let mut clusters = String::new();
    for (number, name) in [(1, "hub"), (2, "left"), (3, "right")] {
        clusters += &format!(
            "  - {{name: {name}, trustDomain: {name}.example, nodes: [node1], \
             podRanges: [{{id: {number}, cidr: 10.{number}.0.0/16}}]}}\n"
        );
        fs::create_dir(folder.join(name))?;
    }
    let federation = format!(
        "apiVersion: landbridge.io/v1alpha1\nkind: Federation\nmetadata: {{name: star}}\n\
         spec:\n  clusters:\n{clusters}"
    );
    fs::write(folder.join("federation.yaml"), federation)?;
    let pod = |name: &str, ports: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n\
             spec:\n  containers:\n  - {{name: it, image: landbridge/demo{ports}}}\n---\n"
        )
    };
    let http = ", ports: [{name: http, containerPort: 8080}]";
    // Every member means the same by them; a cluster that is not known yet is named by nobody.
    let policy = |name: &str, direction: &str, end: &str, other: &str, word: &str| {
        format!(
            "apiVersion: landbridge.io/v1alpha1\nkind: FederationPolicy\nmetadata: {{name: {name}}}\n\
             spec:\n  subject: {{podSelector: {{matchLabels: {{app: {end}}}}}}}\n  {direction}:\n  \
             - action: Allow\n    {word}:\n    - {{scope: Remote, namespaces: [default], \
             podSelector: {{matchLabels: {{app: {other}}}}}}}\n"
        )
    };
    fs::write(folder.join("hub/idle.yaml"), pod("idle", ""))?;
    let client = pod("client", "") + &policy("out", "egress", "client", "server", "to");
    fs::write(folder.join("left/client.yaml"), client)?;
    let server = pod("server", http) + &policy("in", "ingress", "server", "client", "from");
    fs::write(folder.join("right/server.yaml"), server)?;
    Ok(())
}
