//! Where a newcomer's pod ranges are seen here. A range that overlaps another cluster's is mapped to a
//! prefix of a pool; nobody else is told, because each gateway translates for its own pods alone.
//! docs/decisions/overlapping-ranges.md.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use identity::{IdentityRange, TrustDomain};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Here, JoinRefusal};
use crate::peer_messages::AnnouncedRange;

/// A range that is, or was lately, seen at another prefix than its owner has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped<'a> {
    /// The owner.
    pub trust_domain: &'a TrustDomain,
    /// Where it has it.
    pub real: IpNet,
    /// Where it is seen here.
    pub to: IpNet,
}

impl Here<'_> {
    /// By their numbers: where those of `ranges` are seen that cannot be seen where they are. One that
    /// was mapped keeps its prefix.
    ///
    /// # Errors
    /// [`JoinRefusal::Range`] when the pool has no room.
    pub(super) fn mapped(
        &self,
        domain: &TrustDomain,
        ranges: &[AnnouncedRange],
    ) -> Result<BTreeMap<u16, IpNet>, JoinRefusal> {
        let others = || self.ranges.iter().filter(|(_, owner)| *owner != domain);
        let clash = |range: IpNet| others().find(|(other, _)| overlap(range, *other));
        let known = |range: IpNet| {
            let mut known = self.mapped.iter();
            let known = known.find(|it| it.trust_domain == domain && it.real == range)?;
            let holds = IdentityRange::can_map(range, known.to) && clash(known.to).is_none();
            holds.then_some(known.to)
        };
        let mut mapped = BTreeMap::new();
        let mut seen = Vec::new();
        let mut homeless = Vec::new();
        for AnnouncedRange { range_id, prefix } in ranges {
            let range = prefix.trunc();
            match (known(range), clash(range)) {
                (Some(to), _) => {
                    mapped.insert(*range_id, to);
                    seen.push(to);
                }
                (None, None) => seen.push(range),
                (None, Some(clash)) => homeless.push((*range_id, range, clash)),
            }
        }
        for (range_id, range, (other, owner)) in homeless {
            let all = others().map(|(range, _)| range);
            let taken = |wanted: IpNet| {
                let mut taken = all.clone().chain(&self.held).chain(&seen);
                taken.find(|taken| overlap(wanted, **taken)).copied()
            };
            let fits = self.pool.iter().find_map(|pool| free(*pool, range, taken));
            let to = fits.ok_or_else(|| JoinRefusal::Range {
                range,
                other: *other,
                owner: (*owner).clone(),
                here: self.trust_domain.clone(),
            })?;
            mapped.insert(range_id, to);
            seen.push(to);
        }
        Ok(mapped)
    }
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// The first prefix in `pool` of the size of `range` that shares nothing with what is `taken`.
fn free(pool: IpNet, range: IpNet, taken: impl Fn(IpNet) -> Option<IpNet>) -> Option<IpNet> {
    let length = range.prefix_len();
    let same_family = pool.addr().is_ipv4() == range.addr().is_ipv4();
    if !same_family || pool.prefix_len() > length {
        return None;
    }
    let mut wanted = with_length(pool.network(), length)?;
    while pool.contains(&wanted) {
        let Some(other) = taken(wanted) else {
            return Some(wanted);
        };
        // Behind both: of two that overlap, the longer one lies in the other.
        let last = other.broadcast().max(wanted.broadcast());
        wanted = with_length(after(last)?, length)?;
    }
    None
}

