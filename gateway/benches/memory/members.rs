//! The peers, in a process of their own: each with its certificate, its address, its policies and its session.

use std::{
    io::Write,
    net::SocketAddr,
    time::{Duration, Instant},
};

use handshake::admission::{CredentialId, Target};
use peering::peers::{Peering, PeeringConfig};
use quic::{Anchor, Arrival, Endpoint, Limits, Pin, Protocol, Session};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use tokio::sync::mpsc;

use super::world::{self, PEERS, REVOKED, clock, domain, name};
use crate::common::{Cluster, cluster};

/// In the environment: the pin of the gateway whose peers this process is.
pub const OF: &str = "LANDBRIDGE_BENCH_MEMBERS_OF";

/// Until the gateway's process ends it.
pub async fn run(pin: &str) {
    let begun = Instant::now();
    let pin: [u8; 32] = hex::decode(pin).unwrap().try_into().unwrap();
    for number in 0..PEERS {
        let own = cluster(&name(number));
        own.trust.set(domain("east"), Anchor::Pinned(Pin(pin)));
        let host = [127, 1 + (number / 250) as u8, (number % 250) as u8, 1];
        let address = SocketAddr::from((host, 0));
        let (identity, trust) = (own.identity.clone(), own.trust.clone());
        let (endpoint, arrivals) = Endpoint::bind(
            address,
            identity,
            trust,
            &[Protocol::Peer],
            Limits::default(),
        )
        .unwrap();
        let at = endpoint.local_address().unwrap();
        println!("{} {at}", hex::encode(own.root.pin().0));
        tokio::spawn(member(number, own, pin, begun, endpoint, arrivals));
    }
    std::io::stdout().flush().unwrap();
    std::future::pending::<()>().await;
}

async fn member(
    number: usize,
    own: Cluster,
    pin: [u8; 32],
    begun: Instant,
    _endpoint: Endpoint,
    mut arrivals: mpsc::Receiver<Arrival>,
) {
    let mut peering = machine(number, &own, pin, begun);
    let Some(Arrival::Session(session)) = arrivals.recv().await else {
        panic!("the gateway does not come to {number}");
    };
    let Session {
        info,
        sender,
        mut receiver,
    } = session;
    let east = domain("east");
    peering.handle_connected(&east, info.remote, clock(begun));
    loop {
        while let Some((key, _)) = peering.poll_persist() {
            peering.handle_persisted(&key);
        }
        while peering.poll_event().is_some() {}
        while let Some((to, ..)) = peering.poll_records() {
            assert!(peering.handle_own_records(&to, &[], 0).is_none());
        }
        while let Some((_, message)) = peering.poll_transmit() {
            sender.try_send(message).unwrap();
        }
        let due = peering.poll_timeout();
        let due = due.map_or(Duration::from_secs(9), |at| at.since(clock(begun).mono));
        tokio::select! {
            frame = receiver.recv() => match frame {
                Some(frame) => peering.handle_message(&east, &frame, clock(begun)),
                None => return,
            },
            () = tokio::time::sleep(due) => {}
        }
        peering.handle_timeout(clock(begun));
    }
}

fn machine(number: usize, own: &Cluster, pin: [u8; 32], begun: Instant) -> Peering {
    let now = clock(begun);
    let mut seed = [3; 32];
    seed[..8].copy_from_slice(&(number as u64).to_be_bytes());
    let rng = Box::new(ChaCha20Rng::from_seed(seed));
    let config = PeeringConfig::new(own.domain.clone());
    let mut peering = Peering::new(config, world::key(), [], rng, now).unwrap();
    peering.set_own_keys(world::keys(own), now);
    let east = world::peer("east", pin);
    peering.set_peers(vec![east], now).unwrap();
    peering.set_own_ranges(vec![world::range(number)], now);
    let hash = [number as u8; 32];
    let policies = policy::compile(&world::policies(&name(number))).unwrap();
    peering.set_policy(hash, &policies.digest_part(), now);
    peering.set_enforcing(hash, now);
    for number in 0..REVOKED {
        let target = Target::Credential(CredentialId([number; 16]));
        peering
            .revoke(&own.domain, target, "its node was taken over", now)
            .unwrap();
    }
    peering
}
