//! Which XDP features a driver has: the generic netlink family `netdev`
//! (Documentation/netlink/specs/netdev.yaml), of kernels since 6.3.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

/// `enum netdev_xdp_act` of include/uapi/linux/netdev.h.
const BASIC: u64 = 1;
const REDIRECT: u64 = 2;

// include/uapi/linux/genetlink.h, include/uapi/linux/netdev.h, include/uapi/linux/netlink.h.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
/// Bytes of `struct nlmsghdr` and `struct genlmsghdr`.
const HEADERS: usize = 16 + 4;

/// Whether the driver of the interface with this index runs a program and redirects what it says.
///
/// # Errors
/// When the kernel does not tell: it is older, or there is no such interface.
pub(crate) fn driver_redirects(index: u32) -> io::Result<bool> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let name = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    let answer = ask(&socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &name)?;
    let family = find(&answer, CTRL_ATTR_FAMILY_ID).and_then(|id| id.try_into().ok());
    let family = u16::from_ne_bytes(family.ok_or_else(no_answer)?);
    let interface = attribute(NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes());
    let answer = ask(&socket, family, NETDEV_CMD_DEV_GET, &interface)?;
    let features = find(&answer, NETDEV_A_DEV_XDP_FEATURES).and_then(|f| f.try_into().ok());
    let features = u64::from_ne_bytes(features.ok_or_else(no_answer)?);
    Ok(features & (BASIC | REDIRECT) == BASIC | REDIRECT)
}

fn no_answer() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "an answer without what was asked",
    )
}

/// One request; the attributes of the answer.
fn ask(socket: &Socket, family: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let length = (HEADERS + attributes.len()) as u32;
    let mut request = Vec::with_capacity(length as usize);
    request.extend(length.to_ne_bytes());
    request.extend(family.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence and port are of no use with one question at a time.
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend(attributes);
    socket.send(&request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok());
    let body = answer.get(16..).unwrap_or_default();
    if kind.map(u16::from_ne_bytes) == Some(NLMSG_ERROR) {
        let errno = body
            .first_chunk()
            .map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        return Err(io::Error::from_raw_os_error(errno.saturating_neg()));
    }
    let attributes = answer.get(HEADERS..).ok_or_else(no_answer)?;
    Ok(attributes.to_vec())
}

/// A `struct nlattr` with `value`, filled up to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len() + 3);
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The value of the first attribute of `kind`.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let (&[l0, l1, k0, k1], rest) = attributes.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1])).checked_sub(4)?;
        if u16::from_ne_bytes([k0, k1]) == kind {
            return rest.get(..length);
        }
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_attribute_is_found_behind_others_and_a_cut_one_is_none() {
        let mut all = attribute(7, b"abcde");
        all.extend(attribute(3, &9u64.to_ne_bytes()));
        assert_eq!(find(&all, 3), Some(&9u64.to_ne_bytes()[..]));
        assert_eq!(find(&all, 7), Some(&b"abcde"[..]));
        assert_eq!(find(&all, 5), None);
        for cut in 0..all.len() {
            let found = find(&all[..cut], 3);
            assert!(found.is_none(), "{cut}");
        }
        assert_eq!(find(&[1, 0, 3, 0], 3), None, "shorter than its own head");
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        assert!(driver_redirects(u32::MAX >> 1).is_err());
    }
}
