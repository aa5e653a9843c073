//! Two clusters with a node each, their gateways, and TCP segments built by an independent crate.
#![allow(dead_code, clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::Duration,
};

use etherparse::{PacketBuilder, TcpHeader, TcpOptionElement};
use handshake::{
    admission::{Admission, Restricted, Restrictions, Revocation, Target},
    credentials::{PodState, PodStates, SmallCache, Verifier},
    hash::Seed,
    keys::{AgentSecret, MacKey, SegmentKey, SegmentKeys},
    node::{Event, Handled, LocalIdentity, LocalPod, Mark, Node, NodeLimits, NodeSnapshot, Path},
    replay::ReplayCache,
    transit::{Origin, Passed, Refused, Transit, TransitSnapshot},
};
use identity::{
    Assurance, BundleStore, Claims, IdentityNetworks, IdentityRange, IssuerKey, Labels, Mono, Now,
    SpiffeId, TrustBundle, TrustDomain, UnixMillis,
};
use policy::{
    DropReason, KnownKeys,
    model::{
        Action, ClusterMatch, Direction, NamespaceMatch, Operator, PeerMatch, Policy, PolicyKind,
        PolicySet, PortMatch, PortSpec, Requirement, Rule, Scope, Tier, WorkloadSelector,
    },
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

pub const FRONTEND: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 1, 10));
pub const API: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 2, 1, 10));
pub const DB: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 2, 1, 11));
pub const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
pub const START: u64 = 1_800_000_000_000;

pub fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

pub fn issuer(cluster: &str) -> IssuerKey {
    IssuerKey::from_seed(&[cluster.as_bytes()[0]; 32])
}

pub fn bundles() -> BundleStore {
    let mut store = BundleStore::default();
    for name in ["east", "west"] {
        let bundle = TrustBundle {
            trust_domain: domain(name),
            sequence: 1,
            refresh_hint: Duration::from_secs(60),
            x509_roots: Vec::new(),
            issuer_keys: vec![issuer(name).public()],
            carried_labels: None,
            expires_at: UnixMillis(START).after(Duration::from_hours(24)),
        };
        store.insert(bundle).unwrap();
    }
    store
}

pub fn networks() -> IdentityNetworks {
    let range = |prefix: &str, name| IdentityRange {
        prefix: prefix.parse().unwrap(),
        trust_domain: domain(name),
        range_id: 1,
        real: None,
    };
    IdentityNetworks::new(vec![
        range("10.1.0.0/16", "east"),
        range("10.2.0.0/16", "west"),
    ])
    .unwrap()
}

pub fn claims(cluster: &str, pod: &str, secret: &AgentSecret) -> Claims {
    let labels = BTreeMap::from([("app".to_string(), pod.to_string())]);
    Claims {
        subject: SpiffeId::workload(&domain(cluster), "shop", pod).unwrap(),
        issued_at: UnixMillis(START),
        expires_at: UnixMillis(START).after(Duration::from_mins(10)),
        id: [1; 16],
        agent_key: secret.public(),
        pod: pod.into(),
        pod_uid: format!("uid-{cluster}-{pod}"),
        labels: Labels::try_from(labels).unwrap(),
        namespace_labels: Labels::default(),
        zone: None,
        named_ports: Vec::new(),
        assurance: Assurance::Agent,
        generation: 1,
    }
}

pub fn segment_keys(cluster: &str) -> SegmentKeys {
    let byte = cluster.as_bytes()[0];
    SegmentKeys::new(vec![SegmentKey {
        id: [byte; 8],
        key: MacKey::from_bytes([byte; 32]),
    }])
}

pub fn secret(cluster: &str) -> AgentSecret {
    AgentSecret::from_bytes([cluster.as_bytes()[1]; 32])
}

pub fn local_pod(cluster: &str, pod: &str) -> LocalPod {
    let secret = secret(cluster);
    let claims = claims(cluster, pod, &secret);
    let credential = issuer(cluster).issue(&claims).unwrap();
    let uid = claims.pod_uid.clone();
    LocalPod {
        uid: uid.into(),
        identity: Some(LocalIdentity {
            credential,
            claims: Arc::new(claims),
            secret,
        }),
    }
}

