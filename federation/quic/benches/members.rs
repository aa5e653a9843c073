//! How long it takes over real QUIC, on loopback, with states stored on a real disk, until each of ten
//! connected members holds what one cluster changes: a revocation, other keys in its bundle, another
//! policy. `scripts/bench members` runs it; it prints a line of JSON per figure.
#![allow(
    missing_docs,
    dead_code,
    clippy::unwrap_used,
    clippy::disallowed_macros,
    clippy::print_stdout
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use common::{Cluster, cluster, peer, session};
use handshake::admission::{CredentialId, Target};
use identity::{ClaimLimits, IssuerKey, Mono, Now, TrustDomain};
use landbridge_quic as quic;
use peering::peers::{OwnKeys, PeerConfig, PeerEvent, Peering, PeeringConfig};
use policy::model::PolicySet;
use quic::{Anchor, Protocol, Session, write_secret};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use tokio::sync::mpsc;

const MEMBERS: usize = 10;
/// How often each thing changes.
const ROUNDS: u8 = 50;
/// After this nobody waits any longer.
const HOPELESS: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Revocation,
    Bundle,
    Policy,
}

impl Change {
    const ALL: [Self; 3] = [Self::Revocation, Self::Bundle, Self::Policy];

    fn name(self) -> &'static str {
        match self {
            Self::Revocation => "revocation",
            Self::Bundle => "bundle",
            Self::Policy => "policy",
        }
    }
}

enum Input {
    Up(TrustDomain, SocketAddr, quic::Sender),
    Frame(TrustDomain, Vec<u8>),
    Change(Change, u8),
}

/// A gateway's control side.
struct Gateway {
    begun: Instant,
    root: Vec<u8>,
    own: TrustDomain,
    peering: Peering,
    links: BTreeMap<TrustDomain, quic::Sender>,
    disk: PathBuf,
    held: mpsc::UnboundedSender<(Change, Instant)>,
}

impl Gateway {
    fn new(
        cluster: &Cluster,
        peers: &[&Cluster],
        begun: Instant,
        disk: &Path,
        held: mpsc::UnboundedSender<(Change, Instant)>,
    ) -> Self {
        let now = now(begun);
        let own = cluster.domain.clone();
        let rng = Box::new(ChaCha20Rng::from_seed([3; 32]));
        let config = PeeringConfig::new(own.clone());
        let mut peering = Peering::new(config, key(), [], rng, now).unwrap();
        let root = cluster.root.certificate_der().to_vec();
        peering.set_own_keys(keys(&root, 0), now);
        let peers = peers.iter().map(|other| PeerConfig {
            trust_domain: other.domain.clone(),
            pin: Some(other.root.pin().0),
            ranges: None,
            mapped: BTreeMap::new(),
            limits: ClaimLimits::default(),
            or_roots: Vec::new(),
            offer: ClaimLimits::default(),
            away: None,
        });
        peering.set_peers(peers.collect(), now).unwrap();
        let disk = disk.join(own.as_str());
        std::fs::create_dir(&disk).unwrap();
        Self {
            begun,
            root,
            own,
            peering,
            links: BTreeMap::new(),
            disk,
            held,
        }
    }

    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        loop {
            self.settle();
            let due = self.peering.poll_timeout();
            let due = due.map_or(HOPELESS, |at| at.since(now(self.begun).mono));
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => self.take(input),
                    None => return,
                },
                () = tokio::time::sleep(due) => {}
            }
            self.peering.handle_timeout(now(self.begun));
        }
    }

    fn take(&mut self, input: Input) {
        let now = now(self.begun);
        match input {
            Input::Up(other, remote, sender) => {
                self.links.insert(other.clone(), sender);
                self.peering.handle_connected(&other, remote, now);
            }
            Input::Frame(from, bytes) => self.peering.handle_message(&from, &bytes, now),
            Input::Change(Change::Revocation, round) => {
                let target = Target::Credential(CredentialId([round; 16]));
                let own = self.own.clone();
                self.peering.revoke(&own, target, "lost", now).unwrap();
            }
            Input::Change(Change::Bundle, round) => {
                self.peering.set_own_keys(keys(&self.root, round), now);
            }
            Input::Change(Change::Policy, round) => {
                let part = PolicySet {
                    cluster: self.own.clone(),
                    policies: vec![],
                };
                self.peering.set_policy([round; 32], &part, now);
            }
        }
    }

    /// Store, then act, then send, as a gateway does.
    fn settle(&mut self) {
        while let Some((key, bytes)) = self.peering.poll_persist() {
            let file = self.disk.join(key.to_string().replace(' ', "-"));
            write_secret(&file, &bytes).unwrap();
            self.peering.handle_persisted(&key);
        }
        while let Some(event) = self.peering.poll_event() {
            let change = match event {
                PeerEvent::RestrictionsChanged => Change::Revocation,
                PeerEvent::BundlesChanged => Change::Bundle,
                PeerEvent::DigestChanged(_) => Change::Policy,
                _ => continue,
            };
            // The last one of a process that ends.
            let _ = self.held.send((change, Instant::now()));
        }
        while let Some((to, ..)) = self.peering.poll_records() {
            assert!(self.peering.handle_own_records(&to, &[], 0).is_none());
        }
        while let Some((to, message)) = self.peering.poll_transmit() {
            self.links[&to].try_send(message).unwrap();
        }
    }
}

