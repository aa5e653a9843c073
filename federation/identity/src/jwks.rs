//! The JSON of a bundle: a JWK set (RFC 7517) by SPIFFE Trust Domain and Bundle, section 4.

use std::{collections::BTreeMap, fmt, time::Duration};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer, public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

use crate::{
    BundleParseError, IssuerPublicKey, TrustBundle, TrustDomain, UnixMillis,
    bundle::{MAX_BUNDLE, MAX_CARRIED_LABELS, MAX_KEYS},
    labels,
};

/// X509-SVID, section 6.
const USE_X509: &str = "x509-svid";
/// Ours: an Ed25519 key (RFC 8037) that signs credentials.
const USE_ISSUER: &str = "landbridge-issuer";

const KEYS: &str = "keys";
const SEQUENCE: &str = "spiffe_sequence";
const REFRESH_HINT: &str = "spiffe_refresh_hint";
const EXPIRES_AT: &str = "landbridge_expires_at";
const CARRIED_LABELS: &str = "landbridge_carried_labels";

/// For a bundle that gives no hint: five minutes.
const DEFAULT_REFRESH_HINT: u64 = 300;

#[derive(Serialize)]
struct Set<'a> {
    keys: Vec<Jwk>,
    spiffe_sequence: u64,
    spiffe_refresh_hint: u64,
    landbridge_expires_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    landbridge_carried_labels: Option<Vec<&'a str>>,
}

#[derive(Serialize, Default)]
struct Jwk {
    kty: &'static str,
    #[serde(rename = "use")]
    usage: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x5c: Option<[String; 1]>,
}

/// Always the same bytes for the same content.
pub(crate) fn write(bundle: &TrustBundle) -> String {
    let mut roots: Vec<_> = bundle.x509_roots.iter().collect();
    roots.sort();
    let mut issuers: Vec<_> = bundle.issuer_keys.iter().collect();
    issuers.sort_by_key(|key| *key.as_bytes());
    let roots = roots.into_iter().filter_map(|der| {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        let key = describe(certificate.public_key()).filter(|_| rest.is_empty())?;
        Some(Jwk {
            usage: USE_X509,
            x5c: Some([STANDARD.encode(der)]),
            ..key
        })
    });
    let issuers = issuers.into_iter().map(|key| Jwk {
        kty: "OKP",
        usage: USE_ISSUER,
        kid: Some(key.id().to_string()),
        crv: Some("Ed25519"),
        x: Some(URL_SAFE_NO_PAD.encode(key.as_bytes())),
        ..Jwk::default()
    });
    let set = Set {
        keys: roots.chain(issuers).collect(),
        spiffe_sequence: bundle.sequence,
        spiffe_refresh_hint: bundle.refresh_hint.as_secs(),
        landbridge_expires_at: bundle.expires_at.as_secs(),
        landbridge_carried_labels: bundle.carried_labels.as_ref().map(|keys| {
            let mut keys: Vec<_> = keys.iter().map(String::as_str).collect();
            keys.sort_unstable();
            keys
        }),
    };
    // Strings and numbers under names that stand once: nothing here can fail.
    serde_json::to_string(&set).unwrap_or_default()
}

pub(crate) fn read(trust_domain: TrustDomain, json: &str) -> Result<TrustBundle, BundleParseError> {
    let read = read_as(trust_domain, json, Written::ByUs)?;
    if read.numbered {
        return Ok(read.bundle);
    }
    Err(BundleParseError::Member {
        member: SEQUENCE,
        expected: "there, and without it an older bundle cannot be told from a newer one",
    })
}

/// A bundle, and which of its members that may be missing were there.
pub(crate) struct Read {
    pub bundle: TrustBundle,
    pub numbered: bool,
    pub ends: bool,
}

/// Reads what any implementation may have written.
pub(crate) fn read_fetched(
    trust_domain: TrustDomain,
    json: &str,
) -> Result<Read, BundleParseError> {
    read_as(trust_domain, json, Written::ByAnybody)
}

/// Whose reading of X.509-SVID, section 6, holds for the certificates of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    /// Section 6.1, "Publishing": exactly one certificate.
    ByUs,
    /// Section 6.2, "Consuming": none, and the key is ignored; several, and the first counts.
    ByAnybody,
}

