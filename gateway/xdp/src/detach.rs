//! Ending an attachment at once. Removing its pin and closing its descriptors also ends it, but only
//! some time later, when the kernel comes to it.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

// include/uapi/linux/bpf.h: `enum bpf_cmd`.
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_DETACH: libc::c_int = 34;

/// Detaches the link that is pinned at `pin` from its interface.
///
/// # Errors
/// What the kernel answered: `NotFound` without a pin.
pub(crate) fn detach(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let get = Attributes {
        // The part of `union bpf_attr` for BPF_OBJ_*: path, descriptor, flags.
        first: path.as_ptr() as u64,
        ..Attributes::default()
    };
    let fd = bpf(BPF_OBJ_GET, &get)?;
    // SAFETY: the descriptor is fresh and owned by nobody else.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let detach = Attributes {
        // For BPF_LINK_DETACH: the link's descriptor in the first four bytes (little-endian).
        first: u64::from(link.as_raw_fd().unsigned_abs()),
        ..Attributes::default()
    };
    bpf(BPF_LINK_DETACH, &detach).map(drop)
}

/// The first bytes of `union bpf_attr`; the kernel takes the rest for zero.
#[derive(Default)]
#[repr(C)]
struct Attributes {
    first: u64,
    second: u32,
    third: u32,
}

fn bpf(command: libc::c_int, attributes: &Attributes) -> io::Result<i32> {
    // SAFETY: the pointer and the size describe `attributes`, which the kernel only reads for these
    // commands; a path that it points to outlives the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<Attributes>(),
        )
    };
    match i32::try_from(answer) {
        Ok(answer) if answer >= 0 => Ok(answer),
        _ => Err(io::Error::last_os_error()),
    }
}
