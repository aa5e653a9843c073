//! Claims as a CWT claims set (RFC 8392) and back. docs/spec/credential.md, sections 2 and 3, fix
//! the numbers.

use crate::{
    Assurance, Claims, Labels, NamedPort, SpiffeId, UnixMillis,
    cbor::{Bad, BytesOrText, Key, Reader, Writer},
    labels,
};

// RFC 8392, section 4, and RFC 8747, section 3.1.
const ISS: i64 = 1;
const SUB: i64 = 2;
const AUD: i64 = 3;
const EXP: i64 = 4;
const NBF: i64 = 5;
const IAT: i64 = 6;
const CTI: i64 = 7;
const CNF: i64 = 8;
/// Ours, in the range for private use.
const WORKLOAD: i64 = -70_000;

/// {1 (COSE_Key): {1 (kty): 1 (OKP), -1 (crv): 4 (X25519), -2 (x): 32 bytes}}, up to the 32 bytes.
const CNF_HEAD: [u8; 10] = [0xa1, 0x01, 0xa3, 0x01, 0x01, 0x20, 0x04, 0x21, 0x58, 0x20];

// Members of the workload claim.
const POD: i64 = 1;
const UID: i64 = 2;
const POD_LABELS: i64 = 3;
const NAMESPACE_LABELS: i64 = 4;
const ZONE: i64 = 5;
const NAMED_PORTS: i64 = 6;
const ASSURANCE: i64 = 7;
const GENERATION: i64 = 8;

const MAX_POD: usize = 253;
const MAX_UID: usize = 36;
const MAX_PORT_NAME: usize = 15;

/// The claims set. Times are written in whole seconds, rounded down.
///
/// # Errors
/// What the reader would refuse.
pub(crate) fn encode(claims: &Claims) -> Result<Vec<u8>, Bad> {
    check(claims)?;
    let mut ports = claims.named_ports.clone();
    ports.sort();
    ports.dedup();

    let mut w = Writer::default();
    w.map(7);
    w.int(ISS);
    w.text(claims.trust_domain().as_str());
    w.int(SUB);
    w.text(&claims.subject.to_string());
    w.int(EXP);
    w.uint(claims.expires_at.as_secs());
    w.int(IAT);
    w.uint(claims.issued_at.as_secs());
    w.int(CTI);
    w.bytes(&claims.id);
    w.int(CNF);
    w.raw(&CNF_HEAD);
    w.raw(&claims.agent_key);
    w.int(WORKLOAD);

    let optional = [
        !claims.labels.is_empty(),
        !claims.namespace_labels.is_empty(),
        claims.zone.is_some(),
        !ports.is_empty(),
    ];
    w.map(4 + optional.into_iter().filter(|present| *present).count());
    w.int(POD);
    w.text(&claims.pod);
    w.int(UID);
    match uuid_bytes(&claims.pod_uid) {
        Some(short) => w.bytes(&short),
        None => w.text(&claims.pod_uid),
    }
    for (key, labels) in [
        (POD_LABELS, &claims.labels),
        (NAMESPACE_LABELS, &claims.namespace_labels),
    ] {
        if !labels.is_empty() {
            w.int(key);
            write_labels(&mut w, labels);
        }
    }
    if let Some(zone) = &claims.zone {
        w.int(ZONE);
        w.text(zone);
    }
    if !ports.is_empty() {
        w.int(NAMED_PORTS);
        w.array(ports.len());
        for port in &ports {
            w.array(3);
            w.text(&port.name);
            w.uint(port.protocol.into());
            w.uint(port.port.into());
        }
    }
    w.int(ASSURANCE);
    w.uint(match claims.assurance {
        Assurance::Gateway => 0,
        Assurance::Agent => 1,
    });
    w.int(GENERATION);
    w.uint(claims.generation);
    Ok(w.finish())
}

/// A claims set as it stands there, before time and trust domain are judged.
pub(crate) struct Decoded<'a> {
    /// `iss`, which must equal the trust domain of the subject.
    pub(crate) issuer: &'a str,
    /// The rest.
    pub(crate) claims: Claims,
}

