use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use identity::NamePattern;

use super::*;
use crate::peer_messages::AnnouncedRange;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const DAY: Duration = Duration::from_hours(24);

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn one(name: &str, range: &str) -> Introduction {
    Introduction {
        trust_domain: domain(name),
        name: name.into(),
        roots: vec![ByteArray::new([name.len() as u8; 32])],
        endpoints: vec!["192.0.2.9:4433".parse().unwrap()],
        ranges: vec![AnnouncedRange {
            range_id: 1,
            prefix: range.parse().unwrap(),
        }],
        number: 3,
        until: NOW.after(DAY),
    }
}

/// East, with a peer by configuration (north), among whom some introduce others.
struct East {
    own: TrustDomain,
    north: TrustDomain,
    introducers: Vec<(TrustDomain, bool, bool, ClaimLimits)>,
    lists: BTreeMap<TrustDomain, Vec<Introduction>>,
    members: Vec<Member>,
    refused: Vec<Refused>,
    revoked: BTreeSet<TrustDomain>,
    offer: ClaimLimits,
    rules: Rules,
    now: UnixMillis,
}

impl East {
    fn new(accepting: Accepting) -> Self {
        let limits = ClaimLimits {
            namespaces: vec![NamePattern::new("shop").unwrap()],
            ..ClaimLimits::default()
        };
        Self {
            own: domain("east"),
            north: domain("north"),
            introducers: vec![(domain("north"), true, false, limits)],
            lists: BTreeMap::new(),
            members: Vec::new(),
            refused: Vec::new(),
            revoked: BTreeSet::new(),
            rules: Rules {
                accepting,
                away: Some("1d:closed".parse().unwrap()),
            },
            offer: ClaimLimits {
                namespaces: vec![NamePattern::new("public").unwrap()],
                ..ClaimLimits::default()
            },
            now: NOW,
        }
    }

    fn says(&mut self, by: &str, list: &[Introduction]) {
        self.lists.insert(domain(by), list.to_vec());
    }

    fn said(&self) -> Vec<Said<'_>> {
        let said = self.introducers.iter();
        let said = said.map(|(by, introducer, revoked, limits)| Said {
            by,
            introducer: *introducer,
            revoked: *revoked,
            limits,
            offer: &self.offer,
            list: self.lists.get(by).map(Vec::as_slice),
        });
        said.collect()
    }

    fn here(&self) -> Here<'_> {
        Here {
            trust_domain: &self.own,
            names: BTreeMap::from([("east", &self.own), ("north", &self.north)]),
            ranges: vec![
                ("10.1.0.0/16".parse().unwrap(), &self.own),
                ("10.3.0.0/16".parse().unwrap(), &self.north),
            ],
            held: Vec::new(),
            mapped: Vec::new(),
            pool: &[],
            peers: BTreeMap::from([(&self.north, vec![[5; 32], [6; 32]])]),
            revoked: self.revoked.iter().collect(),
        }
    }

    /// What changes, of which the members and who waits are kept.
    fn judge(&mut self) -> Changes {
        let changes = judge(
            &self.members,
            &self.refused,
            &self.said(),
            self.rules,
            &self.here(),
            self.now,
        );
        self.members.clone_from(&changes.members);
        changes
    }

    /// Why the one who is introduced waits.
    fn waits(&mut self) -> String {
        let changes = self.judge();
        assert_eq!((changes.joined.len(), changes.pending.len()), (0, 1));
        changes.pending[0].why.clone()
    }

    fn accept(&mut self, name: &str, wanted: Option<&str>) -> Result<(), String> {
        let (members, said) = (&self.members, self.said());
        let taken = accept(
            &domain(name),
            wanted,
            members,
            &said,
            (self.rules, &self.here(), self.now),
        );
        self.members.push(taken?);
        Ok(())
    }
}

