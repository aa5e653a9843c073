//! From nothing to a running control loop: closed first, the gateway last.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, bail};
use handshake::{
    budget::{Cost, SignatureLimits},
    node::{Node, NodeLimits},
};
use identity::{BundleMark, TrustDomain};
use metrics_exporter_prometheus::PrometheusHandle;
use nix::fcntl::{Flock, FlockArg};
use peering::member::AgentMember;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use sources::{Joined, Viewer, World};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::Control;
use crate::{
    ask::Ask,
    capture::nfqueue::NfQueue,
    clock::{Clock, thread_time},
    config::Config,
    conntrack::Conntrack,
    handled::HandledCount,
    joined,
    judge::{Judge, Touched},
    links::{self, Links, bridge_netfilter},
    local::LocalPods,
    packet_loop::PacketLoop,
    preflight,
    records::Records,
    rules::{
        self, LinkName, RuleSet,
        apply::{Firewall, Tools, read_counters},
    },
    sender::Sender,
    session, snapshot,
};

/// Stored bundle marks are never longer than this.
const MAX_MARKS: u64 = 1 << 20;

/// Makes the state directory and takes its lock, which ends with the value.
///
/// # Errors
/// When another agent holds it.
pub fn lock_state(directory: &Path) -> anyhow::Result<Flock<File>> {
    let what = || format!("state directory {}", directory.display());
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(what)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).with_context(what)?;
    let file = File::create(directory.join("lock")).with_context(what)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, error)) => bail!("{}: another agent uses it ({error})", what()),
    }
}

/// What the rules are made of.
struct Ground {
    uplink: LinkName,
    world: watch::Receiver<Arc<World>>,
    joined: Joined,
    links: watch::Receiver<Links>,
    local: LocalPods,
    bridge_netfilter: Option<bool>,
    rules: RuleSet,
}

/// Looks at the source and at this machine, and changes nothing.
async fn look(config: &Config) -> anyhow::Result<Ground> {
    let uplink = LinkName::new(&config.uplink)?;
    let known = joined::load(&config.state_dir)?;
    let viewer = Viewer::Node(config.node.clone());
    let opened = config.source.open(&config.cluster, &viewer, known);
    let (mut world, joined) = opened.await?;
    let now_world = world.borrow_and_update().clone();
    for problem in &now_world.problems {
        warn!("{problem}");
    }
    let mut links = links::follow().await?;
    let local = LocalPods::find(
        &now_world,
        &config.node,
        &links.borrow_and_update(),
        &uplink,
    );
    let filtered = bridge_netfilter().context("read the bridge filter")?;
    let rates = config.limits.rates();
    let servers = &config.name_servers;
    let rules = local.rules(
        &now_world,
        &uplink,
        servers,
        rates,
        filtered.unwrap_or_default(),
    );
    check(&rules)?;
    Ok(Ground {
        uplink,
        world,
        joined,
        links,
        local,
        bridge_netfilter: filtered,
        rules,
    })
}

/// Puts the rules in force and leaves them so: until an agent runs, nobody judges what they queue, and
/// it is dropped.
///
/// # Errors
/// Why this node cannot be served. If rules were in force already, they stay.
pub async fn close(config: &Config) -> anyhow::Result<()> {
    let ground = look(config).await?;
    Firewall::adopt(Tools, ground.rules).context("put the rules in force")?;
    Ok(())
}

