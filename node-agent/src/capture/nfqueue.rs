//! The NFQUEUE engine: three queues, one socket each, judged by one thread.
//!
//! The queues are bound without the fail-open flag: a full queue drops, a dead agent leaves none
//! bound and the kernel drops. They are bound without `NFQA_CFG_F_GSO`: segments arrive singly and
//! with valid checksums. Attribute numbers are those of `linux/netfilter/nfnetlink_queue.h`.

use std::{fs, io, os::fd::AsFd, sync::Arc, time::Duration};

use handshake::node::{Handled, Path};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};

use super::{Capture, Losses};
use crate::{
    marks,
    netlink::{Attributes, NetfilterSocket, Request, be32},
};

const SUBSYSTEM: u8 = 3;
/// `NLMSG_ERROR`: a verdict came too late, its packet was flushed with its interface.
const MSG_ERROR: u16 = 2;
const MSG_PACKET: u16 = 0x0300;
const MSG_VERDICT: u8 = 1;
const MSG_CONFIG: u8 = 2;

const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;
const MARK: u16 = 3;
const PAYLOAD: u16 = 10;
const CAPTURED_LENGTH: u16 = 13;

const CONFIG_COMMAND: u16 = 1;
const CONFIG_PARAMETERS: u16 = 2;
const CONFIG_MAX_LENGTH: u16 = 3;
const CONFIG_MASK: u16 = 4;
const CONFIG_FLAGS: u16 = 5;
const COMMAND_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
/// `NFQA_CFG_F_FAIL_OPEN | NFQA_CFG_F_GSO`: both are set to off.
const FLAGS_OFF: u32 = 0x1 | 0x4;

const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// The largest packet that is copied, in bytes.
const COPY_RANGE: u32 = 0xffff;
/// Room for that and for the attributes around it.
const DATAGRAM: usize = 0xffff + 4096;
/// The longest packet that an attribute holds.
const MAX_PAYLOAD: usize = 0xffff - 4;
/// Packets of one queue that are judged before another queue has its turn.
const BATCH: usize = 64;
/// Kernel memory for packets that wait, per queue.
const RECEIVE_BUFFER: usize = 8 << 20;

/// The numbers of the three queues: network SYNs at the base, then the rest from the network, then
/// what is local.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueNumbers {
    /// The first number.
    pub base: u16,
}

impl QueueNumbers {
    /// For bare SYNs from the network.
    #[must_use]
    pub fn network_syn(self) -> u16 {
        self.base
    }

    /// For the rest from the network: SYN-ACK, CONFIRM, unmarked segments.
    #[must_use]
    pub fn network(self) -> u16 {
        self.base.saturating_add(1)
    }

    /// For what pods and the node send.
    #[must_use]
    pub fn local(self) -> u16 {
        self.base.saturating_add(2)
    }
}

impl Default for QueueNumbers {
    fn default() -> Self {
        Self { base: 17_400 }
    }
}

/// The engine.
#[derive(Debug)]
pub struct NfQueue {
    /// In the order in which they are served: local packets first.
    queues: [Queue; 3],
    waker: Arc<EventFd>,
    losses: Losses,
}

/// Whether queues can be bound here, tried on one that nobody uses.
///
/// # Errors
/// What the kernel says.
pub fn probe() -> io::Result<()> {
    Queue::open(u16::MAX, 1).map(drop)
}

/// Ends a running [`Capture::poll`] from another thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// Ends the wait that runs, or the next one.
    pub fn wake(&self) {
        // The counter of an eventfd is full after 2^64 - 2 wake-ups that nobody took.
        let _ = self.0.write(1);
    }
}

impl NfQueue {
    /// Binds the queues in the calling thread's network namespace; at most `max_length` packets
    /// wait in each.
    ///
    /// # Errors
    /// `EBUSY` when another process holds a queue, `EPERM` without `CAP_NET_ADMIN`.
    pub fn open(numbers: QueueNumbers, max_length: u32) -> io::Result<Self> {
        let queue = |number| Queue::open(number, max_length);
        Ok(Self {
            queues: [
                queue(numbers.local())?,
                queue(numbers.network())?,
                queue(numbers.network_syn())?,
            ],
            waker: Arc::new(EventFd::from_flags(
                EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC,
            )?),
            losses: Losses::default(),
        })
    }

