//! Follows a Workload API for as long as the process runs.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use identity::{Backoff, UnixMillis};
use spiffe::{TrustDomain as SpiffeDomain, WorkloadApiClient, WorkloadApiError, X509Context};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::{Issued, Offer, Refusal, Socket, Wanted, issued::Offered};

/// How long a connection, and the first answer on it, may take.
const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// At most so long at a time, because the wall clock may be set meanwhile.
const LOOK: Duration = Duration::from_secs(60);

/// What a Workload API said last that was taken, and what is wrong with it now.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Kept when the Workload API is gone; whoever uses it looks at its end.
    pub issued: Option<Arc<Issued>>,
    /// In words: empty when nothing is.
    pub problem: String,
}

/// What follows one.
pub struct Following {
    socket: Socket,
    wanted: Wanted,
    say: watch::Sender<Standing>,
}

/// Begins to follow the Workload API at `socket`, once [`Following::run`] runs.
#[must_use]
pub fn follow(socket: Socket, wanted: Wanted) -> (Following, watch::Receiver<Standing>) {
    let (say, standing) = watch::channel(Standing {
        issued: None,
        problem: format!("the Workload API at {socket} was not asked yet"),
    });
    let following = Following {
        socket,
        wanted,
        say,
    };
    (following, standing)
}

/// Why it is asked again.
enum Lost {
    Api(WorkloadApiError),
    Late,
    Ended,
    /// It stands, and says nothing new although that is due.
    Overdue,
    Refused(Refusal),
}

impl Following {
    /// Asks, and asks again after a pause when the answer ends; until nobody wants to know any more.
    pub async fn run(self, clock: impl Fn() -> UnixMillis) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let lost = tokio::select! {
                lost = self.once(&clock, &mut backoff) => lost,
                () = self.say.closed() => return,
            };
            self.failed(self.words(&lost));
            let pause = backoff.wait(getrandom::u32().unwrap_or_default());
            tokio::select! {
                () = sleep(pause) => {}
                () = self.say.closed() => return,
            }
        }
    }

    /// One connection; why it is over.
    async fn once(&self, clock: &impl Fn() -> UnixMillis, backoff: &mut Backoff) -> Lost {
        let asking = async {
            let client = WorkloadApiClient::connect(self.socket.endpoint.clone()).await?;
            client.stream_x509_contexts().await
        };
        let mut answers = match timeout(PATIENCE, asking).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(e)) => return Lost::Api(e),
            Err(_) => return Lost::Late,
        };
        let mut first = true;
        loop {
            let due = match first {
                true => PATIENCE,
                false => self.due(clock()),
            };
            let answer = match timeout(due.min(LOOK), answers.next()).await {
                Ok(Some(Ok(answer))) => answer,
                Ok(Some(Err(e))) => return Lost::Api(e),
                Ok(None) => return Lost::Ended,
                Err(_) if first => return Lost::Late,
                Err(_) if self.due(clock()).is_zero() => return Lost::Overdue,
                Err(_) => continue,
            };
            first = false;
            match self.offer(&answer).take(&self.wanted, clock()) {
                Ok(issued) => {
                    self.take(issued);
                    // One that gives the same again and again is asked ever more seldom.
                    if !self.due(clock()).is_zero() {
                        backoff.reset();
                    }
                }
                // What was taken before is still good, and the next answer may be.
                Err(refusal) => self.failed(self.words(&Lost::Refused(refusal))),
            }
        }
    }

    /// How long it may still say nothing.
    fn due(&self, now: UnixMillis) -> Duration {
        let standing = self.say.borrow();
        let overdue = standing.issued.as_ref().map(|issued| issued.overdue());
        // It was refused: who makes the registration entry is heard on the same connection.
        overdue.map_or(LOOK, |at| Duration::from_millis(at.0.saturating_sub(now.0)))
    }

    fn offer(&self, answer: &X509Context) -> Offer {
        let svids = answer.svids().iter().map(|svid| Offered {
            id: svid.spiffe_id().to_string(),
            chain: svid
                .cert_chain()
                .iter()
                .map(|certificate| certificate.as_bytes().to_vec())
                .collect(),
            key: Zeroizing::new(svid.private_key().as_bytes().to_vec()),
        });
        // Of one trust domain alone.
        let own = SpiffeDomain::new(self.wanted.id.trust_domain().as_str());
        let bundle = own.ok().and_then(|own| answer.bundle_set().get(&own));
        let roots = bundle.iter().flat_map(|bundle| bundle.authorities());
        Offer {
            svids: svids.collect(),
            roots: roots.map(|root| root.as_bytes().to_vec()).collect(),
        }
    }

    fn take(&self, issued: Issued) {
        let (until, roots) = (issued.expires_at, issued.roots.len());
        info!(id = %issued.id, %until, root = %issued.root, roots, "X.509-SVID of the Workload API");
        self.say.send_replace(Standing {
            issued: Some(Arc::new(issued)),
            problem: String::new(),
        });
    }

    /// Says it, once while it is the same.
    fn failed(&self, words: String) {
        let new = self.say.send_if_modified(|standing| {
            let new = standing.problem != words;
            if new {
                standing.problem.clone_from(&words);
            }
            new
        });
        if new {
            warn!("{words}");
        }
    }

    fn words(&self, lost: &Lost) -> String {
        let wanted = &self.wanted;
        let why = match lost {
            Lost::Api(
                WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_),
            ) => {
                let (id, what) = (wanted.id.clone(), wanted.what);
                Refusal::Nothing { id, what }.to_string()
            }
            Lost::Api(e) => e.to_string(),
            Lost::Late => format!("no answer within {} s", PATIENCE.as_secs()),
            Lost::Ended => "it ended the connection".into(),
            Lost::Overdue => "it does not renew the X.509-SVID".into(),
            Lost::Refused(refusal) => refusal.to_string(),
        };
        let held = self
            .say
            .borrow()
            .issued
            .as_ref()
            .map(|issued| issued.expires_at);
        let held = held.map_or(String::new(), |end| {
            format!(" (what it said last is good until {end})")
        });
        format!("the Workload API at {}: {why}{held}", self.socket)
    }
}
