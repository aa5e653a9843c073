//! Roots of peers that are fetched from bundle endpoints: one poller a peer, the newest bundle of each
//! on disk before it counts. What a peer says of its roots on its own session counts for nothing then.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context;
use bundle_endpoint::{FetchLimits, Fetched, PollState, Poller, Profile};
use identity::{FetchedBundle, FetchedMark, TrustDomain, UnixMillis};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};
use tracing::{error, info};

use super::{Hub, links::Input};
use crate::{
    bundle_source::{Believed, BundleSource},
    clock::Clock,
    state::State,
};

/// How long a bundle that names no end is believed after it was fetched: whoever operates an endpoint has
/// that long to bring it back.
const BELIEVED_FOR: Duration = Duration::from_hours(24);

/// X.509 roots in DER.
type Roots = Arc<Vec<Vec<u8>>>;

/// The newest bundle of one trust domain, as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Held {
    mark: FetchedMark,
    text: String,
    until: UnixMillis,
}

/// All of them.
pub(super) struct FetchedBundles {
    state: State,
    clock: Clock,
    inputs: mpsc::Sender<Input>,
    next: u64,
    /// By trust domain the newest roots, by which endpoints of that domain are believed.
    roots: BTreeMap<TrustDomain, watch::Sender<Roots>>,
    all: BTreeMap<TrustDomain, Polled>,
}

struct Polled {
    number: u64,
    source: BundleSource,
    held: Option<Held>,
    /// Whether what is held was believed when that was asked last.
    believed: bool,
    /// Why what came last is not taken.
    refused: Option<String>,
    poll: watch::Receiver<PollState>,
    poller: AbortHandle,
}

impl Drop for Polled {
    fn drop(&mut self) {
        self.poller.abort();
    }
}

/// What a poller brought.
#[derive(Debug)]
pub struct Brought {
    /// Which poller.
    number: u64,
    fetched: Fetched,
}

impl FetchedBundles {
    pub(super) fn new(state: State, clock: Clock, inputs: mpsc::Sender<Input>) -> Self {
        Self {
            state,
            clock,
            inputs,
            next: 0,
            roots: BTreeMap::new(),
            all: BTreeMap::new(),
        }
    }

    /// Fetches these from now on and no others. What is wrong with some of them, in words: of those nothing is
    /// believed.
    pub(super) fn set(
        &mut self,
        wanted: BTreeMap<TrustDomain, BundleSource>,
    ) -> Vec<(TrustDomain, String)> {
        self.all
            .retain(|domain, polled| wanted.get(domain) == Some(&polled.source));
        let mut held = BTreeMap::new();
        let mut problems = Vec::new();
        // All roots first: an endpoint may be of the trust domain of another peer.
        for (domain, source) in &wanted {
            if self.all.contains_key(domain) {
                continue;
            }
            match self.load(domain) {
                Ok(stored) => {
                    let roots = match (&stored, &source.by) {
                        (Some((_, roots)), _) => roots.clone(),
                        (None, Believed::Svid { server, first })
                            if server.trust_domain() == domain =>
                        {
                            first.clone()
                        }
                        (None, _) => Vec::new(),
                    };
                    self.sender(domain).send_replace(Arc::new(roots));
                    held.insert(domain.clone(), stored.map(|(held, _)| held));
                }
                Err(e) => problems.push((domain.clone(), format!("{e:#}"))),
            }
        }
        for (domain, held) in held {
            let source = wanted[&domain].clone();
            match self.profile(&domain, &source, &wanted) {
                Ok(profile) => {
                    let polled = self.start(&domain, source, profile, held);
                    self.all.insert(domain, polled);
                }
                Err(why) => problems.push((domain, why)),
            }
        }
        problems
    }

    /// Its roots, while they are believed.
    pub(super) fn believed(&self, domain: &TrustDomain) -> Vec<Vec<u8>> {
        let now = self.clock.now().unix;
        let polled = self.all.get(domain);
        let held = polled.and_then(|polled| polled.held.as_ref());
        match (held.filter(|held| now < held.until), self.roots.get(domain)) {
            (Some(_), Some(roots)) => roots.borrow().to_vec(),
            _ => Vec::new(),
        }
    }

