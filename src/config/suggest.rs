//! The word that somebody probably meant.

/// The nearest of `words`, if it is near: one slip in three letters, `_` counts as `-`.
pub(super) fn nearest(word: &str, words: &[&'static str]) -> Option<&'static str> {
    let word = word.to_ascii_lowercase().replace('_', "-");
    words
        .iter()
        .map(|w| (distance(&word, w), *w))
        .min()
        .filter(|(d, w)| *d <= (w.len() / 3).max(1))
        .map(|(_, w)| w)
}

/// Insertions, deletions and replacements from one to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let next = (diagonal + usize::from(x != *y))
                .min(*cell + 1)
                .min(left + 1);
            diagonal = *cell;
            left = next;
            *cell = next;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_levenshtein() {
        for (a, b, d) in [("", "abc", 3), ("kitten", "sitting", 3), ("a", "a", 0)] {
            assert_eq!(distance(a, b), d);
            assert_eq!(distance(b, a), d);
        }
    }
}
