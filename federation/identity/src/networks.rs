//! Which addresses must prove an identity, and whose they are.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::TrustDomain;

/// A pod range of one cluster, under a number that its owner never uses again for another range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IdentityRange {
    /// The prefix as it is seen in this cluster.
    pub prefix: IpNet,
    /// The owner.
    pub trust_domain: TrustDomain,
    /// The owner's number for the range.
    pub range_id: u16,
}

/// An address inside a range, in the form that 1:1 translation leaves alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeAddress<'a> {
    /// The range's owner.
    pub trust_domain: &'a TrustDomain,
    /// The owner's number for the range.
    pub range_id: u16,
    /// The address minus the prefix, big-endian, IPv4 in the last four bytes.
    pub offset: [u8; 16],
}

/// Two prefixes that cannot both be identity networks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("prefix {} of {} overlaps {} of {}", .0.prefix, .0.trust_domain, .1.prefix, .1.trust_domain)]
pub struct NetworksError(pub Box<IdentityRange>, pub Box<IdentityRange>);

/// Prefix -> {trust domain, range id}: an address inside is never believed without proof.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentityNetworks {
    /// Sorted by prefix, disjoint: a lookup is one binary search.
    ranges: Vec<IdentityRange>,
}

impl IdentityNetworks {
    /// Takes `ranges`, which must not overlap.
    ///
    /// # Errors
    /// The first two ranges that overlap.
    pub fn new(mut ranges: Vec<IdentityRange>) -> Result<Self, NetworksError> {
        for range in &mut ranges {
            range.prefix = range.prefix.trunc();
        }
        ranges.sort();
        for pair in ranges.windows(2) {
            if pair[0].prefix.contains(&pair[1].prefix) {
                return Err(NetworksError(
                    Box::new(pair[0].clone()),
                    Box::new(pair[1].clone()),
                ));
            }
        }
        Ok(Self { ranges })
    }

    /// The range that holds `address`, and where in it.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<RangeAddress<'_>> {
        let after = self
            .ranges
            .partition_point(|r| r.prefix.network() <= address);
        let range = self.ranges[..after]
            .last()
            .filter(|r| r.prefix.contains(&address))?;
        Some(RangeAddress {
            trust_domain: &range.trust_domain,
            range_id: range.range_id,
            offset: offset(range.prefix, address),
        })
    }

    /// All ranges, sorted by prefix.
    #[must_use]
    pub fn ranges(&self) -> &[IdentityRange] {
        &self.ranges
    }
}

fn offset(prefix: IpNet, address: IpAddr) -> [u8; 16] {
    let host = |all: u128, bits: u32, len: u8| match bits - u32::from(len) {
        128 => all,
        host_bits => all & ((1 << host_bits) - 1),
    };
    match address {
        IpAddr::V4(a) => host(u128::from(a.to_bits()), 32, prefix.prefix_len()),
        IpAddr::V6(a) => host(a.to_bits(), 128, prefix.prefix_len()),
    }
    .to_be_bytes()
}
