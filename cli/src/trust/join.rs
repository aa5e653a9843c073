//! `landbridge invite`, `join`, `members`, `remove` and `leave`.

use std::{
    io::{IsTerminal, Read},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use identity::{AwayRule, ClaimLimits, LabelLimit, NamePattern};
use observe::{InviteRequest, JoinRequest, TrustRequest};
use qrcode::{QrCode, render::unicode::Dense1x2};
use serde_json::{Value, json};

use super::{ask, seconds};
use crate::{
    admin,
    gateway::GatewayArg,
    say::{Output, complain, say},
};

/// How long both clusters may take to show each other.
const MEET: Duration = Duration::from_secs(5);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Arguments of `invite`.
#[derive(Debug, Args)]
pub struct InviteArgs {
    /// What the cluster that comes is to be called here; its own name when it is left out
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How long the token is good, such as 90s, 15m, 2h or 1d
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = seconds)]
    ttl: u32,
    #[command(flatten)]
    accept: AcceptArgs,
    #[command(flatten)]
    offer: OfferArgs,
    /// The cluster that comes may introduce others, if the gateway accepts that
    #[arg(long)]
    introducer: bool,
    #[command(flatten)]
    gateway: GatewayArg,
    /// For people or for programs
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// What the other cluster's credentials may claim here.
#[derive(Clone, Debug, Default, Args)]
pub struct AcceptArgs {
    /// Accept pods of the other cluster in these namespaces only, such as shop,team-*
    #[arg(long, value_name = "PATTERN,...", value_delimiter = ',', value_parser = NamePattern::new)]
    accept_namespaces: Vec<NamePattern>,
    /// Accept these service accounts only, such as shop/api,*/deployer
    #[arg(long, value_name = "PATTERN,...", value_delimiter = ',', value_parser = NamePattern::new)]
    accept_service_accounts: Vec<NamePattern>,
    /// Accept only these values of labels: env=prod|stage, or no label of a kind: !security.example/*
    #[arg(long, value_name = "LIMIT,...", value_delimiter = ',', value_parser = label_limit)]
    accept_labels: Vec<LabelLimit>,
    /// What becomes of it when it was not heard of for so long: 1h:closed (nothing of it is admitted) or
    /// 1h:keep (what it said last holds). Without a rule its bundle ends by itself
    #[arg(long, value_name = "TIME[:closed|keep]")]
    away: Option<AwayRule>,
}

/// Which pods of this cluster the other one may meet.
#[derive(Clone, Debug, Default, Args)]
pub struct OfferArgs {
    /// Offer the other cluster the pods of these namespaces alone, such as public,shared-*
    #[arg(long, value_name = "PATTERN,...", value_delimiter = ',', value_parser = NamePattern::new)]
    offer_namespaces: Vec<NamePattern>,
    /// Offer the pods of these service accounts alone, such as shop/api: one service
    #[arg(long, value_name = "PATTERN,...", value_delimiter = ',', value_parser = NamePattern::new)]
    offer_service_accounts: Vec<NamePattern>,
    /// Offer pods with these values of labels alone: tier=front|edge, or with no label of a kind: !internal/*
    #[arg(long, value_name = "LIMIT,...", value_delimiter = ',', value_parser = label_limit)]
    offer_labels: Vec<LabelLimit>,
}

impl OfferArgs {
    fn limits(self) -> ClaimLimits {
        ClaimLimits {
            namespaces: self.offer_namespaces,
            service_accounts: self.offer_service_accounts,
            labels: self.offer_labels,
        }
    }
}

impl AcceptArgs {
    fn limits(self) -> ClaimLimits {
        ClaimLimits {
            namespaces: self.accept_namespaces,
            service_accounts: self.accept_service_accounts,
            labels: self.accept_labels,
        }
    }
}

/// Arguments of `join`.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The token that `landbridge invite` printed in the other cluster; - reads it from standard input
    #[arg(value_name = "TOKEN")]
    token: String,
    /// What the other cluster is to be called here; its own name when it is left out
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    accept: AcceptArgs,
    #[command(flatten)]
    offer: OfferArgs,
    /// The other cluster may introduce others, if the gateway accepts that
    #[arg(long)]
    introducer: bool,
    #[command(flatten)]
    gateway: GatewayArg,
}

