//! A memory mapping that is undone when dropped.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::{self, NonNull},
};

/// Readable and writable memory of `len` bytes, page-aligned.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; `Mapping` owns it alone and hands out
// pointers only by shared or exclusive borrow.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Zeroed memory that a forked child does not inherit: the kernel writes into these pages, and
    /// copy-on-write after a fork would leave this process with a stale copy.
    ///
    /// # Errors
    /// What mmap or madvise answered.
    pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        let mapping = Self::map(len, flags, -1, 0)?;
        // SAFETY: the range is exactly the mapping made above.
        let refused =
            unsafe { libc::madvise(mapping.start.as_ptr().cast(), len, libc::MADV_DONTFORK) };
        if refused != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(mapping)
    }

    /// `len` bytes of what `fd` serves from `offset` on, shared with the kernel.
    ///
    /// # Errors
    /// What mmap answered.
    pub(crate) fn shared(fd: BorrowedFd<'_>, offset: i64, len: usize) -> io::Result<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        Self::map(len, flags, fd.as_raw_fd(), offset)
    }

    /// The first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn map(len: usize, flags: i32, fd: i32, offset: i64) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a null hint lets the kernel choose, so no existing mapping is replaced.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast())
            .ok_or_else(|| io::Error::other("mmap placed memory at address zero"))?;
        Ok(Self { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the one mmap returned, and no borrow of it outlives `self`. The
        // kernel holds its own reference to the pages of a registered UMEM.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
