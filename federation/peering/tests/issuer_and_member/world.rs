//! A cluster in virtual time: one issuer, agents on nodes, and links that lose messages.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use identity::{
    BundleStore, Claims, IdentityRange, IssuerKey, Labels, Mono, Now, TrustBundle, TrustDomain,
    UnixMillis, Workload, verify_credential,
};
use peering::{
    issuer::{Issuer, IssuerConfig, IssuerEvent, IssuerState},
    member::{AgentMember, MemberEvent},
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

pub const START: UnixMillis = UnixMillis(1_800_000_000_000);

pub fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    let map: BTreeMap<_, _> = pairs
        .iter()
        .map(|(key, value)| (String::from(*key), String::from(*value)))
        .collect();
    Labels::try_from(map).unwrap()
}

pub fn pod(node: &str, uid: &str, app: &str, address: &str) -> Workload {
    Workload {
        namespace: "shop".into(),
        pod: format!("pod-{uid}"),
        uid: uid.into(),
        service_account: app.into(),
        labels: labels(&[("app", app)]),
        namespace_labels: labels(&[("kubernetes.io/metadata.name", "shop")]),
        zone: None,
        named_ports: Vec::new(),
        node: node.into(),
        address: Some(address.parse().unwrap()),
        interface: None,
        unprotected: false,
    }
}

pub fn bundle(name: &str, sequence: u64, seed: u8) -> TrustBundle {
    TrustBundle {
        trust_domain: domain(name),
        sequence,
        refresh_hint: Duration::from_secs(60),
        x509_roots: Vec::new(),
        issuer_keys: vec![IssuerKey::from_seed(&[seed; 32]).public()],
        carried_labels: None,
        expires_at: START.after(Duration::from_hours(1000)),
    }
}

pub struct World {
    pub issuer: Issuer,
    pub issuer_events: Vec<IssuerEvent>,
    pub agents: BTreeMap<String, Agent>,
    pub bundles: BundleStore,
    pub workloads: BTreeMap<String, Workload>,
    pub elapsed: Duration,
    pub seed: u64,
    /// What a gateway has on its disk.
    pub stored: IssuerState,
    /// Says of each message, counted from 0, whether it is lost.
    pub lose: Box<dyn FnMut() -> bool>,
}

pub struct Agent {
    pub member: AgentMember,
    pub connected: bool,
    pub events: Vec<MemberEvent>,
    /// Its wall clock minus the true one, in milliseconds.
    pub clock: i64,
}

impl World {
    pub fn new(nodes: &[&str]) -> Self {
        let mut bundles = BundleStore::default();
        bundles.insert(bundle("east", 1, 1)).unwrap();
        let mut world = Self {
            issuer: issuer(
                IssuerConfig::new(domain("east")),
                IssuerState::default(),
                1,
                now_at(Duration::ZERO, 0),
            ),
            issuer_events: Vec::new(),
            agents: BTreeMap::new(),
            bundles,
            workloads: BTreeMap::new(),
            elapsed: Duration::ZERO,
            seed: 100,
            stored: IssuerState::default(),
            lose: Box::new(|| false),
        };
        world.issuer.set_bundles(&world.bundles);
        world.issuer.set_ranges(vec![range()]);
        for node in nodes {
            world.add_agent(node);
            world.connect(node);
        }
        world.settle();
        world
    }

    pub fn now(&self) -> Now {
        now_at(self.elapsed, 0)
    }

    pub fn now_of(&self, node: &str) -> Now {
        now_at(self.elapsed, self.agents[node].clock)
    }

    pub fn add_agent(&mut self, node: &str) {
        self.seed += 1;
        let rng = Box::new(ChaCha20Rng::seed_from_u64(self.seed));
        let member = AgentMember::new(domain("east"), node, BTreeMap::new(), rng, self.now());
        self.agents.insert(
            node.into(),
            Agent {
                member,
                connected: false,
                events: Vec::new(),
                clock: 0,
            },
        );
        let now = self.now();
        let pods = self.workloads.values().cloned().collect();
        self.agents
            .get_mut(node)
            .unwrap()
            .member
            .set_pods(pods, now);
    }

    pub fn connect(&mut self, node: &str) {
        let (now, here) = (self.now(), self.now_of(node));
        let agent = self.agents.get_mut(node).unwrap();
        agent.connected = true;
        agent.member.handle_connected(here);
        self.issuer.handle_node_connected(node, now);
    }

    pub fn disconnect(&mut self, node: &str) {
        let (now, here) = (self.now(), self.now_of(node));
        let agent = self.agents.get_mut(node).unwrap();
        agent.connected = false;
        agent.member.handle_disconnected(here);
        self.issuer.handle_node_disconnected(node, now);
    }

    /// The source names `workload`, to the issuer and to all agents.
    pub fn put(&mut self, workload: Workload) {
        self.workloads.insert(workload.uid.clone(), workload);
        self.publish();
    }

    pub fn delete(&mut self, uid: &str) {
        self.workloads.remove(uid);
        self.publish();
    }

