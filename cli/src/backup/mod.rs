//! `landbridge backup` and `landbridge restore`: the state of a gateway as one file, and back.

mod archive;
mod directory;

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use identity::UnixMillis;
use observe::{AuditLog, TrustRequest};
use peering::peers::mark_restored;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    admin,
    gateway::GatewayArg,
    say::{complain, say},
};
use archive::{Archive, Files, MAX_ARCHIVE};
use directory::Locked;

/// What a cluster itself said.
const OWN: &str = "own.sealed";
/// Tokens that were out: one that was used meanwhile must not be good again.
const INVITATIONS: &str = "invitations.state";

/// Arguments of `backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to write; there must be none
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The audit log too
    #[arg(long)]
    with_audit: bool,
    #[command(flatten)]
    gateway: GatewayArg,
}

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// What `landbridge backup` wrote
    #[arg(value_name = "FILE", required_unless_present = "confirm")]
    file: Option<PathBuf>,
    /// Set aside the state that is there
    #[arg(long, conflicts_with = "confirm")]
    replace: bool,
    /// Go on with a state of the past, above all that peers have seen
    #[arg(long, conflicts_with = "file")]
    confirm: bool,
    /// Although a peer has seen revocations that it did not give back
    #[arg(long, requires = "confirm")]
    without_revocations: bool,
    #[command(flatten)]
    gateway: GatewayArg,
}

/// Backs up.
///
/// # Errors
/// Why there is no backup.
pub fn backup(args: &BackupArgs) -> Result<()> {
    let state = args.gateway.state_dir()?;
    let archive = Archive {
        made: now(),
        files: directory::read(&state, args.with_audit)?,
    };
    let bytes = archive.encode();
    // What is not good for a restore is no backup.
    Archive::decode(&bytes).with_context(|| state.display().to_string())?;
    let request = TrustRequest::Backup {
        sha256: sha256(&bytes),
    };
    audited(&state, &request)?;
    directory::write_backup(&args.file, &bytes)?;
    say!(
        "{}: {} files, SHA-256 {}",
        args.file.display(),
        archive.files.len(),
        sha256(&bytes)
    );
    complain!(
        "it holds the keys of the cluster: whoever has it can speak as the cluster. Keep it as you would \
         a password"
    );
    Ok(())
}

/// Restores, or confirms what was restored.
///
/// # Errors
/// Why nothing was.
pub fn restore(args: &RestoreArgs) -> Result<()> {
    let Some(file) = &args.file else {
        return confirm(args);
    };
    let state = args.gateway.place()?;
    let bytes = read(file)?;
    let archive = Archive::decode(&bytes).with_context(|| file.display().to_string())?;
    let Some(lock) = Locked::take(&state)? else {
        bail!("a gateway runs on {}: stop it first", state.display());
    };
    let about = json!({
        "do": "restore", "file": file, "sha256": sha256(&bytes), "made": archive.made.to_string(),
        "uid": nix::unistd::getuid().as_raw(), "pid": std::process::id(),
    });
    AuditLog::new(&state)
        .write("trust", &about)
        .context("nothing is restored without an audit log")?;
    let at = now();
    let made = archive.made;
    let files = restored(archive.files, at)?;
    let aside = directory::write(&lock, &state, &files, args.replace, at.as_secs())?;
    say!("restored {} as of {made}", state.display());
    if let Some(aside) = aside {
        complain!(
            "{} holds the state that was there, with its keys",
            aside.display()
        );
    }
    complain!(
        "Start the gateway. It asks its peers what they have seen since, and `landbridge status` says \
         when that is more than the backup knows: then `landbridge restore --confirm`. Invitations of \
         the backup are void; look at `landbridge members` for who left since"
    );
    Ok(())
}

fn confirm(args: &RestoreArgs) -> Result<()> {
    let request = TrustRequest::ConfirmRestore {
        without_revocations: args.without_revocations,
    };
    let gone_on = ask(&args.gateway.state_dir()?, &request)?;
    say!(
        "goes on with bundle {}, digest {}, revocations {}",
        gone_on["bundle"],
        gone_on["digest"],
        gone_on["revocations"]
    );
    Ok(())
}

/// The files as they are put back: marked, and without what must not come back.
fn restored(mut files: Files, at: UnixMillis) -> Result<Files> {
    files.remove(INVITATIONS);
    let own = files.get(OWN).map(|bytes| bytes.as_slice());
    let marked = mark_restored(own, at)?;
    let marked = marked.with_context(|| format!("{OWN} in it is of a peer"))?;
    files.insert(OWN.into(), Zeroizing::new(marked));
    Ok(files)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let what = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(what)?;
    let length = file.metadata().with_context(what)?.len();
    ensure!(length <= MAX_ARCHIVE, "{} is too large", path.display());
    let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
    file.take(length)
        .read_to_end(&mut bytes)
        .with_context(what)?;
    Ok(bytes)
}

/// That a backup is made stands in the audit log, which a running gateway alone writes.
fn audited(state: &Path, request: &TrustRequest) -> Result<()> {
    match Locked::take(state)? {
        None => ask(state, request).map(drop),
        Some(_lock) => {
            let mut about = request.about();
            about["uid"] = nix::unistd::getuid().as_raw().into();
            about["pid"] = std::process::id().into();
            let written = AuditLog::new(state).write("trust", &about);
            written.context("no backup without an audit log")
        }
    }
}

fn ask(state: &Path, request: &TrustRequest) -> Result<Value> {
    let mut line = json!(request);
    line["op"] = "trust".into();
    admin::ask(state, &line)
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn now() -> UnixMillis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixMillis(now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_put_back_is_marked_and_has_no_invitations() {
        let before = archive::tests::files();
        let after = restored(before.clone(), UnixMillis(2)).unwrap();
        assert_ne!(after[OWN], before[OWN]);
        assert!(!after.contains_key(INVITATIONS));
        assert_eq!(after.len(), before.len() - 1);
        // One that never said anything is marked as well.
        let mut fresh = before.clone();
        fresh.remove(OWN);
        assert_eq!(restored(fresh, UnixMillis(2)).unwrap()[OWN], after[OWN]);
    }
}
