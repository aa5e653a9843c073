//! Saving a file is enough, however an editor saves.
#![allow(clippy::unwrap_used)]

use std::{fs, io::Write, path::Path, sync::Arc, time::Duration, time::Instant};

use identity::TrustDomain;
use landbridge_sources::{ClusterConfig, Effect, FolderSource, LoadError, PodRange, World};
use tokio::{sync::watch::Receiver, time::timeout};

mod common;
use common::{FEDERATION, folder, network_policy, pod, write};

/// Waits for the condition itself; the limit only ends a test that fails.
async fn until(
    worlds: &mut Receiver<Arc<World>>,
    what: &str,
    holds: impl Fn(&World) -> bool,
) -> Arc<World> {
    let limit = Duration::from_secs(20);
    if let Ok(world) = timeout(limit, worlds.wait_for(|w| holds(w))).await {
        return world.unwrap().clone();
    }
    panic!("{what}: not in force; the world is {:#?}", worlds.borrow());
}

fn app<'a>(world: &'a World, pod: &str) -> Option<&'a str> {
    world.workload("shop", pod)?.labels.value("app")
}

fn open(dir: &Path) -> Receiver<Arc<World>> {
    FolderSource::open(dir, "west").unwrap()
}

#[tokio::test]
async fn saving_a_file_is_in_force_at_once() {
    let dir = folder(&[("west/p.yaml", &pod("p", "v0"))]);
    let mut worlds = open(dir.path());
    assert_eq!(app(&worlds.borrow(), "p"), Some("v0"));
    let mut fastest = Duration::MAX;
    for round in 1..=5 {
        let label = format!("v{round}");
        let saved = Instant::now();
        write(dir.path(), "west/p.yaml", &pod("p", &label));
        until(&mut worlds, "a save", |w| app(w, "p") == Some(&label)).await;
        fastest = fastest.min(saved.elapsed());
    }
    // The fastest, because a busy machine may be slow once.
    assert!(fastest < Duration::from_millis(400), "{fastest:?}");
}

/// What was joined is known at once, and no more when it is not said any more; the Federation wins.
#[tokio::test]
async fn clusters_that_were_joined_can_be_named_by_policies() {
    let dir = folder(&[]);
    let cluster = |name: &str, domain: &str, cidr: &str| {
        let ranges = vec![PodRange {
            id: 1,
            cidr: cidr.parse().unwrap(),
            map_to: None,
        }];
        ClusterConfig::joined(name, TrustDomain::new(domain).unwrap(), ranges)
    };
    let opened = FolderSource::open_with(dir.path(), "west", Vec::new());
    let (mut worlds, joined) = opened.unwrap();
    let before = worlds.borrow_and_update().federation.clone();
    joined.set(vec![cluster("branch", "branch.example", "10.77.0.0/16")]);
    let is_known = |w: &World| w.federation.cluster("branch").is_some();
    let known = until(&mut worlds, "a cluster that was joined", is_known).await;
    assert_eq!(known.federation.clusters.len(), before.clusters.len() + 1);
    // Neither a name, nor a trust domain, nor addresses of somebody else.
    let own = before.cluster("west").unwrap();
    joined.set(vec![
        cluster("west", "other.example", "10.78.0.0/16"),
        cluster("other", own.trust_domain.as_str(), "10.79.0.0/16"),
        cluster(
            "third",
            "third.example",
            &own.pod_ranges[0].cidr.to_string(),
        ),
    ]);
    let is_refused = |w: &World| w.federation == before;
    let refused = until(&mut worlds, "that they are others'", is_refused).await;
    let said: Vec<_> = refused.problems.iter().map(ToString::to_string).collect();
    let said = said.join("\n");
    for name in ["west", "other", "third"] {
        let words = format!("the cluster {name} that was joined");
        assert!(said.contains(&words), "{said}");
    }
    // Seen elsewhere, its addresses are nobody's.
    let mut third = cluster(
        "third",
        "third.example",
        &own.pod_ranges[0].cidr.to_string(),
    );
    third.pod_ranges[0].map_to = Some("100.64.0.0/16".parse().unwrap());
    joined.set(vec![third]);
    let is_known = |w: &World| w.federation.cluster("third").is_some();
    let known = until(&mut worlds, "a cluster that is mapped", is_known).await;
    let networks = known.federation.networks().unwrap();
    let owner = networks.owner("100.64.1.1".parse().unwrap());
    assert_eq!(owner.map(TrustDomain::as_str), Some("third.example"));
}

