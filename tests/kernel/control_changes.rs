//! Whatever is changed of one port, the others answer throughout: the promise that Swarm breaks (SWARM.md).

use serde_json::{Value, json};

use crate::lab::{Lab, MARK, Tcp, Udp, by_nftables, eventually, tally, value_of};

/// A service with two ports; `other` is what the second one has of its own.
fn service(lab: &Lab, ports: &[Value]) -> Value {
    let backend = |number: usize| json!({ "address": format!("10.255.0.{}", 32 + number), "netns": lab.place(&format!("kafka-{number}")).name });
    let mut all = vec![json!({ "published": 20229, "target": 9092 })];
    all.extend_from_slice(ports);
    json!({ "port": all, "backend": (1..=3).map(backend).collect::<Vec<_>>() })
}

#[test]
fn every_change_of_a_port_leaves_the_others_alone() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp, Udp]);
    let meshd = lab.start(&lab.config());
    let mut api = lab.api();
    let own = |weight: u32| json!([{ "address": "10.255.0.35", "weight": weight }]);
    api.good(
        "PUT",
        "/v1/services/kafka?wait=60",
        Some(&service(&lab, &[json!({ "published": 20230, "target": 9092, "backend": own(1) })])),
    );
    let load = lab.load(&["192.168.50.1:20229"; 3]);
    let mut held = lab.client.connect(Tcp, "192.168.50.1:20229").unwrap();
    let busy = held.ask("before").unwrap().backend;
    load.goes_on_for(30);
    let mark = meshd.mark();

    let port = "/v1/services/kafka/ports/tcp/20230";
    let other = if by_nftables() { "wrr" } else { "wlc" };
    let changes: [(&str, String, Option<Value>); 14] = [
        // Scheduler, persistence, target port, weights, backends of the other port.
        ("PATCH", port.into(), Some(json!({ "scheduler": "sh", "scheduler_flags": ["sh-port"] }))),
        ("PATCH", port.into(), Some(json!({ "scheduler": other, "scheduler_flags": null }))),
        ("PATCH", port.into(), Some(json!({ "target": 9093 }))),
        ("PATCH", port.into(), Some(json!({ "target": 9092 }))),
        ("PATCH", format!("{port}/backends/10.255.0.35"), Some(json!({ "weight": 7 }))),
        ("POST", format!("{port}/backends"), Some(json!({ "address": "10.255.0.34" }))),
        ("PATCH", format!("{port}/backends/10.255.0.34"), Some(json!({ "state": "disabled" }))),
        ("DELETE", format!("{port}/backends/10.255.0.35"), None),
        ("PATCH", port.into(), Some(json!({ "backend": own(3) }))),
        // The set of ports itself.
        ("POST", "/v1/services/kafka/ports".into(), Some(json!({ "published": "30000-30099" }))),
        (
            "POST",
            "/v1/services/kafka/ports".into(),
            Some(json!({ "published": 20229, "target": 9092, "protocol": "udp" })),
        ),
        ("DELETE", "/v1/services/kafka/ports/tcp/30000-30099".into(), None),
        ("DELETE", port.into(), None),
        ("PUT", "/v1/services/kafka".into(), Some(service(&lab, &[json!({ "published": 20231, "target": 9092 })]))),
    ];
    for (method, path, body) in changes {
        let answer = api.good(method, &format!("{path}?wait=60"), body.as_ref());
        assert_eq!(
            (&answer["result"], &answer["changed"]),
            (&json!("programmed"), &json!(true)),
            "{method} {path} {body:?}"
        );
        load.goes_on_for(12);
    }
    // A service beside it comes and goes.
    let web = json!({ "port": [{ "published": 80, "target": 9092 }], "backend": [{ "address": "10.255.0.34" }] });
    api.good("PUT", "/v1/services/web?wait=60", Some(&web));
    assert_eq!(lab.client.ask(Tcp, "192.168.50.1:80").backend, "kafka-2");
    api.good("DELETE", "/v1/services/web?wait=60", None);

    assert_eq!(held.ask("after").unwrap().backend, busy);
    assert_eq!(tally(&lab.client.ask_times(6, Tcp, "192.168.50.1:20231")).len(), 3);
    load.goes_on_for(60);
    let answers = load.finish();
    assert_eq!(tally(&answers).len(), 3);
    // Not one step was about the port that was left alone.
    let touching: Vec<String> = meshd.steps_since(mark).into_iter().filter(|step| step.contains("0x14f05")).collect();
    assert_eq!(touching, [""; 0]);
}

