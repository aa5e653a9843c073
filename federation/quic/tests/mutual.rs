//! Who may have a session: real quinn on loopback, and what both ends say when it is refused.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use common::{HOUR, both_errors, cluster, domain, now, pair, peer, refusal, session};
use landbridge_quic as quic;
use quic::{
    Anchor, Identity, Pin, Protocol, SessionError, Svid, Target, VerifyError, agent_id, gateway_id,
};
use tokio::sync::Notify;

#[tokio::test]
async fn two_gateways_prove_themselves_and_exchange_frames() {
    let (east, west) = pair();
    let (server, mut arrivals) = west.bind(&[Protocol::Peer]);
    let (client, _) = east.bind(&[Protocol::Peer]);
    let mut dialled = client.dial(&peer(&server, "west")).await.unwrap();
    let mut accepted = session(&mut arrivals).await;

    assert_eq!(
        dialled.info.peer.id.to_string(),
        "spiffe://west/landbridge/gateway/gw1"
    );
    assert_eq!(
        accepted.info.peer.id.to_string(),
        "spiffe://east/landbridge/gateway/gw1"
    );
    assert_eq!(accepted.info.peer.root, east.root.pin());
    assert_eq!(accepted.info.instance, client.instance());
    assert_eq!(dialled.info.instance, server.instance());
    assert!(dialled.info.dialled && !accepted.info.dialled);
    assert_eq!(accepted.info.remote, client.local_address().unwrap());

    for length in [1, 1000, 300_000, quic::MAX_FRAME] {
        let frame: Vec<u8> = (0..length).map(|i| i as u8).collect();
        dialled.sender.send(frame.clone()).await.unwrap();
        assert_eq!(accepted.receiver.recv().await.as_ref(), Some(&frame));
        accepted.sender.send(frame.clone()).await.unwrap();
        assert_eq!(dialled.receiver.recv().await, Some(frame));
    }
    dialled.sender.close("that is all");
    assert_eq!(accepted.receiver.recv().await, None);
    assert_eq!(
        accepted.receiver.end(),
        SessionError::Ended("that is all".into())
    );
    assert_eq!(server.counters().arrived.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_wrong_pin_is_refused() {
    let (east, west) = pair();
    east.trusts(&west, Anchor::Pinned(Pin::of(b"another root")));
    let (ours, theirs) = both_errors(&east, &west).await;
    assert_eq!(
        ours,
        format!(
            "not trusted: spiffe://west/landbridge/gateway/gw1 sent no root with the pin {}",
            Pin::of(b"another root")
        )
    );
    assert!(theirs.contains("sent no root with the pin"), "{theirs}");
}

#[tokio::test]
async fn an_expired_client_certificate_is_refused() {
    let (east, west) = pair();
    let id = gateway_id(&east.domain, "gw1").unwrap();
    let yesterday = identity::UnixMillis(now().0 - 24 * 3_600_000);
    east.identity
        .set(east.root.issue(&id, yesterday, HOUR).unwrap());
    let (ours, theirs) = both_errors(&east, &west).await;
    let said = "the certificate of spiffe://east/landbridge/gateway/gw1 expired at";
    assert!(
        theirs.starts_with(&format!("not trusted: {said}")),
        "{theirs}"
    );
    assert!(ours.starts_with("refused by the other end: "), "{ours}");
    assert!(ours.contains(said), "{ours}");
}

#[tokio::test]
async fn an_expired_server_certificate_is_refused() {
    let (east, west) = pair();
    let id = gateway_id(&west.domain, "gw1").unwrap();
    let yesterday = identity::UnixMillis(now().0 - 24 * 3_600_000);
    west.identity
        .set(west.root.issue(&id, yesterday, HOUR).unwrap());
    let (ours, theirs) = both_errors(&east, &west).await;
    assert!(
        ours.starts_with("not trusted: the certificate of spiffe://west/"),
        "{ours}"
    );
    assert!(theirs.starts_with("refused by the other end: "), "{theirs}");
}

#[tokio::test]
async fn another_trust_domain_that_answers_is_refused() {
    let (east, west) = pair();
    let south = cluster("south");
    east.trusts(&south, Anchor::Pinned(south.root.pin()));
    let (server, _arrivals) = west.bind(&[Protocol::Peer]);
    let (client, _) = east.bind(&[]);
    let dialled = client.dial(&peer(&server, "south")).await;
    assert!(
        matches!(
            dialled.as_ref().err(),
            Some(SessionError::Untrusted(VerifyError::OtherDomain { .. }))
        ),
        "{dialled:?}"
    );
}

#[tokio::test]
async fn a_domain_that_is_no_peer_is_refused() {
    let (east, west) = pair();
    west.trust.remove(&east.domain);
    let (_, theirs) = both_errors(&east, &west).await;
    assert_eq!(
        theirs,
        "not trusted: spiffe://east/landbridge/gateway/gw1 is of no configured peer"
    );
}

#[tokio::test]
async fn an_svid_of_one_domain_signed_by_the_root_of_another_is_refused() {
    // Mallory's root calls itself east, and signs for east.
    let (east, west) = pair();
    let mallory = cluster("east");
    mallory.trusts(&west, Anchor::Pinned(west.root.pin()));
    let (ours, theirs) = both_errors(&mallory, &west).await;
    assert_eq!(
        theirs,
        "not trusted: spiffe://east/landbridge/gateway/gw1 is not signed by a root of its trust \
         domain"
    );
    assert!(ours.contains("is not signed by a root"), "{ours}");
    // By pin too.
    west.trusts(&east, Anchor::Pinned(east.root.pin()));
    let (_, theirs) = both_errors(&mallory, &west).await;
    assert!(theirs.contains("sent no root with the pin"), "{theirs}");
    // Its own root signs nothing for another domain.
    let west_id = gateway_id(&domain("west"), "gw1").unwrap();
    let refused = mallory.root.issue(&west_id, now(), HOUR).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the root of east signs nothing for spiffe://west/landbridge/gateway/gw1"
    );
}

#[tokio::test]
async fn two_clusters_with_one_trust_domain_are_told_so() {
    let (_, west) = pair();
    let twin = cluster("west");
    twin.trusts(&west, Anchor::Pinned(west.root.pin()));
    let (ours, theirs) = both_errors(&twin, &west).await;
    assert!(
        theirs.contains("two clusters with one trust domain"),
        "{theirs}"
    );
    assert!(
        ours.contains("two clusters with one trust domain"),
        "{ours}"
    );
}

#[tokio::test]
async fn an_agent_is_no_gateway() {
    let (east, west) = pair();
    let agent = agent_id(&east.domain, "node1").unwrap();
    let svid = east.root.issue(&agent, now(), HOUR).unwrap();
    east.identity.set(svid);
    let (ours, theirs) = both_errors(&east, &west).await;
    let said = "spiffe://east/landbridge/agent/node1 may not speak landbridge-peer/1: that is \
                for a gateway of another cluster";
    assert_eq!(theirs, said);
    assert_eq!(ours, format!("refused by the other end: {said}"));
}

#[tokio::test]
async fn an_agent_of_another_cluster_may_not_speak_to_our_nodes_port() {
    let (east, west) = pair();
    west.trusts(
        &west,
        Anchor::Roots(vec![west.root.certificate_der().to_vec()]),
    );
    let agent = agent_id(&east.domain, "node1").unwrap();
    east.identity
        .set(east.root.issue(&agent, now(), HOUR).unwrap());
    let (server, mut arrivals) = west.bind(&[Protocol::Node, Protocol::Enrol]);
    let (client, _) = east.bind(&[]);
    let target = Target {
        protocol: Protocol::Node,
        ..peer(&server, "west")
    };
    // The dialler sees that the gateway is not its own.
    let dialled = client.dial(&target).await;
    assert!(matches!(
        dialled.err(),
        Some(SessionError::NotPermitted { .. })
    ));
    let theirs = refusal(&mut arrivals).await.to_string();
    assert!(
        theirs.contains("may not speak landbridge-node/1"),
        "{theirs}"
    );
}

#[tokio::test]
async fn a_protocol_that_is_not_served_is_refused() {
    let (east, west) = pair();
    let (server, mut arrivals) = west.bind(&[Protocol::Peer]);
    let (client, _) = east.bind(&[]);
    let target = Target {
        protocol: Protocol::Node,
        ..peer(&server, "west")
    };
    assert!(client.dial(&target).await.is_err());
    assert_eq!(
        refusal(&mut arrivals).await.to_string(),
        "the other end broke the protocol: no common protocol"
    );
}

#[tokio::test]
async fn nobody_there_is_no_answer_in_time() {
    let (east, _) = pair();
    // Bound and silent.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let limits = quic::Limits {
        handshake_timeout: Duration::from_secs(1),
        ..Default::default()
    };
    let (client, _) = east.bind_with(&[], limits);
    let target = Target {
        address: silent.local_addr().unwrap(),
        trust_domain: domain("west"),
        protocol: Protocol::Peer,
    };
    let error = client.dial(&target).await.err().unwrap();
    assert_eq!(error.to_string(), "no answer within 1 s");
}

