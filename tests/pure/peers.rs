//! Other nodes: what is on them is found without asking.

use std::net::IpAddr;
use std::sync::Arc;

use meshd::dataplane;
use meshd::mesh::{Backend, Endpoint4, Mesh, NetnsRef, Peer};
use meshd::objects::{Mac, Netns, Objects, PublicKey, Surroundings};
use meshd::plan::{Step, diff};
use proptest::prelude::*;

use super::build::{attached, backend, node, port, serving, tcp, with_v6};
use super::meshes::{mesh, surroundings};

pub fn peer(number: u8) -> Peer {
    Peer {
        name: format!("node-{number}"),
        address: [192, 168, 50, number].into(),
        key: Some(PublicKey([number; 32])),
        ingress: Some([10, 255, 0, number].into()),
        ingress6: Some(format!("fd00:255::{number}").parse().unwrap()),
    }
}

fn on(node: &str, backend: Backend) -> Backend {
    Backend { node: Some(node.to_owned()), ..backend }
}

fn lower(mesh: &Mesh) -> Objects {
    dataplane::objects(mesh, &Surroundings::default())
}

fn two_nodes() -> Mesh {
    let backends = [
        attached("10.255.0.33", "kafka-1"),
        on("node-2", attached("10.255.0.34", "kafka-2")),
        on("node-2", attached("fd00:255::34", "kafka-2")),
        on("node-2", backend("10.255.0.35")),
    ];
    let mut mesh = serving(with_v6(node()), "kafka", [port(tcp(80, 80), 80, backends)]);
    mesh.peers = vec![peer(2)];
    mesh
}

#[test]
fn what_is_on_a_peer_has_a_neighbour_and_a_forwarding_entry_and_no_leg() {
    let objects = lower(&two_nodes());
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let (peer_mac, second, third) =
        (Mac::of(&ip("10.255.0.2")), Mac::of(&ip("10.255.0.34")), Mac::of(&ip("10.255.0.35")));
    let node = ip("192.168.50.2");
    assert_eq!(objects.forwarding.into_iter().collect::<Vec<_>>(), [(peer_mac, node), (second, node), (third, node)]);
    let neighbours: Vec<(IpAddr, Mac)> = objects.neighbours.into_iter().collect();
    assert_eq!(
        neighbours,
        [
            (ip("10.255.0.2"), peer_mac),
            (ip("10.255.0.34"), second),
            (ip("10.255.0.35"), third),
            (ip("fd00:255::2"), peer_mac),
            // Of one namespace: the MAC of its first address.
            (ip("fd00:255::34"), second),
        ]
    );
    let legs: Vec<_> = objects.legs.into_values().filter_map(|leg| leg.netns).collect();
    assert_eq!(legs, [NetnsRef::Name("kafka-1".to_owned())]);
}

/// The same file on both nodes, but for who one is: each attaches its own, and finds the other's.
#[test]
fn two_nodes_with_the_same_services_complement_one_another() {
    let here = two_nodes();
    let mut there = two_nodes();
    there.node = "node-2".to_owned();
    there.peers = vec![Peer { name: "node-1".to_owned(), address: [192, 168, 50, 1].into(), ..peer(3) }];
    for backend in there
        .services
        .iter_mut()
        .flat_map(|service| &mut Arc::make_mut(service).ports)
        .flat_map(|port| &mut port.backends)
    {
        backend.node = if backend.node.is_some() { None } else { Some("node-1".to_owned()) };
    }
    let (here, there) = (lower(&here), lower(&there));
    for (mac, leg) in &here.legs {
        assert!(there.forwarding.contains_key(mac) && !there.legs.contains_key(mac));
        assert!(leg.addresses.iter().all(|address| there.neighbours.get(&address.ip()) == Some(mac)));
    }
    for (mac, leg) in &there.legs {
        assert!(here.forwarding.contains_key(mac) && !here.legs.contains_key(mac));
        assert!(leg.addresses.iter().all(|address| here.neighbours.get(&address.ip()) == Some(mac)));
    }
}

