//! `meshctl graph`, in each of its forms.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::response::Response;
use serde_json::{Value, json};

use crate::fake::{Fake, good, problem, services};

fn status() -> Response {
    good(json!({
        "version": "0.1.0", "node": "node-1", "pid": 1, "uptime": 1.0, "dataplane": "ipvs",
        "generation": { "wanted": 7, "programmed": 7 }, "failures": [], "services": 1, "ports": 2, "backends": 2,
        "look": 0.1, "repaired": 0, "configuration": { "path": "a.toml" },
        "state": { "directory": "/var/lib/meshd", "refused": [] },
    }))
}

/// A daemon that has had ten connections more at each look, and says so if it `counts`.
fn daemon(counts: bool) -> Fake {
    let looks = AtomicU64::new(1);
    Fake::new(move |asked| match asked {
        "GET /v1/status" => status(),
        "GET /v1/services" => good(services()),
        "GET /v1/traffic" if counts => {
            let look = looks.fetch_add(1, Ordering::Relaxed);
            let bytes = look * 1000;
            let backend = json!({
                "backend": "10.255.0.33:9092", "weight": 2, "active": 3, "inactive": 4,
                "connections": look * 10, "packets_in": 0, "packets_out": 0, "bytes_in": bytes, "bytes_out": bytes,
            });
            let mut port = backend.clone();
            port["service"] = "kafka".into();
            port["port"] = "tcp/20229".into();
            port["backends"] = json!([backend]);
            good(json!({ "clock": look as f64, "ports": [port] }))
        }
        _ => problem(500, "the kernel cannot be read: \u{1b}[2J"),
    })
}

#[test]
fn a_tree_has_rates() {
    let expected = "\
clients                                                   CONN/S  B/S IN B/S OUT
└─► node-1: published ports ─► ingress_sbox (ipvs)            10    1.0k    1.0k
    └─ kafka
       ├─ tcp/20229, to 9092, mark 0x14f05, wrr               10    1.0k    1.0k
       ├─► overlay
       │   └─ node-1 (this node)
       │      └─ 10.255.0.33, kafka-1, weight 2               10    1.0k    1.0k
       ├─ udp/53, mark 0x20035, wrr                            -       -       -
       └─► no node named: overlay or routed
           └─ 10.255.0.40, weight 1                            -       -       -
";
    let fake = daemon(true);
    let ran = fake.run(&["graph"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), expected, ""));
    fake.asked();
    let ran = fake.run(&["graph", "--no-rates"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert!(!ran.out.contains("CONN/S"), "{}", ran.out);
    assert_eq!(fake.asked(), ["GET /v1/status", "GET /v1/services", "GET /v1/traffic"]);
}

#[test]
fn other_forms_are_for_other_programs() {
    let fake = daemon(true);
    let json: Value = serde_json::from_str(&fake.run(&["graph", "-o", "json", "--no-rates"]).out).expect("JSON");
    assert_eq!((&json["node"], &json["ports"][0]["port"]), (&json!("node-1"), &json!("tcp/20229")));
    assert_eq!((&json["edges"][0]["active"], &json["edges"][0]["rate"]), (&json!(3), &json!(null)));
    let dot = fake.run(&["graph", "--format", "dot"]).out;
    assert!(dot.starts_with("digraph mesh {\n") && dot.ends_with("}\n"), "{dot}");
    assert!(dot.contains("  p0 -> b0 [label=\"weight 2\\n10 conn/s\\n1.0k B/s in\\n1.0k B/s out\"];\n"), "{dot}");
    let svg = fake.run(&["graph", "--format", "svg", "--no-rates"]).out;
    assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"), "{svg}");
    assert!(svg.contains(">kafka tcp/20229: weight 2</text>\n"), "{svg}");
}

#[test]
fn without_counters_there_is_a_picture_all_the_same() {
    let fake = daemon(false);
    for (form, word) in [("text", "└─ 10.255.0.33, kafka-1, weight 2\n"), ("dot", "weight 2"), ("svg", "weight 2")]
    {
        let ran = fake.run(&["graph", "--format", form]);
        assert_eq!(ran.code, Some(0), "{form}");
        assert!(ran.out.contains(word) && !ran.out.contains("conn/s"), "{form}: {}", ran.out);
        assert_eq!(ran.err, "meshctl: no rates: the kernel cannot be read: \\u{1b}[2J\n", "{form}");
    }
}

#[test]
fn one_service_may_be_enough() {
    let fake = daemon(true);
    let ran = fake.run(&["graph", "--no-rates", "--service", "kafka", "--service", "kafka"]);
    assert!(ran.out.contains("kafka"), "{ran:?}");
    let ran = fake.run(&["graph", "--service", "kafak"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), "meshctl: no service kafak; did you mean kafka?\n"));
    let ran = fake.run(&["graph", "--format", "dot", "-o", "json"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(64), ""));
}
