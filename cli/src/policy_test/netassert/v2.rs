//! Version 2: a list of tests, each from pods of a workload to pods of a workload or to a host; exit code 0
//! means that it must be reached, 1 that it must not.

use serde::Deserialize;
use sources::{
    FieldPath,
    strict::{Mistake, Text},
};

use super::{Assertion, Expected, Kind, Place, Reader, Source, Target, target};
use crate::service::Service;

/// One test. What only the sending of packets needs is read and checked, and means nothing here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Test {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default = "tcp")]
    protocol: String,
    target_port: i64,
    #[serde(default = "one")]
    timeout_seconds: i64,
    #[serde(default = "one")]
    attempts: i64,
    #[serde(default)]
    exit_code: i64,
    src: End,
    dst: End,
    /// Results of netassert, which it writes beside the test.
    #[serde(default, rename = "pass")]
    _pass: bool,
    #[serde(default, rename = "failureReason")]
    _failure_reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct End {
    k8s_resource: Option<Resource>,
    host: Option<Host>,
}

#[derive(Debug, Deserialize)]
struct Resource {
    kind: String,
    name: String,
    namespace: String,
}

#[derive(Debug, Deserialize)]
struct Host {
    name: String,
}

fn tcp() -> String {
    "tcp".into()
}

fn one() -> i64 {
    1
}

pub(super) fn read(text: &Text<'_>) -> Result<Vec<Assertion>, Vec<Mistake>> {
    let tests: Vec<Test> = text.decode()?;
    let mut reader = Reader::new(text);
    let mut assertions = Vec::new();
    for (index, test) in tests.iter().enumerate() {
        let path = FieldPath::default().index(index);
        if tests.iter().take(index).any(|t| t.name == test.name) {
            let message = format!("{:?} names another test too", test.name);
            reader.wrong(&path.key("name"), message, "each name once");
        }
        assertions.extend(reader.test(test, &path));
    }
    reader.finish(assertions)
}

impl Reader<'_> {
    fn test(&mut self, test: &Test, path: &FieldPath) -> Option<Assertion> {
        if test.name.is_empty() {
            self.wrong(&path.key("name"), "is empty".into(), "a name");
        }
        if test.kind != "k8s" {
            let message = format!("{:?} is no type of test", test.kind);
            self.wrong(&path.key("type"), message, "k8s");
        }
        for (field, value) in [
            ("timeoutSeconds", test.timeout_seconds),
            ("attempts", test.attempts),
        ] {
            if value < 1 {
                self.wrong(
                    &path.key(field),
                    format!("found {value}"),
                    "a number from 1 on",
                );
            }
        }
        let expected = match test.exit_code {
            0 => Some(Expected::Allowed),
            1 => Some(Expected::Denied),
            other => {
                let expected = "0 (it is reached) or 1 (it is not)";
                self.wrong(&path.key("exitCode"), format!("found {other}"), expected);
                None
            }
        };
        let service = self.service(test, path);
        let from = match (&test.src.k8s_resource, &test.src.host) {
            (Some(resource), None) => self.resource(resource, &path.key("src").key("k8sResource")),
            _ => {
                let message = "names no workload alone".into();
                self.wrong(&path.key("src"), message, "k8sResource, and nothing else");
                None
            }
        };
        let at = path.key("dst");
        let to = match (&test.dst.k8s_resource, &test.dst.host) {
            (Some(resource), None) => {
                let end = self.resource(resource, &at.key("k8sResource"));
                end.map(|(kind, place)| Target::Workload(kind, place))
            }
            (None, Some(host)) => self.host(host, test, &at.key("host")),
            _ => {
                let message = "names not exactly one end".into();
                self.wrong(&at, message, "k8sResource or host");
                None
            }
        };
        let (kind, place) = from?;
        Some(Assertion {
            name: test.name.clone(),
            from: Source::Workload(kind, place),
            to: to?,
            port: Ok(service?),
            expected: expected?,
        })
    }

    fn service(&mut self, test: &Test, path: &FieldPath) -> Option<Service> {
        let protocol = test.protocol.as_str();
        if !matches!(protocol, "tcp" | "udp") {
            let message = format!("{protocol:?} is no protocol");
            self.wrong(&path.key("protocol"), message, "tcp or udp");
            return None;
        }
        let port = u16::try_from(test.target_port).ok().filter(|p| *p != 0);
        let Some(port) = port else {
            let message = format!("{} is no port", test.target_port);
            self.wrong(&path.key("targetPort"), message, "a number from 1 to 65535");
            return None;
        };
        format!("{port}/{protocol}").parse().ok()
    }

    fn resource(&mut self, resource: &Resource, path: &FieldPath) -> Option<(Kind, Place)> {
        for (field, value) in [("name", &resource.name), ("namespace", &resource.namespace)] {
            if value.is_empty() {
                self.wrong(&path.key(field), "is empty".into(), "a name");
            }
        }
        let kind = match resource.kind.as_str() {
            "deployment" => Kind::Deployment,
            "statefulset" => Kind::StatefulSet,
            "daemonset" => Kind::DaemonSet,
            "pod" => Kind::Pod,
            other => {
                let expected = "one of deployment, statefulset, daemonset, pod";
                self.wrong(&path.key("kind"), format!("{other:?} is no kind"), expected);
                return None;
            }
        };
        let place = Place {
            namespace: resource.namespace.clone(),
            name: resource.name.clone(),
        };
        Some((kind, place))
    }

    fn host(&mut self, host: &Host, test: &Test, path: &FieldPath) -> Option<Target> {
        if test.protocol == "udp" {
            self.wrong(path, "stands with protocol udp".into(), "k8sResource");
        }
        if host.name.is_empty() {
            let expected = "an address or a name of the DNS";
            self.wrong(&path.key("name"), "is empty".into(), expected);
            return None;
        }
        match target(&host.name, "") {
            // A name without dots is of nobody here.
            Target::Workload(_, place) if place.namespace.is_empty() => {
                Some(Target::Name(host.name.clone()))
            }
            end => Some(end),
        }
    }
}
