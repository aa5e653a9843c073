//! A folder of manifests as a source: `DIR/federation.yaml` and `DIR/<cluster>/*.yaml`.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use tokio::sync::watch;

use crate::{
    ClusterConfig, Effect, FederationConfig, Problem, World,
    decode::one_of,
    files::{self, Files, Signature},
    store::{self, NoWorld, Store},
    watcher::{FolderWatcher, Wake},
};

/// Watches a folder.
#[derive(Debug)]
pub struct FolderSource;

/// Why nothing could be loaded. Only the Federation itself is needed to begin; whatever else is
/// wrong is a [`Problem`] of a [`World`].
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The Federation was refused.
    #[error("there is no usable Federation\n{}", lines(.0))]
    Refused(Vec<Problem>),
    /// The Federation has no cluster of that name.
    #[error("{}: federation {federation} has no cluster {cluster:?}; it has {}", folder.display(), known.join(", "))]
    NoSuchCluster {
        /// The folder.
        folder: PathBuf,
        /// The Federation's name.
        federation: String,
        /// The cluster that was asked for.
        cluster: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The folder cannot be watched.
    #[error("cannot watch {}: {error}", path.display())]
    Unwatchable {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: String,
    },
}

impl FolderSource {
    /// Loads the world of `cluster` from `dir` and keeps it up to date until every receiver is
    /// gone. Needs no async runtime; a thread of its own watches.
    ///
    /// # Errors
    /// When there is no usable Federation to begin with, or the folder cannot be watched.
    pub fn open(dir: &Path, cluster: &str) -> Result<watch::Receiver<Arc<World>>, LoadError> {
        Ok(Self::open_with(dir, cluster, Vec::new())?.0)
    }

    /// The same of a cluster that has joined others: these are known beside those of its Federation, until it is
    /// told of others.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(
        dir: &Path,
        cluster: &str,
        joined: Vec<ClusterConfig>,
    ) -> Result<(watch::Receiver<Arc<World>>, Joined), LoadError> {
        // Before the first look, so that no change falls between the two.
        let (watcher, wake) = FolderWatcher::new(dir, cluster)?;
        let mut store = Store::new(cluster);
        store.set_joined(joined.clone());
        let joined = Arc::new(Mutex::new(joined));
        let files = files::read(dir, cluster, &Files::default(), &|_| false);
        let signature = files::signature(dir, cluster);
        let world = store.load(&files).map_err(|e| no_world(dir, cluster, e))?;
        let (sender, receiver) = watch::channel(Arc::new(world));
        let follower = Follower {
            joined: Arc::clone(&joined),
            store,
            files,
            signature,
            sender,
        };
        thread::Builder::new()
            .name("landbridge-folder".into())
            .spawn(move || follow(watcher, follower))
            .map_err(|error| LoadError::Unwatchable {
                path: dir.to_owned(),
                error: error.to_string(),
            })?;
        // A watcher that is gone needs no waking.
        let wake = move || drop(wake.send(Wake::Asked));
        Ok((receiver, Joined::new(joined, wake)))
    }
}

/// Says which clusters were joined.
pub struct Joined {
    joined: Arc<Mutex<Vec<ClusterConfig>>>,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Joined {
    pub(crate) fn new(
        joined: Arc<Mutex<Vec<ClusterConfig>>>,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            joined,
            wake: Box::new(wake),
        }
    }

    /// From now on these are known beside those of the Federation, which wins where both speak of one.
    pub fn set(&self, joined: Vec<ClusterConfig>) {
        let mut held = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        if *held != joined {
            *held = joined;
            (self.wake)();
        }
    }
}

/// Loads the worlds of all clusters, in the order of the Federation.
///
/// # Errors
/// When there is no usable Federation.
pub fn load_once(dir: &Path) -> Result<Vec<World>, LoadError> {
    let (_, loaded) = load_all(dir)?;
    Ok(loaded.into_iter().map(|one| one.world).collect())
}

