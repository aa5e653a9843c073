#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;

use quic::{Passphrase, write_secret};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

use super::*;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const HOUR: Duration = Duration::from_hours(1);

struct World {
    _directory: tempfile::TempDir,
    state: State,
    rng: ChaCha20Rng,
    protection: Protection,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(&directory.path().join("state")).unwrap();
        Self {
            _directory: directory,
            state,
            rng: ChaCha20Rng::seed_from_u64(1),
            protection: Protection::default(),
        }
    }

    fn open(&mut self, domain: &str) -> anyhow::Result<KeyStore> {
        let domain = TrustDomain::new(domain).unwrap();
        let schedules = Schedules::new(Some(HOUR * 24 * 365), None, HOUR);
        let protection = self.protection.clone();
        KeyStore::open(
            &self.state,
            &domain,
            protection,
            schedules,
            &mut self.rng,
            NOW,
        )
    }

    fn error(&mut self) -> String {
        format!("{:#}", self.open("east").unwrap_err())
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.state.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

fn both_kinds(store: &mut KeyStore, rng: &mut ChaCha20Rng) {
    store.publish_issuer_key((HOUR, HOUR), rng, NOW).unwrap();
    let made = store.root_maker().make(NOW).unwrap();
    store.publish_root(made, (HOUR, HOUR), NOW).unwrap();
    for kind in KeyKind::ALL {
        assert_eq!(store.next_number(kind), 3);
    }
}

#[test]
fn keys_are_made_once_and_private() {
    let mut world = World::new();
    let first = world.open("east").unwrap();
    let second = world.open("east").unwrap();
    assert_eq!(first.own_keys(), second.own_keys());
    assert_eq!(first.root_pin(), second.root_pin());
    for entry in fs::read_dir(world.state.path()).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert!(world.open("west").is_err(), "another cluster's directory");
}

#[test]
fn a_key_is_published_used_and_retired_on_disk_too() {
    let mut world = World::new();
    let mut store = world.open("east").unwrap();
    let (root, key) = (store.root_pin(), store.issuer_key().public());
    both_kinds(&mut store, &mut world.rng);
    let published = store.own_keys();
    assert_eq!(
        (published.x509_roots.len(), published.issuer_keys.len()),
        (2, 2)
    );
    assert_eq!(store.root_pin(), root, "the first one signs");
    assert_eq!(world.open("east").unwrap().own_keys(), published);
    for kind in KeyKind::ALL {
        store.take(kind, Step::Use(2), NOW.after(HOUR)).unwrap();
    }
    assert_eq!(store.own_keys(), published, "both are believed");
    assert_ne!(store.root_pin(), root);
    assert_ne!(store.issuer_key().public(), key);
    let again = world.open("east").unwrap();
    assert_eq!(again.root_pin(), store.root_pin());
    assert_eq!(again.issuer_key().public(), store.issuer_key().public());
    for kind in KeyKind::ALL {
        assert_eq!(store.due(kind, NOW.after(HOUR * 2)), Some(Step::Retire(1)));
        store
            .take(kind, Step::Retire(1), NOW.after(HOUR * 2))
            .unwrap();
    }
    assert_eq!(store.own_keys().x509_roots.len(), 1);
    let files = ["issuer.2.key", "keys.state", "root.2.pem", "version.state"];
    assert_eq!(world.files(), files);
    assert_eq!(world.open("east").unwrap().own_keys(), store.own_keys());
}

#[test]
fn a_process_that_ends_between_two_files_loses_and_forgets_nothing() {
    let mut world = World::new();
    let mut store = world.open("east").unwrap();
    let rings = fs::read(world.state.path().join("keys.state")).unwrap();
    both_kinds(&mut store, &mut world.rng);
    let made = store.own_keys();
    // The key was stored, and the ring was not.
    write_secret(&world.state.path().join("keys.state"), &rings).unwrap();
    let mut store = world.open("east").unwrap();
    assert_eq!(
        store.own_keys().x509_roots.len(),
        1,
        "nobody has heard of it"
    );
    both_kinds(&mut store, &mut world.rng);
    assert_eq!(store.own_keys(), made, "the same key, announced now");
    // The ring forgot the old one, and its file is still there.
    let old = fs::read(world.state.path().join("issuer.key")).unwrap();
    for step in [Step::Use(2), Step::Retire(1)] {
        store
            .take(KeyKind::IssuerKey, step, NOW.after(HOUR))
            .unwrap();
    }
    let path = world.state.path().join("issuer.key");
    assert!(!path.exists());
    write_secret(&path, &old).unwrap();
    world.open("east").unwrap();
    assert!(!path.exists());
}

#[test]
fn what_is_missing_or_damaged_is_said_and_not_replaced() {
    let mut world = World::new();
    let mut store = world.open("east").unwrap();
    both_kinds(&mut store, &mut world.rng);
    let path = |name: &str| world.state.path().join(name);
    let (rings, seed) = (path("keys.state"), path("issuer.2.key"));
    let stored = fs::read(&rings).unwrap();
    fs::remove_file(&rings).unwrap();
    assert!(
        world.error().contains("keys.state, which says"),
        "{}",
        world.error()
    );
    write_secret(&rings, &stored).unwrap();
    fs::remove_file(&seed).unwrap();
    assert!(world.error().contains("is missing"), "{}", world.error());
    write_secret(&seed, b"short").unwrap();
    assert!(world.error().contains("32 bytes"), "{}", world.error());
    let mut damaged = stored;
    *damaged.last_mut().unwrap() ^= 1;
    write_secret(&rings, &damaged).unwrap();
    assert!(world.error().contains("is damaged"), "{}", world.error());
}

#[test]
fn a_directory_from_before_keys_were_exchanged_goes_on() {
    let mut world = World::new();
    let store = world.open("east").unwrap();
    fs::remove_file(world.state.path().join("keys.state")).unwrap();
    assert_eq!(world.open("east").unwrap().own_keys(), store.own_keys());
}

#[test]
fn a_full_disk_changes_nothing() {
    let mut world = World::new();
    let mut store = world.open("east").unwrap();
    let before = store.own_keys();
    // Root may write everywhere: a folder in the place of the file cannot be replaced by one.
    let rings = world.state.path().join("keys.state");
    fs::remove_file(&rings).unwrap();
    fs::create_dir(&rings).unwrap();
    let times = (HOUR, HOUR);
    assert!(
        store
            .publish_issuer_key(times, &mut world.rng, NOW)
            .is_err()
    );
    let made = store.root_maker().make(NOW).unwrap();
    assert!(store.publish_root(made, times, NOW).is_err());
    assert_eq!(store.own_keys(), before);
    assert_eq!(store.ring(KeyKind::Root).next(), None);
}

#[test]
fn a_passphrase_protects_every_key_also_those_that_are_there() {
    let mut world = World::new();
    let before = world.open("east").unwrap().own_keys();
    let passphrase = |text: &str| Passphrase::new(text.as_bytes().to_vec().into());
    world.protection.passphrase = passphrase("one");
    let mut store = world.open("east").unwrap();
    assert_eq!(store.own_keys(), before);
    both_kinds(&mut store, &mut world.rng);
    for name in ["root.pem", "root.2.pem", "issuer.key", "issuer.2.key"] {
        let text = fs::read_to_string(world.state.path().join(name)).unwrap();
        assert!(
            text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----"),
            "{name}"
        );
        assert!(!text.contains("-----BEGIN PRIVATE KEY-----"), "{name}");
    }
    assert_eq!(world.open("east").unwrap().own_keys(), store.own_keys());
    world.protection.passphrase = passphrase("two");
    assert!(
        world.error().contains("the passphrase is another"),
        "{}",
        world.error()
    );
    world.protection.passphrase = None;
    assert!(
        world.error().contains("no passphrase is configured"),
        "{}",
        world.error()
    );
}