/// Reads what [`encode`] writes. A claim outside the workload claim that is not known is ignored,
/// except `aud` and `nbf`, which would limit the use; inside it, one with a key below zero is
/// ignored and any other is refused.
pub(crate) fn decode(payload: &[u8]) -> Result<Decoded<'_>, Bad> {
    let mut reader = Reader::new(payload);
    let (mut iss, mut sub, mut exp, mut iat) = (None, None, None, None);
    let (mut cti, mut cnf, mut workload) = (None, None, None);
    reader.map(|r, key| {
        match key {
            Key::Int(ISS) => iss = Some(r.text()?),
            Key::Int(SUB) => sub = Some(r.text()?),
            Key::Int(EXP) => exp = Some(r.uint()?),
            Key::Int(IAT) => iat = Some(r.uint()?),
            Key::Int(CTI) => cti = Some(r.byte_array()?),
            Key::Int(CNF) => cnf = Some(read_cnf(r)?),
            Key::Int(WORKLOAD) => workload = Some(read_workload(r)?),
            Key::Int(AUD | NBF) => return Err("aud and nbf are not used in a credential"),
            _ => r.skip()?,
        }
        Ok(())
    })?;
    reader.finish()?;
    let workload: Workload = workload.ok_or("the workload claim is missing")?;
    let claims = Claims {
        subject: sub
            .ok_or("sub is missing")?
            .parse::<SpiffeId>()
            .map_err(|_| "sub is not a SPIFFE ID")?,
        issued_at: UnixMillis::from_secs(iat.ok_or("iat is missing")?),
        expires_at: UnixMillis::from_secs(exp.ok_or("exp is missing")?),
        id: cti.ok_or("cti is missing")?,
        agent_key: cnf.ok_or("cnf is missing")?,
        pod: workload.pod,
        pod_uid: workload.uid,
        labels: workload.labels,
        namespace_labels: workload.namespace_labels,
        zone: workload.zone,
        named_ports: workload.named_ports,
        assurance: workload.assurance,
        generation: workload.generation,
    };
    check(&claims)?;
    Ok(Decoded {
        issuer: iss.ok_or("iss is missing")?,
        claims,
    })
}

/// What every credential holds to, at both ends.
fn check(claims: &Claims) -> Result<(), Bad> {
    let pod_name = |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    let port_name = |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if claims.subject.namespace_and_account().is_none() {
        return Err("the path of sub is not /ns/<namespace>/sa/<service account>");
    }
    if !within(&claims.pod, MAX_POD, pod_name) {
        return Err("the pod's name is not 1-253 bytes of [a-z0-9.-]");
    }
    if !within(&claims.pod_uid, MAX_UID, |b| b.is_ascii_graphic()) {
        return Err("the pod's UID is not 1-36 visible ASCII bytes");
    }
    if !claims.zone.as_deref().is_none_or(labels::is_name) {
        return Err("the zone is not a label value");
    }
    for port in &claims.named_ports {
        if !within(&port.name, MAX_PORT_NAME, port_name) || port.port == 0 {
            return Err("a named port is not 1-15 bytes of [a-z0-9-] and a port above 0");
        }
    }
    Ok(())
}

fn within(text: &str, max: usize, allowed: impl Fn(u8) -> bool) -> bool {
    (1..=max).contains(&text.len()) && text.bytes().all(allowed)
}

/// RFC 8747, section 3.2, in the one form that [`encode`] writes.
fn read_cnf(r: &mut Reader<'_>) -> Result<[u8; 32], Bad> {
    r.prefix(&CNF_HEAD)
        .and_then(|()| r.raw_array())
        .map_err(|_| "cnf is not one X25519 key")
}

/// The workload claim.
struct Workload {
    pod: String,
    uid: String,
    labels: Labels,
    namespace_labels: Labels,
    zone: Option<String>,
    named_ports: Vec<NamedPort>,
    assurance: Assurance,
    generation: u64,
}

