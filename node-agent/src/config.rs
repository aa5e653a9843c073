//! The configuration file: strict YAML, so that a mistyped field is said and not ignored.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use handshake::budget::CoreShare;
use quic::Pin;
use serde::Deserialize;
use sources::Source;
use workload_api::Socket;

use crate::rules::{LinkName, RateLimits};

/// What `landbridge-agent run --config FILE` reads.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// The own cluster's name in the federation.
    pub cluster: String,
    /// This node's name, as pods name it.
    pub node: String,
    /// Where pods and policies come from.
    pub source: Source,
    /// The agent's X.509-SVID, what must survive a restart, and the admin socket. Mode 0700.
    pub state_dir: PathBuf,
    /// The interface that leads to the network.
    pub uplink: String,
    /// The gateway that is this cluster's issuer.
    pub gateway: Gateway,
    /// Whose X.509-SVIDs are used, in place of those that the gateway signs.
    #[serde(default)]
    pub svid: Option<SvidSource>,
    /// Holds the one-time secret that this node enrols with; needed until it has an X.509-SVID.
    #[serde(default)]
    pub enrol_secret_file: Option<PathBuf>,
    /// In place of a secret: holds the token of the pod's service account, made for gateways. It is read each time
    /// that an X.509-SVID is asked for.
    #[serde(default)]
    pub enrol_token_file: Option<PathBuf>,
    /// Where /metrics, /healthz and /readyz are served.
    pub metrics: SocketAddr,
    /// The name servers whose answers make addresses count for the domain names of policies, by the addresses that
    /// the answers come from. By default those of this machine.
    #[serde(default = "name_servers_of_this_machine")]
    pub name_servers: BTreeSet<IpAddr>,
    /// What may reach the agent at most.
    #[serde(default)]
    pub limits: Limits,
}

/// What `/etc/resolv.conf` says; nobody when it cannot be read.
fn name_servers_of_this_machine() -> BTreeSet<IpAddr> {
    name_servers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

/// The `nameserver` lines of a resolv.conf(5).
fn name_servers(text: &str) -> BTreeSet<IpAddr> {
    let lines = text.lines().map(str::split_whitespace);
    let servers = lines.filter_map(|mut words| match words.next() {
        Some("nameserver") => words.next()?.parse().ok(),
        _ => None,
    });
    servers.collect()
}

/// The issuer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// Where it listens for agents.
    pub endpoint: SocketAddr,
    /// `sha256:` and 64 hex digits: the cluster's root certificate, believed until its bundle came. Not with
    /// `svid`, where the roots come from there.
    #[serde(default)]
    pub root_pin: Option<String>,
    /// In place of it, the file that says it.
    #[serde(default)]
    pub root_pin_file: Option<PathBuf>,
}

/// An issuer of X.509-SVIDs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SvidSource {
    /// The socket of a SPIFFE Workload API.
    pub workload_api: Socket,
}

/// What may reach the agent at most. Packets are per second.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Bare SYNs from one network source.
    pub syn_per_source: u32,
    /// Bare SYNs from one interface.
    pub syn_per_link: u32,
    /// Anything else that is queued, from one network source.
    pub other_per_source: u32,
    /// The same from one interface.
    pub other_per_link: u32,
    /// What one pod sends and is queued.
    pub per_pod: u32,
    /// Packets that wait in one queue.
    pub queue_length: u32,
    /// Established flows.
    pub flows: u32,
    /// Of a core, for checking signatures: for each cluster that credentials come from.
    pub signature_budget: CoreShare,
}

impl Default for Limits {
    fn default() -> Self {
        let rates = RateLimits::default();
        Self {
            syn_per_source: rates.syn_per_source,
            syn_per_link: rates.syn_per_link,
            other_per_source: rates.other_per_source,
            other_per_link: rates.other_per_link,
            per_pod: rates.per_pod,
            queue_length: 4096,
            flows: 262_144,
            signature_budget: CoreShare::default(),
        }
    }
}

