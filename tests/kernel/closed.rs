//! Ports of a family that nobody serves are closed, and that is said at once.

use crate::lab::{BACKENDS4, Lab, Tcp, Udp};

const PORTS: &str = r#"
    name = "kafka"
    port = [{ published = 20229, target = 9092 }, { published = 20229, target = 9092, protocol = "udp" }]"#;

fn only_v4_is_open(lab: &Lab) {
    for protocol in [Tcp, Udp] {
        lab.client.ask(protocol, "192.168.50.1:20229");
        for from in [&lab.client, &lab.node] {
            from.is_refused(protocol, "[fd50::1]:20229");
        }
        lab.node.is_refused(protocol, "[::1]:20229");
    }
}

#[test]
fn ipv6_is_closed_where_the_mesh_has_none() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp, Udp]);
    let before = lab.node.run("sysctl -n net.ipv6.conf.all.forwarding");
    let _meshd = lab.start(&lab.config().without_ipv6().service(&format!("{PORTS}{BACKENDS4}")));
    only_v4_is_open(&lab);
    // Nothing of IPv6 is touched.
    assert_eq!(lab.node.run("sysctl -n net.ipv6.conf.all.forwarding"), before);
    assert!(!lab.node.run("ip -6 addr show dev mesh_sbox").contains("fd6d:"));
}

#[test]
fn a_port_with_ipv4_backends_only_is_closed_to_ipv6() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp, Udp]);
    let _meshd = lab.start(&lab.config().service(&format!("{PORTS}{BACKENDS4}")));
    only_v4_is_open(&lab);
}

#[test]
fn a_port_with_ipv6_backends_only_is_closed_to_ipv4() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp, Udp]);
    let backends = r#"backend = [{ address = "fd00:255::33", netns = "kafka-1" }]"#;
    let _meshd = lab.start(&lab.config().service(&format!("{PORTS}\n{backends}")));
    for protocol in [Tcp, Udp] {
        lab.client.ask(protocol, "[fd50::1]:20229");
        for (from, to) in [(&lab.client, "192.168.50.1"), (&lab.node, "192.168.50.1"), (&lab.node, "127.0.0.1")] {
            from.is_refused(protocol, &format!("{to}:20229"));
        }
    }
}

/// Addresses of IPv6 cannot even be added there.
#[test]
fn a_host_without_ipv6_serves_ipv4() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp, Udp]);
    lab.node.run("sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    let meshd = lab.start(&lab.config().without_ipv6().service(&format!("{PORTS}{BACKENDS4}")));
    for protocol in [Tcp, Udp] {
        lab.client.ask(protocol, "192.168.50.1:20229");
        lab.node.ask(protocol, "127.0.0.1:20229");
    }
    assert!(!meshd.log().contains("ERROR"));
}
