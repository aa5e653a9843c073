//! From a configuration file to a running gateway, and back.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex, atomic::Ordering},
};

use anyhow::{Context, bail};
use identity::TrustDomain;
use metrics_exporter_prometheus::PrometheusBuilder;
use observe::{AdminSocket, serve_http};
use privileges::CapabilitySet;
use quic::{Pin, renew};
use serde_json::{Value, json};
use sources::Viewer;
use tokio::{
    runtime,
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Duration, sleep, timeout},
};
use tracing::{error, info};

use crate::{
    capture::Capturer,
    clock::Clock,
    config::Config,
    hub::{self, Hub, HubParts, view::Observer},
    nexthops::NextHopWatch,
    prepare::{Prepared, own_world, prepare, take_back},
    root_map,
    secret::Keeper,
    signals::Signals,
    signing::Desk,
    start::{self, Network, Queues},
    state::{State, own_svid},
    workloads,
};

/// What a running gateway needs: neighbour entries (CAP_NET_ADMIN), and the maps of the steering
/// program where the kernel asks for CAP_BPF even from a process that holds them.
const RUNNING: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::BPF);
/// How long the end waits for peers and nodes to hear of it.
const GOODBYE: Duration = Duration::from_millis(200);

/// Makes the keys of the gateway, if they are not there, and says the pin of its root.
///
/// # Errors
/// When the state directory or the source cannot be used.
pub fn init(config: &Config) -> anyhow::Result<Value> {
    let domain = own_world(config)?.cluster.trust_domain;
    let state = State::open(&config.state_dir)?;
    let clock = Clock::start();
    let keys = start::key_store(&state, config, &domain, clock)?;
    let pin = match keys.root_pin() {
        Some(pin) => pin,
        None => runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(shown_root(config, &domain, clock))?,
    };
    Ok(json!({"rootPin": pin.to_string(), "trustDomain": domain}))
}

/// The pin of the root that the Workload API's X.509-SVID leads to.
async fn shown_root(config: &Config, domain: &TrustDomain, clock: Clock) -> anyhow::Result<Pin> {
    let followed = workloads::follow(config, domain, clock)?;
    let mut standing = followed.context("there is no X.509 root")?;
    Ok(workloads::first(&mut standing).await?.root)
}

/// Runs the gateway until SIGTERM or SIGINT, then takes everything back. A second signal meanwhile ends
/// the process where it stands, as a crash does: closed.
///
/// # Errors
/// When it cannot start, or a part of it ended, in words. What it had attached stays closed then.
pub fn run(config: Config) -> anyhow::Result<()> {
    let prepared = prepare(config)?;
    // Before any other thread is there.
    privileges::keep(RUNNING).context("give up capabilities")?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(serve(prepared));
    // Whoever still waits for a signer does so in vain.
    runtime.shutdown_background();
    ended
}

/// Takes the interfaces and leaves them so. What is the gateway's own is dropped until one runs and adopts
/// them.
///
/// # Errors
/// When it cannot, in words.
pub fn close(config: Config) -> anyhow::Result<()> {
    // As after a crash: the attachment outlives what made it, and its sockets do not.
    drop(prepare(config)?);
    info!("closed: nothing of a peer's is routed here until a gateway runs");
    Ok(())
}

