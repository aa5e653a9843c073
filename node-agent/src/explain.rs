//! Which rule decides, asked of the table that is in force on this node.

use std::{net::IpAddr, path::Path};

use anyhow::bail;
use identity::Claims;
use policy::{KnownKeys, Peer, Query, Table, model::Direction};
use serde_json::{Value, json};
use sources::World;

/// The egress half when `from` is a pod of this cluster, the ingress half when `to` is.
///
/// # Errors
/// When a name is wrong, neither is of this cluster, or one of them has no identity to decide by.
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
            address: peer.address,
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
    address: Option<IpAddr>,
}

fn end(worlds: &[World], name: &str) -> anyhow::Result<End> {
    let (world, workload) = World::find(worlds, name)?;
    if workload.unprotected {
        bail!(
            "{name} is in an unprotected namespace: it proves no identity that a policy could ask for"
        );
    }
    Ok(End {
        claims: workload.claims(&world.cluster.trust_domain)?,
        address: workload.address,
    })
}