#[test]
fn who_may_introduce_is_what_the_operator_allows() {
    for (accepting, introducer, taken) in [
        (Accepting::Listed, true, false),
        (Accepting::Introduced, false, false),
        (Accepting::Introduced, true, true),
        (Accepting::All, false, true),
    ] {
        let mut east = East::new(accepting);
        east.introducers[0].1 = introducer;
        east.says("north", &[one("west", "10.2.0.0/16")]);
        let changes = east.judge();
        assert_eq!(changes.joined.len() == 1, taken, "{accepting} {introducer}");
        assert_eq!(changes.pending.len() == 1, !taken, "and it is said");
        // The operator's own word counts always.
        let accepted = east.accept("west", None);
        assert_eq!(accepted.is_ok(), !taken, "{accepted:?}");
        assert_eq!(east.judge().members.len(), 1);
    }
    assert_eq!(Accepting::default(), Accepting::Listed);
}

#[test]
fn a_member_that_was_introduced_may_claim_what_its_introducer_may() {
    let mut east = East::new(Accepting::Introduced);
    east.says("north", &[one("west", "10.2.0.0/16")]);
    let joined = east.judge().joined.remove(0);
    assert_eq!(joined.accept, east.introducers[0].3);
    assert_eq!((&*joined.name, joined.pin), ("west", [4; 32]));
    assert_eq!(joined.introduced[0].by, domain("north"));
    assert!(!joined.introducer);
    // It may meet what its introducer may, and is closed when it stays away.
    assert_eq!(joined.offer, east.offer);
    assert_eq!(joined.away, Some("1d:closed".parse().unwrap()));
    // And no more when that is limited later.
    east.introducers[0].3.namespaces.clear();
    east.offer.namespaces.clear();
    east.rules.away = None;
    let member = east.judge().members.remove(0);
    assert!(member.accept.is_empty() && member.offer.is_empty());
    assert_eq!(member.away, None);
}

/// A root is exchanged: its gateways may show either, and whoever meets it first must take both.
#[test]
fn a_member_is_met_by_any_root_that_its_introducer_says() {
    let both = |first: u8, second: u8| {
        let mut west = one("west", "10.2.0.0/16");
        west.roots = vec![ByteArray::new([first; 32]), ByteArray::new([second; 32])];
        west
    };
    let mut east = East::new(Accepting::Introduced);
    east.says("north", &[both(1, 2)]);
    let roots = |member: &Member| (member.pin, member.roots.clone());
    let expected = ([1; 32], vec![[2; 32]]);
    assert_eq!(roots(&east.judge().joined[0]), expected);
    // The one before it is retired, and the next comes: the pin by which it is known stays.
    east.says("north", &[both(2, 3)]);
    east.members[0].roots = vec![[2; 32]];
    let here_knows_it = |east: &mut East| {
        let (members, said, mut here) = (east.members.clone(), east.said(), east.here());
        let west = domain("west");
        here.peers.insert(&west, vec![[1; 32], [2; 32]]);
        judge(&members, &[], &said, east.rules, &here, east.now)
    };
    let changes = here_knows_it(&mut east);
    let expected = ([1; 32], vec![[2; 32], [3; 32]]);
    assert_eq!(roots(&changes.members[0]), expected);
    assert_eq!(changes.pending, []);
    // None of those that are known: it is another cluster, and the one that is known goes.
    east.says("north", &[both(8, 9)]);
    let changes = here_knows_it(&mut east);
    assert_eq!((changes.members.len(), changes.gone.len()), (0, 1));
    assert!(changes.pending[0].why.contains("under another root"));
    // What a second one says changes none of its roots.
    east.says("north", &[both(1, 2)]);
    east.introducers
        .push((domain("south"), true, false, ClaimLimits::default()));
    east.says("south", &[both(2, 7)]);
    let changes = here_knows_it(&mut east);
    let expected = ([1; 32], vec![[2; 32]]);
    assert_eq!(roots(&changes.members[0]), expected);
}