#[test]
fn a_peer_that_moves_is_one_step_for_each_mac_and_touches_no_service() {
    let (before, mut after) = (two_nodes(), two_nodes());
    after.peers[0].address = [192, 168, 51, 2].into();
    let plan = diff(&lower(&before), &lower(&after));
    let steps: Vec<String> = plan.steps.iter().map(Step::to_string).collect();
    assert_eq!(
        steps,
        [
            "forward 02:42:0a:ff:00:02 to node 192.168.51.2",
            "forward 02:42:0a:ff:00:22 to node 192.168.51.2",
            "forward 02:42:0a:ff:00:23 to node 192.168.51.2",
            "sets in host: peers4 add 192.168.51.2",
            "sets in host: peers4 remove 192.168.50.2",
        ]
    );
}

#[test]
fn the_tunnel_hears_peers_only() {
    let table = &lower(&two_nodes()).tables[&Netns::Host];
    let rules: Vec<String> = table.chains["tunnel"].rules.iter().map(ToString::to_string).collect();
    assert_eq!(
        rules,
        ["ip saddr @peers4 accept", "ip6 saddr @peers6 accept", "udp dport 4789 @th,96,24 0xfed counter drop",]
    );
    let peers: Vec<String> = table.sets["peers4"].elements.iter().map(ToString::to_string).collect();
    assert_eq!(peers, ["192.168.50.2"]);
    assert!(table.sets["peers6"].elements.is_empty());
}

/// 64 peers with 1,000 backends each: what is planned grows with what changes, not with what is there.
#[test]
fn sixty_four_thousand_backends_elsewhere() {
    let address = |peer: u32, number: u32| IpAddr::from((0x0a00_0000 + (peer << 16) + number + 10).to_be_bytes());
    let mut mesh = node();
    mesh.ingress.v4 = Some(Endpoint4 { subnet: "10.0.0.0/8".parse().unwrap(), address: [10, 255, 0, 3].into() });
    mesh.peers = (0..64)
        .map(|number| Peer {
            name: format!("node-{number}x"),
            address: [192, 168, 60, number].into(),
            key: None,
            ingress: Some([10, number, 255, 1].into()),
            ingress6: None,
        })
        .collect();
    for peer in 0..64u32 {
        let backends: Vec<Backend> =
            (0..1000).map(|number| on(&format!("node-{peer}x"), backend(&address(peer, number).to_string()))).collect();
        let published = 10_000 + u16::try_from(peer).unwrap();
        mesh = serving(mesh, &format!("service-{peer}"), [port(tcp(published, published), 80, backends)]);
    }
    let before = lower(&mesh);
    assert_eq!((before.forwarding.len(), before.neighbours.len()), (64 * 1001, 64 * 1001));
    assert!(before.legs.is_empty());
    assert!(diff(&before, &before).is_empty());

    let mut moved = mesh.clone();
    Arc::make_mut(&mut moved.services[7]).ports[0].backends[500].node = Some("node-9x".to_owned());
    let steps: Vec<String> = diff(&before, &lower(&moved)).steps.iter().map(Step::to_string).collect();
    assert_eq!(steps, ["forward 02:42:0a:07:01:fe to node 192.168.60.9"]);
    let mut gone = mesh.clone();
    Arc::make_mut(&mut gone.services[7]).ports[0].backends.remove(500);
    assert_eq!(diff(&before, &lower(&gone)).steps.len(), 3, "a destination, a neighbour, a forwarding entry");
}

proptest! {
    #![proptest_config(super::cases(256))]

    #[test]
    fn every_neighbour_has_its_node(mesh in mesh(), surroundings in surroundings()) {
        let objects = dataplane::objects(&mesh, &surroundings);
        for mac in objects.neighbours.values() {
            prop_assert!(objects.forwarding.contains_key(mac));
            prop_assert!(!objects.legs.contains_key(mac));
        }
        let nodes: Vec<IpAddr> = mesh.peers.iter().map(|peer| peer.address).collect();
        prop_assert!(objects.forwarding.values().all(|node| nodes.contains(node)));
    }
}