fn read_as(
    trust_domain: TrustDomain,
    json: &str,
    written: Written,
) -> Result<Read, BundleParseError> {
    if json.len() > MAX_BUNDLE {
        return Err(BundleParseError::TooLarge(json.len()));
    }
    let set: Object =
        serde_json::from_str(json).map_err(|error| BundleParseError::Json(error.to_string()))?;
    let keys = match set.0.get(KEYS) {
        Some(Value::Array(_)) => keys_again(json)?,
        _ => {
            return Err(BundleParseError::Member {
                member: KEYS,
                expected: "an array",
            });
        }
    };
    let (x509_roots, issuer_keys) = read_keys(&keys, written)?;
    let (sequence, end) = (number(&set, SEQUENCE)?, number(&set, EXPIRES_AT)?);
    let bundle = TrustBundle {
        trust_domain,
        sequence: sequence.unwrap_or(0),
        refresh_hint: Duration::from_secs(
            number(&set, REFRESH_HINT)?.unwrap_or(DEFAULT_REFRESH_HINT),
        ),
        x509_roots,
        issuer_keys,
        carried_labels: read_carried_labels(&set)?,
        expires_at: UnixMillis::from_secs(end.unwrap_or(0)),
    };
    Ok(Read {
        bundle,
        numbered: sequence.is_some(),
        ends: end.is_some(),
    })
}

type Keys = (Vec<Vec<u8>>, Vec<IssuerPublicKey>);

fn read_keys(keys: &[Object], written: Written) -> Result<Keys, BundleParseError> {
    let (mut roots, mut issuers) = (Vec::new(), Vec::<IssuerPublicKey>::new());
    for (index, jwk) in keys.iter().enumerate() {
        let bad = |problem| BundleParseError::Key { index, problem };
        match jwk.text("use") {
            Some(USE_X509) => {
                let Some(der) = read_root(jwk, written).map_err(bad)? else {
                    continue;
                };
                if roots.contains(&der) {
                    match written {
                        Written::ByUs => return Err(bad("the same root stands twice")),
                        Written::ByAnybody => continue,
                    }
                }
                roots.push(der);
            }
            Some(USE_ISSUER) => {
                let Some(key) = read_issuer(jwk).map_err(bad)? else {
                    continue;
                };
                if issuers.iter().any(|other| other.id() == key.id()) {
                    return Err(bad("two issuer keys have the same id"));
                }
                issuers.push(key);
            }
            _ => continue,
        }
        if roots.len() > MAX_KEYS || issuers.len() > MAX_KEYS {
            return Err(BundleParseError::TooMany("keys"));
        }
    }
    roots.sort();
    issuers.sort_by_key(|key| *key.as_bytes());
    Ok((roots, issuers))
}

/// `None` for a key type that we do not know.
fn read_root(jwk: &Object, written: Written) -> Result<Option<Vec<u8>>, &'static str> {
    if !matches!(jwk.text("kty"), Some("EC" | "RSA" | "OKP")) {
        return Ok(None);
    }
    let x5c = match jwk.0.get("x5c") {
        Some(Value::Array(certificates)) => certificates.as_slice(),
        None => &[],
        Some(_) => return Err("x5c is not an array"),
    };
    let certificate = match (x5c, written) {
        ([Value::String(certificate)], _) => certificate,
        ([Value::String(first), ..], Written::ByAnybody) => first,
        ([], Written::ByAnybody) => return Ok(None),
        _ => return Err("x5c is not an array of one certificate"),
    };
    let der = STANDARD
        .decode(certificate)
        .map_err(|_| "x5c is not base64")?;
    let (rest, certificate) =
        X509Certificate::from_der(&der).map_err(|_| "x5c is not a certificate")?;
    if !rest.is_empty() {
        return Err("bytes follow the certificate");
    }
    if !certificate.is_ca() {
        return Err("the certificate is not one of an authority");
    }
    Ok(describe(certificate.public_key()).is_some().then_some(der))
}

/// `None` for a key type that we do not know.
fn read_issuer(jwk: &Object) -> Result<Option<IssuerPublicKey>, &'static str> {
    if jwk.text("kty") != Some("OKP") || jwk.text("crv") != Some("Ed25519") {
        return Ok(None);
    }
    let bytes: [u8; 32] = jwk
        .text("x")
        .and_then(|x| URL_SAFE_NO_PAD.decode(x).ok())
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or("x is not base64url of 32 bytes")?;
    let key = IssuerPublicKey::from_bytes(&bytes)
        .map_err(|_| "x is no Ed25519 key, or one of small order")?;
    match jwk.text("kid") {
        Some(kid) if kid != key.id().to_string() => Err("kid is not the id of the key"),
        _ => Ok(Some(key)),
    }
}

