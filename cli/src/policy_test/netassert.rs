//! Files of netassert, which asks running pods; here the policies are asked. Version 1 is a mapping of groups,
//! version 2 a list of tests. What only packets can tell is skipped, and said to be.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sources::{
    FieldPath, World,
    strict::{Mistake, Text},
};

use super::{
    Case, Expected, What,
    workloads::{Kind, Place, pods},
};
use crate::{oracle::Oracle, service::Service};

mod v1;
mod v2;

/// Tests of a file, as far as no folder is needed to read them.
pub struct Assertions(Vec<Assertion>);

/// One test.
struct Assertion {
    name: String,
    from: Source,
    to: Target,
    /// `80/tcp`; or why it cannot be asked.
    port: Result<Service, String>,
    expected: Expected,
}

enum Source {
    Workload(Kind, Place),
    /// A machine that is no pod.
    Outside(String),
}

enum Target {
    Workload(Kind, Place),
    Address(IpAddr),
    /// What looks like a service of that namespace, if there is such a namespace.
    Service(Place),
    /// A name that only DNS knows.
    Name(String),
}

/// The tests of `text`, when it is a file of netassert.
///
/// # Errors
/// What is wrong with it, a line each.
pub fn read(text: &Text<'_>) -> Option<Result<Assertions, String>> {
    let assertions = match text.tree() {
        Value::Array(_) => v2::read(text),
        Value::Object(groups) if groups.keys().any(|k| v1::GROUPS.contains(&k.as_str())) => {
            v1::read(text)
        }
        _ => return None,
    };
    let assertions = assertions.map(Assertions).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        lines.join("\n")
    });
    Some(assertions)
}

impl Assertions {
    /// One case for each pair of pods that an assertion means.
    ///
    /// # Errors
    /// When it is not said which of several clusters the file speaks of.
    pub fn cases(&self, oracle: &Oracle, cluster: Option<&str>) -> Result<Vec<Case>> {
        let world = chosen(oracle, cluster)?;
        Ok(self.0.iter().flat_map(|a| a.cases(world)).collect())
    }
}

/// The cluster that a file without names of clusters speaks of.
fn chosen<'o>(oracle: &'o Oracle, cluster: Option<&str>) -> Result<&'o World> {
    let names: Vec<&str> = oracle.worlds().map(|w| w.cluster.name.as_str()).collect();
    let names = names.join(", ");
    let mut worlds = oracle.worlds();
    match cluster {
        Some(name) => worlds
            .find(|w| w.cluster.name == name)
            .with_context(|| format!("--cluster: there is no cluster {name:?}; there are {names}")),
        None => match (worlds.next(), worlds.next()) {
            (Some(only), None) => Ok(only),
            _ => bail!("a file of netassert names no clusters: --cluster must, one of {names}"),
        },
    }
}

impl Assertion {
    fn cases(&self, world: &World) -> Vec<Case> {
        let one = |what: What| {
            vec![Case {
                title: self.name.clone(),
                what,
            }]
        };
        let port = match &self.port {
            Ok(port) => port,
            Err(why) => return one(What::Skipped(why.clone())),
        };
        let from = match &self.from {
            Source::Workload(kind, place) => pods(world, *kind, place),
            Source::Outside(host) => {
                let why = format!(
                    "{host} is a machine outside of all clusters: what it reaches only packets tell"
                );
                return one(What::Skipped(why));
            }
        };
        let to = match &self.to {
            Target::Workload(kind, place) => pods(world, *kind, place),
            Target::Service(place)
                if world
                    .workloads
                    .iter()
                    .any(|w| w.namespace == place.namespace) =>
            {
                pods(world, Kind::Any, place)
            }
            Target::Service(Place { namespace, name }) => {
                let name = format!("{name}.{namespace}");
                return one(What::Skipped(by_name(&name)));
            }
            Target::Name(name) => return one(What::Skipped(by_name(name))),
            Target::Address(address) => return self.to_address(world, from, *address, port),
        };
        match (from, to) {
            (Ok(from), Ok(to)) => {
                let pairs = from.iter().flat_map(|f| to.iter().map(move |t| (f, t)));
                let pairs = pairs.map(|(from, to)| self.pair(from, to, port));
                pairs.collect()
            }
            (Err(error), _) | (_, Err(error)) => one(What::Fails(error.to_string())),
        }
    }

