//! One authenticated stream of frames, with bounded queues on both sides.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use quinn::{Connection, RecvStream, SendStream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

use crate::{
    MAX_FRAME, Protocol, SessionError, Verified,
    error::Code,
    frame::{self, FrameError},
};

/// Most frames that wait to be sent, and most bytes of them.
const SEND_FRAMES: usize = 64;
const SEND_BYTES: usize = 4 << 20;
/// Most frames that wait to be read; then the stream's flow control holds the other end back.
const RECEIVE_FRAMES: usize = 4;
/// Each end begins its half of the stream with these bytes and its instance.
const MAGIC: [u8; 4] = *b"LBS1";
/// How long a finished session waits for the other end to close it.
const LINGER: Duration = Duration::from_secs(3);

/// One process: made at random when an endpoint is bound, so a peer sees that we restarted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Instance(pub [u8; 16]);

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What is known of a session from its beginning.
#[derive(Clone, Debug)]
pub struct Info {
    /// The other end, proven.
    pub peer: Verified,
    /// What the session is for.
    pub protocol: Protocol,
    /// The other end's address. It does not change: migration is off.
    pub remote: SocketAddr,
    /// We dialled it.
    pub dialled: bool,
    /// The other end's process.
    pub instance: Instance,
}

/// A session with its two halves.
#[derive(Debug)]
pub struct Session {
    /// What is known of it.
    pub info: Info,
    /// Sends frames. When all clones are dropped, what is queued is sent and the session ends.
    pub sender: Sender,
    /// Receives frames. When it is dropped, the session ends at once.
    pub receiver: Receiver,
}

/// Sends frames of one session.
#[derive(Clone)]
pub struct Sender {
    queue: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    connection: Connection,
    end: End,
}

/// Receives frames of one session.
pub struct Receiver {
    frames: mpsc::Receiver<Vec<u8>>,
    connection: Connection,
    end: End,
}

struct Queued {
    frame: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

/// Why the session ended: whoever knows first says so.
type End = Arc<OnceLock<SessionError>>;

impl Session {
    /// Our side of the prelude, then the other's, on the stream of `connection`.
    pub(crate) async fn begin(
        connection: Connection,
        mut streams: (SendStream, RecvStream),
        own: Instance,
        (peer, protocol, dialled): (Verified, Protocol, bool),
        slot: Option<OwnedSemaphorePermit>,
    ) -> Result<Self, SessionError> {
        let cut = || match connection.close_reason() {
            Some(reason) => SessionError::before(reason),
            None => SessionError::Protocol("the stream was cut"),
        };
        let (send, receive) = (&mut streams.0, &mut streams.1);
        send.write_all(&[&MAGIC[..], &own.0[..]].concat())
            .await
            .map_err(|_| cut())?;
        let (mut magic, mut instance) = ([0; 4], [0; 16]);
        receive.read_exact(&mut magic).await.map_err(|_| cut())?;
        receive.read_exact(&mut instance).await.map_err(|_| cut())?;
        if magic != MAGIC {
            return Err(SessionError::Protocol("the stream begins otherwise"));
        }
        let info = Info {
            peer,
            protocol,
            remote: connection.remote_address(),
            dialled,
            instance: Instance(instance),
        };
        Ok(Self::start(connection, streams, info, slot))
    }

    fn start(
        connection: Connection,
        (send, receive): (SendStream, RecvStream),
        info: Info,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let end = End::default();
        let (queue, queued) = mpsc::channel(SEND_FRAMES);
        let (read, frames) = mpsc::channel(RECEIVE_FRAMES);
        tokio::spawn(write_loop(queued, send, connection.clone()));
        let reading = read_loop(receive, read, connection.clone(), end.clone());
        tokio::spawn(async move {
            reading.await;
            drop(slot);
        });
        Self {
            info,
            sender: Sender {
                queue,
                room: Arc::new(Semaphore::new(SEND_BYTES)),
                connection: connection.clone(),
                end: end.clone(),
            },
            receiver: Receiver {
                frames,
                connection,
                end,
            },
        }
    }
}

impl Sender {
    /// Queues `frame`, waiting for room.
    ///
    /// # Errors
    /// Why the session ended, or that the frame is empty or longer than [`MAX_FRAME`].
    pub async fn send(&self, frame: Vec<u8>) -> Result<(), SessionError> {
        let room = self.room.clone().acquire_many_owned(length(&frame)?).await;
        let room = room.map_err(|_| self.ended())?;
        let queued = Queued { frame, _room: room };
        self.queue.send(queued).await.map_err(|_| self.ended())
    }

