//! From one data plane to the other by a reload: new connections go the new way, old ones end in peace.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::lab::{BACKENDS, Config, Lab, Stream, Tcp, Udp, eventually, tally};

const TO: [&str; 2] = ["192.168.50.1:20229", "[fd50::1]:20229"];
const NAMES: [&str; 3] = ["kafka-1", "kafka-2", "kafka-3"];

fn kafka(lab: &Lab, dataplane: &str, more: &str) -> Config {
    let port = |protocol| format!("{{ published = 20229, target = 9092, protocol = '{protocol}' }}");
    let ports = ["tcp", "udp"].map(port).join(", ");
    let config = lab.config().set("node", "dataplane", &format!("'{dataplane}'"));
    config.service(&format!("name = 'kafka'\nport = [{ports}]\n{more}{BACKENDS}"))
}

/// A connection to each backend by each family.
fn hold(lab: &Lab) -> Vec<(String, Stream)> {
    TO.iter().flat_map(|to| lab.client.connect_to_each(Tcp, to, &NAMES)).collect()
}

fn go_on(held: &mut [(String, Stream)]) {
    for (backend, stream) in held {
        assert_eq!(&stream.ask("are you there").expect("it goes on").backend, backend);
    }
}

/// `ipvsadm -Ln`, without its head.
fn by_ipvs(lab: &Lab) -> Vec<String> {
    lab.sandbox().run("ipvsadm -Ln").lines().skip(3).map(|line| line.trim().to_owned()).collect()
}

fn by_nftables(lab: &Lab) -> String {
    lab.sandbox().run("nft list table inet meshd")
}

/// All families of it answer, by all backends.
fn serves(lab: &Lab) {
    for to in TO {
        assert_eq!(tally(&lab.client.ask_times(12, Tcp, to)).len(), 3, "{to}");
        assert_eq!(tally(&lab.client.ask_times(12, Udp, to)).len(), 3, "{to}");
    }
}

#[test]
fn smoke_no_connection_is_lost_when_another_data_plane_balances() {
    let Some(lab) = Lab::of_ipvs() else { return };
    let _kafka = lab.kafka(&[Tcp, Udp]);
    // They have all the time that they need.
    let more = "drain = '10m'\n";
    let mut meshd = lab.start(&kafka(&lab, "ipvs", more));
    let load = lab.load(&[TO[0], TO[1], TO[0]]);
    let mut held = hold(&lab);
    let flow = lab.client.datagrams(0, TO[0]);
    let patience = Duration::from_secs(20);
    let flows_to = flow.ask("hello", patience).unwrap().backend;
    load.goes_on_for(30);

    meshd.reload(&kafka(&lab, "nftables", more));
    go_on(&mut held);
    assert_eq!(flow.ask("still", patience).unwrap().backend, flows_to);
    assert!(by_nftables(&lab).contains("chain balance"));
    let quiet = by_ipvs(&lab);
    let destinations: Vec<&String> = quiet.iter().filter(|line| line.starts_with("->")).collect();
    // Those that are held, the flow of datagrams, and as long as it may be so, others.
    assert!(destinations.len() >= 7, "{quiet:#?}");
    assert!(destinations.iter().all(|line| line.split_whitespace().nth(3) == Some("0")), "{quiet:#?}");
    let status = lab.meshctl("status");
    assert!(status.contains("nftables balances now; ipvs keeps the connections of backends ("), "{status}");
    serves(&lab);
    load.goes_on_for(60);

    // A crash in between takes none of them.
    meshd.kill9();
    go_on(&mut held);
    meshd = lab.resume();
    go_on(&mut held);
    assert_eq!(flow.ask("and still", patience).unwrap().backend, flows_to);
    // What has ended goes, backend by backend.
    let left: Vec<(String, Stream)> = held.drain(..).filter(|(backend, _)| backend == "kafka-2").collect();
    let of_tcp = || {
        let mut theirs = false;
        let is_theirs = |line: &String| {
            theirs = line.starts_with("FWM  85765 ") || theirs && !line.starts_with("FWM ");
            theirs && line.starts_with("->")
        };
        by_ipvs(&lab).into_iter().filter(is_theirs).collect::<Vec<_>>()
    };
    eventually("those are gone whose connections are", || of_tcp().len() == 2);
    assert!(of_tcp()[0].starts_with("-> 10.255.0.34:9092 "), "{:?}", by_ipvs(&lab));
    held = left;
    go_on(&mut held);

    // And back, with connections by both.
    held.extend(hold(&lab));
    meshd.reload(&kafka(&lab, "ipvs", more));
    go_on(&mut held);
    serves(&lab);
    load.goes_on_for(60);
    assert!(!by_nftables(&lab).contains("chain balance") && by_nftables(&lab).contains("set backends4"));
    assert_eq!(by_ipvs(&lab).iter().filter(|line| line.starts_with("->")).count(), 12);
    meshd.kill9();
    meshd = lab.resume();
    go_on(&mut held);
    held.clear();
    drop(flow);
    let tracks = || by_nftables(&lab).contains("0x00014f05 . ");
    eventually("nothing of nftables' balancing is left but what the flow of datagrams may need", || !tracks());
    load.goes_on_for(30);
    load.finish();
    // No one had undone anything.
    let metrics = lab.metrics();
    assert!(metrics.lines().all(|line| !line.starts_with("meshd_drift_found") || line.ends_with(" 0")), "{metrics}");
    meshd.stop();
}

#[test]
fn who_stays_too_long_is_cut_off() {
    let Some(lab) = Lab::of_ipvs() else { return };
    let _kafka = lab.kafka(&[Tcp, Udp]);
    let more = "drain = '15s'\n";
    for (from, to) in [("ipvs", "nftables"), ("nftables", "ipvs")] {
        let mut meshd = lab.start(&kafka(&lab, from, more));
        let mut held = hold(&lab);
        meshd.reload(&kafka(&lab, to, more));
        go_on(&mut held);
        let left = || match to {
            "ipvs" => by_nftables(&lab).contains("backends4"),
            _ => !by_ipvs(&lab).is_empty(),
        };
        eventually("nothing is left of the one before", || !left());
        // Who is forgotten is reset at once; but by nftables it may happen to be sent where it was, and then no one notices.
        for (backend, stream) in &mut held {
            match stream.ask("now?") {
                Ok(answer) => assert_eq!((&answer.backend, to), (&*backend, "nftables")),
                Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it hangs"),
            }
        }
        serves(&lab);
        meshd.signal(Signal::SIGTERM);
        meshd.wait();
        lab.meshd(&["--cleanup"]);
    }
}
