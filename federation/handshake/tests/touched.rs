//! What a new snapshot changes for flows that nobody remembers the beginning of.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use handshake::node::{NodeSnapshot, Touched};
use identity::BundleStore;
use support::{API, DB, FRONTEND, policies, west};

fn touched(change: impl FnOnce(&mut NodeSnapshot)) -> Touched {
    let mut next = west(false);
    change(&mut next);
    west(false).touched_by(&next)
}

fn relabel(next: &mut NodeSnapshot) {
    let pod = next.pods.get_mut(&API).unwrap();
    let identity = pod.identity.as_mut().unwrap();
    Arc::make_mut(&mut identity.claims).generation += 1;
}

#[test]
fn a_renewed_credential_or_another_key_touches_nothing() {
    assert_eq!(touched(|next| next.epoch += 1), Touched::Nothing);
    let renewed = touched(|next| next.segment_keys = support::segment_keys("north"));
    assert_eq!(renewed, Touched::Nothing);
}

#[test]
fn a_pod_that_is_relabelled_replaced_gone_or_without_identity_is_touched_alone() {
    let api = Touched::Pods([API].into());
    assert_eq!(touched(relabel), api);
    assert_eq!(touched(|next| drop(next.pods.remove(&API))), api);
    let rename = |next: &mut NodeSnapshot| next.pods.get_mut(&API).unwrap().uid = "new".into();
    assert_eq!(touched(rename), api);
    let withdraw = |next: &mut NodeSnapshot| next.pods.get_mut(&API).unwrap().identity = None;
    assert_eq!(touched(withdraw), api);
    let conn = support::Conn::new(FRONTEND, API);
    let key = wire::flow::FlowKey {
        protocol: wire::ip::TCP,
        src: FRONTEND,
        dst: API,
        sport: conn.cport,
        dport: 80,
    };
    assert!(api.touches(&key) && api.touches(&key.reversed()));
    assert!(!Touched::Pods([DB].into()).touches(&key));
}

#[test]
fn a_first_credential_touches_nothing() {
    let mut before = west(false);
    before.pods.get_mut(&API).unwrap().identity = None;
    assert_eq!(before.touched_by(&west(false)), Touched::Nothing);
}

#[test]
fn an_address_that_is_protected_no_more_is_touched() {
    let open = touched(|next| next.unprotected.extend([DB]));
    assert_eq!(open, Touched::Pods([DB].into()));
}

#[test]
fn another_policy_or_a_cluster_that_left_touches_everything() {
    let policy = policy::compile(&policies("west", true)).unwrap();
    assert_eq!(touched(|next| next.policy = policy.into()), Touched::All);
    let same = policy::compile(&policies("west", false)).unwrap();
    assert_eq!(touched(|next| next.policy = same.into()), Touched::Nothing);
    assert_eq!(
        touched(|next| next.bundles = BundleStore::default()),
        Touched::All
    );
}
