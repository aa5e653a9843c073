//! OpenSSL signs: the script of the documentation, and what can go wrong with a program.

#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf, process::Command};

use identity::{TrustDomain, UnixMillis};
use observe::{AuditLog, KeyKind};
use peering::key_ring::Step;
use quic::{ClusterRoot, gateway_id};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

use super::*;
use crate::{
    keys::{KeyStore, Protection, Schedules},
    state::{State, own_svid},
};

const HOUR: Duration = Duration::from_hours(1);
const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../deploy/signer/openssl-signer"
);

struct World {
    directory: tempfile::TempDir,
    state: State,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(&directory.path().join("state")).unwrap();
        fs::create_dir(directory.path().join("hsm")).unwrap();
        Self { directory, state }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn openssl(&self) -> SignerCommand {
        let hsm = self.path("hsm").display().to_string();
        SignerCommand::new(vec![SCRIPT.to_owned(), hsm])
    }

    fn open(&self, signer: Option<SignerCommand>, on_disk: bool) -> anyhow::Result<KeyStore> {
        let domain = TrustDomain::new("east").unwrap();
        let protection = Protection {
            passphrase: None,
            signer,
            on_disk,
            no_roots: false,
        };
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let schedules = Schedules::new(None, None, HOUR);
        KeyStore::open(&self.state, &domain, protection, schedules, &mut rng, now())
    }

    /// An SVID by the root that signs, judged by OpenSSL.
    fn issue(&self, store: &KeyStore) -> anyhow::Result<()> {
        let id = gateway_id(store.trust_domain(), "gw1").unwrap();
        let audit = AuditLog::new(self.state.path());
        let svid = own_svid(&store.signing_root().unwrap().load(), &id, &audit, now())?;
        svid.store(&self.path("svid.pem")).unwrap();
        let root = self.path("current.pem");
        store
            .signing_root()
            .unwrap()
            .load()
            .store(&root, None)
            .unwrap();
        let verified = Command::new("openssl")
            .args(["verify", "-purpose", "sslserver", "-CAfile"])
            .args([&root, &self.path("svid.pem")])
            .output()
            .unwrap();
        assert!(verified.status.success(), "{verified:?}");
        Ok(())
    }
}

/// OpenSSL has a clock.
fn now() -> UnixMillis {
    crate::clock::Clock::start().now().unix
}

fn shell(script: &str) -> SignerCommand {
    let command = ["sh", "-c", script, "sh"].map(str::to_owned);
    SignerCommand::with_patience(command.into(), Duration::from_secs(20))
}

fn domain() -> TrustDomain {
    TrustDomain::new("east").unwrap()
}

#[test]
fn openssl_keeps_the_key_and_signs() {
    let world = World::new();
    let store = world.open(Some(world.openssl()), false).unwrap();
    world.issue(&store).unwrap();
    assert!(!world.file("state/root.pem").contains("PRIVATE"));
    assert!(world.file("hsm/1.pem").contains("PRIVATE"));
    let pin = store.root_pin();
    // After a restart, too, and nothing is made anew.
    let store = world.open(Some(world.openssl()), false).unwrap();
    world.issue(&store).unwrap();
    assert_eq!(store.root_pin(), pin);
    let signer = store.signer().unwrap();
    assert_eq!((signer.counts(), signer.problem()), ((1, 0), None));
    let error = format!("{:#}", world.open(None, true).unwrap_err());
    assert!(
        error.contains("root.pem: its private key is with an external signer"),
        "{error}"
    );
    let audit = world.file("state/audit.log");
    assert_eq!(audit.matches("\"what\":\"svid\"").count(), 2, "{audit}");
}

#[test]
fn a_key_on_p_384_will_do_and_other_kinds_are_refused() {
    let world = World::new();
    let make = |options: &str| {
        let key = world.path("key.pem").display().to_string();
        let script = format!(
            "case $1 in new) openssl genpkey {options} -out {key} 2>&1; openssl pkey -in {key} -pubout;;
             sign) openssl dgst -sha384 -sign {key};; esac"
        );
        world.open(Some(shell(&script)), false)
    };
    let error = format!("{:#}", make("-algorithm ed25519").unwrap_err());
    assert!(
        error.contains("neither an ECDSA key on P-256 nor one on P-384"),
        "{error}"
    );
    let rsa = make("-quiet -algorithm RSA").unwrap_err();
    assert!(format!("{rsa:#}").contains("neither"), "{rsa:#}");
    let store = make("-algorithm EC -pkeyopt ec_paramgen_curve:P-384").unwrap();
    world.issue(&store).unwrap();
}

