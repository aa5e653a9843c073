//! Every committed input, and every genuine one, once more.

use std::{fs, path::Path};

use landbridge_fuzz::TARGETS;

#[test]
fn the_corpus_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in TARGETS {
        for seed in (target.seeds)() {
            (target.run)(&seed);
        }
        let folder = corpus.join(target.name);
        let entries =
            fs::read_dir(&folder).unwrap_or_else(|e| panic!("{} has no corpus: {e}", target.name));
        let mut count = 0;
        for entry in entries {
            let path = entry.expect("a file").path();
            println!("{}", path.display());
            (target.run)(&fs::read(&path).expect("readable"));
            count += 1;
        }
        assert!(count > 0, "the corpus of {} is empty", target.name);
    }
}

#[test]
fn every_target_has_a_program() {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("cargo-fuzz");
    let manifest = fs::read_to_string(programs.join("Cargo.toml")).expect("its manifest");
    for target in TARGETS {
        let text = fs::read_to_string(programs.join(format!("targets/{}.rs", target.name)));
        assert!(
            text.expect("a program")
                .contains(&format!("{:?}", target.name))
        );
        assert!(manifest.contains(&format!("name = {:?}", target.name)));
    }
}
