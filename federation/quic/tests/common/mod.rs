//! Two clusters on loopback.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use identity::{TrustDomain, UnixMillis};
use landbridge_quic as quic;
use quic::{
    Anchor, Arrival, ClusterRoot, Endpoint, Identity, Limits, Protocol, Refused, Session,
    SessionError, Target, Trust, gateway_id,
};
use tokio::sync::mpsc;

pub const HOUR: Duration = Duration::from_secs(3600);

pub fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixMillis(since.unwrap().as_millis() as u64)
}

pub fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

pub struct Cluster {
    pub domain: TrustDomain,
    pub root: ClusterRoot,
    pub trust: Trust,
    pub identity: Identity,
}

/// A cluster whose gateway `gw1` has a fresh SVID and trusts nobody.
pub fn cluster(name: &str) -> Cluster {
    let domain = domain(name);
    let root = ClusterRoot::generate(&domain, now(), HOUR).unwrap();
    let svid = root
        .issue(&gateway_id(&domain, "gw1").unwrap(), now(), HOUR)
        .unwrap();
    Cluster {
        trust: Trust::new(domain.clone()),
        identity: Identity::new(svid),
        domain,
        root,
    }
}

/// Two clusters that trust each other: one by pin, one by bundle.
pub fn pair() -> (Cluster, Cluster) {
    let (east, west) = (cluster("east"), cluster("west"));
    east.trusts(&west, Anchor::Pinned(west.root.pin()));
    west.trusts(
        &east,
        Anchor::Roots(vec![east.root.certificate_der().to_vec()]),
    );
    (east, west)
}

impl Cluster {
    pub fn trusts(&self, other: &Cluster, anchor: Anchor) {
        self.trust.set(other.domain.clone(), anchor);
    }

    pub fn bind(&self, protocols: &[Protocol]) -> (Endpoint, mpsc::Receiver<Arrival>) {
        self.bind_with(protocols, Limits::default())
    }

    pub fn bind_with(
        &self,
        protocols: &[Protocol],
        limits: Limits,
    ) -> (Endpoint, mpsc::Receiver<Arrival>) {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let (identity, trust) = (self.identity.clone(), self.trust.clone());
        Endpoint::bind(loopback, identity, trust, protocols, limits).unwrap()
    }
}

pub fn peer(endpoint: &Endpoint, trust_domain: &str) -> Target {
    Target {
        address: endpoint.local_address().unwrap(),
        trust_domain: domain(trust_domain),
        protocol: Protocol::Peer,
    }
}

pub async fn session(arrivals: &mut mpsc::Receiver<Arrival>) -> Session {
    match arrivals.recv().await.unwrap() {
        Arrival::Session(session) => session,
        other => panic!("not a session: {other:?}"),
    }
}

pub async fn refusal(arrivals: &mut mpsc::Receiver<Arrival>) -> SessionError {
    match arrivals.recv().await.unwrap() {
        Arrival::Refused(Refused { error, .. }) => error,
        other => panic!("not refused: {other:?}"),
    }
}

/// East dials west in vain: what each of them says.
pub async fn both_errors(east: &Cluster, west: &Cluster) -> (String, String) {
    let (server, mut arrivals) = west.bind(&[Protocol::Peer]);
    let (client, _) = east.bind(&[]);
    let dialled = client.dial(&peer(&server, "west")).await;
    let ours = dialled.expect_err("no session").to_string();
    (ours, refusal(&mut arrivals).await.to_string())
}
