//! The configuration file: strict YAML. An unknown field is an error that names its path.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use bundle_endpoint::EndpointPath;
use gateway_xdp::AttachMode;
use handshake::budget::CoreShare;
use identity::{AwayRule, ClaimLimits};
use ipnet::IpNet;
use peering::introductions::{Accepting, Rules};
use serde::{Deserialize, Deserializer, de};
use sources::{Source, crd::BundleEndpointSpec};

use crate::bundle_source::BundleSource;

mod issuer;

pub use issuer::{KeptIn, Keys, NewRoots, SvidSource};

/// The whole file. See `docs/` for an annotated example.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// The own cluster's name in the federation.
    pub cluster: String,
    /// This gateway's name in the cluster.
    pub name: String,
    /// Where pods and policies come from.
    pub source: Source,
    /// Keys, bundles, sequences, the pins of the attachment and the admin socket. Mode 0700.
    pub state_dir: PathBuf,
    /// The interface towards other gateways.
    pub wan: Wan,
    /// The interface towards the nodes. It may be the same as `wan`.
    pub lan: Lan,
    /// Where /metrics, /healthz and /readyz are served.
    pub metrics: SocketAddr,
    /// Where the own trust bundle is served to other SPIFFE implementations, if anywhere.
    pub bundle_endpoint: Option<BundleEndpoint>,
    /// When keys are exchanged by themselves.
    #[serde(default)]
    pub rotation: Rotation,
    /// What protects private keys in `state_dir`.
    #[serde(default)]
    pub keys: Keys,
    /// Whose X.509-SVIDs are used, in place of those of a root of this gateway's own.
    pub svid: Option<SvidSource>,
    /// Other clusters.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// Whose introductions of further clusters are accepted: nobody's (`listed`), those of marked members
    /// (`introduced`), or those of every member (`all`).
    #[serde(default)]
    pub introductions: Accepting,
    /// What becomes of a cluster that was introduced when it stays away: closed after a day, unless it is said
    /// otherwise. `null`: its bundle ends by itself.
    #[serde(default = "introduced_away")]
    pub introduced_away: Option<AwayRule>,
    /// From where pod ranges of clusters that are joined get a prefix here, when they overlap others: nothing
    /// else uses these addresses in this cluster, and its nodes route them to this gateway.
    #[serde(default)]
    pub federation_prefixes: Vec<IpNet>,
    /// The nodes of this cluster. Those that its API server has are known as well.
    #[serde(default)]
    pub nodes: Vec<Node>,
    /// How agents enrol that run as pods of a Kubernetes cluster.
    pub agents: Option<Agents>,
    /// What others may cost it at most.
    #[serde(default)]
    pub limits: Limits,
    /// Where the steering program runs: `driver`, or `skb` for NICs without XDP.
    #[serde(default, deserialize_with = "xdp_mode")]
    pub xdp_mode: AttachMode,
}

/// The side of the other gateways.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wan {
    /// The interface's name.
    pub interface: String,
    /// The address that tunnels end at and QUIC listens on.
    pub address: IpAddr,
    /// The UDP port of QUIC towards peers.
    #[serde(default = "quic_port")]
    pub quic_port: u16,
    /// The UDP port of PSP.
    #[serde(default = "psp_port")]
    pub psp_port: u16,
    /// Where other clusters reach `quic_port`, when that is not `address`: behind a 1:1 translation.
    #[serde(default)]
    pub advertise: Vec<SocketAddr>,
}

/// The side of the nodes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lan {
    /// The interface's name.
    pub interface: String,
    /// The gateway's address there.
    pub address: IpAddr,
    /// The UDP port of QUIC towards agents.
    #[serde(default = "node_port")]
    pub node_port: u16,
}

/// After how many days of use a key is exchanged; 0: only by command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rotation {
    /// The X.509 root.
    pub root_days: u32,
    /// The key that signs credentials.
    pub issuer_key_days: u32,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            root_days: 365,
            issuer_key_days: 30,
        }
    }
}

