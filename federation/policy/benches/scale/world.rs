//! Many policies of mixed kinds, and the identities that they are about: the same at every run.

use identity::Claims;
use ipnet::IpNet;
use landbridge_policy::model::*;

use crate::common::*;

/// How large it is. Clusters and label sets grow with the policies.
#[derive(Clone, Copy)]
pub struct Size {
    pub policies: u32,
}

impl Size {
    pub fn label_sets(self) -> u32 {
        self.policies * 10
    }

    pub fn clusters(self) -> u32 {
        self.policies / 10
    }

    fn namespaces(self) -> u32 {
        self.policies / 20
    }

    fn teams(self) -> u32 {
        self.policies / 10
    }
}

/// The policies of `west`.
pub fn policies(size: Size) -> Vec<Policy> {
    (0..size.policies).map(|n| policy(size, n)).collect()
}

/// Half of them NetworkPolicies, a quarter FederationPolicies, the rest cluster-wide of two kinds.
pub fn policy(size: Size, n: u32) -> Policy {
    let mut dice = Dice(u64::from(n) + 1);
    match n % 20 {
        0..10 => network_policy(size, n, &mut dice),
        10..15 => federation(size, n, &mut dice),
        15..18 => cluster_federation(size, n, &mut dice),
        _ => cluster_network(size, n, &mut dice),
    }
}

fn namespace(size: Size, n: u32) -> String {
    format!("ns{}", n % size.namespaces())
}

/// The first clusters, so that each is named: one in four policies names two.
fn cluster(size: Size, n: u32) -> identity::TrustDomain {
    match n % size.clusters() {
        0 => td("west"),
        number => td(&format!("c{number}")),
    }
}

fn network_policy(size: Size, n: u32, dice: &mut Dice) -> Policy {
    let home = namespace(size, n);
    let from = |place: u32, dice: &mut Dice| Rule {
        peers: vec![PeerMatch::Workload(WorkloadSelector {
            clusters: ClusterMatch::Own,
            namespaces: NamespaceMatch::Labels(selector(&format!(
                "team=t{}",
                dice.below(size.teams())
            ))),
            pods: selector(&format!("app=a{}", dice.below(size.policies))),
            service_accounts: Vec::new(),
        })],
        ports: vec![tcp(8000 + u16::try_from(place).unwrap())],
        ..rule(
            &format!("ingress[{place}]"),
            Direction::Ingress,
            Action::Allow,
        )
    };
    let rules = (0..3).map(|place| from(place, dice)).collect();
    Policy {
        kind: PolicyKind::NetworkPolicy,
        subject: own(&home, &format!("app=a{n}")),
        isolates: vec![(Direction::Ingress, Scope::Local)],
        ..federation_policy(&home, &format!("p{n}"), 1000, rules)
    }
}

fn federation(size: Size, n: u32, dice: &mut Dice) -> Policy {
    let home = namespace(size, n);
    let peer = |n: u32, dice: &mut Dice| WorkloadSelector {
        clusters: ClusterMatch::Listed(vec![cluster(size, n), cluster(size, n + 5)]),
        ..own(
            &namespace(size, dice.below(size.policies)),
            &format!("app=a{} tier=front,edge", dice.below(size.policies)),
        )
    };
    let rule = |place: u32, dice: &mut Dice| {
        let direction = [Direction::Ingress, Direction::Egress][place as usize % 2];
        Rule {
            scopes: vec![Scope::Remote],
            // Consecutive policies name consecutive clusters, all of them in the end.
            peers: vec![PeerMatch::Workload(peer(n / 20 * 10 + n % 5, dice))],
            ports: vec![tcp(443)],
            ..rule(&format!("r{place}"), direction, Action::Allow)
        }
    };
    let rules = (0..3).map(|place| rule(place, dice)).collect();
    Policy {
        subject: own(&home, &format!("app=a{n}")),
        isolates: vec![(Direction::Ingress, Scope::Remote)],
        ..federation_policy(&home, &format!("p{n}"), 500 + n % 3, rules)
    }
}

fn cluster_federation(size: Size, n: u32, dice: &mut Dice) -> Policy {
    let team = |dice: &mut Dice| {
        NamespaceMatch::Labels(selector(&format!("team=t{}", dice.below(size.teams()))))
    };
    let subject = WorkloadSelector {
        namespaces: team(dice),
        pods: selector("tier!=edge"),
        ..own("", "")
    };
    let action = [Action::Deny, Action::Allow, Action::Log][n as usize % 3];
    let rule = |place: u32, dice: &mut Dice| Rule {
        scopes: vec![Scope::Local, Scope::Remote],
        peers: vec![PeerMatch::Workload(WorkloadSelector {
            namespaces: team(dice),
            ..any_workload()
        })],
        ports: vec![tcp(22), tcp(5432)],
        ..rule(&format!("r{place}"), Direction::Ingress, action)
    };
    let rules = (0..2).map(|place| rule(place, dice)).collect();
    Policy {
        kind: PolicyKind::ClusterFederationPolicy,
        namespace: None,
        subject,
        ..federation_policy("", &format!("p{n}"), n % 100, rules)
    }
}

fn cluster_network(size: Size, n: u32, dice: &mut Dice) -> Policy {
    let subject = WorkloadSelector {
        namespaces: NamespaceMatch::Labels(selector(&format!("team=t{}", n % size.teams()))),
        ..own("", "")
    };
    let block = |dice: &mut Dice| -> IpNet {
        format!("172.{}.{}.0/24", dice.below(256), dice.below(256))
            .parse()
            .unwrap()
    };
    let net = PeerMatch::Net {
        cidr: block(dice),
        except: Vec::new(),
    };
    let label = PeerMatch::Workload(WorkloadSelector {
        pods: selector(&format!("app=a{}", dice.below(size.policies))),
        ..any_workload()
    });
    let rules = [(net, Action::Deny), (label, Action::Pass)];
    let rules = rules
        .into_iter()
        .zip(0..)
        .map(|((peer, action), place)| Rule {
            scopes: vec![Scope::Local, Scope::Remote],
            peers: vec![peer],
            ..rule(&format!("r{place}"), Direction::Egress, action)
        });
    Policy {
        kind: PolicyKind::ClusterNetworkPolicy,
        namespace: None,
        tier: [Tier::Admin, Tier::Baseline][n as usize % 2],
        subject,
        ..federation_policy("", &format!("p{n}"), n % 1000, rules.collect())
    }
}

/// Every second one of `west`, the others of all clusters; no two have the same labels.
pub fn identities(size: Size) -> Vec<Claims> {
    (0..size.label_sets()).map(|n| claims(size, n)).collect()
}

fn claims(size: Size, n: u32) -> Claims {
    let home = match n % 2 {
        0 => td("west"),
        _ => cluster(size, n / 2),
    };
    let (app, version) = (n % size.policies, n / size.policies);
    let tier = ["front", "edge", "back"][n as usize % 3];
    let path = format!("{home}/{}/pod{n}", namespace(size, n));
    let text = format!("app=a{app} version=v{version} tier={tier} env=prod pod-template-hash=h{n}");
    let claims = pod(&path, &text);
    with_namespace_labels(claims, &format!("team=t{} env=prod", n % size.teams()))
}

/// The same numbers at every run (Knuth's constants for a linear congruential generator).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: u32) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((self.0 >> 33) % u64::from(bound)).unwrap()
    }
}
