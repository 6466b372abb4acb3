//! Services that do not come from the file: what is taken, and what is wrong with them, each with its place.

use std::sync::Arc;

use meshd::config::{Config, judge};
use meshd::mesh::Service;
use serde_json::{Value, json};

use super::*;

/// A file with both families and one service of its own.
fn file() -> Config {
    good(&dual(
        "[[service]]\nname = 'web'\nport = [{ published = 80 }, { published = '9000-9009', protocol = 'udp' }]\n\
         backend = [{ address = '10.255.0.41', netns = 'web-1' }, { address = '192.0.2.10' }]",
    ))
}

fn accepted() -> Vec<Arc<Service>> {
    let other = json!({ "name": "other", "port": [{ "published": 90 }], "backend": [{ "address": "10.255.0.50" }] });
    judge(&[&other], &file(), &[]).expect("it is good")
}

#[track_caller]
fn refused(service: Value, expected: &[&str]) {
    let accepted = accepted();
    let misfits = judge(&[&service], &file(), &accepted.iter().map(|service| service.as_ref()).collect::<Vec<_>>())
        .expect_err("it is not good");
    let told: Vec<String> = misfits.iter().map(|misfit| format!("{}: {}", misfit.place, misfit.message)).collect();
    assert_eq!(told, expected, "{service:#}");
}

/// One port, with these keys more.
fn with_port(keys: Value) -> Value {
    let mut port = json!({ "published": 20229 });
    port.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    json!({ "name": "kafka", "port": [port], "backend": [{ "address": "10.255.0.33" }] })
}

/// One backend, with these keys.
fn with_backend(backend: Value) -> Value {
    json!({ "name": "kafka", "port": [{ "published": 20229 }], "backend": [backend] })
}

#[test]
fn json_means_what_the_same_toml_means() {
    let toml = service(
        "scheduler = 'mh'\nscheduler_flags = ['mh-port']\npersistence_mask = '255.255.255.0'\n\
         port = [{ published = 8000, target = 80, persistence = 0 }, { published = '9000-9009', protocol = 'udp', one_packet = true,\n\
         backend = [{ address = '10.255.0.34', weight = 0, upper_threshold = 9, lower_threshold = 8, state = 'disabled' }] }]\n\
         backend = [{ address = '10.255.0.33', netns = 'kafka-1' }, { address = '10.255.0.35', netns = 4711 }]",
    );
    let json = json!({
        "name": "web", "scheduler": "mh", "scheduler_flags": ["mh-port"], "persistence_mask": "255.255.255.0",
        "port": [
            { "published": 8000, "target": 80, "persistence": 0 },
            { "published": "9000-9009", "protocol": "udp", "one_packet": true,
              "backend": [{ "address": "10.255.0.34", "weight": 0, "upper_threshold": 9, "lower_threshold": 8, "state": "disabled" }] },
        ],
        "backend": [{ "address": "10.255.0.33", "netns": "kafka-1" }, { "address": "10.255.0.35", "netns": 4711 }],
    });
    let alone = good(INGRESS);
    assert_eq!(judge(&[&json], &alone, &[]), Ok(good(&toml).services));
    // What is null is absent.
    let mut nulls = json.clone();
    nulls["one_packet"] = Value::Null;
    nulls["port"][0]["backend"] = Value::Null;
    assert_eq!(judge(&[&nulls], &alone, &[]), Ok(good(&toml).services));
}

