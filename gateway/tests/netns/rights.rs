//! What a running gateway may still do.

use std::{collections::BTreeMap, fs, path::Path};

use crate::{namespaces::root_or_skip, world::World};

// include/uapi/linux/capability.h.
const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;
const BPF: u64 = 1 << 39;

/// `Cap...` and `NoNewPrivs` of a status file of proc(5).
fn rights(directory: &Path) -> BTreeMap<String, u64> {
    let status = fs::read_to_string(directory.join("status")).unwrap();
    let number = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let value = u64::from_str_radix(value.trim(), 16).ok()?;
        let wanted = name.starts_with("Cap") || name == "NoNewPrivs";
        wanted.then(|| (name.to_owned(), value))
    };
    status.lines().filter_map(number).collect()
}

fn at_most(capabilities: u64) -> BTreeMap<String, u64> {
    let sets = [
        ("CapEff", capabilities),
        ("CapPrm", capabilities),
        ("CapInh", 0),
        ("CapAmb", 0),
        ("NoNewPrivs", 1),
    ];
    sets.map(|(name, value)| (name.to_owned(), value)).into()
}

#[test]
fn it_keeps_no_right_that_it_does_not_need() {
    if !root_or_skip() {
        return;
    }
    let world = World::new("rights");
    let (east, west) = (world.start("east"), world.start("west"));
    // By then it has done everything: sessions, tunnels, neighbours.
    east.until_connected();

    let process = Path::new("/proc").join(east.child.id().to_string());
    let mut seen = BTreeMap::new();
    for task in fs::read_dir(process.join("task")).unwrap() {
        let task = task.unwrap().path();
        let name = fs::read_to_string(task.join("comm")).unwrap();
        let moves_packets = name.starts_with("lb-queue-");
        let mut rights = rights(&task);
        let bounding = rights.remove("CapBnd").unwrap();
        let wanted = if moves_packets { 0 } else { NET_ADMIN | BPF };
        assert_eq!(rights, at_most(wanted), "{name}");
        assert_eq!(bounding & !(NET_ADMIN | BPF), 0, "{name}");
        *seen.entry(moves_packets).or_insert(0) += 1;
    }
    assert!(seen[&true] >= 1 && seen[&false] >= 3, "{seen:?}");

    let children = process.join(format!("task/{}/children", east.child.id()));
    let children = fs::read_to_string(children).unwrap();
    let [unmounter] = children.split_whitespace().collect::<Vec<_>>()[..] else {
        panic!("{children:?}");
    };
    let unmounter = Path::new("/proc").join(unmounter);
    let mut rights = rights(&unmounter);
    assert_eq!(rights.remove("CapBnd"), Some(SYS_ADMIN));
    assert_eq!(rights, at_most(SYS_ADMIN));

    // It ends with its parent, even with one that has no time to say so, and leaves the mount.
    east.kill();
    world.until("the unmounter is gone", || !unmounter.join("exe").exists());
    assert!(world.path("east/bpf/wan0/link").exists());
    west.terminate();
}
