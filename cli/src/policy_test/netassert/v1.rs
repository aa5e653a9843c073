//! Version 1: `k8s: {deployment: {NAMESPACE:NAME: {TARGET: PORTS}}}` and `host: {HOST: {TARGET: PORTS}}`. PORTS
//! is a port, several between commas, or a list of these; each is `[-][PROTOCOL:]NUMBER`, and `-` means that it
//! must not be reached.

use serde_json::Value;
use sources::{
    FieldPath,
    strict::{Mistake, Text},
};

use super::{Assertion, Expected, Kind, Place, Reader, Source, Target, target};
use crate::service::Service;

/// The names of the groups.
pub(super) const GROUPS: [&str; 4] = ["k8s", "kubernetes", "host", "instance"];
/// The one kind whose pods are asked.
const KIND: &str = "deployment";
const PORT: &str =
    "[-][TCP:, UDP: or HTTP:] and a number from 1 to 65535, such as 80, -443 or -UDP:53";

pub(super) fn read(text: &Text<'_>) -> Result<Vec<Assertion>, Vec<Mistake>> {
    let mut reader = Reader::new(text);
    let mut assertions = Vec::new();
    let root = FieldPath::default();
    for (group, tests) in reader.fields(text.tree(), &root) {
        let path = root.key(&group);
        match group.as_str() {
            "k8s" | "kubernetes" => {
                for (kind, sources) in reader.fields(&tests, &path) {
                    let path = path.key(&kind);
                    if kind != KIND {
                        reader.wrong(&path, format!("{kind:?} is no kind"), KIND);
                        continue;
                    }
                    for (name, targets) in reader.fields(&sources, &path) {
                        let (namespace, pod) = name.split_once(':').unwrap_or(("default", &name));
                        let place = Place {
                            namespace: namespace.to_owned(),
                            name: pod.to_owned(),
                        };
                        let source = || Source::Workload(Kind::Deployment, place.clone());
                        let path = path.key(&name);
                        assertions
                            .extend(reader.targets(&name, &targets, &path, namespace, source));
                    }
                }
            }
            "host" | "instance" => {
                for (host, targets) in reader.fields(&tests, &path) {
                    let source = || Source::Outside(host.clone());
                    let path = path.key(&host);
                    assertions.extend(reader.targets(&host, &targets, &path, "", source));
                }
            }
            other => reader.wrong(&path, format!("{other:?} is no group"), "k8s or host"),
        }
    }
    reader.finish(assertions)
}

impl Reader<'_> {
    /// The fields of a mapping; none, and a mistake, for anything else.
    fn fields(&mut self, tree: &Value, path: &FieldPath) -> Vec<(String, Value)> {
        match tree {
            Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            other => {
                self.wrong(path, format!("found {other}"), "a mapping");
                Vec::new()
            }
        }
    }

    fn targets(
        &mut self,
        from: &str,
        targets: &Value,
        path: &FieldPath,
        namespace: &str,
        source: impl Fn() -> Source,
    ) -> Vec<Assertion> {
        let mut assertions = Vec::new();
        for (to, ports) in self.fields(targets, path) {
            let path = path.key(&to);
            let before = self.mistakes.len();
            let ports = self.ports(&ports, &path);
            if ports.is_empty() && self.mistakes.len() == before {
                self.wrong(&path, "there is no port".into(), PORT);
            }
            for (word, expected, port) in ports {
                assertions.push(Assertion {
                    name: format!("{from} -> {to} {word}"),
                    from: source(),
                    to: match namespace {
                        "" => Target::Name(to.clone()),
                        namespace => target(&to, namespace),
                    },
                    port,
                    expected,
                });
            }
        }
        assertions
    }

    fn ports(&mut self, tree: &Value, path: &FieldPath) -> Vec<Port> {
        let text = match tree {
            Value::Array(list) => {
                let mut ports = Vec::new();
                for (index, one) in list.iter().enumerate() {
                    match one {
                        Value::Array(_) => {
                            self.wrong(&path.index(index), format!("found {one}"), PORT)
                        }
                        one => ports.extend(self.ports(one, &path.index(index))),
                    }
                }
                return ports;
            }
            Value::Number(number) => number.to_string(),
            Value::String(text) => text.clone(),
            other => {
                self.wrong(path, format!("found {other}"), PORT);
                return Vec::new();
            }
        };
        let words = text.split(|c: char| c == ',' || c.is_whitespace());
        let mut ports = Vec::new();
        // A comma is mostly followed by a space.
        for word in words.filter(|w| !w.is_empty()) {
            match port(word) {
                Some(port) => ports.push(port),
                None => self.wrong(path, format!("{word:?} is no port"), PORT),
            }
        }
        ports
    }
}

/// A port as it is written, what is expected of it, and what it is; or why it cannot be asked.
type Port = (String, Expected, Result<Service, String>);

fn port(word: &str) -> Option<Port> {
    let (denied, rest) = match word.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, word),
    };
    let (protocol, rest) = rest.split_once(':').unwrap_or(("TCP", rest));
    // netassert takes the sign on either side of the protocol.
    let (denied, number) = match rest.strip_prefix('-') {
        Some(number) if !denied => (true, number),
        _ => (denied, rest),
    };
    let number: u16 = number.parse().ok().filter(|n| *n != 0)?;
    let protocol = match protocol {
        "TCP" | "HTTP" => "tcp",
        "UDP" => "udp",
        "ICMP" => {
            let why = "ICMP is asked by no version of netassert".to_owned();
            return Some((word.to_owned(), expected(denied), Err(why)));
        }
        _ => return None,
    };
    let service = format!("{number}/{protocol}").parse().ok()?;
    Some((word.to_owned(), expected(denied), Ok(service)))
}

fn expected(denied: bool) -> Expected {
    match denied {
        true => Expected::Denied,
        false => Expected::Allowed,
    }
}
