//! What people and programs see of a running gateway or agent: the admin socket, `/metrics`,
//! `/healthz` and `/readyz`, the log and the audit log. It knows what can be asked, and nothing of the
//! answers.

mod admin;
mod audit;
mod connections;
mod http;
mod log;
mod request;
mod trust;

use serde_json::Value;
use tokio::sync::mpsc;

pub use admin::AdminSocket;
pub use audit::{AuditLine, AuditLog, AuditProblem, verify_audit};
pub use http::serve as serve_http;
pub use log::init as init_log;
pub use request::{Caller, CaptureRequest, CaptureView, DescribedPod, Protocol, Request};
pub use trust::{InviteRequest, JoinRequest, KeyKind, RotateRequest, TrustRequest};

/// What is said to a request.
#[derive(Debug)]
pub enum Reply {
    /// One line.
    Once(Value),
    /// Lines, each with its end, until the caller leaves or they are over.
    Lines(mpsc::Receiver<String>),
}

/// A process that can be asked. All questions may come at once.
pub trait Observed: Send + Sync + 'static {
    /// The reply to what `by` asks, or why there is none.
    fn answer(
        &self,
        request: Request,
        by: Caller,
    ) -> impl Future<Output = Result<Reply, String>> + Send;

    /// All metrics in Prometheus' text form.
    fn metrics(&self) -> impl Future<Output = String> + Send;

    /// Why this process does not work, in words; empty when it does.
    fn unhealthy(&self) -> impl Future<Output = Vec<String>> + Send;

    /// Why nothing should be sent its way yet, in words; empty when it may.
    fn unready(&self) -> impl Future<Output = Vec<String>> + Send;
}
