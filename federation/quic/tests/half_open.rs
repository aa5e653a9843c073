//! Handshakes that are begun and never finished: bounded, and no hindrance to others.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;
#[path = "common/raw.rs"]
mod raw;

use std::{
    net::{SocketAddr, UdpSocket},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use common::{pair, peer, refusal, session};
use landbridge_quic as quic;
use quic::{Limits, Protocol, SessionError};

/// First datagrams of as many handshakes: each holds the begin of a ClientHello and no more.
async fn initials(count: usize) -> Vec<Vec<u8>> {
    let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
    sink.set_nonblocking(true).unwrap();
    let sink = tokio::net::UdpSocket::from_std(sink).unwrap();
    let config = raw::config(None, Protocol::Peer, false);
    let mut datagrams = Vec::new();
    for _ in 0..count {
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let to = sink.local_addr().unwrap();
        let connecting = endpoint.connect_with(config.clone(), to, "a.invalid");
        let waiting = tokio::spawn(connecting.unwrap());
        let from = endpoint.local_addr().unwrap();
        let mut datagram = vec![0; 2000];
        let length = loop {
            // Those before may still retransmit.
            let (length, sender) = sink.recv_from(&mut datagram).await.unwrap();
            if sender == from {
                break length;
            }
        };
        waiting.abort();
        datagram.truncate(length);
        datagrams.push(datagram);
    }
    datagrams
}

/// Sends each from a port of its own at `source`; the sockets stay, so that nothing bounces.
fn flood(initials: &[Vec<u8>], source: &str, server: SocketAddr) -> Vec<UdpSocket> {
    initials
        .iter()
        .map(|datagram| {
            let socket = UdpSocket::bind((source, 0)).unwrap();
            socket.send_to(datagram, server).unwrap();
            socket
        })
        .collect()
}

fn limits(handshakes: usize, retry_above: usize, per_source: usize) -> Limits {
    Limits {
        handshakes,
        retry_above,
        per_source,
        handshake_timeout: Duration::from_secs(2),
        ..Limits::default()
    }
}

/// Waits until the endpoint dealt with `count` first packets.
async fn settled(server: &quic::Endpoint, count: u64) -> (u64, u64, u64) {
    let since = Instant::now();
    loop {
        let counters = server.counters();
        let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (begun, retried) = (of(&counters.begun), of(&counters.retried));
        let turned_away = of(&counters.turned_away);
        if begun + retried + turned_away >= count {
            return (begun, retried, turned_away);
        }
        // Polled, since nobody tells; the end of patience is a failure.
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(since.elapsed() < Duration::from_secs(5), "{counters:?}");
    }
}

#[tokio::test]
async fn under_load_an_address_must_answer_a_retry_and_who_does_gets_in() {
    let (east, west) = pair();
    let (server, mut arrivals) = west.bind_with(&[Protocol::Peer], limits(16, 4, 16));
    let (client, _) = east.bind(&[]);
    let initials = initials(40).await;
    let address = server.local_address().unwrap();
    let _ghosts = flood(&initials, "127.0.0.9", address);
    assert_eq!(
        settled(&server, 40).await,
        (4, 36, 0),
        "begun, retried, turned away"
    );

    // While the ghosts hold what they got, an honest client is asked to retry, and gets in.
    let dialled = client.dial(&peer(&server, "west")).await;
    assert!(dialled.is_ok(), "{dialled:?}");
    let _session = session(&mut arrivals).await;
    let (begun, retried, turned_away) = settled(&server, 0).await;
    assert_eq!((begun, turned_away), (5, 0));
    assert!(retried >= 37, "{retried}");
    for _ in 0..4 {
        assert_eq!(refusal(&mut arrivals).await, SessionError::Timeout(2));
    }
}

#[tokio::test]
async fn one_source_may_hold_a_few_handshakes_and_others_are_not_affected() {
    let (east, west) = pair();
    let (server, mut arrivals) = west.bind_with(&[Protocol::Peer], limits(64, 64, 5));
    let (client, _) = east.bind(&[]);
    let initials = initials(40).await;
    let _ghosts = flood(&initials, "127.0.0.9", server.local_address().unwrap());
    assert_eq!(
        settled(&server, 40).await,
        (5, 0, 35),
        "begun, retried, turned away"
    );
    let dialled = client.dial(&peer(&server, "west")).await;
    assert!(dialled.is_ok(), "{dialled:?}");
    let _session = session(&mut arrivals).await;
}

#[tokio::test]
async fn all_places_taken_is_said_and_they_are_given_back_in_time() {
    let (east, west) = pair();
    let (server, mut arrivals) = west.bind_with(&[Protocol::Peer], limits(8, 64, 64));
    let (client, _) = east.bind(&[]);
    let initials = initials(20).await;
    let _ghosts = flood(&initials, "127.0.0.9", server.local_address().unwrap());
    assert_eq!(
        settled(&server, 20).await,
        (8, 0, 12),
        "begun, retried, turned away"
    );
    let error = client.dial(&peer(&server, "west")).await.err().unwrap();
    assert!(
        error.to_string().contains("CONNECTION_REFUSED") || error.to_string().contains("refused"),
        "{error}"
    );
    for _ in 0..8 {
        assert_eq!(refusal(&mut arrivals).await, SessionError::Timeout(2));
    }
    let dialled = client.dial(&peer(&server, "west")).await;
    assert!(dialled.is_ok(), "{dialled:?}");
    let _session = session(&mut arrivals).await;
}
