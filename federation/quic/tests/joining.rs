//! A cluster that is not known asks to join: the server is pinned, and both ends agree on what binds.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::cluster;
use landbridge_quic as quic;
use quic::{Arrival, Limits, Pin, Protocol, SessionError, VerifyError, ask_to_join};

#[tokio::test]
async fn both_ends_agree_on_what_binds_to_the_connection() {
    let east = cluster("east");
    let (endpoint, mut arrivals) = east.bind(&[Protocol::Peer, Protocol::Join]);
    let address = endpoint.local_address().unwrap();
    let server = tokio::spawn(async move {
        let Some(Arrival::Joining(joining)) = arrivals.recv().await else {
            panic!("nobody joins")
        };
        let binding = *joining.binding();
        let said = joining.request().to_vec();
        joining.answer(b"welcome".to_vec()).await;
        (binding, said)
    });
    let (domain, pin) = (east.domain.clone(), east.root.pin());
    let limits = Limits::default();
    let asked = ask_to_join(address, &domain, pin, &limits, |binding| binding.to_vec());
    let (answer, binding) = asked.await.unwrap();
    let (theirs, said) = server.await.unwrap();
    assert_eq!(answer, b"welcome");
    assert_eq!((theirs, said), (binding, binding.to_vec()));
    assert_ne!(binding, [0; 32]);
}

/// Who answers must have the root that the token names: nothing is said to anybody else.
#[tokio::test]
async fn another_cluster_hears_nothing_of_the_token() {
    let mallory = cluster("east");
    let (endpoint, _arrivals) = mallory.bind(&[Protocol::Join]);
    let address = endpoint.local_address().unwrap();
    let pin = Pin([7; 32]);
    let limits = Limits::default();
    let asked = ask_to_join(address, &mallory.domain, pin, &limits, |_| {
        panic!("the request is made for nobody")
    });
    let refused = asked.await.unwrap_err();
    assert!(
        matches!(
            &refused,
            SessionError::Untrusted(VerifyError::PinMismatch { .. })
        ),
        "{refused}"
    );
}
