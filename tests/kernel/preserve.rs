//! `client_address = "preserve"` and `mode = "host"`: backends see who the client is, and answers find their way.

use std::time::{Duration, Instant};

use crate::lab::{
    Backend, Config, Nodes, Place, Protocol, SECOND, Tcp, Udp, Underlay, assert_same, batch, eventually, tally,
};

/// kafka-1 on node-1 and so on, published on TCP and UDP; and a port where nobody listens.
fn service(keys: &str, nodes: usize) -> String {
    let backend = |number: usize| {
        let one = |address: String| {
            format!("{{ address = \"{address}\", node = \"node-{number}\", netns = \"kafka-{number}\" }}")
        };
        [one(format!("10.255.0.{}", 32 + number)), one(format!("fd00:255::{}", 32 + number))].join(", ")
    };
    let backends: Vec<String> = (1..=nodes).map(backend).collect();
    format!(
        "name = 'kafka'\n{keys}\nport = [\n{{ published = 20229, target = 9092 }},\n\
         {{ published = 20229, target = 9092, protocol = 'udp' }},\n{{ published = 20230, target = 9999 }}]\n\
         backend = [{}]",
        backends.join(", ")
    )
}

fn with(keys: &str, nodes: usize) -> impl Fn(Config) -> Config + use<> {
    let service = service(keys, nodes);
    move |config| config.service(&service)
}

/// What a place's backends must not notice: rules, tables and parameters of others.
fn surroundings(place: &Place) -> String {
    let sysctls = "sysctl net.ipv4.tcp_fwmark_accept net.ipv4.fwmark_reflect net.ipv6.fwmark_reflect";
    ["ip rule", "ip -6 rule", "nft list ruleset", sysctls].map(|line| place.run(line)).concat()
}

fn sees(from: &Place, protocol: Protocol, to: &str, times: usize, client: &str) {
    let answers = from.ask_times(times, protocol, to);
    assert_eq!(tally(&answers).len(), times, "{protocol} {to}: {answers:?}");
    assert!(answers.iter().all(|answer| answer.peer.ip().to_string() == client), "{protocol} {to}: {answers:?}");
}

#[test]
fn smoke_backends_on_three_nodes_see_the_client() {
    let Some(nodes) = Nodes::new(3, Underlay::default()) else { return };
    let backends = nodes.kafka(&[Tcp, Udp]);
    // One with a strict filter, and one with a way of its own to everywhere: neither is in the way.
    backends[0].run("sysctl -q net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1");
    batch(
        Some(&backends[1]),
        "link add own0 type veth peer name own1\nlink set own1 up\nlink set own0 up\n\
         addr add 172.30.0.2/24 dev own0\naddr add fd30::2/64 dev own0 nodad\n\
         route add default via 172.30.0.1\nroute add ::/0 via fd30::1\n",
    );
    let before: Vec<String> = backends.iter().map(|backend| surroundings(backend)).collect();
    let mut daemons = nodes.start(with("client_address = 'preserve'", 3));
    for node in &nodes.all {
        let (v4, v6) = (format!("{}:20229", node.address()), format!("[{}]:20229", node.address6()));
        for protocol in [Tcp, Udp] {
            sees(&nodes.client, protocol, &v4, 3, "192.168.50.2");
            sees(&nodes.client, protocol, &v6, 3, "fd50::2");
            // The node is a client like any other; what is good on it alone is seen as its bridge.
            sees(node, protocol, &v4, 3, &node.address());
            sees(node, protocol, &v6, 3, &node.address6());
            sees(node, protocol, "127.0.0.1:20229", 3, "169.254.77.1");
        }
        // The kernel's own answers find the way back, too.
        nodes.client.is_refused(Tcp, &format!("{}:20230", node.address()));
        nodes.client.is_refused(Tcp, &format!("[{}]:20230", node.address6()));
    }
    // One node is another's client.
    sees(&nodes.all[1], Tcp, "192.168.50.1:20229", 3, "192.168.50.12");
    nodes.bodies("192.168.50.12", 3);
    nodes.bodies("[fd50::13]", 3);

    // What is damaged is mended.
    let given = surroundings(&backends[0]);
    assert_ne!(given, before[0]);
    backends[0].run("nft delete table inet meshd_return");
    backends[0].run("sysctl -q net.ipv4.tcp_fwmark_accept=0");
    batch(Some(&backends[0]), "rule flush protocol 109\n");
    let deadline = Instant::now() + Duration::from_secs(60);
    while surroundings(&backends[0]) != given && Instant::now() < deadline {
        std::thread::sleep(SECOND);
    }
    assert_same(&given, &surroundings(&backends[0]), "after the damage");
    sees(&nodes.client, Tcp, "192.168.50.12:20229", 3, "192.168.50.2");

    // And taken back when it is no longer wanted.
    for (node, daemon) in nodes.all.iter().zip(&mut daemons) {
        daemon.reload(&with("", 3)(nodes.config(node)));
    }
    sees(&nodes.client, Tcp, "192.168.50.1:20229", 3, "10.255.0.3");
    for (backend, before) in backends.iter().zip(&before) {
        assert_eq!(surroundings(backend), *before);
    }
}

