//! The private key of the X.509 root with an external signer, by OpenSSL: nodes enrol and renew, roots are
//! exchanged, and what the signer does not do ends no session.

use std::{
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use identity::TrustDomain;
use quic::{Anchor, Credentials, EnrolError, Limits, Pin, Svid, SvidRequest, Trust, enrol};
use serde_json::{Value, json};

use crate::{
    namespaces::root_or_skip,
    world::{Gateway, SECRET, World, http},
};

/// The signer of the documentation, which does what the file `mode` says.
const SIGNER: &str = r#"#!/bin/sh
case $(cat "$1/mode") in
hang) exec sleep 60 ;;
fail) echo "the card is out" >&2; exit 1 ;;
other) openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 2>/dev/null >"$1/other.pem"
    exec openssl dgst -sha256 -sign "$1/other.pem" ;;
esac
exec SCRIPT "$@"
"#;

fn hsm(world: &World) {
    fs::create_dir(world.path("hsm")).unwrap();
    mode(world, "well");
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../deploy/signer/openssl-signer"
    );
    let signer = world.path("signer");
    fs::write(&signer, SIGNER.replace("SCRIPT", script)).unwrap();
    fs::set_permissions(&signer, Permissions::from_mode(0o755)).unwrap();
    let (signer, hsm) = (signer.display(), world.path("hsm"));
    let keys = format!("keys: {{signerCommand: [{signer}, {}]}}\n", hsm.display());
    let config = world.path("east.yaml");
    let text = fs::read_to_string(&config).unwrap() + &keys;
    fs::write(config, text).unwrap();
}

fn mode(world: &World, mode: &str) {
    fs::write(world.path("hsm").join("mode"), mode).unwrap();
}

/// A node asks for an X.509-SVID.
pub fn ask(world: &World, pin: Pin, credentials: Credentials) -> Result<Svid, EnrolError> {
    let domain = TrustDomain::new("east.example").unwrap();
    let gateway: SocketAddr = "172.16.1.1:4434".parse().unwrap();
    let trust = Trust::new(domain.clone());
    trust.set(domain.clone(), Anchor::Pinned(pin));
    let path = world.path("node1.key");
    let request = match &credentials {
        Credentials::Secret { .. } | Credentials::Token(_) => {
            SvidRequest::load_or_generate(&path).unwrap()
        }
        Credentials::Svid(_) => SvidRequest::generate().unwrap(),
    };
    world.namespaces.within("east-node", || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let limits = Limits::default();
        let asking = enrol(gateway, &domain, &trust, credentials, request, &limits);
        runtime.block_on(asking)
    })
}

fn secret() -> Credentials {
    Credentials::Secret {
        node: "node1".into(),
        secret: SECRET.to_vec().into(),
    }
}

fn rotate(gateway: &Gateway<'_>) -> Value {
    let request = json!({
        "op": "trust", "do": "rotate", "key": "root", "use_after": 1, "retire_after": 1, "anyway": true,
    });
    gateway.ask(&request).unwrap()
}

fn roots(gateway: &Gateway<'_>) -> Vec<Value> {
    let keys = gateway.ask(&json!({"op": "trust", "do": "keys"})).unwrap();
    let keys = keys.as_array().unwrap().clone();
    keys.into_iter()
        .filter(|key| key["key"] == "root")
        .collect()
}

/// Waits until the root `number` is the only one; its pin.
fn until_alone(world: &World, gateway: &Gateway<'_>, number: u32) -> Pin {
    world.until("the root before it is retired", || {
        let roots = roots(gateway);
        roots.len() == 1 && roots[0]["number"] == number
    });
    roots(gateway)[0]["name"].as_str().unwrap().parse().unwrap()
}

fn signer_of(svid: &Svid) -> Pin {
    Pin::of(svid.chain().last().unwrap())
}