#[test]
fn an_introduction_changes_nothing_that_is_known() {
    let mut east = East::new(Accepting::All);
    let mut other_root = one("north", "10.4.0.0/16");
    east.introducers
        .push((domain("south"), false, false, ClaimLimits::default()));
    east.says("south", &[other_root.clone()]);
    east.judge();
    assert_eq!(east.judge().pending, vec![], "it has the same root");
    // So it does by another root that its bundle holds.
    other_root.roots = vec![ByteArray::new([6; 32])];
    east.says("south", &[other_root.clone()]);
    assert_eq!(east.judge().pending, vec![]);
    other_root.roots = vec![ByteArray::new([9; 32])];
    east.says("south", &[other_root]);
    let why = east.waits();
    assert!(
        why.contains("under another root") && why.contains("never changes"),
        "{why}"
    );
    // Nor does it change a member that was introduced, or joined by a token.
    for by_token in [false, true] {
        let mut east = East::new(Accepting::All);
        east.says("north", &[one("west", "10.2.0.0/16")]);
        east.judge();
        if by_token {
            east.members[0].introduced.clear();
        }
        let before = east.members.clone();
        let mut renamed = one("west", "10.9.0.0/16");
        renamed.name = "wild".into();
        renamed.endpoints = vec!["198.51.100.1:1".parse().unwrap()];
        east.introducers
            .push((domain("south"), false, false, ClaimLimits::default()));
        east.says("south", &[renamed.clone()]);
        let after = east.judge().members;
        let same = |m: &Member| (m.name.clone(), m.pin, m.endpoints.clone(), m.ranges.clone());
        assert_eq!(same(&after[0]), same(&before[0]));
        renamed.roots = vec![ByteArray::new([9; 32])];
        east.says("south", &[renamed]);
        assert!(east.waits().contains("under another root"));
        assert_eq!(same(&east.members[0]), same(&before[0]));
    }
}

#[test]
fn who_clashes_with_somebody_waits_and_is_told_why() {
    let mut named_north = one("west", "10.2.0.0/16");
    named_north.name = "north".into();
    for (introduction, words) in [
        (one("east", "10.2.0.0/16"), "cannot join itself"),
        (named_north.clone(), "accept it with --name"),
        (one("west", "10.1.4.0/24"), "overlaps 10.1.0.0/16 of east"),
        (one("west", "10.0.0.0/8"), "overlaps"),
    ] {
        let mut east = East::new(Accepting::All);
        east.says("north", &[introduction]);
        let why = east.waits();
        assert!(why.contains(words), "{why}");
    }
    let mut east = East::new(Accepting::All);
    east.introducers
        .push((domain("south"), false, false, ClaimLimits::default()));
    east.says("south", &[one("south", "10.5.0.0/16")]);
    assert!(east.waits().contains("cannot introduce itself"));
    east.revoked.insert(domain("west"));
    east.says("south", &[one("west", "10.2.0.0/16")]);
    assert!(east.waits().contains("west is revoked here"));
    east.revoked.clear();
    east.says("south", &[named_north]);
    assert!(east.accept("west", None).unwrap_err().contains("--name"));
    east.accept("west", Some("far")).unwrap();
    assert_eq!(east.judge().members[0].name, "far");
    assert!(east.accept("west", None).unwrap_err().contains("already"));
    assert!(east.accept("other", None).unwrap_err().contains("nobody"));
    // Two that came with one list clash with each other.
    let mut east = East::new(Accepting::All);
    east.says("north", &[one("a", "10.2.0.0/16"), one("b", "10.2.8.0/24")]);
    let changes = east.judge();
    assert_eq!((changes.joined.len(), changes.pending.len()), (1, 1));
}

