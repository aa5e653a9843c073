//! Two clusters whose pods have the same addresses, with real daemons: declared with `mapTo`, and joined by a
//! token, where each gateway chooses a prefix for itself.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use landbridge_netns::{
    Demo,
    plan::{Cluster, Plan, Pod},
    possible,
    probe::{Fate, Probe, Protocol, all},
};

const EXAMPLE: &str = "deploy/examples/overlapping";
/// Facts of the demo that must hold at mapped addresses as they do at others.
const FACTS: [&str; 7] = [
    "trust",
    "allowed-across",
    "denied-across",
    "allowed-same-node",
    "policy-saved",
    "live-cut",
    "agent-killed",
];
/// Of the server, in every cluster.
const PORT: u16 = 8080;
/// After this nobody waits any longer.
const HOPELESS: Duration = Duration::from_secs(20);

#[test]
fn clusters_with_the_same_addresses_connect_as_labels_say() -> Result<()> {
    if !possible("the test of overlapping pod ranges")? {
        return Ok(());
    }
    let demo = Demo::up(EXAMPLE)?;
    let result = declared(&demo);
    demo.down()?;
    result?;
    let demo = Demo::up_with(EXAMPLE, &["--by-token"])?;
    let result = joined(&demo);
    demo.down()?;
    result
}

fn declared(demo: &Demo) -> Result<()> {
    let plan = demo.plan()?;
    look(&plan, [[100, 102], [100, 101]])?;
    for fact in FACTS {
        let output = demo.landbridge(&["demo", "check", "--only", fact])?;
        let said = String::from_utf8_lossy(&output.stdout);
        let holds = output.status.success() && !said.contains("# SKIP");
        ensure!(holds, "{fact}:\n{said}");
    }
    Ok(())
}

/// No agreement is needed: each sees the other at the first prefix of its own pool, which is the same here.
fn joined(demo: &Demo) -> Result<()> {
    let plan = demo.plan()?;
    look(&plan, [[100, 64], [100, 64]])?;
    for gateway in ["east-gw1", "west-gw1"] {
        let members = demo.said(&["members", "--gateway", gateway])?;
        ensure!(
            members.contains("100.64.0.0/16 (there 10.1.0.0/16)"),
            "{members}"
        );
    }
    // A cluster that leaves and comes back is seen where it was, although nobody else got the prefix.
    demo.said(&["leave", "--gateway", "west-gw1"])?;
    let [east, west] = clusters(&plan)?;
    let dialled = probe(east, "client", SocketAddrV4::new(at([100, 64], 10), PORT))?;
    wait(
        || Ok(all(&[(dialled.clone(), false)])? != [Fate::Echoed]),
        "it left",
    )?;
    let token = demo.said(&["invite", "--gateway", "east-gw1"])?;
    let token = token.lines().next().context("a token")?;
    demo.said(&["join", token, "--gateway", "west-gw1"])?;
    wait(
        || Ok(all(&[(dialled.clone(), true)])? == [Fate::Echoed]),
        "it is back",
    )?;
    look(&plan, [[100, 64], [100, 64]])?;
    // Dialled where it really is, an address is one of the own cluster.
    let own = get(west, "client", at([10, 1], 10))?;
    ensure!(own.starts_with("west/default/server\n"), "{own}");
    Ok(())
}

/// Both ways, with the other cluster where `seen` says.
fn look(plan: &Plan, seen: [[u8; 2]; 2]) -> Result<()> {
    let [east, west] = clusters(plan)?;
    let [west_at, east_at] = seen;
    for (here, there, far, near) in [
        (east, west, west_at, east_at),
        (west, east, east_at, west_at),
    ] {
        let said = get(here, "client", at(far, 10))?;
        let expected = format!("{}/default/server\nyou are {}\n", there.name, at(near, 11));
        ensure!(
            said.ends_with(&expected),
            "{said:?} instead of {expected:?}"
        );
        let own = get(here, "visitor", at([10, 1], 10))?;
        ensure!(
            own.contains(&format!("{}/default/server\n", here.name)),
            "{own}"
        );
        // Whoever has another label gets no answer, and so does every address but the server's.
        for (pod, to) in [
            ("visitor", at(far, 10)),
            ("client", at(far, 11)),
            ("client", at(far, 77)),
        ] {
            let probe = probe(here, pod, SocketAddrV4::new(to, PORT))?;
            let [fate] = all(&[(probe, false)])?[..] else {
                anyhow::bail!("one probe has one fate")
            };
            let denied = matches!(fate, Fate::Refused | Fate::Silence);
            ensure!(denied, "{} {pod} to {to}: {fate}", here.name);
        }
    }
    Ok(())
}

/// What the server at `to` says to `pod`.
fn get(cluster: &Cluster, pod: &str, to: Ipv4Addr) -> Result<String> {
    let mut stream = probe(cluster, pod, SocketAddrV4::new(to, PORT))?.open()?;
    stream.set_read_timeout(Some(HOPELESS))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let body = said.split_once("\r\n\r\n").context("an answer")?.1;
    Ok(body.to_owned())
}

fn probe(cluster: &Cluster, name: &str, target: SocketAddrV4) -> Result<Probe> {
    let mut pods = cluster.pods.iter();
    let pod: &Pod = pods.find(|pod| pod.name == name).context("a pod")?;
    Ok(Probe {
        netns: pod.netns.clone(),
        source: pod.address,
        target,
        protocol: Protocol::Tcp,
    })
}

fn clusters(plan: &Plan) -> Result<[&Cluster; 2]> {
    match &plan.clusters[..] {
        [east, west] => Ok([east, west]),
        _ => anyhow::bail!("two clusters"),
    }
}

fn at([a, b]: [u8; 2], last: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, 1, last)
}

fn wait(mut holds: impl FnMut() -> Result<bool>, until: &str) -> Result<()> {
    let begun = Instant::now();
    while !holds()? {
        ensure!(begun.elapsed() < HOPELESS, "waited for: {until}");
    }
    Ok(())
}
