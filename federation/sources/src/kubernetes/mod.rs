//! A Kubernetes API server as a source: the objects of one cluster, watched by who needs them.

mod collector;
mod connect;
mod kinds;
mod lease;
mod report;
mod watch;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kube::Client;
use serde::Deserialize;
use tokio::{
    sync::{Notify, mpsc, watch as told},
    task::{AbortHandle, JoinSet},
    time::{self, Instant},
};

use crate::{ClusterConfig, Joined, World, read::Kind};
use collector::{Collector, Next};
pub use connect::ConnectError;
pub(crate) use connect::config;
use kinds::Asked;
use report::{Reporter, Reports};
use watch::News;

/// Where objects stand, in problems.
const PLACE: &str = "kubernetes";
/// News that wait to be taken. Whoever has more waits.
const QUEUE: usize = 1024;
/// Changes that come together are one world.
const SETTLED: Duration = Duration::from_millis(5);
/// At most one part in so many of the time is spent on worlds.
const SHARE: u32 = 4;
/// How often a start looks whether what it waits for is to be said, which it is when it is something else, or
/// when it was not said for so many looks.
const LOOK: Duration = Duration::from_secs(1);
const LOOKS: u32 = 30;

/// The API server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubernetesSource {
    /// How to reach it; without one as the pod that this process runs in.
    pub kubeconfig: Option<PathBuf>,
}

/// Who asks, and so for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Viewer {
    /// The gateway of that name: all of the cluster, and it says on objects what became of them.
    Gateway(String),
    /// The agent of that node: its pods, and all policies.
    Node(String),
}

impl KubernetesSource {
    /// Waits for the world of `cluster` and keeps it up to date until every receiver is gone. `joined` are
    /// known beside the clusters of its Federation, until it is told of others.
    ///
    /// While the API server does not answer, the world stays as it was, and says so among its problems.
    ///
    /// # Errors
    /// When nothing says how to reach the API server. To wait has no end.
    pub async fn open(
        &self,
        cluster: &str,
        viewer: &Viewer,
        joined: Vec<ClusterConfig>,
    ) -> Result<(told::Receiver<Arc<World>>, Joined), ConnectError> {
        let client = connect::client(self.kubeconfig.as_deref()).await?;
        let held = Arc::new(Mutex::new(joined.clone()));
        let woken = Arc::new(Notify::new());
        let mut follower = Follower::new(client, cluster, viewer, joined);
        let first = follower.first().await;
        let reports = match viewer {
            Viewer::Gateway(name) => {
                let first = Arc::new(follower.collector.reports(&first));
                let (sender, reports) = told::channel(first);
                let client = follower.client.clone();
                tokio::spawn(Reporter::new(client, cluster, name, reports).run());
                Some(sender)
            }
            Viewer::Node(_) => None,
        };
        let (sender, receiver) = told::channel(Arc::new(first));
        let wake = Arc::clone(&woken);
        let joined = Joined::new(Arc::clone(&held), move || wake.notify_one());
        tokio::spawn(follower.run(sender, reports, held, woken));
        Ok((receiver, joined))
    }

    /// What the Federation says of `cluster` at this moment: no pods and no policies.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn members(&self, cluster: &str) -> Result<World, ConnectError> {
        let client = connect::client(self.kubeconfig.as_deref()).await?;
        let mut follower = Follower::of(client, cluster, Vec::new(), Vec::new());
        Ok(follower.first().await)
    }
}

/// The watches, and what they told.
struct Follower {
    client: Client,
    collector: Collector,
    asked: Vec<Asked>,
    watches: JoinSet<()>,
    /// The watch of pods, and how many there were.
    pods: Option<AbortHandle>,
    number: u64,
    news: mpsc::Receiver<News>,
    teller: mpsc::Sender<News>,
    are_followed: bool,
}

impl Follower {
    fn new(client: Client, cluster: &str, viewer: &Viewer, joined: Vec<ClusterConfig>) -> Self {
        Self::of(client, cluster, Asked::by(viewer), joined)
    }

