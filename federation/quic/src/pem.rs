//! Keys and certificates as text: PEM (RFC 7468).

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::{
    CertificateDer, PrivatePkcs8KeyDer,
    pem::{PemObject, SectionKind},
};
use zeroize::Zeroizing;

use crate::{Passphrase, PkiError, pki::content};

/// The label of a key that a passphrase protects (RFC 7468, section 11).
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";

/// Whether a key in it is protected by a passphrase.
pub(crate) fn is_encrypted(pem: &[u8]) -> bool {
    encrypted(pem).is_some()
}

/// A private key and certificates.
type Read<Key> = (Key, Vec<CertificateDer<'static>>);

/// One PKCS#8 key and the certificates in their order; anything else is refused.
pub(crate) fn read(
    path: &Path,
    pem: &[u8],
    passphrase: Option<&Passphrase>,
) -> Result<Read<PrivatePkcs8KeyDer<'static>>, PkiError> {
    let (key, chain) = read_any(path, pem, passphrase)?;
    let key = key.ok_or_else(|| content(path, "no private key".into()))?;
    Ok((key, chain))
}

/// The same, where the key may be missing.
pub(crate) fn read_any(
    path: &Path,
    pem: &[u8],
    passphrase: Option<&Passphrase>,
) -> Result<Read<Option<PrivatePkcs8KeyDer<'static>>>, PkiError> {
    let (mut key, mut chain) = (opened(path, pem, passphrase)?, Vec::new());
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        match section.map_err(|e| content(path, e.to_string()))? {
            (SectionKind::PrivateKey, der) if key.is_none() => key = Some(der.into()),
            (SectionKind::Certificate, der) => chain.push(der.into()),
            (kind, _) => return Err(content(path, format!("unexpected section {kind:?}"))),
        }
    }
    Ok((key, chain))
}

/// The key that a passphrase protects, if there is one.
fn opened(
    path: &Path,
    pem: &[u8],
    passphrase: Option<&Passphrase>,
) -> Result<Option<PrivatePkcs8KeyDer<'static>>, PkiError> {
    let Some(base64) = encrypted(pem) else {
        return Ok(None);
    };
    let passphrase = passphrase.ok_or_else(|| {
        let problem = "its private key is encrypted, and no passphrase is configured";
        content(path, problem.into())
    })?;
    let base64: Vec<u8> = base64
        .bytes()
        .filter(|b| !b.is_ascii_whitespace())
        .collect();
    let der = STANDARD.decode(base64);
    let der = der.map_err(|e| content(path, e.to_string()))?;
    let key = passphrase.decrypt(&der);
    let key = key.map_err(|problem| content(path, problem.into()))?;
    Ok(Some(key.to_vec().into()))
}

/// The Base64 of a key that a passphrase protects.
fn encrypted(pem: &[u8]) -> Option<&str> {
    let text = str::from_utf8(pem).ok()?;
    let (_, after) = text.split_once(&format!("-----BEGIN {ENCRYPTED}-----"))?;
    let (base64, _) = after.split_once(&format!("-----END {ENCRYPTED}-----"))?;
    Some(base64)
}

/// The private key, if there is one, then the certificates.
pub(crate) fn write(
    key: Option<&[u8]>,
    chain: &[&CertificateDer<'_>],
    passphrase: Option<&Passphrase>,
) -> Result<Zeroizing<Vec<u8>>, PkiError> {
    let mut text = Zeroizing::new(String::new());
    match (key, passphrase) {
        (Some(key), Some(passphrase)) => push(&mut text, ENCRYPTED, &passphrase.encrypt(key)?),
        (Some(key), None) => push(&mut text, "PRIVATE KEY", key),
        (None, _) => {}
    }
    for certificate in chain {
        push(&mut text, "CERTIFICATE", certificate);
    }
    Ok(Zeroizing::new(text.as_bytes().to_vec()))
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
