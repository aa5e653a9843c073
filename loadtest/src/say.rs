//! Printing for people. A reader who went away (`landbridge-loadtest compare | head`) ends no run in
//! the middle of its work, as `println!` would.

/// A form of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// For programs, and for `compare`
    Json,
}

/// A line on standard output.
macro_rules! say {
    ($($part:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($part)*);
    }};
}

/// A line on standard error, under the program's name.
macro_rules! complain {
    ($($part:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "landbridge-loadtest: {}", format_args!($($part)*));
    }};
}

pub(crate) use {complain, say};
