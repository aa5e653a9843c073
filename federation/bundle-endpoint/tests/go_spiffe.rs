//! Against go-spiffe v2: as client of our endpoint, as endpoint of our client, and as judge of our
//! certificates. tests/peers/go-spiffe is the program.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{fs, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bundle_endpoint::{
    Certificate, FetchLimits, Problem, Profile, ServeLimits, WebCertificate, WebRoots, fetch,
};
use identity::{FetchedBundle, UnixMillis};
use landbridge_bundle_endpoint as bundle_endpoint;
use rustls_pki_types::CertificateDer;
use serde_json::Value;
use svid::{Chain, Usage, VerifyError};
use tempfile::TempDir;

use common::{
    HOUR, Running, bundle, domain, get, id, now,
    peer::{self, Peer, program},
    presenting, refused, root, spiffe, text,
};

const OURS: &str = "spiffe://east/landbridge/gateway/gw1";
const THEIRS: &str = "spiffe://south.example/spire/server";

fn file(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn pem<'a>(chain: impl Iterator<Item = &'a [u8]>) -> String {
    let of = |der| {
        format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            STANDARD.encode(der)
        )
    };
    chain.map(of).collect()
}

fn ders(list: &Value) -> Vec<Vec<u8>> {
    let list = list.as_array().unwrap();
    let mut ders: Vec<_> = list
        .iter()
        .map(|der| STANDARD.decode(der.as_str().unwrap()).unwrap())
        .collect();
    ders.sort();
    ders
}

/// A web certificate for 127.0.0.1 in files, and the PEM of its root.
fn web(folder: &TempDir) -> (Certificate, String) {
    let (chain, key, root) = common::web_certificate(&["127.0.0.1"]);
    let (chain, key) = (
        file(folder, "web.pem", &chain),
        file(folder, "web.key", &key),
    );
    let files = WebCertificate::load(chain.into(), key.into()).unwrap();
    (Certificate::Web(files), root)
}

#[tokio::test]
async fn go_spiffe_reads_our_bundle_and_ignores_what_is_ours() {
    if program().is_none() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let ours = bundle("east", 7, &[&root("east"), &root("east")]);
    let path = file(&folder, "bundle", &ours.to_jwks());
    let said = peer::ask(&["parse", "-domain", "east", "-bundle", &path]).await;
    assert_eq!(ders(&said["roots"]), ours.x509_roots);
    assert_eq!((&said["sequence"], &said["hint"]), (&7.into(), &30.into()));
    assert_eq!(
        said["jwt"], 0,
        "a key that signs credentials is none for JWT-SVIDs"
    );
}

#[tokio::test]
async fn go_spiffe_watches_our_endpoint_by_https_spiffe_while_roots_rotate() {
    if program().is_none() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let (old, new) = (root("east"), root("east"));
    let svid = old.issue(&id(OURS), now(), HOUR).unwrap();
    let (certificate, replace) = presenting(&svid);
    let first = bundle("east", 1, &[&old]);
    let server = Running::start(text(&first), certificate, ServeLimits::default()).await;
    let known = file(&folder, "bundle", &first.to_jwks());
    let url = server.url();
    let arguments = [
        "-domain", "east", "-url", &url, "-id", OURS, "-bundle", &known,
    ];
    let mut watcher = Peer::start(&[&["watch"], &arguments[..]].concat());
    let said = watcher.says().await;
    assert_eq!(
        (&said["sequence"], ders(&said["roots"])),
        (&1.into(), first.x509_roots)
    );

    // Make before break: publish, use, retire.
    let both = bundle("east", 2, &[&old, &new]);
    server.bundle.send_replace(text(&both));
    let said = watcher.says().await;
    assert_eq!(
        (&said["sequence"], ders(&said["roots"])),
        (&2.into(), both.x509_roots)
    );
    replace.send_replace(new.issue(&id(OURS), now(), HOUR).unwrap());
    server
        .bundle
        .send_replace(text(&bundle("east", 3, &[&new])));
    let said = watcher.says().await;
    assert_eq!(said["sequence"], 3, "{said}");

    // Who only has the bundle of the beginning does not believe the new root.
    let said = peer::ask(&[&["fetch"], &arguments[..]].concat()).await;
    let error = said["error"].as_str().unwrap();
    assert!(error.contains("unknown authority"), "{error}");
}

