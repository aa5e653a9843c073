//! What a certificate says, and whether it may say so: the X.509-SVID standard, sections 2 to 5.

use identity::{SpiffeId, TrustDomain, UnixMillis};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, KeyUsage},
    prelude::FromDer,
};

use crate::{Pin, VerifyError};

/// A leaf that keeps the rules of an X.509-SVID. Nothing is said of its signature.
pub struct Leaf {
    /// Who it names.
    pub id: SpiffeId,
    /// The begin of its validity.
    pub not_before: UnixMillis,
    /// The end of its validity.
    pub expires_at: UnixMillis,
    /// DER of the SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
}

/// A certificate that may sign for a trust domain.
pub struct Root {
    /// The begin of its validity.
    pub not_before: UnixMillis,
    /// The end of its validity.
    pub expires_at: UnixMillis,
    /// DER of the SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
}

/// Reads a leaf: exactly one URI SAN, which is a SPIFFE ID with a path; no CA; key usage
/// `digitalSignature` and neither `keyCertSign` nor `cRLSign`.
///
/// # Errors
/// [`VerifyError`] names the rule.
pub fn inspect(der: &[u8]) -> Result<Leaf, VerifyError> {
    let certificate = parse(der)?;
    let id = spiffe_id(&certificate)?;
    if id.path().is_empty() {
        return Err(VerifyError::NoPath(id));
    }
    if is_ca(&certificate)? {
        return Err(VerifyError::LeafIsCa(id));
    }
    let usage = key_usage(&certificate)?;
    if !usage.is_some_and(|usage| usage.digital_signature()) {
        return Err(VerifyError::KeyUsage(id, "lacks digitalSignature"));
    }
    if usage.is_some_and(|usage| usage.key_cert_sign() || usage.crl_sign()) {
        return Err(VerifyError::KeyUsage(id, "holds keyCertSign or cRLSign"));
    }
    Ok(Leaf {
        id,
        not_before: instant(certificate.validity().not_before.timestamp()),
        expires_at: instant(certificate.validity().not_after.timestamp()),
        public_key: certificate.public_key().raw.to_vec(),
    })
}

/// Reads a root of `trust_domain`: a CA that may sign certificates and, if it names a SPIFFE ID at
/// all, names that of the trust domain itself.
///
/// # Errors
/// [`VerifyError::Root`] names the rule.
pub fn inspect_root(der: &[u8], trust_domain: &TrustDomain) -> Result<Root, VerifyError> {
    let certificate = parse(der)?;
    let bad = |problem| VerifyError::Root {
        trust_domain: trust_domain.clone(),
        root: Pin::of(der),
        problem,
    };
    if !is_ca(&certificate)? {
        return Err(bad("is not a CA"));
    }
    if !key_usage(&certificate)?.is_some_and(|usage| usage.key_cert_sign()) {
        return Err(bad("may not sign certificates"));
    }
    match uris(&certificate)?.as_slice() {
        [] => {}
        [uri] if *uri == format!("spiffe://{trust_domain}") => {}
        _ => return Err(bad("names another trust domain")),
    }
    Ok(Root {
        not_before: instant(certificate.validity().not_before.timestamp()),
        expires_at: instant(certificate.validity().not_after.timestamp()),
        public_key: certificate.public_key().raw.to_vec(),
    })
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, VerifyError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(VerifyError::Malformed(
            "bytes follow the certificate".into(),
        )),
        Err(e) => Err(VerifyError::Malformed(e.to_string())),
    }
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, VerifyError> {
    match uris(certificate)?.as_slice() {
        [uri] => uri
            .parse()
            .map_err(|source| VerifyError::NotSpiffe(uri.chars().take(300).collect(), source)),
        uris => Err(VerifyError::UriSans(uris.len())),
    }
}

fn uris<'a>(certificate: &X509Certificate<'a>) -> Result<Vec<&'a str>, VerifyError> {
    let names = certificate.subject_alternative_name().map_err(extension)?;
    let names = names.map_or(&[][..], |extension| &extension.value.general_names);
    Ok(names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect())
}

fn is_ca(certificate: &X509Certificate<'_>) -> Result<bool, VerifyError> {
    let constraints = certificate.basic_constraints().map_err(extension)?;
    Ok(constraints.is_some_and(|extension| extension.value.ca))
}

fn key_usage<'a>(
    certificate: &'a X509Certificate<'_>,
) -> Result<Option<&'a KeyUsage>, VerifyError> {
    let usage = certificate.key_usage().map_err(extension)?;
    Ok(usage.map(|extension| extension.value))
}

fn extension(error: x509_parser::error::X509Error) -> VerifyError {
    VerifyError::Malformed(error.to_string())
}

/// Times before 1970 count as 1970.
fn instant(timestamp: i64) -> UnixMillis {
    UnixMillis::from_secs(u64::try_from(timestamp).unwrap_or(0))
}
