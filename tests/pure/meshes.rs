//! Random meshes, in a small world: few ports and few backends, so that two of them have much in common.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use meshd::mesh::{
    Access, Backend, BackendState, Bind, ClientAddress, Dataplane, Mesh, Mode, Peer, Port, Scheduling, Service, Spread,
    Thresholds,
};
use meshd::objects::{
    NetnsRef, Network, Opening, PortRange, Protocol, PublicKey, Scheduler, SchedulerFlags, Surroundings,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::build::{encrypted, node, with_v6};

/// All ports that are ever published are among these.
pub const PORTS: std::ops::Range<u16> = 30000..30012;

/// A mesh of one or two dozen objects, or the empty one.
pub fn mesh() -> impl Strategy<Value = Mesh> {
    let v6 = prop_oneof![1 => Just(false), 2 => Just(true)];
    let dataplane = select(Dataplane::ALL.to_vec());
    let rest = (any::<bool>(), peers(), any::<bool>(), dataplane);
    (ports(), v6, rest).prop_map(|(ports, v6, (open_forward, peers, secret, dataplane))| {
        let mut mesh = if v6 { with_v6(node()) } else { node() };
        mesh = if secret { encrypted(mesh) } else { mesh };
        mesh.peers = peers;
        mesh.gateway.open_forward = open_forward;
        mesh.dataplane = dataplane;
        mesh.services = services(ports).into_iter().map(Arc::new).collect();
        mesh
    })
}

/// Some of three, of which one is where it was not before.
pub fn peers() -> impl Strategy<Value = Vec<Peer>> {
    (subsequence(vec![2u8, 3, 4], 0..=3), any::<bool>()).prop_map(|(numbers, moved)| {
        let peer = |number: u8| Peer {
            name: format!("node-{number}"),
            address: [192, 168, if moved && number == 2 { 51 } else { 50 }, number].into(),
            key: Some(PublicKey([if moved && number == 3 { 33 } else { number }; 32])),
            ingress: Some([10, 255, 0, number + 100].into()),
            ingress6: (number != 3).then(|| format!("fd00:255::10{number}").parse().unwrap()),
        };
        numbers.into_iter().map(peer).collect()
    })
}

/// As the configuration has it: a client's address is kept only where all backends are attached, and no SCTP.
fn allowed(port: Port) -> Port {
    let attached = |backend: &Backend| {
        backend.netns.is_some()
            && ["10.255.", "fd00:255:"].iter().any(|net| backend.address.to_string().starts_with(net))
    };
    if port.published.protocol != Protocol::Sctp && port.backends.iter().all(attached) {
        return port;
    }
    Port { client_address: ClientAddress::Snat, mode: Mode::Ingress, ..port }
}

/// Whom backends see, and where the port is published.
pub fn way() -> impl Strategy<Value = (ClientAddress, Mode)> {
    use ClientAddress::{Preserve, Snat};
    select(vec![(Snat, Mode::Ingress), (Preserve, Mode::Ingress), (Preserve, Mode::Host)])
}

/// Most ports are for everyone, everywhere.
pub fn access() -> impl Strategy<Value = Access> {
    let binds = ["192.168.50.1", "2001:db8:50::1", "127.0.0.1"]
        .map(|address| Bind::Address(address.parse().unwrap()))
        .into_iter()
        .chain(["uplink0", "eth7"].map(|name| Bind::Link(name.to_owned())));
    let networks = ["198.51.100.0/24", "198.51.100.7/32", "203.0.113.0/24", "2001:db8:51::/48", "0.0.0.0/0"]
        .map(|network| Network(network.parse().unwrap()));
    let some = subsequence(networks.to_vec(), 0..=3);
    let bind = subsequence(binds.collect::<Vec<_>>(), 0..=3);
    let given = (bind, prop::option::of(some.clone()), some).prop_map(|(bind, allow, deny)| Access {
        bind: bind.into_iter().collect(),
        allow: allow.filter(|allow| !allow.is_empty()).map(|allow| allow.into_iter().collect()),
        deny: deny.into_iter().collect(),
    });
    prop_oneof![3 => Just(Access::default()), 1 => given]
}

/// Three ports to a service.
pub fn services(ports: Vec<Port>) -> Vec<Service> {
    let name = |number| format!("service-{number}");
    let mut ports: Vec<Port> = ports.into_iter().map(allowed).collect();
    let mut places: BTreeMap<IpAddr, Option<NetnsRef>> = BTreeMap::new();
    for backend in ports.iter_mut().flat_map(|port| &mut port.backends) {
        backend.netns = places.entry(backend.address).or_insert(backend.netns.clone()).clone();
    }
    ports.chunks(3).enumerate().map(|(number, ports)| Service { name: name(number), ports: ports.to_vec() }).collect()
}

pub fn surroundings() -> impl Strategy<Value = Surroundings> {
    let drops = vec![("ip", "filter", "FORWARD"), ("ip6", "filter", "FORWARD"), ("inet", "firewall", "forward")];
    let kernel = select(vec![(5, 4), (6, 1), (6, 12)]);
    let accept_ra = subsequence(vec!["uplink0".to_owned(), "wlan0".to_owned()], 0..=2);
    let uplinks = subsequence(vec!["lan0".to_owned(), "uplink0".to_owned()], 0..=2);
    (kernel, select(vec![1500, 9000]), subsequence(drops, 0..=3), accept_ra, uplinks, any::<bool>()).prop_map(
        |(kernel, underlay_mtu, drops, ra, uplinks, bridge_netfilter)| {
            let opening =
                |(family, table, chain): (_, &str, &str)| Opening { family, table: table.into(), chain: chain.into() };
            Surroundings {
                kernel,
                underlay_mtu,
                forward_drops: drops.into_iter().map(opening).collect(),
                accept_ra: ra.into_iter().collect(),
                uplinks: uplinks.into_iter().collect(),
                bridge_netfilter,
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
    (target, scheduling(published.protocol), way(), access(), backends()).prop_map(
        move |(target, scheduling, (client_address, mode), access, backends)| Port {
            published,
            target,
            scheduling,
            client_address,
            mode,
            check: None,
            spread: Spread::default(),
            access,
            backends,
        },
    )
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
    (some, prop::collection::vec((0..3u32, thresholds(), 0..8usize), 12)).prop_map(|(mut backends, wishes)| {
        for (backend, (weight, thresholds, state)) in backends.iter_mut().zip(wishes) {
            backend.weight = weight;
            backend.thresholds = thresholds;
            backend.state = BackendState::ALL.get(state).copied().unwrap_or_default();
        }
        backends
    })
}

/// Most have none.
pub fn thresholds() -> impl Strategy<Value = Thresholds> {
    let all = [(0, 0), (0, 0), (0, 0), (3, 0), (3, 2)];
    select(all.map(|(upper, lower)| Thresholds { upper, lower }).to_vec())
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
        // On other nodes: alone, and two of one namespace.
        ("10.255.2.50", None),
        ("10.255.2.51", name("there")),
        ("fd00:255::2:51", name("there")),
        // Elsewhere; that one of them names a namespace changes nothing.
        ("192.0.2.10", None),
        ("192.0.2.11", name("elsewhere")),
        ("2001:db8:2::10", None),
    ]
    .into_iter()
    .map(|(address, netns)| Backend {
        address: address.parse::<IpAddr>().unwrap(),
        weight: 1,
        thresholds: Thresholds::default(),
        state: BackendState::Enabled,
        // Of two peers; see `peers`.
        node: address
            .contains("2.5")
            .then(|| "node-2".to_owned())
            .or(address.contains(":2:5").then(|| "node-2".to_owned())),
        backup: false,
        netns,
    })
    .collect()
}
