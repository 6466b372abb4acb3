//! `meshctl explain` names the hop that is broken, and no other: while no daemon runs, so that nobody mends it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::lab::{BACKENDS, Config, Lab, Meshd, Nodes, Place, Tcp, Underlay, by_nftables, eventually};

fn config(lab: &Lab) -> Config {
    lab.config().service(&format!(
        "name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}, {{ published = '30000-30009' }}]{BACKENDS}\n\
         [[service]]\nname = 'guarded'\nport = [{{ published = 20230, target = 9092, deny = ['192.168.50.0/24'] }}]{BACKENDS}"
    ))
}

/// What is broken first; `None`: nothing.
pub fn broken(lab: &Lab, line: &str) -> Option<(String, String)> {
    let said = lab.try_meshctl(&format!("explain {line} -o json"));
    let explanation: Value =
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("explain {line}: {error}: {said:?}"));
    let text = |hop: &Value, key: &str| hop[key].as_str().unwrap_or_default().to_owned();
    let hop = explanation.get("broken").map(|hop| (text(hop, "place"), text(hop, "what")));
    assert_eq!(said.code, Some(if hop.is_some() { 1 } else { 0 }), "explain {line}: {said:?}");
    assert_eq!(explanation["good"], hop.is_none(), "{said:?}");
    // What is broken is said on standard error, too.
    if let Some((place, what)) = &hop {
        assert!(said.err.contains(&format!("broken in {place} at \\\"{what}\\\"")), "{}", said.err);
    }
    hop
}

