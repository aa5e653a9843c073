//! Servers that misbehave in a known way, and runs against them.
#![allow(clippy::unwrap_used)]

use std::{
    cell::RefCell,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    rc::Rc,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    drive::{Loop, drive},
    outcome::Failure,
    recorder::Recorder,
    run::Run,
};

/// A server on the loopback interface, with a thread per connection.
pub struct Fake {
    pub address: SocketAddr,
    /// Blocks sent back.
    pub answered: Arc<AtomicU64>,
}

#[derive(Clone)]
enum Manner {
    Echo,
    /// Answers nothing between two moments, counted from the first connection.
    Stall(Duration, Duration),
    /// Changes one bit of the byte at this offset.
    Flip(u64),
    Close,
    /// Says this after the first bytes, and closes.
    Say(String),
}

impl Fake {
    pub fn echo() -> Self {
        Self::new(Manner::Echo)
    }

    pub fn stalling(from: Duration, until: Duration) -> Self {
        Self::new(Manner::Stall(from, until))
    }

    pub fn flipping(at: u64) -> Self {
        Self::new(Manner::Flip(at))
    }

    pub fn closing() -> Self {
        Self::new(Manner::Close)
    }

    pub fn answering(answer: String) -> Self {
        Self::new(Manner::Say(answer))
    }

    /// An address where nobody listens.
    pub fn absent() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            address: listener.local_addr().unwrap(),
            answered: Arc::default(),
        }
    }

    fn new(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Self {
            address: listener.local_addr().unwrap(),
            answered: Arc::default(),
        };
        let answered = fake.answered.clone();
        let first = Arc::new(Mutex::new(None));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let begin = *first.lock().unwrap().get_or_insert_with(Instant::now);
                let (answered, manner) = (answered.clone(), manner.clone());
                thread::spawn(move || {
                    // A client that resets is no fault of the server.
                    let _ = serve(stream, &manner, begin, &answered);
                });
            }
        });
        fake
    }
}

fn serve(
    mut stream: TcpStream,
    manner: &Manner,
    begin: Instant,
    answered: &AtomicU64,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 * 1024];
    let mut offset = 0;
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        match manner {
            Manner::Echo => {}
            Manner::Stall(from, until) => {
                let age = begin.elapsed();
                if (*from..*until).contains(&age) {
                    wait(*until - age);
                }
            }
            Manner::Flip(at) => {
                if (offset..offset + read as u64).contains(at) {
                    buffer[(at - offset) as usize] ^= 0x10;
                }
            }
            Manner::Close => return Ok(()),
            Manner::Say(answer) => {
                stream.write_all(answer.as_bytes())?;
                return stream.shutdown(Shutdown::Write);
            }
        }
        offset += read as u64;
        // Before, so that a client that has the answer finds it counted.
        answered.fetch_add(1, Ordering::Relaxed);
        stream.write_all(&buffer[..read])?;
    }
}

/// The stall itself: the time that the server lets pass is what is tested.
fn wait(time: Duration) {
    let never = (Mutex::new(()), Condvar::new());
    let guard = never.0.lock().unwrap();
    let _ = never.1.wait_timeout_while(guard, time, |()| true);
}

/// A whole run of `attempt`.
pub fn begin_and_end<A, F>(shape: Loop, length: Duration, attempt: A) -> Recorder
where
    A: Fn() -> F + Clone + 'static,
    F: Future<Output = Result<(), Failure>> + 'static,
{
    let run = Run::new(length);
    let recorder = Rc::new(RefCell::new(Recorder::new(run.begin).unwrap()));
    let work = drive(&run, &recorder, shape, Duration::from_secs(5), attempt);
    run.block_on(String::new, work).unwrap();
    drop(run);
    Rc::into_inner(recorder).unwrap().into_inner()
}

/// Which way a byte goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    There,
    Back,
}

/// An address from which connections are carried on to `target`; of each, one bit of the byte at the
/// offset of `flip` is changed.
pub fn relay(target: SocketAddr, flip: Option<(Way, u64)>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for near in listener.incoming() {
            let near = near.unwrap();
            let far = TcpStream::connect(target).unwrap();
            for (way, from, to) in [(Way::There, &near, &far), (Way::Back, &far, &near)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let flip = flip.filter(|(wanted, _)| *wanted == way).map(|(_, at)| at);
                // An end that goes away ends its half.
                thread::spawn(move || drop(carry(from, to, flip)));
            }
        }
    });
    address
}

fn carry(mut from: TcpStream, mut to: TcpStream, flip: Option<u64>) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut offset = 0;
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return to.shutdown(Shutdown::Write);
        }
        if let Some(at) = flip.filter(|at| (offset..offset + read as u64).contains(at)) {
            buffer[(at - offset) as usize] ^= 0x01;
        }
        offset += read as u64;
        to.write_all(&buffer[..read])?;
    }
}