/// West admits app=frontend of any cluster to app=api, port 80; rejects others if `reject`.
pub fn policies(cluster: &str, reject: bool) -> PolicySet {
    let select = |clusters, app: Option<&str>| WorkloadSelector {
        clusters,
        namespaces: NamespaceMatch::Any,
        pods: app
            .map(|app| Requirement {
                key: "app".into(),
                operator: Operator::In(vec![app.into()]),
            })
            .into_iter()
            .collect(),
        service_accounts: Vec::new(),
    };
    let rule = |name: &str, direction, action, app| Rule {
        not_ports: Vec::new(),
        name: name.into(),
        direction,
        action,
        reject,
        scopes: vec![Scope::Local, Scope::Remote],
        peers: vec![PeerMatch::Workload(select(ClusterMatch::Any, app))],
        ports: vec![PortMatch {
            protocol: 6,
            port: PortSpec::Range(80, 80),
        }],
        assurance: Assurance::Agent,
    };
    let rules = match cluster {
        "west" => vec![
            rule(
                "allow-frontend",
                Direction::Ingress,
                Action::Allow,
                Some("frontend"),
            ),
            rule(
                "deny-batch",
                Direction::Ingress,
                Action::Deny,
                Some("batch"),
            ),
        ],
        _ => vec![rule(
            "egress",
            Direction::Egress,
            Action::Allow,
            Some("api"),
        )],
    };
    let policy = Policy {
        kind: PolicyKind::FederationPolicy,
        namespace: Some("shop".into()),
        name: "main".into(),
        tier: Tier::Application,
        order: 100,
        subject: select(ClusterMatch::Own, None),
        staged: false,
        isolates: vec![
            (Direction::Ingress, Scope::Remote),
            (Direction::Egress, Scope::Remote),
        ],
        rules,
    };
    PolicySet {
        cluster: domain(cluster),
        policies: vec![policy.into()],
    }
}

pub fn snapshot(cluster: &str, pods: BTreeMap<IpAddr, LocalPod>, set: &PolicySet) -> NodeSnapshot {
    NodeSnapshot {
        epoch: 1,
        own: domain(cluster),
        networks: networks(),
        bundles: bundles(),
        policy: Arc::new(policy::compile(set).unwrap()),
        pods,
        unprotected: BTreeSet::new(),
        known: KnownKeys::all(),
        segment_keys: segment_keys(cluster),
        admission: Admission::default(),
    }
}

pub fn east(reject: bool) -> NodeSnapshot {
    let pods = BTreeMap::from([(FRONTEND, local_pod("east", "frontend"))]);
    snapshot("east", pods, &policies("east", reject))
}

pub fn west(reject: bool) -> NodeSnapshot {
    let pods = BTreeMap::from([
        (API, local_pod("west", "api")),
        (DB, local_pod("west", "db")),
    ]);
    snapshot("west", pods, &policies("west", reject))
}

pub fn node(snapshot: NodeSnapshot, seed: u64) -> Node {
    Node::new(
        Arc::new(snapshot),
        NodeLimits::default(),
        Box::new(ChaCha20Rng::seed_from_u64(seed)),
    )
}

pub fn transit_snapshot(cluster: &str) -> TransitSnapshot {
    let node = if cluster == "east" {
        east(false)
    } else {
        west(false)
    };
    TransitSnapshot {
        epoch: 1,
        own: node.own,
        networks: node.networks,
        bundles: node.bundles,
        policy: node.policy,
        digests: BTreeMap::new(),
        known: KnownKeys::all(),
        pods: node
            .pods
            .iter()
            .map(|(address, pod)| (*address, pod.identity.as_ref().unwrap().claims.clone()))
            .collect(),
        segment_keys: node.segment_keys,
        admission: Admission::default(),
    }
}

/// What became of one pod of `cluster`.
pub fn changed(cluster: &str, uid: &str, state: PodState) -> Admission {
    let mut pods = PodStates::default();
    pods.insert(domain(cluster), uid.into(), state);
    Admission::new(pods, BTreeMap::new(), KnownKeys::all())
}

/// What restricts `cluster`.
pub fn restricting(cluster: &str, restrictions: Restrictions) -> Admission {
    let restricted = Restricted::new(&domain(cluster), restrictions).unwrap();
    let domains = BTreeMap::from([(domain(cluster), Arc::new(restricted))]);
    Admission::new(PodStates::default(), domains, KnownKeys::all())
}

/// One revocation of something of `cluster`.
pub fn revoking(cluster: &str, target: Target) -> Admission {
    let revocation = Revocation {
        target,
        reason: "a test".into(),
        at: UnixMillis(START),
    };
    let restrictions = Restrictions {
        revoked: vec![revocation],
        ..Restrictions::default()
    };
    restricting(cluster, restrictions)
}

pub fn transit() -> Transit {
    let seed = Seed::new(&[5; 16]);
    Transit::new(
        Verifier::new(Arc::new(SmallCache::new(64, &seed)), Arc::default()),
        Arc::new(Mutex::new(ReplayCache::new(1024, &seed))),
        1024,
        100,
        &seed,
    )
}

pub fn at(ms: u64) -> Now {
    Now {
        mono: Mono(Duration::from_millis(ms)),
        unix: UnixMillis(START + ms),
    }
}

/// A TCP segment by etherparse.
#[derive(Clone, Debug)]
pub struct Seg {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub sport: u16,
    pub dport: u16,
    pub seq: u32,
    pub ack: Option<u32>,
    pub flags: &'static str,
    pub payload: Vec<u8>,
}

