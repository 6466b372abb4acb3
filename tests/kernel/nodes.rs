//! Several nodes: a client reaches any of them, and each backend wherever it runs.

use std::collections::BTreeSet;

use crate::lab::{
    Backend, Config, Node, Nodes, Protocol, SECOND, Tcp, Udp, Underlay, batch, eventually, tally, value_of,
};

/// One backend on each node, kafka-1 on node-1 and so on, at addresses of both families.
pub fn kafka(nodes: &Nodes) -> impl Fn(Config) -> Config + use<> {
    let backend = |node: &Node| {
        let (number, name) = (node.number, node.name());
        let one =
            |address: String| format!("{{ address = \"{address}\", node = \"{name}\", netns = \"kafka-{number}\" }}");
        [one(format!("10.255.0.{}", 32 + number)), one(format!("fd00:255::{}", 32 + number))].join(", ")
    };
    let backends: Vec<String> = nodes.all.iter().map(backend).collect();
    let service = format!(
        "name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}, {{ published = 20229, target = 9092, protocol = 'udp' }}]\n\
         backend = [{}]",
        backends.join(", ")
    );
    move |config| config.service(&service)
}

/// Asks each node as often as there are backends: each answers once, and sees that node's ingress address.
pub fn check(nodes: &Nodes, protocol: Protocol) {
    for node in &nodes.all {
        for (at, ingress) in [(node.address(), node.ingress()), (format!("[{}]", node.address6()), node.ingress6())] {
            let to = format!("{at}:20229");
            let answers = nodes.client.ask_times(nodes.all.len(), protocol, &to);
            assert_eq!(tally(&answers).len(), nodes.all.len(), "{protocol} {to}: {answers:?}");
            assert!(answers.iter().all(|answer| answer.peer.ip().to_string() == ingress), "{to}: {answers:?}");
        }
    }
}

pub fn bodies(nodes: &Nodes) {
    for node in &nodes.all {
        nodes.bodies(&node.address(), nodes.all.len());
        nodes.bodies(&format!("[{}]", node.address6()), nodes.all.len());
    }
}

fn backends(nodes: &Nodes) -> [Backend; 3] {
    nodes.kafka(&[Tcp, Udp])
}

