//! What must be true after each step, and at the end.

use std::{collections::BTreeMap, time::Duration};

use identity::Mono;
use policy::model::Direction;
use wire::flow::FlowKey;

use super::{SETTLED, World};
use crate::{
    gateway::Gateway,
    lines::Line,
    naive::{Oracle, Other},
    objects::Objects,
    sockets::{self, Delivery},
};

impl World {
    pub(super) fn check_every_pair(&mut self) {
        let addresses = self.addresses();
        let mut attempts = Vec::new();
        for from in &addresses {
            for to in addresses.iter().filter(|to| *to != from) {
                attempts.push(self.connect(*from, *to));
                self.run_until(self.now.after(Duration::from_millis(5)));
            }
        }
        self.run_until(self.now.after(Duration::from_secs(12)));
        for key in attempts {
            let sockets = &self.hosts[&self.host_of(key.src)].pods[&key.src];
            let answered = sockets.client(&key).expect("a connection").answered;
            if allowed(&self.objects, &key) {
                assert!(answered > 0, "{key} is allowed and does not flow");
                self.summary.allowed_at_end += 1;
            } else {
                assert_eq!(answered, 0, "{key} is denied and flows");
                self.summary.denied_at_end += 1;
            }
        }
    }

    /// Between clusters nothing may be read: no payload and no name.
    pub(super) fn look_for_clear_text(&self, frame: &[u8]) {
        for word in [sockets::WORD, "spiffe://"] {
            let found = frame
                .windows(word.len())
                .any(|part| part == word.as_bytes());
            assert!(!found, "{word:?} in clear between clusters");
        }
    }

    /// A socket read payload: its connection must have been opened by the pod that still has, or a
    /// moment ago had, the client's address, and must have been allowed a moment ago. Who serves
    /// the dialled address may have changed while the connection was opening: it proved itself.
    pub(super) fn judge(&mut self, delivery: &Delivery) {
        let key = &delivery.key;
        let said = String::from_utf8_lossy(&delivery.bytes);
        let Some(client) = self.initiated.get(key) else {
            panic!("{key} delivered {said:?} and nobody opened it")
        };
        if !delivery.at_server {
            assert_eq!(
                self.pod(key.src).name,
                *client,
                "{key}: {said:?} at a later pod"
            );
        }
        // Each end enforces its own half, and may have heard of another version than the other.
        for (direction, end) in [(Direction::Egress, key.src), (Direction::Ingress, key.dst)] {
            let (cluster, node) = self.host_of(end);
            let agent = Line::Agent(cluster, node);
            // Policy comes from the source; who is who comes through gateways.
            let policies = self.versions(&[agent], true);
            let pairs = (0..self.hubs.len()).filter(|other| *other != cluster);
            let pairs = pairs.map(|other| Line::Gateways(cluster.min(other), cluster.max(other)));
            let ways: Vec<Line> = pairs.chain([agent]).collect();
            let pods = self.versions(&ways, false);
            let may = some_mix_allows(&policies, &pods, key, direction, client);
            assert!(may, "{key} delivered {said:?}; {direction:?} is denied");
        }
    }

    /// Until when what was replaced at `replaced` may still be in force where `lines` lead to: a
    /// time without a session puts it off to the next one.
    pub(super) fn in_force_until(
        &self,
        replaced: Mono,
        lines: &[Line],
        crash_only: bool,
    ) -> Option<Mono> {
        let mut until = replaced.after(SETTLED);
        let outages = lines.iter().flat_map(|line| self.lines.outages(*line));
        let mut outages: Vec<_> = outages.filter(|it| it.crash || !crash_only).collect();
        outages.sort_by_key(|outage| outage.from);
        for outage in outages {
            if outage.from <= until {
                until = until.max(outage.to?.after(SETTLED));
            }
        }
        Some(until)
    }

    /// The versions of which something may still be in force at `replaced` and later.
    pub(super) fn versions(&self, lines: &[Line], crash_only: bool) -> Vec<&Objects> {
        let old = self.past.iter().filter(|(replaced, _)| {
            self.in_force_until(*replaced, lines, crash_only)
                .is_none_or(|until| self.now <= until)
        });
        old.map(|(_, objects)| objects)
            .chain([&self.objects])
            .collect()
    }

    /// Counters are equal, always.
    pub(super) fn check(&self) {
        for host in self.hosts.values() {
            let Some(node) = host.enforcer() else {
                continue;
            };
            let counters = node.counters();
            let dropped: u64 = counters.dropped.values().sum();
            assert_eq!(counters.received, counters.forwarded + dropped);
            assert_eq!(counters.events_lost, 0);
        }
        self.gateways.iter().for_each(Gateway::check);
    }
}

/// Whether the naive model allows the connection, recomputed from the raw objects.
fn allowed(objects: &Objects, key: &FlowKey) -> bool {
    let client = objects.pod(key.src).map(|pod| pod.name.clone());
    client.is_some_and(|client| {
        [Direction::Egress, Direction::Ingress]
            .into_iter()
            .all(|direction| some_mix_allows(&[objects], &[objects], key, direction, &client))
    })
}

/// Whether some policy of these versions allows this half of the connection for what the client
/// and the server were in some of them. The three travel by different ways: policy by the source,
/// the own pod by the issuer, the other by the handshake.
fn some_mix_allows(
    policies: &[&Objects],
    pods: &[&Objects],
    key: &FlowKey,
    direction: Direction,
    client: &str,
) -> bool {
    let clients = distinct(pods, |objects| {
        let pod = objects.pod(key.src).filter(|pod| pod.name == client)?;
        Some((pod, objects.claims(key.src)?))
    });
    let servers = distinct(pods, |objects| {
        Some((objects.pod(key.dst)?, objects.claims(key.dst)?))
    });
    let end = match direction {
        Direction::Egress => key.src,
        Direction::Ingress => key.dst,
    };
    let policies = distinct(policies, |objects| {
        let cluster = &objects.clusters[objects.cluster_of(end)?];
        Some((&cluster.policies, &cluster.domain))
    });
    policies.iter().any(|(policies, domain)| {
        let oracle = Oracle {
            policies: BTreeMap::from([((*domain).clone(), (*policies).clone())]),
            carried: BTreeMap::new(),
        };
        clients.iter().any(|(_, from)| {
            servers.iter().any(|(_, to)| {
                let (subject, other) = match direction {
                    Direction::Egress => (from, Other::Pod(to, Some(key.dst))),
                    Direction::Ingress => (to, Other::Pod(from, Some(key.src))),
                };
                oracle
                    .judge(direction, subject, other, key.protocol, key.dport)
                    .is_allowed()
            })
        })
    })
}

/// What `part` finds in each version, newest first, the same only once.
fn distinct<'a, K: PartialEq, T>(
    versions: &[&'a Objects],
    part: impl Fn(&'a Objects) -> Option<(K, T)>,
) -> Vec<(K, T)> {
    let mut found: Vec<(K, T)> = Vec::new();
    for (key, value) in versions.iter().rev().filter_map(|objects| part(objects)) {
        if found.iter().all(|(known, _)| *known != key) {
            found.push((key, value));
        }
    }
    found
}
