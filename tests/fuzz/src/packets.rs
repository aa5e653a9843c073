//! Packets, and the messages on them.

use std::net::IpAddr;

use wire::{
    edit::TcpEdit,
    ethernet,
    hello::Hello,
    icmp, ip,
    marker::MARKER,
    psp,
    reply::Reply,
    tcp::Segment,
    translate::{End, translate},
    udp, vxlan,
};

use crate::world::{
    self,
    support::{API, Conn, FRONTEND, at, east, into, node, out, tcp_payload, west},
};

/// Every parser of a header takes every byte string.
pub fn packet(input: &[u8]) {
    let _ = psp::Header::parse(input);
    let _ = vxlan::Vxlan::parse(input);
    let _ = udp::Datagram::parse(input);
    let _ = Segment::parse(input);
    let packet = match ethernet::Frame::parse(input) {
        Ok(frame) => ip::Packet::parse(frame.payload()),
        Err(_) => ip::Packet::parse(input),
    };
    let Ok(packet) = packet.or_else(|_| ip::Packet::parse(input)) else {
        return;
    };
    assert!(packet.header_len() <= packet.total_len());
    assert_eq!(
        packet.payload().len(),
        packet.total_len() - packet.header_len()
    );
    let _ = udp::Datagram::of(&packet);
    let _ = icmp::IcmpError::of(&packet);
    translated(&packet);
    if let Ok(segment) = Segment::of(&packet) {
        assert!(segment.options().count() <= 40);
        let _ = (segment.our_option(), segment.mss());
        // A parser that shares no code with ours reads the same.
        if packet.fragment().is_none()
            && let Ok(other) = etherparse::SlicedPacket::from_ip(packet.bytes())
            && let Some(etherparse::TransportSlice::Tcp(tcp)) = other.transport
        {
            assert_eq!(tcp.source_port(), segment.sport());
            assert_eq!(tcp.destination_port(), segment.dport());
            assert_eq!(tcp.sequence_number(), segment.seq());
            assert_eq!(tcp.payload(), segment.payload());
        }
    }
}

/// With another address a packet is as right as it was, and as wrong.
fn translated(packet: &ip::Packet<'_>) {
    let holds = |packet: &ip::Packet<'_>| match packet.protocol() {
        _ if packet.fragment().is_some() => None,
        ip::TCP => {
            let segment = Segment::of(packet).ok()?;
            Some(segment.checksum_holds(packet.src(), packet.dst()))
        }
        ip::UDP => {
            let datagram = udp::Datagram::of(packet).ok()?;
            // Behind a datagram that is shorter than its packet stands what nobody reads.
            Some(datagram.checksum_holds(packet.src(), packet.dst()))
        }
        ip::ICMP | ip::ICMPV6 => Some(icmp::IcmpError::of(packet).is_ok()),
        _ => None,
    };
    for end in [End::Source, End::Destination] {
        let mut bytes = packet.bytes().to_vec();
        let to = |old: IpAddr| match old {
            IpAddr::V4(_) => Some(IpAddr::from([100, 64, 1, 10])),
            IpAddr::V6(_) => Some(IpAddr::from([0xfd00, 0, 0, 1, 0, 0, 0, 0xa])),
        };
        translate(&mut bytes, end, to).unwrap();
        assert_eq!(holds(packet), holds(&ip::Packet::parse(&bytes).unwrap()));
    }
}

/// What is rewritten can be read, with checksums that hold.
pub fn edit(input: &[u8]) {
    let Ok(packet) = ip::Packet::parse(input) else {
        return;
    };
    let Ok(edit) = TcpEdit::new(&packet) else {
        return;
    };
    let edits = [
        edit.clone(),
        edit.clone().remove_exid().payload(&[]),
        edit.clone()
            .remove_exid()
            .add_option(&MARKER)
            .payload(b"payload"),
        edit.clone().remove_fast_open().clamp_mss(1200),
        edit.reduce_mss_by(20),
    ];
    for edited in edits.into_iter().filter_map(|edit| edit.finish().ok()) {
        let packet = ip::Packet::parse(&edited).unwrap();
        let segment = Segment::of(&packet).unwrap();
        assert!(segment.checksum_holds(packet.src(), packet.dst()));
    }
}

/// HELLO and REPLY: what is read is written the same.
pub fn messages(input: &[u8]) {
    if let Ok(hello) = Hello::parse(input) {
        assert_eq!(hello.encode(), input);
    }
    if let Ok(reply) = Reply::parse(input) {
        assert_eq!(reply.encode(), input);
    }
}

/// The packets of a connection between two clusters.
pub fn connection() -> Vec<Vec<u8>> {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let conn = Conn::new(FRONTEND, API);
    let syn = out(&mut a, &conn.syn(), at(0));
    into(&mut b, &syn, at(1));
    let syn_ack = out(&mut b, &conn.syn_ack(), at(2));
    into(&mut a, &syn_ack, at(3));
    let ack = out(&mut a, &conn.ack(), at(4));
    vec![syn, syn_ack, ack]
}

/// Those, and what else crosses a gateway.
pub fn packet_seeds() -> Vec<Vec<u8>> {
    let mut seeds = connection();
    let inner = seeds[0].clone();
    seeds.push(world::ethernet(world::lan(2).mac, world::NODE, &inner));
    let (IpAddr::V4(from), IpAddr::V4(to)) = (FRONTEND, API) else {
        return seeds;
    };
    let builder = etherparse::PacketBuilder::ipv4(to.octets(), from.octets(), 64);
    let mut unreachable = Vec::new();
    builder
        .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(
            etherparse::icmpv4::DestUnreachableHeader::Port,
        ))
        .write(&mut unreachable, &inner[..60])
        .unwrap();
    seeds.push(unreachable);
    seeds
}

/// A HELLO and a REPLY.
pub fn message_seeds() -> Vec<Vec<u8>> {
    let packets = connection();
    let payload = |packet: &Vec<u8>| tcp_payload(packet).to_vec();
    packets[..2].iter().map(payload).collect()
}
