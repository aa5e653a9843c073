//! `landbridge`: what an operator types. It asks running gateways and agents, or computes from a
//! configuration folder, and builds the demo; it enforces nothing itself.

mod admin;
mod audit;
mod backup;
mod capture;
mod demo;
mod end_verdict;
mod explain;
mod gateway;
mod oracle;
mod party;
mod policy_check;
mod policy_eval;
mod policy_matrix;
mod policy_test;
mod say;
mod service;
mod status;
mod trust;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::say::complain;

/// Joins clusters into a federation whose policy is decided on proven identities
#[derive(Debug, Parser)]
#[command(name = "landbridge", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Whole clusters on this machine, in network namespaces
    #[command(subcommand)]
    Demo(demo::DemoCommand),
    /// What every gateway and agent says of itself
    Status(status::StatusArgs),
    /// Which rule decides a connection, at both ends, without sending a packet
    Explain(explain::ExplainArgs),
    /// Make a token by which another cluster joins this one (root)
    Invite(trust::InviteArgs),
    /// Join the cluster that made a token (root)
    Join(trust::JoinArgs),
    /// The clusters that were joined by a token
    Members(trust::MembersArgs),
    /// Make two peers of this cluster known to each other, or take that back (root)
    Introduce(trust::IntroduceArgs),
    /// Who is introduced to whom here, and who waits to be accepted
    Introductions(trust::IntroductionsArgs),
    /// Take a cluster that another one introduced (root)
    Accept(trust::AcceptClusterArgs),
    /// End the membership of one of them, at both ends (root)
    Remove(trust::RemoveArgs),
    /// End all memberships of this cluster (root)
    Leave(trust::LeaveArgs),
    /// Believe something no more: a cluster, an identity, a credential, pods by their labels (root)
    Revoke(trust::RevokeArgs),
    /// Believe it again (root)
    Unrevoke(trust::UnrevokeArgs),
    /// All that is revoked, by whom and why
    Revocations(trust::RevocationsArgs),
    /// The keys by which this cluster is believed, and where each is in its life
    Keys(trust::KeysArgs),
    /// Exchange one of them: publish the next, wait, use it, retire the one before (root)
    Rotate(trust::RotateArgs),
    /// The state of a gateway, its keys too, as one file (root)
    Backup(backup::BackupArgs),
    /// Put a backup back, or go on with it although peers have seen more (root)
    Restore(backup::RestoreArgs),
    /// Whether an audit log is whole: nothing taken out, changed or put in
    Audit(audit::AuditArgs),
    /// The packets of a gateway, with verdict and both identities, as a file for Wireshark (root)
    Capture(capture::CaptureArgs),
    /// What the files of a configuration folder say, without a running gateway
    #[command(subcommand)]
    Policy(policy_check::PolicyCommand),
    /// The server in every pod of the demo
    #[command(hide = true)]
    DemoServer(demo::server::ServerArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(command) => demo::run(&command),
        Command::Status(args) => status::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Capture(args) => capture::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Backup(args) => backup::backup(&args),
        Command::Restore(args) => backup::restore(&args),
        Command::Invite(args) => trust::invite(args),
        Command::Join(args) => trust::join(args),
        Command::Members(args) => trust::members(&args),
        Command::Introduce(args) => trust::introduce(args),
        Command::Introductions(args) => trust::introductions(&args),
        Command::Accept(args) => trust::accept(args),
        Command::Remove(args) => trust::remove(args),
        Command::Leave(args) => trust::leave(&args),
        Command::Revoke(args) => trust::revoke(args),
        Command::Unrevoke(args) => trust::unrevoke(args),
        Command::Revocations(args) => trust::revocations(&args),
        Command::Keys(args) => trust::keys(&args),
        Command::Rotate(args) => trust::rotate(args),
        Command::Policy(command) => return policy_check::run(&command),
        Command::DemoServer(args) => demo::server::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            complain!("{e:#}");
            ExitCode::FAILURE
        }
    }
}
