//! Netlink as the netfilter subsystems speak it: requests out, messages and attributes in.
//!
//! Shapes are those of `linux/netlink.h` and `linux/netfilter/nfnetlink.h`: a 16-byte `nlmsghdr` in
//! host byte order, a 4-byte `nfgenmsg` {family, version, resource id big-endian}, then attributes
//! {length u16, type u16, value} padded to 4 bytes; numbers inside attributes are big-endian.
//! No crate serves NFQUEUE and conntrack both without `unsafe` of its own or with a socket that can
//! be polled, so these few lines stand here.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
        setsockopt, socket, sockopt,
    },
};

/// `NLM_F_REQUEST`.
const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`: answer with an error message even when all went well.
const ACK: u16 = 0x4;
/// `NLM_F_DUMP`: `NLM_F_ROOT | NLM_F_MATCH`.
const DUMP: u16 = 0x300;
/// `NLM_F_DUMP_INTR`: the table changed under the dump.
const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLMSG_ERROR`, also the acknowledgement.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// The attribute type without its two flags.
const TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;
const NFGENMSG: usize = 4;

/// A socket of the netfilter family.
#[derive(Debug)]
pub struct NetfilterSocket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl NetfilterSocket {
    /// Opens and binds a socket in the calling thread's network namespace. `buffer` is the largest
    /// datagram that can be received, in bytes.
    ///
    /// # Errors
    /// What the system says; without `CAP_NET_ADMIN` the kernel refuses requests later.
    pub fn open(buffer: usize) -> io::Result<Self> {
        Self::open_groups(buffer, 0)
    }

    /// As [`Self::open`]; receives what the kernel tells `groups`, too, one bit per group from
    /// group 1 on.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_groups(buffer: usize, groups: u32) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self {
            fd,
            sequence: 0,
            buffer: vec![0; buffer],
        })
    }

    /// Asks for `bytes` of kernel memory for what waits to be received.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        Ok(setsockopt(&self.fd, sockopt::RcvBufForce, &bytes)?)
    }

    /// Waits until something can be received.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(&self) -> io::Result<()> {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends `request` and waits for the kernel's word on it.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn request(&mut self, request: Request) -> io::Result<()> {
        let sequence = self.submit(request, ACK)?;
        loop {
            for message in self.receive()? {
                if message.kind == ERROR && message.sequence == sequence {
                    return message.error();
                }
            }
        }
    }

    /// Sends `request` and gives every message of the answer's body to `each`.
    ///
    /// # Errors
    /// The kernel's errno; `EINTR` when the table changed under the dump and it should be repeated.
    pub fn dump(&mut self, request: Request, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let sequence = self.submit(request, DUMP)?;
        let mut interrupted = false;
        loop {
            for message in self.receive()? {
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                match message.kind {
                    ERROR => return message.error(),
                    DONE if interrupted => return Err(Errno::EINTR.into()),
                    DONE => return Ok(()),
                    _ => each(message.body),
                }
            }
        }
    }

    /// Sends `request` and waits for nothing.
    ///
    /// # Errors
    /// What `send` says.
    pub fn send(&mut self, request: Request) -> io::Result<()> {
        self.submit(request, 0).map(drop)
    }

    /// Receives one datagram if one waits; `None` when none does.
    ///
    /// # Errors
    /// `ENOBUFS` when the kernel dropped messages for want of buffer.
    pub fn try_receive(&mut self) -> io::Result<Option<Messages<'_>>> {
        match recv(
            self.fd.as_raw_fd(),
            &mut self.buffer,
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(length) => Ok(Some(Messages(
                self.buffer.get(..length).unwrap_or_default(),
            ))),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn receive(&mut self) -> io::Result<Messages<'_>> {
        let length = loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                received => break received?,
            }
        };
        Ok(Messages(self.buffer.get(..length).unwrap_or_default()))
    }

    fn submit(&mut self, request: Request, flags: u16) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.finish(REQUEST | flags, self.sequence);
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        Ok(self.sequence)
    }
}

