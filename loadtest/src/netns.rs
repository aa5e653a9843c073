//! Another network namespace for this process, with the way back for what must be asked at home.

use std::{fs::File, os::fd::AsFd, path::Path, thread};

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The namespace that the process came from.
pub struct Home(File);

impl Home {
    /// The namespace of the calling thread.
    pub fn here() -> Result<Self> {
        let path = "/proc/thread-self/ns/net";
        Ok(Self(File::open(path).with_context(|| {
            format!("cannot open {path}: is /proc mounted?")
        })?))
    }

    /// Runs `work` there, in a thread of its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let at_home = || {
                // Who never left may lack the right to come back.
                if !self.is_here()? {
                    enter_file(&self.0).context("cannot go back to the first namespace")?;
                }
                work()
            };
            let thread = thread::Builder::new().spawn_scoped(scope, at_home);
            let thread = thread.context("cannot start a thread")?;
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
        })
    }

    fn is_here(&self) -> Result<bool> {
        use std::os::unix::fs::MetadataExt;
        Ok(Self::here()?.0.metadata()?.ino() == self.0.metadata()?.ino())
    }
}

/// Moves the calling thread, and those that it will start, into the namespace `name`, as `ip netns`
/// names it.
pub fn enter(name: &str) -> Result<()> {
    let path = Path::new("/run/netns").join(name);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            bail!("there is no network namespace {name:?}; `ip netns list` names those there are")
        }
        Err(e) => return Err(e).with_context(|| format!("cannot open {}", path.display())),
    };
    enter_file(&file).with_context(|| {
        format!("cannot enter network namespace {name:?} (needs root or CAP_SYS_ADMIN)")
    })
}

fn enter_file(file: &File) -> Result<()> {
    Ok(move_into_link_name_space(
        file.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
}
