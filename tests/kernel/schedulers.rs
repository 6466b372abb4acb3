//! Schedulers, weights and persistence: how the kernel chooses.

use std::collections::BTreeMap;

use crate::lab::{BACKENDS4, Backend, Lab, Tcp, Udp, by_nftables, eventually, tally};

#[test]
fn weighted_round_robin_goes_by_weight() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let _meshd = lab.start(&lab.config().service(
        r#"
        name = "kafka"
        scheduler = "wrr"
        port = [{ published = 20229, target = 9092 }]
        backend = [
            { address = "10.255.0.33", netns = "kafka-1", weight = 3 },
            { address = "10.255.0.34", netns = "kafka-2", weight = 2 },
            { address = "10.255.0.35", netns = "kafka-3", weight = 1 },
        ]"#,
    ));
    let answers = lab.client.ask_times(60, Tcp, "192.168.50.1:20229");
    assert_eq!(tally(&answers), BTreeMap::from([("kafka-1", 30), ("kafka-2", 20), ("kafka-3", 10)]));
}

/// While IPVS changes a service's scheduler it has none for a moment, and refuses who comes: they have to be kept waiting instead.
#[test]
fn nobody_is_refused_while_the_scheduler_changes() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let _meshd = lab.start(&lab.config());
    lab.meshctl(&format!("service add kafka -p 20229:9092 {} {}", lab.kafka_option(1), lab.kafka_option(2)));
    lab.client.ask(Tcp, "192.168.50.1:20229");
    let crowd = lab.crowd("192.168.50.1:20229", 6, 2);
    let schedulers: &[&str] =
        if by_nftables() { &["wrr", "sh", "random", "rr"] } else { &["wrr", "lc", "sh", "mh", "rr"] };
    for scheduler in schedulers.repeat(4) {
        let so_far = crowd.answered();
        lab.meshctl(&format!("service set kafka --scheduler {scheduler}"));
        if by_nftables() {
            let way = match scheduler {
                "random" => "random",
                "sh" => "source",
                _ => "turn",
            };
            let listed = lab.sandbox().run("nft list map inet meshd ways4");
            assert!(listed.contains(&format!(" goto {way}_ipv4_to_")), "{scheduler}: {listed}");
        } else {
            assert!(lab.sandbox().ipvs().contains(&format!(" -s {scheduler}")));
        }
        eventually("the crowd is served", || crowd.answered() > so_far + 50);
    }
    let (failures, answered) = crowd.finish();
    assert!(failures.is_empty(), "{} of {answered} failed: {failures:#?}", failures.len());
    // (Chains that nobody needs any more go at the next look.)
    eventually("all is as wanted", || lab.meshctl("plan") == "nothing to do\n");
}

/// One service with a port for each way to choose.
#[test]
fn clients_stay_or_spread_as_they_should() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp, Udp]);
    let of_ipvs = r#"
            { published = 2001, target = 9092, scheduler = "lc" },
            { published = 3002, target = 9092, protocol = "udp", one_packet = true },"#;
    let of_ipvs = if by_nftables() { "" } else { of_ipvs };
    let _meshd = lab.start(&lab.config().service(&format!(
        r#"
        name = "kafka"
        port = [{of_ipvs}
            {{ published = 1001, target = 9092, scheduler = "sh" }},
            {{ published = 1002, target = 9092, scheduler = "mh" }},
            {{ published = 2002, target = 9092, scheduler = "sh", scheduler_flags = ["sh-port", "sh-fallback"] }},
            {{ published = 2003, target = 9092, scheduler = "mh", scheduler_flags = ["mh-port", "mh-fallback"] }},
            {{ published = 3001, target = 9092, protocol = "udp" }},
        ]{BACKENDS4}"#
    )));
    let ask = |port: u16| lab.client.ask_times(12, Tcp, &format!("192.168.50.1:{port}"));
    for port in [1001, 1002] {
        let answers = ask(port);
        assert_eq!(tally(&answers).len(), 1, "port {port}: the client did not stay: {:?}", tally(&answers));
    }
    for port in if by_nftables() { 2002..=2003 } else { 2001..=2003 } {
        let answers = ask(port);
        assert!(tally(&answers).len() > 1, "port {port}: all to one backend: {:?}", tally(&answers));
    }

    // A flow of datagrams is a connection, unless IPVS schedules each by itself. Then it forgets each as soon as it is sent
    // on, and there is no way back for answers.
    let flow = lab.client.datagrams(40000, "192.168.50.1:3001");
    let answers: Vec<_> = (0..6).map(|_| flow.ask("hello", PATIENCE).unwrap()).collect();
    assert_eq!(tally(&answers).len(), 1, "{answers:?}");
    if by_nftables() {
        return;
    }
    let heard = || backends.each_ref().map(Backend::datagrams_heard);
    let before = heard();
    let each = lab.client.datagrams(40001, "192.168.50.1:3002");
    (0..6).for_each(|_| each.send("hello"));
    eventually("two for each", || heard() == before.map(|count| count + 2));

    let services = lab.sandbox().ipvs();
    for (mark, options) in [
        (0x10000 | 1001, "-s sh"),
        (0x10000 | 2002, "-s sh -b sh-fallback,sh-port"),
        (0x10000 | 2003, "-s mh -b mh-fallback,mh-port"),
        (0x20000 | 3002, "-s rr -o"),
    ] {
        assert!(services.lines().any(|line| line.trim_end() == format!("-A -f {mark} {options}")), "{services}");
    }
}

