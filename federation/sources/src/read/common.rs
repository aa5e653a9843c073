//! What NetworkPolicy and FederationPolicy share: ports and address blocks.

use ipnet::IpNet;
use k8s_openapi::{
    api::networking::v1::{IPBlock, NetworkPolicyPort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use policy::model::{PeerMatch, PortMatch, PortSpec};

use super::names::check_port_name;
use crate::fault::{Faults, FieldPath};

const PORT_NUMBER: &str = "a number from 1 to 65535";

/// The ports of a rule. An absent or empty list matches every protocol and port.
pub(super) fn ports(
    ports: Option<&Vec<NetworkPolicyPort>>,
    path: &FieldPath,
    faults: &mut Faults,
) -> Vec<PortMatch> {
    let ports = ports.into_iter().flatten().enumerate();
    let ports = ports.filter_map(|(index, p)| port(p, &path.index(index), faults));
    ports.collect()
}

fn port(port: &NetworkPolicyPort, path: &FieldPath, faults: &mut Faults) -> Option<PortMatch> {
    let protocol = protocol(port.protocol.as_deref(), path.key("protocol"), faults);
    let end = port.end_port.map(|end| (end, path.key("endPort")));
    let spec = port_spec(port.port.as_ref(), end, path, faults);
    Some(PortMatch {
        protocol: protocol?,
        port: spec?,
    })
}

/// One port, a range, or all of a protocol.
pub(super) fn port_spec(
    port: Option<&IntOrString>,
    end: Option<(i32, FieldPath)>,
    path: &FieldPath,
    faults: &mut Faults,
) -> Option<PortSpec> {
    match (port, end) {
        (None, None) => Some(PortSpec::Any),
        (None, Some((_, at))) => {
            faults.add(
                at,
                "stands without port",
                "`port`, the first port of the range",
            );
            None
        }
        (Some(IntOrString::Int(first)), end) => {
            let first = number(*first, path.key("port"), faults);
            let last = match end {
                None => first,
                Some((last, at)) => match (first, number(last, at.clone(), faults)) {
                    (Some(first), Some(last)) if last < first => {
                        faults.add(
                            at,
                            format!("{last} is below port {first}"),
                            format!("a number from {first} to 65535"),
                        );
                        None
                    }
                    (_, last) => last,
                },
            };
            first
                .zip(last)
                .map(|(first, last)| PortSpec::Range(first, last))
        }
        (Some(IntOrString::String(name)), end) => {
            if let Ok(number) = name.parse::<u16>() {
                let expected = format!("the number {number} without quotes");
                faults.add(
                    path.key("port"),
                    format!("found the string {name:?}"),
                    expected,
                );
            } else {
                check_port_name(name, path.key("port"), faults);
            }
            if let Some((_, at)) = end {
                faults.add(
                    at,
                    format!("stands with the named port {name:?}"),
                    "a port number in `port`",
                );
            }
            Some(PortSpec::Named(name.clone()))
        }
    }
}

/// The protocol number of `word`; TCP when it is absent.
pub(super) fn protocol(word: Option<&str>, path: FieldPath, faults: &mut Faults) -> Option<u8> {
    match word {
        None | Some("TCP") => Some(6),
        Some("UDP") => Some(17),
        Some("SCTP") => Some(132),
        Some(other) => {
            faults.add(
                path,
                format!("{other:?} is no protocol"),
                "one of TCP, UDP, SCTP",
            );
            None
        }
    }
}

/// A port number.
pub(super) fn number(number: i32, path: FieldPath, faults: &mut Faults) -> Option<u16> {
    let port = u16::try_from(number).ok().filter(|p| *p != 0);
    if port.is_none() {
        faults.add(path, format!("{number} is no port"), PORT_NUMBER);
    }
    port
}

/// An address block with its holes.
pub(super) fn ip_block(
    block: &IPBlock,
    path: &FieldPath,
    faults: &mut Faults,
) -> Option<PeerMatch> {
    let path_of_except = path.key("except");
    let cidr = self::block(&block.cidr, path.key("cidr"), faults);
    let mut except = Vec::new();
    for (index, hole) in block.except.iter().flatten().enumerate() {
        let path = path_of_except.index(index);
        let Some(hole) = self::cidr(hole, path.clone(), faults) else {
            continue;
        };
        if let Some(cidr) = cidr
            && (!cidr.contains(&hole) || cidr == hole.trunc())
        {
            faults.add(
                path,
                format!("{hole} is not a part of {cidr}"),
                format!("a longer prefix inside {cidr}"),
            );
            continue;
        }
        except.push(masked(hole, path, faults));
    }
    Some(PeerMatch::Net {
        cidr: cidr?,
        except,
    })
}

/// A block of addresses that a rule speaks of. As for the API server (`ValidateIPBlock` takes them by
/// `ParseCIDRSloppy`, and `GetWarningsForCIDR` warns), bits behind the prefix are of no account.
pub(super) fn block(text: &str, path: FieldPath, faults: &mut Faults) -> Option<IpNet> {
    let found = cidr(text, path.clone(), faults)?;
    Some(masked(found, path, faults))
}

fn masked(found: IpNet, path: FieldPath, faults: &mut Faults) -> IpNet {
    let block = found.trunc();
    if block != found {
        let message = format!("{found} has bits set after its prefix, which count for nothing");
        faults.warn(path, message, block.to_string());
    }
    block
}

/// An address and the length of a prefix.
pub(super) fn cidr(text: &str, path: FieldPath, faults: &mut Faults) -> Option<IpNet> {
    let parsed = text.parse().ok();
    if parsed.is_none() {
        let message = if text.is_empty() {
            "is missing".into()
        } else {
            format!("{text:?} is no CIDR")
        };
        faults.add(
            path,
            message,
            "an address and a prefix length, such as 10.0.0.0/8 or fd00::/64",
        );
    }
    parsed
}
