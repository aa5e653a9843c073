//! Which rule decides, asked of the table that is in force on this node.

use std::{net::IpAddr, sync::Arc};

use anyhow::bail;
use handshake::node::NodeSnapshot;
use identity::{Claims, IdentityNetworks};
use observe::DescribedPod;
use policy::{Peer, Query, Table, model::Direction};
use serde_json::{Value, json};
use sources::{EndName, World};

/// The egress half when `from` is a pod of this cluster, the ingress half when `to` is.
///
/// # Errors
/// When a name is wrong, neither is of this cluster, or one of them has no identity to decide by.
pub fn explain(
    (worlds, described): (&[World], &[DescribedPod]),
    table: &Table,
    snapshot: &NodeSnapshot,
    (from, to): (&str, &str),
    (protocol, port): (u8, u16),
) -> anyhow::Result<Value> {
    let end = |name| end((worlds, described), &snapshot.networks, name);
    let (from, to) = (end(from)?, end(to)?);
    let half = |direction, subject: &End, peer: &End| {
        let own = |claims: &&Claims| claims.trust_domain() == table.cluster();
        let subject = subject.claims().filter(own)?;
        let explained = table.explain(&Query {
            direction,
            subject,
            peer: peer.peer(),
            protocol,
            port,
            known: &snapshot.known,
        });
        let ends = [Some(subject), peer.claims()];
        Some((snapshot.admission).explain(explained, ends.into_iter().flatten()))
    };
    let egress = half(Direction::Egress, &from, &to);
    let ingress = half(Direction::Ingress, &to, &from);
    if egress.is_none() && ingress.is_none() {
        bail!("neither is a pod of {}", table.cluster());
    }
    Ok(json!({"egress": egress, "ingress": ingress}))
}

enum End {
    Pod(Box<Claims>, Option<IpAddr>),
    Address(IpAddr),
    /// Of the DNS.
    Name([Arc<str>; 1]),
}

impl End {
    fn claims(&self) -> Option<&Claims> {
        match self {
            Self::Pod(claims, _) => Some(claims),
            Self::Address(_) | Self::Name(_) => None,
        }
    }

    fn peer(&self) -> Peer<'_> {
        match self {
            Self::Pod(claims, address) => Peer::Identity {
                claims,
                address: *address,
            },
            Self::Address(address) => Peer::Address(*address),
            Self::Name(names) => Peer::Named {
                address: None,
                names,
            },
        }
    }
}

fn end(
    (worlds, described): (&[World], &[DescribedPod]),
    networks: &IdentityNetworks,
    name: &str,
) -> anyhow::Result<End> {
    match EndName::of(name) {
        EndName::Address(address) => {
            if let Some(owner) = networks.owner(address) {
                bail!(
                    "{address} is in the networks of {owner} and no pod's: what proves no identity there is dropped before policy is asked"
                );
            }
            return Ok(End::Address(address));
        }
        EndName::Domain(name) => return Ok(End::Name([name])),
        EndName::Pod => {}
    }
    // What this node's own source says of a pod of its cluster comes first.
    let (domain, workload) = match (
        World::find(worlds, name),
        DescribedPod::find(described, name),
    ) {
        (Ok((world, workload)), _) => (&world.cluster.trust_domain, workload),
        (Err(_), Some(pod)) => (&pod.trust_domain, &pod.workload),
        (Err(unknown), None) => return Err(unknown.into()),
    };
    if workload.unprotected {
        bail!(
            "{name} is in an unprotected namespace: it proves no identity that a policy could ask for"
        );
    }
    let claims = workload.claims(domain)?;
    Ok(End::Pod(Box::new(claims), workload.address))
}