fn now(begun: Instant) -> Now {
    Now {
        mono: Mono(begun.elapsed()),
        unix: common::now(),
    }
}

fn key() -> IssuerKey {
    IssuerKey::from_seed(&[7; 32])
}

/// Another second key in each round.
fn keys(root: &[u8], round: u8) -> OwnKeys {
    let seeds = [[7; 32], [100 + round; 32]];
    OwnKeys {
        x509_roots: vec![root.to_vec()],
        issuer_keys: seeds
            .map(|seed| IssuerKey::from_seed(&seed).public())
            .into(),
        carried_labels: None,
    }
}

/// What comes on the session goes to `inputs`.
async fn link(session: Session, inputs: mpsc::Sender<Input>) {
    let other = session.info.peer.id.trust_domain().clone();
    let up = Input::Up(other.clone(), session.info.remote, session.sender);
    inputs.send(up).await.unwrap();
    let mut receiver = session.receiver;
    tokio::spawn(async move {
        while let Some(frame) = receiver.recv().await {
            if inputs
                .send(Input::Frame(other.clone(), frame))
                .await
                .is_err()
            {
                return;
            }
        }
    });
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let directory = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let east = cluster("east");
    let members: Vec<_> = (0..MEMBERS).map(|n| cluster(&format!("m{n}"))).collect();
    let (nobody, _unheard) = mpsc::unbounded_channel();
    let (held, mut hears) = mpsc::unbounded_channel();
    let all: Vec<_> = members.iter().collect();
    let hub = Gateway::new(&east, &all, begun, directory.path(), nobody);
    let (east_inputs, inputs) = mpsc::channel(1024);
    tokio::spawn(hub.run(inputs));
    let (dialler, _) = east.bind(&[]);
    let mut endpoints = Vec::new();
    for member in &members {
        east.trusts(member, Anchor::Pinned(member.root.pin()));
        member.trusts(&east, Anchor::Pinned(east.root.pin()));
        let gateway = Gateway::new(member, &[&east], begun, directory.path(), held.clone());
        let (sender, inputs) = mpsc::channel(1024);
        tokio::spawn(gateway.run(inputs));
        let (endpoint, mut arrivals) = member.bind(&[Protocol::Peer]);
        let target = peer(&endpoint, member.domain.as_str());
        let dialled = dialler.dial(&target).await.unwrap();
        link(session(&mut arrivals).await, sender).await;
        link(dialled, east_inputs.clone()).await;
        endpoints.push((endpoint, arrivals));
    }
    // The first bundle of east, after which nothing is missing but its policy.
    change(&east_inputs, &mut hears, Change::Policy, 0).await;

    let mut times: BTreeMap<&str, Vec<Vec<Duration>>> = BTreeMap::new();
    for round in 1..=ROUNDS {
        for what in Change::ALL {
            let took = change(&east_inputs, &mut hears, what, round).await;
            times.entry(what.name()).or_default().push(took);
        }
    }
    for (what, rounds) in times {
        let mut each: Vec<_> = rounds.iter().flatten().copied().collect();
        let mut last: Vec<_> = rounds
            .iter()
            .filter_map(|r| r.iter().max().copied())
            .collect();
        each.sort();
        last.sort();
        tell(&format!("{what} p50, {MEMBERS} members"), at(&each, 50));
        tell(&format!("{what} p99, {MEMBERS} members"), at(&each, 99));
        tell(&format!("{what} last, {MEMBERS} members"), at(&last, 50));
    }
    tell("raw stores", stores(directory.path()));
}

/// Has east change something; how long it took until each member held it.
async fn change(
    east: &mpsc::Sender<Input>,
    hears: &mut mpsc::UnboundedReceiver<(Change, Instant)>,
    what: Change,
    round: u8,
) -> Vec<Duration> {
    let begun = Instant::now();
    east.send(Input::Change(what, round)).await.unwrap();
    let mut took = Vec::new();
    while took.len() < MEMBERS {
        let heard = tokio::time::timeout(HOPELESS, hears.recv()).await;
        let (changed, at) = heard.expect("a member hears nothing").unwrap();
        // What follows from the first messages may come late.
        if changed == what && at >= begun {
            took.push(at - begun);
        }
    }
    took
}

/// What storing one state after the other takes: east's, and that of each member.
fn stores(directory: &Path) -> Duration {
    let state = vec![7; 4096];
    let once = || {
        let begun = Instant::now();
        for number in 0..=MEMBERS {
            write_secret(&directory.join(format!("raw-{number}")), &state).unwrap();
        }
        begun.elapsed()
    };
    let mut all: Vec<_> = (0..ROUNDS).map(|_| once()).collect();
    all.sort();
    at(&all, 50)
}

/// The value below which `share` of a hundred are.
fn at(sorted: &[Duration], share: usize) -> Duration {
    sorted[(sorted.len() * share).div_ceil(100).max(1) - 1]
}

fn tell(name: &str, time: Duration) {
    let ns = time.as_nanos();
    println!(r#"{{"name": "{name}", "unit": "ns", "value": {ns}}}"#);
}
