//! Where packets come from and where judgements go. Two engines stand behind [`Capture`]: NFQUEUE
//! now, tcx eBPF when a CNI is served that routes past netfilter.

pub mod nfqueue;

use std::{io, time::Duration};

use handshake::node::{Handled, Path};

/// A source of packets that wait for a judgement.
pub trait Capture: Send {
    /// Waits at most `timeout` for packets or a wake-up, gives each waiting packet to `judge` and
    /// carries out what it says; returns how many. One bad packet never stops its neighbours.
    ///
    /// # Errors
    /// When nothing can be received any more. A packet whose judgement cannot be carried out is
    /// dropped by the kernel and counted in [`Capture::losses`].
    fn poll(
        &mut self,
        timeout: Option<Duration>,
        judge: &mut dyn FnMut(Path, &[u8]) -> Handled,
    ) -> io::Result<usize>;

    /// What was lost on the way.
    ///
    /// # Errors
    /// When the kernel's counters cannot be read.
    fn losses(&self) -> io::Result<Losses>;
}

/// Packets that reached the engine and no judge, since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// The kernel dropped them because the queue was full.
    pub queue_full: u64,
    /// They came without a path that the rules give, or torn; dropped.
    pub malformed: u64,
    /// The kernel refused the verdict; dropped.
    pub refused: u64,
}
