#![allow(clippy::unwrap_used)]

use identity::TrustDomain;
use quic::ClusterRoot;

use super::*;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const HOUR: Duration = Duration::from_hours(1);

fn root(domain: &str) -> ClusterRoot {
    ClusterRoot::generate(&TrustDomain::new(domain).unwrap(), NOW, HOUR * 24).unwrap()
}

fn wanted() -> Wanted {
    Wanted {
        id: "spiffe://east/landbridge/gateway/gw1".parse().unwrap(),
        what: "this gateway",
    }
}

/// What `root` signs for `id`, with the root behind it or not.
fn offered(root: &ClusterRoot, id: &str, with_root: bool) -> Offered {
    let svid = root.issue(&id.parse().unwrap(), NOW, HOUR).unwrap();
    let chain = svid.chain().take(1 + usize::from(with_root));
    Offered {
        id: id.into(),
        chain: chain.map(<[u8]>::to_vec).collect(),
        key: Zeroizing::default(),
    }
}

fn ours(root: &ClusterRoot) -> Offered {
    offered(root, "spiffe://east/landbridge/gateway/gw1", false)
}

fn take(svids: Vec<Offered>, roots: &[&ClusterRoot]) -> Result<Issued, Refusal> {
    let roots = roots.iter().map(|root| root.certificate_der().to_vec());
    let roots = roots.collect();
    Offer { svids, roots }.take(&wanted(), NOW)
}

#[test]
fn the_one_that_is_wanted_is_taken_and_its_root_is_put_behind_it() {
    let (old, new) = (root("east"), root("east"));
    let other = offered(&old, "spiffe://east/ns/shop/sa/web", false);
    let issued = take(vec![other, ours(&new)], &[&old, &new, &old]).unwrap();
    assert_eq!(issued.id, wanted().id);
    assert_eq!((issued.root, issued.chain.len()), (new.pin(), 2));
    assert_eq!(Pin::of(&issued.chain[1]), new.pin());
    let mut roots = [&old, &new].map(|root| root.certificate_der().to_vec());
    roots.sort();
    assert_eq!(issued.roots, roots);
    assert_eq!(issued.expires_at, NOW.after(HOUR));
    // One that sends its root as well.
    let sent = offered(&new, "spiffe://east/landbridge/gateway/gw1", true);
    assert_eq!(take(vec![sent], &[&new]).unwrap().chain.len(), 2);
    // Three quarters of the hour, and of the minute before it.
    assert_eq!(issued.overdue(), UnixMillis(NOW.0 - 60_000 + 61 * 45_000));
}

#[test]
fn anything_else_is_refused_in_words_that_say_what_to_do() {
    let east = root("east");
    let error = |svids, roots: &[&ClusterRoot]| take(svids, roots).unwrap_err().to_string();
    let nothing = error(vec![], &[&east]);
    assert!(nothing.contains("make a registration entry for spiffe://east/landbridge/gateway/gw1"));
    assert!(
        nothing.contains("which is what this gateway must be"),
        "{nothing}"
    );
    let others: Vec<_> = (0..7)
        .map(|i| {
            offered(
                &east,
                &format!("spiffe://east/landbridge/gateway/gw{}", i + 2),
                false,
            )
        })
        .collect();
    let told = error(others, &[&east]);
    assert!(
        told.contains("gateway/gw6 and 2 more") && !told.contains("gw7"),
        "{told}"
    );
    // Another trust domain's gateway of that name is another.
    let west = root("west");
    let foreign = offered(&west, "spiffe://west/landbridge/gateway/gw1", false);
    assert!(error(vec![foreign], &[&west]).contains("but spiffe://west/landbridge"));
    assert!(error(vec![ours(&east)], &[]).contains("no root of the trust domain"));
    let many: Vec<_> = (0..=MAX_KEYS).map(|_| root("east")).collect();
    let many: Vec<_> = many.iter().collect();
    assert!(error(vec![ours(&east)], &many).contains("33 roots"));
    // What peers would not believe.
    let stray = error(vec![ours(&root("east"))], &[&east]);
    assert!(
        stray.contains("not signed by a root of its trust domain"),
        "{stray}"
    );
    let lies = Offered {
        id: wanted().id.to_string(),
        ..offered(&east, "spiffe://east/ns/shop/sa/web", false)
    };
    assert!(error(vec![lies], &[&east]).contains("only spiffe://east/landbridge/gateway/gw1 may"));
    let mut empty = ours(&east);
    empty.chain.clear();
    assert!(error(vec![empty], &[&east]).contains("no certificate"));
    let mut long = ours(&east);
    let leaf = long.chain[0].clone();
    long.chain.extend([leaf.clone(), leaf.clone(), leaf]);
    assert!(error(vec![long], &[&east]).contains("has 4 certificates, and peers read 3"));
    let offer = Offer {
        svids: vec![ours(&east)],
        roots: vec![east.certificate_der().to_vec()],
    };
    let late = offer.take(&wanted(), NOW.after(HOUR * 2)).unwrap_err();
    assert!(late.to_string().contains("expired"), "{late}");
}
