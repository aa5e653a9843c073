//! Sleeping until a queue has packets, and being woken by another thread.

use std::{io, os::fd::AsFd, sync::Arc, time::Duration};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        socket::{getsockopt, sockopt::SocketError},
    },
};

use crate::XskQueue;

/// Wakes a thread that sleeps in [`Waker::wait`]. Clones wake the same thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// A waker of nobody yet.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self(Arc::new(EventFd::from_flags(flags)?)))
    }

    /// Ends the current or the next [`Waker::wait`].
    pub fn wake(&self) {
        // The only failure is a counter that is full, and then the sleeper is awake anyway.
        let _ = self.0.write(1);
    }

    /// Sleeps until one of `queues` has received packets, [`Waker::wake`] is called, or `timeout` is
    /// over. In copy mode the call also sends what the transmit rings hold.
    ///
    /// # Errors
    /// What poll answered, an interruption is no error; `NotConnected` when an interface was removed.
    pub fn wait(&self, queues: &[XskQueue], timeout: Duration) -> io::Result<()> {
        const MOST: usize = 8;
        let mut fds = [const { None }; MOST];
        let all = std::iter::once(self.0.as_fd()).chain(queues.iter().map(AsFd::as_fd));
        let mut count = 0;
        for (slot, fd) in fds.iter_mut().zip(all) {
            *slot = Some(PollFd::new(fd, PollFlags::POLLIN));
            count += 1;
        }
        let mut list = fds.map(|fd| fd.unwrap_or(PollFd::new(self.0.as_fd(), PollFlags::POLLIN)));
        // Rounded up, so that a deadline in the next half millisecond does not spin.
        let millis = timeout.as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        match poll(&mut list[..count], timeout) {
            Ok(0) => return queues.iter().try_for_each(check),
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        if list[0].revents().is_some_and(|events| !events.is_empty()) {
            // Empty the counter; EAGAIN says that it was empty.
            let _ = self.0.read();
        }
        Ok(())
    }
}

/// The kernel unbinds a socket whose interface is removed, and poll does not tell. Sending on it fails,
/// so it is enough to look when nothing comes.
fn check(queue: &XskQueue) -> io::Result<()> {
    match getsockopt(queue, SocketError)? {
        0 => Ok(()),
        _ => {
            let gone = format!("the interface of queue {} is gone", queue.queue());
            Err(io::Error::new(io::ErrorKind::NotConnected, gone))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_wake_before_the_wait_is_not_lost_and_counts_once() {
        let waker = Waker::new().unwrap();
        waker.clone().wake();
        let before = Instant::now();
        waker.wait(&[], Duration::from_secs(60)).unwrap();
        assert!(before.elapsed() < Duration::from_secs(30));
        waker.wait(&[], Duration::from_millis(1)).unwrap();
    }
}
