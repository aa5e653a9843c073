//! The tunnel's keys and counters over the life of sessions and processes. Threat row 7.

use std::{collections::BTreeSet, time::Duration};

use peering::peers::{DRAIN, REKEY_AFTER};
use policy::DropReason;
use wire::psp::Header;

use crate::world::{World, domain, open, seal};

fn spi(packet: &[u8]) -> u32 {
    Header::parse(packet).unwrap().spi
}

#[test]
fn keys_change_after_an_hour_without_losing_a_packet() {
    let mut world = World::new();
    let old = world.snapshot("east").clone();
    let sealed = [seal(&old), seal(&old)];
    assert_eq!(open(world.snapshot("west"), &sealed[0]), Ok(()));
    world.run(REKEY_AFTER + Duration::from_secs(1));
    assert_eq!(world.snapshot("west").inbound.len(), 2, "both are open");
    let new = seal(world.snapshot("east"));
    assert_ne!(spi(&new), spi(&sealed[1]));
    for packet in [&new, &sealed[1]] {
        assert_eq!(open(world.snapshot("west"), packet), Ok(()));
    }
    // Its replay window is the one from before.
    let again = open(world.snapshot("west"), &sealed[0]);
    assert_eq!(again, Err(DropReason::TunnelReplay));
    world.run(DRAIN + Duration::from_secs(1));
    assert_eq!(world.snapshot("west").inbound.len(), 1);
    let late = open(world.snapshot("west"), &seal(&old));
    assert_eq!(late, Err(DropReason::TunnelUnknownSpi));
}

#[test]
fn a_new_session_replaces_everything_at_once() {
    let mut world = World::new();
    let old = seal(world.snapshot("east"));
    world.connect();
    let late = open(world.snapshot("west"), &old);
    assert_eq!(late, Err(DropReason::TunnelUnknownSpi));
    let new = seal(world.snapshot("east"));
    assert_eq!(open(world.snapshot("west"), &new), Ok(()));
}

/// One process after another, each killed in the middle: the key and the counter of a packet never
/// come together twice.
#[test]
fn no_restart_repeats_a_key_and_a_counter() {
    let mut seen = BTreeSet::new();
    let mut count = 0;
    let mut world = World::new();
    for life in 0..200 {
        let keys = world.get("east").peering().tunnel(&domain("west")).send;
        for _ in 0..3 {
            let packet = seal(world.snapshot("east"));
            let header = Header::parse(&packet).unwrap();
            let key = keys.iter().find(|key| key.spi == header.spi).unwrap();
            count += 1;
            let pair = (key.secret.expose().to_vec(), header.nonce());
            assert!(seen.insert(pair), "{header:?}");
        }
        world.restart(if life % 2 == 0 { "east" } else { "west" });
    }
    assert_eq!((seen.len(), count), (600, 600));
}
