//! NetworkSet and ClusterNetworkSet -> the peers that they stand for.

use identity::is_dns_subdomain;
use policy::model::{DomainPattern, PeerMatch};

use super::common::block;
use crate::fault::{Faults, FieldPath};

/// Most prefixes of one set.
const MAX_NETS: usize = 10_000;
/// Most names of one set.
const MAX_DOMAINS: usize = 1000;

/// The addresses and names of a set.
pub(super) fn network_set(
    nets: &[String],
    domains: &[String],
    faults: &mut Faults,
) -> Vec<PeerMatch> {
    network_set_at(nets, domains, &FieldPath::of(&["spec"]), faults)
}

/// The same of the fields `nets` and `domains` at `path`.
pub(super) fn network_set_at(
    nets: &[String],
    domains: &[String],
    path: &FieldPath,
    faults: &mut Faults,
) -> Vec<PeerMatch> {
    for (field, found, most) in [
        ("nets", nets.len(), MAX_NETS),
        ("domains", domains.len(), MAX_DOMAINS),
    ] {
        if found > most {
            faults.add(
                path.key(field),
                format!("holds {found}"),
                format!("at most {most}"),
            );
        }
    }
    let mut peers = self::nets(nets, &path.key("nets"), faults);
    peers.extend(self::domains(domains, &path.key("domains"), faults));
    peers
}

fn nets(nets: &[String], path: &FieldPath, faults: &mut Faults) -> Vec<PeerMatch> {
    let nets = nets.iter().enumerate();
    let read = nets.filter_map(|(index, net)| {
        Some(PeerMatch::Net {
            cidr: block(net, path.index(index), faults)?,
            except: Vec::new(),
        })
    });
    read.collect()
}

/// Names of the DNS, as peers.
pub(super) fn domains(domains: &[String], path: &FieldPath, faults: &mut Faults) -> Vec<PeerMatch> {
    let domains = domains.iter().enumerate();
    let read = domains.filter_map(|(index, text)| {
        let pattern = domain(text);
        if pattern.is_none() {
            let message = format!("{text:?} is no name of the DNS");
            faults.add(
                path.index(index),
                message,
                "such as api.example.com or *.example.com",
            );
        }
        pattern.map(PeerMatch::Domain)
    });
    read.collect()
}

/// A name with at least one dot; `*.` before it means all names below.
pub(super) fn domain(text: &str) -> Option<DomainPattern> {
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    let (below, name) = match name.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, name),
    };
    // Names of services may begin with a line (RFC 2782).
    let plain: String = name
        .chars()
        .map(|c| if c == '_' { 'x' } else { c })
        .collect();
    (is_dns_subdomain(&plain) && name.contains('.')).then(|| DomainPattern {
        below,
        name: name.to_owned(),
    })
}
