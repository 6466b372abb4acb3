//! meshctl and meshd together: an operator's sessions.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::lab::{Lab, MARK, Tcp, assert_same, by_nftables, eventually, tally, to_serve};

/// Asserts which of kafka's backends answer. Beside a load, a few questions need not meet each of them.
#[track_caller]
fn answered_by(lab: &Lab, expected: &[&str]) {
    let mut seen = BTreeSet::new();
    eventually("all of them answer", || {
        let answers = lab.client.ask_times(6, Tcp, "192.168.50.1:20229");
        seen.extend(answers.into_iter().map(|answer| answer.backend));
        expected.iter().all(|backend| seen.contains(*backend))
    });
    assert!(seen.iter().eq(expected), "{seen:?} instead of {expected:?}");
}

#[test]
fn smoke_a_service_is_run_from_the_command_line() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let meshd = lab.start(&lab.config());
    assert_eq!(lab.meshctl("service ls"), "NAME   OWNER   PORTS   BACKENDS   GENERATION\n");

    // A dry run does nothing, then it is done.
    let add = format!("service add kafka -p 20229:9092 {} {}", lab.kafka_option(1), lab.kafka_option(2));
    let before = lab.state();
    let plan = lab.meshctl(&format!("{add} --dry-run"));
    assert!(plan.contains("map marks in sandbox: add tcp 20229 to 0x14f05\n"), "{plan}");
    assert_same(&before, &lab.state(), "after a dry run");
    let said = lab.meshctl(&add);
    assert!(said.starts_with("service kafka: generation ") && said.ends_with(", programmed\n"), "{said}");
    answered_by(&lab, &["kafka-1", "kafka-2"]);
    let table = lab.meshctl("service ls");
    assert!(table.contains("kafka   socket   tcp/20229->9092          2 "), "{table}");
    assert_eq!(lab.meshctl("plan"), "nothing to do\n");

    // One thing after the other, under load.
    let load = lab.load(&["192.168.50.1:20229"; 2]);
    let third = lab.place("kafka-3").name;
    lab.meshctl(&format!("backend add kafka 10.255.0.35 --netns {third} --weight 2"));
    answered_by(&lab, &["kafka-1", "kafka-2", "kafka-3"]);
    lab.meshctl("service set kafka --scheduler wrr --drain 10m --publish-add 20230:9092");
    assert_eq!(tally(&lab.client.ask_times(8, Tcp, "192.168.50.1:20230"))["kafka-3"], 4);
    let mut held = lab.client.connect_to_each(Tcp, "192.168.50.1:20229", &["kafka-2", "kafka-3"]);
    let mut still = |name: &str| held.get_mut(name).unwrap().ask("still there").map(|answer| answer.backend);
    let said = lab.meshctl("backend drain kafka 10.255.0.35");
    assert!(said.starts_with("backend 10.255.0.35 of kafka: generation "), "{said}");
    answered_by(&lab, &["kafka-1", "kafka-2"]);
    assert_eq!(still("kafka-3").unwrap(), "kafka-3");
    let shown = lab.meshctl("service get kafka");
    assert!(shown.contains("10.255.0.35        2     -   drain "), "{shown}");
    lab.meshctl("backend drain kafka 10.255.0.35 --undo");
    answered_by(&lab, &["kafka-1", "kafka-2", "kafka-3"]);
    lab.meshctl("backend set kafka 10.255.0.34 --weight 7");
    let listed = lab.sandbox().weights();
    assert_eq!(listed[&(MARK, "10.255.0.34:9092".parse().unwrap())], 7);
    load.goes_on_for(20);
    load.finish();
    // Who is removed keeps its connections for a while, unless it is told not to.
    lab.meshctl("backend rm kafka 10.255.0.34");
    lab.meshctl("backend rm kafka 10.255.0.35 --now");
    answered_by(&lab, &["kafka-1"]);
    assert_eq!(still("kafka-2").unwrap(), "kafka-2");
    assert!(still("kafka-3").is_err());
    let status = lab.meshctl("status");
    let draining = "Backends that are drained:\n  kafka tcp/20229: backend 10.255.0.34 is draining: ";
    assert!(status.contains(draining) && !status.contains("10.255.0.35"), "{status}");
    lab.meshctl("port rm kafka tcp/20230");
    lab.client.is_refused(Tcp, "192.168.50.1:20230");

    // What was printed is what can be given back.
    let entry = lab.meshctl_json("service get kafka");
    let file = lab.file("kafka.json", 0);
    std::fs::write(&file, entry.to_string()).unwrap();
    lab.meshctl("service rm kafka");
    lab.client.is_refused(Tcp, "192.168.50.1:20229");
    lab.meshctl(&format!("service add -f {}", file.display()));
    answered_by(&lab, &["kafka-1"]);
    assert_eq!(lab.meshctl_json("service get kafka")["service"], entry["service"]);
    let unchanged = lab.meshctl(&format!("service set kafka -f {}", file.display()));
    assert!(unchanged.starts_with("service kafka: unchanged, generation "), "{unchanged}");

    let status = lab.meshctl("status");
    for line in ["Node:           node-1\n", ", programmed\n", "1 service, 1 port, 1 backend\n"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert!(lab.meshctl("wait").ends_with(", programmed\n"));
    drop(meshd);
}

