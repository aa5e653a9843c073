//! The parts that a gateway starts with, each from what is before it.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use arc_swap::ArcSwap;
use gateway_core::{Dataplane, Limits, SharedCache, Snapshot, context::Event};
use gateway_xdp::{Attachment, Nic, QueueSet, RingSizes, StatisticsHandle, Steering};
use handshake::{
    budget::{CoreShare, Cost, SignatureLimits},
    credentials::CredentialCache,
};
use identity::TrustDomain;
use observe::AuditLog;
use peering::{
    issuer::{Issuer, IssuerConfig},
    peers::{MAX_STATE, Peering, PeeringConfig},
};
use quic::{
    Anchor, Arrival, Endpoint, EnrolGate, Identity, Protocol, SecretHash, Svid, Trust, gateway_id,
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use rand_core::Rng;
use serde_json::{Map, Value, json};
use sources::{Source, TokenReviewer, World};
use tokio::{runtime, sync::mpsc};

use crate::{
    capture::Tap,
    clock::{Clock, thread_time},
    config::Config,
    hub::{members, steering},
    keys::{Copies, KeyStore, Protection, Schedules},
    passphrase,
    pipeline::{Ports, Published, Shared, Worker},
    queue::QueueThread,
    secret::Keeper,
    signer::SignerCommand,
    state::{State, own_svid},
};

/// Resets and ICMP errors that one queue may send per second.
const ANSWERS_PER_SECOND: u32 = 200;
/// Verified credentials that are remembered, about 1 KiB each.
const CREDENTIALS: usize = 1 << 17;
/// Flow events between the queue threads and the log.
const EVENTS: usize = 4096;

/// A generator with the kernel's randomness as its seed.
///
/// # Errors
/// When the kernel gives none.
pub fn rng() -> anyhow::Result<ChaCha20Rng> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("the kernel gives no randomness")?;
    Ok(ChaCha20Rng::from_seed(seed))
}

/// The interfaces of the configuration: the nodes' side first, each once.
#[must_use]
pub fn interface_names(config: &Config) -> Vec<String> {
    let mut names = vec![config.lan.interface.clone()];
    if !config.one_interface() {
        names.push(config.wan.interface.clone());
    }
    names
}

/// What the interfaces have in common; of those that are not there the preflight speaks.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The most receive queues.
    pub queues: u32,
    /// The largest MTU.
    pub mtu: u32,
}

/// See [`Facts`].
#[must_use]
pub fn facts(interfaces: &[String]) -> Facts {
    let nics = interfaces.iter().filter_map(|name| Nic::query(name).ok());
    let start = Facts {
        queues: 1,
        mtu: 1500,
    };
    nics.fold(start, |facts, nic| Facts {
        queues: facts.queues.max(nic.rx_queues),
        mtu: facts.mtu.max(nic.mtu),
    })
}

