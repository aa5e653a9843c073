//! The own bundle on a SPIFFE bundle endpoint, for trust domains of other implementations
//! (docs/bundle-endpoints.md).

use std::{io, net::TcpListener, path::Path, sync::Arc};

use anyhow::Context;
use bundle_endpoint::{Certificate, EndpointPath, ServeLimits, Server, WebCertificate};
use quic::Identity;
use tokio::{sync::watch, task::JoinHandle};
use tracing::error;

use crate::config::BundleEndpoint;

/// An endpoint that has its address and its certificate, and serves nothing yet.
pub struct Waiting {
    listener: TcpListener,
    path: EndpointPath,
    /// Of the Web PKI; without one it shows the gateway's X.509-SVID.
    web: Option<WebCertificate>,
}

/// Takes the address and reads the files of `config`.
///
/// # Errors
/// When the address is taken, or a file cannot be used; names the field.
pub fn listen(config: &BundleEndpoint) -> anyhow::Result<Waiting> {
    let load = |(certificate, key): (&Path, &Path)| {
        WebCertificate::load(certificate.into(), key.into()).context("bundleEndpoint")
    };
    let web = config.files()?.map(load).transpose()?;
    let listener = TcpListener::bind(config.listen)
        .with_context(|| format!("bundleEndpoint.listen: cannot listen on {}", config.listen))?;
    listener.set_nonblocking(true)?;
    Ok(Waiting {
        listener,
        path: config.path.clone(),
        web,
    })
}

impl Waiting {
    /// Serves what is in `bundle` from when there is something, until it is aborted. Who asks before
    /// waits.
    ///
    /// # Errors
    /// When the socket cannot be used.
    pub fn serve(
        self,
        identity: Identity,
        mut bundle: watch::Receiver<Arc<str>>,
    ) -> io::Result<JoinHandle<()>> {
        let certificate = match self.web {
            Some(files) => Certificate::Web(files),
            None => Certificate::Svid(Arc::new(move || identity.current().certified())),
        };
        let limits = ServeLimits::default();
        let server = Server::new(self.path, bundle.clone(), certificate, limits);
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        Ok(tokio::spawn(async move {
            if bundle.wait_for(|text| !text.is_empty()).await.is_ok() {
                let Err(e) = server.run(listener).await;
                error!("bundle endpoint: {e}");
            }
        }))
    }
}
