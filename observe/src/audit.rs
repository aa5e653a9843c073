//! The audit log: who did what that others must be able to find out later, and what was signed.
//!
//! Each line holds the hash of the line before, so that nobody can take one out, change it or put one in
//! unseen but at the end. A line that a crash cut stays as it is and is covered by the next.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The longest line that is looked for at the end of a file.
const MAX_LINE: u64 = 1 << 20;
/// What the first line of all comes after.
const NOTHING: &str = "";

/// `<state>/audit.log` (0600): one JSON object per line, `{"at": seconds since 1970, "event": "...", "after": SHA-256 of
/// the line before in hex, ...}`. Lines are only ever appended. The file is opened for each, so whoever rotates it may
/// rename it at any time; the chain goes on in the next. Clones are one log.
#[derive(Clone, Debug)]
pub struct AuditLog(Arc<Mutex<Chain>>);

#[derive(Debug)]
struct Chain {
    path: PathBuf,
    /// The hash of the last line; not known before the first one is written.
    last: Option<String>,
}

/// Something to be written.
#[derive(Clone, Debug)]
pub struct AuditLine {
    /// What happened.
    pub event: &'static str,
    /// What is to be known of it.
    pub about: Value,
}

impl AuditLog {
    /// In the directory `state`.
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self(Arc::new(Mutex::new(Chain {
            path: state.join("audit.log"),
            last: None,
        })))
    }

    /// Writes that `event` happened, and what is to be known of it; it is on the disk when this returns. The process's
    /// log has it as well.
    ///
    /// # Errors
    /// When it cannot be written; the error names the file. What it was about must then not happen.
    pub fn write(&self, event: &'static str, about: &Value) -> io::Result<()> {
        tracing::info!(audit = true, event, %about, "audit");
        let about = about.clone();
        self.write_all(&[AuditLine { event, about }])
    }

    /// Writes many lines, which are on the disk together when this returns.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_all(&self, lines: &[AuditLine]) -> io::Result<()> {
        let mut chain = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let named =
            |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", chain.path.display()));
        let written = chain.append(lines).map_err(named)?;
        chain.last = Some(written);
        Ok(())
    }
}

impl Chain {
    /// The hash of the last line that was written.
    fn append(&self, lines: &[AuditLine]) -> io::Result<String> {
        let mut options = OpenOptions::new();
        let options = options.append(true).read(true).create(true).mode(0o600);
        let mut file = options.open(&self.path)?;
        let (found, torn) = last_line(&mut file)?;
        // A new file goes on with the chain of the one that was renamed.
        let held = self.last.clone().filter(|_| found.is_none() || !torn);
        let mut after = held.or(found).unwrap_or_else(|| NOTHING.into());
        let mut text = String::new();
        if torn {
            text.push('\n');
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        for AuditLine { event, about } in lines {
            let mut line = json!({
                "at": now.as_ref().map_or(0.0, |now| now.as_secs_f64()),
                "event": event,
                "after": after,
            });
            if let (Some(line), Some(about)) = (line.as_object_mut(), about.as_object()) {
                line.extend(about.clone());
            }
            let line = line.to_string();
            after = hash(line.as_bytes());
            text.push_str(&line);
            text.push('\n');
        }
        // One call, so that what a crash leaves is a beginning.
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        Ok(after)
    }
}

/// The hash of the file's last line, and whether a crash cut it.
fn last_line(file: &mut File) -> io::Result<(Option<String>, bool)> {
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok((None, false));
    }
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_LINE)))?;
    let mut end = Vec::new();
    file.take(MAX_LINE).read_to_end(&mut end)?;
    let torn = !end.ends_with(b"\n");
    let whole = end.strip_suffix(b"\n").unwrap_or(&end);
    let line = whole.rsplit(|byte| *byte == b'\n').next();
    Ok((line.map(hash), torn))
}

