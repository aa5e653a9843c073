//! What a misspelt word was probably meant to be.

/// Longest word that is looked at, in bytes: more is no slip of the finger.
const MAX_WORD: usize = 64;

/// The one of `words` that `word` is nearest to, if it is near enough to be meant.
pub(crate) fn nearest<'a>(word: &str, words: &[&'a str]) -> Option<&'a str> {
    if word.len() > MAX_WORD {
        return None;
    }
    let distances = words.iter().map(|w| (distance(word, w), *w));
    let (distance, nearest) = distances.min()?;
    (distance <= 1 + word.len() / 4).then_some(nearest)
}

/// Edits from one word to the other, regardless of case.
fn distance(a: &str, b: &str) -> usize {
    let lower = |s: &str| s.to_ascii_lowercase().into_bytes();
    let (a, b) = (lower(a), lower(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (above, y) in row.iter_mut().skip(1).zip(&b) {
            let replaced = diagonal + usize::from(x != y);
            diagonal = *above;
            left = replaced.min(diagonal + 1).min(left + 1);
            *above = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        for (a, b, edits) in [
            ("", "", 0),
            ("", "ab", 2),
            ("kitten", "sitting", 3),
            ("AB", "ab", 0),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
            assert_eq!(distance(b, a), edits, "{b} {a}");
        }
    }

    #[test]
    fn suggests_only_what_is_near() {
        let fields = ["ipBlock", "namespaceSelector", "podSelector"];
        assert_eq!(nearest("podSelectro", &fields), Some("podSelector"));
        assert_eq!(nearest("pod", &fields), None);
        assert_eq!(nearest(&"x".repeat(1000), &fields), None);
    }
}