    /// Queues `frame` if there is room now.
    ///
    /// # Errors
    /// [`SessionError::TooSlow`] when there is none; else as [`Self::send`].
    pub fn try_send(&self, frame: Vec<u8>) -> Result<(), SessionError> {
        let room = self.room.clone().try_acquire_many_owned(length(&frame)?);
        let room = room.map_err(|_| SessionError::TooSlow)?;
        match self.queue.try_send(Queued { frame, _room: room }) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(SessionError::TooSlow),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(self.ended()),
        }
    }

    /// Ends the session at once and tells the other end `reason`.
    pub fn close(&self, reason: &str) {
        let _ = self.end.set(SessionError::Here(reason.into()));
        self.connection
            .close(Code::Done.into_var(), reason.as_bytes());
    }

    /// Waits until the session ended, and says why.
    pub async fn closed(&self) -> SessionError {
        let error = self.connection.closed().await;
        self.end
            .get()
            .cloned()
            .unwrap_or(SessionError::after(error))
    }

    fn ended(&self) -> SessionError {
        ended(&self.end, &self.connection)
    }
}

impl Receiver {
    /// The next frame; `None` when the session ended. May be dropped and called again.
    pub async fn recv(&mut self) -> Option<Vec<u8>> {
        self.frames.recv().await
    }

    /// Why the session ended, once [`Self::recv`] gave `None`.
    #[must_use]
    pub fn end(&self) -> SessionError {
        ended(&self.end, &self.connection)
    }
}

fn ended(end: &End, connection: &Connection) -> SessionError {
    match (end.get(), connection.close_reason()) {
        (Some(error), _) => error.clone(),
        (None, Some(reason)) => SessionError::after(reason),
        (None, None) => SessionError::Ended("the stream is finished".into()),
    }
}

fn length(frame: &[u8]) -> Result<u32, SessionError> {
    u32::try_from(frame.len())
        .ok()
        .filter(|_| (1..=MAX_FRAME).contains(&frame.len()))
        .ok_or_else(|| SessionError::Local(format!("a frame of {} bytes", frame.len())))
}

async fn write_loop(
    mut queue: mpsc::Receiver<Queued>,
    mut stream: SendStream,
    connection: Connection,
) {
    while let Some(queued) = queue.recv().await {
        // A failed write means that the connection ended: the reader knows why.
        if frame::write(&mut stream, &queued.frame).await.is_err() {
            return;
        }
    }
    // Nobody will send any more: let the other end have all of it before the end.
    let _ = stream.finish();
    let _ = stream.stopped().await;
    let _ = timeout(LINGER, connection.closed()).await;
    connection.close(Code::Done.into_var(), b"finished");
}

async fn read_loop(
    mut stream: RecvStream,
    frames: mpsc::Sender<Vec<u8>>,
    connection: Connection,
    end: End,
) {
    let error = loop {
        let read = tokio::select! {
            () = frames.closed() => break SessionError::Here("finished".into()),
            read = frame::read(&mut stream, MAX_FRAME) => read,
        };
        match read {
            Ok(Some(frame)) => {
                if frames.send(frame).await.is_err() {
                    break SessionError::Here("finished".into());
                }
            }
            Ok(None) => break SessionError::Ended("the stream is finished".into()),
            Err(FrameError::TooLarge(length)) => break SessionError::FrameTooLarge(length),
            Err(FrameError::Empty) => break SessionError::Protocol("an empty frame"),
            Err(FrameError::Io(_)) => match connection.close_reason() {
                Some(reason) => break SessionError::after(reason),
                None => break SessionError::Protocol("the stream was cut"),
            },
        }
    };
    let error = end.get_or_init(|| error);
    connection.close(error.code().into_var(), error.to_string().as_bytes());
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sender({})", self.connection.remote_address())
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receiver({})", self.connection.remote_address())
    }
}
