//! The main job: an outside client's connections are spread over the backends.

use std::collections::BTreeMap;

use crate::lab::{BACKENDS4, Lab, MARK, Tcp, eventually, tally};

#[test]
fn smoke_round_robin_is_even() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let config =
        lab.config().service(&format!("name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]{BACKENDS4}"));
    let _meshd = lab.start(&config);

    let answers = lab.client.ask_times(42, Tcp, "192.168.50.1:20229");
    assert_eq!(tally(&answers), BTreeMap::from([("kafka-1", 14), ("kafka-2", 14), ("kafka-3", 14)]));
    for answer in &answers {
        assert_eq!(answer.peer.ip().to_string(), "10.255.0.3", "{answer:?}");
    }

    let pages = lab.client.run("curl -sSf -m 60 -H Connection:close http://192.168.50.1:20229/page/[1-3]");
    for name in ["kafka-1", "kafka-2", "kafka-3"] {
        assert!(pages.contains(&format!("{name} 10.255.0.3:")), "{pages}");
    }
    // The kernel adds up its counters every two seconds.
    let connections = ["10.255.0.33:9092", "10.255.0.34:9092", "10.255.0.35:9092"].map(|to| (to.to_owned(), 15));
    eventually("15 connections for each", || lab.sandbox().connections(MARK) == BTreeMap::from(connections.clone()));
}
