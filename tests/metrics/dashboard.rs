//! config/grafana.json shows only what there is, and all of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::format::{Family, parse};
use super::made_up::{everything, text};

const DASHBOARD: &str = include_str!("../../config/grafana.json");

pub fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).expect("it is JSON")
}

/// Every panel, those in folded rows too.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let outer = dashboard["panels"].as_array().expect("there are panels");
    outer
        .iter()
        .flat_map(|panel| [vec![panel], panel["panels"].as_array().into_iter().flatten().collect()].concat())
        .collect()
}

/// The expressions of all panels and variables.
pub fn expressions(dashboard: &Value) -> Vec<&str> {
    let targets = panels(dashboard).into_iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let variables = dashboard["templating"]["list"].as_array().into_iter().flatten();
    let queries = variables.filter_map(|variable| variable["query"]["query"].as_str());
    targets.map(|target| target["expr"].as_str().expect("a target has an expression")).chain(queries).collect()
}

/// The metrics that an expression names, and the labels. It knows as much of PromQL as the dashboard uses.
fn named(expression: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    const GROUPS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
    const OPERATORS: [&str; 4] = ["and", "or", "unless", "bool"];
    let (mut metrics, mut labels) = (BTreeSet::new(), BTreeSet::new());
    let mut rest = expression;
    let mut group = false;
    while let Some(letter) = rest.chars().next() {
        let word = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
        let length = match letter {
            '"' => 2 + rest[1..].find('"').expect(expression),
            '[' => 1 + rest.find(']').expect(expression),
            '$' => {
                1 + rest[1..].find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len() - 1)
            }
            '{' => {
                let end = rest.find('}').expect(expression);
                let matchers = rest[1..end].split(',').filter_map(|matcher| matcher.split(['=', '!']).next());
                labels.extend(matchers.map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()));
                end + 1
            }
            ')' => {
                group = false;
                1
            }
            _ if letter.is_alphabetic() || letter == '_' => {
                let name = &rest[..word];
                let called = ["(", "by ", "without "].iter().any(|next| rest[word..].trim_start().starts_with(next));
                if GROUPS.contains(&name) {
                    group = true;
                } else if group {
                    labels.insert(name.to_owned());
                } else if !called && !OPERATORS.contains(&name) {
                    metrics.insert(name.to_owned());
                }
                word
            }
            _ if letter.is_numeric() => word,
            _ => letter.len_utf8(),
        };
        rest = &rest[length..];
    }
    (metrics, labels)
}

#[test]
fn an_expression_s_names_are_found() {
    let (metrics, labels) = named(
        "histogram_quantile(0.99, sum by (le, node) (rate(a_bucket{job=~\"$job\",kind!=\"x y\"}[$__rate_interval]))) / on (x) b > 5 and c",
    );
    assert_eq!(metrics.into_iter().collect::<Vec<_>>(), ["a_bucket", "b", "c"]);
    assert_eq!(labels.into_iter().collect::<Vec<_>>(), ["job", "kind", "le", "node", "x"]);
}

/// Names of series, with a histogram's suffixes, and the labels of each.
fn series(families: &[Family]) -> BTreeMap<String, BTreeSet<String>> {
    let mut series: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for sample in families.iter().flat_map(|family| &family.samples) {
        series.entry(sample.name.clone()).or_default().extend(sample.labels.keys().cloned());
    }
    series
}

#[test]
fn every_metric_that_it_names_exists() {
    let series = series(&parse(&text(everything())));
    let dashboard = dashboard();
    let expressions = expressions(&dashboard);
    assert!(expressions.len() > 30, "{}", expressions.len());
    for expression in expressions {
        // A variable's query is a function of Grafana's: label_values(metric, label).
        let expression = match expression.strip_prefix("label_values(").and_then(|rest| rest.rsplit_once(',')) {
            Some((metric, _)) => metric,
            None => expression,
        };
        let (metrics, labels) = named(expression);
        assert!(!metrics.is_empty(), "{expression}");
        // What Prometheus itself adds.
        let mut known: BTreeSet<&str> = ["instance", "job"].into();
        for metric in &metrics {
            let of_metric = series.get(metric).unwrap_or_else(|| panic!("there is no {metric}: {expression}"));
            known.extend(of_metric.iter().map(String::as_str));
        }
        assert!(labels.iter().all(|label| known.contains(label.as_str())), "{labels:?} in {expression}");
    }
}

#[test]
fn every_metric_that_exists_is_shown() {
    let families = parse(&text(everything()));
    let dashboard = dashboard();
    let named: BTreeSet<String> = expressions(&dashboard).into_iter().flat_map(|text| named(text).0).collect();
    let unseen = families.iter().map(|family| &family.name).filter(|name| {
        !["", "_bucket", "_sum", "_count"].iter().any(|suffix| named.contains(&format!("{name}{suffix}")))
    });
    assert_eq!(unseen.collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn it_can_be_imported() {
    let dashboard = dashboard();
    let panels = panels(&dashboard);
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().expect("a panel has a number")).collect();
    assert_eq!(ids.len(), panels.len(), "no two panels have one number");
    assert!(dashboard["id"].is_null(), "Grafana gives a number of its own");
    assert!(dashboard["schemaVersion"].as_u64() >= Some(38), "Grafana 10 or later");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().expect("a panel has a title");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(!panel["description"].as_str().unwrap_or_default().is_empty(), "{title} says what it shows");
        let right = panel["gridPos"]["x"].as_u64().unwrap() + panel["gridPos"]["w"].as_u64().unwrap();
        assert!(right <= 24, "{title} is on the grid");
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert!(variables.iter().any(|variable| variable["name"] == "datasource" && variable["type"] == "datasource"));
}
