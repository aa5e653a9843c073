//! Which rule decides, asked of the table that is in force on this node.

use std::path::Path;

use anyhow::{Context, bail};
use identity::{Assurance, Claims, SpiffeId, UnixMillis, Workload};
use policy::{KnownKeys, Peer, Query, Table, model::Direction};
use serde_json::{Value, json};
use sources::World;

/// The egress half when `from` is a pod of this cluster, the ingress half when `to` is.
///
/// # Errors
/// When a name is wrong, or neither is of this cluster.
pub fn explain(
    folder: &Path,
    table: &Table,
    known: &KnownKeys,
    (from, to): (&str, &str),
    (protocol, port): (u8, u16),
) -> anyhow::Result<Value> {
    // Peers' pods are in no snapshot: their labels come from the folder.
    let worlds = sources::load_once(folder)?;
    let (from, to) = (end(&worlds, from)?, end(&worlds, to)?);
    let half = |direction, subject: &End, peer: &End| {
        let peer = Peer::Identity {
            claims: &peer.claims,
            address: peer.workload.address,
        };
        let own = subject.claims.trust_domain() == table.cluster();
        own.then(|| {
            let subject = &subject.claims;
            table.explain(&Query {
                direction,
                subject,
                peer,
                protocol,
                port,
                known,
            })
        })
    };
    let egress = half(Direction::Egress, &from, &to);
    let ingress = half(Direction::Ingress, &to, &from);
    if egress.is_none() && ingress.is_none() {
        bail!("neither pod belongs to {}", table.cluster());
    }
    Ok(json!({"egress": egress, "ingress": ingress}))
}

struct End {
    claims: Claims,
    workload: Workload,
}

fn end(worlds: &[World], name: &str) -> anyhow::Result<End> {
    let parts: Vec<_> = name.split('/').collect();
    let [cluster, namespace, pod] = parts[..] else {
        bail!("{name:?} is not CLUSTER/NAMESPACE/POD");
    };
    let world = worlds.iter().find(|world| world.cluster.name == cluster);
    let world = world.with_context(|| format!("there is no cluster {cluster:?}"))?;
    let workload = world.workload(namespace, pod);
    let workload = workload
        .with_context(|| format!("cluster {cluster} has no pod {namespace}/{pod}"))?
        .clone();
    let subject = SpiffeId::workload(
        &world.cluster.trust_domain,
        namespace,
        &workload.service_account,
    )?;
    Ok(End {
        claims: Claims {
            subject,
            issued_at: UnixMillis(0),
            expires_at: UnixMillis(u64::MAX),
            id: [0; 16],
            agent_key: [0; 32],
            pod: pod.into(),
            pod_uid: workload.uid.clone(),
            labels: workload.labels.clone(),
            namespace_labels: workload.namespace_labels.clone(),
            zone: workload.zone.clone(),
            named_ports: workload.named_ports.clone(),
            assurance: Assurance::Agent,
            generation: 0,
        },
        workload,
    })
}