#[test]
fn ports_have_backends_and_scheduling_of_their_own() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let _meshd = lab.start(&lab.config());
    lab.meshctl(&format!("service add kafka -p 20229:9092 {}", lab.kafka_option(1)));
    let scheduler = if by_nftables() { "sh" } else { "lc" };
    lab.meshctl(&format!("port add kafka 20230:9092/tcp -s {scheduler} {}", lab.kafka_option(2)));
    assert_eq!(lab.client.ask(Tcp, "192.168.50.1:20229").backend, "kafka-1");
    assert_eq!(lab.client.ask(Tcp, "192.168.50.1:20230").backend, "kafka-2");
    let netns = lab.place("kafka-3").name;
    lab.meshctl(&format!("backend add kafka 10.255.0.35 --netns {netns} --port tcp/20230"));
    lab.meshctl("backend rm kafka 10.255.0.34 --port 20230/tcp");
    assert_eq!(lab.client.ask(Tcp, "192.168.50.1:20230").backend, "kafka-3");
    lab.meshctl("port set kafka tcp/20230 --service-backends --unset scheduler");
    assert_eq!(lab.client.ask(Tcp, "192.168.50.1:20230").backend, "kafka-1");
    let entry = lab.meshctl_json("service get kafka");
    assert_eq!(entry["service"]["port"][1], json!({ "published": 20230, "target": 9092, "protocol": "tcp" }));
    let said = lab.try_meshctl("backend rm kafka 10.255.0.33 --port tcp/20230");
    assert!(said.code == Some(1) && said.err.contains("no backends of its own"), "{said:?}");
}

