//! What is written to stderr has colours on a terminal alone, and not where `NO_COLOR` asks for none.
#![allow(clippy::unwrap_used)]

use std::process::Command;

const GATEWAY: &str = env!("CARGO_BIN_EXE_landbridge-gateway");

/// What it says when it cannot read its configuration, run by `program`.
fn said(program: &str, arguments: &[&str], no_color: &str) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("NO_COLOR", no_color)
        .output()
        .unwrap();
    // `script` shows on its stdout what is written to the terminal that it makes.
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("/nowhere"), "{said}");
    said
}

fn on_a_terminal(no_color: &str) -> String {
    let line = format!("{GATEWAY} run --config /nowhere");
    said("script", &["-qec", &line, "/dev/null"], no_color)
}

#[test]
fn a_file_gets_no_colour_codes() {
    let log = said(GATEWAY, &["run", "--config", "/nowhere"], "");
    assert!(!log.contains('\x1b'), "{log:?}");
}

#[test]
fn a_terminal_gets_them_unless_no_color_is_set() {
    let log = on_a_terminal("");
    assert!(log.contains('\x1b'), "{log:?}");
    let log = on_a_terminal("1");
    assert!(!log.contains('\x1b'), "{log:?}");
}
