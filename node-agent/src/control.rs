//! The control loop: from the source, the gateway and the kernel's tables to rules and snapshots.
//!
//! A pod that comes has its rules before its snapshot, one that goes loses its snapshot and its
//! connections before its rules: the way is closed first and opened last.

mod answers;
mod start;

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use handshake::node::{Node, NodeSnapshot};
use identity::{BundleMark, TrustDomain};
use metrics_exporter_prometheus::PrometheusHandle;
use peering::member::{AgentMember, MemberEvent};
use policy::Table;
use quic::{Anchor, Trust};
use sources::{Joined, World};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep_until},
};
use tracing::{error, info, warn};

use crate::{
    ask::Ask,
    clock::Clock,
    config::Config,
    conntrack::Conntrack,
    joined,
    judge::FlowLine,
    links::{Links, bridge_netfilter},
    local::LocalPods,
    packet_loop::PacketLoop,
    roots,
    rules::{CounterValues, LinkName, apply::Firewall},
    session::{FromGateway, Standing},
    snapshot,
};

pub use start::{close, lock_state, start};

/// How often the flow log is written and the packet thread is looked at.
const TICK: Duration = Duration::from_millis(500);
/// Lines of the flow log per tick: under attack the counters say the rest.
const LOG_LINES: usize = 100;
/// How many ticks pass between two looks at the kernel: rules, bridge filter, connections.
const LOOK: u32 = 20;

/// Everything that the control loop holds.
pub struct Control {
    config: Config,
    uplink: LinkName,
    clock: Clock,
    world: watch::Receiver<Arc<World>>,
    joined: Joined,
    links: watch::Receiver<Links>,
    table: Arc<Table>,
    member: AgentMember,
    local: LocalPods,
    snapshot: Arc<NodeSnapshot>,
    firewall: Firewall,
    rules_changed: watch::Receiver<u64>,
    packets: PacketLoop<Node>,
    gateway: mpsc::Receiver<FromGateway>,
    standing: Standing,
    trust: Trust,
    /// By which it is believed, in DER; none while it is by the pin.
    roots: Vec<Vec<u8>>,
    signing_root: watch::Sender<Option<[u8; 32]>>,
    issued: Option<watch::Receiver<workload_api::Standing>>,
    sender: Option<quic::Sender>,
    asks: mpsc::Receiver<Ask>,
    recorder: PrometheusHandle,
    marks_file: PathBuf,
    /// The rules' counters when this process began, and packets that came before it.
    base: CounterValues,
    no_agent: u64,
    bridge_netfilter: Option<bool>,
    /// Pods whose connections could not be removed yet.
    unremoved: BTreeSet<IpAddr>,
    /// Standing trouble, in words.
    policy_problem: Option<String>,
    rules_problem: Option<String>,
    member_problem: Option<String>,
    masqueraded: usize,
    was_ready: bool,
}

impl Control {
    /// Runs until `stop` is done, then takes every rule away.
    ///
    /// # Errors
    /// When the agent cannot go on: then the rules stay, closed.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tick = 0u32;
        tokio::pin!(stop);
        loop {
            let due = self.member.poll_timeout();
            let due = due.map(|due| self.clock.instant(due));
            let timer = async {
                match due {
                    Some(due) => sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = &mut stop => break,
                changed = self.world.changed() => {
                    changed.context("the source is no longer watched")?;
                    self.take_world();
                }
                changed = self.links.changed() => {
                    changed.context("interfaces are no longer followed")?;
                    self.place_pods();
                }
                message = self.gateway.recv() => {
                    self.take_message(message.context("the session task ended")?);
                }
                () = timer => self.member.handle_timeout(self.clock.now()),
                Some(ask) = self.asks.recv() => self.answer(ask),
                changed = self.rules_changed.changed() => {
                    changed.context("changes of the rules are no longer seen")?;
                    self.repair_rules();
                }
                _ = ticks.tick() => {
                    tick = tick.wrapping_add(1);
                    if !self.packets.is_running() {
                        bail!("the packet thread ended: new connections are closed");
                    }
                    self.write_flow_log();
                    if tick.is_multiple_of(LOOK) {
                        self.look_at_kernel();
                    }
                }
            }
            self.drain_member();
        }
        self.end()
    }

