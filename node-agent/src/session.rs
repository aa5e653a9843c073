//! The session with the gateway: enrol once, dial, carry messages, dial again.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use identity::TrustDomain;
use quic::{
    Anchor, Backoff, Credentials, Endpoint, Identity, Limits, Pin, Protocol, Sender, Svid,
    SvidRequest, Target, Trust, enrol,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::sleep,
};
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::{
    clock::Clock,
    config::Config,
    roots,
    workloads::{self, Workloads},
};

/// Messages that wait for the control loop; a slow loop slows the session down.
const INBOX: usize = 64;
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// All nodes have new SVIDs within this time after another root began to sign.
const RENEW_WITHIN_MS: u32 = 3000;

/// What the session says to the control loop.
#[derive(Debug)]
pub enum FromGateway {
    /// A session is up; messages go out here.
    Up(Sender),
    /// A message came.
    Message(Vec<u8>),
    /// The session ended.
    Down,
}

/// How it stands, in words: empty when a session is up.
pub type Standing = watch::Receiver<String>;

/// The control loop's end of the session.
pub struct Gateway {
    /// What the gateway says.
    pub messages: mpsc::Receiver<FromGateway>,
    /// How it stands.
    pub standing: Standing,
    /// By what the gateway is believed.
    pub trust: Trust,
    /// SHA-256 of the X.509 root that signs SVIDs now, once it is known.
    pub signing_root: watch::Sender<Option<[u8; 32]>>,
    /// What the Workload API issues, where one does.
    pub issued: Option<watch::Receiver<workload_api::Standing>>,
}

/// Keeps a session up until the receiver is gone.
///
/// # Errors
/// When no thread or runtime can be made, or the roots that are stored cannot be read.
pub fn start(config: &Config, trust_domain: &TrustDomain, clock: Clock) -> anyhow::Result<Gateway> {
    let trust = Trust::new(trust_domain.clone());
    if let Some(pin) = config.pin()? {
        let anchor = match roots::load(&config.state_dir, pin)? {
            Some(roots) => Anchor::Roots(roots),
            None => Anchor::Pinned(pin),
        };
        trust.set(trust_domain.clone(), anchor);
    }
    let source = config.svid.as_ref();
    let workloads = source.map(|source| workloads::Source::new(source, trust_domain, &config.node));
    let (workloads, issued) = match workloads.transpose()? {
        Some(source) => (Some(source.workloads), Some(source.standing)),
        None => (None, None),
    };
    let (sender, receiver) = mpsc::channel(INBOX);
    let (signing_root, signing) = watch::channel(None);
    let (say, standing) = watch::channel("the gateway was not asked yet".to_owned());
    let dialler = Dialler {
        target: Target {
            address: config.gateway.endpoint,
            trust_domain: trust_domain.clone(),
            protocol: Protocol::Node,
        },
        node: config.node.clone(),
        secret_file: config.enrol_secret_file.clone(),
        token_file: config.enrol_token_file.clone(),
        svid_file: config.state_dir.join("svid.pem"),
        key_file: config.state_dir.join("svid-request.pem"),
        trust: trust.clone(),
        workloads,
        sender,
        say,
        signing,
        clock,
    };
    // A runtime of its own: the control loop waits for firewall programs now and then, and a session
    // must not lose its keep-alives to that.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("gateway".to_owned())
        .spawn(move || runtime.block_on(dialler.run()))?;
    Ok(Gateway {
        messages: receiver,
        standing,
        trust,
        signing_root,
        issued,
    })
}

struct Dialler {
    target: Target,
    node: String,
    secret_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    svid_file: PathBuf,
    key_file: PathBuf,
    trust: Trust,
    workloads: Option<Workloads>,
    sender: mpsc::Sender<FromGateway>,
    say: watch::Sender<String>,
    signing: watch::Receiver<Option<[u8; 32]>>,
    clock: Clock,
}

impl Dialler {
    async fn run(mut self) {
        match self.workloads.take() {
            Some(workloads) => self.with_workload_api(workloads).await,
            None => self.with_enrolment().await,
        }
    }

    /// The X.509-SVID and the roots are those of a Workload API.
    async fn with_workload_api(&self, mut workloads: Workloads) {
        let clock = self.clock;
        let following = workloads.following.run(move || clock.now().unix);
        let using = async {
            let Some(identity) = workloads.issued.first(&self.trust).await else {
                return;
            };
            let Some(endpoint) = self.endpoint(&identity) else {
                return;
            };
            tokio::select! {
                () = workloads.issued.follow(&identity, &self.trust) => {}
                () = self.sessions(&endpoint) => {}
            }
            endpoint.close("the agent ends").await;
        };
        tokio::select! {
            () = following => {}
            () = using => {}
            () = self.sender.closed() => {}
        }
    }

