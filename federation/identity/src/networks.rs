//! Which addresses must prove an identity, and whose they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    /// The prefix as the owner has it, of the same family and length, where it is another one: the
    /// gateway of this cluster translates between the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real: Option<IpNet>,
}

impl IdentityRange {
    /// Whether `real` can be seen as `prefix`: an address keeps its offset.
    #[must_use]
    pub fn can_map(real: IpNet, prefix: IpNet) -> bool {
        real.prefix_len() == prefix.prefix_len() && real.addr().is_ipv4() == prefix.addr().is_ipv4()
    }
}

/// The address with the offset of `address` in the prefix `to`, which has the length of the one that it
/// is from.
#[must_use]
pub fn same_offset(address: IpAddr, to: IpNet) -> IpAddr {
    match (address, to) {
        (IpAddr::V4(address), IpNet::V4(to)) => {
            let host = address.to_bits() & to.hostmask().to_bits();
            Ipv4Addr::from_bits(to.network().to_bits() | host).into()
        }
        (IpAddr::V6(address), IpNet::V6(to)) => {
            let host = address.to_bits() & to.hostmask().to_bits();
            Ipv6Addr::from_bits(to.network().to_bits() | host).into()
        }
        // No prefix of the other family is another form of it.
        (address, _) => address,
    }
}

