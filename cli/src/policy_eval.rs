//! `landbridge policy eval`: questions of scripts, a line of JSON each.

use std::io::{self, BufRead, BufWriter, Read, Write};

use anyhow::{Context, Result, bail};
use policy::model::icmp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sources::{DEFAULT_CLUSTER, Problem};

use crate::{end_verdict::EndVerdict, oracle::Oracle, party::Party};

/// The longest line in bytes.
const MAX_LINE: u64 = 256 * 1024 * 1024;

/// One line in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    objects: Vec<Value>,
    #[serde(default)]
    queries: Vec<Value>,
}

/// A connection that is asked about.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    from: String,
    to: String,
    #[serde(default = "tcp")]
    protocol: Protocol,
    port: Option<Port>,
    /// Of ICMP; an echo request when it is left out.
    #[serde(rename = "icmpType")]
    icmp_type: Option<u8>,
    #[serde(rename = "icmpCode")]
    icmp_code: Option<u8>,
}

/// A protocol by its name in Kubernetes, in any case, or by its number.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Protocol {
    Number(u8),
    Name(String),
}

/// A port by number, or by the name that the destination pod gives it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Port {
    Number(u16),
    Name(String),
}

fn tcp() -> Protocol {
    Protocol::Number(6)
}

/// One line out.
#[derive(Debug, Serialize)]
struct Answers {
    /// In the order of the queries.
    verdicts: Vec<Answer>,
    /// Objects that were refused or say less than they seem to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<Problem>,
}

/// What becomes of one connection.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Answer {
    Decided {
        allowed: bool,
        ingress: EndVerdict,
        egress: EndVerdict,
    },
    /// It cannot be said.
    Error { allowed: bool, error: String },
}

/// Answers every line of standard input until it ends.
///
/// # Errors
/// When standard input or output fails. A line that cannot be answered is answered with `{"error": ..}`.
pub fn run() -> Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), BufWriter::new(io::stdout().lock()));
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut input).take(MAX_LINE).read_until(b'\n', &mut line);
        if read.context("standard input")? == 0 {
            return Ok(());
        }
        let answer = answer(&line).unwrap_or_else(|e| json!({ "error": format!("{e:#}") }));
        // Whoever asks line by line waits for it.
        let said = writeln!(output, "{answer}").and_then(|()| output.flush());
        match said {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other.context("standard output")?,
        }
    }
}

fn answer(line: &[u8]) -> Result<Value> {
    let line: Line = serde_json::from_slice(line).context("the line")?;
    let (worlds, mut problems) = sources::worlds_of(&line.objects);
    problems.extend(worlds.iter().flat_map(|world| world.problems.clone()));
    let oracle = Oracle::of(worlds)?;
    let verdicts = line.queries.into_iter().map(|query| {
        decide(&oracle, query).unwrap_or_else(|e| Answer::Error {
            allowed: false,
            error: format!("{e:#}"),
        })
    });
    let answers = Answers {
        verdicts: verdicts.collect(),
        problems,
    };
    Ok(serde_json::to_value(answers)?)
}

fn decide(oracle: &Oracle, query: Value) -> Result<Answer> {
    let query: Query = serde_json::from_value(query).context("the query")?;
    let (from, to) = (party(oracle, &query.from)?, party(oracle, &query.to)?);
    let protocol = query.protocol.number()?;
    let port = query.port(protocol, &to)?;
    let halves = from.to(oracle, &to, protocol, port)?;
    let [egress, ingress] = halves.map(EndVerdict::of);
    Ok(Answer::Decided {
        allowed: egress.allowed && ingress.allowed,
        ingress,
        egress,
    })
}

/// `NAMESPACE/POD` means one of the default cluster.
fn party(oracle: &Oracle, name: &str) -> Result<Party> {
    match name.split('/').count() {
        2 => Party::find(oracle, &format!("{DEFAULT_CLUSTER}/{name}")),
        _ => Party::find(oracle, name),
    }
}

impl Protocol {
    fn number(&self) -> Result<u8> {
        let name = match self {
            Self::Number(number) => return Ok(*number),
            Self::Name(name) => name,
        };
        // IANA protocol numbers.
        Ok(match name.to_ascii_uppercase().as_str() {
            "TCP" => 6,
            "UDP" => 17,
            "SCTP" => 132,
            "ICMP" => 1,
            "ICMPV6" => 58,
            _ => bail!("protocol: {name:?} is none of TCP, UDP, SCTP, ICMP, ICMPv6, and no number"),
        })
    }
}

