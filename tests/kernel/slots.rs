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
    assert!(lab.dry_run().is_empty(), "{}", lab.dry_run());
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
    assert!(lab.dry_run().is_empty(), "{}", lab.dry_run());
    assert!(!meshd.log().contains("ERROR"), "{}", meshd.log());
}
