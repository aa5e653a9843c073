//! A state directory on a full disk: what must be remembered is neither believed nor said until it can
//! be stored, and it heals by itself.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::SystemTime,
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::{
    namespaces::root_or_skip,
    world::{Gateway, PODS, World, http},
};

/// A small file system at `place`, unmounted when dropped.
struct Disk<'p>(&'p Path);

impl<'p> Disk<'p> {
    /// Moves what is in `place` to a disk of its own, mounted there.
    fn under(place: &'p Path) -> Self {
        let aside = place.with_extension("aside");
        fs::rename(place, &aside).unwrap();
        fs::create_dir(place).unwrap();
        let size = Some("size=512k,mode=0700");
        mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), size).unwrap();
        for file in fs::read_dir(aside).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), place.join(file.file_name())).unwrap();
        }
        Self(place)
    }

    /// Takes all that is left of it.
    fn fill(&self) {
        let mut filler = File::create(self.0.join("filler")).unwrap();
        while filler.write_all(&[0; 512]).is_ok() {}
    }

    /// When a file was last made or removed in it: each attempt to store something does both.
    fn changed(&self) -> SystemTime {
        fs::metadata(self.0).unwrap().modified().unwrap()
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        // The file system inside it goes with it.
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

/// Policies that let remote identities in: a new digest, with a higher sequence.
fn policy(port: u16) -> String {
    format!(
        "{PODS}---\napiVersion: landbridge.io/v1alpha1\nkind: FederationPolicy\n\
         metadata: {{name: from-anywhere, namespace: shop}}\nspec:\n  ingress:\n  \
         - action: Allow\n    from: [{{clusters: [east, west], namespaces: [shop]}}]\n    \
         ports: [{{port: {port}}}]\n"
    )
}

/// The sequence of the digest that `gateway` believes of its peer.
fn believed(gateway: &Gateway<'_>) -> Value {
    gateway.status()["peers"][0]["digest_sequence"].clone()
}

fn said(gateway: &Gateway<'_>) -> Value {
    gateway.status()["own"]["digest_sequence"].clone()
}

#[test]
fn nothing_is_believed_or_said_that_cannot_be_stored() {
    if !root_or_skip() {
        return;
    }
    let world = World::new("disk");
    let state = world.path("east");
    let disk = Disk::under(&state);
    let (east, west) = (world.start("east"), world.start("west"));
    east.until_connected();
    west.until_connected();
    assert_eq!(believed(&east), said(&west));
    let (heard_by_west, epoch) = (believed(&west), east.status()["epoch"].clone());

    disk.fill();
    world.write("west/pods.yaml", &policy(80));
    let status = east.until("the disk is full, in words", |status| {
        let problems = status["problems"].to_string();
        problems.contains("No space left")
            && problems.contains("nothing is said or believed until it is")
    });
    // It has heard of the digest, and decides by what it could store.
    assert_eq!(status["peers"][0]["digest_sequence"], said(&west));
    assert_eq!(
        (&status["ready"], &status["epoch"]),
        (&json!(false), &epoch)
    );
    let readyz = http(&world, "east", "/readyz");
    assert!(readyz.starts_with("HTTP/1.1 503"), "{readyz}");
    assert!(readyz.contains("state cannot be stored"), "{readyz}");
    // Nor does it say anything new itself, however often it tries.
    world.write("east/pods.yaml", &policy(81));
    for _ in 0..3 {
        let before = disk.changed();
        world.until("it tries again", || disk.changed() != before);
    }
    assert_eq!(believed(&west), heard_by_west);
    assert_eq!(east.status()["epoch"], epoch);
    let log = fs::read_to_string(world.path("east.log")).unwrap();
    assert_eq!(log.matches("state cannot be stored").count(), 1, "{log}");

    disk.make_room();
    east.until("it heals", |status| {
        status["ready"] == true && status["problems"] == json!([]) && status["epoch"] != epoch
    });
    west.until("and says what it could not", |status| {
        status["peers"][0]["digest_sequence"] != heard_by_west
    });

    // What it believes now it still knows after a crash: the older digest does not come back.
    let now = believed(&east);
    east.kill();
    west.terminate();
    let east = world.start("east");
    let status = east.until("ready", |status| status["ready"] == true);
    assert_eq!(status["peers"][0]["digest_sequence"], now);
    east.terminate();
}

#[test]
fn a_gateway_that_starts_on_a_full_disk_is_closed_until_there_is_room() {
    if !root_or_skip() {
        return;
    }
    let world = World::new("disk-start");
    let state = world.path("east");
    let disk = Disk::under(&state);
    let east = world.start("east");
    east.until("ready", |status| status["ready"] == true);
    east.terminate();
    disk.fill();
    let east = world.start("east");
    let status = east.until("its issuer cannot store", |status| {
        status["unready"].to_string().contains("cannot be stored")
    });
    assert_eq!(status["ready"], false);
    assert!(
        status["problems"].to_string().contains("No space left"),
        "{status}"
    );
    disk.make_room();
    east.until("it heals", |status| status["ready"] == true);
    east.terminate();
}

#[test]
fn what_the_issuer_must_remember_is_stored_as_soon_as_it_can_be() {
    if !root_or_skip() {
        return;
    }
    let world = World::new("disk-issuer");
    let east = world.start("east");
    east.until("ready", |status| status["ready"] == true);
    east.terminate();
    // A mount point can be read and not be replaced: this file alone cannot be stored.
    let file = world.path("east/issuer.state");
    let none = None::<&str>;
    mount(Some(&file), &file, none, MsFlags::MS_BIND, none).unwrap();
    let east = world.start("east");
    let status = east.until("it says so", |status| {
        status["problems"].to_string().contains("issuer.state")
    });
    assert_eq!(status["ready"], false);
    let readyz = http(&world, "east", "/readyz");
    assert!(readyz.starts_with("HTTP/1.1 503"), "{readyz}");
    umount2(&file, MntFlags::empty()).unwrap();
    let status = east.until("it heals", |status| status["ready"] == true);
    assert_eq!(status["problems"].to_string().find("issuer.state"), None);
    east.terminate();
}
