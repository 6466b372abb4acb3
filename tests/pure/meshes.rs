//! Random meshes, in a small world: few ports and few backends, so that two of them have much in common.

use std::net::IpAddr;

use meshd::mesh::{Backend, BackendState, Mesh, Port, Scheduling, Service};
use meshd::objects::{NetnsRef, Opening, PortRange, Protocol, Scheduler, SchedulerFlags, Surroundings};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::build::{node, with_v6};

/// All ports that are ever published are among these.
pub const PORTS: std::ops::Range<u16> = 30000..30012;

/// A mesh of one or two dozen objects, or the empty one.
pub fn mesh() -> impl Strategy<Value = Mesh> {
    (ports(), prop_oneof![1 => Just(false), 2 => Just(true)], any::<bool>()).prop_map(|(ports, v6, open_forward)| {
        let mut mesh = if v6 { with_v6(node()) } else { node() };
        mesh.gateway.open_forward = open_forward;
        mesh.services = services(ports);
        mesh
    })
}

/// Three ports to a service.
pub fn services(ports: Vec<Port>) -> Vec<Service> {
    let name = |number| format!("service-{number}");
    ports.chunks(3).enumerate().map(|(number, ports)| Service { name: name(number), ports: ports.to_vec() }).collect()
}

pub fn surroundings() -> impl Strategy<Value = Surroundings> {
    let drops = vec![("ip", "filter", "FORWARD"), ("ip6", "filter", "FORWARD"), ("inet", "firewall", "forward")];
    let kernel = select(vec![(5, 4), (6, 1), (6, 12)]);
    let accept_ra = subsequence(vec!["uplink0".to_owned(), "wlan0".to_owned()], 0..=2);
    (kernel, select(vec![1500, 9000]), subsequence(drops, 0..=3), accept_ra).prop_map(
        |(kernel, underlay_mtu, drops, ra)| {
            let opening =
                |(family, table, chain): (_, &str, &str)| Opening { family, table: table.into(), chain: chain.into() };
            Surroundings {
                kernel,
                underlay_mtu,
                forward_drops: drops.into_iter().map(opening).collect(),
                accept_ra: ra.into_iter().collect(),
            }
        },
    )
}

/// Ports and ranges of all protocols that do not overlap.
fn ports() -> impl Strategy<Value = Vec<Port>> {
    let layouts = (layout(Protocol::Tcp, 4), layout(Protocol::Udp, 2), layout(Protocol::Sctp, 1));
    layouts.prop_map(|(tcp, udp, sctp)| [tcp, udp, sctp].concat()).prop_flat_map(|ports| {
        let ports: Vec<_> = ports.into_iter().map(port).collect();
        ports.prop_shuffle()
    })
}

/// Cuts the window of ports into pieces, and publishes some of them.
fn layout(protocol: Protocol, most: usize) -> impl Strategy<Value = Vec<PortRange>> {
    let piece = (prop_oneof![2 => Just(1u16), 1 => 2..5u16], any::<bool>());
    prop::collection::vec(piece, 0..=2 * most).prop_map(move |pieces| {
        let mut first = PORTS.start;
        let mut published = Vec::new();
        for (length, publish) in pieces {
            if publish && published.len() < most && first + length <= PORTS.end {
                published.push(PortRange { protocol, first, last: first + length - 1 });
            }
            first += length;
        }
        published
    })
}

pub fn port(published: PortRange) -> impl Strategy<Value = Port> {
    let target = if published.is_single() {
        select(vec![Some(9092), Some(published.first)]).boxed()
    } else {
        Just(None).boxed()
    };
    (target, scheduling(published.protocol), backends()).prop_map(move |(target, scheduling, backends)| Port {
        published,
        target,
        scheduling,
        backends,
    })
}

pub fn scheduling(protocol: Protocol) -> impl Strategy<Value = Scheduling> {
    let flags = (any::<bool>(), any::<bool>()).prop_map(|(fallback, port)| SchedulerFlags { fallback, port });
    let scheduler = prop_oneof![Just(Scheduler::RoundRobin), select(Scheduler::ALL)];
    (scheduler, flags, select(vec![0u32, 360]), select(vec![24u8, 32]), any::<bool>()).prop_map(
        move |(scheduler, flags, persistence, persistence_mask, one_packet)| Scheduling {
            scheduler,
            flags: if matches!(scheduler, Scheduler::SourceHash | Scheduler::Maglev) {
                flags
            } else {
                SchedulerFlags::default()
            },
            persistence,
            persistence_mask,
            persistence_mask6: 128,
            one_packet: one_packet && protocol == Protocol::Udp,
        },
    )
}

/// None, a few, or all of a family.
pub fn backends() -> impl Strategy<Value = Vec<Backend>> {
    let of = |v4: bool| pool().into_iter().filter(move |backend| backend.address.is_ipv4() == v4).collect::<Vec<_>>();
    let some = prop_oneof![
        1 => Just(Vec::new()),
        4 => subsequence(of(true), 1..=3),
        2 => subsequence(of(false), 1..=3),
        4 => subsequence(pool(), 1..=5),
    ];
    // Most are enabled.
    (some, prop::collection::vec((0..3u32, 0..8usize), 12)).prop_map(|(mut backends, wishes)| {
        for (backend, (weight, state)) in backends.iter_mut().zip(wishes) {
            backend.weight = weight;
            backend.state = BackendState::ALL.get(state).copied().unwrap_or_default();
        }
        backends
    })
}

/// All the backends there are. An address is always in the same namespace, as the configuration demands.
fn pool() -> Vec<Backend> {
    let name = |name: &str| Some(NetnsRef::Name(name.into()));
    [
        // In the ingress subnets, attached: one family, both, two addresses in one namespace.
        ("10.255.0.33", name("plain")),
        ("10.255.0.34", name("dual")),
        ("fd00:255::34", name("dual")),
        ("10.255.0.35", Some(NetnsRef::Path("/run/docker/netns/twin".into()))),
        ("10.255.0.36", Some(NetnsRef::Path("/run/docker/netns/twin".into()))),
        ("fd00:255::37", Some(NetnsRef::Pid(4711))),
        // In the ingress subnets, attached by someone else or on another node.
        ("10.255.1.40", None),
        ("fd00:255::1:40", None),
        // Elsewhere; that one of them names a namespace changes nothing.
        ("192.0.2.10", None),
        ("192.0.2.11", name("elsewhere")),
        ("2001:db8:2::10", None),
    ]
    .into_iter()
    .map(|(address, netns)| Backend {
        address: address.parse::<IpAddr>().unwrap(),
        weight: 1,
        state: BackendState::Enabled,
        netns,
    })
    .collect()
}
