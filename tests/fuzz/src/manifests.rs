//! A folder of manifests with a file that somebody broke.

use std::{cell::RefCell, fs};

use tempfile::TempDir;

/// A Federation, so that the other file is looked at.
const FEDERATION: &str = include_str!("../../../deploy/examples/minimal/federation.yaml");

thread_local! {
    static FOLDER: RefCell<TempDir> = RefCell::new({
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("federation.yaml"), FEDERATION).unwrap();
        for cluster in ["east", "west"] {
            fs::create_dir(dir.path().join(cluster)).unwrap();
        }
        dir
    });
}

/// It is refused or taken, and the Federation beside it is usable in any case.
pub fn run(input: &[u8]) {
    FOLDER.with_borrow(|dir| {
        fs::write(dir.path().join("east/objects.yaml"), input).unwrap();
        let worlds = sources::load_once(dir.path()).unwrap();
        for world in worlds {
            // What is taken can be compiled.
            policy::compile(&world.policies).unwrap();
        }
    });
}

/// The manifests of the examples.
pub fn seeds() -> Vec<Vec<u8>> {
    let files: [&[u8]; 5] = [
        include_bytes!("../../../deploy/examples/minimal/east/client.yaml"),
        include_bytes!("../../../deploy/examples/minimal/west/server.yaml"),
        include_bytes!("../../../deploy/examples/three-tier/east/pods.yaml"),
        include_bytes!("../../../deploy/examples/three-tier/west/policies.yaml"),
        include_bytes!("../../../deploy/examples/three-tier/east/namespaces.yaml"),
    ];
    files.map(<[u8]>::to_vec).into()
}
