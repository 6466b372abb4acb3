//! What an operator sees: links, addresses, kernel parameters, timeouts, by the usual programs.

use crate::lab::{BACKENDS, BACKENDS4, Lab, Place, Tcp, Udp, batch, by_nftables, eventually, value_of};
use meshd::kernel::ipvs::{Ipvs, listing};
use serde_json::Value;

fn link(place: &Place, name: &str) -> Value {
    place.json(&format!("ip -j -d link show dev {name}"))[0].clone()
}

fn addresses(place: &Place, name: &str) -> Vec<String> {
    let shown = place.json(&format!("ip -j addr show dev {name} scope global"));
    let all = shown[0]["addr_info"].as_array().cloned().unwrap_or_default();
    // ip(8) prints an empty object for what it leaves out.
    all.iter().filter_map(|one| Some(format!("{}/{}", one["local"].as_str()?, one["prefixlen"]))).collect()
}

fn names(place: &Place) -> Vec<String> {
    let links = place.json("ip -j link show");
    let mut names: Vec<String> =
        links.as_array().into_iter().flatten().map(|link| link["ifname"].as_str().unwrap_or("?").to_owned()).collect();
    names.sort();
    names
}

/// Most looks at IPVS only glance at what /proc/net/ip_vs shows: all that is shown counts, and the rest is seen a few looks later.
#[test]
fn smoke_a_glance_sees_what_is_shown_and_a_close_look_the_rest() {
    let Some(lab) = Lab::of_ipvs() else { return };
    let _backends = lab.kafka(&[Tcp, Udp]);
    let _meshd = lab.start(
        &lab.config()
            .service(&format!(
                "name = 'kafka'\nscheduler = 'wrr'\npersistence = 60\npersistence_mask = 24\npersistence_mask6 = 64\n\
                 port = [{{ published = 9092 }}, {{ published = '30000-30009', scheduler = 'sh', scheduler_flags = ['sh-port'] }}]{BACKENDS}"
            ))
            .service(&format!(
                "name = 'udp'\none_packet = true\nport = [{{ published = 53, protocol = 'udp', scheduler = 'lblcr' }}]{BACKENDS}"
            )),
    );
    let shown = || {
        lab.sandbox().within(|| {
            let services = Ipvs::open().unwrap().services().unwrap();
            (services.len(), listing::shows(&services).unwrap())
        })
    };
    assert_eq!(shown(), (6, true), "{}", lab.sandbox().run("cat /proc/net/ip_vs"));
    let known = lab.sandbox().within(|| Ipvs::open().unwrap().services().unwrap());
    let as_known = || lab.sandbox().within(|| listing::shows(&known).unwrap());
    lab.sandbox().run("ipvsadm -e -f 74628 -r 10.255.0.33:9092 -m -w 9");
    assert!(!as_known());
    let seen = |is_seen: &dyn Fn() -> bool| {
        lab.have_a_look();
        is_seen()
    };
    eventually("the weight is as it was", || seen(&as_known));
    lab.sandbox().run("ipvsadm -e -f 74628 -r 10.255.0.33:9092 -m -w 1 -x 5");
    assert!(as_known());
    let thresholds = || lab.sandbox().within(|| Ipvs::open().unwrap().services().unwrap()) == known;
    assert!(!thresholds());
    eventually("the threshold is gone", || seen(&thresholds));
    assert_eq!(value_of(&lab.metrics(), "meshd_drift_repaired_total{kind=\"backend\"}"), 2.0);
}

/// With a bridge between host and sandbox, and from there to none: as a mesh of an older meshd, which always made one.
#[test]
fn smoke_a_bridge_where_one_is_wanted_and_none_where_not() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp, Udp]);
    let plain =
        lab.config().service(&format!("name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]{BACKENDS}"));
    let bridged = plain.clone().set("gateway", "bridge", "'mesh_gwbridge'");
    let meshd = lab.start(&bridged);
    let node = &lab.node;
    assert_eq!(names(node), ["lan0", "lo", "mesh_gwbridge", "mesh_sbox"]);
    assert_eq!(link(node, "mesh_gwbridge")["address"], "02:42:a9:fe:4d:01");
    assert_eq!(addresses(node, "mesh_gwbridge"), ["169.254.77.1/24", "fd6d:6573:6864::1/64"]);
    let port = link(node, "mesh_sbox");
    assert_eq!(port["master"], "mesh_gwbridge");
    assert_eq!(port["linkinfo"]["info_slave_data"]["isolated"], true);
    let ways = [(&lab.client, "192.168.50.1:20229"), (&lab.client, "[fd50::1]:20229"), (node, "127.0.0.1:20229")];
    let mut held = ways.map(|(from, to)| from.connect(Tcp, to).unwrap());
    held.iter_mut().for_each(|one| drop(one.ask("over the bridge").unwrap()));

    drop(meshd);
    let meshd = lab.start(&plain);
    assert_eq!(names(node), ["lan0", "lo", "mesh_sbox"]);
    assert!(link(node, "mesh_sbox")["master"].is_null());
    held.iter_mut().for_each(|one| drop(one.ask("without it").unwrap()));
    ways.iter().for_each(|(from, to)| drop(from.ask(Tcp, to)));
    drop(meshd);
    // By whatever name, and back again.
    let meshd = lab.start(&plain.clone().set("gateway", "bridge", "'other-bridge'"));
    assert_eq!(link(node, "mesh_sbox")["master"], "other-bridge");
    held.iter_mut().for_each(|one| drop(one.ask("over another one").unwrap()));
    ways.iter().for_each(|(from, to)| drop(from.ask(Tcp, to)));
    drop(meshd);
    let _meshd = lab.start(&plain);
    assert_eq!(names(node), ["lan0", "lo", "mesh_sbox"]);
    held.iter_mut().for_each(|one| drop(one.ask("and without").unwrap()));
    ways.iter().for_each(|(from, to)| drop(from.ask(Tcp, to)));
}

