//! A gateway's flow that is being opened while what decides it changes.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use handshake::{
    credentials::PodState,
    transit::{Origin, Passed, Transit, TransitSnapshot},
};
use policy::{DropReason, model::PolicySet};
use support::{API, Conn, FRONTEND, at, domain, into, node, out, through, transit};

/// A connection from east to west, as far as west's gateway has seen it.
struct Opening {
    west: Transit,
    snapshot: TransitSnapshot,
    conn: Conn,
    /// From east's gateway.
    syn: Vec<u8>,
    /// The client's first data, from east's gateway.
    data: Vec<u8>,
}

impl Opening {
    /// The answer passed; the client's ACK is on its way.
    fn new() -> Self {
        let (mut a, mut b) = (node(support::east(false), 1), node(support::west(false), 2));
        let (mut east, mut west) = (transit(), transit());
        let (sa, snapshot) = (
            support::transit_snapshot("east"),
            support::transit_snapshot("west"),
        );
        let conn = Conn::new(FRONTEND, API);
        let syn = out(&mut a, &conn.syn(), at(0));
        let syn = through(&mut east, Origin::Own, &syn, &sa, at(0)).unwrap();
        let arrived = through(&mut west, from_east(), &syn, &snapshot, at(0)).unwrap();
        into(&mut b, &arrived, at(0));
        let syn_ack = out(&mut b, &conn.syn_ack(), at(1));
        let syn_ack = through(&mut west, Origin::Own, &syn_ack, &snapshot, at(1)).unwrap();
        let peer = domain("west");
        let syn_ack = through(&mut east, Origin::Peer(&peer), &syn_ack, &sa, at(1)).unwrap();
        into(&mut a, &syn_ack, at(1));
        let data = out(&mut a, &conn.request(b"x"), at(2));
        Self {
            west,
            snapshot,
            conn,
            syn,
            data,
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut TransitSnapshot)) {
        self.snapshot.epoch += 1;
        change(&mut self.snapshot);
    }

    fn arrives(&mut self, packet: &[u8]) -> Result<Passed, DropReason> {
        let passed = self
            .west
            .handle_packet(from_east(), packet, &self.snapshot, at(3));
        passed.map_err(|refused| refused.reason)
    }

    fn answer(&mut self) -> Result<Passed, DropReason> {
        let packet = self.conn.response(b"y");
        let passed = self
            .west
            .handle_packet(Origin::Own, &packet, &self.snapshot, at(3));
        passed.map_err(|refused| refused.reason)
    }
}

fn from_east() -> Origin<'static> {
    static EAST: std::sync::OnceLock<identity::TrustDomain> = std::sync::OnceLock::new();
    Origin::Peer(EAST.get_or_init(|| domain("east")))
}

fn nothing() -> PolicySet {
    PolicySet {
        cluster: domain("west"),
        policies: Vec::new(),
    }
}

#[test]
fn it_goes_on_when_it_is_still_allowed() {
    let mut opening = Opening::new();
    opening.change(|_| {});
    let (syn, data) = (opening.syn.clone(), opening.data.clone());
    assert!(matches!(opening.arrives(&syn), Ok(Passed::Rewrite(_))));
    assert!(matches!(opening.arrives(&data), Ok(Passed::Forward)));
    assert!(matches!(opening.answer(), Ok(Passed::Established(_))));
}

#[test]
fn a_changed_policy_ends_it_at_its_next_packet_whatever_that_is() {
    type Packet = fn(&mut Opening) -> Result<Passed, DropReason>;
    let packets: [Packet; 3] = [
        |opening| opening.arrives(&opening.syn.clone()),
        |opening| opening.arrives(&opening.data.clone()),
        Opening::answer,
    ];
    for packet in packets {
        let mut opening = Opening::new();
        let policy = policy::compile(&nothing()).unwrap();
        opening.change(|snapshot| snapshot.policy = policy.into());
        let refused = packet(&mut opening).unwrap_err();
        assert_eq!(refused, DropReason::DeniedByDefault);
        assert_eq!(opening.west.half_open(), 0);
        assert_eq!(opening.answer().unwrap_err(), DropReason::UnknownFlow);
    }
}

#[test]
fn a_pod_that_is_gone_or_another_ends_it() {
    for (cluster, pod) in [("east", "frontend"), ("west", "api")] {
        let mut opening = Opening::new();
        let uid = support::claims(cluster, pod, &support::secret(cluster)).pod_uid;
        opening.change(|snapshot| {
            snapshot.admission = support::changed(cluster, &uid, PodState::Gone);
        });
        assert_eq!(opening.answer().unwrap_err(), DropReason::Revoked);
    }
    let mut opening = Opening::new();
    let mut other = support::claims("east", "batch", &support::secret("east"));
    other.pod_uid = "uid-east-frontend".into();
    other.generation = 2;
    opening.change(|snapshot| {
        let newer = PodState::Relabelled(other.clone().into());
        snapshot.admission = support::changed("east", &other.pod_uid, newer);
    });
    assert_eq!(opening.answer().unwrap_err(), DropReason::DeniedByRule);
}
