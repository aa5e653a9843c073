//! FederationPeer -> the cluster to speak with.

use std::net::SocketAddr;

use identity::{
    AwayRule, AwayThen, ClaimLimits, LabelLimit, MAX_PATTERNS, NamePattern, SpiffeId,
    is_dns_subdomain,
};

use crate::{
    FederationConfig, FederationPeerConfig,
    crd::{
        AcceptSpec, AwaySpec, AwayWord, BundleEndpointSpec, BundleProfileWord, FederationPeerSpec,
    },
    decode::one_of,
    fault::{Faults, FieldPath},
};

/// The peer that `spec` describes for cluster `own`; `None` when its cluster is not known.
pub(super) fn peer(
    spec: &FederationPeerSpec,
    federation: &FederationConfig,
    own: &str,
    faults: &mut Faults,
) -> Option<FederationPeerConfig> {
    let path = FieldPath::of(&["spec"]);
    let others = federation.clusters.iter().filter(|c| c.name != own);
    let others: Vec<&str> = others.map(|c| c.name.as_str()).collect();
    let known = federation.cluster(&spec.cluster).filter(|c| c.name != own);
    let Some(cluster) = known else {
        let message = if spec.cluster == own {
            format!("{own:?} is this cluster itself")
        } else {
            format!(
                "federation {} has no cluster {:?}",
                federation.name, spec.cluster
            )
        };
        faults.add(path.key("cluster"), message, one_of(&others));
        return None;
    };
    if let Some(td) = &spec.trust_domain
        && td != cluster.trust_domain.as_str()
    {
        let message = format!("{td:?} is not the trust domain of cluster {}", cluster.name);
        faults.add(
            path.key("trustDomain"),
            message,
            cluster.trust_domain.as_str(),
        );
    }
    for (index, endpoint) in spec.endpoints.iter().enumerate() {
        if !is_endpoint(endpoint) {
            let message = format!("{endpoint:?} is no endpoint");
            let expected = "address:port or name:port, such as 192.0.2.2:4433";
            faults.add(path.key("endpoints").index(index), message, expected);
        }
    }
    if let Some(pin) = &spec.root_pin
        && !is_pin(pin)
    {
        let expected = "\"sha256:\" and 64 hex digits in lower case";
        faults.add(path.key("rootPin"), format!("{pin:?} is no pin"), expected);
    }
    if let Some(endpoint) = &spec.bundle_endpoint {
        let path = path.key("bundleEndpoint");
        if spec.root_pin.is_some() {
            let message = "it is believed by a pin already".to_owned();
            faults.add(path.clone(), message, "rootPin or bundleEndpoint");
        }
        fits_profile(endpoint, &path, faults);
    }
    let accept = spec.accept.as_ref();
    let accept = accept.map(|accept| limits(accept, &path.key("accept"), faults));
    let offer = spec.offer.as_ref();
    let offer = offer.map(|offer| limits(offer, &path.key("offer"), faults));
    let away = spec.away.as_ref();
    let away = away.and_then(|away| rule(away, &path.key("away"), faults));
    Some(FederationPeerConfig {
        cluster: cluster.name.clone(),
        trust_domain: cluster.trust_domain.clone(),
        endpoints: spec.endpoints.clone(),
        root_pin: spec.root_pin.clone(),
        bundle_endpoint: spec.bundle_endpoint.clone(),
        accept: accept.unwrap_or_default(),
        offer: offer.unwrap_or_default(),
        introducer: spec.introducer,
        away,
    })
}