#[test]
fn keys_and_values_are_judged_at_their_place() {
    refused(
        with_port(json!({ "tarjet": 1 })),
        &[
            "port[0].tarjet: `tarjet` is no key of [[service.port]]; did you mean `target`? its keys: published, target, \
         protocol, scheduler, scheduler_flags, persistence, persistence_mask, persistence_mask6, one_packet, client_address, mode, bind, allow, deny, check, prefer, slow_start, drain, quorum, hysteresis, on_empty, backend",
        ],
    );
    refused(with_port(json!({ "target": 0 })), &["port[0].target: `target` is 0; a port from 1 to 65535 would do"]);
    refused(with_port(json!({ "target": 1.0 })), &["port[0].target: `target` is 1.0; a port from 1 to 65535 would do"]);
    refused(
        with_port(json!({ "target": u64::MAX })),
        &["port[0].target: `target` is 18446744073709551615; a port from 1 to 65535 would do"],
    );
    refused(
        with_port(json!({ "protocol": "icmp" })),
        &["port[0].protocol: `protocol` is \"icmp\"; \"tcp\", \"udp\" or \"sctp\" would do"],
    );
    refused(
        with_port(json!({ "persistence": 60, "target": 9092 })),
        &["port[0].target: `target` is 9092, but with `persistence` IPVS keeps the published port 20229; 20229, or \
         `scheduler` \"sh\" or \"mh\" in place of `persistence`, or [node] dataplane = \"nftables\", would do"],
    );
    refused(
        with_port(json!({ "scheduler_flags": ["sh-port", 1] })),
        &[
            "port[0].scheduler_flags[0]: \"sh-port\" is no flag of scheduler \"rr\"; scheduler \"sh\" or \"mh\", or no flags would do",
            "port[0].scheduler_flags[1]: 1 is no flag of scheduler \"rr\"; scheduler \"sh\" or \"mh\", or no flags would do",
        ],
    );
    refused(
        with_backend(json!({ "address": "10.255.0.33", "state": "down" })),
        &["backend[0].state: `state` is \"down\"; \"enabled\", \"drain\" or \"disabled\" would do"],
    );
    refused(
        with_backend(json!({ "address": "::ffff:1.2.3.4" })),
        &[
            "backend[0].address: `address` is \"::ffff:1.2.3.4\", an IPv4-mapped address; a host's own such as \"fd00:255::33\" would do",
        ],
    );
    refused(
        with_backend(json!({})),
        &["backend[0]: [[service.backend]] has no `address`; an IPv4 or IPv6 address would do"],
    );
    refused(
        json!({ "port": [{ "published": 1 }] }),
        &[": [[service]] has no `name`; one such as name = \"web\" would do"],
    );
    refused(json!("kafka"), &[": `service` has an element that is \"kafka\"; a table [[service]] would do"]);
    refused(
        json!({ "name": "kafka", "port": [[]] }),
        &["port[0]: `port` has an element that is a list; a table [[service.port]] would do"],
    );
    refused(
        json!({ "name": "a\"\\\u{7f}\n]}", "port": [{ "published": 1 }] }),
        &[
            "name: `name` is \"a\\\"\\\\\\u{7f}\\n]}\"; a name of 1 to 63 characters from A-Z, a-z, 0-9, `_`, `.` and `-` would do",
        ],
    );
    refused(
        json!({ "name": "kafka", "port": [{ "published": 1 }], "a\"= 1\n[[service]]": 1 }),
        &[
            "a\\\"= 1\\n[[service]]: `a\\\"= 1\\n[[service]]` is no key of [[service]]; its keys: name, scheduler, scheduler_flags, \
         persistence, persistence_mask, persistence_mask6, one_packet, client_address, mode, bind, allow, deny, check, prefer, slow_start, drain, quorum, hysteresis, on_empty, port, backend",
        ],
    );
}

#[test]
fn clashes_with_the_file_and_with_other_services_are_named() {
    refused(
        with_port(json!({ "published": 80 })),
        &[
            "port[0].published: published port tcp 80 of service \"kafka\" is already published by service \"web\"; a protocol and port has one owner",
        ],
    );
    refused(
        with_port(json!({ "published": 90 })),
        &[
            "port[0].published: published port tcp 90 of service \"kafka\" is already published by service \"other\"; a protocol and port has one owner",
        ],
    );
    refused(
        with_port(json!({ "published": "9005-9015", "protocol": "udp" })),
        &[
            "port[0].published: published ports udp 9005-9015 of service \"kafka\" overlap udp 9000-9009, already published by service \"web\"; \
         a protocol and port has one owner",
        ],
    );
    refused(
        with_port(json!({ "published": 9326 })),
        &[
            "port[0].published: published port tcp 9326 of service \"kafka\" is already used by the listener of [metrics]; another port would do",
        ],
    );
    let twice = json!({ "name": "kafka", "port": [{ "published": 1 }, { "published": 1 }] });
    refused(
        twice,
        &[
            "port[1].published: published port tcp 1 of service \"kafka\" is already published by service \"kafka\" at port[0].published; \
         a protocol and port has one owner",
        ],
    );
    let twice = json!({ "name": "kafka", "port": [{ "published": 1 }], "backend": [{ "address": "10.255.0.7" }, { "address": "10.255.0.7" }] });
    refused(
        twice,
        &["backend[1].address: backend 10.255.0.7 is already listed at backend[0].address; to list it once would do"],
    );
    refused(
        with_backend(json!({ "address": "10.255.0.3" })),
        &[
            "backend[0].address: backend 10.255.0.3 is this node's own address in the ingress subnet; an address of its own would do",
        ],
    );
    refused(
        with_backend(json!({ "address": "10.255.0.41", "netns": "web-2" })),
        &["backend[0].netns: backend 10.255.0.41 is in namespace web-1, here in web-2; one of them would do"],
    );
    refused(
        with_backend(json!({ "address": "10.255.0.33", "netns": "ingress_sbox" })),
        &["backend[0].netns: namespace ingress_sbox is meshd's own; a backend's would do"],
    );
    refused(
        with_backend(json!({ "address": "fd00:255::aff:29" })),
        &["backend[0].address: backend fd00:255::aff:29 makes the same MAC 02:42:0a:ff:00:29 as backend 10.255.0.41; \
         an address with other last 32 bits would do"],
    );
}

