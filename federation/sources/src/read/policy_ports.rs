//! The ports of a FederationPolicy's rule -> the model.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use policy::model::{PortMatch, PortSpec, icmp};

use super::common::port_spec;
use crate::{
    crd::PolicyPort,
    fault::{Faults, FieldPath},
};

const PROTOCOLS: [(&str, u8); 7] = [
    ("TCP", 6),
    ("UDP", 17),
    ("SCTP", 132),
    ("ICMP", 1),
    ("ICMPv6", 58),
    ("UDPLite", 136),
    ("DCCP", 33),
];
const EXPECTED: &str = "TCP, UDP, SCTP, ICMP, ICMPv6, UDPLite, DCCP, or a number from 0 to 255";

/// The ports of a list.
pub(super) fn ports(ports: &[PolicyPort], path: &FieldPath, faults: &mut Faults) -> Vec<PortMatch> {
    let ports = ports.iter().enumerate();
    let ports = ports.filter_map(|(index, p)| port(p, &path.index(index), faults));
    ports.collect()
}

/// Whole protocols.
pub(super) fn protocols(
    protocols: &[IntOrString],
    path: &FieldPath,
    faults: &mut Faults,
) -> Vec<PortMatch> {
    let protocols = protocols.iter().enumerate();
    let read = protocols.filter_map(|(index, p)| {
        Some(PortMatch {
            protocol: protocol(Some(p), path.index(index), faults)?,
            port: PortSpec::Any,
        })
    });
    read.collect()
}

fn port(port: &PolicyPort, path: &FieldPath, faults: &mut Faults) -> Option<PortMatch> {
    let protocol = protocol(port.protocol.as_ref(), path.key("protocol"), faults)?;
    let end = port.end_port.map(|end| (end, path.key("endPort")));
    let spec = match (protocol, port.icmp_type) {
        (1 | 58, kind) => {
            if port.port.is_some() || end.is_some() {
                let message = "stands in a port of ICMP, which has types and codes";
                faults.add(path.key("port"), message, "`icmpType`");
            }
            icmp_types(kind, port.icmp_code, path, faults)?
        }
        (_, Some(_)) => {
            faults.add(
                path.key("icmpType"),
                "stands with another protocol",
                "protocol ICMP or ICMPv6",
            );
            return None;
        }
        (_, None) => {
            if port.icmp_code.is_some() {
                faults.add(
                    path.key("icmpCode"),
                    "stands without icmpType",
                    "`icmpType`",
                );
            }
            port_spec(port.port.as_ref(), end, path, faults)?
        }
    };
    Some(PortMatch {
        protocol,
        port: spec,
    })
}

fn icmp_types(
    kind: Option<i32>,
    code: Option<i32>,
    path: &FieldPath,
    faults: &mut Faults,
) -> Option<PortSpec> {
    let mut byte = |value: i32, field: &str| {
        let byte = u8::try_from(value).ok();
        if byte.is_none() {
            let message = format!("{value} is no {field}");
            faults.add(path.key(field), message, "a number from 0 to 255");
        }
        byte
    };
    match (kind, code) {
        (None, None) => Some(PortSpec::Any),
        (None, Some(_)) => {
            faults.add(
                path.key("icmpCode"),
                "stands without icmpType",
                "`icmpType`",
            );
            None
        }
        (Some(kind), None) => {
            let kind = byte(kind, "icmpType")?;
            Some(PortSpec::Range(icmp(kind, 0), icmp(kind, u8::MAX)))
        }
        (Some(kind), Some(code)) => {
            let (kind, code) = (byte(kind, "icmpType")?, byte(code, "icmpCode")?);
            Some(PortSpec::Range(icmp(kind, code), icmp(kind, code)))
        }
    }
}

/// The protocol's number; TCP when it is absent.
fn protocol(protocol: Option<&IntOrString>, path: FieldPath, faults: &mut Faults) -> Option<u8> {
    let (found, number) = match protocol {
        None => return Some(6),
        Some(IntOrString::Int(number)) => (number.to_string(), u8::try_from(*number).ok()),
        Some(IntOrString::String(word)) => {
            let named = PROTOCOLS.iter().find(|(name, _)| name == word);
            (format!("{word:?}"), named.map(|(_, number)| *number))
        }
    };
    if number.is_none() {
        faults.add(path, format!("{found} is no protocol"), EXPECTED);
    }
    number
}
