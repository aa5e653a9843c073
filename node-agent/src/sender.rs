//! Sends whole IP packets of our own: resets, so far.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, setsockopt,
    socket, sockopt,
};

use crate::marks::AGENT;

/// A raw socket whose packets carry the agent's mark, so that our own rules let them pass.
#[derive(Debug)]
pub struct Sender {
    v4: OwnedFd,
}

impl Sender {
    /// Opens the socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW` and `CAP_NET_ADMIN`.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // IPPROTO_RAW: the packet brings its own IP header.
        let v4 = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Raw)?;
        setsockopt(&v4, sockopt::Mark, &AGENT)?;
        Ok(Self { v4 })
    }

    /// Sends an IPv4 packet; the kernel routes it by its destination. IPv6 is not carried yet.
    ///
    /// # Errors
    /// What the system says; the packet is lost then.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        let destination = match (packet.first().map(|b| b >> 4), packet.get(16..20)) {
            (Some(4), Some([a, b, c, d])) => Ipv4Addr::new(*a, *b, *c, *d),
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        let to = SockaddrIn::from(SocketAddrV4::new(destination, 0));
        sendto(self.v4.as_raw_fd(), packet, &to, MsgFlags::empty())?;
        Ok(())
    }
}