    /// A new world: policies first, then pods.
    fn take_world(&mut self) {
        let world = self.world.borrow_and_update().clone();
        match self.table.update(&world.policies) {
            Ok(table) => {
                self.table = Arc::new(table);
                self.policy_problem = None;
            }
            // The last policies that could be compiled stay in force.
            Err(error) => {
                let words =
                    format!("the policies cannot be compiled, the last stay in force: {error}");
                warn!("{words}");
                self.policy_problem = Some(words);
            }
        }
        for problem in &world.problems {
            warn!("{problem}");
        }
        self.member
            .set_pods(world.workloads.clone(), self.clock.now());
        self.place_pods();
    }

    /// Brings rules, snapshot and connections to where the pods are now.
    fn place_pods(&mut self) {
        let world = self.world.borrow().clone();
        let next = LocalPods::find(
            &world,
            &self.config.node,
            &self.links.borrow_and_update(),
            &self.uplink,
        );
        self.unremoved.extend(self.local.gone(&next));
        let rates = self.config.limits.rates();
        let filtered = self.bridge_netfilter.unwrap_or_default();
        let servers = &self.config.name_servers;
        let rules = next.rules(&world, &self.uplink, servers, rates, filtered);
        // What comes is closed before it is decided on, what goes stays closed until it is gone.
        let mut both = rules.clone();
        for (address, port) in &self.firewall.rules().pods {
            both.pods.entry(*address).or_insert_with(|| port.clone());
        }
        let first = self.firewall.update(both);
        self.local = next;
        self.publish();
        self.unremoved
            .retain(|address| match self.packets.remove_pod(*address) {
                Ok(_) => false,
                Err(error) => {
                    warn!(%address, %error, "connections of a removed pod stay in the table");
                    true
                }
            });
        let applied = first.and_then(|()| self.firewall.update(rules));
        self.rules_problem = applied.err().map(|error| {
            let words = format!("rules could not be changed: {error}");
            error!("{words}");
            words
        });
    }

    /// Builds the next snapshot and gives it to the packet thread.
    fn publish(&mut self) {
        let world = self.world.borrow().clone();
        let epoch = self.snapshot.epoch + 1;
        let next = snapshot::build(epoch, &world, &self.table, &self.member, &self.local);
        let touched = self.snapshot.touched_by(&next);
        let next = Arc::new(next);
        self.snapshot = next.clone();
        if self.packets.set_snapshot(next, touched).is_err() {
            // The tick ends the process.
            error!("the packet thread takes no snapshot");
        }
    }

    fn take_message(&mut self, message: FromGateway) {
        let now = self.clock.now();
        match message {
            FromGateway::Up(sender) => {
                self.sender = Some(sender);
                self.member.handle_connected(now);
            }
            FromGateway::Message(bytes) => self.member.handle_message(&bytes, now),
            FromGateway::Down => {
                self.sender = None;
                self.member.handle_disconnected(now);
            }
        }
    }

    /// Sends what the member has to say, and acts on what it found.
    fn drain_member(&mut self) {
        while let Some(bytes) = self.member.poll_transmit() {
            let Some(sender) = &self.sender else { break };
            if let Err(error) = sender.try_send(bytes) {
                // What was not sent is asked again in the next session.
                sender.close(&format!("cannot send: {error}"));
                break;
            }
        }
        let mut changed = false;
        while let Some(event) = self.member.poll_event() {
            match event {
                MemberEvent::Changed => changed = true,
                MemberEvent::ClustersChanged => self.take_clusters(),
                MemberEvent::SigningRoot(root) => {
                    self.signing_root.send_replace(Some(root));
                }
                MemberEvent::MarksChanged => self.store_marks(),
                MemberEvent::RecordsMissed => warn!(
                    "records of other nodes' pods were missed: their flows keep old labels until \
                     they are opened anew"
                ),
                MemberEvent::Problem(words) => {
                    warn!("{words}");
                    self.member_problem = Some(words);
                }
            }
        }
        if changed {
            self.trust_bundle();
            self.publish();
        }
    }

