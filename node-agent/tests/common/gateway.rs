//! A gateway that is only an issuer: what an agent talks to, without the data plane.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    thread::{self, JoinHandle},
    time::Duration,
};

use identity::{BundleStore, IssuerKey, TrustBundle, TrustDomain};
use landbridge_agent::clock::Clock;
use nix::sched::{CloneFlags, setns};
use peering::issuer::{Issuer, IssuerConfig, IssuerState};
use quic::{
    Anchor, Arrival, ClusterRoot, Endpoint, EnrolGate, Identity, Limits, Protocol, SecretHash,
    Sender, Trust, agent_node, gateway_id,
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use tokio::sync::{mpsc, oneshot};

use super::Netns;

const DAY: Duration = Duration::from_secs(86_400);

pub struct Gateway {
    pub root_pin: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Serves the cluster of `world` at `address` inside `netns`; `secrets` by node.
    pub fn start(
        netns: &Netns,
        address: SocketAddr,
        world: sources::World,
        secrets: &[(&str, &str)],
    ) -> Self {
        let clock = Clock::start();
        let own = world.cluster.trust_domain.clone();
        let root = ClusterRoot::generate(&own, clock.now().unix, DAY).unwrap();
        let root_pin = root.pin().to_string();
        let nodes = secrets
            .iter()
            .map(|(node, secret)| ((*node).to_owned(), SecretHash::of(secret.as_bytes())))
            .collect();
        let gate = EnrolGate::new(own.clone(), nodes, BTreeMap::new());
        let (stop, stopped) = oneshot::channel();
        let path = netns.path();
        let thread = thread::spawn(move || {
            let file = std::fs::File::open(path).unwrap();
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let served = serve(address, own, root, gate, world, clock);
                tokio::select! {
                    () = served => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            root_pin,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

enum Input {
    Message(String, Vec<u8>),
    Gone(String),
}

async fn serve(
    address: SocketAddr,
    own: TrustDomain,
    root: ClusterRoot,
    mut gate: EnrolGate,
    world: sources::World,
    clock: Clock,
) {
    let key = IssuerKey::from_seed(&[7; 32]);
    let mut bundles = BundleStore::default();
    let bundle = TrustBundle {
        trust_domain: own.clone(),
        sequence: 1,
        refresh_hint: Duration::from_secs(60),
        x509_roots: vec![root.certificate_der().to_vec()],
        issuer_keys: vec![key.public()],
        carried_labels: None,
        expires_at: clock.now().unix.after(DAY),
    };
    bundles.insert(bundle).unwrap();
    let rng = Box::new(ChaCha20Rng::seed_from_u64(1));
    let config = IssuerConfig::new(own.clone());
    let mut issuer = Issuer::new(config, key, IssuerState::default(), rng, clock.now());
    issuer.set_bundles(&bundles);
    issuer.set_ranges(world.cluster.ranges().collect());
    issuer.set_workloads(world.workloads, clock.now());

    let id = gateway_id(&own, "gw1").unwrap();
    let identity = Identity::new(root.issue(&id, clock.now().unix, DAY).unwrap());
    let trust = Trust::new(own.clone());
    trust.set(own, Anchor::Roots(vec![root.certificate_der().to_vec()]));
    let protocols = [Protocol::Node, Protocol::Enrol];
    let bound = Endpoint::bind(address, identity, trust, &protocols, Limits::default());
    let (_endpoint, mut arrivals) = bound.unwrap();
    let mut senders: BTreeMap<String, Sender> = BTreeMap::new();
    let (inputs, mut input) = mpsc::channel(64);
    loop {
        tokio::select! {
            Some(arrival) = arrivals.recv() => match arrival {
                Arrival::Session(mut session) => {
                    let node = agent_node(&session.info.peer.id).unwrap().to_owned();
                    senders.insert(node.clone(), session.sender);
                    issuer.handle_node_connected(&node, clock.now());
                    let inputs = inputs.clone();
                    tokio::spawn(async move {
                        while let Some(bytes) = session.receiver.recv().await {
                            let _ = inputs.send(Input::Message(node.clone(), bytes)).await;
                        }
                        let _ = inputs.send(Input::Gone(node)).await;
                    });
                }
                Arrival::Joining(_) => {}
                Arrival::Enrolling(enrolling) => {
                    match gate.judge(&enrolling.asked(), clock.now().mono) {
                        Ok(id) => {
                            let now = clock.now().unix;
                            let chain = root.sign_request(&id, enrolling.request(), now, DAY);
                            tokio::spawn(enrolling.grant(chain.unwrap()));
                        }
                        Err(why) => drop(tokio::spawn(async move {
                            enrolling.refuse(&why.to_string()).await;
                        })),
                    }
                }
                Arrival::Refused(refused) => eprintln!("gateway: {refused:?}"),
            },
            Some(input) = input.recv() => match input {
                Input::Message(node, bytes) => {
                    issuer.handle_node_message(&node, &bytes, clock.now());
                }
                Input::Gone(node) => {
                    senders.remove(&node);
                    issuer.handle_node_disconnected(&node, clock.now());
                }
            },
        }
        while let Some((node, bytes)) = issuer.poll_transmit() {
            if let Some(sender) = senders.get(&node) {
                let _ = sender.send(bytes).await;
            }
        }
        while let Some(event) = issuer.poll_event() {
            if !matches!(event, peering::issuer::IssuerEvent::StateChanged) {
                eprintln!("gateway: {event:?}");
            }
        }
    }
}