#[test]
fn refusals_help_and_have_codes() {
    let Some(lab) = Lab::new() else { return };
    let config =
        lab.config().service("name = 'web'\nport = [{ published = 80 }]\nbackend = [{ address = '10.255.0.9' }]");
    let meshd = lab.start(&config);
    lab.meshctl("service add kafka -p 20229:9092 -b 10.255.0.33");
    let before = lab.state();
    let refused = |line: &str, code: i32, words: &str| {
        let said = lab.try_meshctl(line);
        assert_eq!((said.code, said.out.as_str()), (Some(code), ""), "meshctl {line}: {said:?}");
        assert!(said.err.starts_with("meshctl: ") && said.err.contains(words), "meshctl {line}: {said:?}");
    };
    refused("service get kafak", 1, "no service kafak; did you mean kafka?\n");
    refused("service rm postgres", 1, "no service postgres; there are: kafka, web\n");
    refused("service add kafka -p 1", 1, "not 0");
    refused("service add new -p 80 -b 10.255.0.40", 1, "published by service \"web\"");
    refused("service set web --scheduler wrr", 1, &format!("belongs to {}", lab.config_file().display()));
    refused("service set kafka --scheduler wrr --generation 99999999", 1, "not 99999999");
    refused("service set kafka --publish-rm tcp/1", 1, "the service has no port tcp/1; it has tcp/20229\n");
    refused("port rm kafka tcp/1", 1, "has no port tcp/1");
    refused("backend rm kafka 10.255.0.34", 1, "has no backend 10.255.0.34");
    refused("backend add kafka 10.255.0.3", 1, "10.255.0.3");
    refused("wait 99999999", 1, "the newest is");
    let file = lab.file("bad.json", 0);
    std::fs::write(&file, r#"{ "name": "new", "colour": "red", "port": [{ "published": "9-1" }] }"#).unwrap();
    refused(&format!("service add -f {}", file.display()), 1, "  colour: ");
    assert_same(&before, &lab.state(), "after so many refusals");

    let said = lab.meshctl_as_nobody("status");
    assert!(said.code == Some(77) && said.err.contains("is not for this user"), "{said:?}");
    assert!(meshd.stop().success());
    refused("status", 69, "there is no such socket");
}

#[test]
fn reloads_are_told_and_events_watched() {
    let Some(lab) = Lab::new() else { return };
    let meshd = lab.start(&lab.config());
    let watch = lab.meshctl_beside("watch -o json");
    // It listens once it is connected.
    eventually("the listener is there", || crate::lab::value_of(&lab.metrics(), "meshd_control_connections") >= 1.0);
    lab.write(
        &lab.config().service("name = 'web'\nport = [{ published = 80 }]\nbackend = [{ address = '10.255.0.9' }]"),
    );
    assert!(lab.meshctl("plan --reload").contains(&to_serve("tcp 80 ipv4")));
    assert!(lab.meshctl("reload").ends_with(", programmed\n"));
    lab.write(&lab.config().service("name = 'web'\ncolour = 'red'"));
    let said = lab.try_meshctl("reload");
    assert!(said.code == Some(1) && said.err.contains("colour"), "{said:?}");
    assert!(lab.meshctl("status").contains("refused: the one before is in force\n"));
    lab.meshctl("service add kafka -p 20229:9092 -b 10.255.0.33");
    assert!(meshd.stop().success());
    // So that the lab can clean up.
    lab.write(&lab.config());

    let output = watch.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(69), "{text}");
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let named = |name: &str| events.iter().filter(|event| event["event"] == name).cloned().collect::<Vec<_>>();
    let accepted: Vec<Value> = named("reload").iter().map(|event| event["accepted"].clone()).collect();
    assert_eq!(accepted, [json!(true), json!(false)], "{text}");
    assert!(named("accepted").iter().any(|event| event["what"] == "service kafka put" && event["uid"] == 0), "{text}");
    assert!(named("programmed").len() >= 2, "{text}");
}

#[test]
fn rates_are_those_of_the_load() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let _meshd = lab.start(&lab.config());
    lab.meshctl(&format!("service add kafka -p 20229:9092 {} {}", lab.kafka_option(1), lab.kafka_option(2)));
    let idle = lab.meshctl_json("top --once");
    assert_eq!(idle["ports"][0]["rate"]["connections"], 0.0, "{idle:#}");
    let load = lab.load(&["192.168.50.1:20229"; 3]);
    load.goes_on_for(60);
    let busy = lab.meshctl_json("top --once --interval 4s");
    let table = lab.meshctl("top --once");
    load.finish();
    let port = &busy["ports"][0];
    let rate = |of: &Value| of["rate"]["connections"].as_f64().unwrap();
    assert!(rate(port) > 0.0, "{busy:#}");
    let backends: f64 = port["backends"].as_array().unwrap().iter().map(rate).sum();
    assert!((backends - rate(port)).abs() < 0.01, "{busy:#}");
    assert!(table.contains("kafka tcp/20229") && table.contains("  10.255.0.34:9092"), "{table}");
}
