//! The keys in a Secret of a real Kubernetes API server: a gateway whose state directory is gone is the same
//! cluster again, and no key is used that is nowhere else.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    kubernetes::{self, ApiServer},
    namespaces::root_or_skip,
    restored::succeeds,
    world::{Gateway, World},
};

/// How long an API server takes to come back, and a gateway to find that out.
const BACK: Duration = Duration::from_secs(60);

/// Has the gateway of `cluster` keep its keys in the Secret of that name.
fn kept_in(world: &World, cluster: &str, name: &str, api: &ApiServer) {
    let config = world.path(&format!("{cluster}.yaml"));
    let kubeconfig = api.kubeconfig("gateway");
    let keys = format!(
        "keys: {{secret: {{name: {name}, namespace: landbridge, kubeconfig: {}}}}}\n",
        kubeconfig.display()
    );
    let text = fs::read_to_string(&config).unwrap();
    let without = text.split("keys: ").next().unwrap();
    fs::write(config, format!("{without}{keys}")).unwrap();
}

fn secret(api: &ApiServer) -> Value {
    let said = api.kubectl(&["get", "secret", "keys", "-n", "landbridge", "-o", "json"]);
    serde_json::from_str(&said).unwrap()
}

/// The files in the Secret, by name.
fn files(api: &ApiServer) -> BTreeMap<String, Vec<u8>> {
    let secret = secret(api);
    let data = secret["data"].as_object().unwrap().iter();
    let data = data.map(|(name, text)| (name.clone(), STANDARD.decode(text.as_str().unwrap())));
    data.map(|(name, bytes)| (name, bytes.unwrap())).collect()
}

/// The keys in the state directory of east, by name.
fn on_disk(world: &World) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(world.path("east")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let keys = paths.filter(|path| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        path.ends_with("keys.state") || matches!(ending, Some("pem" | "key"))
    });
    let named = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    keys.map(|path| (named(&path), fs::read(&path).unwrap()))
        .collect()
}

/// The end of a gateway that does not start, and what it said last.
fn does_not_start(world: &World, cluster: &str) -> String {
    let mut gateway = world.start(cluster);
    assert!(!gateway.child.wait().unwrap().success());
    let log = fs::read_to_string(world.path(&format!("{cluster}.log"))).unwrap();
    log.lines().last().unwrap().to_owned()
}

fn exchange(gateway: &Gateway<'_>) -> Value {
    let request = json!({
        "op": "trust", "do": "rotate", "key": "issuer-key", "use_after": 1, "retire_after": 1,
        "anyway": true,
    });
    gateway.ask(&request).unwrap()
}

/// The number of the issuer key that signs.
fn signs(gateway: &Gateway<'_>) -> u64 {
    let keys = gateway.ask(&json!({"op": "trust", "do": "keys"})).unwrap();
    let current = keys
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["key"] == "issuer-key" && key["phase"] == "current");
    current.unwrap()["number"].as_u64().unwrap()
}

fn until(what: &str, holds: impl Fn() -> bool) {
    World::until_within(BACK, what, holds);
}

fn says(gateway: &Gateway<'_>, words: &str) -> bool {
    gateway.status()["problems"].to_string().contains(words)
}

#[test]
fn a_state_directory_that_is_gone_leaves_the_keys_in_the_secret() {
    let Some(program) = kubernetes::program().filter(|_| root_or_skip()) else {
        return;
    };
    let world = World::new("secret");
    let pin = world.init("east");
    let mut api = ApiServer::start(program, &world.namespaces.name("east"));
    api.kubectl(&["create", "namespace", "landbridge"]);
    kept_in(&world, "east", "keys", &api);

    // Without rights it says which, and uses no key that it has nowhere else.
    let said = does_not_start(&world, "east");
    for words in [
        "Secret landbridge/keys",
        "cannot get resource",
        "needs the verbs get, create and update",
    ] {
        assert!(said.contains(words), "{said}");
    }
    let may = "--verb=get,create,update";
    let role = [
        "create",
        "role",
        "keys",
        may,
        "--resource=secrets",
        "-n",
        "landbridge",
    ];
    api.kubectl(&role);
    api.kubectl(&[
        "create",
        "rolebinding",
        "keys",
        "--role=keys",
        "--user=gateway",
        "-n",
        "landbridge",
    ]);

    let (east, west) = (world.start("east"), world.start("west"));
    east.until_connected();
    west.until_connected();
    assert_eq!(files(&api), on_disk(&world));
    let metadata = secret(&api)["metadata"].clone();
    let annotation = &metadata["annotations"]["landbridge.io/trust-domain"];
    assert_eq!(annotation, "east.example");

    // A key that is exchanged is there before it is used, and the one before it goes.
    assert_eq!(exchange(&east)["error"], Value::Null);
    until("the next key signs", || signs(&east) == 2);
    assert!(files(&api).contains_key("issuer.2.key"));
    until("the key before it is gone", || {
        files(&api) == on_disk(&world) && !world.path("east/issuer.key").exists()
    });

    // Without an API server nothing ends, and no key is used that is nowhere else.
    api.kill();
    exchange(&east);
    let waits = "the issuer-key is not exchanged";
    until("it says why", || {
        says(&east, waits)
            && says(
                &east,
                "the keys are not kept: Secret landbridge/keys: cannot get it",
            )
    });
    assert_eq!(signs(&east), 2);
    east.until_connected();
    east.terminate();
    let east = world.start("east");
    east.until_connected();
    until("it says why, again", || says(&east, waits));
    api.run();
    api.until_ready();
    until("the next key signs", || signs(&east) == 3);
    until("all is well", || {
        east.status()["problems"] == json!([]) && files(&api) == on_disk(&world)
    });

    // Somebody removed it: it is made again when a key is exchanged, or within ten minutes.
    api.kubectl(&["delete", "secret", "keys", "-n", "landbridge"]);
    exchange(&east);
    until("it is there again", || {
        signs(&east) == 4 && files(&api) == on_disk(&world)
    });

    // The directory is gone, and the cluster is the same; what its peers have seen is asked for first.
    let kept = on_disk(&world);
    east.terminate();
    fs::remove_dir_all(world.path("east")).unwrap();
    assert_eq!(world.init("east"), pin);
    assert_eq!(on_disk(&world), kept);
    let east = world.start("east");
    until("it asks first", || says(&east, "restored"));
    succeeds(&world, &["restore", "--confirm"]);
    east.until_connected();
    west.until_connected();
    east.terminate();

    // Another cluster does not take it, and does not write over it.
    west.terminate();
    kept_in(&world, "west", "keys", &api);
    let said = world.try_init("west", "east").unwrap_err();
    assert!(
        said.contains("is of east.example by its annotation"),
        "{said}"
    );
    assert_eq!(files(&api), kept);

    // Keys that are made anew would be another cluster's: without an answer none are.
    api.kill();
    fs::remove_dir_all(world.path("east")).unwrap();
    let said = does_not_start(&world, "east");
    assert!(
        said.contains("Secret landbridge/keys: cannot get it"),
        "{said}"
    );
    assert_eq!(on_disk(&world), BTreeMap::new());
}
