//! The admin socket: one JSON request per line, one JSON reply per line.
//!
//! The socket's mode is 0600 in a directory of mode 0700: who can open it is root or the gateway's own
//! user, and is not asked for more.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

/// The longest request in bytes.
const MAX_LINE: u64 = 64 * 1024;
/// Connections served at once.
const MAX_CONNECTIONS: usize = 16;
/// How long a connection may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Peers, nodes, interfaces and problems, in words and numbers.
    Status {},
    /// Every packet accounted for.
    Counters {},
    /// The live flows.
    Flows {},
    /// Which rule decides, and why.
    Explain {
        /// `cluster/namespace/pod`.
        from: String,
        /// `cluster/namespace/pod`.
        to: String,
        /// The destination port as the pod gets it.
        port: u16,
        /// `tcp` or `udp`.
        #[serde(default = "tcp")]
        protocol: String,
    },
}

fn tcp() -> String {
    "tcp".into()
}

/// What answers.
pub trait Answer: Send + Sync + 'static {
    /// The reply to `request`, or why there is none.
    fn answer(&self, request: Request) -> Result<Value, String>;
}

/// A socket that listens; its file is removed when dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Listens on `<state>/admin.sock`. A file that a dead process left is replaced: the caller holds
    /// the lock of the state directory.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(state: &Path) -> anyhow::Result<Self> {
        let path = state.join("admin.sock");
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let bind = || {
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            Ok::<_, io::Error>(listener)
        };
        let listener = bind().with_context(|| path.display().to_string())?;
        Ok(Self { listener, path })
    }

    /// Serves until the task is dropped.
    pub async fn serve(self, answer: Arc<dyn Answer>) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(e) => {
                    tracing::warn!("admin socket: accept: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let _place = place;
                // A client that goes away is its own affair.
                let _ = converse(stream, &*answer).await;
            });
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // A file that is gone already needs no removal.
        let _ = fs::remove_file(&self.path);
    }
}

async fn converse(stream: UnixStream, answer: &dyn Answer) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut reader).take(MAX_LINE);
        let read = timeout(PATIENCE, bounded.read_until(b'\n', &mut line)).await??;
        if read == 0 {
            return Ok(());
        }
        let whole = line.ends_with(b"\n") || (read as u64) < MAX_LINE;
        let reply = match whole {
            true => reply(&line, answer),
            false => json!({"error": format!("a request is at most {MAX_LINE} bytes")}),
        };
        let mut bytes = reply.to_string().into_bytes();
        bytes.push(b'\n');
        writer.write_all(&bytes).await?;
        if !whole {
            return Ok(());
        }
    }
}

fn reply(line: &[u8], answer: &dyn Answer) -> Value {
    let result = serde_json::from_slice(line)
        .map_err(|e| format!("not a request: {e}"))
        .and_then(|request| answer.answer(request));
    result.unwrap_or_else(|error| json!({ "error": error }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    struct Echo;

    impl Answer for Echo {
        fn answer(&self, request: Request) -> Result<Value, String> {
            match request {
                Request::Flows {} => Err("no flows here".into()),
                other => Ok(json!({"asked": format!("{other:?}")})),
            }
        }
    }

    async fn talk(lines: &[u8]) -> Vec<Value> {
        let (client, server) = UnixStream::pair().unwrap();
        let server = tokio::spawn(async move { converse(server, &Echo).await });
        let (mut reader, mut writer) = client.into_split();
        writer.write_all(lines).await.unwrap();
        drop(writer);
        let mut replies = String::new();
        reader.read_to_string(&mut replies).await.unwrap();
        server.await.unwrap().unwrap();
        replies
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    }

    #[tokio::test]
    async fn each_line_gets_one_reply_and_a_bad_one_spoils_nothing() {
        let replies = talk(
            b"{\"op\":\"status\"}\nnonsense\n{\"op\":\"flows\"}\n\
              {\"op\":\"explain\",\"from\":\"a/b/c\",\"to\":\"d/e/f\",\"port\":80}\n\
              {\"op\":\"status\",\"more\":1}\n{\"op\":\"counters\"}",
        )
        .await;
        let errors: Vec<bool> = replies.iter().map(|r| r["error"].is_string()).collect();
        assert_eq!(
            errors,
            [false, true, true, false, true, false],
            "{replies:?}"
        );
        assert!(replies[3]["asked"].as_str().unwrap().contains("tcp"));
    }

    #[tokio::test]
    async fn a_request_without_end_is_refused() {
        let endless = vec![b' '; MAX_LINE as usize];
        let replies = talk(&endless).await;
        assert_eq!(replies.len(), 1);
        assert!(replies[0]["error"].as_str().unwrap().contains("at most"));
    }

    #[tokio::test]
    async fn the_socket_is_private_replaced_and_removed() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("admin.sock");
        fs::write(&path, "left behind").unwrap();
        let socket = AdminSocket::bind(state.path()).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }
}
