//! `landbridge-loadtest`: makes traffic and says what came of it. It knows nothing of identities or
//! policy: whether a connection is allowed is for the enforcers on its way to say, and their drops
//! are read from them.

mod closing;
mod compare;
mod connect;
mod counters;
mod demo;
mod drive;
mod flood;
mod frames;
mod http;
mod latency;
mod netns;
mod options;
mod outcome;
mod pace;
mod packets;
mod recorder;
mod report;
mod run;
mod say;
mod sending;
mod server;
mod tap;
#[cfg(test)]
mod testing;
mod throughput;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::say::complain;

/// Measures connections, throughput, latency and packets, and floods with handshakes
///
/// Works against any address. What the gateways and agents on the way dropped is read from their
/// metrics (--metrics) or from a demo on this machine (--demo). Ctrl-C ends a run early: it still
/// reports, and exits with 130.
#[derive(Debug, Parser)]
#[command(name = "landbridge-loadtest", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// New TCP connections per second
    Connect(connect::ConnectArgs),
    /// How long an answer takes, request by request
    Latency(latency::LatencyArgs),
    /// How many bytes get through, each of them checked
    Throughput(throughput::ThroughputArgs),
    /// SYNs that nobody means to complete: valid, forged or replayed (root)
    Flood(flood::FloodArgs),
    /// Frames of an established connection, from an AF_XDP socket (root)
    Packets(packets::PacketsArgs),
    /// The far end of measurements: echoes, and takes or sends checked streams
    Server(server::ServerArgs),
    /// Two reports side by side
    Compare(compare::CompareArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Connect(args) => connect::run(&args),
        Command::Latency(args) => latency::run(&args),
        Command::Throughput(args) => throughput::run(&args),
        Command::Flood(args) => flood::run(&args),
        Command::Packets(args) => packets::run(&args),
        Command::Server(args) => server::run(&args),
        Command::Compare(args) => compare::run(&args),
    };
    result.unwrap_or_else(|e| {
        complain!("{e:#}");
        ExitCode::FAILURE
    })
}
