//! What is wrong, for people: one thing of each origin, until it is not so any more.

use tracing::warn;

use super::Hub;

impl Hub {
    pub(super) fn problem(&mut self, origin: &str, words: impl Into<String>) {
        self.problems.insert(origin.into(), words.into());
    }

    /// A problem that is found again and again is logged when it is new.
    pub(super) fn say_once(&mut self, origin: &str, words: String) {
        if self.problems.get(origin) != Some(&words) {
            warn!("{words}");
            self.problem(origin, words);
        }
    }
}