    /// Whether some are believed no more, or again, since this was asked last.
    pub(super) fn turned(&mut self) -> bool {
        let now = self.clock.now().unix;
        let mut turned = false;
        for polled in self.all.values_mut() {
            let believed = polled.held.as_ref().is_some_and(|held| now < held.until);
            turned |= believed != std::mem::replace(&mut polled.believed, believed);
        }
        turned
    }

    /// Takes a bundle. Whether whom TLS believes changes by it.
    pub(super) fn take(&mut self, brought: Brought) -> bool {
        let Fetched { text, bundle, at } = brought.fetched;
        let domain = bundle.trust_domain().clone();
        let polled = self.all.get_mut(&domain);
        // It was configured otherwise meanwhile.
        let Some(polled) = polled.filter(|polled| polled.number == brought.number) else {
            return false;
        };
        let mark = polled.held.as_ref().map(|held| &held.mark);
        let accepted = match bundle.accept(mark, at.after(BELIEVED_FOR)) {
            Ok(accepted) => accepted,
            Err(e) => {
                let why = e.to_string();
                if polled.refused.as_ref() != Some(&why) {
                    error!(peer = %domain, alarm = true, "its bundle endpoint: {why}");
                }
                polled.refused = Some(why);
                return false;
            }
        };
        let held = Held {
            mark: accepted.mark,
            text: text.to_string(),
            until: accepted.bundle.expires_at,
        };
        // It counts once a crash cannot undo it.
        if let Err(e) = self.state.store(&file(&domain), &Some(&held)) {
            polled.refused = Some(format!("it cannot be stored: {e:#}"));
            return false;
        }
        polled.refused = None;
        polled.held = Some(held);
        let roots = accepted.bundle.x509_roots;
        let sender = self.sender(&domain);
        let changed = **sender.borrow() != roots;
        if changed {
            info!(peer = %domain, roots = roots.len(), "other roots speak for it");
        }
        sender.send_replace(Arc::new(roots));
        self.turned() || changed
    }

    /// For the status: by trust domain.
    pub(super) fn status(&self) -> BTreeMap<TrustDomain, Value> {
        let now = self.clock.now().unix;
        let of = |polled: &Polled| {
            let poll = polled.poll.borrow();
            let until = polled.held.as_ref().map(|held| held.until);
            let mut problems = Vec::new();
            if poll.failures > 0
                && let Some(failure) = &poll.last_error
            {
                let (count, at) = (poll.failures, failure.at);
                problems.push(format!(
                    "its roots were not fetched, {count} times in a row, last at {at}: {}",
                    failure.what
                ));
            }
            if let Some(why) = &polled.refused {
                problems.push(format!("its roots were fetched and are not taken: {why}"));
            }
            if until.is_none_or(|until| until <= now) {
                problems.push("none of its gateways is believed: its roots are not known".into());
            }
            json!({
                "url": polled.source.url,
                "profile": poll.profile,
                "fetched": poll.last_success.map(|at| at.to_string()),
                "failures": poll.failures,
                "next": poll.next.map(|at| at.to_string()),
                "sequence": polled.held.as_ref().map(|held| held.mark.sequence),
                "believed_until": until.map(|until| until.to_string()),
                "problems": problems,
            })
        };
        let all = self.all.iter();
        all.map(|(domain, polled)| (domain.clone(), of(polled)))
            .collect()
    }

    fn sender(&mut self, domain: &TrustDomain) -> &watch::Sender<Roots> {
        let new = || watch::Sender::new(Arc::default());
        self.roots.entry(domain.clone()).or_insert_with(new)
    }

    /// What is stored of it, and its roots.
    fn load(&self, domain: &TrustDomain) -> anyhow::Result<Option<(Held, Vec<Vec<u8>>)>> {
        let Some(held) = self.state.load::<Option<Held>>(&file(domain))? else {
            return Ok(None);
        };
        let bundle = FetchedBundle::from_jwks(domain.clone(), &held.text);
        let bundle = bundle.context("its bundle, as it is stored")?;
        Ok(Some((held, bundle.x509_roots().to_vec())))
    }