/// Where it is done, what, and how it is undone (empty: meshd has to do that); and the hop that it breaks.
type Damage = (&'static str, &'static str, &'static str, (&'static str, &'static str));

const FOREIGN: &str = "nft delete table ip other";
const DAMAGES: &[Damage] = &[
    (
        "host",
        "nft delete element inet meshd published4 { tcp . 20229 }",
        "nft add element inet meshd published4 { tcp . 20229 : 169.254.77.2 }",
        ("host", "published port"),
    ),
    ("host", "nft flush chain inet meshd prerouting", "", ("host", "chain prerouting")),
    ("host", "nft add rule inet meshd prerouting tcp dport 20229 accept", "", ("host", "chain prerouting")),
    ("host", "nft delete table inet meshd", "", ("host", "chain prerouting")),
    ("host", "sysctl -q net.ipv4.ip_forward=0", "sysctl -q net.ipv4.ip_forward=1", ("host", "kernel parameters")),
    ("host", "ip link set mesh_sbox down", "ip link set mesh_sbox up", ("host", "link mesh_sbox")),
    (
        "host",
        "ip addr del 169.254.77.1/24 dev mesh_sbox",
        "ip addr add 169.254.77.1/24 dev mesh_sbox",
        ("host", "address of mesh_sbox"),
    ),
    (
        "host",
        "ip route add blackhole 169.254.77.2",
        "ip route del blackhole 169.254.77.2",
        ("host", "way to the sandbox"),
    ),
    (
        "host",
        "ip rule add to 169.254.77.2 prohibit",
        "ip rule del to 169.254.77.2 prohibit",
        ("host", "way to the sandbox"),
    ),
    (
        "host",
        "nft add table ip other { chain c { type filter hook prerouting priority -200; tcp dport 20229 drop; }; }",
        FOREIGN,
        ("host", "others' rules"),
    ),
    (
        "host",
        "nft add table ip other { chain c { type filter hook forward priority 10; policy drop; oifname != \"mesh_sbox\" accept; iifname \"mesh_sbox\" accept; }; }",
        FOREIGN,
        ("host", "opened chain"),
    ),
    (
        "host",
        "nft add table ip other { chain c { type filter hook forward priority 10; ct state new tcp dport 1-30000 jump d; }; chain d { counter; ip daddr 169.254.77.0/24 reject; }; }",
        FOREIGN,
        ("host", "others' rules"),
    ),
    (
        "host",
        "nft add table ip other { chain c { type nat hook prerouting priority -110; tcp dport { 80, 20229 } redirect to :1; }; }",
        FOREIGN,
        ("host", "others' rules"),
    ),
    (
        "sandbox",
        "nft delete element inet meshd marks { tcp . 20229 }",
        "nft add element inet meshd marks { tcp . 20229 : 0x14f05 }",
        ("SANDBOX", "mark"),
    ),
    ("sandbox", "nft flush chain inet meshd postrouting", "", ("SANDBOX", "chain postrouting")),
    ("sandbox", "ip route del default", "", ("SANDBOX", "way back")),
    (
        "sandbox",
        "ip addr del 10.255.0.3/16 dev eth0",
        "ip addr add 10.255.0.3/16 brd + dev eth0",
        ("SANDBOX", "address of eth0"),
    ),
    ("sandbox", "ip link set eth1 down", "", ("SANDBOX", "link eth1")),
    ("sandbox", "ip link set eth0 mtu 1300", "ip link set eth0 mtu 1450", ("SANDBOX", "link eth0")),
    (
        "sandbox",
        "ip route add blackhole 10.255.0.34",
        "ip route del blackhole 10.255.0.34",
        ("SANDBOX", "way to the backend"),
    ),
    ("sandbox", "sysctl -q net.ipv4.ip_forward=0", "sysctl -q net.ipv4.ip_forward=1", ("SANDBOX", "kernel parameters")),
    (
        "sandbox",
        "nft add table ip other { chain c { type filter hook postrouting priority 0; ip daddr 10.255.0.34 drop; }; }",
        FOREIGN,
        ("SANDBOX", "others' rules"),
    ),
    (
        "sandbox",
        "nft add table ip other { chain c { type filter hook prerouting priority -310; tcp dport 20229 limit rate over 100000/second drop; }; }",
        FOREIGN,
        ("", ""),
    ),
    ("overlay", "ip link set br0 down", "ip link set br0 up", ("OVERLAY", "link br0")),
    ("overlay", "ip link set p02420aff0022 down", "ip link set p02420aff0022 up", ("OVERLAY", "leg of the backend")),
    (
        "overlay",
        "nft add table bridge other { chain c { type filter hook forward priority 0; ip daddr 10.255.0.34 drop; }; }",
        "nft delete table bridge other",
        ("OVERLAY", "others' rules"),
    ),
    ("kafka-2", "ip link set eth0 mtu 9000", "ip link set eth0 mtu 1450", ("OVERLAY", "leg of the backend")),
    (
        "kafka-2",
        "ip addr del 10.255.0.34/16 dev eth0",
        "ip addr add 10.255.0.34/16 brd + dev eth0",
        ("OVERLAY", "leg of the backend"),
    ),
    ("kafka-2", "ip route add blackhole 10.255.0.3", "ip route del blackhole 10.255.0.3", ("KAFKA-2", "way back")),
    (
        "kafka-2",
        "nft add table ip other { chain c { type filter hook input priority 0; ip saddr 10.255.0.3 tcp dport 9092 drop; }; }",
        FOREIGN,
        ("KAFKA-2", "others' rules"),
    ),
    (
        "kafka-2",
        "nft add table ip other { chain c { type filter hook output priority 0; policy drop; ct state new accept; }; }",
        FOREIGN,
        ("KAFKA-2", "others' rules"),
    ),
];

const OF_IPVS: &[Damage] = &[
    (
        "sandbox",
        "ipvsadm -a -f 85765 -r 10.255.0.77:9092 -m",
        "ipvsadm -d -f 85765 -r 10.255.0.77:9092",
        ("SANDBOX", "IPVS destination"),
    ),
    ("sandbox", "nft flush chain inet meshd prerouting", "", ("SANDBOX", "chain prerouting")),
    (
        "sandbox",
        "nft add table ip other { chain c { type filter hook input priority -10; meta mark 85765 drop; }; }",
        FOREIGN,
        ("SANDBOX", "others' rules"),
    ),
    ("sandbox", "ipvsadm -D -f 85765", "", ("SANDBOX", "IPVS service")),
    ("sandbox", "ipvsadm -E -f 85765 -s wlc", "ipvsadm -E -f 85765 -s rr", ("SANDBOX", "IPVS service")),
    (
        "sandbox",
        "ipvsadm -d -f 85765 -r 10.255.0.34:9092",
        "ipvsadm -a -f 85765 -r 10.255.0.34:9092 -m -w 1",
        ("SANDBOX", "IPVS destination"),
    ),
    (
        "sandbox",
        "ipvsadm -e -f 85765 -r 10.255.0.34:9092 -m -w 0",
        "ipvsadm -e -f 85765 -r 10.255.0.34:9092 -m -w 1",
        ("SANDBOX", "IPVS destination"),
    ),
    (
        "sandbox",
        "sysctl -q net.ipv4.vs.conntrack=0",
        "sysctl -q net.ipv4.vs.conntrack=1",
        ("SANDBOX", "kernel parameters"),
    ),
];

const OF_NFTABLES: &[Damage] = &[
    (
        "sandbox",
        "nft add element inet meshd slots4 { 0x14f05 . 0x9 : 10.255.0.77 . 9092 }",
        "nft delete element inet meshd slots4 { 0x14f05 . 0x9 }",
        ("SANDBOX", "slots"),
    ),
    ("sandbox", "nft flush chain inet meshd balance", "", ("SANDBOX", "chain balance")),
    ("sandbox", "nft flush map inet meshd ways4", "", ("SANDBOX", "chain of the mark")),
    ("sandbox", "nft flush chain inet meshd turn_ipv4_to_3_44", "", ("SANDBOX", "chain turn_ipv4_to_3_44")),
    ("sandbox", "nft delete element inet meshd slots4 { 0x14f05 . 0x1 }", "", ("SANDBOX", "slots")),
    (
        "sandbox",
        "nft delete element inet meshd backends4 { 0x14f05 . 10.255.0.34 . 9092 }",
        "",
        ("SANDBOX", "known backend"),
    ),
    (
        "sandbox",
        "nft add table ip other { chain c { type filter hook forward priority -10; ct mark 85765 drop; meta mark 85765 drop; }; }",
        FOREIGN,
        ("SANDBOX", "others' rules"),
    ),
];

#[test]
fn the_hop_that_is_broken_is_named() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    let meshd = lab.start(&config(&lab));
    for line in [
        "20229",
        "tcp/20229 --from 192.168.50.10",
        "20229 --from fd50::10",
        "20229 --from 192.168.50.1",
        "20229 --from 127.0.0.1",
    ] {
        assert_eq!(broken(&lab, line), None, "{line}");
    }
    let named = |name: &str| match name {
        "host" => lab.node.clone(),
        "sandbox" | "SANDBOX" => lab.sandbox(),
        "overlay" | "OVERLAY" => lab.overlay(),
        _ => Place::new(backends[1].name.clone()),
    };
    let place = |name: &str| if name == "host" { "host".to_owned() } else { named(name).name };
    // Nobody listens there, which is said without a daemon, too.
    let alone = format!("--config {}", lab.config_file().display());
    let nobody = Some((backends[0].name.clone(), "listener".to_owned()));
    assert_eq!(broken(&lab, "30001"), nobody);
    assert_eq!(broken(&lab, "20230"), None);
    let denied = Some(("host".to_owned(), "who may come".to_owned()));
    assert_eq!(broken(&lab, "20230 --from 192.168.50.10"), denied);
    assert_eq!(broken(&lab, "20229 --from ::1"), Some(("host".to_owned(), "client".to_owned())));
    let said = lab.try_meshctl("explain 20229 --node nobody");
    assert!(said.code == Some(1) && said.err.contains("no backend on node nobody"), "{said:?}");
    // However many ask: they are answered, or told to come again.
    let crowd: Vec<_> = (0..12).map(|_| lab.meshctl_beside("explain 30001")).collect();
    for child in crowd {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("nobody listens there") || said.contains("meshd is busy"), "{said}");
    }
    let said = lab.try_meshctl("explain 20299");
    assert!(said.code == Some(1) && said.err.contains("port 20299 is not published here"), "{said:?}");
    meshd.kill9();
    let said = lab.try_meshctl("explain 20229");
    assert!(said.code == Some(69) && said.err.contains("--config FILE"), "{said:?}");
    assert_eq!(broken(&lab, &format!("30001 {alone}")), nobody);

    let line = format!("20229 --from 192.168.50.10 {alone}");
    let own = if by_nftables() { OF_NFTABLES } else { OF_IPVS };
    for (at, damage, undo, (broken_in, what)) in DAMAGES.iter().chain(own) {
        assert_eq!(broken(&lab, &line), None, "before {damage}");
        let at = named(at);
        at.run(damage);
        let expected = (!what.is_empty()).then(|| (place(broken_in), (*what).to_owned()));
        assert_eq!(broken(&lab, &line), expected, "{damage}");
        match *undo {
            "" => lab.resume().kill9(),
            undo => drop(at.run(undo)),
        }
    }
    // All of it.
    lab.node.run(&format!("ip netns del {}", lab.sandbox().name));
    assert_eq!(broken(&lab, &line), Some(("host".to_owned(), "link mesh_sbox".to_owned())));
    lab.resume().kill9();
    eventually("all is well", || broken(&lab, &line).is_none());
}

