//! `landbridge keys` and `rotate`.

use anyhow::Result;
use clap::{Args, ValueEnum};
use observe::{KeyKind, RotateRequest, TrustRequest};
use serde_json::Value;

use super::{ask, seconds};
use crate::{
    gateway::GatewayArg,
    say::{Output, say},
};

/// Arguments of `keys`.
#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(flatten)]
    gateway: GatewayArg,
    /// For people or for programs
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// Arguments of `rotate`.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// Which key
    #[arg(value_enum, value_name = "KEY")]
    key: Key,
    /// How long the next key is published before it is used, such as 30s or 2h; as by itself when it is
    /// left out
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    use_after: Option<u32>,
    /// How long the one before it is believed after that; as by itself when it is left out
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    retire_after: Option<u32>,
    /// Also when a peer or a node is away, and would not hear of it in time
    #[arg(long)]
    anyway: bool,
    #[command(flatten)]
    gateway: GatewayArg,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Key {
    /// The X.509 root, which signs the SVIDs of gateways and agents
    Root,
    /// The key that signs credentials and all that this cluster says
    IssuerKey,
}

/// Lists the keys by which the cluster is believed.
///
/// # Errors
/// When the gateway does not answer.
pub fn keys(args: &KeysArgs) -> Result<()> {
    let all = ask(&args.gateway, &TrustRequest::Keys {})?;
    match args.output {
        Output::Json => say!("{all}"),
        Output::Text => list(&all),
    }
    Ok(())
}

/// Begins to exchange a key; the gateway does the rest.
///
/// # Errors
/// Why not.
pub fn rotate(args: RotateArgs) -> Result<()> {
    let request = TrustRequest::Rotate(RotateRequest {
        key: match args.key {
            Key::Root => KeyKind::Root,
            Key::IssuerKey => KeyKind::IssuerKey,
        },
        use_after: args.use_after,
        retire_after: args.retire_after,
        anyway: args.anyway,
    });
    list(&ask(&args.gateway, &request)?);
    Ok(())
}

fn list(all: &Value) {
    for key in all.as_array().into_iter().flatten() {
        say!("{}", words(key));
    }
}

fn words(key: &Value) -> String {
    let text = |field: &str| key[field].as_str().unwrap_or_default();
    if text("phase") == "workload-api" {
        let shown = match key["shown"].as_bool() {
            Some(true) => ", this gateway is met by it",
            _ => "",
        };
        return format!("root {}: of the Workload API{shown}", text("name"));
    }
    let phase = match text("phase") {
        "next" => "published, will be used at",
        "old" => "believed until",
        _ => "in use since",
    };
    let next = match key["next"].as_str() {
        Some(at) => format!(", the next one is published at {at}"),
        None => String::new(),
    };
    let kind = text("key");
    let (number, name, at) = (&key["number"], text("name"), text("at"));
    format!("{kind} {number} {name}: {phase} {at}{next}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_is_said_with_where_it_is_in_its_life() {
        let mut key = json!({
            "key": "root", "number": 2, "name": "sha256:00", "phase": "next", "at": "T", "next": null,
        });
        assert_eq!(
            words(&key),
            "root 2 sha256:00: published, will be used at T"
        );
        key["phase"] = "current".into();
        key["next"] = "U".into();
        assert_eq!(
            words(&key),
            "root 2 sha256:00: in use since T, the next one is published at U"
        );
        let foreign =
            json!({"key": "root", "name": "sha256:00", "phase": "workload-api", "shown": true});
        assert_eq!(
            words(&foreign),
            "root sha256:00: of the Workload API, this gateway is met by it"
        );
        key["phase"] = "old".into();
        key["next"] = Value::Null;
        assert_eq!(words(&key), "root 2 sha256:00: believed until T");
    }
}
