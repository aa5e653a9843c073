//! The one thing that needs more rights at the end than while running: unmounting the BPF file system.
//!
//! A process of its own keeps that right, and nothing else. It hears nothing but one word, from its
//! parent, and ends with it.

use std::{
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, ensure};
use nix::sys::signal::{SigSet, Signal};
use privileges::CapabilitySet;

/// The name of the subcommand that runs [`serve`].
pub const SUBCOMMAND: &str = "unmount-at-end";
/// What unmounting needs.
const UNMOUNT: CapabilitySet = CapabilitySet::SYS_ADMIN;
/// What the parent says.
const WORD: &[u8] = b"unmount";

/// A process that waits for the end of this one.
#[derive(Debug)]
pub struct Unmounter(Child);

impl Unmounter {
    /// Starts it for the state directory `state`. `None` when this process has not got the right
    /// either: then somebody else mounted the file system, and it stays.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(state: &Path) -> io::Result<Option<Self>> {
        if !privileges::has(UNMOUNT) {
            return Ok(None);
        }
        let child = Command::new("/proc/self/exe")
            .arg0("landbridge-gateway")
            .arg(SUBCOMMAND)
            .arg(state)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Some(Self(child)))
    }

    /// Has it unmount, and waits until it did.
    ///
    /// # Errors
    /// When it is gone or the kernel refused.
    pub fn unmount(mut self) -> anyhow::Result<()> {
        let mut stdin = self.0.stdin.take().context("no pipe")?;
        stdin.write_all(WORD)?;
        drop(stdin);
        let status = self.0.wait()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}

impl Drop for Unmounter {
    fn drop(&mut self) {
        // Without the word it unmounts nothing. One that ended has been waited for.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The process itself: unmounts if the parent says so, and ends when the parent does.
///
/// # Errors
/// When the kernel refuses.
pub fn serve(state: &Path) -> anyhow::Result<()> {
    // A signal to all processes of the gateway is the parent's to obey.
    let mut ignored = SigSet::empty();
    ignored.add(Signal::SIGTERM);
    ignored.add(Signal::SIGINT);
    ignored.add(Signal::SIGHUP);
    ignored.thread_block()?;
    privileges::keep(UNMOUNT)?;
    let mut said = Vec::new();
    let limit = WORD.len() as u64 + 1;
    io::stdin().take(limit).read_to_end(&mut said)?;
    if said == WORD {
        gateway_xdp::unmount(state).with_context(|| format!("unmount in {}", state.display()))?;
    }
    Ok(())
}
