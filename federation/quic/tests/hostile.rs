//! What a peer may not do, tried by a client of another make.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;
#[path = "common/raw.rs"]
mod raw;

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use common::{HOUR, now, pair, peer, refusal, session};
use landbridge_quic as quic;
use quic::{Limits, Protocol, SessionError, Svid, VerifyError, agent_id, gateway_id};
use quinn::VarInt;

fn east_svid(east: &common::Cluster) -> Svid {
    let id = gateway_id(&east.domain, "gw1").unwrap();
    east.root.issue(&id, now(), HOUR).unwrap()
}

#[tokio::test]
async fn no_client_certificate_is_refused_by_tls() {
    let (_, west) = pair();
    let (server, mut arrivals) = west.bind(&[Protocol::Peer]);
    let address = server.local_address().unwrap();
    // A client's own handshake ends before the server saw what it lacks.
    if let Ok((_endpoint, connection)) = raw::connect(None, Protocol::Peer, address).await {
        let said = raw::last_words(&connection).await;
        assert!(said.contains("peer sent no certificates"), "{said}");
    }
    assert_eq!(
        refusal(&mut arrivals).await,
        SessionError::Untrusted(VerifyError::NoCertificate)
    );
}

#[tokio::test]
async fn where_nodes_enrol_a_session_still_needs_a_certificate() {
    let (_, west) = pair();
    let (server, mut arrivals) = west.bind(&[Protocol::Node, Protocol::Enrol]);
    let address = server.local_address().unwrap();
    let (_endpoint, connection) = raw::connect(None, Protocol::Node, address).await.unwrap();
    assert_eq!(
        raw::last_words(&connection).await,
        "not trusted: no certificate was sent"
    );
    assert_eq!(
        refusal(&mut arrivals).await,
        SessionError::Untrusted(VerifyError::NoCertificate)
    );
}

#[tokio::test]
async fn an_oversized_frame_ends_the_session_before_it_is_read() {
    let (east, west) = pair();
    let (server, mut arrivals) = west.bind(&[Protocol::Peer]);
    let address = server.local_address().unwrap();
    for announced in [quic::MAX_FRAME as u32 + 1, u32::MAX] {
        let (_endpoint, connection) =
            raw::connect(Some(&east_svid(&east)), Protocol::Peer, address)
                .await
                .unwrap();
        let (mut send, _receive) = raw::stream(&connection).await;
        let mut accepted = session(&mut arrivals).await;
        send.write_all(b"\0\0\0\x02ok").await.unwrap();
        send.write_all(&announced.to_be_bytes()).await.unwrap();
        assert_eq!(accepted.receiver.recv().await.as_deref(), Some(&b"ok"[..]));
        assert_eq!(accepted.receiver.recv().await, None);
        assert_eq!(
            accepted.receiver.end(),
            SessionError::FrameTooLarge(announced)
        );
        assert_eq!(
            raw::last_words(&connection).await,
            format!("a frame of {announced} bytes, at most 1048576 are allowed")
        );
    }
}

#[tokio::test]
async fn an_empty_frame_and_a_cut_stream_end_the_session() {
    let (east, west) = pair();
    let (server, mut arrivals) = west.bind(&[Protocol::Peer]);
    let address = server.local_address().unwrap();
    for (bytes, said) in [
        (
            &[0; 4][..],
            "the other end broke the protocol: an empty frame",
        ),
        (
            b"\0\0\0\x09only".as_slice(),
            "the other end broke the protocol: the stream was cut",
        ),
    ] {
        let (_endpoint, connection) =
            raw::connect(Some(&east_svid(&east)), Protocol::Peer, address)
                .await
                .unwrap();
        let (mut send, _receive) = raw::stream(&connection).await;
        let mut accepted = session(&mut arrivals).await;
        send.write_all(bytes).await.unwrap();
        send.finish().unwrap();
        assert_eq!(accepted.receiver.recv().await, None);
        assert_eq!(accepted.receiver.end().to_string(), said);
    }
}

#[tokio::test]
async fn another_prelude_and_a_second_stream_are_refused() {
    let (east, west) = pair();
    let (server, mut arrivals) = west.bind(&[Protocol::Peer]);
    let address = server.local_address().unwrap();
    let svid = east_svid(&east);
    let (_endpoint, connection) = raw::connect(Some(&svid), Protocol::Peer, address)
        .await
        .unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(b"GET / HTTP/1.1\r\nHost: gw").await.unwrap();
    assert_eq!(
        refusal(&mut arrivals).await,
        SessionError::Protocol("the stream begins otherwise")
    );

    let (_endpoint, connection) = raw::connect(Some(&svid), Protocol::Peer, address)
        .await
        .unwrap();
    let _stream = raw::stream(&connection).await;
    let _accepted = session(&mut arrivals).await;
    // The transport grants one stream of one kind: neither of these is ever opened.
    let more = Duration::from_millis(200);
    assert!(
        tokio::time::timeout(more, connection.open_bi())
            .await
            .is_err()
    );
    assert!(
        tokio::time::timeout(more, connection.open_uni())
            .await
            .is_err()
    );
    assert!(connection.max_datagram_size().is_none());
}

