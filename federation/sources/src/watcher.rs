//! When to look at a folder again: as soon as it has settled, which is when nobody has touched a
//! manifest for a moment and the file at hand has been closed by whoever writes it.
//!
//! The kernel's events say when; a slow look at the files' states catches what events miss
//! (overflow, network file systems, folders that are made anew).

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind},
};

use crate::{
    LoadError,
    files::{self, FEDERATION_FILE, Signature},
};

/// Nobody touched a manifest for so long. An editor that renames the old file away has the new one
/// in place by then.
const SETTLED: Duration = Duration::from_millis(50);
/// Look after so long even if someone keeps touching manifests.
const IMPATIENT: Duration = Duration::from_millis(400);
/// A file that was written to but not closed is taken as it is after so long.
const ABANDONED: Duration = Duration::from_secs(10);
/// How often folders are checked for being other ones than those that are watched.
const TICK: Duration = Duration::from_millis(250);
/// How many ticks pass between two looks at the state of all files.
const TICKS_PER_LOOK: u32 = 8;

/// What wakes a watcher.
pub(crate) enum Wake {
    /// The kernel saw something.
    Touched(notify::Result<Event>),
    /// Somebody asks to look at once.
    Asked,
}

/// Watches the folder of a federation for one cluster.
pub(crate) struct FolderWatcher {
    dir: PathBuf,
    cluster: String,
    wakes: Receiver<Wake>,
    watcher: RecommendedWatcher,
    /// Device and inode of what is watched, to see when a folder is made anew.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    /// Manifests that were written to and not closed, and when last.
    writing: BTreeMap<PathBuf, Instant>,
    ticks: u32,
}

impl FolderWatcher {
    /// With what wakes it although no file changed.
    pub fn new(dir: &Path, cluster: &str) -> Result<(Self, Sender<Wake>), LoadError> {
        let unwatchable = |error: String| LoadError::Unwatchable {
            path: dir.to_owned(),
            error,
        };
        let (sender, wakes) = mpsc::channel();
        let touched = sender.clone();
        let watcher = notify::recommended_watcher(move |event| {
            // The receiver lives as long as the watcher; afterwards nobody wants events.
            let _ = touched.send(Wake::Touched(event));
        });
        let mut new = Self {
            dir: std::path::absolute(dir).map_err(|e| unwatchable(e.to_string()))?,
            cluster: cluster.to_owned(),
            wakes,
            watcher: watcher.map_err(|e| unwatchable(e.to_string()))?,
            watched: BTreeMap::new(),
            writing: BTreeMap::new(),
            ticks: 0,
        };
        new.watch();
        Ok((new, sender))
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    pub fn signature(&self) -> Signature {
        files::signature(&self.dir, &self.cluster)
    }

    /// Whether someone is in the middle of writing `path`.
    pub fn is_being_written(&self, path: &Path) -> bool {
        self.writing.contains_key(path)
    }

    /// Waits until there is something to look at and it has settled: true. Returns false now and
    /// then, so that the caller can see whether anybody still listens. `seen` is the state of the
    /// files at the last look.
    pub fn wait(&mut self, seen: &Signature) -> bool {
        let mut first_touch = None;
        loop {
            let patience = match first_touch {
                None => TICK,
                Some(first) => {
                    let left = IMPATIENT.saturating_sub(Instant::now() - first);
                    if left.is_zero() {
                        return true;
                    }
                    SETTLED.min(left)
                }
            };
            match self.wakes.recv_timeout(patience) {
                Ok(Wake::Asked) => return true,
                Ok(Wake::Touched(event)) => {
                    if self.note(event) {
                        first_touch.get_or_insert_with(Instant::now);
                    }
                }
                Err(RecvTimeoutError::Timeout) if first_touch.is_some() => {
                    self.watch();
                    return true;
                }
                Err(RecvTimeoutError::Timeout) => {
                    if !self.tick(seen) {
                        return false;
                    }
                    first_touch = Some(Instant::now());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    // Only the slow look is left.
                    std::thread::park_timeout(TICK);
                    return self.tick(seen);
                }
            }
        }
    }

    /// Whether something changed that no event told of.
    fn tick(&mut self, seen: &Signature) -> bool {
        self.ticks = self.ticks.wrapping_add(1);
        let before = self.writing.len();
        self.writing.retain(|_, last| last.elapsed() < ABANDONED);
        let abandoned = self.writing.len() != before;
        let renewed = self.watch();
        let looks = self.ticks.is_multiple_of(TICKS_PER_LOOK);
        abandoned || renewed || (looks && self.signature() != *seen)
    }

    /// Watches what is not watched yet; whether there was any.
    fn watch(&mut self) -> bool {
        let mut renewed = false;
        for path in [self.dir.clone(), self.dir.join(&self.cluster)] {
            let now = fs::metadata(&path).ok().map(|m| (m.dev(), m.ino()));
            if self.watched.get(&path).copied() == now {
                continue;
            }
            renewed = true;
            if self.watched.remove(&path).is_some() {
                // The kernel has dropped it already if the folder is gone.
                let _ = self.watcher.unwatch(&path);
            }
            let Some(id) = now else { continue };
            if let Err(error) = self.watcher.watch(&path, RecursiveMode::NonRecursive) {
                // The slow look serves it.
                tracing::warn!(path = %path.display(), %error, "cannot watch");
            }
            self.watched.insert(path, id);
        }
        renewed
    }

    /// Takes note of an event; whether it concerns a manifest or a folder of ours.
    fn note(&mut self, event: notify::Result<Event>) -> bool {
        let Some(event) = event.ok().filter(|e| !e.need_rescan()) else {
            // Events were lost, the end of a writing maybe among them.
            self.writing.clear();
            return true;
        };
        // Our own reading opens files too.
        let is_close = EventKind::Access(AccessKind::Close(AccessMode::Write));
        if matches!(event.kind, EventKind::Access(_)) && event.kind != is_close {
            return false;
        }
        let mut ours = false;
        for path in &event.paths {
            if !self.concerns(path) {
                continue;
            }
            ours = true;
            match event.kind {
                EventKind::Modify(ModifyKind::Data(_)) => {
                    self.writing.insert(path.clone(), Instant::now());
                }
                EventKind::Create(CreateKind::File) if is_empty_file(path) => {
                    self.writing.insert(path.clone(), Instant::now());
                }
                // What was moved here or linked is whole, and what was closed is done.
                EventKind::Modify(ModifyKind::Metadata(_)) => {}
                _ => {
                    self.writing.remove(path);
                }
            }
        }
        ours || event.paths.is_empty()
    }

    fn concerns(&self, path: &Path) -> bool {
        let folder = self.dir.join(&self.cluster);
        let is_ours = path == self.dir.join(FEDERATION_FILE)
            || path == folder
            || path == self.dir
            || path.parent() == Some(&folder);
        // Mounted configuration is swapped by a link that is no manifest itself.
        let is_link = path.file_name().is_some_and(|n| n == "..data");
        is_ours && (path.parent() != Some(&folder) || files::is_manifest(path) || is_link)
    }
}

/// A regular file that somebody has made and not filled yet; a link is whole at once.
fn is_empty_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.len() == 0)
}
