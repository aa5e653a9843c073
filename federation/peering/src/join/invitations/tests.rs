use identity::{IssuerKey, Mono, NamePattern, TrustBundle};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use sha2::{Digest, Sha256};

use super::*;
use crate::{
    join::{accepted, answered, refused, request},
    peer_messages::AnnouncedRange,
};

const BINDING: [u8; 32] = [9; 32];
const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

fn at(secs: u64) -> Now {
    Now {
        mono: Mono(Duration::from_secs(secs)),
        unix: UnixMillis::from_secs(1_800_000_000 + secs),
    }
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

/// A root certificate of this test process, by name.
fn root(name: &str) -> Vec<u8> {
    use std::sync::Mutex;
    static ROOTS: Mutex<BTreeMap<String, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut roots = ROOTS.lock().unwrap();
    let made = roots.entry(name.to_owned()).or_insert_with(|| {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    });
    made.clone()
}

fn pin(name: &str) -> [u8; 32] {
    Sha256::digest(root(name)).into()
}

fn key(name: &str) -> IssuerKey {
    IssuerKey::from_seed(&Sha256::digest(name).into())
}

fn offer(name: &str, range: &str, now: Now) -> Offer {
    let bundle = TrustBundle {
        trust_domain: domain(name),
        sequence: 1,
        refresh_hint: Duration::from_mins(5),
        x509_roots: vec![root(name)],
        issuer_keys: vec![key(name).public()],
        carried_labels: None,
        expires_at: now.unix.after(Duration::from_hours(24)),
    };
    Offer {
        trust_domain: domain(name),
        name: name.into(),
        bundle: bundle.to_jwks(),
        pin: pin(name),
        endpoints: vec!["192.0.2.2:4433".parse().unwrap()],
        ranges: vec![AnnouncedRange {
            range_id: 1,
            prefix: range.parse().unwrap(),
        }],
        clock: now.unix,
    }
}

struct East {
    domain: TrustDomain,
    north: TrustDomain,
    pool: Vec<IpNet>,
    invitations: Invitations,
    rng: ChaCha20Rng,
}

impl East {
    fn new() -> Self {
        Self {
            domain: domain("east"),
            north: domain("north"),
            pool: Vec::new(),
            invitations: Invitations::new(Stored::default()),
            rng: ChaCha20Rng::seed_from_u64(1),
        }
    }

    fn invite(&mut self, name: Option<&str>, now: Now) -> Token {
        let accept = ClaimLimits {
            namespaces: vec![NamePattern::new("shop").unwrap()],
            ..ClaimLimits::default()
        };
        let invite = Invite {
            life: DEFAULT_LIFE,
            name: name.map(Into::into),
            accept,
            offer: public(),
            introducer: false,
            away: Some("1h:keep".parse().unwrap()),
            pin: pin("east"),
            trust_domain: self.domain.clone(),
            endpoints: vec!["192.0.2.1:4433".parse().unwrap()],
        };
        let made = self.invitations.invite(invite, &mut self.rng, now.unix);
        Token::read(&made.unwrap().text()).unwrap()
    }

    fn judge(&mut self, request: &[u8], now: Now) -> Result<Admitted, JoinRefusal> {
        self.judge_knowing(request, now, None, None)
    }

    /// While one more is a peer by these roots, and one is revoked.
    fn judge_knowing(
        &mut self,
        request: &[u8],
        now: Now,
        peer: Option<(&TrustDomain, Vec<[u8; 32]>)>,
        revoked: Option<&TrustDomain>,
    ) -> Result<Admitted, JoinRefusal> {
        let mut here = Here {
            trust_domain: &self.domain,
            names: BTreeMap::from([("east", &self.domain), ("north", &self.north)]),
            ranges: vec![
                ("10.1.0.0/16".parse().unwrap(), &self.domain),
                ("10.3.0.0/16".parse().unwrap(), &self.north),
            ],
            held: Vec::new(),
            mapped: Vec::new(),
            pool: &self.pool,
            peers: BTreeMap::from([(&self.north, vec![pin("north")])]),
            revoked: revoked.into_iter().collect(),
        };
        here.peers.extend(peer);
        self.invitations
            .judge(SOURCE, request, &BINDING, &here, now)
    }

    /// The process dies, and begins again with what it stored.
    fn restart(&mut self) {
        let stored = serde_json::to_string(self.invitations.stored()).unwrap();
        self.invitations = Invitations::new(serde_json::from_str(&stored).unwrap());
    }
}

/// Which pods are offered.
fn public() -> ClaimLimits {
    ClaimLimits {
        namespaces: vec![NamePattern::new("public").unwrap()],
        ..ClaimLimits::default()
    }
}

fn west(token: &Token, now: Now) -> Vec<u8> {
    let own = offer("west", "10.2.0.0/16", now);
    request(token, &own, &key("west"), &BINDING)
}

#[test]
fn who_has_the_token_joins_and_each_knows_the_other() {
    let mut east = East::new();
    let token = east.invite(None, at(0));
    let admitted = east.judge(&west(&token, at(5)), at(5)).unwrap();
    assert!(!admitted.again);
    assert_eq!(admitted.member.name, "west");
    assert_eq!(admitted.member.pin, pin("west"));
    assert_eq!(admitted.member.accept.namespaces.len(), 1);
    assert_eq!(admitted.member.offer, public());
    assert_eq!(admitted.member.away, Some("1h:keep".parse().unwrap()));
    let own = offer("east", "10.1.0.0/16", at(5));
    let answer = accepted(&admitted.key, &own, &key("east"), &BINDING);
    assert_eq!(answered(&token, &answer, &BINDING, at(5).unix), Ok(own));
    assert_eq!(east.invitations.open(at(5).unix), 0);
}

/// A new token does not make good what was revoked: the operator takes that back first.
#[test]
fn a_cluster_that_is_revoked_does_not_come_back_by_a_token() {
    let (mut east, gone) = (East::new(), domain("west"));
    for is_peer in [false, true] {
        let token = east.invite(None, at(0));
        let request = west(&token, at(1));
        let peer = is_peer.then(|| (&gone, vec![pin("west")]));
        let refused = east.judge_knowing(&request, at(1), peer, Some(&gone));
        assert_eq!(refused.unwrap_err(), JoinRefusal::Revoked(gone.clone()));
        // Nothing was used up.
        assert!(!east.judge(&request, at(2)).unwrap().again);
    }
}

/// A peer is known by all roots of its bundle, not by the pin of the first one alone.
#[test]
fn a_cluster_whose_root_was_exchanged_is_the_same() {
    let (mut east, it) = (East::new(), domain("west"));
    let mut judge = |known: &[&str]| {
        let token = east.invite(None, at(0));
        let known = known.iter().map(|name| pin(name)).collect();
        let request = west(&token, at(1));
        let judged = east.judge_knowing(&request, at(1), Some((&it, known)), None);
        judged.map(|admitted| admitted.member.pin)
    };
    assert_eq!(judge(&["west before", "west"]), Ok(pin("west")));
    let other = JoinRefusal::OtherRoot(domain("west"));
    assert_eq!(judge(&["west before"]), Err(other));
}

/// The answer may have been lost, and the process too.
#[test]
fn a_token_is_good_for_one_cluster_and_for_it_again() {
    let mut east = East::new();
    let token = east.invite(Some("branch"), at(0));
    assert_eq!(
        east.judge(&west(&token, at(1)), at(1)).unwrap().member.name,
        "branch"
    );
    east.restart();
    assert!(east.judge(&west(&token, at(2)), at(2)).unwrap().again);
    let south = offer("south", "10.4.0.0/16", at(3));
    let south = request(&token, &south, &key("south"), &BINDING);
    let refused = east.judge(&south, at(3)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "this token was used by west at 2027-01-15T08:00:01Z: ask for a new one"
    );
}

#[test]
fn an_expired_token_says_when_it_did_to_its_holder_alone() {
    let mut east = East::new();
    let token = east.invite(None, at(0));
    let late = at(900);
    let refused = east.judge(&west(&token, late), late).unwrap_err();
    assert!(matches!(refused, JoinRefusal::Expired { .. }), "{refused}");
    assert!(east.judge(&west(&token, at(899)), at(899)).is_ok());
    // A day later nobody remembers.
    let later = at(90_000);
    east.invite(None, later);
    let refused = east.judge(&west(&token, later), later).unwrap_err();
    assert_eq!(refused, JoinRefusal::Unknown);
}

/// Threat list: guessing and reuse of join tokens.
#[test]
fn guesses_get_one_answer_and_are_limited() {
    let mut east = East::new();
    let token = east.invite(None, at(0));
    let other = East {
        rng: ChaCha20Rng::seed_from_u64(2),
        ..East::new()
    }
    .invite(None, at(0));
    // One that knows the id and not the secret.
    let guess = {
        let secret = [7; 32];
        let pin = token.pin;
        let endpoints = token.endpoints.clone();
        Token::new(
            token.id,
            &secret,
            pin,
            token.expires,
            domain("east"),
            endpoints,
        )
    };
    for wrong in [&other, &guess, &other, &guess] {
        let refused = east.judge(&west(wrong, at(1)), at(1)).unwrap_err();
        assert_eq!(refused, JoinRefusal::Unknown);
    }
    assert_eq!(
        east.judge(b"nonsense", at(1)).unwrap_err(),
        JoinRefusal::Unknown
    );
    let right = west(&token, at(1));
    assert_eq!(
        east.judge(&right, at(1)).unwrap_err(),
        JoinRefusal::TooMany(11)
    );
    assert!(east.judge(&west(&token, at(11)), at(11)).is_ok(), "in time");
}

#[test]
fn what_cannot_be_a_peer_is_told_why_and_spends_nothing() {
    let mut east = East::new();
    let token = east.invite(None, at(0));
    let mut refuse = |own: &Offer, signer: &IssuerKey| {
        let request = request(&token, own, signer, &BINDING);
        east.judge(&request, at(1)).unwrap_err().to_string()
    };
    let good = offer("west", "10.2.0.0/16", at(1));
    let with = |change: fn(&mut Offer)| {
        let mut offer = good.clone();
        change(&mut offer);
        offer
    };
    for (own, words) in [
        (offer("east", "10.2.0.0/16", at(1)), "cannot join itself"),
        (
            with(|offer| offer.ranges[0].prefix = "10.3.7.0/24".parse().unwrap()),
            "its pod range 10.3.7.0/24 overlaps 10.3.0.0/16 of north",
        ),
        (
            with(|offer| offer.name = "north".into()),
            "north is what north is called here",
        ),
        (
            with(|offer| offer.clock = UnixMillis(offer.clock.0 + 31_000)),
            "the clocks are 31 s apart: here it is 2027-01-15T08:00:01Z, there 2027-01-15T08:00:32Z",
        ),
        (with(|offer| offer.pin = [1; 32]), "does not hold the root"),
        (with(|offer| offer.bundle = "{}".into()), "does not hold"),
        (with(|offer| offer.name = "-".into()), "another version"),
    ] {
        let said = refuse(&own, &key(own.trust_domain.as_str()));
        assert!(said.contains(words), "{said}");
    }
    // Somebody else's bundle: whoever shows it has to have a key of it.
    let said = refuse(&good, &key("mallory"));
    assert!(
        said.contains("what it says of itself does not hold"),
        "{said}"
    );
    // Of another root than it is known by.
    let mut north = offer("north", "10.3.0.0/16", at(1));
    let bundle = TrustBundle {
        x509_roots: vec![root("north again")],
        ..TrustBundle::from_jwks(domain("north"), &north.bundle).unwrap()
    };
    north.bundle = bundle.to_jwks();
    north.pin = pin("north again");
    let said = refuse(&north, &key("north"));
    assert!(
        said.contains("is a peer already, under another root"),
        "{said}"
    );
    assert_eq!(east.invitations.open(at(1).unix), 1, "not spent");
}

#[test]
fn a_cluster_that_is_known_keeps_its_name() {
    let mut east = East::new();
    let north = |token: &Token| {
        let own = Offer {
            name: "elsewhere".into(),
            ..offer("north", "10.3.0.0/16", at(1))
        };
        request(token, &own, &key("north"), &BINDING)
    };
    let token = east.invite(None, at(0));
    assert_eq!(
        east.judge(&north(&token), at(1)).unwrap().member.name,
        "north"
    );
    let token = east.invite(Some("branch"), at(0));
    let refused = east.judge(&north(&token), at(1)).unwrap_err();
    assert_eq!(refused.to_string(), "north is called north here already");
}

/// A request is for one connection, and an answer too: neither can be played back elsewhere, and none
/// passes for the other.
#[test]
fn nothing_can_be_relayed_to_another_connection() {
    let mut east = East::new();
    let token = east.invite(None, at(0));
    let own = offer("west", "10.2.0.0/16", at(1));
    let elsewhere = request(&token, &own, &key("west"), &[8; 32]);
    assert_eq!(
        east.judge(&elsewhere, at(1)).unwrap_err(),
        JoinRefusal::Unknown
    );
    let answer = accepted(&token.key(), &own, &key("west"), &BINDING);
    let read = |answer: &[u8], binding: &[u8; 32]| answered(&token, answer, binding, at(1).unix);
    assert_eq!(read(&answer, &[8; 32]), Err(OfferError::Proof));
    let said = read(&answer, &BINDING).unwrap_err().to_string();
    assert!(
        said.contains("another cluster than the token says"),
        "{said}"
    );
    assert_eq!(
        read(&west(&token, at(1)), &BINDING),
        Err(OfferError::Malformed)
    );
    let said = read(&refused("no"), &BINDING).unwrap_err();
    assert_eq!(said, OfferError::Refused("no".into()));
}

#[test]
fn invitations_are_bounded_and_checked() {
    let mut east = East::new();
    for _ in 0..MAX_INVITATIONS {
        east.invite(None, at(0));
    }
    let invite = |life, name: Option<&str>| Invite {
        life,
        name: name.map(Into::into),
        accept: ClaimLimits::default(),
        offer: ClaimLimits::default(),
        introducer: false,
        away: None,
        pin: pin("east"),
        trust_domain: domain("east"),
        endpoints: vec![],
    };
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let mut make = |invite, now: Now| east.invitations.invite(invite, &mut rng, now.unix);
    assert_eq!(
        make(invite(DEFAULT_LIFE, None), at(0)),
        Err(InviteError::TooMany)
    );
    assert!(
        make(invite(DEFAULT_LIFE, None), at(100_000)).is_ok(),
        "forgotten"
    );
    let zero = Duration::ZERO;
    assert_eq!(
        make(invite(zero, None), at(100_000)),
        Err(InviteError::Life)
    );
    let long = MAX_LIFE + Duration::from_secs(1);
    assert_eq!(
        make(invite(long, None), at(100_000)),
        Err(InviteError::Life)
    );
    for name in ["", "West", "a b", "-a", "a.b", &"a".repeat(64)] {
        let refused = make(invite(DEFAULT_LIFE, Some(name)), at(100_000));
        assert!(matches!(refused, Err(InviteError::Name(_))), "{name}");
    }
}

/// Threat row 39.
#[test]
fn no_formatting_shows_a_key() {
    let mut east = East::new();
    let token = east.invite(None, at(0));
    let shown = format!("{:?}", east.invitations);
    let secret = format!("{:?}", token.key().expose());
    assert!(!shown.contains(secret.trim_matches(['[', ']'])), "{shown}");
}

/// The member is stored with the prefix, and gets the same one when its answer was lost.
#[test]
fn a_range_that_overlaps_is_mapped_when_there_is_a_pool() {
    let mut east = East::new();
    let token = east.invite(None, at(0));
    let own = offer("west", "10.1.0.0/16", at(1));
    let request = request(&token, &own, &key("west"), &BINDING);
    let refused = east.judge(&request, at(1)).unwrap_err().to_string();
    assert!(refused.contains("federationPrefixes"), "{refused}");
    // The token is good still.
    east.pool = vec!["100.64.0.0/10".parse().unwrap()];
    let member = east.judge(&request, at(2)).unwrap().member;
    let seen: Vec<_> = member
        .seen()
        .map(|range| range.prefix.to_string())
        .collect();
    assert_eq!(seen, ["100.64.0.0/16"]);
    assert_eq!(member.ranges, own.ranges);
    assert_eq!(
        east.judge(&request, at(3)).unwrap().member.mapped,
        member.mapped
    );
    let stored = serde_json::to_string(&member).unwrap();
    let restored: Member = serde_json::from_str(&stored).unwrap();
    assert_eq!(restored, member);
}
