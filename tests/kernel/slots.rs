//! The data plane nftables: ports balanced by the slots of maps that all share.

use std::time::Duration;

use crate::lab::{BACKENDS, Config, Lab, Stream, Tcp, Udp, eventually, tally, value_of};

const TO: [&str; 2] = ["192.168.50.1:20229", "[fd50::1]:20229"];

fn by_nftables(lab: &Lab) -> Config {
    lab.config().set("node", "dataplane", "'nftables'")
}

fn kafka(lab: &Lab, more: &str) -> Config {
    let port = |protocol| format!("{{ published = 20229, target = 9092, protocol = '{protocol}' }}");
    let ports = ["tcp", "udp"].map(port).join(", ");
    by_nftables(lab).service(&format!("name = 'kafka'\nport = [{ports}]\n{more}{BACKENDS}"))
}

/// TCP connections of the sandbox that pass by its flow table.
fn offloaded(lab: &Lab) -> usize {
    let all = lab.sandbox().run("cat /proc/net/nf_conntrack");
    all.lines().filter(|line| line.contains("tcp") && line.contains("[OFFLOAD]")).count()
}

/// Some kernels that have no IPVS have none of those either.
fn has_flow_tables(lab: &Lab) -> bool {
    lab.sandbox().run("nft list flowtables").contains("flowtable flows")
}

#[test]
fn smoke_nftables_spreads_clients_by_turns() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp, Udp]);
    let mut meshd = lab.start(&kafka(&lab, ""));
    for protocol in [Tcp, Udp] {
        for to in TO {
            let answers = lab.client.ask_times(9, protocol, to);
            assert_eq!(tally(&answers).into_values().collect::<Vec<_>>(), [3, 3, 3], "{protocol:?} {to}: {answers:?}");
        }
    }
    // Counted by the kernel, and told.
    let counted = value_of(
        &lab.metrics(),
        "meshd_backend_connections_total{backend=\"10.255.0.34:9092\",port=\"20229\",protocol=\"tcp\",service=\"kafka\"}",
    );
    assert_eq!(counted, 3.0);
    assert!(!lab.metrics().contains("meshd_backend_bytes_total"), "what passes by a flow table is not counted");
    // As nft(8) reads it: marks, slots and backends.
    let slots = lab.sandbox().run("nft list map inet meshd slots4");
    for (slot, backend) in ["10.255.0.33", "10.255.0.34", "10.255.0.35"].into_iter().enumerate() {
        let element = |line: &str| {
            line.contains(&format!("0x00014f05 . 0x{slot:08x} counter packets 3 "))
                && line.contains(&format!(": {backend} . 9092"))
        };
        assert!(slots.lines().any(element), "{slots}");
    }
    // Nothing of IPVS, and no chain of a port's own.
    let ipvs = String::from_utf8(lab.sandbox().try_run("ipvsadm -Ln").stdout).unwrap();
    assert!(ipvs.lines().all(|line| !line.starts_with("FWM")), "{ipvs}");
    let chains = lab.sandbox().run("nft list table inet meshd");
    assert!(chains.contains("dnat ip to meta mark . numgen inc mod 3 map @slots4"), "{chains}");
    eventually("all is as wanted", || lab.dry_run().is_empty());
    // Once both sides have answered, packets pass the sandbox by its flow table.
    let mut held = TO.map(|to| lab.client.connect(Tcp, to).unwrap());
    for _ in 0..4 {
        held.iter_mut().for_each(|one| drop(one.ask("hello").unwrap()));
    }
    if has_flow_tables(&lab) {
        assert_eq!(offloaded(&lab), 2, "{}", lab.sandbox().run("cat /proc/net/nf_conntrack"));
    }
    // Whoever is meshd then goes on with them.
    meshd.kill9();
    meshd = lab.spawn();
    meshd.wait_until_ready();
    held.iter_mut().for_each(|one| drop(one.ask("still").unwrap()));
    assert!(!meshd.log().contains("ERROR"), "{}", meshd.log());
}