    fn of(client: Client, cluster: &str, asked: Vec<Asked>, joined: Vec<ClusterConfig>) -> Self {
        let (teller, news) = mpsc::channel(QUEUE);
        let mut new = Self {
            client,
            collector: Collector::new(cluster, &asked, joined),
            asked,
            watches: JoinSet::new(),
            pods: None,
            number: 0,
            news,
            teller,
            are_followed: false,
        };
        new.follow(Asked::of(Kind::Federation));
        new
    }

    fn follow(&mut self, asked: Asked) {
        let is_pods = asked.kind == Kind::Pod;
        let (client, teller) = (self.client.clone(), self.teller.clone());
        let task = self
            .watches
            .spawn(watch::follow(client, asked, self.number, teller));
        if is_pods && let Some(old) = self.pods.replace(task) {
            old.abort();
        }
    }

    /// Waits for the first world, and says what it waits for.
    async fn first(&mut self) -> World {
        let mut looks = time::interval_at(Instant::now() + LOOK, LOOK);
        let mut said = (String::new(), 0);
        loop {
            let lack = match self.collector.world() {
                Ok(world) => return world,
                Err(lack) => lack,
            };
            tokio::select! {
                () = self.hear() => {}
                _ = looks.tick() => {
                    let words = collector::told(&lack, &self.collector.troubles());
                    said.1 += 1;
                    if said.0 != words || said.1 == LOOKS {
                        tracing::warn!("waiting for the API server: {words}");
                        said = (words, 0);
                    }
                }
            }
        }
    }

    /// Takes what is told next, and what came with it.
    async fn hear(&mut self) {
        // There is a teller here, so there is no end.
        let Some(news) = self.news.recv().await else {
            return;
        };
        self.take(news);
        while let Ok(news) = self.news.try_recv() {
            self.take(news);
        }
    }

    fn take(&mut self, (kind, number, told): News) {
        // From a watch that was ended meanwhile.
        if kind == Kind::Pod && number != self.number {
            return;
        }
        let next = self.collector.take(kind, told);
        self.go_on(next);
    }

    fn go_on(&mut self, next: Next) {
        // Objects can be read from the moment on at which the clusters are known.
        if !self.are_followed && self.collector.knows_members() {
            self.are_followed = true;
            for asked in self.asked.clone() {
                self.follow(asked);
            }
            return;
        }
        if self.collector.begins_nodes() {
            self.follow(Asked::of(Kind::Node));
        }
        let Next::ListAgain(kind) = next else { return };
        if let Some(asked) = self.asked.iter().find(|asked| asked.kind == kind).cloned() {
            self.number += 1;
            self.follow(asked);
        }
    }

    async fn run(
        mut self,
        sender: told::Sender<Arc<World>>,
        reports: Option<told::Sender<Arc<Reports>>>,
        joined: Arc<Mutex<Vec<ClusterConfig>>>,
        woken: Arc<Notify>,
    ) {
        loop {
            tokio::select! {
                () = self.hear() => {}
                () = woken.notified() => {
                    let joined = joined.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    let next = self.collector.set_joined(joined);
                    self.go_on(next);
                }
                () = sender.closed() => return,
            }
            if !self.collector.is_changed() {
                continue;
            }
            let settled = Instant::now() + SETTLED;
            while time::timeout_at(settled, self.hear()).await.is_ok() {}
            let began = Instant::now();
            match self.collector.world() {
                Ok(world) => {
                    if let Some(reports) = &reports {
                        // A reporter that ended has nothing to say.
                        let _ = reports.send(Arc::new(self.collector.reports(&world)));
                    }
                    let world = Arc::new(world);
                    sender.send_if_modified(|old| {
                        let differs = **old != *world;
                        if differs {
                            *old = world;
                        }
                        differs
                    });
                }
                Err(lack) => {
                    let troubles = self.collector.troubles();
                    let why = collector::told(&lack, &troubles);
                    tracing::error!("{why}; all stays as it was");
                }
            }
            // Meanwhile what is told is taken.
            let rest = Instant::now() + began.elapsed() * SHARE;
            while time::timeout_at(rest, self.hear()).await.is_ok() {}
        }
    }
}
