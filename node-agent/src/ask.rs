//! Questions of the admin socket and of HTTP to the control loop, which alone knows the answers.

use observe::{Caller, Observed, Reply as Said, Request};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<T>;

/// Questions that may wait.
const WAITING: usize = 32;

/// A question.
#[derive(Debug)]
pub enum Ask {
    /// Of the admin socket.
    Request(Box<Request>, Reply<Result<Value, String>>),
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

    /// Asks; an error, in words, when the control loop ends.
    async fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> Ask) -> Result<T, String> {
        let ending = || "the agent is ending".to_owned();
        let (reply, answer) = oneshot::channel();
        self.0.send(question(reply)).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())
    }
}

impl Observed for Asker {
    async fn answer(&self, request: Request, _: Caller) -> Result<Said, String> {
        let answer = self
            .ask(|reply| Ask::Request(Box::new(request), reply))
            .await?;
        answer.map(Said::Once)
    }

    async fn metrics(&self) -> String {
        // None, and the scrape sees it by what is missing.
        self.ask(Ask::Metrics).await.unwrap_or_default()
    }

    async fn unhealthy(&self) -> Vec<String> {
        self.ask(Ask::Health).await.unwrap_or_else(|e| vec![e])
    }

    async fn unready(&self) -> Vec<String> {
        self.ask(Ask::Ready).await.unwrap_or_else(|e| vec![e])
    }
}
