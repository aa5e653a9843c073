//! Backup and restore with real gateways: one that comes back on an old backup is found out by its peer,
//! says nothing and lets nothing through until it is confirmed, and has undone no revocation.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::{
    namespaces::root_or_skip,
    world::{Gateway, PODS, World, peer},
};

const LOST: &str = "spiffe://east.example/ns/shop/sa/web";

/// Runs `landbridge` on the state of east.
fn landbridge(world: &World, arguments: &[&str]) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_landbridge-gateway")).with_file_name("landbridge");
    let output = Command::new(&program)
        .args(arguments)
        .arg("--gateway")
        .arg(world.path("east"))
        .output();
    output.unwrap_or_else(|e| panic!("{}: {e}: cargo build --bins", program.display()))
}

pub fn succeeds(world: &World, arguments: &[&str]) -> String {
    let output = landbridge(world, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn fails(world: &World, arguments: &[&str], words: &str) {
    let output = landbridge(world, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{arguments:?}");
    assert!(error.contains(words), "{error}");
}

/// Another policy, and so another digest.
fn policy(world: &World, port: u16) {
    let text = format!(
        "{PODS}---\napiVersion: landbridge.io/v1alpha1\nkind: FederationPolicy\n\
         metadata: {{name: from-anywhere, namespace: shop}}\nspec:\n  ingress:\n  \
         - action: Allow\n    from: [{{clusters: [east, west], namespaces: [shop]}}]\n    \
         ports: [{{port: {port}}}]\n"
    );
    world.write("east/pods.yaml", &text);
}

/// The digest of east that west believes.
fn digest(west: &Gateway<'_>) -> u64 {
    west.status()["peers"][0]["digest_sequence"]
        .as_u64()
        .unwrap_or(0)
}

fn problems(status: &Value, words: &str) -> bool {
    let all = [&status["problems"], &status["peers"][0]["problems"]];
    all.iter().any(|list| list.to_string().contains(words))
}

fn revocations(gateway: &Gateway<'_>) -> String {
    let asked = gateway.ask(&json!({"op": "trust", "do": "revocations"}));
    asked.unwrap_or(Value::Null).to_string()
}

#[test]
fn an_old_backup_is_refused_until_it_is_confirmed_and_undoes_no_revocation() {
    if !root_or_skip() {
        return;
    }
    let world = World::new("restored");
    let pin = world.init("east");
    let east = peer("east", 1, &pin).replace("rootPin:", "away: {limit: 2s}, rootPin:");
    world.configure("west", &east);
    let (east, west) = (world.start("east"), world.start("west"));
    east.until_connected();
    west.until_connected();

    let backup = world.path("backup");
    let file = backup.to_str().unwrap();
    let said = succeeds(&world, &["backup", file]);
    assert!(said.contains("SHA-256"), "{said}");
    assert_eq!(fs::metadata(&backup).unwrap().mode() & 0o777, 0o600);
    fails(&world, &["backup", file], "File exists");
    fails(&world, &["restore", file, "--replace"], "a gateway runs on");
    fails(
        &world,
        &["restore", "--confirm"],
        "there is nothing to confirm",
    );

    let before = digest(&west);
    for port in [81, 82, 83] {
        let last = digest(&west);
        policy(&world, port);
        west.until("the next digest", |status| {
            status["peers"][0]["digest_sequence"].as_u64() > Some(last)
        });
    }
    succeeds(
        &world,
        &["revoke", "identity", LOST, "--reason", "the key leaked"],
    );
    world.until("west hears of it", || revocations(&west).contains(LOST));
    let seen = digest(&west);
    assert!(seen > before + 2);

    east.kill();
    west.until("away for too long", |status| {
        problems(status, "nothing of it is admitted until it is heard again")
    });
    fails(&world, &["restore", file], "holds a state already");
    let cut = world.path("cut");
    let whole = fs::read(&backup).unwrap();
    fs::write(&cut, &whole[..whole.len() - 1]).unwrap();
    fails(
        &world,
        &["restore", cut.to_str().unwrap(), "--replace"],
        "it was cut or changed",
    );
    succeeds(&world, &["restore", file, "--replace"]);

    let east = world.start("east");
    let status = east.until("refused", |status| {
        problems(status, "from an old backup, which knows")
    });
    assert_eq!(status["ready"], false);
    assert!(
        problems(&status, "west.example has seen bundle"),
        "{status:#}"
    );
    assert!(
        problems(&status, &format!("digest {seen}, revocations 1")),
        "{status:#}"
    );
    world.until("the revocation is back", || {
        revocations(&east).contains(LOST)
    });
    assert_eq!(digest(&west), seen, "nothing newer was said");
    let refused = east.ask(&json!({"op": "trust", "do": "invite"}));
    assert!(
        refused
            .unwrap()
            .to_string()
            .contains("restored from a backup")
    );

    let said = succeeds(&world, &["restore", "--confirm"]);
    assert!(said.contains("goes on with bundle 1048"), "{said}");
    let status = east.until_connected();
    assert_eq!(status["problems"], json!([]));
    let status = west.until("a newer digest", |status| {
        status["peers"][0]["digest_sequence"].as_u64() > Some(1 << 20)
    });
    assert_eq!(status["peers"][0]["problems"], json!([]));
    for gateway in [&east, &west] {
        assert!(revocations(gateway).contains(LOST));
    }
    // All of it stands in the log, which is whole although three programs wrote it.
    let log = world.path("east").join("audit.log");
    let program = Path::new(env!("CARGO_BIN_EXE_landbridge-gateway")).with_file_name("landbridge");
    let audit = Command::new(program)
        .arg("audit")
        .arg(&log)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&audit.stdout).into_owned();
    assert!(said.contains("one unbroken chain"), "{said}");
    let text = fs::read_to_string(log).unwrap();
    for done in [
        r#""do":"backup""#,
        r#""do":"restore""#,
        r#""do":"confirm-restore""#,
    ] {
        assert!(text.contains(done), "{done}");
    }
}

/// All of it: keys under a passphrase, a backup, a machine that is lost, and a gateway on what was put
/// back, which is the same to its peer and starts with that passphrase alone.
#[test]
fn a_backup_of_keys_under_a_passphrase_is_put_back_and_starts_with_it_alone() {
    if !root_or_skip() {
        return;
    }
    let world = World::new("secret");
    let file = world.path("east.yaml");
    let plain = fs::read_to_string(&file).unwrap();
    let secret = world.path("passphrase");
    let tell = |passphrase: &str| {
        fs::write(&secret, passphrase).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let keys = format!("{plain}keys: {{passphraseFile: {}}}\n", secret.display());
        fs::write(&file, keys).unwrap();
    };
    tell("correct horse");
    let (east, west) = (world.start("east"), world.start("west"));
    east.until_connected();
    west.until_connected();
    let backup = world.path("backup");
    let backup = backup.to_str().unwrap();
    succeeds(&world, &["backup", backup]);
    let bytes = fs::read(backup).unwrap();
    let holds = |words: &[u8]| bytes.windows(words.len()).any(|part| part == words);
    assert!(holds(b"BEGIN ENCRYPTED PRIVATE KEY"));
    assert!(!holds(b"BEGIN PRIVATE KEY") && !holds(b"correct horse"));

    // The machine is lost, and its disk.
    east.kill();
    let state = world.path("east");
    let _ = nix::mount::umount2(&state.join("bpf"), nix::mount::MntFlags::MNT_DETACH);
    fs::remove_dir_all(&state).unwrap();
    succeeds(&world, &["restore", backup]);
    let refuses = |words: &str| {
        let mut east = world.start("east");
        world.until("it ends", || {
            let log = fs::read_to_string(world.path("east.log")).unwrap();
            log.contains(words)
        });
        assert!(!east.child.wait().unwrap().success());
    };
    tell("another");
    refuses("the passphrase is another");
    fs::write(&file, &plain).unwrap();
    refuses("no passphrase is configured");
    tell("correct horse");
    // Its peer has seen nothing that the backup does not know: it goes on by itself, as who it was.
    let east = world.start("east");
    let status = east.until_connected();
    assert!(!problems(&status, "restored"), "{status:#}");
    west.until("heard anew", |status| {
        digest(&west) > 1 << 20 && status["ready"] == true
    });
}
