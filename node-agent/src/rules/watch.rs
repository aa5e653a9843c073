//! Hears when anybody changes nftables, so that rules of ours that somebody flushed are back at once.

use std::{io, thread, time::Duration};

use tokio::sync::watch;

use crate::netlink::NetfilterSocket;

/// `NFNLGRP_NFTABLES`, in `linux/netfilter/nfnetlink.h`.
const GROUP_NFTABLES: u32 = 7;
/// Notifications of one transaction come together and are one change.
const SETTLE: Duration = Duration::from_millis(10);
/// Room for one datagram of notifications.
const DATAGRAM: usize = 64 << 10;

/// Follows changes in the calling thread's network namespace until the receiver is gone. Our own
/// changes are among them.
///
/// # Errors
/// When no socket or thread can be made.
pub fn follow() -> io::Result<watch::Receiver<u64>> {
    let mut socket = NetfilterSocket::open_groups(DATAGRAM, 1 << (GROUP_NFTABLES - 1))?;
    let (say, changes) = watch::channel(0);
    thread::Builder::new()
        .name("rules".to_owned())
        .spawn(move || {
            while !say.is_closed() {
                // A full buffer lost notifications: something changed all the same.
                if socket.wait().is_err() {
                    thread::sleep(SETTLE);
                }
                thread::sleep(SETTLE);
                while let Ok(Some(_)) = socket.try_receive() {}
                say.send_modify(|changes| *changes += 1);
            }
        })?;
    Ok(changes)
}
