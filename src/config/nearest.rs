//! What was probably meant by a name that is not there. Configuration, server and meshctl ask it.

/// The nearest of the known names, if it is near enough to be meant.
pub fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let (distance, near) = known.iter().map(|near| (distance(name, near), *near)).min_by_key(|(far, _)| *far)?;
    (distance <= near.len().div_ceil(3)).then_some(near)
}

/// How many letters have to be put in, taken out or changed (Levenshtein's distance).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (i, letter) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in to.chars().enumerate() {
            let changed = diagonal + usize::from(letter != other);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[track_caller]
    fn check(name: &str, expected: Option<&str>) {
        assert_eq!(nearest(name, &["kafka", "zookeeper", "web"]), expected, "{name}");
    }

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        check("kafak", Some("kafka"));
        check("kafka", Some("kafka"));
        check("zoo-keeper", Some("zookeeper"));
        check("wep", Some("web"));
        check("postgres", None);
        check("", None);
        assert_eq!(nearest("kafka", &[]), None);
    }
}
