//! Which gateway a command speaks to.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::demo::{self, StateArg};

/// Where a gateway keeps its state unless its configuration says otherwise.
const DEFAULT: &str = "/var/lib/landbridge";

/// Names a gateway of this machine.
#[derive(Clone, Debug, Args)]
pub struct GatewayArg {
    /// The gateway: its name as `landbridge status` has it, or its state directory. By default the one
    /// whose state is in /var/lib/landbridge
    #[arg(long, short, value_name = "NAME|DIR", global = true)]
    gateway: Option<String>,
    #[command(flatten)]
    state: StateArg,
}

impl GatewayArg {
    /// The same, of a gateway that need not be there yet.
    ///
    /// # Errors
    /// When a name is given that no gateway has.
    pub fn place(&self) -> Result<PathBuf> {
        match &self.gateway {
            None => Ok(DEFAULT.into()),
            Some(path) if path.contains('/') => Ok(path.into()),
            Some(_) => self.state_dir(),
        }
    }

    /// The state directory of the gateway that is meant.
    ///
    /// # Errors
    /// When there is none; those that there are.
    pub fn state_dir(&self) -> Result<PathBuf> {
        let Some(given) = &self.gateway else {
            if Path::new(DEFAULT).join("admin.sock").exists() {
                return Ok(DEFAULT.into());
            }
            let names = demo::running(&self.state).map(|running| names(&running.gateways()));
            match names {
                Ok(names) => bail!("name a gateway of the demo: --gateway {names}"),
                Err(_) => bail!(
                    "no gateway answers in {DEFAULT}: name the state directory of one with --gateway"
                ),
            }
        };
        if Path::new(given).is_dir() {
            return Ok(given.into());
        }
        let gateways = demo::running(&self.state)
            .with_context(|| format!("--gateway {given}: no directory, so a gateway of a demo"))?
            .gateways();
        let named = gateways.iter().find(|(name, _)| name == given);
        let (_, dir) = named.with_context(|| {
            format!(
                "--gateway: there is no {given}; there is {}",
                names(&gateways)
            )
        })?;
        Ok(dir.clone())
    }
}

fn names(gateways: &[(String, PathBuf)]) -> String {
    let names: Vec<&str> = gateways.iter().map(|(name, _)| name.as_str()).collect();
    names.join(", ")
}
