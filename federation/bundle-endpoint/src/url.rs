//! Where a bundle is fetched: SPIFFE Federation, sections 5.2.1.1 and 5.2.2.1.

use std::{fmt, str::FromStr};

use hyper::Uri;
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};

/// Longest URL in bytes.
const MAX_URL: usize = 2048;

/// An `https` URL without userinfo and fragment.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EndpointUrl {
    text: String,
    pub(crate) name: ServerName<'static>,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// As the request's `Host` says it.
    pub(crate) authority: String,
    /// Path and query.
    pub(crate) target: String,
}

/// The text is no URL of a bundle endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} is no URL of a bundle endpoint: {problem}")]
pub struct UrlError {
    url: String,
    problem: &'static str,
}

impl FromStr for EndpointUrl {
    type Err = UrlError;
    fn from_str(text: &str) -> Result<Self, UrlError> {
        parse(text).map_err(|problem| UrlError {
            url: text.chars().take(200).collect(),
            problem,
        })
    }
}

fn parse(text: &str) -> Result<EndpointUrl, &'static str> {
    if text.len() > MAX_URL {
        return Err("it is longer than 2,048 bytes");
    }
    if text.contains('#') {
        return Err("it has a fragment");
    }
    let uri: Uri = text.parse().map_err(|_| "it is no URL")?;
    if uri.scheme_str() != Some("https") {
        return Err("it does not begin with https://");
    }
    let authority = uri.authority().ok_or("it names no host")?.as_str();
    if authority.contains('@') {
        return Err("it has a user name");
    }
    let host = uri.host().ok_or("it names no host")?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| "its host is no DNS name and no address")?;
    // `Uri` takes a port that is no number for none at all.
    let port = match authority.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => port.parse().unwrap_or(0),
        _ => 443,
    };
    if port == 0 {
        return Err("its port is no number from 1 to 65535");
    }
    Ok(EndpointUrl {
        text: text.to_owned(),
        host: host.to_owned(),
        port,
        authority: authority.to_owned(),
        target: uri
            .path_and_query()
            .map_or("/", |it| it.as_str())
            .to_owned(),
        name,
    })
}

impl TryFrom<String> for EndpointUrl {
    type Error = UrlError;
    fn try_from(text: String) -> Result<Self, UrlError> {
        text.parse()
    }
}

impl From<EndpointUrl> for String {
    fn from(url: EndpointUrl) -> Self {
        url.text
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn host_port_and_target_are_told_apart() {
        for (text, host, port, authority, target) in [
            ("https://a.example", "a.example", 443, "a.example", "/"),
            (
                "https://a.example:8443/b/c?d=e",
                "a.example",
                8443,
                "a.example:8443",
                "/b/c?d=e",
            ),
            ("HTTPS://192.0.2.1/x", "192.0.2.1", 443, "192.0.2.1", "/x"),
            (
                "https://[2001:db8::1]/x",
                "2001:db8::1",
                443,
                "[2001:db8::1]",
                "/x",
            ),
            ("https://[::1]:1/", "::1", 1, "[::1]:1", "/"),
        ] {
            let url: EndpointUrl = text.parse().unwrap();
            assert_eq!(
                (&*url.host, url.port, &*url.authority, &*url.target),
                (host, port, authority, target),
                "{text}"
            );
            assert_eq!(url.to_string(), text);
        }
    }

    #[test]
    fn what_the_profiles_do_not_allow_is_refused() {
        for (text, why) in [
            ("http://a.example/", "https://"),
            ("a.example", "https://"),
            ("/bundle", "https://"),
            ("", "no URL"),
            ("https://", "no URL"),
            ("https://user@a.example/", "user name"),
            ("https://user:pw@a.example/", "user name"),
            ("https://a.example/#x", "fragment"),
            ("https://a.example:0/", "port"),
            ("https://a.example:65536/", "port"),
            ("https://a.example:/", "port"),
            ("https://a..example/", "no DNS name"),
            ("https://a b/", "no URL"),
        ] {
            let error = text.parse::<EndpointUrl>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        let long = format!("https://a.example/{}", "a".repeat(MAX_URL));
        assert!(
            long.parse::<EndpointUrl>()
                .unwrap_err()
                .to_string()
                .contains("2,048")
        );
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_says_where(text in "(https://)?[a-z@:/#?\\[\\]0-9.]{0,40}|\\PC*") {
            if let Ok(url) = text.parse::<EndpointUrl>() {
                prop_assert!(!url.host.is_empty() && url.port > 0);
                prop_assert!(url.target.starts_with('/') || url.target.starts_with('?'), "{}", url.target);
                prop_assert!(!url.authority.contains('@'));
            }
        }
    }
}
