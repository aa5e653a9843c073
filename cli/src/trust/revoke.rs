//! `landbridge revoke`, `unrevoke` and `revocations`.

use anyhow::Result;
use clap::{Args, Subcommand};
use handshake::admission::{CredentialId, Target};
use identity::SpiffeId;
use observe::TrustRequest;
use serde_json::Value;

use super::ask;
use crate::{
    gateway::GatewayArg,
    say::{Output, say},
};

/// Arguments of `revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    #[command(subcommand)]
    what: What,
    /// Why: whoever meets the refusal reads it
    #[arg(long, value_name = "TEXT", global = true, default_value = "")]
    reason: String,
    #[command(flatten)]
    gateway: GatewayArg,
}

/// Arguments of `unrevoke`.
#[derive(Debug, Args)]
pub struct UnrevokeArgs {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    gateway: GatewayArg,
}

/// Arguments of `revocations`.
#[derive(Debug, Args)]
pub struct RevocationsArgs {
    #[command(flatten)]
    gateway: GatewayArg,
    /// For people or for programs
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// What is revoked. Of this cluster it holds everywhere; of a peer, in this cluster alone.
#[derive(Debug, Subcommand)]
enum What {
    /// A whole cluster: nothing that it signs is believed, and no session with it stands
    Cluster {
        /// Its name or trust domain
        #[arg(value_name = "CLUSTER")]
        of: String,
    },
    /// A SPIFFE ID, whatever pod has it
    Identity {
        /// Such as spiffe://west.example/ns/shop/sa/api
        #[arg(value_name = "SPIFFE-ID")]
        id: SpiffeId,
    },
    /// One credential: its pod gets another
    Credential {
        /// 32 hex digits, as a gateway's list of flows names it
        #[arg(value_name = "ID")]
        id: CredentialId,
        /// The cluster that issued it
        #[arg(long, value_name = "CLUSTER")]
        of: String,
    },
    /// Every pod whose labels fit, now or later
    Labels {
        /// Such as 'app == "api" && !has(patched)'
        #[arg(value_name = "SELECTOR")]
        pods: String,
        /// Only in namespaces whose labels fit
        #[arg(long, value_name = "SELECTOR")]
        namespaces: Option<String>,
        /// The pods' cluster
        #[arg(long, value_name = "CLUSTER")]
        of: String,
    },
}

impl What {
    fn split(self) -> (String, Target) {
        match self {
            Self::Cluster { of } => (of, Target::Cluster),
            Self::Identity { id } => (id.trust_domain().to_string(), Target::Identity(id)),
            Self::Credential { id, of } => (of, Target::Credential(id)),
            Self::Labels {
                pods,
                namespaces,
                of,
            } => (of, Target::Labels { pods, namespaces }),
        }
    }
}

/// Revokes.
///
/// # Errors
/// Why nothing was.
pub fn revoke(args: RevokeArgs) -> Result<()> {
    anyhow::ensure!(
        !args.reason.is_empty(),
        "--reason: whoever is refused asks why"
    );
    let (of, target) = args.what.split();
    let request = TrustRequest::Revoke {
        of,
        target,
        reason: args.reason,
    };
    let revoked = ask(&args.gateway, &request)?;
    say!("revoked: {}", words(&revoked));
    Ok(())
}

/// Takes a revocation back.
///
/// # Errors
/// Why none was.
pub fn unrevoke(args: UnrevokeArgs) -> Result<()> {
    let (of, target) = args.what.split();
    let restored = ask(&args.gateway, &TrustRequest::Restore { of, target })?;
    say!("believed again: {}", words(&restored));
    Ok(())
}

/// Lists what is revoked.
///
/// # Errors
/// When the gateway does not answer.
pub fn revocations(args: &RevocationsArgs) -> Result<()> {
    let all = ask(&args.gateway, &TrustRequest::Revocations {})?;
    if args.output == Output::Json {
        say!("{all}");
        return Ok(());
    }
    let all = all.as_array().map_or(&[][..], Vec::as_slice);
    if all.is_empty() {
        say!("nothing is revoked");
    }
    for revocation in all {
        say!("{}", words(revocation));
    }
    Ok(())
}

fn words(revocation: &Value) -> String {
    let text = |field: &str| revocation[field].as_str().unwrap_or_default();
    format!(
        "{} of {}, by {} at {}: {}",
        text("words"),
        text("of"),
        text("by"),
        text("at"),
        text("reason")
    )
}