impl AsFd for NetfilterSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A request that is being written.
#[derive(Debug)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request of `subsystem` and `message`; `family` is `AF_*`, `resource` the subsystem's own.
    #[must_use]
    pub fn new(subsystem: u8, message: u8, family: u8, resource: u16) -> Self {
        let mut bytes = vec![0; HEADER];
        let kind = u16::from_be_bytes([subsystem, message]);
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend([family, 0]);
        bytes.extend(resource.to_be_bytes());
        Self { bytes }
    }

    /// Adds an attribute. One that is longer than 65,531 bytes cannot be written and is left out.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.put(kind, value);
        self
    }

    /// Adds an attribute that holds attributes.
    #[must_use]
    pub fn nested(mut self, kind: u16, inner: &Attribute) -> Self {
        self.put(kind | NESTED, &inner.bytes);
        self
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        put(&mut self.bytes, kind, value);
    }

    fn finish(mut self, flags: u16, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// The inside of a nested attribute that is being written.
#[derive(Debug, Default)]
pub struct Attribute {
    bytes: Vec<u8>,
}

impl Attribute {
    /// Takes attributes that the kernel wrote.
    #[must_use]
    pub fn raw(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
        }
    }

    /// The attributes written so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds an attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        put(&mut self.bytes, kind, value);
        self
    }

    /// Adds an attribute that holds attributes.
    #[must_use]
    pub fn nested(mut self, kind: u16, inner: &Self) -> Self {
        put(&mut self.bytes, kind | NESTED, &inner.bytes);
        self
    }
}

fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let Ok(length) = u16::try_from(value.len() + 4) else {
        return;
    };
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// One message of a datagram.
#[derive(Debug)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
    /// What follows the header; for a subsystem's message that is `nfgenmsg` and attributes.
    pub body: &'a [u8],
}

impl Message<'_> {
    fn error(&self) -> io::Result<()> {
        let code = self
            .body
            .first_chunk()
            .map(|code| i32::from_ne_bytes(*code));
        match code {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// The messages of one datagram; a torn one ends the walk.
#[derive(Debug)]
pub struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = usize::try_from(u32_at(self.0, 0)?).ok()?;
        let (whole, rest) = split_padded(self.0, length)?;
        let body = whole.get(HEADER..)?;
        self.0 = rest;
        Some(Message {
            kind: u16_at(whole, 4)?,
            flags: u16_at(whole, 6)?,
            sequence: u32_at(whole, 8)?,
            body,
        })
    }
}

/// The attributes of a message or of a nested attribute; a torn one ends the walk.
#[derive(Clone, Debug)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The attributes behind the `nfgenmsg` of a subsystem's message.
    #[must_use]
    pub fn of_message(body: &'a [u8]) -> Self {
        Self(body.get(NFGENMSG..).unwrap_or_default())
    }

    /// The attributes inside an attribute's value.
    #[must_use]
    pub fn nested(value: &'a [u8]) -> Self {
        Self(value)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let length = usize::from(u16_at(self.0, 0)?);
        let (whole, rest) = split_padded(self.0, length)?;
        let value = whole.get(4..)?;
        self.0 = rest;
        Some((u16_at(whole, 2)? & TYPE_MASK, value))
    }
}

/// Splits after `length` bytes and drops the padding to 4.
fn split_padded(bytes: &[u8], length: usize) -> Option<(&[u8], &[u8])> {
    let (whole, _) = bytes.split_at_checked(length)?;
    let rest = bytes.get(length.checked_next_multiple_of(4)?..);
    Some((whole, rest.unwrap_or_default()))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*two))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*four))
}

/// A big-endian number, as attributes carry it.
#[must_use]
pub fn be32(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|four| u32::from_be_bytes(*four))
}

/// A big-endian number, as attributes carry it.
#[must_use]
pub fn be16(value: &[u8]) -> Option<u16> {
    value.first_chunk().map(|two| u16::from_be_bytes(*two))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_reads_back_as_it_was_written() {
        let inner = Attribute::default().attribute(1, &[9]);
        let bytes = Request::new(3, 2, 2, 7400)
            .attribute(1, b"abcde")
            .nested(5, &inner)
            .finish(REQUEST | ACK, 77);
        assert_eq!(bytes.len() % 4, 0);
        let message = Messages(&bytes).next().unwrap();
        assert_eq!(
            (message.kind, message.flags, message.sequence),
            (0x0302, 5, 77)
        );
        assert_eq!(message.body[..4], [2, 0, 0x1c, 0xe8]);
        let read: Vec<_> = Attributes::of_message(message.body).collect();
        assert_eq!(read[0], (1, &b"abcde"[..]));
        assert_eq!(read[1].0, 5);
        assert_eq!(Attributes::nested(read[1].1).next(), Some((1, &[9][..])));
    }

    #[test]
    fn an_error_message_gives_the_errno() {
        let error = |code: i32| {
            let mut bytes = vec![20, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            bytes.extend(code.to_ne_bytes());
            Messages(&bytes).next().unwrap().error()
        };
        assert!(error(0).is_ok());
        assert_eq!(error(-2).unwrap_err().raw_os_error(), Some(2));
    }

    proptest! {
        #[test]
        fn any_bytes_end_the_walk(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            for message in Messages(&bytes) {
                for (_, value) in Attributes::of_message(message.body) {
                    Attributes::nested(value).count();
                }
            }
        }
    }
}