    /// An address of a pod means the pod.
    fn to_address(
        &self,
        world: &World,
        from: Result<Vec<String>>,
        address: IpAddr,
        port: &Service,
    ) -> Vec<Case> {
        let case = |title: String, what| Case { title, what };
        let from = match from {
            Ok(from) => from,
            Err(error) => return vec![case(self.name.clone(), What::Fails(error.to_string()))],
        };
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            let why = format!(
                "{address} is nobody that policy knows: what answers there only packets tell"
            );
            return vec![case(self.name.clone(), What::Skipped(why))];
        }
        let clusters = &world.federation.clusters;
        let of = clusters
            .iter()
            .find(|c| c.pod_ranges.iter().any(|r| r.seen().contains(&address)));
        let pod = world.workloads.iter().find(|w| w.address == Some(address));
        if let (Some(cluster), None) = (of, pod) {
            let why = format!(
                "{address} is a pod's of cluster {}, but of none that cluster {} declares",
                cluster.name, world.cluster.name
            );
            return vec![case(self.name.clone(), What::Fails(why))];
        }
        let to = |from: &String| match pod {
            Some(pod) => {
                let to = world.pod_name(&pod.namespace, &pod.pod);
                self.pair(from, &to, port)
            }
            None => self.pair(from, &address.to_string(), port),
        };
        from.iter().map(to).collect()
    }

    fn pair(&self, from: &str, to: &str, port: &Service) -> Case {
        Case {
            title: self.title(from, to, port),
            what: What::Connection {
                from: from.to_owned(),
                to: to.to_owned(),
                port: port.clone(),
                expected: self.expected,
                rule: None,
            },
        }
    }

    fn title(&self, from: &str, to: &str, port: &Service) -> String {
        format!(
            "{} ({from} -> {to} {port}: {})",
            self.name,
            self.expected.word()
        )
    }
}

fn by_name(name: &str) -> String {
    format!("{name} is a name of the DNS: which address it is only packets tell")
}

/// The other end by what people write: an address, `NAMESPACE:NAME`, or the name of a service as pods of
/// `namespace` use it.
fn target(text: &str, namespace: &str) -> Target {
    if let Ok(address) = text.parse() {
        return Target::Address(address);
    }
    let place = |namespace: &str, name: &str| Place {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    if let Some((namespace, name)) = text.split_once(':') {
        return Target::Workload(Kind::Any, place(namespace, name));
    }
    let parts: Vec<&str> = text.trim_end_matches('.').split('.').collect();
    match parts[..] {
        ["localhost"] => Target::Name(text.to_owned()),
        [name] => Target::Workload(Kind::Any, place(namespace, name)),
        [name, of] => Target::Service(place(of, name)),
        [name, of, "svc", ..] => Target::Workload(Kind::Any, place(of, name)),
        _ => Target::Name(text.to_owned()),
    }
}

/// Collects mistakes, so that one look at a file tells all of them.
struct Reader<'t> {
    text: &'t Text<'t>,
    mistakes: Vec<Mistake>,
}

impl<'t> Reader<'t> {
    fn new(text: &'t Text<'t>) -> Self {
        Self {
            text,
            mistakes: Vec::new(),
        }
    }

    fn wrong(&mut self, path: &FieldPath, message: String, expected: &str) {
        self.mistakes
            .push(self.text.mistake(path, message, expected));
    }

    fn finish(mut self, assertions: Vec<Assertion>) -> Result<Vec<Assertion>, Vec<Mistake>> {
        if assertions.is_empty() && self.mistakes.is_empty() {
            self.wrong(
                &FieldPath::default(),
                "there are no tests".into(),
                "at least one",
            );
        }
        match self.mistakes.is_empty() {
            true => Ok(assertions),
            false => Err(self.mistakes),
        }
    }
}

#[cfg(test)]
mod tests;