    pub fn publish(&mut self) {
        let now = self.now();
        let all: Vec<_> = self.workloads.values().cloned().collect();
        self.issuer.set_workloads(all.clone(), now);
        for (node, agent) in &mut self.agents {
            let _ = node;
            let here = now_at(self.elapsed, agent.clock);
            agent.member.set_pods(all.clone(), here);
        }
        self.settle();
    }

    /// Moves messages until nobody has any.
    pub fn settle(&mut self) {
        let now = self.now();
        for round in 0.. {
            assert!(round < 10_000, "the conversation does not end");
            let mut moved = false;
            for (name, agent) in &mut self.agents {
                while let Some(bytes) = agent.member.poll_transmit() {
                    moved = true;
                    if !(self.lose)() {
                        self.issuer.handle_node_message(name, &bytes, now);
                    }
                }
            }
            while let Some((node, bytes)) = self.issuer.poll_transmit() {
                moved = true;
                assert!(bytes.len() < 300 << 10, "{} bytes", bytes.len());
                if let Some(agent) = self.agents.get_mut(&node)
                    && agent.connected
                    && !(self.lose)()
                {
                    let here = now_at(self.elapsed, agent.clock);
                    agent.member.handle_message(&bytes, here);
                }
            }
            while let Some(event) = self.issuer.poll_event() {
                if event == IssuerEvent::StateChanged {
                    self.stored = self.issuer.state();
                }
                self.issuer_events.push(event);
            }
            for agent in self.agents.values_mut() {
                while let Some(event) = agent.member.poll_event() {
                    agent.events.push(event);
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// When somebody next has something to do, at most `end`.
    pub fn next_act(&self, end: Duration) -> Duration {
        self.agents
            .values()
            .filter_map(|agent| agent.member.poll_timeout())
            .chain(self.issuer.poll_timeout())
            .map(|at| at.0)
            .min()
            .unwrap_or(end)
            .clamp(self.elapsed, end)
    }

    /// Jumps to the next moment at which somebody has something to do, at most to `end`.
    pub fn step(&mut self, end: Duration) -> bool {
        let next = self.next_act(end);
        self.elapsed = next.clamp(self.elapsed, end);
        let now = self.now();
        if self
            .issuer
            .poll_timeout()
            .is_some_and(|at| at.0 <= self.elapsed)
        {
            self.issuer.handle_timeout(now);
        }
        for agent in self.agents.values_mut() {
            if agent
                .member
                .poll_timeout()
                .is_some_and(|at| at.0 <= self.elapsed)
            {
                agent
                    .member
                    .handle_timeout(now_at(self.elapsed, agent.clock));
            }
        }
        self.settle();
        self.elapsed < end
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.elapsed + time;
        let mut steps = 0;
        while self.step(end) {
            steps += 1;
            assert!(steps < 1_000_000, "time stands still at {:?}", self.elapsed);
        }
    }

    /// What `node` can prove of the pod now, checked as a peer would.
    pub fn proven(&self, node: &str, uid: &str) -> Option<Arc<Claims>> {
        let member = &self.agents[node].member;
        let pod = member.pods().find(|pod| pod.workload.uid == uid)?;
        let identity = pod.identity?;
        let east = self.bundles.bundle(&domain("east")).unwrap();
        let claims = verify_credential(identity.credential.bytes(), east, self.now().unix).ok()?;
        assert_eq!(claims, **identity.claims);
        let public = identity.secret.public();
        assert_eq!(public, claims.agent_key, "the secret is the one of cnf");
        Some(identity.claims.clone())
    }

    /// Stops the issuer and starts it with `state`.
    pub fn restart_issuer(&mut self, state: IssuerState) {
        self.seed += 1;
        let now = self.now();
        self.issuer = issuer(IssuerConfig::new(domain("east")), state, self.seed, now);
        self.issuer.set_bundles(&self.bundles);
        self.issuer.set_ranges(vec![range()]);
        self.issuer
            .set_workloads(self.workloads.values().cloned().collect(), now);
        for node in self.agents.keys().cloned().collect::<Vec<_>>() {
            let here = self.now_of(&node);
            let agent = self.agents.get_mut(&node).unwrap();
            agent.member.handle_disconnected(here);
            self.connect(&node);
        }
        self.settle();
    }

    pub fn address_of(&self, uid: &str) -> Option<IpAddr> {
        self.workloads.get(uid)?.address
    }
}

pub fn issuer(config: IssuerConfig, state: IssuerState, seed: u64, now: Now) -> Issuer {
    let rng = Box::new(ChaCha20Rng::seed_from_u64(seed));
    Issuer::new(config, IssuerKey::from_seed(&[1; 32]), state, rng, now)
}

pub fn range() -> IdentityRange {
    IdentityRange {
        prefix: "10.1.0.0/16".parse().unwrap(),
        trust_domain: domain("east"),
        range_id: 1,
        real: None,
    }
}

pub fn now_at(elapsed: Duration, clock: i64) -> Now {
    Now {
        mono: Mono(elapsed),
        unix: UnixMillis(START.after(elapsed).0.saturating_add_signed(clock)),
    }
}