#[test]
fn of_several_services_each_fault_is_that_ones() {
    let service = |name: &str, port: u16| json!({ "name": name, "port": [{ "published": port }] });
    let (good, bad, clash) = (service("a", 1), service("b", 80), service("c", 1));
    let misfits = judge(&[&good, &bad, &clash], &file(), &[]).unwrap_err();
    let told: Vec<_> = misfits.iter().map(|misfit| (misfit.service, misfit.place.as_str())).collect();
    assert_eq!(told, [(1, "port[0].published"), (2, "port[0].published")]);
    assert_eq!(judge(&[], &file(), &[]), Ok(vec![]));
}

/// A client that wants to be expensive gets no more than it gives: neither by long names nor by many mistakes.
#[test]
fn mistakes_without_end_are_told_in_short() {
    let long = "k".repeat(100_000);
    let zeros = vec![0; 10_000];
    let misfits =
        judge(&[&json!({ "name": "kafka", "port": [{ "published": 1 }], &long: &zeros })], &file(), &[]).unwrap_err();
    assert_eq!(misfits.len(), 1);
    assert!(misfits[0].place.len() < 100 && misfits[0].message.len() < 400, "{}", misfits[0].message);

    let misfits = judge(&[&json!({ "name": "kafka", "port": &zeros, "backend": &zeros })], &file(), &[]).unwrap_err();
    assert_eq!(misfits.len(), 101);
    assert_eq!(misfits[100].message, "19900 more mistakes are not listed");
    let errors = Config::parse("[x]\n", "f").unwrap_err();
    assert_eq!(errors.iter().count(), 2);
    let many: String = (0..1000).map(|number| format!("k{number} = 1\n")).collect();
    assert_eq!(Config::parse(&many, "f").unwrap_err().iter().count(), 101);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// Any JSON, often with the right keys.
    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (0..70_000u32).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "(?s).{0,12}".prop_map(Value::from),
            prop::sample::select(vec![
                "tcp",
                "rr",
                "sh",
                "sh-port",
                "drain",
                "10.255.0.33",
                "fd00::1",
                "1-9",
                "255.0.0.0"
            ])
            .prop_map(Value::from),
        ];
        let key = prop_oneof![
            4 => prop::sample::select(vec![
                "name", "port", "backend", "published", "target", "protocol", "address", "weight", "upper_threshold", "lower_threshold", "state",
                "netns", "scheduler",
                "scheduler_flags", "persistence", "persistence_mask", "one_packet",
            ])
            .prop_map(String::from),
            1 => "(?s).{0,6}",
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key.clone(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_json_is_judged_and_every_fault_has_a_place_in_it(value in values()) {
            if let Err(misfits) = judge(&[&value], &file(), &[]) {
                prop_assert!(!misfits.is_empty());
                for misfit in misfits {
                    prop_assert_eq!(misfit.service, 0);
                    prop_assert!(!misfit.message.contains('\n'), "{}", misfit.message);
                    prop_assert!(!misfit.message.contains("at line"), "{}", misfit.message);
                    prop_assert!(!misfit.message.contains("toml.io"), "it is read as TOML: {}", misfit.message);
                }
            }
        }
    }
}
