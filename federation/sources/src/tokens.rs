//! Whose service-account token somebody shows: asked of the API server, by a TokenReview.

use std::{fmt, time::Duration};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use tokio::time::timeout;

use crate::{ConnectError, KubernetesSource, kubernetes};

/// How long an answer of the API server may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Which node the pod of a token is on, as the API server that made the token wrote into it
/// (Kubernetes 1.32 and later).
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Asks about tokens of one service account that were made for one audience.
#[derive(Clone)]
pub struct TokenReviewer {
    reviews: Api<TokenReview>,
    /// As the API server calls it.
    user: String,
    audience: String,
}

/// Why a token says nothing of a node.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It is none, was made for somebody else, is too old, or its pod is gone.
    #[error("the API server refuses the token{0}")]
    Refused(String),
    /// It is of another account.
    #[error("the token is of {0}")]
    OtherUser(String),
    /// It does not say which node its pod is on.
    #[error(
        "the token is bound to no pod on a node: it is to be a projected one, of Kubernetes 1.32 or later"
    )]
    NoNode,
    /// RBAC does not allow to ask.
    #[error("{0}. The gateway needs the verb create on tokenreviews")]
    Forbidden(String),
    /// The API server does not answer.
    #[error("no answer of the API server within {} s", PATIENCE.as_secs())]
    Late,
    /// Anything else.
    #[error("cannot ask the API server")]
    Failed(#[source] kube::Error),
}

impl TokenError {
    /// Whether it says something of whoever showed the token.
    #[must_use]
    pub fn is_of_token(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::OtherUser(_) | Self::NoNode)
    }
}

impl TokenReviewer {
    /// For the service account `name` of `namespace`. Nothing is asked yet. To be called within a runtime.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn new(
        source: &KubernetesSource,
        (namespace, name): (&str, &str),
        audience: &str,
    ) -> Result<Self, ConnectError> {
        let config = kubernetes::config(source.kubeconfig.as_deref()).await?;
        Ok(Self {
            reviews: Api::all(Client::try_from(config)?),
            user: format!("system:serviceaccount:{namespace}:{name}"),
            audience: audience.to_owned(),
        })
    }

    /// The node whose pod `token` was made for.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn node(&self, token: &str) -> Result<String, TokenError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: Some(vec![self.audience.clone()]),
            },
            ..TokenReview::default()
        };
        let parameters = PostParams::default();
        let asked = self.reviews.create(&parameters, &review);
        let status = match timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) => answer.status.unwrap_or_default(),
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                return Err(TokenError::Forbidden(status.message.clone()));
            }
            Ok(Err(error)) => return Err(TokenError::Failed(error)),
            Err(_) => return Err(TokenError::Late),
        };
        self.judge(status)
    }

    fn judge(&self, status: TokenReviewStatus) -> Result<String, TokenError> {
        let is_for_us = status
            .audiences
            .iter()
            .flatten()
            .any(|one| *one == self.audience);
        // A server that knows no audiences would take a token that was made for itself.
        if status.authenticated != Some(true) || !is_for_us {
            let why = status.error.map(|why| format!(": {why}"));
            return Err(TokenError::Refused(why.unwrap_or_default()));
        }
        let user = status.user.unwrap_or_default();
        let name = user.username.unwrap_or_default();
        if name != self.user {
            return Err(TokenError::OtherUser(name));
        }
        let mut extra = user.extra.unwrap_or_default();
        match extra.remove(NODE_NAME).unwrap_or_default().as_mut_slice() {
            [node] if !node.is_empty() => Ok(std::mem::take(node)),
            _ => Err(TokenError::NoNode),
        }
    }
}

impl fmt::Debug for TokenReviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenReviewer({} for {})", self.user, self.audience)
    }
}
