//! `landbridge-gateway`: the gateway of a cluster.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use landbridge_gateway::{config::Config, run, unmounter};

/// The gateway of a cluster: proves, decides, encrypts and forwards what crosses clusters
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the gateway's keys, if they are not there, and print the pin of its root as JSON
    Init(File),
    /// Run until SIGTERM or SIGINT
    Run(File),
    /// Take the interfaces with nobody who judges: what is a gateway's is dropped until one runs. For the
    /// time before it, as early at boot as packets can be routed
    Close(File),
    /// What a gateway starts for itself: unmounts when it is told to
    #[command(name = unmounter::SUBCOMMAND, hide = true)]
    UnmountAtEnd {
        /// The state directory
        state: PathBuf,
    },
}

#[derive(Args, Debug)]
struct File {
    /// The configuration file (YAML)
    #[arg(long)]
    config: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Whoever asks an API server says himself what did not work.
    observe::init_log("info,kube_client=off");
    // Keys are in memory: no core dump, and no other process of this user may look.
    if let Err(e) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!("the process can be dumped: {e}");
    }
    match carry_out(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Init(file) => {
            let made = run::init(&Config::load(&file.config)?)?;
            std::io::Write::write_all(&mut std::io::stdout(), format!("{made}\n").as_bytes())?;
            Ok(())
        }
        Command::Run(file) => run::run(Config::load(&file.config)?),
        Command::Close(file) => run::close(Config::load(&file.config)?),
        Command::UnmountAtEnd { state } => unmounter::serve(&state),
    }
}
