//! Cutting a list that fails down to what it needs to fail.

use std::time::{Duration, Instant};

/// The shortest list that was found within `budget`, of those that can be made from `list` by
/// leaving things out and for which `fails` holds. It holds for `list`.
pub fn shrink<T: Clone>(
    list: &[T],
    budget: Duration,
    mut fails: impl FnMut(&[T]) -> bool,
) -> Vec<T> {
    let end = Instant::now() + budget;
    let mut kept = list.to_vec();
    let mut size = kept.len().div_ceil(2);
    while size > 0 && !kept.is_empty() {
        let mut at = 0;
        let before = kept.len();
        while at < kept.len() {
            if Instant::now() > end {
                return kept;
            }
            let mut fewer = kept.clone();
            fewer.drain(at..(at + size).min(kept.len()));
            match fails(&fewer) {
                true => kept = fewer,
                false => at += size,
            }
        }
        // Once more, as long as single ones can go.
        size = match size {
            1 if kept.len() < before => 1,
            _ => size / 2,
        };
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_needed_stays_and_nothing_else() {
        let all: Vec<u32> = (0..100).collect();
        let needs = [3, 50, 51, 99];
        let mut tries = 0;
        let kept = shrink(&all, LONG, |list| {
            tries += 1;
            needs.iter().all(|need| list.contains(need))
        });
        assert_eq!(kept, needs);
        assert!(tries < 100, "{tries} tries");
        assert_eq!(shrink(&all, LONG, |_| true), [0; 0]);
        assert_eq!(shrink(&all, Duration::ZERO, |_| true).len(), 100);
    }
}