/// An address inside a range, in the form that 1:1 translation leaves alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeAddress<'a> {
    /// The range's owner.
    pub trust_domain: &'a TrustDomain,
    /// [`TrustDomain::hash16`] of it.
    pub owner_hash: [u8; 16],
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
    /// What a lookup asks of each range, in the same order.
    bounds: Vec<Bounds>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Bounds {
    first: IpAddr,
    last: IpAddr,
    owner_hash: [u8; 16],
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
        let bounds = ranges.iter().map(|range| Bounds {
            first: range.prefix.network(),
            last: range.prefix.broadcast(),
            owner_hash: range.trust_domain.hash16(),
        });
        Ok(Self {
            bounds: bounds.collect(),
            ranges,
        })
    }

    /// The range that holds `address`, and where in it.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<RangeAddress<'_>> {
        let (range, bounds) = self.range_of(address)?;
        Some(RangeAddress {
            trust_domain: &range.trust_domain,
            owner_hash: bounds.owner_hash,
            range_id: range.range_id,
            offset: offset(range.prefix, address),
        })
    }

    /// Whose `address` is.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<&TrustDomain> {
        self.range_of(address).map(|(range, _)| &range.trust_domain)
    }

    fn range_of(&self, address: IpAddr) -> Option<(&IdentityRange, &Bounds)> {
        let after = self.bounds.partition_point(|range| range.first <= address);
        let at = after.checked_sub(1)?;
        // IPv4 addresses come before IPv6 addresses, so neither is inside a range of the other.
        let bounds = self.bounds.get(at).filter(|range| address <= range.last)?;
        Some((self.ranges.get(at)?, bounds))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn range(prefix: &str, owner: &str, range_id: u16) -> IdentityRange {
        IdentityRange {
            prefix: prefix.parse().unwrap(),
            trust_domain: TrustDomain::new(owner).unwrap(),
            range_id,
            real: None,
        }
    }

    fn networks(ranges: &[(&str, &str, u16)]) -> Result<IdentityNetworks, NetworksError> {
        IdentityNetworks::new(ranges.iter().map(|(p, o, id)| range(p, o, *id)).collect())
    }

    fn found<'a>(networks: &'a IdentityNetworks, address: &str) -> Option<(&'a str, u16, u128)> {
        let at = networks.lookup(address.parse().unwrap())?;
        Some((
            at.trust_domain.as_str(),
            at.range_id,
            u128::from_be_bytes(at.offset),
        ))
    }

    #[test]
    fn an_address_is_found_with_its_place_in_the_range() {
        let networks = networks(&[
            ("fd00:2::/32", "west", 2),
            ("10.2.0.0/16", "west", 1),
            ("10.1.0.0/16", "east", 1),
            ("10.1.128.0/17", "no", 1),
        ]);
        assert!(networks.is_err(), "the fourth lies in the third");
        let networks = super::tests::networks(&[
            ("fd00:2::/32", "west", 2),
            ("10.2.0.0/16", "west", 1),
            ("10.1.0.0/16", "east", 1),
            ("192.0.2.7/32", "east", 9),
            ("fd00:1::5/128", "east", 10),
        ])
        .unwrap();
        for (address, expected) in [
            ("10.1.0.0", Some(("east", 1, 0))),
            ("10.1.2.3", Some(("east", 1, 0x0203))),
            ("10.1.255.255", Some(("east", 1, 0xffff))),
            ("10.2.0.0", Some(("west", 1, 0))),
            ("10.0.255.255", None),
            ("10.3.0.0", None),
            ("0.0.0.0", None),
            ("255.255.255.255", None),
            ("192.0.2.7", Some(("east", 9, 0))),
            ("192.0.2.6", None),
            ("192.0.2.8", None),
            ("fd00:2::", Some(("west", 2, 0))),
            (
                "fd00:2:ffff::1",
                Some(("west", 2, 0xffff_0000_0000_0000_0000_0001)),
            ),
            ("fd00:3::", None),
            ("fd00:1:ffff:ffff::", None),
            ("fd00:1::5", Some(("east", 10, 0))),
            ("::", None),
            // An IPv4-mapped address is no IPv4 address on any wire.
            ("::ffff:10.1.2.3", None),
        ] {
            assert_eq!(found(&networks, address), expected, "{address}");
        }
        assert_eq!(networks.ranges().len(), 5);
    }

    #[test]
    fn the_whole_internet_is_a_range_like_any_other() {
        let networks = networks(&[("0.0.0.0/0", "east", 1), ("::/0", "east", 2)]).unwrap();
        assert_eq!(found(&networks, "1.2.3.4"), Some(("east", 1, 0x0102_0304)));
        assert_eq!(
            found(&networks, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            Some(("east", 2, u128::MAX))
        );
    }

    #[test]
    fn overlaps_are_refused_in_any_order_and_host_bits_do_not_hide_them() {
        for pair in [
            ["10.1.0.0/16", "10.1.0.0/16"],
            ["10.1.0.0/16", "10.0.0.0/8"],
            ["10.1.2.3/16", "10.1.0.0/24"],
            ["10.1.255.255/32", "10.1.0.0/16"],
            ["fd00::/8", "fd12:3456::/48"],
            ["::/0", "fd00::1/128"],
        ] {
            for [a, b] in [pair, [pair[1], pair[0]]] {
                assert!(
                    networks(&[(a, "east", 1), (b, "west", 1)]).is_err(),
                    "{a} {b}"
                );
                // Others between them in the order do not separate them.
                let between = ("10.1.128.0/24", "north", 1);
                assert!(networks(&[(a, "east", 1), between, (b, "west", 1)]).is_err());
            }
        }
        assert!(networks(&[("10.0.0.0/9", "a", 1), ("10.128.0.0/9", "b", 1)]).is_ok());
        assert!(networks(&[("0.0.0.0/0", "a", 1), ("::/0", "b", 1)]).is_ok());
    }

    fn any_prefix() -> impl Strategy<Value = IpNet> {
        // Few distinct bits, so that overlaps and hits are common.
        prop_oneof![
            (0..4u32, 0..=4u8).prop_map(|(top, len)| {
                IpNet::new(IpAddr::V4((top << 30 | top << 28).into()), len).unwrap()
            }),
            (0..4u128, 0..=4u8).prop_map(|(top, len)| {
                IpNet::new(IpAddr::V6((top << 126 | top << 124).into()), len).unwrap()
            }),
        ]
    }

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|a| IpAddr::V4(a.into())),
            any::<u128>().prop_map(|a| IpAddr::V6(a.into())),
        ]
    }

    proptest! {
        /// Against the definition: no two prefixes share an address, and the range of an address is
        /// the one that contains it.
        #[test]
        fn agrees_with_the_naive_search(
            prefixes in prop::collection::vec(any_prefix(), 0..5),
            addresses in prop::collection::vec(any_address(), 1..20),
        ) {
            let ranges: Vec<_> = prefixes.iter().zip(1..).map(|(prefix, range_id)| IdentityRange {
                prefix: *prefix, trust_domain: TrustDomain::new("d").unwrap(), range_id,
                real: None,
            }).collect();
            let overlap = prefixes.iter().enumerate().any(|(at, a)| {
                prefixes[..at].iter().any(|b| a.contains(b) || b.contains(a))
            });
            let networks = IdentityNetworks::new(ranges.clone());
            prop_assert_eq!(networks.is_err(), overlap);
            if let Ok(networks) = networks {
                for address in addresses {
                    let naive = ranges.iter().find(|r| r.prefix.contains(&address)).map(|r| r.range_id);
                    prop_assert_eq!(networks.lookup(address).map(|at| at.range_id), naive);
                    prop_assert_eq!(networks.owner(address).is_some(), naive.is_some());
                }
            }
        }
    }
}
