//! The demo: the clusters of a configuration folder as network namespaces of this machine, with
//! real gateways and agents.

mod config;
mod content;
mod daemons;
mod down;
mod http;
mod interrupt;
mod journal;
mod net;
mod netns;
mod plan;
mod pods;
mod preflight;
mod process;
pub mod server;
mod state;
mod up;
mod wait;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use self::{down::Keep, state::State};
use crate::say::say;

/// Where a demo lives unless another directory is named.
const DEFAULT_STATE: &str = "/run/landbridge-demo";

/// Subcommands of `demo`.
#[derive(Debug, Subcommand)]
pub enum DemoCommand {
    /// Build the clusters of a configuration folder on this machine and start them
    Up(up::UpArgs),
    /// End the demo and remove all of it
    Down(DownArgs),
}

/// Names the demo.
#[derive(Clone, Debug, Args)]
pub struct StateArg {
    /// The directory that holds everything of the demo
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
}

/// Arguments of `demo down`.
#[derive(Debug, Args)]
pub struct DownArgs {
    #[command(flatten)]
    state: StateArg,
}

/// Runs a subcommand of `demo`.
pub fn run(command: &DemoCommand) -> Result<()> {
    match command {
        DemoCommand::Up(args) => up::run(args),
        DemoCommand::Down(args) => down(args),
    }
}

fn down(args: &DownArgs) -> Result<()> {
    // Held back and not asked for: half an undoing helps nobody, and it ends soon.
    let _interrupts = interrupt::Interrupts::handle()?;
    let state = State::new(&args.state.state)?;
    let dir = state.dir().display();
    let lock = state.lock()?;
    let undone = down::down(&state, Keep::Nothing)?;
    lock.release();
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
        }
    }
    Ok(())
}
