//! The main job: an outside client's connections are spread over the backends.

use std::collections::BTreeMap;

use crate::lab::{Backend, Config, Lab, Tcp, eventually, tally};

/// (tcp 1) << 16 | 20229.
const MARK: u32 = 0x14f05;

fn three(lab: &Lab) -> [Backend; 3] {
    ["kafka-1", "kafka-2", "kafka-3"].map(|name| lab.backend(name).tcp(9092))
}

fn kafka(lab: &Lab) -> Config {
    lab.config().service(
        r#"
        name = "kafka"
        port = [{ published = 20229, target = 9092 }]
        backend = [
            { address = "10.255.0.33", netns = "kafka-1" },
            { address = "10.255.0.34", netns = "kafka-2" },
            { address = "10.255.0.35", netns = "kafka-3" },
        ]"#,
    )
}

#[test]
fn smoke_round_robin_is_even() {
    let t0 = std::time::Instant::now(); let Some(lab) = Lab::new() else { return }; eprintln!("lab {:?}", t0.elapsed());
    let _backends = three(&lab);
    eprintln!("backends {:?}", t0.elapsed()); let _meshd = lab.start(&kafka(&lab)); eprintln!("start {:?}", t0.elapsed());

    let answers = lab.client.ask_times(42, Tcp, "192.168.50.1:20229");
    assert_eq!(tally(&answers), BTreeMap::from([("kafka-1", 14), ("kafka-2", 14), ("kafka-3", 14)]));
    for answer in &answers {
        assert_eq!(answer.peer.ip().to_string(), "10.255.0.3", "{answer:?}");
    }

eprintln!("asked {:?}", t0.elapsed());    let pages = lab.client.run("curl -sSf -m 60 -H Connection:close http://192.168.50.1:20229/page/[1-3]");
    for name in ["kafka-1", "kafka-2", "kafka-3"] {
        assert!(pages.contains(&format!("{name} 10.255.0.3:")), "{pages}");
    }
eprintln!("curl {:?}", t0.elapsed());    // The kernel adds up its counters every two seconds.
    let connections = ["10.255.0.33:9092", "10.255.0.34:9092", "10.255.0.35:9092"].map(|to| (to.to_owned(), 15));
    eventually("15 connections for each in ipvsadm", || {
        lab.sandbox().ipvs_connections(MARK) == BTreeMap::from(connections.clone())
    });
}
