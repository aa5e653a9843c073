use identity::{Assurance, Labels as LabelSet, NamePattern};
use proptest::prelude::*;

use super::*;
use crate::credentials::PodState;

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn label_set(pairs: &[(&str, &str)]) -> LabelSet {
    let map: BTreeMap<String, String> = pairs
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect();
    LabelSet::try_from(map).unwrap()
}

fn claims(cluster: &str, app: &str) -> Arc<Claims> {
    Arc::new(Claims {
        subject: SpiffeId::workload(&domain(cluster), "shop", app).unwrap(),
        issued_at: UnixMillis(0),
        expires_at: UnixMillis(u64::MAX),
        id: [7; 16],
        agent_key: [1; 32],
        pod: app.into(),
        pod_uid: format!("uid-{app}"),
        labels: label_set(&[("app", app)]),
        namespace_labels: label_set(&[("team", "store")]),
        zone: None,
        named_ports: vec![],
        assurance: Assurance::Agent,
        generation: 1,
    })
}

fn revocation(target: Target) -> Revocation {
    Revocation {
        target,
        reason: "a stolen laptop".into(),
        at: UnixMillis(1_800_000_000_000),
    }
}

fn admission(restrictions: Restrictions) -> Admission {
    let restricted = Restricted::new(&domain("east"), restrictions).unwrap();
    let domains = BTreeMap::from([(domain("east"), Arc::new(restricted))]);
    Admission::new(PodStates::default(), domains, KnownKeys::all())
}

fn revoking(target: Target) -> Admission {
    admission(Restrictions {
        revoked: vec![revocation(target)],
        ..Restrictions::default()
    })
}

fn labels(pods: &str, namespaces: Option<&str>) -> Target {
    Target::Labels {
        pods: pods.into(),
        namespaces: namespaces.map(Into::into),
    }
}

#[test]
fn each_target_hits_what_it_names_and_nothing_else() {
    let id =
        |name: &str| Target::Identity(SpiffeId::workload(&domain("east"), "shop", name).unwrap());
    let credential = |byte| Target::Credential(CredentialId([byte; 16]));
    for (target, hits) in [
        (Target::Cluster, true),
        (id("web"), true),
        (id("db"), false),
        (credential(7), true),
        (credential(8), false),
        (labels("app == \"web\"", None), true),
        (labels("app == \"web\"", Some("team == \"store\"")), true),
        (labels("app == \"web\"", Some("team == \"bank\"")), false),
        (labels("app in {\"db\"}", None), false),
    ] {
        let words = target.to_string();
        let admission = revoking(target);
        let web = claims("east", "web");
        let expected = if hits {
            Err(DropReason::Revoked)
        } else {
            Ok(())
        };
        assert_eq!(admission.check(&web), expected, "{words}");
        assert_eq!(admission.newest(&web).is_err(), hits, "{words}");
        let why = admission.why(&web);
        assert_eq!(why.is_some(), hits, "{words}");
        if let Some(why) = why {
            assert!(
                why.contains("a stolen laptop") && why.contains(&words),
                "{why}"
            );
        }
        assert_eq!(
            admission.check(&claims("west", "web")),
            Ok(()),
            "{words}: of another trust domain"
        );
    }
}

/// A deny holds where a label is unknown, as a rule of a policy does.
#[test]
fn a_label_that_is_not_carried_may_be_the_revoked_one() {
    let target = labels("compromised == \"yes\"", None);
    let carried = |keys: &[&str]| {
        let mut known = KnownKeys::all();
        known.narrow(domain("east"), keys.iter().map(|key| (*key).to_owned()));
        let domains = revoking(target.clone()).domains;
        let admission = Admission::new(PodStates::default(), domains, known);
        admission.check(&claims("east", "web"))
    };
    assert_eq!(
        carried(&["app", "compromised"]),
        Ok(()),
        "known to be absent"
    );
    assert_eq!(carried(&["app"]), Err(DropReason::Revoked));
}

/// The labels that count are those of now, and what was proven once stays revoked.
#[test]
fn a_pod_that_was_relabelled_is_held_against_both() {
    let old = claims("east", "web");
    let new = Arc::new(Claims {
        id: [9; 16],
        labels: label_set(&[("app", "batch")]),
        generation: 2,
        ..Claims::clone(&old)
    });
    let newest = |target| {
        let mut pods = PodStates::default();
        let state = PodState::Relabelled(new.clone());
        pods.insert(domain("east"), old.pod_uid.clone(), state);
        let admission = Admission {
            pods,
            ..revoking(target)
        };
        admission.newest(&old)
    };
    let revoked = Err(DropReason::Revoked);
    assert_eq!(newest(labels("app == \"batch\"", None)), revoked);
    assert_eq!(newest(Target::Credential(CredentialId([7; 16]))), revoked);
    assert_eq!(newest(Target::Credential(CredentialId([9; 16]))), revoked);
    let other = newest(Target::Credential(CredentialId([8; 16])));
    assert_eq!(other, Ok(new.clone()));
}