#[test]
fn a_member_goes_when_nobody_introduces_it_any_more() {
    let introduced = || {
        let mut east = East::new(Accepting::Introduced);
        east.says("north", &[one("west", "10.2.0.0/16")]);
        assert_eq!(east.judge().joined.len(), 1);
        east
    };
    let gone = |east: &mut East, words: &str| {
        let gone = east.judge().gone;
        assert!(gone.len() == 1 && gone[0].1.contains(words), "{gone:?}");
        assert_eq!(
            east.judge(),
            Changes {
                pending: east.judge().pending,
                ..Changes::default()
            }
        );
    };
    let mut east = introduced();
    east.says("north", &[]);
    gone(&mut east, "north introduces it no more");
    let mut east = introduced();
    east.introducers[0].1 = false;
    gone(&mut east, "not marked as an introducer");
    let mut east = introduced();
    east.introducers[0].2 = true;
    gone(&mut east, "is revoked");
    let mut east = introduced();
    east.now = NOW.after(DAY);
    gone(&mut east, "ended at");
    // It renews its word.
    let mut east = introduced();
    let mut renewed = one("west", "10.2.0.0/16");
    renewed.until = NOW.after(DAY * 2);
    east.says("north", &[renewed]);
    east.judge();
    east.now = NOW.after(DAY);
    assert_eq!(east.judge().gone, vec![]);
    // Another root under the name is not the one that was introduced.
    let mut east = introduced();
    let mut other = one("west", "10.2.0.0/16");
    other.roots = vec![ByteArray::new([9; 32])];
    east.says("north", &[other]);
    assert_eq!(east.judge().gone.len(), 1);
    // Whoever is a member by itself stays.
    let mut east = introduced();
    east.members[0].introduced.clear();
    east.says("north", &[]);
    assert_eq!(east.judge().gone, vec![]);
}

#[test]
fn the_word_of_a_peer_outlives_it_until_it_ends_and_never_lasts_for_ever() {
    let mut east = East::new(Accepting::Introduced);
    let mut endless = one("west", "10.2.0.0/16");
    endless.until = UnixMillis(u64::MAX);
    east.says("north", &[endless]);
    east.judge();
    east.introducers.clear();
    east.now = NOW.after(MAX_LIFE - DAY);
    assert_eq!(east.judge().gone, vec![]);
    east.now = NOW.after(MAX_LIFE);
    assert_eq!(east.judge().gone.len(), 1);
}

#[test]
fn by_two_it_stays_when_one_takes_its_word_back() {
    let mut east = East::new(Accepting::All);
    east.introducers
        .push((domain("south"), false, false, ClaimLimits::default()));
    east.says("south", &[one("west", "10.2.0.0/16")]);
    east.judge();
    assert!(east.members[0].accept.is_empty());
    east.says("north", &[one("west", "10.2.0.0/16")]);
    east.judge();
    assert_eq!(east.members[0].introduced.len(), 2);
    assert!(east.members[0].accept.is_empty(), "as the first one");
    east.says("south", &[]);
    assert_eq!(east.judge().gone, vec![]);
    assert_eq!(
        east.members[0].accept, east.introducers[0].3,
        "as who is left"
    );
    east.says("north", &[]);
    assert_eq!(east.judge().gone.len(), 1);
}

#[test]
fn whoever_was_removed_does_not_come_back_by_what_was_said_before() {
    let mut east = East::new(Accepting::All);
    east.says("north", &[one("west", "10.2.0.0/16")]);
    east.judge();
    let mut refused = Vec::new();
    refuse(&mut refused, &domain("west"), &east.said());
    east.refused = refused;
    east.members.clear();
    assert_eq!(east.waits(), "it was removed here");
    // Nor when it is renewed, or numbered lower; but when it is introduced again, or taken by hand.
    let mut renewed = one("west", "10.2.0.0/16");
    renewed.until = NOW.after(DAY * 2);
    renewed.number = 2;
    east.says("north", std::slice::from_ref(&renewed));
    assert_eq!(east.waits(), "it was removed here");
    east.accept("west", None).unwrap();
    assert_eq!(east.judge().members.len(), 1);
    east.members.clear();
    renewed.number = 4;
    east.says("north", &[renewed]);
    assert_eq!(east.judge().joined.len(), 1);
    // What is not said any more need not be remembered.
    let mut refused = east.refused.clone();
    east.says("north", &[one("other", "10.9.0.0/16")]);
    refuse(&mut refused, &domain("other"), &east.said());
    let names: Vec<_> = refused.iter().map(|no| no.trust_domain.as_str()).collect();
    assert_eq!(names, ["other"]);
}
