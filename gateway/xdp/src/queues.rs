//! What one thread owns: queue N of every interface, on one memory.

use crate::{CopyMode, FramePool, Nic, Port, RingSizes, XdpError, XskQueue};

/// The sockets of one thread, in the order of the interfaces, and the memory that they share: a
/// packet goes from one interface to another without a copy.
#[derive(Debug)]
pub struct QueueSet {
    /// The packet memory.
    pub pool: FramePool,
    /// One socket per interface.
    pub ports: Vec<XskQueue>,
}

impl QueueSet {
    /// The `reserve` of [`Port::service`] that [`QueueSet::open`] has sized the memory for.
    pub const RESERVE: usize = RESERVE as usize;

    /// Binds queue `queue` of each of `nics`. Zero-copy is used when all of them have it.
    ///
    /// # Errors
    /// As [`XskQueue::bind`], and when there is no memory.
    pub fn open(nics: &[&Nic], queue: u32, sizes: RingSizes) -> Result<Self, XdpError> {
        match Self::bind(nics, queue, sizes, false) {
            // Sharing fails when the first NIC does zero-copy and another cannot.
            Err(XdpError::Unavailable { .. }) if nics.len() > 1 => {
                Self::bind(nics, queue, sizes, true)
            }
            result => result,
        }
    }

    /// Bytes of packet memory that `interfaces` of `mtu` with `queues` queues each will take.
    #[must_use]
    pub fn memory(interfaces: u32, queues: u32, mtu: u32, sizes: RingSizes) -> u64 {
        let chunk = FramePool::chunk_for(mtu).unwrap_or(4096);
        u64::from(frames(interfaces, sizes)) * u64::from(chunk) * u64::from(queues)
    }

    /// How packets get between NIC and memory.
    #[must_use]
    pub fn mode(&self) -> CopyMode {
        let all = self.ports.iter().all(|p| p.mode() == CopyMode::ZeroCopy);
        match all {
            true => CopyMode::ZeroCopy,
            false => CopyMode::Copy,
        }
    }

    /// How many frames neither the pool nor a socket has: what the caller must hold. Zero between two
    /// rounds, or frames were lost.
    #[must_use]
    pub fn unaccounted(&self) -> usize {
        let held: usize = self.ports.iter().map(Port::held).sum();
        self.pool.outstanding() - held
    }

    fn bind(
        nics: &[&Nic],
        queue: u32,
        sizes: RingSizes,
        force_copy: bool,
    ) -> Result<Self, XdpError> {
        let mtu = nics.iter().map(|nic| nic.mtu).max().unwrap_or(0);
        let mut pool = FramePool::new(frames(nics.len() as u32, sizes), mtu)
            .map_err(|e| XdpError::unavailable("packet memory", e))?;
        let ports = nics
            .iter()
            .map(|nic| XskQueue::bind(&mut pool, nic, queue, sizes, force_copy))
            .collect::<Result<_, _>>()?;
        Ok(Self { pool, ports })
    }
}

/// Frames that stay free for a batch in work and for packets that the gateway makes itself.
const RESERVE: u32 = 256;

fn frames(interfaces: u32, sizes: RingSizes) -> u32 {
    sizes
        .receive
        .saturating_add(sizes.transmit)
        .saturating_mul(interfaces)
        .saturating_add(RESERVE)
}
