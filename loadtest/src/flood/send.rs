//! Packets out of a raw socket, many with each call, at a rate.

use std::{
    io::IoSlice,
    net::Ipv4Addr,
    os::fd::OwnedFd,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, SocketAddrV4,
        SocketFlags, SocketType, addr::SocketAddrArg, ipproto, sendmmsg, socket_with,
        sockopt::set_socket_send_buffer_size,
    },
};

use super::forge::Forge;
use crate::{
    pace::Batches,
    sending::{Counts, Sending},
};

/// Packets of one call.
const BATCH: usize = 64;
/// The shortest rest: at high rates one packet a call would cost too much.
const REST: Duration = Duration::from_millis(1);

/// A raw socket and where it sends to.
pub struct Sender {
    socket: OwnedFd,
    target: SocketAddrAny,
}

impl Sender {
    /// Opens it in the namespace of the calling thread.
    pub fn open(target: Ipv4Addr) -> Result<Self> {
        // This protocol means that packets come with their IP header (raw(7)).
        let opened = socket_with(
            AddressFamily::INET,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(ipproto::RAW),
        );
        let socket = match opened {
            Err(Errno::PERM | Errno::ACCESS) => bail!(
                "raw packets need root or CAP_NET_RAW: run it with sudo, or give the program the \
                 right by `setcap cap_net_raw+ep landbridge-loadtest`"
            ),
            other => other.context("cannot open a raw socket")?,
        };
        // With less the kernel makes the sender wait more often.
        let _ = set_socket_send_buffer_size(&socket, 4 << 20);
        Ok(Self {
            socket,
            target: SocketAddrV4::new(target, 0).as_any(),
        })
    }

    /// Sends from a thread of its own until `length` after `begin`, or until `stop` is set.
    pub fn start(
        self,
        forge: Forge,
        rate: f64,
        begin: Instant,
        length: Duration,
        stop: Arc<AtomicBool>,
    ) -> Result<Sending> {
        let pace = Batches::new(Some(rate), BATCH as u64, REST);
        Sending::start("flood", move |counts| {
            self.send(forge, pace.keep(begin, length, stop), counts);
            Ok(())
        })
    }

    fn send(&self, mut forge: Forge, due: impl Iterator<Item = u64>, counts: &Counts) {
        let mut packets = vec![Vec::new(); BATCH];
        for count in due {
            let batch = &mut packets[..count as usize];
            batch.iter_mut().for_each(|packet| forge.next(packet));
            let sent = self.send_batch(batch);
            counts.add(sent, count - sent);
        }
    }

    /// How many of `packets` the kernel took.
    fn send_batch(&self, packets: &[Vec<u8>]) -> u64 {
        let slices: Vec<_> = packets
            .iter()
            .map(|packet| [IoSlice::new(packet)])
            .collect();
        let mut controls: Vec<_> = packets
            .iter()
            .map(|_| SendAncillaryBuffer::default())
            .collect();
        let mut messages: Vec<_> = (slices.iter().zip(&mut controls))
            .map(|(slice, control)| MMsgHdr::new_with_addr(&self.target, slice, control))
            .collect();
        let (mut at, mut sent) = (0, 0);
        while at < messages.len() {
            match sendmmsg(&self.socket, &mut messages[at..], SendFlags::empty()) {
                Ok(count) => {
                    at += count;
                    sent += count as u64;
                }
                Err(Errno::INTR) => {}
                // This packet is lost, those behind it may go: the queue may have room again.
                Err(_) => at += 1,
            }
        }
        sent
    }
}
