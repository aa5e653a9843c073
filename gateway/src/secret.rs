//! The keys in a Secret of the Kubernetes API server, beside the state directory: a gateway whose directory is
//! gone is the same cluster again.
//!
//! The directory comes first: an API server that is away stops nothing but the exchange of a key, which is used
//! only once the Secret has it. What is in the Secret is taken only by a directory without keys, or by one with
//! older ones. Whoever can read it can speak for the cluster.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use identity::TrustDomain;
use quic::Backoff;
use sources::secret::{HeldSecret, SecretStore};
use tokio::{
    sync::{Notify, mpsc},
    task::spawn_blocking,
    time::sleep,
};
use tracing::{info, warn};

use crate::{
    clock::Clock,
    config::KeptIn,
    hub::links::Input,
    keys::{Copies, Copy, Standing},
    state::State,
};

/// Whose keys are in a Secret.
const TRUST_DOMAIN: &str = "landbridge.io/trust-domain";
/// Where a state directory remembers in which Secret its keys were.
const KEPT: &str = "kept";
/// How often it is asked whether the Secret is as it was: nobody but a gateway has to write to it.
const LOOK: Duration = Duration::from_mins(10);

/// Where keys are kept beside the state directory, and whose.
pub struct Keeper {
    secret: SecretStore,
    domain: TrustDomain,
    copies: Copies,
    clock: Clock,
}

impl Keeper {
    /// The Secret that `kept` names, for the keys that `copies` is about. Nothing is asked yet.
    ///
    /// # Errors
    /// When it is not said how the API server is reached.
    pub async fn new(
        kept: &KeptIn,
        domain: &TrustDomain,
        copies: Copies,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let (kubeconfig, namespace) = (kept.kubeconfig.as_deref(), kept.namespace.as_deref());
        let secret = SecretStore::new(kubeconfig, namespace, &kept.name).await;
        Ok(Self {
            secret: secret.context("keys.secret")?,
            domain: domain.clone(),
            copies,
            clock,
        })
    }

    /// Before the keys are loaded: takes them from the Secret if the directory has none, or older ones.
    ///
    /// # Errors
    /// When the Secret has the keys of somebody else, or cannot be read and the directory never had its keys in
    /// it: keys that are made anew would be another cluster's for all peers.
    pub async fn before(&self, state: &State) -> anyhow::Result<()> {
        let copy = match self.read().await {
            Ok(Some(mut secret)) => self.copy(&mut secret)?,
            Ok(None) => return Ok(()),
            Err(e) if self.was_kept(state)? => {
                warn!("{e:#}: it goes on with the keys in the state directory");
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let now = self.clock.now().unix;
        let words = match self.judged(&copy).await? {
            Standing::Behind | Standing::Same => return Ok(()),
            Standing::Alone => "the state directory had none: peers are asked what they have seen",
            Standing::Ahead => "those in the state directory were older",
        };
        let (copies, taken) = (self.copies.clone(), copy);
        spawn_blocking(move || copies.take(&taken, now)).await??;
        info!("the keys are those of {}: {words}", self.secret);
        Ok(())
    }

    /// Once they are loaded, and before any of them is used: has them in the Secret.
    ///
    /// # Errors
    /// When the Secret does not take them, and the directory never had its keys in it.
    pub async fn after(&self, state: &State) -> anyhow::Result<()> {
        match self.keep().await {
            Ok(_) => state.store(KEPT, &Some(self.name())),
            // Who runs tries again, and says why.
            Err(_) if self.was_kept(state)? => Ok(()),
            Err(e) => Err(e.context("keys that are nowhere else are not used")),
        }
    }

    fn was_kept(&self, state: &State) -> anyhow::Result<bool> {
        let before: Option<String> = state.load(KEPT)?;
        Ok(before.is_some_and(|before| before == self.name()))
    }

    /// Has the Secret hold what the directory holds; how many steps these keys went.
    async fn keep(&self) -> anyhow::Result<u64> {
        let copies = self.copies.clone();
        let made = spawn_blocking(move || copies.make()).await??;
        let (copy, steps) = made.context("there are no keys yet")?;
        let mut held = self.read().await?;
        if let Some(held) = &mut held {
            let theirs = self.copy(held)?;
            if theirs == copy {
                return Ok(steps);
            }
            if self.judged(&theirs).await? == Standing::Ahead {
                bail!(
                    "{} has newer keys than this gateway: another one exchanges them, and this one takes \
                     them when it starts",
                    self.secret
                );
            }
        }
        let written = match held {
            Some(held) => self.secret.replace(held, copy.files()).await,
            None => {
                let of = (TRUST_DOMAIN, self.domain.as_str());
                self.secret.create(copy.files(), of).await
            }
        };
        written.with_context(|| self.name())?;
        info!("{} has the keys", self.secret);
        Ok(steps)
    }

    async fn judged(&self, copy: &Copy) -> anyhow::Result<Standing> {
        let (copies, judged) = (self.copies.clone(), copy.clone());
        let standing = spawn_blocking(move || copies.judge(&judged)).await?;
        standing.with_context(|| self.name())
    }

    /// Takes the files out of `held`.
    fn copy(&self, held: &mut HeldSecret) -> anyhow::Result<Copy> {
        let of = held.annotation(TRUST_DOMAIN);
        if of != Some(self.domain.as_str()) {
            bail!(
                "{} is of {} by its annotation {TRUST_DOMAIN}, and this gateway of {}: name another Secret in \
                 keys.secret",
                self.secret,
                of.unwrap_or("nobody that is named"),
                self.domain
            );
        }
        Copy::new(std::mem::take(&mut held.files)).with_context(|| self.name())
    }

    async fn read(&self) -> anyhow::Result<Option<HeldSecret>> {
        self.secret.get().await.with_context(|| self.name())
    }

    fn name(&self) -> String {
        self.secret.to_string()
    }
}

/// What the hub knows of it.
#[derive(Debug, Default)]
pub struct Kept {
    /// How many steps the keys went that the Secret has; `None` before it was heard of.
    pub steps: Option<u64>,
    /// Wakes who keeps them.
    pub changed: Arc<Notify>,
}

impl Kept {
    /// Begins to keep them; what became of that is said to `inputs`.
    #[must_use]
    pub fn start(keeper: Keeper, inputs: mpsc::Sender<Input>) -> Self {
        let kept = Self::default();
        tokio::spawn(run(keeper, Arc::clone(&kept.changed), inputs));
        kept
    }
}

/// Keeps them until the hub is gone: when something changed, and now and then in case the Secret did.
async fn run(keeper: Keeper, changed: Arc<Notify>, inputs: mpsc::Sender<Input>) {
    let mut pauses = Backoff::new(Duration::from_secs(1), Duration::from_mins(5));
    loop {
        let kept = keeper.keep().await;
        let pause = match kept {
            Ok(_) => {
                pauses.reset();
                LOOK
            }
            Err(_) => pauses.wait(u32::MAX),
        };
        if inputs.send(Input::Kept(kept)).await.is_err() {
            return;
        }
        tokio::select! {
            () = changed.notified() => {}
            () = sleep(pause) => {}
        }
    }
}