    fn profile(
        &self,
        domain: &TrustDomain,
        source: &BundleSource,
        wanted: &BTreeMap<TrustDomain, BundleSource>,
    ) -> Result<Profile, String> {
        let (server, first) = match &source.by {
            Believed::Web(roots) => {
                return Ok(Profile::Web {
                    roots: roots.clone(),
                });
            }
            Believed::Svid { server, first } => (server, first),
        };
        let of = server.trust_domain();
        if of != domain && !first.is_empty() {
            return Err(format!(
                "bundleEndpoint.bundle: the server is of {of}, whose bundle is that peer's to be configured"
            ));
        }
        if !wanted.contains_key(of) {
            return Err(format!(
                "bundleEndpoint.spiffeId: no bundle of {of} is fetched, by which the server could be believed"
            ));
        }
        let roots = self.roots.get(of).map(watch::Sender::subscribe);
        let roots = roots.filter(|roots| of != domain || !roots.borrow().is_empty());
        let roots = roots.ok_or_else(|| {
            format!("bundleEndpoint.bundle: without a first bundle of {of} the server cannot be believed")
        })?;
        Ok(Profile::Spiffe {
            endpoint: server.clone(),
            roots,
        })
    }

    fn start(
        &mut self,
        domain: &TrustDomain,
        source: BundleSource,
        profile: Profile,
        held: Option<Held>,
    ) -> Polled {
        self.next += 1;
        let number = self.next;
        let poller = Poller {
            trust_domain: domain.clone(),
            url: source.url.clone(),
            profile,
            limits: FetchLimits::default(),
        };
        let (state, poll) = watch::channel(poller.state());
        let (clock, inputs) = (self.clock, self.inputs.clone());
        let poller = tokio::spawn(async move {
            let (out, mut fetched) = mpsc::channel(1);
            let forward = async {
                while let Some(fetched) = fetched.recv().await {
                    let brought = Box::new(Brought { number, fetched });
                    if inputs.send(Input::Fetched(brought)).await.is_err() {
                        return;
                    }
                }
            };
            tokio::join!(poller.run(move || clock.now().unix, out, state), forward);
        });
        Polled {
            number,
            source,
            held,
            believed: false,
            refused: None,
            poll,
            poller: poller.abort_handle(),
        }
    }
}

/// Where it is stored.
fn file(domain: &TrustDomain) -> String {
    format!("fetched.{domain}")
}

