//! What the rules are made from.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::capture::nfqueue::QueueNumbers;

/// Everything that the rules of a node depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// The interfaces that lead to the network.
    pub uplinks: BTreeSet<LinkName>,
    /// The pods of this node, protected or not, and where each is attached.
    pub pods: BTreeMap<IpAddr, PodPort>,
    /// The identity networks.
    pub identity: Vec<IpNet>,
    /// Whose answers to pods the agent reads, because a policy speaks of names.
    pub name_servers: BTreeSet<IpAddr>,
    /// What reaches the queues at most.
    pub limits: RateLimits,
    /// The queues.
    pub queues: QueueNumbers,
    /// Whether bridged packets pass the inet hooks (`bridge-nf-call-iptables` and `-ip6tables`
    /// are 1). Without it, bridged pods of this node cannot reach each other at all.
    pub bridge_netfilter: bool,
}

/// Where a pod is attached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PodPort {
    /// By an interface of its own that the node routes to.
    Routed {
        /// The node's end.
        link: LinkName,
    },
    /// By a port of a bridge.
    Bridged {
        /// The bridge.
        bridge: LinkName,
        /// The node's end of the pod's pair, a port of the bridge.
        port: LinkName,
    },
}

impl PodPort {
    /// The interface that the inet hooks see.
    #[must_use]
    pub fn link(&self) -> &LinkName {
        match self {
            Self::Routed { link } => link,
            Self::Bridged { bridge, .. } => bridge,
        }
    }
}

/// Packets a second that may reach a queue, and as many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimits {
    /// Bare SYNs from one network source.
    pub syn_per_source: u32,
    /// Bare SYNs from one interface.
    pub syn_per_link: u32,
    /// Anything else from one network source: SYN-ACKs, our option, segments of unknown flows.
    pub other_per_source: u32,
    /// The same from one interface.
    pub other_per_link: u32,
    /// What one pod sends.
    pub per_pod: u32,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            syn_per_source: 5_000,
            syn_per_link: 20_000,
            other_per_source: 20_000,
            other_per_link: 50_000,
            per_pod: 20_000,
        }
    }
}

/// The name of an interface that is safe to stand in rules: 1 to 15 bytes of letters, digits, `.`,
/// `_`, `-`, `@`. The kernel allows more, but no CNI uses it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkName(String);

/// A name that cannot stand in rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an interface name of 1 to 15 letters, digits, '.', '_', '-', '@'")]
pub struct LinkNameError(pub String);

impl LinkName {
    /// Takes `name`.
    ///
    /// # Errors
    /// [`LinkNameError`].
    pub fn new(name: &str) -> Result<Self, LinkNameError> {
        let safe = |b: u8| b.is_ascii_alphanumeric() || b"._-@".contains(&b);
        if (1..=15).contains(&name.len()) && name.bytes().all(safe) {
            Ok(Self(name.to_owned()))
        } else {
            Err(LinkNameError(name.to_owned()))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The named sets of the tables, with their elements as nft reads them.
pub(super) const SETS: [Set; 9] = [
    Set {
        table: super::TABLE,
        name: "uplinks",
        of: |r| quoted(&r.uplinks),
    },
    Set {
        table: super::TABLE,
        name: "pod_links",
        of: |r| quoted(r.pods.values().map(PodPort::link)),
    },
    Set {
        table: super::TABLE,
        name: "pods4",
        of: |r| r.pods4().map(|(a, _)| a.to_string()).collect(),
    },
    Set {
        table: super::TABLE,
        name: "pod_sources4",
        of: |r| {
            r.pods4()
                .map(|(address, port)| format!("\"{}\" . {address}", port.link()))
                .collect()
        },
    },
    Set {
        table: super::TABLE,
        name: "name_servers4",
        of: |r| {
            let v4 = r.name_servers.iter().filter(|a| a.is_ipv4());
            v4.map(ToString::to_string).collect()
        },
    },
    Set {
        table: super::TABLE,
        name: "identity4",
        of: |r| strings(Ipv4Net::aggregate(&r.identity4())),
    },
    Set {
        table: super::TABLE,
        name: "identity6",
        of: |r| strings(Ipv6Net::aggregate(&r.identity6())),
    },
    Set {
        table: super::text::BRIDGE_TABLE,
        name: "ports",
        of: RuleSet::ports,
    },
    Set {
        table: super::text::BRIDGE_TABLE,
        name: "sources4",
        of: |r| {
            r.bridged4()
                .map(|(address, port)| format!("\"{port}\" . {address}"))
                .collect()
        },
    },
];

/// A named set.
pub(super) struct Set {
    pub table: &'static str,
    pub name: &'static str,
    pub of: fn(&RuleSet) -> BTreeSet<String>,
}

impl RuleSet {
    pub(super) fn pods4(&self) -> impl Iterator<Item = (Ipv4Addr, &PodPort)> {
        self.pods
            .iter()
            .filter_map(|(address, port)| match address {
                IpAddr::V4(v4) => Some((*v4, port)),
                IpAddr::V6(_) => None,
            })
    }

    pub(super) fn bridged4(&self) -> impl Iterator<Item = (Ipv4Addr, &LinkName)> {
        self.pods4().filter_map(|(address, port)| match port {
            PodPort::Bridged { port, .. } => Some((address, port)),
            PodPort::Routed { .. } => None,
        })
    }

    /// The ports of bridged pods, of either family.
    pub(super) fn ports(&self) -> BTreeSet<String> {
        quoted(self.pods.values().filter_map(|port| match port {
            PodPort::Bridged { port, .. } => Some(port),
            PodPort::Routed { .. } => None,
        }))
    }

    fn identity4(&self) -> Vec<Ipv4Net> {
        self.identity
            .iter()
            .filter_map(|net| match net {
                IpNet::V4(v4) => Some(*v4),
                IpNet::V6(_) => None,
            })
            .collect()
    }

    fn identity6(&self) -> Vec<Ipv6Net> {
        self.identity
            .iter()
            .filter_map(|net| match net {
                IpNet::V6(v6) => Some(*v6),
                IpNet::V4(_) => None,
            })
            .collect()
    }
}

fn quoted<'a>(names: impl IntoIterator<Item = &'a LinkName>) -> BTreeSet<String> {
    names
        .into_iter()
        .map(|name| format!("\"{name}\""))
        .collect()
}

fn strings(items: impl IntoIterator<Item = impl fmt::Display>) -> BTreeSet<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_end_a_string_is_refused() {
        for name in [
            "",
            "a b",
            "veth\"",
            "x{",
            "sixteen-letters!",
            "a\nb",
            "0123456789abcdef",
        ] {
            assert!(LinkName::new(name).is_err(), "{name:?}");
        }
        for name in ["up0", "veth1a2b3c4d@", "br-0.100"] {
            assert!(LinkName::new(name).is_ok(), "{name:?}");
        }
    }
}
