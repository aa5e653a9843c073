//! What the control loop answers: status, counters, flows, explanations, metrics, health.

use std::time::Duration;

use handshake::node::{Ends, FlowRecord, RemoteEnd};
use metrics::{counter, gauge};
use observe::Request;
use serde_json::{Value, json};

use super::Control;
use crate::{
    ask::Ask,
    capture::Losses,
    explain::explain,
    fullness::Fullness,
    judge::Trouble,
    tally::{Judged, Tally},
};

/// Flows in one answer at most.
const MAX_FLOWS: usize = 10_000;

/// What the packet thread counts.
struct Seen {
    judged: Judged,
    losses: Losses,
    trouble: Trouble,
    live: usize,
    half_open: (usize, usize),
    recorded: usize,
    unknown: (usize, usize),
    signature_checks: u64,
    signature_time: Duration,
}

impl Control {
    pub(super) fn answer(&mut self, ask: Ask) {
        // Whoever does not wait any more needs no answer.
        match ask {
            Ask::Request(request, reply) => drop(reply.send(self.reply(*request).map_err(words))),
            Ask::Metrics(reply) => {
                if let Err(error) = self.refresh_metrics() {
                    tracing::warn!("metrics: {error:#}");
                }
                drop(reply.send(self.recorder.render()));
            }
            Ask::Health(reply) => drop(reply.send(self.unhealthy())),
            Ask::Ready(reply) => {
                let unready = self.unready();
                self.was_ready |= unready.is_empty();
                drop(reply.send(unready));
            }
        }
    }

    fn reply(&mut self, request: Request) -> anyhow::Result<Value> {
        match request {
            Request::Status {} => self.status(),
            Request::Counters {} => Ok(json!(self.tally()?.0)),
            Request::Flows {} => self.flows(),
            Request::Explain {
                from,
                to,
                port,
                protocol,
                described,
            } => {
                // Peers' pods are in no snapshot: their labels come from a folder, or from who asks.
                let own = self.world.borrow().clone();
                explain(
                    (&self.config.source.worlds(&own)?, &described),
                    &self.table,
                    &self.snapshot,
                    (&from, &to),
                    (protocol.number(), port),
                )
            }
            Request::Policies {} => Ok(serde_json::to_value(self.table.set())?),
            Request::Trust(_) => anyhow::bail!("a gateway says whom its cluster trusts"),
            Request::Capture(_) => anyhow::bail!(
                "an agent takes no packets from an interface: tcpdump sees all of them; captures are a gateway's"
            ),
        }
    }

    fn unhealthy(&self) -> Vec<String> {
        match self.packets.is_running() {
            true => Vec::new(),
            false => vec!["the packet thread ended".to_owned()],
        }
    }

    fn unready(&self) -> Vec<String> {
        let mut problems = self.unhealthy();
        problems.extend(self.rules_problem.clone());
        if !self.member.is_complete() {
            let standing = self.standing.borrow().clone();
            problems.push(match standing.is_empty() {
                true => "the gateway has not sent everything yet".to_owned(),
                false => standing,
            });
        }
        if self.local.bridged && self.bridge_netfilter != Some(true) {
            problems.push(
                "pods of this node are on a bridge, and bridged packets do not pass the rules: set \
                 net.bridge.bridge-nf-call-iptables=1 and bridge-nf-call-ip6tables=1 (module \
                 br_netfilter)"
                    .to_owned(),
            );
        }
        if self.masqueraded > 0 {
            problems.push(format!(
                "masqueraded: the source of {} flows between pods is translated after us; keep \
                 other NAT rules away from identity networks",
                self.masqueraded
            ));
        }
        // Pods that come later wait for their credential, and the node serves the others.
        if !self.was_ready {
            problems.extend(self.waiting_pods());
        }
        problems
    }

    fn waiting_pods(&self) -> Vec<String> {
        let waiting = self
            .snapshot
            .pods
            .iter()
            .filter(|(_, pod)| pod.identity.is_none());
        waiting
            .map(|(address, _)| format!("the pod at {address} has no credential yet"))
            .collect()
    }