async fn serve(prepared: Prepared) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let Prepared {
        config,
        clock,
        state,
        domain,
        audit,
        mut keys,
        listeners,
        bundle_endpoint,
        steering,
        unmounter,
        mut attachments,
        sets,
        shared,
    } = prepared;
    let mut issued = workloads::follow(&config, &domain, clock)?;
    if let Some(standing) = &mut issued {
        let first = tokio::select! {
            first = workloads::first(standing) => first?,
            _ = signals.next() => return take_back(steering, unmounter),
        };
        keys.adopt(&first, &audit, clock.now())?;
    }
    let members = hub::members::clusters(&hub::members::load(&state)?.members);
    let viewer = Viewer::Gateway(config.name.clone());
    let opened = config.source.open(&config.cluster, &viewer, members);
    let (world, joined) = tokio::select! {
        opened = opened => opened?,
        _ = signals.next() => return take_back(steering, unmounter),
    };
    let Queues {
        threads,
        published,
        events,
        statistics,
        interfaces,
    } = start::queues(&mut attachments, sets, &shared, clock)?;
    let attachments = Arc::new(Mutex::new(attachments));

    let Network {
        peer_endpoint,
        peer_arrivals,
        node_endpoint,
        node_arrivals,
        peer_trust,
        node_trust,
        identity,
    } = start::network(listeners.peers, listeners.nodes, &keys)?;
    let (destinations, wanted) = watch::channel(BTreeSet::new());
    let names = start::interface_names(&config);
    let hops = NextHopWatch::start(names, wanted).await?;
    let (own_bundle, published_bundle) = watch::channel(Arc::from(""));
    let (root, renew_svid) = (keys.store.signing_root(), Arc::new(Notify::new()));
    let id = identity.current().id().clone();
    let desk = Desk::default();
    let keeper = match &config.keys.secret {
        Some(kept) => Some(Keeper::new(kept, &domain, keys.store.copies(), clock).await?),
        None => None,
    };
    let own_world = world.clone();
    let reviewer = start::token_reviewer(&config).await?;
    let root_map = root_map::writer(&config).await?;
    let hub = Hub::new(HubParts {
        trust_domain: domain,
        keys: keys.store,
        desk: desk.clone(),
        audit: audit.clone(),
        renew_svid: Arc::clone(&renew_svid),
        identity: identity.clone(),
        issued,
        keeper,
        peering: keys.peering,
        issuer: keys.issuer,
        gate: keys.gate,
        reviewer,
        peer_endpoint: peer_endpoint.clone(),
        peer_arrivals,
        node_arrivals,
        peer_trust,
        node_trust,
        own_bundle,
        world,
        joined,
        hops: hops.tables(),
        destinations,
        shared: Arc::clone(&shared),
        events,
        attachments: Arc::clone(&attachments),
        rng: start::rng()?,
        config: config.clone(),
        state,
        clock,
    })?;

    let ended: Vec<_> = threads.iter().map(|thread| thread.ended()).collect();
    let observer = Arc::new(Observer {
        name: format!("{}/{}", config.cluster, config.name),
        source: config.source.clone(),
        world: own_world,
        view: hub.view(),
        commands: hub.commands(),
        capturer: Capturer {
            shared: Arc::clone(&shared),
            gateway: format!("{}/{}", config.cluster, config.name),
            interfaces: [config.lan.interface.clone(), config.wan.interface.clone()],
            audit: audit.clone(),
        },
        shared,
        queues: published,
        interfaces,
        kernel: start::kernel_counters(Arc::clone(&attachments), statistics),
        dead: Box::new(move || ended.iter().any(|ended| ended.load(Ordering::Relaxed))),
        recorder: PrometheusBuilder::new().install_recorder()?,
    });
    let admin = AdminSocket::bind(&config.state_dir)?.serve(observer.clone());
    let admin = tokio::spawn(admin);
    let http = tokio::spawn(serve_http(listeners.metrics, observer.clone()));
    let bundle_endpoint = bundle_endpoint
        .map(|waiting| waiting.serve(identity.clone(), published_bundle))
        .transpose()?;
    let (stop, stopped) = watch::channel(false);
    let hub = tokio::spawn(hub.run(stopped));
    info!(signature_budget = %config.limits.signature_budget, "running");

    let told_root = root.clone();
    let renewing = async {
        let Some(root) = root else {
            // The hub takes what the Workload API issues.
            return std::future::pending().await;
        };
        let issue = async |_: &quic::Svid| {
            let (root, id, audit) = (root.load_full(), id.clone(), audit.clone());
            let sign = move || own_svid(&root, &id, &audit, clock.now().unix);
            desk.run(sign).await
        };
        renew(identity, || clock.now().unix, renew_svid, issue).await
    };
    let telling = async {
        match (root_map, told_root) {
            (Some(writer), Some(root)) => root_map::keep(writer, root).await,
            _ => std::future::pending().await,
        }
    };
    let end = tokio::select! {
        () = telling => Ok(()),
        end = until_end(&mut signals, &observer, &hub, &http, bundle_endpoint.as_ref()) => end,
        // The gateway's own certificate, for as long as it runs.
        () = renewing => Ok(()),
    };
    tokio::spawn(async move {
        let number = signals.next().await;
        // As a shell says of a process that this signal ended.
        std::process::exit(128 + number);
    });
    info!("ending");
    // The other way round: peers and nodes hear it, then packets stop, and only after a clean end
    // the kernel has the interfaces back.
    stop.send_replace(true);
    if hub.await.is_err() {
        error!("the hub panicked");
    }
    admin.abort();
    http.abort();
    if let Some(endpoint) = bundle_endpoint {
        endpoint.abort();
    }
    // Both hold the observer until they are gone; that they were aborted is no news.
    let _ = (admin.await, http.await);
    // Whoever does not hear it finds out by itself.
    let why = "this gateway ends";
    let goodbye = async { tokio::join!(peer_endpoint.close(why), node_endpoint.close(why)) };
    let _ = timeout(GOODBYE, goodbye).await;
    hops.close().await;
    for thread in threads {
        if let Err(e) = thread.stop() {
            error!("a queue thread ended: {e}");
        }
    }
    end?;
    take_back(steering, unmounter)?;
    info!("ended");
    Ok(())
}

/// Until a signal says so. An error when a part ended by itself.
async fn until_end(
    signals: &mut Signals,
    observer: &Observer,
    hub: &JoinHandle<()>,
    http: &JoinHandle<io::Result<()>>,
    bundle_endpoint: Option<&JoinHandle<()>>,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            _ = signals.next() => return Ok(()),
            () = sleep(Duration::from_millis(500)) => {}
        }
        if hub.is_finished() {
            bail!("the control task ended");
        }
        if http.is_finished() {
            bail!("the metrics endpoint ended");
        }
        if bundle_endpoint.is_some_and(JoinHandle::is_finished) {
            bail!("the bundle endpoint ended");
        }
        if (observer.dead)() {
            bail!("a queue thread ended");
        }
    }
}
