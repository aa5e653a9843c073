//! What DNS told each pod: the names of addresses, for policies that allow by name.
//!
//! Only answers of trusted name servers on flows of the pod itself are read (the caller sees to that), each for as
//! long as its records say. A pod can fill only its own part, and the oldest of that gives way.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use identity::Mono;
use simple_dns::{Packet, PacketFlag, RCODE, rdata::RData};

/// Most addresses with a name that one pod is remembered for.
const PER_POD: usize = 1024;
/// Most records of one answer that are looked at.
const PER_ANSWER: usize = 256;
/// Longest chain of aliases.
const MAX_ALIASES: usize = 16;
/// An answer that says that it is over at once still serves the connection that it was asked for.
const SHORTEST: Duration = Duration::from_secs(5);
/// No answer is believed longer, whatever it says.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The names of addresses, by the pod that was told.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pods: BTreeMap<IpAddr, PodNames>,
}

#[derive(Debug, Default)]
struct PodNames {
    /// When each name of an address is over.
    until: BTreeMap<(IpAddr, Arc<str>), Mono>,
    /// The same by time, to find what is over first.
    by_time: BTreeSet<(Mono, IpAddr, Arc<str>)>,
}

impl Names {
    /// Remembers what `answer`, a DNS message (RFC 1035 section 4), told `pod`. What makes no sense says nothing.
    pub fn learn(&mut self, pod: IpAddr, answer: &[u8], now: Mono) {
        for (name, address, ttl) in records(answer) {
            let until = now.after(ttl.clamp(SHORTEST, LONGEST));
            let known = self.pods.entry(pod).or_default();
            known.insert(address, name, until);
        }
    }

    /// The names of `address`, as `pod` knows it.
    pub fn of(&mut self, pod: IpAddr, address: IpAddr, now: Mono) -> Vec<Arc<str>> {
        let Some(known) = self.pods.get_mut(&pod) else {
            return Vec::new();
        };
        known.expire(now);
        let from = (address, Arc::from(""));
        let names = known.until.range(from..).map(|(key, _)| key);
        let names = names.take_while(|(a, _)| *a == address);
        names.map(|(_, name)| name.clone()).collect()
    }

    /// Keeps only what pods that `stays` were told.
    pub fn retain(&mut self, stays: impl Fn(&IpAddr) -> bool) {
        self.pods.retain(|pod, _| stays(pod));
    }
}

impl PodNames {
    fn insert(&mut self, address: IpAddr, name: Arc<str>, until: Mono) {
        let key = (address, name.clone());
        // A longer promise stands: the shorter may be from a cache.
        match self.until.get(&key).copied() {
            Some(known) if known >= until => return,
            Some(known) => drop(self.by_time.remove(&(known, address, name.clone()))),
            None => {}
        }
        self.until.insert(key, until);
        self.by_time.insert((until, address, name));
        if self.until.len() > PER_POD
            && let Some((_, address, name)) = self.by_time.pop_first()
        {
            self.until.remove(&(address, name));
        }
    }

    fn expire(&mut self, now: Mono) {
        while self
            .by_time
            .first()
            .is_some_and(|(until, ..)| *until <= now)
        {
            if let Some((_, address, name)) = self.by_time.pop_first() {
                self.until.remove(&(address, name));
            }
        }
    }
}

