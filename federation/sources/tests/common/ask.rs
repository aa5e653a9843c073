//! What policy says of two ends, at both.

use std::net::IpAddr;

use identity::{Assurance, Claims, SpiffeId, TrustDomain, UnixMillis, Workload};
use landbridge_sources::World;
use policy::{Decision, KnownKeys, Peer, Query, Verdict, model::Direction};

/// Two ends of a connection.
pub struct Ends<'a> {
    from: End<'a>,
    to: End<'a>,
}

enum End<'a> {
    Pod(&'a World, &'a Workload, Box<Claims>),
    Address(IpAddr),
}

impl<'a> Ends<'a> {
    /// Each is `CLUSTER/NAMESPACE/POD` or an address.
    pub fn find(worlds: &'a [World], from: &str, to: &str) -> Self {
        let end = |name: &str| {
            if let Ok(address) = name.parse() {
                return End::Address(address);
            }
            let parts: Vec<&str> = name.split('/').collect();
            let [cluster, namespace, pod] = parts.try_into().unwrap();
            let world = worlds.iter().find(|w| w.cluster.name == cluster).unwrap();
            let workload = world.workload(namespace, pod).unwrap();
            let claims = claims(&world.cluster.trust_domain, workload);
            End::Pod(world, workload, Box::new(claims))
        };
        Self {
            from: end(from),
            to: end(to),
        }
    }

    /// Egress at the source and ingress at the destination; `None` where an address stands.
    pub fn ask(&self, protocol: u8, port: u16) -> [Option<Verdict>; 2] {
        let judge = |direction, subject: &End<'_>, peer: &End<'_>| {
            let End::Pod(world, _, claims) = subject else {
                return None;
            };
            let query = Query {
                direction,
                subject: claims,
                peer: match peer {
                    End::Pod(_, workload, claims) => Peer::Identity {
                        claims,
                        address: workload.address,
                    },
                    End::Address(address) => Peer::Address(*address),
                },
                protocol,
                port,
                known: &KnownKeys::all(),
            };
            Some(policy::compile(&world.policies).unwrap().decide(&query))
        };
        [
            judge(Direction::Egress, &self.from, &self.to),
            judge(Direction::Ingress, &self.to, &self.from),
        ]
    }
}

/// A verdict and its rule.
pub fn words(verdict: &Verdict) -> String {
    let rule = verdict.rule.as_ref();
    let rule = rule.map_or_else(|| "default".into(), ToString::to_string);
    match verdict.decision {
        Decision::Allow => format!("allow by {rule}"),
        Decision::Drop { reason, .. } => format!("{reason} by {rule}"),
    }
}

fn claims(trust_domain: &TrustDomain, pod: &Workload) -> Claims {
    Claims {
        subject: SpiffeId::workload(trust_domain, &pod.namespace, &pod.service_account).unwrap(),
        issued_at: UnixMillis(0),
        expires_at: UnixMillis(600_000),
        id: [0; 16],
        agent_key: [0; 32],
        pod: pod.pod.clone(),
        pod_uid: pod.uid.clone(),
        labels: pod.labels.clone(),
        namespace_labels: pod.namespace_labels.clone(),
        zone: pod.zone.clone(),
        named_ports: pod.named_ports.clone(),
        assurance: Assurance::Agent,
        generation: 1,
    }
}
