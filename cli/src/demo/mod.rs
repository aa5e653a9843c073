//! The demo: the clusters of a configuration folder as network namespaces of this machine, with
//! real gateways and agents.

mod again;
mod by_token;
mod check;
mod config;
mod content;
mod daemons;
mod down;
mod facts;
mod http;
mod interrupt;
mod journal;
mod net;
mod netns;
mod onpath;
mod pcap;
mod plan;
mod pods;
mod preflight;
mod process;
mod segment;
pub mod server;
mod state;
pub mod tap;
mod up;
mod wait;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use self::{down::Keep, state::State};
use crate::{oracle::End, say::say};

/// Where a demo lives unless another directory is named.
const DEFAULT_STATE: &str = "/run/landbridge-demo";

/// Subcommands of `demo`.
#[derive(Debug, Subcommand)]
pub enum DemoCommand {
    /// Build the clusters of a configuration folder on this machine and start them
    Up(up::UpArgs),
    /// Look at every fact that the demo must show, as TAP 14
    Check(check::CheckArgs),
    /// End the demo and remove all of it
    Down(DownArgs),
}

/// Names the demo.
#[derive(Clone, Debug, Args)]
pub struct StateArg {
    /// The directory that holds everything of the demo
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE, global = true)]
    pub state: PathBuf,
}

/// Arguments of `demo down`.
#[derive(Debug, Args)]
pub struct DownArgs {
    #[command(flatten)]
    state: StateArg,
    /// Leave the logs, to look at what went wrong
    #[arg(long)]
    keep_logs: bool,
}

/// A demo that is up, for the commands that ask it.
pub struct Running {
    state: State,
    plan: plan::Plan,
}

/// The demo that is up in the named directory.
///
/// # Errors
/// When none is.
pub fn running(arg: &StateArg) -> Result<Running> {
    let state = State::new(&arg.state)?;
    let plan = state.running_plan()?;
    Ok(Running { state, plan })
}

impl Running {
    /// The configuration in force.
    pub fn config(&self) -> PathBuf {
        self.state.config()
    }

    /// Name and state directory of every gateway and agent.
    pub fn enforcers(&self) -> Vec<(String, PathBuf)> {
        let mut all = Vec::new();
        for cluster in &self.plan.clusters {
            all.push((cluster.gateway_role(), self.state.gateway(cluster)));
            for node in &cluster.nodes {
                all.push((cluster.agent_role(node), self.state.agent(cluster, node)));
            }
        }
        all
    }

    /// Name and state directory of every gateway.
    pub fn gateways(&self) -> Vec<(String, PathBuf)> {
        let clusters = self.plan.clusters.iter();
        clusters
            .map(|cluster| (cluster.gateway_role(), self.state.gateway(cluster)))
            .collect()
    }

    /// Name and state directory of the agent that serves a pod.
    pub fn agent_beside(&self, end: &End) -> Result<(String, PathBuf)> {
        let cluster = self.cluster_of(end)?;
        let node = cluster
            .node(&end.workload.node)
            .with_context(|| format!("{} has no agent", end.claims.display_name()))?;
        Ok((cluster.agent_role(node), self.state.agent(cluster, node)))
    }

    /// Name and state directory of the gateway of a pod's cluster.
    pub fn gateway_of(&self, end: &End) -> Result<(String, PathBuf)> {
        let cluster = self.cluster_of(end)?;
        Ok((cluster.gateway_role(), self.state.gateway(cluster)))
    }

    fn cluster_of(&self, end: &End) -> Result<&plan::Cluster> {
        let domain = end.claims.trust_domain().as_str();
        let cluster = self.plan.clusters.iter().find(|c| c.trust_domain == domain);
        cluster.with_context(|| format!("{} is not in this demo", end.claims.display_name()))
    }
}

/// Runs a subcommand of `demo`.
pub fn run(command: &DemoCommand) -> Result<()> {
    match command {
        DemoCommand::Up(args) => up::run(args),
        DemoCommand::Check(args) => check::run(args),
        DemoCommand::Down(args) => down(args),
    }
}

fn down(args: &DownArgs) -> Result<()> {
    // Held back and not asked for: half an undoing helps nobody, and it ends soon.
    let _interrupts = interrupt::Interrupts::handle()?;
    let state = State::new(&args.state.state)?;
    let dir = state.dir().display();
    preflight::root()?;
    let _lock = state.lock()?;
    let keep = match args.keep_logs {
        true => Keep::Logs,
        false => Keep::Nothing,
    };
    let undone = down::down(&state, keep)?;
    match undone {
        None => say!("no demo is up in {dir}"),
        Some(undone) => {
            for remark in &undone.remarks {
                say!("{remark}");
            }
            say!(
                "the demo in {dir} is gone: {} processes ended, {} network namespaces removed",
                undone.processes,
                undone.namespaces
            );
            if args.keep_logs {
                say!("its logs stay in {dir}/logs until the next demo");
            }
        }
    }
    Ok(())
}