/// Each address of an answer with each name that leads to it, from the question along the aliases, and for how long
/// the whole way is good.
fn records(answer: &[u8]) -> Vec<(Arc<str>, IpAddr, Duration)> {
    let Ok(answer) = Packet::parse(answer) else {
        return Vec::new();
    };
    let is_answer = answer.has_flags(PacketFlag::RESPONSE) && answer.rcode() == RCODE::NoError;
    let [question] = answer.questions.as_slice() else {
        return Vec::new();
    };
    if !is_answer {
        return Vec::new();
    }
    let mut out = Vec::new();
    // Names from the question on, and how long the way there is good.
    let mut way = vec![lower(&question.qname.to_string())];
    let mut good = LONGEST;
    for _ in 0..MAX_ALIASES {
        let Some(owner) = way.last().cloned() else {
            break;
        };
        let mut alias = None;
        for record in answer.answers.iter().take(PER_ANSWER) {
            if lower(&record.name.to_string()) != owner {
                continue;
            }
            let ttl = good.min(Duration::from_secs(record.ttl.into()));
            let address: IpAddr = match &record.rdata {
                RData::A(a) => IpAddr::V4(a.address.into()),
                RData::AAAA(a) => IpAddr::V6(a.address.into()),
                RData::CNAME(to) => {
                    alias = Some((lower(&to.0.to_string()), ttl));
                    continue;
                }
                _ => continue,
            };
            out.extend(way.iter().map(|name| (name.clone(), address, ttl)));
        }
        match alias {
            Some((name, ttl)) if !way.contains(&name) => {
                good = ttl;
                way.push(name);
            }
            _ => break,
        }
    }
    out
}