    /// The roots of the own cluster's bundle take the place of the pin. Those of a Workload API do not come by
    /// the gateway that they are to prove.
    fn trust_bundle(&mut self) {
        let Ok(Some(pin)) = self.config.pin() else {
            return;
        };
        let own = &self.snapshot.own;
        if let Some(bundle) = self.member.bundles().bundle(own)
            && !bundle.x509_roots.is_empty()
            && self.roots != bundle.x509_roots
        {
            let roots = bundle.x509_roots.clone();
            let stored = roots::store(&self.config.state_dir, pin, &roots);
            if let Err(error) = stored {
                warn!("the roots of this cluster are not stored: {error:#}");
            }
            self.trust.set(own.clone(), Anchor::Roots(roots.clone()));
            self.roots = roots;
        }
    }

    /// Policies may name clusters that were joined.
    fn take_clusters(&self) {
        let clusters = joined::clusters(self.member.clusters());
        if let Err(error) = joined::store(&self.config.state_dir, &clusters) {
            warn!("the clusters that were joined are not stored: {error:#}");
        }
        self.joined.set(clusters);
    }

    fn store_marks(&self) {
        let marks: Vec<(&TrustDomain, &BundleMark)> = self.member.bundle_marks().iter().collect();
        let stored = serde_json::to_vec(&marks)
            .map_err(anyhow::Error::from)
            .and_then(|bytes| Ok(quic::write_secret(&self.marks_file, &bytes)?));
        if let Err(error) = stored {
            warn!("the sequence of bundles is not stored, an older one could come back: {error:#}");
        }
    }

    fn write_flow_log(&mut self) {
        let Ok(lines) = self.packets.ask(|judge, _| judge.take_log()) else {
            return;
        };
        let unsaid = lines.len().saturating_sub(LOG_LINES);
        if unsaid > 0 {
            info!(target: "flow", "{unsaid} more lines are left out");
        }
        for line in lines.into_iter().take(LOG_LINES) {
            match line {
                FlowLine::Opened(flow, rule) => info!(target: "flow", %flow, %rule, "opened"),
                FlowLine::Cut(flow, reason) => info!(target: "flow", %flow, %reason, "cut"),
                FlowLine::Refused(flow, reason, rule) => {
                    info!(target: "flow", %flow, %reason, %rule, "refused");
                }
                FlowLine::Logged(flow, rule) => info!(target: "flow", %flow, %rule, "logged"),
                FlowLine::Staged(flow, dropped, rule) => {
                    let verdict = dropped.map_or("allowed", policy::DropReason::as_str);
                    info!(target: "flow", %flow, verdict, %rule, "staged");
                }
            }
        }
    }

    /// Puts back rules that somebody took, re-checks the bridge filter, and forgets flows that the
    /// kernel no longer tracks.
    fn look_at_kernel(&mut self) {
        self.repair_rules();
        let filtered = bridge_netfilter().unwrap_or_default();
        if filtered != self.bridge_netfilter {
            self.bridge_netfilter = filtered;
            self.place_pods();
        } else if !self.unremoved.is_empty() {
            self.place_pods();
        }
        if let Err(error) = self.reconcile() {
            warn!("the connection table could not be read: {error}");
        }
    }

    fn repair_rules(&mut self) {
        match self.firewall.repair() {
            Ok(true) => warn!("somebody removed rules of ours; they are back"),
            Ok(false) => {}
            Err(error) => warn!("rules could not be checked: {error}"),
        }
    }

    fn reconcile(&mut self) -> anyhow::Result<()> {
        // The age is read first: a flow that is opened during the look is younger than it.
        let age = self.packets.ask(|judge, _| judge.age())?;
        let marked = Conntrack::open()?.marked()?;
        let between_identities = |flow: &wire::flow::FlowKey| {
            self.local.served.contains_key(&flow.src)
                && self.snapshot.networks.lookup(flow.dst).is_some()
        };
        self.masqueraded = marked
            .iter()
            .filter(|tracked| tracked.is_source_translated() && between_identities(&tracked.flow()))
            .count();
        let live = marked.iter().filter(|tracked| !tracked.ended);
        self.packets
            .reconcile(age, live.map(|tracked| tracked.flow()).collect())?;
        Ok(())
    }

    /// A clean exit: what was closed is open afterwards, and the log says so.
    fn end(mut self) -> anyhow::Result<()> {
        self.write_flow_log();
        self.firewall
            .remove()
            .context("take the rules away; what is left is closed")?;
        self.packets.stop();
        info!(
            "every rule of ours is gone: pods of this node are not protected until an agent runs"
        );
        Ok(())
    }
}