#[tokio::test]
async fn go_spiffe_fetches_from_us_by_the_profile_that_we_serve_and_no_other() {
    if program().is_none() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let east = root("east");
    let ours = bundle("east", 5, &[&east]);
    let known = file(&folder, "bundle", &ours.to_jwks());
    let (certificate, _replace) = presenting(&east.issue(&id(OURS), now(), HOUR).unwrap());
    let by_spiffe = Running::start(text(&ours), certificate, ServeLimits::default()).await;
    let (certificate, web_root) = web(&folder);
    let roots = file(&folder, "roots.pem", &web_root);
    let by_web = Running::start(text(&ours), certificate, ServeLimits::default()).await;

    let ask = async |server: &Running, how: &[&str]| {
        let url = server.url();
        let mut arguments = vec!["fetch", "-domain", "east", "-url", &url];
        arguments.extend(how);
        peer::ask(&arguments).await
    };
    let spiffe = ["-id", OURS, "-bundle", &known];
    let web = ["-roots", &roots];
    let said = ask(&by_spiffe, &spiffe).await;
    assert_eq!(
        (&said["sequence"], ders(&said["roots"])),
        (&5.into(), ours.x509_roots)
    );
    assert_eq!(ask(&by_web, &web).await["sequence"], 5);

    let other = ["-id", "spiffe://east/other", "-bundle", &known];
    for (server, how, why) in [
        (&by_spiffe, &web[..], "failed to verify certificate"),
        (&by_web, &spiffe[..], "no URI SAN"),
        (&by_spiffe, &other[..], "unexpected ID"),
    ] {
        let said = ask(server, how).await;
        assert!(said["error"].to_string().contains(why), "{said}");
    }
}

/// An endpoint of go-spiffe, and its first bundle.
async fn theirs(arguments: &[&str]) -> (Peer, String, FetchedBundle) {
    let mut server = Peer::start(&[&["serve", "-id", THEIRS], arguments].concat());
    let said = server.says().await;
    let address = said["address"].as_str().unwrap_or_else(|| panic!("{said}"));
    let text = said["bundle"].as_str().unwrap();
    let bundle = FetchedBundle::from_jwks(domain("south.example"), text).unwrap();
    (server, format!("https://{address}"), bundle)
}

#[tokio::test]
async fn we_fetch_from_go_spiffe_by_https_spiffe_while_it_rotates() {
    if program().is_none() {
        return;
    }
    for version in [&[][..], &["-tls12"]] {
        let (mut server, url, first) = theirs(version).await;
        let url = format!("{url}/bundle");
        assert_eq!(first.sequence(), None, "go-spiffe does not count by itself");
        let by = |bundle: &FetchedBundle| spiffe(THEIRS, bundle.x509_roots().to_vec());
        let read = |text: &str| FetchedBundle::from_jwks(domain("south.example"), text).unwrap();
        let again = read(&get(&url, &by(&first)).await.unwrap());
        assert_eq!(again, first);
        let held = first.clone().accept(None, UnixMillis(1)).unwrap().mark;

        server.command("publish").await;
        let both = read(&get(&url, &by(&first)).await.unwrap());
        assert_eq!(both.x509_roots().len(), 2);
        let second = both.clone().accept(Some(&held), UnixMillis(1)).unwrap();
        assert_eq!((second.mark.sequence, second.mark.counted_here), (2, true));

        server.command("use").await;
        server.command("sequence 4").await;
        let numbered = read(&get(&url, &by(&both)).await.unwrap());
        let third = numbered.accept(Some(&second.mark), UnixMillis(1)).unwrap();
        assert_eq!((third.mark.sequence, third.mark.counted_here), (4, false));
        // Who missed the bundle with the new root stays out.
        let error = get(&url, &by(&first)).await.unwrap_err();
        assert!(
            matches!(error, Problem::Untrusted(VerifyError::UnknownIssuer(_))),
            "{error}"
        );
    }
}

#[tokio::test]
async fn we_fetch_from_go_spiffe_by_https_web() {
    if program().is_none() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let roots = folder.path().join("roots.pem");
    let (_server, url, bundle) = theirs(&["-web", roots.to_str().unwrap()]).await;
    let by_web = Profile::Web {
        roots: WebRoots::File(roots),
    };
    let text = get(&format!("{url}/bundle"), &by_web).await.unwrap();
    assert_eq!(
        FetchedBundle::from_jwks(domain("south.example"), &text).unwrap(),
        bundle
    );
    // By its name too, and by no other.
    let named = url.replace("127.0.0.1", "localhost");
    get(&format!("{named}/bundle"), &by_web).await.unwrap();
    let other = url.replace("127.0.0.1", "127.0.0.2");
    let said = refused(&format!("{other}/bundle"), &by_web).await;
    assert!(
        said.contains("no connection") || said.contains("not valid for name"),
        "{said}"
    );
}

