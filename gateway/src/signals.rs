//! What ends the process: SIGTERM and SIGINT.

use std::io;

use nix::sys::signal::{SigSet, Signal as Number};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Holds both back from this thread, and from those that it starts, until [`Signals::new`].
///
/// # Errors
/// What the kernel answered.
pub fn hold() -> io::Result<()> {
    Ok(both().thread_block()?)
}

fn both() -> SigSet {
    [Number::SIGTERM, Number::SIGINT].into_iter().collect()
}

/// Both, from now on.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes them in this thread, also those that were held back. To be called within a runtime.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn new() -> io::Result<Self> {
        let signals = Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        both().thread_unblock()?;
        Ok(signals)
    }

    /// Waits for one; its number.
    pub async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
        }
    }
}
