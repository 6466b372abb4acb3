//! Explaining a way, and trying all.

use axum::body::Body;
use serde_json::{Value, json};

use crate::fake::{Fake, answer, good, problem};

fn explanation(whole: bool) -> Value {
    let hop = json!({ "place": "ingress_sbox", "what": "mark", "wanted": "tcp 20229 → 0x14f05",
                      "found": if whole { "tcp 20229 → 0x14f05" } else { "nothing" },
                      "verdict": if whole { "good" } else { "broken" }, "look": "nft \u{1b}[2J" });
    let mut told = json!({ "node": "node-1", "dataplane": "ipvs", "good": whole, "ports": [
        { "service": "kafka", "port": "tcp/20229", "mark": "0x14f05 = 85765",
          "parts": [{ "title": "IPv4 in", "hops": [hop] }] } ] });
    if !whole {
        told["broken"] = hop;
    }
    told
}

#[test]
fn a_way_that_holds_is_0_and_one_that_is_broken_is_1() {
    let fake = Fake::new(|asked| match asked {
        "GET /v1/explain/20229" => good(explanation(true)),
        "GET /v1/explain/53?protocol=udp&from=fd00::1&node=node-2" => good(explanation(false)),
        _ => problem(404, "port 9 is not published here"),
    });
    let ran = fake.run(&["explain", "20229"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert!(ran.out.ends_with("IPv4 in\n  ok      ingress_sbox  mark  tcp 20229 → 0x14f05\n"), "{}", ran.out);
    for line in ["udp/53 --from fd00::1 --node node-2", "53 --protocol udp --from fd00::1 --node node-2"] {
        let line: Vec<&str> = ["explain"].into_iter().chain(line.split(' ')).collect();
        let ran = fake.run(&line);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.out.contains("  BROKEN  ingress_sbox  mark  nothing\n"), "{}", ran.out);
        assert!(ran.err.starts_with("meshctl: broken in ingress_sbox at \"mark\""), "{}", ran.err);
        assert!(!(ran.out + &ran.err).contains('\u{1b}'), "it steers the terminal");
    }
    let ran = fake.run(&["explain", "9"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), "meshctl: port 9 is not published here\n"));
    for wrong in ["kafka", "icmp/9", "0", "70000"] {
        assert_eq!(fake.run(&["explain", wrong]).code, Some(64), "{wrong}");
    }
    assert_eq!(fake.run(&["explain", "9", "--from", "here"]).code, Some(64));
    let ran = fake.run(&["explain", "9", "--config", "/nowhere/at/all.toml"]);
    assert!(ran.code == Some(64) && ran.err.contains("/nowhere/at/all.toml"), "{ran:?}");
}

fn stream(events: &[Value]) -> Body {
    Body::from(events.iter().map(|event| format!("data: {event}\n\n")).collect::<String>())
}

fn tried(to: &str, verdict: &str) -> Value {
    json!({ "check": "checked", "kind": "port", "service": "kafka", "port": "tcp/20229", "to": to, "node": "node-1",
            "verdict": verdict, "result": "answers" })
}

#[test]
fn all_is_tried_and_what_fails_is_told() {
    let fake = Fake::new(|asked| {
        let events = match asked {
            "GET /v1/check" => vec![
                json!({ "check": "begun", "pairs": 2 }),
                tried("192.168.50.1:20229", "good"),
                tried("127.0.0.1:20229", "good"),
                json!({ "check": "done" }),
            ],
            "GET /v1/check?all_nodes=true&service=kafka" => {
                vec![
                    json!({ "check": "begun", "pairs": 1 }),
                    tried("192.168.50.1:20229", "broken"),
                    json!({ "check": "done" }),
                ]
            }
            "GET /v1/check?service=torn" => vec![json!({ "check": "begun", "pairs": 2 }), tried("127.0.0.1:1", "good")],
            _ => vec![json!({ "check": "failed", "reason": "there is no sandbox" })],
        };
        answer(200, "text/event-stream", stream(&events))
    });
    let ran = fake.run(&["check"]);
    let table = "SERVICE   PORT        ADDRESSES   BACKENDS\nkafka     tcp/20229   2 of 2      -\n";
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), table, ""));
    let ran = fake.run(&["check", "--all-nodes", "--service", "kafka", "-o", "json"]);
    let all: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((ran.code, all[0]["verdict"].as_str()), (Some(1), Some("broken")));
    assert!(ran.err.contains("1 of 1 do not answer"), "{}", ran.err);
    // What breaks off has not gone well.
    assert_eq!(fake.run(&["check", "--service", "torn"]).code, Some(69));
    let ran = fake.run(&["check", "--service", "none"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), "meshctl: there is no sandbox\n"));
}