/// Threat rows: the endpoint of another, a downgrade from one profile to the other, old certificates.
#[tokio::test]
async fn an_endpoint_that_is_not_the_one_configured_is_refused_and_no_other_profile_is_tried() {
    if program().is_none() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let roots = folder.path().join("roots.pem");
    let by_web = Profile::Web {
        roots: WebRoots::File(roots.clone()),
    };
    let web = ["-web", roots.to_str().unwrap()];
    let (_web_server, web_url, web_bundle) = theirs(&web).await;
    let (_server, url, bundle) = theirs(&[]).await;
    let (_forged, forged_url, forged_bundle) = theirs(&["-from", "evil.example"]).await;
    let (_expired, expired_url, expired_bundle) = theirs(&["-expired"]).await;
    let by = |id: &str, bundle: &FetchedBundle| spiffe(id, bundle.x509_roots().to_vec());
    for (url, profile, why) in [
        (
            &url,
            by("spiffe://south.example/other", &bundle),
            "spiffe://south.example/spire/server answered, and only spiffe://south.example/other may",
        ),
        (
            &url,
            by("spiffe://east/spire/server", &bundle),
            "answered, and only spiffe://east/spire/server may",
        ),
        (
            &url,
            by(THEIRS, &web_bundle),
            "not signed by a root of its trust domain",
        ),
        (
            &url,
            spiffe(THEIRS, vec![]),
            "the bundle of south.example holds no X.509 root",
        ),
        (
            &forged_url,
            by(THEIRS, &forged_bundle),
            "not signed by a root of its trust domain",
        ),
        (&expired_url, by(THEIRS, &expired_bundle), "expired at"),
        (&web_url, by(THEIRS, &web_bundle), "0 URI SANs"),
        (&url, by_web.clone(), "UnknownIssuer"),
    ] {
        let said = refused(&format!("{url}/bundle"), &profile).await;
        assert!(said.contains(why), "{said}");
        assert!(said.contains("no other profile is tried"), "{said}");
        assert!(said.starts_with(url.as_str()), "it says where: {said}");
    }
    let (_expired, expired_url, _) = theirs(&[&["-expired"], &web[..]].concat()).await;
    let said = refused(&format!("{expired_url}/bundle"), &by_web).await;
    assert!(said.contains("expired"), "{said}");
}

#[tokio::test]
async fn answers_that_are_no_bundle_are_refused() {
    if program().is_none() {
        return;
    }
    let (_server, url, bundle) = theirs(&[]).await;
    let profile = spiffe(THEIRS, bundle.x509_roots().to_vec());
    for (path, why) in [
        (
            "moved",
            "status 307 points to \"/bundle\", and redirects are not followed",
        ),
        ("oversized", "more than 262144 bytes"),
        ("endless", "more than 262144 bytes"),
        ("bytes", "no UTF-8"),
        ("absent", "status 404"),
    ] {
        let said = refused(&format!("{url}/{path}"), &profile).await;
        assert!(said.contains(why), "{path}: {said}");
    }
    for (path, why) in [("html", "not a JWK set"), ("doubled", "stands twice")] {
        let text = get(&format!("{url}/{path}"), &profile).await.unwrap();
        let error = FetchedBundle::from_jwks(domain("south.example"), &text).unwrap_err();
        assert!(error.to_string().contains(why), "{path}: {error}");
    }
    let hasty = FetchLimits {
        whole: Duration::from_millis(300),
        ..FetchLimits::default()
    };
    let silent = format!("{url}/silent").parse().unwrap();
    let error = fetch(&silent, &profile, hasty).await.unwrap_err();
    assert!(matches!(*error.problem, Problem::Slow(..)), "{error}");
}

#[tokio::test]
async fn each_believes_the_svids_of_the_other_by_the_right_root_alone() {
    if program().is_none() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let (east, twin) = (root("east"), root("east"));
    let svid = east.issue(&id(OURS), now(), HOUR).unwrap();
    let chain = file(&folder, "chain.pem", &pem(svid.chain()));
    let verify = async |root| {
        let known = file(&folder, "bundle", &bundle("east", 1, &[root]).to_jwks());
        let judge = [
            "verify", "-domain", "east", "-bundle", &known, "-chain", &chain,
        ];
        peer::ask(&judge).await
    };
    assert_eq!(verify(&east).await["id"], OURS);
    let said = verify(&twin).await;
    assert!(
        said["error"].to_string().contains("could not verify"),
        "{said}"
    );

    let theirs = peer::ask(&["mint", "-id", THEIRS]).await;
    let other = peer::ask(&["mint", "-id", THEIRS]).await;
    let der = |text: &Value| STANDARD.decode(text.as_str().unwrap()).unwrap();
    let leaf = CertificateDer::from(der(&theirs["chain"][0]));
    let judge = |root: &Value| {
        let chain = Chain::read(&leaf, &[]).unwrap();
        chain.verify(&[der(root)], Usage::Server, now())
    };
    assert_eq!(judge(&theirs["root"]).unwrap().id.to_string(), THEIRS);
    let error = judge(&other["root"]).unwrap_err();
    assert!(matches!(error, VerifyError::UnknownIssuer(_)), "{error}");
}
