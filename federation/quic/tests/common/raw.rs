//! A client of another make: plain quinn and rustls, which believes any server and says anything.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use std::{net::SocketAddr, sync::Arc};

use landbridge_quic as quic;
use quic::{Protocol, Svid};
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream,
    crypto::rustls::QuicClientConfig,
};
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, UnixTime,
    pem::{PemObject, SectionKind},
};

#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

pub fn config(own: Option<&Svid>, protocol: Protocol, early_data: bool) -> ClientConfig {
    let builder =
        rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer));
    let mut tls = match own {
        None => builder.with_no_client_auth(),
        Some(svid) => {
            let (chain, key) = chain_and_key(svid);
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    tls.alpn_protocols = vec![protocol.alpn().to_vec()];
    tls.enable_early_data = early_data;
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

/// By way of its file, since an SVID shows its key to nobody.
fn chain_and_key(svid: &Svid) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("svid.pem");
    svid.store(&path).unwrap();
    let (mut chain, mut key) = (Vec::new(), None);
    for section in <(SectionKind, Vec<u8>)>::pem_file_iter(&path).unwrap() {
        match section.unwrap() {
            (SectionKind::Certificate, der) => chain.push(der.into()),
            (_, der) => key = Some(PrivateKeyDer::Pkcs8(der.into())),
        }
    }
    (chain, key.unwrap())
}

pub async fn connect(
    own: Option<&Svid>,
    protocol: Protocol,
    server: SocketAddr,
) -> Result<(Endpoint, Connection), ConnectionError> {
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = endpoint.connect_with(config(own, protocol, false), server, "a.invalid");
    let connection = connecting.unwrap().await?;
    Ok((endpoint, connection))
}

/// A stream on which both ends said the prelude.
pub async fn stream(connection: &Connection) -> (SendStream, RecvStream) {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(b"LBS1-instance-of-raw").await.unwrap();
    let mut prelude = [0; 20];
    receive.read_exact(&mut prelude).await.unwrap();
    assert_eq!(&prelude[..4], b"LBS1");
    (send, receive)
}

/// What the server said at the end of the connection.
pub async fn last_words(connection: &Connection) -> String {
    match connection.closed().await {
        ConnectionError::ApplicationClosed(close) => {
            String::from_utf8_lossy(&close.reason).into_owned()
        }
        other => other.to_string(),
    }
}
