//! `landbridge introduce`, `introductions` and `accept`.

use anyhow::Result;
use clap::Args;
use observe::TrustRequest;
use serde_json::Value;

use super::{ask, join::words, seconds};
use crate::{
    gateway::GatewayArg,
    say::{Output, say},
};

/// Arguments of `introduce`.
#[derive(Debug, Args)]
pub struct IntroduceArgs {
    /// A peer of this cluster, by its name or trust domain
    #[arg(value_name = "CLUSTER")]
    one: String,
    /// Another one
    #[arg(value_name = "CLUSTER")]
    other: String,
    /// How long it holds when this cluster is not heard any more, such as 12h or 30d
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = seconds)]
    ttl: u32,
    /// Take it back: whoever knows the other by this cluster alone forgets it
    #[arg(long, conflicts_with = "ttl")]
    withdraw: bool,
    #[command(flatten)]
    gateway: GatewayArg,
}

/// Arguments of `introductions`.
#[derive(Debug, Args)]
pub struct IntroductionsArgs {
    #[command(flatten)]
    gateway: GatewayArg,
    /// For people or for programs
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// Arguments of `accept`.
#[derive(Debug, Args)]
pub struct AcceptClusterArgs {
    /// A cluster that waits, by its trust domain or as `landbridge introductions` names it
    #[arg(value_name = "CLUSTER")]
    cluster: String,
    /// What it is to be called here
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    gateway: GatewayArg,
}

/// Introduces two clusters, or takes that back.
///
/// # Errors
/// Why not; then nothing changed.
pub fn introduce(args: IntroduceArgs) -> Result<()> {
    let clusters = [args.one, args.other];
    let (request, word) = match args.withdraw {
        true => (TrustRequest::Withdraw { clusters }, "withdrawn"),
        false => {
            let ttl = Some(args.ttl);
            (TrustRequest::Introduce { clusters, ttl }, "introduced")
        }
    };
    let pair = ask(&args.gateway, &request)?;
    say!("{word}: {}", pair_words(&pair));
    if !args.withdraw {
        say!("each of them takes the other if its operator accepts that; nothing is relayed here");
    }
    Ok(())
}

/// Lists introductions.
///
/// # Errors
/// When the gateway does not answer.
pub fn introductions(args: &IntroductionsArgs) -> Result<()> {
    let all = ask(&args.gateway, &TrustRequest::Introductions {})?;
    if args.output == Output::Json {
        say!("{all}");
        return Ok(());
    }
    let accepting = all["accepting"].as_str().unwrap_or_default();
    say!("accepted here: {accepting}");
    for pair in all["made"].as_array().into_iter().flatten() {
        say!("introduced: {}", pair_words(pair));
    }
    for pending in all["pending"].as_array().into_iter().flatten() {
        say!("{}", words(pending));
    }
    Ok(())
}

/// Takes one that waits.
///
/// # Errors
/// Why not.
pub fn accept(args: AcceptClusterArgs) -> Result<()> {
    let request = TrustRequest::Accept {
        cluster: args.cluster,
        name: args.name,
    };
    let member = ask(&args.gateway, &request)?;
    say!("accepted: {}", words(&member));
    Ok(())
}

fn pair_words(pair: &Value) -> String {
    let clusters = pair["clusters"].as_array().into_iter().flatten();
    let name = |of: &Value| {
        let text = |field: &str| of[field].as_str().unwrap_or_default().to_owned();
        format!("{} ({})", text("name"), text("trust_domain"))
    };
    let names: Vec<_> = clusters.map(name).collect();
    let until = pair["until"].as_str().unwrap_or_default();
    format!(
        "{}, until {until} if it is not renewed",
        names.join(" and ")
    )
}