#[test]
fn smoke_connections_end_with_their_backend_and_no_other() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp, Udp]);
    let meshd = lab.start(&kafka(&lab, "drain = '2s'\n"));
    let mut held: Vec<Stream> = (0..6).map(|_| lab.client.connect(Tcp, TO[0]).unwrap()).collect();
    for _ in 0..4 {
        held.iter_mut().for_each(|one| drop(one.ask("hello").unwrap()));
    }
    if has_flow_tables(&lab) {
        assert_eq!(offloaded(&lab), 6);
    }
    let flow = lab.client.datagrams(5353, TO[0]);
    let who = flow.ask("who", Duration::from_secs(5)).unwrap().backend;
    let gone = who.trim_start_matches("kafka-").to_owned();
    let text = kafka(&lab, "drain = '2s'\n").to_string();
    let without: Vec<&str> = text.lines().filter(|line| !line.contains(&format!("-kafka-{gone}\""))).collect();
    std::fs::write(lab.config_file(), without.join("\n")).unwrap();
    meshd.signal(nix::sys::signal::Signal::SIGHUP);
    eventually("no one new comes to it", || {
        lab.client.ask_times(6, Tcp, TO[0]).iter().all(|answer| answer.backend != who)
    });
    // It has its time, and its flow of datagrams has it, too.
    eventually("its connections end", || held.iter_mut().filter_map(|one| one.ask("still?").err()).count() == 2);
    eventually("its flow goes elsewhere", || {
        flow.ask("who", Duration::from_secs(1)).is_ok_and(|answer| answer.backend != who)
    });
    let alive = held.iter_mut().filter_map(|one| one.ask("alive?").ok()).count();
    assert_eq!(alive, 4);
    eventually("all is as wanted", || lab.dry_run().is_empty());
    assert!(!meshd.log().contains("ERROR"), "{}", meshd.log());
}

/// A client comes to the same backend again while that takes clients, and for as long as is said.
#[test]
fn smoke_persistence_brings_a_client_to_its_backend_again() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp, Udp]);
    let config = kafka(&lab, "scheduler = 'random'\npersistence = 12\npersistence_mask = 24\n");
    let mut meshd = lab.start(&config);
    let of = |protocol, to: &str| {
        let answers = lab.client.ask_times(12, protocol, to);
        assert_eq!(tally(&answers).len(), 1, "{protocol:?} {to}: {answers:?}");
        answers[0].backend.clone()
    };
    for protocol in [Tcp, Udp] {
        TO.iter().for_each(|to| drop(of(protocol, to)));
    }
    let clients = |family| lab.sandbox().run(&format!("nft list map inet meshd clients{family}"));
    // Its network, as it was asked for; and as nft(8) reads it.
    assert!(
        clients(4).contains("0x00014f05 . 192.168.50.0 timeout 12s expires ") && clients(6).contains(" . fd50::2 "),
        "{}\n{}",
        clients(4),
        clients(6)
    );
    let again = lab.sandbox().run("nft list chain inet meshd random_ipv4_to_3_again_12_24");
    assert!(again.contains("update @clients4 { ") && again.contains("add @clients4 { "), "{again}");

    // Who takes nobody gets nobody, whoever was there before; who comes then stays where it comes. However many they are.
    let mut before = of(Tcp, TO[0]);
    let strays = || lab.sandbox().run("nft list map inet meshd clients4").matches("timeout 1h").count();
    for _ in 0..2 {
        let known = clients(4);
        let ours = known.lines().find(|line| line.contains("0x00014f05 . 192.168.50.0 ")).expect("the client");
        let slot = ours
            .trim_end_matches([',', ' ', '}'])
            .rsplit(" : ")
            .next()
            .unwrap()
            .split([',', ' '])
            .next()
            .unwrap()
            .to_owned();
        let others: Vec<String> = (0..5000u32)
            .map(|number| format!("0x14f05 . 172.16.{}.{} timeout 1h : {slot}", number / 250, number % 250))
            .collect();
        let file = lab.file("clients", 0);
        std::fs::write(&file, format!("add element inet meshd clients4 {{ {} }}", others.join(", "))).unwrap();
        lab.sandbox().run(&format!("nft -f {}", file.display()));
        let number: usize = before.trim_start_matches("kafka-").parse().unwrap();
        let address = format!("address = \"10.255.0.{}\"", 32 + number);
        meshd.reload(&config.clone().replacing(&address, &format!("state = 'drain', {address}")));
        let now = of(Tcp, TO[0]);
        assert_ne!(now, before);
        before = now;
        eventually("whoever was with it is forgotten", || strays() == 0);
    }
    // (Chains that nobody needs any more go at the next look.)
    eventually("all is as wanted", || lab.dry_run().is_empty());
    // Its time is over.
    eventually("it is forgotten", || !clients(4).contains("expires"));
    assert!(tally(&lab.client.ask_times(1, Tcp, TO[0])).len() == 1 && clients(4).contains("expires"));
    // Without persistence there is nothing left of it.
    meshd.reload(&kafka(&lab, "scheduler = 'random'\n"));
    eventually("the maps are gone", || !lab.sandbox().run("nft list table inet meshd").contains("clients4"));
    assert!(tally(&lab.client.ask_times(30, Tcp, TO[0])).len() > 1);
    assert!(!meshd.log().contains("ERROR"), "{}", meshd.log());
}