#[test]
fn links_have_swarms_names_and_dockers_macs() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    // One has a network of its own already.
    batch(Some(&backends[1]), "link add eth0 type veth peer name other0\n");
    let _meshd = lab.start(
        &lab.config().service(&format!("name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]{BACKENDS}")),
    );
    let (node, sandbox, overlay) = (&lab.node, lab.sandbox(), lab.overlay());

    assert_eq!(names(node), ["lan0", "lo", "mesh_sbox"]);
    assert_eq!(link(node, "mesh_sbox")["address"], "02:42:a9:fe:4d:01");
    assert_eq!(addresses(node, "mesh_sbox"), ["169.254.77.1/24", "fd6d:6573:6864::1/64"]);

    assert_eq!(names(&sandbox), ["eth0", "eth1", "lo"]);
    assert_eq!(link(&sandbox, "eth0")["address"], "02:42:0a:ff:00:03");
    assert_eq!(addresses(&sandbox, "eth0"), ["10.255.0.3/16", "fd00:255::3/64"]);
    assert_eq!(link(&sandbox, "eth1")["address"], "02:42:a9:fe:4d:02");
    assert_eq!(addresses(&sandbox, "eth1"), ["169.254.77.2/24", "fd6d:6573:6864::2/64"]);
    for (family, gateway) in [("-4", "169.254.77.1"), ("-6", "fd6d:6573:6864::1")] {
        let routes = sandbox.json(&format!("ip -j {family} route show default"));
        assert_eq!((&routes[0]["gateway"], &routes[0]["dev"]), (&gateway.into(), &"eth1".into()), "{routes}");
    }

    let ports = ["p02420aff0021", "p02420aff0022", "p02420aff0023"];
    assert_eq!(names(&overlay), ["br0", "lo", ports[0], ports[1], ports[2], "sbox0", "vxlan0"]);
    let tunnel = link(&overlay, "vxlan0");
    let data = &tunnel["linkinfo"]["info_data"];
    assert_eq!((&data["id"], &data["port"], &data["learning"]), (&4077.into(), &4789.into(), &false.into()), "{data}");
    assert_eq!(data["local"], "192.168.50.1");
    assert_eq!((&tunnel["mtu"], &tunnel["master"]), (&1450.into(), &"br0".into()));

    for (backend, name, host) in [(&backends[0], "eth0", 33), (&backends[1], "eth1", 34), (&backends[2], "eth0", 35)] {
        let leg = link(backend, name);
        assert_eq!(leg["address"], format!("02:42:0a:ff:00:{host:02x}"), "{leg}");
        assert_eq!(leg["mtu"], 1450);
        assert_eq!(addresses(backend, name), [format!("10.255.0.{host}/16"), format!("fd00:255::{host}/64")]);
    }

    // Pinned where ip(8) looks for them.
    let looked_at = |line: &str| node.run(&format!("ip netns exec {} {line}", sandbox.name));
    if by_nftables() {
        let shown = looked_at("nft list table inet meshd");
        assert!(shown.contains("0x00014f05 : goto turn_ipv4_to_3_44"), "{shown}");
        assert!(shown.contains("0x00014f05 : goto turn_ipv6_to_3_44"), "{shown}");
        assert!(shown.contains(": 10.255.0.33 . 9092") && shown.contains(": fd00:255::33 . 9092"), "{shown}");
        return;
    }
    let shown = looked_at("ipvsadm -Ln");
    assert!(shown.contains("FWM  85765 rr") && shown.contains("FWM  85765 IPv6 rr"), "{shown}");
    assert!(shown.contains("-> 10.255.0.33:9092             Masq    1"), "{shown}");
    assert!(shown.contains("-> [fd00:255::33]:9092"), "{shown}");
}

