//! What was found and what was wanted, in words.

use std::fmt;

use identity::{Assurance, Claims};

use crate::{
    model::{ClusterMatch, Operator, PortMatch, PortSpec, Term},
    selector::{Mismatch, Whose},
};

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster { found, wanted } => {
                write!(f, "cluster is {found}, wanted {}", Clusters(wanted))
            }
            Self::Namespace { found, wanted } => {
                write!(f, "namespace is {found:?}, wanted {}", AnyOf(wanted))
            }
            Self::ServiceAccount { found, wanted } => {
                write!(f, "service account is {found:?}, wanted {}", AnyOf(wanted))
            }
            Self::Label {
                whose,
                key,
                found,
                wanted,
            } => {
                write!(f, "{whose} label {key:?} is ")?;
                match found {
                    Some(value) => write!(f, "{value:?}")?,
                    None => f.write_str("absent")?,
                }
                match wanted {
                    Operator::In(values) => write!(f, ", wanted {}", AnyOf(values)),
                    Operator::NotIn(values) => write!(f, ", wanted none of {}", List(values)),
                    Operator::Exists => f.write_str(", wanted any value"),
                    Operator::DoesNotExist => f.write_str(", wanted absent"),
                    Operator::Like(part) => write!(f, ", wanted one that {part}"),
                    Operator::NotLike(part) => write!(f, ", wanted none that {part}"),
                }
            }
            Self::NoChoice {
                wanted: Term::AnyOf(choices),
                ..
            } if choices.is_empty() => f.write_str("the selector fits nothing"),
            Self::NoChoice { whose, wanted } => {
                write!(f, "{whose} labels fit no part of {wanted}")
            }
            Self::NotCarried { whose, domain, key } => {
                write!(
                    f,
                    "{domain} does not carry {whose} label {key:?}, so its value is unknown"
                )
            }
            Self::NotAWorkload => f.write_str("peer has no identity, wanted a workload"),
            Self::NoAddress => f.write_str("the peer's address is not known here"),
            Self::Outside { address, cidr } => write!(f, "{address} is outside {cidr}"),
            Self::Excepted { address, except } => {
                write!(f, "{address} is inside the exception {except}")
            }
            Self::Ports {
                protocol,
                port,
                wanted,
                destination,
            } => ports(f, *protocol, *port, wanted, *destination),
            Self::NotPorts {
                protocol,
                port,
                unwanted,
            } => {
                let port = protocol_name(*protocol, *port);
                write!(f, "port is {port}, wanted not {}", Port(unwanted))
            }
            Self::Domain { names: [], wanted } => {
                write!(
                    f,
                    "DNS told the pod no name of the address, wanted {wanted}"
                )
            }
            Self::Domain { names, wanted } => {
                write!(f, "DNS told the pod {}, wanted {wanted}", names.join(", "))
            }
            Self::Assurance { found, wanted } => {
                let name = |a: &Assurance| match a {
                    Assurance::Gateway => "gateway",
                    Assurance::Agent => "agent",
                };
                write!(f, "assurance is {}, wanted {}", name(found), name(wanted))
            }
        }
    }
}

fn ports(
    f: &mut fmt::Formatter<'_>,
    protocol: u8,
    port: u16,
    wanted: &[PortMatch],
    destination: Option<&Claims>,
) -> fmt::Result {
    write!(f, "port is {}, wanted ", protocol_name(protocol, port))?;
    for (place, one) in wanted.iter().enumerate() {
        if place > 0 {
            f.write_str(" or ")?;
        }
        write!(f, "{}", Port(one))?;
        if let PortSpec::Named(name) = &one.port {
            let is = |p: &&identity::NamedPort| p.protocol == one.protocol && p.name == *name;
            match destination.and_then(|pod| pod.named_ports.iter().find(is)) {
                Some(found) => write!(f, " (here {})", found.port)?,
                None => f.write_str(" (which the destination does not name)")?,
            }
        }
    }
    Ok(())
}

/// A protocol and its ports, as a rule has them.
struct Port<'a>(&'a PortMatch);

impl fmt::Display for Port<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Protocol(self.0.protocol);
        match (&self.0.port, self.0.protocol) {
            (PortSpec::Any, 6 | 17 | 33 | 132 | 136) => write!(f, "any {name} port"),
            (PortSpec::Any, _) => write!(f, "{name}"),
            (PortSpec::Range(first, last), 1 | 58) => {
                let ([kind, code], [_, last]) = (first.to_be_bytes(), last.to_be_bytes());
                match last == code {
                    true => write!(f, "{name} type {kind} code {code}"),
                    false => write!(f, "{name} type {kind}"),
                }
            }
            (PortSpec::Range(first, last), _) if first == last => write!(f, "{name}/{first}"),
            (PortSpec::Range(first, last), _) => write!(f, "{name}/{first}-{last}"),
            (PortSpec::Named(port), _) => write!(f, "{name} port {port:?}"),
        }
    }
}

/// `tcp/8080`, `icmp type 8 code 0`, or the name alone of a protocol without either.
pub(crate) fn protocol_name(protocol: u8, port: u16) -> String {
    match (protocol, port.to_be_bytes()) {
        (1 | 58, [kind, code]) => format!("{} type {kind} code {code}", Protocol(protocol)),
        _ if port == 0 => Protocol(protocol).to_string(),
        _ => format!("{}/{port}", Protocol(protocol)),
    }
}

/// The protocol's name where it has a well-known one.
struct Protocol(u8);

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("icmp"),
            6 => f.write_str("tcp"),
            17 => f.write_str("udp"),
            58 => f.write_str("icmpv6"),
            132 => f.write_str("sctp"),
            number => write!(f, "protocol {number}"),
        }
    }
}

struct Clusters<'a>(&'a ClusterMatch);

impl fmt::Display for Clusters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ClusterMatch::Own => f.write_str("the own cluster"),
            ClusterMatch::Any => f.write_str("any cluster"),
            ClusterMatch::Remote => f.write_str("another cluster"),
            ClusterMatch::Listed(listed) => {
                let names: Vec<_> = listed.iter().map(ToString::to_string).collect();
                write!(f, "{}", AnyOf(&names))
            }
        }
    }
}

struct AnyOf<'a>(&'a [String]);

impl fmt::Display for AnyOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("one of an empty list"),
            [one] => write!(f, "{one:?}"),
            many => write!(f, "one of {}", List(many)),
        }
    }
}

/// Quoted, because what peers and users write must not forge a line.
struct List<'a>(&'a [String]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, one) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            write!(f, "{separator}{one:?}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "pod",
            Self::Namespace => "namespace",
        })
    }
}
