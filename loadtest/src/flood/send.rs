//! Packets out of a raw socket, many with each call, at a rate.

use std::{
    io::IoSlice,
    net::Ipv4Addr,
    num::NonZeroU64,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
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

/// Packets of one call.
const BATCH: usize = 64;
/// The longest sleep, so that a stop is seen soon.
const NAP: Duration = Duration::from_millis(20);

/// What was sent so far.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// Packets that the kernel took.
    pub sent: Arc<AtomicU64>,
    /// Packets that it refused.
    pub unsent: Arc<AtomicU64>,
    /// Whether no more come.
    pub ended: Arc<AtomicBool>,
}

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
    ) -> Result<Sent> {
        let counts = Sent::default();
        let own = counts.clone();
        thread::Builder::new()
            .name("flood".into())
            .spawn(move || {
                let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
                self.send(forge, rate, begin, length, &stop, &own);
                own.ended.store(true, Ordering::Release);
            })
            .context("cannot start a thread")?;
        Ok(counts)
    }

    fn send(
        &self,
        mut forge: Forge,
        rate: f64,
        begin: Instant,
        length: Duration,
        stop: &AtomicBool,
        counts: &Sent,
    ) {
        let mut packets = vec![Vec::new(); BATCH];
        let mut done = 0u64;
        while !stop.load(Ordering::Relaxed) {
            let age = begin.elapsed();
            if age >= length {
                return;
            }
            let due = (age.as_secs_f64() * rate) as u64;
            let count = due.saturating_sub(done).min(BATCH as u64);
            if count == 0 {
                let next = Duration::from_secs_f64(((done + 1) as f64 / rate).min(1e9));
                // At high rates one packet a call would cost too much: a millisecond's worth.
                let pause = next.saturating_sub(age).max(Duration::from_millis(1));
                thread::sleep(pause.min(NAP));
                continue;
            }
            let batch = &mut packets[..count as usize];
            batch.iter_mut().for_each(|packet| forge.next(packet));
            let sent = self.send_batch(batch);
            counts.sent.fetch_add(sent, Ordering::Relaxed);
            counts.unsent.fetch_add(count - sent, Ordering::Relaxed);
            done += count;
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
