//! The admin socket: one JSON request per line, one JSON reply per line. Its mode is 0600 in a
//! directory of mode 0700, so whoever can open it may ask.

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

use crate::ask::{Ask, Asker};

/// Longest request in bytes.
const MAX_LINE: u64 = 64 << 10;
/// Connections served at once.
const MAX_CONNECTIONS: usize = 16;
/// How long a connection may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
enum Request {
    Status {},
    Counters {},
    Flows {},
    Explain {
        from: String,
        to: String,
        port: u16,
        #[serde(default)]
        protocol: Protocol,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    #[default]
    Tcp = 6,
    Udp = 17,
    Sctp = 132,
}

/// A socket that listens; its file goes with it.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Listens on `admin.sock` in `state_dir`. The caller holds the lock of the directory, so a
    /// socket that is there belongs to nobody.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(state_dir: &Path) -> anyhow::Result<Self> {
        let path = state_dir.join("admin.sock");
        let bind = || {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        let listener = bind().with_context(|| path.display().to_string())?;
        Ok(Self { listener, path })
    }

    /// Serves until the task is dropped.
    pub async fn serve(self, asker: Asker) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let asker = asker.clone();
                    tokio::spawn(async move {
                        // A client that goes away is its own affair.
                        let _ = converse(stream, &asker).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "admin socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // A file that is gone already needs no removal.
        let _ = fs::remove_file(&self.path);
    }
}

async fn converse(stream: UnixStream, asker: &Asker) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut reader).take(MAX_LINE);
        if timeout(PATIENCE, bounded.read_until(b'\n', &mut line)).await?? == 0 {
            return Ok(());
        }
        let reply = match serde_json::from_slice(&line) {
            Ok(request) => asker.ask(ask(request)).await,
            Err(error) => Err(format!("not a request: {error}")),
        };
        let mut bytes = reply
            .unwrap_or_else(|error| json!({"error": error}))
            .to_string();
        bytes.push('\n');
        writer.write_all(bytes.as_bytes()).await?;
    }
}

fn ask(
    request: Request,
) -> impl FnOnce(tokio::sync::oneshot::Sender<Result<Value, String>>) -> Ask {
    move |reply| match request {
        Request::Status {} => Ask::Status(reply),
        Request::Counters {} => Ask::Counters(reply),
        Request::Flows {} => Ask::Flows(reply),
        Request::Explain {
            from,
            to,
            port,
            protocol,
        } => Ask::Explain {
            from,
            to,
            port,
            protocol: protocol as u8,
            reply,
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn requests_are_read_strictly() {
        let read = |text: &str| serde_json::from_str::<Request>(text);
        assert_eq!(read(r#"{"op":"counters"}"#).unwrap(), Request::Counters {});
        let explain = r#"{"op":"explain","from":"a/b/c","to":"d/e/f","port":80}"#;
        assert!(matches!(
            read(explain).unwrap(),
            Request::Explain {
                protocol: Protocol::Tcp,
                port: 80,
                ..
            }
        ));
        for wrong in [r#"{"op":"stop"}"#, r#"{"op":"flows","x":1}"#, "[]", ""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