fn with_length(address: IpAddr, length: u8) -> Option<IpNet> {
    match address {
        IpAddr::V4(address) => Ipv4Net::new(address, length).ok().map(IpNet::V4),
        IpAddr::V6(address) => Ipv6Net::new(address, length).ok().map(IpNet::V6),
    }
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let next = address.to_bits().checked_add(1)?;
            Some(Ipv4Addr::from_bits(next).into())
        }
        IpAddr::V6(address) => {
            let next = address.to_bits().checked_add(1)?;
            Some(Ipv6Addr::from_bits(next).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use identity::UnixMillis;
    use proptest::prelude::*;

    use super::*;
    use crate::join::Offer;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| net(text)).collect()
    }

    fn domain(name: &str) -> TrustDomain {
        TrustDomain::new(name).unwrap()
    }

    fn offer(ranges: &[IpNet]) -> Offer {
        let ranges = (1..).zip(ranges);
        Offer {
            trust_domain: domain("west"),
            name: "west".into(),
            bundle: String::new(),
            pin: [0; 32],
            endpoints: Vec::new(),
            ranges: ranges
                .map(|(range_id, prefix)| AnnouncedRange {
                    range_id,
                    prefix: *prefix,
                })
                .collect(),
            clock: UnixMillis(0),
        }
    }

    /// What the gateway of east knows.
    #[derive(Default)]
    struct East {
        own: Vec<IpNet>,
        north: Vec<IpNet>,
        held: Vec<IpNet>,
        /// Of west.
        mapped: Vec<(IpNet, IpNet)>,
        pool: Vec<IpNet>,
    }

    impl East {
        fn map(&self, ranges: &[IpNet]) -> Result<BTreeMap<u16, IpNet>, JoinRefusal> {
            let [east, north, west] = ["east", "north", "west"].map(domain);
            let own = self.own.iter().map(|range| (*range, &east));
            let theirs = self.north.iter().map(|range| (*range, &north));
            let mapped = self.mapped.iter().map(|(real, to)| Mapped {
                trust_domain: &west,
                real: *real,
                to: *to,
            });
            let here = Here {
                trust_domain: &east,
                names: BTreeMap::new(),
                ranges: own.chain(theirs).collect(),
                held: self.held.clone(),
                mapped: mapped.collect(),
                pool: &self.pool,
                peers: BTreeMap::new(),
                revoked: BTreeSet::new(),
            };
            let offer = offer(ranges);
            here.mapped(&offer.trust_domain, &offer.ranges)
        }

        fn maps(&self, ranges: &[&str]) -> Vec<(u16, String)> {
            let mapped = self.map(&nets(ranges)).unwrap();
            mapped
                .into_iter()
                .map(|(id, to)| (id, to.to_string()))
                .collect()
        }
    }

    fn east() -> East {
        East {
            own: nets(&["10.1.0.0/16", "fd00:1::/48"]),
            north: nets(&["10.3.0.0/16", "100.65.0.0/24"]),
            pool: nets(&["100.64.0.0/14", "fd99::/32"]),
            ..East::default()
        }
    }

    #[test]
    fn what_overlaps_gets_the_first_free_prefix_and_the_rest_stays() {
        let mut east = east();
        let to = |all: &[(u16, &str)]| -> Vec<_> {
            all.iter().map(|(id, to)| (*id, (*to).to_owned())).collect()
        };
        assert_eq!(east.maps(&["10.2.0.0/16"]), to(&[]));
        assert_eq!(east.maps(&["10.1.0.0/16"]), to(&[(1, "100.64.0.0/16")]));
        // A part of somebody's range, and both families; an own range is not seen twice.
        let ranges = ["10.3.7.0/24", "10.2.0.0/16", "fd00:1::/48", "100.64.0.0/24"];
        let expected = to(&[(1, "100.64.1.0/24"), (3, "fd99::/48")]);
        assert_eq!(east.maps(&ranges), expected);
        // Two of one cluster; north sits in the second place, a former member in the third.
        east.held = nets(&["100.66.128.0/17"]);
        let ranges = ["10.1.0.0/16", "10.3.0.0/16"];
        let expected = to(&[(1, "100.64.0.0/16"), (2, "100.67.0.0/16")]);
        assert_eq!(east.maps(&ranges), expected);
    }

    #[test]
    fn whoever_joins_again_keeps_its_prefix() {
        let mut east = east();
        east.mapped = vec![(net("10.1.0.0/16"), net("100.66.0.0/16"))];
        // It may still be held for it.
        east.held = nets(&["100.66.0.0/16"]);
        let kept = vec![(1, "100.66.0.0/16".to_owned())];
        assert_eq!(east.maps(&["10.1.0.0/16"]), kept);
        // Even when it does not overlap any more: pods may know the address.
        east.own.clear();
        assert_eq!(east.maps(&["10.1.0.0/16"]), kept);
        // But not where another cluster is now, and not of another range.
        east.own = nets(&["10.1.0.0/16", "100.66.4.0/24"]);
        let first = vec![(1, "100.64.0.0/16".to_owned())];
        assert_eq!(east.maps(&["10.1.0.0/16"]), first);
        assert_eq!(east.maps(&["10.1.0.0/17"])[0].1, "100.64.0.0/17");
    }

    #[test]
    fn without_room_it_is_refused_by_name() {
        let mut east = east();
        let says = |east: &East, range: &str| east.map(&[net(range)]).unwrap_err().to_string();
        assert_eq!(
            says(&east, "10.0.0.0/8"),
            "its pod range 10.0.0.0/8 overlaps 10.1.0.0/16 of east, and federationPrefixes of the \
             gateway of east has no free prefix of that size to map it to"
        );
        east.pool = nets(&["100.65.0.0/16"]);
        assert!(says(&east, "10.1.0.0/16").contains("no free prefix"));
        east.pool = nets(&["fd99::/32"]);
        assert!(says(&east, "10.1.0.0/16").contains("no free prefix"));
        // At the end of all addresses there is no next one.
        east.pool = nets(&["255.255.0.0/16"]);
        east.held = nets(&["255.255.0.0/16"]);
        assert!(says(&east, "10.1.0.0/16").contains("no free prefix"));
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        // Few distinct bits, so that overlaps are common.
        (0..16_u32, 2..=6_u8).prop_map(|(top, length)| {
            let address = Ipv4Addr::from_bits(top << 28 | top << 26);
            IpNet::from(Ipv4Net::new(address, length).unwrap().trunc())
        })
    }

    proptest! {
        /// Whatever there is, what comes out overlaps nothing, has the right size and is of the pool; and
        /// it is only refused when no place is left.
        #[test]
        fn every_range_is_seen_at_a_place_of_its_own(
            own in prop::collection::vec(prefix(), 0..3), held in prop::collection::vec(prefix(), 0..3),
            pool in prop::collection::vec(prefix(), 0..3), range in prefix(),
        ) {
            let east = East { own, held, pool, ..East::default() };
            let clash = |to: IpNet| east.own.iter().any(|other| overlap(to, *other));
            let taken = |to: IpNet| clash(to) || east.held.iter().any(|other| overlap(to, *other));
            let places = east.pool.iter().filter(|pool| pool.prefix_len() <= range.prefix_len());
            let mut places = places.flat_map(|pool| pool.subnets(range.prefix_len()).unwrap());
            let mapped = east.map(&[range]);
            match mapped {
                Ok(mapped) if mapped.is_empty() => prop_assert!(!clash(range)),
                Ok(mapped) => {
                    let first = places.find(|place| !taken(*place));
                    prop_assert_eq!(mapped.get(&1).copied(), first);
                    prop_assert!(clash(range));
                }
                Err(_) => prop_assert!(clash(range) && places.all(taken)),
            }
        }
    }
}
