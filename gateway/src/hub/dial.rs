//! Keeps a session with one peer: dials while there is none, with growing pauses.

use std::time::{Duration, Instant};

use quic::{Backoff, Endpoint, Target};
use rand_core::Rng;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::links::Input;

/// A session that lasted so long was a good one: the next pause is a short one again.
const LASTED: Duration = Duration::from_secs(10);

/// The task that dials one peer, ended when dropped.
#[derive(Debug)]
pub struct Dialler {
    /// Rises whenever a session is needed and was lost; zero while there is one.
    wanted: watch::Sender<u64>,
    losses: u64,
    task: JoinHandle<()>,
}

impl Dialler {
    /// Dials the peer of number `peer` as soon as the runtime comes to it.
    pub fn start(
        endpoint: Endpoint,
        target: Target,
        peer: usize,
        inputs: mpsc::Sender<Input>,
        rng: impl Rng + Send + 'static,
    ) -> Self {
        let (wanted, wants) = watch::channel(1);
        let task = tokio::spawn(dial(endpoint, target, peer, inputs, wants, rng));
        Self {
            wanted,
            losses: 1,
            task,
        }
    }

    /// There is a session now, whoever dialled it.
    pub fn rest(&self) {
        self.wanted.send_replace(0);
    }

    /// The session was lost.
    pub fn wake(&mut self) {
        self.losses += 1;
        self.wanted.send_replace(self.losses);
    }
}

impl Drop for Dialler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn dial(
    endpoint: Endpoint,
    target: Target,
    peer: usize,
    inputs: mpsc::Sender<Input>,
    mut wants: watch::Receiver<u64>,
    mut rng: impl Rng,
) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        let resting = Instant::now();
        if wants.wait_for(|wanted| *wanted != 0).await.is_err() {
            return;
        }
        // Not by a session alone: a peer whose sessions end as soon as they begin would be dialled
        // without pause.
        if resting.elapsed() >= LASTED {
            backoff.reset();
        }
        let answer = tokio::select! {
            answer = endpoint.dial(&target) => answer,
            // The peer dialled us meanwhile: a second session would only displace the first.
            _ = wants.wait_for(|wanted| *wanted == 0) => continue,
        };
        let input = match answer {
            Ok(session) => Input::Peer(session),
            Err(e) => Input::NotReached {
                peer,
                why: e.to_string(),
            },
        };
        if inputs.send(input).await.is_err() {
            return;
        }
        // After a success the hub says whether another is wanted; it needs a moment to do so.
        tokio::time::sleep(backoff.wait(rng.next_u32())).await;
    }
}
