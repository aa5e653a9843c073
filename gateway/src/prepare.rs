//! What a gateway does before it gives up its rights, with one thread: everything that needs them,
//! and everything that can be refused, the attachment last.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, bail};
use gateway_xdp::{Attachment, Plan, QueueSet, RingSizes, Steering, preflight};
use identity::TrustDomain;
use observe::AuditLog;
use sources::World;
use tokio::runtime;
use tracing::{error, info, warn};

use crate::{
    bundles,
    clock::Clock,
    config::Config,
    hub::members,
    pipeline::Shared,
    signals,
    start::{self, Keys, Listeners},
    state::State,
    unmounter::Unmounter,
};

/// All of it.
pub struct Prepared {
    /// The configuration file.
    pub config: Config,
    /// Both clocks.
    pub clock: Clock,
    /// The state directory.
    pub state: State,
    /// The own cluster.
    pub domain: TrustDomain,
    /// The audit log.
    pub audit: AuditLog,
    /// Keys and the machines that remember.
    pub keys: Keys,
    /// The addresses that it listens on.
    pub listeners: Listeners,
    /// Where the own bundle is to be served.
    pub bundle_endpoint: Option<bundles::Waiting>,
    /// Attaches and detaches.
    pub steering: Steering,
    /// Unmounts at the end.
    pub unmounter: Option<Unmounter>,
    /// The steering program on each interface.
    pub attachments: Vec<Attachment>,
    /// The sockets of each queue.
    pub sets: Vec<QueueSet>,
    /// The data plane.
    pub shared: Arc<Shared>,
}

/// Prepares everything. SIGTERM and SIGINT are held back from the moment there is something to take
/// back.
///
/// # Errors
/// What stands against it, in words. Nothing is attached then that was not before.
pub fn prepare(config: Config) -> anyhow::Result<Prepared> {
    let clock = Clock::start();
    check(&config)?;
    let world = own_world(&config)?;
    let domain = world.cluster.trust_domain.clone();
    let listeners = start::listeners(&config)?;
    let bundle_endpoint = config.bundle_endpoint.as_ref().map(bundles::listen);
    let bundle_endpoint = bundle_endpoint.transpose()?;
    let state = State::open(&config.state_dir)?;
    let steering = Steering::open(&config.state_dir)?;
    let unmounter = Unmounter::start(&config.state_dir);
    let unmounter = unmounter.context("start the process that unmounts at the end")?;
    let members = members::load(&state)?;
    let audit = AuditLog::new(&config.state_dir);
    let keys = Keys::load(&state, &config, &domain, &audit, clock)?;
    let shared = start::data_plane(&domain, config.limits.signature_budget)?;

    signals::hold()?;
    let unused = steering.is_unused();
    // From here on the kernel routes nothing of ours in clear.
    let attached = start::attach(&config, &steering, &world, &members).and_then(|attachments| {
        let sets = start::sockets(&attachments)?;
        Ok((attachments, sets))
    });
    let (attachments, sets) = match attached {
        Ok(attached) => attached,
        Err(e) if unused => {
            // A NIC refused what could not be foreseen: it is as if nothing had been tried.
            if let Err(e) = take_back(steering, unmounter) {
                error!("it stays attached, and closed: {e:#}");
            }
            return Err(e);
        }
        Err(e) => return Err(e),
    };
    Ok(Prepared {
        config,
        clock,
        state,
        domain,
        audit,
        keys,
        listeners,
        bundle_endpoint,
        steering,
        unmounter,
        attachments,
        sets,
        shared,
    })
}

/// Detaches everything and unmounts.
///
/// # Errors
/// When something stays attached, and closed.
pub fn take_back(steering: Steering, unmounter: Option<Unmounter>) -> anyhow::Result<()> {
    let closed = steering.close()?;
    match unmounter.map(Unmounter::unmount) {
        Some(Err(e)) => warn!("the BPF file system stays mounted: {e:#}"),
        Some(Ok(())) => {}
        None => info!("the BPF file system stays mounted"),
    }
    drop(closed);
    Ok(())
}

/// What the source says of this cluster at this moment. Leaves no thread behind.
///
/// # Errors
/// When it cannot be read, or the federation has no such cluster.
pub fn own_world(config: &Config) -> anyhow::Result<World> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(config.source.look(&config.cluster))?)
}

/// What stands against running here, all of it at once.
fn check(config: &Config) -> anyhow::Result<()> {
    let sizes = RingSizes::default();
    let interfaces = start::interface_names(config);
    let facts = start::facts(&interfaces);
    let count = interfaces.len() as u32;
    let problems = preflight(&Plan {
        state: PathBuf::clone(&config.state_dir),
        interfaces,
        mode: config.xdp_mode,
        memory: QueueSet::memory(count, facts.queues, facts.mtu, sizes),
    });
    if problems.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = problems
        .iter()
        .map(|problem| format!("\n- {problem}"))
        .collect();
    bail!("the gateway cannot run here:{}", list.concat());
}