/// As policies write names: in lower case, without a dot at the end.
fn lower(name: &str) -> Arc<str> {
    name.trim_end_matches('.').to_ascii_lowercase().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// An answer to a question of `name`, with records of name, type, TTL and data, in the bytes of RFC 1035.
    fn answer(flags: u16, name: &str, records: &[(&str, u16, u32, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        let count = u16::try_from(records.len()).unwrap();
        for number in [7, flags, 1, count, 0, 0] {
            out.extend(u16::to_be_bytes(number));
        }
        out.extend(encoded(name));
        out.extend([0, 1, 0, 1]);
        for (name, kind, ttl, data) in records {
            out.extend(encoded(name));
            out.extend(kind.to_be_bytes());
            out.extend([0, 1]);
            out.extend(ttl.to_be_bytes());
            out.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            out.extend(data);
        }
        out
    }

    fn encoded(name: &str) -> Vec<u8> {
        let mut out = Vec::new();
        for label in name.split('.') {
            out.push(u8::try_from(label.len()).unwrap());
            out.extend(label.bytes());
        }
        out.push(0);
        out
    }

    const ANSWER: u16 = 0x8180;
    const A: u16 = 1;
    const CNAME: u16 = 5;
    const AAAA: u16 = 28;

    fn pod(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn far(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn at(seconds: u64) -> Mono {
        Mono::default().after(Duration::from_secs(seconds))
    }

    fn names(names: &mut Names, address: IpAddr, seconds: u64) -> Vec<String> {
        let found = names.of(pod(1), address, at(seconds));
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_have_names_as_long_as_the_answer_says() {
        let mut known = Names::default();
        let records = [
            ("Www.Example.com", A, 60, vec![192, 0, 2, 1]),
            ("www.example.com", A, 90, vec![192, 0, 2, 2]),
        ];
        known.learn(pod(1), &answer(ANSWER, "www.example.com", &records), at(0));
        assert_eq!(names(&mut known, far(1), 59), ["www.example.com"]);
        assert_eq!(names(&mut known, far(1), 60), [""; 0]);
        assert_eq!(names(&mut known, far(2), 60), ["www.example.com"]);
        assert_eq!(names(&mut known, far(3), 60), [""; 0]);
        assert_eq!(known.of(pod(2), far(2), at(60)), []);
        let v6 = vec![0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        known.learn(
            pod(1),
            &answer(
                ANSWER,
                "six.example.com",
                &[("six.example.com", AAAA, 9, v6)],
            ),
            at(0),
        );
        assert_eq!(
            names(&mut known, "2001:db8::1".parse().unwrap(), 8),
            ["six.example.com"]
        );
    }

    #[test]
    fn aliases_lead_to_addresses_and_the_shortest_time_counts() {
        let mut known = Names::default();
        let records = [
            ("cdn.example.net", A, 300, vec![192, 0, 2, 1]),
            ("www.example.com", CNAME, 20, encoded("cdn.example.net")),
            ("other.example.com", A, 300, vec![192, 0, 2, 2]),
        ];
        known.learn(pod(1), &answer(ANSWER, "www.example.com", &records), at(0));
        assert_eq!(
            names(&mut known, far(1), 19),
            ["cdn.example.net", "www.example.com"]
        );
        assert_eq!(names(&mut known, far(1), 20), [""; 0]);
        // Nobody asked for it.
        assert_eq!(names(&mut known, far(2), 0), [""; 0]);
        let circle = [
            ("a.b", CNAME, 20, encoded("b.b")),
            ("b.b", CNAME, 20, encoded("a.b")),
        ];
        known.learn(pod(1), &answer(ANSWER, "a.b", &circle), at(0));
    }

    #[test]
    fn short_answers_serve_one_connection_and_long_ones_a_day() {
        let mut known = Names::default();
        known.learn(
            pod(1),
            &answer(ANSWER, "a.b", &[("a.b", A, 0, vec![192, 0, 2, 1])]),
            at(0),
        );
        assert_eq!(names(&mut known, far(1), 4), ["a.b"]);
        assert_eq!(names(&mut known, far(1), 5), [""; 0]);
        known.learn(
            pod(1),
            &answer(ANSWER, "a.b", &[("a.b", A, u32::MAX, vec![192, 0, 2, 1])]),
            at(0),
        );
        assert_eq!(names(&mut known, far(1), 24 * 3600 - 1), ["a.b"]);
        assert_eq!(names(&mut known, far(1), 24 * 3600), [""; 0]);
        // A later answer that is over sooner takes nothing back.
        known.learn(
            pod(1),
            &answer(ANSWER, "a.b", &[("a.b", A, 100, vec![192, 0, 2, 1])]),
            at(0),
        );
        known.learn(
            pod(1),
            &answer(ANSWER, "a.b", &[("a.b", A, 10, vec![192, 0, 2, 1])]),
            at(0),
        );
        assert_eq!(names(&mut known, far(1), 99), ["a.b"]);
    }

    #[test]
    fn what_is_no_answer_says_nothing() {
        let mut known = Names::default();
        let record = [("a.b", A, 60, vec![192, 0, 2, 1])];
        // A question; a failure; no question; two.
        known.learn(pod(1), &answer(0x0100, "a.b", &record), at(0));
        known.learn(pod(1), &answer(0x8183, "a.b", &record), at(0));
        let good = answer(ANSWER, "a.b", &record);
        for count in [0, 2] {
            let mut wrong = good.clone();
            wrong[5] = count;
            known.learn(pod(1), &wrong, at(0));
        }
        for length in 0..good.len() {
            known.learn(pod(1), &good[..length], at(0));
        }
        assert_eq!(names(&mut known, far(1), 0), [""; 0]);
        known.learn(pod(1), &good, at(0));
        assert_eq!(names(&mut known, far(1), 0), ["a.b"]);
        known.retain(|p| *p != pod(1));
        assert_eq!(names(&mut known, far(1), 0), [""; 0]);
    }

    #[test]
    fn a_pod_fills_only_its_own_part_and_the_soonest_over_gives_way() {
        let mut known = Names::default();
        known.learn(
            pod(2),
            &answer(ANSWER, "a.b", &[("a.b", A, 10, vec![192, 0, 2, 1])]),
            at(0),
        );
        for number in 0..3000_u32 {
            let data = number.to_be_bytes().to_vec();
            known.learn(
                pod(1),
                &answer(ANSWER, "a.b", &[("a.b", A, 10 + number, data)]),
                at(0),
            );
        }
        assert_eq!(known.pods[&pod(1)].until.len(), PER_POD);
        assert_eq!(known.pods[&pod(1)].by_time.len(), PER_POD);
        assert_eq!(names(&mut known, 2999_u32.to_be_bytes().into(), 0), ["a.b"]);
        assert_eq!(names(&mut known, 0_u32.to_be_bytes().into(), 0), [""; 0]);
        assert_eq!(known.of(pod(2), far(1), at(0)).len(), 1);
    }
}