#[tokio::test]
async fn editors_that_write_aside_and_rename() {
    let dir = folder(&[("west/p.yaml", &pod("p", "old"))]);
    let mut worlds = open(dir.path());
    write(dir.path(), "west/.p.yaml.swp", &pod("p", "half"));
    write(dir.path(), "west/p.yaml.tmp", &pod("p", "new"));
    let aside = dir.path().join("west/p.yaml.tmp");
    fs::rename(aside, dir.path().join("west/p.yaml")).unwrap();
    let world = until(&mut worlds, "a rename", |w| app(w, "p") == Some("new")).await;
    assert_eq!(world.problems, []);
}

#[tokio::test]
async fn editors_that_rename_the_old_file_away() {
    let dir = folder(&[("west/p.yaml", &pod("p", "old"))]);
    let mut worlds = open(dir.path());
    fs::rename(
        dir.path().join("west/p.yaml"),
        dir.path().join("west/p.yaml~"),
    )
    .unwrap();
    write(dir.path(), "west/p.yaml", &pod("p", "new"));
    loop {
        let label = app(&worlds.borrow_and_update(), "p").map(str::to_owned);
        match label.as_deref() {
            Some("old") => {}
            Some("new") => break,
            other => panic!("the pod was {other:?} in between"),
        }
        timeout(Duration::from_secs(20), worlds.changed())
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test]
async fn a_file_is_not_read_while_it_is_written() {
    let both = pod("p", "old") + "---\n" + &pod("q", "old");
    let dir = folder(&[("west/p.yaml", &both)]);
    let mut worlds = open(dir.path());
    let mut file = fs::File::create(dir.path().join("west/p.yaml")).unwrap();
    write!(file, "{}", pod("p", "new")).unwrap();
    file.flush().unwrap();
    write(dir.path(), "west/other.yaml", &pod("other", "new"));
    let world = until(&mut worlds, "the other file", |w| app(w, "other").is_some()).await;
    assert_eq!(app(&world, "p"), Some("old"), "half a file was read");
    assert_eq!(app(&world, "q"), Some("old"), "half a file was read");
    write!(file, "---\n{}", pod("q", "new")).unwrap();
    drop(file);
    let world = until(&mut worlds, "the whole file", |w| {
        app(w, "p") == Some("new")
    })
    .await;
    assert_eq!(app(&world, "q"), Some("new"));
}

#[tokio::test]
async fn deleting_a_file_deletes_its_objects() {
    let dir = folder(&[
        ("west/p.yaml", &pod("p", "a")),
        ("west/q.yaml", &pod("q", "a")),
        ("west/n.yaml", &network_policy("closed", "{}")),
    ]);
    let mut worlds = open(dir.path());
    fs::remove_file(dir.path().join("west/p.yaml")).unwrap();
    let world = until(&mut worlds, "a deletion", |w| app(w, "p").is_none()).await;
    assert_eq!(app(&world, "q"), Some("a"));
    fs::remove_file(dir.path().join("west/n.yaml")).unwrap();
    until(&mut worlds, "a deletion", |w| {
        w.policies.policies.is_empty()
    })
    .await;
}

#[tokio::test]
async fn the_last_good_version_stays_while_others_change() {
    let file = network_policy("closed", "{}") + "---\n" + &pod("p", "old");
    let dir = folder(&[("west/a.yaml", &file), ("west/q.yaml", &pod("q", "old"))]);
    let mut worlds = open(dir.path());
    let good = worlds.borrow().policies.clone();
    for broken in [
        network_policy("closed", "{podSelectro: {}}"),
        network_policy("closed", "{ingress: [{ports: [{port: 0}]}]}"),
        network_policy("closed", "{ingress: [{ports: ["),
        network_policy("closed", "{}").replace("NetworkPolicy", "NetworkPolcy"),
        network_policy("closed", "{}").replace("networking.k8s.io/v1", "v1"),
        "kind: {\n".into(),
    ] {
        let label = format!("v{}", broken.len());
        write(dir.path(), "west/q.yaml", &pod("q", &label));
        write(
            dir.path(),
            "west/a.yaml",
            &(broken.clone() + "---\n" + &pod("p", &label)),
        );
        let done = |w: &World| {
            app(w, "p") == Some(&label) && app(w, "q") == Some(&label) && !w.problems.is_empty()
        };
        let world = until(&mut worlds, &broken, done).await;
        assert_eq!(world.policies, good, "{broken}");
        let effects: Vec<Effect> = world.problems.iter().map(|p| p.effect).collect();
        assert!(
            effects.iter().all(|e| *e == Effect::KeptPrevious),
            "{:#?}",
            world.problems
        );
        write(dir.path(), "west/a.yaml", &file);
        let mended = |w: &World| w.problems.is_empty() && app(w, "p") == Some("old");
        let world = until(&mut worlds, "mending it", mended).await;
        assert_eq!(world.policies, good);
    }
}

#[tokio::test]
async fn a_new_policy_that_is_broken_changes_nothing() {
    let dir = folder(&[("west/p.yaml", &pod("p", "a"))]);
    let mut worlds = open(dir.path());
    write(
        dir.path(),
        "west/n.yaml",
        &network_policy("new", "{podSelectro: {}}"),
    );
    let world = until(&mut worlds, "the problem", |w| !w.problems.is_empty()).await;
    assert_eq!(world.policies.policies, []);
    assert_eq!(world.problems[0].effect, Effect::NotInForce);
}

#[tokio::test]
async fn a_file_that_is_no_text_keeps_its_objects() {
    let dir = folder(&[
        ("west/p.yaml", &pod("p", "a")),
        ("west/q.yaml", &pod("q", "a")),
    ]);
    let mut worlds = open(dir.path());
    fs::write(dir.path().join("west/p.yaml"), b"kind: Pod\n\xff\xfe").unwrap();
    fs::remove_file(dir.path().join("west/q.yaml")).unwrap();
    let done = |w: &World| !w.problems.is_empty() && app(w, "q").is_none();
    let world = until(&mut worlds, "the problem", done).await;
    assert_eq!(app(&world, "p"), Some("a"));
    let told = world.problems[0].to_string();
    let expected = "west/p.yaml: the file: is not UTF-8 in line 2 (the version accepted before stays in force)";
    assert_eq!(told, expected);
}

#[tokio::test]
async fn folders_that_are_made_anew() {
    let dir = folder(&[("west/p.yaml", &pod("p", "a"))]);
    let mut worlds = open(dir.path());
    let west = dir.path().join("west");

    // Away: nobody knows what it would say, so all stays.
    fs::rename(&west, dir.path().join("away")).unwrap();
    let world = until(&mut worlds, "the problem", |w| !w.problems.is_empty()).await;
    assert_eq!(app(&world, "p"), Some("a"));
    assert_eq!(world.problems[0].effect, Effect::KeptPrevious);

    // Another folder of that name.
    fs::create_dir(dir.path().join("new")).unwrap();
    write(dir.path(), "new/p.yaml", &pod("p", "b"));
    fs::rename(dir.path().join("new"), &west).unwrap();
    until(&mut worlds, "the new folder", |w| app(w, "p") == Some("b")).await;
    write(dir.path(), "west/p.yaml", &pod("p", "c"));
    until(&mut worlds, "a save in it", |w| app(w, "p") == Some("c")).await;

    // And the whole.
    let all = dir.path().to_owned();
    let aside = folder(&[("west/p.yaml", &pod("p", "d"))]);
    fs::remove_dir_all(&all).unwrap();
    fs::rename(aside.path(), &all).unwrap();
    until(&mut worlds, "the whole anew", |w| app(w, "p") == Some("d")).await;
    write(&all, "west/p.yaml", &pod("p", "e"));
    until(&mut worlds, "a save in it", |w| app(w, "p") == Some("e")).await;
}

#[tokio::test]
async fn the_federation_changes_and_breaks() {
    let dir = folder(&[("west/p.yaml", &pod("p", "a"))]);
    let mut worlds = open(dir.path());
    let more = FEDERATION.to_owned() + "  - {name: north}\n";
    write(dir.path(), "federation.yaml", &more);
    until(&mut worlds, "a third cluster", |w| {
        w.federation.clusters.len() == 3
    })
    .await;
    write(dir.path(), "federation.yaml", "kind: Federation\nspec: [");
    let world = until(&mut worlds, "the problem", |w| !w.problems.is_empty()).await;
    assert_eq!(world.federation.clusters.len(), 3);
    assert_eq!(world.problems[0].effect, Effect::KeptPrevious);
    fs::remove_file(dir.path().join("federation.yaml")).unwrap();
    let missing = |w: &World| w.problems.iter().any(|p| p.message == "is missing");
    let world = until(&mut worlds, "it is missing", missing).await;
    assert_eq!(world.federation.clusters.len(), 3);
}

#[tokio::test]
async fn whoever_has_an_address_keeps_it() {
    let at = |name: &str| pod(name, "a") + "status: {podIP: 10.2.1.10}\n";
    let dir = folder(&[("west/q.yaml", &at("q"))]);
    let mut worlds = open(dir.path());
    write(dir.path(), "west/a.yaml", &at("a"));
    let world = until(&mut worlds, "the problem", |w| !w.problems.is_empty()).await;
    assert!(app(&world, "q").is_some() && app(&world, "a").is_none());
}

#[test]
fn nothing_to_begin_with() {
    let dir = folder(&[]);
    let refused = |error: LoadError| error.to_string();
    let error = FolderSource::open(dir.path(), "north").unwrap_err();
    assert!(matches!(error, LoadError::NoSuchCluster { .. }), "{error}");
    fs::write(dir.path().join("federation.yaml"), "").unwrap();
    let error = FolderSource::open(dir.path(), "west").unwrap_err();
    assert!(refused(error).contains("holds 0 objects"));
    let error = FolderSource::open(&dir.path().join("none"), "west").unwrap_err();
    assert!(refused(error).contains("federation.yaml: the file: is missing"));
}

/// As Kubernetes mounts a ConfigMap: every file is a link by way of `..data`, which is swapped.
#[tokio::test]
async fn mounted_configuration_that_is_swapped_by_a_link() {
    use std::os::unix::fs::symlink;
    let dir = folder(&[]);
    let west = dir.path().join("west");
    for (version, app) in [("..1", "old"), ("..2", "new")] {
        fs::create_dir(west.join(version)).unwrap();
        write(&west, &format!("{version}/p.yaml"), &pod("p", app));
    }
    symlink("..1", west.join("..data")).unwrap();
    symlink("..data/p.yaml", west.join("p.yaml")).unwrap();
    let mut worlds = open(dir.path());
    assert_eq!(app(&worlds.borrow(), "p"), Some("old"));
    symlink("..2", west.join("..data_tmp")).unwrap();
    fs::rename(west.join("..data_tmp"), west.join("..data")).unwrap();
    until(&mut worlds, "a swap", |w| app(w, "p") == Some("new")).await;
}
