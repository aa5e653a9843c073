//! Which pods a peer may meet, with real daemons: by the options of a token, and by an object that is
//! saved while a connection stands. What is not offered is refused as that where it is known, and the
//! other cluster is not told of it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddrV4,
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use landbridge_netns::{
    Demo,
    plan::Plan,
    possible,
    probe::{Fate, Probe, Protocol, all, echo},
};
use serde_json::Value;

/// After this nobody waits any longer.
const HOPELESS: Duration = Duration::from_secs(20);
/// Of every server.
const PORT: u16 = 8080;
const EAST: [&str; 2] = ["--gateway", "east-gw1"];
const WEST: [&str; 2] = ["--gateway", "west-gw1"];

#[test]
fn a_peer_meets_the_pods_that_are_offered_to_it_and_is_told_of_no_others() -> Result<()> {
    if !possible("the test of offers")? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    write_clusters(folder.path())?;
    let config = folder.path().display().to_string();
    let demo = Demo::up_with(&config, &["--by-token"])?;
    let result = look(&demo);
    demo.down()?;
    result
}

fn look(demo: &Demo) -> Result<()> {
    let plan = demo.plan()?;
    // All pods are offered: policy alone decides.
    reaches(&plan, "client", "api")?;
    reaches(&plan, "client", "vault")?;
    reaches(&plan, "vault", "desk")?;
    ensure!(knows(demo, "vault-door")?, "east is told of all policies");

    demo.said(&[&["leave"], &WEST[..]].concat())?;
    let token = demo.said(&[&["invite"], &EAST[..]].concat())?;
    let token = token.lines().next().context("a token")?;
    let offer = ["--offer-namespaces", "public,shared-*"];
    demo.said(&[&["join", token], &offer[..], &WEST[..]].concat())?;
    let members = demo.said(&[&["members"], &WEST[..]].concat())?;
    ensure!(
        members.contains(", offered namespaces public, shared-*"),
        "{members}"
    );
    reaches(&plan, "client", "api")?;
    reaches(&plan, "api", "desk")?;
    not_offered(demo, &plan)?;
    changes_while_it_runs(demo, &plan)
}

/// West's gateway is the first on the way that knows of it, in both directions.
fn not_offered(demo: &Demo, plan: &Plan) -> Result<()> {
    for (from, to) in [("client", "vault"), ("vault", "desk")] {
        let before = not_offered_packets(demo)?;
        ensure!(fate(plan, from, to)? != Fate::Echoed, "{from} meets {to}");
        let said = not_offered_packets(demo)? > before;
        ensure!(said, "{from} to {to}: west's gateway did not say so");
    }
    for (from, to) in [
        ("east/default/client", "west/hidden/vault"),
        ("west/hidden/vault", "east/default/desk"),
    ] {
        let ends = ["explain", "--from", from, "--to", to, "--port", "8080"];
        let said = demo.said(&ends)?;
        ensure!(said.contains(": denied"), "{said}");
        ensure!(
            said.contains("west.example/hidden/vault is not offered to east.example"),
            "{said}"
        );
        ensure!(!said.contains("which is not what is enforced"), "{said}");
    }
    // What east's gateway holds of west names what it may meet, and nothing else.
    wait(
        || Ok(!knows(demo, "vault-door")?),
        "east knows of the vault",
    )?;
    ensure!(knows(demo, "api-door")?, "east is told of the api");
    ensure!(!knows(demo, "hidden")?, "east knows of the namespace");
    // And the status of both says which digest that is.
    let all: Value = serde_json::from_str(&demo.said(&["status", "--output", "json"])?)?;
    let (told, heard) = (&all["west-gw1"]["peers"][0], &all["east-gw1"]["peers"][0]);
    ensure!(
        told["told_hash"].is_string() && told["told_hash"] == heard["digest_hash"],
        "{all}"
    );
    ensure!(
        told["told_hash"] != all["west-gw1"]["own"]["digest_hash"],
        "{all}"
    );
    ensure!(heard["enforced_hash"] == heard["digest_hash"], "{all}");
    for peer in [told, heard] {
        ensure!(peer["problems"] == Value::Array(vec![]), "{peer}");
    }
    Ok(())
}

/// The session stands, no process starts again, and what is offered no more is cut.
fn changes_while_it_runs(demo: &Demo, plan: &Plan) -> Result<()> {
    let since = |demo: &Demo| -> Result<Value> {
        let all: Value = serde_json::from_str(&demo.said(&["status", "--output", "json"])?)?;
        Ok(all["west-gw1"]["peers"][0]["since"].clone())
    };
    let before = since(demo)?;
    offer(demo, "[public, hidden]")?;
    wait(
        || Ok(fate(plan, "client", "vault")? == Fate::Echoed),
        "the vault is not met",
    )?;
    wait(|| knows(demo, "vault-door"), "east is not told of it")?;
    let mut standing = probe(plan, "client", "vault")?.hold()?;
    offer(demo, "[public]")?;
    wait(
        || Ok(echo(&mut standing, Duration::from_secs(1)).is_err()),
        "a live connection goes on",
    )?;
    wait(
        || Ok(!knows(demo, "vault-door")?),
        "east knows of the vault still",
    )?;
    ensure!(
        fate(plan, "client", "vault")? != Fate::Echoed,
        "a new one opens"
    );
    reaches(plan, "client", "api")?;
    ensure!(since(demo)? == before, "the session was another");
    Ok(())
}

