//! `landbridge audit`: whether an audit log is whole.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::say::say;

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// The files, oldest first: those that were renamed, then the one that is written to
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Looks.
///
/// # Errors
/// When a file cannot be read, or lines are missing, changed or torn.
pub fn run(args: &AuditArgs) -> Result<()> {
    let mut text = Vec::new();
    for path in &args.files {
        let read = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        text.extend(read);
        if text.last().is_some_and(|byte| *byte != b'\n') {
            text.push(b'\n');
        }
    }
    let lines = text.strip_suffix(b"\n").unwrap_or(&text);
    let lines = lines.split(|byte| *byte == b'\n');
    let (count, problems) = observe::verify_audit(lines.filter(|_| !text.is_empty()));
    for problem in &problems {
        say!("line {} {}", problem.line, problem.what);
    }
    match problems.len() {
        0 => say!("{count} lines, one unbroken chain"),
        broken => bail!("{count} lines, {broken} of them are not what was written"),
    }
    Ok(())
}