#[tokio::test]
async fn early_data_and_resumption_are_off() {
    let (east, west) = pair();
    let (server, mut arrivals) = west.bind(&[Protocol::Peer]);
    let address = server.local_address().unwrap();
    let config = raw::config(Some(&east_svid(&east)), Protocol::Peer, true);
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    for _ in 0..2 {
        // Without a ticket there is no early data to send, the second time neither.
        let connecting = endpoint
            .connect_with(config.clone(), address, "a.invalid")
            .unwrap();
        let connecting = connecting.into_0rtt().err().expect("no 0-RTT");
        let connection = connecting.await.unwrap();
        let _stream = raw::stream(&connection).await;
        let accepted = session(&mut arrivals).await;
        assert_eq!(accepted.info.peer.id.trust_domain(), &east.domain);
        connection.close(VarInt::from_u32(0), b"");
    }
}

#[tokio::test]
async fn a_client_that_changes_its_port_loses_its_session() {
    let (east, west) = pair();
    let limits = Limits {
        idle_timeout: Duration::from_secs(1),
        keep_alive: Duration::from_millis(300),
        ..Limits::default()
    };
    let (server, mut arrivals) = west.bind_with(&[Protocol::Peer], limits);
    let address = server.local_address().unwrap();
    let (endpoint, connection) = raw::connect(Some(&east_svid(&east)), Protocol::Peer, address)
        .await
        .unwrap();
    let (mut send, _receive) = raw::stream(&connection).await;
    let mut accepted = session(&mut arrivals).await;
    endpoint
        .rebind(std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
        .unwrap();
    send.write_all(b"\0\0\0\x05moved").await.unwrap();
    assert_eq!(accepted.receiver.recv().await, None);
    assert_eq!(
        accepted.receiver.end(),
        SessionError::Lost("nothing was heard of the other end")
    );
}

#[tokio::test]
async fn a_peer_that_does_not_read_fills_a_bounded_queue() {
    let (east, west) = pair();
    let (server, mut arrivals) = west.bind(&[Protocol::Peer]);
    let (client, _) = east.bind(&[]);
    let dialled = client.dial(&peer(&server, "west")).await.unwrap();
    let _deaf = session(&mut arrivals).await;
    let mut queued = 0;
    let error = loop {
        match dialled.sender.try_send(vec![0; 1 << 20]) {
            Ok(()) => queued += 1,
            Err(e) => break e,
        }
        assert!(queued < 64, "more than 64 MiB are queued");
        tokio::task::yield_now().await;
    };
    assert_eq!(error, SessionError::TooSlow);
    // 4 MiB here, and what the flow control of the stream and the reader's own queue let through.
    assert!((4..=12).contains(&queued), "{queued}");
    assert!(matches!(
        dialled.sender.try_send(vec![0; quic::MAX_FRAME + 1]),
        Err(SessionError::Local(_))
    ));
}

#[tokio::test]
async fn what_is_queued_is_sent_before_a_session_ends() {
    let (east, west) = pair();
    let (server, mut arrivals) = west.bind(&[Protocol::Peer]);
    let (client, _) = east.bind(&[]);
    let dialled = client.dial(&peer(&server, "west")).await.unwrap();
    let mut accepted = session(&mut arrivals).await;
    for i in 0..50u8 {
        dialled.sender.send(vec![i; 10_000]).await.unwrap();
    }
    let (sender, mut receiver) = (dialled.sender, dialled.receiver);
    drop(sender);
    for i in 0..50u8 {
        assert_eq!(accepted.receiver.recv().await, Some(vec![i; 10_000]));
    }
    assert_eq!(accepted.receiver.recv().await, None);
    assert_eq!(receiver.recv().await, None);
}

#[tokio::test]
async fn sessions_are_bounded_in_number() {
    let (east, west) = pair();
    let limits = Limits {
        sessions: 2,
        ..Limits::default()
    };
    let (server, mut arrivals) = west.bind_with(&[Protocol::Peer], limits);
    let (client, _) = east.bind(&[]);
    let mut held = BTreeMap::new();
    for i in 0..2 {
        let dialled = client.dial(&peer(&server, "west")).await.unwrap();
        held.insert(i, (dialled, session(&mut arrivals).await));
    }
    let error = client.dial(&peer(&server, "west")).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        "refused by the other end: too many sessions"
    );
    assert_eq!(
        refusal(&mut arrivals).await.to_string(),
        "too many sessions"
    );
    // One that ends makes room.
    let (_, mut there) = held.remove(&0).unwrap();
    assert_eq!(there.receiver.recv().await, None);
    let mut attempts = 0;
    while client.dial(&peer(&server, "west")).await.is_err() {
        attempts += 1;
        assert!(
            attempts < 100,
            "the place of an ended session is not given back"
        );
    }
    assert!(server.counters().arrived.load(Ordering::Relaxed) >= 3);
}

#[tokio::test]
async fn a_pods_identity_opens_no_session() {
    let (east, west) = pair();
    let (server, mut arrivals) = west.bind(&[Protocol::Peer]);
    let pod = identity::SpiffeId::workload(&east.domain, "shop", "frontend").unwrap();
    for id in [pod, agent_id(&east.domain, "node1").unwrap()] {
        let svid = east.root.issue(&id, now(), HOUR).unwrap();
        let address = server.local_address().unwrap();
        let (_endpoint, connection) = raw::connect(Some(&svid), Protocol::Peer, address)
            .await
            .unwrap();
        let said = raw::last_words(&connection).await;
        assert!(said.contains("may not speak landbridge-peer/1"), "{said}");
        assert!(matches!(
            refusal(&mut arrivals).await,
            SessionError::NotPermitted { .. }
        ));
    }
}
