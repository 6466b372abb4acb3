//! A strict reader of Prometheus's text format 0.0.4.

use std::collections::{BTreeMap, BTreeSet};

/// Labels by name, escapes undone.
pub type Labels = BTreeMap<String, String>;

#[derive(Debug)]
pub struct Family {
    pub name: String,
    pub kind: String,
    pub samples: Vec<Sample>,
}

#[derive(Debug)]
pub struct Sample {
    /// With a histogram's suffix.
    pub name: String,
    pub labels: Labels,
    pub value: f64,
}

/// Panics with the line that is wrong.
#[track_caller]
pub fn parse(text: &str) -> Vec<Family> {
    assert!(text.ends_with('\n'), "the last line ends");
    let mut families: Vec<Family> = Vec::new();
    let mut names = BTreeSet::new();
    let mut series = BTreeSet::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect(line);
            assert!(names.insert(name.to_owned()), "{name} begins twice");
            let kind = lines.next().and_then(|line| line.strip_prefix(&format!("# TYPE {name} "))).expect(line);
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(help.ends_with('.'), "{line}");
            families.push(Family { name: name.to_owned(), kind: kind.to_owned(), samples: Vec::new() });
            continue;
        }
        let sample = sample(line).unwrap_or_else(|| panic!("not a sample: {line:?}"));
        let family = families.last_mut().expect("a family comes first");
        let suffix = sample.name.strip_prefix(&family.name).unwrap_or_else(|| panic!("{line} in {}", family.name));
        let suffixes: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        assert!(suffixes.contains(&suffix), "{line} in {}", family.name);
        assert!(series.insert(line.rsplit_once(' ').expect(line).0.to_owned()), "twice: {line}");
        family.samples.push(sample);
    }
    assert!(families.iter().all(|family| !family.samples.is_empty()), "a family is without samples");
    families
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Labels::new(), rest),
    };
    let value = rest.strip_prefix(' ')?.parse().ok()?;
    is_name.then(|| Sample { name: name.to_owned(), labels, value })
}

/// What stands before `}`, and what behind it. Names are sorted, but for a bucket's `le`, which is last.
fn labels(mut text: &str) -> Option<(Labels, &str)> {
    let mut labels = Labels::new();
    loop {
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut letters = rest.char_indices();
        let end = loop {
            match letters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match letters.next()?.1 {
                    'n' => '\n',
                    letter @ ('\\' | '"') => letter,
                    _ => return None,
                }),
                (_, letter) => value.push(letter),
            }
        };
        if name != "le" && labels.last_key_value().is_some_and(|(last, _)| last.as_str() >= name) {
            return None;
        }
        labels.insert(name.to_owned(), value);
        text = &rest[end + 1..];
        match text.strip_prefix(',') {
            Some(rest) => text = rest,
            None => return Some((labels, text.strip_prefix('}')?)),
        }
    }
}

// Whether this reader can refuse.

#[test]
fn what_is_wrong_is_refused() {
    for line in
        ["a", "a{} 1", "a{b=\"c\"}1", "a{b=\"c} 1", "a{b=\"\\x\"} 1", "a{c=\"1\",b=\"2\"} 1", "a{b=\"c\",} 1", "a x"]
    {
        assert!(sample(line).is_none(), "{line}");
    }
    let good = sample("a{b=\"1,\\\"}\",c=\"\\\\n\\n\"} 1.5").unwrap();
    assert_eq!((good.labels["b"].as_str(), good.labels["c"].as_str(), good.value), ("1,\"}", "\\n\n", 1.5));
}
