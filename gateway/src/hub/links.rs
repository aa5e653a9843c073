//! Sessions as the hub sees them: frames and ends come in through one bounded channel, whatever
//! session they are of.

use identity::SpiffeId;
use observe::{Caller, JoinRequest, TrustRequest};
use peering::join::Token;
use quic::{Enrolling, Joining, Refused, Session};
use serde_json::Value;
use sources::TokenError;
use tokio::sync::{mpsc, oneshot};

use super::fetched::Brought;
use crate::keys::MadeRoot;

/// What happened outside.
#[derive(Debug)]
pub enum Input {
    /// A gateway of another cluster is at the other end, whoever dialled.
    Peer(Session),
    /// Dialling the peer of this number in the configuration failed.
    NotReached {
        /// Its place in the configuration.
        peer: usize,
        /// Why.
        why: String,
    },
    /// Somebody dialled in vain.
    Refused(Refused),
    /// An agent of this cluster is at the other end.
    Node(Session),
    /// A node asks for an X.509-SVID.
    Enrolling(Enrolling),
    /// Somebody who asks for one showed a token, and this is the node it is of, or why it is of none.
    Reviewed(Box<(Enrolling, Result<String, TokenError>)>),
    /// An X.509-SVID was signed for a node, or not.
    Signed(Box<Signed>),
    /// The next X.509 root was made, or not.
    RootMade(anyhow::Result<MadeRoot>),
    /// The signer retired the key of a root, or not.
    RootRetired(u32, anyhow::Result<()>),
    /// The Secret has the keys after so many steps, or not.
    Kept(anyhow::Result<u64>),
    /// A frame came on a session.
    Frame(LinkId, Vec<u8>),
    /// A session ended.
    Ended(LinkId, String),
    /// An operator wants something.
    Command(Command),
    /// A cluster that is not known asks to join.
    Joining(Joining),
    /// The cluster that made a token has answered.
    TokenAnswer(Box<TokenAnswer>),
    /// A bundle was fetched.
    Fetched(Box<Brought>),
}

/// What was signed for a node.
#[derive(Debug)]
pub struct Signed {
    /// Who asked.
    pub enrolling: Enrolling,
    /// Who it is.
    pub id: SpiffeId,
    /// The chain, DER and leaf first; `None` when who asked has gone.
    pub chain: Option<anyhow::Result<Vec<Vec<u8>>>>,
}

/// What the cluster that made a token says to whoever brought it.
#[derive(Debug)]
pub struct TokenAnswer {
    /// The token.
    pub token: Token,
    /// What it says.
    pub bytes: Vec<u8>,
    /// What binds that to the connection.
    pub binding: [u8; 32],
    /// What was wanted.
    pub wanted: JoinRequest,
    /// By whom.
    pub by: Caller,
    /// Where that is to be answered.
    pub answer: Answer,
}

/// What an operator wants.
#[derive(Debug)]
pub struct Command {
    /// What.
    pub request: TrustRequest,
    /// Who.
    pub by: Caller,
    /// Where the answer goes.
    pub answer: Answer,
}

/// Where an answer goes, once what it says is stored.
pub type Answer = oneshot::Sender<Result<Value, String>>;

/// Names one session while this process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// The sending half of a session, and what is known of it.
#[derive(Debug)]
pub struct Link {
    /// Its name.
    pub id: LinkId,
    /// What is known of it.
    pub info: quic::Info,
    sender: quic::Sender,
}

impl Link {
    /// Begins to read `session`: its frames go to `inputs`. When the hub is slow, the session's own
    /// flow control holds the other end back.
    #[must_use]
    pub fn start(id: LinkId, session: Session, inputs: mpsc::Sender<Input>) -> Self {
        let Session {
            info,
            sender,
            mut receiver,
        } = session;
        tokio::spawn(async move {
            while let Some(frame) = receiver.recv().await {
                if inputs.send(Input::Frame(id, frame)).await.is_err() {
                    return;
                }
            }
            let why = receiver.end().to_string();
            // A hub that is gone does not care.
            let _ = inputs.send(Input::Ended(id, why)).await;
        });
        Self { id, info, sender }
    }

    /// Sends a frame. A session that cannot take it is ended: the next one begins with what was lost.
    pub fn send(&self, frame: Vec<u8>) {
        if let Err(e) = self.sender.try_send(frame) {
            self.sender.close(&e.to_string());
        }
    }

    /// Ends the session; the other end reads `reason`.
    pub fn close(&self, reason: &str) {
        self.sender.close(reason);
    }
}
