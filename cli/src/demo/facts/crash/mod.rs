//! Gateways and agents that are killed, or stand still.

pub mod agent;
pub mod gateway;
pub mod restarts;
pub mod startup;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::{Demo, pairs::Pair};
use crate::demo::{
    daemons,
    http::Connected,
    plan::{Cluster, Node},
    preflight::Binaries,
    process::ProcessId,
    wait,
};

/// How long the kernel may take to end a process, or to stop its threads.
const SIGNALLED: Duration = Duration::from_secs(5);
/// After this nobody waits any longer for a connection.
const HOPELESS: Duration = Duration::from_secs(10);
/// One attempt, so short that a lost SYN is tried anew.
const ATTEMPT: Duration = Duration::from_millis(150);

/// Ends the gateway of `cluster` as a crash does.
pub fn kill_gateway(demo: &Demo, cluster: &Cluster) -> Result<()> {
    kill(demo, &cluster.gateway_role())
}

/// Starts it again.
pub fn start_gateway(demo: &Demo, cluster: &Cluster) -> Result<()> {
    let program = Binaries::beside_own()?.gateway;
    daemons::start_gateway(cluster, &demo.state, &program, &demo.journal).map(drop)
}

/// Starts an agent again and waits until it is ready.
fn start_agent(demo: &Demo, cluster: &Cluster, node: &Node) -> Result<()> {
    let program = Binaries::beside_own()?.agent;
    let started = daemons::start_agent(cluster, node, &demo.state, &program, &demo.journal)?;
    daemons::wait_ready(&[started], &demo.state, &demo.interrupts)
}

fn kill(demo: &Demo, role: &str) -> Result<()> {
    let id = process(demo, role)?;
    id.signal(Signal::SIGKILL);
    if !wait::until(SIGNALLED, || !id.is_alive()) {
        bail!("{role} (pid {}) does not end", id.pid);
    }
    Ok(())
}

/// Ends a process cleanly: it takes back what it put in force.
fn stop(demo: &Demo, role: &str) -> Result<()> {
    let id = process(demo, role)?;
    id.signal(Signal::SIGTERM);
    if !wait::until(HOPELESS, || !id.is_alive()) {
        bail!("{role} (pid {}) does not end", id.pid);
    }
    Ok(())
}

fn process(demo: &Demo, role: &str) -> Result<ProcessId> {
    demo.running(role)?
        .with_context(|| format!("{role} does not run"))
}

/// How long it takes until `pair` is connected again.
pub fn works_again(demo: &Demo, pair: &Pair) -> Result<Duration> {
    let begin = Instant::now();
    while begin.elapsed() < HOPELESS {
        if let Connected::Yes(_) = pair.connect(demo, ATTEMPT)? {
            return Ok(begin.elapsed());
        }
    }
    bail!(
        "{} was not connected again within {} s",
        pair.name(),
        HOPELESS.as_secs()
    )
}
