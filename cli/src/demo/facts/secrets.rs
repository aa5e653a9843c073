//! What must stay secret is readable by nobody else.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, Result, bail};

use super::Demo;
use crate::demo::tap::Verdict;

/// Looks at every file and folder of the gateways and agents.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let mut open = Vec::new();
    let mut seen = 0;
    for folder in ["gateways", "agents"] {
        walk(&demo.state.dir().join(folder), &mut open, &mut seen)?;
    }
    if !open.is_empty() {
        bail!("others than root may use:\n{}", open.join("\n"));
    }
    for enforcer in demo.enforcers() {
        enforcer.ask("status")?;
    }
    Ok(Verdict::Holds(format!("{seen} files and folders")))
}

fn walk(path: &Path, open: &mut Vec<String>, seen: &mut usize) -> Result<()> {
    let metadata =
        fs::symlink_metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    *seen += 1;
    // An empty file, such as a lock, tells nothing to whoever may read it.
    let says_something = !(metadata.is_symlink() || metadata.is_file() && metadata.len() == 0);
    if says_something && metadata.mode() & 0o077 != 0 {
        open.push(format!("{:o} {}", metadata.mode() & 0o7777, path.display()));
    }
    if metadata.is_dir() {
        // What a closed folder holds is closed too; still, a copy of it would not be.
        for entry in fs::read_dir(path)? {
            walk(&entry?.path(), open, seen)?;
        }
    }
    Ok(())
}