impl Limits {
    /// Those that the rules enforce.
    #[must_use]
    pub fn rates(&self) -> RateLimits {
        RateLimits {
            syn_per_source: self.syn_per_source,
            syn_per_link: self.syn_per_link,
            other_per_source: self.other_per_source,
            other_per_link: self.other_per_link,
            per_pod: self.per_pod,
        }
    }
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// Names the file, the field and what was expected.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// Reads and checks a file's text.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut unknown = Vec::new();
        let yaml = serde_norway::Deserializer::from_str(text);
        let config: Self = serde_ignored::deserialize(yaml, |path| {
            // A field that may be left out has a step of its own in the path.
            unknown.push(path.to_string().replace(".?", ""));
        })?;
        if !unknown.is_empty() {
            bail!("unknown field {}", unknown.join(", "));
        }
        for (field, value) in [("cluster", &config.cluster), ("node", &config.node)] {
            if value.is_empty() {
                bail!("{field}: must not be empty");
            }
        }
        LinkName::new(&config.uplink).context("uplink")?;
        config.check_svid()?;
        let limits = &config.limits;
        for (field, value) in [
            ("synPerSource", limits.syn_per_source),
            ("synPerLink", limits.syn_per_link),
            ("otherPerSource", limits.other_per_source),
            ("otherPerLink", limits.other_per_link),
            ("perPod", limits.per_pod),
            ("queueLength", limits.queue_length),
            ("flows", limits.flows),
        ] {
            if value == 0 {
                bail!("limits.{field}: 0 would let nothing through; leave it out for the default");
            }
        }
        Ok(config)
    }

    fn check_svid(&self) -> anyhow::Result<()> {
        if self.enrol_secret_file.is_some() && self.enrol_token_file.is_some() {
            bail!("enrolTokenFile: it stands in place of enrolSecretFile: leave one of them out");
        }
        let pin = self.pin()?;
        if self.svid.is_none() {
            return pin.map(drop).context(
                "gateway.rootPin: it is missing (as is rootPinFile), and only with svid.workloadApi it is not needed",
            );
        }
        for (field, is_there) in [
            ("gateway.rootPin", pin.is_some()),
            ("enrolSecretFile", self.enrol_secret_file.is_some()),
            ("enrolTokenFile", self.enrol_token_file.is_some()),
        ] {
            if is_there {
                bail!(
                    "{field}: the roots and the X.509-SVID come from svid.workloadApi: leave it out"
                );
            }
        }
        Ok(())
    }

    /// The pin of the cluster's root; `None` where roots come from elsewhere.
    ///
    /// # Errors
    /// When it is not `sha256:` and 64 hex digits.
    pub fn pin(&self) -> anyhow::Result<Option<Pin>> {
        let Gateway {
            root_pin,
            root_pin_file,
            ..
        } = &self.gateway;
        let (pin, field) = match (root_pin, root_pin_file) {
            (Some(_), Some(_)) => bail!("gateway: rootPin or rootPinFile, not both"),
            (Some(pin), None) => (pin.clone(), "rootPin".to_owned()),
            (None, Some(file)) => {
                let field = format!("rootPinFile: {}", file.display());
                let text = fs::read_to_string(file).with_context(|| format!("gateway.{field}"))?;
                (text.trim().to_owned(), field)
            }
            (None, None) => return Ok(None),
        };
        let pin = pin.parse().with_context(|| format!("gateway.{field}"))?;
        Ok(Some(pin))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn full() -> String {
        format!(
            "cluster: east\nnode: node1\nsource: {{folder: /etc/landbridge}}\n\
             stateDir: /var/lib/landbridge\nuplink: up0\n\
             gateway: {{endpoint: \"172.16.1.1:4434\", rootPin: \"sha256:{}\"}}\n\
             enrolSecretFile: /etc/landbridge/secret\nmetrics: 127.0.0.1:9465\n",
            "ab".repeat(32)
        )
    }

    fn error(text: &str) -> String {
        format!("{:#}", Config::parse(text).unwrap_err())
    }

    #[test]
    fn the_whole_file_is_read_and_defaults_are_filled_in() {
        let config = Config::parse(&full()).unwrap();
        assert_eq!(config.limits, Limits::default());
        let some = format!("{}limits: {{perPod: 9, signatureBudget: 40%}}\n", full());
        let some = Config::parse(&some).unwrap();
        assert_eq!(
            some.limits,
            Limits {
                per_pod: 9,
                signature_budget: "40%".parse().unwrap(),
                ..Limits::default()
            }
        );
    }

    #[test]
    fn an_agent_of_a_workload_api_needs_neither_pin_nor_secret() {
        let socket = "svid: {workloadApi: \"unix:///run/spire/sockets/agent.sock\"}\n";
        let both = format!("{}{socket}", full());
        assert!(
            error(&both).contains("gateway.rootPin: the roots"),
            "{}",
            error(&both)
        );
        let secret = both
            .replace(", rootPin: \"sha256:", "} #")
            .replace("rootPin", "");
        assert!(
            error(&secret).contains("enrolSecretFile: the roots"),
            "{}",
            error(&secret)
        );
        let alone = secret.replace("enrolSecretFile: /etc/landbridge/secret\n", "");
        let config = Config::parse(&alone).unwrap();
        assert!(config.svid.is_some() && config.pin().unwrap().is_none());
        let neither = alone.replace(socket, "");
        assert!(error(&neither).contains("gateway.rootPin: it is missing"));
        let tcp = alone.replace("unix:///run/spire/sockets/agent.sock", "tcp://127.0.0.1:1");
        assert!(error(&tcp).contains("is a TCP port"), "{}", error(&tcp));
    }

    #[test]
    fn an_agent_in_a_pod_has_its_pin_and_its_token_in_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rootPin");
        let pin = format!("sha256:{}", "ab".repeat(32));
        fs::write(&file, format!("{pin}\n")).unwrap();
        let text = full()
            .replace("folder: /etc/landbridge", "kubernetes: {}")
            .replace("enrolSecretFile", "enrolTokenFile")
            .replace(
                &format!("rootPin: \"{pin}\""),
                &format!("rootPinFile: {}", file.display()),
            );
        let config = Config::parse(&text).unwrap();
        assert_eq!(config.pin().unwrap().unwrap().to_string(), pin);
        assert_eq!(config.source, Source::Kubernetes(Default::default()));
        let both = error(&format!("{text}enrolSecretFile: /etc/landbridge/secret\n"));
        assert!(both.contains("in place of enrolSecretFile"), "{both}");
        fs::write(&file, "sha256:").unwrap();
        assert!(
            error(&text).contains("gateway.rootPinFile"),
            "{}",
            error(&text)
        );
        fs::remove_file(&file).unwrap();
        assert!(
            error(&text).contains("gateway.rootPinFile"),
            "{}",
            error(&text)
        );
        let sources = "{folder: /etc/landbridge, kubernetes: {}}";
        let two = error(&full().replace("{folder: /etc/landbridge}", sources));
        assert!(two.contains("one of folder and kubernetes"), "{two}");
        let slip = error(&text.replace("kubernetes: {}", "kubernetes: {kubeConfig: x}"));
        assert!(slip.contains("source.kubernetes.kubeConfig"), "{slip}");
    }

    #[test]
    fn name_servers_are_those_listed_or_the_machines() {
        let listed = Config::parse(&format!("{}nameServers: [192.0.2.53]\n", full())).unwrap();
        assert_eq!(listed.name_servers, ["192.0.2.53".parse().unwrap()].into());
        let none = Config::parse(&format!("{}nameServers: []\n", full())).unwrap();
        assert_eq!(none.name_servers, BTreeSet::new());
        let text = "# nameserver 192.0.2.1\nsearch a.b\nnameserver 192.0.2.2\n nameserver\t2001:db8::1 x\nnameserver y\n";
        let expected = ["192.0.2.2".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(name_servers(text), expected.into());
    }

    #[test]
    fn errors_name_the_field() {
        let wrong = |from: &str, to: &str| error(&full().replace(from, to));
        assert!(wrong("rootPin", "rootpin").contains("gateway.rootpin"));
        assert!(wrong("rootPin:", "pin: 1, rootPin:").contains("gateway.pin"));
        assert!(wrong("sha256:ab", "sha1:ab").contains("gateway.rootPin"));
        assert!(wrong("uplink: up0", "uplink: \"up 0\"").contains("uplink"));
        assert!(wrong("node: node1\n", "").contains("node"));
        let limits = |text: &str| error(&format!("{}limits: {{{text}}}\n", full()));
        assert!(limits("perPod: 0").contains("limits.perPod"));
        let share = limits("signatureBudget: 0%");
        assert!(share.contains("limits: \"0%\" is no share"), "{share}");
    }
}