/// One cluster of a folder: its files, what was accepted of them, and what they mean.
pub(crate) struct Loaded {
    pub files: Files,
    pub store: Store,
    pub world: World,
}

/// All clusters, in the order of the Federation.
pub(crate) fn load_all(dir: &Path) -> Result<(FederationConfig, Vec<Loaded>), LoadError> {
    let federation = files::read(dir, "", &Files::default(), &|_| false).federation;
    let federation = store::federation(federation.as_ref()).map_err(LoadError::Refused)?;
    let load = |name: &String| {
        let files = files::read(dir, name, &Files::default(), &|_| false);
        let mut store = Store::new(name);
        let world = store.load(&files).map_err(|e| no_world(dir, name, e))?;
        Ok(Loaded {
            files,
            store,
            world,
        })
    };
    let names = federation.clusters.iter().map(|c| &c.name);
    let mut loaded: Vec<Loaded> = names.map(load).collect::<Result<_, _>>()?;
    let strays = stray_folders(dir, &federation);
    for one in &mut loaded {
        one.world.problems.extend(strays.iter().cloned());
        one.world.problems.sort();
    }
    Ok((federation, loaded))
}

/// Keeps the world up to date.
struct Follower {
    joined: Arc<Mutex<Vec<ClusterConfig>>>,
    store: Store,
    files: Files,
    signature: Signature,
    sender: watch::Sender<Arc<World>>,
}

fn follow(mut watcher: FolderWatcher, mut follower: Follower) {
    loop {
        let changed = watcher.wait(&follower.signature);
        if follower.sender.is_closed() {
            return;
        }
        if changed {
            follower.look(&watcher);
        }
    }
}

impl Follower {
    fn look(&mut self, watcher: &FolderWatcher) {
        // The signature first: what changes after it is seen again.
        self.signature = watcher.signature();
        let files = files::read(watcher.dir(), watcher.cluster(), &self.files, &|path| {
            watcher.is_being_written(path)
        });
        let joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        let others = self.store.set_joined(joined.clone());
        drop(joined);
        if files == self.files && !others {
            return;
        }
        self.files = files;
        match self.store.load(&self.files) {
            Ok(world) => {
                let world = Arc::new(world);
                self.sender.send_if_modified(|old| {
                    let differs = **old != *world;
                    if differs {
                        *old = world;
                    }
                    differs
                });
            }
            Err(error) => {
                let error = no_world(watcher.dir(), watcher.cluster(), error);
                tracing::error!(%error, "the folder is refused; all stays as it was");
            }
        }
    }
}

fn no_world(dir: &Path, cluster: &str, error: NoWorld) -> LoadError {
    match error {
        NoWorld::Refused(problems) => LoadError::Refused(problems),
        NoWorld::NoSuchCluster(federation) => LoadError::NoSuchCluster {
            folder: dir.to_owned(),
            federation: federation.name,
            cluster: cluster.to_owned(),
            known: federation.clusters.into_iter().map(|c| c.name).collect(),
        },
    }
}

/// Folders with manifests that belong to no cluster: most likely a slip in a name.
fn stray_folders(dir: &Path, federation: &FederationConfig) -> Vec<Problem> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut problems = Vec::new();
    for path in entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()) {
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        let inside = std::fs::read_dir(&path).into_iter().flatten().flatten();
        let has_manifests = inside.map(|e| e.path()).any(|p| files::is_manifest(&p));
        if has_manifests && federation.cluster(name).is_none() {
            let known: Vec<&str> = federation
                .clusters
                .iter()
                .map(|c| c.name.as_str())
                .collect();
            problems.push(Problem {
                file: name.to_owned(),
                line: None,
                object: "the folder".into(),
                field_path: String::new(),
                message: format!(
                    "holds manifests, but federation {} has no such cluster",
                    federation.name
                ),
                expected: one_of(&known),
                effect: Effect::NotInForce,
            });
        }
    }
    problems
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
