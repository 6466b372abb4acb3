//! Ports: each leads to its own backends, at the port they listen on.

use crate::lab::{BACKENDS4, Lab, Sctp, Tcp, Udp};

/// kafka-1 to kafka-3 listen on 9092, web on 80 and 30000 and up; nothing is where it is published.
#[test]
fn each_port_reaches_its_own_backends() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp, Sctp]);
    let _web = lab.backend("web-1").tcp(80).tcp(8081).udp(53).tcp(30000).tcp(30005).tcp(30009);
    let _meshd = lab.start(
        &lab.config()
            .service(&format!(
                r#"
                name = "kafka"
                port = [
                    {{ published = 20229, target = 9092 }},
                    {{ published = 20229, target = 9092, protocol = "sctp" }},
                    {{ published = 20230, target = 9092, backend = [{{ address = "10.255.0.34", netns = "kafka-2" }}] }},
                ]{BACKENDS4}"#
            ))
            .service(
                r#"
                name = "web"
                port = [
                    { published = 20231, target = 80 },
                    { published = 8081 },
                    { published = 20229, target = 53, protocol = "udp" },
                    { published = "30000-30009" },
                ]
                backend = [{ address = "10.255.0.41", netns = "web-1" }]"#,
            ),
    );

    let who = |protocol, port: u16| {
        let answers = lab.client.ask_times(6, protocol, &format!("192.168.50.1:{port}"));
        let mut who: Vec<String> = answers.iter().map(|answer| format!("{}:{}", answer.backend, answer.port)).collect();
        who.sort();
        who.dedup();
        who.join(" ")
    };
    let all = "kafka-1:9092 kafka-2:9092 kafka-3:9092";
    assert_eq!(who(Tcp, 20229), all);
    assert_eq!(who(Sctp, 20229), all);
    assert_eq!(who(Tcp, 20230), "kafka-2:9092");
    assert_eq!(who(Tcp, 20231), "web-1:80");
    assert_eq!(who(Tcp, 8081), "web-1:8081");
    assert_eq!(who(Udp, 20229), "web-1:53");
    for port in [30000, 30005, 30009] {
        assert_eq!(who(Tcp, port), format!("web-1:{port}"));
    }
    // Inside a range, and nobody listens there: the backend itself refuses.
    lab.client.is_refused(Tcp, "192.168.50.1:30001");
    // Not published: neither a target's port nor one beside the range.
    for port in [9092, 80, 29999, 30010] {
        lab.client.is_refused(Tcp, &format!("192.168.50.1:{port}"));
    }
    marks(&lab);
}

/// (tcp 1, udp 2, sctp 3) << 16 | port, a range by its first.
fn marks(lab: &Lab) {
    let element = |protocol: u64, port: u64, mark: u64| serde_json::json!([{"concat": [protocol, port]}, mark]);
    let listed = |map: &str| {
        let list = lab.sandbox().json(&format!("nft -n -j list map inet meshd {map}"));
        let map = list["nftables"].as_array().into_iter().flatten().find_map(|object| object.get("map")).cloned();
        map.unwrap_or_else(|| panic!("{list}"))["elem"].clone()
    };
    let sorted = |elements: serde_json::Value| {
        let mut elements = elements.as_array().cloned().unwrap_or_default();
        elements.sort_by_key(|element| element[1].as_u64());
        elements
    };
    assert_eq!(
        sorted(listed("marks")),
        [
            element(6, 8081, 0x11f91),
            element(6, 20229, 0x14f05),
            element(6, 20230, 0x14f06),
            element(6, 20231, 0x14f07),
            element(17, 20229, 0x24f05),
            element(132, 20229, 0x34f05),
        ]
    );
    let range = serde_json::json!([{"concat": [6, {"range": [30000, 30009]}]}, 0x17530]);
    assert_eq!(listed("ranges"), serde_json::json!([range]));
}