fn read_workload(r: &mut Reader<'_>) -> Result<Workload, Bad> {
    let (mut pod, mut uid, mut assurance, mut generation) = (None, None, None, None);
    let (mut labels, mut namespace_labels) = (Labels::default(), Labels::default());
    let (mut zone, mut named_ports) = (None, Vec::new());
    r.map(|r, key| {
        match key {
            Key::Int(POD) => pod = Some(r.text()?.to_owned()),
            Key::Int(UID) => uid = Some(read_uid(r)?),
            Key::Int(POD_LABELS) => labels = read_labels(r)?,
            Key::Int(NAMESPACE_LABELS) => namespace_labels = read_labels(r)?,
            Key::Int(ZONE) => zone = Some(r.text()?.to_owned()),
            Key::Int(NAMED_PORTS) => named_ports = read_ports(r)?,
            Key::Int(ASSURANCE) => {
                assurance = Some(match r.uint()? {
                    0 => Assurance::Gateway,
                    1 => Assurance::Agent,
                    _ => return Err("an unknown assurance"),
                });
            }
            Key::Int(GENERATION) => generation = Some(r.uint()?),
            Key::Int(i64::MIN..=-1) => r.skip()?,
            _ => return Err("an unknown member of the workload claim"),
        }
        Ok(())
    })?;
    Ok(Workload {
        pod: pod.ok_or("the pod's name is missing")?,
        uid: uid.ok_or("the pod's UID is missing")?,
        labels,
        namespace_labels,
        zone,
        named_ports,
        assurance: assurance.ok_or("the assurance is missing")?,
        generation: generation.ok_or("the generation is missing")?,
    })
}

fn read_uid(r: &mut Reader<'_>) -> Result<String, Bad> {
    match r.bytes_or_text()? {
        BytesOrText::Bytes(bytes) => <[u8; 16]>::try_from(bytes)
            .map(uuid_text)
            .map_err(|_| "a UID in bytes has 16"),
        BytesOrText::Text(text) if uuid_bytes(text).is_none() => Ok(text.to_owned()),
        BytesOrText::Text(_) => Err("a UID that is a UUID is carried in 16 bytes"),
    }
}

fn read_ports(r: &mut Reader<'_>) -> Result<Vec<NamedPort>, Bad> {
    let mut ports: Vec<NamedPort> = Vec::new();
    for _ in 0..r.array()? {
        if r.array()? != 3 {
            return Err("a named port is not an array of three");
        }
        let port = NamedPort {
            name: r.text()?.to_owned(),
            protocol: u8::try_from(r.uint()?).map_err(|_| "a protocol above 255")?,
            port: u16::try_from(r.uint()?).map_err(|_| "a port above 65535")?,
        };
        if ports.last().is_some_and(|last| *last >= port) {
            return Err("named ports are not sorted, or stand twice");
        }
        ports.push(port);
    }
    if ports.is_empty() {
        return Err("an empty list of named ports");
    }
    Ok(ports)
}

fn read_labels(r: &mut Reader<'_>) -> Result<Labels, Bad> {
    let mut labels = Vec::new();
    r.map(|r, key| {
        let Key::Text(key) = key else {
            return Err("a label's key is not text");
        };
        labels.push((key, r.text()?));
        Ok(())
    })?;
    if labels.is_empty() {
        return Err("an empty map of labels");
    }
    // Shorter keys came first, and each once.
    labels.sort_unstable();
    Labels::from_sorted(labels.into_iter())
        .map_err(|_| "a label is not one by the rules of Kubernetes")
}

fn write_labels(w: &mut Writer, labels: &Labels) {
    // Shorter keys first: a text's length stands before its bytes.
    let mut sorted: Vec<_> = labels.iter().collect();
    sorted.sort_by_key(|(key, _)| (key.len(), *key));
    w.map(sorted.len());
    for (key, value) in sorted {
        w.text(key);
        w.text(value);
    }
}

/// The 16 bytes of a UUID in the form of RFC 9562, section 4, in lower case; `None` for any other.
fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let hex: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    // Whatever the loop let through (signs, upper case, misplaced hyphens) does not come back.
    (uuid_text(bytes) == text).then_some(bytes)
}

fn uuid_text(bytes: [u8; 16]) -> String {
    let mut text = [b'-'; MAX_UID];
    let mut rest = text.as_mut_slice();
    for (at, byte) in bytes.iter().enumerate() {
        let hyphen = usize::from(matches!(at, 4 | 6 | 8 | 10));
        let (digits, after) = std::mem::take(&mut rest)[hyphen..].split_at_mut(2);
        digits.copy_from_slice(
            &[byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]),
        );
        rest = after;
    }
    text.iter().copied().map(char::from).collect()
}
