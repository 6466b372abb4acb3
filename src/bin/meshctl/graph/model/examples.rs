//! For tests: meshes that are drawn.

use meshd::control::protocol::{Services, Status};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::Graph;
use crate::meshctl::top::rates::{BackendRate, PortRate, Rate};

fn status(node: &str, dataplane: &str) -> Status {
    serde_json::from_value(json!({
        "version": "0.1.0", "node": node, "pid": 1, "uptime": 1.0, "dataplane": dataplane,
        "generation": { "wanted": 1, "programmed": 1 }, "failures": [], "services": 1, "ports": 1, "backends": 1,
        "look": 0.1, "repaired": 0, "configuration": { "path": "a.toml" },
        "state": { "directory": "/", "refused": [] },
    }))
    .expect("a good status")
}

pub fn drawn(node: &str, dataplane: &str, services: &Value, rates: &[PortRate]) -> Graph {
    let services: Services =
        serde_json::from_value(json!({ "generation": 1, "services": services })).expect("good services");
    Graph::new(&status(node, dataplane), &services.services.iter().collect::<Vec<_>>(), rates)
}

/// Two ports of one service, which have the same backends but for one port's own; and one of another.
pub fn services() -> Value {
    let kafka = json!({
        "name": "kafka", "scheduler": "wrr",
        "port": [
            { "published": 20229, "target": 9092 },
            { "published": 20230, "target": 9092 },
            { "published": "30000-30001", "protocol": "udp", "scheduler": "sh", "backend": [{ "address": "10.255.0.35" }] },
        ],
        "backend": [
            { "address": "10.255.0.33", "weight": 2, "netns": "kafka-1" },
            { "address": "10.255.0.34", "node": "node-2", "netns": "kafka-2" },
            { "address": "fd00:255::36", "node": "node-2", "state": "drain" },
        ],
    });
    let web = json!({ "name": "web", "mode": "host", "port": [{ "published": 80 }], "backend": [] });
    let entry = |service: Value| json!({ "owner": "file", "generation": 1, "service": service });
    json!([entry(kafka), entry(web)])
}

fn rate(connections: f64) -> Option<Rate> {
    let rate = Rate { connections, bytes_in: 120_000.0, bytes_out: 3.4e6, ..Rate::default() };
    (connections > 0.0).then_some(rate)
}

/// Of the example: a backend is down, and one has left.
pub fn counted() -> Vec<PortRate> {
    let backend = |backend: &str, weight, connections| BackendRate {
        backend: backend.to_owned(),
        rate: rate(connections),
        active: 3,
        inactive: 12,
        weight,
    };
    let backends = vec![
        backend("10.255.0.33:9092", 2, 12.5),
        backend("10.255.0.99:9092", 0, 0.0),
        backend("[fd00:255::36]:9092", 0, 0.0),
    ];
    vec![PortRate { service: "kafka".into(), port: "tcp/20229".into(), rate: rate(12.5), backends }]
}

pub fn example(rates: &[PortRate]) -> Graph {
    drawn("node-1", "ipvs", &services(), rates)
}

/// A hundred ports of one service.
pub fn large() -> Graph {
    let ports: Vec<Value> = (1..=100).map(|port| json!({ "published": port })).collect();
    let backends: Vec<Value> = (1..=3).map(|last| json!({ "address": format!("10.255.0.{last}") })).collect();
    let service = json!({ "name": "many", "port": ports, "backend": backends });
    let services = json!([{ "owner": "file", "generation": 1, "service": service }]);
    drawn("node-1", "ipvs", &services, &[])
}

/// Letters that mean something to someone.
fn nasty() -> impl Strategy<Value = String> {
    let special: Vec<char> = "\"\\<>&'{}[];-=\n\r\t\0\u{1b}\u{7f}\u{9b}\u{202e}\u{fffe}\u{ffff}".chars().collect();
    let letter = prop_oneof![prop::sample::select(special), any::<char>()];
    prop::collection::vec(letter, 0..12).prop_map(String::from_iter)
}

prop_compose! {
    /// A mesh of which no word is good.
    pub fn strange()(
        words in prop::collection::vec(nasty(), 12), weight in 0..3u32, connections in -1.0..1e9, nftables: bool,
    ) -> Graph {
        let [node, service, scheduler, protocol, published, address, netns, peer, other, state, gone, port] =
            <[String; 12]>::try_from(words).expect("as many");
        let service = json!({
            "name": service, "scheduler": scheduler,
            "port": [{ "published": published, "protocol": protocol }, { "published": 7 }],
            "backend": [
                { "address": address, "netns": netns, "weight": weight, "state": state },
                { "address": other, "node": peer }, { "address": "10.255.0.1" },
            ],
        });
        let named = |port: &str, backend: &str| PortRate {
            service: service["name"].as_str().unwrap_or_default().to_owned(),
            port: port.to_owned(),
            rate: rate(connections),
            backends: vec![BackendRate { backend: backend.to_owned(), rate: rate(1.0), active: 0, inactive: 0, weight }],
        };
        let rates = [named("tcp/7", &gone), named(&port, "10.255.0.1:7")];
        let dataplane = if nftables { "nftables" } else { "ipvs" };
        drawn(&node, dataplane, &json!([{ "owner": "socket", "generation": 1, "service": service }]), &rates)
    }
}