/// Two nodes, and a backend on the other one: what carries packets there.
#[test]
fn what_is_broken_between_nodes_is_named() {
    let Some(nodes) = Nodes::new(2, Underlay::default()) else { return };
    let _backends = nodes.kafka(&[Tcp]);
    let second = nodes.all[1].name();
    let service = format!(
        "name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]\nbackend = [{{ address = '10.255.0.34', netns = \"kafka-2\", node = '{second}' }}]"
    );
    let daemons = nodes.start(|config| config.service(&service));
    let line = format!("20229 --from 192.168.50.10 --config {}", nodes.config_file().display());
    eventually("the other node has its part", || broken(&nodes, &line).is_none());
    daemons.into_iter().for_each(Meshd::kill9);
    let (node, overlay) = (&nodes.all[0], nodes.all[0].overlay());
    let damages: &[(&Place, &str, &str, (&str, &str))] = &[
        (&overlay, "bridge fdb del 02:42:0a:ff:00:22 dev vxlan0", "", (&overlay.name, "forwarding entry")),
        (
            &overlay,
            "bridge fdb replace 02:42:0a:ff:00:22 dev vxlan0 dst 192.168.50.77",
            "",
            (&overlay.name, "forwarding entry"),
        ),
        (&overlay, "ip neigh del 10.255.0.34 dev vxlan0", "", (&overlay.name, "neighbour")),
        (&overlay, "ip link set vxlan0 down", "", (&overlay.name, "link vxlan0")),
        (&overlay, "ip link set vxlan0 mtu 1300", "ip link set vxlan0 mtu 1450", (&overlay.name, "link vxlan0")),
        (
            node,
            "ip route add prohibit 192.168.50.12",
            "ip route del prohibit 192.168.50.12",
            ("host", "way to the node"),
        ),
        (
            node,
            "nft add table ip other { chain c { type filter hook output priority 0; udp dport 4789 drop; }; }",
            FOREIGN,
            ("host", "others' rules"),
        ),
        (
            node,
            "nft add table inet other { chain c { type filter hook input priority 0; policy drop; ct state established accept; tcp dport 1-65535 accept; }; }",
            "nft delete table inet other",
            ("host", "others' rules"),
        ),
        (
            node,
            "nft delete element inet meshd peers4 { 192.168.50.12 }",
            "nft add element inet meshd peers4 { 192.168.50.12 }",
            ("host", "known peer"),
        ),
        (
            node,
            "ip route add 192.168.50.12 dev lan0 mtu 1300",
            "ip route del 192.168.50.12 dev lan0",
            ("underlay", "path to node-2"),
        ),
        (&nodes.lan, "ip link set node-2 down", "ip link set node-2 up", ("underlay", "path to node-2")),
        (
            &nodes.all[1],
            "nft add table inet other { chain c { type filter hook input priority 0; udp dport 4789 drop; }; }",
            "nft delete table inet other",
            (&nodes.sandbox().name, "answer"),
        ),
    ];
    for (at, damage, undo, (place, what)) in damages {
        eventually(&format!("all is well before {damage}"), || broken(&nodes, &line).is_none());
        at.run(damage);
        assert_eq!(broken(&nodes, &line), Some(((*place).to_owned(), (*what).to_owned())), "{damage}");
        match *undo {
            "" => node_resumed(&nodes),
            undo => drop(at.run(undo)),
        }
    }
    assert_eq!(broken(&nodes, &format!("{line} --node {second}")), None);
}

