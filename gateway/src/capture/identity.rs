//! `--identity`: whose packets are looked at.

use identity::{Claims, Labels, SpiffeId, TrustDomain};

/// Terms that must all fit the same end of a packet.
///
/// ```text
/// spiffe://east/ns/shop/sa/web            the workload with this SPIFFE ID
/// east/shop/frontend, */shop/*            cluster/namespace/pod; `*` is any
/// app, !app, app=web, app==web, app!=web  a carried label of the pod, as kubectl has it
/// app in (web,api), app notin (web)
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentitySelector(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Id(SpiffeId),
    /// `None` is any.
    Name {
        cluster: Option<TrustDomain>,
        namespace: Option<String>,
        pod: Option<String>,
    },
    Label(String, Wanted),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Absent,
    Present,
    In(Vec<String>),
    NotIn(Vec<String>),
}

impl IdentitySelector {
    /// Reads the text form. `cluster` says which cluster a name means.
    ///
    /// # Errors
    /// The term that is none, in words, or what `cluster` says.
    pub fn parse(
        text: &str,
        cluster: impl Fn(&str) -> Result<TrustDomain, String>,
    ) -> Result<Self, String> {
        let mut terms = Vec::new();
        for term in split(text)? {
            let term = term.trim();
            let parsed = match parse_name(term) {
                Some([name, namespace, pod]) => Some(Term::Name {
                    cluster: name.as_deref().map(&cluster).transpose()?,
                    namespace,
                    pod,
                }),
                None => parse_term(term),
            };
            terms.push(parsed.ok_or_else(|| {
                format!(
                    "identity selector: `{term}` is neither a SPIFFE ID, nor CLUSTER/NAMESPACE/POD, nor a requirement \
                     on a label such as app=web, app!=web, app in (web,api), app or !app"
                )
            })?);
        }
        Ok(Self(terms))
    }

    /// Whether all terms fit.
    #[must_use]
    pub fn fits(&self, claims: &Claims) -> bool {
        self.0.iter().all(|term| term.fits(claims))
    }
}

impl Term {
    fn fits(&self, claims: &Claims) -> bool {
        match self {
            Self::Id(id) => claims.subject == *id,
            Self::Name {
                cluster,
                namespace,
                pod,
            } => {
                let is = |wanted: &Option<String>, found: &str| {
                    wanted.as_ref().is_none_or(|wanted| wanted == found)
                };
                let own = claims.trust_domain();
                (cluster.as_ref()).is_none_or(|cluster| cluster == own)
                    && is(namespace, claims.namespace())
                    && is(pod, &claims.pod)
            }
            Self::Label(key, wanted) => wanted.fits(key, &claims.labels),
        }
    }
}

impl Wanted {
    fn fits(&self, key: &str, labels: &Labels) -> bool {
        let found = labels.value(key);
        let among = |values: &[String]| found.is_some_and(|f| values.iter().any(|v| v == f));
        match self {
            Self::Absent => found.is_none(),
            Self::Present => found.is_some(),
            Self::In(values) => among(values),
            Self::NotIn(values) => !among(values),
        }
    }
}

/// At the commas that are in no parentheses.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let (mut terms, mut start, mut inside) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match (byte, inside) {
            (b'(', false) => inside = true,
            (b')', true) => inside = false,
            (b'(' | b')', _) => {
                let place = at + 1;
                return Err(format!(
                    "identity selector: a parenthesis too many in column {place}"
                ));
            }
            (b',', false) => {
                terms.push(text.get(start..at).unwrap_or_default());
                start = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err("identity selector: a parenthesis is not closed".into());
    }
    terms.push(text.get(start..).unwrap_or_default());
    Ok(terms)
}

