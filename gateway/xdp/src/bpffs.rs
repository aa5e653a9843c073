//! A BPF file system of our own: what is pinned there outlives the process.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::XdpError;

/// The directory of a gateway's state, locked for this process.
#[derive(Debug)]
pub(crate) struct StateLock {
    _lock: Flock<File>,
}

impl StateLock {
    /// Locks `state`, which is made (mode 0700) when missing.
    ///
    /// # Errors
    /// [`XdpError::Misconfigured`] when another process holds it.
    pub(crate) fn take(state: &Path) -> Result<Self, XdpError> {
        let failed = |e| XdpError::unavailable(format!("state directory {}", state.display()), e);
        private_directory(state).map_err(failed)?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(state.join("xdp.lock"))
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { _lock: lock }),
            Err((_, Errno::EAGAIN)) => Err(in_use(state)),
            Err((_, e)) => Err(failed(e.into())),
        }
    }
}

fn in_use(state: &Path) -> XdpError {
    XdpError::misconfigured(
        format!(
            "another gateway uses the state directory {}",
            state.display()
        ),
        "stop it first, or give this one a state directory of its own",
    )
}

/// A mounted BPF file system.
#[derive(Debug)]
pub(crate) struct BpfFs {
    path: PathBuf,
}

impl BpfFs {
    /// The place of the file system in the state directory.
    pub(crate) fn place(state: &Path) -> PathBuf {
        state.join("bpf")
    }

    /// Whether one is mounted at `path`.
    pub(crate) fn is_mounted(path: &Path) -> bool {
        statfs(path).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC)
    }

    /// Adopts what is mounted in `state`, else mounts a new one with mode 0700.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn open(state: &Path) -> Result<Self, XdpError> {
        let path = Self::place(state);
        let failed = |e: io::Error| {
            XdpError::unavailable(format!("mount a BPF file system at {}", path.display()), e)
        };
        if !Self::is_mounted(&path) {
            private_directory(&path).map_err(failed)?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("bpffs"), &path, Some("bpf"), flags, Some("mode=0700"))
                .map_err(|e| failed(e.into()))?;
        }
        Ok(Self { path })
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory `name` in it.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf, XdpError> {
        let path = self.path.join(name);
        private_directory(&path)
            .map_err(|e| XdpError::unavailable(format!("directory {}", path.display()), e))?;
        Ok(path)
    }
}

/// Unmounts the BPF file system in the state directory `state`.
///
/// # Errors
/// What the kernel answered.
pub fn unmount(state: &Path) -> io::Result<()> {
    // Lazily: nothing is pinned there any more, and somebody who lists mounts holds it for a moment.
    Ok(umount2(&BpfFs::place(state), MntFlags::MNT_DETACH)?)
}

/// Removes `directory` of a BPF file system and all that is pinned in it, two levels deep.
pub(crate) fn remove_pins(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_pins(&path)?;
        } else {
            fs::remove_file(path)?;
        }
    }
    fs::remove_dir(directory)
}

/// Makes `path` with mode 0700, or checks that it is a directory and takes all rights of others.
fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let mut permissions = fs::metadata(path)?.permissions();
    if permissions.mode() & 0o077 != 0 {
        permissions.set_mode(0o700);
        fs::set_permissions(path, permissions)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_second_holder_is_refused_in_words_and_the_first_can_let_go() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let first = StateLock::take(&state).unwrap();
        let refused = StateLock::take(&state).unwrap_err().to_string();
        assert!(refused.contains("another gateway"), "{refused}");
        assert_eq!(
            fs::metadata(&state).unwrap().permissions().mode() & 0o777,
            0o700
        );
        drop(first);
        StateLock::take(&state).unwrap();
    }
}
