//! SIGHUP: a good file takes effect as the smallest plan, and who is not meant does not notice.

use crate::lab::{Config, Lab, Tcp, assert_same, by_nftables, eventually, tally, value_of};

/// kafka on 20229 at the first so many of its backends, and what else is said.
fn kafka(lab: &Lab, backends: usize, other_ports: &str) -> Config {
    let backend = |number: usize| format!("{{ address = '10.255.0.{}', netns = \"kafka-{number}\" }}", 32 + number);
    let backends: Vec<String> = (1..=backends).map(backend).collect();
    lab.config().service(&format!(
        "name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}{other_ports}]\nbackend = [{}]",
        backends.join(", ")
    ))
}

const WEB: &str = "name = 'web'\nport = [{ published = 8080, target = 80 }]\nbackend = [{ address = '10.255.0.41', netns = \"web-1\" }]";

#[test]
fn smoke_ports_and_backends_come_and_go_under_load() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp]);
    let _web = lab.backend("web-1").tcp(80);
    let mut meshd = lab.start(&kafka(&lab, 2, ""));
    let load = lab.load(&["192.168.50.1:20229"; 3]);
    let mut held = lab.client.connect(Tcp, "192.168.50.1:20229").unwrap();
    let busy = held.ask("before").unwrap().backend;
    load.goes_on_for(60);

    // A third backend, another port of the service, a range, another service.
    let others = ", { published = 20230, target = 9092 }, { published = '30000-30009' }";
    let mark = meshd.mark();
    meshd.reload(&kafka(&lab, 3, others).service(WEB));
    load.goes_on_for(60);
    assert_eq!(lab.client.ask(Tcp, "192.168.50.1:8080").backend, "web-1");
    assert_eq!(tally(&lab.client.ask_times(6, Tcp, "192.168.50.1:20230")).len(), 3);
    let steps = meshd.steps_since(mark);
    assert!(!steps.iter().any(|step| step.contains("0x14f05") && !step.contains("10.255.0.35")), "{steps:#?}");
    // Nothing that was there is touched.
    let touches = |step: &String| {
        let choosing = step.contains(" chain turn_");
        !choosing && ["set ", "delete ", "detach "].iter().any(|verb| step.starts_with(verb))
    };
    assert!(!steps.iter().any(touches), "{steps:#?}");

    // The same file again: nothing to do.
    let mark = meshd.mark();
    meshd.reload(&kafka(&lab, 3, others).service(WEB));
    assert_eq!(meshd.steps_since(mark), [""; 0]);

    // The ports go.
    let mark = meshd.mark();
    meshd.reload(&kafka(&lab, 3, ""));
    load.goes_on_for(30);
    let gone: Vec<String> = meshd.steps_since(mark).into_iter().filter(|step| !step.contains(" chain turn_")).collect();
    let services: &[&str] = if by_nftables() {
        &[
            "balance tcp 8080 ipv4 (mark 0x11f90): remove slot 0 no more",
            "balance tcp 20230 ipv4 (mark 0x14f06): remove slot 0 remove slot 1 remove slot 2 no more",
            "balance tcp 30000 ipv4 (mark 0x17530): remove slot 0 remove slot 1 remove slot 2 no more",
            "end connections of backend 10.255.0.41:80 of tcp 8080 ipv4 (mark 0x11f90)",
            "end connections of backend 10.255.0.33:9092 of tcp 20230 ipv4 (mark 0x14f06)",
            "end connections of backend 10.255.0.34:9092 of tcp 20230 ipv4 (mark 0x14f06)",
            "end connections of backend 10.255.0.35:9092 of tcp 20230 ipv4 (mark 0x14f06)",
            "end connections of backend 10.255.0.33:0 of tcp 30000 ipv4 (mark 0x17530)",
            "end connections of backend 10.255.0.34:0 of tcp 30000 ipv4 (mark 0x17530)",
            "end connections of backend 10.255.0.35:0 of tcp 30000 ipv4 (mark 0x17530)",
        ]
    } else {
        &[
            "delete service tcp 8080 ipv4 (mark 0x11f90)",
            "delete service tcp 20230 ipv4 (mark 0x14f06)",
            "delete service tcp 30000 ipv4 (mark 0x17530)",
        ]
    };
    assert_eq!(
        gone,
        [
            "map published4 in host: remove tcp 8080",
            "map published4 in host: remove tcp 20230",
            "map ranges4 in host: remove tcp 30000-30009",
            "map marks in sandbox: remove tcp 8080",
            "map marks in sandbox: remove tcp 20230",
            "map ranges in sandbox: remove tcp 30000-30009",
        ]
        .iter()
        .chain(services)
        .chain(&["detach leg 02:42:0a:ff:00:29 from the overlay"])
        .copied()
        .collect::<Vec<_>>()
    );
    for port in [20230, 30000, 30009, 8080] {
        lab.client.is_refused(Tcp, &format!("192.168.50.1:{port}"));
    }

    assert_eq!(held.ask("after").unwrap().backend, busy);
    load.goes_on_for(150);
    let answers = load.finish();
    assert!(answers.len() >= 300, "{}", answers.len());
    assert_eq!(tally(&answers).len(), 3);
    assert_eq!(value_of(&lab.metrics(), "meshd_config_reloads_total{result=\"accepted\"}"), 3.0);
}

