//! The README's table of metrics and what is exposed are the same list.

use std::collections::BTreeSet;

use super::format::parse;
use super::made_up::{everything, text};

const README: &str = include_str!("../../README.md");

/// Names in the first column of the table below `## Metrics`.
fn described() -> BTreeSet<String> {
    let section = README.split_once("\n## Metrics\n").unwrap().1.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.map(|row| row.split('|').next().unwrap_or_default());
    let names = cells.flat_map(|cell| cell.split('`').map(str::trim).filter(|name| name.contains('_')));
    names.map(str::to_owned).collect()
}

#[test]
fn the_readme_describes_what_there_is() {
    let exposed: BTreeSet<String> = parse(&text(everything())).into_iter().map(|family| family.name).collect();
    assert_eq!(described(), exposed);
}