#[test]
fn whatever_else_a_program_does_gives_no_root_and_no_svid() {
    let world = World::new();
    let store = world.open(Some(world.openssl()), false).unwrap();
    let (key, hsm) = (world.path("state/root.pem"), world.path("hsm/1.pem"));
    let other = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 2>/dev/null > $0.k";
    let hsm = hsm.display();
    for (script, why) in [
        (
            "echo no card >&2; exit 3".to_owned(),
            "exit status: 3: no card",
        ),
        (
            "exit 0".to_owned(),
            "is no signature by the key of this root",
        ),
        (
            "echo rubbish".to_owned(),
            "is no signature by the key of this root",
        ),
        ("yes".to_owned(), "it prints more than 4096 bytes"),
        // Of the right key, of something else.
        (
            format!("echo x | openssl dgst -sha256 -sign {hsm}"),
            "is no signature by",
        ),
        (
            format!("openssl dgst -sha384 -sign {hsm}"),
            "is no signature by",
        ),
        // Of another key.
        (
            format!("{other}; openssl dgst -sha256 -sign $0.k"),
            "is no signature by",
        ),
    ] {
        let script = script.replace("$0", &world.path("other").display().to_string());
        let signer = shell(&script);
        let root = ClusterRoot::load(&key, &domain(), None, Some(signer.of(1)));
        let id = gateway_id(&domain(), "gw1").unwrap();
        let refused = root.unwrap().unwrap().issue(&id, now(), HOUR);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(why), "{script}: {refused}");
        assert_eq!(signer.counts(), (1, 1));
        let problem = signer.problem().unwrap();
        assert!(
            problem.contains("sign 1: ") && problem.contains(why),
            "{problem}"
        );
    }
    // One that hangs.
    let command = ["sh", "-c", "sleep 60 & wait", "sh"].map(str::to_owned);
    let hangs = SignerCommand::with_patience(command.into(), Duration::from_millis(100));
    let error = format!("{:#}", hangs.new_key(2).unwrap_err());
    assert_eq!(
        error,
        "keys.signerCommand: new 2: it has not ended after 0 s"
    );
    // One that comes to itself again.
    assert!(world.openssl().new_key(2).is_ok());
    let path = world.path("answers").display().to_string();
    let moody = shell(&format!("test -e {path} && openssl pkey -in {hsm} -pubout"));
    assert!(moody.new_key(1).is_err());
    assert!(
        moody
            .problem()
            .unwrap()
            .contains("new 1: it ended with exit status: 1")
    );
    fs::write(&path, "").unwrap();
    assert!(moody.new_key(1).is_ok());
    assert_eq!((moody.counts(), moody.problem()), ((2, 1), None));
    // A new state directory gets nothing of a signer that shows one key and signs by another.
    let fresh = World::new();
    let script = format!(
        "case $1 in new) openssl pkey -in {hsm} -pubout;; *) {other}; openssl dgst -sha256 -sign $0.k;; esac"
    );
    let script = script.replace("$0", &fresh.path("other").display().to_string());
    assert!(fresh.open(Some(shell(&script)), false).is_err());
    assert!(!fresh.path("state/root.pem").exists());
    assert!(!fresh.path("state/keys.state").exists());
    world.issue(&store).unwrap();
}

#[test]
fn roots_move_to_the_signer_and_back_by_rotation() {
    let world = World::new();
    let rotate = |store: &mut KeyStore| {
        let number = store.next_number(KeyKind::Root);
        let made = store.root_maker().make(now()).unwrap();
        store.publish_root(made, (HOUR, HOUR), now()).unwrap();
        world.issue(store).unwrap();
        store.take(KeyKind::Root, Step::Use(number), now()).unwrap();
        world.issue(store).unwrap();
        let before = number - 1;
        store
            .take(KeyKind::Root, Step::Retire(before), now())
            .unwrap();
    };
    drop(world.open(None, true).unwrap());
    assert!(world.file("state/root.pem").contains("PRIVATE"));
    // The first one goes on signing from where it is.
    let mut store = world.open(Some(world.openssl()), false).unwrap();
    assert!(store.is_held(1));
    world.issue(&store).unwrap();
    rotate(&mut store);
    assert!(!store.is_held(2) && store.retiring().is_none());
    assert!(!world.path("state/root.pem").exists());
    assert!(!world.file("state/root.2.pem").contains("PRIVATE"));
    assert!(world.path("hsm/2.pem").exists() && !world.path("hsm/1.pem").exists());
    rotate(&mut store);
    // The signer retires; until it has, the certificate says that it has to.
    assert!(world.path("state/root.2.pem").exists());
    let mut store = world.open(Some(world.openssl()), true).unwrap();
    let (number, retire) = store.retiring().unwrap();
    assert_eq!(number, 2);
    retire().unwrap();
    store.retired(number);
    assert!(store.retiring().is_none());
    assert!(!world.path("state/root.2.pem").exists());
    assert!(world.path("hsm/2.pem.retired").exists());
    // Back to the disk, with the old one at the signer until it goes.
    rotate(&mut store);
    assert!(store.is_held(4));
    assert!(world.file("state/root.4.pem").contains("PRIVATE"));
    let (_, retire) = store.retiring().unwrap();
    retire().unwrap();
    let store = world.open(None, true).unwrap();
    world.issue(&store).unwrap();
}

#[test]
fn a_directory_from_before_keys_were_exchanged_keeps_its_root() {
    let world = World::new();
    let pin = world.open(None, true).unwrap().root_pin();
    fs::remove_file(world.path("state/keys.state")).unwrap();
    let store = world.open(Some(world.openssl()), false).unwrap();
    assert_eq!(store.root_pin(), pin);
}

#[test]
fn a_root_that_was_made_and_not_announced_is_made_again_where_it_is_to_be() {
    let world = World::new();
    let store = world.open(Some(world.openssl()), false).unwrap();
    let pin = |store: &KeyStore| {
        let mut made = world
            .open(store.signer().cloned(), store.signer().is_none())
            .unwrap();
        let root = made.root_maker().make(now()).unwrap();
        made.publish_root(root, (HOUR, HOUR), now()).unwrap();
        let (_, pin) = made.list(KeyKind::Root).last().unwrap();
        pin
    };
    drop(store.root_maker().make(now()).unwrap());
    let made = world.file("state/root.2.pem");
    // On disk from now on: the one at the signer is not taken for it.
    let store = world.open(Some(world.openssl()), true).unwrap();
    drop(store.root_maker().make(now()).unwrap());
    assert!(world.file("state/root.2.pem").contains("PRIVATE"));
    quic::write_secret(&world.path("state/root.2.pem"), made.as_bytes()).unwrap();
    let store = world.open(Some(world.openssl()), false).unwrap();
    let announced = pin(&store);
    assert_eq!(world.file("state/root.2.pem"), made);
    assert!(announced.starts_with("sha256:"));
}