#[test]
fn a_backend_is_replaced_under_load() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp]);
    let service = |backends: &str| {
        lab.config().service(&format!(
            "name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]\nbackend = [{backends}]"
        ))
    };
    let stays = "{ address = '10.255.0.33', netns = \"kafka-1\" }";
    let comes = "{ address = '10.255.0.35', netns = \"kafka-3\" }";
    let old = |weight: u32| format!("{{ address = '10.255.0.34', netns = \"kafka-2\", weight = {weight} }}");
    let mut meshd = lab.start(&service(&format!("{stays}, {}", old(1))));
    let load = lab.load(&["192.168.50.1:20229"; 2]);
    load.goes_on_for(30);

    // Weight 0 lets what is under way come to its end; removed at once, it would be cut.
    let mark = meshd.mark();
    meshd.reload(&service(&format!("{stays}, {comes}, {}", old(0))));
    // By nftables one step exchanges who has the slot.
    assert_eq!(meshd.steps_since(mark).len(), if by_nftables() { 2 } else { 3 }, "{:#?}", meshd.steps_since(mark));
    let answers = lab.client.ask_times(12, Tcp, "192.168.50.1:20229");
    assert_eq!(tally(&answers).into_keys().collect::<Vec<_>>(), ["kafka-1", "kafka-3"]);
    let none = || {
        if by_nftables() {
            let tracked = lab.sandbox().run("cat /proc/net/nf_conntrack");
            return !tracked.lines().any(|line| line.contains("src=10.255.0.34 ") && !line.contains("TIME_WAIT"));
        }
        let listed = lab.sandbox().run("ipvsadm -Ln");
        let line = listed.lines().find(|line| line.contains("10.255.0.34:9092")).unwrap_or("").to_owned();
        line.split_whitespace().nth(4) == Some("0")
    };
    eventually("nothing is under way to the old one", none);

    let mark = meshd.mark();
    meshd.reload(&service(&format!("{stays}, {comes}")));
    assert_eq!(
        meshd.steps_since(mark),
        [
            if by_nftables() {
                "end connections of backend 10.255.0.34:9092 of tcp 20229 ipv4 (mark 0x14f05)"
            } else {
                "delete backend 10.255.0.34:9092 from tcp 20229 ipv4 (mark 0x14f05)"
            },
            "detach leg 02:42:0a:ff:00:22 from the overlay"
        ]
    );
    load.goes_on_for(60);
    load.finish();
}