    fn problems(&self) -> Vec<String> {
        let world = self.world.borrow();
        let mut problems: Vec<String> = world.problems.iter().map(ToString::to_string).collect();
        problems.extend(self.unready());
        problems.extend(self.local.problems.iter().cloned());
        problems.extend(self.policy_problem.clone());
        problems.extend(self.member_problem.clone());
        if self.was_ready {
            problems.extend(self.waiting_pods());
        }
        let standing = self.standing.borrow().clone();
        if !standing.is_empty() && !problems.contains(&standing) {
            problems.push(standing);
        }
        let issued = self
            .issued
            .as_ref()
            .map(|issued| issued.borrow().problem.clone());
        problems.extend(issued.filter(|problem| !problem.is_empty()));
        // That it cannot be read is told by the metrics.
        problems.extend(Fullness::now().ok().and_then(Fullness::problem));
        problems
    }

    fn status(&self) -> anyhow::Result<Value> {
        let seen = self.seen()?;
        let pods: Vec<Value> = self
            .local
            .served
            .iter()
            .map(|(address, served)| {
                let pod = self.snapshot.pods.get(address);
                let claims = pod
                    .and_then(|pod| pod.identity.as_ref())
                    .map(|id| &id.claims);
                json!({
                    "address": address,
                    "uid": served.uid,
                    "interface": served.port.link().as_str(),
                    "name": claims.map(|claims| claims.display_name()),
                    "identity": claims.map(|claims| claims.subject.to_string()),
                    "credentialExpires": claims.map(|claims| claims.expires_at.to_string()),
                    "protected": pod.is_some(),
                })
            })
            .collect();
        let bundles: Vec<Value> = self
            .snapshot
            .bundles
            .iter()
            .map(|b| {
                json!({
                    "trustDomain": b.trust_domain, "sequence": b.sequence,
                    "expires": b.expires_at.to_string(),
                })
            })
            .collect();
        let world = self.world.borrow();
        Ok(json!({
            "role": "agent",
            "cluster": self.config.cluster,
            "node": self.config.node,
            "version": env!("CARGO_PKG_VERSION"),
            "ready": self.unready().is_empty(),
            "problems": self.problems(),
            "epoch": self.snapshot.epoch,
            "policy": {
                "policies": world.policies.policies.len(),
                "hash": hex(&self.table.hash()),
            },
            "gateway": {
                "endpoint": self.config.gateway.endpoint,
                "connected": self.member.is_connected(),
                "clockOffsetMillis": self.member.clock_offset(),
            },
            "bundles": bundles,
            "pods": pods,
            "flows": {
                "live": seen.live,
                "recorded": seen.recorded,
                "opening": seen.half_open.0,
                "answering": seen.half_open.1,
                "inherited": seen.unknown.0,
                "unrecorded": seen.unknown.1 as u64 + seen.trouble.unrecorded,
            },
            "signatureChecks": seen.signature_checks,
            "bridgeNetfilter": self.bridge_netfilter,
        }))
    }

    fn flows(&self) -> anyhow::Result<Value> {
        let (flows, total) = self.packets.ask(|judge, _| {
            let flows = judge.enforcer().flows();
            let shown: Vec<FlowRecord> = flows.take(MAX_FLOWS).cloned().collect();
            (shown, judge.enforcer().flows().count())
        })?;
        let flows: Vec<Value> = flows.iter().map(|flow| self.flow(flow)).collect();
        Ok(json!({"flows": flows, "total": total}))
    }

