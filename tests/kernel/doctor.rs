//! `meshctl doctor` finds what was done to a host, by name, and finds no fault in one that is well.

use serde_json::Value;

use crate::lab::{BACKENDS, Config, Lab, Nodes, Tcp, Underlay, eventually};

fn config(lab: &Lab) -> Config {
    // The client's host answers echo requests as another node would.
    let peer = "name = 'node-2'\naddress = '192.168.50.2'\ningress = '10.255.0.4'\ningress6 = 'fd00:255::4'";
    lab.config()
        .peer(peer)
        .service(&format!("name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]{BACKENDS}"))
}

/// What was found, as area, grade and what was looked at.
fn findings(lab: &Lab, options: &str) -> Vec<(String, String, String)> {
    let said = lab.try_meshctl(&format!("doctor -o json {options}"));
    let diagnosis: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("doctor: {error}: {said:?}"));
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned();
    let findings = diagnosis["findings"].as_array().expect("findings");
    for finding in findings {
        // What is not good says what mends it, and all say why.
        assert_eq!(finding["grade"] != "good", finding.get("mend").is_some(), "{finding}");
        assert!(!text(&finding["why"]).is_empty() && !text(&finding["found"]).is_empty(), "{finding}");
    }
    let found: Vec<_> = findings
        .iter()
        .map(|finding| (text(&finding["area"]), text(&finding["grade"]), text(&finding["what"])))
        .collect();
    let good = found.iter().all(|(_, grade, _)| grade != "fault");
    assert_eq!((said.code, diagnosis["good"].as_bool()), (Some(if good { 0 } else { 1 }), Some(good)), "{said:?}");
    found
}

/// Those that are not good.
fn ill(lab: &Lab, options: &str) -> Vec<(String, String, String)> {
    findings(lab, options).into_iter().filter(|(_, grade, _)| grade != "good").collect()
}