/// West's operator saves what east may meet.
fn offer(demo: &Demo, namespaces: &str) -> Result<()> {
    let object = format!(
        "apiVersion: landbridge.io/v1alpha1\nkind: FederationPeer\nmetadata: {{name: east}}\n\
         spec: {{cluster: east, offer: {{namespaces: {namespaces}}}}}\n"
    );
    fs::write(demo.config().join("west/peers.yaml"), object).context("peers.yaml")
}

/// Whether what east's gateway stored of west holds these words.
fn knows(demo: &Demo, words: &str) -> Result<bool> {
    let path = demo
        .state()
        .join("gateways/east-gw1/peer.west.example.sealed");
    let stored = fs::read(&path).with_context(|| path.display().to_string())?;
    Ok(stored
        .windows(words.len())
        .any(|part| part == words.as_bytes()))
}

/// How many packets west's gateway dropped for that reason.
fn not_offered_packets(demo: &Demo) -> Result<u64> {
    let dir = demo.state().join("gateways/west-gw1");
    let mut stream = UnixStream::connect(dir.join("admin.sock"))?;
    stream.set_read_timeout(Some(HOPELESS))?;
    stream.write_all(b"{\"op\":\"counters\"}\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let counters: Value = serde_json::from_str(&line)?;
    Ok(counters["dropped"]["not-offered"]
        .as_u64()
        .unwrap_or_default())
}

fn reaches(plan: &Plan, from: &str, to: &str) -> Result<()> {
    wait(
        || Ok(fate(plan, from, to)? == Fate::Echoed),
        &format!("{from} does not reach {to}"),
    )
}

fn fate(plan: &Plan, from: &str, to: &str) -> Result<Fate> {
    match all(&[(probe(plan, from, to)?, false)])?[..] {
        [fate] => Ok(fate),
        _ => bail!("one probe has one fate"),
    }
}

fn probe(plan: &Plan, from: &str, to: &str) -> Result<Probe> {
    let pod = |name: &str| {
        let mut pods = plan.clusters.iter().flat_map(|cluster| &cluster.pods);
        pods.find(|pod| pod.name == name).context("a pod")
    };
    let (from, to) = (pod(from)?, pod(to)?);
    Ok(Probe {
        netns: from.netns.clone(),
        source: from.address,
        target: SocketAddrV4::new(to.address, PORT),
        protocol: Protocol::Tcp,
    })
}

fn wait(mut holds: impl FnMut() -> Result<bool>, otherwise: &str) -> Result<()> {
    let begun = Instant::now();
    while !holds()? {
        ensure!(begun.elapsed() < HOPELESS, "{otherwise}");
    }
    Ok(())
}

/// Two clusters whose policies let all of these talk: what is refused is refused by the offer.
fn write_clusters(folder: &Path) -> Result<()> {
    let mut clusters = String::new();
    for (number, name) in [(1, "east"), (2, "west")] {
        clusters += &format!(
            "  - {{name: {name}, trustDomain: {name}.example, nodes: [node1], \
             podRanges: [{{id: {number}, cidr: 10.{number}.0.0/16}}]}}\n"
        );
        fs::create_dir(folder.join(name))?;
    }
    let federation = format!(
        "apiVersion: landbridge.io/v1alpha1\nkind: Federation\nmetadata: {{name: pair}}\n\
         spec:\n  clusters:\n{clusters}"
    );
    fs::write(folder.join("federation.yaml"), federation)?;
    // A pod that serves, and may be met by and meet everybody of the other cluster.
    let pod = |name: &str, namespace: &str, theirs: &str| {
        let either = |direction: &str, word: &str| {
            format!(
                "  {direction}:\n  - action: Allow\n    {word}:\n    \
                 - {{scope: Remote, namespaces: {theirs}}}\n"
            )
        };
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, \
             labels: {{app: {name}}}}}\nspec:\n  containers:\n  - {{name: it, image: landbridge/demo, \
             ports: [{{name: http, containerPort: {PORT}}}]}}\n---\n\
             apiVersion: landbridge.io/v1alpha1\nkind: FederationPolicy\n\
             metadata: {{name: {name}-door, namespace: {namespace}}}\n\
             spec:\n  subject: {{podSelector: {{matchLabels: {{app: {name}}}}}}}\n{}{}---\n",
            either("ingress", "from"),
            either("egress", "to"),
        )
    };
    let east = ["client", "desk"].map(|name| pod(name, "default", "[public, hidden]"));
    fs::write(folder.join("east/pods.yaml"), east.concat())?;
    let west = pod("api", "public", "[default]") + &pod("vault", "hidden", "[default]");
    fs::write(folder.join("west/pods.yaml"), west)?;
    Ok(())
}
