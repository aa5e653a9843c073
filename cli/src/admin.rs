//! Questions to a running gateway or agent: one JSON object per line over its Unix socket.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Longest answer in bytes.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;
/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How long one may take for which the gateway has to wait for others: for another cluster, or for the signer
/// of its root.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `request` at the socket `admin.sock` in `state_dir`.
///
/// # Errors
/// When nobody answers, or the answer is an error of its own (`{"error": "..."}`).
pub fn ask(state_dir: &Path, request: &Value) -> Result<Value> {
    ask_within(state_dir, request, LIMIT)
}

/// The same, with its own limit.
///
/// # Errors
/// As [`ask`].
pub fn ask_within(state_dir: &Path, request: &Value, limit: Duration) -> Result<Value> {
    let socket = state_dir.join("admin.sock");
    let talk = || -> Result<String> {
        let mut stream = UnixStream::connect(&socket)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream.take(MAX_ANSWER)).read_line(&mut line)?;
        Ok(line)
    };
    let line = talk().with_context(|| format!("no answer from {}", socket.display()))?;
    let answer: Value = serde_json::from_str(&line)
        .with_context(|| format!("{} answered no JSON: {line:.200}", socket.display()))?;
    if let Some(error) = answer.get("error") {
        let text = error.as_str().map_or_else(|| error.to_string(), Into::into);
        bail!("{}: {text}", socket.display());
    }
    Ok(answer)
}
