//! What a peer says of others, and what it gives back of this cluster's own: kinds 19 to 21 between
//! gateways. The session is east's, which is authenticated; everything that it says may be made up.

use std::collections::{BTreeMap, BTreeSet};

use handshake::admission::{Revocation, Target};
use identity::{
    ClaimLimits, IssuerKey, Mono, NamePattern, Now, TrustBundle, TrustDomain, UnixMillis,
};
use peering::{
    introductions::{self, Accepting, MAX_INTRODUCED, Rules, Said},
    join::Here,
    peer_messages::{Hello, Instance, PEER_PROTOCOL, PeerMessage},
    peers::{OwnKeys, Party, PeerConfig, Peering, PeeringConfig},
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

use crate::world::support::{START, domain};

/// A certificate: nobody speaks TLS here.
const ROOT: &[u8] = include_bytes!("root.der");
const NAMES: [&str; 4] = ["east", "west", "north", "south"];

fn now() -> Now {
    Now {
        mono: Mono(std::time::Duration::from_secs(1)),
        unix: UnixMillis(START + 1000),
    }
}

fn key(name: &str) -> IssuerKey {
    IssuerKey::from_seed(&[name.len() as u8 + name.as_bytes()[0]; 32])
}

fn pin() -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(ROOT).into()
}

fn limits(namespace: &str) -> ClaimLimits {
    ClaimLimits {
        namespaces: vec![NamePattern::new(namespace).unwrap()],
        ..ClaimLimits::default()
    }
}

/// A gateway that was just started.
struct Gateway {
    own: TrustDomain,
    peering: Peering,
    disk: BTreeMap<String, Vec<u8>>,
    /// All that it said, and to whom.
    said: Vec<(TrustDomain, Vec<u8>)>,
}

impl Gateway {
    fn start(name: &str, disk: BTreeMap<String, Vec<u8>>) -> Self {
        let own = domain(name);
        let rng = Box::new(ChaCha20Rng::from_seed([1; 32]));
        let config = PeeringConfig::new(own.clone());
        let mut peering = Peering::new(config, key(name), disk.clone(), rng, now()).unwrap();
        let keys = OwnKeys {
            x509_roots: vec![ROOT.to_vec()],
            issuer_keys: vec![key(name).public()],
            carried_labels: None,
        };
        peering.set_own_keys(keys, now());
        let peers = NAMES.into_iter().filter(|other| *other != name);
        let peers = peers.map(|other| PeerConfig {
            trust_domain: domain(other),
            pin: Some(pin()),
            or_roots: Vec::new(),
            ranges: None,
            mapped: BTreeMap::new(),
            limits: limits("shop"),
            offer: limits("public"),
            away: None,
        });
        peering.set_peers(peers.collect(), now()).unwrap();
        Self {
            own,
            peering,
            disk,
            said: Vec::new(),
        }
    }

    /// `peer` greets and says its bundle.
    fn greeted_by(&mut self, peer: &str) {
        let remote = "192.0.2.9:4433".parse().unwrap();
        self.peering.handle_connected(&domain(peer), remote, now());
        let hello = Hello {
            version: PEER_PROTOCOL,
            trust_domain: domain(peer),
            instance: Instance([9; 16]),
            clock: now().unix,
            tunnel_port: 1000,
            queues: 1,
            seen_bundle: 0,
            seen_digest: 0,
            seen_revocations: 0,
            records_of: Instance::default(),
            records_position: 0,
        };
        let bundle = TrustBundle {
            trust_domain: domain(peer),
            sequence: 1,
            refresh_hint: std::time::Duration::from_secs(60),
            x509_roots: vec![ROOT.to_vec()],
            issuer_keys: vec![key(peer).public()],
            carried_labels: None,
            expires_at: now().unix.after(std::time::Duration::from_hours(24)),
        };
        self.hears(peer, &PeerMessage::Hello(hello).encode());
        self.hears(peer, &PeerMessage::Bundle(bundle.to_jwks()).encode());
        assert!(self.peering.bundles().bundle(&domain(peer)).is_some());
    }

