//! `landbridge status`: what every gateway and agent says of itself.

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::{
    admin,
    demo::{self, StateArg},
    say::{Output, say},
};

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    state: StateArg,
    /// For people or for programs
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// Asks all and prints.
///
/// # Errors
/// When one of them does not answer; the others are printed all the same.
pub fn run(args: &StatusArgs) -> Result<()> {
    let running = demo::running(&args.state)?;
    let mut all = Map::new();
    let mut silent = Vec::new();
    for (role, dir) in running.enforcers() {
        match admin::ask(&dir, &json!({"op": "status"})) {
            Ok(status) => drop(all.insert(role, status)),
            Err(e) => {
                all.insert(role.clone(), json!({"error": format!("{e:#}")}));
                silent.push(role);
            }
        }
    }
    if args.output == Output::Json {
        say!("{}", Value::Object(all));
    } else {
        for (role, status) in &all {
            say!("{role}");
            for line in serde_norway::to_string(status)?.lines() {
                say!("  {line}");
            }
        }
    }
    if silent.is_empty() {
        return Ok(());
    }
    bail!("no answer from {}", silent.join(", "))
}
