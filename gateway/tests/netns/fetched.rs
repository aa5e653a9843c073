//! A peer whose roots are fetched from its bundle endpoint.

use std::fs;

use bundle_endpoint::EndpointUrl;
use identity::{TrustBundle, TrustDomain, UnixMillis};
use observe::{KeyKind, RotateRequest, TrustRequest};
use quic::ClusterRoot;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use crate::{
    namespaces::root_or_skip,
    world::{Gateway, World, peer},
};

/// West as east's file has it.
fn west_by(endpoint: &str) -> String {
    format!("{{cluster: west, endpoint: \"192.0.2.2:4433\", bundleEndpoint: {endpoint}}}")
}

fn add(world: &World, cluster: &str, text: &str) {
    let file = world.path(&format!("{cluster}.yaml"));
    let config = fs::read_to_string(&file).unwrap() + text;
    fs::write(&file, config).unwrap();
}

/// The bundle of `cluster`, as its operator would hand it over.
fn first_bundle(world: &World, cluster: &str) -> String {
    let domain = TrustDomain::new(&format!("{cluster}.example")).unwrap();
    let root = ClusterRoot::load(&world.path(cluster).join("root.pem"), &domain, None, None);
    let root = root.unwrap().unwrap().certificate_der().to_vec();
    let bundle = TrustBundle {
        trust_domain: domain,
        sequence: 0,
        refresh_hint: std::time::Duration::from_secs(300),
        expires_at: UnixMillis(0),
        x509_roots: vec![root],
        issuer_keys: Vec::new(),
        carried_labels: None,
    };
    bundle.to_jwks()
}

fn ask(gateway: &Gateway<'_>, request: &TrustRequest) -> Value {
    let mut line = json!(request);
    line["op"] = "trust".into();
    gateway.ask(&line).unwrap()
}

/// How many roots are among the keys that are listed.
fn roots(keys: &Value) -> usize {
    let keys = keys.as_array().into_iter().flatten();
    keys.filter(|key| key["key"] == "root").count()
}

fn endpoint(status: &Value) -> &Value {
    &status["peers"][0]["bundle_endpoint"]
}

#[test]
fn a_peer_is_believed_by_the_roots_that_its_endpoint_publishes() {
    if !root_or_skip() {
        return;
    }
    let world = World::new("ft");
    let east_pin = world.init("east");
    world.configure("west", &peer("east", 1, &east_pin));
    add(
        &world,
        "west",
        "bundleEndpoint: {listen: \"192.0.2.2:8443\", profile: https_spiffe}\n",
    );
    world.init("west");
    let first = first_bundle(&world, "west");
    let server = "spiffe://west.example/landbridge/gateway/gw1";
    let by = format!(
        "{{url: \"https://192.0.2.2:8443/bundle\", profile: https_spiffe, spiffeId: \"{server}\", bundle: '{first}'}}"
    );
    world.configure("east", &west_by(&by));

    // Before the endpoint answers nobody of west is believed, and the status says why.
    let east = world.start("east");
    east.until("nothing is fetched", |status| {
        let said = endpoint(status)["problems"].to_string();
        said.contains("its roots were not fetched") && said.contains("its roots are not known")
    });
    let west = world.start("west");
    east.until_connected();
    let told = west.until_connected();
    let status = east.until("fetched", |status| {
        endpoint(status)["problems"] == json!([])
    });
    let said = endpoint(&status);
    assert_eq!(said["profile"], "https_spiffe");
    assert_eq!(said["url"], "https://192.0.2.2:8443/bundle");
    assert_eq!(said["sequence"], told["own"]["bundle_sequence"]);

    // West exchanges its root. East asks again when it starts, and hears of the next one before it is used.
    let rotate = TrustRequest::Rotate(RotateRequest {
        key: KeyKind::Root,
        use_after: Some(6),
        retire_after: Some(3),
        anyway: true,
    });
    let answer = ask(&west, &rotate);
    assert_eq!(roots(&answer), 2, "{answer}");
    let sequence = endpoint(&east.status())["sequence"].clone();
    east.terminate();
    let east = world.start("east");
    east.until("the next root is fetched", |status| {
        endpoint(status)["sequence"].as_u64() > sequence.as_u64()
    });
    let connected = east.until_connected()["peers"][0]["since"].clone();
    west.until("the old root is gone", |_| {
        roots(&ask(&west, &TrustRequest::Keys {})) == 1
    });
    let peer = east.until_connected()["peers"][0].clone();
    assert_eq!(peer["since"], connected, "its session stood");
    // A new session is judged by what was fetched, not by the first bundle, nor by what west says.
    west.terminate();
    let west = world.start("west");
    east.until("another session", |status| {
        let peer = &status["peers"][0];
        peer["connected"] == true && peer["since"] != connected
    });
    west.until_connected();
}

/// A certificate of the Web PKI for west's address, its key, and the authority that signed it.
fn web() -> (String, String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&authority_key).unwrap().pem();
    let issuer = Issuer::new(params, authority_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["192.0.2.2".to_owned()]).unwrap();
    let chain = leaf.signed_by(&key, &issuer).unwrap().pem();
    (chain, key.serialize_pem(), authority)
}

#[test]
fn by_the_web_pki_only_the_configured_authorities_count() {
    if !root_or_skip() {
        return;
    }
    let world = World::new("fw");
    let (chain, key, authority) = web();
    let (_, _, other) = web();
    fs::write(world.path("web.pem"), chain).unwrap();
    fs::write(world.path("web.key"), key).unwrap();
    let east_pin = world.init("east");
    world.configure("west", &peer("east", 1, &east_pin));
    let files = ["web.pem", "web.key"].map(|name| world.path(name).display().to_string());
    let [chain, key] = files;
    add(
        &world,
        "west",
        &format!(
            "bundleEndpoint: {{listen: \"192.0.2.2:8443\", profile: https_web, certificate: {chain}, key: {key}}}\n"
        ),
    );
    world.init("west");
    // As an object, which may change while the gateway runs.
    let object = |authorities: &str| {
        let lines: String = authorities
            .lines()
            .map(|line| format!("      {line}\n"))
            .collect();
        format!(
            "apiVersion: landbridge.io/v1alpha1\nkind: FederationPeer\nmetadata: {{name: west}}\n\
             spec:\n  cluster: west\n  endpoints: [\"192.0.2.2:4433\"]\n  bundleEndpoint:\n    \
             url: https://192.0.2.2:8443/bundle\n    profile: https_web\n    authorities: |\n{lines}"
        )
    };
    world.configure("east", "");
    world.write("east/peer.yaml", &object(&other));
    let (east, west) = (world.start("east"), world.start("west"));
    east.until("another authority signed it", |status| {
        endpoint(status)["problems"]
            .to_string()
            .contains("(https_web)")
    });
    assert_eq!(east.status()["peers"][0]["connected"], false);
    world.write("east/peer.yaml", &object(&authority));
    east.until_connected();
    west.until_connected();
    assert_eq!(endpoint(&east.status())["profile"], "https_web");
    let url: EndpointUrl = "https://192.0.2.2:8443/bundle".parse().unwrap();
    assert_eq!(endpoint(&east.status())["url"], json!(url));

    // Without the object it is no peer, and nobody asks for its bundle.
    fs::remove_file(world.path("conf/east/peer.yaml")).unwrap();
    east.until("no peer", |status| status["peers"] == json!([]));
}
