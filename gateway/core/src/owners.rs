//! Which cluster an address belongs to: the check on inner addresses, both ways.

use std::net::IpAddr;

use identity::{IdentityNetworks, TrustDomain};
use ipnet::IpNet;

/// The owner of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This cluster.
    Own,
    /// The peer of that number in the snapshot.
    Peer(u16),
}

/// The identity networks with their owners as numbers: a lookup is one binary search.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    /// Sorted by prefix, disjoint.
    ranges: Vec<(IpNet, Owner)>,
}

impl Owners {
    /// From the identity networks; `peers` gives the peers in the order of their numbers. Ranges
    /// of any other cluster are left out: nothing is sent to or taken from there.
    #[must_use]
    pub fn new(networks: &IdentityNetworks, own: &TrustDomain, peers: &[TrustDomain]) -> Self {
        let owner = |domain: &TrustDomain| {
            if domain == own {
                return Some(Owner::Own);
            }
            let number = peers.iter().position(|peer| peer == domain)?;
            u16::try_from(number).ok().map(Owner::Peer)
        };
        let ranges = networks.ranges().iter();
        let ranges = ranges
            .filter_map(|r| Some((r.prefix, owner(&r.trust_domain)?)))
            .collect();
        Self { ranges }
    }

    /// Whose `address` is; `None` outside all known ranges.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<Owner> {
        let after = self
            .ranges
            .partition_point(|(prefix, _)| prefix.network() <= address);
        let (prefix, owner) = self.ranges.get(after.checked_sub(1)?)?;
        prefix.contains(&address).then_some(*owner)
    }
}
