//! Frames by hand: those of the steering table, and the echo's rewriting.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Swaps the ends of an Ethernet, IPv4 and UDP frame. Checksums stay right: sums do not care about
/// order.
pub fn reverse(frame: &mut [u8]) {
    for (a, b, len) in [(0, 6, 6), (26, 30, 4), (34, 36, 2)] {
        for i in 0..len {
            frame.swap(a + i, b + i);
        }
    }
}

/// A frame and whether the steering program must take it from the kernel.
pub struct Case {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub ours: bool,
}

const PREFIX4: [u8; 4] = [10, 2, 0, 5];
const OWN4: [u8; 4] = [192, 0, 2, 1];
const UDP: u8 = 17;
const TCP: u8 = 6;

/// The table of the steering program, for a gateway with the link address `mac`.
pub fn cases(mac: [u8; 6]) -> Vec<Case> {
    let own6 = v6(0xfd00, 0, 1);
    let prefix6 = v6(0xfd00, 2, 5);
    let v4 =
        |dst, protocol, payload: &[u8]| eth(mac, &[], 0x0800, &ipv4(dst, protocol, 0, payload));
    let v6 = |dst, next, payload: &[u8]| eth(mac, &[], 0x86dd, &ipv6(dst, next, payload));
    let psp = udp(1000, &[0; 40]);
    let fragment = |field| eth(mac, &[], 0x0800, &ipv4(OWN4, UDP, field, &psp));
    let tagged = |tags: &[u16]| eth(mac, tags, 0x0800, &ipv4(PREFIX4, TCP, 0, &[0; 20]));
    let options = {
        let mut packet = ipv4(OWN4, UDP, 0, &[]);
        packet[0] = 0x47;
        packet.extend([1; 8]);
        packet.extend(&psp);
        eth(mac, &[], 0x0800, &packet)
    };
    let case = |name, ours, bytes| Case { name, bytes, ours };
    let whole = v4(PREFIX4, TCP, &[0; 20]);
    vec![
        case("TCP into the prefix", true, whole.clone()),
        case(
            "a fragment into the prefix",
            true,
            eth(mac, &[], 0x0800, &ipv4(PREFIX4, TCP, 0x2001, &[0; 20])),
        ),
        case(
            "a protocol that nobody knows, into the prefix",
            true,
            v4(PREFIX4, 253, &[]),
        ),
        case("IPv6 into the prefix", true, v6(prefix6, TCP, &[0; 20])),
        case("one tag", true, tagged(&[0x8100])),
        case("two tags", true, tagged(&[0x88a8, 0x8100])),
        case("three tags", false, tagged(&[0x88a8, 0x8100, 0x8100])),
        case("another station", false, {
            let mut frame = whole.clone();
            frame[5] ^= 1;
            frame
        }),
        case("broadcast", false, {
            let mut frame = whole.clone();
            frame[..6].fill(0xff);
            frame
        }),
        case("a cut IPv4 header", false, whole[..14 + 19].to_vec()),
        case(
            "a cut IPv6 header",
            false,
            v6(prefix6, TCP, &[])[..14 + 39].to_vec(),
        ),
        case("ARP", false, eth(mac, &[], 0x0806, &[0; 28])),
        case("beside the prefix", false, v4([10, 3, 0, 5], TCP, &[0; 20])),
        case("PSP to the gateway", true, v4(OWN4, UDP, &psp)),
        case("PSP over IPv6", true, v6(own6, UDP, &psp)),
        case("PSP behind IP options", true, options),
        case("PSP to somebody else", false, v4([192, 0, 2, 9], UDP, &psp)),
        case("the first fragment of PSP", false, fragment(0x2000)),
        case("a later fragment of PSP", false, fragment(0x0001)),
        case("don't fragment", true, fragment(0x4000)),
        case("an IPv4 header length below 20", false, {
            let mut frame = v4(OWN4, UDP, &psp);
            frame[14] = 0x44;
            frame
        }),
        case("QUIC", false, v4(OWN4, UDP, &udp(4433, &[0; 40]))),
        case("TCP to port 1000", false, v4(OWN4, TCP, &psp)),
        case("a cut UDP header", false, v4(OWN4, UDP, &psp[..7])),
        case(
            "neighbour solicitation",
            false,
            v6(own6, 58, &[135, 0, 0, 0]),
        ),
        case(
            "our VXLAN",
            true,
            v4(OWN4, UDP, &udp(4789, &vxlan(0x08, 77))),
        ),
        case(
            "another VNI",
            false,
            v4(OWN4, UDP, &udp(4789, &vxlan(0x08, 78))),
        ),
        case(
            "VXLAN without the I flag",
            false,
            v4(OWN4, UDP, &udp(4789, &vxlan(0, 77))),
        ),
        case(
            "a cut VXLAN header",
            false,
            v4(OWN4, UDP, &udp(4789, &vxlan(0x08, 77)[..7])),
        ),
    ]
}

fn v6(first: u16, second: u16, last: u16) -> [u8; 16] {
    std::net::Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, last).octets()
}

fn eth(dst: [u8; 6], tags: &[u16], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [dst.as_slice(), &[2, 0, 0, 0, 0, 9]].concat();
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 5]);
    }
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

fn ipv4(dst: [u8; 4], protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 192, 0, 2, 2]);
    packet.extend(dst);
    packet.extend(payload);
    packet
}

fn ipv6(dst: [u8; 16], next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(v6(0xfd00, 0, 2));
    packet.extend(dst);
    packet.extend(payload);
    packet
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len() as u16;
    let mut datagram = [40000, port, len, 0].map(u16::to_be_bytes).concat();
    datagram.extend(payload);
    datagram
}

fn vxlan(flags: u8, vni: u8) -> [u8; 8] {
    [flags, 0, 0, 0, 0, 0, vni, 0]
}

/// Sends frames as they are (packet(7)).
pub struct Sender(OwnedFd);

impl Sender {
    /// On `interface` of the calling thread's network namespace.
    pub fn new(interface: &str) -> Self {
        // Protocol 0: nothing is received.
        // SAFETY: no pointer is passed, and the descriptor, if one comes, is fresh.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: all zeroes is a value of the structure of integers.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = nix::net::if_::if_nametoindex(interface).unwrap() as i32;
        // SAFETY: the pointer and the length describe `address`.
        let result = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        Self(socket)
    }

    pub fn send(&self, frame: &[u8]) {
        let sent = nix::sys::socket::send(
            self.0.as_raw_fd(),
            frame,
            nix::sys::socket::MsgFlags::empty(),
        );
        assert_eq!(sent, Ok(frame.len()));
    }
}