    async fn with_enrolment(&self) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let identity = loop {
            match self.svid().await {
                Ok(svid) => break Identity::new(svid),
                Err(error) => self.failed("enrol at", &error),
            }
            if self.pause(&mut backoff).await.is_none() {
                return;
            }
        };
        let Some(endpoint) = self.endpoint(&identity) else {
            return;
        };
        let clock = self.clock;
        let sooner = Arc::new(Notify::new());
        let renewing = quic::renew(
            identity.clone(),
            move || clock.now().unix,
            Arc::clone(&sooner),
            async |current: &Svid| {
                self.enrol(Credentials::Svid(current.clone()), SvidRequest::generate()?)
                    .await
            },
        );
        tokio::select! {
            () = renewing => {}
            () = self.follow_root(&identity, &sooner) => {}
            () = self.sessions(&endpoint) => {}
        }
        endpoint.close("the agent ends").await;
    }

    fn endpoint(&self, identity: &Identity) -> Option<Endpoint> {
        let any = match self.target.address {
            std::net::SocketAddr::V4(_) => "0.0.0.0:0",
            std::net::SocketAddr::V6(_) => "[::]:0",
        };
        let bound = any.parse().map_err(anyhow::Error::from).and_then(|any| {
            Ok(Endpoint::bind(
                any,
                identity.clone(),
                self.trust.clone(),
                &[],
                Limits::default(),
            )?)
        });
        match bound {
            Ok((endpoint, _)) => Some(endpoint),
            Err(error) => {
                self.failed("open a socket for", &error);
                None
            }
        }
    }

    /// Whoever has an SVID of a root that does not sign any more gets a new one before that root goes: not
    /// all nodes at the same moment.
    async fn follow_root(&self, identity: &Identity, sooner: &Notify) {
        let mut signing = self.signing.clone();
        loop {
            let root = *signing.borrow_and_update();
            if let Some(root) = root
                && signed_by(&identity.current()) != Some(root)
            {
                let random = getrandom::u32().unwrap_or_default();
                sleep(Duration::from_millis((random % RENEW_WITHIN_MS).into())).await;
                sooner.notify_one();
            }
            if signing.changed().await.is_err() {
                // The control loop is gone, and the sessions end by themselves.
                return std::future::pending().await;
            }
        }
    }

    async fn sessions(&self, endpoint: &Endpoint) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            match endpoint.dial(&self.target).await {
                Ok(mut session) => {
                    backoff.reset();
                    info!(gateway = %session.info.peer.id, "session with the gateway");
                    self.say.send_replace(String::new());
                    if self.tell(FromGateway::Up(session.sender)).await.is_none() {
                        return;
                    }
                    while let Some(message) = session.receiver.recv().await {
                        if self.tell(FromGateway::Message(message)).await.is_none() {
                            return;
                        }
                    }
                    let end = session.receiver.end();
                    self.failed(
                        "keep the session with",
                        &anyhow::Error::msg(end.to_string()),
                    );
                    if self.tell(FromGateway::Down).await.is_none() {
                        return;
                    }
                }
                Err(error) => self.failed("reach", &error.into()),
            }
            if self.pause(&mut backoff).await.is_none() {
                return;
            }
        }
    }

    /// The stored X.509-SVID if it is still valid, else a new one for the one-time secret.
    async fn svid(&self) -> anyhow::Result<Svid> {
        if let Some(svid) = Svid::load(&self.svid_file)?
            && svid.expires_at() > self.clock.now().unix
        {
            return Ok(svid);
        }
        let credentials = match (&self.secret_file, &self.token_file) {
            (_, Some(file)) => Credentials::Token(read_token(file)?),
            (Some(file), None) => Credentials::Secret {
                node: self.node.clone(),
                secret: read_secret(file)?,
            },
            (None, None) => bail!(
                "this node has no valid X.509-SVID, and neither enrolSecretFile nor enrolTokenFile is set to \
                 get one with"
            ),
        };
        // The same key each time: an answer that was lost can be asked for again.
        let svid = self
            .enrol(credentials, SvidRequest::load_or_generate(&self.key_file)?)
            .await?;
        info!(id = %svid.id(), until = %svid.expires_at(), "enrolled");
        Ok(svid)
    }

    async fn enrol(&self, credentials: Credentials, request: SvidRequest) -> anyhow::Result<Svid> {
        let svid = enrol(
            self.target.address,
            &self.target.trust_domain,
            &self.trust,
            credentials,
            request,
            &Limits::default(),
        )
        .await?;
        if quic::agent_node(svid.id()) != Some(&self.node) {
            let (id, node) = (svid.id(), &self.node);
            bail!("this agent's token makes it {id}, and its file says node: {node}");
        }
        svid.store(&self.svid_file)?;
        Ok(svid)
    }

    async fn tell(&self, message: FromGateway) -> Option<()> {
        self.sender.send(message).await.ok()
    }

    async fn pause(&self, backoff: &mut Backoff) -> Option<()> {
        let random = getrandom::u32().unwrap_or_default();
        tokio::select! {
            () = sleep(backoff.wait(random)) => Some(()),
            () = self.sender.closed() => None,
        }
    }

    fn failed(&self, what: &str, error: &anyhow::Error) {
        let words = format!(
            "cannot {what} the gateway at {}: {error:#}",
            self.target.address
        );
        // The same failure again and again is said once.
        let new = self.say.send_if_modified(|said| {
            let differs = *said != words;
            if differs {
                said.clone_from(&words);
            }
            differs
        });
        if new {
            warn!("{words}");
        }
    }
}

/// SHA-256 of the root in the chain.
fn signed_by(svid: &Svid) -> Option<[u8; 32]> {
    svid.chain().last().map(|root| Pin::of(root).0)
}

/// The token that the kubelet keeps there.
fn read_token(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let text = Zeroizing::new(text);
    Ok(Zeroizing::new(text.trim().to_owned()))
}

fn read_secret(file: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let read = quic::read_secret(file, 4096)?;
    let mut secret = read.with_context(|| format!("{} is not there", file.display()))?;
    // An editor ends the line; the secret does not contain it.
    while secret.last().is_some_and(u8::is_ascii_whitespace) {
        secret.pop();
    }
    Ok(secret)
}
