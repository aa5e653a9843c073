//! Real connections between network namespaces, and what became of them.

use std::{
    fmt,
    fs::File,
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket},
};

use crate::outside;

/// How long an allowed connection may take: three SYNs (RFC 6298: 1 s, then 2 s).
const ALLOWED: Duration = Duration::from_millis(3500);
/// How long a denied one is watched: two SYNs.
const DENIED: Duration = Duration::from_millis(1300);
/// Datagrams are sent again after this.
const AGAIN: Duration = Duration::from_millis(250);
/// Probes at a time.
const AT_ONCE: usize = 96;
/// No HTTP request begins so, and the servers of the demo echo what is none.
const BYTE: &[u8] = b"x";

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A connection and one byte each way.
    Tcp,
    /// One datagram each way.
    Udp,
}

impl Protocol {
    /// As Kubernetes writes it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// A connection to try.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The network namespace that it comes from.
    pub netns: String,
    /// The source address.
    pub source: Ipv4Addr,
    /// The destination.
    pub target: SocketAddrV4,
    /// By what.
    pub protocol: Protocol,
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A byte went there and came back.
    Echoed,
    /// It stands, and nothing comes back.
    Mute,
    /// A reset or an ICMP error came back.
    Refused,
    /// Nothing came back.
    Silence,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Echoed => "connected, and echoed a byte",
            Self::Mute => "connected, and echoed nothing",
            Self::Refused => "refused",
            Self::Silence => "not answered",
        })
    }
}

/// Tries all probes, many at a time; `expected` says whether each is thought to be allowed, and so how
/// long it is watched.
///
/// # Errors
/// When one cannot be tried.
pub fn all(probes: &[(Probe, bool)]) -> Result<Vec<Fate>> {
    let next = AtomicUsize::new(0);
    let fates = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(probes.len()) {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some((probe, expected)) = probes.get(place) else {
                        return;
                    };
                    let limit = if *expected { ALLOWED } else { DENIED };
                    let fate = enter(&probe.netns).and_then(|()| probe.fate(limit));
                    let mut fates = fates.lock().unwrap_or_else(PoisonError::into_inner);
                    fates.push((place, fate));
                }
            });
        }
    });
    let mut fates = fates.into_inner().unwrap_or_else(PoisonError::into_inner);
    fates.sort_by_key(|(place, _)| *place);
    fates.into_iter().map(|(_, fate)| fate).collect()
}

impl Probe {
    /// In the network namespace of the calling thread.
    fn fate(&self, limit: Duration) -> Result<Fate> {
        let fate = match self.protocol {
            Protocol::Tcp => self.tcp(limit),
            Protocol::Udp => self.datagram(limit),
        };
        fate.or_else(|error| match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Ok(Fate::Silence),
            ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::PermissionDenied
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable => Ok(Fate::Refused),
            _ => Err(error).with_context(|| format!("{self:?}")),
        })
    }

    fn tcp(&self, limit: Duration) -> io::Result<Fate> {
        let mut stream = self.connect(limit)?;
        match echo(&mut stream, limit) {
            Ok(()) => Ok(Fate::Echoed),
            Err(_) => Ok(Fate::Mute),
        }
    }

    /// Opens a TCP connection in the network namespace of the calling thread.
    fn connect(&self, limit: Duration) -> io::Result<TcpStream> {
        let fd = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let any_port = SocketAddrV4::new(self.source, 0);
        bind(
            std::os::fd::AsRawFd::as_raw_fd(&fd),
            &SockaddrIn::from(any_port),
        )?;
        let stream = TcpStream::from(fd);
        // On Linux it bounds connect(2) as well (socket(7)).
        stream.set_write_timeout(Some(limit))?;
        let raw = std::os::fd::AsRawFd::as_raw_fd(&stream.as_fd());
        match connect(raw, &SockaddrIn::from(self.target)) {
            Err(nix::Error::EINPROGRESS | nix::Error::EAGAIN) => Err(ErrorKind::TimedOut.into()),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(stream),
        }
    }

    fn datagram(&self, limit: Duration) -> io::Result<Fate> {
        let socket = UdpSocket::bind((self.source, 0))?;
        socket.connect(self.target)?;
        socket.set_read_timeout(Some(AGAIN))?;
        let end = Instant::now() + limit;
        while Instant::now() < end {
            socket.send(BYTE)?;
            match socket.recv(&mut [0]) {
                Ok(_) => return Ok(Fate::Echoed),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Fate::Silence)
    }

    /// Opens a TCP connection.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn open(&self) -> Result<TcpStream> {
        inside(&self.netns, || Ok(self.connect(ALLOWED)?)).with_context(|| format!("{self:?}"))
    }

    /// Opens a TCP connection that the caller keeps.
    ///
    /// # Errors
    /// When it does not come up, or echoes nothing.
    pub fn hold(&self) -> Result<TcpStream> {
        inside(&self.netns, || {
            let mut stream = self.connect(ALLOWED)?;
            echo(&mut stream, ALLOWED)?;
            Ok(stream)
        })
        .with_context(|| format!("{self:?}"))
    }
}

/// Sends a byte and waits for it.
///
/// # Errors
/// When the connection ended, or nothing comes back within `limit`.
pub fn echo(stream: &mut TcpStream, limit: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(BYTE)?;
    stream.read_exact(&mut [0])
}

/// Runs `work` inside the network namespace `name`, on a thread of its own. Sockets that it opens stay
/// there.
///
/// # Errors
/// When it cannot be entered, or `work` fails.
pub fn inside<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let run = scope.spawn(|| enter(name).and_then(|()| work()));
        run.join()
            .unwrap_or_else(|_| Err(anyhow!("a thread in {name} panicked")))
    })
}

/// Moves the calling thread.
fn enter(name: &str) -> Result<()> {
    let file = File::open(format!("/run/netns/{name}")).context(name.to_owned())?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {name}"))
}

/// Echoes TCP connections, and datagrams that are no questions of the DNS, on a port of an address of the network namespace `netns`, until the
/// process ends.
///
/// # Errors
/// When it cannot listen.
pub fn serve(netns: &str, protocol: Protocol, address: SocketAddrV4) -> Result<()> {
    match protocol {
        Protocol::Tcp => {
            let listener = inside(netns, || Ok(TcpListener::bind(address)?))?;
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    thread::spawn(move || echo_back(stream));
                }
            });
        }
        Protocol::Udp => {
            let socket = inside(netns, || Ok(UdpSocket::bind(address)?))?;
            thread::spawn(move || {
                let mut buffer = [0; 2048];
                loop {
                    // An ICMP error of an earlier answer is no reason to stop.
                    if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                        let said = &buffer[..length];
                        let answer = outside::answer(said);
                        let _ = socket.send_to(answer.as_deref().unwrap_or(said), from);
                    }
                }
            });
        }
    }
    Ok(())
}

fn echo_back(mut stream: TcpStream) {
    let mut buffer = [0; 2048];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Runs `ip` with `arguments`.
///
/// # Errors
/// When it does not exit with 0: what it said.
pub fn ip(arguments: &str) -> Result<()> {
    let mut command = std::process::Command::new("ip");
    let output = command.args(arguments.split_whitespace()).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ip {arguments}: {}", said.trim());
    }
    Ok(())
}
