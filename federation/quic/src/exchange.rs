//! One question and one answer on a connection of its own, with somebody who has no session yet.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use quinn::{Connection, RecvStream, SendStream};
use rustls::sign::CertifiedKey;
use tokio::time::timeout;

use crate::{Limits, SessionError, Target, Trust, dial, endpoint::transport, error::Code, frame};

/// How long the server waits for the client to have read the answer.
const LINGER: Duration = Duration::from_secs(3);

/// Asks `target`, which `trust` must believe, what `question` makes of the connection; at most `most`
/// bytes come back, within `patience`.
pub(crate) async fn ask(
    target: &Target,
    trust: &Trust,
    own: Option<Arc<CertifiedKey>>,
    limits: &Limits,
    (most, patience): (usize, Duration),
    question: impl FnOnce(&Connection) -> Result<Vec<u8>, SessionError>,
) -> Result<Vec<u8>, SessionError> {
    let any = match target.address.ip() {
        IpAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let endpoint = quinn::Endpoint::client(any);
    let endpoint =
        endpoint.map_err(|e| SessionError::Local(format!("cannot open a socket: {e}")))?;
    let transport = transport(limits);
    let connecting = dial::connect((&endpoint, &transport), own, trust, target);
    let asking = async {
        let (connection, peer) = within(limits.handshake_timeout, connecting).await?;
        target
            .protocol
            .check(&target.trust_domain, &peer.id, true)?;
        let question = question(&connection)?;
        let (mut send, mut receive) = connection.open_bi().await.map_err(SessionError::before)?;
        let cut = |_| cut(&connection);
        frame::write(&mut send, &question).await.map_err(cut)?;
        let answer = read(&mut receive, &connection, most).await;
        connection.close(Code::Done.into_var(), b"done");
        answer
    };
    let answer = within(patience, asking).await;
    // That we are done reaches the other end before the socket is gone.
    let _ = timeout(LINGER, endpoint.wait_idle()).await;
    answer
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, SessionError>>,
) -> Result<T, SessionError> {
    let late = SessionError::Timeout(limit.as_secs());
    timeout(limit, work).await.unwrap_or(Err(late))
}

/// The one frame that the other end sends.
pub(crate) async fn read(
    receive: &mut RecvStream,
    connection: &Connection,
    most: usize,
) -> Result<Vec<u8>, SessionError> {
    match frame::read(receive, most).await {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(SessionError::Protocol("the stream is empty")),
        Err(frame::FrameError::TooLarge(length)) => Err(SessionError::FrameTooLarge(length)),
        Err(_) => Err(cut(connection)),
    }
}

/// Sends the one frame that answers, and waits until it was read: whoever asked asks again when it is
/// lost.
pub(crate) async fn answer(connection: &Connection, mut send: SendStream, bytes: &[u8]) {
    let answered = async {
        frame::write(&mut send, bytes).await?;
        let _ = send.finish();
        connection.closed().await;
        std::io::Result::Ok(())
    };
    let _ = timeout(LINGER, answered).await;
    connection.close(Code::Done.into_var(), b"done");
}

fn cut(connection: &Connection) -> SessionError {
    match connection.close_reason() {
        Some(reason) => SessionError::before(reason),
        None => SessionError::Protocol("the stream was cut"),
    }
}
