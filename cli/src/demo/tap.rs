//! The Test Anything Protocol, version 14, as far as `demo check` speaks it.

use std::{fmt::Write as _, time::Duration};

/// What came of one test.
pub enum Verdict {
    /// It holds; the note is a comment.
    Holds(String),
    /// There is nothing to look at here.
    Skipped(String),
    /// It does not hold, or could not be judged.
    Fails(String),
}

/// The first two lines, before any test.
pub fn header(tests: usize) -> String {
    format!("TAP version 14\n1..{tests}")
}

/// The lines of one test.
pub fn line(number: usize, title: &str, verdict: &Verdict, took: Duration) -> String {
    // A title may hold no `#`: what follows it is a directive.
    let title = title.replace('#', "\\#");
    let seconds = took.as_secs_f32();
    match verdict {
        Verdict::Holds(note) if note.is_empty() => format!("ok {number} - {title}"),
        Verdict::Holds(note) => {
            format!(
                "ok {number} - {title}\n# {seconds:.1} s: {}",
                note.replace('\n', "\n# ")
            )
        }
        Verdict::Skipped(why) => {
            format!("ok {number} - {title} # SKIP {}", why.replace('\n', " "))
        }
        Verdict::Fails(why) => {
            let mut text = format!("not ok {number} - {title}\n  ---\n");
            // A YAML block scalar: its lines need no quoting.
            let _ = writeln!(text, "  seconds: {seconds:.1}\n  message: |-");
            for line in why.lines() {
                let _ = writeln!(text, "    {line}");
            }
            text + "  ..."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_test_has_a_yaml_block() {
        let verdict = Verdict::Fails("first: line\n- second".into());
        assert_eq!(
            line(3, "counters add up", &verdict, Duration::from_millis(1500)),
            "not ok 3 - counters add up\n  ---\n  seconds: 1.5\n  message: |-\n    \
             first: line\n    - second\n  ..."
        );
    }

    #[test]
    fn the_others_are_ok() {
        let took = Duration::ZERO;
        assert_eq!(
            line(1, "a # b", &Verdict::Holds(String::new()), took),
            "ok 1 - a \\# b"
        );
        assert_eq!(
            line(1, "a", &Verdict::Holds("seven\npairs".into()), took),
            "ok 1 - a\n# 0.0 s: seven\n# pairs"
        );
        assert_eq!(
            line(2, "a", &Verdict::Skipped("no such\npair".into()), took),
            "ok 2 - a # SKIP no such pair"
        );
        assert_eq!(header(9), "TAP version 14\n1..9");
    }
}