fn node_resumed(nodes: &Nodes) {
    let mut meshd = nodes.all[0].spawn();
    meshd.wait_until_ready();
    meshd.kill9();
}

/// Whom backends see is part of the way: their answers have to go back through the node.
#[test]
fn smoke_a_preserved_client_is_followed_back() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    let config = lab.config().service(&format!(
        "name = 'kafka'\nclient_address = 'preserve'\nport = [{{ published = 20229, target = 9092 }}]{BACKENDS}"
    ));
    lab.start(&config).kill9();
    let alone = format!("--config {}", lab.config_file().display());
    for line in ["20229", "20229 --from 192.168.50.10", "20229 --from fd50::10"] {
        assert_eq!(broken(&lab, &format!("{line} {alone}")), None, "{line}");
    }
    let line = format!("20229 --from 192.168.50.10 {alone}");
    let second = &backends[1];
    second.run("ip rule add to 192.168.50.0/24 blackhole priority 100");
    assert_eq!(broken(&lab, &line), Some((second.name.clone(), "way back".to_owned())));
    second.run("ip rule del to 192.168.50.0/24 blackhole priority 100");
    second.run("nft delete table inet meshd_return");
    assert_eq!(broken(&lab, &line), Some((second.name.clone(), "return route".to_owned())));
}