/// Arguments of `members`.
#[derive(Debug, Args)]
pub struct MembersArgs {
    #[command(flatten)]
    gateway: GatewayArg,
    /// For people or for programs
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// Arguments of `remove`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Its name or trust domain
    #[arg(value_name = "CLUSTER")]
    cluster: String,
    #[command(flatten)]
    gateway: GatewayArg,
}

/// Arguments of `leave`.
#[derive(Debug, Args)]
pub struct LeaveArgs {
    #[command(flatten)]
    gateway: GatewayArg,
}

/// Prints a token.
///
/// # Errors
/// Why there is none.
pub fn invite(args: InviteArgs) -> Result<()> {
    let request = TrustRequest::Invite(InviteRequest {
        name: args.name,
        ttl: Some(args.ttl),
        away: args.accept.away,
        accept: args.accept.limits(),
        offer: args.offer.limits(),
        introducer: args.introducer,
    });
    let made = ask(&args.gateway, &request)?;
    if args.output == Output::Json {
        say!("{made}");
        return Ok(());
    }
    let token = made["token"].as_str().context("no token came")?;
    say!("{token}");
    if std::io::stdout().is_terminal() {
        // A second screen reads it from the first; a pipe wants the text alone.
        if let Ok(code) = QrCode::new(token) {
            say!("\n{}", code.render::<Dense1x2>().build());
        }
    }
    let expires = made["expires"].as_str().unwrap_or_default();
    complain!(
        "good once, until {expires}. In the other cluster, as root: landbridge join TOKEN. Whoever has \
         the token can join: hand it over as you would a password"
    );
    Ok(())
}

/// Joins.
///
/// # Errors
/// Why not; then nothing changed here.
pub fn join(args: JoinArgs) -> Result<()> {
    let begun = Instant::now();
    let token = match &*args.token {
        "-" => {
            let mut text = String::new();
            std::io::stdin().take(1 << 16).read_to_string(&mut text)?;
            text
        }
        _ => args.token,
    };
    let request = TrustRequest::Join(JoinRequest {
        token,
        name: args.name,
        away: args.accept.away,
        accept: args.accept.limits(),
        offer: args.offer.limits(),
        introducer: args.introducer,
    });
    let joined = ask(&args.gateway, &request)?;
    let text = |field: &str| joined[field].as_str().unwrap_or_default().to_owned();
    say!("joined {} ({})", text("name"), text("trust_domain"));
    let state = args.gateway.state_dir()?;
    let meeting = || -> Result<Option<Value>> {
        let status = admin::ask(&state, &json!({"op": "status"}))?;
        let peers = status["peers"].as_array().cloned().unwrap_or_default();
        let meets = |peer: &Value| {
            peer["trust_domain"] == joined["trust_domain"]
                && peer["connected"] == true
                && peer["bundle_sequence"].is_number()
                && peer["digest_sequence"].is_number()
        };
        Ok(peers.into_iter().find(meets))
    };
    loop {
        if let Some(peer) = meeting()? {
            say!(
                "connected after {} ms: bundle {}, policy digest {}",
                begun.elapsed().as_millis(),
                peer["bundle_sequence"],
                peer["digest_sequence"]
            );
            return Ok(());
        }
        if begun.elapsed() > MEET {
            bail!(
                "it is a member, and there is no session with it yet: `landbridge status` says why"
            );
        }
        sleep(LOOK);
    }
}

/// Lists the clusters that were joined.
///
/// # Errors
/// When the gateway does not answer.
pub fn members(args: &MembersArgs) -> Result<()> {
    let all = ask(&args.gateway, &TrustRequest::Members {})?;
    if args.output == Output::Json {
        say!("{all}");
        return Ok(());
    }
    let all = all.as_array().map_or(&[][..], Vec::as_slice);
    if all.is_empty() {
        say!("no cluster was joined by a token or introduced");
    }
    for member in all {
        say!("{}", words(member));
    }
    Ok(())
}

/// Ends one membership.
///
/// # Errors
/// Why not.
pub fn remove(args: RemoveArgs) -> Result<()> {
    let request = TrustRequest::Remove {
        cluster: args.cluster,
    };
    let gone = ask(&args.gateway, &request)?;
    for member in gone.as_array().into_iter().flatten() {
        say!("removed: {}", words(member));
    }
    Ok(())
}