impl Rotation {
    /// The lives of roots and of issuer keys; `None`: until a command says so.
    #[must_use]
    pub fn lives(self) -> (Option<Duration>, Option<Duration>) {
        let life = |days: u32| (days > 0).then(|| Duration::from_hours(u64::from(days) * 24));
        (life(self.root_days), life(self.issuer_key_days))
    }
}

/// What others may cost a gateway at most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Of a core, for checking signatures: for the own cluster, and for each peer.
    pub signature_budget: CoreShare,
}

/// A SPIFFE bundle endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BundleEndpoint {
    /// The address and TCP port.
    pub listen: SocketAddr,
    /// The path of its URL.
    #[serde(default)]
    pub path: EndpointPath,
    /// By what clients believe it.
    pub profile: BundleProfile,
    /// `https_web`: the PEM file of the chain, leaf first. Read again when it changes.
    pub certificate: Option<PathBuf>,
    /// `https_web`: the PEM file of its key.
    pub key: Option<PathBuf>,
}

/// The profile of a bundle endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum BundleProfile {
    /// It shows the gateway's X.509-SVID.
    #[serde(rename = "https_spiffe")]
    Spiffe,
    /// It shows a certificate of the Web PKI.
    #[serde(rename = "https_web")]
    Web,
}

impl BundleEndpoint {
    /// The files of chain and key; `None` for `https_spiffe`.
    ///
    /// # Errors
    /// When they do not fit the profile.
    pub fn files(&self) -> anyhow::Result<Option<(&Path, &Path)>> {
        match (self.profile, &self.certificate, &self.key) {
            (BundleProfile::Spiffe, None, None) => Ok(None),
            (BundleProfile::Web, Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            (BundleProfile::Spiffe, ..) => {
                bail!("bundleEndpoint: certificate and key are of https_web alone")
            }
            (BundleProfile::Web, ..) => {
                bail!("bundleEndpoint: https_web needs certificate and key")
            }
        }
    }
}

/// Another cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Its name in the federation.
    pub cluster: String,
    /// Where its gateway listens for QUIC.
    pub endpoint: SocketAddr,
    /// `sha256:` and 64 hex digits: its root certificate, believed until its bundle is stored.
    pub root_pin: Option<String>,
    /// Where the roots of its trust domain are fetched instead.
    pub bundle_endpoint: Option<BundleEndpointSpec>,
    /// It is a peer only while a FederationPeer object names its cluster: deleting the object withdraws it.
    #[serde(default)]
    pub while_declared: bool,
    /// What its credentials may claim here.
    #[serde(default)]
    pub accept: ClaimLimits,
    /// Which pods of this cluster it may meet.
    #[serde(default)]
    pub offer: ClaimLimits,
    /// It may introduce others, where `introductions` is `introduced`.
    #[serde(default)]
    pub introducer: bool,
    /// What becomes of it when it stays away.
    #[serde(default)]
    pub away: Option<AwayRule>,
}

/// A node of this cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its address on the side of the nodes.
    pub address: IpAddr,
    /// `sha256:` and 64 hex digits: the one-time secret that its agent enrols with.
    pub enrol_secret_hash: Option<String>,
}

/// Agents that run as pods: they show the token of their service account.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agents {
    /// `NAMESPACE/NAME`.
    pub service_account: String,
    /// Whom their tokens are made for.
    #[serde(default = "audience")]
    pub audience: String,
    /// The ConfigMap in the gateway's namespace that is to have the pin of the cluster's root, for agents.
    pub root_config_map: Option<String>,
}

fn audience() -> String {
    "landbridge".into()
}

impl Agents {
    /// Namespace and name of the service account.
    #[must_use]
    pub fn account(&self) -> Option<(&str, &str)> {
        let (namespace, name) = self.service_account.split_once('/')?;
        let is_name = |name: &str| identity::is_dns_subdomain(name);
        (is_name(namespace) && is_name(name)).then_some((namespace, name))
    }
}