/// All that is published is tried, by every address; what does not answer is named.
#[test]
fn all_that_is_published_is_tried() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    let service = format!("name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]{BACKENDS}");
    let _meshd = lab.start(&lab.config().service(&service));
    let all = lab.meshctl_json("check --all-nodes");
    let tried = |all: &Value, kind: &str, verdict: &str| {
        let all = all.as_array().unwrap().iter().filter(|one| one["kind"] == kind && one["verdict"] == verdict);
        all.map(|one| one["to"].as_str().unwrap().to_owned()).collect::<BTreeSet<String>>()
    };
    let ports = ["127.0.0.1:20229", "192.168.50.1:20229", "[fd50::1]:20229"].map(str::to_owned);
    let answering = ["10.255.0.33", "10.255.0.34", "10.255.0.35", "[fd00:255::33]", "[fd00:255::34]", "[fd00:255::35]"];
    let answering: BTreeSet<String> = answering.into_iter().map(|backend| format!("{backend}:9092")).collect();
    assert_eq!((tried(&all, "port", "good"), tried(&all, "backend", "good")), (ports.into(), answering.clone()));
    let said = lab.meshctl("check");
    assert!(said.contains("kafka     tcp/20229   3 of 3      6 of 6\n"), "{said}");

    // What others do on the way to backends, and meshd does not mend.
    let named = |at: &str| match at {
        "sandbox" => lab.sandbox(),
        "overlay" => lab.overlay(),
        _ => Place::new(backends[1].name.clone()),
    };
    let lasting = |damage: &&Damage| damage.2.starts_with("nft delete table") || damage.2.contains("blackhole 10.255");
    for (at, damage, undo, (_, what)) in DAMAGES.iter().filter(|damage| damage.0 != "host").filter(lasting) {
        named(at).run(damage);
        let said = lab.try_meshctl("check");
        // A rate limit that is not reached keeps nobody.
        assert_eq!(said.code, Some(i32::from(!what.is_empty())), "{damage}: {said:?}");
        named(at).run(undo);
    }
    // One that nobody can reach.
    backends[1]
        .run("nft add table inet other { chain c { type filter hook input priority 0; tcp dport 9092 drop; }; }");
    let said = lab.try_meshctl("check --service kafka -o json");
    let some: Value = serde_json::from_str(&said.out).unwrap();
    assert!(said.code == Some(1) && said.err.contains("do not answer; `meshctl explain PORT` says why"), "{said:?}");
    let lost: BTreeSet<String> = ["10.255.0.34:9092", "[fd00:255::34]:9092"].map(str::to_owned).into();
    assert_eq!(tried(&some, "backend", "broken"), lost, "{said:?}");
    assert_eq!(tried(&some, "backend", "good").len(), 4, "{said:?}");
    let said = lab.try_meshctl("check --service kafak");
    assert!(said.code == Some(1) && said.err.contains("kafak"), "{said:?}");
}