/// Ends all memberships.
///
/// # Errors
/// Why not.
pub fn leave(args: &LeaveArgs) -> Result<()> {
    let gone = ask(&args.gateway, &TrustRequest::Leave {})?;
    let gone = gone.as_array().map_or(&[][..], Vec::as_slice);
    if gone.is_empty() {
        say!("no cluster was joined by a token: there is none to leave");
    }
    for member in gone {
        say!("left: {}", words(member));
    }
    Ok(())
}

pub(super) fn words(member: &Value) -> String {
    let text = |field: &str| member[field].as_str().unwrap_or_default();
    let list = |field: &str, of: fn(&Value) -> &Value| {
        let all = member[field].as_array().into_iter().flatten();
        let all: Vec<_> = all.filter_map(|one| of(one).as_str()).collect();
        all.join(", ")
    };
    let (name, domain) = (text("name"), text("trust_domain"));
    let endpoints = list("endpoints", |endpoint| endpoint);
    let by = list("introduced_by", |by| by);
    if !text("pending").is_empty() {
        let why = text("pending");
        return format!("{name} ({domain}) at {endpoints}, introduced by {by}, waits: {why}");
    }
    let ranges = ranges(member);
    let since = text("since");
    let by = match by.is_empty() {
        true => String::new(),
        false => format!(", introduced by {by}"),
    };
    let introducer = match member["introducer"] == true {
        true => ", introducer",
        false => "",
    };
    let away: Option<AwayRule> = serde_json::from_value(member["away"].clone()).ok();
    let away = away.map_or_else(String::new, |rule| format!(", away {rule}"));
    let offer = serde_json::from_value(member["offer"].clone()).unwrap_or_default();
    let offer = offered(&offer);
    format!(
        "{name} ({domain}) at {endpoints}, pods in {ranges}, since {since}{by}{introducer}{away}{offer}"
    )
}

/// Which pods it may meet, when not all.
fn offered(offer: &ClaimLimits) -> String {
    let list = |what: &str, patterns: &[NamePattern]| {
        let words: Vec<_> = patterns.iter().map(NamePattern::as_str).collect();
        (!words.is_empty()).then(|| format!("{what} {}", words.join(", ")))
    };
    let labels: Vec<_> = offer.labels.iter().map(|limit| limit.key.clone()).collect();
    let parts = [
        list("namespaces", &offer.namespaces),
        list("service accounts", &offer.service_accounts),
        list("labels", &labels),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!(", offered {}", parts.join("; ")),
    }
}

/// Where it is seen here, and where it is.
fn ranges(member: &Value) -> String {
    let all = member["ranges"].as_array().into_iter().flatten();
    let words = all.map(|range| {
        let real = range["prefix"].as_str().unwrap_or_default();
        let id = range["range_id"].as_u64().unwrap_or_default().to_string();
        match member["mapped"][&id].as_str() {
            Some(seen) => format!("{seen} (there {real})"),
            None => real.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(", ")
}

/// `env=prod|stage`, or `!security.example/*`.
fn label_limit(text: &str) -> Result<LabelLimit, String> {
    let pattern = |text: &str| NamePattern::new(text).map_err(|e| e.to_string());
    if let Some(key) = text.strip_prefix('!') {
        return Ok(LabelLimit {
            key: pattern(key)?,
            values: Vec::new(),
        });
    }
    let (key, values) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is neither KEY=VALUE|VALUE nor !KEY"))?;
    Ok(LabelLimit {
        key: pattern(key)?,
        values: values.split('|').map(pattern).collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn members_are_shown_with_what_is_offered_to_them() {
        assert_eq!(offered(&ClaimLimits::default()), "");
        let args = OfferArgs {
            offer_namespaces: vec![NamePattern::new("public").unwrap()],
            offer_service_accounts: vec![NamePattern::new("shop/api").unwrap()],
            offer_labels: vec![label_limit("!internal/*").unwrap()],
        };
        assert_eq!(
            offered(&args.limits()),
            ", offered namespaces public; service accounts shop/api; labels internal/*"
        );
    }

    #[test]
    fn limits_of_labels_are_read() {
        let limit = label_limit("env=prod|stage").unwrap();
        assert_eq!((limit.key.as_str(), limit.values.len()), ("env", 2));
        let none = label_limit("!security.example/*").unwrap();
        assert!(none.values.is_empty());
        for text in ["env", "=prod", "!", "a**=b", "env=", ""] {
            assert!(label_limit(text).is_err(), "{text}");
        }
    }
}
