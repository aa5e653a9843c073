//! Overlapping pod ranges: a peer's pods have addresses of their own cluster, and are seen here at others
//! that keep the offset. Between the tunnel and everything that judges by an address, a packet's remote
//! end is exchanged; the local end is the peer's gateway's to exchange, for its own view.

use std::{cell::Cell, net::IpAddr};

use identity::{IdentityNetworks, IdentityRange, TrustDomain, same_offset};
use ipnet::IpNet;
use policy::DropReason;
use wire::translate::{End, translate};

use crate::inner;

/// The ranges of one peer that are seen at other addresses than they have; mostly none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translation(Vec<Range>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    here: IpNet,
    real: IpNet,
}

impl Translation {
    /// Of the ranges of `peer` in `networks`.
    #[must_use]
    pub fn of(peer: &TrustDomain, networks: &IdentityNetworks) -> Self {
        let ranges = networks.ranges().iter();
        let ranges = ranges.filter(|range| range.trust_domain == *peer);
        let mapped = ranges.filter_map(|range| {
            let (here, real) = (range.prefix, range.real?.trunc());
            IdentityRange::can_map(real, here).then_some(Range { here, real })
        });
        Self(mapped.collect())
    }

    /// Exchanges the destination of a packet that goes to the peer's gateway.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn outbound(&self, packet: &mut [u8]) -> Result<(), DropReason> {
        if self.0.is_empty() {
            return Ok(());
        }
        let real = |address: IpAddr| {
            let mut ranges = self.0.iter();
            let range = ranges.find(|range| range.here.contains(&address))?;
            Some(same_offset(address, range.real))
        };
        translate(packet, End::Destination, real).map_err(inner::reason)
    }

    /// Exchanges the source of a packet that came from the peer's gateway.
    ///
    /// # Errors
    /// Why it is dropped: [`DropReason::TunnelInnerAddress`] when the peer itself uses an address that
    /// only this cluster sees there, so that each of its pods has one address.
    pub fn inbound(&self, packet: &mut [u8]) -> Result<(), DropReason> {
        if self.0.is_empty() {
            return Ok(());
        }
        let forged = Cell::new(false);
        let here = |address: IpAddr| {
            let range = self.0.iter().find(|range| range.real.contains(&address));
            let is_ours = || self.0.iter().any(|range| range.here.contains(&address));
            match range {
                Some(range) => Some(same_offset(address, range.here)),
                None => {
                    forged.set(forged.get() || is_ours());
                    None
                }
            }
        };
        translate(packet, End::Source, here).map_err(inner::reason)?;
        match forged.get() {
            true => Err(DropReason::TunnelInnerAddress),
            false => Ok(()),
        }
    }
}
