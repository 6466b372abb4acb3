//! What `meshctl check` tries, and what comes of it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use meshd::check::{Pair, checked, pairs};
use meshd::control::protocol::{CheckQuery, Kind, Verdict};
use meshd::mesh::{Access, Backend, BackendState, Bind, Mesh, Mode, Network, Peer, Port};
use meshd::objects::{Connects, Netns, Protocol};

use super::build::{attached, backend, node, port, serving, tcp, udp, with_v6};

const OWN: [&str; 4] = ["127.0.0.1", "192.168.50.1", "::1", "fd50::1"];

fn all() -> CheckQuery {
    CheckQuery { all_nodes: true, service: None }
}

fn peer() -> Peer {
    Peer { name: "node-2".into(), address: "192.168.50.12".parse().unwrap(), key: None, ingress: None, ingress6: None }
}

/// What is tried of that port, beside its backends: `address of node`.
#[track_caller]
fn check(port: Port, expected: &[&str]) {
    let mut mesh = serving(with_v6(node()), "kafka", [port]);
    mesh.peers.push(peer());
    let addresses: BTreeSet<IpAddr> = OWN.map(|address| address.parse().unwrap()).into();
    let tried = pairs(&mesh, &addresses, &all());
    let ports = tried.iter().filter(|pair| pair.from == Netns::Host);
    let told: Vec<String> = ports.map(|pair| format!("{} of {}", pair.to, pair.node)).collect();
    assert_eq!(told, expected);
}

fn kafka() -> Port {
    port(tcp(20229, 20229), 9092, [attached("10.255.0.33", "kafka-1"), attached("fd00:255::33", "kafka-1")])
}

fn access(access: Access) -> Port {
    Port { access, ..kafka() }
}

fn networks(all: &[&str]) -> BTreeSet<Network> {
    all.iter().map(|text| Network(text.parse().unwrap())).collect()
}

#[test]
fn every_address_that_a_client_may_use_is_tried() {
    let everywhere = [
        "127.0.0.1:20229 of node-1",
        "192.168.50.1:20229 of node-1",
        "[fd50::1]:20229 of node-1",
        "192.168.50.12:20229 of node-2",
    ];
    check(kafka(), &everywhere);
    // IPv4 alone, as its backend is.
    check(port(tcp(20229, 20229), 9092, [backend("10.255.0.33")]), &[everywhere[0], everywhere[1], everywhere[3]]);
    // Where nobody takes clients the port is closed.
    let drained = Backend { state: BackendState::Drain, ..backend("10.255.0.33") };
    check(port(tcp(20229, 20229), 9092, [drained]), &[]);
    // A range by its first port.
    check(
        port(udp(30000, 30099), None, [backend("10.255.0.33")]),
        &["127.0.0.1:30000 of node-1", "192.168.50.1:30000 of node-1", "192.168.50.12:30000 of node-2"],
    );
}

#[test]
fn where_a_client_is_not_to_come_none_is_tried() {
    let bound = |bind: Bind| access(Access { bind: [bind].into(), ..Access::default() });
    check(bound(Bind::Address("192.168.50.1".parse().unwrap())), &["192.168.50.1:20229 of node-1"]);
    check(bound(Bind::Link("eth0".into())), &[]);
    // The node itself is let in, and comes to others as any client.
    let own = ["127.0.0.1:20229 of node-1", "192.168.50.1:20229 of node-1", "[fd50::1]:20229 of node-1"];
    check(access(Access { allow: Some(networks(&["10.0.0.0/8"])), ..Access::default() }), &own);
    check(access(Access { deny: networks(&["192.168.0.0/16"]), ..Access::default() }), &own);
    let with_peer = [own[0], own[1], own[2], "192.168.50.12:20229 of node-2"];
    check(access(Access { allow: Some(networks(&["192.168.50.0/24"])), ..Access::default() }), &with_peer);
    check(access(Access { deny: networks(&["10.0.0.0/8"]), ..Access::default() }), &with_peer);
    check(Port { mode: Mode::Host, ..kafka() }, &own);
}

#[test]
fn every_backend_that_may_serve_from_here_is_tried() {
    let elsewhere = Backend { node: Some("node-2".into()), ..backend("10.255.0.34") };
    let disabled = Backend { state: BackendState::Disabled, ..backend("10.255.0.35") };
    let drained = Backend { state: BackendState::Drain, ..backend("10.255.0.36") };
    let backends = [backend("10.255.0.33"), elsewhere, disabled, drained];
    let tried = |mesh: &Mesh| {
        let all = pairs(mesh, &BTreeSet::new(), &CheckQuery::default());
        all.iter().map(|pair| format!("{} of {}", pair.to, pair.node)).collect::<Vec<_>>()
    };
    let mut mesh = serving(node(), "kafka", [port(tcp(20229, 20229), 9092, backends.clone())]);
    mesh.peers.push(peer());
    assert_eq!(
        tried(&mesh),
        ["10.255.0.33:9092 of node-1", "10.255.0.34:9092 of node-2", "10.255.0.36:9092 of node-1"]
    );
    let hosted = Port { mode: Mode::Host, ..port(tcp(30000, 30001), None, backends) };
    let mesh = Mesh { peers: mesh.peers, ..serving(node(), "kafka", [hosted]) };
    assert_eq!(tried(&mesh), ["10.255.0.33:30000 of node-1", "10.255.0.36:30000 of node-1"]);
    let named = |name: &str| CheckQuery { service: Some(name.into()), all_nodes: false };
    assert_eq!(pairs(&mesh, &BTreeSet::new(), &named("kafka")).len(), 2);
    assert!(pairs(&mesh, &BTreeSet::new(), &named("web")).is_empty());
}

#[test]
fn an_outcome_is_a_verdict() {
    let pair = |protocol, from| Pair {
        from,
        protocol,
        to: "10.255.0.33:9092".parse().unwrap(),
        service: "kafka".into(),
        port: tcp(20229, 20229),
        node: "node-1".into(),
    };
    let time = Duration::from_millis(500);
    let outcomes = [Connects::Answered(time), Connects::Refused, Connects::Silent(time), Connects::Unsent("no".into())];
    let verdicts =
        |protocol| outcomes.each_ref().map(|outcome| checked(&pair(protocol, Netns::Sandbox), Some(outcome)).verdict);
    use Verdict::{Broken, Good, Unsure};
    assert_eq!(verdicts(Protocol::Tcp), [Good, Broken, Broken, Broken]);
    assert_eq!(verdicts(Protocol::Udp), [Good, Broken, Unsure, Broken]);
    let sctp = checked(&pair(Protocol::Sctp, Netns::Host), None);
    assert_eq!(
        (sctp.verdict, sctp.kind, &*sctp.result, sctp.milliseconds),
        (Unsure, Kind::Port, "sctp is not tried", None)
    );
    let good = checked(&pair(Protocol::Tcp, Netns::Sandbox), Some(&outcomes[0]));
    assert_eq!((good.kind, good.milliseconds, &*good.port), (Kind::Backend, Some(500.0), "tcp/20229"));
}
