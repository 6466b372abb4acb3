//! Which packet reaches whom: a mesh means what its objects do.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use meshd::dataplane;
use meshd::mesh::{Backend, BackendState, Bind, ClientAddress, Dataplane, Mesh, Mode, Port, Scheduler};
use meshd::objects::{Family, Network, Objects, Protocol, Surroundings};
use proptest::prelude::*;

use super::build::{attached, backend, node, port, preserving, serving, tcp, udp, with_v6};
use super::meshes::{PORTS, mesh, surroundings};
use super::tracer::{Arrival, NODE, Origin, Packet, Story, Tracer, UPLINK, packet, trace};

fn lowered(mesh: &Mesh) -> Objects {
    dataplane::objects(mesh, &Surroundings::default())
}

#[track_caller]
fn check(mesh: &Mesh, origin: Origin, destination: &str, protocol: Protocol, port: u16, expected: &str) {
    let story = trace(&lowered(mesh), packet(origin, destination, protocol, port)).to_string();
    assert_eq!(story, expected, "{destination} {protocol} {port} from {origin:?}");
}

/// DESIGN.md's example, and one service that is both routed and attached, in both families.
fn example() -> Mesh {
    let kafka = [port(tcp(20229, 20229), 9092, [attached("10.255.0.33", "kafka-1")])];
    let dns = [
        port(
            udp(53, 53),
            5353,
            [
                backend("10.255.1.1"),
                backend("192.0.2.10"),
                attached("fd00:255::34", "dns-1"),
                backend("2001:db8:2::10"),
            ],
        ),
        port(tcp(30000, 30099), None, [backend("10.255.1.1")]),
    ];
    serving(serving(with_v6(node()), "kafka", kafka), "dns", dns)
}

#[test]
fn a_client_reaches_the_backend_with_the_ingress_address_as_source() {
    check(
        &example(),
        Origin::Outside,
        NODE[0],
        Protocol::Tcp,
        20229,
        "reaches 10.255.0.33:9092 with source 10.255.0.3",
    );
}

#[test]
fn so_does_the_node_itself_at_all_its_addresses() {
    for address in [NODE[0], "127.0.0.1", "127.1.2.3", "169.254.77.1"] {
        check(
            &example(),
            Origin::Node,
            address,
            Protocol::Tcp,
            20229,
            "reaches 10.255.0.33:9092 with source 10.255.0.3",
        );
    }
}

#[test]
fn a_routed_backend_sees_the_node() {
    let expected = "reaches 10.255.1.1:5353 with source 10.255.0.3 or 192.0.2.10:5353 with source 192.168.50.1";
    check(&example(), Origin::Outside, NODE[0], Protocol::Udp, 53, expected);
    let expected =
        "reaches [2001:db8:2::10]:5353 with source 2001:db8:50::1 or [fd00:255::34]:5353 with source fd00:255::3";
    check(&example(), Origin::Outside, NODE[1], Protocol::Udp, 53, expected);
}

#[test]
fn a_range_keeps_the_port() {
    for number in [30000, 30050, 30099] {
        let expected = format!("reaches 10.255.1.1:{number} with source 10.255.0.3");
        check(&example(), Origin::Outside, NODE[0], Protocol::Tcp, number, &expected);
    }
}

#[test]
fn where_its_address_is_preserved_the_backend_sees_the_client_itself() {
    let backends = [attached("10.255.0.33", "kafka-1"), attached("fd00:255::33", "kafka-1")];
    let ports = [tcp(80, 80), udp(80, 80)].map(|published| preserving(port(published, 8080, backends.clone())));
    let mesh = serving(with_v6(node()), "web", ports);
    for (origin, destination, source) in [
        (Origin::Outside, NODE[0], "198.51.100.7"),
        (Origin::Node, NODE[0], "192.168.50.1"),
        // What is good on the node alone is not seen by others: the bridge's address stands for it.
        (Origin::Node, "127.0.0.1", "169.254.77.1"),
    ] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let expected = format!("reaches 10.255.0.33:8080 with source {source}");
            check(&mesh, origin, destination, protocol, 80, &expected);
        }
    }
    let expected = "reaches [fd00:255::33]:8080 with source 2001:db8:51::7";
    check(&mesh, Origin::Outside, NODE[1], Protocol::Tcp, 80, expected);
}

#[test]
fn in_host_mode_only_what_is_on_the_node_answers() {
    let there = Backend { node: Some("node-2".to_owned()), ..attached("10.255.0.34", "kafka-2") };
    let host = |backends: &[Backend]| Port { mode: Mode::Host, ..preserving(port(tcp(80, 80), 8080, backends)) };
    let mesh = serving(node(), "web", [host(&[attached("10.255.0.33", "kafka-1"), there.clone()])]);
    let expected = "reaches 10.255.0.33:8080 with source 198.51.100.7";
    check(&mesh, Origin::Outside, NODE[0], Protocol::Tcp, 80, expected);
    let mesh = serving(node(), "web", [host(&[there])]);
    check(&mesh, Origin::Outside, NODE[0], Protocol::Tcp, 80, "is left alone, with source 198.51.100.7");
}