/// A range has one mark, by its first port: who keeps that keeps open connections, too.
#[test]
fn a_range_that_is_split_or_shrunk_keeps_the_ports_that_stay() {
    let Some(lab) = Lab::new() else { return };
    let _web = lab.backend("web-1").tcp(30000).tcp(30004).tcp(30007);
    let service = |ports: &[&str]| {
        let ports: Vec<String> = ports.iter().map(|port| format!("{{ published = '{port}' }}")).collect();
        lab.config().service(&format!(
            "name = 'web'\nport = [{{ published = 8080, target = 30000 }}, {}]\n\
             backend = [{{ address = '10.255.0.41', netns = \"web-1\" }}]",
            ports.join(", ")
        ))
    };
    let mut meshd = lab.start(&service(&["30000-30009"]));
    // Not of the range itself: the kernel (seen on 6.1) has no element that matches for a moment of the
    // transaction that replaces one range by others, and who connects just then is refused.
    let load = lab.load(&["192.168.50.1:8080"]);
    let mut held = ["192.168.50.1:30004", "192.168.50.1:30007"].map(|to| lab.client.connect(Tcp, to).unwrap());
    for stream in &mut held {
        stream.ask("before").unwrap();
    }
    for ports in [&["30000-30004", "30005-30009"][..], &["30000-30004", "30005-30007"], &["30000-30009"]] {
        meshd.reload(&service(ports));
        load.goes_on_for(10);
        for port in [30000, 30004, 30007] {
            assert_eq!(lab.client.ask(Tcp, &format!("192.168.50.1:{port}")).port, port);
        }
        for stream in &mut held {
            stream.ask("still there").unwrap_or_else(|error| panic!("after {ports:?}: {error}"));
        }
    }
    // What goes, goes.
    meshd.reload(&service(&["30003-30005"]));
    load.finish();
    lab.client.ask(Tcp, "192.168.50.1:30004");
    for port in [30000, 30007] {
        lab.client.is_refused(Tcp, &format!("192.168.50.1:{port}"));
    }
}

#[test]
fn smoke_a_bad_file_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp]);
    let mut meshd = lab.start(&kafka(&lab, 2, ""));
    let before = lab.state();
    let load = lab.load(&["192.168.50.1:20229"]);

    for (bad, complaint) in [
        (kafka(&lab, 3, "").set("ingress", "subnet", "'10.255.0.0/33'"), "10.255.0.0/33"),
        (kafka(&lab, 3, ", { published = 20229 }"), "20229"),
        (kafka(&lab, 3, "").service("name = "), ""),
    ] {
        let mark = meshd.mark();
        meshd.reload(&bad);
        let said = meshd.said_since(mark);
        let place = format!("{}:", lab.config_file().display());
        let (level, text) = said.iter().find(|(_, text)| text.contains("refused")).expect("it is said");
        assert_eq!(level, "ERROR");
        let position = text.split_once(&place).map(|(_, rest)| rest).unwrap_or_else(|| panic!("{text}"));
        let numbers: Vec<_> = position.splitn(3, ':').take(2).map(str::parse::<u32>).collect();
        assert!(numbers.iter().all(Result::is_ok), "no line and column: {text}");
        assert!(text.contains(complaint), "{text}");
        assert_eq!(meshd.steps_since(mark), [""; 0]);
    }
    let metrics = lab.metrics();
    assert_eq!(value_of(&metrics, "meshd_config_reloads_total{result=\"refused\"}"), 3.0);
    assert_eq!(value_of(&metrics, "meshd_config_reloads_total{result=\"accepted\"}"), 0.0);
    assert_eq!(value_of(&metrics, "meshd_config_last_reload_success"), 0.0);
    assert_same(&before, &lab.state(), "after three bad files");
    load.goes_on_for(20);
    load.finish();

    meshd.reload(&kafka(&lab, 3, ""));
    assert_eq!(value_of(&lab.metrics(), "meshd_config_last_reload_success"), 1.0);
    assert_eq!(tally(&lab.client.ask_times(6, Tcp, "192.168.50.1:20229")).len(), 3);
}
