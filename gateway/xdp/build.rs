//! Compiles the steering program with clang. Nothing but clang is needed: the program takes no
//! header from the machine.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    if let Err(problem) = compile() {
        println!("cargo::error={problem}");
    }
}

fn compile() -> Result<(), String> {
    let out = env::var("OUT_DIR").map_err(|e| format!("OUT_DIR: {e}"))?;
    let object = PathBuf::from(out).join("steer.bpf.o");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let flags = "-target bpf -mcpu=v3 -O2 -g -nostdinc -Wall -Wextra -Werror -c bpf/steer.bpf.c -o";
    let output = Command::new(&clang)
        .args(flags.split(' '))
        .arg(&object)
        .output()
        .map_err(|e| {
            format!(
                "the eBPF steering program needs clang, and `{clang}` cannot be started ({e}). \
                 Install it (Debian: apt-get install clang) or set CLANG to its path"
            )
        })?;
    if output.status.success() {
        return Ok(());
    }
    // One cargo::error per line: a newline would end the instruction.
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        println!("cargo::error={line}");
    }
    Err(format!(
        "{clang} could not compile gateway/xdp/bpf/steer.bpf.c for the bpf target"
    ))
}
