//! The one directory that holds everything of a demo.
//!
//! ```text
//! DIR/journal            what was made, in order
//! DIR/plan.json          the network that was built
//! DIR/config/            the configuration in force: edit a file here and save it
//! DIR/views/CLUSTER/     what each cluster reads of it, when they join by tokens
//! DIR/logs/ROLE.log      one per gateway, agent and pod
//! DIR/captures/          what `demo check` recorded
//! DIR/gateways/ROLE/     configuration, keys and admin socket of each gateway
//! DIR/agents/ROLE/       configuration, secret and admin socket of each agent
//! ```

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::{
    journal::{self, Entry, Journal},
    plan::{Cluster, Node, Plan},
};

/// Longest path of a Unix socket (sun_path, unix(7)), without its final zero byte.
const MAX_SOCKET_PATH: usize = 107;

/// A demo's directory.
#[derive(Clone, Debug)]
pub struct State(PathBuf);

/// Held while a command changes a demo; released when the process ends, however it ends.
pub struct Lock {
    /// Holds the kernel's lock.
    _file: File,
    path: PathBuf,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before the lock is released, so that nothing stays behind. Whoever opened the file until
        // now sees that the path names another file or none.
        let _ = fs::remove_file(&self.path);
    }
}

impl State {
    /// The directory `dir`, which need not exist. Made absolute, because processes that are
    /// started from here are found by it later.
    pub fn new(dir: &Path) -> Result<Self> {
        let absolute =
            std::path::absolute(dir).with_context(|| format!("{} is not a path", dir.display()))?;
        Ok(Self(absolute))
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// The journal.
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    /// The configuration in force.
    pub fn config(&self) -> PathBuf {
        self.0.join("config")
    }

    /// The log of `role`.
    pub fn log(&self, role: &str) -> PathBuf {
        self.0.join("logs").join(format!("{role}.log"))
    }

    /// Where captures go.
    pub fn captures(&self) -> PathBuf {
        self.0.join("captures")
    }

    /// The state directory of a cluster's gateway.
    pub fn gateway(&self, cluster: &Cluster) -> PathBuf {
        self.0.join("gateways").join(cluster.gateway_role())
    }

    /// The state directory of a node's agent.
    pub fn agent(&self, cluster: &Cluster, node: &Node) -> PathBuf {
        self.0.join("agents").join(cluster.agent_role(node))
    }

    /// Makes the directory, unless it is there, and begins its journal.
    ///
    /// # Errors
    /// When it holds something that no demo made: then it is left alone.
    pub fn claim(&self) -> Result<Journal> {
        let ours = !self.0.exists();
        if !ours && !self.is_empty()? {
            bail!(
                "{} is not empty and holds no demo; name another directory with --state",
                self.0.display()
            );
        }
        make_private(&self.0)?;
        let journal = Journal::open(&self.journal())?;
        journal.record(&Entry::StateDir { ours })?;
        Ok(journal)
    }

    /// Makes the folders in it, readable by nobody else.
    pub fn make_folders(&self) -> Result<()> {
        for folder in ["config", "views", "logs", "captures", "gateways", "agents"] {
            make_private(&self.0.join(folder))?;
        }
        Ok(())
    }

    /// Refuses a directory whose sockets could not be bound.
    pub fn check_socket_paths(&self, plan: &Plan) -> Result<()> {
        for cluster in &plan.clusters {
            let agents = cluster.nodes.iter().map(|n| self.agent(cluster, n));
            for dir in agents.chain([self.gateway(cluster)]) {
                let socket = dir.join("admin.sock");
                if socket.as_os_str().len() > MAX_SOCKET_PATH {
                    bail!(
                        "{} is longer than {MAX_SOCKET_PATH} bytes, the most that a Unix socket \
                         may have; name a shorter directory with --state",
                        socket.display()
                    );
                }
            }
        }
        Ok(())
    }

    /// Waits for nobody: two commands that change one demo would undo each other's work.
    pub fn lock(&self) -> Result<Lock> {
        let path = self.lock_file();
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot make {}", parent.display()))?;
        }
        let file =
            File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let busy = || {
            format!(
                "another `landbridge demo` command is working on {}; wait for it or end it",
                self.0.display()
            )
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(busy()),
            Err(TryLockError::Error(e)) => {
                return Err(e).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        // The last holder may have removed the file between the two calls.
        let same = fs::metadata(&path).is_ok_and(|at_path| {
            file.metadata()
                .is_ok_and(|held| held.ino() == at_path.ino())
        });
        if !same {
            bail!(busy());
        }
        Ok(Lock { _file: file, path })
    }

    /// The file that [`State::lock`] holds: beside the directory and not in it, so that `down`
    /// can remove the directory while it holds the lock.
    fn lock_file(&self) -> PathBuf {
        let mut name = self.0.as_os_str().to_owned();
        name.push(".lock");
        name.into()
    }

    /// Stores the network that is about to be built.
    pub fn write_plan(&self, plan: &Plan) -> Result<()> {
        let path = self.0.join("plan.json");
        fs::write(&path, serde_json::to_vec_pretty(plan)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The network of a demo that is up.
    ///
    /// # Errors
    /// When none is up, or `up` did not come to its end.
    pub fn running_plan(&self) -> Result<Plan> {
        let dir = self.0.display();
        let Some(entries) = journal::read(&self.journal())? else {
            bail!("no demo is up in {dir}: start it with `landbridge demo up`");
        };
        if !entries.iter().any(|e| matches!(e, Entry::Ready { .. })) {
            bail!(
                "the demo in {dir} did not come up completely: \
                 `landbridge demo down`, then `landbridge demo up`"
            );
        }
        let path = self.0.join("plan.json");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    fn is_empty(&self) -> Result<bool> {
        let mut entries =
            fs::read_dir(&self.0).with_context(|| format!("cannot read {}", self.0.display()))?;
        Ok(entries.next().is_none())
    }
}

/// Makes the folder `path` and those above it; it is closed to everybody else.
pub fn make_private(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make {}", path.display()))
}

/// Copies the regular files of the folder `from`, and of the folders in it, to `to`.
pub fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let entries = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        // Follows links, so that a mounted ConfigMap, which is a folder of links, can be copied.
        let kind = fs::metadata(&source)
            .with_context(|| format!("cannot read {}", source.display()))?
            .file_type();
        if kind.is_dir() {
            copy_folder(&source, &target)?;
        } else if kind.is_file() {
            fs::copy(&source, &target)
                .with_context(|| format!("cannot copy {}", source.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_directory_with_foreign_content_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.txt"), "do not touch").unwrap();
        let error = State::new(dir.path()).unwrap().claim().err().unwrap();
        assert!(error.to_string().contains("holds no demo"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn only_one_command_works_on_a_demo() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(&dir.path().join("demo")).unwrap();
        let lock = state.lock().unwrap();
        assert!(state.lock().is_err());
        drop(lock);
        drop(state.lock().unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn folders_are_copied_with_what_links_point_to() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("east")).unwrap();
        fs::write(from.join("east/pod.yaml"), "kind: Pod").unwrap();
        std::os::unix::fs::symlink("east/pod.yaml", from.join("link.yaml")).unwrap();
        copy_folder(&from, &to).unwrap();
        assert_eq!(fs::read(to.join("east/pod.yaml")).unwrap(), b"kind: Pod");
        assert_eq!(fs::read(to.join("link.yaml")).unwrap(), b"kind: Pod");
    }
}
