//! The keys in a Secret of the Kubernetes API server, beside the state directory: a gateway whose directory is
//! gone is the same cluster again.
//!
//! The directory comes first: an API server that is away stops nothing but the exchange of a key, which is used
//! only once the Secret has it. What is in the Secret is taken only by a directory without keys, or by one with
//! older ones. Whoever can read it can speak for the cluster.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use identity::TrustDomain;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client, Config,
    api::{ObjectMeta, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use quic::Backoff;
use tokio::{
    sync::{Notify, mpsc},
    task::spawn_blocking,
    time::{error::Elapsed, sleep, timeout},
};
use tracing::{info, warn};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    clock::Clock,
    config::KeptIn,
    hub::links::Input,
    keys::{Copies, Copy, Standing},
    state::State,
};

/// Whose keys are in a Secret.
const TRUST_DOMAIN: &str = "landbridge.io/trust-domain";
/// Who made a Secret, for people and for other tools.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "landbridge");
/// Where a state directory remembers in which Secret its keys were.
const KEPT: &str = "kept";
/// How long one answer of the API server may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is asked whether the Secret is as it was: nobody but a gateway has to write to it.
const LOOK: Duration = Duration::from_mins(10);

/// Where keys are kept beside the state directory, and whose.
#[derive(Clone)]
pub struct Keeper {
    secrets: Api<Secret>,
    namespace: String,
    name: String,
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
        let mut config = match &kept.kubeconfig {
            Some(path) => {
                let field = "keys.secret.kubeconfig";
                let file = Kubeconfig::read_from(path).context(field)?;
                let options = KubeConfigOptions::default();
                let read = Config::from_custom_kubeconfig(file, &options).await;
                read.context(field)?
            }
            None => Config::incluster().context(
                "keys.secret: the gateway runs in no pod: keys.secret.kubeconfig says how the API server is \
                 reached",
            )?,
        };
        config.connect_timeout = Some(PATIENCE);
        config.read_timeout = Some(PATIENCE);
        config.write_timeout = Some(PATIENCE);
        let namespace = kept.namespace.as_ref().unwrap_or(&config.default_namespace);
        let namespace = namespace.clone();
        let client = Client::try_from(config)?;
        Ok(Self {
            secrets: Api::namespaced(client, &namespace),
            namespace,
            name: kept.name.clone(),
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
        info!("the keys are those of {self}: {words}");
        Ok(())
    }

    /// Once they are loaded, and before any of them is used: has them in the Secret.
    ///
    /// # Errors
    /// When the Secret does not take them, and the directory never had its keys in it.
    pub async fn after(&self, state: &State) -> anyhow::Result<()> {
        match self.keep().await {
            Ok(_) => state.store(KEPT, &Some(self.to_string())),
            // Who runs tries again, and says why.
            Err(_) if self.was_kept(state)? => Ok(()),
            Err(e) => Err(e.context("keys that are nowhere else are not used")),
        }
    }

    fn was_kept(&self, state: &State) -> anyhow::Result<bool> {
        let before: Option<String> = state.load(KEPT)?;
        Ok(before.is_some_and(|before| before == self.to_string()))
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
                    "{self} has newer keys than this gateway: another one exchanges them, and this one takes \
                     them when it starts"
                );
            }
        }
        self.write(&copy, held).await?;
        info!("{self} has the keys");
        Ok(steps)
    }

    async fn judged(&self, copy: &Copy) -> anyhow::Result<Standing> {
        let (copies, judged) = (self.copies.clone(), copy.clone());
        let standing = spawn_blocking(move || copies.judge(&judged)).await?;
        standing.with_context(|| self.to_string())
    }

    /// Takes the files out of `secret`.
    fn copy(&self, secret: &mut Secret) -> anyhow::Result<Copy> {
        let annotations = secret.metadata.annotations.as_ref();
        let of = annotations.and_then(|all| all.get(TRUST_DOMAIN));
        if of.map(String::as_str) != Some(self.domain.as_str()) {
            let of = of.map_or("nobody that is named", String::as_str);
            bail!(
                "{self} is of {of} by its annotation {TRUST_DOMAIN}, and this gateway of {}: name another \
                 Secret in keys.secret",
                self.domain
            );
        }
        let files = secret.data.take().into_iter().flatten();
        let files = files.map(|(name, bytes)| (name, Zeroizing::new(bytes.0)));
        Copy::new(files.collect()).with_context(|| self.to_string())
    }

    async fn read(&self) -> anyhow::Result<Option<Secret>> {
        let asked = timeout(PATIENCE, self.secrets.get_opt(&self.name)).await;
        self.answered("get", asked)
    }

    /// `held` is what it had: whoever wrote meanwhile is not written over.
    async fn write(&self, copy: &Copy, held: Option<Secret>) -> anyhow::Result<()> {
        let data = copy.files().iter();
        let data = data.map(|(name, bytes)| (name.clone(), ByteString(bytes.to_vec())));
        let exists = held.is_some();
        let mut secret = held.unwrap_or_else(|| self.empty());
        secret.data = Some(data.collect());
        secret.string_data = None;
        let parameters = PostParams::default();
        let (verb, asked) = match exists {
            true => {
                let asked = self.secrets.replace(&self.name, &parameters, &secret);
                ("update", timeout(PATIENCE, asked).await)
            }
            false => {
                let asked = self.secrets.create(&parameters, &secret);
                ("create", timeout(PATIENCE, asked).await)
            }
        };
        overwrite(secret);
        self.answered(verb, asked).map(overwrite)
    }

    fn empty(&self) -> Secret {
        let one = |(key, value): (&str, &str)| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        Secret {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                annotations: Some(one((TRUST_DOMAIN, self.domain.as_str()))),
                labels: Some(one(MANAGED_BY)),
                ..ObjectMeta::default()
            },
            ..Secret::default()
        }
    }

    fn answered<T>(
        &self,
        verb: &str,
        asked: Result<kube::Result<T>, Elapsed>,
    ) -> anyhow::Result<T> {
        match asked {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => bail!(
                "{self}: {}. The gateway's service account needs the verbs get, create and update on secrets",
                status.message
            ),
            Ok(Err(e)) => Err(e).with_context(|| format!("cannot {verb} {self}")),
            Err(_) => bail!(
                "cannot {verb} {self}: no answer of the API server within {} s",
                PATIENCE.as_secs()
            ),
        }
    }
}

/// No key stays in memory that is not used any more.
fn overwrite(secret: Secret) {
    let files = secret.data.into_iter().flatten();
    files.for_each(|(_, mut bytes)| bytes.0.zeroize());
}

impl fmt::Display for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {}/{}", self.namespace, self.name)
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
