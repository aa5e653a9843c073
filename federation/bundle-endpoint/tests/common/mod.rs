//! A trust domain of ours with a bundle endpoint, as the tests need it.
#![allow(dead_code, reason = "each test file uses a part")]

#[path = "../../../../tests/peers/peer.rs"]
pub mod peer;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::{Duration, SystemTime},
};

use bundle_endpoint::{
    Certificate, Counters, EndpointPath, EndpointUrl, FetchLimits, Problem, Profile, ServeLimits,
    Server, fetch,
};
use identity::{IssuerKey, SpiffeId, TrustBundle, TrustDomain, UnixMillis};
use landbridge_bundle_endpoint as bundle_endpoint;
use quic::{ClusterRoot, Svid};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};

pub const HOUR: Duration = Duration::from_hours(1);

pub fn now() -> UnixMillis {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    UnixMillis::from_secs(since.as_secs())
}

pub fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

pub fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

pub fn root(name: &str) -> ClusterRoot {
    ClusterRoot::generate(&domain(name), now(), HOUR).unwrap()
}

/// A bundle with everything that ours have: of `roots`, with issuer keys and members of our own.
pub fn bundle(name: &str, sequence: u64, roots: &[&ClusterRoot]) -> TrustBundle {
    let mut x509_roots: Vec<_> = roots.iter().map(|r| r.certificate_der().to_vec()).collect();
    x509_roots.sort();
    TrustBundle {
        trust_domain: domain(name),
        sequence,
        refresh_hint: Duration::from_secs(30),
        x509_roots,
        issuer_keys: vec![IssuerKey::from_seed(&[1; 32]).public()],
        carried_labels: Some(vec!["app".into()]),
        expires_at: now().after(HOUR),
    }
}

pub fn text(bundle: &TrustBundle) -> Arc<str> {
    bundle.to_jwks().into()
}

/// The SVID that a server presents; it may be replaced.
pub fn presenting(svid: &Svid) -> (Certificate, watch::Sender<Svid>) {
    let (sender, receiver) = watch::channel(svid.clone());
    let current = move || receiver.borrow().certified();
    (Certificate::Svid(Arc::new(current)), sender)
}

/// One of ours that runs.
pub struct Running {
    pub address: SocketAddr,
    pub bundle: watch::Sender<Arc<str>>,
    pub counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl Running {
    pub async fn start(text: Arc<str>, certificate: Certificate, limits: ServeLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (bundle, receiver) = watch::channel(text);
        let server = Server::new(EndpointPath::default(), receiver, certificate, limits);
        Self {
            address: listener.local_addr().unwrap(),
            bundle,
            counters: server.counters(),
            task: tokio::spawn(async move {
                let Err(e) = server.run(listener).await;
                panic!("{e}");
            }),
        }
    }

    pub fn url(&self) -> String {
        format!("https://{}/bundle", self.address)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn spiffe(endpoint: &str, roots: Vec<Vec<u8>>) -> Profile {
    // Without a sender: nobody replaces these.
    let (_, roots) = watch::channel(Arc::new(roots));
    Profile::Spiffe {
        endpoint: id(endpoint),
        roots,
    }
}

pub async fn get(url: &str, profile: &Profile) -> Result<String, Problem> {
    let url: EndpointUrl = url.parse().unwrap();
    fetch(&url, profile, FetchLimits::default())
        .await
        .map_err(|e| *e.problem)
}

/// Why it was not had, as the operator reads it.
pub async fn refused(url: &str, profile: &Profile) -> String {
    let url: EndpointUrl = url.parse().unwrap();
    let limits = FetchLimits::default();
    fetch(&url, profile, limits).await.unwrap_err().to_string()
}

/// A new authority of the Web PKI, and a certificate of it for `names`: chain, key and root in PEM.
pub fn web_certificate(names: &[&str]) -> (String, String, String) {
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = ca.self_signed(&ca_key).unwrap().pem();
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let leaf = CertificateParams::new(names).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    (leaf.pem(), key.serialize_pem(), root)
}

/// Waits until a counter has this value.
pub async fn reaches(counter: &AtomicU64, value: u64) {
    let waiting = async {
        while counter.load(Ordering::Relaxed) < value {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), waiting)
        .await
        .expect("the counter rises");
}