#[test]
fn smoke_three_nodes_with_a_backend_each() {
    let Some(nodes) = Nodes::new(3, Underlay::default()) else { return };
    let _backends = backends(&nodes);
    let _daemons = nodes.start(kafka(&nodes));
    check(&nodes, Tcp);
    check(&nodes, Udp);
    bodies(&nodes);
    // Clients' connections are tracked, and not what carries them from node to node.
    for node in &nodes.all {
        let tracked = node.run("cat /proc/net/nf_conntrack");
        assert!(tracked.contains("dport=20229") && !tracked.contains("dport=4789"), "{tracked}");
    }

    // As Swarm has it (../shared/swarm/two-nodes): one permanent entry for each endpoint elsewhere, and nothing else.
    let overlay = nodes.all[0].overlay();
    let entries = overlay.json("bridge -j fdb show dev vxlan0");
    let remote: BTreeSet<(String, String)> = entries
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["dst"].is_string())
        .map(|entry| (entry["mac"].as_str().unwrap().to_owned(), entry["dst"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [
        ("02:42:0a:ff:00:04", "192.168.50.12"),
        ("02:42:0a:ff:00:05", "192.168.50.13"),
        ("02:42:0a:ff:00:22", "192.168.50.12"),
        ("02:42:0a:ff:00:23", "192.168.50.13"),
    ]
    .map(|(mac, node)| (mac.to_owned(), node.to_owned()));
    assert_eq!(remote, expected.into());
    let neighbours = overlay.json("ip -j neigh show dev vxlan0");
    let of = |ip: &str| neighbours.as_array().unwrap().iter().find(|entry| entry["dst"] == ip).unwrap();
    for (ip, mac) in [
        ("10.255.0.34", "02:42:0a:ff:00:22"),
        ("fd00:255::35", "02:42:0a:ff:00:23"),
        ("fd00:255::4", "02:42:0a:ff:00:04"),
    ] {
        assert_eq!((&of(ip)["lladdr"], &of(ip)["state"][0]), (&mac.into(), &"PERMANENT".into()), "{neighbours}");
    }
}

/// What the overlay loses to the tunnel is taken from the underlay's MTU, and large bodies pass.
fn on(underlay: Underlay, mtu: u32) {
    let Some(nodes) = Nodes::new(2, underlay) else { return };
    let _backends = nodes.kafka(&[Tcp, Udp]);
    let _daemons = nodes.start(kafka(&nodes));
    for node in &nodes.all {
        assert_eq!(node.sandbox().json("ip -j link show dev eth0")[0]["mtu"], mtu, "{underlay:?}");
    }
    check(&nodes, Tcp);
    check(&nodes, Udp);
    bodies(&nodes);
}

#[test]
fn an_underlay_of_1450_bytes() {
    on(Underlay { mtu: 1450, v6: false }, 1400);
}

#[test]
fn an_underlay_of_9000_bytes_and_ipv6() {
    on(Underlay { mtu: 9000, v6: true }, 8930);
}

#[test]
fn an_underlay_of_ipv6() {
    on(Underlay { mtu: 1500, v6: true }, 1430);
}

#[test]
fn a_peer_that_was_killed_cut_off_or_moved_is_reached_again() {
    let Some(nodes) = Nodes::new(2, Underlay::default()) else { return };
    let _backends = nodes.kafka(&[Tcp, Udp]);
    let mut daemons = nodes.start(kafka(&nodes));
    let [first, second] = [&nodes.all[0], &nodes.all[1]];
    let reached =
        |when: &str| eventually(when, || (0..2).all(|_| nodes.client.try_ask(Tcp, "192.168.50.1:20229").is_ok()));

    // Without its daemon a node serves, and is served.
    daemons.remove(1).kill9();
    check(&nodes, Tcp);
    // Nothing of it is forgotten while it is away: there is nothing that could be.
    let known = first.overlay().run("bridge fdb show dev vxlan0");
    nodes.link(second, false);
    let get = "curl -sS -m 2 http://192.168.50.1:20229/";
    let lost = (0..2).filter(|_| !nodes.client.try_run(get).status.success()).count();
    assert_eq!(lost, 1, "each backend is asked once");
    nodes.link(second, true);
    reached("after the cut");
    assert_eq!(first.overlay().run("bridge fdb show dev vxlan0"), known);
    let mut second_daemon = second.spawn();
    second_daemon.wait_until_ready();
    check(&nodes, Tcp);

    // With another address: a reload on both, and none of the others is touched.
    batch(Some(second), "addr add 192.168.50.99/24 dev lan0\n");
    let moved = |config: Config| config.replacing("192.168.50.12", "192.168.50.99");
    second_daemon.reload(&moved(kafka(&nodes)(nodes.config(second))));
    let before = daemons[0].log().len();
    daemons[0].reload(&moved(kafka(&nodes)(nodes.config(first))));
    check(&nodes, Tcp);
    let log = daemons[0].log()[before..].to_owned();
    assert!(log.contains("forward 02:42:0a:ff:00:22 to node 192.168.50.99") && !log.contains("backend"), "{log}");
}

#[test]
fn entries_that_others_delete_or_add_are_mended() {
    let Some(nodes) = Nodes::new(2, Underlay::default()) else { return };
    let _backends = nodes.kafka(&[Tcp, Udp]);
    let _daemons = nodes.start(kafka(&nodes));
    let overlay = nodes.all[0].overlay();
    let known = || {
        let text = overlay.run("bridge fdb show dev vxlan0") + &overlay.run("ip neigh show dev vxlan0 nud permanent");
        let mut lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
        lines.sort();
        lines
    };
    let before = known();
    overlay.run("bridge fdb del 02:42:0a:ff:00:22 dev vxlan0 dst 192.168.50.12");
    overlay.run("bridge fdb replace 02:42:0a:ff:00:04 dev vxlan0 dst 192.168.50.77 self permanent");
    overlay.run("bridge fdb add 02:42:0a:ff:00:99 dev vxlan0 dst 192.168.50.12");
    overlay.run("ip neigh del 10.255.0.34 dev vxlan0");
    overlay.run("ip neigh replace 10.255.0.4 lladdr 02:42:0a:ff:00:99 dev vxlan0 nud permanent");
    overlay.run("ip neigh add 10.255.0.99 lladdr 02:42:0a:ff:00:99 dev vxlan0 nud permanent");
    eventually("all is as it was", || known() == before);
    check(&nodes, Tcp);
    let metrics = nodes.all[0].metrics();
    assert!(value_of(&metrics, "meshd_drift_repaired_total{kind=\"forwarding\"}") >= 3.0, "{metrics}");
    assert!(value_of(&metrics, "meshd_drift_repaired_total{kind=\"neighbour\"}") >= 3.0, "{metrics}");
}

#[test]
fn eight_nodes() {
    let Some(nodes) = Nodes::new(8, Underlay::default()) else { return };
    let names: Vec<String> = nodes.all.iter().map(|node| format!("kafka-{}", node.number)).collect();
    let _backends: Vec<Backend> = names.iter().map(|name| nodes.backend(name).tcp(9092).udp(9092)).collect();
    let _daemons = nodes.start(kafka(&nodes));
    check(&nodes, Tcp);
    check(&nodes, Udp);
}

/// A frame to the sandbox, as the VXLAN network with that identifier carries it (RFC 7348).
pub fn encapsulated(vni: u32) -> Vec<u8> {
    let mut packet = vec![0x08, 0, 0, 0];
    packet.extend((vni << 8).to_be_bytes());
    // To node-1's ingress endpoint, from nobody, of a type that nobody understands.
    packet.extend([0x02, 0x42, 0x0a, 0xff, 0, 3, 0x02, 0x42, 0x0a, 0xff, 0, 0x77, 0x88, 0xb5]);
    packet.resize(128, 0);
    packet
}

#[test]
fn what_is_encapsulated_is_heard_from_peers_only() {
    for v6 in [false, true] {
        let Some(nodes) = Nodes::new(2, Underlay { v6, ..Underlay::default() }) else { return };
        let _backends = nodes.kafka(&[Tcp, Udp]);
        let _daemons = nodes.start(kafka(&nodes));
        let first = &nodes.all[0];
        let heard = || first.overlay().json("ip -j -s link show dev vxlan0")[0]["stats64"]["rx"]["packets"].as_u64();
        let dropped = || value_of(&first.metrics(), "meshd_tunnel_strangers_dropped_total");
        let tunnel = if v6 { "[fd50::1]:4789" } else { "192.168.50.1:4789" };
        let (before, none) = (heard(), dropped());
        assert_eq!(none, 0.0);

        let stranger = nodes.client.datagrams(0, tunnel);
        (0..5).for_each(|_| stranger.send(encapsulated(4077)));
        // Another's network on the same port is not ours to drop.
        (0..3).for_each(|_| stranger.send(encapsulated(4096)));
        eventually("five were dropped", || dropped() == 5.0);
        assert_eq!(heard(), before);
        // A peer's come through.
        nodes.all[1].datagrams(0, tunnel).send(encapsulated(4077));
        eventually("a peer's is heard", || heard() > before);
        assert_eq!(dropped(), 5.0);
        check(&nodes, Tcp);
    }
}

/// The wire, as tcpdump(8) shows it: nothing but our VXLAN network, and in it nothing that is flooded or asked.
#[test]
fn between_the_nodes_there_is_nothing_but_clients_and_answers() {
    let Some(nodes) = Nodes::new(2, Underlay::default()) else { return };
    let _backends = nodes.kafka(&[Tcp, Udp]);
    let _daemons = nodes.start(kafka(&nodes));
    let file = nodes.file("wire", 0);
    let mut tcpdump = nodes.lan.tcpdump("node-2", "udp port 4789", &file);
    check(&nodes, Tcp);
    check(&nodes, Udp);
    let wire = tcpdump.finish();
    let inside: Vec<&str> = wire.lines().filter(|line| line.starts_with("IP") || line.starts_with("ARP")).collect();
    assert!(wire.contains("VXLAN, flags [I] (0x08), vni 4077"), "{wire}");
    let known = |line: &&str| line.contains("VXLAN") || line.contains(" 10.255.0.") || line.contains(" fd00:255::");
    let strange: Vec<&&str> = inside.iter().filter(|line| !known(line)).collect();
    assert!(strange.is_empty(), "{strange:#?}");
    assert!(!wire.contains("ARP") && !wire.contains("neighbor solicitation"), "{wire}");
    assert!(wire.contains("10.255.0.34.9092"), "{wire}");
}

/// node-2 is behind a router whose link to it is narrow.
#[test]
fn a_path_that_is_too_narrow_is_an_error_that_names_the_value() {
    let Some(nodes) = Nodes::new(1, Underlay::default()) else { return };
    let far = nodes.backend("far");
    let (lan, name) = (&nodes.lan.name, &far.name);
    batch(None, &format!("link add narrow mtu 1400 netns {lan} type veth peer name eth0 mtu 1400 netns {name}\n"));
    batch(
        Some(&nodes.lan),
        "addr add 192.168.50.254/24 dev br0\naddr add fd50::254/64 dev br0 nodad\nlink set narrow up\n\
         addr add 192.168.70.1/24 dev narrow\naddr add fd70::1/64 dev narrow nodad\n",
    );
    nodes.lan.run("sysctl -q net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    batch(
        Some(&far),
        "link set eth0 up\naddr add 192.168.70.2/24 dev eth0\naddr add fd70::2/64 dev eth0 nodad\n\
         route add default via 192.168.70.1\nroute add ::/0 via fd70::1\n",
    );
    batch(Some(&nodes.node), "route add 192.168.70.0/24 via 192.168.50.254\nroute add fd70::/64 via fd50::254\n");
    let peer = |address: &str| format!("name = 'node-2'\naddress = '{address}'\ningress = '10.255.0.4'");
    let config = nodes.config(&nodes.all[0]);
    for (own, other, bytes, value) in [("192.168.50.1", "192.168.70.2", 1500, 1350), ("fd50::1", "fd70::2", 1500, 1330)]
    {
        let config = config.clone().replacing("192.168.50.1'", &format!("{own}'")).peer(&peer(other));
        nodes.write(&nodes.all[0], &config);
        let output = nodes.meshd(&[]);
        let said = String::from_utf8_lossy(&output.stderr);
        let expected = format!(
            "the path to node-2 ({other}) carries packets of 1400 bytes, and the tunnel's have up to {bytes}: set [ingress] \
             mtu = {value} on all nodes"
        );
        assert!(output.status.code() == Some(1) && said.contains(&expected), "{said}");
        assert!(!nodes.sandbox().exists(), "nothing was changed");
        // Taken at its word, it starts.
        nodes.write(&nodes.all[0], &config.set("ingress", "mtu", &value.to_string()));
        let mut daemon = nodes.all[0].spawn();
        daemon.wait_until_ready();
        assert!(daemon.stop().success());
        assert!(nodes.meshd(&["--cleanup"]).status.success());
    }
}

/// 64 peers and 1,000 backends on them, none of which is there: nothing waits for any.
#[test]
fn sixty_four_peers_and_a_thousand_backends() {
    let Some(nodes) = Nodes::new(1, Underlay::default()) else { return };
    let mut config = nodes.config(&nodes.all[0]);
    for number in 0..64 {
        let names = format!("name = 'far-{number}'\naddress = '192.168.50.{}'", 100 + number);
        config = config.peer(&format!("{names}\ningress = '10.255.100.{}'", 1 + number));
    }
    let backend = |number: usize| {
        let (address, node) = (format!("10.255.{}.{}", 110 + number / 200, 1 + number % 200), number % 64);
        format!("{{ address = '{address}', node = 'far-{node}' }}")
    };
    let service = |backends: std::ops::Range<usize>| {
        let backends: Vec<String> = backends.map(backend).collect();
        format!("name = 'far'\nport = [{{ published = 20229 }}]\nbackend = [{}]", backends.join(", "))
    };
    nodes.write(&nodes.all[0], &config.clone().service(&service(0..1000)));
    let mut daemon = nodes.all[0].spawn();
    daemon.wait_until_ready();
    let overlay = nodes.overlay();
    let count = || {
        let entries = overlay.json("bridge -j fdb show dev vxlan0");
        let remote = entries.as_array().unwrap().iter().filter(|entry| entry["dst"].is_string()).count();
        let neighbours = overlay.json("ip -j neigh show dev vxlan0 nud permanent").as_array().unwrap().len();
        (remote, neighbours)
    };
    assert_eq!(count(), (1064, 1064));
    let before = daemon.log().len();
    daemon.reload(&config.clone().service(&service(0..999)));
    let log = daemon.log()[before..].to_owned();
    assert_eq!(log.matches("delete neighbour").count(), 1, "{log}");
    assert_eq!(count(), (1063, 1063));
    daemon.reload(&nodes.config(&nodes.all[0]));
    assert_eq!(count(), (0, 0));
}

/// A backend that says nothing by itself comes here from another node: what was learned of it there is forgotten.
#[test]
fn a_backend_that_moves_is_found_at_once() {
    let Some(nodes) = Nodes::new(2, Underlay::default()) else { return };
    let backend = nodes.backend("roaming");
    // So that the kernel does not speak for it either.
    backend.run("sysctl -q net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    let backend = backend.tcp(9092);
    let on = |number: usize| {
        move |config: Config| {
            let place = format!("node = 'node-{number}', netns = \"roaming\"");
            config.service(&format!(
                "name = 'roaming'\nport = [{{ published = 20229, target = 9092 }}]\n\
                 backend = [{{ address = '10.255.0.33', {place} }}]"
            ))
        }
    };
    let mut daemons = nodes.start(on(2));
    let everywhere =
        || nodes.all.iter().for_each(|node| drop(nodes.client.ask(Tcp, &format!("{}:20229", node.address()))));
    for number in [1, 2, 1] {
        everywhere();
        // The one that gives it away comes first: it has one leg.
        let order = if number == 1 { [1, 0] } else { [0, 1] };
        for index in order {
            daemons[index].reload(&on(number)(nodes.config(&nodes.all[index])));
        }
        let began = std::time::Instant::now();
        everywhere();
        assert!(began.elapsed() < SECOND * 5, "{:?}", began.elapsed());
    }
    drop(backend);
}
