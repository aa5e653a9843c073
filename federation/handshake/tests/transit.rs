//! What a gateway judges again, because it changed while a connection opened.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use handshake::{
    admission::Target,
    credentials::PodState,
    transit::{Origin, Passed, TransitSnapshot},
};
use policy::DropReason;
use support::*;

/// Opens a connection through west's gateway up to the server's first segment, while `change`
/// happens before the SYN-ACK or after it.
fn opened_while(
    change: impl FnOnce(&mut TransitSnapshot),
    before_answer: bool,
) -> Result<Passed, DropReason> {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let (mut gateway, mut snapshot) = (transit(), transit_snapshot("west"));
    let east = domain("east");
    let conn = Conn::new(FRONTEND, API);
    let mut change = Some(change);
    let mut changes = |snapshot: &mut TransitSnapshot| {
        snapshot.epoch = 2;
        change.take().unwrap()(snapshot);
    };
    let syn = out(&mut a, &conn.syn(), at(0));
    let syn = through(&mut gateway, Origin::Peer(&east), &syn, &snapshot, at(1)).unwrap();
    into(&mut b, &syn, at(2));
    let syn_ack = out(&mut b, &conn.syn_ack(), at(3));
    if before_answer {
        changes(&mut snapshot);
    }
    through(&mut gateway, Origin::Own, &syn_ack, &snapshot, at(4)).map_err(|r| r.reason)?;
    if !before_answer {
        changes(&mut snapshot);
    }
    let response = conn.response(b"x");
    let passed = gateway.handle_packet(Origin::Own, &response, &snapshot, at(5));
    passed.map_err(|refused| refused.reason)
}

#[test]
fn a_flow_is_established_by_what_holds_when_its_server_speaks() {
    assert!(matches!(
        opened_while(|_| {}, false),
        Ok(Passed::Established(_))
    ));
    for before_answer in [true, false] {
        let closed = |snapshot: &mut TransitSnapshot| {
            let mut set = policies("west", false);
            std::sync::Arc::make_mut(&mut set.policies[0]).rules.clear();
            snapshot.policy = policy::compile(&set).unwrap().into();
        };
        let refused = opened_while(closed, before_answer).unwrap_err();
        assert_eq!(refused, DropReason::DeniedByDefault);
        let gone = |snapshot: &mut TransitSnapshot| {
            snapshot.admission = changed("east", "uid-east-frontend", PodState::Gone);
        };
        let refused = opened_while(gone, before_answer).unwrap_err();
        assert_eq!(refused, DropReason::Revoked);
        let relabelled = |snapshot: &mut TransitSnapshot| {
            let mut claims = claims("east", "batch", &secret("east"));
            claims.generation = 2;
            let state = PodState::Relabelled(Arc::new(claims));
            snapshot.admission = changed("east", "uid-east-frontend", state);
        };
        let revoked = |snapshot: &mut TransitSnapshot| {
            snapshot.admission = revoking("east", Target::Cluster);
        };
        let refused = opened_while(revoked, before_answer).unwrap_err();
        assert_eq!(refused, DropReason::Revoked);
        let refused = opened_while(relabelled, before_answer).unwrap_err();
        assert_eq!(refused, DropReason::DeniedByRule);
    }
}