/// `--cleanup` leaves nothing in backends' namespaces, whose names it finds in no configuration.
#[test]
fn nothing_is_left_in_a_backends_namespace() {
    let Some(nodes) = Nodes::new(1, Underlay::default()) else { return };
    let backend = nodes.backend("kafka-1").tcp(9092).udp(9092);
    let before = surroundings(&backend);
    let daemon = nodes.start(with("client_address = 'preserve'", 1)).remove(0);
    sees(&nodes.client, Udp, "192.168.50.1:20229", 1, "192.168.50.2");
    daemon.kill9();
    nodes.write(&nodes.all[0], &nodes.config(&nodes.all[0]));
    assert!(nodes.meshd(&["--cleanup"]).status.success());
    assert_eq!(surroundings(&backend), before);
}

/// A namespace that is gone was given nothing any more, and the next one of its name not yet.
#[test]
fn the_next_namespace_of_a_name_is_another() {
    let Some(nodes) = Nodes::new(1, Underlay::default()) else { return };
    let backend = nodes.backend("kafka-1").tcp(9092);
    let mut daemon = nodes.start(with("client_address = 'preserve'", 1)).remove(0);
    sees(&nodes.client, Tcp, "192.168.50.1:20229", 1, "192.168.50.2");
    let name = backend.name.clone();
    drop(backend);
    batch(None, &format!("netns del {name}\nnetns add {name}\n"));
    let place = Place::new(name);
    place.run("sysctl -q net.ipv4.tcp_fwmark_accept=1");
    let given = || place.run("nft list tables").contains("meshd_return");
    eventually("the new one is given what the old one had", given);
    daemon.reload(&nodes.config(&nodes.all[0]));
    assert!(!given());
    assert_eq!(place.run("sysctl -n net.ipv4.tcp_fwmark_accept").trim(), "1", "it was so before");
    assert_eq!(place.run("sysctl -n net.ipv4.fwmark_reflect").trim(), "0");
}

#[test]
fn in_host_mode_a_port_is_open_where_a_backend_runs() {
    let Some(nodes) = Nodes::new(2, Underlay::default()) else { return };
    let [_first, _second] = ["kafka-1", "kafka-2"].map(|name| -> Backend { nodes.backend(name).tcp(9092).udp(9092) });
    // On node-1 only; node-2 has the backend of another service.
    let _daemons = nodes.start(with("mode = 'host'", 1));
    for protocol in [Tcp, Udp] {
        sees(&nodes.client, protocol, "192.168.50.1:20229", 1, "192.168.50.2");
        sees(&nodes.client, protocol, "[fd50::1]:20229", 1, "fd50::2");
        nodes.client.is_refused(protocol, "192.168.50.12:20229");
        nodes.client.is_refused(protocol, "[fd50::12]:20229");
    }
}
