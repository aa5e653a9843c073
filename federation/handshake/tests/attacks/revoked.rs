//! Rows 17 and 18: what was revoked, or may not be claimed, opens nothing and keeps nothing open.

use std::sync::Arc;

use handshake::{
    admission::{Admission, Away, CredentialId, Restrictions, Target},
    node::{NodeSnapshot, Path},
    transit::{Origin, Transit},
};
use identity::{ClaimLimits, NamePattern, SpiffeId};
use policy::DropReason;

use super::*;

fn identity(cluster: &str, namespace: &str, account: &str) -> Target {
    Target::Identity(SpiffeId::workload(&domain(cluster), namespace, account).unwrap())
}

/// Every way to revoke east's frontend, a limit that it breaks, and that east is away for too long.
fn restrictions() -> Vec<(Admission, DropReason)> {
    let frontend = claims("east", "frontend", &secret("east"));
    let labels = Target::Labels {
        pods: "app == \"frontend\"".into(),
        namespaces: None,
    };
    let subject = Target::Identity(frontend.subject.clone());
    let credential = Target::Credential(CredentialId(frontend.id));
    let targets = [Target::Cluster, subject, credential, labels];
    let limits = ClaimLimits {
        namespaces: vec![NamePattern::new("elsewhere").unwrap()],
        ..ClaimLimits::default()
    };
    let limited = restricting(
        "east",
        Restrictions {
            limits,
            ..Restrictions::default()
        },
    );
    let away = restricting(
        "east",
        Restrictions {
            away: Some(Away::Closed {
                since: identity::UnixMillis(0),
            }),
            ..Restrictions::default()
        },
    );
    targets
        .map(|target| (revoking("east", target), DropReason::Revoked))
        .into_iter()
        .chain([
            (limited, DropReason::ClaimNotAccepted),
            (away, DropReason::PeerAway),
        ])
        .collect()
}

fn with(mut snapshot: NodeSnapshot, admission: Admission) -> NodeSnapshot {
    snapshot.epoch = 2;
    snapshot.admission = admission;
    snapshot
}

#[test]
fn row_17_a_revoked_pod_cannot_be_let_in() {
    for (admission, reason) in restrictions() {
        let (mut a, mut b) = (node(east(false), 1), node(with(west(false), admission), 2));
        let syn = out(&mut a, &Conn::new(FRONTEND, API).syn(), at(0));
        assert_eq!(dropped(to_pod(&mut b, &syn, 1)), reason);
    }
}

/// A verified credential is remembered; what was revoked since is refused all the same.
#[test]
fn row_17_a_live_flow_of_a_revoked_pod_is_cut_and_no_new_one_opens() {
    for (admission, reason) in restrictions() {
        let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
        let conn = Conn::new(FRONTEND, API);
        let syn = out(&mut a, &conn.syn(), at(0));
        assert!(open_with(&mut a, &mut b, &conn, &syn, |p| p));
        assert_eq!(b.flows().count(), 1);
        b.set_snapshot(Arc::new(with(west(false), admission)), at(30));
        assert_eq!(b.flows().count(), 0, "{reason}");
        let again = Conn {
            cport: 41_000,
            ..conn
        };
        let syn = out(&mut a, &again.syn(), at(31));
        assert_eq!(dropped(to_pod(&mut b, &syn, 32)), reason);
        // What is taken back holds again.
        b.set_snapshot(Arc::new(with(west(false), Admission::default())), at(40));
        let again = Conn {
            cport: 41_001,
            ..again
        };
        let syn = out(&mut a, &again.syn(), at(41));
        assert!(open_with(&mut a, &mut b, &again, &syn, |p| p));
    }
}

/// The client's own agent refuses a revoked server when it proves itself, and resets it.
#[test]
fn row_17_a_revoked_server_is_refused_by_its_reply() {
    for (target, cluster) in [
        (identity("west", "shop", "api"), "west"),
        (Target::Cluster, "west"),
    ] {
        let admission = revoking(cluster, target);
        let (mut a, mut b) = (node(with(east(false), admission), 1), node(west(false), 2));
        let conn = Conn::new(FRONTEND, API);
        let syn = out(&mut a, &conn.syn(), at(0));
        into(&mut b, &syn, at(1));
        let syn_ack = out(&mut b, &conn.syn_ack(), at(2));
        assert_eq!(dropped(to_pod(&mut a, &syn_ack, 3)), DropReason::Revoked);
    }
}