impl Config {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// Names the file, the field's path and what was expected.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// Reads and checks the text of a file.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut unknown = Vec::new();
        let document = serde_norway::Deserializer::from_str(text);
        let config: Self =
            // A field that may be left out has a step of its own in the path.
            serde_ignored::deserialize(document, |path| {
                unknown.push(path.to_string().replace(".?", ""));
            })?;
        if !unknown.is_empty() {
            bail!("unknown field {}", unknown.join(", "));
        }
        config.check()?;
        Ok(config)
    }

    /// Where other clusters reach this gateway.
    #[must_use]
    pub fn advertised(&self) -> Vec<SocketAddr> {
        match self.wan.advertise.is_empty() {
            true => vec![SocketAddr::new(self.wan.address, self.wan.quic_port)],
            false => self.wan.advertise.clone(),
        }
    }

    /// What is said of introductions.
    #[must_use]
    pub fn introduction_rules(&self) -> Rules {
        Rules {
            accepting: self.introductions,
            away: self.introduced_away,
        }
    }

    /// Whether both sides are one interface.
    #[must_use]
    pub fn one_interface(&self) -> bool {
        self.wan.interface == self.lan.interface
    }

    fn check(&self) -> anyhow::Result<()> {
        for (field, value) in [("cluster", &self.cluster), ("name", &self.name)] {
            if value.is_empty() {
                bail!("{field}: must not be empty");
            }
        }
        if self.wan.quic_port == self.lan.node_port && self.wan.address == self.lan.address {
            bail!(
                "lan.nodePort: {} is wan.quicPort already",
                self.lan.node_port
            );
        }
        if self.wan.quic_port == self.wan.psp_port {
            bail!("wan.pspPort: {} is wan.quicPort already", self.wan.psp_port);
        }
        if let Some(endpoint) = &self.bundle_endpoint {
            endpoint.files()?;
        }
        self.keys.check(self.svid.as_ref())?;
        if let Some(agents) = &self.agents {
            if !matches!(self.source, Source::Kubernetes(_)) {
                bail!("agents: only an API server can judge tokens: source.kubernetes is needed");
            }
            if agents.account().is_none() {
                let found = &agents.service_account;
                bail!("agents.serviceAccount: {found:?} is not NAMESPACE/NAME");
            }
        }
        for prefix in &self.federation_prefixes {
            if *prefix != prefix.trunc() {
                let right = prefix.trunc();
                bail!("federationPrefixes: {prefix} has bits set after its prefix: {right}");
            }
        }
        for (number, peer) in self.peers.iter().enumerate() {
            match (&peer.root_pin, &peer.bundle_endpoint) {
                (Some(_), None) => {}
                (None, Some(endpoint)) => {
                    BundleSource::new(endpoint)
                        .with_context(|| format!("peers.{number}.bundleEndpoint"))?;
                }
                (Some(_), Some(_)) => {
                    bail!("peers.{number}: rootPin or bundleEndpoint, not both")
                }
                (None, None) => bail!("peers.{number}: needs rootPin, or bundleEndpoint"),
            }
        }
        let peers = self.peers.iter().map(|p| p.cluster.as_str());
        twice("peers", "cluster", peers.chain([self.cluster.as_str()]))?;
        twice("nodes", "name", self.nodes.iter().map(|n| n.name.as_str()))?;
        let addresses: Vec<String> = self.nodes.iter().map(|n| n.address.to_string()).collect();
        twice("nodes", "address", addresses.iter().map(String::as_str))
    }
}

fn twice<'a>(list: &str, field: &str, values: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for value in values {
        if !seen.insert(value) {
            bail!("{list}: two have the {field} {value:?}, or it is this cluster's own");
        }
    }
    Ok(())
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "as the field has it, which may be null"
)]
fn introduced_away() -> Option<AwayRule> {
    Some(AwayRule::OF_INTRODUCED)
}

fn quic_port() -> u16 {
    4433
}

fn psp_port() -> u16 {
    1000
}

fn node_port() -> u16 {
    4434
}

