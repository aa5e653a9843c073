//! What people and programs see of the gateway: a picture that the hub renews, read by others.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use gateway_core::{FlowView, Totals, track::Sender};
use handshake::{admission::CredentialId, transit::TransitSnapshot};
use identity::TrustDomain;
use metrics_exporter_prometheus::PrometheusHandle;
use observe::{Caller, DescribedPod, Observed, Protocol, Reply, Request, TrustRequest};
use peering::peers::Status;
use policy::{Peer, Query, model::Direction};
use serde_json::{Map, Value, json};
use sources::{Source, World};
use tokio::sync::{mpsc, oneshot, watch};

use super::links::{Command, Input};
use crate::{
    capture::Capturer,
    pipeline::{Published, Shared},
};

/// The most flows of one answer.
const MAX_FLOWS: usize = 10_000;

/// The picture.
#[derive(Clone, Debug)]
pub struct View {
    /// The own cluster and the peers.
    pub peering: Option<Status>,
    /// Nodes: name, whether its agent is connected, addresses of its pods.
    pub nodes: Vec<(String, bool, usize)>,
    /// What is in force, once there is something.
    pub transit: Option<Arc<TransitSnapshot>>,
    /// What keeps the gateway from taking traffic.
    pub unready: Vec<String>,
    /// What an operator has to put right.
    pub problems: Vec<String>,
    /// What the clusters of the federation are called.
    pub clusters: BTreeMap<String, TrustDomain>,
    /// By peer, the bundle endpoint where its roots are fetched.
    pub fetched: BTreeMap<TrustDomain, Value>,
    /// Clusters that were introduced and are not accepted, and why not.
    pub pending: Vec<Value>,
    /// How often the external signer was asked, and how often in vain.
    pub signer: Option<(u64, u64)>,
}

impl Default for View {
    /// Before the hub looked for the first time: whoever asks must not hear that all is well.
    fn default() -> Self {
        Self {
            peering: None,
            nodes: Vec::new(),
            transit: None,
            unready: vec!["it is starting".into()],
            problems: Vec::new(),
            clusters: BTreeMap::new(),
            fetched: BTreeMap::new(),
            pending: Vec::new(),
            signer: None,
        }
    }
}

/// Answers for one gateway.
pub struct Observer {
    /// The gateway's name.
    pub name: String,
    /// Where pods and policies come from.
    pub source: Source,
    /// The own cluster.
    pub world: watch::Receiver<Arc<World>>,
    /// The newest picture.
    pub view: Arc<ArcSwap<View>>,
    /// The data plane.
    pub shared: Arc<Shared>,
    /// The counts of each queue.
    pub queues: Vec<Published>,
    /// How packets come in: attachment and copy mode by interface.
    pub interfaces: Value,
    /// The kernel's side: steering counters and socket statistics.
    pub kernel: Box<dyn Fn() -> Value + Send + Sync>,
    /// Whether a queue thread ended.
    pub dead: Box<dyn Fn() -> bool + Send + Sync>,
    /// Where commands go.
    pub commands: mpsc::Sender<Input>,
    /// Shows packets.
    pub capturer: Capturer,
    /// Where metrics are kept.
    pub recorder: PrometheusHandle,
}

impl Observer {
    fn totals(&self) -> (Totals, u64) {
        let mut sum = Totals::default();
        let mut lost = 0;
        for queue in &self.queues {
            let (totals, events) = queue.read();
            sum.add(&totals);
            lost += events;
        }
        (sum, lost)
    }

    fn status(&self) -> Value {
        let view = self.view.load();
        let own = view.peering.as_ref().map(|status| {
            json!({
                "trust_domain": status.trust_domain,
                "bundle_sequence": status.bundle_sequence,
                "digest_sequence": status.digest_sequence,
                "digest_hash": status.policy_hash,
            })
        });
        let peers = view
            .peering
            .iter()
            .flat_map(|status| &status.peers)
            .map(|peer| {
                json!({
                    "trust_domain": peer.trust_domain,
                    "connected": peer.connected,
                    "since": peer.since,
                    "heard": peer.heard,
                    "away": peer.away,
                    "bundle_sequence": peer.bundle_sequence,
                    "bundle_expires_at": peer.bundle_expires_at,
                    "digest_sequence": peer.digest_sequence,
                    "digest_hash": peer.announced_hash,
                    "told_sequence": peer.told_sequence,
                    "told_hash": peer.told_hash,
                    "enforced_hash": peer.enforced_hash,
                    "clock_offset_ms": peer.clock_offset_ms,
                    "tunnel_send": peer.tunnel_send,
                    "tunnel_receive": peer.tunnel_receive,
                    "ranges": peer.ranges,
                    "bundle_endpoint": view.fetched.get(&peer.trust_domain),
                    "problems": peer.problems,
                })
            });
        let nodes = view.nodes.iter().map(
            |(name, connected, pods)| json!({"node": name, "connected": connected, "pods": pods}),
        );
        json!({
            "gateway": self.name,
            "ready": view.unready.is_empty(),
            "unready": view.unready,
            "own": own,
            "peers": peers.collect::<Vec<_>>(),
            "pending": view.pending,
            "nodes": nodes.collect::<Vec<_>>(),
            "epoch": view.transit.as_ref().map(|transit| transit.epoch),
            "flows": self.shared.dataplane.flows().established(),
            "half_open": self.shared.dataplane.flows().half_open(),
            "interfaces": self.interfaces,
            "capture": self.capturer.status(),
            "signer": view.signer.map(|(asked, failed)| json!({"asked": asked, "failed": failed})),
            "problems": view.problems,
        })
    }

