//! Edits of the configuration in force, put back when they are dropped.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_norway::Value;

/// A file that was changed, or made.
pub struct Edited {
    path: PathBuf,
    before: Before,
}

/// What has to be put back.
enum Before {
    /// There was no such file.
    Absent,
    /// It held this.
    Content(Vec<u8>),
    /// It was put back.
    Restored,
}

impl Edited {
    /// Saves `text` as `path`, in one step, as editors do; and when that was.
    pub fn save(path: PathBuf, text: &str) -> Result<(Self, Instant)> {
        let before = match fs::read(&path) {
            Ok(bytes) => Before::Content(bytes),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Before::Absent,
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        replace(&path, text.as_bytes())?;
        Ok((Self { path, before }, Instant::now()))
    }

    /// Puts the file back; when that was.
    pub fn undo(mut self) -> Result<Instant> {
        self.put_back()?;
        Ok(Instant::now())
    }

    fn put_back(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.before, Before::Restored) {
            Before::Content(bytes) => replace(&self.path, &bytes),
            Before::Absent => fs::remove_file(&self.path)
                .with_context(|| format!("cannot remove {}", self.path.display())),
            Before::Restored => Ok(()),
        }
    }
}

impl Drop for Edited {
    fn drop(&mut self) {
        // A fact that failed reports its own error, not this one.
        let _ = self.put_back();
    }
}

/// The file in the folder `dir` that declares the pod, with all its documents and the place of the
/// pod's among them.
pub fn find_pod(dir: &Path, namespace: &str, name: &str) -> Result<(PathBuf, Vec<Value>, usize)> {
    let is_it = |document: &Value| {
        let metadata = &document["metadata"];
        document["kind"] == "Pod"
            && metadata["name"] == name
            && metadata["namespace"].as_str().unwrap_or("default") == namespace
    };
    find(dir, is_it).with_context(|| format!("the pod {namespace}/{name}"))
}

/// The first file in the folder `dir` with a document that `is_it` takes, with all its documents and
/// the place of that one among them.
pub fn find(dir: &Path, is_it: impl Fn(&Value) -> bool) -> Result<(PathBuf, Vec<Value>, usize)> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        let is_yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
        if !is_yaml {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let documents = documents(&text).with_context(|| path.display().to_string())?;
        if let Some(place) = documents.iter().position(&is_it) {
            return Ok((path, documents, place));
        }
    }
    bail!("no file in {} declares it", dir.display())
}

/// All documents as one file.
pub fn text(documents: &[Value]) -> Result<String> {
    let mut text = String::new();
    for document in documents {
        text += "---\n";
        text += &serde_norway::to_string(document)?;
    }
    Ok(text)
}

fn documents(text: &str) -> Result<Vec<Value>> {
    let mut documents = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        documents.push(Value::deserialize(document)?);
    }
    Ok(documents)
}

/// Readers see the old file or the new one, never a part.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".saving");
    let saving = path.with_file_name(name);
    fs::write(&saving, bytes)
        .and_then(|()| fs::rename(&saving, path))
        .with_context(|| format!("cannot save {}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const FILE: &str = "kind: Namespace\nmetadata: {name: shop}\n---\n\
                        kind: Pod\nmetadata: {name: api, namespace: shop, labels: {app: api}}\n";

    #[test]
    fn a_pod_is_found_changed_and_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shop.yaml");
        fs::write(&path, FILE).unwrap();
        let (found, mut documents, place) = find_pod(dir.path(), "shop", "api").unwrap();
        assert_eq!((&found, place), (&path, 1));
        documents[place]["metadata"]["labels"]["app"] = "other".into();
        let (edited, _) = Edited::save(found, &text(&documents).unwrap()).unwrap();
        let (_, changed, _) = find_pod(dir.path(), "shop", "api").unwrap();
        assert_eq!(changed[1]["metadata"]["labels"]["app"], "other");
        assert_eq!(changed[0], documents[0]);
        edited.undo().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), FILE);
        assert!(find_pod(dir.path(), "shop", "none").is_err());
    }

    #[test]
    fn a_new_file_is_gone_when_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new.yaml");
        let edited = Edited::save(path.clone(), "kind: Pod").unwrap().0;
        assert!(path.exists());
        drop(edited);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_was_put_back_is_not_touched_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pod.yaml");
        fs::write(&path, "one").unwrap();
        let edited = Edited::save(path.clone(), "two").unwrap().0;
        edited.undo().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }
}
