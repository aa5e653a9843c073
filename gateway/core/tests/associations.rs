//! The tunnel's keys and counters over the life of processes. Threat row 7.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::{collections::BTreeSet, time::Duration};

use common::{Nodes, Pair, support};
use identity::{Mono, Now, UnixMillis};
use landbridge_gateway_core::{
    Disposition, Limits, Offer, Side,
    associations::{LINGER, OfferError, REKEY_AGE},
    psp::AssociationKey,
};
use policy::DropReason;
use support::{API, Conn, FRONTEND, at, domain};

fn limits() -> Limits {
    Limits {
        established: 64,
        half_open: 64,
        nonces: 256,
        flow_shards: 1,
        ..Limits::default()
    }
}

fn after(duration: Duration) -> Now {
    let ms = u64::try_from(duration.as_millis()).unwrap();
    Now {
        mono: Mono(duration),
        unix: UnixMillis(support::START + ms),
    }
}

/// The SPI of the association that a WAN frame was sealed with.
fn spi(frame: &[u8]) -> u32 {
    wire::psp::Header::parse(&frame[14 + 20 + 8..]).unwrap().spi
}

#[test]
fn keys_change_after_an_hour_without_losing_a_packet() {
    let (mut pair, mut nodes) = (Pair::new(&limits()), Nodes::new());
    let conn = Conn::new(FRONTEND, API);
    pair.establish(&mut nodes, &conn, at(0));
    let old = pair.east.node_sends(&conn.request(b"x"), at(1));

    let hour = after(REKEY_AGE + Duration::from_secs(1));
    assert!(pair.west.control.poll_timeout().unwrap() <= hour.mono);
    pair.west.control.handle_timeout(hour);
    pair.west.load();
    // West opens both from now on; east seals with the old one until the offer arrives.
    assert_eq!(pair.west.snapshot.inbound.len(), 4);
    let between = pair.east.node_sends(&conn.request(b"y"), hour);
    assert_eq!(spi(&between.frame), spi(&old.frame));
    assert_eq!(pair.exchange().len(), 2);
    let new = pair.east.node_sends(&conn.request(b"z"), hour);
    assert_ne!(spi(&new.frame), spi(&old.frame));
    // Sealed with the old one and still on its way.
    for frame in [&new.frame, &between.frame, &old.frame] {
        let outcome = pair.west.frame(Side::Wan, frame, hour);
        assert_eq!(outcome.disposition, Disposition::Forward(Side::Lan));
    }
    // Half a minute after the first use the old one closes, for the slot that was used.
    pair.west
        .control
        .handle_timeout(after(REKEY_AGE + Duration::from_secs(3)));
    let closed = after(REKEY_AGE + Duration::from_secs(4) + LINGER);
    pair.west.control.handle_timeout(closed);
    pair.west.load();
    assert_eq!(pair.west.snapshot.inbound.len(), 3);
    let outcome = pair.west.frame(Side::Wan, &old.frame, closed);
    assert_eq!(
        outcome.disposition,
        Disposition::Drop(DropReason::TunnelUnknownSpi)
    );
}

#[test]
fn a_new_session_replaces_everything_at_once() {
    let (mut pair, mut nodes) = (Pair::new(&limits()), Nodes::new());
    let conn = Conn::new(FRONTEND, API);
    pair.establish(&mut nodes, &conn, at(0));
    let old = pair.east.node_sends(&conn.request(b"x"), at(1));
    pair.connect(at(2));
    let outcome = pair.west.frame(Side::Wan, &old.frame, at(2));
    assert_eq!(
        outcome.disposition,
        Disposition::Drop(DropReason::TunnelUnknownSpi)
    );
    assert!(pair.east_to_west(&conn.request(b"x"), at(2)).is_ok());
}

#[test]
fn an_association_is_never_taken_twice() {
    let mut pair = Pair::new(&limits());
    let east = &mut pair.east.control;
    let offer = |spi, slot| Offer {
        spi,
        slot,
        port: 1000,
        key: AssociationKey::Aes128([3; 16]),
    };
    let west = domain("west");
    assert_eq!(east.handle_offer(&west, &offer(7, 0)), Ok(()));
    assert_eq!(east.handle_offer(&west, &offer(8, 0)), Ok(()));
    assert_eq!(
        east.handle_offer(&west, &offer(7, 0)),
        Err(OfferError::Repeated)
    );
    east.handle_connected(&west, at(1));
    assert_eq!(
        east.handle_offer(&west, &offer(7, 0)),
        Err(OfferError::Repeated)
    );
    assert_eq!(
        east.handle_offer(&west, &offer(0, 0)),
        Err(OfferError::Invalid)
    );
    assert_eq!(
        east.handle_offer(&west, &offer(9, 256)),
        Err(OfferError::Invalid)
    );
    assert_eq!(
        east.handle_offer(&domain("north"), &offer(9, 0)),
        Err(OfferError::UnknownPeer)
    );
}

/// A thousand processes after another, each killed in the middle: the key and the counter of a
/// packet never come together twice.
#[test]
fn a_thousand_restarts_repeat_no_key_and_counter() {
    let mut seen = BTreeSet::new();
    let mut count = 0;
    for seed in 0..1000 {
        let mut pair = Pair {
            east: common::Gateway::new("east", &limits(), 2 * seed),
            west: common::Gateway::new("west", &limits(), 2 * seed + 1),
        };
        pair.east.control.handle_connected(&domain("west"), at(0));
        pair.west.control.handle_connected(&domain("east"), at(0));
        let offers = pair.exchange();
        for offer in &offers {
            assert!(offer.spi != 0);
        }
        for association in &pair.east.snapshot.peers[0].outbound {
            let key = offers
                .iter()
                .find(|o| o.spi == association.spi())
                .unwrap()
                .key
                .clone();
            for _ in 0..3 {
                let frame = pair.west.tunnel_frame(association, &[0x45; 40]);
                let header = wire::psp::Header::parse(&frame[14 + 20 + 8..]).unwrap();
                count += 1;
                assert!(
                    seen.insert((key.as_bytes().to_vec(), header.nonce())),
                    "{header:?}"
                );
            }
        }
    }
    assert_eq!((seen.len(), count), (6000, 6000));
}
