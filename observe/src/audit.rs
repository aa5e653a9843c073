//! The audit log: who did what that others must be able to find out later.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

/// `<state>/audit.log` (0600): one JSON object per line, `{"at": seconds since 1970, "event": "...", ...}`. Lines are
/// only ever appended. The file is opened for each, so whoever rotates it may rename it at any time.
#[derive(Clone, Debug)]
pub struct AuditLog(PathBuf);

impl AuditLog {
    /// In the directory `state`.
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self(state.join("audit.log"))
    }

    /// Writes that `event` happened, and what is to be known of it; it is on the disk when this returns. The process's
    /// log has it as well.
    ///
    /// # Errors
    /// When it cannot be written; the error names the file. What it was about must then not happen.
    pub fn write(&self, event: &str, about: &Value) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut line = json!({
            "at": now.unwrap_or_default().as_secs_f64(),
            "event": event,
        });
        if let (Some(line), Some(about)) = (line.as_object_mut(), about.as_object()) {
            line.extend(about.clone());
        }
        tracing::info!(audit = true, event, %about, "audit");
        let append = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            let mut file = options
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&self.0)?;
            // One call, so that lines of two threads do not mix.
            file.write_all(format!("{line}\n").as_bytes())?;
            file.sync_data()
        };
        append().map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", self.0.display())))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn lines_are_appended_for_their_owner_alone() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("audit.log");
        let log = AuditLog::new(state.path());
        log.write("begins", &json!({"uid": 0})).unwrap();
        fs::rename(&path, state.path().join("audit.log.1")).unwrap();
        log.write("goes-on", &json!({})).unwrap();
        log.write("ends", &json!({"why": "enough"})).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["event"], "ends");
        assert_eq!(lines[1]["why"], "enough");
        assert!(lines[1]["at"].as_f64().unwrap() > 1.7e9);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn one_that_cannot_be_written_names_its_file() {
        let state = tempfile::tempdir().unwrap();
        let log = AuditLog::new(&state.path().join("gone"));
        let error = log.write("begins", &json!({})).unwrap_err();
        assert!(error.to_string().contains("gone/audit.log"), "{error}");
    }
}