/// Attaches to all interfaces. What is ours is dropped there until queue threads serve it.
///
/// # Errors
/// When a NIC refuses, with the remedy.
pub fn attach(
    config: &Config,
    steer: &Steering,
    world: &World,
    members: &members::Stored,
) -> anyhow::Result<Vec<Attachment>> {
    let others = world.federation.clusters.iter();
    let others = others.filter(|cluster| cluster.name != config.cluster);
    let remote: Vec<_> = others
        .flat_map(|c| c.pod_ranges.iter().map(sources::PodRange::seen))
        // No file names those that were joined by a token.
        .chain(members.prefixes())
        .collect();
    let names = interface_names(config);
    let mut attachments = Vec::with_capacity(names.len());
    for name in &names {
        let wanted = steering(config, name, &remote);
        attachments.push(steer.attach(name, &wanted, config.xdp_mode)?);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    steer.retire_all_but(&names)?;
    Ok(attachments)
}

/// The data plane with a snapshot that lets nothing through; `share` of a core is for the signatures of each
/// upstream.
///
/// # Errors
/// When the kernel gives no randomness.
pub fn data_plane(domain: &TrustDomain, share: CoreShare) -> anyhow::Result<Arc<Shared>> {
    let mut rng = rng()?;
    let mut key = || {
        let mut key = [0; 16];
        rng.fill_bytes(&mut key);
        key
    };
    let cache: Arc<dyn CredentialCache> = Arc::new(SharedCache::new(CREDENTIALS, &key()));
    let signatures = SignatureLimits {
        share,
        cost: Cost::Measured(thread_time),
    };
    let limits = Limits {
        signatures,
        ..Limits::default()
    };
    Ok(Arc::new(Shared {
        dataplane: Dataplane::new(&limits, &key(), &cache),
        snapshot: ArcSwap::from_pointee(Snapshot::closed(domain.clone())),
        tap: Tap::default(),
    }))
}

/// The running queue threads and what can be known of them.
pub struct Queues {
    /// One per queue index.
    pub threads: Vec<QueueThread>,
    /// The counts of each.
    pub published: Vec<Published>,
    /// What they say of flows.
    pub events: mpsc::Receiver<Event>,
    /// The kernel's counters, by queue and interface.
    pub statistics: Vec<(String, StatisticsHandle)>,
    /// How packets come in, for people.
    pub interfaces: Value,
}

/// Binds a socket to every queue: one set per queue index.
///
/// # Errors
/// When a queue is taken, or there is no memory.
pub fn sockets(attachments: &[Attachment]) -> anyhow::Result<Vec<QueueSet>> {
    let nics: Vec<&Nic> = attachments.iter().map(Attachment::nic).collect();
    let count = nics.iter().map(|nic| nic.rx_queues).max().unwrap_or(1);
    let open = |queue| QueueSet::open(&nics, queue, RingSizes::default());
    Ok((0..count).map(open).collect::<Result<_, _>>()?)
}

/// Lets packets into `sets` and starts a thread for each.
///
/// # Errors
/// When a queue cannot be served, or the system has no thread left.
pub fn queues(
    attachments: &mut [Attachment],
    sets: Vec<QueueSet>,
    shared: &Arc<Shared>,
    clock: Clock,
) -> anyhow::Result<Queues> {
    let count = sets.len();
    let ports = match attachments.len() {
        1 => Ports::One,
        _ => Ports::Two,
    };
    let (sender, events) = mpsc::channel(EVENTS);
    let mut queues = Queues {
        threads: Vec::new(),
        published: Vec::new(),
        events,
        statistics: Vec::new(),
        interfaces: Value::Null,
    };
    let mut described = Map::new();
    for (queue, set) in (0..).zip(sets) {
        for (attachment, port) in attachments.iter_mut().zip(&set.ports) {
            attachment.insert(port)?;
            let name = attachment.nic().name.clone();
            queues.statistics.push((name, port.statistics_handle()));
        }
        for (attachment, port) in attachments.iter().zip(&set.ports) {
            let nic = attachment.nic();
            let about = json!({
                "xdp": attachment.mode().map(gateway_xdp::AttachMode::as_str),
                "adopted": attachment.adopted(),
                "queues": count,
                "copy_mode": port.mode().as_str(),
                "mtu": nic.mtu,
            });
            described.insert(nic.name.clone(), about);
        }
        let worker = Worker::new(
            Arc::clone(shared),
            queue as usize,
            ports,
            ANSWERS_PER_SECOND,
            sender.clone(),
        );
        queues.published.push(worker.published());
        queues
            .threads
            .push(QueueThread::start(queue, set, worker, clock)?);
    }
    queues.interfaces = Value::Object(described);
    Ok(queues)
}

/// Reads what the kernel counted, per interface.
pub fn kernel_counters(
    attachments: Arc<Mutex<Vec<Attachment>>>,
    statistics: Vec<(String, StatisticsHandle)>,
) -> Box<dyn Fn() -> Value + Send + Sync> {
    Box::new(move || {
        let mut all: BTreeMap<String, BTreeMap<&str, u64>> = BTreeMap::new();
        let attachments = attachments.lock().unwrap_or_else(PoisonError::into_inner);
        for attachment in attachments.iter() {
            let counters = attachment.counters().unwrap_or_default();
            let entry = all.entry(attachment.nic().name.clone()).or_default();
            entry.insert("redirected", counters.redirected);
            entry.insert("passed", counters.passed);
            entry.insert("missed", counters.missed);
        }
        drop(attachments);
        for (name, handle) in &statistics {
            let counted = handle.read().unwrap_or_default();
            let entry = all.entry(name.clone()).or_default();
            for (what, count) in [
                ("rx_dropped", counted.rx_dropped),
                ("rx_ring_full", counted.rx_ring_full),
                ("fill_ring_empty", counted.fill_ring_empty),
                ("tx_invalid", counted.tx_invalid),
            ] {
                *entry.entry(what).or_default() += count;
            }
        }
        json!(all)
    })
}

/// Keys and the machines that remember.
pub struct Keys {
    /// The keys by which the cluster is believed.
    pub store: KeyStore,
    /// The gateway's own certificate, once there is one: [`Keys::adopt`].
    pub svid: Option<Svid>,
    /// What peers say.
    pub peering: Peering,
    /// What nodes are told.
    pub issuer: Issuer,
    /// Who may enrol.
    pub gate: EnrolGate,
}

impl Keys {
    /// Loads what is stored, and makes what is not.
    ///
    /// # Errors
    /// When something stored is damaged: without its memory a gateway would believe old things.
    pub fn load(
        state: &State,
        config: &Config,
        domain: &TrustDomain,
        audit: &AuditLog,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let store = key_store(state, config, domain, clock)?;
        let now = clock.now();
        let id = gateway_id(domain, &config.name).context("name")?;
        let root = store.signing_root();
        let svid = root.map(|root| own_svid(&root.load(), &id, audit, now.unix));
        let svid = svid.transpose()?;

        let mut peering_config = PeeringConfig::new(domain.clone());
        peering_config.tunnel_port = config.wan.psp_port;
        let queues = facts(&interface_names(config)).queues;
        peering_config.queues = u8::try_from(queues).unwrap_or(u8::MAX);
        let stored = state.load_sealed(MAX_STATE as u64)?;
        let made = Peering::new(
            peering_config,
            store.issuer_key(),
            stored,
            Box::new(rng()?),
            now,
        );
        let mut peering = made.map_err(|(file, e)| anyhow::anyhow!("{file}: {e}"))?;
        if svid.is_some() {
            peering.set_own_keys(store.own_keys(), now);
        }

        let issuer_config = IssuerConfig::new(domain.clone());
        let memory = state.load("issuer")?;
        let key = store.issuer_key();
        let mut issuer = Issuer::new(issuer_config, key, memory, Box::new(rng()?), now);
        if let Some(root) = store.signing_root() {
            issuer.set_signing_root(root.load().pin().0);
        }

        let mut secrets = BTreeMap::new();
        for node in &config.nodes {
            if let Some(hash) = &node.enrol_secret_hash {
                let hash: SecretHash = hash
                    .parse()
                    .with_context(|| format!("nodes: enrolSecretHash of {}", node.name))?;
                secrets.insert(node.name.clone(), hash);
            }
        }
        let spent = state.load("enrolled")?;
        let mut gate = EnrolGate::new(domain.clone(), secrets, spent);
        if peering.restored().is_some() {
            // One that was used since the backup must not be good again.
            gate.void_secrets();
            state.store("enrolled", gate.spent())?;
        }
        Ok(Self {
            store,
            svid,
            peering,
            issuer,
            gate,
        })
    }
}

/// The keys of this gateway's cluster, which are in their Secret too when this returns, if there is to be one.
/// Not to be called within a runtime.
///
/// # Errors
/// As [`KeyStore::open`], [`Keeper::before`] and [`Keeper::after`].
pub fn key_store(
    state: &State,
    config: &Config,
    domain: &TrustDomain,
    clock: Clock,
) -> anyhow::Result<KeyStore> {
    let (root, issuer_key) = config.rotation.lives();
    let refresh = PeeringConfig::new(domain.clone()).refresh_hint();
    let schedules = Schedules::new(root, issuer_key, refresh);
    let keys = &config.keys;
    let protection = Protection {
        passphrase: passphrase::read(keys)?,
        signer: keys.signer_command.clone().map(SignerCommand::new),
        on_disk: keys.new_roots_on_disk(),
        no_roots: config.svid.is_some(),
    };
    let now = clock.now().unix;
    let mut rng = rng()?;
    let mut open = |protection| KeyStore::open(state, domain, protection, schedules, &mut rng, now);
    let Some(kept) = &keys.secret else {
        return open(protection);
    };
    // Neither the gateway's own runtime nor any right that it gives up is there yet.
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let copies = Copies::new(state, domain, protection.clone());
        let keeper = Keeper::new(kept, domain, copies, clock).await?;
        keeper.before(state).await?;
        let store = open(protection)?;
        keeper.after(state).await?;
        Ok(store)
    })
}

