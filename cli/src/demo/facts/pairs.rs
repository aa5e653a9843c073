//! Every ordered pair of pods, what policy says of it, and what happens when it is tried.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Result;

use super::Demo;
use crate::{
    demo::{
        http::{self, Connected},
        netns, pods,
    },
    oracle::{Answer, End},
};

/// The protocol number of TCP (RFC 9293).
pub const TCP: u8 = 6;
/// How long an allowed connection may take: three SYNs (RFC 6298: 1 s, then 2 s).
const ALLOWED: Duration = Duration::from_millis(3500);
/// How long a denied one is watched: two SYNs.
const DENIED: Duration = Duration::from_millis(1300);
/// Attempts at a time.
const AT_ONCE: usize = 32;

/// Two pods and a port of the second.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Who connects.
    pub from: End,
    /// To whom.
    pub to: End,
    /// The TCP port.
    pub port: u16,
    /// What both ends' policies say.
    pub answer: Answer,
}

/// Where the two pods are, seen from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// On one node.
    SameNode,
    /// On two nodes of one cluster.
    Inside,
    /// In two clusters.
    Across,
}

/// A pair that was tried.
pub struct Attempt {
    /// Which.
    pub pair: Pair,
    /// The complaint, when it is not as policy says.
    pub wrong: Option<String>,
}

impl Pair {
    /// Where the two are.
    pub fn distance(&self) -> Distance {
        let (from, to) = (&self.from, &self.to);
        if from.claims.trust_domain() != to.claims.trust_domain() {
            Distance::Across
        } else if from.workload.node == to.workload.node {
            Distance::SameNode
        } else {
            Distance::Inside
        }
    }

    /// `east/shop/frontend -> west/shop/api:8080`.
    pub fn name(&self) -> String {
        let name = |end: &End| end.claims.display_name();
        format!("{} -> {}:{}", name(&self.from), name(&self.to), self.port)
    }

    /// The destination's address, as its peer sees it, and port.
    pub fn address(&self, demo: &Demo) -> Result<SocketAddr> {
        let address = self.seen(demo, &self.to)?;
        Ok(SocketAddrV4::new(address, self.port).into())
    }

    /// The address of one of both, as the other one sees it.
    pub fn seen(&self, demo: &Demo, end: &End) -> Result<Ipv4Addr> {
        let (cluster, pod) = demo.place(end)?;
        Ok(match self.distance() {
            Distance::Across => cluster.seen_at(pod.address),
            Distance::SameNode | Distance::Inside => pod.address,
        })
    }

    /// Connects from the source's namespace.
    pub fn connect(&self, demo: &Demo, limit: Duration) -> Result<Connected> {
        let address = self.address(demo)?;
        let (_, pod) = demo.place(&self.from)?;
        netns::inside(&pod.netns, || Ok(http::connect(address, limit)))
    }

    /// Whether the server is the built-in one.
    pub fn has_built_in_server(&self, demo: &Demo) -> bool {
        demo.place(&self.to)
            .is_ok_and(|(_, pod)| pod.command.is_none())
    }
}

/// Every ordered pair of protected pods with each TCP port of the second.
pub fn all(demo: &Demo) -> Result<Vec<Pair>> {
    let mut ends = Vec::new();
    for (cluster, pod) in demo.plan.pods() {
        let end = demo.oracle.end(&pods::full_name(cluster, pod))?;
        if !end.workload.unprotected {
            ends.push((end, pod));
        }
    }
    let mut pairs = Vec::new();
    for (from, source) in &ends {
        for (to, target) in &ends {
            if source.netns == target.netns {
                continue;
            }
            for &port in &target.ports {
                pairs.push(Pair {
                    from: from.clone(),
                    to: to.clone(),
                    port,
                    answer: demo.oracle.ask(from, to, TCP, port),
                });
            }
        }
    }
    Ok(pairs)
}

/// The first pair across clusters that policy allows, with a server that echoes.
pub fn allowed_across(demo: &Demo) -> Result<Option<Pair>> {
    Ok(all(demo)?.into_iter().find(|pair| {
        pair.distance() == Distance::Across
            && pair.answer.is_allowed()
            && pair.has_built_in_server(demo)
    }))
}

/// Tries all pairs, many at a time.
pub fn try_all(demo: &Demo) -> Result<Vec<Attempt>> {
    let pairs = all(demo)?;
    let next = AtomicUsize::new(0);
    let attempts = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(pairs.len()) {
            scope.spawn(|| {
                while let Some(pair) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let wrong = match try_one(demo, pair) {
                        Ok(wrong) => wrong,
                        Err(e) => Some(format!("{e:#}")),
                    };
                    let attempt = Attempt {
                        pair: pair.clone(),
                        wrong,
                    };
                    attempts
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(attempt);
                }
            });
        }
    });
    Ok(attempts
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner))
}

fn try_one(demo: &Demo, pair: &Pair) -> Result<Option<String>> {
    let allowed = pair.answer.is_allowed();
    let limit = if allowed { ALLOWED } else { DENIED };
    Ok(match (allowed, pair.connect(demo, limit)?) {
        (false, Connected::Refused(_) | Connected::Silence) => None,
        (false, Connected::Yes(_)) => Some("it was connected".into()),
        (true, Connected::Refused(kind)) => Some(format!("it was refused ({kind})")),
        (true, Connected::Silence) => Some(format!("no answer within {} ms", limit.as_millis())),
        (true, Connected::Yes(_)) if !pair.has_built_in_server(demo) => None,
        (true, Connected::Yes(mut stream)) => {
            let answer = http::get_on(&mut stream, "/", ALLOWED)?;
            let (cluster, target) = demo.place(&pair.to)?;
            let expected = format!(
                "{}\nyou are {}\n",
                pods::full_name(cluster, target),
                pair.seen(demo, &pair.from)?
            );
            (answer.body != expected)
                .then(|| format!("it answered {:?} instead of {expected:?}", answer.body))
        }
    })
}