impl Seg {
    pub fn build(&self) -> Vec<u8> {
        let IpAddr::V4(src) = self.src else {
            panic!("v4")
        };
        let IpAddr::V4(dst) = self.dst else {
            panic!("v4")
        };
        let mut tcp = TcpHeader::new(self.sport, self.dport, self.seq, 64_000);
        tcp.syn = self.flags.contains('S');
        tcp.rst = self.flags.contains('R');
        tcp.fin = self.flags.contains('F');
        tcp.psh = self.flags.contains('P');
        if let Some(ack) = self.ack {
            tcp.ack = true;
            tcp.acknowledgment_number = ack;
        }
        let timestamps = TcpOptionElement::Timestamp(1, 2);
        if tcp.syn {
            tcp.set_options(&[
                TcpOptionElement::MaximumSegmentSize(1460),
                TcpOptionElement::SelectiveAcknowledgementPermitted,
                timestamps,
                TcpOptionElement::Noop,
                TcpOptionElement::WindowScale(7),
            ])
            .unwrap();
        } else {
            tcp.set_options(&[TcpOptionElement::Noop, TcpOptionElement::Noop, timestamps])
                .unwrap();
        }
        let builder = PacketBuilder::ipv4(src.octets(), dst.octets(), 64).tcp_header(tcp);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &self.payload).unwrap();
        bytes
    }
}

/// A client's and a server's view of one connection.
#[derive(Clone, Debug)]
pub struct Conn {
    pub client: IpAddr,
    pub server: IpAddr,
    pub cport: u16,
    pub sport: u16,
    pub cisn: u32,
    pub sisn: u32,
}

impl Conn {
    pub fn new(client: IpAddr, server: IpAddr) -> Self {
        Self {
            client,
            server,
            cport: 40_000,
            sport: 80,
            cisn: 1_000,
            sisn: 9_000,
        }
    }

    pub fn client_sends(
        &self,
        flags: &'static str,
        seq: u32,
        ack: Option<u32>,
        data: &[u8],
    ) -> Vec<u8> {
        Seg {
            src: self.client,
            dst: self.server,
            sport: self.cport,
            dport: self.sport,
            seq,
            ack,
            flags,
            payload: data.to_vec(),
        }
        .build()
    }

    pub fn server_sends(
        &self,
        flags: &'static str,
        seq: u32,
        ack: Option<u32>,
        data: &[u8],
    ) -> Vec<u8> {
        Seg {
            src: self.server,
            dst: self.client,
            sport: self.sport,
            dport: self.cport,
            seq,
            ack,
            flags,
            payload: data.to_vec(),
        }
        .build()
    }

    pub fn syn(&self) -> Vec<u8> {
        self.client_sends("S", self.cisn, None, b"")
    }

    pub fn syn_ack(&self) -> Vec<u8> {
        self.server_sends("S", self.sisn, Some(self.cisn + 1), b"")
    }

    pub fn ack(&self) -> Vec<u8> {
        self.client_sends("", self.cisn + 1, Some(self.sisn + 1), b"")
    }

    pub fn request(&self, data: &[u8]) -> Vec<u8> {
        self.client_sends("P", self.cisn + 1, Some(self.sisn + 1), data)
    }

    pub fn response(&self, data: &[u8]) -> Vec<u8> {
        self.server_sends("P", self.sisn + 1, Some(self.cisn + 1), data)
    }
}

/// The packet that goes on.
pub fn passed(handled: Handled, original: &[u8]) -> (Vec<u8>, Mark) {
    match handled {
        Handled::Accept(mark) => (original.to_vec(), mark),
        Handled::Rewrite { packet, mark } => (packet, mark),
        Handled::Drop(reason) => panic!("dropped: {reason}"),
    }
}

pub fn dropped(handled: Handled) -> DropReason {
    match handled {
        Handled::Drop(reason) => reason,
        other => panic!("not dropped: {other:?}"),
    }
}

pub fn out(node: &mut Node, packet: &[u8], now: Now) -> Vec<u8> {
    passed(node.handle_packet(Path::FromPod, packet, now), packet).0
}

pub fn into(node: &mut Node, packet: &[u8], now: Now) -> Vec<u8> {
    passed(node.handle_packet(Path::ToPod, packet, now), packet).0
}

pub fn events(node: &mut Node) -> Vec<Event> {
    std::iter::from_fn(|| node.poll_event()).collect()
}

pub fn tcp_payload(packet: &[u8]) -> &[u8] {
    let sliced = etherparse::SlicedPacket::from_ip(packet).unwrap();
    let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else {
        panic!("tcp")
    };
    let start = packet.len() - tcp.payload().len();
    &packet[start..]
}

pub fn tcp_options(packet: &[u8]) -> Vec<u8> {
    let sliced = etherparse::SlicedPacket::from_ip(packet).unwrap();
    let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else {
        panic!("tcp")
    };
    tcp.options().to_vec()
}

pub fn through(
    transit: &mut Transit,
    origin: Origin<'_>,
    packet: &[u8],
    snapshot: &TransitSnapshot,
    now: Now,
) -> Result<Vec<u8>, Refused> {
    Ok(
        match transit.handle_packet(origin, packet, snapshot, now)? {
            Passed::Rewrite(packet) => packet,
            _ => packet.to_vec(),
        },
    )
}