    /// What it says then, and to whom.
    fn hears(&mut self, peer: &str, message: &[u8]) -> Vec<(TrustDomain, Vec<u8>)> {
        self.peering.handle_message(&domain(peer), message, now());
        let before = self.said.len();
        loop {
            while let Some((key, bytes)) = self.peering.poll_persist() {
                self.disk.insert(key.to_string(), bytes);
                self.peering.handle_persisted(&key);
            }
            if self.peering.poll_event().is_some() {
                continue;
            }
            match self.peering.poll_transmit() {
                Some(message) => self.said.push(message),
                None if self.peering.poll_persist().is_none() => {
                    return self.said[before..].to_vec();
                }
                None => {}
            }
        }
    }

    /// The payload of the newest of these messages that it signed.
    fn signed(&self, kind: u8) -> Option<Vec<u8>> {
        let mut said = self.said.iter().rev();
        let (_, bytes) = said.find(|(_, bytes)| bytes[0] == kind)?;
        identity::unproven_payload(&bytes[1..]).map(<[u8]>::to_vec)
    }

    fn revoked(&self) -> BTreeSet<Revocation> {
        let own = self.peering.revoked_here().get(&self.own);
        own.into_iter().flatten().cloned().collect()
    }
}

/// A list of introductions: nothing that east did not sign, and none that breaks a rule; whoever it makes
/// up changes nothing that is known, and may claim and meet what east may.
pub fn introductions(input: &[u8]) {
    let mut west = Gateway::start("west", BTreeMap::new());
    west.greeted_by("east");
    let east = domain("east");
    let say = |west: &mut Gateway, signed: Vec<u8>| {
        west.hears("east", &PeerMessage::Introductions(signed).encode());
        west.peering.introduced(&east).map(<[_]>::to_vec)
    };
    assert_eq!(say(&mut west, input.to_vec()), None);
    let of_north = key("north").sign("introductions", input);
    assert_eq!(say(&mut west, of_north), None);
    let signed = key("east").sign("introductions", input);
    let Some(list) = say(&mut west, signed.clone()) else {
        return;
    };
    assert!(list.len() <= MAX_INTRODUCED);
    let domains: BTreeSet<_> = list.iter().map(|one| &one.trust_domain).collect();
    assert_eq!(domains.len(), list.len());
    for one in &list {
        assert!((1..=4).contains(&one.roots.len()) && (1..=4).contains(&one.endpoints.len()));
        assert!(!one.name.is_empty() && one.name.len() <= 63);
    }
    // The same again is no news, and another process knows it.
    assert_eq!(say(&mut west, signed), Some(list.clone()));
    let again = Gateway::start("west", west.disk.clone());
    assert_eq!(again.peering.introduced(&east), Some(&list[..]));
    judged(&west, &list);
}

fn judged(west: &Gateway, list: &[introductions::Introduction]) {
    let (own, east, north) = (domain("west"), domain("east"), domain("north"));
    let ranges = [
        ("10.2.0.0/16", &own),
        ("10.1.0.0/16", &east),
        ("10.3.0.0/16", &north),
    ];
    let ranges: Vec<_> = ranges
        .into_iter()
        .map(|(range, of)| (range.parse().unwrap(), of))
        .collect();
    let here = Here {
        trust_domain: &own,
        names: BTreeMap::from([("west", &own), ("east", &east), ("north", &north)]),
        ranges: ranges.clone(),
        held: Vec::new(),
        mapped: Vec::new(),
        pool: &[],
        peers: west
            .peering
            .peers()
            .map(|peer| (peer, west.peering.roots(peer)))
            .collect(),
        revoked: BTreeSet::new(),
    };
    let said = [Said {
        by: &east,
        introducer: false,
        revoked: false,
        limits: west.peering.limits(&east).unwrap(),
        offer: west.peering.offered(&east).unwrap(),
        list: Some(list),
    }];
    let rules = Rules {
        accepting: Accepting::All,
        away: Some(identity::AwayRule::OF_INTRODUCED),
    };
    let changes = introductions::judge(&[], &[], &said, rules, &here, now().unix);
    assert!(changes.joined.len() + changes.pending.len() <= list.len());
    for member in &changes.members {
        assert!(!here.peers.contains_key(&member.trust_domain) && member.trust_domain != own);
        assert!(!here.names.contains_key(&*member.name));
        assert_eq!(
            (&member.accept, &member.offer),
            (&limits("shop"), &limits("public"))
        );
        assert_eq!(member.away, rules.away);
        for range in member.seen() {
            let clashes = |(known, _): &(ipnet::IpNet, &TrustDomain)| {
                known.contains(&range.prefix) || range.prefix.contains(known)
            };
            assert!(!ranges.iter().any(clashes), "{range:?}");
        }
    }
    // Nothing else makes one of them a member, or no member, again.
    let again = introductions::judge(&changes.members, &[], &said, rules, &here, now().unix);
    assert_eq!((&again.members, again.joined.len()), (&changes.members, 0));
}

