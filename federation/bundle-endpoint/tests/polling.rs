//! What a client makes of endpoints that come, go and misbehave.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{sync::Arc, time::Duration};

use bundle_endpoint::{FetchLimits, Fetched, PollState, Poller, Profile, ServeLimits, WebRoots};
use landbridge_bundle_endpoint as bundle_endpoint;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{advance, pause, resume, timeout},
};

use common::{HOUR, Running, bundle, domain, id, now, presenting, refused, root, spiffe, text};

const GATEWAY: &str = "spiffe://west/landbridge/gateway/gw1";
const PATIENCE: Duration = Duration::from_secs(20);

/// A poller that runs.
struct Polled {
    fetched: mpsc::Receiver<Fetched>,
    state: watch::Receiver<PollState>,
    roots: watch::Sender<Arc<Vec<Vec<u8>>>>,
    task: JoinHandle<()>,
}

impl Polled {
    fn start(url: &str, roots: Vec<Vec<u8>>) -> Self {
        let (roots, of_endpoint) = watch::channel(Arc::new(roots));
        let poller = Poller {
            trust_domain: domain("west"),
            url: url.parse().unwrap(),
            profile: Profile::Spiffe {
                endpoint: id(GATEWAY),
                roots: of_endpoint,
            },
            limits: FetchLimits::default(),
        };
        let (out, fetched) = mpsc::channel(1);
        let (told, state) = watch::channel(poller.state());
        Self {
            fetched,
            state,
            roots,
            task: tokio::spawn(poller.run(now, out, told)),
        }
    }

    async fn next(&mut self) -> Fetched {
        timeout(PATIENCE, self.fetched.recv())
            .await
            .unwrap()
            .unwrap()
    }

    /// The state after so many failures in a row.
    async fn failed(&mut self, times: u32) -> PollState {
        let reached = self.state.wait_for(|state| state.failures == times);
        timeout(PATIENCE, reached).await.unwrap().unwrap().clone()
    }
}

/// Lets time pass, but not for sockets.
async fn later(time: Duration) {
    pause();
    advance(time).await;
    resume();
}

#[tokio::test]
async fn a_bundle_is_fetched_by_its_hint_and_everything_is_told() {
    let west = root("west");
    let (certificate, _svid) = presenting(&west.issue(&id(GATEWAY), now(), HOUR).unwrap());
    let first = text(&bundle("west", 1, &[&west]));
    let server = Running::start(first.clone(), certificate, ServeLimits::default()).await;
    let mut polled = Polled::start(&server.url(), vec![root("west").certificate_der().to_vec()]);

    // By the wrong root nothing comes, and the sentence says where, what and what to do.
    let state = polled.failed(1).await;
    let said = state.last_error.unwrap().what;
    assert!(said.starts_with(&server.url()), "{said}");
    assert!(
        said.contains("not signed by a root of its trust domain"),
        "{said}"
    );
    assert!(said.contains("Check the SPIFFE ID"), "{said}");
    assert_eq!(
        (state.last_success, state.trust_domain),
        (None, domain("west"))
    );

    // The right roots are tried at once.
    polled
        .roots
        .send_replace(Arc::new(vec![west.certificate_der().to_vec()]));
    let fetched = polled.next().await;
    assert_eq!(fetched.text, first);
    assert_eq!(*fetched.bundle.trust_domain(), domain("west"));
    let state = polled.failed(0).await;
    assert_eq!(state.last_success, Some(fetched.at));
    assert!(state.next.unwrap() > fetched.at);

    // The hint says 30 s.
    server.bundle.send_replace("<html>".into());
    later(Duration::from_secs(31)).await;
    let said = polled.failed(1).await.last_error.unwrap().what;
    assert!(
        said.contains("the answer is no bundle: not a JWK set"),
        "{said}"
    );
    // It is tried again sooner than that, and again.
    later(Duration::from_secs(6)).await;
    polled.failed(2).await;
    let second = text(&bundle("west", 2, &[&west]));
    server.bundle.send_replace(second.clone());
    later(Duration::from_secs(11)).await;
    assert_eq!(polled.next().await.text, second);
    // The same text is told again: its domain still stands by it.
    later(Duration::from_secs(31)).await;
    assert_eq!(polled.next().await.text, second);

    drop(polled.fetched);
    timeout(PATIENCE, polled.task)
        .await
        .expect("it ends with who listens")
        .unwrap();
}

#[tokio::test]
async fn roots_that_are_replaced_are_used_for_the_next_fetch_and_cause_none() {
    let (old, new) = (root("west"), root("west"));
    let (certificate, svid) = presenting(&old.issue(&id(GATEWAY), now(), HOUR).unwrap());
    let both = text(&bundle("west", 1, &[&old, &new]));
    let server = Running::start(both, certificate, ServeLimits::default()).await;
    let mut polled = Polled::start(&server.url(), vec![old.certificate_der().to_vec()]);
    let roots = polled.next().await.bundle.x509_roots().to_vec();
    polled.roots.send_replace(Arc::new(roots));
    svid.send_replace(new.issue(&id(GATEWAY), now(), HOUR).unwrap());
    // Were the change a reason to fetch, this would be an answer to it.
    assert!(
        timeout(Duration::from_millis(200), polled.fetched.recv())
            .await
            .is_err()
    );
    later(Duration::from_secs(31)).await;
    polled.next().await;
}

/// Answers every connection with these bytes, without TLS.
async fn plain(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(answer).await;
            let _ = stream.read(&mut [0; 4096]).await;
        }
    });
    format!("https://{address}/bundle")
}

#[tokio::test]
async fn who_does_not_speak_tls_is_told_so() {
    let web = Profile::Web {
        roots: WebRoots::File("/nonexistent/roots.pem".into()),
    };
    let by = spiffe(GATEWAY, vec![root("west").certificate_der().to_vec()]);
    let url = plain(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    let said = refused(&url, &by).await;
    assert!(
        said.contains("TLS failed") && said.contains("HTTPS endpoint"),
        "{said}"
    );
    let said = refused(&url, &web).await;
    assert!(
        said.contains("no roots of the Web PKI: /nonexistent/roots.pem"),
        "{said}"
    );

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    drop(listener);
    let said = refused(&url, &by).await;
    assert!(
        said.contains("no connection") && said.contains("firewall"),
        "{said}"
    );
    let said = refused("https://nobody.invalid/", &by).await;
    assert!(said.contains("the host has no address"), "{said}");
}
