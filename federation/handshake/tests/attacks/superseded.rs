//! What becomes of a pod that is no longer what its credential says?

use std::sync::Arc;

use handshake::credentials::{PodState, PodStates};
use policy::DropReason;

use super::*;

#[test]
fn row_24_a_new_pod_on_an_old_address_is_judged_as_itself() {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let conn = Conn::new(FRONTEND, API);
    let syn = out(&mut a, &conn.syn(), at(0));
    assert!(open_with(&mut a, &mut b, &conn, &syn, |p| p));
    // The frontend is deleted, and batch gets its address.
    let mut next = east(false);
    next.epoch = 2;
    next.pods.insert(FRONTEND, local_pod("east", "batch"));
    a.set_snapshot(Arc::new(next), at(20));
    assert_eq!(a.flows().count(), 0, "the old pod's flow is cut with it");
    let conn = Conn {
        cport: 40_001,
        ..conn
    };
    let syn = out(&mut a, &conn.syn(), at(21));
    assert_eq!(dropped(to_pod(&mut b, &syn, 22)), DropReason::DeniedByRule);
}

#[test]
fn a_relabelled_or_deleted_peer_is_decided_by_what_it_is_now() {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let conn = Conn::new(FRONTEND, API);
    let syn = out(&mut a, &conn.syn(), at(0));
    assert!(open_with(&mut a, &mut b, &conn, &syn, |p| p));
    for (uid, state, reason) in [
        (
            "uid-east-frontend",
            PodState::Relabelled(Arc::new({
                let mut claims = claims("east", "batch", &secret("east"));
                claims.generation = 2;
                claims
            })),
            DropReason::DeniedByRule,
        ),
        ("uid-east-frontend", PodState::Gone, DropReason::Revoked),
    ] {
        let mut b = {
            let mut fresh = node(west(false), 4);
            fresh
                .restore_flow(b.flows().next().unwrap().clone())
                .unwrap();
            fresh
        };
        let mut next = west(false);
        next.epoch = 2;
        next.admission = changed("east", uid, state);
        b.set_snapshot(Arc::new(next), at(30));
        assert_eq!(b.flows().count(), 0);
        let again = Conn {
            cport: 41_000,
            ..conn.clone()
        };
        let syn = out(&mut a, &again.syn(), at(31));
        assert_eq!(dropped(to_pod(&mut b, &syn, 32)), reason);
    }
}

/// Records come over several ways and in any order: an old one must not undo a newer one.
#[test]
fn row_24_a_record_that_comes_late_undoes_nothing() {
    let relabelled = |generation, label: &str| {
        let mut claims = claims("east", label, &secret("east"));
        claims.pod_uid = "uid".into();
        claims.generation = generation;
        PodState::Relabelled(Arc::new(claims))
    };
    let mut credential = claims("east", "frontend", &secret("east"));
    credential.pod_uid = "uid".into();
    let credential = Arc::new(credential);
    let mut states = PodStates::default();
    let mut hears = |state| {
        states.insert(domain("east"), "uid".into(), state);
        let newest = states.newest(&credential);
        newest.map(|claims| claims.pod.clone())
    };
    assert_eq!(hears(relabelled(3, "batch")).as_deref(), Some("batch"));
    assert_eq!(hears(relabelled(2, "frontend")).as_deref(), Some("batch"));
    assert_eq!(hears(relabelled(4, "db")).as_deref(), Some("db"));
    assert_eq!(hears(PodState::Gone), None);
    // A folder's UID is made of the name: the pod can come back, by a record of a higher sequence.
    let back = hears(relabelled(5, "frontend"));
    assert_eq!(back.as_deref(), Some("frontend"));
}

/// A connection that is being opened to a pod, or by it, is over when another pod has its address:
/// what was proven was proven of the old one.
#[test]
fn row_24_a_connection_that_opens_ends_with_its_pod() {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let conn = Conn::new(FRONTEND, API);
    let syn = out(&mut a, &conn.syn(), at(0));
    into(&mut b, &syn, at(1));
    let syn_ack = out(&mut b, &conn.syn_ack(), at(2));
    let other = |cluster, pod| {
        let mut pod = local_pod(cluster, pod);
        pod.uid = "uid-of-another".into();
        pod
    };
    // The same labels and credential, so that nothing but the UID tells them apart.
    let mut next = west(false);
    next.epoch = 2;
    next.pods.insert(API, other("west", "api"));
    b.set_snapshot(Arc::new(next), at(3));
    into(&mut a, &syn_ack, at(4));
    let ack = out(&mut a, &conn.ack(), at(5));
    assert_eq!(dropped(to_pod(&mut b, &ack, 6)), DropReason::UnknownFlow);

    let mut next = east(false);
    next.epoch = 2;
    next.pods.insert(FRONTEND, other("east", "frontend"));
    a.set_snapshot(Arc::new(next), at(7));
    assert_eq!(a.half_open(), (0, 0));
}
