//! A bounded number of connections, each served by a task of its own.

use std::{io, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinSet,
};

/// Connections served at once.
const MOST: usize = 16;

/// Where connections come from.
pub(crate) trait Listener {
    /// A connection.
    type Stream;

    /// The next connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

/// Accepts until the task is dropped, and with it all connections. What becomes of one is its client's
/// own affair.
pub(crate) async fn serve<L, S>(listener: &L, serve: impl Fn(L::Stream) -> S)
where
    L: Listener,
    S: Future<Output: Send> + Send + 'static,
{
    let mut served = JoinSet::new();
    loop {
        if served.len() >= MOST {
            served.join_next().await;
        }
        while served.try_join_next().is_some() {}
        match listener.accept().await {
            Ok(connection) => {
                served.spawn(serve(connection));
            }
            Err(e) => {
                // Such as too many open files: it passes, and spinning would not help.
                tracing::warn!("a connection cannot be accepted: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
