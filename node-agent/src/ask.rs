//! Questions of the admin socket and of HTTP to the control loop, which alone knows the answers.

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<T>;

/// Questions that may wait.
const WAITING: usize = 32;

/// A question.
#[derive(Debug)]
pub enum Ask {
    /// How everything stands.
    Status(Reply<Result<Value, String>>),
    /// Every packet accounted for.
    Counters(Reply<Result<Value, String>>),
    /// The live flows.
    Flows(Reply<Result<Value, String>>),
    /// Which rule decides.
    Explain {
        /// `cluster/namespace/pod`.
        from: String,
        /// `cluster/namespace/pod`.
        to: String,
        /// As the pod gets it.
        port: u16,
        /// The IP protocol number.
        protocol: u8,
        /// Where the answer goes.
        reply: Reply<Result<Value, String>>,
    },
    /// The metrics in Prometheus' text form.
    Metrics(Reply<String>),
    /// Why the agent does not work, in words; empty when it does.
    Health(Reply<Vec<String>>),
    /// Why pods should not be sent here yet, in words; empty when they may.
    Ready(Reply<Vec<String>>),
}

/// Asks.
#[derive(Clone, Debug)]
pub struct Asker(mpsc::Sender<Ask>);

impl Asker {
    /// An asker, and what the control loop receives from.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
    }

    /// Asks for JSON.
    ///
    /// # Errors
    /// What the control loop says, or that it ends.
    pub async fn ask(
        &self,
        question: impl FnOnce(Reply<Result<Value, String>>) -> Ask,
    ) -> Result<Value, String> {
        self.question(question)
            .await
            .unwrap_or_else(|| Err("the agent is ending".into()))
    }

    /// Asks; `None` when the control loop ends.
    pub async fn question<T>(&self, question: impl FnOnce(Reply<T>) -> Ask) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.0.send(question(reply)).await.ok()?;
        answer.await.ok()
    }
}
