//! Services one at a time, beside those that are there: judged as the file would be that has them all.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshd::config::{Beside, Config, Standing, judge_beside};
use meshd::mesh::Service;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::*;

/// A service without its name. Some addresses make one MAC, some namespaces are one.
fn definitions() -> impl Strategy<Value = Value> {
    let published = select(vec!["80", "81", "9000-9003", "9002-9005", "9005-9009"]);
    let port = (published, select(vec!["tcp", "udp"]))
        .prop_map(|(published, protocol)| json!({ "published": published, "protocol": protocol }));
    let address = select(vec![
        "10.255.0.33",
        "10.255.0.34",
        "10.255.0.35",
        "fd00:255::aff:21",
        "fd00:255::aff:22",
        "192.0.2.33",
        "192.0.2.34",
    ]);
    let netns = select(vec![None, Some("a"), Some("b"), Some("/run/netns/a"), Some("/var/run/netns/b")]);
    let backend = (address, netns).prop_map(|(address, netns)| match netns {
        Some(netns) if !address.starts_with("192") => json!({ "address": address, "netns": netns }),
        _ => json!({ "address": address }),
    });
    let ports = prop::collection::vec(port, 1..3);
    (ports, prop::collection::vec(backend, 1..4))
        .prop_map(|(ports, backends)| json!({ "port": ports, "backend": backends }))
}

fn named(name: &str, definition: &Value) -> Value {
    let mut service = definition.clone();
    service["name"] = name.into();
    service
}

/// Whether a file with all of them is good.
fn is_good(services: &BTreeMap<&str, Value>) -> bool {
    let all: Vec<Value> = services.iter().map(|(name, definition)| named(name, definition)).collect();
    let text = toml::to_string(&json!({ "service": all })).unwrap();
    Config::parse(&dual(&text), "meshd.toml").is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_at_a_time_or_all_together(edits in prop::collection::vec((select(vec!["a", "b", "c", "d"]), prop::option::weighted(0.85, definitions())), 1..16)) {
        let base = good(&dual(""));
        let mut standing = Standing::default();
        let mut texts: BTreeMap<&str, Value> = BTreeMap::new();
        let mut services: BTreeMap<&str, Arc<Service>> = BTreeMap::new();
        for (name, definition) in &edits {
            let before = services.get(name).cloned();
            let mut all = texts.clone();
            all.remove(name);
            if !is_good(&all) {
                // Without it another address would be the lowest of its namespace, and make a MAC that is there: nobody's fault.
                return Ok(());
            }
            let Some(definition) = definition else {
                before.iter().for_each(|before| standing.remove(before));
                (texts, _) = (all, services.remove(name));
                continue;
            };
            let beside = Beside { standing: &standing, without: before.as_deref(), also: &[] };
            let judged = judge_beside(&[&named(name, definition)], &base, &beside);
            all.insert(name, definition.clone());
            prop_assert_eq!(judged.is_ok(), is_good(&all), "{:#?} beside {:#?}: {:?}", definition, texts, judged);
            if let Ok(mut judged) = judged {
                before.iter().for_each(|before| standing.remove(before));
                standing.add(&judged[0]);
                services.insert(name, judged.remove(0));
                texts = all;
            }
        }
        prop_assert_eq!(standing, services.values().map(|service| service.as_ref()).collect::<Standing>());
    }
}
