//! What a network interface is: asked of the kernel, never changed.
//!
//! sysfs is not asked: it shows the network namespace of whoever mounted it, not ours.

use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::{AttachMode, XdpError};

/// A network interface as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Its name.
    pub name: String,
    /// Its index in this network namespace.
    pub index: u32,
    /// Its link address.
    pub mac: [u8; 6],
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// `veth`, `bridge` and so on; `None` for hardware.
    pub kind: Option<String>,
    /// The index of its veth peer when that lies in this network namespace.
    pub peer: Option<u32>,
    /// Receive queues in use.
    pub rx_queues: u32,
    /// Transmit queues in use.
    pub tx_queues: u32,
    /// The XDP program attached to it.
    pub program: Option<AttachedProgram>,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachedProgram {
    /// The kernel's number of it.
    pub id: u32,
    /// Where it runs; `None` for offload to the NIC and for several at once.
    pub mode: Option<AttachMode>,
}

impl Nic {
    /// Asks for the interface `name`.
    ///
    /// # Errors
    /// [`XdpError::Misconfigured`] when there is none, [`XdpError::Unavailable`] when the kernel does
    /// not answer.
    pub fn query(name: &str) -> Result<Self, XdpError> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(no_interface(name));
        }
        let request = LinkAttribute::IfName(name.into());
        Self::ask(|message| message.attributes.push(request)).map_err(|e| match e.raw_os_error() {
            Some(libc::ENODEV) => no_interface(name),
            _ => XdpError::unavailable(format!("ask the kernel for interface {name}"), e),
        })
    }

    /// Asks for the interface with `index`.
    pub(crate) fn query_index(index: u32) -> io::Result<Self> {
        Self::ask(|message| message.header.index = index)
    }

    fn ask(by: impl FnOnce(&mut LinkMessage)) -> io::Result<Self> {
        let mut message = LinkMessage::default();
        by(&mut message);
        let mut nic = Self::from_message(&link(message)?);
        let queues = Queues::query(&nic.name);
        (nic.rx_queues, nic.tx_queues) = (queues.receive, queues.transmit);
        Ok(nic)
    }

    fn from_message(message: &LinkMessage) -> Self {
        let mut nic = Self {
            name: String::new(),
            index: message.header.index,
            mac: [0; 6],
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            kind: None,
            peer: None,
            rx_queues: 1,
            tx_queues: 1,
            program: None,
        };
        let mut peer_is_here = true;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => nic.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => nic.mtu = *mtu,
                LinkAttribute::Address(mac) => {
                    nic.mac = mac.as_slice().try_into().unwrap_or([0; 6])
                }
                LinkAttribute::Link(index) => nic.peer = Some(*index),
                LinkAttribute::LinkNetNsId(_) => peer_is_here = false,
                LinkAttribute::LinkInfo(infos) => nic.kind = infos.iter().find_map(kind),
                LinkAttribute::Xdp(facts) => nic.program = program(facts),
                _ => {}
            }
        }
        nic.peer = nic
            .peer
            .filter(|index| peer_is_here && *index != 0 && nic.is_veth());
        nic
    }

    /// Whether it is a veth.
    #[must_use]
    pub fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some("veth")
    }
}

fn no_interface(name: &str) -> XdpError {
    XdpError::misconfigured(
        format!("there is no network interface {name:?} in this network namespace"),
        "correct the interface's name in the configuration; `ip link` lists them",
    )
}

fn kind(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(InfoKind::Veth) => Some("veth".into()),
        LinkInfo::Kind(kind) => Some(format!("{kind}")),
        _ => None,
    }
}

fn program(facts: &[LinkXdp]) -> Option<AttachedProgram> {
    let id = facts.iter().find_map(|fact| match fact {
        LinkXdp::ProgId(id) if *id != 0 => Some(*id),
        _ => None,
    })?;
    let mode = facts.iter().find_map(|fact| match fact {
        LinkXdp::Attached(XdpAttached::Driver) => Some(AttachMode::Driver),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(AttachMode::Skb),
        _ => None,
    });
    Some(AttachedProgram { id, mode })
}

/// One RTM_GETLINK request and its answer (rtnetlink(7)).
fn link(message: LinkMessage) -> io::Result<LinkMessage> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut request = NetlinkMessage::new(
        header,
        NetlinkPayload::from(RouteNetlinkMessage::GetLink(message)),
    );
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);

    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
    match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(link),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        other => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("unexpected netlink answer {other:?}"),
        )),
    }
}

struct Queues {
    receive: u32,
    transmit: u32,
}

impl Queues {
    /// The queues in use, by ETHTOOL_GCHANNELS. A driver without channels has one of each.
    fn query(name: &str) -> Self {
        let c = channels(name).unwrap_or_default();
        Self {
            receive: c.rx.saturating_add(c.combined).max(1),
            transmit: c.tx.saturating_add(c.combined).max(1),
        }
    }
}

/// `struct ethtool_channels` of include/uapi/linux/ethtool.h.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Channels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

fn channels(name: &str) -> io::Result<Channels> {
    const ETHTOOL_GCHANNELS: u32 = 0x3c;
    const SIOCETHTOOL: u64 = 0x8946;

    // SAFETY: no pointer is passed.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is fresh and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut channels = Channels {
        cmd: ETHTOOL_GCHANNELS,
        ..Channels::default()
    };
    // SAFETY: all zeroes is a value of the structure: integers, pointers and arrays of them.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // The last byte stays zero: `query` admits only shorter names, and the kernel's fit too.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut channels).cast();
    // SAFETY: `request` and the structure that it points to live across the call, and the kernel
    // writes no more than `struct ethtool_channels` for this command.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(channels)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_loopback_interface_is_seen_as_it_is() {
        let lo = Nic::query("lo").unwrap();
        assert_eq!((lo.name.as_str(), lo.mac), ("lo", [0; 6]));
        assert_eq!(lo, Nic::query_index(lo.index).unwrap());
        assert!(!lo.is_veth() && lo.program.is_none() && lo.rx_queues >= 1);
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        for name in ["lb-nothing", "", "a-name-that-is-too-long-for-linux"] {
            let error = Nic::query(name).unwrap_err();
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
    }
}