    fn counters(&self) -> Value {
        let (totals, lost) = self.totals();
        let dropped: Map<String, Value> = totals
            .drops()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.as_str().to_owned(), count.into()))
            .collect();
        json!({
            "received": totals.received,
            "forwarded": totals.forwarded,
            "replied": totals.replied,
            "punted": totals.punted,
            "consumed": totals.consumed,
            "held": totals.held,
            "originated": totals.originated,
            "dropped": dropped,
            "events_lost": lost,
            "signature_checks": self.shared.dataplane.flows().signature_checks(),
            "kernel": (self.kernel)(),
        })
    }

    /// Has the hub carry it out.
    async fn command(&self, request: TrustRequest, by: Caller) -> Result<Value, String> {
        if request.changes() && by.uid != 0 {
            let uid = by.uid;
            return Err(format!(
                "only root may change whom this cluster trusts, not user {uid}"
            ));
        }
        let (answer, answered) = oneshot::channel();
        let command = Command {
            request,
            by,
            answer,
        };
        let ends = |_| "this gateway ends".to_owned();
        let sent = self.commands.send(Input::Command(command)).await;
        sent.map_err(|_| "this gateway ends".to_owned())?;
        answered.await.map_err(ends)?
    }

    fn explain(
        &self,
        (from, to): (&str, &str),
        port: u16,
        protocol: Protocol,
        described: &[DescribedPod],
    ) -> Result<Value, String> {
        let view = self.view.load();
        let transit = view.transit.as_ref().ok_or("no policy is in force yet")?;
        let protocol = protocol.number();
        // No list of remote pods is exchanged: their labels come from a folder, or from who asks.
        let own = self.world.borrow().clone();
        let worlds = self.source.worlds(&own).map_err(|e| e.to_string())?;
        let find = |name: &str| {
            let found = World::find(&worlds, name);
            let (domain, workload) = match (found, DescribedPod::find(described, name)) {
                (Ok((world, workload)), _) => (&world.cluster.trust_domain, workload),
                (Err(_), Some(pod)) => (&pod.trust_domain, &pod.workload),
                (Err(unknown), None) => return Err(unknown.to_string()),
            };
            if workload.unprotected {
                return Err(format!(
                    "{name} is in an unprotected namespace: it proves no identity that a policy could ask for"
                ));
            }
            let claims = workload.claims(domain);
            let claims = claims.map_err(|e| e.to_string())?;
            Ok((claims, workload.address))
        };
        let (from, to) = (find(from)?, find(to)?);
        let mut sides = Map::new();
        for (word, direction, (subject, _), (peer, address)) in [
            ("egress", Direction::Egress, &from, &to),
            ("ingress", Direction::Ingress, &to, &from),
        ] {
            let is_own = *subject.trust_domain() == transit.own;
            let table = match is_own {
                true => Some(&transit.policy),
                false => transit.digests.get(subject.trust_domain()),
            };
            let Some(table) = table else { continue };
            let query = Query {
                direction,
                subject,
                peer: Peer::Identity {
                    claims: peer,
                    // What address a pod has over there is not for a peer's digest to say.
                    address: address.filter(|_| is_own),
                },
                protocol,
                port,
                known: &transit.known,
            };
            let explained = table.explain(&query);
            let explained = transit.admission.explain(explained, [subject, peer]);
            let explanation = serde_json::to_value(explained);
            sides.insert(word.into(), explanation.map_err(|e| e.to_string())?);
        }
        Ok(Value::Object(sides))
    }
}

impl Observed for Observer {
    async fn answer(&self, request: Request, by: Caller) -> Result<Reply, String> {
        let value = match request {
            Request::Status {} => self.status(),
            Request::Counters {} => self.counters(),
            Request::Flows {} => {
                let flows = self.shared.dataplane.list(MAX_FLOWS);
                flows.iter().map(flow).collect()
            }
            Request::Explain {
                from,
                to,
                port,
                protocol,
                described,
            } => self.explain((&from, &to), port, protocol, &described)?,
            Request::Policies {} => {
                let view = self.view.load();
                let transit = view.transit.as_ref().ok_or("no policy is in force yet")?;
                serde_json::to_value(transit.policy.set()).map_err(|e| e.to_string())?
            }
            Request::Trust(request) => self.command(request, by).await?,
            Request::Capture(request) => {
                let clusters = &self.view.load().clusters;
                let lines = self.capturer.begin(&request, clusters, by)?;
                return Ok(Reply::Lines(lines));
            }
        };
        Ok(Reply::Once(value))
    }

