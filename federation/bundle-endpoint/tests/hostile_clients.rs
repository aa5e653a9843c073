//! What a client can make an endpoint do: get the bundle, and nothing else.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{fs, sync::Arc, time::Duration};

use bundle_endpoint::{Certificate, EndpointPath, Profile, ServeLimits, WebCertificate, WebRoots};
use landbridge_bundle_endpoint as bundle_endpoint;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use common::{HOUR, Running, get, id, now, presenting, reaches, root, web_certificate};

const BUNDLE: &str = r#"{"keys":[],"spiffe_sequence":1}"#;
/// Shorter than any test lasts, and long enough for what is done in time.
const SHORT: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(20);

/// An endpoint with a certificate of the Web PKI, and the root of that.
struct Web {
    server: Running,
    folder: TempDir,
    root: CertificateDer<'static>,
}

impl Web {
    async fn start(text: &str, limits: ServeLimits) -> Self {
        let folder = TempDir::new().unwrap();
        let root = put(&folder);
        let files = WebCertificate::load(folder.path().join("chain"), folder.path().join("key"));
        let certificate = Certificate::Web(files.unwrap());
        Self {
            server: Running::start(text.into(), certificate, limits).await,
            folder,
            root,
        }
    }

    async fn tls(&self) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.server.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await.unwrap()
    }

    /// Everything that is answered to `request` until the end of the connection.
    async fn answer(&self, request: &str) -> String {
        let mut stream = self.tls().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        timeout(PATIENCE, read).await.unwrap().unwrap();
        String::from_utf8(answer).unwrap()
    }
}

/// Puts a new certificate with its key into the folder; its root.
fn put(folder: &TempDir) -> CertificateDer<'static> {
    let (chain, key, root) = web_certificate(&["127.0.0.1"]);
    fs::write(folder.path().join("chain"), chain).unwrap();
    fs::write(folder.path().join("key"), key).unwrap();
    fs::write(folder.path().join("root"), &root).unwrap();
    CertificateDer::from_pem_slice(root.as_bytes()).unwrap()
}

