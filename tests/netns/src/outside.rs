//! A host outside of the federation, beside the nodes of a cluster, with several addresses.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{
    plan::Cluster,
    probe::{self, Protocol, ip},
};

/// Its addresses (RFC 5737). Nodes have routes to them.
pub const ADDRESSES: [Ipv4Addr; 3] = [
    Ipv4Addr::new(203, 0, 113, 7),
    Ipv4Addr::new(203, 0, 113, 200),
    Ipv4Addr::new(198, 51, 100, 7),
];
/// What it serves.
pub const SERVICES: [(Protocol, u16); 3] = [
    (Protocol::Tcp, 443),
    (Protocol::Tcp, 80),
    (Protocol::Udp, 53),
];

/// The one whose answers about names count, when the demo is told so.
pub const NAME_SERVER: Ipv4Addr = ADDRESSES[0];
/// What every name stands for.
pub const NAMED: Ipv4Addr = ADDRESSES[2];

/// The host. Its network namespace goes when it is dropped.
pub struct Outside {
    /// That namespace.
    pub netns: String,
}

impl Outside {
    /// Makes it on the LAN of `cluster`, and lets it serve.
    ///
    /// # Errors
    /// When the network cannot be changed.
    pub fn new(prefix: &str, cluster: &Cluster) -> Result<Self> {
        let netns = format!("{prefix}-outside");
        ip(&format!("netns add {netns}"))?;
        let outside = Self { netns };
        outside.attach(cluster)?;
        for address in ADDRESSES {
            for (protocol, port) in SERVICES {
                probe::serve(&outside.netns, protocol, SocketAddrV4::new(address, port))?;
            }
        }
        Ok(outside)
    }

    fn attach(&self, cluster: &Cluster) -> Result<()> {
        let (netns, lan) = (&self.netns, &cluster.lan);
        let Some(first) = cluster.nodes.first() else {
            return Ok(());
        };
        let [a, b, c, _] = first.address.octets();
        let own = Ipv4Addr::new(a, b, c, 250);
        ip(&format!(
            "-n {netns} link add eth0 type veth peer name outside netns {lan}"
        ))?;
        ip(&format!("-n {lan} link set outside master br0 up"))?;
        ip(&format!("-n {netns} link set lo up"))?;
        ip(&format!("-n {netns} address add {own}/24 dev eth0"))?;
        ip(&format!("-n {netns} link set eth0 up"))?;
        for address in ADDRESSES {
            ip(&format!("-n {netns} address add {address}/32 dev lo"))?;
            for node in &cluster.nodes {
                ip(&format!("-n {} route add {address} via {own}", node.netns))?;
            }
        }
        for node in &cluster.nodes {
            for range in &node.serves {
                ip(&format!(
                    "-n {netns} route add {range} via {}",
                    node.address
                ))?;
            }
        }
        Ok(())
    }
}

/// Asks the name server for the address of `name`, from an address of the network namespace `netns`.
///
/// # Errors
/// When there is no answer, or another.
pub fn resolve(netns: &str, source: Ipv4Addr, name: &str) -> Result<()> {
    let query = query(name);
    probe::inside(netns, || {
        let socket = UdpSocket::bind((source, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        socket.send_to(&query, (NAME_SERVER, 53))?;
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer)?;
        let expected = answer(&query);
        ensure!(
            expected.as_deref() == buffer.get(..length),
            "another answer about {name}"
        );
        Ok(())
    })
}

/// A question for the address of `name` (RFC 1035, section 4.1).
fn query(name: &str) -> Vec<u8> {
    let mut query = vec![0x1b, 0x1d, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        query.extend_from_slice(label.as_bytes());
    }
    // The root, type A, class IN.
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    query
}

/// What the name server answers: `None` to what is no question.
pub(crate) fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let (header, question) = query.split_at_checked(12)?;
    let mut answer = header.to_vec();
    // An answer; one question, one record.
    answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
    answer.extend_from_slice(question);
    // The name of the question, type A, class IN, 60 s, 4 bytes.
    answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    answer.extend_from_slice(&NAMED.octets());
    Some(answer)
}

impl Drop for Outside {
    fn drop(&mut self) {
        // A test that failed reports its own error.
        let _ = ip(&format!("netns delete {}", self.netns));
    }
}
