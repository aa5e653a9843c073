//! The log: lines on stderr.

use std::{env, ffi::OsStr, io, io::IsTerminal};

use tracing_subscriber::EnvFilter;

/// Begins the log of this process. `RUST_LOG` says what is written, else `default`.
///
/// # Panics
/// When the process has a log already.
pub fn init(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let no_color = env::var_os("NO_COLOR");
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colours(io::stderr().is_terminal(), no_color.as_deref()))
        .init();
}

/// Whether the log may have colours: for eyes only, and only when they are wanted
/// (<https://no-color.org>).
fn colours(terminal: bool, no_color: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_without_no_color() {
        let value = |text| Some(OsStr::new(text));
        assert!(colours(true, None));
        assert!(colours(true, value("")));
        assert!(!colours(true, value("1")));
        assert!(!colours(false, None));
    }
}