/// The node of a revoked pod lets it neither out nor be reached, whatever the other end knows.
#[test]
fn row_17_a_revoked_pod_is_stopped_on_its_own_node() {
    let admission = revoking("east", identity("east", "shop", "frontend"));
    let mut a = node(with(east(false), admission), 1);
    let syn = Conn::new(FRONTEND, API).syn();
    let handled = a.handle_packet(Path::FromPod, &syn, at(0));
    assert_eq!(dropped(handled), DropReason::Revoked);

    let admission = revoking("west", identity("west", "shop", "api"));
    let (mut a, mut b) = (node(east(false), 1), node(with(west(false), admission), 2));
    let syn = out(&mut a, &syn, at(0));
    assert_eq!(dropped(to_pod(&mut b, &syn, 1)), DropReason::Revoked);
}

#[test]
fn row_18_gateways_refuse_what_is_revoked_or_may_not_be_claimed() {
    let east_domain = domain("east");
    for (admission, reason) in restrictions() {
        let mut a = node(east(false), 1);
        let syn = out(&mut a, &Conn::new(FRONTEND, API).syn(), at(0));
        let refused_by = |cluster: &str, origin: Origin<'_>| {
            let mut snapshot = transit_snapshot(cluster);
            snapshot.admission = admission.clone();
            let mut gateway: Transit = transit();
            let passed = gateway.handle_packet(origin, &syn, &snapshot, at(1));
            passed.map(drop).map_err(|refused| refused.reason)
        };
        assert_eq!(refused_by("west", Origin::Peer(&east_domain)), Err(reason));
        assert_eq!(refused_by("east", Origin::Own), Err(reason));
    }
    // The destination, by the gateway's own list of pods: before anybody answers.
    let mut a = node(east(false), 1);
    let syn = out(&mut a, &Conn::new(FRONTEND, API).syn(), at(0));
    let syn = {
        let snapshot = transit_snapshot("east");
        through(&mut transit(), Origin::Own, &syn, &snapshot, at(1)).unwrap()
    };
    let mut snapshot = transit_snapshot("west");
    snapshot.admission = revoking("west", identity("west", "shop", "api"));
    let passed = transit().handle_packet(Origin::Peer(&east_domain), &syn, &snapshot, at(2));
    assert_eq!(passed.err().map(|r| r.reason), Some(DropReason::Revoked));
}

/// Selective peering: what is not offered to a cluster is neither reached by it nor named to it, by the
/// rules of the pod's own cluster.
#[test]
fn row_18_a_pod_that_is_not_offered_to_a_cluster_is_out_of_its_reach_and_sight() {
    let offering = |to: &str, namespace: &str| {
        let offer = ClaimLimits {
            namespaces: vec![NamePattern::new(namespace).unwrap()],
            ..ClaimLimits::default()
        };
        restricting(
            to,
            Restrictions {
                offer,
                ..Restrictions::default()
            },
        )
    };
    let refused = |result: Result<(), DropReason>, namespace: &str, who: &str| {
        let expected = match namespace {
            "shop" => Ok(()),
            _ => Err(DropReason::NotOffered),
        };
        assert_eq!(result, expected, "{who} offers {namespace}");
    };
    for namespace in ["shop", "elsewhere"] {
        let conn = Conn::new(FRONTEND, API);
        // The agent of the destination, for a new connection and for a live one.
        let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
        let syn = out(&mut a, &conn.syn(), at(0));
        assert!(open_with(&mut a, &mut b, &conn, &syn, |p| p));
        let west_now = Arc::new(with(west(false), offering("east", namespace)));
        b.set_snapshot(west_now, at(30));
        let stays = b.flows().count() == 1;
        refused(
            stays.then_some(()).ok_or(DropReason::NotOffered),
            namespace,
            "live",
        );
        if !stays {
            let again = Conn {
                cport: 41_000,
                ..conn
            };
            let syn = out(&mut a, &again.syn(), at(31));
            assert_eq!(dropped(to_pod(&mut b, &syn, 32)), DropReason::NotOffered);
        }
        // The gateways: of the destination, and of the source, whose pod would name itself.
        let east_domain = domain("east");
        let syn = out(&mut node(east(false), 3), &conn.syn(), at(0));
        let own = transit_snapshot("east");
        let proven = through(&mut transit(), Origin::Own, &syn, &own, at(1)).unwrap();
        let mut there = transit_snapshot("west");
        there.admission = offering("east", namespace);
        let passed = transit().handle_packet(Origin::Peer(&east_domain), &proven, &there, at(2));
        refused(
            passed.map(drop).map_err(|r| r.reason),
            namespace,
            "the gateway of west",
        );
        let mut here = transit_snapshot("east");
        here.admission = offering("west", namespace);
        let passed = transit().handle_packet(Origin::Own, &syn, &here, at(1));
        refused(
            passed.map(drop).map_err(|r| r.reason),
            namespace,
            "the gateway of east",
        );
    }
}
