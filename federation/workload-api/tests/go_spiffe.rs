//! Against a Workload API that go-spiffe's own definitions serve. tests/peers/go-spiffe is the program.
#![allow(clippy::unwrap_used, missing_docs)]

#[allow(dead_code)]
#[path = "../../../tests/peers/peer.rs"]
mod peer;

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use identity::UnixMillis;
use landbridge_workload_api::{Following, Issued, Standing, Wanted, follow};
use peer::{Peer, program};
use rustls_pki_types::CertificateDer;
use svid::{Chain, Pin, Usage};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

const GATEWAY: &str = "spiffe://east.example/landbridge/gateway/gw1";
const PATIENCE: Duration = Duration::from_secs(60);

fn now() -> UnixMillis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UnixMillis(u64::try_from(now.as_millis()).unwrap())
}

struct Follower {
    standing: watch::Receiver<Standing>,
    task: JoinHandle<()>,
}

impl Follower {
    fn start(socket: &Path) -> Self {
        let socket = format!("unix://{}", socket.display()).parse().unwrap();
        let wanted = Wanted {
            id: GATEWAY.parse().unwrap(),
            what: "this gateway",
        };
        let (following, standing): (Following, _) = follow(socket, wanted);
        let task = tokio::spawn(following.run(now));
        Self { standing, task }
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Standing) -> bool) -> Standing {
        let found = timeout(PATIENCE, self.standing.wait_for(holds)).await;
        let found = found.map(|standing| standing.unwrap().clone());
        found.unwrap_or_else(|_| panic!("{what}: {:?}", *self.standing.borrow()))
    }

    async fn until_issued(&mut self, what: &str, holds: impl Fn(&Issued) -> bool) -> Issued {
        let wanted = |standing: &Standing| {
            let issued = standing.issued.as_ref();
            standing.problem.is_empty() && issued.is_some_and(|issued| holds(issued))
        };
        let standing = self.until(what, wanted).await;
        Issued::clone(&standing.issued.unwrap())
    }

    async fn until_problem(&mut self, words: &str) -> Standing {
        self.until(words, |standing| standing.problem.contains(words))
            .await
    }
}

async fn server(socket: &Path, id: &str) -> Peer {
    let mut server = Peer::start(&["workload-api", "-domain", "east.example"]);
    server.says().await;
    serve(&mut server, socket, id).await;
    server
}

async fn serve(server: &mut Peer, socket: &Path, id: &str) {
    let order = format!("serve {} {id}", socket.display());
    server.command(order.trim_end()).await;
}

/// Whoever knows the root by its fingerprint alone believes what is shown.
fn believed_by_pin(issued: &Issued) {
    let shown: Vec<_> = issued
        .chain
        .iter()
        .cloned()
        .map(CertificateDer::from)
        .collect();
    let (leaf, rest) = shown.split_first().unwrap();
    let root = rest.iter().find(|sent| Pin::of(sent) == issued.root);
    let roots = [root.unwrap().to_vec()];
    for usage in [Usage::Client, Usage::Server] {
        let chain = Chain::read(leaf, rest).unwrap();
        let verified = chain.verify(&roots, usage, now()).unwrap();
        assert_eq!(verified.id.to_string(), GATEWAY);
    }
}

#[tokio::test]
async fn what_is_issued_is_followed_through_roots_authorities_and_refusals() {
    if program().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let mut follower = Follower::start(&socket);
    follower.until_problem("connection failed").await;
    let mut east = server(&socket, GATEWAY).await;
    let first = follower.until_issued("the first", |_| true).await;
    believed_by_pin(&first);
    assert_eq!((first.chain.len(), first.roots.len()), (2, 1));

    // A new root is known before it signs, and signs before the old one goes.
    east.command("publish").await;
    let both = follower
        .until_issued("published", |i| i.roots.len() == 2)
        .await;
    assert_eq!(both.root, first.root);
    east.command("use").await;
    let used = follower
        .until_issued("used", |i| i.root != first.root)
        .await;
    assert_eq!(used.roots, both.roots);
    believed_by_pin(&used);
    east.command("retire").await;
    let retired = follower
        .until_issued("retired", |i| i.roots.len() == 1)
        .await;
    assert_eq!(retired.root, used.root);

    // An upstream authority: two between the root and the leaf, and not three.
    east.command("use 2").await;
    let deep = follower
        .until_issued("two between", |i| i.chain.len() == 4)
        .await;
    believed_by_pin(&deep);
    assert_eq!(deep.root, used.root);
    east.command("use 3").await;
    let kept = follower.until_problem("4 certificates").await;
    assert_eq!(kept.issued.unwrap().expires_at, deep.expires_at);

    // What nobody's bundle has; roots of others.
    east.command("stray").await;
    let kept = follower
        .until_problem("not signed by a root of its trust domain")
        .await;
    assert_eq!(kept.issued.unwrap().expires_at, deep.expires_at);
    east.command("federate west.example").await;
    east.command("use").await;
    let federated = follower.until_issued("with others' roots", |_| true).await;
    assert_eq!(
        federated.roots, retired.roots,
        "those of the own trust domain alone"
    );

    // Nothing for this process any more, and again.
    east.command("deny").await;
    let denied = follower
        .until_problem("make a registration entry for")
        .await;
    assert!(denied.problem.contains(GATEWAY), "{}", denied.problem);
    assert!(
        denied.problem.contains("what it said last is good until"),
        "{}",
        denied.problem
    );
    assert!(denied.issued.is_some());
    east.command("allow").await;
    follower.until_issued("allowed again", |_| true).await;

    // It is gone, and comes back with another root: what was held is kept until then.
    drop(east);
    let alone = follower.until("gone", |s| !s.problem.is_empty()).await;
    assert_eq!(alone.issued.unwrap().root, federated.root);
    let _east = server(&socket, GATEWAY).await;
    follower
        .until_issued("back", |i| i.root != federated.root)
        .await;
    follower.task.abort();
}

#[tokio::test]
async fn the_id_of_somebody_else_is_not_taken() {
    if program().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let mut east = server(&socket, "spiffe://east.example/landbridge/gateway/gw2").await;
    let mut follower = Follower::start(&socket);
    let other = follower
        .until_problem("but spiffe://east.example/landbridge/gateway/gw2")
        .await;
    assert!(other.issued.is_none());
    let words = format!("make a registration entry for {GATEWAY}");
    assert!(other.problem.contains(&words), "{}", other.problem);
    // No entry at all.
    let silent = folder.path().join("silent.sock");
    serve(&mut east, &silent, "").await;
    let mut follower = Follower::start(&silent);
    follower.until_problem(&words).await;
}

/// It says nothing new although that is due: it is asked anew, and that is said.
#[tokio::test]
async fn one_that_does_not_renew_is_asked_again() {
    if program().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let mut east = server(&socket, GATEWAY).await;
    // Half an hour of its life is over when it is made: less than a quarter is left.
    east.command("ttl 3s").await;
    let mut follower = Follower::start(&socket);
    let overdue = follower.until_problem("does not renew").await;
    let first = overdue.issued.unwrap().expires_at;
    follower
        .until("asked again", |s| {
            s.issued
                .as_ref()
                .is_some_and(|issued| issued.expires_at > first)
        })
        .await;
}