/// The lists that east made of two whom it introduces.
pub fn introduction_seeds() -> Vec<Vec<u8>> {
    let mut east = Gateway::start("east", BTreeMap::new());
    let party = |name: &str| Party {
        trust_domain: domain(name),
        name: name.into(),
        endpoints: vec!["192.0.2.7:4433".parse().unwrap()],
    };
    let day = std::time::Duration::from_hours(24);
    let mut lists = Vec::new();
    let mut list = |east: &mut Gateway| {
        east.greeted_by("west");
        lists.extend(east.signed(19));
    };
    for other in ["north", "south"] {
        let parties = [party("west"), party(other)];
        east.peering.introduce(parties, day, now()).unwrap();
        list(&mut east);
    }
    let (west, south) = (domain("west"), domain("south"));
    east.peering.withdraw(&west, &south, now()).unwrap();
    list(&mut east);
    lists.push(b"\xa0".to_vec());
    lists
}

/// A list that is given back, and the number above which ours is wanted: nothing is revoked that west did
/// not sign, nothing that was revoked is not any more, and east gets back its own list alone.
pub fn returned(input: &[u8]) {
    let (number, payload) = input.split_at(input.len().min(8));
    let above = number
        .iter()
        .fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    let mut west = Gateway::start("west", BTreeMap::new());
    let api = Target::Labels {
        pods: "app == \"api\"".into(),
        namespaces: None,
    };
    west.peering
        .revoke(&domain("west"), api, "by hand", now())
        .unwrap();
    west.greeted_by("east");
    let before = west.revoked();
    let say = |west: &mut Gateway, signed: Vec<u8>| {
        west.hears("east", &PeerMessage::RevocationsReturned(signed).encode());
        west.revoked()
    };
    assert_eq!(say(&mut west, payload.to_vec()), before);
    let of_east = key("east").sign("revocations", payload);
    assert_eq!(say(&mut west, of_east), before);
    let own = key("west").sign("revocations", payload);
    let after = say(&mut west, own);
    assert!(after.is_superset(&before));
    let own = domain("west");
    for revocation in &after {
        if let Target::Identity(id) = &revocation.target {
            assert_eq!(*id.trust_domain(), own);
        }
    }
    // What east said of itself goes back to it, as it signed it, and once.
    let list = key("east").sign("revocations", payload);
    west.hears("east", &PeerMessage::Revocations(list.clone()).encode());
    let wanted = PeerMessage::RevocationsWanted(above).encode();
    let mut given: Vec<_> = (0..2).flat_map(|_| west.hears("east", &wanted)).collect();
    given.retain(|(_, bytes)| bytes[0] == 21);
    assert!(given.len() <= 1);
    for (to, bytes) in given {
        assert_eq!((to, &bytes[1..]), (domain("east"), &list[..]));
    }
}

/// A number, and the lists that west and east made.
pub fn returned_seeds() -> Vec<Vec<u8>> {
    let list = |name: &str, target: Target| {
        let mut gateway = Gateway::start(name, BTreeMap::new());
        let own = gateway.own.clone();
        gateway.peering.revoke(&own, target, "lost", now()).unwrap();
        gateway
            .peering
            .revoke(&own, Target::Cluster, "stolen", now())
            .unwrap();
        gateway.greeted_by("north");
        let payload = gateway.signed(17).unwrap();
        [vec![0; 8], payload].concat()
    };
    let account = |name: &str| {
        let id = identity::SpiffeId::workload(&domain(name), "shop", "api");
        Target::Identity(id.unwrap())
    };
    let of_west = list("west", account("west"));
    let of_east = list("east", account("east"));
    let mut high = of_east.clone();
    high[0] = 255;
    vec![of_west, of_east, high]
}