    async fn metrics(&self) -> String {
        self.refresh();
        self.recorder.render()
    }

    async fn unhealthy(&self) -> Vec<String> {
        self.broken()
    }

    async fn unready(&self) -> Vec<String> {
        let mut why = self.broken();
        why.extend(self.view.load().unready.iter().cloned());
        why
    }
}

impl Observer {
    /// Copies counters into the recorder.
    fn refresh(&self) {
        let (totals, lost) = self.totals();
        for (fate, count) in [
            ("forwarded", totals.forwarded),
            ("replied", totals.replied),
            ("punted", totals.punted),
            ("consumed", totals.consumed),
        ] {
            metrics::counter!("landbridge_packets_total", "fate" => fate).absolute(count);
        }
        metrics::counter!("landbridge_packets_received_total").absolute(totals.received);
        metrics::counter!("landbridge_packets_originated_total").absolute(totals.originated);
        metrics::counter!("landbridge_events_lost_total").absolute(lost);
        metrics::gauge!("landbridge_packets_held").set(totals.held as f64);
        for (reason, count) in totals.drops() {
            metrics::counter!("landbridge_packets_dropped_total", "reason" => reason.as_str())
                .absolute(count);
        }
        let flows = self.shared.dataplane.flows();
        metrics::gauge!("landbridge_flows").set(flows.established() as f64);
        metrics::gauge!("landbridge_flows_half_open").set(flows.half_open() as f64);
        metrics::counter!("landbridge_signature_checks_total").absolute(flows.signature_checks());
        let microseconds = u64::try_from(flows.signature_time().as_micros()).unwrap_or(u64::MAX);
        metrics::counter!("landbridge_signature_check_microseconds_total").absolute(microseconds);
        let view = self.view.load();
        for peer in view.peering.iter().flat_map(|status| &status.peers) {
            let name = peer.trust_domain.to_string();
            let connected = f64::from(u8::from(peer.connected));
            metrics::gauge!("landbridge_peer_connected", "peer" => name).set(connected);
        }
        for (peer, endpoint) in &view.fetched {
            let failures = endpoint["failures"].as_u64().unwrap_or(0) as f64;
            metrics::gauge!("landbridge_bundle_endpoint_failures", "peer" => peer.to_string())
                .set(failures);
        }
        if let Some((asked, failed)) = view.signer {
            metrics::counter!("landbridge_signer_asked_total").absolute(asked);
            metrics::counter!("landbridge_signer_failed_total").absolute(failed);
        }
        let problems = view.problems.len() as f64;
        metrics::gauge!("landbridge_problems").set(problems);
        for (interface, about) in self.interfaces.as_object().into_iter().flatten() {
            let word = |what: &str| about[what].as_str().unwrap_or("none").to_owned();
            let labels = [
                ("interface", interface.clone()),
                ("xdp", word("xdp")),
                ("copy_mode", word("copy_mode")),
            ];
            metrics::gauge!("landbridge_interface_info", &labels).set(1.0);
        }
        kernel_metrics(&(self.kernel)());
    }

    fn broken(&self) -> Vec<String> {
        match (self.dead)() {
            true => vec!["a queue thread ended".into()],
            false => Vec::new(),
        }
    }
}

/// `{interface: {counter: number}}` as metrics of the interface.
fn kernel_metrics(kernel: &Value) {
    for (interface, counters) in kernel.as_object().into_iter().flatten() {
        for (name, count) in counters.as_object().into_iter().flatten() {
            if let Some(count) = count.as_u64() {
                let labels = [("interface", interface.clone()), ("what", name.clone())];
                metrics::counter!("landbridge_kernel_packets_total", &labels).absolute(count);
            }
        }
    }
}

fn flow(flow: &FlowView) -> Value {
    let end = |claims: &identity::Claims| {
        json!({
            "workload": claims.display_name(),
            "spiffe_id": claims.subject.to_string(),
            "pod_uid": claims.pod_uid,
            "credential": CredentialId(claims.id).to_string(),
            "generation": claims.generation,
        })
    };
    let sent = |sender| {
        let (bytes, packets) = flow.sent_by(sender);
        json!({"bytes": bytes, "packets": packets})
    };
    json!({
        "flow": flow.ends.key.to_string(),
        "initiator": end(&flow.ends.initiator),
        "responder": end(&flow.ends.responder),
        "sent_by_initiator": sent(Sender::Initiator),
        "sent_by_responder": sent(Sender::Responder),
        "epoch": flow.epoch,
        "over": flow.over,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_has_not_looked_yet_is_not_ready() {
        assert_eq!(View::default().unready, ["it is starting"]);
    }
}