/// While IPVS itself loads those two it can hang, and all of generic netlink with it (seen: look::smoke_a_glance_…, once in ten runs,
/// when meshd had just learnt to give up CAP_SYS_MODULE). So they are there before anyone asks.
#[test]
fn modules_that_ipvs_must_not_load_are_there_from_the_start() {
    let Some(lab) = Lab::of_ipvs() else { return };
    // Another test may use them now.
    lab.node.try_run("modprobe -r ip_vs_lblc ip_vs_lblcr");
    let _meshd = lab.start(&lab.config());
    let modules = lab.node.run("cat /proc/modules");
    for module in ["ip_vs_lblc", "ip_vs_lblcr"] {
        assert!(modules.lines().any(|line| line.split(' ').next() == Some(module)), "{modules}");
    }
}

/// For an answer on a busy machine.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

#[test]
fn every_scheduler_of_the_kernel_is_accepted() {
    let Some(lab) = Lab::of_ipvs() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let all = ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "mh", "dh", "fo", "ovf", "sed", "nq", "twos"];
    // 6.1 has no twos.
    let there = |name: &&str| lab.node.try_run(&format!("modprobe --dry-run --quiet ip_vs_{name}")).status.success();
    let schedulers: Vec<&str> = all.into_iter().filter(there).collect();
    assert!(schedulers.len() >= 13, "{schedulers:?}");

    let ports: Vec<String> = (1000..)
        .zip(&schedulers)
        .map(|(port, name)| format!("{{ published = {port}, target = 9092, scheduler = '{name}' }}"))
        .collect();
    let config = lab.config().service(&format!("name = 'kafka'\nport = [{}]{BACKENDS4}", ports.join(", ")));
    let _meshd = lab.start(&config);
    let services = lab.sandbox().ipvs();
    for (port, name) in (1000..).zip(&schedulers) {
        let line = format!("-A -f {} -s {name}", 0x10000 | port);
        assert!(services.lines().any(|found| found.trim_end() == line), "{line}\n{services}");
        lab.client.ask(Tcp, &format!("192.168.50.1:{port}"));
    }
}

/// To the node each address is a client, as it comes: from outside and from itself. The port is published as
/// itself: IPVS leaves the port of a persistent service behind a mark as it is, so another is refused.
#[test]
fn persistence_keeps_a_client_at_its_backend() {
    let target = 9092u16;
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp, Udp]);
    let _meshd = lab.start(&lab.config().service(&format!(
        r#"
        name = "kafka"
        persistence = 60
        port = [
            {{ published = {target}, target = 9092 }},
            {{ published = {target}, target = 9092, protocol = "udp", persistence_mask = "255.255.255.0" }},
        ]{BACKENDS4}"#
    )));
    let node = format!("192.168.50.1:{target}");
    for protocol in [Tcp, Udp] {
        let outside = lab.client.ask_times(5, protocol, &node);
        // From its loopback it is seen as the gateway bridge, of another network than the client.
        let own = lab.node.ask_times(5, protocol, &format!("127.0.0.1:{target}"));
        assert_eq!((tally(&outside).len(), tally(&own).len()), (1, 1), "{outside:?} {own:?}");
        // Round robin gives the second client the next backend.
        assert_ne!(outside[0].backend, own[0].backend);
    }
    if by_nftables() {
        let clients = lab.sandbox().run("nft list map inet meshd clients4");
        let known =
            |mark: u32, network: &str| clients.contains(&format!("{mark:#010x} . {network} timeout 1m expires "));
        let tcp = known(0x12384, "192.168.50.2") && known(0x12384, "169.254.77.1");
        let udp = known(0x22384, "192.168.50.0") && known(0x22384, "169.254.77.0");
        assert!(tcp && udp && clients.matches("expires").count() == 4, "{clients}");
        return;
    }
    let services = lab.sandbox().ipvs();
    for (mark, options) in [(0x10000, "-s rr -p 60"), (0x20000, "-s rr -p 60 -M 255.255.255.0")] {
        let line = format!("-A -f {} {options}", mark | u32::from(target));
        assert!(services.lines().any(|found| found.trim_end() == line), "{line}\n{services}");
    }
    // A template for each client and port: an entry of the connection table without a client's port.
    let templates = || lab.sandbox().run("ipvsadm -Lnc").lines().filter(|line| line.starts_with("IP ")).count();
    eventually("the templates", || templates() == 4);
}
