//! The ways in: each protocol, each family, from outside, from the node, and from the node's loopback.

use crate::lab::{BACKENDS, Config, Lab, NODE4, NODE6, Protocol, Sctp, Tcp, Udp, tally};

fn kafka(lab: &Lab, protocols: &[Protocol]) -> Config {
    let port = |protocol| format!("{{ published = 20229, target = 9092, protocol = '{protocol}' }}");
    let ports: Vec<String> = protocols.iter().map(port).collect();
    lab.config().service(&format!("name = 'kafka'\nport = [{}]{BACKENDS}", ports.join(", ")))
}

/// Three questions by each way, so that each backend answers once, and the ingress address is whom it sees.
fn check(lab: &Lab, protocol: Protocol) {
    let (v4, v6) = (format!("{NODE4}:20229"), format!("[{NODE6}]:20229"));
    let loopback = "127.0.0.1:20229".to_owned();
    let (outside, node) = (&lab.client, &lab.node);
    let ways = [(outside, &v4), (outside, &v6), (node, &v4), (node, &v6), (node, &loopback)];
    for (from, to) in ways {
        let answers = from.ask_times(3, protocol, to);
        assert_eq!(tally(&answers).len(), 3, "{protocol} {to} from {}: {answers:?}", from.name);
        let ingress = if to.starts_with('[') { "fd00:255::3" } else { "10.255.0.3" };
        assert!(answers.iter().all(|answer| answer.peer.ip().to_string() == ingress), "{answers:?}");
    }
}

#[test]
fn smoke_tcp_and_udp() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp, Udp]);
    let _meshd = lab.start(&kafka(&lab, &[Tcp, Udp]));
    check(&lab, Tcp);
    check(&lab, Udp);
    // IPv6 has no route_localnet: the port is closed there, and that is said at once.
    lab.node.is_refused(Tcp, "[::1]:20229");
    lab.node.is_refused(Udp, "[::1]:20229");
}

#[test]
fn sctp() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Sctp]);
    let _meshd = lab.start(&kafka(&lab, &[Sctp]));
    check(&lab, Sctp);
    // The same number is another port in another protocol.
    lab.client.is_refused(Tcp, "192.168.50.1:20229");
}
