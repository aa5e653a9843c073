//! The text of a folder's manifests: `federation.yaml` and `<cluster>/*.yaml`.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The file that holds the Federation.
pub(crate) const FEDERATION_FILE: &str = "federation.yaml";
/// Longest manifest file in bytes.
const MAX_FILE: u64 = 4 << 20;
/// Most manifest files of one cluster.
const MAX_FILES: usize = 10_000;

/// What stands in a folder. Paths are relative to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    /// `federation.yaml`.
    pub federation: Option<Text>,
    /// The cluster's files, or why its folder cannot be read.
    pub manifests: Result<BTreeMap<String, Text>, String>,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            federation: None,
            manifests: Ok(BTreeMap::new()),
        }
    }
}

/// The text of a file, or why it cannot be had.
pub(crate) type Text = Result<String, String>;

/// Tells whether a file changed: modification time, size and inode.
pub(crate) type Signature = BTreeMap<String, (i64, i64, u64, u64)>;

/// Reads the Federation and the manifests of `cluster`. Files for which `skip` says so keep the text
/// that they have in `known`, or are left out when they have none: someone is writing them.
pub(crate) fn read(
    dir: &Path,
    cluster: &str,
    known: &Files,
    skip: &dyn Fn(&Path) -> bool,
) -> Files {
    let old = |name: &str| known.manifests.as_ref().ok()?.get(name).cloned();
    let federation = dir.join(FEDERATION_FILE);
    let federation = match skip(&federation) {
        true => known.federation.clone(),
        false => text(&federation),
    };
    let manifests = paths(dir, cluster).map_err(|e| e.to_string()).map(|paths| {
        let mut manifests = BTreeMap::new();
        for (name, path) in paths {
            let text = if skip(&path) { old(&name) } else { text(&path) };
            if let Some(text) = text {
                manifests.insert(name, text);
            }
        }
        manifests
    });
    Files {
        federation,
        manifests,
    }
}

/// The state of all files that `read` would read; a file that cannot be looked at is left out.
pub(crate) fn signature(dir: &Path, cluster: &str) -> Signature {
    let federation = (FEDERATION_FILE.to_owned(), dir.join(FEDERATION_FILE));
    let paths = paths(dir, cluster).unwrap_or_default();
    let paths = paths.into_iter().chain([federation]);
    let look = |(name, path): (String, PathBuf)| {
        let meta = fs::metadata(path).ok()?;
        Some((
            name,
            (meta.mtime(), meta.mtime_nsec(), meta.size(), meta.ino()),
        ))
    };
    paths.filter_map(look).collect()
}

/// Name and path of the manifests of `cluster`, sorted by name.
fn paths(dir: &Path, cluster: &str) -> io::Result<Vec<(String, PathBuf)>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir.join(cluster))? {
        let path = entry?.path();
        if is_manifest(&path)
            && let Some(name) = path.file_name().and_then(OsStr::to_str)
        {
            paths.push((format!("{cluster}/{name}"), path));
        }
        if paths.len() > MAX_FILES {
            return Err(io::Error::other(format!("more than {MAX_FILES} manifests")));
        }
    }
    paths.sort();
    Ok(paths)
}

/// `*.yaml` and `*.yml`, but no hidden file: editors keep their copies in those.
pub(crate) fn is_manifest(path: &Path) -> bool {
    let is_hidden = |name: &str| name.starts_with('.') || name.starts_with('#');
    let is_yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
    let name = path.file_name().and_then(OsStr::to_str);
    is_yaml && name.is_some_and(|n| !is_hidden(n))
}

/// `None` when there is no such file.
fn text(path: &Path) -> Option<Text> {
    let read = || -> Result<Option<String>, String> {
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        if !meta.is_file() {
            return Err("is no file".into());
        }
        if meta.len() > MAX_FILE {
            return Err(format!(
                "has {} bytes, at most {MAX_FILE} are read",
                meta.len()
            ));
        }
        match fs::read(path) {
            Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|error| {
                let line = error.as_bytes().get(..error.utf8_error().valid_up_to());
                let line = line.map_or(0, |b| b.iter().filter(|b| **b == b'\n').count());
                format!("is not UTF-8 in line {}", line + 1)
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    };
    read().transpose()
}
