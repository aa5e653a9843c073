//! The system calls of AF_XDP sockets (include/uapi/linux/if_xdp.h).

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use crate::{FramePool, Statistics, ring::Place};

// include/uapi/linux/if_xdp.h: socket options and flags.
pub(crate) const MMAP_OFFSETS: i32 = 1;
pub(crate) const RX_RING: i32 = 2;
pub(crate) const TX_RING: i32 = 3;
pub(crate) const UMEM_REG: i32 = 4;
pub(crate) const UMEM_FILL_RING: i32 = 5;
pub(crate) const UMEM_COMPLETION_RING: i32 = 6;
pub(crate) const STATISTICS: i32 = 7;
pub(crate) const OPTIONS: i32 = 8;
pub(crate) const OPTIONS_ZEROCOPY: u32 = 1;
pub(crate) const SHARED_UMEM: u16 = 1;
pub(crate) const COPY: u16 = 2;
pub(crate) const USE_NEED_WAKEUP: u16 = 8;

/// `struct xdp_umem_reg`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct UmemReg {
    address: u64,
    len: u64,
    chunk_size: u32,
    headroom: u32,
    flags: u32,
    tx_metadata_len: u32,
}

/// `struct xdp_ring_offset`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct RingOffset {
    producer: u64,
    consumer: u64,
    descriptors: u64,
    flags: u64,
}

impl RingOffset {
    pub(crate) fn place(&self, page_offset: i64, entries: u32) -> Place {
        Place {
            page_offset,
            producer: self.producer as usize,
            consumer: self.consumer as usize,
            flags: self.flags as usize,
            slots: self.descriptors as usize,
            entries,
        }
    }
}

/// `struct xdp_mmap_offsets`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct MmapOffsets {
    pub(crate) rx: RingOffset,
    pub(crate) tx: RingOffset,
    pub(crate) fill: RingOffset,
    pub(crate) completion: RingOffset,
}

/// Types that hold any bytes and have no padding: what the kernel reads and writes as plain memory.
///
/// # Safety
/// Every bit pattern must be a value, and no byte may be padding.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: integers, and `repr(C)` structures of integers whose sizes leave no gap.
unsafe impl Plain for u32 {}
// SAFETY: as above: two u64 and four u32.
unsafe impl Plain for UmemReg {}
// SAFETY: as above: sixteen u64.
unsafe impl Plain for MmapOffsets {}
// SAFETY: as above: six u64.
unsafe impl Plain for Statistics {}

pub(crate) fn open() -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is fresh and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Registers the pool's memory. The pool outlives no mapping of its own, and the kernel pins the pages
/// of a registered UMEM, so it never writes to memory that was unmapped and used anew.
pub(crate) fn register(socket: BorrowedFd<'_>, pool: &FramePool) -> io::Result<()> {
    let registration = UmemReg {
        address: pool.memory().start().as_ptr() as u64,
        len: pool.memory().len() as u64,
        chunk_size: pool.chunk_size(),
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set(socket, UMEM_REG, &registration)
}

pub(crate) fn bind(
    socket: BorrowedFd<'_>,
    index: u32,
    queue: u32,
    shared: Option<BorrowedFd<'_>>,
    force_copy: bool,
) -> io::Result<()> {
    // A sharing socket inherits its flags from the first one and may name none.
    let flags = match (shared, force_copy) {
        (Some(_), _) => SHARED_UMEM,
        (None, true) => USE_NEED_WAKEUP | COPY,
        (None, false) => USE_NEED_WAKEUP,
    };
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: index,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    // SAFETY: the pointer and the length describe `address`.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            mem::size_of_val(&address) as u32,
        )
    };
    answer(result as isize)
}

pub(crate) fn set<T: Plain>(socket: BorrowedFd<'_>, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as u32,
        )
    };
    answer(result as isize)
}

pub(crate) fn get<T: Plain + Default>(socket: BorrowedFd<'_>, option: i32) -> io::Result<T> {
    let mut value = T::default();
    let mut len = size_of::<T>() as u32;
    // SAFETY: the pointers are of `value` and of its length, and `Plain` lets the kernel write any
    // bytes into it.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            option,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    answer(result as isize)?;
    if len as usize != size_of::<T>() {
        return Err(io::Error::other(format!(
            "socket option {option} has {len} bytes here, {} are needed",
            size_of::<T>()
        )));
    }
    Ok(value)
}

pub(crate) fn set_send_buffer(socket: BorrowedFd<'_>, packets: u32) -> io::Result<()> {
    let bytes = packets.saturating_mul(4096) as i32;
    // SAFETY: the pointer and the length describe `bytes`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUFFORCE,
            (&raw const bytes).cast(),
            size_of::<i32>() as u32,
        )
    };
    answer(result as isize)
}

pub(crate) fn send_nothing(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no buffer and no address are passed.
    let result = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            std::ptr::null(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null(),
            0,
        )
    };
    answer(result)
}

pub(crate) fn receive_nothing(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no buffer and no address are passed.
    let result = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    answer(result)
}

/// Answers that pass by themselves: full queues, an interrupted call, a NIC that is down.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR | libc::ENETDOWN)
    )
}

pub(crate) fn answer(result: isize) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