fn read_carried_labels(set: &Object) -> Result<Option<Vec<String>>, BundleParseError> {
    const BAD: BundleParseError = BundleParseError::Member {
        member: CARRIED_LABELS,
        expected: "an array of different label keys",
    };
    let Some(value) = set.0.get(CARRIED_LABELS) else {
        return Ok(None);
    };
    let values = value.as_array().ok_or(BAD)?;
    if values.len() > MAX_CARRIED_LABELS {
        return Err(BundleParseError::TooMany("carried labels"));
    }
    let mut keys = values
        .iter()
        .map(|value| value.as_str().map(String::from).ok_or(BAD))
        .collect::<Result<Vec<_>, _>>()?;
    keys.sort();
    let doubled = keys.windows(2).any(|pair| pair.first() == pair.last());
    if doubled || keys.iter().any(|key| labels::check_key(key).is_err()) {
        return Err(BAD);
    }
    Ok(Some(keys))
}

fn number(set: &Object, member: &'static str) -> Result<Option<u64>, BundleParseError> {
    let expected = "an integer from 0 to 2^64-1";
    set.0
        .get(member)
        .map(|value| {
            value
                .as_u64()
                .ok_or(BundleParseError::Member { member, expected })
        })
        .transpose()
}

/// The public part of a JWK for the key of a certificate (RFC 7518, section 6; RFC 8037).
fn describe(info: &SubjectPublicKeyInfo<'_>) -> Option<Jwk> {
    let encode = |bytes: &[u8]| Some(URL_SAFE_NO_PAD.encode(bytes));
    let unsigned = |bytes: &[u8]| {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        encode(bytes.get(zeros..).unwrap_or_default())
    };
    match info.parsed() {
        Ok(PublicKey::EC(point)) => {
            let ([4, xy @ ..], crv) = (point.data(), curve(info)?) else {
                return None;
            };
            let (x, y) = xy
                .split_at_checked(crv.1)
                .filter(|(_, y)| y.len() == crv.1)?;
            Some(Jwk {
                kty: "EC",
                crv: Some(crv.0),
                x: encode(x),
                y: encode(y),
                ..Jwk::default()
            })
        }
        Ok(PublicKey::RSA(key)) => Some(Jwk {
            kty: "RSA",
            n: unsigned(key.modulus),
            e: unsigned(key.exponent),
            ..Jwk::default()
        }),
        _ if info.algorithm.algorithm.to_id_string() == "1.3.101.112" => Some(Jwk {
            kty: "OKP",
            crv: Some("Ed25519"),
            x: encode(&info.subject_public_key.data),
            ..Jwk::default()
        }),
        _ => None,
    }
}

/// Name of the curve and bytes of a coordinate (RFC 5480, section 2.1.1.1).
fn curve(info: &SubjectPublicKeyInfo<'_>) -> Option<(&'static str, usize)> {
    let oid = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
    match oid.to_id_string().as_str() {
        "1.2.840.10045.3.1.7" => Some(("P-256", 32)),
        "1.3.132.0.34" => Some(("P-384", 48)),
        "1.3.132.0.35" => Some(("P-521", 66)),
        _ => None,
    }
}

/// A JSON object in which no member stands twice; `serde_json` would take the last one, another
/// reader the first.
struct Object(BTreeMap<String, Value>);

impl Object {
    fn text(&self, member: &str) -> Option<&str> {
        self.0.get(member)?.as_str()
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Object;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if members.contains_key(&name) {
                        return Err(de::Error::custom(format!("member {name:?} stands twice")));
                    }
                    members.insert(name, value);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// The elements of `keys` once more, now with an eye on members that stand twice.
fn keys_again(json: &str) -> Result<Vec<Object>, BundleParseError> {
    #[derive(Deserialize)]
    struct Keys {
        keys: Vec<Object>,
    }
    serde_json::from_str::<Keys>(json)
        .map(|set| set.keys)
        .map_err(|error| BundleParseError::Json(error.to_string()))
}