/// The addresses that the gateway listens on, taken before anything else is: some ports need rights
/// that a running gateway has not.
pub struct Listeners {
    /// QUIC, of other gateways.
    pub peers: UdpSocket,
    /// QUIC, of agents.
    pub nodes: UdpSocket,
    /// Where /metrics is served.
    pub metrics: TcpListener,
}

/// See [`Listeners`].
///
/// # Errors
/// When an address is taken or not of this machine.
pub fn listeners(config: &Config) -> anyhow::Result<Listeners> {
    fn bind<T>(
        field: &str,
        address: SocketAddr,
        bind: fn(SocketAddr) -> io::Result<T>,
    ) -> anyhow::Result<T> {
        bind(address).with_context(|| format!("{field}: cannot listen on {address}"))
    }
    let wan = SocketAddr::new(config.wan.address, config.wan.quic_port);
    let lan = SocketAddr::new(config.lan.address, config.lan.node_port);
    Ok(Listeners {
        peers: bind("wan.quicPort", wan, UdpSocket::bind)?,
        nodes: bind("lan.nodePort", lan, UdpSocket::bind)?,
        metrics: bind("metrics", config.metrics, TcpListener::bind)?,
    })
}

/// Where sessions come from.
pub struct Network {
    /// Towards gateways of other clusters.
    pub peer_endpoint: Endpoint,
    /// What arrives there.
    pub peer_arrivals: mpsc::Receiver<Arrival>,
    /// Towards nodes.
    pub node_endpoint: Endpoint,
    /// What arrives there.
    pub node_arrivals: mpsc::Receiver<Arrival>,
    /// Whom the first one believes.
    pub peer_trust: Trust,
    /// Whom the second one believes.
    pub node_trust: Trust,
    /// Who both are.
    pub identity: Identity,
}

