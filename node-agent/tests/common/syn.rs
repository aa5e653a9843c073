//! SYNs that no socket sent.

/// Bare SYNs from `src` to port 8080 of `dst`, each from a port of its own.
pub fn flood(src: [u8; 4], dst: [u8; 4], count: u64) {
    let ports = (0..count).map(|n| (u16::try_from(1024 + n % 60_000).unwrap(), 8080));
    send_syns(src, dst, ports);
}

/// Bare SYNs from `src` to `dst` with these ports.
pub fn send_syns(src: [u8; 4], dst: [u8; 4], ports: impl IntoIterator<Item = (u16, u16)>) {
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let raw = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Raw).unwrap();
    let to = SockaddrIn::new(dst[0], dst[1], dst[2], dst[3], 0);
    for (sport, dport) in ports {
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
        packet.extend(src);
        packet.extend(dst);
        packet.extend(sport.to_be_bytes());
        packet.extend(dport.to_be_bytes());
        packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
        // The checksum may be wrong: it is the rules' and the queue's turn before anybody checks.
        match sendto(raw.as_raw_fd(), &packet, &to, MsgFlags::empty()) {
            Ok(_) | Err(nix::errno::Errno::ENOBUFS) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