#[tokio::test]
async fn a_renewed_certificate_is_for_new_sessions_and_drops_none() {
    let (east, west) = pair();
    let (server, mut arrivals) = west.bind(&[Protocol::Peer]);
    let (client, _) = east.bind(&[]);
    let old = client.dial(&peer(&server, "west")).await.unwrap();
    let mut old_there = session(&mut arrivals).await;
    let ends = old_there.info.peer.expires_at;

    let id = gateway_id(&east.domain, "gw1").unwrap();
    let next = east.root.issue(&id, now(), HOUR / 2).unwrap();
    assert_ne!(next.expires_at(), ends);
    client.identity().set(next.clone());
    let id = gateway_id(&west.domain, "gw1").unwrap();
    server
        .identity()
        .set(west.root.issue(&id, now(), HOUR / 2).unwrap());

    old.sender.send(b"still here".to_vec()).await.unwrap();
    assert_eq!(
        old_there.receiver.recv().await.as_deref(),
        Some(&b"still here"[..])
    );
    let new = client.dial(&peer(&server, "west")).await.unwrap();
    let new_there = session(&mut arrivals).await;
    assert_eq!(new_there.info.peer.expires_at, next.expires_at());
    assert_ne!(new.info.peer.expires_at, old.info.peer.expires_at);
    old.sender.send(b"and here".to_vec()).await.unwrap();
    assert_eq!(
        old_there.receiver.recv().await.as_deref(),
        Some(&b"and here"[..])
    );
}

