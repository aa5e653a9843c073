//! The admin socket: one JSON request per line, one JSON reply per line; or, to a request whose reply goes on, lines
//! until the caller leaves.
//!
//! The socket's mode is 0600 in a directory of mode 0700: who can open it is root or the process's own
//! user, and is not asked for more.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::timeout,
};

use crate::{Caller, Observed, Reply, connections};

/// The longest request in bytes.
const MAX_LINE: u64 = 64 * 1024;
/// How long a connection may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

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
    /// When the socket cannot be made; the error names its path.
    pub fn bind(state: &Path) -> io::Result<Self> {
        let path = state.join("admin.sock");
        let bind = || {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        let listener = bind().map_err(named)?;
        Ok(Self { listener, path })
    }

    /// Serves until the task is dropped.
    pub async fn serve(self, observed: Arc<impl Observed>) {
        let talk = |stream| converse(stream, Arc::clone(&observed));
        connections::serve(&self.listener, talk).await;
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // A file that is gone already needs no removal.
        let _ = fs::remove_file(&self.path);
    }
}

async fn converse(stream: UnixStream, observed: Arc<impl Observed>) -> io::Result<()> {
    let credentials = stream.peer_cred()?;
    let by = Caller {
        uid: credentials.uid(),
        pid: credentials.pid(),
    };
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
            true => reply(&line, by, &*observed).await,
            false => Err(format!("a request is at most {MAX_LINE} bytes")),
        };
        match reply.unwrap_or_else(|error| Reply::Once(json!({ "error": error }))) {
            Reply::Once(value) => say(&mut writer, &format!("{value}\n")).await?,
            Reply::Lines(lines) => return follow(lines, reader, writer).await,
        }
        if !whole {
            return Ok(());
        }
    }
}

async fn reply(line: &[u8], by: Caller, observed: &impl Observed) -> Result<Reply, String> {
    match serde_json::from_slice(line) {
        Ok(request) => observed.answer(request, by).await,
        Err(e) => Err(format!("not a request: {e}")),
    }
}

/// Says all lines. Whatever the caller sends meanwhile ends it, as its leaving does.
async fn follow(
    mut lines: mpsc::Receiver<String>,
    mut reader: BufReader<OwnedReadHalf>,
    mut writer: OwnedWriteHalf,
) -> io::Result<()> {
    let mut byte = [0];
    loop {
        tokio::select! {
            _ = reader.read(&mut byte) => return Ok(()),
            line = lines.recv() => match line {
                Some(line) => say(&mut writer, &line).await?,
                None => return Ok(()),
            },
        }
    }
}

/// A caller that does not read is left.
async fn say(writer: &mut OwnedWriteHalf, line: &str) -> io::Result<()> {
    timeout(PATIENCE, writer.write_all(line.as_bytes())).await?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::Value;

    use super::*;
    use crate::Request;

    struct Echo;

    impl Observed for Echo {
        async fn answer(&self, request: Request, by: Caller) -> Result<Reply, String> {
            match request {
                Request::Flows {} => Err("no flows here".into()),
                Request::Capture(_) => {
                    let (sender, receiver) = mpsc::channel(1);
                    tokio::spawn(async move {
                        let mut number = 0;
                        while sender.send(format!("{number}\n")).await.is_ok() {
                            number += 1;
                        }
                    });
                    Ok(Reply::Lines(receiver))
                }
                other => Ok(Reply::Once(json!({"asked": format!("{other:?} {by:?}")}))),
            }
        }
        async fn metrics(&self) -> String {
            String::new()
        }
        async fn unhealthy(&self) -> Vec<String> {
            Vec::new()
        }
        async fn unready(&self) -> Vec<String> {
            Vec::new()
        }
    }

    async fn replies(mut stream: UnixStream) -> Vec<Value> {
        let mut replies = String::new();
        stream.read_to_string(&mut replies).await.unwrap();
        let replies = replies.lines();
        replies.map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    async fn talk(lines: &[u8]) -> Vec<Value> {
        let (mut client, server) = UnixStream::pair().unwrap();
        let server = tokio::spawn(converse(server, Arc::new(Echo)));
        client.write_all(lines).await.unwrap();
        client.shutdown().await.unwrap();
        let replies = replies(client).await;
        server.await.unwrap().unwrap();
        replies
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
        assert!(replies[3]["asked"].as_str().unwrap().contains("Tcp"));
    }

    #[tokio::test]
    async fn lines_go_on_until_the_caller_leaves() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let server = tokio::spawn(converse(server, Arc::new(Echo)));
        client.write_all(b"{\"op\":\"capture\"}\n").await.unwrap();
        let mut lines = BufReader::new(&mut client).lines();
        for number in 0..1000 {
            assert_eq!(lines.next_line().await.unwrap(), Some(number.to_string()));
        }
        assert!(!server.is_finished());
        drop(client);
        // Whether it is the reading or the writing that notices.
        let _ = server.await.unwrap();
    }

    #[tokio::test]
    async fn who_asks_is_what_the_kernel_says() {
        let replies = talk(b"{\"op\":\"status\"}\n").await;
        let asked = replies[0]["asked"].as_str().unwrap();
        let own = format!("pid: Some({})", std::process::id());
        assert!(asked.contains(&own), "{asked}");
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
        let nowhere = AdminSocket::bind(&path).unwrap_err().to_string();
        assert!(nowhere.contains("admin.sock/admin.sock"), "{nowhere}");
    }

    #[tokio::test]
    async fn who_asks_and_stays_goes_with_the_server_and_many_do_not_keep_one_out_for_ever() {
        let state = tempfile::tempdir().unwrap();
        let socket = AdminSocket::bind(state.path()).unwrap();
        let path = state.path().join("admin.sock");
        let server = tokio::spawn(socket.serve(Arc::new(Echo)));
        let mut silent = Vec::new();
        for _ in 0..40 {
            silent.push(UnixStream::connect(&path).await.unwrap());
        }
        let mut last = silent.pop().unwrap();
        last.write_all(b"{\"op\":\"status\"}\n").await.unwrap();
        last.shutdown().await.unwrap();
        // As long as the others hold all places it waits.
        silent.clear();
        assert_eq!(replies(last).await.len(), 1);

        let mut stays = BufReader::new(UnixStream::connect(&path).await.unwrap());
        stays.write_all(b"{\"op\":\"status\"}\n").await.unwrap();
        let mut reply = String::new();
        stays.read_line(&mut reply).await.unwrap();
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        assert_eq!(stays.read_line(&mut reply).await.unwrap(), 0, "closed");
    }
}