#[test]
fn the_overlays_mtu_is_what_the_underlay_leaves() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    batch(Some(&lab.node), "link set lan0 mtu 1400\n");
    let service = format!("name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]{BACKENDS}");
    let mut meshd = lab.start(&lab.config().service(&service));
    let mtus = || [link(&lab.overlay(), "vxlan0"), link(&lab.sandbox(), "eth0"), link(&backends[0], "eth0")];
    assert_eq!(mtus().map(|link| link["mtu"].clone()), [1350, 1350, 1350]);
    meshd.reload(&lab.config().set("ingress", "mtu", "1300").service(&service));
    assert_eq!(mtus().map(|link| link["mtu"].clone()), [1300, 1300, 1300]);
    lab.client.ask(Tcp, "192.168.50.1:20229");
    lab.client.ask(Tcp, "[fd50::1]:20229");
}

#[test]
fn kernel_parameters_and_timeouts_are_set_where_they_belong() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let service = format!("name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]{BACKENDS}");
    let mut meshd = lab.start(&lab.config().service(&service));
    let (node, sandbox) = (&lab.node, lab.sandbox());
    let of_ipvs = ["conntrack", "conn_reuse_mode", "expire_nodest_conn", "expire_quiescent_template"];
    let of_ipvs = if by_nftables() { &[] } else { &of_ipvs[..] };
    for name in of_ipvs {
        assert_eq!(sandbox.run(&format!("sysctl -n net.ipv4.vs.{name}")).trim(), "1", "{name}");
    }
    for (place, parameter, value) in [
        (&sandbox, "net.ipv4.ip_forward", "1"),
        (&sandbox, "net.ipv6.conf.all.forwarding", "1"),
        (node, "net.ipv4.ip_forward", "1"),
        (node, "net.ipv6.conf.all.forwarding", "1"),
        (node, "net.ipv4.conf.mesh_sbox.route_localnet", "1"),
        // On that one bridge only.
        (node, "net.ipv4.conf.all.route_localnet", "0"),
        (node, "net.ipv4.conf.lan0.route_localnet", "0"),
    ] {
        assert_eq!(place.run(&format!("sysctl -n {parameter}")).trim(), value, "{parameter} in {}", place.name);
    }

    // Where it is loaded, as by Docker.
    if std::path::Path::new("/proc/sys/net/bridge").exists() {
        for of in ["iptables", "ip6tables", "arptables"] {
            assert_eq!(lab.overlay().run(&format!("sysctl -n net.bridge.bridge-nf-call-{of}")).trim(), "0");
        }
        assert_eq!(node.run("sysctl -n net.bridge.bridge-nf-call-iptables").trim(), "1");
    }

    let timeouts = || {
        if !by_nftables() {
            return sandbox.run("ipvsadm -L --timeout").trim().to_owned();
        }
        let one = |name: &str| sandbox.run(&format!("sysctl -n net.netfilter.nf_conntrack_{name}")).trim().to_owned();
        let all = ["tcp_timeout_established", "tcp_timeout_fin_wait", "udp_timeout_stream"].map(one).join(" ");
        format!("Timeout (tcp tcpfin udp): {all}")
    };
    assert_eq!(timeouts(), "Timeout (tcp tcpfin udp): 900 120 300");
    let shorter = lab.config().set("ipvs", "tcp", "600").set("ipvs", "tcp_fin", "30").set("ipvs", "udp", "60");
    meshd.reload(&shorter.service(&service));
    assert_eq!(timeouts(), "Timeout (tcp tcpfin udp): 600 30 60");
}

/// While it makes a large change it does not listen; then it does again, and looks at what others may have done meanwhile.
#[test]
fn after_a_large_change_it_hears_of_others_again() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp]);
    let service = |ports: u16| {
        let ports: Vec<String> =
            (0..ports).map(|port| format!("{{ published = {}, target = 9092 }}", 20000 + port)).collect();
        lab.config().service(&format!("name = 'kafka'\nport = [{}]{BACKENDS4}", ports.join(", ")))
    };
    let mut meshd = lab.start(&service(1));
    // The kernel's own list of sockets: netfilter's (12) that hear of nftables (group 7).
    let hears = |place: &Place| {
        let sockets = place.run("cat /proc/net/netlink");
        sockets.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.get(1) == Some(&"12") && words.get(3) == Some(&"00000040")
        })
    };
    let places = [&lab.node, &lab.sandbox()];
    eventually("it listens", || places.iter().all(|place| hears(place)));
    meshd.reload(&service(1200));
    assert!(places.iter().all(|place| hears(place)));
    lab.client.ask(Tcp, "192.168.50.1:21199");
    lab.sandbox().run("nft flush map inet meshd marks");
    eventually("it is mended", || lab.client.try_ask(Tcp, "192.168.50.1:20000").is_ok());
    assert!(places.iter().all(|place| hears(place)));
}