/// What cannot be kept is not accepted: a full disk refuses changes, and nothing else.
#[test]
fn a_full_disk_refuses_changes_and_the_rest_goes_on() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let state = lab.state_dir();
    std::fs::create_dir_all(&state).unwrap();
    let mount = |line: &str| {
        let status = std::process::Command::new("sh").args(["-c", line]).status().unwrap();
        assert!(status.success(), "{line}");
    };
    mount(&format!("mount -t tmpfs -o size=64k none {}", state.display()));
    let mut meshd = lab.start(&lab.config());
    let mut api = lab.api();
    api.good("PUT", "/v1/services/kafka?wait=60", Some(&service(&lab, &[])));
    let before = api.get("/v1/services");
    std::fs::write(state.join("filler"), vec![0; 64 << 10]).unwrap_err();

    for (method, path, body) in [
        (
            "PUT",
            "/v1/services/other",
            Some(json!({ "port": [{ "published": 80 }], "backend": [{ "address": "10.255.0.40" }] })),
        ),
        ("PATCH", "/v1/services/kafka", Some(json!({ "scheduler": "wrr" }))),
    ] {
        let (status, problem) = api.call(method, path, body.as_ref());
        assert_eq!(status, 507, "{problem:#}");
        assert!(problem["detail"].as_str().unwrap().contains("nothing was changed"), "{problem:#}");
    }
    assert_eq!(api.get("/v1/services"), before);
    lab.client.ask(Tcp, "192.168.50.1:20229");
    meshd.reload(&lab.config());
    // With room again, all is well; a kill shows that the disk has what was said.
    std::fs::remove_file(state.join("filler")).unwrap();
    api.good("PATCH", "/v1/services/kafka?wait=60", Some(&json!({ "scheduler": "wrr" })));
    meshd.kill9();
    let meshd = lab.start(&lab.config());
    assert_eq!(lab.api().get("/v1/services/kafka")["service"]["scheduler"], "wrr");
    assert!(meshd.stop().success());
    mount(&format!("umount {}", state.display()));

    // Where there is no place at all, the file's services still work.
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::write(&state, "no directory").unwrap();
    let meshd = lab.start(&lab.config());
    let (status, problem) = lab.api().call("PUT", "/v1/services/kafka", Some(&service(&lab, &[])));
    assert!(status == 507 && problem["detail"].as_str().unwrap().contains("state_dir"), "{problem:#}");
    assert!(meshd.log().contains("services can only come from the file"), "{}", meshd.log());
    std::fs::remove_file(&state).unwrap();
}

/// A change is made without a look at the kernel. What others did meanwhile is mended all the same: at once where it is in the way.
#[test]
fn what_others_did_is_mended_when_something_else_changes() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let _meshd = lab.start(&lab.config());
    for (name, port) in [("one", 20229), ("two", 20230)] {
        // By weight: nftables has as many slots as there are turns, and where all are equal, none for a weight.
        let backends = format!("{} {}", lab.kafka_option(1), lab.kafka_option(2));
        lab.meshctl(&format!("service add {name} -s wrr -p {port}:9092 {backends}"));
    }
    let looks = || value_of(&lab.metrics(), "meshd_reconcile_last_success_timestamp_seconds");
    let sandbox = lab.sandbox();
    let weight = |mark: u32, backend: &str| sandbox.weights().get(&(mark, backend.parse().unwrap())).copied();
    let take_second = |mark: u32| match by_nftables() {
        true => sandbox.run(&format!("nft delete element inet meshd slots4 {{ {mark} . 1 }}")),
        false => sandbox.run(&format!("ipvsadm -d -f {mark} -r 10.255.0.34:9092")),
    };
    // Nothing is in the way of a look that comes in its turn: so one of several changes is made between two of them.
    let without_a_look = (2..8).any(|turns| {
        let before = looks();
        lab.meshctl(&format!("backend set one 10.255.0.33 --weight {turns}"));
        assert_eq!(weight(MARK, "10.255.0.33:9092"), Some(turns));
        looks() == before
    });
    assert!(without_a_look);
    // Of another service: in its turn.
    take_second(MARK + 1);
    lab.meshctl("backend set one 10.255.0.33 --weight 1");
    eventually("it is mended", || weight(MARK + 1, "10.255.0.34:9092") == Some(1));
    // Of what is changed: at once, and the change is done when that is said. (A slot that is gone is in the way of no other: there it is
    // the kernel's word that brings the look.)
    take_second(MARK);
    let said = lab.meshctl("backend set one 10.255.0.34 --weight 7");
    assert!(said.ends_with(", programmed\n"), "{said}");
    if by_nftables() {
        eventually("it is mended, too", || weight(MARK, "10.255.0.34:9092") == Some(7));
    }
    assert_eq!(weight(MARK, "10.255.0.34:9092"), Some(7));
    sandbox.run("nft flush map inet meshd marks");
    lab.meshctl("port add one 20231:9092/tcp");
    for port in [20229, 20230, 20231] {
        eventually("all are served", || lab.client.try_ask(Tcp, &format!("192.168.50.1:{port}")).is_ok());
    }
    eventually("all is as wanted", || lab.meshctl("plan") == "nothing to do\n");
}
