//! A run whose failure is an answer: which check said no, and in which words.

use std::{
    cell::RefCell,
    fmt,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

/// What a check said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// File and line: two runs that fail there fail alike.
    pub place: String,
    /// What it said.
    pub words: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.words, self.place)
    }
}

thread_local! {
    /// `None`: a panic of this thread is said aloud.
    static HEARD: RefCell<Option<Vec<Failure>>> = const { RefCell::new(None) };
}

/// Runs `run` without a word.
///
/// # Errors
/// What the check said that failed.
pub fn quietly<T>(run: impl FnOnce() -> T) -> Result<T, Failure> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let failure = || Failure {
                place: info
                    .location()
                    .map_or_else(String::new, |at| format!("{}:{}", at.file(), at.line())),
                words: info.payload_as_str().unwrap_or("no words").to_string(),
            };
            let is_heard = HEARD
                .with_borrow_mut(|heard| heard.as_mut().map(|list| list.push(failure())).is_some());
            if !is_heard {
                before(info);
            }
        }));
    });
    HEARD.set(Some(Vec::new()));
    let outcome = panic::catch_unwind(AssertUnwindSafe(run));
    let heard = HEARD.take().unwrap_or_default();
    outcome.map_err(|_| heard.into_iter().next().expect("a panic is heard"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_with_its_place() {
        assert_eq!(quietly(|| 5), Ok(5));
        let failure = quietly(|| assert!(false_(), "number {}", 7)).expect_err("it panics");
        assert_eq!(failure.words, "number 7");
        assert!(failure.place.contains("trial.rs:"), "{failure}");
    }

    fn false_() -> bool {
        false
    }
}
