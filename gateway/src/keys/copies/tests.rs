#![allow(clippy::unwrap_used)]

use std::time::Duration;

use quic::Passphrase;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use zeroize::Zeroizing;

use super::*;
use crate::keys::{KeyStore, Schedules};

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const HOUR: Duration = Duration::from_hours(1);

/// The state directory of a gateway.
struct Gateway {
    _directory: tempfile::TempDir,
    state: State,
    seed: u64,
    protection: Protection,
}

impl Gateway {
    fn new(seed: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(&directory.path().join("state")).unwrap();
        Self {
            _directory: directory,
            state,
            seed,
            protection: Protection::default(),
        }
    }

    fn open(&self) -> KeyStore {
        let domain = TrustDomain::new("east").unwrap();
        let schedules = Schedules::new(None, None, HOUR);
        let (protection, mut rng) = (self.protection.clone(), rng(self.seed));
        KeyStore::open(&self.state, &domain, protection, schedules, &mut rng, NOW).unwrap()
    }

    fn copies(&self) -> Copies {
        let domain = TrustDomain::new("east").unwrap();
        Copies::new(&self.state, &domain, self.protection.clone())
    }

    fn copy(&self) -> Copy {
        self.copies().make().unwrap().unwrap().0
    }

    fn judge(&self, copy: &Copy) -> Result<Standing, String> {
        self.copies().judge(copy).map_err(|e| format!("{e:#}"))
    }
}

fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

fn passphrase(text: &str) -> Option<Passphrase> {
    Passphrase::new(Zeroizing::new(text.into()))
}

/// Another issuer key waits.
fn publish(store: &mut KeyStore, seed: u64) {
    let times = (HOUR, HOUR);
    store
        .publish_issuer_key(times, &mut rng(seed), NOW)
        .unwrap();
}

#[test]
fn a_directory_without_keys_takes_a_copy_and_is_the_same_cluster_and_asks_its_peers_first() {
    let (first, second) = (Gateway::new(1), Gateway::new(2));
    assert_eq!(first.copies().make().unwrap(), None, "there are none");
    let mut store = first.open();
    publish(&mut store, 3);
    let (copy, steps) = first.copies().make().unwrap().unwrap();
    assert_eq!(steps, store.steps());
    assert_eq!(second.judge(&copy), Ok(Standing::Alone));
    assert_eq!(
        second.copies().make().unwrap(),
        None,
        "it was only looked at"
    );
    second.copies().take(&copy, NOW).unwrap();
    assert_eq!(second.copy(), copy);
    assert_eq!(second.open().own_keys(), store.own_keys());
    let own = fs::read(second.state.path().join("own.sealed")).unwrap();
    assert_eq!(mark_restored(None, NOW).unwrap(), Some(own), "marked");
    let mut names: Vec<_> = fs::read_dir(second.state.path()).unwrap().collect();
    names.retain(|entry| entry.as_ref().unwrap().file_name() == UNPACKED);
    assert_eq!(names.len(), 0, "what was looked at is gone");
}

#[test]
fn each_step_of_a_key_makes_a_copy_newer() {
    let (here, elsewhere) = (Gateway::new(1), Gateway::new(1));
    let mut store = here.open();
    elsewhere.copies().take(&here.copy(), NOW).unwrap();
    let mut before = here.copy();
    let mut step = |store: &mut KeyStore, what: &str| {
        let copy = here.copy();
        assert_eq!(here.judge(&copy), Ok(Standing::Same), "{what}");
        assert_eq!(here.judge(&before), Ok(Standing::Behind), "{what}");
        assert_eq!(elsewhere.judge(&copy), Ok(Standing::Ahead), "{what}");
        elsewhere.copies().take(&copy, NOW).unwrap();
        assert_eq!(elsewhere.open().own_keys(), store.own_keys(), "{what}");
        before = copy;
    };
    publish(&mut store, 3);
    step(&mut store, "published");
    for (what, after) in [("used", HOUR), ("retired", 3 * HOUR)] {
        let now = NOW.after(after);
        let due = store.due(KeyKind::IssuerKey, now).unwrap();
        store.take(KeyKind::IssuerKey, due, now).unwrap();
        step(&mut store, what);
    }
    let made = store.root_maker().make(NOW).unwrap();
    store.publish_root(made, (HOUR, HOUR), NOW).unwrap();
    step(&mut store, "a root");
}

#[test]
fn keys_of_somebody_else_are_refused_and_a_passphrase_makes_no_other_keys() {
    let (mut ours, theirs) = (Gateway::new(1), Gateway::new(2));
    let (_, _) = (ours.open(), theirs.open());
    let said = ours.judge(&theirs.copy()).unwrap_err();
    assert!(said.contains("1 in it is another than that in"), "{said}");

    let plain = ours.copy();
    ours.protection.passphrase = passphrase("one of them");
    let _ = ours.open();
    assert_ne!(ours.copy(), plain);
    assert_eq!(ours.judge(&plain), Ok(Standing::Same));
    let protected = ours.copy();
    ours.protection.passphrase = passphrase("another one");
    assert!(ours.judge(&protected).is_err());
}

#[test]
fn what_is_no_copy_is_none() {
    let gateway = Gateway::new(1);
    let _ = gateway.open();
    let files = gateway.copy().0;
    let with = |name: &str, bytes: &[u8]| {
        let mut files = files.clone();
        files.insert(name.into(), Zeroizing::new(bytes.to_vec()));
        Copy::new(files).map_err(|e| e.to_string())
    };
    for name in [
        "../root.pem",
        "issuer..key",
        "own.sealed",
        "root.-1.pem",
        "",
    ] {
        let said = with(name, b"x").unwrap_err();
        assert!(said.contains("is no file of a key"), "{said}");
    }
    let said = with("root.pem", &[0; (64 << 10) + 1]).unwrap_err();
    assert!(said.contains("root.pem is too large"), "{said}");
    let without = files
        .clone()
        .into_iter()
        .filter(|(name, _)| *name != RINGS_FILE);
    let said = Copy::new(without.collect()).unwrap_err().to_string();
    assert!(said.contains("keys.state is missing"), "{said}");
    let many = (0..17).map(|n| (format!("issuer.{n}.key"), Zeroizing::default()));
    assert!(Copy::new(many.collect()).is_err());

    let damaged = with(RINGS_FILE, b"x").unwrap();
    assert!(gateway.judge(&damaged).unwrap_err().contains("is damaged"));
    let damaged = with("issuer.key", b"short").unwrap();
    assert!(gateway.judge(&damaged).is_err());
    assert_eq!(gateway.judge(&gateway.copy()), Ok(Standing::Same));
}