#[test]
fn a_signer_signs_for_nodes_and_at_rotation_and_its_failures_end_no_session() {
    if !root_or_skip() {
        return;
    }
    let world = World::new("hsm");
    hsm(&world);
    let (east, west) = (world.start("east"), world.start("west"));
    let since = east.until_connected()["peers"][0]["since"].clone();
    west.until_connected();

    // The root that is on disk signs until the next one, which is with the signer, takes its place.
    let begun = rotate(&east);
    assert_eq!(begun[1]["with_signer"], true, "{begun:#}");
    let pin = until_alone(&world, &east, 2);
    assert!(!world.path("east/root.pem").exists());
    let stored = fs::read_to_string(world.path("east/root.2.pem")).unwrap();
    assert!(!stored.contains("PRIVATE"), "{stored}");
    let svid = ask(&world, pin, secret()).unwrap();
    assert_eq!(signer_of(&svid), pin);
    let renewed = ask(&world, pin, Credentials::Svid(svid.clone())).unwrap();
    assert_eq!((renewed.id(), signer_of(&renewed)), (svid.id(), pin));

    // A signer that hangs holds up nobody but who waits for it.
    mode(&world, "hang");
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&world, pin, Credentials::Svid(svid.clone())));
        let rotating = scope.spawn(|| rotate(&east));
        let mut slowest = Duration::ZERO;
        while !asking.is_finished() || !rotating.is_finished() {
            let begin = Instant::now();
            assert_eq!(east.status()["peers"][0]["connected"], true);
            assert_eq!(roots(&east).len(), 1);
            slowest = slowest.max(begin.elapsed());
        }
        assert!(slowest < Duration::from_secs(5), "{slowest:?}");
        let refused = asking.join().unwrap().unwrap_err().to_string();
        let late = "the external signer does not sign: it has not ended after 10 s";
        assert!(refused.contains(late), "{refused}");
        let answer = rotating.join().unwrap();
        let why = answer["error"].as_str().unwrap();
        assert!(why.contains("new 3: it has not ended after 10 s"), "{why}");
    });
    for (how, why) in [
        (
            "fail",
            "sign 2: it ended with exit status: 1: the card is out",
        ),
        (
            "other",
            "sign 2: what it printed is no signature by the key of this root",
        ),
    ] {
        mode(&world, how);
        let refused = ask(&world, pin, Credentials::Svid(svid.clone())).unwrap_err();
        let (_, tail) = why.split_once(": ").unwrap();
        assert!(refused.to_string().contains(tail), "{refused}");
        east.until("it says so", |status| {
            let problems = status["problems"].as_array().unwrap();
            let mut problems = problems.iter().filter_map(Value::as_str);
            problems.any(|problem| problem == format!("keys.signerCommand: {why}"))
        });
    }
    let failed = "landbridge_signer_failed_total 4";
    assert!(http(&world, "east", "/metrics").contains(failed));

    // It comes to itself: nothing was lost.
    mode(&world, "well");
    let svid = ask(&world, pin, Credentials::Svid(svid)).unwrap();
    assert_eq!(signer_of(&svid), pin);
    east.until("nothing is wrong", |status| status["problems"] == json!([]));
    assert_eq!(rotate(&east)[1]["number"], 3);
    let next = until_alone(&world, &east, 3);
    world.until("the signer retired the key", || {
        world.path("hsm/2.pem.retired").exists() && !world.path("east/root.2.pem").exists()
    });
    // The key that was begun when it hung is this one.
    assert_eq!(signer_of(&ask(&world, next, secret()).unwrap()), next);
    for gateway in [&east, &west] {
        let status = gateway.until_connected();
        assert_eq!(status["problems"], json!([]));
    }
    assert_eq!(
        east.status()["peers"][0]["since"],
        since,
        "one session all the time"
    );

    // What did not happen is in the audit log as that, and all of it is one chain.
    let log = fs::read(world.path("east/audit.log")).unwrap();
    let (_, problems) = observe::verify_audit(log.trim_ascii_end().split(|b| *b == b'\n'));
    assert_eq!(problems, []);
    let log = String::from_utf8(log).unwrap();
    let refused = log.lines().filter(|line| line.contains("\"refused\""));
    assert_eq!(refused.count(), 1, "{log}");
    assert!(log.matches("\"what\":\"svid\"").count() >= 3, "{log}");
    east.terminate();
    // It does not start without who signs for it, and says whom it asked.
    mode(&world, "fail");
    let mut mute = world.start("east");
    assert!(!mute.child.wait().unwrap().success());
    let log = fs::read_to_string(world.path("east.log")).unwrap();
    assert!(log.contains("the external signer does not sign"), "{log}");
}
