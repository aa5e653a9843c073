//! What is no pod: a virtual machine behind an interface of a node.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;

use crate::{
    plan::Node,
    probe::{self, Protocol, ip},
};

/// The interface of the node that leads to it.
pub const INTERFACE: &str = "vm0";

/// The machine. Its network namespace goes when it is dropped.
pub struct Machine {
    /// That namespace.
    pub netns: String,
    /// Its address.
    pub address: Ipv4Addr,
}

impl Machine {
    /// Puts it behind `node`, which routes `address` to it, and lets it echo on TCP `ports`.
    ///
    /// # Errors
    /// When the network cannot be changed.
    pub fn new(prefix: &str, node: &Node, address: Ipv4Addr, ports: &[u16]) -> Result<Self> {
        let netns = format!("{prefix}-vm");
        ip(&format!("netns add {netns}"))?;
        let machine = Self { netns, address };
        let (own, node) = (&machine.netns, &node.netns);
        ip(&format!(
            "-n {node} link add {INTERFACE} type veth peer name eth0 netns {own}"
        ))?;
        for (netns, command) in [
            (node, format!("link set {INTERFACE} up")),
            // The machine asks who has its gateway.
            (node, format!("address add 169.254.7.1/32 dev {INTERFACE}")),
            (node, format!("route add {address}/32 dev {INTERFACE}")),
            (own, "link set lo up".into()),
            (own, format!("address add {address}/32 dev eth0")),
            (own, "link set eth0 up".into()),
            (own, "route add 169.254.7.1/32 dev eth0".into()),
            (own, "route add default via 169.254.7.1".into()),
        ] {
            ip(&format!("-n {netns} {command}"))?;
        }
        for port in ports {
            let target = SocketAddrV4::new(address, *port);
            probe::serve(own, Protocol::Tcp, target)?;
        }
        Ok(machine)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The veth goes with it.
        let _ = ip(&format!("netns delete {}", self.netns));
    }
}