/// Puts the rules in force, takes over what an earlier agent left, and starts everything.
///
/// # Errors
/// Why this node cannot be served. If rules were in force already, they stay.
pub async fn start(
    config: Config,
    asks: mpsc::Receiver<Ask>,
    recorder: PrometheusHandle,
) -> anyhow::Result<Control> {
    let clock = Clock::start();
    let ground = look(&config).await?;
    let now_world = ground.world.borrow().clone();
    let table = Arc::new(policy::compile(&now_world.policies).context("compile the policies")?);
    let rules_changed = rules::watch::follow().context("follow changes of the rules")?;

    // From here on nothing passes that is not judged.
    let before = read_counters(Tools)?;
    let firewall = Firewall::adopt(Tools, ground.rules).context("put the rules in force")?;
    let queued = before
        .as_ref()
        .and_then(|counters| counters.get("queued").copied());
    let state = &config.state_dir;
    let (handled, no_agent) = HandledCount::open(&state.join("handled"), queued)?;
    let boot =
        fs::read_to_string("/proc/sys/kernel/random/boot_id").context("read the boot's name")?;
    let (records, recovered) =
        Records::open(&state.join("flows"), config.limits.flows, boot.trim())
            .context("open the flow records")?;
    if let Some(why) = recovered.discarded {
        warn!("the flow records were set aside: {why}");
    }
    if recovered.corrupt > 0 {
        warn!(
            "{} flow records were torn and are ignored",
            recovered.corrupt
        );
    }

    let trust_domain = now_world.cluster.trust_domain.clone();
    let marks_file = state.join("bundle-marks");
    let marks = load_marks(&marks_file)?;
    let local = ground.local;
    let mut member = AgentMember::new(
        trust_domain.clone(),
        &config.node,
        marks,
        Box::new(random()?),
        clock.now(),
    );
    member.set_pods(now_world.workloads.clone(), clock.now());
    // Epochs of an earlier process were lower.
    let epoch = clock.now().unix.0;
    let first = Arc::new(snapshot::build(epoch, &now_world, &table, &member, &local));
    let limits = NodeLimits {
        flows: config.limits.flows as usize,
        signatures: SignatureLimits {
            share: config.limits.signature_budget,
            cost: Cost::Measured(thread_time),
        },
        ..NodeLimits::default()
    };
    let mut node = Node::new(first.clone(), limits, Box::new(random()?));
    node.trust_name_servers(config.name_servers.clone());
    let conntrack = Conntrack::open().context("open the connection table")?;
    let sender = Sender::open().context("open a raw socket")?;
    let mut judge = Judge::new(node, conntrack, records, sender, recovered.records)?;
    judge.cut_strangers(|address| local.served.contains_key(&address));
    let (inherited, orphans) = judge.unknown_to_enforcer();
    if inherited + orphans > 0 {
        info!(
            recorded = inherited,
            unrecorded = orphans,
            "flows of an earlier agent go on"
        );
    }
    let capture = NfQueue::open(firewall.rules().queues, config.limits.queue_length)
        .context("bind the queues: does another process hold them?")?;
    let waker = capture.waker();
    let packets = PacketLoop::start(judge, capture, waker, handled, clock)?;
    packets.set_snapshot(first.clone(), Touched::Nothing)?;

    let gateway = session::start(&config, &trust_domain, clock)?;
    for table in preflight::legacy_tables() {
        warn!("legacy iptables table {table:?} is in use beside nftables; its rules still apply");
    }
    Ok(Control {
        uplink: ground.uplink,
        clock,
        world: ground.world,
        joined: ground.joined,
        links: ground.links,
        table,
        member,
        local,
        snapshot: first,
        firewall,
        rules_changed,
        packets,
        gateway: gateway.messages,
        standing: gateway.standing,
        trust: gateway.trust,
        roots: Vec::new(),
        signing_root: gateway.signing_root,
        issued: gateway.issued,
        sender: None,
        asks,
        recorder,
        marks_file,
        base: before.unwrap_or_default(),
        no_agent,
        bridge_netfilter: ground.bridge_netfilter,
        unremoved: Default::default(),
        policy_problem: None,
        rules_problem: None,
        member_problem: None,
        masqueraded: 0,
        was_ready: false,
        config,
    })
}

fn check(rules: &RuleSet) -> anyhow::Result<()> {
    let missing = preflight::check(rules);
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = missing
        .iter()
        .map(|m| format!("  - {}: {}", m.what, m.remedy))
        .collect();
    bail!("this machine cannot run an agent:\n{}", lines.join("\n"))
}

fn load_marks(file: &Path) -> anyhow::Result<BTreeMap<TrustDomain, BundleMark>> {
    let Some(bytes) = quic::read_secret(file, MAX_MARKS)? else {
        return Ok(BTreeMap::new());
    };
    let marks: Vec<(TrustDomain, BundleMark)> = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is damaged; remove it to trust anew", file.display()))?;
    Ok(marks.into_iter().collect())
}

fn random() -> anyhow::Result<ChaCha20Rng> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("the kernel gives no random bytes")?;
    Ok(ChaCha20Rng::from_seed(seed))
}