impl Query {
    fn port(&self, protocol: u8, to: &Party) -> Result<u16> {
        let has_ports = matches!(protocol, 6 | 17 | 132);
        let echo = match protocol {
            1 => Some(8),
            58 => Some(128),
            _ => None,
        };
        if echo.is_none() && (self.icmp_type.is_some() || self.icmp_code.is_some()) {
            bail!("icmpType and icmpCode are of protocol ICMP or ICMPv6");
        }
        match (&self.port, to) {
            (Some(Port::Number(0)) | None, _) if has_ports => {
                bail!("port: from 1 to 65535 is needed")
            }
            (Some(Port::Number(number)), _) if has_ports => Ok(*number),
            // Other protocols have none: a script may well give one all the same.
            (Some(Port::Number(_)) | None, _) => Ok(echo.map_or(0, |echo| {
                icmp(self.icmp_type.unwrap_or(echo), self.icmp_code.unwrap_or(0))
            })),
            (Some(Port::Name(name)), Party::Pod(pod)) => {
                let mut ports = pod.claims.named_ports.iter();
                let named = ports.find(|p| p.protocol == protocol && p.name == *name);
                let pod = pod.claims.display_name();
                let named = named.with_context(|| format!("port: {pod} names no port {name:?}"));
                Ok(named?.port)
            }
            (Some(Port::Name(name)), Party::Address(_) | Party::Name(_)) => {
                let to = &self.to;
                bail!("port: {to} gives no names to ports, and {name:?} is one")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pod(cluster: &str, namespace: &str, name: &str, ip: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": {"app": name},
                "annotations": {"landbridge.io/cluster": cluster}},
            "spec": {"containers": [{"name": "main", "image": "x", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"podIP": ip}})
    }

    fn deny_ingress(except: &str) -> Value {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "api", "namespace": "shop"},
            "spec": {"podSelector": {"matchLabels": {"app": "api"}}, "ingress": [
                {"from": [{"podSelector": {"matchLabels": {"app": except}}}], "ports": [{"port": "http"}]}]}})
    }

    fn ask(objects: Vec<Value>, queries: Value) -> Value {
        let line = json!({"objects": objects, "queries": queries}).to_string();
        answer(line.as_bytes()).unwrap()
    }

    fn allowed(answer: &Value) -> Vec<bool> {
        let verdicts = answer["verdicts"].as_array().unwrap().iter();
        verdicts.map(|v| v["allowed"].as_bool().unwrap()).collect()
    }

    fn local(name: &str, ip: &str) -> Value {
        let mut pod = pod("local", "shop", name, ip);
        pod["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("annotations");
        pod
    }

    #[test]
    fn verdicts_come_in_the_order_of_the_queries_with_the_rules_that_decided() {
        let objects = vec![
            local("api", "10.0.0.1"),
            local("web", "10.0.0.2"),
            local("batch", "10.0.0.3"),
            deny_ingress("web"),
        ];
        let to_api = |from: &str, port: Value| json!({"from": from, "to": "local/shop/api", "protocol": "TCP", "port": port});
        let answer = ask(
            objects,
            json!([
                to_api("local/shop/web", json!(8080)),
                to_api("local/shop/batch", json!(8080)),
                to_api("shop/web", json!("http")),
                to_api("10.0.0.2", json!(80)),
                to_api("192.0.2.1", json!(8080)),
                {"from": "local/shop/api", "to": "192.0.2.1", "port": 443},
            ]),
        );
        assert_eq!(allowed(&answer), [true, false, true, false, false, true]);
        let first = &answer["verdicts"][0];
        assert_eq!(first["ingress"]["policy"], "NetworkPolicy shop/api");
        assert_eq!(first["ingress"]["tier"], "Application");
        assert_eq!(first["ingress"]["cluster"], "local");
        assert_eq!(
            answer["verdicts"][1]["ingress"]["reason"],
            "denied-by-default"
        );
        assert!(answer.get("problems").is_none(), "{answer}");
    }

    #[test]
    fn clusters_are_told_apart_and_need_a_rule_between_them() {
        let objects = vec![
            pod("east", "shop", "web", "10.0.0.1"),
            pod("west", "shop", "api", "10.0.0.1"),
        ];
        let answer = ask(
            objects,
            json!([
                {"from": "east/shop/web", "to": "west/shop/api", "port": 8080},
                {"from": "10.0.0.1", "to": "west/shop/api", "port": 8080},
            ]),
        );
        assert_eq!(allowed(&answer), [false, false]);
        let error = answer["verdicts"][1]["error"].as_str().unwrap();
        assert!(
            error.contains("east/shop/web and of west/shop/api"),
            "{error}"
        );
    }

    #[test]
    fn names_of_the_dns_icmp_and_staged_policies() {
        let policy = |name: &str, spec: Value| {
            json!({"apiVersion": "landbridge.io/v1alpha1", "kind": "FederationPolicy",
                "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
        };
        let rules = json!([
            {"action": "Allow", "to": [{"domains": ["*.example.com"]}]},
            {"action": "Allow", "ports": [{"protocol": "ICMP", "icmpType": 8}]},
        ]);
        let objects = vec![
            local("api", "10.0.0.1"),
            policy("out", json!({"egress": rules})),
            policy(
                "stop",
                json!({"staged": true, "egress": [{"name": "all", "action": "Deny"}]}),
            ),
        ];
        let queries = json!([
            {"from": "shop/api", "to": "WWW.example.com.", "port": 443},
            {"from": "shop/api", "to": "example.com", "port": 443},
            {"from": "shop/api", "to": "192.0.2.1", "protocol": "ICMP"},
            {"from": "shop/api", "to": "192.0.2.1", "protocol": "ICMP", "icmpType": 0},
        ]);
        let answer = ask(objects, queries);
        assert_eq!(allowed(&answer), [true, false, true, false]);
        let staged = &answer["verdicts"][0]["egress"]["staged"];
        assert_eq!(
            (&staged["allowed"], &staged["reason"]),
            (&json!(false), &json!("denied-by-rule"))
        );
        assert_eq!(staged["rule"], "local: FederationPolicy shop/stop rule all");
    }

    #[test]
    fn what_cannot_be_read_closes_what_it_may_concern_and_says_so() {
        let mut broken = deny_ingress("web");
        broken["spec"]["policyTypes"] = json!(["Ingres"]);
        let answer = ask(
            vec![local("api", "10.0.0.1"), local("web", "10.0.0.2"), broken],
            json!([{"from": "shop/web", "to": "shop/api", "port": 8080}]),
        );
        assert_eq!(allowed(&answer), [false]);
        let mut problems = answer["problems"].as_array().unwrap().iter();
        let refused = problems.find(|p| p["field_path"] == "spec.policyTypes[0]");
        let refused = refused.unwrap();
        assert_eq!(refused["file"], "objects[2]");
        assert_eq!(
            (&refused["line"], &refused["effect"]),
            (&Value::Null, &"closed".into())
        );
    }

    #[test]
    fn a_bad_query_spoils_only_itself_and_a_bad_line_only_its_line() {
        let queries = json!([
            {"from": "shop/nobody", "to": "shop/api", "port": 80},
            {"from": "shop/api", "to": "shop/api"},
            {"from": "shop/api", "to": "shop/api", "port": 0},
            {"from": "shop/api", "to": "shop/api", "port": 70000},
            {"from": "shop/api", "to": "shop/api", "port": 80, "protocol": "QUIC"},
            {"from": "shop/api", "to": "192.0.2.1", "port": "http"},
            {"from": "shop/api", "to": "shop/api", "port": 80, "extra": 1},
            {"from": "shop/api", "to": "shop/api", "port": 80},
            {"from": "shop/api", "to": "192.0.2.1", "protocol": "ICMP"},
            {"from": "shop/api", "to": "192.0.2.1", "protocol": "ICMP", "port": 80},
            {"from": "shop/api", "to": "192.0.2.1", "port": 8, "icmpType": 8},
        ]);
        let answer = ask(vec![local("api", "10.0.0.1")], queries);
        let errors = answer["verdicts"].as_array().unwrap().iter();
        let errors: Vec<bool> = errors.map(|v| v["error"].is_string()).collect();
        assert_eq!(
            errors,
            [
                true, true, true, true, true, true, true, false, false, false, true
            ]
        );
        assert!(super::answer(b"{").is_err());
        assert!(super::answer(b"{\"object\":[]}").is_err());
        assert_eq!(super::answer(b"{}").unwrap(), json!({"verdicts": []}));
    }
}