/// The profile's own fields and no others; the URL and the texts are the gateway's to read.
fn fits_profile(spec: &BundleEndpointSpec, path: &FieldPath, faults: &mut Faults) {
    if !spec.url.starts_with("https://") {
        let message = format!("{:?} is no URL of a bundle endpoint", spec.url);
        faults.add(path.key("url"), message, "https://host[:port]/path");
    }
    let given = [
        ("spiffeId", spec.spiffe_id.is_some()),
        ("bundle", spec.bundle.is_some()),
        ("authorities", spec.authorities.is_some()),
    ];
    let (profile, own): (_, &[&str]) = match spec.profile {
        BundleProfileWord::Spiffe => ("https_spiffe", &["spiffeId", "bundle"]),
        BundleProfileWord::Web => ("https_web", &["authorities"]),
    };
    for (field, _) in given
        .iter()
        .filter(|(field, is)| *is && !own.contains(field))
    {
        let message = format!("{profile} has none");
        faults.add(path.key(field), message, one_of(own));
    }
    let id = spec.spiffe_id.as_ref().map(|id| id.parse::<SpiffeId>());
    match (spec.profile, id) {
        (BundleProfileWord::Spiffe, None) => {
            let message = "https_spiffe needs the SPIFFE ID of the server".to_owned();
            let expected = "such as spiffe://south.example/spire/server";
            faults.add(path.key("spiffeId"), message, expected);
        }
        (BundleProfileWord::Spiffe, Some(Err(error))) => {
            let expected = "such as spiffe://south.example/spire/server";
            faults.add(path.key("spiffeId"), error.to_string(), expected);
        }
        _ => {}
    }
}

fn rule(spec: &AwaySpec, path: &FieldPath, faults: &mut Faults) -> Option<AwayRule> {
    let limit = spec.limit.parse();
    if limit.is_err() {
        let message = format!("{:?} is no limit", spec.limit);
        let expected = "a time of 1 s to 365 days, such as 90s, 15m, 2h or 7d";
        faults.add(path.key("limit"), message, expected);
    }
    let then = match spec.then {
        AwayWord::Closed => AwayThen::Closed,
        AwayWord::Keep => AwayThen::Keep,
    };
    Some(AwayRule {
        limit: limit.ok()?,
        then,
    })
}

fn limits(spec: &AcceptSpec, path: &FieldPath, faults: &mut Faults) -> ClaimLimits {
    let mut patterns = |path: FieldPath, texts: &[String]| -> Vec<NamePattern> {
        if texts.len() > MAX_PATTERNS {
            let message = format!("{} patterns", texts.len());
            faults.add(path, message, format!("at most {MAX_PATTERNS}"));
            return Vec::new();
        }
        let read = texts.iter().enumerate().filter_map(|(index, text)| {
            let pattern = NamePattern::new(text);
            if let Err(error) = &pattern {
                let expected = "a name, or one with a single * such as team-*";
                faults.add(path.index(index), error.to_string(), expected);
            }
            pattern.ok()
        });
        read.collect()
    };
    let namespaces = patterns(path.key("namespaces"), &spec.namespaces);
    let service_accounts = patterns(path.key("serviceAccounts"), &spec.service_accounts);
    let labels = spec.labels.iter().enumerate().filter_map(|(index, label)| {
        let path = path.key("labels").index(index);
        let key = patterns(path.key("key"), std::slice::from_ref(&label.key)).pop();
        let values = patterns(path.key("values"), &label.values);
        Some(LabelLimit { key: key?, values })
    });
    ClaimLimits {
        labels: labels.collect(),
        namespaces,
        service_accounts,
    }
}

fn is_endpoint(endpoint: &str) -> bool {
    if let Ok(address) = endpoint.parse::<SocketAddr>() {
        return address.port() != 0;
    }
    endpoint.rsplit_once(':').is_some_and(|(host, port)| {
        let is_number = port.parse::<u16>().is_ok_and(|p| p != 0);
        // A last part of digits only would be an address that failed to parse.
        let last = host.rsplit('.').next().unwrap_or(host);
        is_number && is_dns_subdomain(host) && !last.bytes().all(|b| b.is_ascii_digit())
    })
}

fn is_pin(pin: &str) -> bool {
    pin.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}
