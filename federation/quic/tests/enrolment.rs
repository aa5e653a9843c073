//! A node comes by its SVID: secret, key, renewal, and who is refused.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{collections::BTreeMap, path::Path, time::Duration};

use common::{Cluster, HOUR, cluster, domain, now};
use identity::Mono;
use landbridge_quic as quic;
use quic::{
    Anchor, Arrival, Credentials, Endpoint, EnrolError, EnrolGate, Limits, Pin, Protocol,
    SecretHash, SessionError, Svid, SvidRequest, Target, Trust, enrol,
};
use tokio::{sync::mpsc, task::JoinHandle};

const SECRET: &[u8] = b"one-time secret of node1, 256 bit";

/// The gateway's side of enrolment, and the sessions of the nodes.
fn gateway(east: Cluster) -> (Endpoint, mpsc::Receiver<quic::Session>, JoinHandle<()>) {
    east.trusts(
        &east,
        Anchor::Roots(vec![east.root.certificate_der().to_vec()]),
    );
    let (endpoint, mut arrivals) = east.bind(&[Protocol::Node, Protocol::Enrol]);
    let (sessions, accepted) = mpsc::channel(8);
    let nodes = BTreeMap::from([("node1".to_owned(), SecretHash::of(SECRET))]);
    let mut gate = EnrolGate::new(east.domain.clone(), nodes, BTreeMap::new());
    let task = tokio::spawn(async move {
        while let Some(arrival) = arrivals.recv().await {
            match arrival {
                Arrival::Session(session) => sessions.send(session).await.unwrap(),
                Arrival::Refused(_) | Arrival::Joining(_) => {}
                Arrival::Enrolling(enrolling) => {
                    match gate.judge(&enrolling.asked(), Mono(Duration::ZERO)) {
                        Ok(id) => {
                            let request = enrolling.request();
                            let chain = east.root.sign_request(&id, request, now(), HOUR);
                            enrolling.grant(chain.unwrap()).await;
                        }
                        Err(refusal) => enrolling.refuse(&refusal.to_string()).await,
                    }
                }
            }
        }
    });
    (endpoint, accepted, task)
}

/// What a node knows before it has an SVID: the pin.
fn trusting(pin: Pin) -> Trust {
    let trust = Trust::new(domain("east"));
    trust.set(domain("east"), Anchor::Pinned(pin));
    trust
}

async fn with_secret(
    gateway: &Endpoint,
    trust: &Trust,
    node: &str,
    secret: &[u8],
    key: &Path,
) -> Result<Svid, EnrolError> {
    let credentials = Credentials::Secret {
        node: node.into(),
        secret: secret.to_vec().into(),
    };
    let request = SvidRequest::load_or_generate(key).unwrap();
    ask(gateway, trust, credentials, request).await
}

async fn ask(
    gateway: &Endpoint,
    trust: &Trust,
    credentials: Credentials,
    request: SvidRequest,
) -> Result<Svid, EnrolError> {
    let address = gateway.local_address().unwrap();
    let limits = Limits::default();
    enrol(
        address,
        &domain("east"),
        trust,
        credentials,
        request,
        &limits,
    )
    .await
}

#[tokio::test]
async fn a_node_enrols_by_secret_speaks_by_svid_and_renews_by_svid() {
    let east = cluster("east");
    let trust = trusting(east.root.pin());
    let (gateway, mut sessions, _task) = gateway(east);
    let dir = tempfile::tempdir().unwrap();
    let (key, file) = (dir.path().join("key.pem"), dir.path().join("svid.pem"));

    let svid = with_secret(&gateway, &trust, "node1", SECRET, &key)
        .await
        .unwrap();
    assert_eq!(
        svid.id().to_string(),
        "spiffe://east/landbridge/agent/node1"
    );
    svid.store(&file).unwrap();
    // The answer was lost: the same key gets it again.
    with_secret(&gateway, &trust, "node1", SECRET, &key)
        .await
        .unwrap();

    let svid = Svid::load(&file).unwrap().unwrap();
    let loopback = "127.0.0.1:0".parse().unwrap();
    let identity = quic::Identity::new(svid.clone());
    let limits = Limits::default();
    let (node, _) = Endpoint::bind(loopback, identity, trust.clone(), &[], limits).unwrap();
    let target = Target {
        address: gateway.local_address().unwrap(),
        trust_domain: domain("east"),
        protocol: Protocol::Node,
    };
    let dialled = node.dial(&target).await.unwrap();
    let mut accepted = sessions.recv().await.unwrap();
    assert_eq!(quic::agent_node(&accepted.info.peer.id), Some("node1"));
    dialled.sender.send(b"hello".to_vec()).await.unwrap();
    assert_eq!(
        accepted.receiver.recv().await.as_deref(),
        Some(&b"hello"[..])
    );

    let request = SvidRequest::generate().unwrap();
    let renewed = ask(&gateway, &trust, Credentials::Svid(svid.clone()), request)
        .await
        .unwrap();
    assert_eq!(renewed.id(), svid.id());
    assert_ne!(renewed.chain().next(), svid.chain().next());
}

