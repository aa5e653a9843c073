//! Frames as they pass on the interfaces of a network namespace.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, eth, recv, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

/// More than any frame without offloads.
const FRAME: usize = 65_536;

/// Shows `enough` every frame of this thread's network namespace, in both directions, until it says that
/// it has enough, or for `limit`. One that crosses several interfaces is shown several times.
pub fn watch(limit: Duration, mut enough: impl FnMut(&[u8]) -> bool) -> Result<()> {
    let socket = socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(eth::ALL),
    )
    .context("cannot record packets (needs root or CAP_NET_RAW)")?;
    let end = Instant::now() + limit;
    let mut frame = vec![0; FRAME];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        // Zero would wait for ever.
        let left = left.max(Duration::from_millis(1));
        set_socket_timeout(&socket, Timeout::Recv, Some(left))?;
        let length = match recv(&socket, frame.as_mut_slice(), RecvFlags::empty()) {
            Ok((length, _)) => length,
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(e) => return Err(e).context("cannot record packets"),
        };
        if enough(&frame[..length]) {
            return Ok(());
        }
    }
}
