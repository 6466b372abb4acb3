//! The sandbox limits TCP's segments where a backend's leg on the overlay may be larger than the overlay, and only there.

use meshd::dataplane;
use meshd::mesh::{Backend, BackendState, Mesh, Mode, Port};
use meshd::objects::{Base, ChainKind, Family, Hook, Netns, Protocol, Surroundings};
use proptest::prelude::*;

use super::build::{attached, backend, node, port, preserving, serving, tcp, udp, with_v6};
use super::meshes::{mesh, surroundings};

/// The rules, in nft's words; none where there is no chain.
fn rules(mesh: &Mesh, surroundings: &Surroundings) -> Vec<String> {
    let objects = dataplane::objects(mesh, surroundings);
    let chain = objects.tables[&Netns::Sandbox].chains.get("segments");
    let Some(chain) = chain else { return Vec::new() };
    assert_eq!(chain.base, Some(Base { kind: ChainKind::Filter, hook: Hook::Postrouting, priority: -150 }));
    assert!(!chain.rules.is_empty(), "a chain that does nothing costs something");
    chain.rules.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn check(mesh: Mesh, expected: &[&str]) {
    assert_eq!(rules(&mesh, &Surroundings::default()), expected);
}

const V4: &str = "meta nfproto ipv4 tcp flags syn tcp option maxseg size set 1410";
const V6: &str = "meta nfproto ipv6 tcp flags syn tcp option maxseg size set 1390";

fn web(backends: impl Into<Vec<Backend>>) -> Mesh {
    serving(with_v6(node()), "web", [port(tcp(80, 80), 8080, backends)])
}

#[test]
fn each_family_that_has_a_backend_of_someone_elses_has_a_rule() {
    let there = |address| Backend { node: Some("node-2".to_owned()), ..backend(address) };
    check(web([backend("10.255.0.33")]), &[V4]);
    check(web([backend("fd00:255::33")]), &[V6]);
    check(web([there("10.255.0.33"), there("fd00:255::33")]), &[V4, V6]);
    check(web([attached("10.255.0.33", "web-1"), backend("10.255.0.34")]), &[V4]);
}

#[test]
fn none_else_has_one() {
    let there = Backend { node: Some("node-2".to_owned()), ..attached("10.255.0.34", "web-2") };
    check(web([attached("10.255.0.33", "web-1"), there]), &[]);
    check(web([backend("192.0.2.10"), backend("2001:db8:2::10")]), &[]);
    check(web([Backend { state: BackendState::Disabled, ..backend("10.255.0.33") }]), &[]);
    check(serving(node(), "dns", [port(udp(53, 53), 53, [backend("10.255.0.33")])]), &[]);
    let there = Backend { node: Some("node-2".to_owned()), ..backend("10.255.0.33") };
    let host = Port { mode: Mode::Host, ..preserving(port(tcp(80, 80), 80, [there])) };
    check(serving(node(), "web", [host]), &[]);
}

#[test]
fn the_size_is_what_the_overlay_leaves() {
    let mut mesh = web([backend("10.255.0.33"), backend("fd00:255::33")]);
    let size = |mesh: &Mesh| {
        let rules = rules(mesh, &Surroundings::default());
        rules.iter().map(|rule| rule.rsplit(' ').next().unwrap().parse().unwrap()).collect::<Vec<u32>>()
    };
    // By an IPv6 underlay the tunnel takes more.
    mesh.address = Some("2001:db8:50::1".parse().unwrap());
    assert_eq!(size(&mesh), [1500 - 70 - 40, 1500 - 70 - 60]);
    for mtu in [1280, 9000, 65535] {
        mesh.ingress.mtu = Some(mtu);
        assert_eq!(size(&mesh), [mtu - 40, mtu - 60]);
    }
}

proptest! {
    #![proptest_config(super::cases(256))]

    #[test]
    fn the_chain_is_there_where_it_is_needed_and_only_there(mesh in mesh(), surroundings in surroundings()) {
        let rules = rules(&mesh, &surroundings);
        for family in Family::ALL {
            let subnet = match family {
                Family::V4 => mesh.ingress.v4.map(|_| "10.255."),
                Family::V6 => mesh.ingress.v6.map(|_| "fd00:255:"),
            };
            let mut needed = false;
            for port in mesh.services.iter().flat_map(|service| &service.ports) {
                for backend in &port.backends {
                    let on_overlay = subnet.is_some_and(|subnet| backend.address.to_string().starts_with(subnet));
                    let by_someone_else = backend.netns.is_none();
                    let served = backend.state != BackendState::Disabled
                        && (port.mode == Mode::Ingress || backend.node.as_deref().is_none_or(|node| node == "node-1"));
                    let is_tcp = port.published.protocol == Protocol::Tcp;
                    needed |= on_overlay && by_someone_else && served && is_tcp;
                }
            }
            let begin = format!("meta nfproto {family} ");
            prop_assert_eq!(rules.iter().filter(|rule| rule.starts_with(&begin)).count(), usize::from(needed));
        }
    }
}