fn parse_term(term: &str) -> Option<Term> {
    if term.starts_with("spiffe://") {
        return term.parse().ok().map(Term::Id);
    }
    if let Some((key, values)) = term.split_once('(') {
        let values = values.strip_suffix(')')?.split(',');
        let values = values.map(value).collect::<Option<_>>()?;
        let (key, operator) = key.trim().rsplit_once(char::is_whitespace)?;
        let wanted = match operator {
            "in" => Wanted::In(values),
            "notin" => Wanted::NotIn(values),
            _ => return None,
        };
        return Some(Term::Label(word(key)?, wanted));
    }
    if let Some(key) = term.strip_prefix('!') {
        return Some(Term::Label(word(key)?, Wanted::Absent));
    }
    for (operator, wanted) in [
        ("!=", Wanted::NotIn as fn(_) -> _),
        ("==", Wanted::In),
        ("=", Wanted::In),
    ] {
        if let Some((key, found)) = term.split_once(operator) {
            return Some(Term::Label(word(key)?, wanted(vec![value(found)?])));
        }
    }
    Some(Term::Label(word(term)?, Wanted::Present))
}

/// `CLUSTER/NAMESPACE/POD`, where `*` is `None`.
fn parse_name(term: &str) -> Option<[Option<String>; 3]> {
    let part = |part: &str| match part {
        "*" => Some(None),
        _ => Some(Some(word(part)?)),
    };
    let mut parts = term.split('/');
    let three = [parts.next()?, parts.next()?, parts.next()?];
    let none = parts.next().is_none();
    let [cluster, namespace, pod] = three.map(part);
    Some([cluster?, namespace?, pod?]).filter(|_| none)
}

/// A label's key, or a name.
fn word(text: &str) -> Option<String> {
    let word = value(text)?;
    let parts: Vec<&str> = word.split('/').collect();
    let whole = parts.len() <= 2 && parts.iter().all(|part| !part.is_empty());
    whole.then_some(word)
}

/// A value, which may be empty.
fn value(text: &str) -> Option<String> {
    let text = text.trim();
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    text.bytes().all(fits).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use identity::{Assurance, UnixMillis};

    use super::*;

    fn claims() -> Claims {
        let labels = [("app", "web"), ("shop.example/tier", "front")];
        Claims {
            subject: "spiffe://east.example/ns/shop/sa/web".parse().unwrap(),
            issued_at: UnixMillis(0),
            expires_at: UnixMillis(1),
            id: [0; 16],
            agent_key: [0; 32],
            pod: "frontend-1".into(),
            pod_uid: "uid".into(),
            labels: Labels::try_from(BTreeMap::from(labels.map(|(k, v)| (k.into(), v.into()))))
                .unwrap(),
            namespace_labels: Labels::default(),
            zone: None,
            named_ports: Vec::new(),
            assurance: Assurance::Agent,
            generation: 1,
        }
    }

    #[test]
    fn terms_fit_what_they_say() {
        let fits = |text: &str| {
            let selector = IdentitySelector::parse(text, |name| {
                TrustDomain::new(&format!("{name}.example")).map_err(|e| e.to_string())
            });
            selector.unwrap().fits(&claims())
        };
        for text in [
            "spiffe://east.example/ns/shop/sa/web",
            "east/shop/frontend-1",
            "*/shop/*",
            "app",
            "app=web",
            " app == web ,!legacy",
            "app!=api",
            "legacy!=x",
            "app in (api, web)",
            "app notin (api),shop.example/tier=front",
            "legacy notin (a,b)",
        ] {
            assert!(fits(text), "{text}");
        }
        for text in [
            "spiffe://east.example/ns/shop/sa/api",
            "west/shop/frontend-1",
            "*/shop/frontend",
            "legacy",
            "!app",
            "app=we",
            "app=",
            "app!=web",
            "app in (api)",
            "app notin (api,web)",
            "app=web,legacy",
        ] {
            assert!(!fits(text), "{text}");
        }
    }

    #[test]
    fn what_is_no_term_is_named() {
        for (text, named) in [
            ("", "``"),
            ("app=web,", "``"),
            ("nowhere/shop/web", "no nowhere"),
            ("app~web", "`app~web`"),
            ("=web", "`=web`"),
            ("app=a=b", "`app=a=b`"),
            ("spiffe://", "`spiffe://`"),
            ("a//b", "`a//b`"),
            ("app within (a)", "`app within (a)`"),
            ("app in (a) b", "`app in (a) b`"),
            ("app in (a", "not closed"),
            ("app)", "column 4"),
            ("app in ((a))", "column 9"),
        ] {
            let none = |name: &str| Err(format!("no {name}"));
            let error = IdentitySelector::parse(text, none).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