impl Hub {
    pub(super) fn fetched(&mut self, brought: Brought) {
        if self.fetched.take(brought) {
            self.trust_bundles();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use identity::TrustBundle;
    use quic::ClusterRoot;

    use super::*;

    fn west() -> TrustDomain {
        TrustDomain::new("west.example").unwrap()
    }

    fn source() -> BundleSource {
        BundleSource {
            // Nobody listens there.
            url: "https://127.0.0.1:9/".parse().unwrap(),
            by: Believed::Web(bundle_endpoint::WebRoots::System),
        }
    }

    /// One that fetches west's bundle by poller number 1.
    fn bundles(state: &State) -> FetchedBundles {
        let (inputs, _) = mpsc::channel(1);
        let mut bundles = FetchedBundles::new(state.clone(), Clock::start(), inputs);
        assert_eq!(bundles.set([(west(), source())].into()), []);
        bundles
    }

    fn root() -> Vec<u8> {
        let now = Clock::start().now().unix;
        let root = ClusterRoot::generate(&west(), now, BELIEVED_FOR).unwrap();
        root.certificate_der().to_vec()
    }

    fn brought(number: u64, sequence: u64, root: &[u8], at: UnixMillis) -> Brought {
        let bundle = TrustBundle {
            trust_domain: west(),
            sequence,
            refresh_hint: Duration::from_mins(5),
            x509_roots: vec![root.to_vec()],
            issuer_keys: Vec::new(),
            carried_labels: None,
            expires_at: UnixMillis(0),
        };
        // As another implementation would have it.
        let text = bundle.to_jwks().replace(",\"landbridge_expires_at\":0", "");
        let bundle = FetchedBundle::from_jwks(west(), &text).unwrap();
        let text = text.into();
        let fetched = Fetched { text, bundle, at };
        Brought { number, fetched }
    }

    fn problems(bundles: &FetchedBundles) -> String {
        bundles.status()[&west()]["problems"].to_string()
    }

    #[tokio::test]
    async fn an_older_bundle_is_refused_also_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let now = Clock::start().now().unix;
        let (old, new) = (root(), root());
        let mut first = bundles(&state);
        assert_eq!(first.believed(&west()), Vec::<Vec<u8>>::new());
        assert!(first.take(brought(1, 7, &old, now)));
        assert!(first.take(brought(1, 8, &new, now)));
        assert!(!first.take(brought(1, 8, &new, now)), "the same");
        assert_eq!(first.believed(&west()), std::slice::from_ref(&new));
        drop(first);

        let mut again = bundles(&state);
        let held = again.believed(&west());
        assert_eq!(held, std::slice::from_ref(&new), "before it answers");
        assert!(again.turned());
        assert!(!again.take(brought(1, 7, &old, now)));
        assert_eq!(again.believed(&west()), std::slice::from_ref(&new));
        assert!(
            problems(&again).contains("are not taken"),
            "{}",
            problems(&again)
        );
        // Of a poller that was configured before.
        assert!(!again.take(brought(9, 9, &old, now)));
        assert_eq!(again.believed(&west()), [new]);
    }

    #[tokio::test]
    async fn what_was_not_fetched_for_a_day_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let now = Clock::start().now().unix;
        let long_ago = UnixMillis(now.0 - u64::try_from(BELIEVED_FOR.as_millis()).unwrap() - 1000);
        let mut bundles = bundles(&state);
        let root = root();
        bundles.take(brought(1, 7, &root, long_ago));
        assert_eq!(bundles.believed(&west()), Vec::<Vec<u8>>::new());
        assert!(problems(&bundles).contains("its roots are not known"));
        assert!(
            bundles.take(brought(1, 7, &root, now)),
            "they are believed again"
        );
        assert_eq!(bundles.believed(&west()), [root]);
    }

    #[tokio::test]
    async fn what_cannot_be_stored_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let mut bundles = bundles(&state);
        drop(directory);
        let now = Clock::start().now().unix;
        assert!(!bundles.take(brought(1, 7, &root(), now)));
        assert_eq!(bundles.believed(&west()), Vec::<Vec<u8>>::new());
        assert!(problems(&bundles).contains("cannot be stored"));
    }

    #[tokio::test]
    async fn a_server_without_roots_to_believe_it_by_is_not_asked() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let (inputs, _) = mpsc::channel(1);
        let mut bundles = FetchedBundles::new(state, Clock::start(), inputs);
        let by = |server: &str, first: Vec<Vec<u8>>| BundleSource {
            by: Believed::Svid {
                server: server.parse().unwrap(),
                first,
            },
            ..source()
        };
        for (source, why) in [
            (
                by("spiffe://west.example/server", vec![]),
                "without a first bundle of west.example",
            ),
            (
                by("spiffe://hub.example/server", vec![]),
                "no bundle of hub.example is fetched",
            ),
            (
                by("spiffe://hub.example/server", vec![root()]),
                "that peer's to be configured",
            ),
        ] {
            let problems = bundles.set([(west(), source)].into());
            assert!(problems[0].1.contains(why), "{problems:?}");
            assert!(bundles.status().is_empty());
        }
        // The hub's own bundle is fetched, by which its endpoint for others is believed.
        let hub = TrustDomain::new("hub.example").unwrap();
        let others = by("spiffe://hub.example/server", vec![]);
        let all = [
            (west(), others),
            (hub, by("spiffe://hub.example/server", vec![root()])),
        ];
        assert_eq!(bundles.set(all.into()), []);
        assert_eq!(bundles.status().len(), 2);
    }
}