    /// A handle that ends the wait.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(self.waker.clone())
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = match timeout {
            // Rounded up, so that a timer is due when the wait ends.
            Some(timeout) => PollTimeout::try_from(timeout + Duration::from_millis(1))
                .unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let [a, b, c] = &self.queues;
        let mut fds = [
            readable(a.socket.as_fd()),
            readable(b.socket.as_fd()),
            readable(c.socket.as_fd()),
            readable(self.waker.as_fd()),
        ];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        match self.waker.read() {
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Capture for NfQueue {
    fn poll(
        &mut self,
        timeout: Option<Duration>,
        judge: &mut dyn FnMut(Path, &[u8]) -> Handled,
    ) -> io::Result<usize> {
        self.wait(timeout)?;
        let mut judged = 0;
        for queue in &mut self.queues {
            judged += queue.judge_waiting(&mut self.losses, judge)?;
        }
        Ok(judged)
    }

    fn losses(&self) -> io::Result<Losses> {
        // The file of the thread's own namespace: a thread may live in another than its process.
        let table = fs::read_to_string("/proc/thread-self/net/netfilter/nfnetlink_queue")?;
        let full = self
            .queues
            .iter()
            .filter_map(|queue| dropped(&table, queue.number))
            .sum();
        Ok(Losses {
            queue_full: full,
            ..self.losses
        })
    }
}

/// The packets that the kernel dropped at queue `number`: `queue_dropped` and `user_dropped`, the
/// 6th and 7th column of `nfnetlink_queue`.
fn dropped(table: &str, number: u16) -> Option<u64> {
    table.lines().find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        if columns.next()?.parse() != Ok(number) {
            return None;
        }
        let mut dropped = columns
            .skip(4)
            .map_while(|column| column.parse::<u64>().ok());
        Some(dropped.next()? + dropped.next()?)
    })
}

#[derive(Debug)]
struct Queue {
    number: u16,
    socket: NetfilterSocket,
}

impl Queue {
    fn open(number: u16, max_length: u32) -> io::Result<Self> {
        let mut socket = NetfilterSocket::open(DATAGRAM)?;
        socket.set_receive_buffer(RECEIVE_BUFFER)?;
        let config = || Request::new(SUBSYSTEM, MSG_CONFIG, 0, number);
        socket.request(config().attribute(CONFIG_COMMAND, &[COMMAND_BIND, 0, 0, 0]))?;
        let [a, b, c, d] = COPY_RANGE.to_be_bytes();
        socket.request(
            config()
                .attribute(CONFIG_PARAMETERS, &[a, b, c, d, COPY_PACKET])
                .attribute(CONFIG_MAX_LENGTH, &max_length.to_be_bytes())
                .attribute(CONFIG_FLAGS, &0u32.to_be_bytes())
                .attribute(CONFIG_MASK, &FLAGS_OFF.to_be_bytes()),
        )?;
        Ok(Self { number, socket })
    }

    fn judge_waiting(
        &mut self,
        losses: &mut Losses,
        judge: &mut dyn FnMut(Path, &[u8]) -> Handled,
    ) -> io::Result<usize> {
        let mut judged = 0;
        let mut verdicts = Vec::new();
        while judged < BATCH {
            match self.socket.try_receive() {
                Ok(Some(messages)) => {
                    for message in messages {
                        match message.kind {
                            MSG_PACKET => judged += 1,
                            MSG_ERROR => {
                                losses.refused += 1;
                                continue;
                            }
                            _ => continue,
                        }
                        let Some(packet) = Packet::parse(message.body) else {
                            losses.malformed += 1;
                            continue;
                        };
                        verdicts.push(packet.verdict(self.number, losses, judge));
                    }
                }
                Ok(None) => break,
                // The kernel counted what it could not hand over as `user_dropped`.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                Err(error) => return Err(error),
            }
            for verdict in verdicts.drain(..) {
                if self.socket.send(verdict).is_err() {
                    losses.refused += 1;
                }
            }
        }
        Ok(judged)
    }
}

/// A packet as the kernel hands it over.
#[derive(Debug, Default)]
struct Packet<'a> {
    id: u32,
    mark: u32,
    payload: &'a [u8],
    truncated: bool,
}

impl<'a> Packet<'a> {
    /// `None` without an id: then there is nothing to give a verdict on.
    fn parse(body: &'a [u8]) -> Option<Self> {
        let mut packet = Packet::default();
        let mut id = None;
        for (kind, value) in Attributes::of_message(body) {
            match kind {
                PACKET_HEADER => id = be32(value),
                MARK => packet.mark = be32(value)?,
                PAYLOAD => packet.payload = value,
                CAPTURED_LENGTH => packet.truncated = true,
                _ => {}
            }
        }
        packet.id = id?;
        Some(packet)
    }

    fn verdict(
        &self,
        queue: u16,
        losses: &mut Losses,
        judge: &mut dyn FnMut(Path, &[u8]) -> Handled,
    ) -> Request {
        let Some(path) = marks::path(self.mark).filter(|_| !self.truncated) else {
            losses.malformed += 1;
            return self.answer(queue, DROP);
        };
        match judge(path, self.payload) {
            Handled::Drop(_) => self.answer(queue, DROP),
            Handled::Accept(mark) => self.marked(queue, mark),
            // A verdict without its payload would pass the packet as it was.
            Handled::Rewrite { packet, .. } if packet.len() > MAX_PAYLOAD => {
                losses.malformed += 1;
                self.answer(queue, DROP)
            }
            Handled::Rewrite { packet, mark } => {
                self.marked(queue, mark).attribute(PAYLOAD, &packet)
            }
        }
    }

    fn marked(&self, queue: u16, mark: handshake::node::Mark) -> Request {
        let mark = marks::with_verdict(self.mark, mark);
        self.answer(queue, ACCEPT)
            .attribute(MARK, &mark.to_be_bytes())
    }

    fn answer(&self, queue: u16, verdict: u32) -> Request {
        let [a, b, c, d] = verdict.to_be_bytes();
        let [e, f, g, h] = self.id.to_be_bytes();
        Request::new(SUBSYSTEM, MSG_VERDICT, 0, queue)
            .attribute(VERDICT_HEADER, &[a, b, c, d, e, f, g, h])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_gives_the_drops_of_one_queue() {
        let table = "17400  12345     0 2 65535     3     4        9  1\n\
                     17401  12345     0 2 65535     0     0        2  1\n";
        assert_eq!(dropped(table, 17_400), Some(7));
        assert_eq!(dropped(table, 17_401), Some(0));
        assert_eq!(dropped(table, 17_402), None);
    }
}