fn xdp_mode<'de, D: Deserializer<'de>>(d: D) -> Result<AttachMode, D::Error> {
    match String::deserialize(d)?.as_str() {
        "driver" => Ok(AttachMode::Driver),
        "skb" => Ok(AttachMode::Skb),
        other => Err(de::Error::unknown_variant(other, &["driver", "skb"])),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(super) const FULL: &str = r#"
cluster: east
name: gw1
source: {folder: /etc/landbridge}
stateDir: /var/lib/landbridge
wan: {interface: wan0, address: 192.0.2.1, quicPort: 4433, pspPort: 1000}
lan: {interface: lan0, address: 172.16.1.1, nodePort: 4434}
metrics: 127.0.0.1:9464
peers: [{cluster: west, endpoint: "192.0.2.2:4433", rootPin: "sha256:00"}]
nodes: [{name: node1, address: 172.16.1.11, enrolSecretHash: "sha256:00"}]
"#;

    pub(super) fn error(text: &str) -> String {
        format!("{:#}", Config::parse(text).unwrap_err())
    }

    #[test]
    fn the_whole_file_is_read_and_defaults_are_filled_in() {
        let config = Config::parse(FULL).unwrap();
        assert_eq!(config.xdp_mode, AttachMode::Driver);
        assert_eq!(config.peers[0].endpoint.port(), 4433);
        assert!(!config.peers[0].while_declared);
        let short = FULL.replace(", quicPort: 4433, pspPort: 1000", "");
        assert_eq!(Config::parse(&short).unwrap(), config);
        let skb = Config::parse(&format!("{FULL}\nxdpMode: skb")).unwrap();
        assert_eq!(skb.xdp_mode, AttachMode::Skb);
        assert!(!config.one_interface());
        assert_eq!(config.limits.signature_budget.to_string(), "25%");
        let more = Config::parse(&format!("{FULL}limits: {{signatureBudget: 40%}}")).unwrap();
        assert_eq!(more.limits.signature_budget.to_string(), "40%");
        let day = Duration::from_hours(24);
        let lives = config.rotation.lives();
        assert_eq!(lives, (Some(day * 365), Some(day * 30)));
        let never = Config::parse(&format!("{FULL}rotation: {{rootDays: 0}}")).unwrap();
        assert_eq!(never.rotation.lives(), (None, Some(day * 30)));
    }

    #[test]
    fn agents_enrol_by_tokens_where_an_api_server_judges_them() {
        let folder = "{folder: /etc/landbridge}";
        let agents = |source: &str, account: &str| {
            let text = FULL.replace(folder, source);
            format!("{text}agents: {{serviceAccount: {account}}}\n")
        };
        let config = Config::parse(&agents("{kubernetes: {}}", "landbridge/agent")).unwrap();
        let read = config.agents.unwrap();
        assert_eq!(read.account(), Some(("landbridge", "agent")));
        assert_eq!(read.audience, "landbridge");
        let nobody = error(&agents(folder, "landbridge/agent"));
        assert!(nobody.contains("source.kubernetes is needed"), "{nobody}");
        for account in ["agent", "landbridge/agent/x", "Landbridge/agent", "/agent"] {
            let wrong = error(&agents("{kubernetes: {}}", account));
            assert!(
                wrong.contains("is not NAMESPACE/NAME"),
                "{account}: {wrong}"
            );
        }
    }

    #[test]
    fn errors_name_the_path() {
        let unknown = FULL.replace("pspPort", "pspport");
        assert!(error(&unknown).contains("unknown field wan.pspport"));
        let deep = FULL.replace("rootPin:", "pin: x, rootPin:");
        assert!(
            error(&deep).contains("unknown field peers.0.pin"),
            "{}",
            error(&deep)
        );
        let kind = FULL.replace("quicPort: 4433", "quicPort: many");
        assert!(error(&kind).contains("wan.quicPort"), "{}", error(&kind));
        let missing = FULL.replace("name: gw1\n", "");
        assert!(error(&missing).contains("`name`"), "{}", error(&missing));
        assert!(error(&format!("{FULL}xdpMode: fast")).contains("fast"));
        let share = error(&format!("{FULL}limits: {{signatureBudget: 0%}}"));
        assert!(share.contains("limits: \"0%\" is no share"), "{share}");
        let away = |rule: &str| FULL.replace("rootPin:", &format!("away: {rule}, rootPin:"));
        let read = Config::parse(&away("{limit: 1h, then: keep}")).unwrap();
        assert_eq!(read.peers[0].away, Some("1h:keep".parse().unwrap()));
        let short = Config::parse(&away("{limit: 90s}")).unwrap();
        assert_eq!(short.peers[0].away, Some("90s:closed".parse().unwrap()));
        assert!(error(&away("{limit: never}")).contains("such as 90s"));
        assert!(error(&away("{limit: 1h, then: open}")).contains("`open`"));
    }

    #[test]
    fn a_bundle_endpoint_has_what_its_profile_needs_and_nothing_more() {
        let with =
            |text: &str| format!("{FULL}bundleEndpoint: {{listen: \"192.0.2.1:8443\", {text}}}\n");
        let spiffe = Config::parse(&with("profile: https_spiffe")).unwrap();
        let endpoint = spiffe.bundle_endpoint.unwrap();
        assert_eq!(endpoint.path.as_str(), "/bundle");
        assert_eq!(endpoint.files().unwrap(), None);
        let web = with("profile: https_web, certificate: /c, key: /k, path: /b");
        let web = Config::parse(&web).unwrap().bundle_endpoint.unwrap();
        assert_eq!(
            web.files().unwrap(),
            Some((Path::new("/c"), Path::new("/k")))
        );
        for (text, why) in [
            ("profile: https_web, key: /k", "https_web needs"),
            ("profile: https_spiffe, key: /k", "of https_web alone"),
            ("profile: https", "https_spiffe"),
            ("path: /b", "profile"),
            ("profile: https_spiffe, path: b", "begins with /"),
            (
                "profile: https_spiffe, url: b",
                "unknown field bundleEndpoint.url",
            ),
        ] {
            let said = error(&with(text));
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn a_peer_has_a_pin_or_a_bundle_endpoint() {
        let with = |text: &str| FULL.replace("rootPin: \"sha256:00\"", text);
        let pin = "rootPin: \"sha256:00\"";
        let web = "bundleEndpoint: {url: \"https://a.example/\", profile: https_web}";
        let read = Config::parse(&with(web)).unwrap();
        assert!(read.peers[0].bundle_endpoint.is_some());
        let spiffe = |more: &str| {
            let begin = "bundleEndpoint: {url: \"https://a.example/\", profile: https_spiffe";
            with(&format!("{begin}{more}}}"))
        };
        let id = ", spiffeId: \"spiffe://a.example/b\"";
        Config::parse(&spiffe(id)).unwrap();
        for (text, why) in [
            (
                with("away: {limit: 1h}"),
                "peers.0: needs rootPin, or bundleEndpoint",
            ),
            (with(&format!("{pin}, {web}")), "not both"),
            (
                with(&web.replace("https:", "http:")),
                "does not begin with https://",
            ),
            (with(&web.replace("url", "uri")), "peers[0].bundleEndpoint"),
            (spiffe(""), "spiffeId: https_spiffe needs"),
            (spiffe(", spiffeId: b"), "bundleEndpoint: spiffeId"),
            (
                spiffe(&format!("{id}, bundle: \"{{}}\"")),
                "bundleEndpoint: bundle",
            ),
            (
                spiffe(&format!("{id}, bundle: '{{\"keys\": []}}'")),
                "bundle: it has no root",
            ),
            (
                spiffe(&format!("{id}, authorities: x")),
                "of https_web alone",
            ),
            (
                with(&web.replace("https_web", "https_web, bundle: x")),
                "of https_spiffe alone",
            ),
        ] {
            let said = error(&text);
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let own = FULL.replace("cluster: west", "cluster: east");
        assert!(error(&own).contains("peers: two have the cluster \"east\""));
        let port = FULL.replace("pspPort: 1000", "pspPort: 4433");
        assert!(error(&port).contains("wan.pspPort"));
        let two = format!("{FULL}keys: {{passphraseFile: /p, passphraseCommand: [p]}}");
        assert!(error(&two).contains("not both"));
        let none = format!("{FULL}keys: {{passphraseCommand: []}}");
        assert!(error(&none).contains("names no program"));
        let nodes = FULL.replace("nodes: [", "nodes: [{name: node2, address: 172.16.1.11}, ");
        assert!(error(&nodes).contains("nodes: two have the address"));
    }
}