fn hash(line: &[u8]) -> String {
    Sha256::digest(line)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What is wrong with an audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditProblem {
    /// The line, counted from 1 over all files.
    pub line: usize,
    /// What.
    pub what: &'static str,
}

/// Looks whether `lines`, those of all files in their order, are one chain: how many there are, and what is wrong.
#[must_use]
pub fn verify_audit<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> (usize, Vec<AuditProblem>) {
    let (mut count, mut problems) = (0, Vec::new());
    let mut last: Option<String> = None;
    for bytes in lines {
        count += 1;
        let mut problem = |what| problems.push(AuditProblem { line: count, what });
        match serde_json::from_slice::<Value>(bytes) {
            Err(_) => problem("is torn: a crash cut it"),
            Ok(line) => match (line["after"].as_str(), &last) {
                (None, _) => problem("does not say what it comes after"),
                // Where the first file begins, others may have been deleted.
                (Some(_), None) => {}
                (Some(after), Some(last)) if after == last => {}
                (Some(_), Some(_)) => problem("does not come after the line before it"),
            },
        }
        last = Some(hash(bytes));
    }
    (count, problems)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn lines(path: &Path) -> Vec<Vec<u8>> {
        let text = fs::read(path).unwrap();
        let text = text.strip_suffix(b"\n").unwrap_or(&text);
        text.split(|byte| *byte == b'\n').map(Into::into).collect()
    }

    fn problems(lines: &[Vec<u8>]) -> Vec<(usize, &'static str)> {
        let (_, problems) = verify_audit(lines.iter().map(Vec::as_slice));
        problems.into_iter().map(|p| (p.line, p.what)).collect()
    }

    #[test]
    fn lines_are_appended_for_their_owner_alone() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("audit.log");
        let log = AuditLog::new(state.path());
        log.write("begins", &json!({"uid": 0})).unwrap();
        fs::rename(&path, state.path().join("audit.log.1")).unwrap();
        log.write("goes-on", &json!({})).unwrap();
        log.write("ends", &json!({"why": "enough"})).unwrap();
        let text = lines(&path);
        assert_eq!(text.len(), 2);
        let last: Value = serde_json::from_slice(&text[1]).unwrap();
        assert_eq!(
            (&last["event"], &last["why"]),
            (&json!("ends"), &json!("enough"))
        );
        assert!(last["at"].as_f64().unwrap() > 1.7e9);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // One chain over both files.
        let all = [lines(&state.path().join("audit.log.1")), text].concat();
        assert_eq!(problems(&all), []);
    }

    /// Threat row 48.
    #[test]
    fn whatever_is_taken_out_changed_or_put_in_is_seen() {
        let state = tempfile::tempdir().unwrap();
        let log = AuditLog::new(state.path());
        let line = |number: u32| AuditLine {
            event: "signed",
            about: json!({ "number": number }),
        };
        log.write_all(&[line(1), line(2), line(3)]).unwrap();
        // Another process goes on.
        let log = AuditLog::new(state.path());
        log.write_all(&[line(4), line(5)]).unwrap();
        let all = lines(&state.path().join("audit.log"));
        assert_eq!(problems(&all), []);
        for place in 1..4 {
            let mut less = all.clone();
            less.remove(place);
            assert_eq!(problems(&less).len(), 1, "{place} is gone");
            let mut changed = all.clone();
            changed[place].extend(b" ");
            assert_eq!(problems(&changed)[0].0, place + 2, "{place} is changed");
            let mut more = all.clone();
            more.insert(place, br#"{"event":"x","after":""}"#.to_vec());
            assert_eq!(problems(&more).len(), 2, "one before {place}");
            let mut other = all.clone();
            other.swap(place, place - 1);
            assert!(!problems(&other).is_empty());
        }
    }

    #[test]
    fn a_line_that_a_crash_cut_is_reported_and_nothing_is_lost_after_it() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("audit.log");
        let log = AuditLog::new(state.path());
        log.write("first", &json!({})).unwrap();
        log.write("second", &json!({})).unwrap();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 20]).unwrap();
        for log in [log, AuditLog::new(state.path())] {
            log.write("goes-on", &json!({})).unwrap();
        }
        let all = lines(&path);
        assert_eq!(all.len(), 4);
        assert_eq!(problems(&all), [(2, "is torn: a crash cut it")]);
    }

    #[test]
    fn one_that_cannot_be_written_names_its_file() {
        let state = tempfile::tempdir().unwrap();
        let log = AuditLog::new(&state.path().join("gone"));
        let error = log.write("begins", &json!({})).unwrap_err();
        assert!(error.to_string().contains("gone/audit.log"), "{error}");
    }
}