#[tokio::test]
async fn a_wrong_a_used_and_a_guessed_secret_are_refused() {
    let east = cluster("east");
    let trust = trusting(east.root.pin());
    let (gateway, _sessions, _task) = gateway(east);
    let dir = tempfile::tempdir().unwrap();
    let (key, thief) = (dir.path().join("key.pem"), dir.path().join("thief.pem"));
    let unknown = "the gateway refuses to enrol this node: unknown node, or the secret is wrong";
    for (node, secret) in [("node1", &b"guess"[..]), ("node9", SECRET)] {
        let refused = with_secret(&gateway, &trust, node, secret, &key).await;
        assert_eq!(refused.unwrap_err().to_string(), unknown);
    }
    with_secret(&gateway, &trust, "node1", SECRET, &key)
        .await
        .unwrap();
    let refused = with_secret(&gateway, &trust, "node1", SECRET, &thief).await;
    assert_eq!(
        refused.unwrap_err().to_string(),
        "the gateway refuses to enrol this node: the secret of node1 was used before: make a new \
         one"
    );
    for _ in 0..2 {
        let _ = with_secret(&gateway, &trust, "node1", b"guess", &thief).await;
    }
    let refused = with_secret(&gateway, &trust, "node1", b"guess", &thief).await;
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("too many failed attempts: wait"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_secret_is_shown_to_the_pinned_gateway_alone() {
    let east = cluster("east");
    let mallory = cluster("east");
    let trust = trusting(east.root.pin());
    let (gateway, _sessions, _task) = gateway(mallory);
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key.pem");
    let refused = with_secret(&gateway, &trust, "node1", SECRET, &key).await;
    assert!(
        matches!(
            &refused,
            Err(EnrolError::Session(SessionError::Untrusted(
                quic::VerifyError::PinMismatch { .. }
            )))
        ),
        "{refused:?}"
    );
}

#[test]
fn roots_and_svids_survive_their_files_and_nothing_else_is_taken_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root.pem");
    let east = domain("east");
    let root = quic::ClusterRoot::load_or_generate(&path, &east, None, now(), HOUR).unwrap();
    let again = quic::ClusterRoot::load_or_generate(&path, &east, None, now(), HOUR).unwrap();
    assert_eq!(root.pin(), again.pin());
    let id = quic::gateway_id(&east, "gw1").unwrap();
    let svid = again.issue(&id, now(), 10 * HOUR).unwrap();
    assert_eq!(
        svid.expires_at(),
        root.expires_at(),
        "no leaf outlives its root"
    );

    let of_west = quic::ClusterRoot::load_or_generate(&path, &domain("west"), None, now(), HOUR);
    assert!(
        of_west
            .unwrap_err()
            .to_string()
            .contains("names another trust domain")
    );

    let file = dir.path().join("svid.pem");
    assert!(Svid::load(&file).unwrap().is_none());
    svid.store(&file).unwrap();
    assert_eq!(Svid::load(&file).unwrap().unwrap().id(), &id);
    // The key of one and the certificate of another.
    let other = again.issue(&id, now(), HOUR).unwrap();
    let other_file = dir.path().join("other.pem");
    other.store(&other_file).unwrap();
    let text = |path: &Path| std::fs::read_to_string(path).unwrap();
    let (mine, others) = (text(&file), text(&other_file));
    let end = "-----END PRIVATE KEY-----\n";
    let key = &mine[..mine.find(end).unwrap() + end.len()];
    let certificates = &others[others.find(end).unwrap() + end.len()..];
    quic::write_secret(&file, format!("{key}{certificates}").as_bytes()).unwrap();
    let error = Svid::load(&file).unwrap_err().to_string();
    assert_eq!(error, "the certificate is of another key");
    quic::write_secret(&file, b"nothing").unwrap();
    assert!(
        Svid::load(&file)
            .unwrap_err()
            .to_string()
            .contains("no private key")
    );
    // Nothing that a key is printed by shows it.
    let shown = format!("{svid:?} {root:?}");
    assert!(!shown.contains("PRIVATE") && shown.len() < 300, "{shown}");
}