#[tokio::test]
async fn an_identity_is_renewed_at_half_life_in_time_of_its_own() {
    let cluster = cluster("east");
    let id = gateway_id(&cluster.domain, "gw1").unwrap();
    let begin = now();
    let life = Duration::from_secs(600);
    let identity = Identity::new(cluster.root.issue(&id, begin, life).unwrap());
    assert_eq!(
        quic::half_life(&identity.current()).as_secs(),
        begin.as_secs() + 300
    );

    // Time stands still except when everybody waits: no second of this test is a real one.
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    let clock = move || begin.after(started.elapsed());
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let mut failures = 2;
    let renewing = identity.clone();
    let root = cluster.root;
    let sooner = Arc::new(Notify::new());
    let wanted = Arc::clone(&sooner);
    let issue = async move |current: &Svid| {
        assert_eq!(*current.id(), id);
        let asked = clock().0 - begin.0;
        if failures > 0 {
            failures -= 1;
            said.send((asked, false)).unwrap();
            return Err("no disk".to_owned());
        }
        said.send((asked, true)).unwrap();
        root.issue(&id, clock(), life).map_err(|e| e.to_string())
    };
    let task = tokio::spawn(quic::renew(renewing, clock, wanted, issue));
    let mut asked = Vec::new();
    for _ in 0..5 {
        asked.push(heard.recv().await.unwrap());
    }
    // Another root signs: nobody waits for half a life.
    sooner.notify_one();
    let (sooner, granted) = heard.recv().await.unwrap();
    assert!(
        granted && sooner - asked[4].0 <= 2000,
        "{sooner} after {asked:?}"
    );
    task.abort();
    let granted: Vec<_> = asked.iter().filter(|(_, granted)| *granted).collect();
    assert_eq!((asked.len(), granted.len()), (5, 3));
    // Certificates count whole seconds.
    assert!(asked[0].0.abs_diff(300_000) <= 1000, "{asked:?}");
    assert!(
        granted[0].0 - asked[0].0 <= 5000,
        "tried again soon: {asked:?}"
    );
    assert!(
        (granted[1].0 - granted[0].0).abs_diff(300_000) <= 2000,
        "{asked:?}"
    );
    assert!(identity.current().expires_at().0 > begin.0 + 600_000);
}