#[test]
fn what_is_not_published_is_left_alone() {
    let alone = "is left alone, with source 198.51.100.7";
    check(&example(), Origin::Outside, NODE[0], Protocol::Udp, 20229, alone);
    check(&example(), Origin::Outside, NODE[0], Protocol::Tcp, 29999, alone);
    check(&example(), Origin::Outside, NODE[0], Protocol::Tcp, 30100, alone);
    check(&example(), Origin::Outside, NODE[1], Protocol::Tcp, 20229, "is left alone, with source 2001:db8:51::7");
    // Somebody else's address: the node is but a router.
    check(&example(), Origin::Outside, "203.0.113.9", Protocol::Tcp, 20229, alone);
    check(&example(), Origin::Node, "203.0.113.9", Protocol::Tcp, 20229, "is left alone, with source 192.168.50.1");
}

#[test]
fn ipv6_loopback_is_left_alone() {
    check(&example(), Origin::Node, "::1", Protocol::Udp, 53, "is left alone, with source ::1");
}

#[test]
fn what_comes_from_the_sandbox_is_not_led_back_and_leaves_with_the_nodes_address() {
    check(&example(), Origin::Sandbox, NODE[0], Protocol::Tcp, 20229, "is left alone, with source 169.254.77.2");
    check(&example(), Origin::Sandbox, "203.0.113.9", Protocol::Tcp, 443, "is left alone, with source 192.168.50.1");
    check(
        &example(),
        Origin::Sandbox,
        "2001:db8:9::9",
        Protocol::Tcp,
        443,
        "is left alone, with source 2001:db8:50::1",
    );
}

#[test]
fn a_backend_on_the_node_whose_own_port_is_published_is_not_led_in_a_circle() {
    let mesh = serving(node(), "here", [port(tcp(80, 80), 80, [backend(NODE[0])])]);
    check(&mesh, Origin::Outside, NODE[0], Protocol::Tcp, 80, "reaches 192.168.50.1:80 with source 169.254.77.2");
}

#[test]
fn an_answer_to_a_client_whose_port_is_published_gets_no_mark() {
    let objects = lowered(&example());
    let tracer = Tracer { objects: &objects, drops: &BTreeSet::new() };
    for (protocol, number) in [(Protocol::Tcp, 20229), (Protocol::Udp, 53), (Protocol::Tcp, 30050)] {
        assert_eq!(tracer.mark_of_answer(protocol, number), None);
    }
}

/// What a port's own rules make of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Open,
    /// The port is not published where the client asks.
    Closed,
    Dropped,
}

pub fn admission(port: &Port, packet: &Packet) -> Admission {
    let Packet { origin, source, destination, .. } = *packet;
    let among = |networks: &BTreeSet<Network>| networks.iter().any(|network| network.0.contains(source));
    let access = &port.access;
    let outside = origin == Origin::Outside;
    if outside && (among(&access.deny) || access.allow.as_ref().is_some_and(|allow| !among(allow))) {
        return Admission::Dropped;
    }
    let here = |bind: &Bind| match bind {
        Bind::Address(address) => *address == destination,
        Bind::Link(name) => outside && name == UPLINK,
    };
    if access.bind.is_empty() || access.bind.iter().any(here) { Admission::Open } else { Admission::Closed }
}

/// Who is to answer at a published port, and whom the backends are to see.
fn expected(mesh: &Mesh, port: &Port, number: u16, client: IpAddr) -> Vec<Arrival> {
    let family = Family::of(&client);
    let ingress: Option<(ipnetwork::IpNetwork, IpAddr)> = match family {
        Family::V4 => mesh.ingress.v4.map(|v4| (v4.subnet.into(), v4.address.into())),
        Family::V6 => mesh.ingress.v6.map(|v6| (v6.subnet.into(), v6.address.into())),
    };
    let node: IpAddr = NODE[usize::from(family == Family::V6)].parse().unwrap();
    let there = |backend: &&Backend| backend.state != BackendState::Disabled;
    let of_family = |backend: &&Backend| Family::of(&backend.address) == family;
    let here = |backend: &&Backend| port.mode == Mode::Ingress || backend.node.is_none();
    let mut backends: Vec<_> = port.backends.iter().filter(there).filter(here).filter(of_family).collect();
    backends.sort_by_key(|backend| backend.address);
    let arrival = |address: IpAddr, weight| {
        let seen = match port.client_address {
            ClientAddress::Preserve if client.is_loopback() => Some("169.254.77.1".parse().unwrap()),
            ClientAddress::Preserve => Some(client),
            ClientAddress::Snat => None,
        };
        let translated = ingress.filter(|(subnet, _)| subnet.contains(address)).map_or(node, |(_, source)| source);
        let source = seen.unwrap_or(translated);
        Arrival { at: SocketAddr::new(address, port.target.unwrap_or(number)), source, weight }
    };
    let weight = |backend: &Backend| if backend.state == BackendState::Drain { 0 } else { backend.weight };
    backends.into_iter().map(|backend| arrival(backend.address, weight(backend))).collect()
}

