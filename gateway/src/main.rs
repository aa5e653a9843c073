//! `landbridge-gateway`: the gateway of a cluster.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use landbridge_gateway::{config::Config, run, unmounter};
use tracing_subscriber::EnvFilter;

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
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours())
        .init();
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

/// Whether the log may have colours: for eyes only, and only when they are wanted
/// (<https://no-color.org>).
fn colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !refused
}

fn carry_out(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Init(file) => {
            let made = run::init(&Config::load(&file.config)?)?;
            std::io::Write::write_all(&mut std::io::stdout(), format!("{made}\n").as_bytes())?;
            Ok(())
        }
        Command::Run(file) => run::run(Config::load(&file.config)?),
        Command::UnmountAtEnd { state } => unmounter::serve(&state),
    }
}