/// Both endpoints. To be called within a runtime.
///
/// # Errors
/// When there is no randomness.
pub fn network(peers: UdpSocket, nodes: UdpSocket, keys: &Keys) -> anyhow::Result<Network> {
    let domain = keys.store.trust_domain();
    let svid = keys.svid.clone().context("no X.509-SVID")?;
    let identity = Identity::new(svid);
    let peer_trust = Trust::new(domain.clone());
    let node_trust = Trust::new(domain.clone());
    node_trust.set(domain.clone(), Anchor::Roots(keys.store.x509_roots()));
    let over = |socket: UdpSocket, trust: &Trust, protocols: &[Protocol]| {
        let limits = quic::Limits::default();
        Endpoint::over(socket, identity.clone(), trust.clone(), protocols, limits)
    };
    let (peer_endpoint, peer_arrivals) =
        over(peers, &peer_trust, &[Protocol::Peer, Protocol::Join])?;
    let (node_endpoint, node_arrivals) =
        over(nodes, &node_trust, &[Protocol::Node, Protocol::Enrol])?;
    Ok(Network {
        peer_endpoint,
        peer_arrivals,
        node_endpoint,
        node_arrivals,
        peer_trust,
        node_trust,
        identity,
    })
}

/// Who judges the tokens of agents, if the configuration says whose they are.
///
/// # Errors
/// When nothing says how to reach the API server.
pub async fn token_reviewer(config: &Config) -> anyhow::Result<Option<TokenReviewer>> {
    let (Some(agents), Source::Kubernetes(server)) = (&config.agents, &config.source) else {
        return Ok(None);
    };
    let account = agents
        .account()
        .context("agents.serviceAccount: NAMESPACE/NAME is expected")?;
    let reviewer = TokenReviewer::new(server, account, &agents.audience).await?;
    Ok(Some(reviewer))
}
