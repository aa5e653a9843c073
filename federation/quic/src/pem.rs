//! Keys and certificates as text: PEM (RFC 7468).

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::{
    CertificateDer, PrivatePkcs8KeyDer,
    pem::{PemObject, SectionKind},
};
use zeroize::Zeroizing;

use crate::{PkiError, pki::content};

/// One PKCS#8 key and the certificates in their order; anything else is refused.
pub(crate) fn read(
    path: &Path,
    pem: &[u8],
) -> Result<(PrivatePkcs8KeyDer<'static>, Vec<CertificateDer<'static>>), PkiError> {
    let (mut key, mut chain) = (None, Vec::new());
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        match section.map_err(|e| content(path, e.to_string()))? {
            (SectionKind::PrivateKey, der) if key.is_none() => key = Some(der.into()),
            (SectionKind::Certificate, der) => chain.push(der.into()),
            (kind, _) => return Err(content(path, format!("unexpected section {kind:?}"))),
        }
    }
    let key = key.ok_or_else(|| content(path, "no private key".into()))?;
    Ok((key, chain))
}

/// The private key, then the certificates.
pub(crate) fn write(key: &[u8], chain: &[&CertificateDer<'_>]) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(String::new());
    push(&mut text, "PRIVATE KEY", key);
    for certificate in chain {
        push(&mut text, "CERTIFICATE", certificate);
    }
    Zeroizing::new(text.as_bytes().to_vec())
}

/// Base64 in lines of 64 characters.
fn push(text: &mut String, label: &str, der: &[u8]) {
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for line in der.chunks(48) {
        STANDARD.encode_string(line, text);
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
}
