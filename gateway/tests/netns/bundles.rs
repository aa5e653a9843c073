//! The bundle endpoint of a running gateway.

use std::{fs, sync::Arc, time::SystemTime};

use bundle_endpoint::{EndpointUrl, FetchLimits, Profile, fetch};
use identity::{TrustBundle, TrustDomain, UnixMillis};
use quic::ClusterRoot;
use tokio::{runtime::Builder, sync::watch};

use crate::{
    namespaces::root_or_skip,
    world::{PATIENCE, World},
};

#[test]
fn a_gateway_publishes_its_bundle_by_its_svid() {
    if !root_or_skip() {
        return;
    }
    let world = World::new("be");
    let file = world.path("east.yaml");
    let mut config = fs::read_to_string(&file).unwrap();
    config += "bundleEndpoint: {listen: \"192.0.2.1:8443\", profile: https_spiffe}\n";
    fs::write(&file, config).unwrap();
    let east = world.start("east");
    let status = east.until("ready", |status| status["ready"] == true);

    let domain = TrustDomain::new("east.example").unwrap();
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let now = UnixMillis::from_secs(since.as_secs());
    let pem = world.path("east").join("root.pem");
    let root = ClusterRoot::load_or_generate(&pem, &domain, None, now, PATIENCE).unwrap();
    let roots = vec![root.certificate_der().to_vec()];
    let (_sender, receiver) = watch::channel(Arc::new(roots.clone()));
    let profile = Profile::Spiffe {
        endpoint: "spiffe://east.example/landbridge/gateway/gw1"
            .parse()
            .unwrap(),
        roots: receiver,
    };
    let url: EndpointUrl = "https://192.0.2.1:8443/bundle".parse().unwrap();
    let text = world.namespaces.within("west", || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(fetch(&url, &profile, FetchLimits::default()))
    });
    let bundle = TrustBundle::from_jwks(domain, &text.unwrap()).unwrap();
    assert_eq!(bundle.sequence, status["own"]["bundle_sequence"]);
    assert_eq!(bundle.x509_roots, roots);
    assert_eq!(bundle.issuer_keys.len(), 1);
    east.terminate();
}
