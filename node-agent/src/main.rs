//! The node agent's command line.

use std::{net::TcpListener, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::{Parser, Subcommand};
use landbridge_agent::{ask::Asker, config::Config, control, preflight, rules::RuleSet};
use metrics_exporter_prometheus::PrometheusBuilder;
use observe::{AdminSocket, serve_http};
use privileges::CapabilitySet;
use tokio::signal::unix::{SignalKind, signal};

/// Attaches, verifies and enforces identity for the pods of this node.
#[derive(Debug, Parser)]
#[command(name = "landbridge-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs until SIGTERM or SIGINT, then takes every rule away
    Run {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Puts the rules in force with nobody who judges: nothing new passes until an agent runs. For the
    /// time before it, as early at boot as there are pods
    Close {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Says whether this machine can run an agent, and what to do if it cannot
    Check,
}

fn main() -> ExitCode {
    // The watcher's library reports ordinary races of removed folders.
    observe::init_log("info,notify=error");
    let done = match Arguments::parse().command {
        Command::Run { config } => run(&config),
        Command::Close { config } => close(&config),
        Command::Check => check(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("landbridge-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What a running agent needs: rules, marks and the queue (CAP_NET_ADMIN), and resets of its own making
/// (CAP_NET_RAW).
const RUNNING: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_RAW);

fn run(config: &std::path::Path) -> anyhow::Result<()> {
    let config = Config::load(config)?;
    // While there is one thread: those that come have no more.
    privileges::keep(RUNNING).context("give up capabilities")?;
    enforce(config)
}

#[tokio::main(worker_threads = 2)]
async fn enforce(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Keys are in memory: no core dump, no ptrace by others.
    nix::sys::prctl::set_dumpable(false)?;
    let _lock = control::lock_state(&config.state_dir)?;
    let recorder = PrometheusBuilder::new()
        .install_recorder()
        .context("install the metrics")?;
    let (asker, asks) = Asker::new();
    let listener = TcpListener::bind(config.metrics);
    let listener = listener.with_context(|| format!("metrics: bind {}", config.metrics))?;
    let admin = AdminSocket::bind(&config.state_dir)?;
    let control = control::start(config, asks, recorder).await?;
    let asker = Arc::new(asker);
    let admin = tokio::spawn(admin.serve(asker.clone()));
    let http = tokio::spawn(serve_http(listener, asker));
    let ended = control
        .run(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await;
    admin.abort();
    http.abort();
    // The socket's file goes when its task is gone.
    let _ = admin.await;
    ended
}

#[tokio::main(flavor = "current_thread")]
async fn close(config: &std::path::Path) -> anyhow::Result<()> {
    let config = Config::load(config)?;
    let _lock = control::lock_state(&config.state_dir)?;
    control::close(&config).await?;
    tracing::info!("closed: no new connection of this node's pods until an agent runs");
    Ok(())
}

fn check() -> anyhow::Result<()> {
    let missing = preflight::check(&RuleSet::default());
    for missing in &missing {
        println!("{}: {}", missing.what, missing.remedy);
    }
    anyhow::ensure!(missing.is_empty(), "this machine cannot run an agent");
    println!("this machine can run an agent");
    Ok(())
}