    fn flow(&self, flow: &FlowRecord) -> Value {
        let pod = |address| {
            let pod = self.snapshot.pods.get(&address)?;
            Some(pod.identity.as_ref()?.claims.display_name())
        };
        let remote = match &flow.ends {
            Ends::Initiator { remote, .. } | Ends::Responder { remote, .. } => Some(match remote {
                RemoteEnd::Proven(_) => "proven",
                RemoteEnd::Address | RemoteEnd::Named(_) => "address",
                RemoteEnd::Node => "node",
            }),
            Ends::Both { .. } => None,
        };
        json!({
            "flow": flow.key.to_string(),
            "source": pod(flow.key.src),
            "destination": pod(flow.key.dst),
            "remote": remote,
            "rule": flow.rule,
            "epoch": flow.epoch,
            "opened": flow.opened.to_string(),
        })
    }

    fn tally(&self) -> anyhow::Result<(Tally, Seen)> {
        let seen = self.seen()?;
        let rules = self.firewall.counters()?;
        let tally = Tally::new(
            &seen.judged,
            &seen.losses,
            &rules,
            &self.base,
            self.no_agent,
        );
        Ok((tally, seen))
    }

    fn seen(&self) -> anyhow::Result<Seen> {
        let (seen, losses) = self.packets.ask(|judge, capture| {
            let node = judge.enforcer();
            let seen = Seen {
                judged: judge.judged().clone(),
                losses: Losses::default(),
                trouble: judge.trouble().clone(),
                live: node.flows().count(),
                half_open: node.half_open(),
                recorded: judge.recorded(),
                unknown: judge.unknown_to_enforcer(),
                signature_checks: node.signature_checks(),
                signature_time: node.signature_time(),
            };
            (seen, capture.losses())
        })?;
        Ok(Seen {
            losses: losses?,
            ..seen
        })
    }

    fn refresh_metrics(&self) -> anyhow::Result<()> {
        let (tally, seen) = self.tally()?;
        for (fate, packets) in [
            ("received", tally.received),
            ("forwarded", tally.forwarded),
            ("replied", tally.replied),
            ("punted", tally.punted),
            ("consumed", tally.consumed),
            ("originated", tally.originated),
        ] {
            counter!("landbridge_agent_packets_total", "fate" => fate).absolute(packets);
        }
        for (reason, packets) in &tally.dropped {
            counter!("landbridge_agent_dropped_total", "reason" => reason.as_str())
                .absolute(*packets);
        }
        counter!("landbridge_agent_judged_total").absolute(seen.judged.received);
        counter!("landbridge_agent_signature_checks_total").absolute(seen.signature_checks);
        let microseconds = u64::try_from(seen.signature_time.as_micros()).unwrap_or(u64::MAX);
        counter!("landbridge_agent_signature_check_microseconds_total").absolute(microseconds);
        for (what, count) in [
            ("unrecorded", seen.trouble.unrecorded),
            ("uncleared", seen.trouble.uncleared),
            ("unsent", seen.trouble.unsent),
            ("log-lost", seen.trouble.log_lost),
        ] {
            counter!("landbridge_agent_trouble_total", "what" => what).absolute(count);
        }
        gauge!("landbridge_agent_packets_held").set(tally.held as f64);
        gauge!("landbridge_agent_flows").set(seen.live as f64);
        gauge!("landbridge_agent_half_open", "side" => "initiator").set(seen.half_open.0 as f64);
        gauge!("landbridge_agent_half_open", "side" => "responder").set(seen.half_open.1 as f64);
        gauge!("landbridge_agent_pods").set(self.snapshot.pods.len() as f64);
        gauge!("landbridge_agent_pods_waiting").set(self.waiting_pods().len() as f64);
        gauge!("landbridge_agent_gateway_connected").set(if self.member.is_connected() {
            1.0
        } else {
            0.0
        });
        gauge!("landbridge_agent_epoch").set(self.snapshot.epoch as f64);
        let table = Fullness::now()?;
        gauge!("landbridge_agent_tracked_connections").set(table.tracked as f64);
        gauge!("landbridge_agent_tracked_connections_limit").set(table.limit as f64);
        Ok(())
    }
}

fn words(error: anyhow::Error) -> String {
    format!("{error:#}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