/// What is done on the node, how it is undone, and the finding that comes of it.
type Damage = (&'static str, &'static str, (&'static str, &'static str, &'static str));

const DAMAGES: &[Damage] = &[
    (
        "sysctl -q net.ipv4.ip_forward=0",
        "sysctl -q net.ipv4.ip_forward=1",
        ("sysctl", "fault", "net.ipv4.ip_forward of the host"),
    ),
    (
        "sysctl -q net.ipv4.conf.mesh_sbox.rp_filter=1",
        "sysctl -q net.ipv4.conf.mesh_sbox.rp_filter=2",
        ("sysctl", "notice", "reverse path filter of mesh_sbox"),
    ),
    ("ip link set lan0 mtu 1400", "ip link set lan0 mtu 1500", ("underlay", "fault", "MTU of the overlay's links")),
    (
        "ip addr del 192.168.50.1/24 dev lan0",
        "ip addr add 192.168.50.1/24 dev lan0",
        ("underlay", "fault", "[node] address"),
    ),
    (
        "ip route add 10.255.7.0/24 dev lan0",
        "ip route del 10.255.7.0/24 dev lan0",
        ("clash", "fault", "[ingress] subnet"),
    ),
    (
        "nft add table ip other { chain c { type filter hook forward priority 10; policy drop; }; }",
        "nft delete table ip other",
        ("firewall", "fault", "chain ip other c"),
    ),
    (
        "nft add table ip other { chain c { type filter hook input priority 10; udp dport 4789 drop; }; }",
        "nft delete table ip other",
        ("firewall", "fault", "the tunnel's packets from node-2 (192.168.50.2)"),
    ),
    (
        "nft add table ip filter { chain ufw-before-forward { accept; }; }",
        "nft delete table ip filter",
        ("firewall", "notice", "ufw"),
    ),
];

#[test]
fn smoke_what_was_done_to_a_host_is_found() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    // It may differ from host to host.
    lab.node.run("sysctl -q net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lan0.rp_filter=2");
    let config = config(&lab).set("gateway", "open_forward", "false");
    let meshd = lab.start(&config);
    lab.node.run("sysctl -q net.ipv4.conf.mesh_sbox.rp_filter=2");

    let well = findings(&lab, "");
    assert!(well.iter().all(|(_, grade, _)| grade != "fault"), "{:#?}", ill(&lab, ""));
    for area in
        ["kernel", "sysctl", "underlay", "offload", "clash", "firewall", "tables", "timeouts", "clock", "limits"]
    {
        assert!(well.iter().any(|(of, ..)| of == area), "{area} in {well:#?}");
    }
    let text = lab.meshctl("doctor");
    println!("{text}");
    assert!(text.contains("node-1, balanced by ") && text.contains(": 0 faults, "), "{text}");
    assert!(text.contains("  ok       net.ipv4.ip_forward of the host: 1 (clients' packets"), "{text}");
    assert_eq!(lab.meshctl("plan"), "nothing to do\n");
    meshd.kill9();

    // Nobody mends it now, and it is found without a daemon.
    let said = lab.try_meshctl("doctor");
    assert!(said.code == Some(69) && said.err.contains("--config FILE"), "{said:?}");
    let alone = format!("--config {}", lab.config_file().display());
    let before = ill(&lab, &alone);
    for (damage, undo, expected) in DAMAGES {
        lab.node.run(damage);
        let found = ill(&lab, &alone);
        let (area, grade, what) = *expected;
        let expected = (area.to_owned(), grade.to_owned(), what.to_owned());
        assert!(!before.contains(&expected) && found.contains(&expected), "{damage}: {found:#?}");
        // What is said beside it comes of the same: no grade without a cause.
        let rest: Vec<_> = found.iter().filter(|one| **one != expected && !before.contains(one)).collect();
        assert!(rest.iter().all(|(of, ..)| of == area || area == "underlay" || area == "clash"), "{damage}: {rest:#?}");
        lab.node.run(undo);
        assert_eq!(ill(&lab, &alone), before, "after {undo}");
    }
    let ports = ("sysctl", "notice", "published ports in ip_local_port_range");
    let is_told = || ill(&lab, &alone).iter().any(|(area, grade, what)| (&**area, &**grade, &**what) == ports);
    assert!(!is_told());
    let range = |text: &str| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", text).expect("a range");
    lab.node.within(|| range("20000 30000"));
    assert!(is_told());
    // As it is said to be mended.
    lab.node.run("sysctl -q -w net.ipv4.ip_local_reserved_ports=20229");
    assert_eq!(ill(&lab, &alone), before);
    let fault = lab.try_meshctl(&format!("doctor {alone}"));
    assert_eq!(fault.code, Some(0), "{fault:?}");
}

#[test]
fn a_host_on_which_meshd_never_ran_is_examined_too() {
    let Some(lab) = Lab::new() else { return };
    lab.write(&config(&lab));
    let before = lab.state();
    let found = ill(&lab, &format!("--config {}", lab.config_file().display()));
    assert!(found.iter().any(|(area, grade, what)| (&**area, &**grade, &**what) == ("sysctl", "notice", "sandbox")));
    assert!(found.iter().all(|(_, grade, _)| grade != "fault"), "{found:#?}");
    assert_eq!(lab.state(), before);
    let said = lab.try_meshctl("doctor --config /nowhere");
    assert!(said.code == Some(64) && said.err.contains("/nowhere"), "{said:?}");
}

#[test]
fn smoke_nodes_that_are_well_have_no_fault() {
    are_well(false, false, true);
    are_well(true, false, false);
}

/// Nobody finds anything to mend on two nodes.
pub fn are_well(v6: bool, encrypted: bool, bridge: bool) {
    let Some(mut nodes) = Nodes::new(2, Underlay { v6, ..Underlay::default() }) else { return };
    if encrypted {
        nodes.encrypt();
    }
    let _backends = nodes.kafka(&[Tcp]);
    let _daemons = nodes.start(|config| {
        let config = if bridge { config.set("gateway", "bridge", "'gw0'") } else { config };
        config.service(&format!("name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]{BACKENDS}"))
    });
    let options = format!("--config {}", nodes.config_file().display());
    let told = || ill(&nodes, &options).into_iter().filter(|(_, grade, _)| grade != "notice").collect::<Vec<_>>();
    // Each started by itself, and the first did not know the second.
    eventually("nothing is wrong", || told().is_empty());
    let paths = findings(&nodes, &options).into_iter().any(|(_, _, what)| what == "paths to other nodes");
    assert!(paths, "IPv6 {v6}, encrypted {encrypted}");
}