#[tokio::test]
async fn the_bundle_is_at_one_path_for_get_and_head_and_each_connection_ends() {
    let web = Web::start(BUNDLE, ServeLimits::default()).await;
    let ask = async |line: &str| {
        // Two requests: the second is never answered.
        let one = format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
        web.answer(&format!("{one}{one}")).await
    };
    let said = ask("GET /bundle").await;
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
    assert!(
        said.contains("content-type: application/json\r\n"),
        "{said}"
    );
    assert!(
        said.ends_with(BUNDLE) && said.matches("HTTP/1.1").count() == 1,
        "{said}"
    );
    assert!(ask("GET /bundle?a=b").await.ends_with(BUNDLE));
    let head = ask("HEAD /bundle").await;
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    assert!(
        head.contains(&format!("content-length: {}\r\n", BUNDLE.len())),
        "{head}"
    );
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "WHATEVER"] {
        let said = ask(&format!("{method} /bundle")).await;
        assert!(said.starts_with("HTTP/1.1 405 "), "{said}");
        assert!(said.contains("allow: GET, HEAD\r\n"), "{said}");
    }
    for path in ["/", "/bundle/", "/bundle2", "/../bundle", "//bundle"] {
        let said = ask(&format!("GET {path}")).await;
        assert!(
            said.starts_with("HTTP/1.1 404 ") && !said.contains("keys"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_long_head_is_refused_before_it_is_read() {
    let web = Web::start(BUNDLE, ServeLimits::default()).await;
    let long = format!(
        "GET /bundle HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "a".repeat(9 << 10)
    );
    let many = format!(
        "GET /bundle HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X: a\r\n".repeat(65)
    );
    for request in [long, many] {
        let said = web.answer(&request).await;
        assert!(said.starts_with("HTTP/1.1 431 "), "{said}");
    }
}

/// Threat row: slow clients.
#[tokio::test]
async fn who_is_slow_is_cut_off_wherever_it_stops() {
    let (short, long) = (SHORT, HOUR);
    let limits = |handshake, head, whole| ServeLimits {
        handshake,
        head,
        whole,
        ..ServeLimits::default()
    };
    // Each limit alone, the others out of reach.
    let web = Web::start(BUNDLE, limits(short, long, long)).await;
    let mut stream = TcpStream::connect(web.server.address).await.unwrap();
    ended(&mut stream).await;
    reaches(&web.server.counters.failed, 1).await;

    let web = Web::start(BUNDLE, limits(long, short, long)).await;
    let mut stream = web.tls().await;
    stream
        .write_all(b"GET /bundle HTTP/1.1\r\nX: ")
        .await
        .unwrap();
    ended(&mut stream).await;
    reaches(&web.server.counters.failed, 1).await;

    // More than what lies between the two ends, and nothing of it is read.
    let web = Web::start(&" ".repeat(64 << 20), limits(long, long, short)).await;
    let mut stream = web.tls().await;
    stream
        .write_all(b"GET /bundle HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    reaches(&web.server.counters.failed, 1).await;
}

/// Until the other end closes, one way or the other.
async fn ended(stream: &mut (impl AsyncReadExt + Unpin)) {
    let mut sink = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut sink))
        .await
        .expect("it is cut off");
}

#[tokio::test]
async fn one_source_cannot_take_all_places() {
    let limits = ServeLimits {
        per_source: 2,
        handshake: HOUR,
        whole: HOUR,
        ..ServeLimits::default()
    };
    let web = Web::start(BUNDLE, limits).await;
    let connect = || TcpStream::connect(web.server.address);
    let (first, _second) = (connect().await.unwrap(), connect().await.unwrap());
    let mut third = connect().await.unwrap();
    ended(&mut third).await;
    reaches(&web.server.counters.no_place, 1).await;
    drop(first);
    reaches(&web.server.counters.failed, 1).await;
    assert!(
        web.answer("GET /bundle HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .ends_with(BUNDLE)
    );
}

#[tokio::test]
async fn files_of_a_certificate_are_taken_when_they_fit_each_other() {
    let limits = ServeLimits {
        files: Duration::from_millis(10),
        ..ServeLimits::default()
    };
    let web = Web::start(BUNDLE, limits).await;
    let path = |name| web.folder.path().join(name);
    let by = |name| Profile::Web {
        roots: WebRoots::File(path(name)),
    };
    let url = web.server.url();
    assert_eq!(get(&url, &by("root")).await.unwrap(), BUNDLE);
    fs::copy(path("root"), path("old-root")).unwrap();
    let key = fs::read(path("key")).unwrap();

    // The certificate is new and its key is not yet.
    put(&web.folder);
    let new_key = fs::read(path("key")).unwrap();
    fs::write(path("key"), &key).unwrap();
    let until = async |root| {
        while get(&url, &by(root)).await.is_err() {}
    };
    timeout(PATIENCE, until("old-root")).await.unwrap();
    fs::write(path("key"), new_key).unwrap();
    timeout(PATIENCE, until("root")).await.unwrap();
    assert!(get(&url, &by("old-root")).await.is_err());

    // What cannot be read changes nothing.
    fs::write(path("key"), "nothing").unwrap();
    fs::remove_file(path("chain")).unwrap();
    // Each takes about as long as the pause between two looks.
    for _ in 0..10 {
        assert_eq!(get(&url, &by("root")).await.unwrap(), BUNDLE);
    }
}

#[test]
fn files_that_are_no_certificate_with_its_key_say_so() {
    let folder = TempDir::new().unwrap();
    let path = |name| folder.path().join(name);
    let said = || {
        let loaded = WebCertificate::load(path("chain"), path("key"));
        loaded.err().unwrap().to_string()
    };
    assert!(said().contains("chain: "), "{}", said());
    put(&folder);
    let key = fs::read(path("key")).unwrap();
    put(&folder);
    fs::write(path("key"), &key).unwrap();
    assert!(said().contains("key: "), "another's key: {}", said());
    fs::write(path("chain"), "").unwrap();
    assert!(said().contains("no certificate in it"), "{}", said());
    fs::write(path("chain"), vec![b' '; 300 << 10]).unwrap();
    assert!(said().contains("at most 262144 are read"), "{}", said());
}

/// `tokio::sync::watch`, as the gateway will use it: the SVID and the text of the next connection are
/// those of that moment.
#[tokio::test]
async fn an_svid_and_a_bundle_are_replaced_while_it_runs() {
    let east = root("east");
    let who = |name| id(&format!("spiffe://east/{name}"));
    let issue = |name| east.issue(&who(name), now(), HOUR).unwrap();
    let (certificate, replace) = presenting(&issue("one"));
    let server = Running::start(BUNDLE.into(), certificate, ServeLimits::default()).await;
    let by = |name: &str| {
        let roots = vec![east.certificate_der().to_vec()];
        common::spiffe(&format!("spiffe://east/{name}"), roots)
    };
    assert_eq!(get(&server.url(), &by("one")).await.unwrap(), BUNDLE);
    replace.send_replace(issue("two"));
    server.bundle.send_replace("{}".into());
    assert_eq!(get(&server.url(), &by("two")).await.unwrap(), "{}");
    assert!(get(&server.url(), &by("one")).await.is_err());
}

#[test]
fn a_path_begins_with_a_slash() {
    for path in ["", "bundle", "/bundle?x", "/bundle#x"] {
        assert!(EndpointPath::try_from(path.to_owned()).is_err(), "{path}");
    }
    assert!(EndpointPath::try_from("/".to_owned()).is_ok());
}