#[test]
fn a_claim_that_is_not_accepted_has_a_reason_of_its_own() {
    let limits = ClaimLimits {
        namespaces: vec![NamePattern::new("bank").unwrap()],
        ..ClaimLimits::default()
    };
    let admission = admission(Restrictions {
        limits,
        ..Restrictions::default()
    });
    let web = claims("east", "web");
    assert_eq!(admission.check(&web), Err(DropReason::ClaimNotAccepted));
    let why = admission.why(&web);
    assert_eq!(
        why.as_deref(),
        Some("its namespace shop is not accepted here")
    );
}

#[test]
fn a_cluster_that_is_away_for_too_long_is_not_believed_and_one_that_is_kept_is() {
    let web = claims("east", "web");
    let since = UnixMillis(1_800_000_000_000);
    let closed = admission(Restrictions {
        away: Some(Away::Closed { since }),
        ..Restrictions::default()
    });
    assert_eq!(closed.check(&web), Err(DropReason::PeerAway));
    assert_eq!(closed.check(&claims("west", "web")), Ok(()));
    assert_eq!(
        closed.why(&web).as_deref(),
        Some(
            "its cluster was heard last at 2027-01-15T08:00:00Z, longer ago than the operator allows"
        )
    );
    let kept = admission(Restrictions {
        away: Some(Away::Kept),
        ..Restrictions::default()
    });
    assert_eq!(kept.check(&web), Ok(()));
    assert_eq!(kept.why(&web), None);
}

#[test]
fn what_cannot_be_a_revocation_is_refused() {
    let new = |target, reason: &str| {
        let revocation = Revocation {
            reason: reason.into(),
            ..revocation(target)
        };
        let restrictions = Restrictions {
            revoked: vec![revocation],
            ..Restrictions::default()
        };
        Restricted::new(&domain("east"), restrictions)
    };
    assert!(new(Target::Cluster, "x").is_ok());
    let foreign = SpiffeId::workload(&domain("west"), "shop", "web").unwrap();
    assert!(matches!(
        new(Target::Identity(foreign), "x"),
        Err(RevocationError::OtherDomain(..))
    ));
    for broken in ["app ==", "", &"(".repeat(40)] {
        let refused = new(labels(broken, None), "x");
        assert!(
            matches!(refused, Err(RevocationError::Selector { .. })),
            "{broken}"
        );
    }
    let long = format!("app == \"{}\"", "x".repeat(MAX_SELECTOR));
    assert!(matches!(
        new(labels(&long, None), "x"),
        Err(RevocationError::Text(_))
    ));
    for reason in ["", &"r".repeat(MAX_REASON + 1)] {
        assert!(matches!(
            new(Target::Cluster, reason),
            Err(RevocationError::Text(_))
        ));
    }
    let many = Restrictions {
        revoked: vec![revocation(Target::Cluster); MAX_REVOCATIONS + 1],
        ..Restrictions::default()
    };
    assert_eq!(
        Restricted::new(&domain("east"), many).err(),
        Some(RevocationError::TooMany)
    );
}

proptest! {
    #[test]
    fn any_text_is_a_credential_id_or_none(text in "[0-9a-fA-F+]{31,33}|.*") {
        let read: Result<CredentialId, _> = text.parse();
        if let Ok(id) = read {
            prop_assert_eq!(id.to_string(), text.to_ascii_lowercase());
        }
    }

    #[test]
    fn a_credential_id_is_read_as_it_is_written(id: [u8; 16]) {
        prop_assert_eq!(CredentialId(id).to_string().parse(), Ok(CredentialId(id)));
    }
}

#[test]
fn what_is_offered_to_a_cluster_is_asked_of_the_own_pod_alone() {
    let offer = ClaimLimits {
        namespaces: vec![NamePattern::new("bank").unwrap()],
        ..ClaimLimits::default()
    };
    let admission = admission(Restrictions {
        offer,
        ..Restrictions::default()
    });
    let (ours, theirs) = (claims("west", "web"), claims("east", "web"));
    assert_eq!(
        admission.offers(&ours, &domain("east")),
        Err(DropReason::NotOffered)
    );
    assert_eq!(admission.offers(&ours, &domain("north")), Ok(()));
    // It is no limit of what the other cluster may claim.
    assert_eq!(admission.check(&theirs), Ok(()));
    assert_eq!(admission.offers(&theirs, &domain("east")), Ok(()));
}
