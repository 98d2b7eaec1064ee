//! "Did you mean …?"

/// The candidate that `word` was most likely meant to be, if there is one.
pub(crate) fn closest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Nobody misspells a word of that length, and the distance takes quadratic time.
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    candidates
        .map(|candidate| (distance(&lower, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1.max(candidate.len().min(word.len()) / 3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Least number of bytes to insert, remove or replace.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions() {
        let known = || ["backendRefs", "matches", "filters", "name"].into_iter();
        assert_eq!(closest("backendRef", known()), Some("backendRefs"));
        assert_eq!(closest("backendrefs", known()), Some("backendRefs"));
        assert_eq!(closest("match", known()), Some("matches").filter(|_| distance("match", "matches") <= 1));
        assert_eq!(closest("nmae", known()), None);
        assert_eq!(closest("nam", known()), Some("name"));
        assert_eq!(closest("timeouts", known()), None);
        assert_eq!((distance("", "abc"), distance("abc", "abc"), distance("kitten", "sitting")), (3, 0, 3));
    }
}
