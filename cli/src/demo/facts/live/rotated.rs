//! Keys are exchanged, and nobody notices.

use std::{
    net::TcpStream,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use observe::{KeyKind, RotateRequest, TrustRequest};
use serde_json::{Value, json};

use super::{HOPELESS, established};
use crate::demo::{
    facts::{Demo, Enforcer, in_force, pairs, pairs::Pair},
    http::echo,
    tap::Verdict,
    wait,
};

/// How long a key is published before it is used.
const USE_AFTER: u32 = 2;
/// How long the one before it is believed after that: agents get new SVIDs within 3 s.
const RETIRE_AFTER: u32 = 5;
/// Between two new connections: ports are not to come round within one look.
const PACE: Duration = Duration::from_millis(50);

/// Exchanges the issuer key of an allowed pair's source, and its root where no configuration names it.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let Some(pair) = pairs::allowed_across(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let mut notes = vec![exchanged(demo, &pair, KeyKind::IssuerKey)?];
    // A pin in a file would have to follow, and facts leave things as they were.
    if demo.plan.by_token {
        notes.push(exchanged(demo, &pair, KeyKind::Root)?);
    }
    Ok(Verdict::Holds(format!(
        "{}: {}",
        pair.name(),
        notes.join("; ")
    )))
}

fn exchanged(demo: &Demo, pair: &Pair, kind: KeyKind) -> Result<String> {
    let gateway = demo.gateway(demo.place(&pair.from)?.0);
    let old = names(&gateway, kind)?;
    if !wait::until(HOPELESS + HOPELESS, || {
        all_connected(&gateway).is_ok_and(|all| all)
    }) {
        bail!("{} is not connected to all peers and nodes", gateway.role);
    }
    let sessions = sessions(demo)?;
    let mut stream = established(demo, pair)?;
    let since = Instant::now();
    ask(
        &gateway,
        &TrustRequest::Rotate(RotateRequest {
            key: kind,
            use_after: Some(USE_AFTER),
            retire_after: Some(RETIRE_AFTER),
            anyway: false,
        }),
    )?;
    let mut connections = 0;
    let retired = loop {
        lives(&mut stream, pair, since)?;
        in_force::expect_now(demo, pair, true)?;
        connections += 1;
        sleep(PACE);
        let now = names(&gateway, kind)?;
        if now.len() == 1 && now != old {
            break since.elapsed();
        }
        if since.elapsed() > Duration::from_secs((USE_AFTER + RETIRE_AFTER).into()) + HOPELESS {
            bail!("{now:?} are believed, and {old:?} is not retired");
        }
    };
    // The last moment before an old key went is not the one that shows it.
    let after = Instant::now();
    while after.elapsed() < Duration::from_secs(1) {
        lives(&mut stream, pair, since)?;
        in_force::expect_now(demo, pair, true)?;
        connections += 1;
        sleep(PACE);
    }
    let now = self::sessions(demo)?;
    if now != sessions {
        bail!("sessions were {sessions:?}, and are {now:?}");
    }
    Ok(format!(
        "{} exchanged within {} ms, {connections} new connections meanwhile, one stands",
        kind.as_str(),
        retired.as_millis()
    ))
}

fn lives(stream: &mut TcpStream, pair: &Pair, since: Instant) -> Result<()> {
    let after = since.elapsed().as_millis();
    echo(stream).with_context(|| format!("{} broke after {after} ms", pair.name()))
}

/// The keys of a kind that are believed.
fn names(gateway: &Enforcer, kind: KeyKind) -> Result<Vec<String>> {
    let all = ask(gateway, &TrustRequest::Keys {})?;
    let all = all.as_array().context("no list of keys")?;
    let of_kind = all.iter().filter(|key| key["key"] == kind.as_str());
    let names = of_kind.map(|key| key["name"].as_str().unwrap_or_default().to_owned());
    Ok(names.collect())
}

fn ask(gateway: &Enforcer, request: &TrustRequest) -> Result<Value> {
    let mut line = json!(request);
    line["op"] = "trust".into();
    gateway.request(&line)
}

/// An agent that lost its session waits longer and longer before it dials again.
fn all_connected(gateway: &Enforcer) -> Result<bool> {
    let status = gateway.ask("status")?;
    let lists = ["peers", "nodes"].map(|of| status[of].as_array().cloned().unwrap_or_default());
    Ok(lists.iter().flatten().all(|one| one["connected"] == true))
}

/// Since when each gateway has its session with each peer.
fn sessions(demo: &Demo) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for cluster in &demo.plan.clusters {
        let gateway = demo.gateway(cluster);
        let status = gateway.ask("status")?;
        for peer in status["peers"].as_array().context("no peers")? {
            let (name, since) = (&peer["trust_domain"], &peer["since"]);
            if peer["connected"] != true {
                bail!("{} is not connected to {name}", gateway.role);
            }
            all.push(format!("{} {name} {since}", gateway.role));
        }
    }
    Ok(all)
}