fn takes_new(mesh: &Mesh, port: &Port) -> bool {
    mesh.serving_from_here(port).any(|backend| backend.programmed_weight() > Some(0))
}

/// Where a client can come from to a published port; `::1` is not among them.
const WAYS: [(Origin, &str); 6] = [
    (Origin::Outside, NODE[0]),
    (Origin::Outside, NODE[1]),
    (Origin::Node, NODE[0]),
    (Origin::Node, NODE[1]),
    (Origin::Node, "127.0.0.1"),
    (Origin::Node, "169.254.77.1"),
];

proptest! {
    #![proptest_config(super::cases(128))]

    #[test]
    fn every_published_port_reaches_exactly_its_own_backends(mut mesh in mesh(), surroundings in surroundings()) {
        mesh.gateway.open_forward = true;
        let objects = dataplane::objects(&mesh, &surroundings);
        let tracer = Tracer { objects: &objects, drops: &surroundings.forward_drops };
        let all: Vec<&Port> = mesh.services.iter().flat_map(|service| &service.ports).collect();
        for (protocol, number) in Protocol::ALL.into_iter().flat_map(|protocol| PORTS.map(move |number| (protocol, number))) {
            let port = all.iter().find(|port| port.published.contains(protocol, number));
            for (origin, destination) in WAYS {
                let packet = packet(origin, destination, protocol, number);
                let backends = port.map(|port| expected(&mesh, port, number, packet.source));
                let admitted = port.map_or(Admission::Open, |port| admission(port, &packet));
                // Where nobody takes new clients of either family the sandbox says no.
                let closed = port.is_some_and(|port| !takes_new(&mesh, port));
                let story = tracer.trace(packet);
                // To dh those of weight 0 would be as good as others: they are not there; nor have they any of nftables' slots.
                let slotted = mesh.dataplane == Dataplane::Nftables;
                let hashes = slotted || port.is_some_and(|port| port.scheduling.scheduler == Scheduler::DestinationHash);
                // How many slots a weight is worth is no question of the way.
                let alike = |story: Story| match story {
                    Story::Reaches(mut arrivals) if slotted => {
                        arrivals.iter_mut().for_each(|arrival| arrival.weight = 1);
                        arrivals.sort_by_key(|arrival| arrival.at);
                        Story::Reaches(arrivals)
                    }
                    story => story,
                };
                let known = backends.as_ref().is_some_and(|some| !some.is_empty());
                let backends: Option<Vec<Arrival>> = backends
                    .map(|some| some.into_iter().filter(|arrival| arrival.weight > 0 || !hashes).collect());
                let closed = closed || backends.as_ref().is_some_and(Vec::is_empty);
                if closed && admitted == Admission::Open && known {
                    prop_assert!(matches!(story, Story::Lost(_)), "{}", story);
                    continue;
                }
                let expected = match backends {
                    _ if admitted == Admission::Dropped => Story::Dropped,
                    _ if admitted == Admission::Closed => Story::Untouched { source: packet.source },
                    Some(backends) if !backends.is_empty() => Story::Reaches(backends),
                    // Unpublished, or no backend speaks that family.
                    _ => Story::Untouched { source: packet.source },
                };
                prop_assert_eq!(alike(story), alike(expected), "{} {} {} from {:?}", destination, protocol, number, origin);
            }
        }
    }

    #[test]
    fn no_mesh_touches_what_comes_from_the_sandbox_or_goes_to_ipv6_loopback(mesh in mesh()) {
        let objects = lowered(&mesh);
        for number in PORTS {
            for (origin, destination) in [(Origin::Sandbox, NODE[0]), (Origin::Sandbox, NODE[1]), (Origin::Node, "::1")] {
                let packet = packet(origin, destination, Protocol::Tcp, number);
                prop_assert_eq!(trace(&objects, packet), Story::Untouched { source: packet.source });
            }
        }
    }

    #[test]
    fn without_leave_a_chain_that_drops_is_respected(mut mesh in mesh(), surroundings in surroundings()) {
        mesh.gateway.open_forward = false;
        prop_assert_eq!(dataplane::objects(&mesh, &surroundings).openings, BTreeSet::new());
    }

    #[test]
    fn of_ipv6_nothing_is_touched_where_nothing_speaks_it(mut mesh in mesh(), surroundings in surroundings()) {
        mesh.ingress.v6 = None;
        for port in mesh.services.iter_mut().flat_map(|service| &mut Arc::make_mut(service).ports) {
            port.backends.retain(|backend| backend.address.is_ipv4());
        }
        let objects = dataplane::objects(&mesh, &surroundings);
        prop_assert!(objects.sysctls.keys().all(|(_, name)| !name.starts_with("net/ipv6/")));
        prop_assert!(objects.addresses.iter().all(|address| address.ip.is_ipv4()));
        prop_assert!(objects.routes.iter().all(|route| route.destination.is_ipv4()));
        prop_assert!(objects.services.keys().all(|key| key.family == Family::V4));
        prop_assert!(objects.openings.iter().all(|chain| chain.family != "ip6"));
    }
}
