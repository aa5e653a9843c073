//! An agent that is killed, or stopped: the kernel keeps its rules, so nothing new comes in, and what
//! was allowed goes on without it.

use std::{net::TcpStream, time::Duration};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::super::attack::Scene;
use crate::{
    demo::{
        facts::{Demo, Enforcer, pairs::Pair},
        http::{self, Connected},
        tap::Verdict,
        wait,
    },
    oracle::End,
};

/// How long an echo may take.
const ECHO: Duration = Duration::from_secs(3);
/// How long a connection that must not come up is watched: two SYNs.
const WATCHED: Duration = Duration::from_millis(1300);
/// How long a process may take to stop.
const STOPS: Duration = Duration::from_secs(2);

/// Kills the agent beside the server, then the one beside the client.
pub fn killed(demo: &mut Demo) -> Result<Verdict> {
    let Some(scene) = Scene::find(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let mut notes = Vec::new();
    for end in [&scene.pair.to, &scene.pair.from] {
        let (cluster, node) = demo.node_of(end)?;
        let role = cluster.agent_role(node);
        let (mut stream, port) = established(&scene)?;
        let flow = called(demo, &scene.pair, end, port)?;
        super::kill(demo, &role)?;
        let closed = closed_and_alive(demo, &scene.pair, &mut stream);
        super::start_agent(demo, cluster, node)?;
        closed.with_context(|| format!("without {role}"))?;
        if !knows(&demo.agent(cluster, node), &flow)? {
            bail!("{role} does not know {flow} after its restart");
        }
        super::works_again(demo, &scene.pair)?;
        http::echo(&mut stream).with_context(|| format!("after the restart of {role}"))?;
        notes.push(role);
    }
    Ok(Verdict::Holds(format!(
        "{}: {}",
        scene.pair.name(),
        notes.join(", then ")
    )))
}

/// Stops the agent beside the server, and lets it go on.
pub fn stopped(demo: &mut Demo) -> Result<Verdict> {
    let Some(scene) = Scene::find(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let (cluster, node) = demo.node_of(&scene.pair.to)?;
    let role = cluster.agent_role(node);
    let (mut stream, _) = established(&scene)?;
    let id = super::process(demo, &role)?;
    id.signal(Signal::SIGSTOP);
    let stopped = wait::until(STOPS, || id.is_stopped());
    let closed = if stopped {
        closed_and_alive(demo, &scene.pair, &mut stream)
    } else {
        Err(anyhow::anyhow!("it does not stop"))
    };
    id.signal(Signal::SIGCONT);
    closed.with_context(|| format!("while {role} stands still"))?;
    let again = super::works_again(demo, &scene.pair)?;
    http::echo(&mut stream).with_context(|| format!("after {role} went on"))?;
    Ok(Verdict::Holds(format!(
        "{}: {role}; connected again after {} ms",
        scene.pair.name(),
        again.as_millis()
    )))
}

/// A connection of which both agents keep a record, and the client's port.
fn established(scene: &Scene) -> Result<(TcpStream, u16)> {
    let (client, mut stream) = scene.established(ECHO)?;
    for _ in 0..2 {
        http::echo(&mut stream)?;
    }
    Ok((stream, client))
}

/// How the agent beside `end` calls it: by the addresses that this end sees.
fn called(demo: &Demo, pair: &Pair, end: &End, port: u16) -> Result<String> {
    let address = |of: &End| match of.claims.trust_domain() == end.claims.trust_domain() {
        true => Ok(demo.place(of)?.1.address),
        false => pair.seen(demo, of),
    };
    let (client, server) = (address(&pair.from)?, address(&pair.to)?);
    Ok(format!("tcp {client}:{port} > {server}:{}", pair.port))
}

fn closed_and_alive(demo: &Demo, pair: &Pair, stream: &mut TcpStream) -> Result<()> {
    if let Connected::Yes(_) = pair.connect(demo, WATCHED)? {
        bail!("{} was connected", pair.name());
    }
    http::echo(stream).context("the connection that stood does not go on")
}

fn knows(agent: &Enforcer, flow: &str) -> Result<bool> {
    let answer = agent.ask("flows")?;
    let flows = answer["flows"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(flows.iter().any(|it| it["flow"] == flow))
}
